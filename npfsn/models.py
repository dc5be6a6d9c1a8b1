"""The table of architectures. A new model is one module and one line here."""

from __future__ import annotations

from typing import Any

from . import fast_fullsubnet, fullband, fullsubnet, improved_fullsubnet

ARCHITECTURES: dict[str, Any] = {
    "fast_fullsubnet": fast_fullsubnet,
    "fullsubnet": fullsubnet,
    "fullband": fullband,
    "improved_fullsubnet": improved_fullsubnet,
}
