"""Eight-bit weights, in memory and in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_models import golden_case, golden_model, noise, small_model

import npfsn
from npfsn import fast_fullsubnet
from npfsn.convert import _cast
from npfsn.kernels.cpu import HAS_F16
from npfsn.models import ARCHITECTURES
from npfsn.quantise import dequantise, levels_with_room, quantise, to_float16
from npfsn.weights import Model, gives_mask, load_model, save_model


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 17)])
def test_rounding_is_within_half_a_level(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    levels, scale = quantise(weight)
    assert np.all(np.abs(levels).max(axis=1) == 127)
    assert np.all(np.abs(dequantise(levels, scale) - weight) <= 0.5001 * scale[:, None])
    again, _ = quantise(dequantise(levels, scale))
    assert np.array_equal(again, levels)


def test_a_row_of_zeros_stays_zero() -> None:
    levels, scale = quantise(np.zeros((2, 3), np.float32))
    assert not levels.any() and not scale.any()


def test_errors_that_numpy_is_told_to_raise_are_not() -> None:
    """Of values that are too small or too large: `np.seterr` is the caller's."""
    model = small_model("fast_fullsubnet")
    sizes = {"encoder.0": 1e-6, "bottleneck": 1e-44, "decoder_lstm.1": 1e-3}
    tensors = dict(model.tensors)
    for name, tensor in tensors.items():
        for start, size in sizes.items():
            if name.startswith(start):
                tensors[name] = (tensor * np.float32(size)).astype(np.float32)
    model = npfsn.weights.Model(model.architecture, model.config, tensors)
    expected = npfsn.enhance(noise(3000), 16000, model, precision="int8")
    again = npfsn.weights.Model(model.architecture, model.config, tensors)  # and packed anew
    with np.errstate(all="raise"):
        found = npfsn.enhance(noise(3000), 16000, again, precision="int8")
        assert np.isinf(to_float16(np.full((1, 1), 1e-9, "f"))).sum() == 0
        assert to_float16(np.full((1, 1), 1e9, "f")).dtype == np.float32
        assert np.isinf(dequantise(np.full((1, 1), 127, "b"), np.full(1, 3e38, "f"))).all()
    np.testing.assert_array_equal(found, expected)


def fours(levels: np.ndarray) -> np.ndarray:
    """Return sums of sizes of inputs 8 i + (0, 1, 4, 5) and + (2, 3, 6, 7): [N, 2 ceil(K / 8)]."""
    size = np.pad(np.abs(levels.astype(int)), ((0, 0), (0, -levels.shape[1] % 8)))
    return np.concatenate(
        [sum(size[:, i::8] for i in four) for four in ((0, 1, 4, 5), (2, 3, 6, 7))], axis=1
    )


@pytest.mark.parametrize("n_in", [1, 7, 8, 84])
@pytest.mark.parametrize("size", [1e-44, 1e-40, 1e-35, 1.0, 3e38])
def test_four_products_fit_into_sixteen_bits(n_in: int, size: float) -> None:
    """And no row has fewer levels than that takes: 127, 64 at worst."""
    rng = np.random.default_rng(n_in)
    weight = np.concatenate(
        [
            rng.uniform(-1, 1, (64, n_in)),
            np.clip(rng.standard_t(3, (64, n_in)) / 8, -1, 1),
            np.sign(rng.normal(size=(8, n_in))),
            np.eye(n_in),
            np.zeros((1, n_in)),
        ]
    )
    weight = (size * weight).astype(np.float32)
    most = levels_with_room(weight)
    assert np.all((most >= 64) & (most <= 127) & (most == np.rint(most)))
    levels, scale = quantise(weight, most)
    assert fours(levels).max() * 127 < 2**15
    assert np.all(np.abs(levels).max(axis=1) == np.where(scale > 0, most, 0))
    error = np.abs(dequantise(levels, scale).astype(float) - weight)
    assert np.all(error <= np.maximum(0.5001 * scale[:, None], 2e-36))
    if n_in >= 7:
        assert most[128] == 64 and np.all(most[136:] == 127)
    # Three levels more would be too many, or nearly.
    more, _ = quantise(weight, np.minimum(most + 3, 127))
    assert np.all((fours(more).max(axis=1) > 254) | (most >= 127 - 3) | (scale == 0))


def test_four_products_of_any_proportion_fit_into_sixteen_bits() -> None:
    """Also where all four are rounded up."""
    weight = np.zeros((5000, 8), np.float32)
    weight[:, 0], weight[:, [1, 4, 5]] = 1.0, np.linspace(0.3, 1.0, 5000)[:, None]
    levels, _ = quantise(weight, levels_with_room(weight))
    assert fours(levels).max() * 127 < 2**15


def as_int8(model: Model) -> Model:
    """Round a model as `npfsn-convert --precision int8` does."""
    tensors = {
        name: _cast(model.config, name, tensor, "int8") for name, tensor in model.tensors.items()
    }
    return Model(model.architecture, model.config, tensors, {"precision": "int8"})


@pytest.mark.parametrize("name", ["fast_lstm_cum", "full_gru_cum", "base_lstm_cum"])
def test_int8_files_give_what_the_rounded_model_gives(name: str, tmp_path: Path) -> None:
    x = golden_case(name).x[:8000]
    model = golden_model(name)
    save_model(as_int8(model), tmp_path / "int8.npz")
    save_model(model, tmp_path / "float32.npz")
    small, large = ((tmp_path / f"{p}.npz").stat().st_size for p in ("int8", "float32"))
    assert small < 0.35 * large
    kept = load_model(tmp_path / "int8.npz")
    assert kept.info["precision"] == "int8"
    got = npfsn.enhance(x, 16000, kept, precision="int8")
    # The same integers; a scale may differ in its last bit.
    expected = npfsn.enhance(x, 16000, as_int8(model), precision="int8")
    assert np.abs(got - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())
    plain = npfsn.enhance(x, 16000, model)
    error = np.sum((expected - plain) ** 2) / np.sum(plain**2)
    assert 0 < error < 10**-2.5  # 25 dB, and it is another arithmetic


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", ["fast_lstm_cum", "full_gru_cum", "base_lstm_cum", "improved_48k"])
def test_a_float16_file_gives_the_bits_of_the_same_weights_in_float32(
    name: str, precision: str, tmp_path: Path
) -> None:
    """Halves stay halves in memory; every product widens them exactly."""
    model = golden_model(name)
    half = {key: tensor.astype(np.float16) for key, tensor in model.tensors.items()}
    floats = {key: tensor.astype(np.float32) for key, tensor in half.items()}
    save_model(Model(model.architecture, model.config, half), tmp_path / "half.npz")
    save_model(Model(model.architecture, model.config, floats), tmp_path / "float.npz")
    x, rate = golden_case(name).x[:8000], model.config.sample_rate
    got, want = (
        npfsn.enhance(x, rate, tmp_path / f"{kind}.npz", precision=precision)
        for kind in ("half", "float")
    )
    np.testing.assert_array_equal(got, want)
    assert np.abs(want).max() > 0


def test_what_gives_the_mask_keeps_half_precision() -> None:
    """In eight bits it is most of the error."""
    for name in ("fast_lstm_cum", "full_gru_cum", "base_lstm_cum", "improved_48k"):
        model = golden_model(name)
        kept = {key: tensor.dtype for key, tensor in as_int8(model).tensors.items()}
        halves = {key for key, dtype in kept.items() if dtype == np.float16}
        assert halves == {key for key in kept if gives_mask(model.config, key)} != set()


def test_what_stays_in_floats_in_int8_has_half_precision() -> None:
    """The mask's weights and those of features; in float32 nothing is rounded."""
    model = golden_model("fast_lstm_cum")
    kinds = {}
    for precision in ("float32", "int8"):
        network = fast_fullsubnet.Network(model.config, model.tensors, precision)
        encoder, linear = network.encoder[0], network.decoder[-1].linear
        assert linear is not None
        kinds[precision] = [
            product.weights[0].dtype.name
            for product in (
                encoder.layers[0].input,
                network.bottleneck.layers[0].input,
                linear,
                encoder.layers[0].recurrent,
            )
        ]
    half = "uint16" if HAS_F16 else "float32"
    assert kinds == {"float32": ["float32"] * 4, "int8": [half] * 3 + ["int8"]}


def test_values_too_large_for_halves_stay_as_they_are() -> None:
    large = np.array([[1.0, 1e5]], np.float32)
    assert to_float16(large) is large
    half = to_float16(large / 2)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, large / 2, rtol=2**-11)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_leaves_the_mask_in_floats(architecture: str) -> None:
    """What is less than half a level of eight bits counts there."""
    model, heard = small_model(architecture), []
    for share in (0.0, 1 / 300):
        tensors = dict(model.tensors)
        for stack in model.config.mask_stacks:
            weight = tensors[f"{stack}.fc_output_layer.weight"].copy()
            weight[:, 0] = share * np.abs(weight[:, 1:]).max(1)
            tensors[f"{stack}.fc_output_layer.weight"] = weight
        changed = Model(architecture, model.config, tensors)
        heard.append(npfsn.enhance(noise(4000), 16000, changed, precision="int8"))
    assert np.abs(heard[0] - heard[1]).max() > 0
