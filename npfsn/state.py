"""What a stream remembers: a flat dict of arrays, all zeros at the start.

Each part of a network declares its own entries (`fields`), `Stream` and `Enhancer` a few more;
nothing else makes state. Resetting, saving, restoring and copying a stream are loops over the dict,
so a new entry cannot be forgotten. `checked` validates one that a caller passes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import StateError, listed, shown
from .packing import aligned

# Limits that leave room to square a value. Hidden states lie in -1 .. 1; the cell states of an LSTM
# grow by at most one per frame.
_LIMITS = {np.dtype(np.float32): 1e36, np.dtype(np.float64): 1e100}
_HIDDEN, _CELL = re.compile(r".*\.h\d+"), re.compile(r".*\.c\d+")

#: More than any stream counts: four million years of hops, seventeen thousand years of samples.
LARGEST_COUNT = 1 << 53
#: Name -> (shape, dtype) of every array that a part keeps between frames.
Fields = dict[str, tuple[tuple[int, ...], Any]]
#: The arrays themselves. Their contents change, the arrays never do: kernels keep their addresses.
State = dict[str, np.ndarray]


def zeros(fields: Fields) -> State:
    """Return the state of a stream that has heard nothing."""
    return {name: aligned(shape, dtype) for name, (shape, dtype) in fields.items()}


def checked(state: Mapping[str, Any], own: State, header: Mapping[str, Any]) -> State:
    """Return the arrays of a state that a caller passes, if it fits this stream.

    Parameters
    ----------
    state : mapping
        What `Enhancer.get_state` returned, perhaps read from a file; or anything else.
    own : State
        The state of the stream.
    header : mapping
        What the state's own header, a string of JSON, must contain.

    Raises
    ------
    StateError
        It is not a state, is of another stream, or is damaged.
    """
    if not isinstance(state, Mapping) or "header" not in state:
        raise StateError("this is not a state: expected what Enhancer.get_state() returned")
    text = _entry(state, "header")
    try:  # no str(): one that an interrupt has cut short makes NumPy print "..." later
        said = json.loads(text.item() if text.dtype.kind == "U" and text.ndim == 0 else "")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise StateError("the state's header is not JSON: it is damaged")
    for name, expected in header.items():
        if said.get(name) != expected:
            raise StateError(
                f"the state is of another stream: its {name} is {shown(said.get(name))}, "
                f"this stream's is {shown(expected)}"
            )
    wrong = sorted(map(shown, set(state) ^ (set(own) | {"header"})))
    if wrong:
        raise StateError(
            f"the state's entries are not this model's, missing or in excess: {listed(wrong, 4)}"
        )
    arrays = {}
    for name, mine in own.items():
        array = _entry(state, name)
        if array.shape != mine.shape or array.dtype != mine.dtype:
            raise StateError(
                f"state entry {name} is {array.dtype.str}{list(array.shape)}: expected "
                f"{mine.dtype.str}{list(mine.shape)}"
            )
        _check_values(name, array)
        arrays[name] = array
    return arrays


def _entry(state: Mapping[str, Any], name: str) -> np.ndarray:
    """Return an entry of a state as an array; an archive may only read it from its file now."""
    if type(state) is dict and isinstance(state[name], np.ndarray):
        # Outside of `try`: what a signal handler raises is not the state's fault.
        return np.asarray(state[name])
    try:
        return np.asarray(state[name])
    except Exception as error:  # whatever a damaged archive or a ragged list raises
        raise StateError(f"state entry {name} cannot be read: {shown(error)}") from error


def _check_values(name: str, array: np.ndarray) -> None:
    """Raise StateError for values that no stream can have left there."""
    if not np.all(np.isfinite(array)):
        raise StateError(f"state entry {name} has values that are NaN or infinite")
    limit = _LIMITS.get(array.dtype, math.inf)
    if _HIDDEN.fullmatch(name):
        limit = 1.001
    elif _CELL.fullmatch(name):
        limit = 1e12
    low = -limit
    if name.endswith((".count", ".square", ".level", ".energy")):
        low = 0.0
    if array.size and not (np.all(array >= low) and np.all(array <= limit)):
        raise StateError(f"state entry {name} has values out of range: it is damaged")
