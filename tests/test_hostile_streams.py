"""Hostile samples, hostile states, other threads, interrupts: a stream stays a stream."""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import itertools
import json
import math
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from fractions import Fraction

import numpy as np
import pytest
from commands import environment
from drawn_models import apply_norm, golden_model, identity_model, noise, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import posix
from streams import in_hops, run, same_state

import npfsn
from npfsn import machine_code, packed
from npfsn import state as states
from npfsn.alone import alone, together
from npfsn.config import CAUSAL_NORMS
from npfsn.errors import FrameError, StateError, StreamEndedError
from npfsn.models import ARCHITECTURES
from npfsn.norms import Norm
from npfsn.options import horizon_frames
from npfsn.program import Program
from npfsn.resample import resample

HOP = 256
FLOAT32_EPS = np.float64(np.finfo(np.float32).eps)
WEEK = 37_800_000  # frames of 16 ms
BIG = float(np.finfo(np.float32).max)
GOLDEN = ("fast_gru_cum", "fast_lstm_layernorm", "full_prelu_tanh", "base_lstm_cum", "improved_16k")
STREAMS = [
    *((name, None) for name in GOLDEN[:-1]),
    *((name, norm) for name in ARCHITECTURES for norm in CAUSAL_NORMS),
    ("improved_16k", "cumulative_laplace_norm"),
    ("improved_48k", "forgetting_norm"),
]
SMALL = [pair for pair in STREAMS if pair[0] in ARCHITECTURES]


def ids(pairs):
    return [f"{name}-{norm or 'own'}" for name, norm in pairs]


def stream(name: str, norm: str | None = None, **options) -> npfsn.Enhancer:
    model = small_model(name) if name in ARCHITECTURES else golden_model(name)
    return npfsn.Enhancer(model, norm=norm, **options)


def any_stream(**options) -> npfsn.Enhancer:
    return stream("fast_fullsubnet", "cumulative_laplace_norm", **options)


def speech(n: int, seed: int = 0) -> np.ndarray:
    """Return something with the level changes of speech."""
    envelope = np.abs(np.sin(np.arange(n) / 16000 * 2 * np.pi * 1.3)) ** 2
    return (noise(n, seed) * envelope).astype(np.float32)


def arrays_of(root: object) -> dict[str, np.ndarray]:
    """Collect the arrays of numbers of a stream: state, scratch, delay lines; not the weights."""
    found: dict[str, np.ndarray] = {}
    seen: set[int] = set()

    def walk(value: object, path: str) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            if value.dtype.kind == "f" and value.flags.writeable:
                found[path] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}.{key}")
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                walk(item, f"{path}[{i}]")
        elif type(value).__module__.startswith("npfsn") and hasattr(value, "__dict__"):
            if type(value).__name__ not in ("Model", "Network", "Config", "MelBands"):
                walk(vars(value), path)

    walk(vars(root), "")
    return found


def in_another_process(program: str, *flags: str, **options) -> None:
    """Run a program that has to succeed."""
    subprocess.run(
        [sys.executable, *flags, "-c", program],
        env=environment(), check=True, timeout=120, **options,
    )  # fmt: skip


def denormals(enhancer: npfsn.Enhancer) -> list[str]:
    """Name the arrays of a stream that hold denormal numbers."""
    return [
        name
        for name, a in arrays_of(enhancer).items()
        if np.any((a != 0) & (np.abs(a) < np.finfo(a.dtype).tiny))
    ]


# --- samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", SMALL, ids=ids(SMALL))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, HOP - 1])
def test_a_frame_that_is_not_finite_changes_nothing(pair, value, at):
    enhancer = stream(*pair)
    enhancer.process(noise(10 * HOP + 17))  # part of a hop is pending
    before = enhancer.get_state()
    frame = noise(HOP, 1)
    frame[at] = value
    out = np.full(HOP, 7.0, np.float32)
    with pytest.raises(FrameError, match="1 of 256 samples are NaN or infinite"):
        enhancer.step(frame, out)
    with pytest.raises(FrameError, match="NaN or infinite"):
        enhancer.process(np.concatenate([noise(5 * HOP), frame]))
    with pytest.raises(FrameError, match="NaN or infinite"):
        enhancer.step(np.full(HOP, 1e39))  # float64 that float32 cannot hold
    assert same_state(enhancer.get_state(), before)
    assert np.all(out == 7.0)
    other = stream(*pair)
    other.process(noise(10 * HOP + 17))
    assert np.array_equal(enhancer.process(noise(3000, 2)), other.process(noise(3000, 2)))


def hostile_signals(n: int) -> dict[str, np.ndarray]:
    t = np.arange(n)
    rng = np.random.default_rng(8)
    impulse = np.zeros(n, np.float32)
    impulse[n // 3] = BIG
    signs = rng.choice([-1.0, 1.0], n)
    sizes = 10.0 ** rng.uniform(-45, 38, n)
    return {
        "largest": np.full(n, BIG),
        "largest noise": signs * BIG,
        "1e30": signs * 1e30,
        "smallest": np.full(n, 1e-45),
        "denormal noise": signs * 1e-40,
        "alternating": np.where(t % 2, BIG, -BIG),
        "extremes": np.where(t // HOP % 2, BIG, 1e-45) * signs,
        "all sizes": signs * sizes,
        "dc": np.ones(n),
        "large dc": np.full(n, 1e20),
        "square": np.sign(np.sin(t / 20)) * 1e3,
        "impulse": impulse,
        "zeros": np.zeros(n),
    }


@pytest.mark.parametrize("pair", STREAMS, ids=ids(STREAMS))
def test_any_finite_input_gives_finite_output_and_a_stream_that_recovers(pair):
    enhancer = stream(*pair)
    hop = enhancer.frame_length
    x = noise(12 * hop, 3)
    fresh = in_hops(enhancer, x)
    for name, hostile in hostile_signals(24 * hop).items():
        enhancer.reset()
        hostile = hostile.astype(np.float32)
        out = [in_hops(enhancer, hostile), enhancer.process(x), enhancer.process(hostile)]
        state = enhancer.get_state()
        assert all(np.all(np.isfinite(a)) for a in state.values() if a.dtype.kind == "f"), name
        other = stream(*pair)
        other.set_state(state)  # its own state is one that it accepts
        out.append(enhancer.flush())
        assert all(np.all(np.isfinite(y)) for y in out), name
        assert np.array_equal(other.flush(), out[-1]), name
        assert not denormals(enhancer), name
        enhancer.reset()
        assert np.array_equal(in_hops(enhancer, x), fresh), name


@pytest.mark.parametrize("value", [BIG, -BIG, 1e30, 1e-45])
def test_whole_signals_of_any_size_stay_finite(value):
    for name in GOLDEN:
        x = np.full(5000, value, np.float32)
        x[::3] *= np.float32(-0.5)
        for rate in (16000, 44100):
            assert np.all(np.isfinite(npfsn.enhance(x, rate, golden_model(name)))), name


def test_a_network_that_overflows_is_muted_not_passed_on():
    for name in ARCHITECTURES:
        model = small_model(name)
        tensors = {
            key: np.full_like(tensor, 3e38) if key.endswith("fc_output_layer.weight") else tensor
            for key, tensor in model.tensors.items()
        }
        wild = npfsn.Model(model.architecture, model.config, tensors)
        enhancer = npfsn.Enhancer(wild, norm="forgetting_norm")
        with np.errstate(over="ignore"):
            out = [
                in_hops(enhancer, noise(20 * HOP)),
                in_hops(enhancer, np.zeros(20 * HOP, np.float32)),
            ]
        assert np.all(np.isfinite(out)), name


def test_a_mask_that_is_no_number_mutes():
    from npfsn.kernels import features

    mask = np.float32([[[np.nan, np.inf, 0.5]], [[0.5, -np.inf, np.nan]]]).reshape(1, 2, 3)
    for apply in (features.apply_complex, features.apply_planes):
        spec = np.ones((1, 2, 3))
        apply(mask, spec)
        assert np.all(np.isfinite(spec))
        spec = np.ones((1, 2, 3))
        apply(np.full((1, 2, 3), np.nan, np.float32), spec)
        assert not spec.any()


def test_a_steep_compression_of_loud_frames_does_not_overflow():
    steep = small_model("improved_fullsubnet", fdrc=4.0)
    enhancer, other = (npfsn.Enhancer(steep, norm="cumulative_layer_norm") for _ in range(2))
    out = in_hops(enhancer, np.full(20 * HOP, 1e30, np.float32))
    assert np.all(np.isfinite(out))
    other.set_state(enhancer.get_state())  # accepts only a finite state
    assert not denormals(enhancer)


def test_input_comes_in_every_shape_that_numpy_has(tmp_path):
    enhancer, plain = any_stream(), any_stream()
    x = noise(8 * HOP)
    frames = x.reshape(-1, HOP)
    expected = [plain.step(f) for f in frames]
    loaded = dict(machine_code._loaded)
    read_only = frames[0].copy()
    read_only.flags.writeable = False
    strided = np.zeros((HOP, 2), np.float32)
    strided[:, 0] = frames[1]
    memmap = np.memmap(tmp_path / "x", np.float32, "w+", shape=(HOP,))
    memmap[:] = frames[2]
    raw = bytearray(4 * HOP + 1)
    raw[1:] = frames[3].tobytes()
    unaligned = np.frombuffer(raw, np.float32, HOP, 1)
    received = np.frombuffer(frames[4].tobytes(), np.float32)
    for i, frame in enumerate(
        [read_only, strided[:, 0], memmap, unaligned, received, frames[5][::-1][::-1],
         frames[6].astype(np.float64), frames[7].view(np.recarray)]
    ):  # fmt: skip
        assert np.array_equal(enhancer.step(frame), expected[i])
    received = np.frombuffer(x.tobytes(), np.float32)
    assert np.array_equal(
        npfsn.enhance(received, 16000, enhancer.model), npfsn.enhance(x, 16000, enhancer.model)
    )
    assert machine_code._loaded == loaded  # or a call would stall for it
    before = enhancer.get_state()
    for bad in [
        np.ma.masked_array(frames[0], frames[0] > 0), frames[0].astype(">f4"), list(frames[0]),
        frames[0].astype(np.float16), frames[0].astype(complex), frames[0].astype(object),
        np.array("x"), None, frames, frames[0][:-1], np.zeros(0, np.float32),
    ]:  # fmt: skip
        with pytest.raises((TypeError, FrameError)):
            enhancer.step(bad)
    masked = np.ma.masked_all(HOP, np.float32)
    for out in [read_only, unaligned, strided[:, 0], masked, frames[0][:-1],
                frames[0].astype("f8"), 3]:  # fmt: skip
        with pytest.raises((TypeError, FrameError)):
            enhancer.step(frames[0], out)
    with pytest.raises(TypeError, match=">f4, bytes in the order of other machines: expected"):
        npfsn.enhance(x.astype(">f4"), 16000, enhancer.model)
    assert same_state(enhancer.get_state(), before)


def test_what_float32_cannot_hold_is_cast_without_a_word():
    """Signalling NaN, denormals and 1e300, though the caller has NumPy raise at everything."""
    tiny = np.full(2 * HOP, 5e-324)
    no_number = np.full(HOP, 0x7FF0000000000001, np.uint64).view(np.float64)
    with np.errstate(all="raise"):
        enhancer = any_stream(on_nonfinite="zero", atten_lim_db=390.0)
        assert not enhancer.process(tiny).any()
        enhancer.step(no_number)
        assert enhancer.n_nonfinite == HOP
        enhancer.step(np.full(HOP, 1e300))
        assert enhancer.n_nonfinite == 2 * HOP
        for x in (tiny, 1e-19 * noise(2000).astype(np.float64)):
            y = npfsn.enhance(x, 44100, enhancer.model, atten_lim_db=390.0)
            assert np.isfinite(y).all()


def test_whole_signals_come_in_every_kind_of_array():
    x = noise(600).reshape(300, 2)
    model = any_stream().model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.asmatrix(x)
    y = npfsn.enhance(matrix, 16000, model)
    assert type(y) is np.ndarray and np.array_equal(y, npfsn.enhance(x, 16000, model))
    with pytest.raises(TypeError, match="MaskedArray"):
        npfsn.enhance(np.ma.masked_array(x, x > 0), 16000, model)


# --- silence and denormals -----------------------------------------------------------------------


@pytest.mark.parametrize("pair", STREAMS, ids=ids(STREAMS))
def test_silence_leaves_no_denormal_anywhere(pair):
    """Denormals cost up to fifty times the time; that there are none is what a test can tell."""
    enhancer = stream(*pair, atten_lim_db=390.0)
    hop = enhancer.frame_length
    rng = np.random.default_rng(2)
    in_hops(enhancer, speech(60 * hop))
    assert len(arrays_of(enhancer)) > 10
    for level in (0.0, 1e-40, 1e-31, 1e-20):
        for _ in range(10):
            out = in_hops(enhancer, (rng.normal(size=40 * hop) * level).astype(np.float32))
            assert not denormals(enhancer)
            assert not np.any((out != 0) & (np.abs(out) < 1.2e-38))
    in_hops(enhancer, np.full(hop, 1e30, np.float32))  # from here on the running norms are huge
    for level in (1e-9, 1e-20, 0.0):
        in_hops(enhancer, (rng.normal(size=40 * hop) * level).astype(np.float32))
        assert not denormals(enhancer)


@pytest.mark.parametrize("norm", CAUSAL_NORMS)
def test_running_sums_that_fade_arrive_at_zero(norm):
    """With a horizon they fade by a share in each frame of silence, and would stay denormal."""
    enhancer = npfsn.Enhancer(small_model("fullsubnet"), norm=norm, norm_horizon=0.1)
    enhancer.process(speech(40 * HOP))
    for _ in range(20):
        enhancer.process(np.zeros(300 * HOP, np.float32))
        assert not denormals(enhancer)


def test_nothing_but_zeros_is_left_behind_very_soft_sound():
    """No rounding errors, which are denormal there, nor in the last samples under one window."""
    x = noise(20 * HOP + 100, level=1e-24)
    x[-150:] = 0.0
    y = npfsn.enhance(x, 16000, identity_model("fullband"))
    assert y[:-150].all() and not y[-150:].any()


def test_states_that_decay_arrive_at_zero():
    """A network without biases forgets: after long silence its states are zero, not nearly so."""
    model = small_model("fullband")
    tensors = {k: np.zeros_like(v) if "bias" in k else v for k, v in model.tensors.items()}
    still = npfsn.Model(model.architecture, model.config, tensors)
    enhancer = npfsn.Enhancer(still, norm="forgetting_norm")
    in_hops(enhancer, speech(40 * HOP))
    slowest = 0
    while any(np.any(a) for k, a in enhancer.get_state().items() if re.search(r"\.[hc]\d", k)):
        in_hops(enhancer, np.zeros(20 * HOP, np.float32))
        assert not denormals(enhancer)
        slowest += 20
        assert slowest < 4000


# --- running norms over a week -------------------------------------------------------------------


def bound(name: str, units: int, size: int, horizon: float = math.inf):
    norm = Norm(name, "n", units, size)
    state = states.zeros(norm.fields())
    found = norm.bind(state)
    found.set_horizon(horizon)
    return found, state


@pytest.mark.parametrize("frames", [0, WEEK, 52 * WEEK])
def test_a_cumulative_mean_keeps_moving_exactly(frames):
    norm, state = bound("cumulative_laplace_norm", 1, 64)
    rng = np.random.default_rng(0)
    state["n.count"][:] = frames
    state["n.total"][:] = frames * 64 * 3.7
    exact = Fraction(float(state["n.total"][0]))
    for _ in range(2000):
        x = np.abs(rng.normal(0, 2, (1, 1, 64))).astype(np.float32)
        out = np.empty_like(x)
        apply_norm(norm, x, out)
        exact += sum(Fraction(float(v)) for v in x.ravel())
    moved = float(exact - Fraction(frames * 64 * 3.7))
    assert state["n.count"][0] == frames + 2000
    assert abs(state["n.total"][0] - frames * 64 * 3.7 - moved) <= 1e-6 * moved
    mean = float(exact / (frames + 2000) / 64)
    np.testing.assert_allclose(out, x / (mean + FLOAT32_EPS), rtol=3e-7)


@pytest.mark.parametrize("frames", [0, WEEK, 52 * WEEK])
def test_a_cumulative_variance_keeps_its_precision(frames):
    norm, state = bound("cumulative_layer_norm", 2, 16)
    rng = np.random.default_rng(0)
    # Both sums in exact arithmetic; the mean is large beside the spread, as it is for magnitudes.
    mean, square = Fraction(37, 10), Fraction(1370, 100) + Fraction(1, 16)
    state["n.count"][:] = frames
    state["n.total"][:] = float(frames * 16 * mean)
    state["n.square"][:] = float(frames * 16 * square)
    total = [Fraction(float(state["n.total"][0]))] * 2
    squares = [Fraction(float(state["n.square"][0]))] * 2
    for _ in range(500):
        x = (3.7 + rng.normal(0, 0.25, (1, 2, 16))).astype(np.float32)
        out = np.empty_like(x)
        apply_norm(norm, x, out)
        for u in range(2):
            total[u] += sum(Fraction(float(v)) for v in x[0, u])
            squares[u] += sum(Fraction(float(v)) ** 2 for v in x[0, u])
    n = (frames + 500) * 16
    for u in range(2):
        m = total[u] / n
        spread = math.sqrt(float(squares[u] / n - m * m) + FLOAT32_EPS)
        expected = (x[0, u] - np.float64(m)) / spread
        np.testing.assert_allclose(out[0, u], expected, rtol=1e-6, atol=2e-6)


def test_a_forgetting_mean_does_not_care_how_long_it_has_run():
    norm, state = bound("forgetting_norm", 1, 8)
    state["n.count"][:], state["n.mu"][:] = WEEK, 2.5
    a, mu = Fraction(191, 193), Fraction(5, 2)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        x = np.abs(rng.normal(0, 1, (1, 1, 8))).astype(np.float32)
        apply_norm(norm, x, np.empty_like(x))
        mu = a * mu + (1 - a) * sum(Fraction(float(v)) for v in x.ravel()) / 8
        mu = Fraction(float(mu))
    assert state["n.count"][0] == WEEK + 1000
    assert abs(state["n.mu"][0] / float(mu) - 1) < 1e-12


@pytest.mark.parametrize("pair", STREAMS, ids=ids(STREAMS))
@pytest.mark.parametrize("start", [WEEK, 2**31 - 8, 2**32 - 8, 2**53 - 64])
def test_the_clock_passes_every_limit_of_integers(pair, start):
    """The same stream with its clock set forward gives the same bits."""
    enhancer = stream(*pair)
    hop = enhancer.frame_length
    shrink = getattr(enhancer.model.config, "shrink_size", 1)
    in_hops(enhancer, noise(13 * hop))
    state = enhancer.get_state()
    later = {name: array.copy() for name, array in state.items()}
    later["clock"] += start // (6 * shrink) * (6 * shrink)
    other = stream(*pair)
    other.set_state(later)
    x = noise(50 * hop, 5)
    assert np.array_equal(in_hops(other, x), in_hops(enhancer, x))
    assert np.array_equal(other.process(x), enhancer.process(x))
    assert other.get_state()["clock"][0] > start
    assert np.array_equal(other.flush(), enhancer.flush())


@pytest.mark.parametrize("pair", SMALL, ids=ids(SMALL))
def test_a_stream_of_a_week_still_enhances(pair):
    """Every sum and counter set forward as a week of the same sound would leave it."""
    enhancer, week = stream(*pair), stream(*pair)
    x = speech(200 * HOP)
    in_hops(enhancer, x)
    state = enhancer.get_state()
    factor = WEEK // 6 * 6
    shrink = getattr(enhancer.model.config, "shrink_size", 1)
    for name, array in state.items():
        if name.endswith((".total", ".square")):
            array *= 1.0 + factor / 200.0
        elif name.endswith(".count"):
            array += factor / (shrink if name.startswith("sb_norm") else 1)
    state["clock"] += factor
    week.set_state(state)
    a, b = in_hops(week, x), in_hops(enhancer, x)
    assert np.all(np.isfinite(a))
    # The same sound goes on, so the means are nearly the same and so is the output.
    assert np.std(a - b) < 0.1 * np.std(b)


# --- norm_horizon --------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", SMALL, ids=ids(SMALL))
def test_a_horizon_beyond_the_signal_changes_no_bit(pair):
    x = speech(100 * HOP)
    expected = in_hops(stream(*pair), x)
    for seconds in (1e9, 1e300, math.inf, np.float32(4e4), 3000):
        assert np.array_equal(in_hops(stream(*pair, norm_horizon=seconds), x), expected)


@pytest.mark.parametrize("horizon", [1.0, 1.5, 7.0, 20.25])
def test_a_horizon_makes_the_mean_exponential(horizon):
    norm, state = bound("cumulative_laplace_norm", 1, 4, horizon=horizon)
    layer, layer_state = bound("cumulative_layer_norm", 1, 4, horizon=horizon)
    rng = np.random.default_rng(4)
    count, total, square = 0.0, 0.0, 0.0
    for _ in range(100):
        x = np.abs(rng.normal(0, 1, (1, 1, 4))).astype(np.float32)
        out = np.empty_like(x)
        apply_norm(layer, x, out)
        apply_norm(norm, x, out)
        if count + 1.0 > horizon:
            total, square = (v * (horizon - 1.0) / count for v in (total, square))
            count = horizon - 1.0
        count += 1.0
        total += float(np.sum(x, dtype="f8"))
        square += float(np.sum(x.astype("f8") ** 2))
        np.testing.assert_allclose(state["n.total"][0], total, rtol=1e-12)
        np.testing.assert_allclose(layer_state["n.square"][0], square, rtol=1e-12)
        assert state["n.count"][0] == pytest.approx(min(count, horizon))
        np.testing.assert_allclose(out, x / (total / (count * 4) + FLOAT32_EPS), rtol=1e-6)


def seconds_to_recover(horizon: float | None, loud: float, limit: float) -> float:
    """Return how long after a loud second the full-band mean is within 1 dB of the right one."""
    norm, state = bound(
        "cumulative_laplace_norm", 1, 64,
        horizon=math.inf if horizon is None else horizon * 16000 / 256,
    )  # fmt: skip
    x, out = np.empty((2, 1, 1, 64), np.float32)
    program = Program()  # written once: most of the time would go there
    norm.write(program, x, out)
    for level, frames in ((1.0, 625), (loud, 63)):
        x[:] = level
        for _ in range(frames):
            program.play(0, 1)
    x[:] = 1.0
    frames = 0
    while out[0, 0, 0] < 10 ** (-1 / 20) and frames < limit * 62.5 or frames == 0:
        program.play(0, 1)
        frames += 1
    return frames / 62.5


def test_a_horizon_of_one_hop_is_one_in_any_rounding():
    """49 samples at 24 kHz were refused: expected 0.0020 s, found 0.00204."""
    for hop in range(1, 2000):
        for rate in (16000, 24000, 44100, 48000):
            assert horizon_frames(hop / rate, rate, hop) == pytest.approx(1.0)
            assert horizon_frames(np.float32(hop / rate), rate, hop) == pytest.approx(1.0)
            with pytest.raises(ValueError, match="at least one hop, .* s$") as refusal:
                horizon_frames(0.999 * hop / rate, rate, hop)
            named = str(refusal.value).split()[-2]
            assert horizon_frames(float(named), rate, hop) == pytest.approx(1.0)


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_a_horizon_is_one_of_the_signal(horizon):
    """The norm of units, which come once in two frames, forgets as fast, but not at once."""
    model = small_model("fast_fullsubnet")
    hop = model.config.hop_length / model.config.sample_rate
    enhancer = npfsn.Enhancer(model, norm_horizon=horizon * hop)
    enhancer.process(np.zeros(20 * model.config.hop_length, np.float32))
    for block in (enhancer._stream._one, enhancer._stream._many):
        found = [float(norm.table["horizon"][0]) for norm in block.network_pass.norms]
        assert found == pytest.approx([horizon, max(horizon / 2, 1.0)])


def test_with_a_horizon_the_norm_recovers_from_a_loud_burst():
    # A second 40 dB louder: the mean follows within a few horizons, and never does without.
    assert seconds_to_recover(5.0, 100.0, 60.0) < 5 * 5.0
    assert seconds_to_recover(20.0, 100.0, 200.0) < 5 * 20.0
    assert seconds_to_recover(None, 100.0, 200.0) >= 200.0
    # The worst there is: 600 dB louder. ln(1e30) horizons.
    assert seconds_to_recover(5.0, 1e30, 1000.0) < 80 * 5.0


# --- states --------------------------------------------------------------------------------------


class Unreadable(dict):
    """A mapping whose entries cannot be read, as a damaged archive's."""

    def __getitem__(self, name):
        if name != "header":
            raise OSError("disk on fire")
        return super().__getitem__(name)


def damaged_states(good: dict[str, np.ndarray]) -> dict[str, tuple[object, str]]:
    """States that must be refused, each with a word of the reason."""
    header = json.loads(str(good["header"]))

    def having(**changes):
        return {**good, **{name.replace("__", "."): value for name, value in changes.items()}}

    def with_header(**changes):
        return {**good, "header": np.array(json.dumps({**header, **changes}))}

    def without(name):
        return {key: value for key, value in good.items() if key != name}

    def poked(name, value, at=0):
        array = good[name].copy()
        array.reshape(-1)[at] = value
        return {**good, name: array}

    hidden = next(name for name in good if name.endswith(".h0"))
    cell = next((name for name in good if name.endswith(".c0")), hidden)
    long_header = "[" * 200_000
    cases = {
        "none": (None, "not a state"),
        "list": (list(good.items()), "not a state"),
        "string": ("state", "not a state"),
        "empty": ({}, "not a state"),
        "no header": (without("header"), "not a state"),
        "unreadable": (Unreadable(good), "disk on fire"),
        "header that cannot be read": (having(header=[[1], [2, 3]]), "header cannot be read"),
        "header is no JSON": (having(header=np.array("{")), "header"),
        "header is a number": (having(header=np.array("3")), "header"),
        "header is null": (having(header=None), "header"),
        "header is bytes": (having(header=b"\xff\xfe"), "header"),
        "header is an array": (having(header=np.zeros((1000, 1000))), "header"),
        "header is deep": (having(header=np.array(long_header)), "header"),
        "header is empty": (having(header=np.array("{}")), "another stream"),
        "newer": (with_header(format=2), "format"),
        "other model": (with_header(model="0" * 64), "model"),
        "other architecture": (with_header(architecture="x" * 100_000), "architecture"),
        "other norm": (with_header(norm="forgetting"), "norm"),
        "other precision": (with_header(precision="int4"), "precision"),
        "other horizon": (with_header(norm_horizon=3.5), "norm_horizon"),
        "missing": (without("stft.ola"), "missing or in excess"),
        "many more": ({**good, **{f"x{i}": 0 for i in range(9999)}}, "in excess"),
        "odd keys": ({**good, 3: 0, None: 1, ("a",): 2}, "in excess"),
        "object array": (having(clock=np.array([3, 2], object)), "clock is |O"),
        "strings": (having(clock=np.array(["3", "2"])), "clock is <U1"),
        "ragged": (having(clock=[[1], [2, 3]]), "clock cannot be read"),
        "list of ints": (having(clock=[3, 2, 1]), "clock is"),
        "other byte order": (having(clock=good["clock"].astype(">i8")), "clock is >i8"),
        "other dtype": (having(stft__signal=good["stft.signal"].astype("f8")), "stft.signal is"),
        "huge": (having(pending=np.broadcast_to(np.float32(0), (1 << 40,))), "pending is"),
        "0-d": (having(pending=np.float32(0)), "pending is"),
        "extra axis": (having(pending=good["pending"][None]), "pending is"),
        "signal of 1e38": (poked("stft.signal", 1e38, 5), "stft.signal has values out of range"),
        "overlap of 1e150": (poked("stft.ola", 1e150), "stft.ola has values out of range"),
        "hidden of 1.5": (poked(hidden, 1.5), "out of range"),
        "cell of 1e30": (poked(cell, 1e30), "out of range"),
        "window sums": (poked("stft.env", 1e-300), "window sums"),
        "window sums off by little": (poked("stft.env", 5e-4, -1), "window sums"),
        "negative window sums": (poked("stft.env", -1.0), "window sums"),
        "pending of a hop": (poked("n_pending", HOP), "counters"),
        "pending of -1": (poked("n_pending", -1), "counters"),
        "ended of 2": (poked("ended", 2), "counters"),
        "bad of -1": (poked("n_nonfinite", -1), "counters"),
        "bad of 2^63 - 1": (poked("n_nonfinite", 2**63 - 1), "counters"),
        "hops of -1": (poked("clock", -1), "counters"),
        "hops of -1 before any frame": (having(clock=np.array([-1, 0])), "counters"),
        "hops too few": (poked("clock", 0), "counters"),
        "frames too many": (poked("clock", int(good["clock"][1]) + 1, 1), "counters"),
        "clock of 2^63 - 1": (having(clock=np.array([2**63 - 1, 2**63 - 1])), "counters"),
    }
    for name, array in good.items():
        if array.dtype.kind == "f" and array.size:
            for value in (np.nan, np.inf, -np.inf):
                cases[f"{name} {value}"] = (poked(name, value, -1), f"{name} has values that are")
        if name.endswith((".count", ".square", ".energy")):
            cases[f"{name} negative"] = (poked(name, -1.0), f"{name} has values out of range")
    return cases


@pytest.mark.parametrize("pair", SMALL, ids=ids(SMALL))
def test_a_damaged_state_is_refused_and_changes_nothing(pair):
    enhancer = stream(*pair)
    enhancer.process(noise(9 * HOP + 31))
    good = enhancer.get_state()
    enhancer.process(noise(3 * HOP, 4))
    before = enhancer.get_state()
    for name, (state, reason) in damaged_states(good).items():
        with pytest.raises(StateError) as info:
            enhancer.set_state(state)
        message = str(info.value)
        assert reason in message, (name, message)
        assert len(message) < 500 and "\n" not in message, name
        assert same_state(enhancer.get_state(), before), name
    enhancer.set_state(good)
    assert same_state(enhancer.get_state(), good)


def test_a_state_of_another_stream_is_refused():
    names = [("fast_gru_cum", None), ("fast_lstm_cum", None), *SMALL]
    states = {pair: stream(*pair).get_state() for pair in names}
    for own in names[:4]:
        enhancer = stream(*own)
        for pair, state in states.items():
            if pair == own:
                enhancer.set_state(state)
            else:
                with pytest.raises(StateError, match="of another stream"):
                    enhancer.set_state(state)


def test_a_damaged_file_is_a_damaged_state(tmp_path):
    enhancer = any_stream()
    enhancer.process(noise(2000))
    np.savez_compressed(tmp_path / "state.npz", **enhancer.get_state())
    data = (tmp_path / "state.npz").read_bytes()
    before = enhancer.get_state()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        bad = bytearray(data)
        bad[rng.integers(len(bad) * 3 // 4)] ^= 1 << rng.integers(8)
        try:
            file = np.load(io.BytesIO(bytes(bad)), allow_pickle=False)
        except Exception:  # NumPy's own, before there is a mapping
            continue
        with file:
            try:
                enhancer.set_state(file)
            except StateError:
                refused += 1
                assert same_state(enhancer.get_state(), before)
    assert refused > 30
    with np.load(tmp_path / "state.npz", allow_pickle=False) as file:
        enhancer.set_state(file)


@st.composite
def mutations(draw):
    """Draw a few changes to a state: entry, place, and what to write there."""
    value = st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 1e30, -1e30, 9e35, -9e35, 1e99, 1e-320, 255]),
        st.floats(-1e3, 1e3),
        st.floats(allow_nan=False, allow_infinity=False, width=32),
        st.integers(-(2**63), 2**63 - 1),
    )
    place = st.tuples(st.floats(0, 1), st.floats(0, 1), value, st.booleans())
    return draw(st.lists(place, min_size=1, max_size=5))


@pytest.mark.parametrize("pair", SMALL, ids=ids(SMALL))
def test_whatever_state_is_accepted_the_stream_goes_on(pair):
    enhancer = stream(*pair)
    good = []
    for n in (0, 300, 5 * HOP, 9 * HOP + 31):
        enhancer.reset()
        enhancer.process(noise(n))
        good.append(enhancer.get_state())
    x = noise(9 * HOP, 6)
    accepted = []

    @settings(max_examples=60)
    @given(mutations(), st.integers(0, len(good) - 1))
    def check(changes, which):
        state = {name: array.copy() for name, array in good[which].items()}
        names = [name for name in state if name != "header"]
        for which_name, where, value, everywhere in changes:
            array = state[names[min(int(which_name * len(names)), len(names) - 1)]]
            if array.size == 0:
                continue
            flat = array.reshape(-1)
            at = slice(None) if everywhere else min(int(where * flat.size), flat.size - 1)
            with np.errstate(all="ignore"):
                if array.dtype.kind == "i":
                    flat[at] = int(max(min(value, 2**63 - 1025), -(2**63)))
                else:
                    flat[at] = value
        before = enhancer.get_state()
        try:
            enhancer.set_state(state)
        except StateError:
            assert same_state(enhancer.get_state(), before)
            accepted.append(False)
            return
        accepted.append(True)
        if state["ended"][0]:
            with pytest.raises(StreamEndedError):
                enhancer.step(x[:HOP])
            enhancer.reset()
            return
        with np.errstate(all="ignore"):
            out = [enhancer.step(x[:HOP]), enhancer.process(x), enhancer.flush()]
        assert all(np.all(np.isfinite(y)) for y in out)

    check()
    assert any(accepted) and not all(accepted)


@pytest.mark.parametrize("limit", [None, 0.0])
@pytest.mark.parametrize("changes", [{"look_ahead": 0}, {"hop_length": 128}])
def test_what_an_accepted_state_holds_leaves_flush_finite(changes, limit):
    """The last samples, which no further frame covers, are limited as all others are."""
    model = npfsn.load_model()
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, **changes))
    enhancer = npfsn.Enhancer(model, atten_lim_db=limit)
    enhancer.process(noise(20 * 256 + 240))
    for name in ("stft.ola", "stft.spec"):
        for value in (1e60, 1e-60):
            state = enhancer.copy().get_state()
            state[name][:] = value
            other = enhancer.copy()
            other.set_state(state)
            with np.errstate(all="raise"):
                assert np.all(np.isfinite(other.flush()))


def test_a_state_resumes_in_another_process(tmp_path):
    enhancer = stream("full_gru_cum")
    x = noise(12000)
    enhancer.process(x[:5001])
    np.savez(tmp_path / "state.npz", **enhancer.get_state())
    np.save(tmp_path / "x.npy", x[5001:])
    program = (
        "import numpy as np, npfsn, drawn_models\n"
        "e = npfsn.Enhancer(drawn_models.golden_model('full_gru_cum'))\n"
        "e.set_state(np.load('state.npz'))\n"
        "x = np.load('x.npy')\n"
        "np.save('y.npy', np.concatenate([e.process(x), e.flush()]))\n"
    )
    in_another_process(program, "-W", "error", cwd=tmp_path)
    expected = run(enhancer, x[5001:])
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", [None, "fullsubnet", "fullband"])
def test_a_stream_that_is_made_waits_for_no_kernel(name, precision):
    """A hop lasts 16 ms; loading a kernel, let alone compiling it, may take longer."""
    program = f"""
import numpy as np, npfsn, drawn_models
from npfsn.machine_code import seconds_compiling
model = drawn_models.small_model({name!r}) if {name!r} else npfsn.load_model()
e = npfsn.Enhancer(model, precision={precision!r})
live = npfsn.LiveStream(48000, 480, model, precision={precision!r})
made, x = seconds_compiling(), drawn_models.noise(40_007)
assert made > 0
e.step(x[:256])
for at in range(256, 5120, 256):
    e.step(x[at : at + 256])
e.atten_lim_db = 6.0
e.process(x[:1280])
e.process(x)
other = e.copy()
other.set_state(e.get_state())
e.flush()
e.reset()
e.process(np.concatenate([np.zeros(3000, np.float32), x]))
live.process(x[:9600])
live.flush()
for audio in (x, np.stack([x, -x], axis=1)):
    npfsn.enhance(audio, 16000, model, precision={precision!r})
assert seconds_compiling() == made
"""
    in_another_process(program)


def test_copies_share_nothing_but_the_model():
    enhancer = any_stream(atten_lim_db=20.0, on_nonfinite="zero", norm_horizon=1.0)
    enhancer.process(noise(3000))
    before = enhancer.get_state()
    for other in (enhancer.copy(), copy.copy(enhancer), copy.deepcopy(enhancer)):
        assert other.model is enhancer.model
        assert same_state(other.get_state(), before)
        mine, its = arrays_of(enhancer), arrays_of(other)
        pairs = itertools.product(mine.values(), its.values())
        assert len(its) > 20 and not any(np.may_share_memory(a, b) for a, b in pairs)
        other.process(np.full(2000, np.nan, np.float32))
        assert same_state(enhancer.get_state(), before)
    with pytest.raises(TypeError, match=r"get_state\(\)"):
        pickle.dumps(enhancer)
    state = enhancer.get_state()
    for array in state.values():
        if array.dtype.kind == "f":
            array.fill(np.nan)
    assert same_state(enhancer.get_state(), before)


@pytest.mark.parametrize("duplicate", [npfsn.Enhancer.copy, copy.copy, copy.deepcopy])
def test_a_copy_is_of_the_same_class(duplicate):
    class Named(npfsn.Enhancer):
        name = "none"

    enhancer = Named(any_stream().model)
    enhancer.name = "left"
    enhancer.process(noise(3000))
    other = duplicate(enhancer)
    assert type(other) is Named and other.name == "left"
    np.testing.assert_array_equal(other.process(noise(3000)), enhancer.process(noise(3000)))


# --- threads and interrupts ----------------------------------------------------------------------


def test_streams_in_threads_give_what_they_give_alone():
    model = golden_model("fast_lstm_cum")
    signals = [speech(80 * HOP, seed) for seed in range(4)]
    expected = [in_hops(npfsn.Enhancer(model), x) for x in signals]
    found: list[np.ndarray | None] = [None] * 4
    barrier = threading.Barrier(4)

    def work(i: int) -> None:
        enhancer = npfsn.Enhancer(model)
        barrier.wait()
        found[i] = in_hops(enhancer, signals[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def ticks_during(work):
    """Count how often this thread gets on with Python while another does the work."""
    ticks = 0
    done = threading.Event()
    thread = threading.Thread(target=lambda: (work(), done.set()))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # the interpreter itself takes the lock away from nobody
    try:
        thread.start()
        while not done.is_set():
            ticks += 1
            time.sleep(0)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    return ticks


def test_kernels_let_other_threads_run():
    """While one thread is in kernels, another gets on with Python."""
    enhancer = npfsn.Enhancer(golden_model("fast_lstm_cum"))
    x = speech(3000 * HOP)
    assert ticks_during(lambda: enhancer.process(x)) > 100


def test_a_single_call_of_a_kernel_lets_other_threads_run():
    """In a stream, NumPy lets them run, too, between the kernels."""
    n_tap, n_y = 4096, 60_000
    x, taps, y = np.ones(n_tap + n_y), np.ones((1, n_tap)), np.zeros(n_y)
    call, place = machine_code.function("calls.filtered"), machine_code.place
    arguments = (place(x), x.size, place(taps), 1, n_tap, 1, 1, 0, place(y), n_y)
    assert ticks_during(lambda: call(*arguments)) > 20
    assert (y == n_tap).all()


class Interrupt(BaseException):
    """As KeyboardInterrupt: whatever a signal handler may raise."""


@pytest.fixture
def interrupts():
    """Return a function that lets a signal interrupt whatever runs after so many seconds."""

    def interrupt(signum, frame):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@posix
def test_an_interrupted_stream_says_so_until_it_is_reset(interrupts):
    enhancer = npfsn.Enhancer(golden_model("full_lstm_cum"))
    x = speech(40 * HOP)
    expected = in_hops(enhancer, x)
    enhancer.reset()
    rng = np.random.default_rng(1)
    torn = 0
    for _ in range(60):
        try:
            interrupts(float(rng.uniform(1e-4, 0.004)))
            while True:
                enhancer.step(x[:HOP])
        except Interrupt:
            pass
        try:
            enhancer.step(x[:HOP])
        except StreamEndedError as error:
            torn += 1
            assert "interrupted" in str(error)
            for call in (enhancer.get_state, enhancer.flush, enhancer.copy):
                with pytest.raises(StreamEndedError):
                    call()
        enhancer.reset()  # never claimed by a call that is no more
        assert np.array_equal(in_hops(enhancer, x), expected)
        enhancer.reset()
    assert torn > 5


@posix
def test_no_interrupt_leaves_a_claim_behind(interrupts):
    # Nothing but the claim, so that most interrupts fall between its parts.
    enhancer, nothing = any_stream(), alone()(lambda stream: None)
    rng = np.random.default_rng(2)
    for _ in range(2000):
        try:
            interrupts(float(rng.uniform(1e-6, 3e-5)))
            while True:
                nothing(enhancer)
        except Interrupt:
            pass
        assert not enhancer._claim


@posix
def test_no_interrupt_leaves_one_of_several_claims_behind(interrupts):
    streams = [any_stream() for _ in range(5)]
    rng = np.random.default_rng(2)
    for _ in range(2000):
        try:
            interrupts(float(rng.uniform(1e-6, 3e-5)))
            while True:
                together(streams, bool)
        except Interrupt:
            pass
        assert not any(each._claim for each in streams)


def test_an_interrupt_before_the_claim_is_that_interrupt():
    """And no KeyError: there is nothing to take back yet."""

    class Interrupted(dict):
        def setdefault(self, *claim):
            raise Interrupt

    enhancer = any_stream()
    enhancer._claim = Interrupted()
    with pytest.raises(Interrupt):
        enhancer.step(np.zeros(HOP, np.float32))


@posix
def test_a_stream_survives_fork():
    enhancer = npfsn.Enhancer(golden_model("full_lstm_cum"))
    x = speech(40 * HOP)
    enhancer.process(x)
    expected = enhancer.copy().process(x)
    program = (
        "import os, sys, numpy as np, npfsn, drawn_models, multiprocessing as mp\n"
        "m = drawn_models.golden_model('full_lstm_cum')\n"
        "e = npfsn.Enhancer(m)\n"
        "x = np.sin(np.arange(20000) / 9).astype('f4')\n"
        "e.process(x[:7001])\n"
        "def work(_):\n"
        "    fresh = npfsn.Enhancer(m)\n"
        "    fresh.set_state(e.get_state())\n"
        "    return e.process(x[7001:]).tobytes() == fresh.process(x[7001:]).tobytes()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0 if work(0) else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "with mp.get_context('fork').Pool(3) as pool:\n"
        "    assert all(pool.map(work, range(6)))\n"
        "assert work(0)\n"
    )
    in_another_process(program)
    assert np.array_equal(enhancer.process(x), expected)


@posix
def test_a_fork_in_the_middle_of_another_threads_hop_leaves_a_stream_that_can_start_anew():
    program = (
        "import os, sys, threading, numpy as np, npfsn, drawn_models\n"
        "e = npfsn.Enhancer(drawn_models.small_model('fullband'))\n"
        "inside, done = threading.Event(), threading.Event()\n"
        "e._stream.push = lambda x, out: (inside.set(), done.wait())\n"
        "thread = threading.Thread(target=e.step, args=(np.zeros(256, 'f4'),))\n"
        "thread.start()\n"
        "inside.wait()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    del e._stream.push\n"
        "    e.reset()\n"
        "    e.step(np.zeros(256, 'f4'))\n"
        "    os._exit(0)\n"
        "code = os.waitpid(pid, 0)[1]\n"
        "done.set()\n"
        "thread.join()\n"
        "sys.exit(code != 0)\n"
    )
    in_another_process(program, "-W", "ignore")


@posix
def test_a_fork_while_another_thread_makes_a_stream_locks_nobody_out():
    """The lock it holds has no owner in the child."""
    program = (
        "import os, sys, threading, npfsn, drawn_models\n"
        "from npfsn import weights\n"
        "inside, done = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with weights.loading:\n"
        "        inside.set()\n"
        "        done.wait()\n"
        "thread = threading.Thread(target=hold)\n"
        "thread.start()\n"
        "inside.wait()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    npfsn.Enhancer(drawn_models.small_model('fullband'))\n"
        "    os._exit(0)\n"
        "code = os.waitpid(pid, 0)[1]\n"
        "done.set()\n"
        "thread.join()\n"
        "sys.exit(code != 0)\n"
    )
    in_another_process(program, "-W", "ignore")


def test_streams_that_are_dropped_are_freed():
    model = small_model("fullband")
    npfsn.Enhancer(model).process(noise(20000))
    gc.collect()
    before = sum(type(o) is npfsn.Enhancer for o in gc.get_objects())
    for _ in range(20):
        npfsn.Enhancer(model).step(noise(HOP))
    assert sum(type(o) is npfsn.Enhancer for o in gc.get_objects()) == before


def test_models_that_are_dropped_are_freed():
    """Packed weights and digests are kept for the models in use, not for all that ever were."""
    drawn = small_model("fullband")
    model = npfsn.Model(drawn.architecture, drawn.config, dict(drawn.tensors))
    npfsn.Enhancer(model).get_state()
    npfsn.enhance(noise(HOP), 16_000, model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_network_in_use_is_not_packed_again():
    """Not even when many others were used since: its streams and new ones can form a group."""
    model = small_model("fast_fullsubnet")
    first = npfsn.Enhancer(model)
    for norm, precision in itertools.product(CAUSAL_NORMS, ("float32", "int8")):
        npfsn.Enhancer(model, norm=norm, precision=precision)
    assert first.copy()._stream.network is first._stream.network
    npfsn.EnhancerGroup([first, npfsn.Enhancer(model)])


def test_whole_signals_take_turns_with_a_stream(monkeypatch):
    """One after the other shares one; not within each other, nor with one that was left midway."""
    made, drawn = [], small_model("fast_fullsubnet")
    model = npfsn.Model(drawn.architecture, drawn.config, dict(drawn.tensors))
    x, y = noise(20 * HOP), noise(20 * HOP + 100, seed=1)
    expected = [npfsn.enhance(each, 16_000, drawn) for each in (x, y)]

    class Counted(packed.Stream):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    npfsn.enhance(x[:HOP], 16_000, model)  # warmed up, with a stream of its own
    packed._spare.clear()
    monkeypatch.setattr(packed, "Stream", Counted)
    for each in (x, y, x):
        npfsn.enhance(each, 16_000, model)
    assert len(made) == 1

    within = []
    np.testing.assert_array_equal(
        npfsn.enhance(
            x, 16_000, model, progress=lambda *_: within.append(npfsn.enhance(y, 16_000, model))
        ),
        expected[0],
    )
    assert within and all((each == expected[1]).all() for each in within)
    assert len(made) == 2

    def leave(done, _):
        if done:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        npfsn.enhance(np.stack([y, y], axis=1), 16_000, model, progress=leave)
    np.testing.assert_array_equal(npfsn.enhance(x, 16_000, model), expected[0])
    assert len(made) == 3
    npfsn.enhance(x, 16_000, model, norm_horizon=10.0)
    npfsn.enhance(x, 16_000, model)
    assert len(made) == 5


def test_a_whole_signal_runs_as_it_is_asked_to_now():
    """Not as the one before, whose stream it takes over."""
    drawn, x = small_model("fast_fullsubnet"), noise(20 * HOP)
    cases = [{}, {"precision": "int8"}, {}, {"norm": "forgetting_norm"}, {"norm_horizon": 0.05}, {}]
    found = [npfsn.enhance(x, 16_000, drawn, **options) for options in cases]
    for options, y in zip(cases, found, strict=True):
        anew = npfsn.Model(drawn.architecture, drawn.config, dict(drawn.tensors))
        np.testing.assert_array_equal(y, npfsn.enhance(x, 16_000, anew, **options))
    assert len({y.tobytes() for y in found}) == 4


def test_a_horizon_is_one_of_the_model_at_any_rate():
    """At three times its rate, not of a third as long."""
    model = small_model("fast_fullsubnet")
    x = 0.1 * noise(48000)
    x[:24000] *= 30
    found = npfsn.enhance(x, 48000, model, norm_horizon=0.1)
    y = npfsn.enhance(resample(x, 48000, 16000), 16000, model, norm_horizon=0.1)
    np.testing.assert_array_equal(found, resample(y, 16000, 48000)[: x.size])


def test_a_negative_level_is_no_state():
    model = small_model("fast_fullsubnet", quiet_level=1.0)
    enhancer = npfsn.Enhancer(model)
    enhancer.process(noise(4000))
    state = enhancer.get_state()
    state["shrink.level"] = -state["shrink.level"]
    assert state["shrink.level"][0] < 0
    with pytest.raises(StateError, match=r"shrink\.level has values out of range"):
        enhancer.set_state(state)


def test_features_that_are_all_alike_have_no_variance():
    """Rounding must not make it less than none."""
    norm, state = bound("offline_gaussian_norm", 1, 1)
    for value in np.linspace(0.1, 1.0, 50):
        state["n.moments"][:] = 7, 7 * value, 7 * value * value * (1 - 1e-15)
        norm.fit()
        assert norm.table["scale"][0] >= np.float32(norm.norm.eps)  # NumPy 1 casts neither
