"""`npfsn stream`: samples in, samples out, through pipes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile as sf
import streams
from commands import NPFSN, WITH_DELAY, environment, run, spawn
from needs import full_device, posix
from pure_delay import Delay
from sounds import noise, speech

from npfsn import chunks, cli, pipe
from npfsn.enhancer import Enhancer
from npfsn.errors import NpfsnError


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
    expected = streams.run(Enhancer(norm_horizon=1.0), x)
    np.testing.assert_array_equal(np.frombuffer(out, "<f4"), expected)


def test_within_python_there_is_no_pipe(monkeypatch, capsys):
    """Whoever calls `cli.main` in a notebook is told of a call for that."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert cli.main(["stream"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("npfsn: error: ") and "within Python, use Enhancer.process" in last


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


@pytest.mark.parametrize("begin", [*chunks.WHOLE, b"ID3\4", b"#!AMR\n", b"wvpk", b"MAC ", b"TTA1"])
def test_a_stream_is_none_of_the_containers_that_files_are_checked_for(begin):
    _, err = run("stream", data=begin + bytes(2000), code=1)
    assert "npfsn enhance" in err


@pytest.mark.parametrize(
    ("head", "what"),
    [(b"\0\0\0 ftypM4A \0\0", "an MP4 or M4A file"), (b"\x1aE\xdf\xa3\x9fB", "a Matroska or WebM")],
)
def test_a_stream_is_no_recording_of_a_phone_or_a_browser(head, what):
    out, err = run("stream", data=head + bytes(4000), code=1)
    assert not out and err.count("\n") == 1 and f"is {what}" in err and "ffmpeg" in err


@pytest.mark.parametrize(
    ("head", "what"), [(b"RIFF", "a WAV file"), (b"\0\0\0 ftypM4A", "an MP4 or M4A file")]
)
@pytest.mark.parametrize("read", [1, 3, 5])
def test_a_sound_file_is_told_by_more_than_its_first_read(
    tmp_path, npfsn, monkeypatch, head, what, read
):
    monkeypatch.setattr(pipe, "READ_BYTES", read)
    with pytest.raises(NpfsnError, match=f"standard input is {what}"):
        stream_files(tmp_path, head + bytes(600))


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
    data = pcm(noise(1000)[:, 0], "s16le")
    out, err = run(base=[sys.executable, "-c", code], data=data)
    assert out == data and "IR 1000" in err


@posix
def test_a_stream_that_cannot_be_read_says_so(tmp_path):
    with open(tmp_path / "written", "wb") as closed_to_readers:
        _, err = run("stream", stdin=closed_to_readers, code=1)
    assert err == "npfsn: error: cannot read standard input: Bad file descriptor\n"


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
    import pty

    primary, secondary = pty.openpty()
    _, err = run("stream", stdin=secondary, code=2)
    assert "standard input is a terminal" in err
    os.close(primary)
    os.close(secondary)


@posix
@pytest.mark.parametrize(("redirect", "name"), [("<&-", "input"), (">&-", "output")])
def test_a_stream_wants_both_ends(redirect, name):
    words = ["sh", "-c", f'exec "$@" {redirect}', "sh", *WITH_DELAY, "stream"]
    pipes = {"input": bytes(100), "stderr": subprocess.PIPE}
    done = subprocess.run(words, **pipes, env=environment(), check=False)
    said = f"standard {name} is a terminal or closed"
    assert done.returncode == 2 and said in done.stderr.decode()


def test_streams_are_what_the_enhancer_gives(models):
    x = speech()[:10_007]
    whole = streams.run(Enhancer(models["fast"]), x)
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
    y = streams.run(Enhancer(models["fast"]), (coarse / 32768).astype("f4"))[768:]
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
    expected = streams.run(Enhancer(models["fast"], precision="int8"), x)[768:]
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
    x, norm = speech(48000), "cumulative_laplace_norm"
    out, err = run(
        *("stream", "-m", models["wide"], "--norm", norm, "--format", "f32le"),
        base=NPFSN,
        data=x.tobytes(),
    )
    enhancer = Enhancer(models["wide"], norm=norm)
    assert out == streams.run(enhancer, x)[enhancer.latency_samples :].tobytes()


def test_a_stream_counts_the_samples_of_all_reads_that_are_not_finite():
    x = np.zeros(40_000, np.float32)
    x[[10, 39_000]] = np.nan
    _, err = run("stream", "--format", "f32le", data=x.tobytes())
    assert "2 NaN or infinite samples" in err


@pytest.mark.parametrize(
    ("peak", "said"),
    [
        (2e5, "samples up to 2e+05 times as large as full scale: is the input f32le, mono?"),
        (9e4, ""),  # in the scale of 16-bit integers, maybe
        (0.0011, ""),
        (
            0.0009,
            "so quiet that voices may be lost, below -60 dB of full scale: raise the level first",
        ),
        (0.0, ""),
    ],
)
def test_a_stream_has_the_level_of_speech(peak, said):
    """Two 16-bit samples taken for a float are often huge."""
    x = np.zeros(40_000, np.float32)
    x[10] = -peak  # in the first of several reads
    _, err = run("stream", "--format", "f32le", data=x.tobytes())
    assert err.startswith(f"npfsn: warning: {said}") and err.count("\n") == 1 if said else not err


def test_a_stream_counts_the_clipped_samples_of_all_reads(tmp_path, npfsn, monkeypatch, capsys):
    give = Delay._give
    monkeypatch.setattr(Delay, "_give", lambda self, n: give(self, n) + np.float32(1.5))
    assert stream_files(tmp_path, bytes(40_000)) == 20_000 * b"\xff\x7f"
    assert "20000 samples beyond full scale were clipped" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["read", "write"])
def test_an_empty_and_a_full_pipe_are_waited_for(tmp_path, npfsn, monkeypatch, call):
    do_some, refusals, waits = getattr(os, call), [BlockingIOError()] * 3, []

    def do_later(descriptor, what):
        if refusals:
            raise refusals.pop()
        return do_some(descriptor, what)

    monkeypatch.setattr(os, call, do_later)
    monkeypatch.setattr(pipe.select, "select", lambda *descriptors: waits.append(descriptors))
    assert stream_files(tmp_path, bytes(600)) == bytes(600)
    assert len(waits) == 3
