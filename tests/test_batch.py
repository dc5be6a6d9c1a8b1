"""`npfsn enhance`: many files, in one process or several, some of which die."""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from commands import NPFSN, run, spawn
from needs import posix
from sounds import recording, speech, tree

from npfsn import batch, cli
from npfsn.plan import Job, Plan, make_plan
from npfsn.report import FileReport
from npfsn.whole import enhance


def test_one_bad_file_does_not_stop_the_others(npfsn):
    recording("a.wav")
    Path("b.wav").write_bytes(b"no audio at all")
    recording("c.wav")
    out, err = npfsn("enhance", "a.wav", "b.wav", "c.wav", "missing.wav", "-o", "out", code=1)
    assert tree("out") == ["a_enhanced.wav", "c_enhanced.wav"]
    assert err.count("error: ") == 2 == err.count("\n")
    assert "2 files enhanced" in out and "2 failed: b.wav, missing.wav" in out


def test_workers_do_the_same(tmp_path):
    for index in range(5):
        recording(tmp_path / f"in/{index}.wav", 1000 + index)
    (tmp_path / "in/5.wav").write_bytes(b"")
    out, err = run("enhance", "in", "-o", "out", "--workers", 3, cwd=tmp_path, code=1)
    assert b"5 files enhanced" in out
    assert b"1 failed: in/5.wav" in out.replace(os.sep.encode(), b"/")
    assert err.count("\n") == 1
    assert [sf.info(tmp_path / "out" / name).frames for name in tree(tmp_path / "out")] == [
        1000 + index for index in range(5)
    ]


def test_workers_report_a_bad_model_once(tmp_path):
    for index in range(3):
        recording(tmp_path / f"{index}.wav")
    (tmp_path / "model.npz").write_bytes(b"no model")
    for workers in (1, 2):
        arguments = ("enhance", ".", "--workers", workers, "-m", "model.npz")
        _, err = run(*arguments, cwd=tmp_path, code=1)
        assert err.count("\n") == 1 and "model.npz" in err


@posix
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "was killed (signal 9), perhaps for want of memory: try fewer --workers"),
        (signal.SIGTERM, "was terminated"),
        (signal.SIGSEGV, "was killed (signal 11)"),
    ],
)
def test_a_killed_worker_costs_one_file(tmp_path, number, message):
    """Another one takes its place: else, all killed, the other files would never be looked at."""
    for index in range(5):
        recording(tmp_path / f"in/{index}.wav")
    for index in range(2):
        sf.write(tmp_path / f"in/{index}.wav", np.full(3000, 0.75), 16000)
    out, err = run(
        *("enhance", "in", "-o", "out", "--workers", 2),
        cwd=tmp_path,
        env={"NPFSN_TEST_KILL": str(int(number))},
        code=1,
    )
    for index in range(2):
        assert f"in/{index}.wav: its worker process {message}\n" in err
    assert b"3 files enhanced" in out
    # Not even what the killed ones left unfinished.
    assert [*tree(tmp_path / "out")] == [f"{index}_enhanced.wav" for index in (2, 3, 4)]


def test_workers_that_cannot_start_are_no_success(npfsn, monkeypatch):
    def launch(*_):
        ours, theirs = multiprocessing.Pipe()
        theirs.close()
        dead = {"join": lambda *_: None, "terminate": lambda: None, "is_alive": lambda: False}
        return batch._Process(types.SimpleNamespace(**dead, exitcode=-9), ours, "mark")

    monkeypatch.setattr(batch, "_launch", launch)
    for name in "ab":
        recording(f"{name}.wav")
    _, err = npfsn("enhance", "a.wav", "b.wav", "--workers", 2, code=1)
    assert "could not start (signal 9)" in err


def test_a_worker_that_does_not_end_is_killed(monkeypatch, tmp_path):
    """One that is stuck in a decoder, say, does not hear SIGTERM."""
    monkeypatch.setattr(batch, "WORKER_GRACE_SECONDS", 0.0)
    done = []
    calls = {name: functools.partial(done.append, name) for name in ("terminate", "kill")}
    process = types.SimpleNamespace(
        **calls, join=lambda *_: None, is_alive=lambda: "kill" not in done
    )
    job = Job(Path("a.wav"), tmp_path / "b.wav", 1)
    (tmp_path / ".npfsn-mark-1.part").touch()
    batch._end([batch._Process(process, io.BytesIO(), "mark", job)])
    assert done == ["terminate", "kill"] and not [*tmp_path.iterdir()]
    # One that ends at once, as on Windows, has not removed them itself.
    done.clear()
    process.is_alive = lambda: False
    (tmp_path / ".npfsn-mark-1.part").touch()
    batch._end([batch._Process(process, io.BytesIO(), "mark", job)])
    assert done == ["terminate"] and not [*tmp_path.iterdir()]


def test_a_worker_that_dies_when_nothing_is_left_is_no_loss(monkeypatch):
    """Here the second one, which never was ready: the first one has done all files by then."""
    report = FileReport(16000, 1.0, 1, 16000, 0, 0, 0.5, 0.5)
    process = types.SimpleNamespace(
        exitcode=-9, join=lambda *_: None, terminate=lambda: None, is_alive=lambda: False
    )
    jobs = [Job(Path(f"{n}.wav"), Path(f"{n}_x.wav"), 1) for n in range(3)]
    late = []

    def serve(pipe):
        pipe.send(("ready",))
        for _ in jobs:
            pipe.recv()
            pipe.send(("done", report))
        with contextlib.suppress(EOFError):
            pipe.recv()
        late[0].close()

    def launch(args, index):
        ours, theirs = multiprocessing.Pipe()
        if index == 0:
            threading.Thread(target=serve, args=(theirs,)).start()
        else:
            late.append(theirs)
        return batch._Process(process, ours, "mark")

    monkeypatch.setattr(batch, "_launch", launch)
    totals = batch._Totals()
    args = types.SimpleNamespace(workers=2, verbose=False)
    line = batch._ProgressLine(jobs, wanted=False)
    batch._run_workers(batch._Run(args, jobs, totals, line))
    assert len(totals.reports) == 3 and not totals.failures


def test_the_summary_tells_what_was_not_enhancing():
    """So that its speed and its times agree."""
    job = Job(Path("a.wav"), Path("b.wav"), 0)
    report = FileReport(10, 10.0, 1, 1, 0, 0, 1.0, 0.2)
    one, two = Plan([job]), Plan([job, job])
    assert "of audio in 1.0 s: real" in batch._summary(batch._Totals([(job, report)]), one, 1.0, 1)
    assert "of audio in 3.0 s, 2.0 s of which went into loading and compiling: real" in (
        batch._summary(batch._Totals([(job, report)]), one, 3.0, 1)
    )
    brief = FileReport(10, 10.0, 1, 1, 0, 0, 0.2, 0.04)  # not "0.0 s of which"
    assert "of audio in 0.3 s: real" in batch._summary(batch._Totals([(job, brief)]), two, 0.3, 1)
    # Someone pressed Ctrl-C in the second file: time that went into no report.
    assert "of audio in 8.0 s: real" in batch._summary(batch._Totals([(job, report)]), two, 8.0, 1)
    assert batch._summary(batch._Totals(), Plan(), 1.0, 1).endswith("of audio in 1.0 s")


def test_workers_compile_side_by_side():
    """Their waiting is one, not a sum that may exceed all the time there was."""
    job = Job(Path("a.wav"), Path("b.wav"), 0)
    reports = [(job, FileReport(10, 10.0, 1, 1, 0, 0, 1.0, wait)) for wait in (5.0, 6.0)]
    text = batch._summary(batch._Totals(reports), Plan(), 10.0, 2)
    assert "6.0 s of which went into loading and compiling: real-time factor 0.200" in text


def test_files_that_were_not_finished_do_not_count_as_speed():
    jobs = [Job(Path(name), Path(name), 1) for name in ("a.wav", "b.wav")]
    report = FileReport(320000, 20.0, 1, 16000, 0, 0, 2.0, 0.0)
    for failures in ([("b.wav", "bad")], []):  # it failed, or an interrupt came first
        totals = batch._Totals([(jobs[0], report)], failures)
        assert "real-time factor 0.100" in batch._summary(totals, Plan(jobs), 60.0, 2)


def test_workers_that_have_ended_do_not_count_as_speed():
    """Where one long file takes longer than all others, so does the run."""
    job = Job(Path("a.wav"), Path("b.wav"), 1)
    took = [(600.0, 60.0), *[(1.0, 0.1)] * 3]
    reports = [(job, FileReport(1, seconds, 1, 1, 0, 0, wall)) for seconds, wall in took]
    text = batch._summary(batch._Totals(reports), Plan(), 60.3, 4)
    assert "real-time factor 0.100 (10.0x real time)" in text


def test_a_worker_tells_where_if_it_is_asked_to(npfsn):
    Path("b.wav").write_bytes(b"")
    for option, told in (("-v", True), ("--force", False)):
        jobs, sent = [Job(Path("b.wav"), Path("c.wav"), 0)], []

        def recv(jobs=jobs):
            if not jobs:
                raise EOFError
            return jobs.pop()

        args = cli._parser().parse_args(["enhance", "b.wav", option])
        batch._work(types.SimpleNamespace(recv=recv, send=sent.append), args, "mark")
        ready, (kind, message, trace) = sent
        assert (ready, kind) == (("ready",), "failed") and "b.wav is empty" in message
        assert ("Traceback" in trace) == told


def test_workers_leave_words_and_interrupts_to_others(monkeypatch):
    """One of them says that it compiles; Ctrl-C, which reaches all, is the parent's to hear."""
    said, heard = [], []

    class Context:
        def Pipe(self):
            return io.BytesIO(), io.BytesIO()

        def Process(self, target, args, daemon):
            said.append(not args[1].quiet)
            return types.SimpleNamespace(
                start=lambda: heard.append(signal.getsignal(signal.SIGINT))
            )

    monkeypatch.setattr(multiprocessing, "get_context", lambda _: Context())
    args = cli._parser().parse_args(["enhance", "a.wav"])
    before = signal.getsignal(signal.SIGINT)
    for index in range(3):
        batch._launch(args, index == 0)
    assert said == [True, False, False]
    assert heard == [signal.SIG_IGN] * 3
    assert signal.getsignal(signal.SIGINT) == before


@posix
@pytest.mark.parametrize("n_stillborn", [1, 2])
def test_workers_killed_while_they_start(tmp_path, n_stillborn):
    """The others do their share; where there are no others, somebody says so."""
    for index in range(4):
        recording(tmp_path / f"in/{index}.wav")
    (tmp_path / "stillborn").mkdir()
    for index in range(n_stillborn):
        (tmp_path / "stillborn" / str(index)).touch()
    out, err = run(
        *("enhance", "in", "-o", "out", "--workers", 2),
        cwd=tmp_path,
        env={"NPFSN_TEST_STILLBORN": str(tmp_path / "stillborn")},
        code=n_stillborn - 1,
    )
    if n_stillborn == 1:
        assert b"4 files enhanced" in out
        assert err == ""
    else:
        assert "npfsn: error: the worker processes could not start (signal 9)\n" in err


@posix
@pytest.mark.parametrize(
    ("signum", "code", "workers", "ignored"),
    [
        (signal.SIGINT, 130, 1, None),
        (signal.SIGINT, 130, 2, None),
        (signal.SIGTERM, 143, 1, None),
        (signal.SIGTERM, 143, 2, None),
        (signal.SIGINT, 130, 2, signal.SIGTERM),  # by whoever started it, so by workers, too
    ],
)
def test_signals_leave_whole_files_only(tmp_path, signum, code, workers, ignored):
    for index in range(6):
        recording(tmp_path / f"in/{index}.wav", 400_000)
    process = spawn(
        *("enhance", "in", "-o", "out", "--workers", workers),
        cwd=tmp_path,
        env={"NPFSN_TEST_PAUSE": "0.2"},
        start_new_session=True,
        preexec_fn=ignored and (lambda: signal.signal(ignored, signal.SIG_IGN)),
    )
    out = tmp_path / "out"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # one file whole, another one half
        names = os.listdir(out) if out.exists() else []
        if any(n.endswith(".wav") for n in names) and any(n.endswith(".part") for n in names):
            break
        time.sleep(0.01)
    # A terminal sends Ctrl-C to all processes, `kill` sends SIGTERM to one.
    send = os.killpg if signum == signal.SIGINT else os.kill
    send(process.pid, signum)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert b"Traceback" not in stderr
    assert b"--resume" in stderr
    done = tree(out)
    assert 0 < len(done) < 6
    for name in done:
        assert name.endswith("_enhanced.wav")
        assert sf.info(out / name).frames == 400_000
    stdout, _ = run("enhance", "in", "-o", "out", "--resume", cwd=tmp_path)
    assert f"{len(done)} skipped".encode() in stdout
    assert len(tree(out)) == 6


def test_loading_is_no_measure_of_speed(monkeypatch, capsys):
    job, now = Job(Path("a.wav"), Path("b.wav"), 1), [0.0]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(batch.time, "perf_counter", lambda: now[0])
    line = batch._ProgressLine([job], wanted=True)
    line.start(job)
    for seconds, done in ((9.0, 1.0), (10.0, 21.0)):
        now[0] = seconds
        line.update(job, done, 101.0)
    drawn = capsys.readouterr().err
    assert "left" not in drawn[: drawn.rindex("\r")]
    assert "20.0x real time  4.0 s left" in drawn


def test_workers_with_the_engine(tmp_path, models):
    for index in range(2):
        sf.write(tmp_path / f"{index}.wav", speech()[index:], 16000, "FLOAT")
    run("enhance", ".", "--workers", 2, "-m", models["full"], base=NPFSN, cwd=tmp_path)
    for index in range(2):
        found, _ = sf.read(tmp_path / f"{index}_enhanced.wav", dtype="float32")
        expected = enhance(speech()[index:], 16000, models["full"])
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "again"), [((), "--resume for the rest"), (("--force",), "--force")]
)
def test_an_interrupted_batch_counts_what_it_leaves(npfsn, monkeypatch, option, again):
    """What could not be found was no file to be done."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    for name in "ab":
        recording(f"{name}.wav")
    Path("empty").mkdir()
    monkeypatch.setattr("npfsn.audio.enhance_file", stop)
    _, err = npfsn("enhance", "a.wav", "b.wav", "empty", *option, code=130)
    assert "interrupted with 2 files not done" in err
    assert f"run again with {again}\n" in err


def test_digital_silence_is_not_called_quiet(npfsn):
    sf.write("a.wav", np.zeros(2000), 16000)
    assert npfsn("enhance", "a.wav")[1] == ""


def test_an_output_that_appears_after_planning_is_kept(npfsn, monkeypatch):
    def plan(args):
        found = make_plan(args)
        Path("a_enhanced.wav").write_text("mine")
        return found

    recording("a.wav")
    monkeypatch.setattr(batch, "make_plan", plan)
    _, err = npfsn("enhance", "a.wav", code=1)
    assert "a_enhanced.wav exists" in err
    assert Path("a_enhanced.wav").read_text() == "mine"
