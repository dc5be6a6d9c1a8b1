"""What is said on a terminal, a pipe and nowhere."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest
import soundfile as sf
from commands import WITH_DELAY, environment, run, spawn
from needs import full_device, posix
from sounds import recording, tree

from npfsn import batch
from npfsn.plan import Job
from npfsn.terminal import duration, write_now

try:
    import fcntl
    import pty
    import termios
except ImportError:  # Windows
    pty = None  # type: ignore[assignment]


@posix
def test_names_cannot_write_on_the_terminal(npfsn):
    name = "\x1b[2Jbad\r.wav"
    Path(name).write_bytes(b"")
    out, err = npfsn("enhance", name, code=1)
    assert "\x1b" not in out + err and "\r" not in out + err
    assert "\\x1b[2Jbad\\r.wav" in err


@posix
@pytest.mark.parametrize("width", ["of the terminal", "told"])
def test_a_terminal_gets_one_line_of_progress(tmp_path, width):
    for index in range(3):
        recording(tmp_path / f"{index}.wav", 500_000)
    primary, secondary = pty.openpty()
    environment = {"NPFSN_TEST_PAUSE": "0.03", "TERM": "xterm"}
    if width == "told":
        environment["COLUMNS"] = "70"
    else:
        size = struct.pack("4H", 24, 70, 0, 0)
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, size)
    process = spawn(*("enhance", ".", "-o", "out"), cwd=tmp_path, stderr=secondary, env=environment)
    os.close(secondary)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports the closed end as an error
        while data := os.read(primary, 65536):
            shown += data
    os.close(primary)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and b"3 files enhanced" in out
    assert b"\n" not in shown
    lines = [line.strip() for line in shown.decode().split("\r") if line.strip()]
    assert len(lines) > 3
    assert all(len(line) < 70 for line in lines)
    assert max(len(line) for line in lines) > 35
    assert any("x real time" in line and " left" in line and ".wav" in line for line in lines)
    assert lines[-1].startswith("[3/3]")
    assert shown.endswith(b"\r")


def test_progress_is_drawn_only_where_a_line_can_be_wiped_and_is_wanted(monkeypatch, capsys):
    job = Job(Path("a.wav"), Path("b.wav"), 1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for term, wanted, drawn in (("xterm", True, 1), ("xterm", False, 0), ("dumb", True, 0)):
        monkeypatch.setenv("TERM", term)
        batch._ProgressLine([job], wanted=wanted).start(job)
        assert capsys.readouterr().err.count("a.wav") == drawn


def test_wide_letters_do_not_wrap_the_line_of_progress(monkeypatch, capsys):
    """A line longer than the terminal scrolls at every redraw: columns count, not characters."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    # The second one has fewer letters than there is room for, and more columns.
    for name in ("録音の長い名前" * 20, "録音の長い名前" * 2):
        job = Job(Path(name + ".wav"), Path("b.wav"), 1)
        line = batch._ProgressLine([job], wanted=True)
        line.start(job)
        drawn = capsys.readouterr().err.strip()
        assert "録音の長" in drawn and drawn.endswith("...")
        assert 37 <= sum(1 if c.isascii() else 2 for c in drawn) <= 39
        line._line.clear()
        assert capsys.readouterr().err.count(" ") >= 37


@pytest.mark.parametrize("encoding", [None, "unknown"])
def test_a_stream_that_names_no_encoding_takes_all_letters(monkeypatch, encoding):
    terminal = types.SimpleNamespace(isatty=lambda: True, flush=lambda: None, encoding=encoding)
    if encoding is None:  # as some replacements of standard error
        del terminal.encoding
    drawn = []
    terminal.write = drawn.append
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    job = Job(Path("grün.wav"), Path("b.wav"), 1)
    batch._ProgressLine([job], wanted=True).start(job)
    assert "grün.wav" in "".join(drawn)


def test_escapes_do_not_wrap_the_line_of_progress(monkeypatch):
    """Where a terminal lacks the letters of a name, each of them takes six columns."""
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    job = Job(Path("録音の長い名前.wav"), Path("b.wav"), 1)
    batch._ProgressLine([job], wanted=True).start(job)
    drawn = terminal.buffer.getvalue().strip()
    assert "録音".encode("ascii", "backslashreplace") in drawn and 37 <= len(drawn) <= 39


def test_letters_that_a_stream_lacks_are_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    write_now(stream, "grün\n")
    assert stream.buffer.getvalue().split() == [rb"gr\xfcn"]


def test_a_terminal_that_is_gone_stops_nothing(npfsn, monkeypatch):
    class Gone(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Gone())
    for name in "ab":
        recording(f"{name}.wav")
    npfsn("enhance", "a.wav", "b.wav", "-o", "out")
    assert tree("out") == ["a_enhanced.wav", "b_enhanced.wav"]


def test_no_terminal_no_progress(tmp_path):
    recording(tmp_path / "a.wav", 50_000)
    _, err = run("enhance", "a.wav", cwd=tmp_path)
    assert err == ""


@posix
def test_a_terminal_without_unicode(tmp_path):
    recording(tmp_path / "ü🎤.wav")
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    out, err = run("enhance", ".", "-v", cwd=tmp_path, env=env)
    assert b"1 file enhanced" in out and out.isascii()


@full_device
def test_closed_outputs_are_no_crash(tmp_path):
    recording(tmp_path / "a.wav")
    for redirect in (">&-", "2>&-", ">&- 2>&-", ">/dev/full"):
        program = shlex.join([sys.executable, str(WITH_DELAY[1])])
        command = f"{program} enhance a.wav --force {redirect}"
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, env=os.environ
        )
        assert b"Traceback" not in done.stderr + done.stdout
        assert b"Exception" not in done.stderr
        assert sf.info(tmp_path / "a_enhanced.wav").frames == 2000
        (tmp_path / "a_enhanced.wav").unlink()


@full_device
@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_origin_of_errors_that_nobody_reads_stops_nothing(tmp_path, redirect, workers):
    (tmp_path / "0.wav").write_bytes(b"no sound at all")
    recording(tmp_path / "a.wav")
    program = shlex.join([sys.executable, str(WITH_DELAY[1])])
    command = f"{program} enhance 0.wav a.wav -o out -v --workers {workers} {redirect}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, env=os.environ
    )
    assert done.returncode == 1 and b"1 file enhanced" in done.stdout
    assert tree(tmp_path / "out") == ["a_enhanced.wav"]


@full_device
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("npfsn enhance a.wav --bogus", 2),
        ("npfsn enhance --workers none a.wav", 2),
        ("npfsn enhance", 2),
        ("npfsn", 2),
        ("npfsn info missing.npz", 1),
        ("npfsn.convert missing.tar", 1),
        ("npfsn.convert", 2),
    ],
)
def test_an_error_that_a_full_disk_swallows_is_still_a_code(tmp_path, command, code):
    """And not Python's 120, for text that is left in its buffers."""
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.quote(sys.executable)} -m {command} 2>/dev/full"],
        cwd=tmp_path, capture_output=True, timeout=60, env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, b"")


@full_device
def test_what_others_cannot_print_is_no_failure():
    """Such as the word that kernels are being compiled."""
    code = (
        "import contextlib, sys, npfsn.cli\n"
        "with contextlib.suppress(OSError):\n"
        "    print('a word', file=sys.stderr, flush=True)\n"
        "sys.exit(npfsn.cli.main(['info']))\n"
    )
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, env=environment()
        )
    assert done.returncode == 0 and b"fast_fullsubnet" in done.stdout


@full_device
@pytest.mark.parametrize(
    ("command", "program"),
    [("npfsn --help", "npfsn"), ("npfsn info --help", "npfsn"), ("npfsn --version", "npfsn"),
     ("npfsn.convert --help", "npfsn-convert")],
)  # fmt: skip
def test_help_that_a_full_disk_swallows_is_an_error(command, program):
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.quote(sys.executable)} -m {command} >/dev/full"],
        capture_output=True, timeout=60, env=environment(),
    )  # fmt: skip
    said = f"{program}: error: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, said)


def test_what_is_said_is_seen_at_once():
    """A line that will be drawn anew has no end that would send it off."""
    screen = io.BytesIO()
    stream = io.TextIOWrapper(screen)
    write_now(stream, "\r 50%")
    assert screen.getvalue() == b"\r 50%"


def test_an_error_that_nobody_can_read_is_still_a_code(npfsn, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    recording("a.wav")
    monkeypatch.setattr(sys.stderr, "write", full)
    out, _ = npfsn("enhance", "missing.wav", "a.wav", code=1)
    assert "1 file enhanced" in out


def test_durations_are_rounded_once():
    """Not 2:60, and not a second short."""
    assert [duration(seconds) for seconds in (119.94, 119.96, 179.6, 3599.6)] == [
        "119.9 s",
        "2:00 min",
        "3:00 min",
        "1:00:00 h",
    ]
