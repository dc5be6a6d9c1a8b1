"""`npfsn bench`: every figure is there and makes sense. How large they are is not tested."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import drawn_models
import numpy as np
import pytest

import npfsn
from npfsn import cli, output, samples
from npfsn.bench import limits, machine, measure, steps
from npfsn.bench import profile as profiling
from npfsn.bench.limits import frame_work
from npfsn.bench.machine import OtherLoad
from npfsn.bench.page import _group_line, _memory_line, _start_line, page
from npfsn.bench.picture import draw
from npfsn.bench.profile import CONDUCTING, profile
from npfsn.bench.start import fresh_start
from npfsn.bench.steps import no_collection, summary, time_cases, time_steps
from npfsn.program import Program
from tools.bench import report

TIMES = ("median_ms", "p95_ms", "p99_ms", "max_ms", "mean_ms")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "small.npz"
    npfsn.save_model(drawn_models.small_model("fast_fullsubnet"), path)
    return path


def run(*arguments):
    return cli.main(["bench", *map(str, arguments)])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_json_holds_every_figure(path, capsys, precision):
    options = ("--quick", "--seconds", 0.2, "--profile", "--json", "--precision", precision)
    assert run("-m", path, *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["cases"]) == {"speech", "noise", "silence after speech"}
    for case in result["cases"].values():
        times = [case[name] for name in TIMES]
        assert all(time > 0 for time in times) and case["steps"] > 0
        assert case["median_ms"] <= case["p95_ms"] <= case["p99_ms"] <= case["max_ms"]
        assert case["deadline_share"] > 0 and case["real_time_factor"] > 0
        assert 0 <= case["late_steps"] <= case["steps"]
    assert result["threads"] == 1 and result["cpu"] and result["cores"] >= 1
    assert {"npfsn", "python", "numpy", "numba", "llvmlite"} == set(result["versions"])
    assert result["model"]["precision"] == precision and result["model"]["hop_ms"] == 16.0
    limits = result["limits"]
    names = ("bytes_per_frame", "bytes_read_once", "bandwidth_gb_s", "memory_bandwidth_gb_s",
             "operations_per_frame", "read_ms", "compute_ms", "limit_ms", "mean_ms",
             "share_of_limit")  # fmt: skip
    assert all(limits[name] > 0 for name in names)
    assert limits["limit_ms"] == pytest.approx(limits["read_ms"] + limits["compute_ms"])
    assert limits["share_of_limit"] == pytest.approx(limits["limit_ms"] / limits["mean_ms"])
    read = limits["bytes_read_once"] / limits["bandwidth_gb_s"]
    assert limits["read_ms"] == pytest.approx(read / 1e6, rel=1e-3)
    assert limits["bytes_read_once"] < limits["bytes_per_frame"]
    assert limits["peak_gop_s"] and all(rate > 0 for rate in limits["peak_gop_s"].values())
    start = result["start"]
    assert all(start[name] > 0 for name in ("import_s", "load_s", "prepare_s", "first_output_s"))
    assert start["total_s"] > start["import_s"] and not start["compiled"]
    assert result["memory_mb"] > 0
    further = result["further_stream_mb"]
    assert 0 < further["by_hop"] < further["by_two_hops"]
    assert "timeline" not in result and "steps_ms" not in result


def test_a_group_of_streams_is_timed(path, capsys):
    assert run("-m", path, "--quick", "--seconds", 0.2, "--streams", 3, "--json") == 0
    group = json.loads(capsys.readouterr().out)["group"]
    assert group["streams"] == 3 and group["together_ms"] > 0 and group["alone_ms"] > 0
    assert _group_line({"streams": 3, "together_ms": 0.1, "alone_ms": 0.2}) == (
        "mean of 3 streams     0.100 ms per hop and stream as an EnhancerGroup, 0.200 ms one by "
        "one: 50%"
    )
    assert run("-m", path, "--quick", "--seconds", 0.2, "--streams", 3) == 0
    assert "mean of 3 streams " in capsys.readouterr().out


def test_each_stream_of_a_group_is_timed(monkeypatch):
    """Of eight streams that take 1 ms each, alone, and 2 ms in all, together."""
    clock = [0]
    monkeypatch.setattr(steps.time, "perf_counter_ns", lambda: clock[0])

    def takes(milliseconds, step):
        def timed(*args):
            clock[0] += int(1e6 * milliseconds)
            return step(*args)

        return timed

    monkeypatch.setattr(npfsn.Enhancer, "step", takes(1, npfsn.Enhancer.step))
    monkeypatch.setattr(npfsn.EnhancerGroup, "step", takes(2, npfsn.EnhancerGroup.step))
    model = drawn_models.small_model("fast_fullsubnet")
    found = steps.time_group(model, {}, 8, 0.5, 4)
    assert found == {"streams": 8, "together_ms": 0.25, "alone_ms": 1.0}


def test_a_further_stream_is_its_state_and_scratch_without_the_weights():
    model = npfsn.load_model()
    state = sum(array.nbytes for array in npfsn.Enhancer(model).get_state().values()) / 1e6
    weights = sum(array.nbytes for array in model.tensors.values()) / 1e6
    by_hop, by_two_hops = (measure._further_stream_mb(model, {}, hops) for hops in (1, 2))
    assert state < by_hop < 10 * state < weights
    assert 2 * by_hop < by_two_hops < weights  # scratch for blocks of hops
    assert not tracemalloc.is_tracing()  # which slows all that follows


def test_what_is_named_is_measured(path, monkeypatch):
    measured = []

    def note(model, options, seconds, rounds, progress):
        measured.append((options, seconds))
        raise npfsn.NpfsnError("that is enough")

    monkeypatch.setattr(measure, "time_cases", note)
    for words, seconds in (((), 10.0), (("--quick",), 0.5), (("--quick", "--seconds", 3), 3.0)):
        assert run("-m", path, "--norm", "forgetting_norm", "--precision", "int8", *words) == 1
        assert measured.pop() == ({"precision": "int8", "norm": "forgetting_norm"}, seconds)


def test_figures_of_steps():
    """Late ones are those beyond the hop; what is held against it is the 99th percentile."""
    found = summary(np.arange(1.0, 102.0), hop_ms=50.0)
    assert [found[name] for name in TIMES] == [51.0, 96.0, 100.0, 101.0, 51.0]
    assert found["steps"] == 101 and found["late_steps"] == 51
    assert found["deadline_share"] == 2.0 and found["real_time_factor"] == 1.02


def test_profile_accounts_for_the_whole_step(path):
    enhancer = npfsn.Enhancer(path)
    table, timeline = profile(enhancer.model, {}, quick=True)
    stages = {row["stage"]: row for row in table["stages"]}
    assert {"analysis", "mel", "norms", "encoder.0", "bottleneck", "decoder_lstm.1", "mask",
            "synthesis", "Python"} <= set(stages)  # fmt: skip
    assert sum(row["share"] for row in stages.values()) == pytest.approx(1.0)
    for row in stages.values():
        total = sum(kernel["mean_us"] for kernel in row["kernels"])
        assert row["mean_us"] == pytest.approx(total, abs=1e-6) and row["mean_us"] >= 0
        assert len(row["by_phase_us"]) == table["period"] == 2
    assert timeline and all(frame["parts"] for frame in timeline)


def test_profile_leaves_no_trace(path):
    enhancer = npfsn.Enhancer(path)
    before = Program.play, samples.check_samples
    x = drawn_models.noise(2560)
    expected = npfsn.Enhancer(path).process(x)
    profile(enhancer.model, {}, quick=True)
    assert (Program.play, samples.check_samples) == before
    np.testing.assert_array_equal(enhancer.process(x), expected)


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [("fullsubnet", {}), ("fullband", {"hop_length": 8}), ("fullband", {"look_ahead": 60})],
)
def test_page_reads_for_other_networks(architecture, sizes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(OtherLoad, "share", lambda _: 0.7)
    path = tmp_path / "model.npz"
    npfsn.save_model(drawn_models.small_model(architecture, **sizes), path)
    assert run("-m", path, "--quick", "--seconds", 0.2, "--profile") == 0
    page = capsys.readouterr().out
    for words in ("median", "p99 of deadline", "speech", "silence after speech", "GB/s",
                  "where it goes", "start, kernels cached", "peak memory",
                  "note: other programs took 0.7 of the cores"):  # fmt: skip
        assert words in page


def test_a_page_needs_no_unicode(path, monkeypatch):
    """The name of a virtual CPU, for one, is free text."""
    heard = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(heard, "ascii"))
    monkeypatch.setattr("npfsn.bench.machine.cpu_name", lambda: "CPU\xae")
    assert run("-m", path, "--quick", "--seconds", 0.2) == 0
    assert b"CPU\\xae" in heard.getvalue()


def test_work_is_counted_from_the_layers():
    model = drawn_models.small_model("fast_fullsubnet", noisy_input_num_neighbors=3)
    work = frame_work(npfsn.Enhancer(model))
    (each,) = work.values()
    # Bottleneck, every second frame: 9 units; gates of 16 padded units; 8 inputs, then 6 hidden.
    assert each.operations == 0.5 * 2 * 9 * (64 * (8 + 6) + 64 * (6 + 6) + 16 * 6)
    # Each row of weights has a bias. One unit reads recurrent ones once for two frames.
    encoder = 64 * (10 + 6 / 2) + 64 * (6 + 8 / 2) + 16 * 8
    decoder = 64 * (19 + 5 / 2) + 64 * (5 + 6 / 2) + 528 * 6
    assert each.row_bytes == 4 * (encoder + decoder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("steps.foo", "no kind of picture.*[.]png"),
        ("steps", "no kind of picture.*[.]png"),
        ("", "no kind of picture.*[.]png"),
        ("nowhere/steps.png", "there is no folder"),
        ("folder.png", "is a folder"),
        ("none.png/", "is a folder"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_measuring(
    path, tmp_path, monkeypatch, capsys, name, message
):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "bench", None)
    (tmp_path / "folder.png").mkdir()
    assert run("-m", path, "--quick", "--plot", name) == 1
    assert re.search(message, capsys.readouterr().err)


def test_hops_longer_than_the_signals_that_were_asked_for(path):
    model = npfsn.load_model(path)
    options = {"precision": "float32"}
    times = time_cases(model, options, seconds=1e-3, rounds=3)
    assert {len(each) >= 3 for each in times.values()} == {True}


def test_a_terminal_shows_what_is_measured(path, monkeypatch, capsys):
    options = ("-m", path, "--seconds", 0.2, "--quick", "--profile")
    monkeypatch.setattr("npfsn.machine_code.announce", False)
    assert run(*options) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert run(*options) == 0
    out, err = capsys.readouterr()
    told = [part.strip() for part in err.split("\r") if part.strip()]
    assert told == [
        "steps: getting ready",
        "steps: round 1 of 1",
        "what the machine can do",
        "stages of a step",
        "a start in a fresh process, 1",
    ]
    assert err.endswith("\r") and "\r" not in out


def test_plot_needs_matplotlib(path, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("-m", path, "--quick", "--plot", tmp_path / "steps.png") == 1
    err = capsys.readouterr().err
    assert re.search(r"--plot needs matplotlib.*pip install matplotlib", err)


@pytest.mark.filterwarnings("ignore")
def test_plot_is_drawn(path, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "steps.PNG"
    for _ in range(2):  # the second replaces the first
        assert run("-m", path, "--quick", "--seconds", 0.2, "--plot", picture) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert list(tmp_path.iterdir()) == [picture]


def test_the_plot_names_every_stage_and_hides_none(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    stages = [f"stage {i}" for i in range(14)]
    result = {
        "model": {"hop_ms": 16.0, "architecture": "x", "precision": "float32"},
        "cpu": "of a test",
        "versions": {"npfsn": "0"},
        "timeline": [{"step_us": 1000, "parts": [[s, 70 * i, 70 * i + 60] for i, s in
                                                 enumerate(stages)]}] * 8,
        "profile": {"stages": [{"stage": s} for s in (*stages, "never run", CONDUCTING)]},
        "steps_ms": {"speech": np.geomspace(0.1, 16.0, 30), "noise": np.full(30, 1.0)},
    }  # fmt: skip
    drawn = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k))
    )
    draw(result, tmp_path / "x.png", "png")
    for axes in drawn[0].axes:
        legend = axes.get_legend()
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    names = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert names == [*stages, CONDUCTING]


@pytest.mark.filterwarnings("ignore")
def test_neither_figures_nor_picture_are_lost_with_the_other(path, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    picture, options = tmp_path / "steps.png", ("--quick", "--seconds", 0.2)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def broken_pipe(_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr("npfsn.bench.picture.draw", fail)
        assert run("-m", path, *options, "--plot", picture) == 1
        out, err = capsys.readouterr()
        assert "p99" in out and f"{picture}: No space left" in err and not picture.exists()
        # Nor the error of one with that of the other: a closed pipe is no failure on its own.
        patch.setattr(cli, "print_result", broken_pipe)
        assert run("-m", path, *options, "--plot", picture) == 1
        assert "No space left" in capsys.readouterr().err and not picture.exists()
    with monkeypatch.context() as patch:
        patch.setattr(cli, "print_result", fail)
        assert run("-m", path, *options, "--plot", picture) == 1
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_told_before_measuring(
    path, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(measure, "bench", None)

    def refuse(name, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    monkeypatch.setattr(output.os, "open", refuse)
    picture = tmp_path / "steps.png"
    assert run("-m", path, "--quick", "--plot", picture) == 1
    assert f"error: {picture}: Permission denied" in capsys.readouterr().err


def test_a_model_that_cannot_stream_is_refused(tmp_path, capsys):
    path = tmp_path / "offline.npz"
    model = drawn_models.small_model("fast_fullsubnet", norm_type="offline_laplace_norm")
    npfsn.save_model(model, path)
    assert run("-m", path, "--quick") == 1
    assert "offline_laplace_norm" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "ten"])
def test_seconds_are_checked(seconds, capsys):
    assert run("--seconds", seconds) == 2
    assert "number of seconds" in capsys.readouterr().err


@pytest.mark.parametrize("was", [True, False])
def test_garbage_is_collected_again_afterwards(was):
    (gc.enable if was else gc.disable)()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert gc.isenabled() is was
    finally:
        gc.enable()


def test_a_start_is_told_in_seconds_and_its_first_output_in_milliseconds():
    parts = {"import_s": 0.25, "load_s": 0.5, "prepare_s": 1.0, "first_output_s": 0.0125}
    line = _start_line({"compiled": False, "total_s": 2.0, **parts})
    assert line.endswith("2.00 s: import 0.25, load 0.50, prepare 1.00, first output 12.5 ms")


def test_memory_is_told_of_the_process_and_of_further_streams():
    further = {"by_hop": 1.25, "by_two_hops": 6.0}
    line = _memory_line({"memory_mb": 177.4, "further_stream_mb": further})
    assert line.endswith(
        "177 MB, and 1.2 MB for each further stream, 6.0 MB where calls bring several hops"
    )


def test_only_the_silent_part_of_silence_is_timed():
    times = time_cases(drawn_models.small_model("fullband"), {}, 0.48, 1)
    assert {name: len(each) for name, each in times.items()} == dict.fromkeys(times, 30)


def test_the_silence_is_one():
    """A faint sound would be another case."""
    x = steps.signals(1.0, 16000)["silence after speech"]
    assert x.shape == (24000,) and x[:8000].any() and not x[8000:].any()


def test_tiles_that_the_system_does_not_grant_are_not_told(monkeypatch):
    monkeypatch.setattr(machine, "FEATURES", {"amx-int8", "avx2", "sse3"})
    for granted in (True, False):
        monkeypatch.setattr(machine, "HAS_TILES", granted)
        assert machine.machine()["simd"] == ["avx2", "amx-int8"][: 1 + granted]


def test_its_own_work_is_no_other_load(monkeypatch):
    now = iter([(5.0, 1.0, 10.0), (12.0, 5.0, 12.0)])  # busy, own, wall
    monkeypatch.setattr(OtherLoad, "_now", lambda *_: next(now))
    assert OtherLoad().share() == 1.5


def test_other_load_is_all_that_was_neither_idle_nor_waiting_nor_of_children(monkeypatch):
    monkeypatch.setattr(
        machine, "open", lambda _: io.StringIO("cpu 100 10 50 1000 500 5 3 2 9 9\ncpu0 1\n"), False
    )
    monkeypatch.setattr(machine.os, "sysconf", lambda _: 100, False)
    monkeypatch.setattr(machine.os, "times", lambda: (1.0, 2.0, 3.0, 4.0, 1e6))
    assert OtherLoad._now()[:2] == (1.7, 10.0)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_says_whether_the_package_has_changed(tmp_path, monkeypatch):
    place = tmp_path / "npfsn" / "bench" / "machine.py"
    place.parent.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(place))
    assert machine.commit() is None

    def git(*words):
        name = ("-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert machine.commit() is None  # there is none yet
    for path in (place, tmp_path / "README.md"):
        path.write_text("before")
    git("add", ".")
    git("commit", "-m", "x")
    (tmp_path / "README.md").write_text("after")
    before = machine.commit()
    assert re.fullmatch("[0-9a-f]{10}", before)
    place.write_text("after")
    assert machine.commit() == f"{before}+"
    # Nor is it that of whatever the package was installed into.
    (tmp_path / "site").mkdir()
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "site" / "npfsn" / "bench" / "m.py"))
    assert machine.commit() is None


def test_a_run_is_put_together_from_its_parts(path, monkeypatch):
    """The fastest of three starts, of the model and with the options that were asked for."""
    model, asked, given = npfsn.load_model(path), [], []
    times = {"speech": np.full(9, 2.0), "noise": np.full(9, 1.0)}
    starts = iter([3.0, 1.0, 2.0, 9.0])

    def start(*place, cache=None, **options):
        asked.append((*place, options))
        assert (cache is not None) == (len(asked) == 4)
        assert cache is None or not os.listdir(cache)
        total = next(starts)
        return {"total_s": total, "memory_mb": 10 * total}

    monkeypatch.setattr(measure, "time_cases", lambda *_: times)
    monkeypatch.setattr(measure, "limits", lambda _, mean, quick: given.append((mean, quick)))
    monkeypatch.setattr(measure, "fresh_start", start)
    monkeypatch.setattr(measure, "_further_stream_mb", lambda _model, _options, hops: hops / 2)
    result = measure.bench(
        model, path, precision="int8", norm="forgetting_norm", seconds=None, profile=False,
        cold=True, quick=False, progress=lambda _: None,
    )  # fmt: skip
    assert asked == [(path, {"precision": "int8", "norm": "forgetting_norm"})] * 4
    assert given == [(2.0, False)]
    assert result["start"]["total_s"] == 1.0 and result["cold_start"]["total_s"] == 9.0
    assert result["further_stream_mb"] == {"by_hop": 0.5, "by_two_hops": 1.0}
    assert result["memory_mb"] == 30.0 and result["model"]["file"] == str(path)


def test_the_columns_of_the_page():
    case = {f"{name}_ms": i + 0.5 for i, name in enumerate(("median", "p95", "p99", "max", "mean"))}
    rates = {"bandwidth_gb_s": 10.0, "memory_bandwidth_gb_s": 5.0, "share_of_limit": 0.75}
    limits = {
        "bytes_per_frame": 3e6, "bytes_read_once": 2e6, "operations_per_frame": 4e6,
        "read_ms": 0.25, "compute_ms": 0.5, "limit_ms": 0.75, "mean_ms": 1.0,
        "peak_gop_s": {}, **rates,
    }  # fmt: skip
    start = {
        "compiled": False,
        **dict.fromkeys(("total_s", "import_s", "load_s", "prepare_s"), 1.0),
    }
    result = {
        "versions": dict.fromkeys(("npfsn", "python", "numpy", "numba"), "1"), "commit": None,
        "cpu": "CPU", "simd": [], "other_load": 0.1, "limits": limits, "memory_mb": 100.0,
        "model": {"architecture": "fullband", "parameters": 1e6, "precision": "float32",
                  "norm": "forgetting_norm", "hop_ms": 16.0},
        "cases": {"speech": {**case, "deadline_share": 0.125, "real_time_factor": 0.0625}},
        "start": {**start, "first_output_s": 0.01},
        "further_stream_mb": {"by_hop": 1.0, "by_two_hops": 2.0},
    }  # fmt: skip
    lines = page(result)
    assert lines[1] == "CPU, no vector features, 1 thread"
    assert lines[3] == ""  # no note of other load, of which there is next to none
    assert lines[4].split()[3:8] == ["median", "p95", "p99", "max", "mean"]
    assert lines[5].split() == [
        "speech",
        "0.500",
        "1.500",
        "2.500",
        "3.500",
        "4.500",
        "12.5%",
        "0.062",
    ]
    assert not any("operations" in line for line in lines)  # no layer has many units
    assert lines[8].strip() == "together 0.75 ms, 75% of the mean step's 1.00 ms"


def test_the_profile_is_of_the_faster_half():
    """What timers cost is taken from the time between kernels, so that the rest adds up."""
    spans = [(100_000 * i, 100_000 * i + 10_000 * (i + 1)) for i in range(4)]
    recorder = profiling._Recorder()
    for i, (start, _) in enumerate(spans):
        recorder.events.append((i, "layers", "recur", start + 1, start + 1 + 4000 * (i + 1)))
    table = profiling._table(recorder, np.zeros(4, int), 1, spans, [12.0])
    assert table["step_us"]["mean_us"] == 15.0 and table["unprofiled_us"] == 12.0
    found = {row["stage"]: (row["mean_us"], row["share"]) for row in table["stages"]}
    expected = {"layers": (6.0, 0.4), "Python": (6.0, 0.4), "(timers)": (3.0, 0.2)}
    assert found == {stage: pytest.approx(pair) for stage, pair in expected.items()}


def test_the_picture_shows_frames_that_follow_each_other():
    """Between turns there are others, without timers."""
    lengths = np.full(40, 10_000)
    lengths[14:26] = 1000  # the fastest eight would be of two turns
    spans = [(50_000 * i, 50_000 * i + int(length)) for i, length in enumerate(lengths)]
    shown = profiling._timeline(profiling._Recorder(), spans)
    assert [frame["step_us"] for frame in shown] == [10.0] * 2 + [1.0] * 6


def test_steps_are_timed_in_milliseconds(monkeypatch):
    now = SimpleNamespace(ns=0)

    def step(frame, out):
        now.ns += int(frame[0])

    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter_ns=lambda: now.ns))
    found = time_steps(step, np.array([[1e6, 0.0], [2.5e6, 0.0]]))
    np.testing.assert_array_equal(found, [1.0, 2.5])


def test_what_other_programs_disturbed_is_no_peak(monkeypatch):
    now = iter([0.0, 3.0, 3.0, 4.0, 4.0, 9.0])
    monkeypatch.setattr(limits, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert limits._fastest(lambda: None, 3) == 1.0


def test_a_start_says_whether_it_compiled(path, tmp_path):
    """The first one with an empty cache does; the next one does not."""
    starts = [fresh_start(path, cache=str(tmp_path / "cache"), steps=1) for _ in range(2)]
    assert [start["compiled"] for start in starts] == [True, False]
    assert _start_line(starts[0]).startswith("start, compiling ")
    assert _start_line(starts[1]).startswith("start, kernels cached ")
    assert starts[0]["prepare_s"] > starts[1]["prepare_s"]


def test_a_start_finds_what_this_process_finds(path, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os; open(os.environ['SEEN'], 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    fresh_start(path, steps=1)
    assert (tmp_path / "seen").exists()


def test_a_failing_start_is_told(tmp_path):
    with pytest.raises(npfsn.NpfsnError, match="fresh process failed"):
        fresh_start(tmp_path / "missing.npz")


def side_by_side():
    """Return a result of tools.bench with figures that are easy to recognise."""
    steps = {"steps": 9, "late_steps": 0, "real_time_factor": 0.1, "deadline_share": 0.25}
    steps |= dict.fromkeys([*TIMES, "cpu_mean_ms", "cpu_p99_ms"], 2.0)
    steps |= {"even_odd_ms": [2.25, 1.75], "turn_means_ms": [1.5, 2.5], "p99_in_turn": 1.2}
    limit = {name: 1.0 for name in ("bytes_per_frame", "bytes_read_once", "bandwidth_gb_s",
             "memory_bandwidth_gb_s", "operations_per_frame", "read_ms", "compute_ms", "limit_ms",
             "mean_ms", "share_of_limit")} | {"peak_gop_s": {"float32": 115.0}}  # fmt: skip
    whole = {"mean_ms": 1.5, "min_ms": 1.5, "cpu_mean_ms": 1.5}
    model = {
        "parameters": 5_000_000,
        "onnx_cells": {"float32": "LSTM", "int8": "MatMul"},
        "onnx_variants_ms": {"float32 LSTM": 2.0},
        "differences": {"ONNX Runtime float32": 1e-6, "ONNX Runtime int8": 1e-2},
        "steps": {
            "npfsn float32": {**steps, "mean_ms": 1.0, "p99_ms": 1.25},
            "npfsn float32, float16 file": {**steps, "mean_ms": 0.5, "p99_ms": 0.625},
            "npfsn int8": {**steps, "mean_ms": 1.5, "p99_ms": 1.25},
            "ONNX Runtime float32": steps,
            "ONNX Runtime int8": steps,
        },
        "control": {
            "float32": {**steps, "mean_ms": 1.0, "p99_ms": 1.5},
            "int8": {**steps, "mean_ms": 0.5, "p99_ms": 0.625},
        },
        "whole_seconds": 10.0,
        "whole_ms_per_frame": {
            "npfsn float32": whole,
            "npfsn float32, float16 file": {**whole, "mean_ms": 1.125},
            "PyTorch float32, whole utterance": whole,
        },
        "limits": {"float32": limit},
    }
    start = {"total_s": 0.5, "import_s": 0.1, "load_s": 0.3, "memory_mb": 200}
    start["first_output_s"] = 0.1
    return {
        "date": "2026-01-01", "commit": None, "cpu": "a CPU", "cores": 2, "simd": ["avx2"],
        "governor": None, "system": "Linux", "threads": 1, "versions": {"npfsn": "0"},
        "quick": False, "command": "python -m tools.bench", "seconds": 100.0, "other_load": 0.0,
        "models": {"fast_fullsubnet": model, "fullsubnet": model},
        "starts": {"npfsn float32": start, "PyTorch float32": {**start, "total_s": 2.0}},
    }  # fmt: skip


def test_page_of_the_peers_judges_by_measured_time():
    result = side_by_side()
    page = report.render(result)
    rows = {row[1].strip(): [cell.strip() for cell in row[2:-1]]
            for line in page.splitlines() if line.startswith("|")
            for row in [line.split("|")]}  # fmt: skip
    fast = "Fast FullSubNet float32 / ONNX Runtime float32"
    assert rows[f"{fast}: mean"] == ["0.500", "1.000", "0.80", "yes"]
    assert rows[f"{fast}: p99"] == ["0.625", "1.000", "0.60", "**no**"]
    half = "Fast FullSubNet float32, float16 file / ONNX Runtime float32"
    assert rows[f"{half}: mean"] == ["0.250", "1.000", "0.80", "yes"]
    int8 = "Fast FullSubNet int8 / ONNX Runtime int8"
    assert rows[f"{int8}: mean"] == ["0.750", "1.000", "0.75", "yes"]
    whole = "whole file, Fast FullSubNet float32 / PyTorch whole utterance"
    assert rows[whole] == ["1.000", "1.000", "0.80", "**no**"]
    whole_half = "whole file, Fast FullSubNet float32, float16 file / PyTorch whole utterance"
    assert rows[whole_half] == ["0.750", "1.000", "0.80", "yes"]
    assert rows["start / PyTorch's"] == ["0.250", "", "0.50", "yes"]
    assert sum("p99 / mean" in name for name in rows) == 3
    assert "in this run is 1.500 like float32 (1.00 ms); 1.250 like int8 (0.50 ms)." in page
    assert "a p99 / mean of float32 1.25; float32, float16 file 1.25; int8 0.83." in page
    assert "in ms: float32 2.25 and 1.75;" in page
    assert "in ms: float32 1.50 to 2.50;" in page and "of its frames is float32 1.20;" in page
    assert "Disturbed" not in page
    assert "Disturbed" in report.render({**result, "other_load": 0.5})


def test_a_quick_run_does_not_touch_the_page(tmp_path, monkeypatch, capsys):
    """Its figures only show that it works."""
    from tools.bench import __main__ as command

    kept, file = tmp_path / "benchmark.md", tmp_path / "result.json"
    file.write_text(json.dumps(side_by_side()))
    kept.write_text("official")
    monkeypatch.setattr(command, "PAGE", kept)
    monkeypatch.setattr("sys.argv", ["tools.bench", "--quick", "--render", str(file)])
    assert command.main() == 0
    assert capsys.readouterr().out.startswith("# Benchmark") and kept.read_text() == "official"
    monkeypatch.setattr("sys.argv", ["tools.bench", "--render", str(file)])
    assert command.main() == 0
    assert kept.read_text().startswith("# Benchmark") and capsys.readouterr().out == ""


def test_the_page_shows_its_picture(tmp_path, monkeypatch):
    from tools.bench import __main__ as command

    pytest.importorskip("matplotlib")
    file, page, picture = (tmp_path / name for name in ("result.json", "page.md", "a/times.png"))
    picture.parent.mkdir()
    file.write_text(json.dumps(side_by_side()))
    names = ["--render", file, "--page", page, "--picture", picture]
    monkeypatch.setattr("sys.argv", ["tools.bench", *map(str, names)])
    assert command.main() == 0
    assert "](a/times.png)\n" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    page.unlink()
    with pytest.raises(NotADirectoryError):  # a picture that fails does not take the page along
        monkeypatch.setattr("tools.bench.picture.draw", lambda *_: (file / "x").touch())
        command.main()
    assert page.exists()
