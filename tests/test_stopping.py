"""What ends a program from outside is an exception, and comes when it does no harm."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import pytest
from needs import posix
from sounds import recording

from npfsn import batch
from npfsn.stopping import Interrupts, Stopped, held_back, stoppable


@posix
@pytest.mark.parametrize(
    ("signum", "error"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_in_a_finaliser_is_not_lost(signum, error, capfd):
    """Python drops what is raised there, such as while soundfile closes a file."""

    class Dying:
        def __del__(self):
            os.kill(os.getpid(), signum)
            time.sleep(0.1)

    hook = sys.unraisablehook
    with pytest.raises(error), stoppable():
        Dying()
        for _ in range(500):
            time.sleep(0.01)
    assert sys.unraisablehook is hook
    assert "Exception ignored" not in capfd.readouterr().err


@posix
@pytest.mark.parametrize(
    ("signum", "error"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)]
)
def test_signals_wait_while_libraries_are_imported(signum, error):
    """NumPy, for one, loses them there, or ends with pages on a bad installation."""
    reached = []
    with stoppable():
        before = signal.getsignal(signum)
        with pytest.raises(error), held_back():
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signum)
            time.sleep(0.01)
            reached.append("end")
        assert reached == ["end"] and signal.getsignal(signum) is before
        with held_back():
            reached.append("quiet")
    assert reached == ["end", "quiet"]


@posix
@pytest.mark.parametrize("ignored", [False, True])
def test_the_first_signal_that_waited_counts(ignored):
    """So a closed terminal does; but one that nohup ignores hides no other."""
    names = (signal.SIGHUP, signal.SIGTERM)
    found = {n: signal.signal(n, signal.SIG_DFL) for n in names}
    reached = []
    try:
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stoppable(), pytest.raises(Stopped) as caught, held_back():
            for signum in names:
                signal.raise_signal(signum)
                reached.append(signum)
        assert reached == [*names] and caught.value.signum == names[ignored]
    finally:
        for signum, handler in found.items():
            signal.signal(signum, handler)


@posix
def test_signals_that_end_a_program_are_exceptions_while_it_runs():
    """So is SIGHUP, of a terminal that is closed; but what is ignored, as by nohup, stays so."""
    found = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with stoppable():
            for signum in found:
                with pytest.raises(Stopped):
                    signal.getsignal(signum)(signum, None)
        assert {signal.getsignal(signum) for signum in found} == {signal.SIG_DFL}
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with stoppable():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for signum, handler in found.items():
            signal.signal(signum, handler)


def test_a_stray_control_c_before_anything_is_quiet(npfsn, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    recording("a.wav")
    monkeypatch.setattr(batch, "make_plan", stop)
    _, err = npfsn("enhance", "a.wav", code=130)
    assert err == "npfsn: interrupted\n"


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_interrupts_that_are_ignored_or_a_callers_stay_so(handler):
    """Whoever starts a program in the background ignores them for it."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        with Interrupts().heard():
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_does_not_wait():
    interrupts, reached = Interrupts(), []
    with pytest.raises(KeyboardInterrupt), interrupts.heard():
        for part in ("first", "second", "third"):
            signal.raise_signal(signal.SIGINT)
            reached.append(part)
    assert reached == ["first"] and interrupts.asked


def test_an_interrupt_cuts_what_may_be_cut_and_no_more():
    interrupts, reached = Interrupts(), []
    with interrupts.heard():
        with interrupts.may_cut():
            reached.append("a wait")
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
            reached.append("work")
        with pytest.raises(KeyboardInterrupt), interrupts.may_cut():
            reached.append("a wait too many")
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt), interrupts.heard(), interrupts.may_cut():
        signal.raise_signal(signal.SIGINT)
        reached.append("the rest of a wait")
    assert reached == ["a wait", "work"]


def test_other_errors_of_finalisers_are_told(monkeypatch):
    class Failing:
        def __del__(self):
            raise ValueError

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: told.append(raised.exc_type))
    with stoppable():
        Failing()
    assert told == [ValueError]


def test_a_handler_that_is_none_of_python_s_is_left_alone(monkeypatch):
    """That of a program with Python in it: it could not be set again, `signal.signal` fails."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda _: None)
        patch.setattr(signal, "signal", lambda *_: pytest.fail("it was replaced"))
        with stoppable():
            pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_a_thread_signals_are_left_alone():
    """Python lets no other thread than the main one handle them."""
    reached = []

    def work():
        with stoppable(), held_back(), Interrupts().heard():
            reached.append("end")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached == ["end"]
