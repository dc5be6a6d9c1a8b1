"""The change of sample rate: `resample_poly`, block by block."""

from __future__ import annotations

import tracemalloc
import weakref

import numpy as np
import pytest
from scipy.signal import resample_poly
from sounds import RATES, noise
from streams import run

from npfsn import machine_code
from npfsn import resample as resampling
from npfsn.config import MAX_RATE, MIN_RATE
from npfsn.errors import AudioError
from npfsn.resample import Resampler, resample


@pytest.mark.parametrize("part, decibels", [(0.5, 0.0), (0.9, -0.66), (1.0, -6.02)])
def test_how_much_of_the_band_is_kept(part, decibels):
    """Of an impulse, at a part of half the lower rate: README names these levels."""
    impulse = np.zeros(101, np.float32)
    impulse[50] = 1.0
    wave = np.exp(-1j * np.pi / 3 * part * np.arange(303))
    gain = abs(resample(impulse, 16000, 48000) @ wave) / 3
    assert 20 * np.log10(gain) == pytest.approx(decibels, abs=0.03)


@pytest.mark.parametrize("rate_out", [16000, 24000, 48000])
@pytest.mark.parametrize("rate_in", [*RATES, 15999])
def test_resampling_is_resample_poly(rate_in, rate_out):
    for n in (1, 2, 257, 5003):
        x = noise(n)[:, 0]
        gcd = np.gcd(rate_in, rate_out)
        expected = resample_poly(x.astype("f8"), rate_out // gcd, rate_in // gcd)
        found = resample(x, rate_in, rate_out)
        assert found.dtype == np.float32
        assert found.size == expected.size == -(-n * rate_out // rate_in)
        np.testing.assert_allclose(found, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("block", [1, 37, 256, 1000, 4999])
@pytest.mark.parametrize(
    "rates",
    [(44100, 16000), (16000, 44100), (8000, 48000), (96000, 24000), (15999, 16000), (16000, 44099)],
)
def test_resampling_does_not_depend_on_blocks(rates, block):
    x = noise(5003)[:, 0]
    resampler = Resampler(*rates)
    for _ in range(2):  # flush makes it ready for another signal
        assert np.array_equal(run(resampler, x, block), resample(x, *rates))


def test_equal_rates_touch_nothing():
    x = noise(1000)[:, 0]
    resampler = Resampler(16000, 16000)
    assert resampler.process(x) is x
    assert resampler.flush().size == 0
    assert resample(x, 44100, 44100) is x


@pytest.mark.parametrize("rate", [16000, 8000])
def test_samples_of_any_type_become_float32(rate):
    x = np.random.default_rng(0).normal(size=1000)
    expected = resample(x.astype("f4"), 16000, rate)
    for found in (resample(x, 16000, rate), run(Resampler(16000, rate), x)):
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)


def test_full_scale_is_no_limit():
    """Floats may be in the scale of integers: only what float32 cannot hold is cut off."""
    x = noise(5003)[:, 0]
    found = resample(np.float32(1 << 15) * x, 44100, 16000)
    assert np.array_equal(found, np.float32(1 << 15) * resample(x, 44100, 16000))


def test_resampling_keeps_little():
    resampler = Resampler(44100, 16000)
    for _ in range(50):
        resampler.process(noise(10_000)[:, 0])
    assert resampler._kept.size < 2_000 and resampler._kept.base is None


def test_resampling_survives_the_largest_floats():
    x = np.full(1000, np.finfo(np.float32).max, np.float32) * np.tile([1, -1], 500).astype("f4")
    assert np.isfinite(resample(x, 8000, 48000)).all()


def test_resampling_vanishes_quietly():
    x = np.full(1000, 1e-44, np.float32)  # itself an underflow for NumPy 1
    with np.errstate(all="raise"):
        assert np.abs(resample(x, 8000, 48000)).max() < 1e-40


@pytest.mark.parametrize("rate", [0, -1, MIN_RATE - 1, MAX_RATE + 1, 2**31 - 1, 16000.5])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(AudioError, match="sample rate is"):
        Resampler(rate, 16000)
    with pytest.raises(AudioError, match="sample rate is"):
        Resampler(16000, rate)
    with pytest.raises(AudioError, match="sample rate is"):
        resample(np.zeros(9, np.float32), rate, rate)
    assert Resampler(MIN_RATE, MAX_RATE).process(np.zeros(9, np.float32)).size == 0


def test_high_rates_must_share_a_factor():
    """A header may say any rate: the filter of 767,999 Hz took seconds for every block."""
    for rates in ((767_999, 16_000), (16_000, 767_999), (200_001, 16_000)):
        with pytest.raises(AudioError, match="common factor"):
            Resampler(*rates)
    for rate in (384_000, 768_000, 199_999):
        Resampler(rate, 16_000)


def test_resamplers_share_their_filter():
    """A header of 60 bytes may promise a thousand channels, at a rate whose filter is large."""
    first, second = Resampler(15999, 16000), Resampler(15999, 16000)
    for resampler in (first, second):
        resampler.process(noise(100)[:, 0])
    assert first._filter is second._filter
    kept = weakref.ref(first._filter)
    del first, second, resampler
    assert kept() is None


def test_a_long_filter_is_laid_out_once():
    """Not for every block: at 44,099 Hz one took longer than it lasted."""
    resampler, x = Resampler(44099, 16000), noise(441)[:, 0]
    assert resampler._filter._taps.nbytes > 6 << 20
    resampler.process(x)
    tracemalloc.start()
    resampler.process(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_filter_is_there_before_the_first_block(monkeypatch):
    """Designing it takes longer than a live stream has."""
    monkeypatch.setattr(machine_code, "_loaded", {})
    machine_code.function.cache_clear()
    resampler = Resampler(37800, 16000)  # rates whose filter no other stream has
    assert "calls.filtered" in machine_code._loaded  # so does compiling
    monkeypatch.setattr("numpy.i0", None)
    assert resampler.process(np.ones(768, np.float32)).size > 200


@pytest.mark.parametrize("rate", [11025, 22050, 44100, 48000])
def test_late_output_is_the_same_in_any_blocks(rate):
    x = noise(3000)[:, 0]
    expected = run(Resampler(16000, rate, 768), x)
    for size in (1, 37, 256):
        np.testing.assert_array_equal(run(Resampler(16000, rate, 768), x, size), expected)


@pytest.mark.parametrize("rate", [11025, 22050, 44100, 48000])
def test_late_output_lasts_as_long_as_its_input(rate):
    """To the last output before the end; as late as the input, rounded up."""
    for n in range(768, 1100):
        resampler = Resampler(16000, rate, 768)
        assert resampler.lag == -(-768 * rate // 16000)
        size = run(resampler, np.zeros(n, np.float32)).size
        assert size == resampler.lag - (768 - n) * rate // 16000


def test_no_output_comes_before_the_last_input_it_needs():
    resampler = Resampler(48000, 16000)  # 61 taps: 30 on each side
    assert resampler.process(np.zeros(30)).size == 0
    assert resampler.process(np.zeros(1)).size == 1
    assert resampler.process(np.zeros(2)).size == 0
    assert resampler.process(np.zeros(1)).size == 1


def test_the_largest_step_is_one(monkeypatch):
    monkeypatch.setattr(resampling, "MAX_STEP", 441)
    assert Resampler(44100, 16000).process(np.zeros(441)).size > 0
    monkeypatch.setattr(resampling, "MAX_STEP", 440)
    with pytest.raises(AudioError, match="cannot be resampled"):
        Resampler(44100, 16000)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_resampler_takes_one_dimension(rate):
    with pytest.raises(ValueError, match=r"shape \(N,\), got shape \(10, 2\)"):
        Resampler(16000, rate).process(np.zeros((10, 2)))


@pytest.mark.parametrize("rates", [(48000, 16000), (44100, 16000), (16000, 44100)])
@pytest.mark.parametrize("latency", [0, 768])
def test_lookahead_is_the_longest_that_an_output_waits(rates, latency):
    rate_in, rate_out = rates
    resampler, waits = Resampler(*rates, latency), []
    for newest in range(2000):
        for _ in resampler.process(np.zeros(1, np.float32)):
            steps = (len(waits) - resampler.lag) * rate_in + latency * rate_out
            waits.append(newest - steps // rate_out)
    assert max(waits) == resampler.lookahead


def test_a_rate_that_takes_pages_is_cut_short():
    with pytest.raises(AudioError) as caught:
        Resampler(10**400, 16000)
    assert len(str(caught.value)) < 200
