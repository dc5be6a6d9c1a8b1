"""The table of architectures: one line each."""

from __future__ import annotations

from typing import Any

from . import fast_fullsubnet, fullband, fullsubnet, improved_fullsubnet

ARCHITECTURES: dict[str, Any] = {
    "fast_fullsubnet": fast_fullsubnet,
    "fullsubnet": fullsubnet,
    "fullband": fullband,
    "improved_fullsubnet": improved_fullsubnet,
}
