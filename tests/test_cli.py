"""The command line: what it finds, writes, says and returns, and how it ends when it is ended."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import multiprocessing
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from drawn_models import golden_model, identity_model
from pure_delay import Delay, load_model, modules

from npfsn import batch, cli, pipe, weights
from npfsn.audio import FileReport
from npfsn.enhancer import Enhancer
from npfsn.models import ARCHITECTURES
from npfsn.plan import Job, Plan
from npfsn.signals import Stopped, held_back, signals
from npfsn.terminal import duration, put
from npfsn.whole import enhance

ROOT = Path(__file__).resolve().parent.parent
NPFSN = [sys.executable, "-m", "npfsn"]
WITH_DELAY = [sys.executable, str(Path(__file__).with_name("pure_delay.py"))]
try:
    import fcntl
    import pty
    import termios
except ImportError:  # Windows
    pty = None  # type: ignore[assignment]

posix = pytest.mark.skipif(os.name != "posix", reason="signals and pipes are POSIX's")
full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


@pytest.fixture
def npfsn(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder, with an engine that delays."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(weights, "load_model", load_model)
    monkeypatch.chdir(tmp_path)

    def run(*argv, code=0):
        found = cli.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out, err

    return run


def spawn(*argv, base=WITH_DELAY, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(
        [*base, *map(str, argv)],
        env=environment,
        stdin=options.pop("stdin", subprocess.PIPE),
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        **options,
    )


def run(*argv, base=WITH_DELAY, data=None, code=0, **options):
    process = spawn(*argv, base=base, **options)
    out, err = process.communicate(data, timeout=120)
    assert process.returncode == code, err.decode()
    assert b"Traceback" not in err
    return out, err.decode()


def noise(n, channels=1, seed=0):
    return (np.random.default_rng(seed).standard_normal((n, channels)) * 0.1).astype("f4")


def recording(path, n=2000, channels=1, rate=16000, subtype="PCM_16"):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, noise(n, channels), rate, subtype)
    return path


def lag(x, y):
    """Find where the cross-correlation of two signals peaks."""
    corr = np.fft.irfft(np.fft.rfft(y, 2 * x.size) * np.conj(np.fft.rfft(x, 2 * x.size)))
    peak = int(np.argmax(corr))
    return peak if peak < x.size else peak - 2 * x.size


def tree(folder="."):
    return sorted(
        str(path.relative_to(folder)).replace(os.sep, "/")
        for path in Path(folder).rglob("*")
        if path.is_file()
    )


# --- names -------------------------------------------------------------------------------------


def test_output_lies_beside_the_input(npfsn):
    recording("noisy.wav", 2000)
    out, err = npfsn("enhance", "noisy.wav")
    assert tree() == ["noisy.wav", "noisy_enhanced.wav"]
    assert np.array_equal(sf.read("noisy.wav")[0], sf.read("noisy_enhanced.wav")[0])
    assert out.startswith("1 file enhanced, 0.1 s of audio in ") and "real-time factor" in out
    assert out.count("\n") == 1
    assert err == ""


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "a_enhanced.flac"),
        (("--suffix", "_clean"), "a_clean.flac"),
        (("--suffix=-clean",), "a-clean.flac"),
        (("--suffix=_so_clean",), "a_so_clean.flac"),
        (("--suffix", ""), "a.flac"),
        (("--no-suffix",), "a.flac"),
        (("--no_suffix",), "a.flac"),
        (("--format", "wav"), "a_enhanced.wav"),
        (("--format", ".WAV", "--no-suffix"), "a.wav"),
    ],
)
@pytest.mark.parametrize("folder", ["-o", "--output-dir", "--output_dir"])
def test_names_of_outputs(npfsn, options, name, folder):
    recording("in/a.flac")
    npfsn("enhance", "in/a.flac", folder, "out/new", *options)
    assert tree() == ["in/a.flac", f"out/new/{name}"]


def test_a_folder_keeps_its_structure(npfsn):
    for name in ("a.wav", "b.flac", "deep/a.wav", "deep/er/c.wav"):
        recording(f"in/{name}")
    Path("in/notes.txt").write_text("no audio")
    recording("in/.hidden.wav")
    recording("in/.hidden/a.wav")
    npfsn("enhance", "in", "-o", "out")
    assert tree("out") == ["a_enhanced.wav", "b_enhanced.flac"]
    out, _ = npfsn("enhance", "-r", "-i", "in", "-o", "out", "--no-suffix")
    assert "4 files enhanced" in out
    assert set(tree("out")) >= {"a.wav", "b.flac", "deep/a.wav", "deep/er/c.wav"}


@posix
def test_linked_folders_are_entered_once(npfsn):
    """They were left out, without a word. Links may lead in a circle, or to the outputs."""
    for name in ("in/a.wav", "in/deep/b.wav", "elsewhere/er/c.wav"):
        recording(name)
    os.symlink("../elsewhere", "in/link")
    os.symlink("deep", "in/also")
    os.symlink("..", "in/deep/up")
    os.symlink("../out", "in/outputs")
    for _ in range(2):
        out, _ = npfsn("enhance", "in", "-r", "-o", "out", "--force")
        assert "3 files enhanced" in out
    assert tree("out") == ["a_enhanced.wav", "also/b_enhanced.wav", "link/er/c_enhanced.wav"]


def test_a_second_run_does_not_enhance_what_the_first_wrote(npfsn):
    recording("in/a.wav")
    recording("in/deep/b.wav")
    npfsn("enhance", "in", "-r")
    found = tree()
    out, _ = npfsn("enhance", "in", "-r", "--force")
    assert "2 files enhanced" in out and tree() == found
    # Nor when the outputs lie in a folder inside.
    npfsn("enhance", "in", "-r", "-o", "in/out", "--suffix", "_x")
    out, _ = npfsn("enhance", "in", "-r", "-o", "in/out", "--suffix", "_x", "--force")
    assert "4 files enhanced" in out


def test_names_that_end_in_the_suffix_are_left_out_only_where_outputs_go(npfsn):
    """Elsewhere they are recordings like others, and without a suffix nothing tells outputs."""
    recording("in/a.wav")
    recording("in/a_enhanced.wav")
    npfsn("enhance", "in", "-o", "out")
    assert tree("out") == ["a_enhanced.wav", "a_enhanced_enhanced.wav"]
    npfsn("enhance", "in", "--no-suffix", "--format", "flac")
    assert tree("in") == ["a.flac", "a.wav", "a_enhanced.flac", "a_enhanced.wav"]


def test_a_recording_that_is_called_like_an_output_is_none(npfsn):
    recording("in/a_enhanced.wav")
    for again in range(2):
        out, _ = npfsn("enhance", "in", "--resume")
        assert tree("in") == ["a_enhanced.wav", "a_enhanced_enhanced.wav"]
        assert ("1 left out" in out) == bool(again)


@pytest.mark.parametrize("option", ["--resume", "--force"])
def test_a_second_run_with_the_names_of_all_files_does_not_enhance_outputs(npfsn, option):
    """What a shell makes of *.wav the second time; --force protects every input, as ever."""
    for name in "ab":
        recording(f"{name}.wav")
        npfsn("enhance", f"{name}.wav")
    names = tree()
    out, _ = npfsn("enhance", *names, option, code=int(option == "--force"))
    assert "0 files enhanced" in out and "2 left out" in out
    assert tree() == names


def test_one_file_may_name_its_output(npfsn):
    recording("a.wav")
    recording("in/b.wav")
    npfsn("enhance", "a.wav", "-o", "new/clean.flac")
    assert tree("new") == ["clean.flac"] and sf.info("new/clean.flac").format == "FLAC"
    npfsn("enhance", "a.wav", "-o", "new/clean.flac", code=1)
    Path("folder.wav").mkdir()
    npfsn("enhance", "a.wav", "-o", "folder.wav")
    assert tree("folder.wav") == ["a_enhanced.wav"]
    for arguments, message in (
        (["a.wav", "in/b.wav"], "2 inputs"),
        (["in"], "a folder"),
        (["a.wav", "--format", "flac"], "two formats"),
    ):
        _, err = npfsn("enhance", *arguments, "-o", "x.wav", code=2)
        assert message in err and not Path("x.wav").exists()
    _, err = npfsn("enhance", "a.wav", "-o", "clean.wva", code=2)
    assert ".wva is no suffix of sound files" in err and not Path("clean.wva").exists()
    npfsn("enhance", "a.wav", "-o", "clean.wva/")
    npfsn("enhance", "a.wav", "-o", "out_v1.2")
    assert tree("clean.wva") == tree("out_v1.2") == ["a_enhanced.wav"]


def test_the_last_line_says_where_outputs_are(npfsn):
    for name in ("a.wav", "in/b.wav", "in/c.wav"):
        recording(name)
    out, _ = npfsn("enhance", "a.wav", "-o", "new.flac")
    assert out.endswith("; written to new.flac\n")
    out, _ = npfsn("enhance", "in", "-o", "out")
    assert out.endswith("; written to out\n")


def test_outputs_that_exist_are_told_once(npfsn):
    for name in "abcdefg":
        recording(f"in/{name}.wav")
    npfsn("enhance", "in/a.wav", "-o", "out")
    _, err = npfsn("enhance", "in/a.wav", "-o", "out", code=1)
    assert err == (
        "npfsn: error: out/a_enhanced.wav exists: choose another name or folder, overwrite with "
        "--force, or leave what is there with --resume\n"
    )
    npfsn("enhance", "in", "-o", "out", code=1)  # the other six
    out, err = npfsn("enhance", "in", "-o", "out", code=1)
    assert err.count("\n") == 1 and "and 2 more exist: choose" in err
    assert "0 files enhanced" in out and "7 failed" in out


def test_what_gets_lost_is_told(npfsn):
    recording("quiet.wav", 2000)
    with sf.SoundFile("quiet.wav") as file:
        x = file.read()
    sf.write("quiet.wav", 0.0009 * x / np.abs(x).max(), 16000, subtype="PCM_24")
    _, err = npfsn("enhance", "quiet.wav")
    assert "below -60 dB of full scale: quiet.wav; raise" in err
    with sf.SoundFile("tagged.flac", "w", 16000, 1) as file:
        file.title, file.album, file.artist = "Größe", "plain", "Müller"
        file.write(x)
    _, err = npfsn("enhance", "tagged.flac", "-o", "tagged.mp3")
    assert "tags that the output cannot hold were left out: " in err
    assert "title" in err and "artist" in err and "album" not in err
    _, err = npfsn("enhance", "tagged.flac", "-o", "again.flac")
    assert err == ""
    sf.write("silent.wav", np.zeros(1000), 16000)
    _, err = npfsn("enhance", "silent.wav")
    assert err == ""


def test_a_file_is_no_command(npfsn):
    recording("a.wav")
    _, err = npfsn("a.wav", code=2)
    assert "did you mean: npfsn enhance a.wav" in err


def test_wildcards_that_no_shell_has_spelled_out(npfsn):
    for name in ("in/a.wav", "in/b.wav", "in/[c].wav", "in/c.wav"):
        recording(name)
    npfsn("enhance", "in/[ab]*", "-o", "one")
    assert tree("one") == ["a_enhanced.wav", "b_enhanced.wav"]
    npfsn("enhance", "in/[c].wav", "-o", "two")  # a file of that name is meant
    assert tree("two") == ["[c]_enhanced.wav"]
    _, err = npfsn("enhance", "in/*.mp3", code=1)
    assert "cannot read in/*.mp3: No such file" in err


def test_sounds_that_cannot_be_read_are_named(npfsn):
    """Phones write M4A: in a folder it is no failure, but no secret, either."""
    recording("in/a.wav")
    Path("in/memo.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    out, err = npfsn("enhance", "in", "-o", "out")
    assert "1 file enhanced" in out and "left out in/memo.m4a" in err and "ffmpeg" in err
    _, err = npfsn("enhance", "in/memo.m4a", code=1)
    assert "ffmpeg -i in/memo.m4a in/memo.wav" in err
    Path("my memo.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    _, err = npfsn("enhance", "my memo.m4a", code=1)
    assert "ffmpeg -i 'my memo.m4a' 'my memo.wav'" in err
    Path("in/a.wav").unlink()
    out, err = npfsn("enhance", "in", code=1)
    assert "left out in/memo.m4a" in err


def test_suffixes_in_capitals_are_found(npfsn):
    recording("in/a.wav")
    Path("in/a.wav").rename("in/A.WAV")
    npfsn("enhance", "in", "-o", "out")
    assert tree("out") == ["A_enhanced.WAV"]


def test_a_list_from_standard_input(npfsn, monkeypatch):
    for name in "ab":
        recording(f"{name}.wav")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.wav\nb.wav\n")))
    out, _ = npfsn("enhance", "--list", "-", "-o", "out")
    assert "2 files enhanced" in out


def test_lists(npfsn):
    for name in ("a.wav", "b b.wav", "ü.wav", "#odd.wav", "c.wav"):
        recording(name)
    Path("list.txt").write_bytes("\ufeffa.wav\r\n\n# comment\nb b.wav\nü.wav\n./#odd.wav".encode())
    npfsn("enhance", "@list.txt", "-o", "one")
    npfsn("enhance", "--list", "list.txt", "c.wav", "-o", "two", "--no-suffix")
    assert len(tree("one")) == 4
    assert tree("two") == ["#odd.wav", "a.wav", "b b.wav", "c.wav", "ü.wav"]
    with pytest.MonkeyPatch.context() as closed:
        closed.setattr(sys, "stdin", None)
        _, err = npfsn("enhance", "--list", "-", code=2)
    assert "no input" in err
    Path("binary").write_bytes(b"a.wav\n" + bytes(300_000))
    _, err = npfsn("enhance", "@binary", code=2)
    assert "line 2 of the list binary has 300000 characters" in err and len(err) < 600
    if os.path.exists("/dev/zero"):
        _, err = npfsn("enhance", "@/dev/zero", code=2)
        assert "larger than" in err
    for option, hint in ((["@missing.txt"], True), (["--list", "missing.txt"], False)):
        _, err = npfsn("enhance", *option, code=2)
        assert "cannot read the list missing.txt: No such file" in err
        assert ("./@missing.txt" in err) == hint


@pytest.mark.parametrize(
    "name",
    [
        "with space.wav",
        "ünïcödé 🎤.wav",
        pytest.param("a'\"b.wav", marks=posix),
        pytest.param("new\nline.wav", marks=posix),
    ],
)
def test_odd_names(npfsn, name):
    recording(name)
    npfsn("enhance", name, "-o", "out", "--no-suffix")
    assert tree("out") == [name]


def test_a_name_that_begins_with_a_dash(npfsn):
    recording("-odd.wav")
    npfsn("enhance", "--", "-odd.wav")
    npfsn("enhance", "./-odd.wav", "-o", "out")
    assert tree() == ["-odd.wav", "-odd_enhanced.wav", "out/-odd_enhanced.wav"]


def test_names_behind_two_dashes_keep_their_underscores(npfsn):
    recording("--so_odd.wav")
    npfsn("enhance", "--", "--so_odd.wav")
    assert tree() == ["--so_odd.wav", "--so_odd_enhanced.wav"]


@posix
def test_names_cannot_write_on_the_terminal(npfsn):
    name = "\x1b[2Jbad\r.wav"
    Path(name).write_bytes(b"")
    out, err = npfsn("enhance", name, code=1)
    assert "\x1b" not in out + err and "\r" not in out + err
    assert "\\x1b[2Jbad\\r.wav" in err


def test_two_inputs_never_share_an_output(npfsn):
    recording("one/a.wav", 1000)
    recording("two/a.wav", 2000)
    out, err = npfsn("enhance", "one/a.wav", "two/a.wav", "one/../one/a.wav", "-o", "out", code=1)
    assert "would both become" in err
    assert "1 file enhanced" in out and "1 failed" in out
    assert sf.info("out/a_enhanced.wav").frames == 1000


# --- what is refused ---------------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_others(npfsn):
    recording("a.wav")
    Path("b.wav").write_bytes(b"no audio at all")
    recording("c.wav")
    out, err = npfsn("enhance", "a.wav", "b.wav", "c.wav", "missing.wav", "-o", "out", code=1)
    assert tree("out") == ["a_enhanced.wav", "c_enhanced.wav"]
    assert err.count("error: ") == 2 == err.count("\n")
    assert "2 files enhanced" in out and "2 failed: b.wav, missing.wav" in out


def test_a_list_that_is_no_text(npfsn):
    recording("a.wav")
    for argv in (("@a.wav",), ("--list", "a.wav")):
        _, err = npfsn("enhance", *argv, "-o", "out", code=2)
        assert "the list a.wav is no text" in err
        assert len(err) < 1500


def test_a_second_run_into_the_same_folders_does_nothing_twice(npfsn):
    recording("rec/a.wav")
    recording("rec/sub/b.wav")
    for _ in range(2):
        npfsn("enhance", "rec", "-r", "-o", "rec", "--resume")
    assert tree("rec") == ["a.wav", "a_enhanced.wav", "sub/b.wav", "sub/b_enhanced.wav"]


def test_an_input_is_nobody_elses_output(npfsn):
    """Not even with --force: it would be gone before its turn came."""
    recording("x/a.wav")
    recording("y/a.wav", n=3000)
    recording("b.wav")
    recording("b_enhanced.wav", n=3000)
    before = [Path(name).read_bytes() for name in ("y/a.wav", "b_enhanced.wav")]
    out, err = npfsn("enhance", "x/a.wav", "y/a.wav", "-o", "y", "--no-suffix", "--force", code=1)
    assert "x/a.wav would become y/a.wav, which is an input too" in err
    out, err = npfsn("enhance", "b.wav", "b_enhanced.wav", "--force", code=1)
    assert "b.wav would become b_enhanced.wav, which is an input too" in err
    assert "0 files enhanced" in out and "1 left out" in out
    assert [Path(name).read_bytes() for name in ("y/a.wav", "b_enhanced.wav")] == before


def test_nothing_is_overwritten_without_force(npfsn):
    recording("a.wav")
    Path("a_enhanced.wav").write_text("precious")
    _, err = npfsn("enhance", "a.wav", code=1)
    assert "exists" in err and "--force" in err
    assert Path("a_enhanced.wav").read_text() == "precious"
    npfsn("enhance", "a.wav", "--force")
    assert sf.info("a_enhanced.wav").frames == 2000


def test_the_source_is_never_overwritten(npfsn):
    content = recording("a.wav").read_bytes()
    for option in ("--force", "--resume", "--quiet"):  # nor is one told that they would help
        _, err = npfsn("enhance", "a.wav", "--no-suffix", option, code=1)
        assert "is the input itself: name another output or folder with -o" in err
    assert Path("a.wav").read_bytes() == content


def test_resume_does_only_the_rest(npfsn):
    for name in "abc":
        recording(f"in/{name}.wav")
    npfsn("enhance", "in/b.wav", "-o", "out")
    before = Path("out/b_enhanced.wav").stat().st_mtime_ns
    out, _ = npfsn("enhance", "in", "-o", "out", "--resume")
    assert "2 files enhanced" in out and "1 skipped" in out
    assert Path("out/b_enhanced.wav").stat().st_mtime_ns == before
    out, _ = npfsn("enhance", "in", "-o", "out", "--resume")
    assert "0 files enhanced" in out and "3 skipped" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "usage"),
        (("unknown",), "invalid choice"),
        (("enhance",), "no input"),
        (("enhance", ""), "empty name"),
        (("enhance", "-i", ""), "empty name"),
        (("enhance", "a.wav", "-o", ""), "empty name"),
        (("enhance", "a.wav", "--unknown"), "npfsn enhance: error: unrecognized"),
        (("--unknown",), "npfsn: error: unrecognized"),
        (("enhance", "a.wav", "-o", "-"), "not written to standard output"),
        (("enhance", "-", "-o", "a.wav"), "not read from standard input"),
        (("enhance", "a.wav", "b.wav", "-o", "c.m4a"), "there are 2 inputs"),
        (("enhance", "a.wav", "--work", "2"), "unrecognized"),
        (("enhance", "a.wav", "--workers", "0"), "whole number"),
        (("enhance", "a.wav", "-a", "-3"), "decibels"),
        (("enhance", "a.wav", "-a", "nan"), "decibels"),
        (("enhance", "a.wav", "--suffix", "../x"), "another folder"),
        (("enhance", "a.wav", "--format", "../x"), "file suffix"),
        (("enhance", "a.wav", "--precision", "int4"), "invalid choice"),
        (("enhance", "a.wav", "--force", "--resume"), "not allowed with"),
        (("enhance", "a.wav", "-q", "-v"), "not allowed with"),
        (("stream", "--rate", "10"), "sample rate"),
        (("stream", "--format", "mp3"), "invalid choice"),
    ],
)
def test_wrong_arguments(npfsn, argv, message):
    _, err = npfsn(*argv, code=2)
    assert message in err


def test_names_may_come_behind_options(npfsn):
    for name in ("a.wav", "b.wav", "-c.wav"):
        recording(name)
    for argv in (
        ("a.wav", "-o", "out", "b.wav", "-a", "12", "--", "-c.wav"),
        ("-o", "out", "--force", "a.wav", "--", "b.wav", "-c.wav"),
        ("a.wav", "--force", "b.wav", "-o", "out", "./-c.wav"),
    ):
        out, _ = npfsn("enhance", *argv)
        assert "3 files enhanced" in out
    _, err = npfsn("enhance", "a.wav", "-o", "out", "b.wav", "--no-such-option", code=2)
    assert "unrecognized arguments: b.wav --no-such-option" in err


def test_a_file_that_begins_with_a_dash(npfsn):
    recording("-dash.wav")
    _, err = npfsn("enhance", "-dash.wav", code=2)
    assert "unrecognized arguments: -dash.wav (a file of that name is ./-dash.wav)" in err
    npfsn("enhance", "./-dash.wav")
    assert tree() == ["-dash.wav", "-dash_enhanced.wav"]


@pytest.mark.parametrize("format_", ["txt", "sd2", "raw"])
def test_containers_that_cannot_be_written(npfsn, format_):
    recording("a.wav")
    _, err = npfsn("enhance", "a.wav", "--format", format_, code=2)
    assert f"--format {format_}: no container" in err and tree() == ["a.wav"]


def test_a_model_that_cannot_be_read_is_said_once(npfsn):
    for name in "abc":
        recording(f"in/{name}.wav")
    Path("model.npz").write_bytes(b"no model")
    _, err = npfsn("enhance", "in", "-m", "model.npz", "-o", "out", code=1)
    assert err.count("\n") == 1 and "model.npz" in err
    _, err = npfsn("enhance", "in", "-m", "missing.npz", "-o", "out", code=1)
    assert err.count("\n") == 1 and "missing.npz" in err
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["enhance in -o out", "stream", "live", "bench"])
def test_a_norm_that_does_not_exist_is_a_wrong_argument(npfsn, command):
    recording("in/a.wav")
    _, err = npfsn(*command.split(), "--norm", "batch_norm", code=2)
    assert err.count("error: ") == 1 and "'batch_norm': expected one of cumulative_laplace" in err
    assert not Path("out").exists()


def test_a_folder_without_audio_fails(npfsn):
    recording("in/deep/a.wav")
    _, err = npfsn("enhance", "in", code=1)
    assert "holds no sound files" in err and "-r" in err


def test_a_folder_that_cannot_be_read_is_named(npfsn, monkeypatch):
    """It is a failure, not a folder without sound files."""
    recording("in/a.wav")
    recording("in/locked/b.wav")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    out, err = npfsn("enhance", "-r", "in", "-o", "out", code=1)
    assert f"cannot read the folder {Path('in/locked')}: Permission denied" in err
    assert "1 file enhanced" in out


@posix
def test_names_that_no_file_can_have(npfsn):
    recording("a.wav")
    recording("x" * 248 + ".wav")
    Path("list.txt").write_bytes(b"a.wav\nnul\0l.wav\n")
    argv = ("enhance", "x" * 5000, "x" * 248 + ".wav", "a.wav/b.wav", "@list.txt")
    out, err = npfsn(*argv, code=1)
    assert err.count("error: ") == err.count("\n") == 4
    assert "1 file enhanced" in out


def test_an_output_folder_that_is_a_file(npfsn):
    recording("a.wav")
    Path("out").write_text("")
    _, err = npfsn("enhance", "a.wav", "-o", "out", code=1)
    assert "cannot write out/a_enhanced.wav: out is a file" in err and err.count("\n") == 1


def test_quiet_and_verbose(npfsn):
    recording("a.wav")
    Path("b.wav").write_bytes(b"")
    out, err = npfsn("enhance", "a.wav", "b.wav", "-q", code=1)
    assert out == "" and err.count("\n") == 1
    found = cli.main(["enhance", "a.wav", "b.wav", "-o", "out", "-v"])
    assert found == 1


def test_verbose_shows_where(npfsn, capsys):
    recording("a.wav")
    Path("b.wav").write_bytes(b"")
    assert cli.main(["enhance", "a.wav", "b.wav", "-v"]) == 1
    out, err = capsys.readouterr()
    assert "a.wav -> a_enhanced.wav" in out
    assert "Traceback" in err and "AudioError" in err


def test_odd_samples_are_warned_of_once(npfsn):
    for name in "ab":
        x = noise(3000)
        x[[5, 700]] = np.nan
        sf.write(f"{name}.wav", x, 16000, "FLOAT")
    recording("c.wav")
    out, err = npfsn("enhance", "a.wav", "b.wav", "c.wav")
    assert (
        err == "npfsn: warning: 4 NaN or infinite samples were replaced by zero in a.wav, b.wav\n"
    )
    sf.write("loud.wav", noise(3000) + 1.0, 16000, "FLOAT")
    _, err = npfsn("enhance", "loud.wav", "--format", "flac")
    assert "beyond full scale were clipped in loud.wav" in err


def test_a_bug_is_one_sentence(npfsn, monkeypatch):
    recording("a.wav")
    monkeypatch.setattr("npfsn.audio.enhance_file", lambda *_, **__: 1 / 0)
    _, err = npfsn("enhance", "a.wav", code=1)
    assert "unexpected ZeroDivisionError" in err and err.count("\n") == 1


# --- processes ---------------------------------------------------------------------------------


def test_workers_do_the_same(tmp_path):
    for index in range(5):
        recording(tmp_path / f"in/{index}.wav", 1000 + index)
    (tmp_path / "in/5.wav").write_bytes(b"")
    out, err = run("enhance", "in", "-o", "out", "--workers", 3, cwd=tmp_path, code=1)
    assert b"5 files enhanced" in out and b"1 failed: in/5.wav" in out
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
def test_a_killed_worker_costs_one_file(tmp_path):
    """Another one takes its place: else, all killed, the other files would never be looked at."""
    for index in range(5):
        recording(tmp_path / f"in/{index}.wav")
    for index in range(2):
        sf.write(tmp_path / f"in/{index}.wav", np.full(3000, 0.75), 16000)
    out, err = run(
        *("enhance", "in", "-o", "out", "--workers", 2),
        cwd=tmp_path,
        env={"NPFSN_TEST_KILL": "1"},
        code=1,
    )
    for index in range(2):
        assert f"in/{index}.wav: its worker process was killed (signal 9)" in err
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
    done.clear()
    process.is_alive = lambda: False
    batch._end([batch._Process(process, io.BytesIO(), "mark", job)])
    assert done == ["terminate"]


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
    batch._run_workers(args, jobs, totals, batch._ProgressLine(jobs, wanted=False))
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
    # Someone pressed Ctrl-C in the second file: time that went into no report.
    assert "of audio in 8.0 s: real" in batch._summary(batch._Totals([(job, report)]), two, 8.0, 1)
    assert batch._summary(batch._Totals(), Plan(), 1.0, 1).endswith("of audio in 1.0 s")


def test_workers_compile_side_by_side():
    """Their waiting is one, not a sum that may exceed all the time there was."""
    job = Job(Path("a.wav"), Path("b.wav"), 0)
    reports = [(job, FileReport(10, 10.0, 1, 1, 0, 0, 1.0, wait)) for wait in (5.0, 6.0)]
    text = batch._summary(batch._Totals(reports), Plan(), 10.0, 2)
    assert "6.0 s of which went into loading and compiling: real-time factor 0.050" in text


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
        batch._launch(args, index)
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


@posix
def test_a_file_called_like_standard_input(tmp_path):
    recording(tmp_path / "x.wav")
    (tmp_path / "x.wav").rename(tmp_path / "-")
    run("enhance", "./-", "-o", "out", "--format", "wav", cwd=tmp_path, data=b"")
    assert [sf.info(tmp_path / "out" / name).frames for name in tree(tmp_path / "out")] == [2000]


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


def test_decoders_do_not_talk(tmp_path):
    if "MP3" not in sf.available_formats():
        pytest.skip("this libsndfile has no MP3")
    recording(tmp_path / "a.mp3", 50_000, subtype="MPEG_LAYER_III")
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    for workers in (1, 2):
        out, err = run("enhance", "a.mp3", "b.mp3", "--workers", workers, cwd=tmp_path, code=1)
        assert err.count("\n") == 2 and "cut short" in err
        assert out.count(b"\n") == 1


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


def test_what_is_said_is_seen_at_once():
    """A line that will be drawn anew has no end that would send it off."""
    screen = io.BytesIO()
    stream = io.TextIOWrapper(screen)
    put(stream, "\r 50%")
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
    with pytest.raises(error), signals():
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
    with signals():
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
def test_signals_that_end_a_program_are_exceptions_while_it_runs():
    """So is SIGHUP, of a terminal that is closed; but what is ignored, as by nohup, stays so."""
    found = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with signals():
            for signum in found:
                with pytest.raises(Stopped):
                    signal.getsignal(signum)(signum, None)
        assert {signal.getsignal(signum) for signum in found} == {signal.SIG_DFL}
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for signum, handler in found.items():
            signal.signal(signum, handler)


# --- stream ------------------------------------------------------------------------------------


def pcm(x, format_):
    if format_ == "s16le":
        return np.rint(x * 32768).clip(-32768, 32767).astype("<i2").tobytes()
    return x.astype("<f4").tobytes()


@pytest.mark.parametrize("format_", ["s16le", "f32le"])
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 20_011])
def test_a_stream_is_as_long_as_its_input(format_, n):
    data = pcm(noise(n)[:, 0], format_)
    out, err = run("stream", "--format", format_, data=data)
    assert out == data
    assert err == ""


def test_a_stream_may_keep_its_latency():
    data = pcm(noise(5000)[:, 0], "s16le")
    out, _ = run("stream", "--keep-latency", data=data)
    assert out == bytes(2 * 768) + data


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_stream_at_another_rate(rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    out, _ = run("stream", "--format", "f32le", "--rate", rate, data=pcm(tone, "f32le"))
    found = np.frombuffer(out, "<f4")
    assert found.size == rate
    inner = slice(rate // 20, -rate // 20)
    np.testing.assert_allclose(found[inner], tone[inner], atol=3e-3)


def test_a_stream_whose_norm_forgets():
    x = noise(16000)[:, 0]
    options = ("--norm-horizon", 1, "--keep-latency", "--format", "f32le")
    out, _ = run("stream", *options, base=NPFSN, data=pcm(x, "f32le"))
    enhancer = Enhancer(norm_horizon=1.0)
    expected = np.concatenate([enhancer.process(x), enhancer.flush()])
    np.testing.assert_array_equal(np.frombuffer(out, "<f4"), expected)


def test_a_file_whose_norm_forgets(tmp_path):
    x = noise(16000)
    for name in ("a.wav", "b.wav"):
        sf.write(tmp_path / name, x, 16000, "FLOAT")
    run("enhance", "--norm-horizon", 1, "--workers", 2, "a.wav", "b.wav", base=NPFSN, cwd=tmp_path)
    found, _ = sf.read(tmp_path / "a_enhanced.wav", dtype="float32")
    np.testing.assert_array_equal(found, enhance(x[:, 0], 16000, norm_horizon=1.0))
    assert not np.array_equal(found, enhance(x[:, 0], 16000))


@pytest.mark.parametrize("horizon", ["0.5", "nan", "inf", "-3", "long"])
def test_a_horizon_is_a_number_of_seconds(horizon):
    _, err = run("stream", "--norm-horizon", horizon, code=2)
    assert "is not a number of seconds from 1 up" in err


def test_each_hop_leaves_when_it_is_ready():
    """Hop k of the output needs hops up to k + 3 of the input; nothing may wait longer."""
    x = noise(256 * 8)[:, 0]
    data = pcm(x, "s16le")
    process = spawn("stream", bufsize=0)
    hop = 512
    for k in range(8):
        process.stdin.write(data[k * hop : (k + 1) * hop])
        if k >= 3:
            assert process.stdout.read(hop) == data[(k - 3) * hop : (k - 2) * hop]
    process.stdin.close()
    assert process.stdout.read() == data[5 * hop :]
    assert process.wait(timeout=30) == 0
    process.stdout.close()
    process.stderr.close()


def test_a_stream_that_stalls_and_comes_in_crumbs():
    data = pcm(noise(700)[:, 0], "f32le")
    process = spawn("stream", "--format", "f32le", bufsize=0)
    for index in range(0, len(data), 7):  # samples are cut apart
        process.stdin.write(data[index : index + 7])
        if index % 700 == 0:
            time.sleep(0.05)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, data, b"")


def test_odd_bytes_at_the_end_of_a_stream():
    data = pcm(noise(300)[:, 0], "f32le")
    out, err = run("stream", "--format", "f32le", data=data + b"abc")
    assert out == data
    assert err.count("\n") == 1 and "3 odd bytes" in err
    _, err = run("stream", "-q", "--format", "f32le", data=data + b"abc")
    assert err == ""


@pytest.mark.parametrize("suffix", "wav flac ogg aiff caf w64 au mp3 rf64 sph voc".split())
def test_a_stream_is_no_sound_file(suffix, tmp_path):
    """Its header would be enhanced, too."""
    container = {"sph": "NIST"}.get(suffix, suffix)
    sf.write(tmp_path / f"a.{suffix}", np.zeros(2000), 16000, format=container)
    data = (tmp_path / f"a.{suffix}").read_bytes()
    out, err = run("stream", "--format", "f32le", "--rate", "48000", data=data, code=1)
    assert not out and err.count("\n") == 1 and "npfsn enhance" in err
    assert "-f f32le -ac 1 -ar 48000 -" in err


@pytest.mark.parametrize(
    ("head", "what"),
    [(b"\0\0\0 ftypM4A \0\0", "an MP4 or M4A file"), (b"\x1aE\xdf\xa3\x9fB", "a Matroska or WebM")],
)
def test_a_stream_is_no_recording_of_a_phone_or_a_browser(head, what):
    out, err = run("stream", data=head + bytes(4000), code=1)
    assert not out and err.count("\n") == 1 and f"is {what}" in err and "ffmpeg" in err


@posix
def test_a_sound_file_is_told_by_more_than_its_first_read():
    process = spawn("stream", bufsize=0)
    for part in (b"R", b"IF", b"F" + bytes(5000)):
        process.stdin.write(part)
        time.sleep(0.5)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and not out and b"a WAV file" in err


def test_a_stream_silences_what_is_not_finite():
    x = noise(3000)[:, 0]
    x[[3, 1000, 2999]] = [np.nan, np.inf, -np.inf]
    for options in ((), ("--rate", 48000)):
        out, err = run("stream", "--format", "f32le", *options, data=x.tobytes())
        assert err == (
            "npfsn: warning: 3 NaN or infinite samples were replaced by zero; is the input f32le, "
            "mono?\n"
        )
        assert np.isfinite(np.frombuffer(out, "<f4")).all()


@posix
def test_a_reader_that_closes_the_pipe_ends_the_stream():
    process = spawn("stream", bufsize=0)
    data = pcm(noise(256 * 40)[:, 0], "s16le")
    process.stdin.write(data)
    process.stdout.read(512)
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        for _ in range(200):
            process.stdin.write(data)
            time.sleep(0.01)
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


@posix
def test_an_interrupt_of_work_waits_until_it_is_done(tmp_path):
    """Between two reads a stream is at work: nothing of what it has heard may get lost."""
    x = noise(16_000 * 200)
    x[50] = np.nan
    x.tofile(tmp_path / "in.raw")
    with open(tmp_path / "in.raw", "rb") as source:
        process = spawn("stream", "--format", "f32le", stdin=source, bufsize=0)
        first = process.stdout.read(40_000)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=30)
    given = len(first) + len(rest)
    assert process.returncode == 130
    assert given % pipe.READ_BYTES == 0 and given < 4 * len(x)
    assert err.splitlines() == [
        b"npfsn: interrupted",
        b"npfsn: warning: 1 NaN or infinite samples were replaced by zero; is the input "
        b"f32le, mono?",
    ]


@posix
def test_an_interrupted_stream_gives_what_it_has_heard():
    data = pcm(noise(256 * 8 + 100)[:, 0], "s16le")
    process = spawn("stream", bufsize=0)
    process.stdin.write(data)
    first = process.stdout.read(512)  # so it has begun
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert first + out == data
    assert err == b"npfsn: interrupted\n"


@posix
def test_a_stream_through_pipes_that_do_not_wait():
    data = pcm(noise(200_000)[:, 0], "s16le")
    (source, feed), (drain, sink) = os.pipe(), os.pipe()
    for descriptor in (source, sink):
        os.set_blocking(descriptor, False)
    process = subprocess.Popen([*WITH_DELAY, "stream"], stdin=source, stdout=sink)
    os.close(source)
    os.close(sink)
    with open(drain, "rb") as out, open(feed, "wb") as into:
        writer = threading.Thread(target=lambda: (time.sleep(1.0), into.write(data), into.close()))
        writer.start()
        time.sleep(2.0)  # the pipe is full by now
        got = out.read()
    writer.join()
    assert process.wait(30) == 0
    assert got == data


@posix
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stream_ends_on_a_signal(signum, code):
    process = spawn("stream", bufsize=0)
    process.stdin.write(bytes(512 * 8))
    process.stdout.read(512)
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err.count(b"\n") == 1


def test_what_a_library_prints_is_no_sound():
    """Such as Numba with one of its NUMBA_DUMP_... variables."""
    code = (
        "import sys, pure_delay, npfsn.cli\n"
        "sys.modules.update(pure_delay.modules())\n"
        "process = pure_delay.Delay.process\n"
        "pure_delay.Delay.process = lambda self, x: print('IR', len(x)) or process(self, x)\n"
        "sys.exit(npfsn.cli.main(['stream']))\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    data = pcm(noise(1000)[:, 0], "s16le")
    base = [sys.executable, "-c", code]
    out, err = run(base=base, data=data, env={"PYTHONPATH": path})
    assert out == data and "IR 1000" in err


@full_device
def test_a_stream_onto_a_full_disk_says_so():
    process = spawn("stream")
    process.stdout.close()
    process.kill()
    process.communicate()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*WITH_DELAY, "stream"], input=bytes(20_000), stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    said = "npfsn: error: cannot write to standard output: No space left on device\n"
    assert done.stderr.decode() == said
    for command in ([*WITH_DELAY, "warmup"], [*NPFSN, "bench", "--quick"]):
        with open("/dev/full", "wb") as full:
            quiet = {**os.environ, "NPFSN_QUIET": "1"}  # whether it compiles is no matter here
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=quiet)
        assert (done.returncode, done.stderr.decode()) == (1, said)


def test_samples_are_not_written_onto_a_terminal(npfsn, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, err = npfsn("stream", code=2)
    assert "standard output is a terminal" in err


@posix
def test_a_stream_wants_pipes():
    primary, secondary = pty.openpty()
    _, err = run("stream", stdin=secondary, code=2)
    assert "standard input is a terminal" in err
    os.close(primary)
    os.close(secondary)


# --- with the engine ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Write models of the golden cases, and one whose mask is one, to files."""
    folder = tmp_path_factory.mktemp("models")
    names = {
        "fast": golden_model("fast_lstm_cum"),
        "full": golden_model("full_gru_cum"),
        "offline": golden_model("base_gru_offline"),
        "wide": golden_model("improved_48k"),
        "identity": identity_model("fullband"),
    }
    for name, model in names.items():
        weights.save_model(model, folder / f"{name}.npz")
    return {name: folder / f"{name}.npz" for name in names}


@pytest.fixture
def engine(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder, with the real engine."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = cli.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, err

    return run


def speech(rate=16000, seconds=1.0):
    """Something with the swells and gaps of speech, within the band of every model."""
    t = np.arange(round(rate * seconds)) / rate
    swell = np.maximum(0.0, np.sin(2 * np.pi * 2.3 * t)) ** 2
    x = swell * (np.sin(2 * np.pi * 200 * t) + 0.5 * np.sin(2 * np.pi * 1130 * t))
    return (0.2 * x + 0.01 * np.random.default_rng(3).standard_normal(t.size)).astype("f4")


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
def test_files_are_what_enhance_gives(engine, models, rate):
    x = speech(rate)
    sf.write("a.wav", x, rate, "FLOAT")
    for name in ("fast", "full", "offline"):
        engine("enhance", "a.wav", "-m", models[name], "--force")
        expected = enhance(x, rate, models[name])
        found, _ = sf.read("a_enhanced.wav", dtype="float32")
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_norm_of_files_can_be_chosen(engine, models):
    x = speech()[:5003]
    sf.write("a.wav", x, 16000, "FLOAT")
    engine("enhance", "a.wav", "-m", models["full"], "--norm", "forgetting_norm")
    found, _ = sf.read("a_enhanced.wav", dtype="float32")
    expected = enhance(x, 16000, models["full"], norm="forgetting_norm")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - enhance(x, 16000, models["full"])).max() > 1e-3


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_mask_of_one_gives_the_file_back(engine, models, rate):
    x = np.stack([speech(rate), speech(rate)[::-1]], axis=1)
    sf.write("a.wav", x, rate, "PCM_16")
    engine("enhance", "a.wav", "-m", models["identity"])
    before, _ = sf.read("a.wav")
    after, _ = sf.read("a_enhanced.wav")
    assert before.shape == after.shape
    if rate == 16000:
        assert np.array_equal(before, after)
    for c in range(2):
        assert lag(before[:, c], after[:, c]) == 0


def test_attenuation_of_files(engine, models):
    x = speech(44100)
    sf.write("a.wav", x, 44100, "FLOAT")
    engine("enhance", "a.wav", "-m", models["fast"], "-a", 0)
    assert np.array_equal(sf.read("a_enhanced.wav", dtype="float32")[0], x)
    engine("enhance", "a.wav", "-m", models["fast"], "-a", 6, "--force")
    expected = enhance(x, 44100, models["fast"], atten_lim_db=6)
    found, _ = sf.read("a_enhanced.wav", dtype="float32")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_streams_are_what_the_enhancer_gives(models):
    x = speech()[:10_007]
    enhancer = Enhancer(models["fast"])
    whole = np.concatenate([enhancer.process(x), enhancer.flush()])
    out, err = run(
        "stream", "--format", "f32le", "-m", models["fast"], base=NPFSN, data=x.tobytes()
    )
    assert err == ""
    assert out == whole[768:].tobytes()
    out, _ = run(
        *("stream", "--format", "f32le", "--keep-latency", "-m", models["fast"]),
        base=NPFSN,
        data=x.tobytes(),
    )
    assert out == whole.tobytes()

    coarse = np.rint(x * 32768).astype("<i2")
    enhancer = Enhancer(models["fast"])
    y = np.concatenate([enhancer.process((coarse / 32768).astype("f4")), enhancer.flush()])[768:]
    out, _ = run("stream", "-m", models["fast"], base=NPFSN, data=coarse.tobytes())
    assert np.array_equal(np.frombuffer(out, "<i2"), np.rint(y * 32768).clip(-32768, 32767))


def stream_files(folder, data, *options):
    """Run `npfsn stream` in this process, from a file to a file; return what it wrote."""
    (folder / "in.raw").write_bytes(data)
    args = cli._parser().parse_args(["stream", *map(str, options)])
    with open(folder / "in.raw", "rb") as source, open(folder / "out.raw", "wb") as sink:
        assert pipe.enhance_stream(args, cli._options(args), source.fileno(), sink.fileno()) == 0
    return (folder / "out.raw").read_bytes()


def test_streams_obey_the_limit_and_the_precision(tmp_path, models):
    x = speech()[:5003]
    options = ("--format", "f32le", "-m", models["fast"])
    assert stream_files(tmp_path, x.tobytes(), *options, "-a", 0) == x.tobytes()
    enhancer = Enhancer(models["fast"], precision="int8")
    expected = np.concatenate([enhancer.process(x), enhancer.flush()])[768:]
    found = stream_files(tmp_path, x.tobytes(), *options, "--precision", "int8")
    assert found == expected.tobytes()


def test_a_stream_tells_of_samples_it_clipped(tmp_path, npfsn, monkeypatch, capsys):
    monkeypatch.setattr(Delay, "_give", lambda self, n: np.full(n, 1.5, np.float32))
    assert stream_files(tmp_path, bytes(600)) == 300 * b"\xff\x7f"
    assert "300 samples beyond full scale were clipped" in capsys.readouterr().err


def test_what_a_sink_does_not_take_at_once_is_written_later(tmp_path, npfsn, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda sink, data: write(sink, data[:77]))
    data = pcm(noise(1000)[:, 0], "s16le")
    assert stream_files(tmp_path, data) == data


def test_a_norm_that_cannot_stream(models):
    _, err = run("stream", "-m", models["offline"], base=NPFSN, data=bytes(1000), code=1)
    assert err.count("\n") == 1 and "--norm" in err
    norm = "cumulative_laplace_norm"
    out, _ = run("stream", "-m", models["offline"], "--norm", norm, base=NPFSN, data=bytes(1000))
    assert len(out) == 1000


def test_a_stream_at_the_rate_of_its_model(models):
    norm = "cumulative_laplace_norm"
    out, err = run(
        *("stream", "-m", models["wide"], "--norm", norm, "--format", "f32le"),
        base=NPFSN,
        data=speech(48000).tobytes(),
    )
    assert len(out) == 48000 * 4


def test_int8_is_close(engine, models):
    x = speech()
    sf.write("a.wav", x, 16000, "FLOAT")
    engine("enhance", "a.wav", "-m", models["fast"], "--precision", "int8")
    found, _ = sf.read("a_enhanced.wav", dtype="float32")
    expected = enhance(x, 16000, models["fast"])
    assert 0.0 < np.std(found - expected) < 0.1 * np.std(expected)


def test_workers_with_the_engine(tmp_path, models):
    for index in range(2):
        sf.write(tmp_path / f"{index}.wav", speech()[index:], 16000, "FLOAT")
    run("enhance", ".", "--workers", 2, "-m", models["full"], base=NPFSN, cwd=tmp_path)
    for index in range(2):
        found, _ = sf.read(tmp_path / f"{index}_enhanced.wav", dtype="float32")
        expected = enhance(speech()[index:], 16000, models["full"])
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_example_is_what_its_program_makes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_example

    found, rate = sf.read(ROOT / "examples" / "noisy.wav")
    _, noisy = make_example.make()
    assert rate == 16000 and 3.0 < found.size / rate < 5.0
    np.testing.assert_allclose(found, noisy, atol=2.0**-15)


def test_the_example_becomes_cleaner(engine, monkeypatch):
    """The README's command: built-in weights, no options."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_example

    clean, noisy = make_example.make()
    engine("enhance", ROOT / "examples" / "noisy.wav", "-o", "out")
    found, _ = sf.read("out/noisy_enhanced.wav")
    assert found.size == clean.size
    assert lag(noisy, found) == 0
    silence = slice(0, 16000 // 4)  # before the first word
    assert np.std(found[silence]) < 0.5 * np.std(noisy[silence])
    assert np.std(found - clean) < np.std(noisy - clean)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("fast", ["fast_fullsubnet", "5,062,831", "768 samples (48 ms)", "64 ms end to end"]),
        ("offline", ["fullband", "no: its norm (offline_laplace_norm) needs the whole signal"]),
        ("wide", ["improved_fullsubnet", "48000 Hz", "480 samples (10 ms)", "20 ms end to end"]),
    ],
)
def test_info(npfsn, models, name, facts):
    out, err = npfsn("info", models[name])
    assert err == ""
    for fact in (*facts, "sha-256", "MB"):
        assert fact in out
    out, _ = npfsn("info", models[name], "-v")
    assert "sequence" in out.lower()


def test_info_takes_a_model_by_either_name(npfsn, models):
    path = models["fast"]
    assert npfsn("info", path) == npfsn("info", "-m", path)
    _, err = npfsn("info", path, "--model", path, code=2)
    assert "not allowed with" in err


def test_info_of_what_is_no_model(npfsn):
    Path("model.npz").write_bytes(b"PK\x03\x04")
    _, err = npfsn("info", "model.npz", code=1)
    assert err.count("\n") == 1 and "model.npz" in err


@posix
def test_info_into_a_closed_pipe(models):
    program = shlex.join([sys.executable, "-m", "npfsn", "info", str(models["fast"])])
    command = f"{program} | true; exit ${{PIPESTATUS[0]}}"
    # With it nothing is left to be written at exit.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, cwd=ROOT, env=env)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_warmup_compiles_all_there_is(tmp_path, models):
    env = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    out, err = run("warmup", "-v", base=NPFSN, env=env)
    assert b"kernels ready" in out and str(tmp_path / "cache").encode() in out and err == ""
    for architecture in ARCHITECTURES:
        assert f"{architecture}: ".encode() in out
    # From here on a start that compiles anything says so on stderr.
    sf.write(tmp_path / "a.wav", speech(), 16000, "FLOAT")
    for name, options in {
        "built-in": [],
        "fast": ["-a", 10],
        "full": [],
        "offline": [],
        "wide": ["--norm", "forgetting_norm"],
    }.items():
        for precision in ("float32", "int8"):
            model = ["-m", models[name]] if name in models else []
            args = ("enhance", "a.wav", "--force", *model, "--precision", precision)
            _, err = run(*args, *options, base=NPFSN, env=env, cwd=tmp_path)
            assert err == ""
            if name == "fast":
                args = ("stream", "-m", models[name], "--precision", precision)
                _, err = run(*args, *options, base=NPFSN, env=env, data=bytes(20_000))
                assert err == ""


@pytest.mark.slow
def test_a_cold_start_says_so_unless_told_not_to(tmp_path, models):
    sf.write(tmp_path / "a.wav", speech(), 16000, "FLOAT")
    for index, (option, lines) in enumerate((("-v", 1), ("-q", 0))):
        env = {"NUMBA_CACHE_DIR": str(tmp_path / f"cache{index}")}
        args = ("enhance", "a.wav", "--force", "-m", models["full"], option)
        out, err = run(*args, base=NPFSN, env=env, cwd=tmp_path)
        assert err.count("\n") == lines
        assert ("compiling" in err) == bool(lines)
        if lines:  # no measure of speed: neither the file's nor that of all contains it
            pattern = rb"in ([0-9.]+) s, ([0-9.]+) s of which went into loading and compiling"
            wall, compiling = (float(word) for word in re.search(pattern, out).groups())
            of_file, of_all = map(float, re.findall(rb"real-time factor ([0-9.]+)", out))
            assert of_all == pytest.approx(of_file, abs=0.0011) and of_all < wall - compiling + 0.11


# --- help, version -----------------------------------------------------------------------------


def test_version(npfsn):
    out, err = npfsn("--version")
    assert out.startswith("npfsn ") and err == ""


def test_a_missing_model_is_told_before_anything_is_compiled(npfsn):
    _, err = npfsn("warmup", "missing.npz", code=1)
    assert err.count("\n") == 1 and "no such file" in err


@pytest.mark.parametrize(
    "argv, whose", [(["--norm", "offline_laplace_norm"], "the norm"), ([], "this model's norm")]
)
def test_whose_norm_does_not_stream(models, argv, whose):
    model = models["fast" if argv else "offline"]
    _, err = run("stream", "-m", model, *argv, base=NPFSN, data=b"", code=1)
    assert f"{whose} (offline_laplace_norm) needs the whole signal" in err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_horizon_of_an_offline_norm_is_told_to_be_none(models, tmp_path, workers):
    for name in "ab":
        recording(tmp_path / f"{name}.wav")
    argv = ("enhance", "a.wav", "b.wav", "-m", models["offline"], "--norm-horizon", 5, "--force")
    argv += ("--workers", workers)
    _, err = run(*argv, base=NPFSN, cwd=tmp_path)
    assert err.count("--norm-horizon changes nothing: offline_laplace_norm takes the whole") == 1
    _, err = run(*argv, "--norm", "cumulative_laplace_norm", base=NPFSN, cwd=tmp_path)
    assert "changes nothing" not in err


@pytest.mark.parametrize("command", ["enhance", "stream", "live", "info", "warmup", "bench"])
def test_help_teaches_with_examples(npfsn, command):
    out, _ = npfsn(command, "--help")
    assert "examples:" in out and f"npfsn {command}" in out
    assert all(len(line) <= 100 for line in out.splitlines())
    out, _ = npfsn("--help")
    assert command in out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from npfsn.cli import main; main(sys.argv[1:]); "
        "heavy = {'numpy', 'numba', 'scipy', 'soundfile'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    for argv in (["--version"], ["--help"], ["enhance", "--help"], []):
        run(*argv, base=[sys.executable, "-c", code])


def test_an_interrupted_batch_counts_what_it_leaves(npfsn, monkeypatch):
    """What could not be found was no file to be done."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    for name in "ab":
        recording(f"{name}.wav")
    Path("empty").mkdir()
    monkeypatch.setattr("npfsn.audio.enhance_file", stop)
    _, err = npfsn("enhance", "a.wav", "b.wav", "empty", code=130)
    assert "interrupted with 2 files not done" in err


def test_a_stray_control_c_before_anything_is_quiet(npfsn, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    recording("a.wav")
    monkeypatch.setattr(batch, "make_plan", stop)
    _, err = npfsn("enhance", "a.wav", code=130)
    assert err == "npfsn: interrupted\n"
