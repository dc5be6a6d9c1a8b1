"""Real-time speech enhancement with the FullSubNet family, without PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audio import enhance_file
    from .enhancer import Enhancer
    from .errors import (
        AudioError,
        CheckpointError,
        ConcurrentUseError,
        FrameError,
        ModelError,
        NormError,
        NpfsnError,
        RecipeError,
        StateError,
        StreamEndedError,
    )
    from .group import EnhancerGroup
    from .live_stream import LiveStream
    from .options import OnNonfinite, Precision
    from .report import FileReport
    from .weights import Model, load_model, save_model
    from .whole import enhance

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "CheckpointError",
    "ConcurrentUseError",
    "Enhancer",
    "EnhancerGroup",
    "FileReport",
    "FrameError",
    "LiveStream",
    "Model",
    "ModelError",
    "NormError",
    "NpfsnError",
    "OnNonfinite",
    "Precision",
    "RecipeError",
    "StateError",
    "StreamEndedError",
    "__version__",
    "enhance",
    "enhance_file",
    "load_model",
    "save_model",
]

_HOMES = {
    "Enhancer": "enhancer",
    "EnhancerGroup": "group",
    "FileReport": "report",
    "LiveStream": "live_stream",
    "Model": "weights",
    "OnNonfinite": "options",
    "Precision": "options",
    "enhance": "whole",
    "enhance_file": "audio",
    "load_model": "weights",
    "save_model": "weights",
}


if not TYPE_CHECKING:  # type checkers that see it take any name, even a misspelt one, for public

    def __getattr__(name: str) -> Any:
        """Import a public name on first use: `npfsn --help` needs neither numpy nor numba."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
