"""`LiveStream`: as much comes out as goes in, at any rate, in blocks of any size."""

from __future__ import annotations

import copy
import math
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
from drawn_models import small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pure_delay import Delay
from sounds import hiss

import npfsn
from npfsn import live_stream
from npfsn.errors import AudioError, FrameError
from npfsn.live_stream import LiveStream

LATENCY = Delay.latency_samples


@pytest.fixture
def delay(monkeypatch):
    monkeypatch.setattr(live_stream, "Enhancer", Delay)


@given(
    st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
    | st.integers(8000, 100_000),
    st.sampled_from([None, 1, 128, 160, 441, 480, 512, 1024]) | st.integers(1, 3000),
    st.lists(st.integers(1, 3), min_size=40, max_size=40),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_as_much_comes_out_as_goes_in_as_late_as_it_says(delay, rate, block, counts):
    """The latency never grows: what waits is what was there at the start."""
    live = LiveStream(rate, block)
    assert live.block_length == (block or -(-256 * rate // 16000))
    if block == 1:
        counts = [50 * n + 7 for n in counts]
    sizes = [live.block_length * n for n in counts]
    t = np.arange(sum(sizes))
    sound = np.sin(2 * np.pi * 300.0 / rate * t).astype(np.float32)
    heard = []
    for samples in np.split(sound, np.cumsum(sizes)[:-1]):
        heard.append(live.process(samples))
        assert heard[-1].shape == samples.shape
    heard = np.concatenate(heard)
    settled = live.latency_samples + rate // 100
    expected = np.sin(2 * np.pi * 300.0 / rate * (t[settled:] - live.latency_samples))
    np.testing.assert_allclose(heard[settled:], expected, atol=5e-3)
    assert live.latency_samples <= (LATENCY + 256 + 50) * rate / 16000 + 50
    assert live.latency_ms == 1000 * live.latency_samples / rate


@pytest.mark.parametrize(
    ("rate", "block", "late"),
    [
        (None, None, LATENCY),  # what an Enhancer has
        (16000, 512, LATENCY),
        (16000, 160, LATENCY + 256 - 32),
        (16000, 1, LATENCY + 255),
        (48000, None, 3 * LATENCY + 60),
        (48000, 480, 3 * (LATENCY + 256 - 32) + 60),
    ],
)
def test_no_more_zeros_than_needed(delay, rate, block, late):
    live = LiveStream(rate, block)
    assert live.latency_samples == late
    left = []
    for _ in range(8 * 256):
        live.process(np.zeros(live.block_length, np.float32))
        left.append(live._ready.size)
    assert min(left) <= (2 if rate == 48000 else 0)  # once, no more was at hand than was given


def test_a_live_stream_is_the_enhancers_later():
    x = hiss(1.0)
    live, enhancer = LiveStream(), npfsn.Enhancer()
    np.testing.assert_array_equal(live.process(x[:15872]), enhancer.process(x[:15872]))
    live.reset()
    np.testing.assert_array_equal(
        np.concatenate([live.process(x[at : at + 256]) for at in range(0, 15872, 256)]),
        npfsn.Enhancer().process(x[:15872]),
    )
    others = [LiveStream(48000, 480, model, atten_lim_db=6.0) for model in (None, enhancer.model)]
    first, second = (other.process(np.repeat(x, 3)) for other in others)
    np.testing.assert_array_equal(first, second)


def test_a_live_stream_tells_what_it_runs_with():
    options = {"precision": "int8", "norm": "forgetting_norm", "on_nonfinite": "zero"}
    live = LiveStream(48000, 480, **options, norm_horizon=3.0, atten_lim_db=12.0)
    assert {name: getattr(live, name) for name in options} == options
    assert (live.norm_horizon, live.atten_lim_db, live.sample_rate) == (3.0, 12.0, 48000)
    assert LiveStream(model=live.model).model is live.model


@pytest.mark.parametrize("rate", [11025, 12345, 16000, 22050, 44100, 48000])
def test_a_limit_keeps_what_lies_beyond_the_band_of_the_model(delay, rate):
    """0 dB: all of the input, at its own rate, as late as it says."""
    sound, live = hiss(0.5, rate), LiveStream(rate, 1, atten_lim_db=0.0)
    heard = live.process(sound)
    late = live.latency_samples
    np.testing.assert_array_equal(heard[:late], 0.0)
    np.testing.assert_array_equal(heard[late:], sound[:-late])


@pytest.mark.parametrize("rate", [8000, 11025, 12345, 22050, 44100, 48000])
def test_what_is_mixed_in_comes_when_the_enhanced_does(delay, rate):
    """Else some of the band is lost where both meet: at 11025 Hz 0.4 samples were 6 dB."""
    t, edge = np.arange(rate // 2), 0.7 * min(rate, 16000) / 2
    sound = np.sin(2 * np.pi * edge / rate * t).astype(np.float32)
    live = LiveStream(rate, 1, atten_lim_db=6.0)  # the delay passes all of it, so all is left
    heard = live.process(sound)[live.latency_samples + rate // 100 :]
    expected = sound[rate // 100 : rate // 100 + heard.size]
    np.testing.assert_allclose(heard, expected, atol=5e-3)


@pytest.mark.parametrize(("rate", "block"), [(16000, 256), (16000, 160), (48000, 480), (44100, 1)])
def test_the_limit_of_a_live_stream_may_change(rate, block):
    """From one block to the next, to none and back, at once: also of blocks that are no hops."""
    quiet = small_model("fast_fullsubnet")
    limits = (None, 6.0, 0.0)
    live, *others = (
        LiveStream(rate, block, quiet, atten_lim_db=limit) for limit in (None, *limits)
    )
    size = max(block, 256 // block * block)
    sound = hiss(2.0, rate)[: 30 * size]
    late = np.concatenate((np.zeros(live.latency_samples, np.float32), sound)).astype(np.float32)
    for i, block in enumerate(sound.reshape(30, -1)):
        live.atten_lim_db = limits[i % 3]
        assert live.atten_lim_db == limits[i % 3]
        expected = [other.process(block) for other in others][i % 3]
        found = live.process(block)
        np.testing.assert_array_equal(found, expected)
        if live.atten_lim_db == 0.0:  # the input, to the bit
            np.testing.assert_array_equal(found, late[i * size : (i + 1) * size])
    assert np.all(found)  # sound has come through
    live.atten_lim_db = math.inf
    assert live.atten_lim_db is None
    live.atten_lim_db = limits[i % 3]
    with pytest.raises(ValueError, match="atten_lim_db"):
        live.atten_lim_db = -1
    assert live.atten_lim_db == limits[i % 3]


@pytest.mark.parametrize(
    "rate, block",
    [(44100, 441), (48000, None), (48000, 480), (48000, 960), (24000, None), (8000, None),
     (32000, 320), (192000, 1920), (44099, 441), (16000, 1), (48000, 1), (48000, 1920),
     (8000, 640), (48000, 4800), (44100, 7056)],
)  # fmt: skip
@pytest.mark.parametrize("blocks", [0, 1, 20, 21, 22, 23, 24, 25, 26, 27])
@pytest.mark.parametrize("limit", [None, 12.0])
def test_a_live_stream_ends(delay, rate, block, blocks, limit):
    """All that went in comes out, as late as it says; then nothing may follow but a reset."""
    live, other = (LiveStream(rate, block, atten_lim_db=limit) for _ in range(2))
    late, length = other.latency_samples, other.block_length
    sound = np.resize(hiss(0.3, rate), blocks * length)
    heard = np.concatenate([live.process(sound), live.flush()])
    rest = -(-late // length) * length
    longer = other.process(np.concatenate([sound, np.zeros(rest, np.float32)]))
    assert heard.size == sound.size + late
    np.testing.assert_array_equal(heard, longer[: heard.size])
    assert live.flush().size == 0
    with pytest.raises(npfsn.StreamEndedError, match="flushed"):
        live.process(sound)
    live.reset()
    np.testing.assert_array_equal(live.process(sound), heard[: sound.size])


@pytest.mark.parametrize("duplicate", [LiveStream.copy, copy.copy, copy.deepcopy])
def test_copies_of_a_live_stream_are_independent(duplicate):
    sound = hiss(0.5, 48000)
    live, alone = (LiveStream(48000, 480, atten_lim_db=6.0) for _ in range(2))
    for each in (live, alone):
        each.process(sound[:9600])
    other = duplicate(live)
    other.process(-sound[:4800])
    again = duplicate(live)
    for name, array in vars(live).items():
        if isinstance(array, np.ndarray):
            assert not np.may_share_memory(array, getattr(again, name)), name
    # The filter is the one large thing that a stream at another rate has.
    assert again._stream._there._filter is live._stream._there._filter is not None
    expected = alone.process(sound[9600:])
    np.testing.assert_array_equal(live.process(sound[9600:]), expected)
    np.testing.assert_array_equal(again.process(sound[9600:]), expected)
    assert repr(again).startswith("<npfsn.LiveStream 48000 Hz, 480 samples")
    with pytest.raises(TypeError, match="LiveStream is not pickled"):
        pickle.dumps(live)


def test_samples_beyond_all_measure_are_those_of_an_enhancer():
    """Clipped at 1e30, also where the input is mixed in; what is next to nothing is silence."""
    model = small_model("fast_fullsubnet")
    sound = hiss(0.5, 16000)[:7680]
    sound[[1000, 2000]] = 1e31, 1e-35
    enhancer, live = npfsn.Enhancer(model, atten_lim_db=6.0), LiveStream(16000, 256, model)
    live.atten_lim_db = 6.0
    np.testing.assert_array_equal(live.process(sound), enhancer.process(sound))


def test_a_live_stream_has_one_user(monkeypatch):
    """Whoever comes second is told, and disturbs nothing, not even what is outside the Enhancer."""
    sound = hiss(0.3, 48000)
    live, alone = (LiveStream(48000, 480, atten_lim_db=6.0) for _ in range(2))
    calls = (lambda: live.process(sound[:480]), live.flush, live.reset, live.copy)
    enhance, given = npfsn.Enhancer.process, []

    def disturbed(self, x):
        for call in calls if self is live._enhancer else ():
            with pytest.raises(npfsn.ConcurrentUseError, match="another LiveStream"):
                call()
            given.append(call)
        return enhance(self, x)

    monkeypatch.setattr(npfsn.Enhancer, "process", disturbed)
    for at in range(0, 9600, 480):
        block = sound[at : at + 480]
        np.testing.assert_array_equal(live.process(block), alone.process(block))
    assert len(given) == 20 * len(calls)


def test_an_interrupted_live_stream_says_so(monkeypatch):
    """Wherever it was cut: the blocks that follow would be too short."""
    sound = hiss(0.3, 48000)
    live = LiveStream(48000, 480)
    expected = live.process(sound)
    live.reset()
    with monkeypatch.context() as patch:

        def interrupt(*_):
            raise KeyboardInterrupt

        patch.setattr(npfsn.Enhancer, "process", interrupt)
        with pytest.raises(KeyboardInterrupt):
            live.process(sound[:480])
    for call in (lambda: live.process(sound[:480]), live.flush, live.copy):
        with pytest.raises(npfsn.StreamEndedError, match="call reset.* to start a new one$"):
            call()
    live.reset()
    np.testing.assert_array_equal(live.process(sound), expected)


def test_blocks_that_a_live_stream_refuses(delay):
    live = LiveStream(48000, 480)
    for block, error, message in (
        (np.zeros(481, np.float32), FrameError, "has 481 samples: expected 480 or"),
        (np.zeros((480, 1), np.float32), FrameError, r"one dimension; give block\[:, 0\]"),
        (np.zeros((480, 2), np.float32), FrameError, "one dimension; give every channel"),
        (np.zeros(480, np.int16), TypeError, "int16"),
        (np.full(480, np.nan), FrameError, "480 of 480 samples are NaN"),
    ):
        with pytest.raises(error, match=message):
            live.process(block)
    sound = hiss(0.2, 48000)
    np.testing.assert_array_equal(live.process(sound), LiveStream(48000, 480).process(sound))
    silent = LiveStream(48000, 480, on_nonfinite="zero")
    sound[100] = np.inf
    for n in (1, 2):
        assert np.isfinite(silent.process(sound)).all() and silent.n_nonfinite == n
    assert np.isinf(sound[100])  # not modified
    silent.reset()
    assert silent.n_nonfinite == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((48000, 0), ValueError, "block_length is 0"),
        ((48000, 480.0), TypeError, "block_length is 480.0"),
        ((48000, "480"), TypeError, "block_length is '480'"),
        ((48000.5,), AudioError, "sample rate is 48000.5"),
        (("48000",), TypeError, "sample rate is '48000'"),
        ((100,), AudioError, "sample rate is 100"),
        ((0,), AudioError, "sample rate is 0"),
    ],
)
def test_what_no_live_stream_can_have(delay, arguments, error, message):
    with pytest.raises(error, match=message):
        LiveStream(*arguments)


@pytest.mark.parametrize(("rate", "block"), [(16000, 10**6), (44100, 10**6), (8000, 10**5)])
@pytest.mark.parametrize("limit", [None, 12.0, 0.0])
def test_the_end_of_long_blocks_is_short(delay, rate, block, limit):
    """It takes what the latency takes, and is what it is with short ones."""
    sound = hiss(block / rate, rate)
    ends = []
    for length in (block, 1):
        live = LiveStream(rate, length, atten_lim_db=limit)
        heard = live.process(sound)
        tracemalloc.start()
        rest = live.flush()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20 and rest.size == live.latency_samples
        ends.append(np.concatenate([heard, rest])[live.latency_samples :])
    np.testing.assert_array_equal(*ends)


class OwnStream(LiveStream):
    """As a program may have one."""


def test_copies_share_what_others_have_added(delay):
    live = OwnStream(48000, 480)
    live.lock, live.log = threading.Lock(), []
    other = live.copy()
    assert other.lock is live.lock and other.log is live.log and type(other) is OwnStream


def test_a_copy_of_a_stream_that_has_ended_has_ended(delay):
    live = LiveStream(48000, 480)
    live.flush()
    other = live.copy()
    with pytest.raises(npfsn.StreamEndedError, match="flushed"):
        other.process(np.zeros(480, np.float32))
    other.reset()
    assert other.process(np.zeros(480, np.float32)).size == 480


@pytest.mark.parametrize(
    ("call", "part", "within"), [("flush", "_stream", "process"), ("reset", "_enhancer", "reset")]
)
def test_an_interrupted_call_is_noticed(monkeypatch, call, part, within):
    live = LiveStream(48000, 480, small_model("fast_fullsubnet"))
    live.process(np.zeros(480, np.float32))

    def cut(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(getattr(live, part), within, cut)
        with pytest.raises(KeyboardInterrupt):
            getattr(live, call)()
    with pytest.raises(npfsn.StreamEndedError, match="interrupted"):
        live.process(np.zeros(480, np.float32))
    with pytest.raises(npfsn.StreamEndedError, match="interrupted"):
        live.flush()
    live.reset()
    assert live.process(np.zeros(480, np.float32)).shape == (480,)


@pytest.mark.parametrize("limit", [None, 6.0])
def test_results_and_streams_hold_no_more_than_their_samples(limit):
    """Callers keep results: a slice would keep alive all that waited behind it."""
    live = LiveStream(48000, 64, small_model("fast_fullsubnet"), atten_lim_db=limit)
    assert all(live.process(np.zeros(64, np.float32)).base is None for _ in range(50))
    live.process(np.zeros(64000, np.float32))
    assert live._ready.base is None and live._dry.base is None
    assert live.flush().base is None


def test_a_block_length_is_no_truth_value():
    with pytest.raises(TypeError, match="block_length is True"):
        LiveStream(16000, True)


def test_a_block_length_may_be_one_of_numpys(delay):
    """Products with it must not be in its own sixteen bits."""
    live = LiveStream(48000, np.int16(480))
    assert type(live.block_length) is int
    assert live.latency_samples == LiveStream(48000, 480).latency_samples


def test_a_live_stream_and_its_copy_may_run_at_the_same_time(monkeypatch):
    live = LiveStream(48000, 480, small_model("fast_fullsubnet"))
    other, enhance_some, given = live.copy(), npfsn.Enhancer.process, []

    def meanwhile(self, samples):
        if self is live._enhancer:
            given.append(other.process(np.zeros(480, np.float32)))
        return enhance_some(self, samples)

    monkeypatch.setattr(npfsn.Enhancer, "process", meanwhile)
    live.process(np.zeros(480, np.float32))
    assert len(given) == 1


def test_snr_is_that_of_the_enhancer() -> None:
    model, sound = small_model("fast_fullsubnet"), hiss(0.5)
    live, enhancer = LiveStream(16000, 256, model), npfsn.Enhancer(model)
    assert live.last_snr_db == -math.inf
    live.process(sound[:7680])
    enhancer.process(sound[:7680])
    assert live.last_snr_db == enhancer.last_snr_db > -math.inf
    live.reset()
    assert live.last_snr_db == -math.inf
