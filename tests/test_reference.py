"""The reference against the recorded outputs, and its parts against what defines them."""

from __future__ import annotations

from typing import Any

import golden_cases
import numpy as np
import pytest
import reference
from drawn_models import golden_case

# What is left is float32 rounding in the recorded code: at worst 7.7e-7 in an output and 1.2e-6 in
# a mask. The output's bound is tight because a wrong epsilon in a norm costs as little as 2e-6.
OUTPUT_TOLERANCE = 1e-6
MASK_TOLERANCE = 2e-6


def relative_difference(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest difference relative to full scale: 1, or the peak where that is higher."""
    return float(np.max(np.abs(got - want)) / max(1.0, np.max(np.abs(want))))


# ---------------------------------------------------------------------------------------------
# Recorded outputs
# ---------------------------------------------------------------------------------------------


def test_every_file_is_listed():
    """No recorded case is left out of the lists the tests run over."""
    files = sorted(path.stem for path in golden_cases.GOLDEN_DIR.glob("*.npz"))
    assert sorted(golden_cases.ALL_CASES) == files
    with_mask = [name for name in files if golden_case(name).crm is not None]
    assert sorted(golden_cases.MASK_CASES) == with_mask


@pytest.mark.parametrize("name", golden_cases.ALL_CASES)
def test_output_is_the_recorded_one(name: str):
    """The whole way from samples to samples, for every case."""
    case = golden_case(name)
    y = reference.enhance(case.config, case.params, case.x)
    assert y.shape == case.y.shape
    assert relative_difference(y, case.y) < OUTPUT_TOLERANCE


@pytest.mark.parametrize("name", golden_cases.MASK_CASES)
def test_mask_is_the_recorded_one(name: str):
    """The network alone, where the mask was recorded too."""
    case = golden_case(name)
    crm = reference.mask(case.config, case.params, case.x)
    assert crm.shape == case.crm.shape
    assert relative_difference(crm, case.crm) < MASK_TOLERANCE


# ---------------------------------------------------------------------------------------------
# What may depend on the future
# ---------------------------------------------------------------------------------------------


def future_reaches_past(config: dict[str, Any], params: dict[str, np.ndarray], **how: Any) -> bool:
    """Change the second half of a signal; say whether mask frames that end before it change."""
    n_sample, changed_from = 8000, 4000
    x = np.random.default_rng(0).normal(0.0, 0.1, n_sample)
    other = x.copy()
    other[changed_from:] *= 0.3
    before = reference.mask(config, params, x, **how)
    after = reference.mask(config, params, other, **how)

    # Frame t needs the samples up to the end of frame t + look-ahead.
    n_look = config["model_args"].get("look_ahead", 0)
    n_past = (changed_from - config["n_fft"] // 2) // config["hop_length"] + 1 - n_look
    assert not np.allclose(before[:, :, n_past:], after[:, :, n_past:], rtol=0.0, atol=1e-6)
    return not np.allclose(before[:, :, :n_past], after[:, :, :n_past], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", golden_cases.ALL_CASES)
def test_only_the_causal_cases_are_causal(name: str):
    """A stream can reproduce exactly the cases listed as causal."""
    case = golden_case(name)
    is_causal = not future_reaches_past(case.config, case.params)
    assert is_causal == (name in golden_cases.CAUSAL_CASES)


@pytest.mark.parametrize(
    "norm", ["cumulative_laplace_norm", "cumulative_layer_norm", "forgetting_norm"]
)
@pytest.mark.parametrize("name", golden_cases.ALL_CASES)
def test_a_causal_norm_makes_every_model_causal(name: str, norm: str):
    """Improved needs its sections normed causally as well."""
    case = golden_case(name)
    assert not future_reaches_past(case.config, case.params, norm=norm, causal_sections=True)


def test_section_norm_ends_at_the_published_one():
    """In the last frame the frames so far are the whole utterance."""
    x = np.random.default_rng(1).random((4, 7, 9))  # [B, C, T]
    published = reference.offline_laplace_norm(x, reference.FLOAT32_EPS)
    np.testing.assert_allclose(reference.section_norm(x)[..., -1], published[..., -1], rtol=1e-14)


# ---------------------------------------------------------------------------------------------
# Parts
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 256), (512, 128), (960, 480)])
@pytest.mark.parametrize("n_sample", [961, 5119, 5120, 5121])
def test_spectrum_round_trip(n_fft: int, hop: int, n_sample: int):
    """Synthesis undoes analysis to the last sample, even where one frame's edge alone covers it."""
    x = np.random.default_rng(2).normal(size=n_sample)
    spec = reference.stft(x, n_fft, hop)
    assert spec.shape == (n_fft // 2 + 1, 1 + n_sample // hop)
    y = reference.istft(spec, n_fft, hop, n_sample)
    np.testing.assert_allclose(y, x, rtol=0.0, atol=1e-11)


def test_cumulative_norms_keep_one_statistic_per_unit():
    """On units [B, C, T] they do to each unit what they do to a full band."""
    x = np.random.default_rng(3).random((3, 5, 8))
    for norm in (reference.cumulative_laplace_norm, reference.cumulative_layer_norm):
        np.testing.assert_array_equal(norm(x), np.stack([norm(unit) for unit in x]))


def test_other_norms_keep_one_statistic_over_all_units():
    """On units [B, C, T] they do what they do to all features side by side."""
    x = np.random.default_rng(4).random((3, 5, 8))
    for name in ("forgetting_norm", "offline_laplace_norm", "offline_gaussian_norm"):
        norm = reference.NORMS[name]
        np.testing.assert_allclose(norm(x).reshape(15, 8), norm(x.reshape(15, 8)), rtol=1e-13)


def test_forgetting_norm_starts_at_twice_the_mean():
    """The published weight of the past is -1 at frame 0 and 0 at frame 1."""
    x = np.full((4, 3), 2.0)
    np.testing.assert_allclose(reference.forgetting_norm(x)[0, :2], [0.5, 1.0], rtol=1e-9)


def test_neighbors_reflect_without_the_edge():
    """Bin -1 is bin 1, and bin F is bin F - 2."""
    x = np.arange(5.0)[:, None]  # [F, T]
    got = reference.neighbors(x, 2)[:, :, 0]
    assert got.tolist() == [
        [2, 1, 0, 1, 2],
        [1, 0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [1, 2, 3, 4, 3],
        [2, 3, 4, 3, 2],
    ]


def test_inner_sections_see_beyond_their_edges():
    """A section's neighbours come from the sections beside it; only the outer edges reflect."""
    x = np.arange(12.0)[:, None]  # [F, T]
    got = reference.unfold(x, 4, 8, n_center=2, n_neighbor=3)[:, :, 0]
    assert got.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8, 9, 10]]


def test_shrunk_time_begins_with_a_block_of_one_frame():
    """Frame 0 is a block; each block serves from its last frame on; a short one is averaged."""
    x = np.arange(6.0)  # [T]
    blocks = reference.shrink_time(x, 3)
    assert blocks.tolist() == [0.0, 2.0, 4.5]
    assert reference.stretch_time(blocks, 3, 6).tolist() == [0, 0, 0, 2, 2, 2]


def test_activations_go_by_their_names_in_torch():
    """Each by its PyTorch name, and none for the two spellings of none."""
    x = np.array([-2.0, 0.0, 8.0])
    assert reference.activate(x, None) is x
    assert reference.activate(x, False) is x
    assert reference.activate(x, "ReLU").tolist() == [0, 0, 8]
    assert reference.activate(x, "ReLU6").tolist() == [0, 0, 6]
    assert reference.activate(x, "LeakyReLU").tolist() == [-0.02, 0, 8]
    assert reference.activate(x, "PReLU", np.array([0.25])).tolist() == [-0.5, 0, 8]
    np.testing.assert_array_equal(reference.activate(x, "Tanh"), np.tanh(x))
    with pytest.raises(ValueError, match="GELU"):
        reference.activate(x, "GELU")


def test_mask_expands_the_compressed_range():
    """Decompression undoes m = 10 (1 - exp(-0.1 v)) / (1 + exp(-0.1 v)) and clips at 9.9."""
    v = np.linspace(-50.0, 50.0, 11)
    m = 10.0 * (1.0 - np.exp(-0.1 * v)) / (1.0 + np.exp(-0.1 * v))
    np.testing.assert_allclose(reference.decompress_mask(m), v, rtol=0.0, atol=1e-11)
    assert reference.decompress_mask(np.array(1e6)) == reference.decompress_mask(np.array(9.9))


@pytest.mark.parametrize(("n_freq", "n_mel"), [(257, 64), (257, 40), (481, 80)])
def test_mel_filters_are_triangles(n_freq: int, n_mel: int):
    """At most two filters touch a bin, and between the first and last peak they sum to one."""
    fb = golden_cases.mel_filterbank(n_freq, n_mel)
    assert fb.dtype == np.float32
    assert fb.shape == (n_freq, n_mel)
    assert fb.min() == 0.0
    assert fb.max() <= 1.0
    assert (fb > 1e-12).sum(axis=1).max() == 2
    first, last = fb[:, 0].argmax() + 1, fb[:, -1].argmax()
    np.testing.assert_allclose(fb[first:last].sum(axis=1), 1.0, rtol=0.0, atol=1e-6)
