"""One user of a stream at a time, and no further use after something stopped it half-way."""

from __future__ import annotations

import functools
import operator
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, repeat
from typing import Any, Concatenate, ParamSpec, TypeVar

from .errors import ConcurrentUseError, StreamEndedError, listed

# Identifies this process: a thread that has claimed a stream does not exist in a forked child.
_here = object()


def _in_a_child() -> None:
    global _here
    _here = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_child)

_A = TypeVar("_A", bound="Alone")
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Alone:
    """Base of classes with methods that are `alone`.

    They set `_torn` while they change the stream: if something stops them half-way, it stays set.
    """

    _ways_on = "call reset() to start a new one"

    def __init__(self) -> None:
        self._claim: dict[object, object] = {}
        self._torn = False

    @property
    def _ended(self) -> bool:
        """Whether the stream has been flushed."""
        raise NotImplementedError

    def _check(self, claim: object, ended: bool = False, torn: bool = False) -> None:
        """Raise if this stream is not claimed by `claim`, or cannot be used."""
        if self._claim.get(_here) is not claim:
            raise ConcurrentUseError(
                "this stream is being used by another thread: give every thread a stream "
                f"of its own (copy(), or another {type(self).__name__} of the same model)"
            )
        if self._torn and not torn:
            raise StreamEndedError(
                f"the stream was interrupted in the middle of a hop: {self._ways_on}"
            )
        if self._ended and not ended:
            raise StreamEndedError("the stream has been flushed: call reset() to start a new one")

    def copy(self: _A) -> _A:
        """Return an independent stream in the same state."""
        raise NotImplementedError

    def __copy__(self: _A) -> _A:
        """As `copy`: two streams must not share one state."""
        return self.copy()

    def __deepcopy__(self: _A, memo: dict[int, Any]) -> _A:
        """As `copy`: the weights stay shared."""
        return self.copy()


def alone(
    ended: bool = False, torn: bool = False
) -> Callable[[Callable[Concatenate[_A, _P], _R]], Callable[Concatenate[_A, _P], _R]]:
    """Make a method claim its stream while it runs, or raise if it cannot. Never waits.

    Parameters
    ----------
    ended, torn : bool
        Whether it may run after `flush`, and after something interrupted a hop half-way.
    """

    def decorate(method: Callable[Concatenate[_A, _P], _R]) -> Callable[Concatenate[_A, _P], _R]:
        @functools.wraps(method)
        def run(self: _A, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            # Not a lock: a signal handler that raises could leave it locked for ever. Every claim
            # is a new object, so `_claim` shows at any moment whose the stream is.
            claim = object()
            try:
                self._claim.setdefault(_here, claim)
                self._check(claim, ended, torn)
                return method(self, *args, **kwargs)
            finally:
                # No call here: after a call, the interpreter may run a signal handler, and an
                # exception from it would leave the claim behind.
                if _here in self._claim and self._claim[_here] is claim:
                    del self._claim[_here]

        return run

    return decorate


def _claimed(
    claims: list[dict[object, object]], here: object, claim: object
) -> Iterator[dict[object, object]]:
    """Return what claims, when it is run through, those that are free, and yields them."""
    found = map(dict.setdefault, claims, repeat(here), repeat(claim))
    return compress(claims, map(operator.is_, found, repeat(claim)))


def together(streams: Sequence[Alone], work: Callable[..., _R], *args: Any) -> _R:
    """Claim several streams while some work is done, as `alone` claims one.

    Side by side: claims within each other would reach the limit of Python's recursion.
    """
    here, claim = _here, object()
    ours: list[dict[object, object]] = []
    given_up = map(dict.pop, ours, repeat(here))  # when it is run through
    try:
        # Here and at the end one call, and no Python within it: a signal handler runs when all are
        # claimed, and when all are given up.
        ours.extend(_claimed([each._claim for each in streams], here, claim))
        for i, each in enumerate(streams):
            try:
                each._check(claim)
            except ConcurrentUseError as error:
                raise ConcurrentUseError(f"stream {i}: {error}") from None
            except StreamEndedError as error:
                which = [f"{k}" for k, one in enumerate(streams) if one._torn or one._ended]
                raise StreamEndedError(f"stream {listed(which, 4)}: {error}") from None
        return work(*args)
    finally:
        deque(given_up, 0)
