"""One channel at any rate, with the latency taken out."""

from __future__ import annotations

import numpy as np
import pytest
from pure_delay import Delay
from sounds import noise
from streams import run

from npfsn.aligned import AlignedStream


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("rate", [16000, 8000, 44100])
@pytest.mark.parametrize("n", [0, 1, 255, 257, 5003])
def test_aligned_stream_has_the_length_of_its_input(n, rate, keep):
    x = noise(n)[:, 0]
    stream = AlignedStream(Delay(), rate, keep_latency=keep)
    y = run(stream, x, 100)
    latency = -(-768 * rate // 16000) if keep else 0
    assert y.size == n + latency
    if rate == 16000:
        assert np.array_equal(y[latency:], x)
        assert not y[:latency].any()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_no_attenuation_gives_all_of_the_input_back(rate, keep):
    x = noise(20_011)[:, 0]
    stream = AlignedStream(Delay(), rate, atten_lim_db=0.0, keep_latency=keep)
    y = run(stream, x, 1000)
    latency = y.size - x.size
    assert np.array_equal(y[latency:], x) and not y[:latency].any()


def test_attenuation_mixes_the_input_in():
    class Mute(Delay):
        def _give(self, n):
            return 0 * Delay._give(self, n)

    x = noise(5000)[:, 0]
    y = run(AlignedStream(Mute(), 44100, atten_lim_db=20.0), x)
    np.testing.assert_allclose(y, 0.1 * x, rtol=1e-6)
