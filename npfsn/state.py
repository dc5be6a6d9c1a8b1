"""What a stream remembers: a flat dict of arrays, all zeros at the start.

Each part of a network declares its own entries (`fields`); nothing else makes state. Resetting,
saving, restoring and copying a stream are loops over the dict, so a new entry cannot be forgotten.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernels.vector import aligned

#: Name -> (shape, dtype) of every array that a part keeps between frames.
Fields = dict[str, tuple[tuple[int, ...], Any]]
#: The arrays themselves. Their contents change, the arrays never do: kernels hold on to them.
State = dict[str, np.ndarray]


def zeros(fields: Fields) -> State:
    """Return the state of a stream that has heard nothing."""
    return {name: aligned(shape, dtype) for name, (shape, dtype) in fields.items()}
