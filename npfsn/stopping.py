"""Ending a program early: signals become exceptions or are deferred, errors become exit codes."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from .terminal import print_error, print_raw_error, sentence


class Stopped(BaseException):
    """A signal asked the program to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def ended(error: BaseException, program: str = "npfsn", verbose: bool = False) -> int:
    """Print why a command ended early, with a traceback if `verbose`; return the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader closed the pipe
        return 0
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        signum = getattr(error, "signum", signal.SIGINT)
        print_error("interrupted" if signum == signal.SIGINT else "terminated", program)
        return 128 + signum
    print_error(f"error: {sentence(error)}", program)
    if verbose:
        print_raw_error("".join(traceback.format_exception(error)))
    return 1


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn signals that end a program into exceptions, so that half-written files are removed."""

    def stop(signum: int, frame: object) -> NoReturn:
        raise Stopped(signum)

    def unheard(raised: Any) -> None:
        # Python drops an exception raised in a finaliser: raise the signal again a moment later.
        if isinstance(raised.exc_value, (Stopped, KeyboardInterrupt)):
            signum = getattr(raised.exc_value, "signum", signal.SIGINT)
            threading.Timer(0.01, _thread.interrupt_main, (signum,)).start()
        else:
            hook(raised)

    hook, sys.unraisablehook = sys.unraisablehook, unheard
    try:
        # `nohup` ignores SIGHUP on purpose.
        with handled(("SIGTERM", "SIGHUP"), stop, lambda before: before != signal.SIG_IGN):
            yield
    finally:
        sys.unraisablehook = hook


@contextlib.contextmanager
def handled(
    names: tuple[str, ...],
    handler: Callable[[int, object], Any] | signal.Handlers,
    where: Callable[[Any], bool],
) -> Iterator[None]:
    """Set `handler`, within the block, for those signals whose previous handler passes `where`.

    Not for those whose handler is none of Python's (None): it could not be set again.
    """
    previous: dict[int, Any] = {}
    try:
        for signum in (getattr(signal, name) for name in names if hasattr(signal, name)):
            before = signal.getsignal(signum)
            with contextlib.suppress(ValueError):  # not in the main thread
                if before is not None and where(before):
                    previous[signum] = signal.signal(signum, handler)
        yield
    finally:
        for signum, before in previous.items():
            signal.signal(signum, before)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Defer signals that end the program to the end of the block.

    For imports: some libraries swallow exceptions that are raised by signals, or take them for
    errors of their own.
    """
    waiting: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    try:
        with handled(names, lambda signum, _: waiting.append(signum), callable):
            yield
    finally:
        if waiting:
            signal.raise_signal(waiting[0])


class Interrupts:
    """Lets a step of work finish before an interrupt ends the program.

    Attributes
    ----------
    asked : bool
        Whether there was an interrupt. A second one takes effect at once.
    idle : bool
        Whether no work is in progress, so that an interrupt takes effect at once.
    """

    def __init__(self) -> None:
        self.asked = self.idle = False

    def _hear(self, signum: int, frame: object) -> None:
        again, self.asked = self.asked, True
        if self.idle or again:
            raise KeyboardInterrupt

    def heard(self) -> contextlib.AbstractContextManager[None]:
        """Handle interrupts this way within the block, unless they are ignored or a caller's."""
        default = signal.default_int_handler
        return handled(("SIGINT",), self._hear, lambda before: before is default)

    @contextlib.contextmanager
    def may_cut(self) -> Iterator[None]:
        """Let an interrupt take effect at once within the block, also one that came before it."""
        self.idle = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self.idle = False
