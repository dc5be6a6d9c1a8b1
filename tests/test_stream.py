"""The contract of a stream: lengths, latency, ends, state, threads, refusals, levels."""

from __future__ import annotations

import contextlib
import gc
import inspect
import math
import re
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import reference
import soundfile
from drawn_models import golden_case, golden_model, identity_model, noise, small_model
from hypothesis import given
from hypothesis import strategies as st
from sounds import lag
from streams import in_hops, run, same_state

import npfsn
from npfsn import machine_code, packed
from npfsn import stream as engine
from npfsn.beside import Beside
from npfsn.config import CAUSAL_NORMS, DIVIDING_NORMS, OFFLINE_NORMS
from npfsn.fast_fullsubnet import MelBands
from npfsn.flow import Flow
from npfsn.kernels.cpu import AHEAD_BYTES, PREFETCH, STRASSEN
from npfsn.layers import RecurrentPass, StrassenProduct
from npfsn.models import ARCHITECTURES
from npfsn.options import dry_share
from npfsn.program import Program
from npfsn.stream import Stream
from npfsn.weights import Model

HERE = Path(__file__).parent
# Around every place where the number of frames changes, and primes.
LENGTHS = (0, 1, 2, 3, 127, 251, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1021, 1279, 2003)


def causal(architecture: str, **config: object) -> Model:
    """Return a small model that streams."""
    if architecture == "improved_fullsubnet":
        config["section_norm"] = "cumulative_section_norm"
    return small_model(architecture, **config)


@pytest.fixture
def enhancer() -> npfsn.Enhancer:
    return npfsn.Enhancer(small_model("fast_fullsubnet"))


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return noise(5000)


# ---------------------------------------------------------------------------------------------
# Lengths, latency, ends
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "config", "latency"),
    [
        ("fast_fullsubnet", {}, 768),
        ("fast_fullsubnet", {"look_ahead": 0, "shrink_size": 3}, 256),
        ("fullsubnet", {"look_ahead": 1}, 512),
        ("fullband", {"look_ahead": 5}, 1536),
        ("fullband", {"hop_length": 64, "look_ahead": 2}, 576),
        ("fullband", {"n_fft": 30, "hop_length": 5, "look_ahead": 1}, 30),
        ("fullband", {"n_fft": 4, "hop_length": 1, "look_ahead": 0}, 3),
        ("improved_fullsubnet", {"hop_length": 128}, 384),
        ("improved_fullsubnet", {"n_fft": 960, "hop_length": 480, "sample_rate": 48000}, 480),
    ],
)
def test_latency_and_properties(architecture: str, config: dict, latency: int) -> None:
    """Window and look-ahead without the hop itself; the output starts there, not before."""
    model = causal(architecture, **config)
    stream = npfsn.Enhancer(model)
    assert stream.latency_samples == latency
    assert stream.frame_length == model.config.hop_length
    assert stream.sample_rate == model.config.sample_rate
    assert stream.latency_ms == pytest.approx(1000 * latency / stream.sample_rate)
    assert stream.model is model
    y = run(stream, noise(3 * latency + 7, level=0.5))
    assert len(y) == len(noise(3 * latency + 7)) + latency
    assert not y[:latency].any()
    assert y[latency : latency + 8].any()


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_length_gives_the_same_bits_in_any_hops(architecture: str, n: int) -> None:
    """Whole, streamed and in single hops: the same bits, as long as the input."""
    x = noise(n, seed=n)
    model = causal(architecture)
    stream = npfsn.Enhancer(model)
    hop, latency = stream.frame_length, stream.latency_samples
    whole = npfsn.enhance(x, 16000, model)
    assert whole.shape == x.shape
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    given = [stream.step(x[at : at + hop]) for at in range(0, n - hop + 1, hop)]
    given.append(stream.process(x[n // hop * hop :]))
    assert len(given[-1]) == 0
    rest = stream.flush()
    assert len(rest) == latency + n % hop
    y = np.concatenate([*given, rest])
    assert not y[:latency].any()
    np.testing.assert_array_equal(y[latency:], whole)


@pytest.mark.parametrize("n", [n for n in LENGTHS if n])
def test_every_length_is_the_reference(n: int) -> None:
    """Also signals shorter than half a window, whose reflection reaches its own start again."""
    case = golden_case("base_lstm_cum")
    x = case.x[1000 : 1000 + n]
    model = small_model("fullband")
    recipe = {**case.config, "model_args": {**case.config["model_args"], "look_ahead": 2}}
    want = reference.enhance(recipe, dict(model.tensors), x)
    got = npfsn.enhance(x, 16000, model)
    thick = lone_window(n, 512, 256) >= 0.1
    np.testing.assert_allclose(got[thick], want[thick], rtol=0.0, atol=1e-6)


@given(st.data())
def test_any_chunks_give_the_same_bits(data: st.DataObject) -> None:
    """For any signal length, cut anywhere, by `process` and `step` in turns."""
    architecture = data.draw(st.sampled_from([*ARCHITECTURES]))
    precision = data.draw(st.sampled_from(("float32", "int8")))
    n = data.draw(st.one_of(st.sampled_from(LENGTHS), st.integers(0, 30_000)))
    model = causal(architecture)
    x = noise(n, seed=n)
    stream = npfsn.Enhancer(model, precision=precision)
    hop = stream.frame_length
    given, at, received = [], 0, 0
    while at < n:
        # Forty hops are enough for a block of frames at once.
        size = data.draw(st.one_of(st.sampled_from((0, 1, hop, 40 * hop)), st.integers(0, n - at)))
        size = min(size, n - at)
        chunk = x[at : at + size]
        by_step = size == hop and data.draw(st.booleans())
        given.append(stream.step(chunk) if by_step else stream.process(chunk))
        before, received = received, received + size
        assert len(given[-1]) == hop * (received // hop - before // hop)
        at += size
        if not size:  # an empty chunk is a chunk, but no progress
            given.append(stream.process(x[at : at + 1]))
            at, received = at + 1, received + 1
    given.append(stream.flush())
    np.testing.assert_array_equal(
        np.concatenate(given)[stream.latency_samples :],
        npfsn.enhance(x, 16000, model, precision=precision),
    )


def test_more_look_ahead_than_a_block_has_frames() -> None:
    """The hops before the first output are too many to be taken at once."""
    model = causal("fullband", look_ahead=100)
    stream, x = npfsn.Enhancer(model), noise(130 * 256)
    assert stream._stream.latency_hops > stream._stream.network.block_frames
    want = in_hops(stream, x)
    stream.reset()
    np.testing.assert_array_equal(stream.process(x), want)


def test_flush_ends_the_stream(enhancer: npfsn.Enhancer, x: np.ndarray) -> None:
    """Twice is once; more samples are refused; reset starts again."""
    first = run(enhancer, x)
    again = enhancer.flush()
    assert again.shape == (0,)
    assert again.dtype == np.float32
    for call in (lambda: enhancer.step(x[:256]), lambda: enhancer.process(x[:1])):
        with pytest.raises(npfsn.StreamEndedError, match=re.escape("reset()")):
            call()
    assert len(enhancer.flush()) == 0
    enhancer.reset()
    np.testing.assert_array_equal(run(enhancer, x), first)


def test_flush_of_nothing(enhancer: npfsn.Enhancer) -> None:
    """An empty signal is as long as the latency."""
    y = enhancer.flush()
    assert len(y) == enhancer.latency_samples
    assert not y.any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("heard", [0, 1, 256, 3000, 10_000])
@pytest.mark.parametrize("flushed", [False, True])
def test_reset_is_a_fresh_stream(architecture: str, heard: int, flushed: bool) -> None:
    """Nothing is left, wherever the stream was."""
    model = causal(architecture)
    stream = npfsn.Enhancer(model, atten_lim_db=12)
    stream.process(noise(heard, seed=9, level=0.5))
    if flushed:
        stream.flush()
    stream.reset()
    fresh = npfsn.Enhancer(model, atten_lim_db=12)
    assert same_state(stream.get_state(), fresh.get_state())
    np.testing.assert_array_equal(run(stream, noise(3000)), run(fresh, noise(3000)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("n", [1, 255, 256, 511, 700])
def test_a_short_signal_after_a_long_one_is_as_the_first(
    architecture: str, n: int, x: np.ndarray
) -> None:
    """Blocks that the long one was taken in are too long for its few frames."""
    model = causal(architecture)
    used, fresh = npfsn.Enhancer(model), npfsn.Enhancer(model)
    used.process(np.tile(x, 3))
    used.reset()
    for part in np.split(x[:n], [256, 512]):
        np.testing.assert_array_equal(used.process(part), fresh.process(part))
    np.testing.assert_array_equal(used.flush(), fresh.flush())


# ---------------------------------------------------------------------------------------------
# Frames
# ---------------------------------------------------------------------------------------------


def test_step_writes_to_out(x: np.ndarray) -> None:
    """`out` is returned, may be the frame itself, and gives the same bits."""
    model = small_model("fast_fullsubnet")
    plain, into, in_place = (npfsn.Enhancer(model) for _ in range(3))
    out = np.full(256, np.nan, np.float32)
    for at in range(0, 4096, 256):
        want = plain.step(x[at : at + 256])
        assert into.step(x[at : at + 256], out=out) is out
        np.testing.assert_array_equal(out, want)
        frame = x[at : at + 256].copy()
        assert in_place.step(frame, out=frame) is frame
        np.testing.assert_array_equal(frame, want)


def test_out_may_be_the_frame_in_the_middle_of_a_hop(x: np.ndarray) -> None:
    """Also where `process` has left part of one."""
    model = small_model("fast_fullsubnet")
    plain, in_place = npfsn.Enhancer(model), npfsn.Enhancer(model)
    plain.process(x[:100])
    in_place.process(x[:100])
    for at in range(100, 4000, 256):
        want = plain.step(x[at : at + 256])
        frame = x[at : at + 256].copy()
        in_place.step(frame, out=frame)
        np.testing.assert_array_equal(frame, want)


def test_results_are_the_callers(enhancer: npfsn.Enhancer, x: np.ndarray) -> None:
    """What was returned does not change with the next hop; what was given never."""
    kept = x.copy()
    given = [enhancer.step(x[at : at + 256]) for at in range(0, 4096, 256)]
    copies = [array.copy() for array in given]
    given.append(enhancer.process(x[4096:]))
    copies.append(given[-1].copy())
    enhancer.process(noise(3000, seed=5))
    for array, was in zip(given, copies, strict=True):
        np.testing.assert_array_equal(array, was)
        assert array.flags.owndata or array.base is None
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.float64),
        lambda x: np.repeat(x, 2)[::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.frombuffer(x.tobytes(), np.float32),
        lambda x: np.frombuffer(bytearray(b"\0" + x.tobytes()), np.uint8)[1:].view(np.float32),
        lambda x: np.stack([x, -x], axis=1)[:, 0],
    ],
    ids=["float64", "strided", "reversed", "read-only", "unaligned", "column"],
)
def test_other_layouts_of_samples(
    change: Callable[[np.ndarray], np.ndarray], x: np.ndarray
) -> None:
    """float64, strides, read-only buffers, odd addresses: the same samples, the same bits."""
    model = small_model("fast_fullsubnet")
    want = run(npfsn.Enhancer(model), x)
    stream = npfsn.Enhancer(model)
    loaded = dict(machine_code._loaded)
    given = [stream.step(change(x[at : at + 256])) for at in range(0, 4096, 256)]
    given.append(run(stream, change(x[4096:])))
    np.testing.assert_array_equal(np.concatenate(given), want)
    np.testing.assert_array_equal(npfsn.enhance(change(x), 16000, model), want[768:])
    assert machine_code._loaded == loaded  # nothing in mid-stream


BAD_FRAMES = {
    "short": (np.zeros(255, np.float32), npfsn.FrameError, r"\[255\].*\[256\]"),
    "long": (np.zeros(257, np.float32), npfsn.FrameError, r"\[257\].*\[256\]"),
    "empty": (np.zeros(0, np.float32), npfsn.FrameError, r"\[0\].*\[256\]"),
    "stereo": (np.zeros((256, 2), np.float32), npfsn.FrameError, r"\[256, 2\].*\[256\]"),
    "scalar": (np.zeros((), np.float32), npfsn.FrameError, r"\[\]"),
    "int16": (np.zeros(256, np.int16), TypeError, "int16.*float32.*32768"),
    "float16": (np.zeros(256, np.float16), TypeError, "float16.*float32"),
    "complex": (np.zeros(256, np.complex64), TypeError, "complex64.*float32"),
    "list": ([0.0] * 256, TypeError, "list.*float32"),
    "None": (None, TypeError, "NoneType.*float32"),
    "nan": (np.full(256, np.nan, np.float32), npfsn.FrameError, "256 of 256.*NaN"),
    "infinite": (np.float32([np.inf] + [0] * 255), npfsn.FrameError, "1 of 256.*infinite"),
    "too large": (np.full(256, 1e300), npfsn.FrameError, "256 of 256.*infinite"),
}


@pytest.mark.parametrize("pending", [0, 100])
@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_refused_frames_leave_the_stream_as_it_was(kind: str, pending: int, x: np.ndarray) -> None:
    """One sentence that names what came and what was expected; then the stream goes on."""
    model = small_model("fast_fullsubnet")
    frame, error, message = BAD_FRAMES[kind]
    stream, other = npfsn.Enhancer(model), npfsn.Enhancer(model)
    for one in (stream, other):
        one.process(x[: 2000 - 2000 % 256 + pending])
    with pytest.raises(error, match=message) as caught:
        stream.step(frame)
    assert isinstance(caught.value, (ValueError, TypeError))
    assert "\n" not in str(caught.value)
    assert same_state(stream.get_state(), other.get_state())
    np.testing.assert_array_equal(stream.step(x[:256]), other.step(x[:256]))


@pytest.mark.parametrize("kind", ["stereo", "scalar", "int16", "list", "nan"])
def test_process_and_enhance_refuse_the_same(kind: str, enhancer: npfsn.Enhancer) -> None:
    """But any length, and channels where there is a place for them."""
    chunk, error, _ = BAD_FRAMES[kind]
    before = enhancer.get_state()
    with pytest.raises(error):
        enhancer.process(chunk)
    assert same_state(enhancer.get_state(), before)
    if kind != "stereo":
        with pytest.raises(error):
            npfsn.enhance(chunk, 16000, enhancer.model)


def test_channels_first_is_refused() -> None:
    """Other libraries have [channels, N]: a channel for every sample would take hours."""
    model = small_model("fullband")
    with pytest.raises(npfsn.FrameError, match=r"\[2, 16000\].*audio\.T"):
        npfsn.enhance(np.zeros((2, 16000), np.float32), 16000, model)
    with pytest.raises(npfsn.FrameError, match=r"\[2, 200\].*audio\.T"):
        npfsn.enhance(np.zeros((2, 200), np.float32), 16000, model)
    with pytest.raises(npfsn.FrameError, match=r"\[2, 33\].*audio\.T"):
        npfsn.enhance(np.zeros((2, 33), np.float32), 16000, model)
    assert npfsn.enhance(np.zeros((1, 32), np.float32), 16000, model).shape == (1, 32)


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.zeros(255, np.float32), npfsn.FrameError),
        (np.zeros((1, 256), np.float32), npfsn.FrameError),
        (np.zeros(512, np.float32)[::2], npfsn.FrameError),
        (np.frombuffer(bytes(1024), np.float32), npfsn.FrameError),
        (np.zeros(256), TypeError),
        ([0.0] * 256, TypeError),
    ],
    ids=["short", "2-d", "strided", "read-only", "float64", "list"],
)
def test_an_unfit_out_is_refused(
    out: object, error: type, enhancer: npfsn.Enhancer, x: np.ndarray
) -> None:
    """Where a hop cannot be written, none is taken."""
    before = enhancer.get_state()
    with pytest.raises(error, match="out is|out has"):
        enhancer.step(x[:256], out=out)
    assert same_state(enhancer.get_state(), before)


def test_nonfinite_samples_as_silence(x: np.ndarray) -> None:
    """Replaced by zeros and counted, in every call; refused ones are not counted."""
    model = small_model("fast_fullsubnet")
    broken, silent = x.copy(), x.copy()
    where = [3, 300, 301, 4998]
    broken[where] = [np.nan, np.inf, -np.inf, np.nan]
    silent[where] = 0.0
    stream, clean, other = (
        npfsn.Enhancer(model, on_nonfinite=n) for n in ("zero", "raise", "raise")
    )
    assert stream.n_nonfinite == 0
    got = []
    for at, count in ((0, 1), (256, 3), (512, 3)):
        got.append(stream.step(broken[at : at + 256]))
        assert stream.n_nonfinite == count
    got.append(run(stream, broken[768:]))
    assert (stream.n_nonfinite, clean.n_nonfinite) == (4, 0)
    assert np.isnan(broken[3])  # not modified
    other.set_state(stream.get_state())
    assert other.n_nonfinite == 4
    np.testing.assert_array_equal(np.concatenate(got), run(clean, silent))
    stream.reset()
    assert stream.n_nonfinite == 0
    np.testing.assert_array_equal(
        npfsn.enhance(broken, 16000, model, on_nonfinite="zero"),
        npfsn.enhance(silent, 16000, model),
    )
    with pytest.raises(npfsn.FrameError, match="4 of 5000"):
        npfsn.enhance(broken, 16000, model)


# ---------------------------------------------------------------------------------------------
# State
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("cut", [0, 1, 255, 700, 2560, 3001, 3333])
def test_state_resumes_to_the_bit(architecture: str, cut: int, tmp_path: Path) -> None:
    """In another stream, through a file, from any place; the first one is not disturbed."""
    model = causal(architecture)
    x = noise(6000)
    options = {"atten_lim_db": 20.0, "norm_horizon": 0.1}
    first = npfsn.Enhancer(model, **options)
    first.process(x[:cut])
    np.savez(tmp_path / "state.npz", **first.get_state())
    second = npfsn.Enhancer(model, **options)
    second.process(noise(1111, seed=3))
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        second.set_state(state)
    assert same_state(first.get_state(), second.get_state())
    np.testing.assert_array_equal(run(second, x[cut:], 300), run(first, x[cut:]))


@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("n_fft_in_hops", [2, 4])
def test_every_hop_leaves_a_state_that_is_taken(n_fft_in_hops: int, starts: bool) -> None:
    """Also while no frame is complete yet, though the network has begun with the sound."""
    config = {"n_fft": n_fft_in_hops * 16, "hop_length": 16, "start_at_sound": starts}
    first, second = (npfsn.Enhancer(small_model("fullband", **config)) for _ in range(2))
    for _ in range(6):
        first.process(noise(16))
        second.set_state(first.get_state())
        assert same_state(second.get_state(), first.get_state())


def test_state_of_a_flushed_stream(enhancer: npfsn.Enhancer, x: np.ndarray) -> None:
    """It is a flushed stream again."""
    run(enhancer, x)
    other = npfsn.Enhancer(enhancer.model)
    other.set_state(enhancer.get_state())
    assert len(other.flush()) == 0
    with pytest.raises(npfsn.StreamEndedError):
        other.process(x)


def test_state_is_a_copy(enhancer: npfsn.Enhancer, x: np.ndarray) -> None:
    """Neither later hops nor the one who holds it change it."""
    enhancer.process(x[:1000])
    state = enhancer.get_state()
    kept = {name: array.copy() for name, array in state.items()}
    enhancer.process(x[1000:])
    assert all(np.array_equal(state[name], kept[name]) for name in kept)
    enhancer.set_state(state)
    for name, array in state.items():
        if name != "header":
            array.fill(0)
    fresh = npfsn.Enhancer(enhancer.model)
    fresh.set_state(kept)
    assert same_state(enhancer.get_state(), fresh.get_state())


def test_a_state_belongs_to_its_weights_and_its_configuration() -> None:
    """Where nothing else differs, entries and shapes are the same: only the header can tell."""
    model = small_model("fast_fullsubnet")
    louder = {name: 2 * tensor for name, tensor in model.tensors.items()}
    state = npfsn.Enhancer(model).get_state()
    for other in (
        Model(model.architecture, model.config, louder),
        small_model("fast_fullsubnet", shrink_size=3),
    ):
        with pytest.raises(npfsn.StateError, match="of another stream: its model is"):
            npfsn.Enhancer(other).set_state(state)
    again = Model(model.architecture, model.config, dict(model.tensors))
    npfsn.Enhancer(again).set_state(state)


def test_a_state_without_end_of_memory_fits_a_stream_without_horizon() -> None:
    """An infinite horizon is none."""
    model = small_model("fast_fullsubnet")
    endless, published = npfsn.Enhancer(model, norm_horizon=float("inf")), npfsn.Enhancer(model)
    published.set_state(endless.get_state())
    endless.set_state(published.get_state())


def test_a_copy_computes_as_the_original(x: np.ndarray) -> None:
    """In the same precision, with the same norm."""
    first = npfsn.Enhancer(small_model("fullband"), precision="int8", norm="forgetting_norm")
    first.process(x[:1300])
    second = first.copy()
    np.testing.assert_array_equal(run(second, x[1300:]), run(first, x[1300:]))


def test_streams_share_weights_and_nothing_else(x: np.ndarray) -> None:
    """Interleaved hop by hop, each gives what it gives alone."""
    model = small_model("fast_fullsubnet")
    inputs = [noise(4096, seed=i, level=10.0 ** (-i)) for i in range(4)]
    options = [{"norm_horizon": horizon} for horizon in (None, None, 0.05, 0.5)]
    alone = [run(npfsn.Enhancer(model, **its), x) for x, its in zip(inputs, options, strict=True)]
    streams = [npfsn.Enhancer(model, **its) for its in options]
    assert len({id(stream._stream.network) for stream in streams}) == 1
    given = [[] for _ in inputs]
    for at in range(0, 4096, 256):
        for i, stream in enumerate(streams):
            given[i].append(stream.step(inputs[i][at : at + 256]))
    for i, stream in enumerate(streams):
        np.testing.assert_array_equal(np.concatenate([*given[i], stream.flush()]), alone[i])


# ---------------------------------------------------------------------------------------------
# Threads
# ---------------------------------------------------------------------------------------------


def test_networks_are_kept_ready_and_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an interrupt nor many settings leave anything behind."""
    made = []
    warm_up = packed._warm_up

    def interrupted(*args: object) -> None:
        made.append(True)  # and not the network: it would be in use
        if len(made) == 1:
            raise KeyboardInterrupt
        warm_up(*args)

    monkeypatch.setattr(packed, "_warm_up", interrupted)
    known = small_model("fast_fullsubnet")
    model = Model(known.architecture, known.config, known.tensors)
    with pytest.raises(KeyboardInterrupt):
        npfsn.Enhancer(model)
    first = npfsn.Enhancer(model)  # not the one that was cut short
    assert len(made) == 2
    assert npfsn.Enhancer(model)._stream.network is first._stream.network
    del first  # what is in use is kept in any case
    settings = [
        {"precision": precision, "norm": norm}
        for precision in ("float32", "int8")
        for norm in (model.norm, *sorted({*CAUSAL_NORMS} - {model.norm}))
    ]
    for its in settings:
        npfsn.Enhancer(model, **its)
    assert len(made) == 7
    assert len(packed._networks[model]) == 4 < len(settings)
    # Those used last, not those made last.
    npfsn.Enhancer(model, **settings[2])
    npfsn.Enhancer(model, **settings[0])
    npfsn.Enhancer(model, **settings[2])
    assert len(made) == 8


# Prints how long a stream in a process of its own waits for kernels once it has been made.
LATE_KERNELS = """
import numpy as np
import npfsn
from npfsn.machine_code import seconds_compiling

enhancer = npfsn.Enhancer(precision="{}", norm_horizon=1.0, atten_lim_db=20.0)
waited = seconds_compiling()
for hop in np.zeros((500, 256), np.float32):
    enhancer.step(hop)
enhancer.process(np.full(100_000, 0.1, np.float32))
enhancer.copy().flush()
print(seconds_compiling() - waited)
"""


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_stream_finds_all_of_its_kernels(precision: str) -> None:
    """None is compiled or loaded in mid-stream: for silence, sound, many hops or an end."""
    program = [sys.executable, "-c", LATE_KERNELS.format(precision)]
    assert float(commands.run(base=program)[0]) == 0.0


@pytest.mark.parametrize("limits", [(None, 6.0), (6.0, None), (6.0, 20.0)])
def test_a_state_goes_on_with_another_limit(
    limits: tuple[float | None, float | None], x: np.ndarray
) -> None:
    """The input that is still to be mixed in is part of it, whether it was wanted before or not."""
    model = small_model("fast_fullsubnet")
    before, after = (npfsn.Enhancer(model, atten_lim_db=limit) for limit in limits)
    whole = npfsn.Enhancer(model, atten_lim_db=limits[1])
    before.process(x[:3000])
    after.set_state(before.get_state())
    np.testing.assert_array_equal(run(after, x[3000:]), run(whole, x)[2816:])


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_a_stream_is_the_same_where_tiles_see_to_the_decoder(
    monkeypatch: pytest.MonkeyPatch, cell: str, x: np.ndarray
) -> None:
    """Forty bands are more than one tile, which have time for it (`npfsn.beside`)."""
    model = small_model("fast_fullsubnet", cell, num_mels=40)
    one = npfsn.Enhancer(model)
    given = in_hops(one, x)
    if AHEAD_BYTES:
        queues = [op for op in one._stream._one.program.owners if isinstance(op, Beside)]
        assert [int(queue.queue["next"][0]) > 0 for queue in queues] == [True]
    monkeypatch.setattr(Beside, "possible", lambda *_: False)
    np.testing.assert_array_equal(given, in_hops(npfsn.Enhancer(model), x))


# --- many hops at once -------------------------------------------------------------------------


def long_signal() -> np.ndarray:
    """Draw 230 hops with a silence in them, after which a network starts anew, and a bit."""
    x = noise(230 * 256 + 50)
    x[90 * 256 : 130 * 256] = 0.0
    return x


@pytest.mark.parametrize("config", [
    {}, {"shrink_size": 3}, {"look_ahead": 0}, {"quiet_level": 0.05, "start_at_sound": True},
    {"cell": "GRU"}, {"norm_type": "forgetting_norm"}, {"hop_length": 128}, {"num_mels": 7},
    {"num_mels": 33, "units_hidden_size": 192}, {"num_mels": 80, "units_hidden_size": 224},
])  # fmt: skip
def test_blocks_under_way_together_are_the_same(
    config: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty bands are more tiles than ask; seven are less than one: others do it all then."""
    monkeypatch.setattr(engine, "_LONG_SILENCE_SECONDS", 0.4)
    model, x = small_model("fast_fullsubnet", **{"num_mels": 40, **config}), long_signal()
    taken = []
    take = Flow.take
    monkeypatch.setattr(Flow, "take", lambda self, *a: [taken.append(a[1]), take(self, *a)])
    at_once, in_parts, plain = (npfsn.Enhancer(model) for _ in range(3))
    hop = at_once.frame_length
    want = in_hops(plain, x)
    assert not taken
    given = at_once.process(x)
    np.testing.assert_array_equal(given, want)
    if PREFETCH:
        assert len(taken) > 8 and min(taken) < 12 < max(taken) == 32
        assert taken[0] == 12 >= taken[-1]  # short: these have no other to overlap with
        assert sum(taken) > x.size // hop - 10
    for first in (64, 7, 65, 100):  # where `process` is called again
        in_parts.reset()
        chunks = np.split(x, [first * hop + 9, first * hop + 9 + 66 * hop])
        given = np.concatenate([in_parts.process(chunk) for chunk in chunks])
        np.testing.assert_array_equal(given, want)
    plain.process(x[x.size // hop * hop :])
    state = plain.get_state()
    assert same_state(at_once.get_state(), state) and same_state(in_parts.get_state(), state)
    ends = [enhancer.flush() for enhancer in (plain, at_once, in_parts)]
    np.testing.assert_array_equal(ends[1], ends[0])
    np.testing.assert_array_equal(ends[2], ends[0])


@pytest.mark.parametrize("config", [
    {"architecture": "fast_fullsubnet", "num_mels": 33},
    {"architecture": "fast_fullsubnet", "num_mels": 80, "shrink_size": 3},  # two groups of bands
    {"architecture": "fullsubnet", "n_fft": 192, "hop_length": 96},  # 97 units: one without partner
])  # fmt: skip
@pytest.mark.parametrize("size", [192, 224])  # the last group of a matrix has fewer panels
def test_streams_with_products_of_quarters(
    config: dict, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hop by hop, in chunks and whole: the same bits. Otherwise computed, the same but rounding."""
    model, x = small_model(**config, units_hidden_size=size), noise(50 * 256)
    first, second = npfsn.Enhancer(model), npfsn.Enhancer(model)
    want = in_hops(first, x)
    state = first.get_state()
    for sizes in ([30 * 256], [257, 300, 400], [7 * 256 + 1] * 6):
        second.reset()
        chunks = np.split(x, np.cumsum(sizes))
        got = np.concatenate([second.process(chunk) for chunk in chunks])
        np.testing.assert_array_equal(got[: want.size], want)
    second.set_state(state)
    more = noise(20 * 256, seed=1)
    np.testing.assert_array_equal(in_hops(second, more), in_hops(first, more))
    whole = npfsn.enhance(x, model.config.sample_rate, model)
    heard = want[first.latency_samples :]
    np.testing.assert_array_equal(whole[: heard.size], heard)

    monkeypatch.setattr(StrassenProduct, "suits", lambda *args: False)
    again = Model(model.architecture, model.config, dict(model.tensors))  # packed anew
    other = npfsn.enhance(x, model.config.sample_rate, again)
    assert (STRASSEN and np.any(other != whole)) or np.array_equal(other, whole)
    assert np.abs(other - whole).max() < 3e-6 * np.abs(whole).max()


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_a_bottleneck_of_one_band_forgets_what_it_did_ahead(cell: str) -> None:
    """It is a layer of one unit, too: what it did ahead is worth nothing after other frames."""
    enhancer = npfsn.Enhancer(small_model(
        "fast_fullsubnet", cell, num_mels=1, noisy_input_num_neighbors=0, look_ahead=0,
        shrink_size=1,
    ))  # fmt: skip
    x = noise(240 * 256)
    want = in_hops(enhancer, x)
    for more in range(40):  # sometimes, the last block is one frame
        enhancer.reset()
        cuts = np.cumsum([64 + more, 1, 64 + more]) * 256
        given = [enhancer.process(part) for part in np.split(x, cuts)]
        np.testing.assert_array_equal(np.concatenate(given), want)


@pytest.mark.parametrize("halves", [
    "bottleneck.sequence_model.weight_hh_l0", "bottleneck.sequence_model.weight_hh_l1",
    "bottleneck.sequence_model.weight_ih_l1", "bottleneck", "decoder_lstm.1", "encoder", "decoder",
    ("encoder", "decoder"),
])  # fmt: skip
@pytest.mark.parametrize("size", [None, 192])  # of the bottleneck: plain products, and Strassen's
def test_weights_of_two_types_in_one_model(halves: str | tuple[str, ...], size: int | None) -> None:
    """Tiles that take rows along know one type of weights of their own, and one of others."""
    large = {} if size is None else {"units_hidden_size": size}
    model = small_model("fast_fullsubnet", num_mels=40, **large)
    tensors = {
        name: tensor.astype(np.float16) if name.startswith(halves) else tensor
        for name, tensor in model.tensors.items()
    }
    model = Model(model.architecture, model.config, tensors)
    x, enhancer = noise(100 * 256), npfsn.Enhancer(model)
    want = in_hops(enhancer, x)
    enhancer.reset()
    np.testing.assert_array_equal(enhancer.process(x), want)


def test_one_block_alone_under_way_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk begins shortly before the sound, at hop 130, that ends a long silence."""
    monkeypatch.setattr(engine, "_LONG_SILENCE_SECONDS", 0.4)
    model, x = small_model("fast_fullsubnet", num_mels=40, start_at_sound=True), long_signal()
    enhancer, plain = npfsn.Enhancer(model), npfsn.Enhancer(model)
    x = x[: x.size // 256 * 256]
    y = np.full_like(x, np.nan)
    for part in (slice(0, 125 * 256), slice(125 * 256, None)):
        enhancer._stream.push_many(x[part], y[part])
    np.testing.assert_array_equal(y, in_hops(plain, x))


@pytest.mark.parametrize("norm", OFFLINE_NORMS)
def test_whole_signals_are_the_same_without_blocks_under_way(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = small_model("fast_fullsubnet", num_mels=40, norm_type=norm), long_signal()
    want = npfsn.enhance(x, 16000, model)
    monkeypatch.setattr(engine, "_LONG", 10**9)
    np.testing.assert_array_equal(npfsn.enhance(x, 16000, model), want)


@pytest.mark.parametrize("call", range(12))
def test_an_interrupt_between_blocks_leaves_nothing_behind(
    call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was under way: a stream that is reset is as new."""
    model, x = small_model("fast_fullsubnet", num_mels=40), noise(160 * 256)
    broken, fresh = npfsn.Enhancer(model), npfsn.Enhancer(model)
    play, calls = Program.play, iter(range(99))

    def interrupted(program: Program, *args: Any, **options: Any) -> None:
        if len(args) > 1 and args[1] > 1 and next(calls) == call:
            raise KeyboardInterrupt
        play(program, *args, **options)

    monkeypatch.setattr(Program, "play", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.process(x)
    monkeypatch.undo()
    broken.reset()
    np.testing.assert_array_equal(run(broken, x[:5000]), run(fresh, x[:5000]))
    for enhancer in (broken, fresh):
        enhancer.reset()
    np.testing.assert_array_equal(run(broken, x), run(fresh, x))


@pytest.mark.skipif(not PREFETCH, reason="tiles have no room for more here")
def test_an_interrupt_while_blocks_are_bound_leaves_a_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles have its address: it must not be freed before them."""
    model, x = small_model("fast_fullsubnet", num_mels=40), noise(100 * 256)
    broken, fresh, queues = npfsn.Enhancer(model), npfsn.Enhancer(model), []

    def interrupted(beside: Beside) -> None:
        queues.append(weakref.ref(beside.queue))
        raise KeyboardInterrupt

    monkeypatch.setattr(Beside, "divide", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        broken.process(x)
    monkeypatch.undo()
    gc.collect()
    assert [queue() is not None for queue in queues] == [True]
    broken.reset()
    for n in (5000, 100 * 256):  # without blocks under way, then with them
        np.testing.assert_array_equal(broken.process(x[:n]), fresh.process(x[:n]))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_first_frame_finds_its_recurrent_products(
    architecture: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of zeros they are the biases: a network that starts anew takes no longer than at any time."""
    monkeypatch.setattr(engine, "_LONG_SILENCE_SECONDS", 0.1)
    model = starting_at_sound(architecture)
    enhancer, slow = (npfsn.Enhancer(model, precision=precision) for _ in range(2))

    def ready() -> bool:
        stacks = enhancer._stream._one.network_pass.stacks
        panels = [[part.product.panels for part in stack.recurrent] for stack in stacks]
        return [stack.layers["done"].tolist() for stack in stacks] == panels

    assert ready()
    x = np.concatenate([noise(6000), np.zeros(6000, np.float32), noise(6000)])
    begun = []
    begin = RecurrentPass.begin
    monkeypatch.setattr(RecurrentPass, "begin", lambda stack: [begun.append(stack), begin(stack)])
    given = in_hops(enhancer, x)
    stacks = enhancer._stream._one.network_pass.stacks
    assert begun == 2 * stacks  # at the first sound, and behind the silence
    monkeypatch.setattr(RecurrentPass, "begin", lambda _: None)
    slow.reset()
    np.testing.assert_array_equal(given, in_hops(slow, x))
    monkeypatch.undo()
    enhancer.reset()
    assert ready()
    enhancer.step(x[: enhancer.frame_length])
    enhancer.set_state(enhancer.get_state())
    assert not ready()


# --- quiet input ------------------------------------------------------------------------------


def of_level(level: float, norm: str = "cumulative_laplace_norm") -> Model:
    return small_model("fast_fullsubnet", norm_type=norm, quiet_level=level)


@pytest.mark.parametrize("level", [1e-4, 0.05, 1e3])
@pytest.mark.parametrize("name", ["fast_gru_cum", "fast_lstm_cum"])
def test_quiet_input_is_seen_by_units_as_written_down(name: str, level: float) -> None:
    case, model = golden_case(name), golden_model(name)
    model = replace(model, config=replace(model.config, quiet_level=level))
    arguments = {**case.config["model_args"], "quiet_level": level}
    x = 0.01 * case.x
    x[: len(x) // 2] *= 0.1
    want = reference.enhance({**case.config, "model_args": arguments}, case.params, x)
    y = npfsn.enhance(x, 16000, model)
    assert np.abs(y - want).max() < 1e-5 * np.abs(want).max()
    published = npfsn.enhance(x, 16000, golden_model(name))
    assert np.array_equal(y, published) == (level == 1e-4)


@pytest.mark.parametrize("norm", ["cumulative_laplace_norm", "forgetting_norm"])
def test_below_its_level_no_level_makes_a_difference(norm: str) -> None:
    x = noise(16000, level=0.01)
    y = npfsn.enhance(x, 16000, of_level(1e4, norm))
    quiet = npfsn.enhance(0.01 * x, 16000, of_level(1e4, norm))
    np.testing.assert_allclose(100 * quiet, y, rtol=0, atol=2e-3 * np.abs(y).max())
    assert not np.allclose(100 * npfsn.enhance(0.01 * x, 16000, of_level(0.0, norm)), y, atol=1e-3)


@pytest.mark.parametrize("norm", DIVIDING_NORMS[:2])
def test_quiet_streams_are_whole_signals(norm: str) -> None:
    model, x = of_level(0.5, norm), noise(20 * 256 + 100, level=0.02)
    x[3000:] *= 0.03
    x[5000:6000] = 0.0
    whole = npfsn.enhance(x, 16000, model)
    for size in (100, 256, 1000):
        enhancer = npfsn.Enhancer(model)
        np.testing.assert_array_equal(run(enhancer, x, size)[enhancer.latency_samples :], whole)
    enhancer = npfsn.Enhancer(model)
    given = enhancer.process(x[:4000])
    other = npfsn.Enhancer(model)
    other.set_state(enhancer.get_state())
    given = np.concatenate([given, run(other, x[4000:])])
    np.testing.assert_array_equal(given[other.latency_samples :], whole)


def test_norms_that_do_not_divide_know_no_quiet_level() -> None:
    x = noise(4000, level=0.001)
    for norm in ("cumulative_layer_norm", "offline_gaussian_norm"):
        found = [npfsn.enhance(x, 16000, of_level(level, norm)) for level in (10.0, 0.0)]
        np.testing.assert_array_equal(*found)


def test_the_shipped_weights_hear_quiet_voices() -> None:
    x, rate = soundfile.read(HERE.parent / "examples" / "noisy.wav", dtype="float32")
    y = npfsn.enhance(x, rate)
    for gain in (0.1, 0.01, 0.002):
        quiet = npfsn.enhance(np.float32(gain) * x, rate) / np.float32(gain)
        assert 10 * np.log10(np.mean(y**2) / np.mean((quiet - y) ** 2)) > 20.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("norm", ["offline_laplace_norm", "cumulative_laplace_norm"])
def test_a_whole_signal_tells_its_progress(
    architecture: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(architecture, norm_type=norm)
    rate, x = model.config.sample_rate, noise(60_000).reshape(-1, 2)
    expected = npfsn.enhance(x, rate, model)
    monkeypatch.setattr("npfsn.whole._PIECE_HOPS", 7)
    seen: list[tuple[float, float]] = []
    y = npfsn.enhance(x, rate, model, progress=lambda *seconds: seen.append(seconds))
    np.testing.assert_array_equal(y, expected)  # nor do pieces change anything
    done = [each for each, _ in seen]
    assert {total for _, total in seen} == {30_000 / rate} and len(seen) > 10
    assert done == sorted(done) and done[0] == 0.0 and done[-1] == 30_000 / rate
    assert max(np.diff(done)) < 0.6 * 30_000 / rate / 2  # several times in every channel
    for wrong in (3, False):
        with pytest.raises(TypeError, match=f"progress is {wrong}: expected a function"):
            npfsn.enhance(x, rate, model, progress=wrong)


def test_the_progress_of_a_whole_signal_is_in_seconds_of_it() -> None:
    """At any rate; and nobody waits half a minute for a word."""
    model = small_model("fullband")
    for rate, seconds in ((8000, 1.0), (48000, 1.0), (16000, 34.0)):
        seen: list[tuple[float, float]] = []
        x = noise(int(rate * seconds))
        npfsn.enhance(x, rate, model, progress=lambda *told, seen=seen: seen.append(told))
        done, total = zip(*seen, strict=True)
        assert {*total} == {seconds} and done[-1] == seconds
        assert max(np.diff(done)) <= 20.0


# --- a start in silence -----------------------------------------------------------------------


def starting_at_sound(architecture: str, **config: object) -> Model:
    return causal(architecture, start_at_sound=True, **config)


def start_anew(enhancer: npfsn.Enhancer) -> None:
    """Have the network start at the next frame; all else goes on."""
    for name in enhancer._stream.network.fields():
        enhancer._state[name].fill(0)
    enhancer._stream.forget()
    enhancer._stream.began[0] = 1 + enhancer._stream.clock[1]


def start_anew_after_a_frame(enhancer: npfsn.Enhancer) -> None:
    """Have the network start behind the next frame, even if one hop completes two."""
    run_frame = enhancer._stream._run

    def run_and_start(*arguments: object) -> None:
        run_frame(*arguments)
        del enhancer._stream._run
        start_anew(enhancer)

    enhancer._stream._run = run_and_start


@pytest.mark.parametrize("norm", OFFLINE_NORMS)
def test_a_norm_of_the_whole_signal_starts_with_it(norm: str) -> None:
    """Whatever a configuration says: it counts the silence, too."""
    x = np.concatenate([np.zeros(3000, np.float32), noise(3000)])
    found = [
        npfsn.enhance(x, 16000, causal("fast_fullsubnet", norm_type=norm, start_at_sound=starts))
        for starts in (True, False)
    ]
    np.testing.assert_array_equal(*found)


def test_sound_in_less_than_a_last_hop_is_heard() -> None:
    """However long the silence before it."""
    model, tail = starting_at_sound("fast_fullsubnet"), noise(100)
    ends = []
    for hops in (30, 40):
        enhancer = npfsn.Enhancer(model)
        enhancer.process(np.zeros(hops * 256, np.float32))
        assert enhancer.process(tail).size == 0
        ends.append(enhancer.flush())
    assert np.abs(ends[0]).max() > 0
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("silent_hops", [0, 1, 2, 3, 40])
def test_silence_before_the_first_sound_is_forgotten(architecture: str, silent_hops: int) -> None:
    """At the first hop with sound the network is as it is at the start; all else goes on."""
    model = starting_at_sound(architecture)
    plain = npfsn.Enhancer(causal(architecture))
    hop = plain.frame_length
    lead = np.zeros(silent_hops * hop, np.float32)
    lead[::7] = 1e-4  # as much as dither
    sound = noise(20 * hop + 17)
    sound[:hop] = 0.0
    sound[hop // 2] = 1.01e-4  # and a little more
    x = np.concatenate([lead, sound])
    expected = plain.process(lead)
    # With the first hop of sound, frame 0 may become complete, too: it has heard silence only.
    silent_frame = silent_hops == plain._stream.half_hops
    (start_anew_after_a_frame if silent_frame else start_anew)(plain)
    expected = np.concatenate([expected, run(plain, sound)])
    got = npfsn.Enhancer(model)
    np.testing.assert_array_equal(run(got, x), expected)
    whole = npfsn.enhance(x, got.sample_rate, model)
    np.testing.assert_array_equal(whole, expected[got.latency_samples :])


@pytest.mark.parametrize("n_fft_in_hops", [2, 4])
@pytest.mark.parametrize("chunk_hops", [1, 30])
def test_no_silent_frame_is_counted_with_the_first_sound(
    n_fft_in_hops: int, chunk_hops: int
) -> None:
    """Nor is frame 0 when it becomes complete with the hop that brings the sound."""
    hop, half = 16, n_fft_in_hops // 2
    model = starting_at_sound("fullband", n_fft=n_fft_in_hops * hop, hop_length=hop)
    sound = noise(20 * hop)
    for silent_hops in range(6):
        enhancer = npfsn.Enhancer(model)
        x = np.concatenate([np.zeros(silent_hops * hop, np.float32), sound])
        for at in range(0, x.size, chunk_hops * hop):
            enhancer.process(x[at : at + chunk_hops * hop])
        state = enhancer.get_state()
        first = max(silent_hops + 1 - half, 0)  # frame that ends with the first hop of sound
        frames = silent_hops + 20 + 1 - half - first
        assert state["began"] == first + 1
        assert state["norm.count"] == frames


@pytest.mark.parametrize("n_fft_in_hops", [2, 4])
def test_nor_with_the_last_samples_of_a_short_signal(n_fft_in_hops: int) -> None:
    hop, half = 16, n_fft_in_hops // 2
    model = starting_at_sound("fullband", n_fft=n_fft_in_hops * hop, hop_length=hop)
    for silent_hops in range(half + 3):
        enhancer = npfsn.Enhancer(model)
        enhancer.process(np.concatenate([np.zeros(silent_hops * hop, np.float32), noise(13)]))
        enhancer.flush()
        state = enhancer.get_state()
        first = max(silent_hops + 1 - half, 0)
        assert state["began"] == first + 1
        assert state["norm.count"] == silent_hops + 1 + model.config.look_ahead - first


@pytest.mark.parametrize(("at", "late"), [(0, 0), (223, 0), (224, 1), (255, 1)])
@pytest.mark.parametrize("silent_hops", [0, 1, 9])
def test_a_sound_at_the_end_of_a_hop_starts_the_network_with_the_next(
    at: int, late: int, silent_hops: int
) -> None:
    """The frame that ends with this hop has it under the foot of its window."""
    enhancer = npfsn.Enhancer(starting_at_sound("fast_fullsubnet"))
    sound = noise(256 * 8)
    x = np.concatenate([np.zeros(silent_hops * 256 + at, np.float32), sound])
    enhancer.process(x)
    assert enhancer.get_state()["began"] == 1 + silent_hops + late


@pytest.mark.parametrize("level", [0.01, -0.01])
def test_a_sound_on_either_side_of_zero_is_one(level: float) -> None:
    enhancer = npfsn.Enhancer(starting_at_sound("fullband"))
    enhancer.process(np.repeat(np.float32([0.0, level]), 4 * 256))
    assert enhancer.get_state()["began"] == 1 + 4


@pytest.mark.parametrize("shrink", [1, 2, 3, 7])
def test_a_start_in_silence_does_not_depend_on_its_length(shrink: int) -> None:
    """Blocks of frames are counted from the first sound, or every other start would be another."""
    model = starting_at_sound("fast_fullsubnet", shrink_size=shrink)
    hop, sound = model.config.hop_length, noise(3000)
    starts = []
    for silent_hops in range(10, 18):
        x = np.concatenate([np.zeros(silent_hops * hop, np.float32), sound])
        y = npfsn.enhance(x, model.config.sample_rate, model)
        starts.append(y[silent_hops * hop :])
        np.testing.assert_array_equal(starts[-1], starts[0])
        enhancer = npfsn.Enhancer(model)
        steps = in_hops(enhancer, x)[enhancer.latency_samples :]
        np.testing.assert_array_equal(steps, y[: steps.size])
    assert np.abs(starts[0]).max() > 0


@given(st.integers(0, 3000), st.lists(st.integers(1, 700), min_size=8, max_size=8))
def test_a_start_in_silence_in_any_chunks(silent: int, sizes: list[int]) -> None:
    model = starting_at_sound("fast_fullsubnet")
    x = np.concatenate([np.zeros(silent, np.float32), noise(2500)])
    one = npfsn.Enhancer(model)
    cuts = np.cumsum(sizes)
    chunks = [one.process(chunk) for chunk in np.split(x, cuts[cuts < x.size])]
    np.testing.assert_array_equal(
        np.concatenate([*chunks, one.flush()]), run(npfsn.Enhancer(model), x)
    )


@pytest.mark.parametrize("architecture", ["fast_fullsubnet", "improved_fullsubnet"])
@pytest.mark.parametrize("missing_hops", [0, 1])
def test_after_a_long_mute_the_network_starts_anew(architecture: str, missing_hops: int) -> None:
    """At five seconds it has, a hop before it has not; in steps, in chunks and whole."""
    model = starting_at_sound(architecture)
    plain = npfsn.Enhancer(causal(architecture))
    hop, rate = plain.frame_length, plain.sample_rate
    mute = np.zeros((math.ceil(5 * rate / hop) - missing_hops) * hop, np.float32)
    mute[::5] = -1e-4
    first, second = noise(23 * hop), noise(22 * hop + 5, seed=4)
    first[0], first[-1], second[0] = 0.01, 0.01, 0.01
    x = np.concatenate([first, mute, second, mute[: mute.size // 2], first])
    want = plain.process(x[: first.size + mute.size])
    if not missing_hops:
        start_anew(plain)
    want = np.concatenate([want, run(plain, x[first.size + mute.size :])])

    got = npfsn.Enhancer(model)
    np.testing.assert_array_equal(run(got, x), want)
    whole = npfsn.enhance(x, rate, model)
    np.testing.assert_array_equal(whole, want[got.latency_samples :])
    steps, other = npfsn.Enhancer(model), npfsn.Enhancer(model)
    given = []
    for at in range(0, x.size - hop + 1, hop):
        if at == first.size + 100 * hop:  # what has been silent so far is a part of the state
            other.set_state(steps.get_state())
            steps = other
        given.append(steps.step(x[at : at + hop]))
    given.append(run(steps, x[x.size // hop * hop :]))
    np.testing.assert_array_equal(np.concatenate(given), want)


def test_a_start_in_silence_is_a_part_of_the_state(x: np.ndarray) -> None:
    model = starting_at_sound("fast_fullsubnet")
    lead = np.zeros(3000, np.float32)
    first, second, third = (npfsn.Enhancer(model) for _ in range(3))
    first.process(lead)
    second.set_state(first.get_state())
    np.testing.assert_array_equal(first.process(x), second.process(x))
    first.reset()
    np.testing.assert_array_equal(first.process(lead), third.process(lead))
    np.testing.assert_array_equal(first.process(x), third.process(x))
    state = first.get_state()
    patience = math.ceil(5 * model.config.sample_rate / model.config.hop_length)
    for name, wrong in (
        ("began", (-1, state["clock"][1] + 2)),
        ("silent", (-1, patience + 1)),
    ):
        for value in wrong:
            with pytest.raises(npfsn.StateError, match="counters"):
                first.set_state(state | {name: np.array([value])})
    first.set_state(state | {"silent": np.array([patience])})
    plain = npfsn.Enhancer(causal("fast_fullsubnet"))
    plain.process(x)
    state = plain.get_state()
    for name in ("began", "silent"):  # a network that never starts anew counts neither
        with pytest.raises(npfsn.StateError, match="counters"):
            plain.set_state(state | {name: np.array([1])})


def test_a_microphone_that_was_muted_is_enhanced_as_well() -> None:
    """The built-in weights, after five seconds of nothing or dither, after a mute of a minute."""
    rng = np.random.default_rng(5)
    hum = np.cumsum(rng.normal(size=32000)) * 1e-3
    x = (0.05 * rng.normal(size=32000) + hum - hum.mean()).astype(np.float32)
    left = []
    dither, mute = rng.integers(-1, 2, 80_000) / 32768, np.zeros(960_000)
    for lead in (np.zeros(0), np.zeros(80_000), dither, np.concatenate([x, mute])):
        y = npfsn.enhance(np.concatenate([lead, x]).astype(np.float32), 16000)[len(lead) :]
        left.append(np.mean(y[8000:] ** 2) / np.mean(x[8000:] ** 2))
    assert left[0] < 0.01  # noise alone: hardly any of it
    assert max(left) < 2 * left[0]


def test_one_stream_from_two_threads(
    enhancer: npfsn.Enhancer, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second is told, whatever is called, and disturbs nothing."""
    want = run(enhancer.copy(), x)
    state = enhancer.get_state()
    inside, leave = threading.Event(), threading.Event()
    push = Stream.push

    def slow_push(self: Stream, *args: np.ndarray) -> None:
        if not inside.is_set():
            inside.set()
            assert leave.wait(60)
        push(self, *args)

    monkeypatch.setattr(Stream, "push", slow_push)
    given = []
    thread = threading.Thread(target=lambda: given.append(enhancer.step(x[:256])))
    thread.start()
    assert inside.wait(60)
    calls = {
        "step": lambda: enhancer.step(x[:256]),
        "process": lambda: enhancer.process(x[:10]),
        "flush": enhancer.flush,
        "reset": enhancer.reset,
        "get_state": enhancer.get_state,
        "set_state": lambda: enhancer.set_state(state),
        "copy": enhancer.copy,
    }
    try:
        for call in calls.values():
            with pytest.raises(npfsn.ConcurrentUseError, match="another thread"):
                call()
    finally:
        leave.set()
        thread.join(60)
    given.append(run(enhancer, x[256:]))
    np.testing.assert_array_equal(np.concatenate(given), want)


def test_an_interrupted_hop_is_not_hidden(
    enhancer: npfsn.Enhancer, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C inside a hop leaves half a state: nothing but reset and set_state follows."""
    enhancer.process(x[:1000])
    state = enhancer.get_state()
    with monkeypatch.context() as patch:

        def interrupt(self: Stream, *args: np.ndarray) -> None:
            raise KeyboardInterrupt

        patch.setattr(Stream, "push", interrupt)
        with pytest.raises(KeyboardInterrupt):
            enhancer.step(x[:256])
    with pytest.raises(npfsn.StreamEndedError, match="interrupted"):
        enhancer.step(x[:256])
    with pytest.raises(npfsn.StateError):
        enhancer.set_state({})
    with pytest.raises(npfsn.StreamEndedError, match="interrupted"):
        enhancer.step(x[:256])
    enhancer.set_state(state)
    other = npfsn.Enhancer(enhancer.model)
    other.process(x[:1000])
    np.testing.assert_array_equal(run(enhancer, x[1000:]), run(other, x[1000:]))


# ---------------------------------------------------------------------------------------------
# Levels
# ---------------------------------------------------------------------------------------------


def lone_window(n: int, n_fft: int, hop: int) -> np.ndarray:
    """Return for each of `n` samples the largest window over it: thin where only an edge is."""
    window = reference.periodic_hann(n_fft)
    largest = np.zeros(n + n_fft)
    for t in range(1 + n // hop):
        span = slice(t * hop, t * hop + n_fft)
        largest[span] = np.maximum(largest[span], window)
    return largest[n_fft // 2 : n_fft // 2 + n]


IDENTITIES = {
    "fast": ("fast_fullsubnet", {}),
    "fast, shrink 3": ("fast_fullsubnet", {"shrink_size": 3, "look_ahead": 0}),
    "full": ("fullsubnet", {}),
    "base": ("fullband", {}),
    "base, quarter hop": ("fullband", {"hop_length": 128}),
    "base, eighth hop": ("fullband", {"hop_length": 64}),
    "base, 48 kHz": ("fullband", {"n_fft": 960, "hop_length": 480, "sample_rate": 48000}),
    "base, odd factors": ("fullband", {"n_fft": 30, "hop_length": 5, "look_ahead": 1}),
}


@pytest.mark.parametrize("which", IDENTITIES)
def test_a_mask_of_one_gives_the_input_back(which: str) -> None:
    """At any length, to the last sample, where the lone window is 4e-5. The contract is 1e-6."""
    architecture, config = IDENTITIES[which]
    model = identity_model(architecture, **config)
    hop, rate = model.config.hop_length, model.config.sample_rate
    # A signal shorter than a hop is one frame, which is fewer than half a window has hops.
    lengths = (1, 2, 3, 99, 255, 256, 257, 511, 512, 1023, 1791, hop - 1, 2 * hop - 1)
    # Of up to two windows' hops, the last frames reflect the signal at both ends.
    lengths += (5 * hop + 3, 6 * hop, 7 * hop - 1, 7 * hop, 9 * hop - 1, 9 * hop, 9 * hop + 1)
    for n in lengths:
        x = np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32)
        np.testing.assert_allclose(npfsn.enhance(x, rate, model), x, rtol=0.0, atol=3e-7)
        stream = npfsn.Enhancer(model)
        np.testing.assert_allclose(
            run(stream, x, 100)[stream.latency_samples :], x, rtol=0.0, atol=3e-7
        )


@pytest.mark.parametrize("n_rest", [205, 222, 239, 240, 241, 242, 243, 246, 250, 253, 254, 255])
@pytest.mark.parametrize("name", ["fast_gru_cum", "full_gru_clamped_cum"])
def test_tail_under_a_thin_window(name: str, n_rest: int) -> None:
    """Divided as published down to a window of 1/128; below it no click: the input's last peak."""
    case = golden_case(name)
    x = case.x[: 20 * 256 + n_rest].copy()
    x[:2000] *= 10.0  # long past when the signal ends
    y = npfsn.enhance(x, 16000, golden_model(name))
    window = lone_window(len(x), 512, 256)
    thin = window < 1 / 128
    assert thin.sum() == max(n_rest - 242, 0)
    assert np.abs(y[thin]).max(initial=0.0) <= np.abs(x[-512:]).max()
    want = reference.enhance(case.config, case.params, x)
    rest = ~thin
    assert np.abs(y - want)[rest].max() < 1e-5 * max(1.0, np.abs(want[rest]).max())


def test_what_waits_for_its_hop_is_the_same_however_it_came() -> None:
    model, x = small_model("fullband"), noise(3 * 256 + 100)
    state = npfsn.Enhancer(model)
    state.process(x)
    # With `step` last, with more samples waiting before than at the end, and hop by hop.
    for cuts in ((100, 356, 612), (200, 256), (100, 600, 768), (256, 512, 768)):
        other = npfsn.Enhancer(model)
        for part in np.split(x, cuts):
            (other.step if part.size == 256 else other.process)(part)
        for name, array in state.get_state().items():
            np.testing.assert_array_equal(other.get_state()[name], array, err_msg=name)


def test_no_memory_for_a_chunk_is_no_end_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_model("fullband"), noise(2000)
    enhancer, other = npfsn.Enhancer(model), npfsn.Enhancer(model)
    want = other.process(x)
    given = [enhancer.process(x[:100])]

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "concatenate", fail)
        with pytest.raises(MemoryError):
            enhancer.process(x[100:])
    given.append(enhancer.process(x[100:]))
    np.testing.assert_array_equal(np.concatenate(given), want)


def test_the_limit_may_change_in_mid_stream() -> None:
    model, x = small_model("fast_fullsubnet"), noise(40 * 256)
    enhanced, limited = npfsn.Enhancer(model), npfsn.Enhancer(model, atten_lim_db=6.0)
    want = np.concatenate([enhanced.process(x[:5120]), 0 * x[5120:]])
    limited.process(x[:5120])
    want[5120:] = limited.process(x[5120:])
    changed = npfsn.Enhancer(model)
    assert changed.atten_lim_db is None
    got = [changed.process(x[:5120])]
    changed.atten_lim_db = 6.0
    got.append(changed.copy().process(x[5120:]))
    np.testing.assert_array_equal(np.concatenate(got), want)
    with pytest.raises(ValueError, match="0 dB"):
        changed.atten_lim_db = -1
    assert changed.atten_lim_db == 6.0


@pytest.mark.parametrize("limit", [None, 6.0])
def test_snr_is_that_of_the_last_hop(limit: float | None) -> None:
    """By its definition, whatever the chunks and the limit; state keeps it, `reset` drops it."""
    model, x = small_model("fast_fullsubnet"), noise(40 * 256 + 100)
    y = run(npfsn.Enhancer(model), x).astype(np.float64)
    dry = np.concatenate([np.zeros(768), x]).astype(np.float64)

    def at(end: int) -> float:
        hop = slice(end - 256, end)
        kept = min(np.sum(y[hop] ** 2), np.sum(dry[hop] ** 2))
        return float(10 * np.log10(kept / np.sum((dry[hop] - y[hop]) ** 2)))

    stream, given, taken = npfsn.Enhancer(model, atten_lim_db=limit), 0, 0
    assert stream.last_snr_db == -math.inf
    for n in (700, 68, 256, 100, 412, 2048, 7):
        given, taken = given + stream.process(x[taken : taken + n]).size, taken + n
        assert stream.last_snr_db == (pytest.approx(at(given)) if given > 768 else -math.inf)
    other = npfsn.Enhancer(model)
    other.set_state(stream.get_state())
    assert stream.copy().last_snr_db == other.last_snr_db == stream.last_snr_db
    stream.process(x[taken:])
    given += stream.flush().size
    assert stream.last_snr_db == pytest.approx(at(len(y)))
    stream.reset()
    assert stream.last_snr_db == -math.inf


def test_snr_where_nothing_is_removed_or_nothing_is_there() -> None:
    """Silence has no speech in it, whatever still rings in the output."""
    stream, x = npfsn.Enhancer(identity_model("fullband")), noise(40 * 256)
    stream.process(x)
    assert stream.last_snr_db > 100.0
    stream.process(np.zeros(20 * 256, np.float32))
    assert stream.last_snr_db == -math.inf
    stream = npfsn.Enhancer(small_model("fast_fullsubnet"))
    stream.process(np.concatenate([x, np.zeros(3 * 256, np.float32)]))
    rings = stream.process(np.zeros(256, np.float32))  # a frame reaches beyond the last sound
    assert rings.any() and stream.last_snr_db == -math.inf


def test_other_options_cannot_be_set_too_late() -> None:
    options = {"precision": "int8", "norm": "forgetting_norm", "norm_horizon": 2.0}
    enhancer = npfsn.Enhancer(small_model("fullband"), **options, on_nonfinite="zero")
    for name, value in {**options, "on_nonfinite": "zero"}.items():
        assert getattr(enhancer, name) == value
        with pytest.raises(AttributeError, match=name):
            setattr(enhancer, name, value)


def test_the_tail_of_a_signal_below_zero() -> None:
    """Its level is that of its size: an offset is no reason to cut the last samples."""
    x = -np.abs(noise(1020)) - np.float32(0.01)
    y = npfsn.enhance(x, 16000, identity_model("fullband"))
    np.testing.assert_allclose(y[-16:], x[-16:], rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_output_is_aligned_with_the_input(rate: int) -> None:
    """The cross-correlation peaks at lag 0, at the model's own rate and at others."""
    model = identity_model("fast_fullsubnet")
    # Speech has little above 3 kHz; noise would lose what resampling has to remove.
    x = np.convolve(noise(rate), np.hanning(rate // 1500), "same").astype(np.float32)
    y = npfsn.enhance(x, rate, model)
    assert y.shape == x.shape
    assert lag(x, y) == 0
    np.testing.assert_allclose(np.std(y), np.std(x), rtol=0.02)


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
def test_signals_of_any_length_are_aligned(rate: int) -> None:
    """Resampled there and back they are longer by some samples, at their end."""
    tone = np.sin(2 * np.pi * 1000 / rate * np.arange(9606)).astype(np.float32)
    for n in range(9600, 9606):
        y = npfsn.enhance(tone[:n], rate, identity_model("fullband"))
        np.testing.assert_allclose(y[2000:-2000], tone[2000 : n - 2000], atol=0.01)


def test_shipped_weights_are_aligned_and_quieter() -> None:
    """On the example, the cross-correlation peaks at lag 0, and the pauses are cleaner."""
    x, rate = soundfile.read(HERE.parent / "examples" / "noisy.wav", dtype="float32")
    y = npfsn.enhance(x, rate)
    assert y.shape == x.shape
    assert lag(x, y) == 0
    frames = [np.square(z[: len(z) // 512 * 512].reshape(-1, 512)).mean(axis=1) for z in (x, y)]
    quiet = frames[0] <= np.quantile(frames[0], 0.1)
    assert frames[1][quiet].mean() < 0.5 * frames[0][quiet].mean()


@pytest.mark.parametrize("level", [1e-3, 1e-2, 30.0])
def test_level_is_kept(level: float) -> None:
    """Nothing is normalised to a peak or an average: soft stays soft, loud loud."""
    x = noise(16000, level=level)
    y = npfsn.enhance(x, 16000, identity_model("fast_fullsubnet"))
    np.testing.assert_allclose(y, x, rtol=0.0, atol=1e-6 * level * 5)
    # The baseline sees its input through a norm alone: its output scales.
    x = golden_case("base_lstm_cum").x[:16000]
    y = npfsn.enhance(x, 16000, golden_model("base_lstm_cum"))
    scaled = npfsn.enhance(x * np.float32(level), 16000, golden_model("base_lstm_cum"))
    # At the lowest level the norm's epsilon begins to be seen.
    np.testing.assert_allclose(scaled / level, y, rtol=0.0, atol=1e-3 * np.abs(y).max())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "norm",
    [
        "cumulative_laplace_norm",
        "cumulative_layer_norm",
        "forgetting_norm",
        "offline_laplace_norm",
        "offline_gaussian_norm",
    ],
)
def test_silence_stays_silence(architecture: str, norm: str) -> None:
    """Zeros in, zeros out, to the last bit; also before and after sound."""
    model = small_model(architecture)
    silence = np.zeros(5003, np.float32)
    assert not npfsn.enhance(silence, 16000, model, norm=norm).any()
    if not norm.startswith("offline"):
        sound = np.concatenate([silence, noise(2000), silence])
        y = npfsn.enhance(sound, 16000, model, norm=norm)
        assert not y[:4000].any()
        assert not y[8000:].any()


def test_many_channels_are_many_signals() -> None:
    """Each channel alone, whatever its place in memory."""
    model = small_model("fullband")
    x = np.stack([noise(3001, seed=i) for i in range(3)], axis=1)
    want = np.stack([npfsn.enhance(x[:, i].copy(), 16000, model) for i in range(3)], axis=1)
    np.testing.assert_array_equal(npfsn.enhance(x, 16000, model), want)
    np.testing.assert_array_equal(npfsn.enhance(np.asfortranarray(x), 16000, model), want)
    assert npfsn.enhance(np.zeros((0, 2), np.float32), 16000, model).shape == (0, 2)


@pytest.mark.parametrize("norm", ["offline_laplace_norm", "offline_gaussian_norm"])
def test_a_channel_is_normed_by_itself(norm: str) -> None:
    """Where the whole signal is needed, that of another channel is not."""
    model = small_model("fullband", norm_type=norm)
    other = npfsn.Model(model.architecture, model.config, model.tensors)
    loud, soft = noise(3001, level=0.5), noise(3001, seed=1, level=0.001)
    both = npfsn.enhance(np.stack([loud, soft], axis=1), 16000, model)
    # Whole signals lend each other the streams of a model: this one has heard nothing yet.
    np.testing.assert_array_equal(both[:, 1], npfsn.enhance(soft, 16000, other))


# ---------------------------------------------------------------------------------------------
# Options
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit_db", [0.5, 6.0, 20.0, 60])
def test_the_attenuation_limit_mixes_the_delayed_input_in(limit_db: float, x: np.ndarray) -> None:
    """The formula, limit x delayed + (1 - limit) x enhanced, in every call; whole signals alike."""
    model = small_model("fast_fullsubnet")
    stream = npfsn.Enhancer(model, atten_lim_db=limit_db)
    given = [stream.step(x[at : at + 256]) for at in range(0, 1024, 256)]
    given += [stream.process(x[1024:1100]), stream.step(x[1100:1356])]
    y = np.concatenate([*given, run(stream, x[1356:])])
    enhanced = run(npfsn.Enhancer(model), x).astype("d")
    dry = np.concatenate([np.zeros(768), x])
    limit = 10.0 ** (-limit_db / 20.0)
    np.testing.assert_allclose(y, limit * dry + (1 - limit) * enhanced, rtol=0.0, atol=1e-7)
    whole = npfsn.enhance(x, 16000, model, atten_lim_db=limit_db)
    np.testing.assert_array_equal(y[768:], whole)


def test_attenuation_limit_of_nothing_and_everything(x: np.ndarray) -> None:
    """0 dB passes the input through to the bit; 100 dB and more, and None, change nothing."""
    model = small_model("fast_fullsubnet")
    dry = run(npfsn.Enhancer(model, atten_lim_db=0), x)
    np.testing.assert_array_equal(dry, np.concatenate([np.zeros(768, np.float32), x]))
    enhanced = run(npfsn.Enhancer(model), x)
    for limit_db in (100, 150.0):
        y = run(npfsn.Enhancer(model, atten_lim_db=limit_db), x)
        assert np.abs(y - enhanced).max() <= 1.1e-5 * (np.abs(x).max() + np.abs(enhanced).max())
    for limit_db in (1000.0, 10**400, float("inf"), None):
        y = run(npfsn.Enhancer(model, atten_lim_db=limit_db), x)
        np.testing.assert_array_equal(y, enhanced)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"atten_lim_db": -1.0}, ValueError, "atten_lim_db is -1.0"),
        ({"atten_lim_db": float("nan")}, ValueError, "atten_lim_db is nan"),
        ({"atten_lim_db": "12"}, TypeError, "atten_lim_db is '12'"),
        ({"atten_lim_db": True}, TypeError, "atten_lim_db is True"),
        ({"precision": "float64"}, ValueError, "float64.*float32"),
        ({"on_nonfinite": "ignore"}, ValueError, "ignore.*raise.*zero"),
        ({"on_nonfinite": np.zeros(2)}, ValueError, "on_nonfinite is array.*raise.*zero"),
        ({"norm_horizon": 0}, ValueError, "norm_horizon is 0"),
        ({"norm_horizon": 0.0159}, ValueError, "norm_horizon is 0.0159.*one hop, 0.016 s"),
        ({"norm_horizon": float("nan")}, ValueError, "norm_horizon is nan"),
        ({"norm_horizon": True}, TypeError, "norm_horizon is True"),
        ({"norm_horizon": "1"}, TypeError, "norm_horizon is '1'"),
        ({"norm_horizon": -(10**400)}, ValueError, "norm_horizon is -1000"),
        ({"atten_lim_db": -(10**400)}, ValueError, "atten_lim_db is -1000"),
        ({"atten_lim_db": np.complex64(12)}, TypeError, "atten_lim_db is .*12"),
        ({"precision": ["int8"]}, ValueError, "int8.*float32"),
        ({"norm": "batch_norm"}, npfsn.NormError, "batch_norm.*cumulative_laplace_norm"),
    ],
)
def test_unfit_options_are_refused(option: dict, error: type, message: str) -> None:
    """By streams and by whole signals alike, in one sentence."""
    model = small_model("fullband")
    with pytest.raises(error, match=message):
        npfsn.Enhancer(model, **option)
    with pytest.raises(error, match=message):
        npfsn.enhance(np.zeros(10, np.float32), 16000, model, **option)


@pytest.mark.parametrize(
    "rate",
    [0, -16000, 999, 768_001, 44100.5, np.nan, np.inf, "16000", True, None],
)
def test_unfit_rates_are_refused(rate: object) -> None:
    """A rate is a whole number of Hz."""
    with pytest.raises((TypeError, npfsn.AudioError), match="sample.rate"):
        npfsn.enhance(np.zeros(10, np.float32), rate, small_model("fullband"))


@pytest.mark.parametrize("rate", [1000, 768_000])
def test_the_lowest_and_the_highest_rate_are_rates(rate: int) -> None:
    """As documented: 1,000 to 768,000 Hz."""
    y = npfsn.enhance(noise(500), rate, small_model("fullband"))
    assert y.shape == (500,) and np.isfinite(y).all()


def test_rates_as_sound_systems_tell_them() -> None:
    """Whole numbers, whatever their type."""
    model, x = small_model("fullband"), noise(3000)
    for rate in (44100, 16000):
        expected = npfsn.enhance(x, rate, model)
        for same in (float(rate), np.float32(rate), np.int32(rate)):
            np.testing.assert_array_equal(npfsn.enhance(x, same, model), expected)
            live = npfsn.LiveStream(same, model=model)
            assert live.sample_rate == rate and type(live.sample_rate) is int


@pytest.mark.parametrize("norm", ["offline_laplace_norm", "offline_gaussian_norm"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_offline_norms_do_not_stream(architecture: str, norm: str) -> None:
    """The refusal names the ways out, and each of them works."""
    model = small_model(architecture, norm_type=norm)
    with pytest.raises(npfsn.NormError) as caught:
        npfsn.Enhancer(model)
    message = str(caught.value)
    for word in (norm, "norm=", "cumulative_laplace_norm", "npfsn.enhance"):
        assert word in message
    assert npfsn.Enhancer(model, norm="cumulative_laplace_norm").latency_samples > 0
    assert npfsn.enhance(noise(1000), 16000, model).any()
    for n in (0, 1, 2, 255):
        y = npfsn.enhance(noise(n), 16000, model)
        assert y.shape == (n,)
        assert np.isfinite(y).all()
    with pytest.raises(npfsn.NormError, match=norm):
        npfsn.Enhancer(small_model(architecture), norm=norm)


def test_improved_as_published_does_not_stream() -> None:
    """Even with a causal full-band norm: its sections look at the whole utterance."""
    model = small_model("improved_fullsubnet", norm_type="cumulative_laplace_norm")
    with pytest.raises(npfsn.NormError, match=r"sections' norm \(offline_laplace_norm.*norm="):
        npfsn.Enhancer(model)
    with pytest.raises(npfsn.NormError, match=r"model's norm \(offline_laplace_norm\).*norm="):
        npfsn.Enhancer(golden_model("improved_16k"))
    assert npfsn.Enhancer(model, norm="cumulative_laplace_norm").latency_samples == 768 - 512


def test_norm_replaces_the_models() -> None:
    """A stream with `norm=` is the stream of a model that was trained with it."""
    for norm in ("cumulative_layer_norm", "forgetting_norm"):
        x = noise(5000)
        replaced = npfsn.Enhancer(small_model("fast_fullsubnet"), norm=norm)
        trained = npfsn.Enhancer(small_model("fast_fullsubnet", norm_type=norm))
        published = npfsn.Enhancer(small_model("fast_fullsubnet"))
        y = run(replaced, x)
        np.testing.assert_array_equal(y, run(trained, x))
        assert not np.array_equal(y, run(published, x))


def test_norm_horizon_forgets() -> None:
    """A stream with a horizon gets over a loud start; a long one changes nothing."""
    model = small_model("fast_fullsubnet")
    soft = noise(32000, seed=1, level=0.01)
    x = np.concatenate([noise(8192, level=1.0), soft])

    def end(signal: np.ndarray, horizon: float | None) -> np.ndarray:
        return run(npfsn.Enhancer(model, norm_horizon=horizon), signal)[-8000:]

    published, short = end(x, None), end(x, 0.1)
    np.testing.assert_array_equal(end(x, float("inf")), published)
    np.testing.assert_array_equal(end(x, 1e6), published)
    # In two seconds, twenty horizons, the start is forgotten: it might not have been there.
    left = np.abs(short - end(soft, 0.1)).max()
    assert left < 0.01 * np.abs(published - end(soft, None)).max()
    whole = npfsn.enhance(x, 16000, model, norm_horizon=0.1)
    np.testing.assert_array_equal(whole[-8000:], short)


def test_a_horizon_may_be_a_number_of_numpys() -> None:
    """Its state, which says the horizon in JSON, is that of any other number."""
    model = small_model("fast_fullsubnet")
    stream, other = (npfsn.Enhancer(model, norm_horizon=n) for n in (np.float32(2.0), 2))
    other.set_state(stream.get_state())
    assert type(stream.norm_horizon) is type(other.norm_horizon) is float


def test_a_mel_band_may_be_empty():
    """As of a matrix whose lowest bands lie between two bins."""
    fb = np.zeros((9, 3), np.float32)
    fb[2:4, 0], fb[5, 2] = 1, 2
    bands = MelBands(fb)
    assert (bands.weight.tolist(), bands.start.tolist()) == ([1, 1, 2], [0, 2, 2, 3])


@pytest.mark.parametrize(
    ("call", "inside"),
    [("process", "push_many"), ("flush", "finish"), ("reset", "reset"), ("set_state", "forget")],
)
def test_an_interrupt_of_any_call_is_not_hidden(
    enhancer: npfsn.Enhancer, x: np.ndarray, monkeypatch: pytest.MonkeyPatch, call: str, inside: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    enhancer.process(x[:1000])
    arguments = {"process": [x[1000:]], "set_state": [enhancer.get_state()]}
    with monkeypatch.context() as patch:
        patch.setattr(Stream, inside, interrupt)
        with pytest.raises(KeyboardInterrupt):
            getattr(enhancer, call)(*arguments.get(call, []))
    for again in (enhancer.flush, enhancer.get_state, lambda: enhancer.step(x[:256])):
        with pytest.raises(npfsn.StreamEndedError, match=r"interrupted.* reset.* set_state\(\)"):
            again()
    enhancer.reset()
    fresh = npfsn.Enhancer(enhancer.model)
    np.testing.assert_array_equal(run(enhancer, x), run(fresh, x))


@pytest.mark.parametrize("kind", [npfsn.Enhancer, npfsn.LiveStream])
def test_an_interrupted_reset_is_not_hidden_by_a_flush(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    stream = kind(model=small_model("fullband"))
    stream.flush()
    with monkeypatch.context() as patch:
        patch.setattr(Stream, "reset", interrupt)
        with pytest.raises(KeyboardInterrupt):
            stream.reset()
    with pytest.raises(npfsn.StreamEndedError, match="interrupted"):
        stream.flush()


@pytest.mark.parametrize("kind", [npfsn.Enhancer, npfsn.LiveStream])
def test_methods_keep_their_names_and_help(kind: type) -> None:
    for name in ("process", "flush", "reset", "copy"):
        method = getattr(kind, name)
        assert method.__name__ == name and method.__doc__
        assert "kwargs" not in inspect.signature(method).parameters


@pytest.mark.parametrize("kind", [npfsn.Enhancer, npfsn.LiveStream])
def test_an_infinite_limit_is_none(kind: type) -> None:
    stream = kind(model=small_model("fullband"), atten_lim_db=math.inf)
    assert stream.atten_lim_db is None
    stream.atten_lim_db = 6.0
    stream.atten_lim_db = math.inf
    assert stream.atten_lim_db is None


def test_many_channels_of_more_samples_are_no_transposed_signal() -> None:
    for shape in ((50, 40), (0, 40)):
        audio = np.zeros(shape, np.float32)
        assert npfsn.enhance(audio, 16000, small_model("fullband")).shape == shape


def test_a_limit_beyond_all_measure_is_none() -> None:
    assert dry_share(401.0) == 0.0 < dry_share(399.0)
