"""How a program ends early: signals become exceptions, or wait; errors become exit codes."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from .terminal import complain, forget_stdout, sentence, trace


class Stopped(BaseException):
    """A signal asked the program to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def ended(error: BaseException, program: str = "npfsn", verbose: bool = False) -> int:
    """Say why a command ended early, and where an error came from; return the exit code."""
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has seen enough. Nothing more can be written, not even at exit.
        forget_stdout()
        return 0
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        signum = getattr(error, "signum", signal.SIGINT)
        complain("interrupted" if signum == signal.SIGINT else "terminated", program)
        return 128 + signum
    complain(f"error: {sentence(error)}", program)
    if verbose:
        trace("".join(traceback.format_exception(error)))
    return 1


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn the signals that end a program into exceptions, so that half-written files go."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise Stopped(signum)

    def unheard(raised: Any) -> None:
        # Python drops what is raised in a finaliser. Soon it is somewhere else.
        if isinstance(raised.exc_value, (Stopped, KeyboardInterrupt)):
            signum = getattr(raised.exc_value, "signum", signal.SIGINT)
            threading.Timer(0.01, _thread.interrupt_main, (signum,)).start()
        else:
            hook(raised)

    hook, sys.unraisablehook = sys.unraisablehook, unheard
    try:
        # An ignored SIGHUP is the wish of `nohup`.
        with _handled(("SIGTERM", "SIGHUP"), stop, lambda before: before != signal.SIG_IGN):
            yield
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def _handled(
    names: tuple[str, ...], handler: Callable[[int, object], Any], where: Callable[[Any], bool]
) -> Iterator[None]:
    """While this lasts, give `handler` those signals whose handler before is as `where` says."""
    previous: dict[int, Any] = {}
    try:
        for name in names:
            signum = getattr(signal, name, None)
            with contextlib.suppress(ValueError):  # not in the main thread
                if signum is not None and where(signal.getsignal(signum)):
                    previous[signum] = signal.signal(signum, handler)
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """While this lasts, signals that end the program wait.

    For imports of libraries, some of which lose the exceptions that signals become, or take them
    for mistakes of their own.
    """
    waiting: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    try:
        with _handled(names, lambda signum, _: waiting.append(signum), callable):
            yield
    finally:
        if waiting:
            signal.raise_signal(waiting[0])


class Interrupts:
    """How an interrupt ends work that shall not be cut: it waits until the work does.

    Attributes
    ----------
    asked : bool
        Whether there was one. A second one cuts whatever is going on.
    idle : bool
        Whether nothing is going on that it would cut.
    """

    def __init__(self) -> None:
        self.asked = self.idle = False

    def _hear(self, signum: int, frame: object) -> None:
        again, self.asked = self.asked, True
        if self.idle or again:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """While this lasts, interrupts are heard so."""
        previous = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        if not main or previous is not signal.default_int_handler:  # ignored, or a caller's
            yield
            return
        signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    @contextlib.contextmanager
    def may_cut(self) -> Iterator[None]:
        """While this lasts, an interrupt cuts at once, as does one that has come before."""
        self.idle = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self.idle = False
