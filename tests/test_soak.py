"""Ten minutes of sound through one stream: no drift, no growth, no denormals."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from drawn_models import golden_case, golden_model, noise, small_model

import npfsn
from tools import soak


@pytest.mark.parametrize("name", ["fast_lstm_cum", "fast_gru_cum", "fast_lstm_layernorm"])
def test_the_stepping_reference_is_the_reference(name):
    case, model = golden_case(name), golden_model(name)
    stepping = soak.Reference(model)
    hop = model.config.hop_length
    x = case.x[: 24 * hop].astype(np.float64)
    expected = reference.enhance(case.config, case.params, x)
    y = np.concatenate([stepping.push(x[at : at + hop]) for at in range(0, len(x), hop)])
    late = model.config.latency_samples
    assert not y[:late].any()
    # Its last frames see the end of the signal, which the stepping one does not know of.
    n = len(x) - late - model.config.n_fft
    np.testing.assert_allclose(y[late : late + n], expected[:n], atol=1e-12)


@pytest.mark.slow
def test_ten_minutes_neither_drift_nor_grow():
    found = soak.soak(small_model("fast_fullsubnet"), 10.0, seed=3)
    print(soak.report(found))
    assert found.peak > 0.3
    assert np.max(found.drift) < 1e-5
    assert max(found.rss) - found.rss[1] < 2 << 20
    assert set(found.kinds) == set(soak.KINDS)


@pytest.mark.parametrize("norm", ["forgetting_norm", "cumulative_layer_norm"])
def test_a_minute_of_the_other_norms(norm):
    found = soak.soak(small_model("fast_fullsubnet", "GRU", norm_type=norm), 1.0, seed=4)
    assert np.max(found.drift) < 1e-5


def test_a_wrong_network_is_found_out():
    """The comparison can fail: a weight that is off by a hundredth shows."""
    model = small_model("fast_fullsubnet")
    name = "decoder_lstm.1.fc_output_layer.weight"
    tensors = {**model.tensors, name: model.tensors[name] * np.float32(1.01)}
    other = npfsn.Enhancer(npfsn.Model(model.architecture, model.config, tensors))
    beside = soak.Reference(model)
    x = noise(40 * 256).reshape(-1, 256)
    assert max(float(np.abs(other.step(f) - beside.push(f)).max()) for f in x) > 1e-4


def test_an_output_that_is_no_number_is_found_out(monkeypatch, capsys):
    """In whatever minute: Python's max skips NaN unless it comes first."""
    hops = itertools.count()

    def step(enhancer, x, out):
        out[:] = np.nan if next(hops) == 5000 else 0.0

    monkeypatch.setattr(npfsn.Enhancer, "step", step)
    monkeypatch.setattr(soak.Reference, "push", lambda reference, x: np.zeros(len(x)))
    assert soak.main(["--hours", "0.05"]) == 1
    assert "largest difference nan of full scale" in capsys.readouterr().out


def test_the_scene_is_drawn_from_its_seed():
    a, b = soak.Scene(1, 16000), soak.Scene(1, 16000)
    for _ in range(5):
        (kind, x), (other, y) = a.block(5000), b.block(5000)
        assert kind == other and np.array_equal(x, y) and np.abs(x).max() <= 1.0


@pytest.mark.parametrize("hours", ["0.01", "nan", "1001", "inf"])
def test_less_than_a_minute_and_more_than_fits_are_refused(capsys, hours):
    with pytest.raises(SystemExit):
        soak.main(["--hours", hours])
    message = f"{hours!r} is not a number of hours from a minute (0.0167) to 1000"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--picture"])
def test_silence_refuses_what_it_would_not_write(tmp_path, capsys, option):
    if option == "--picture":
        pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit):
        soak.main(["--silence", option, str(tmp_path / "out.png")])
    assert "--silence only prints" in capsys.readouterr().err


def test_the_reference_knows_a_slope():
    """Of PReLU, the one activation with a weight."""
    model = small_model("fast_fullsubnet")
    encoder = (*model.config.encoder[:-1], replace(model.config.encoder[-1], activation="PReLU"))
    slope = {f"encoder.{len(encoder) - 1}.activate_function.weight": np.full(1, 0.25, np.float32)}
    config = replace(model.config, encoder=encoder)
    found = soak.soak(npfsn.Model(model.architecture, config, {**model.tensors, **slope}), 1.0, 5)
    assert np.max(found.drift) < 1e-5


def test_a_model_without_a_reference_is_refused_in_a_sentence(tmp_path, capsys):
    path = tmp_path / "m.npz"
    npfsn.save_model(small_model("fullband"), path)
    with pytest.raises(SystemExit) as stopped:
        soak.main(["--hours", "0.02", "--model", str(path)])
    assert stopped.value.code == 1
    assert "run with --no-reference" in capsys.readouterr().err
    assert soak.main(["--hours", "0.02", "--model", str(path), "--no-reference"]) == 0
    assert "growth" not in (said := capsys.readouterr().out) and "first half" in said
    assert "drift" not in said  # there was nothing to compare with


def test_the_reference_is_beside_the_published_arithmetic(tmp_path, capsys):
    """Of a model that starts anew at sounds and hears quiet voices louder: it knows neither."""
    path = tmp_path / "m.npz"
    npfsn.save_model(small_model("fast_fullsubnet", start_at_sound=True, quiet_level=100.0), path)
    assert soak.main(["--hours", "0.02", "--model", str(path)]) == 0
    assert "drift: largest difference" in capsys.readouterr().out


def test_a_clock_too_coarse_for_a_step_is_said():
    """As that of Windows, where the CPU time of most steps is nothing."""
    assert soak._change(2.0, 3.0) == "+50.0%" and "clock" in soak._change(0.0, 0.0)


def test_the_picture_and_the_words(tmp_path):
    found = soak.soak(small_model("fast_fullsubnet"), 1.0, seed=0, compare=False)
    assert "memory:" in soak.report(found)
    pytest.importorskip("matplotlib")
    soak.draw(found, str(tmp_path / "soak.png"))
    assert (tmp_path / "soak.png").stat().st_size > 1000


@pytest.fixture
def clock(monkeypatch):
    """Let steps take as many nanoseconds as `clock.cost(x)` says, half of them CPU time."""
    clock = SimpleNamespace(now=0, cost=lambda x: 10_000)

    def step(enhancer, x, out=None):
        clock.now += clock.cost(x)

    times = SimpleNamespace(
        perf_counter_ns=lambda: clock.now, thread_time_ns=lambda: clock.now // 2
    )
    monkeypatch.setattr(soak, "time", times)
    monkeypatch.setattr(npfsn.Enhancer, "step", step)
    return clock


def test_times_are_those_of_the_first_and_of_the_last_part(tmp_path, clock):
    """And of each kind of sound."""
    hops = itertools.count()
    clock.cost = lambda x: (1 if next(hops) < 3750 else 3) * (20_000 if x.any() else 8_000)
    path = tmp_path / "soak.json"
    assert soak.main(["--hours", str(2 / 60), "--no-reference", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert (found["minutes"], len(found["rss"]), found["drift"]) == (2.0, 2, [])
    assert (found["p50"], found["p99"], found["cpu_p99"]) == ([20, 60], [20, 60], [10, 30])
    assert (found["first_p99"], found["last_p99"]) == (20, 60)
    assert (found["first_cpu_p99"], found["last_cpu_p99"]) == (10, 30)
    assert found["kinds"]["silence"][1] <= 12 < found["kinds"]["speech"][1] == 30


def test_what_silence_costs_is_a_share_of_speech(monkeypatch, clock, capsys):
    levels = {"speech": 4, "silence": 2, "faint": 1}
    hops = np.ones((10, 256), np.float32)
    hops[3] = 3.0  # one hop in ten takes three times as long
    monkeypatch.setattr(
        soak.Scene, "block", lambda scene, n, kind: (kind, levels[kind] * hops.reshape(-1))
    )
    clock.cost = lambda x: int(1000 * x[0])
    assert soak.main(["--silence"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "speech: median 2.0 us (1.00 of speech), p99 5.6 us (1.00)",
        "silence: median 1.0 us (0.50 of speech), p99 2.8 us (0.50)",
        "faint: median 0.5 us (0.25 of speech), p99 1.4 us (0.25)",
    ]


def test_the_words_of_a_long_run():
    found = soak.Soak(
        minutes=20.0, drift=[1e-7, 3e-7, 2e-7], rss=[50 << 20, 60 << 20, (60 << 20) + 3072],
        kinds={"noise": [100.0, 200.0]}, first_p99=100.0, last_p99=150.0, first_cpu_p99=90.0,
        last_cpu_p99=81.0, peak=0.5,
    )  # fmt: skip
    assert soak.report(found).splitlines() == [
        "20 minutes of sound",
        "drift: largest difference 3.00e-07 of full scale (output peaks at 0.50); first minute "
        "1.00e-07, last 2.00e-07",
        "memory: 50.00 MiB after one minute, 60.00 at the end, most 60.00; growth after the "
        "second minute 3 KiB",
        "p99 of a step: first ten minutes 100.0 us, last ten minutes 150.0 (+50.0%); CPU time 90.0 "
        "and 81.0 us (-10.0%)",
        "  noise: CPU time median 100.0 us, p99 200.0 us",
    ]
