"""Ten minutes of sound through one stream: no drift, no growth, no denormals."""

from __future__ import annotations

import itertools
from dataclasses import replace

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


def test_less_than_a_minute_is_refused(capsys):
    with pytest.raises(SystemExit):
        soak.main(["--hours", "0.01"])
    assert "expected a minute" in capsys.readouterr().err


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
