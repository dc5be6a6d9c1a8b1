"""Programs: calls written down once do what calls made one by one do."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from drawn_models import noise, small_model

from npfsn import norms, state
from npfsn.kernels import features, layers, spectrum
from npfsn.kernels.tables import TAKES
from npfsn.models import ARCHITECTURES
from npfsn.program import Program
from npfsn.stream import Stream


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_frame_call_by_call_is_a_frame(architecture: str) -> None:
    """To the bit, and `play` leaves out nothing."""
    model = small_model(architecture).config.with_norm("cumulative_laplace_norm")
    tensors = small_model(architecture).tensors
    network = ARCHITECTURES[architecture].Network(model, tensors, "float32")
    whole, by_call = Stream(network), Stream(network)
    x = noise(60 * model.hop_length).reshape(60, -1)
    out, expected = np.zeros_like(x[0]), np.zeros_like(x[0])
    for hop in x:
        whole.push(hop, expected)
        frame, program = int(by_call.clock[1]), by_call._hop_program
        if frame < by_call._steady:
            by_call.push(hop, out)
        else:
            for call in range(len(program)):
                program.play_call(call, frame, 1, hop, out)
        np.testing.assert_array_equal(out, expected)
    assert expected.any()
    np.testing.assert_array_equal(by_call.clock, whole.clock)


@pytest.mark.parametrize("frames", [1, 3, 8])
@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_calls_at_a_lower_rate_run_where_blocks_end(every: int, frames: int) -> None:
    """Blocks of s frames end with frames 0, s, 2 s, ...: of a norm, count says how many ran."""
    norm = norms.Norm("cumulative_laplace_norm", "n", 1, 4)
    own = state.zeros(norm.fields())
    x = np.ones((-(-frames // every), 4), np.float32)
    program = Program()
    norm.bind(own).write(program, x, x.copy(), every=every)
    frame = 0
    for n in [1, frames, (frames + 1) // 2] * 8:
        program.play(frame, n)
        frame += n
        assert own["n.count"][0] == len(range(0, frame, every))


def test_an_unfitted_norm_stops_what_needs_it() -> None:
    """All that follows, or up to where its end was written down."""
    own, out = {}, {}
    program = Program()
    bound = {}
    for key, ends in (("a", True), ("b", False)):
        norm = norms.Norm("offline_laplace_norm", key, 1, 4)
        own |= state.zeros(norm.fields())
        bound[key] = norm.bind(own)
        x = np.ones((1, 4), np.float32)
        at = len(program)
        bound[key].write(program, x, x.copy())
        out[key] = np.zeros((1, 4), np.float32)
        program.add("power", x, 1.0, out[key], stage="")
        if ends:
            program.end_of_norm(at)
    out["c"] = np.zeros((1, 4), np.float32)
    program.add("power", np.ones((1, 4), np.float32), 1.0, out["c"], stage="")

    def ran() -> str:
        program.play(0, 1)
        names = "".join(key for key, array in out.items() if array.any())
        for array in out.values():
            array.fill(0.0)
        return names

    assert ran() == ""
    assert own["a.moments"][0] == own["b.moments"][0] == 4.0  # b was reached
    bound["a"].fit()
    assert ran() == "a"
    bound["b"].fit()
    assert ran() == "abc"
    bound["a"].unfit()
    assert ran() == "bc"


def test_what_a_program_works_on_lives_as_long_as_it() -> None:
    """The tables keep nothing alive."""
    network = ARCHITECTURES["fast_fullsubnet"].Network
    model = small_model("fast_fullsubnet")
    expected = Stream(network(model.config, model.tensors, "float32"))
    program = expected._hop_program.then(Program())
    owners = [weakref.ref(owner) for owner in program.owners if owner is not None]
    assert len(owners) > 5
    del expected
    gc.collect()
    assert all(owner() is not None for owner in owners)
    del program
    gc.collect()
    assert all(owner() is None for owner in owners)


def test_calls_are_named_in_their_order() -> None:
    """A profile names the times of calls by it."""
    x, programs = np.ones((1, 1), np.float32), (Program(), Program())
    for program, stages in zip(programs, ("ab", "c"), strict=True):
        for stage in stages:
            program.add("power", x, 1.0, x, stage=stage, owner=stage)
    both = programs[0].then(programs[1])
    assert both.stages == [("a", "power"), ("b", "power"), ("c", "power")]
    assert both.owners == ["a", "b", "c"]


def test_arguments_are_checked() -> None:
    """A wrong array would be read as something else."""
    f32, f64 = np.zeros((2, 3), np.float32), np.zeros((2, 3))
    program = Program()
    for x in (f64, f32[0], f32[None], np.zeros((3, 2), np.float32).T, f32[:, :2]):
        with pytest.raises(TypeError):
            program.add("power", x, 0.5, f32, stage="")
    for arguments in ((f32, f32), (f32, 0.5), (f32, 0.5, f32, f32)):
        with pytest.raises(ValueError):
            program.add("power", *arguments, stage="")
    with pytest.raises(KeyError):
        program.add("no_such_kernel", f32, stage="")
    assert len(program) == 0


def test_kernels_are_named_as_they_are() -> None:
    """A profile shows names; they should be found where the arithmetic is."""
    known = vars(layers) | vars(features) | vars(spectrum)
    assert set(TAKES) - {"offline"} <= set(known)
