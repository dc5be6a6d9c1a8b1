"""Streams for tests: fed, and compared."""

from __future__ import annotations

from typing import Any

import numpy as np

import npfsn


def run(stream: Any, x: np.ndarray, size: int | None = None) -> np.ndarray:
    """Process a whole signal in chunks of `size`, or at once, then flush."""
    size = size or max(len(x), 1)
    given = [stream.process(x[at : at + size]) for at in range(0, len(x), size)]
    return np.concatenate([*given, stream.flush()])


def in_hops(enhancer: npfsn.Enhancer, x: np.ndarray) -> np.ndarray:
    """Enhance all whole hops of a signal with `step`."""
    hop = enhancer.frame_length
    return np.concatenate([enhancer.step(x[i : i + hop]) for i in range(0, len(x) - hop + 1, hop)])


def same_state(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two states are the same, bit for bit."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes() for k in a
    )
