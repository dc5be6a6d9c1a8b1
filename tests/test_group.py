"""Groups of streams: the bits of each stream alone, whatever happens to the others."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import sys
import threading
import weakref

import numpy as np
import pytest
from drawn_models import golden_model, noise, small_model
from streams import same_state

import npfsn
from npfsn.alone import alone
from npfsn.errors import ConcurrentUseError, FrameError, StreamEndedError
from npfsn.models import ARCHITECTURES

MODELS = [
    ("fast_fullsubnet", {}),
    ("fullsubnet", {"norm": "forgetting_norm"}),
    ("fullband", {"norm": "cumulative_layer_norm"}),
    ("fast_lstm_cum", {}),
    ("fast_shrink3_nolook", {}),
    ("full_gru_cum", {}),
    ("improved_48k", {"norm": "cumulative_laplace_norm"}),
]


def pairs(model, n: int, **options) -> tuple[list[npfsn.Enhancer], list[npfsn.Enhancer]]:
    """Return as many streams for a group, and others that run alone."""
    grouped = [npfsn.Enhancer(model, **options) for _ in range(n)]
    return grouped, [npfsn.Enhancer(model, **options) for _ in range(n)]


def assert_alike(group: npfsn.EnhancerGroup, alone: list[npfsn.Enhancer], n: int, seed=0) -> None:
    """Take some hops in the group and alone: the same bits, and the same states."""
    for t in range(n):
        x = np.stack([noise(group.frame_length, 100 * (seed + t) + s) for s in range(len(alone))])
        expected = [each.step(row) for each, row in zip(alone, x, strict=True)]
        assert np.array_equal(group.step(x), expected)
    for one, other in zip(group.enhancers, alone, strict=True):
        assert same_state(one.get_state(), other.get_state())


def model_of(name: str):
    return small_model(name) if name in ARCHITECTURES else golden_model(name)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("name", "options"), MODELS)
def test_a_group_gives_the_bits_of_each_stream_alone(name, options, precision):
    grouped, alone = pairs(model_of(name), 5, precision=precision, **options)
    group = npfsn.EnhancerGroup(grouped)
    assert_alike(group, alone, 17)
    for both in (grouped, alone):
        both[0].reset()  # this one starts anew while the others go on
        both[1].step(noise(group.frame_length))  # this one is a hop ahead
        both[2].process(noise(3 * group.frame_length + 7))  # this one has begun a hop
        both[3].set_state(both[4].get_state())
    assert_alike(group, alone, 9, seed=1)
    for one, other in zip(grouped, alone, strict=True):
        for t in range(6):  # what the group has done leaves nothing stale
            x = noise(group.frame_length, t)
            assert np.array_equal(one.step(x), other.step(x))
    assert_alike(group, alone, 5, seed=2)
    for one, other in zip(grouped, alone, strict=True):
        assert np.array_equal(one.flush(), other.flush())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 13, 33])
def test_any_number_of_streams(n):
    for precision in ("float32", "int8"):
        grouped, alone = pairs(None, n, precision=precision)
        assert_alike(npfsn.EnhancerGroup(grouped), alone, 10)


@pytest.mark.parametrize(
    "config", [{"num_mels": 1, "noisy_input_num_neighbors": 0}, {"shrink_size": 1}]
)
def test_a_bottleneck_of_one_band_keeps_its_own_time(config):
    """It has one unit, too, but streams reach the ends of their blocks at different times."""
    grouped, alone = pairs(small_model("fast_fullsubnet", **config), 4)
    for both in (grouped, alone):
        for late, each in enumerate(both):
            for t in range(7 + late):
                each.step(noise(each.frame_length, t))
    assert_alike(npfsn.EnhancerGroup(grouped), alone, 12)


def test_streams_that_start_at_different_sounds():
    """The built-in model starts anew at the first sound, and after a long silence."""
    grouped, alone = pairs(None, 4)
    group, hop = npfsn.EnhancerGroup(grouped), alone[0].frame_length
    rng = np.random.default_rng(0)
    sounds = [range(0, 400), range(3, 400), range(50, 60), [*range(9), *range(340, 400)]]
    for t in range(400):
        x = rng.normal(0.0, 0.1, (4, hop)).astype(np.float32)
        for s in range(4):
            x[s] *= t in sounds[s]
        expected = [each.step(row) for each, row in zip(alone, x, strict=True)]
        assert np.array_equal(group.step(x), expected)
    states = [each.get_state()["began"][0] for each in grouped]
    assert len(set(states)) == 4 and states[3] > 300  # or this shows nothing


def test_each_stream_has_its_own_options():
    model = small_model("fast_fullsubnet")
    options = [{"atten_lim_db": 6.0}, {"norm_horizon": 0.5}, {"on_nonfinite": "zero"}, {}]
    grouped, alone = ([npfsn.Enhancer(model, **each) for each in options] for _ in range(2))
    group = npfsn.EnhancerGroup(grouped)
    assert_alike(group, alone, 40)
    grouped[3].atten_lim_db = alone[3].atten_lim_db = 3.0
    x = np.zeros((4, group.frame_length), np.float32)
    x[2, 5:8] = np.nan
    expected = [each.step(row) for each, row in zip(alone, x, strict=True)]
    assert np.array_equal(group.step(x), expected)
    assert [each.n_nonfinite for each in grouped] == [0, 0, 3, 0]
    for one, other in zip(grouped, alone, strict=True):
        assert one.last_snr_db == other.last_snr_db


def test_streams_in_several_groups():
    grouped, alone = pairs(small_model("fullband"), 4)
    groups = [npfsn.EnhancerGroup(grouped[:3]), npfsn.EnhancerGroup(grouped[1:][::-1])]
    for turn in range(4):
        assert_alike(groups[0], alone[:3], 4, seed=turn)
        assert_alike(groups[1], alone[1:][::-1], 4, seed=turn)


def test_groups_in_threads():
    model = small_model("fast_fullsubnet")
    results: dict[int, list[np.ndarray]] = {}

    def work(i: int) -> None:
        group = npfsn.EnhancerGroup([npfsn.Enhancer(model) for _ in range(3)])
        x = np.stack([noise(group.frame_length, s) for s in range(3)])
        results[i] = [group.step(x).copy() for _ in range(200)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for i in range(1, 4):
        assert np.array_equal(results[i], results[0])


def test_the_result_may_replace_the_frames():
    grouped, alone = pairs(small_model("fast_fullsubnet"), 3)
    group = npfsn.EnhancerGroup(grouped)
    for t in range(12):
        x = noise(3 * group.frame_length, t).reshape(3, -1)
        expected = [each.step(row) for each, row in zip(alone, x, strict=True)]
        assert group.step(x, out=x) is x
        assert np.array_equal(x, expected)


def test_frames_of_any_layout_are_taken():
    grouped, alone = pairs(small_model("fast_fullsubnet"), 3)
    group = npfsn.EnhancerGroup(grouped)
    hop = group.frame_length
    for t in range(8):
        x = np.random.default_rng(t).normal(0.0, 0.1, (hop, 6))[:, ::2].T  # float64, strided
        expected = [
            each.step(np.ascontiguousarray(row)) for each, row in zip(alone, x, strict=True)
        ]
        assert np.array_equal(group.step(x), expected)


def refuse(group: npfsn.EnhancerGroup, error: type[Exception], why: str, *args) -> None:
    """Step the group, which must fail and change nothing."""
    before = [dict(each._state) for each in group.enhancers]
    copies = [{k: v.copy() for k, v in state.items()} for state in before]
    with pytest.raises(error, match=why):
        group.step(*args)
    for state, kept in zip(before, copies, strict=True):
        assert same_state(state, kept)


def test_what_is_refused_changes_no_stream():
    group = npfsn.EnhancerGroup(pairs(small_model("fast_fullsubnet"), 3)[0])
    hop = group.frame_length
    x = noise(3 * hop).reshape(3, hop)
    for _ in range(6):
        group.step(x)
    bad = x.copy()
    bad[2, 7] = np.inf
    refuse(group, FrameError, r"^stream 2: 1 of \d+ samples are NaN or infinite", bad)
    refuse(
        group, FrameError, r"frames has shape \[3\]: expected \[3, 256\], one hop of each", x[:, 0]
    )
    refuse(group, FrameError, r"frames has shape \[2, 256\]", x[:2])
    refuse(group, FrameError, r"out has shape \[256\]: expected \[3, 256\]", x, x[0])
    refuse(group, FrameError, "out is not contiguous", x, np.zeros((3, 2 * hop), "f4")[:, ::2])
    refuse(group, TypeError, "frames has dtype int16", x.astype("i2"))
    refuse(group, TypeError, "frames is of type list", [list(row) for row in x])
    group.enhancers[1].flush()
    refuse(group, StreamEndedError, "^stream 1: the stream has been flushed: call reset", x)
    group.enhancers[1].reset()
    group.step(x)


def test_a_stream_that_is_in_use_stops_the_group():
    group = npfsn.EnhancerGroup(pairs(small_model("fast_fullsubnet"), 3)[0])
    x = noise(3 * group.frame_length).reshape(3, -1)
    used = group.enhancers[1]

    def meanwhile(used: npfsn.Enhancer) -> None:
        refuse(group, ConcurrentUseError, "^stream 1: this stream is being used by another", x)

    alone()(meanwhile)(used)
    group.step(x)
    seen = []

    def inside(hops, out) -> None:  # as of another thread, while the group steps
        for each in group.enhancers:
            with pytest.raises(ConcurrentUseError):
                each.step(x[0])
            seen.append(each)

    group._together.push = inside
    group.step(x)
    assert len(seen) == 3


def test_more_streams_need_no_more_recursion():
    group = npfsn.EnhancerGroup(pairs(small_model("fast_fullsubnet"), 100)[0])
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 50)
    try:
        group.step(np.zeros((100, group.frame_length), np.float32))
    finally:
        sys.setrecursionlimit(before)


def test_a_group_that_is_dropped_is_freed():
    """At once: the collector runs seldom, and does not know how large its streams are."""
    group = npfsn.EnhancerGroup(pairs(small_model("fast_fullsubnet"), 3)[0])
    group.step(np.zeros((3, group.frame_length), np.float32))
    gone = [weakref.ref(each) for each in (group, *group.enhancers)]
    gc.collect()
    gc.disable()
    try:
        del group
        assert [each() for each in gone] == [None] * 4
    finally:
        gc.enable()


def test_streams_that_an_interrupt_tore_say_so():
    grouped, alone = pairs(small_model("fast_fullsubnet"), 3)
    group = npfsn.EnhancerGroup(grouped)
    x = noise(3 * group.frame_length).reshape(3, -1)
    for _ in range(8):
        group.step(x)
    push = group._together._common[0].play

    def interrupted(*args) -> None:
        push(*args)
        raise KeyboardInterrupt

    group._together._common[0].play = interrupted
    with pytest.raises(KeyboardInterrupt):
        group.step(x)
    group._together._common[0].play = push
    with pytest.raises(StreamEndedError, match=r"^stream 0, 1, 2: the stream was interrupted"):
        group.step(x)
    for each in grouped:
        each.reset()
    assert_alike(group, alone, 10)


def test_what_makes_no_group():
    model = small_model("fast_fullsubnet")
    one = npfsn.Enhancer(model)
    with pytest.raises(TypeError, match="takes Enhancers: this is 3"):
        npfsn.EnhancerGroup([one, 3])
    with pytest.raises(ValueError, match="needs an Enhancer"):
        npfsn.EnhancerGroup([])
    with pytest.raises(ValueError, match="there twice"):
        npfsn.EnhancerGroup([one, npfsn.Enhancer(model), one])
    for other in (
        npfsn.Enhancer(model, precision="int8"),
        npfsn.Enhancer(model, norm="forgetting_norm"),
        npfsn.Enhancer(small_model("fullsubnet")),
    ):
        with pytest.raises(ValueError, match="must share one network: make them of the same"):
            npfsn.EnhancerGroup([one, other])


def test_a_subclass_may_take_frames_of_its_own():
    """The group takes hops: kernels write a whole one, wherever it ends."""

    class InPairs(npfsn.Enhancer):
        @property
        def frame_length(self) -> int:
            return 2 * super().frame_length

    model = small_model("fast_fullsubnet")
    group = npfsn.EnhancerGroup([InPairs(model), InPairs(model)])
    assert group.frame_length == 256
    assert_alike(group, [npfsn.Enhancer(model), npfsn.Enhancer(model)], 10)


def test_what_a_group_says_of_itself():
    grouped = pairs(small_model("fast_fullsubnet"), 3)[0]
    group = npfsn.EnhancerGroup(iter(grouped))
    assert group.enhancers == tuple(grouped) and len(group) == 3
    assert group.frame_length == grouped[0].frame_length
    assert repr(group).startswith("<npfsn.EnhancerGroup of 3: <npfsn.Enhancer fast_fullsubnet")
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled: make another"):
            copied(group)
