"""Arrays of samples: their steps, and what is no number in them."""

from __future__ import annotations

import numpy as np
import pytest

from npfsn.samples import as_float32, silence_nonfinite, to_steps


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_quantising_rounds_and_counts(bits):
    step = 2.0 ** (1 - bits)
    y = np.array([0.0, 0.4, 0.6, -0.4, -0.6], np.float64) * step
    found, n_clipped = to_steps(y, bits)
    assert n_clipped == 0
    assert [int(v) >> (32 - bits) for v in found] == [0, 0, 1, 0, -1]
    found, n_clipped = to_steps(np.array([-1.0, 1.0, 1.5, -1.5, 3e38], np.float32), bits)
    assert n_clipped == 4
    top = 2 ** (bits - 1) - 1
    assert [int(v) >> (32 - bits) for v in found] == [-top - 1, top, top, -top - 1, top]
    _, n_clipped = to_steps(np.array([top, -top - 1]) * step, bits)
    assert n_clipped == 0  # a recording at full scale is no reason to warn


def test_silencing_leaves_finite_samples_alone():
    x = np.array([3e38, 3e38, -3e38, 1e-45], np.float32)
    assert silence_nonfinite(x) == 0
    assert x.tolist() == np.array([3e38, 3e38, -3e38, 1e-45], np.float32).tolist()


def test_silencing_is_quiet():
    """The sum of infinities of both signs is no number, of which NumPy would warn."""
    x = np.array([np.inf, 0.5, -np.inf, np.nan], np.float32)
    assert silence_nonfinite(x) == 3
    assert x.tolist() == [0.0, 0.5, 0.0, 0.0]


def test_kernels_get_what_their_addresses_promise():
    """Contiguous, aligned and writable arrays: nothing else tells a kernel."""
    whole = np.arange(8, dtype=np.float32)
    read_only = whole.copy()
    read_only.flags.writeable = False
    odd = np.frombuffer(bytearray(b"\0" + whole.tobytes()), np.float32, 8, 1)
    assert not odd.flags.aligned
    for x in (whole, whole[::2], whole[::-1], read_only, odd, whole.astype("d")):
        got = as_float32(x)
        assert got.flags.c_contiguous and got.flags.aligned and got.flags.writeable
        assert np.array_equal(got, x)
