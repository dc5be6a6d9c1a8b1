"""The command line: what it finds, writes, says and returns, and how it ends when it is ended."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from commands import NPFSN, ROOT, run, spawn
from drawn_models import small_model
from needs import posix
from sounds import lag, noise, recording, speech, tree

from npfsn import cli, describe, machine_code, pipe, warmup
from npfsn.config import CAUSAL_NORMS, OFFLINE_NORMS
from npfsn.kernels import cpu
from npfsn.models import ARCHITECTURES
from npfsn.weights import load_model
from npfsn.whole import enhance
from tools import make_example

# --- names ---------------------------------------------------------------------------------------


def test_the_last_line_says_where_outputs_are(npfsn):
    for name in ("a.wav", "in/b.wav", "in/c.wav"):
        recording(name)
    out, _ = npfsn("enhance", "a.wav", "-o", "new.flac")
    assert out.endswith("; written to new.flac\n")
    out, _ = npfsn("enhance", "in", "-o", "out")
    assert out.endswith("; written to out\n")


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


def test_a_sample_beyond_all_speech_is_told(npfsn):
    """What comes after it is lost, until the norm has forgotten it."""
    x = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    sf.write("scaled.wav", 32768.0 * x, 16000, subtype="FLOAT")  # as integers count
    x[1000] = 1e6
    sf.write("burst.wav", x, 16000, subtype="FLOAT")
    _, err = npfsn("enhance", "scaled.wav", "burst.wav")
    assert "samples 100,000 times as large as full scale and more: burst.wav; " in err


def test_options_have_the_names_that_others_give_them(npfsn):
    recording("a.wav")
    npfsn("enhance", "a.wav", "--atten-lim-db", "0", "--output", "b.wav")
    npfsn("enhance", "a.wav", "--atten_lim", "0", "--output-dir", "c.wav")
    assert Path("b.wav").read_bytes() == Path("c.wav").read_bytes()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("enhance", "a.wav", "--atten-limit", "3"), "--atten-limit 3 (did you mean --atten-lim?)"),
        (("enhance", "a.wav", "--outputdir=x"), "--outputdir=x (did you mean --output-dir?)"),
        (("enhance", "a.wav", "-q", "x", "--ouput", "y"), "x --ouput y (did you mean --output?)"),
        (("stream", "--precison", "int8"), "--precison int8 (did you mean --precision?)"),
        (("--verson",), "--verson (did you mean --version?)"),
        (("enhance", "a.wav", "-output", "b.wav"), "error: -output: did you mean --output?"),
        (("stream", "-model=x.npz"), "error: -model=x.npz: did you mean --model=x.npz?"),
    ],
)
def test_slips_of_the_hand_are_understood(npfsn, words, hint):
    recording("a.wav")
    _, err = npfsn(*words, code=2)
    assert hint in err
    assert [*Path().iterdir()] == [Path("a.wav")]


def test_a_second_name_is_no_output(npfsn):
    """As it is of other programs; of two files that are there, both are enhanced."""
    recording("a.wav")
    _, err = npfsn("enhance", "a.wav", "b.wav", code=1)
    said = "cannot read b.wav: No such file or directory (an output is named with -o b.wav)"
    assert said in err and Path("a_enhanced.wav").exists()
    _, err = npfsn("enhance", "a.wav", "./b.wav", "--force", code=1)
    assert said in err
    _, err = npfsn("enhance", "b.wav", "a.wav", "--force", code=1)
    assert "an output is named" not in err
    _, err = npfsn("enhance", "a.wav", "b.wav", "-o", "out", code=1)
    assert "an output is named" not in err
    recording("b.wav")
    npfsn("enhance", "a.wav", "b.wav", "--force")
    assert Path("b_enhanced.wav").exists()


def test_behind_two_dashes_nothing_is_a_slip(npfsn):
    _, err = npfsn("enhance", "--", "-output", code=1)
    assert "cannot read -output: No such file" in err


def test_a_file_is_no_command(npfsn):
    recording("a.wav")
    _, err = npfsn("a.wav", code=2)
    assert "did you mean: npfsn enhance a.wav" in err


# --- what is refused -----------------------------------------------------------------------------


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
def test_wrong_arguments_are_told(npfsn, argv, message):
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


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("stream", "a.wav"), "a.wav (for a file: npfsn enhance a.wav)"),
        (("live", "a.wav"), "a.wav (for a file: npfsn enhance a.wav)"),
        (("bench", "a.wav"), "a.wav (for a model: -m a.wav)"),
        (("stream", "b.wav"), "b.wav\n"),  # which is not there
        (("convert", "a.wav"), "convert is no command; did you mean: npfsn-convert"),
        (("a.wav",), "a.wav is no command; did you mean: npfsn enhance a.wav"),
        (("a.npz",), "a.npz is no command; did you mean: npfsn info a.npz"),
        (("my a.wav",), "my a.wav is no command; did you mean: npfsn enhance 'my a.wav'"),
        (("stream", "my a.wav"), "my a.wav (for a file: npfsn enhance 'my a.wav')"),
        (("bench", "my a.wav"), "my a.wav (for a model: -m 'my a.wav')"),
        (("info", "a.npz", "-x a.wav"), "-x a.wav (a file of that name is './-x a.wav')"),
    ],
)
def test_what_a_command_does_not_take(npfsn, argv, hint):
    for name in ("a.wav", "my a.wav", "-x a.wav"):
        recording(name)
    Path("a.npz").touch()
    _, err = npfsn(*argv, code=2)
    assert hint.replace("'", '"' if os.name == "nt" else "'") in err


@pytest.mark.parametrize("format_", ["txt", "sd2", "raw", "m4a"])
def test_containers_that_cannot_be_written(npfsn, format_):
    recording("a.wav")
    _, err = npfsn("enhance", "a.wav", "--format", format_, code=2)
    message = f"--format {format_}: .{format_} cannot be written; expected one such as .wav, .flac"
    assert message in err and tree() == ["a.wav"]


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


# --- processes -----------------------------------------------------------------------------------


@posix
def test_a_file_called_like_standard_input(tmp_path):
    recording(tmp_path / "x.wav")
    (tmp_path / "x.wav").rename(tmp_path / "-")
    run("enhance", "./-", "-o", "out", "--format", "wav", cwd=tmp_path, data=b"")
    assert [sf.info(tmp_path / "out" / name).frames for name in tree(tmp_path / "out")] == [2000]


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


# --- stream --------------------------------------------------------------------------------------


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


# --- with the engine -----------------------------------------------------------------------------


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


def test_int8_is_close(engine, models):
    x = speech()
    sf.write("a.wav", x, 16000, "FLOAT")
    engine("enhance", "a.wav", "-m", models["fast"], "--precision", "int8")
    found, _ = sf.read("a_enhanced.wav", dtype="float32")
    expected = enhance(x, 16000, models["fast"])
    assert 0.0 < np.std(found - expected) < 0.1 * np.std(expected)


def test_the_example_is_what_its_program_makes():
    found, rate = sf.read(ROOT / "examples" / "noisy.wav")
    _, noisy = make_example.make()
    assert rate == 16000 and 3.0 < found.size / rate < 5.0
    np.testing.assert_allclose(found, noisy, atol=2.0**-15)


@pytest.mark.parametrize("wrong", ["--snr nan", "--seed -1", "--clean nowhere/c.wav", "."])
def test_the_program_of_the_example_refuses_what_it_cannot_do(tmp_path, wrong, capsys, monkeypatch):
    """These gave tracebacks, and --snr nan a file of nothing."""
    monkeypatch.chdir(tmp_path)
    name = ["x.wav"] if wrong.startswith("--") else []
    with pytest.raises(SystemExit):
        make_example.main([*wrong.split(), *name])
    assert wrong.split()[-1] in capsys.readouterr().err.splitlines()[-1] and tree() == []


def test_the_example_becomes_cleaner(engine):
    """The README's command: built-in weights, no options."""
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
def test_info_tells_what_a_model_is(npfsn, models, name, facts):
    out, err = npfsn("info", models[name])
    assert err == ""
    for fact in (*facts, "sha-256", "MB"):
        assert fact in out
    out, _ = npfsn("info", models[name], "-v")
    assert "sequence" in out.lower()


def test_info_tells_what_a_model_adds_to_the_published_arithmetic(engine, models):
    config = load_model().config
    added = f"as published, with start_at_sound = True, quiet_level = {config.quiet_level}\n"
    assert engine("info")[0].count(added) == 1
    assert "arithmetic   as published\n" in engine("info", models["wide"])[0]
    # Only what it does with this norm.
    layer, whole = (config.with_norm(n) for n in ("cumulative_layer_norm", "offline_gaussian_norm"))
    assert describe.arithmetic(layer) == "as published, with start_at_sound = True"
    assert describe.arithmetic(whole) == "as published"
    whole = config.with_norm("offline_laplace_norm")
    assert describe.arithmetic(whole) == f"as published, with quiet_level = {config.quiet_level}"


def test_info_tells_how_a_model_streams_and_starts():
    """And what helps one that does not: its own norm, if only that of its sections is to blame."""
    offline = small_model("fullband", norm_type="offline_laplace_norm").config
    assert describe.streaming(offline).endswith("with `--norm cumulative_laplace_norm` it streams")
    norm = "forgetting_norm"
    config = small_model("improved_fullsubnet", norm_type=norm, start_at_sound=True).config
    assert describe.streaming(config).endswith(f"with `--norm {norm}` it streams")
    assert describe.starts(config) == "at the first sound, once a causal norm is chosen"
    assert describe.latency(config).startswith("the whole signal; with a causal norm 256 samples")
    config = config.with_norm(norm)
    assert describe.streaming(config) == "yes"
    assert describe.starts(config) == "at the first sound"
    assert describe.latency(config).startswith("256 samples")
    assert describe.norm_in_words(config, {}) == config.norms
    assert describe.starts(small_model("fullband").config) == "with the first sample"


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


def test_a_warmup_that_could_not_keep_all_kernels_fails(npfsn, monkeypatch):
    """An image would be built, and compile at every start."""
    monkeypatch.setattr("npfsn.warmup.warm_up", lambda *_, **__: None)
    monkeypatch.setattr("npfsn.machine_code._folders", {"one", "another"})
    monkeypatch.setattr("npfsn.machine_code._unkept", [0])
    assert "kept in another and one\n" in npfsn("warmup")[0]
    monkeypatch.setattr("npfsn.machine_code._unkept", [3])
    for options in ([], ["-q"]):
        _, err = npfsn("warmup", *options, code=1)
        assert "not all kernels could be kept (3 not)" in err and "NUMBA_CACHE_DIR" in err


def test_warmup_knows_every_architecture_with_every_norm():
    pairs = [(model.architecture, model.config.norm_type) for model in warmup.smallest_models()]
    expected = itertools.product(ARCHITECTURES, [*CAUSAL_NORMS, *OFFLINE_NORMS])
    assert sorted(pairs) == sorted(expected)


def test_warmup_of_one_model_is_of_that_one(models):
    told = []
    warmup.warm_up(models["full"], progress=lambda *each: told.append(each))
    ((name, seconds),) = told
    assert name == "fullsubnet" and seconds > 0.0


def test_warmup_includes_what_only_large_models_need(models, monkeypatch):
    monkeypatch.setattr(machine_code, "_loaded", {})
    machine_code.function.cache_clear()
    warmup.warm_up(models["full"])
    needed = {"product_bytes", "product_f32_weights", "quantise_inputs"}
    needed |= {"product_summed", "product_summed_f16", "sum_inputs"} if cpu.STRASSEN else set()
    needed |= {"product_f16"} if cpu.HAS_F16 else set()
    needed |= {"product_tiles"} if cpu.HAS_TILES else set()
    assert {f"products.{name}" for name in needed} <= set(machine_code._loaded)
    # And what another rate and `npfsn bench` need.
    assert {"calls.filtered", "calls.matmul"} <= set(machine_code._loaded)


@pytest.mark.slow
def test_warmup_compiles_all_there_is(tmp_path, models):
    env = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    out, err = run("warmup", "-v", base=NPFSN, env=env)
    assert b"kernels ready" in out and str(tmp_path / "cache").encode() in out and err == ""
    for architecture in ARCHITECTURES:
        assert f"{architecture}: ".encode() in out
    # From here on a start that compiles anything says so on stderr.
    sf.write(tmp_path / "a.wav", speech(), 16000, "FLOAT")
    commands = []
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
            commands.append([*map(str, args), *map(str, options)])
            if name == "fast":
                args = ("stream", "-m", models[name], "--precision", precision)
                _, err = run(*args, *options, base=NPFSN, env=env, data=bytes(20_000))
                assert err == ""
    # In one process: it would say so, too, whichever of them is the one that compiles.
    code = f"import npfsn.cli\nassert not any([npfsn.cli.main(each) for each in {commands}])"
    code += "\nnpfsn.EnhancerGroup([npfsn.Enhancer(), npfsn.Enhancer()])"
    _, err = run(base=[sys.executable, "-c", code], env=env, cwd=tmp_path)
    assert err == ""


@pytest.mark.slow
def test_warmup_compiles_what_a_model_needs(tmp_path, models):
    env = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    sf.write(tmp_path / "a.wav", speech(), 16000, "FLOAT")
    run("warmup", models["full"], base=NPFSN, env=env)
    args = ("enhance", "a.wav", "-m", models["full"])
    _, err = run(*args, base=NPFSN, env=env, cwd=tmp_path)
    assert err == ""


@pytest.mark.slow
def test_a_cold_start_says_so_unless_told_not_to(tmp_path, models):
    sf.write(tmp_path / "a.wav", speech(), 16000, "FLOAT")
    env, missing = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}, []
    for option, lines in (("-v", 1), ("-q", 0)):
        for kernel in missing:  # a second start is as cold without one of them
            kernel.unlink()
        args = ("enhance", "a.wav", "--force", "-m", models["full"], option)
        out, err = run(*args, base=NPFSN, env=env, cwd=tmp_path)
        missing = missing or [*tmp_path.rglob("*check_samples*.kernel")]
        assert len(missing) == 1 and missing[0].exists()  # it was compiled
        assert err.count("\n") == lines
        assert ("compiling" in err) == bool(lines)
        if lines:  # no measure of speed: neither the file's nor that of all contains it
            pattern = rb"in ([0-9.]+) s, ([0-9.]+) s of which went into loading and compiling"
            wall, compiling = (float(word) for word in re.search(pattern, out).groups())
            of_file, of_all = map(float, re.findall(rb"real-time factor ([0-9.]+)", out))
            assert of_all == pytest.approx(of_file, abs=0.0011) and of_all < wall - compiling + 0.11


# --- help, version -------------------------------------------------------------------------------


def test_the_version_is_told(npfsn):
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
