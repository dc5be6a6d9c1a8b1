"""Kernels and layers against the float64 reference, at sizes of one, odd and typical."""

from __future__ import annotations

import gc
import itertools
import math
import platform
import sys
import weakref
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np
import pytest
import reference
from drawn_models import apply_norm, small_model

from npfsn import fast_fullsubnet, norms, state
from npfsn.beside import Beside
from npfsn.config import DIVIDING_NORMS, Sequence
from npfsn.fast_fullsubnet import MelBands
from npfsn.kernels import amx, cpu, features, int8, products, spectrum, tables
from npfsn.kernels import layers as kernels
from npfsn.kernels.cpu import HAS_F16, MAX_INPUT, PANEL
from npfsn.kernels.tables import array_record
from npfsn.layers import (
    LARGEST_NORM,
    Int8Product,
    Product,
    Recurrent,
    RecurrentPass,
    StrassenProduct,
)
from npfsn.models import ARCHITECTURES
from npfsn.packing import pack_f32, pack_i8, pack_vector
from npfsn.program import Program
from npfsn.quantise import levels_with_room, quantise
from npfsn.stft import factors, twiddles

EPS = 2.0**-24  # half a unit in the last place of 1, float32


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng([7, *seed])


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return rng(seed, *shape).normal(0.0, scale, shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    """Draw what magnitudes look like."""
    return rng(seed, *shape).exponential(1.0, shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------
# Products
# ---------------------------------------------------------------------------------------------


def multiply(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, kind: type[Product] = Product
) -> np.ndarray:
    """Multiply with the kernel; all rows, in whole panels."""
    product = kind(weight, bias)
    out = np.full((len(x), product.width), np.nan, np.float32)
    product.bind(*x.shape)(x, out, len(x))
    return out


@pytest.mark.parametrize("n_in", [1, 2, 15, 16, 17, 257])
@pytest.mark.parametrize("n_out", [1, 15, 16, 17, 48, 257, 1536])
def test_products_equal_numpys(n_in: int, n_out: int) -> None:
    """Every number of rows, so that every tile has its turn alone and at the end."""
    weight, bias = normal(n_out, n_in, seed=1), normal(n_out, seed=2)
    for n_row in range(1, 21):
        x = normal(n_row, n_in, seed=n_row)
        got = multiply(x, weight, bias)
        want = reference.linear(x.astype("d"), weight.astype("d"), bias.astype("d"))
        # One chain of n_in multiply-adds, each rounded at most twice.
        sizes = np.abs(x.astype("d")) @ np.abs(weight.astype("d")).T + np.abs(bias)
        assert np.all(np.abs(got[:, :n_out] - want) <= 2 * (n_in + 1) * EPS * sizes)
        assert not got[:, n_out:].any()


@pytest.mark.parametrize("n_in", [1, 17, 257])
@pytest.mark.parametrize("n_out", [1, 17, 257])
def test_matmul_of_a_row_alone_gives_the_same_bits(n_in: int, n_out: int) -> None:
    """A stream multiplies one row where a file multiplies many."""
    weight, bias = normal(n_out, n_in, seed=3), normal(n_out, seed=4)
    x = normal(20, n_in, seed=5)
    together = [multiply(x[:n_row], weight, bias) for n_row in range(1, 21)]
    for row in range(20):
        alone = multiply(x[row : row + 1], weight, bias)[0]
        for many in together[row:]:
            np.testing.assert_array_equal(many[row], alone)


@pytest.mark.parametrize("n_in", [1, 17, 257])
@pytest.mark.parametrize("n_out", [1, 17, 257])
def test_weights_of_half_precision_give_the_bits_of_the_same_floats(n_in: int, n_out: int) -> None:
    """They are widened on the way, exactly: the largest, the smallest and denormal ones too."""
    weight, bias = normal(n_out, n_in, seed=8).astype(np.float16), normal(n_out, seed=9)
    weight.reshape(-1)[:8] = np.resize([65504, -6e-8, 6e-5, 0.0, -0.0, 3e-6, 1.0, -1e-7], 8)[
        : weight.size
    ]
    packed = pack_f32(weight)
    assert packed.dtype == (np.uint16 if HAS_F16 else np.float32)
    assert packed.ctypes.data % 64 == 0
    for n_row in range(1, 21):
        x = normal(n_row, n_in, seed=n_row)
        want = multiply(x, weight.astype(np.float32), bias)
        np.testing.assert_array_equal(multiply(x, weight, bias), want)


@pytest.mark.parametrize("n_in", [1, 17, 257])
@pytest.mark.parametrize("n_out", [17, 48, 257, 384])
def test_halves_that_many_rows_meet_are_widened_once(n_in: int, n_out: int) -> None:
    """By their first tile, where it takes time from tiles; whatever was in the scratch.

    In blocks of many rows, however few of these are multiplied at once.
    """
    weight, bias = normal(n_out, n_in, seed=8).astype(np.float16), normal(n_out, seed=9)
    floats = pack_f32(weight.astype(np.float32))
    panels, group = len(floats), cpu.PANELS
    for n_row, block in itertools.product((*range(1, 20), 64, 65), (127, 128)):
        x = normal(n_row, n_in, seed=n_row)
        want = multiply(x, weight.astype(np.float32), bias)
        bound = Product(weight, bias).bind(n_row, n_in, block)
        (kept,) = bound.scratch
        kept.fill(np.nan)
        out = np.full_like(want, np.nan)
        bound(x, out, n_row)
        np.testing.assert_array_equal(out, want)
        widened = cpu.WIDENS and block == 128
        assert len(kept) == (group if widened else 0)
        last = panels // group * group
        if widened and last and n_row >= cpu.ROWS:
            np.testing.assert_array_equal(kept[:, :n_in], floats[last - group : last])
            kept[:, :n_in] = np.nan
        assert np.isnan(kept).all()
        # Parts give the whole, and write nothing else.
        for first, end in [(0, panels // 2), (panels // 2, panels)]:
            part = np.full((n_row + 1, out.shape[1] + PANEL), 5.0, np.float32)
            products.product(x, 0, n_row, bound.table[0], first, end, part, 1)
            size = (end - first) * PANEL
            given = part[:n_row, PANEL : PANEL + size].copy()
            np.testing.assert_array_equal(given, want[:, first * PANEL : end * PANEL])
            part[:n_row, PANEL : PANEL + size] = 5.0
            assert (part == 5.0).all()


@pytest.mark.parametrize("n_in", [4, 16, 20, 48, 512])  # an odd number of steps, too
@pytest.mark.parametrize("n_out", [1, 17, 48, 257])
def test_int8_sums_are_those_of_integers(n_in: int, n_out: int) -> None:
    """Also where all weights and inputs are as large as can be: no sum between may overflow."""
    weight, bias = normal(n_out, n_in, seed=10), normal(n_out, seed=11)
    weight[::3] = np.sign(weight[::3])
    # Two of the four that are added up in sixteen bits have all levels, the others what is left.
    weight[1::3, ::4], weight[1::3, 1::4] = 1.0, 1 / 127
    weight[0] = 1.0
    for n_row in (*range(1, 21), 33):
        x = normal(n_row, n_in, seed=n_row)
        x[1::2] = np.sign(x[1::2])
        x[0], x[-1] = 1.0, -1.0
        x = np.pad(x, ((0, 0), (0, -n_in % PANEL)))
        largest = np.abs(x).max(axis=1, keepdims=True)
        inputs = np.rint(x * (np.float32(MAX_INPUT) / largest)).astype(np.int64)
        levels, scale = quantise(weight, levels_with_room(weight))
        exact = (
            (inputs[:, :n_in] @ levels.T.astype(np.int64)) * scale.astype("d") * largest / MAX_INPUT
        )
        got = multiply(x, weight, bias, Int8Product)
        # The sum of integers is exact; its scale is rounded twice, the result once.
        assert np.all(
            np.abs(got[:, :n_out] - exact - bias) <= 4 * EPS * (np.abs(exact) + np.abs(bias))
        )
        assert not got[:, n_out:].any()


@pytest.mark.skipif(not cpu.HAS_TILES, reason="no tile registers (AMX) here, or not granted")
def test_tile_registers_give_the_bits_of_vectors() -> None:
    """One, two or more tiles of rows, whole and not; an even and an odd number of panels."""
    panels = (0, 1), (1, 4), (0, 17)
    rows = 1, 4, 15, 16, 17, 31, 32, 33, 65
    for n_in, n_row, (first, last) in itertools.product((16, 48, 64, 272, 384), rows, panels):
        product = Int8Product(normal(257, n_in, seed=12), normal(257, seed=13))
        x = normal(n_row, n_in, seed=n_row)
        q, scale = product.scratch(n_row, n_in, n_row)
        q[:] = 255  # nothing may depend on what is in the rows that are not there
        int8.quantise_rows(x, 0, n_row, q, scale)
        arguments = (n_row, *product.weights, q, scale, product.bias, first, last)
        got, want = (np.full((n_row + 2, 19 * PANEL), 5.0, np.float32) for _ in range(2))
        amx.product_amx(*arguments, got[1:], 1)
        int8.product_i8(*arguments, want[1:], 1)
        np.testing.assert_array_equal(got, want)
        assert (want != 5.0).sum() == n_row * (last - first) * PANEL


@pytest.mark.parametrize("system", [sys.platform, "win32"])
def test_tile_registers_are_used_where_they_are_granted(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for a CPU that has none, the system refuses; another system is not asked."""
    there = {"amx-tile", "amx-int8", "avx512f"}
    told = there <= cpu.FEATURES
    host = llvm.get_host_cpu_features() if platform.machine() == "x86_64" else {}
    if not told and system == "linux" and all(host.get(feature) for feature in there):
        pytest.skip("told to be a CPU without them, and has them")
    granted = told and cpu.HAS_TILES and system == "linux"
    if platform.machine().lower() in ("x86_64", "amd64"):  # the call has a number of this machine
        monkeypatch.setattr(cpu, "FEATURES", cpu.FEATURES | there)
    monkeypatch.setattr(cpu.sys, "platform", system)
    assert cpu._granted() == granted


@pytest.mark.parametrize("rows", [0, 1, 3, 14, 20])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (1, 3), (0, 3), (2, 2)])
def test_a_part_of_a_product(rows: int, first: int, last: int) -> None:
    """What is asked for is computed where it belongs; the rest stays. Longer rows of x are cut."""
    weight, bias = normal(33, 9, seed=6), np.zeros(33, np.float32)
    x = normal(20, 12, seed=7)
    out = np.full((20, 50), 5.0, np.float32)
    bound = Product(weight, bias).bind(20, 12)
    products.product(x, 0, rows, bound.table[0], first, last, out, first)
    want, whole = np.full((20, 50), 5.0), np.zeros((20, 48))
    whole[:, :33] = x[:, :9].astype("d") @ weight.T.astype("d")
    part = np.s_[:rows, PANEL * first : PANEL * last]
    want[part] = whole[part]
    np.testing.assert_allclose(out, want, rtol=0.0, atol=1e-5)


def test_packed_weights_lie_on_cache_lines() -> None:
    """A load across two lines costs twice."""
    packed = pack_f32(normal(40, 7))
    assert packed.shape == (3, 7, PANEL)
    assert packed.ctypes.data % 64 == 0
    np.testing.assert_array_equal(packed[2, :, :8], normal(40, 7)[32:].T)
    assert not packed[2, :, 8:].any()


@pytest.mark.parametrize("size", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("precision", ["float16", "float32", "float64", "int8"])
def test_panels_hold_all_gates_of_their_outputs(size: int, gates: int, precision: str) -> None:
    """Panel by panel, as cells take them; in int8 more rows than are quantised at once."""
    n_in, panels = 7, -(-size // PANEL)
    if precision == "int8":
        weight = normal(gates * size, n_in, seed=4)
        packed, scale, shift = pack_i8(weight, gates)
        levels, want_scale = quantise(weight, levels_with_room(weight))
        read = packed.transpose(0, 2, 1, 3).reshape(len(packed), PANEL, -1)
        assert not read[:, :, n_in:].any()
        rows = [(levels, read[:, :, :n_in])]
        vectors = [(want_scale, scale), (cpu.OFFSET * levels.sum(axis=1, dtype="i"), shift)]
    else:
        weight = normal(gates * size, n_in, seed=4).astype(precision)
        packed = pack_f32(weight, gates)
        if HAS_F16 and precision == "float16":
            packed = packed.view(np.float16)
        assert packed.dtype in (np.float32, np.float16)
        rows, vectors = [(weight, packed.transpose(0, 2, 1))], []
    bias = normal(gates * size, seed=5)
    vectors.append((bias, pack_vector(bias, gates)))
    rows += [(want[:, None], got.reshape(-1, PANEL, 1)) for want, got in vectors]
    for want, got in rows:
        assert got.shape == (panels * gates, PANEL, want.shape[1])
        for panel, gate in itertools.product(range(panels), range(gates)):
            part = want[gate * size : (gate + 1) * size][panel * PANEL : (panel + 1) * PANEL]
            found = got[panel * gates + gate]
            np.testing.assert_array_equal(found[: len(part)], part.astype(found.dtype))
            assert not found[len(part) :].any()


# ---------------------------------------------------------------------------------------------
# Recurrent layers
# ---------------------------------------------------------------------------------------------

# The approximations of tanh and the sigmoid err by 4e-7 and 2e-7; over many frames a cell forgets
# about as much of an error as it adds.
CELL_TOLERANCE = 3e-6


def draw_stack(spec: Sequence, seed: int) -> dict[str, np.ndarray]:
    """Draw the tensors of a stack, large enough that gates open and close."""
    return {
        name: normal(*shape, seed=seed + i, scale=1.5 / math.sqrt(shape[-1]))
        for i, (name, shape) in enumerate(spec.tensor_shapes("net").items())
    }


def play(bound: RecurrentPass, x: np.ndarray, frame: int = 0) -> np.ndarray:
    """Run a stack over its next frames, x [T U, C], `frame` the first of them."""
    program = Program()
    result = bound.write(program, x)
    program.play(frame, len(x) // bound.weights.units)
    return result[: len(x)]


def run_stack(
    spec: Sequence,
    tensors: dict[str, np.ndarray],
    x: np.ndarray,
    blocks: list[int],
    precision: str = "float32",
) -> np.ndarray:
    """Run a stack over x [T, B, C] in blocks of frames; returns [T, B, O]."""
    n_frame, n_unit, _ = x.shape
    assert sum(blocks) == n_frame
    stack = Recurrent(spec, tensors, "net", precision, units=n_unit)
    bound = stack.bind(state.zeros(stack.fields()), max(blocks))
    out, at = [], 0
    for n in blocks:
        rows = x[at : at + n].reshape(n * n_unit, -1)
        out.append(play(bound, rows)[:, : spec.width].reshape(n, n_unit, -1).copy())
        at += n
    return np.concatenate(out)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    ("n_unit", "n_in", "n_hid", "n_layer", "n_out"),
    [
        (1, 1, 1, 1, 0),
        (1, 64, 48, 1, 0),
        (1, 17, 33, 3, 5),
        (1, 9, 150, 2, 0),
        (3, 5, 15, 2, 1),
        (64, 12, 32, 2, 1),
        (257, 32, 24, 2, 2),
    ],
)
def test_a_recurrent_stack_equals_the_reference(
    cell: str, n_unit: int, n_in: int, n_hid: int, n_layer: int, n_out: int
) -> None:
    """Many steps from zero state, frame by frame; then in blocks, to the bit."""
    spec = Sequence(cell, n_in, n_hid, n_layer, n_out)
    tensors = draw_stack(spec, seed=10)
    x = normal(30, n_unit, n_in, seed=11)
    got = run_stack(spec, tensors, x, [1] * 30)
    double = x.astype("d").transpose(1, 2, 0)
    want = reference.sequence_model(tensors, "net", double, cell).transpose(2, 0, 1)
    np.testing.assert_allclose(got, want, rtol=0.0, atol=CELL_TOLERANCE)
    np.testing.assert_array_equal(run_stack(spec, tensors, x, [7, 1, 4, 18]), got)
    # Eight bits: another arithmetic, but one that knows no blocks either.
    small = run_stack(spec, tensors, x, [1] * 30, "int8")
    np.testing.assert_array_equal(run_stack(spec, tensors, x, [7, 1, 4, 18], "int8"), small)
    np.testing.assert_allclose(small, want, rtol=0.0, atol=0.3)
    # Halves: the floats that they are.
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    same = {name: tensor.astype(np.float32) for name, tensor in half.items()}
    got = run_stack(spec, half, x, [7, 1, 4, 18])
    np.testing.assert_array_equal(got, run_stack(spec, same, x, [1] * 30))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("n_unit", [11, 67, 257])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_recurrent_product_ahead_of_time(cell: str, n_unit: int, precision: str) -> None:
    """What is prepared is what would have been computed, in any portions."""
    spec = Sequence(cell, 5, 17, 2, 3)
    tensors = draw_stack(spec, seed=12)
    x = normal(6, n_unit, 5, seed=13)
    want = run_stack(spec, tensors, x, [1] * 6, precision)
    stack = Recurrent(spec, tensors, "net", precision, units=n_unit)
    bound = stack.bind(state.zeros(stack.fields()), 1)
    every = sum(layer.recurrent.panels for layer in stack.layers)
    for t, portions in enumerate([[], [every], [1, 6, every], [0, 3], [every - 2], [5, 5, 4]]):
        for i, panels in enumerate(portions):
            kernels.prepare(bound.layers, panels)
            most = max(portions[: i + 1])
            assert most - cpu.PANELS < bound.layers["done"].sum() <= most
        np.testing.assert_array_equal(play(bound, x[t]), want[t])


@pytest.mark.skipif(not cpu.STRASSEN, reason="tiles take too few rows here")
def test_products_of_quarters_are_prepared_in_whole_groups() -> None:
    """Parts of groups would be computed by another kernel, with other roundings."""
    spec, n_unit = Sequence("LSTM", 5, 192, 2), 160
    tensors = draw_stack(spec, seed=12)
    x = normal(4, n_unit, 5, seed=13)
    stack = Recurrent(spec, tensors, "net", "float32", units=n_unit)
    bound, plain = (stack.bind(state.zeros(stack.fields()), 1) for _ in range(2))
    products = [layer.recurrent for layer in stack.layers]
    assert all(isinstance(product, StrassenProduct) for product in products)
    every = sum(product.panels for product in products)
    for t, portions in enumerate([[], [3, 16, every], [tables.GROUP_PANELS + 1], [every - 2]]):
        for panels in portions:
            kernels.prepare(bound.layers, panels)
            assert not (bound.layers["done"] % tables.GROUP_PANELS).any()
        np.testing.assert_array_equal(play(bound, x[t]), play(plain, x[t]))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_forget_drops_what_was_prepared(cell: str, precision: str) -> None:
    """A replaced state needs another product."""
    spec = Sequence(cell, 5, 17, 1)
    stack = Recurrent(spec, draw_stack(spec, seed=14), "net", precision, units=11)
    x = normal(11, 5, seed=15)
    fresh = play(stack.bind(state.zeros(stack.fields()), 1), x)
    own = state.zeros(stack.fields())
    bound = stack.bind(own, 1)
    play(bound, normal(11, 5, seed=16))
    kernels.prepare(bound.layers, 6)
    for array in own.values():
        array.fill(0)
    bound.forget()
    np.testing.assert_array_equal(play(bound, x), fresh)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_layers_of_one_unit_take_turns_to_work_for_two_frames(cell: str, precision: str) -> None:
    """A frame with twice the work for one layer has none for the next; a new state starts anew."""
    spec = Sequence(cell, 5, 17, 2)
    stack = Recurrent(spec, draw_stack(spec, seed=17), "net", precision)
    own = state.zeros(stack.fields())
    bound, x = stack.bind(own, 1, turn=1), normal(6, 1, 5, seed=18)
    every = stack.layers[0].recurrent.panels
    assert every > 1

    def run() -> np.ndarray:
        out, done = [], []
        for frame in x:
            out.append(play(bound, frame, len(out)).copy())
            done.append(bound.layers["done"].tolist())
        assert done == [[0, every], [every, 0]] * 3
        return np.concatenate(out)

    first = run()
    play(bound, x[0])
    for array in own.values():
        array.fill(0)
    bound.forget()
    np.testing.assert_array_equal(run(), first)
    # Whose turn it is hangs on the frame, not on where the work began.
    for array in own.values():
        array.fill(0)
    bound.begin()  # no product is left to do for the first frame
    play(bound, x[0], 0)
    assert bound.layers["done"].tolist() == [0, 0]
    for frame in range(1, 5):
        play(bound, x[0], frame)
        assert bound.layers["done"].tolist() == ([every, 0] if frame % 2 else [0, every])


@pytest.mark.parametrize(
    ("architecture", "frames", "wide"),
    [
        ("fast_fullsubnet", 1, set()),
        ("fast_fullsubnet", 32, {"bottleneck"}),
        ("fullsubnet", 1, {"sb_model"}),
        ("fullband", 32, set()),
        ("improved_fullsubnet", 8, {"sb_model.sb_models.0"}),  # the other section has four units
    ],
)
def test_stacks_widen_where_blocks_have_many_rows(
    architecture: str, frames: int, wide: set[str]
) -> None:
    model = small_model(architecture)
    for dtype in (np.float16, np.float32):
        tensors = {name: tensor.astype(dtype) for name, tensor in model.tensors.items()}
        network = ARCHITECTURES[architecture].Network(model.config, tensors, "float32")
        for stack in network.bind(state.zeros(network.fields()), frames).stacks:
            widens = cpu.WIDENS and dtype == np.float16 and stack.weights.key in wide
            for part in (*stack.inputs, *stack.recurrent):
                assert len(part.scratch[0]) == (cpu.PANELS if widens else 0)


def lines_of(array: np.ndarray) -> range:
    """Return the cache lines that an array lies in."""
    start = array.ctypes.data
    return range(start // 64, -(-(start + array.nbytes) // 64))


HOST_UNITS = max(64, cpu.STRASSEN_ROWS)


def host_and_follower(
    kind: str, cell: str = "LSTM", size: int = 48
) -> tuple[list[RecurrentPass], list[RecurrentPass]]:
    """Return a stack of `HOST_UNITS` units twice, and one of one unit that follows it, twice."""
    spec, after = Sequence(cell, 5, size, 2), Sequence(cell, 20, 70, 2, 33)
    dtype, precision = (np.float16, "float32") if kind == "float16" else (np.float32, kind)
    units, one = [
        Recurrent(
            s,
            {k: v.astype(dtype) for k, v in draw_stack(s, 19).items()},
            "net",
            precision,
            units=n,
        )
        for s, n in ((spec, HOST_UNITS), (after, 1))
    ]
    hosts = [units.bind(state.zeros(units.fields()), 1) for _ in range(2)]
    return hosts, [one.bind(state.zeros(one.fields()), 1) for _ in range(2)]


@pytest.mark.parametrize("size", [48, 192])  # 192: products of quarters
@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_tiles_see_to_what_follows(kind: str, size: int) -> None:
    """From the start in every frame, as far as there is time; both compute what they would."""
    (bound, plain), (later, alone) = host_and_follower(kind, size=size)
    assert Beside.possible(bound) == (bool(cpu.AHEAD_BYTES) and kind != "int8")
    if not Beside.possible(bound):
        return
    program, beside = Program(), Beside(bound)
    beside.ahead([later])
    beside.write(program)
    result = bound.write(program, x := np.zeros((HOST_UNITS, 5), np.float32))
    # The first layer's inputs have too few steps to share them.
    place_of_queue = beside.queue.ctypes.data
    assert bound.layers["recurrent"]["queue"].tolist() == [place_of_queue] * 2
    assert bound.layers["input"]["queue"].tolist() == [0, place_of_queue]
    entries = beside.pieces.copy()
    assert not entries["weight"].any() and (entries["steps"] == size).all()
    step = size * cpu.AHEAD_BYTES
    assert later.linear is not None
    recurrent = [part.product.weights[0] for part in later.recurrent]
    rest = [part.product.weights[0] for part in (*later.inputs, later.linear)]
    # Each line once, but for those of a last piece that reach beyond.
    assert len(entries) == sum(-(-weights.nbytes // step) for weights in recurrent + rest)
    near: set[int] = set()
    work: list[tuple[int, int]] = []
    for piece in entries:
        start = int(piece["prefetch"])
        near.update(range(start // 64, (start + step) // 64))
        if piece["then"]:
            offset = int(piece["argument"]) - later.layers.ctypes.data
            i, rest_of_offset = divmod(offset, later.layers.itemsize)
            assert rest_of_offset == 0
            weights, panels, stride = recurrent[i], int(piece["count"]), cpu.PANELS_ONE_ROW
            # Behind all that it reads, and as soon as there is another stride.
            assert near.issuperset(lines_of(weights[:panels]))
            if panels < len(weights):
                assert panels % stride == 0
                assert not near.issuperset(lines_of(weights[panels : panels + stride]))
            work.append((i, panels))
    assert work == sorted(set(work))
    assert {(i, len(weights)) for i, weights in enumerate(recurrent)} <= set(work)
    assert len(work) > len(recurrent)
    for weights in rest:
        assert near.issuperset(lines_of(weights))

    seen = set()
    for t in range(4):
        x[:] = normal(HOST_UNITS, 5, seed=20 + t)
        beside.queue["step"] = 7  # as a frame that had too little time leaves it
        program.play_call(0, t, 1)
        assert beside.queue[0].tolist() == (0, 0, len(beside), beside.pieces.ctypes.data)
        program.play(t, 1)
        reached = int(beside.queue["next"][0])
        seen.add(reached)
        n_work = np.count_nonzero(entries["then"][:reached])
        for i, panels in work[:n_work]:
            assert later.layers["done"][i] >= panels
        np.testing.assert_array_equal(result, play(plain, x))
        y = normal(1, 20, seed=30 + t)
        np.testing.assert_array_equal(play(later, y), play(alone, y))
    assert 0 < max(seen) <= len(entries)
    np.testing.assert_array_equal(beside.pieces, entries)


def test_tiles_of_two_types_see_to_nothing() -> None:
    """They know one type of weights: recurrent ones and those of inputs have to share it."""
    spec = Sequence("LSTM", 5, 48, 2)
    tensors = draw_stack(spec, 19)
    tensors["net.sequence_model.weight_ih_l1"] = np.ones((192, 48), np.float16)
    stack = Recurrent(spec, tensors, "net", "float32", units=64)
    bound = stack.bind(state.zeros(stack.fields()), 1)
    assert Beside.possible(bound) == (bool(cpu.AHEAD_BYTES) and not HAS_F16)
    # So do the rows that they take along.
    (host, _), (floats, _) = host_and_follower("float32")
    (_, _), (halves, _) = host_and_follower("float16")
    assert Beside.possible(host, floats) == cpu.PREFETCH
    assert Beside.possible(host, floats, halves) == (cpu.PREFETCH and not HAS_F16)


@pytest.mark.skipif(not cpu.AHEAD_BYTES, reason="tiles see to nothing here")
@pytest.mark.parametrize("time", [0, 1, 3, 1000])
def test_what_there_was_no_time_for_is_done_when_it_is_due(time: int) -> None:
    """A queue that ends early, or tiles that do: any part of a product may be ready."""
    (bound, _), (later, alone) = host_and_follower("float32")
    program, beside = Program(), Beside(bound)
    beside.ahead([later])
    program.add("begin_queue", beside.queue, min(time, len(beside.pieces)), stage="net")
    bound.write(program, x := np.zeros((HOST_UNITS, 5), np.float32))
    for t in range(5):
        x[:] = normal(HOST_UNITS, 5, seed=24 + t)
        program.play(t, 1)
        y = normal(1, 20, seed=30 + t)
        np.testing.assert_array_equal(play(later, y), play(alone, y))


@pytest.mark.skipif(not cpu.PREFETCH, reason="tiles have no room for more here")
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
# From 192 on, of an LSTM, products of quarters; of 256, some panels are left to the plain kernel.
@pytest.mark.parametrize("size", [48, 192, 256])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_tiles_take_rows_along(kind: str, cell: str, size: int) -> None:
    """Both stacks compute what they would; pieces end in mid-tile, and at any place of a queue."""
    frames = 16 if size == 48 else 4 * HOST_UNITS  # more than a host has time for
    spec = Sequence(cell, 20, 70, 1, 33)  # of a GRU, an odd number of panels
    dtype = np.float32 if kind == "float32" else np.float16
    tensors = {name: value.astype(dtype) for name, value in draw_stack(spec, 5).items()}
    one = Recurrent(spec, tensors, "net", "float32")
    stacks = [one.bind(state.zeros(one.fields()), frames) for _ in range(4)]
    (behind, before), alone = stacks[:2], stacks[2:]
    (host, plain), _ = host_and_follower(kind, cell, size)
    quarters = isinstance(host.recurrent[0].product, StrassenProduct)
    assert quarters == (size >= 192 and cell == "LSTM" and cpu.STRASSEN)
    assert Beside.possible(host, behind, before)
    beside, program = Beside(host), Program()
    x = np.zeros((HOST_UNITS, 5), np.float32)
    ys = np.zeros((2, frames, 20), np.float32)
    given = [beside.block(behind, ys[0])]
    beside.divide()
    given.append(beside.block(before, ys[1], linear=False))
    result = host.write(program, x)
    reached = set()
    drawn = rng(19).integers(0, frames + 1, (40, 2)).tolist()
    for t, both in enumerate([(0, 5), (16, 3), (1, 16), (11, 0), (frames, frames), (0, 0), *drawn]):
        x[:] = normal(HOST_UNITS, 5, seed=20 + t)
        ys[:] = normal(2, frames, 20, seed=50 + t)
        beside.begin(*both)
        for step in range(t % 4):  # the host may be faster or slower than what goes with it
            program.play(step, 1)
            np.testing.assert_array_equal(result, play(plain, x))
            reached.add(int(beside.queue["next"][0]))
        beside.finish()
        assert beside.queue["next"] == beside.queue["end"]
        for i, n in enumerate(both):
            if n:
                part = Program()
                alone[i].write_layers(part, ys[i, :n])
                want = alone[i].outputs[-1] if i else alone[i].write_linear(part)
                part.play(0, n)
                np.testing.assert_array_equal(given[i][:n], want[:n])
    assert len(reached) > 4


@pytest.mark.skipif(not cpu.PREFETCH, reason="tiles have no room for more here")
def test_what_tiles_see_to_lives_as_long_as_the_pieces() -> None:
    """These hold addresses, which keep nothing alive."""
    (host, _), (later, taken) = host_and_follower("float32")
    beside, x = Beside(host), np.zeros((1, 20), np.float32)
    beside.ahead([later])
    beside.block(taken, x)
    kept = [weakref.ref(each) for each in (later, taken, x)]
    del later, taken, x
    gc.collect()
    assert all(each() is not None for each in kept)
    del beside
    gc.collect()
    assert all(each() is None for each in kept)


def test_the_bottleneck_of_a_stream_sees_to_the_decoder() -> None:
    """In blocks of frames, many steps of it see to all one-unit layers, of two other blocks."""
    model = small_model("fast_fullsubnet")
    network = fast_fullsubnet.Network(model.config, model.tensors, "float32")
    for frames, count in ((1, int(cpu.AHEAD_BYTES > 0)), (2, 0)):
        bound = network.bind(state.zeros(network.fields()), frames)
        assert sum(kernel == "begin_queue" for _, kernel in bound.program.stages) == count
        if frames > 1:
            assert (bound.parts() is not None) == cpu.PREFETCH
            continue
        weight = network.decoder[0].layers[0].recurrent.weights[0]
        queues = [owner for owner in bound.program.owners if isinstance(owner, Beside)]
        assert [queue.pieces["prefetch"][0] for queue in queues] == [weight.ctypes.data] * count


def test_a_table_takes_the_arrays_that_kernels_expect() -> None:
    """An address says nothing of what lies there."""
    odd = np.zeros(13, np.uint8)[1:].view(np.float32)
    for wrong in (np.zeros(3), np.zeros((4, 4), np.float32)[:, ::2], np.zeros(3, np.int32), odd):
        with pytest.raises(TypeError, match="expected contiguous"):
            array_record(wrong)
    assert array_record(np.zeros((2, 3, 16), np.float32))[1:] == (2, 3, 16)
    assert array_record(np.zeros(5, np.int32), np.int32)[1:] == (5, 1, 1)


@pytest.mark.skipif(not cpu.STRASSEN, reason="tiles take too few rows here")
@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize("n_in", [32, 96, 192, 384])
@pytest.mark.parametrize("n_out", [32, 96, 192, 256, 768])  # one group, more, and some panels
def test_products_of_quarters_add_up(n_in: int, n_out: int, dtype: str) -> None:
    """An eighth fewer multiplications, and errors like those of a chain; rows without a partner.

    Parts of whole groups give the bits of the whole, and write nothing else; nothing depends on
    what was in the scratch.
    """
    scale = np.float32(n_in**-0.5)
    weight, bias = (scale * normal(n_out, n_in, seed=21)).astype(dtype), normal(n_out, seed=22)
    product, group = StrassenProduct(weight, bias), tables.GROUP_PANELS
    panels = product.panels
    for n_row in (*range(2, 20), 33, 40, 64, 65):
        x = np.tanh(normal(n_row + 1, n_in + 16, seed=n_row))
        bound = product.bind(n_row, n_in)
        for array in bound.scratch:
            array.fill(np.nan)
        outs = [np.full((n_row + 2, n_out + 48), 5.0, np.float32) for _ in range(2)]
        table = bound.table[0]
        products.make_ready(x, 1, n_row, table)
        products.product(x, 1, n_row, table, 0, panels, outs[0][1:], 2)
        for first in range(0, panels, group):
            last = min(first + group, panels)
            products.product(x, 1, n_row, table, first, last, outs[1][1:], 2 + first)
        np.testing.assert_array_equal(*outs)
        got = outs[0][1:-1, 32:-16].copy()
        outs[0][1:-1, 32:-16] = 5.0
        assert (outs[0] == 5.0).all()
        exact = x[1:, :n_in].astype("d") @ weight.T.astype("d") + bias
        plain = multiply(x[1:, :n_in].copy(), weight, bias)[:, :n_out]
        error, like = (np.sqrt(np.mean((out - exact) ** 2)) for out in (got, plain))
        assert error < 2.5 * like
        assert np.abs(got - exact).max() < 4 * np.abs(plain - exact).max()
        summed = n_row >= 2 * cpu.ROWS and panels >= group
        assert np.array_equal(got, plain) != summed
        saved = 1 - product.operations(n_row, n_in) / Product(weight, bias).operations(n_row, n_in)
        assert np.isclose(saved, n_row // 2 * 2 / n_row * (panels // group * group / panels) / 8)


@pytest.mark.skipif(not cpu.STRASSEN, reason="tiles take too few rows here")
def test_large_weights_move_products_beside_them_little() -> None:
    """At the largest norm for which products of quarters are used, one half of the outputs."""
    weight = normal(96, 512, scale=512**-0.5, seed=31)
    weight[:48] *= LARGEST_NORM / np.linalg.norm(weight[:48], axis=1, keepdims=True)
    x = np.tanh(normal(64, 512, seed=32))
    got = multiply(x, weight, np.zeros(96, np.float32), StrassenProduct)
    beside = (got - x.astype("d") @ weight.T.astype("d"))[:, 48:]
    assert np.abs(beside).max() < 5e-5


def test_products_of_quarters_are_for_many_rows_of_hidden_states() -> None:
    """Not for features, few units, few inputs or a GRU, whose gates do not make whole groups."""

    def kinds(
        units: int,
        cell: str,
        size: int,
        precision: str = "float32",
        largest: float = 15.0,
        name: str = "weight_ih_l1",
        place: tuple[int, ...] = (3, 4),
    ) -> set[str]:
        tensors = draw_stack(spec := Sequence(cell, 20, size, 2), 5)
        tensors[f"net.sequence_model.{name}"][place] = -largest
        stack = Recurrent(spec, tensors, "net", precision, units=units)
        assert type(stack.layers[0].input) is not StrassenProduct
        inner = [layer.recurrent for layer in stack.layers] + [stack.layers[1].input]
        return {type(product).__name__ for product in inner}

    least = 128 if cpu.IS_NARROW else 32
    many = 2 * least
    fast = {"StrassenProduct" if cpu.STRASSEN else "Product"}
    assert kinds(many, "LSTM", 192) == kinds(257, "LSTM", 256) == fast
    assert kinds(least, "LSTM", 192) == fast
    for units, cell, size in ((1, "LSTM", 192), (least - 1, "LSTM", 192), (many, "GRU", 192)):
        assert kinds(units, cell, size) == {"Product"}
    for size in (160, 200, 208):  # the halves of 208 inputs are not whole panels
        assert kinds(many, "LSTM", size) == {"Product"}
    assert kinds(many, "LSTM", 192, "int8") == {"Int8Product"}
    # Weights of an output that stand out would move results beside it. Those of features may.
    for largest in (16.1, 3e38, math.nan):
        assert kinds(many, "LSTM", 192, largest=largest) == {"Product"}
    for name in ("weight_hh_l0", "weight_hh_l1"):
        assert kinds(many, "LSTM", 192, largest=16.1, name=name) == {"Product"}
    assert kinds(many, "LSTM", 192, largest=1e3, name="weight_ih_l0") == fast
    # Many smaller weights of one output do as much as a large one.
    assert kinds(many, "LSTM", 192, largest=1.1, place=(3,)) == fast  # a norm of 15.2
    assert kinds(many, "LSTM", 192, largest=1.2, place=(3,)) == {"Product"}  # of 16.6


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_state_decays_to_zero(cell: str) -> None:
    """Denormal numbers would make silence fifty times slower than speech."""
    spec = Sequence(cell, 1, 16, 1)
    shapes = spec.tensor_shapes("net")
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    bias = tensors["net.sequence_model.bias_ih_l0"]
    bias[16:32] = -5.0  # forget, or the share of the past: close to nothing stays
    stack = Recurrent(spec, tensors, "net", "float32")
    own = state.zeros(stack.fields())
    for array in own.values():
        array.fill(1.0)
    bound = stack.bind(own, 1)
    smallest = []
    for _ in range(40):
        play(bound, np.zeros((1, 1), np.float32))
        smallest.append(min(float(array.min()) for array in own.values()))
    assert smallest[-1] == 0.0
    assert min(value for value in smallest if value > 0.0) >= 1e-35


@pytest.mark.parametrize("slope", [0.25, -0.5])
@pytest.mark.parametrize("name", [None, "Tanh", "ReLU", "ReLU6", "LeakyReLU", "PReLU"])
def test_output_activations_equal_the_reference(name: str | None, slope: float) -> None:
    """Each by name, behind a linear layer, at its corners."""
    spec = Sequence("LSTM", 1, 1, 1, 9, name)
    tensors = {key: np.zeros(shape, np.float32) for key, shape in spec.tensor_shapes("net").items()}
    corners = np.float32([-1e30, -7.0, -1e-3, -0.0, 0.0, 1e-3, 5.9999995, 6.0, 1e30])
    tensors["net.fc_output_layer.bias"] = corners
    if name == "PReLU":
        tensors["net.activate_function.weight"] = np.float32([slope])
    got = run_stack(spec, tensors, np.zeros((1, 1, 1), np.float32), [1])[0, 0]
    want = reference.activate(corners.astype("d"), name, np.array([slope]))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=0.0)


def cell_functions() -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """Return sigmoid and tanh as the cells compute them, taken out of GRUs made for it."""

    def run(x: np.ndarray, gate: int, h0: float, update: float) -> np.ndarray:
        spec = Sequence("GRU", 1, 1, 1)
        shapes = spec.tensor_shapes("net")
        tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        tensors["net.sequence_model.weight_ih_l0"][gate] = 1.0
        tensors["net.sequence_model.bias_ih_l0"][1] = update
        stack = Recurrent(spec, tensors, "net", "float32", units=len(x))
        own = state.zeros(stack.fields())
        own["net.h0"][:, 0] = h0
        return play(stack.bind(own, 1), x[:, None].copy())[:, 0]

    # h = n + sigmoid(z) (h0 - n): with n = 0 and h0 = 1 it is sigmoid(z), with h0 = 0 and z far
    # below zero it is n = tanh(x), less 4e-8 of it.
    return (lambda x: run(x, 1, 1.0, 0.0)), (lambda x: run(x, 2, 0.0, -1e9))


def test_tanh_and_sigmoid() -> None:
    """As exact as `npfsn/kernels/vector.py` says, and never beyond their bounds."""
    sigmoid, tanh = cell_functions()
    x = np.concatenate(
        [np.linspace(-20.0, 20.0, 40001), np.linspace(-0.01, 0.01, 2001), [0.0, 1e30, -1e30, 1e-30]]
    ).astype(np.float32)
    assert np.abs(sigmoid(x) - reference.sigmoid(x.astype("d"))).max() < 2.2e-7
    assert np.abs(tanh(x) - np.tanh(x.astype("d"))).max() < 4.4e-7
    assert sigmoid(np.float32([0.0]))[0] == 0.5
    assert tanh(np.float32([0.0]))[0] == 0.0
    # Small values keep their relative accuracy: they are what weak speech is made of.
    small = np.float32([1e-20, -1e-8, 1e-4, 1e-2])
    np.testing.assert_allclose(tanh(small), np.tanh(small.astype("d")), rtol=4e-7)


# ---------------------------------------------------------------------------------------------
# Spectra
# ---------------------------------------------------------------------------------------------

TRANSFORMS = (2, 4, 6, 14, 30, 64, 480, 512, 960, 1022)


def fft_tables(n: int) -> tuple[np.ndarray, ...]:
    """Tables and scratch of a real transform of `n` samples, in the kernels' order."""
    m = n // 2
    return (
        factors(m), twiddles(m), twiddles(n),
        np.zeros((2, m)), np.zeros((2, m)),
    )  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 15, 16, 31, 240, 256, 480, 511, 512])
def test_the_transform_equals_numpys(n: int) -> None:
    """Complex transforms of any factors, primes and fours among them."""
    z = rng(n).normal(size=(2, n))
    want = np.fft.fft(z[0] + 1j * z[1])
    spectrum.fft(z, factors(n), twiddles(n), np.zeros((2, n)))
    np.testing.assert_allclose(z[0] + 1j * z[1], want, rtol=0.0, atol=1e-14 * n)


def test_factors_are_fours_then_primes() -> None:
    """Fours first; their product is the size."""
    assert factors(256).tolist() == [4, 4, 4, 4]
    assert factors(480).tolist() == [4, 4, 2, 3, 5]
    assert factors(511).tolist() == [7, 73]
    assert factors(1).tolist() == [1]


@pytest.mark.parametrize("n", TRANSFORMS)
def test_analysis_equals_numpys_rfft(n: int) -> None:
    """Frames of real samples, at every hop; magnitudes in float32."""
    hop = max(n // 4, 1)
    window = reference.periodic_hann(n)
    signal = normal(n + 4 * hop, seed=n)
    spec = np.full((5, 2, n // 2 + 1), np.nan)
    mag = np.full((5, n // 2 + 1), np.nan, np.float32)
    spectrum.analyse(signal, hop, window, *fft_tables(n), spec, mag)
    frames = np.stack([signal[t * hop : t * hop + n] * window for t in range(5)])
    want = np.fft.rfft(frames)
    np.testing.assert_allclose(spec[:, 0] + 1j * spec[:, 1], want, rtol=0.0, atol=1e-14 * n)
    np.testing.assert_allclose(mag, np.abs(want), rtol=2 * EPS, atol=1e-14 * n)


@pytest.mark.parametrize("n", TRANSFORMS)
def test_synthesis_equals_numpys_irfft(n: int) -> None:
    """Overlap-add of arbitrary spectra, divided by the squared windows so far."""
    for hop in sorted({n // 2, max(n // 4, 1), 1} - {0}) if n < 64 else (n // 2,):
        n_frame = 7
        spec = rng(n).normal(size=(n_frame, 2, n // 2 + 1))
        window = reference.periodic_hann(n)
        ola, env = np.zeros(n), np.zeros(n)
        out = np.full(n_frame * hop, np.nan, np.float32)
        spectrum.synthesise(spec, hop, window, *fft_tables(n), ola, env, out)
        length = n + hop * (n_frame - 1)
        total, weight = np.zeros(length), np.zeros(length)
        for t in range(n_frame):
            span = slice(t * hop, t * hop + n)
            total[span] += window * np.fft.irfft(spec[t, 0] + 1j * spec[t, 1], n)
            weight[span] += window**2
        weight[0] = 1.0  # under no window: zero by definition
        want = (total / weight)[: n_frame * hop]
        np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-6)
        # What is left waits for further frames, at the front.
        np.testing.assert_allclose(ola[: n - hop], total[n_frame * hop :], rtol=0.0, atol=1e-12 * n)
        np.testing.assert_allclose(env[: n - hop], weight[n_frame * hop :], rtol=0.0, atol=1e-12)
        assert not ola[n - hop :].any()
        assert not env[n - hop :].any()


def test_synthesis_of_absurd_spectra_is_finite() -> None:
    """What a broken network makes of the largest samples does not fit into float32."""
    n, hop, out = 16, 8, np.zeros(24, np.float32)
    spec = rng(3).normal(size=(3, 2, n // 2 + 1)) * 1e45
    window = reference.periodic_hann(n)
    with np.errstate(over="ignore"):
        spectrum.synthesise(spec, hop, window, *fft_tables(n), np.zeros(n), np.zeros(n), out)
    np.testing.assert_array_equal(np.abs(out[1:]), np.float32(1e38))


def test_synthesis_leaves_no_denormals() -> None:
    n, hop, out = 16, 8, np.ones(24, np.float32)
    spec = rng(4).normal(size=(3, 2, n // 2 + 1)) * 1e-40
    window = reference.periodic_hann(n)
    spectrum.synthesise(spec, hop, window, *fft_tables(n), np.zeros(n), np.zeros(n), out)
    assert not out.any()


@pytest.mark.parametrize(("n", "hop"), [(512, 256), (512, 128), (960, 480), (30, 5), (4, 1)])
def test_synthesis_undoes_analysis(n: int, hop: int) -> None:
    """Samples under enough windows come back."""
    n_frame = 12
    x = normal((n_frame - 1) * hop + n, seed=n)
    spec, mag = np.zeros((n_frame, 2, n // 2 + 1)), np.zeros((n_frame, n // 2 + 1), np.float32)
    window, tables = reference.periodic_hann(n), fft_tables(n)
    spectrum.analyse(x, hop, window, *tables, spec, mag)
    y = np.zeros(n_frame * hop, np.float32)
    spectrum.synthesise(spec, hop, window, *tables, np.zeros(n), np.zeros(n), y)
    np.testing.assert_allclose(y[hop:], x[hop : len(y)], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("look_ahead", [0, 1, 2, 5])
@pytest.mark.parametrize("n_frame", [1, 2, 3, 8])
def test_spectra_wait_for_their_mask(look_ahead: int, n_frame: int) -> None:
    """Out they come in the order they went in, `look_ahead` frames later."""
    spectra = rng(3).normal(size=(4 * n_frame, 2, 3))
    held, ready = np.zeros((look_ahead, 2, 3)), np.full((n_frame, 2, 3), np.nan)
    got = []
    for at in range(0, len(spectra), n_frame):
        spectrum.wait_for_mask(spectra[at : at + n_frame].copy(), held, ready)
        got.append(ready.copy())
    want = np.concatenate([np.zeros((look_ahead, 2, 3)), spectra])
    np.testing.assert_array_equal(np.concatenate(got), want[: len(spectra)])
    np.testing.assert_array_equal(held, want[len(spectra) :])


def test_magnitudes_hold_no_denormals() -> None:
    """What is too small to count is zero, what is large stays finite."""
    n = 64
    window, tables = reference.periodic_hann(n), fft_tables(n)
    for scale, low, high in ((1e-33, 0.0, 0.0), (1e-20, 1e-22, 1e-18), (1e30, 1e28, 1e32)):
        signal = normal(n, seed=1) * np.float32(scale)
        spec, mag = np.zeros((1, 2, n // 2 + 1)), np.zeros((1, n // 2 + 1), np.float32)
        spectrum.analyse(signal, n, window, *tables, spec, mag)
        assert np.all((mag == 0.0) | (mag >= 1e-30))
        assert low <= mag.max() <= high


# ---------------------------------------------------------------------------------------------
# Mel bands, neighbours, time shrink
# ---------------------------------------------------------------------------------------------


def dense(n_freq: int, n_mel: int) -> np.ndarray:
    return normal(n_freq, n_mel, seed=20)


def sparse(n_freq: int, n_mel: int) -> np.ndarray:
    """Few bins a band, with gaps inside; some bands empty."""
    fb = normal(n_freq, n_mel, seed=21)
    fb[rng(22).random((n_freq, n_mel)) < 0.8] = 0.0
    fb[:, ::3] = 0.0
    return fb


@pytest.mark.parametrize("draw", [dense, sparse])
@pytest.mark.parametrize(("n_freq", "n_mel"), [(1, 1), (2, 5), (17, 9), (257, 64), (481, 80)])
def test_pool_mel(n_freq: int, n_mel: int, draw: Callable[[int, int], np.ndarray]) -> None:
    """Any matrix a checkpoint may carry, though it is mostly zero."""
    fb, mag = draw(n_freq, n_mel), positive(3, n_freq)
    out = np.full((3, n_mel), np.nan, np.float32)
    program = Program()
    MelBands(fb).write(program, mag, out)
    program.play(0, 3)
    want = reference.pool_mel(mag.astype("d").T, fb.astype("d")).T
    bound = 2 * (n_freq + 1) * EPS * (mag.astype("d") @ np.abs(fb))
    assert np.all(np.abs(out - want) <= bound)


@pytest.mark.parametrize("fdrc", [0.5, 0.3, 1.0, 2.0])
def test_power_equals_numpys(fdrc: float) -> None:
    """Compression of magnitudes; the last bin is dropped."""
    mag = positive(3, 17)
    mag[1, 4] = 0.0
    out = np.full((3, 16), np.nan, np.float32)
    features.power(mag, fdrc, out)
    np.testing.assert_allclose(out, mag[:, :16].astype("d") ** fdrc, rtol=2 * EPS)


@pytest.mark.parametrize("fdrc", [1.5, 4.0])
def test_power_leaves_no_denormals(fdrc: float) -> None:
    """What a steep compression makes of faint sound."""
    wanted = np.array([[0.0, 1e-44, 1e-35, 1e-31, 1e-20]])
    out = np.full(wanted.shape, np.nan, np.float32)
    features.power((wanted ** (1 / fdrc)).astype(np.float32), fdrc, out)
    assert not out[0, :4].any()
    np.testing.assert_allclose(out[0, 4], 1e-20, rtol=10 * EPS)


@pytest.mark.parametrize(
    ("n_freq", "first", "last", "center", "near"),
    [
        (1, 0, 1, 1, 0),
        (9, 0, 9, 1, 0),
        (64, 0, 64, 1, 5),
        (9, 0, 9, 1, 8),
        (257, 0, 257, 1, 15),
        (256, 80, 256, 8, 15),
        (256, 20, 80, 4, 15),
    ],
)
def test_unfold(n_freq: int, first: int, last: int, center: int, near: int) -> None:
    """Bins with their neighbours, reflected at the outer edges, put where they belong."""
    x = normal(3, n_freq, seed=23)
    n = center + 2 * near
    n_unit = (last - first) // center
    out = np.full((3, n_unit, n + 3), 5.0, np.float32)
    features.unfold(x, near, first, center, out, 2)
    want = reference.unfold(x.T, first, last, center, near).transpose(2, 0, 1)
    np.testing.assert_array_equal(out[:, :, 2 : n + 2], want)
    assert np.all(out[:, :, :2] == 5.0)
    assert np.all(out[:, :, n + 2 :] == 5.0)


def splits(n_frame: int, seed: int) -> list[int]:
    """Cut `n_frame` frames into blocks of random sizes."""
    cuts = np.sort(rng(seed).choice(np.arange(1, n_frame), n_frame // 4, replace=False))
    return np.diff([0, *cuts, n_frame]).tolist()


def test_a_level_leaves_no_denormals() -> None:
    """What the encoder makes of input that is all but silent."""
    mel, normed = np.full((1, 2), 1e-25, np.float32), np.ones((1, 2), np.float32)
    level, out = np.zeros(1), np.full((1, 2), np.nan, np.float32)
    features.follow_level(mel, normed, 1.0, level, np.float32([[0.5, 1e-6]]), out)
    assert level[0] == pytest.approx(1e-25)
    assert out[0, 0] == pytest.approx(5e-26) and out[0, 1] == 0.0


@pytest.mark.parametrize("shrink", [1, 2, 3, 5])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_shrink_units(shrink: int, in_blocks: bool) -> None:
    """Means of blocks and their neighbourhoods, wherever the frames are cut."""
    n_frame = 23
    mel, enc = normal(n_frame, 7, seed=24), normal(n_frame, 7, seed=25)
    acc = np.zeros((2, 7), np.float32)
    got, frame = [], 0
    for n in splits(n_frame, shrink) if in_blocks else [1] * n_frame:
        ends = sum((frame + t) % shrink == 0 for t in range(n))
        out = np.full((ends, 7, 8), np.nan, np.float32)
        at = np.s_[frame : frame + n]
        features.shrink_units(mel[at], enc[at], 2, 1, frame, shrink, acc, out)
        got.append(out)
        frame += n
    parts = [reference.neighbors(x.astype("d").T, n) for x, n in ((mel, 2), (enc, 1))]
    units = np.concatenate(parts, axis=1)
    want = np.moveaxis(reference.shrink_time(units, shrink), -1, 0)
    whole = 1 + (n_frame - 1) // shrink
    np.testing.assert_allclose(np.concatenate(got), want[:whole], rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("shrink", [1, 2, 3, 5])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_join_held(shrink: int, in_blocks: bool) -> None:
    """A block's result serves from its last frame on."""
    n_frame, n_mel = 23, 4
    enc, blocks = normal(n_frame, n_mel), normal(1 + (n_frame - 1) // shrink, n_mel, seed=25)
    held = np.zeros(n_mel, np.float32)
    got, frame, used = [], 0, 0
    for n in splits(n_frame, shrink) if in_blocks else [1] * n_frame:
        ends = sum((frame + t) % shrink == 0 for t in range(n))
        out = np.full((n, 2 * n_mel), np.nan, np.float32)
        features.join_held(
            enc[frame : frame + n], blocks[used : used + ends], frame, shrink, held, out
        )
        got.append(out)
        frame, used = frame + n, used + ends
    stretched = reference.stretch_time(blocks.T, shrink, n_frame).T
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate([enc, stretched], axis=1))


# ---------------------------------------------------------------------------------------------
# Norms
# ---------------------------------------------------------------------------------------------

CAUSAL = ("cumulative_laplace_norm", "cumulative_layer_norm", "forgetting_norm")
OFFLINE = ("offline_laplace_norm", "offline_gaussian_norm")


def run_norm(
    norm: norms.Norm, x: np.ndarray, blocks: list[int] | None = None, horizon: float = math.inf
) -> np.ndarray:
    """Norm x [T, U, S], in blocks of frames; an offline norm is fitted in a pass before."""
    n_frame = len(x)
    bound = norm.bind(state.zeros(norm.fields()))
    bound.set_horizon(horizon)
    shaped = x.reshape(n_frame, norm.units, norm.size)
    for _ in range(2 if norm.offline else 1):
        out, frame = [], 0
        for n in blocks or [n_frame]:
            y = np.full((n, norm.units, norm.size), np.nan, np.float32)
            apply_norm(bound, shaped[frame : frame + n], y)
            assert np.isnan(y).all() == (not bound.fitted)
            out.append(y)
            frame += n
        if norm.offline and not bound.fitted:
            bound.fit()
    return np.concatenate(out).reshape(x.shape)


def by_reference(norm: Callable[..., np.ndarray], x: np.ndarray, **options: float) -> np.ndarray:
    """Norm x [T, U, S] as the reference does, which has time last."""
    return norm(x.astype("d").transpose(1, 2, 0), **options).transpose(2, 0, 1)


def levelled(n_frame: int, n_unit: int, n_ctx: int) -> np.ndarray:
    """Draw features whose level differs between units, changes and pauses."""
    x = positive(n_frame, n_unit, n_ctx, seed=26)
    x *= np.float32(10.0) ** rng(27).uniform(-3, 2, (1, n_unit, 1)).astype(np.float32)
    x[n_frame // 3 : n_frame // 2] *= np.float32(0.01)
    x[-1:] = 0.0  # look-ahead
    return x


@pytest.mark.parametrize("name", CAUSAL + OFFLINE)
@pytest.mark.parametrize(("n_unit", "n_ctx"), [(1, 1), (1, 257), (3, 5), (64, 12)])
def test_norms_equal_the_reference(name: str, n_unit: int, n_ctx: int) -> None:
    """The five norms over 250 frames, past the memory of the forgetting one, and in blocks."""
    x = levelled(250, n_unit, n_ctx)
    norm = norms.Norm(name, "n", n_unit, n_ctx)
    got = run_norm(norm, x, [1] * len(x))
    want = by_reference(reference.NORMS[name], x)
    # Where the mean is subtracted, its rounding is one of the mean's, not of the difference.
    floor = 1e-5 if name in ("cumulative_layer_norm", "offline_gaussian_norm") else 0.0
    np.testing.assert_allclose(got, want, rtol=4e-7, atol=floor)
    np.testing.assert_array_equal(run_norm(norm, x, splits(len(x), 1)), got)


def test_section_norm() -> None:
    """One running mean over all units of a section."""
    x = levelled(60, 5, 7)
    norm = norms.Norm("cumulative_section_norm", "n", 5, 7)
    want = by_reference(reference.section_norm, x)
    np.testing.assert_allclose(run_norm(norm, x, [1] * 60), want, rtol=4e-7)


@pytest.mark.parametrize("name", (*CAUSAL, *OFFLINE))
def test_norm_of_little(name: str) -> None:
    """Near and at zero it is the epsilon that counts."""
    for level in (0.0, 1e-8, 1e-5):
        x = positive(20, 3, 4, seed=28) * np.float32(level)
        want = by_reference(reference.NORMS[name], x)
        got = run_norm(norms.Norm(name, "n", 3, 4), x)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * max(np.abs(want).max(), 1e-30))


def test_norm_of_what_never_changes() -> None:
    """Rounding may bring the variance below zero, which has no root."""
    for level in np.geomspace(0.1, 1e6, 100, dtype=np.float32):
        x = np.full((250, 1, 7), level)
        got = run_norm(norms.Norm("offline_gaussian_norm", "n", 1, 7), x)
        assert np.abs(got).max() < 0.1


def test_norm_of_what_hardly_ever_changed() -> None:
    """Nor may a running variance have no root: whatever came next would be nothing."""
    for level in np.geomspace(0.1, 1e9, 200, dtype=np.float32):
        x = np.full((250, 1, 7), level)
        x[-1, 0, 0] = np.nextafter(level, np.float32(np.inf))
        assert run_norm(norms.Norm("cumulative_layer_norm", "n", 1, 7), x)[-1, 0, 0] > 0.0


def test_a_forgotten_mean_is_zero() -> None:
    """After twelve minutes of silence: a denormal one would never be."""
    norm = norms.Norm("forgetting_norm", "n", 1, 1)
    own = state.zeros(norm.fields())
    own["n.count"][:], own["n.mu"][:] = 1000, 1e-199
    x = np.zeros((300, 1, 1), np.float32)
    apply_norm(norm.bind(own), x, np.empty_like(x))
    assert own["n.mu"][0] == 0.0


def test_norm_of_a_single_value() -> None:
    """Which has no variance."""
    norm = norms.Norm("offline_gaussian_norm", "n", 1, 1)
    assert run_norm(norm, np.ones((1, 1, 1), np.float32)) == 0.0


def test_epsilon_of_improved() -> None:
    """The one network with its own epsilon everywhere."""
    x = positive(20, 1, 9, seed=29) * np.float32(1e-6)
    for name in OFFLINE:
        want = by_reference(reference.NORMS[name], x, eps=reference.FLOAT32_EPS)
        got = run_norm(norms.Norm(name, "n", 1, 9, eps=reference.FLOAT32_EPS), x)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DIVIDING_NORMS)
def test_norms_leave_no_denormals(name: str) -> None:
    x = np.float32([1e12, 1e12, 1e-30]).reshape(3, 1, 1)
    *loud, soft = run_norm(norms.Norm(name, "n", 1, 1), x)
    assert min(loud) > 0.0 and soft == 0.0


@pytest.mark.parametrize("name", ["cumulative_laplace_norm", "cumulative_section_norm"])
@pytest.mark.parametrize("horizon", [1.0, 7.0, 12.5])
def test_horizon_of_laplace_norms(name: str, horizon: float) -> None:
    """Beyond the horizon each frame counts 1 / horizon, what was before fades."""
    x = levelled(40, 3, 5)
    got = run_norm(norms.Norm(name, "n", 3, 5), x, splits(40, 2), horizon)
    axes = (1, 2) if name == "cumulative_section_norm" else (2,)
    frame_mean = x.astype("d").mean(axis=axes, keepdims=True)
    mean = np.zeros_like(frame_mean[0])
    for t in range(40):
        mean = mean + (frame_mean[t] - mean) / min(t + 1.0, horizon)
        want = x[t].astype("d") / (mean + reference.FLOAT32_EPS)
        np.testing.assert_allclose(got[t], want, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("horizon", [1.0, 7.0, 12.5])
def test_horizon_of_layer_norm(horizon: float) -> None:
    """Mean and mean square fade alike."""
    x = levelled(40, 3, 5)
    got = run_norm(norms.Norm("cumulative_layer_norm", "n", 3, 5), x, horizon=horizon)
    mean = square = np.zeros((3, 1))
    for t in range(40):
        share = 1.0 / min(t + 1.0, horizon)
        frame = x[t].astype("d")
        mean = mean + (frame.mean(axis=1, keepdims=True) - mean) * share
        square = square + ((frame**2).mean(axis=1, keepdims=True) - square) * share
        std = np.sqrt(np.maximum(square - mean**2, 0.0) + reference.FLOAT32_EPS)
        np.testing.assert_allclose(got[t], (frame - mean) / std, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("horizon", "memory"), [(7.0, 7), (192.0, 192), (1e4, 192)])
def test_horizon_of_forgetting_norm(horizon: float, memory: int) -> None:
    """It shortens the memory and never lengthens it."""
    x = levelled(250, 3, 5)
    got = run_norm(norms.Norm("forgetting_norm", "n", 3, 5), x, horizon=horizon)
    want = by_reference(reference.forgetting_norm, x, n_memory=memory)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_running_sums_do_not_drift(name: str) -> None:
    """After nine hours one more frame still counts as it should."""
    norm = norms.Norm(name, "n", 1, 4)
    own = state.zeros(norm.fields())
    n_frame = 2_000_000
    own["n.count"][:] = n_frame
    for key, value in (("n.total", 4.0 * n_frame), ("n.square", 8.0 * n_frame), ("n.mu", 1.0)):
        if key in own:
            own[key][:] = value
    x = np.full((1, 1, 4), 3.0, np.float32)
    before = {key: array.copy() for key, array in own.items()}
    out = np.zeros_like(x)
    apply_norm(norm.bind(own), x, out)
    assert own["n.count"][0] == n_frame + 1
    if name == "forgetting_norm":
        assert own["n.mu"][0] == pytest.approx(1.0 + 2.0 * 2.0 / 193.0, rel=1e-12)
    else:
        assert own["n.total"][0] - before["n.total"][0] == 12.0
    if name == "cumulative_layer_norm":
        assert own["n.square"][0] - before["n.square"][0] == 36.0


# ---------------------------------------------------------------------------------------------
# Masks
# ---------------------------------------------------------------------------------------------


def test_apply_complex() -> None:
    """Expansion, clipped on both sides, and a complex product; further spectra stay."""
    mask = normal(3, 2, 17, seed=30, scale=6.0)
    mask[0, :, :6] = [[-1e30, -10.0, -9.9, 9.9, 10.0, 1e30], [0.0, 9.95, -0.0, -9.95, 1.0, -1.0]]
    spec = rng(31).normal(size=(5, 2, 17))
    got = spec.copy()
    features.apply_complex(mask, got)
    planes = reference.decompress_mask(mask.astype("d")).transpose(1, 2, 0)
    product = reference.apply_complex((spec[:3, 0] + 1j * spec[:3, 1]).T, planes).T
    # At the clip the expansion is 100 times as steep as at zero.
    np.testing.assert_allclose(got[:3, 0] + 1j * got[:3, 1], product, rtol=0.0, atol=3e-4)
    np.testing.assert_array_equal(got[3:], spec[3:])


def test_logarithm() -> None:
    """To a few units in the last place, over all that masks need and more."""
    for x in (*np.geomspace(1e-3, 1e3, 20001), *np.linspace(0.9, 1.1, 2001), 1.0, 2.0, 0.5):
        assert features._log(x) == pytest.approx(math.log(x), rel=7e-16, abs=0.0)


def test_expansion_of_moderate_masks() -> None:
    """Away from the clip nothing is lost."""
    values = np.linspace(-5.0, 5.0, 1001, dtype=np.float32)
    mask = np.stack([values, np.zeros_like(values)])[None]
    spec = np.zeros((1, 2, 1001))
    spec[0, 0] = 1.0
    features.apply_complex(mask, spec)
    want = reference.decompress_mask(values.astype("d"))
    np.testing.assert_allclose(spec[0, 0], want, rtol=0.0, atol=2e-6)


def test_apply_planes() -> None:
    """Real part by real plane, imaginary part by imaginary plane."""
    mask, spec = normal(3, 2, 17, seed=32), rng(33).normal(size=(5, 2, 17))
    got = spec.copy()
    features.apply_planes(mask, got)
    np.testing.assert_allclose(got[:3], spec[:3] * mask, rtol=1e-15)
    np.testing.assert_array_equal(got[3:], spec[3:])


@pytest.mark.parametrize(("n_unit", "center", "first"), [(1, 1, 0), (5, 1, 2), (3, 4, 1)])
def test_gather_mask(n_unit: int, center: int, first: int) -> None:
    """Units side by side, each [2, center]; bins outside the section stay."""
    x = normal(2 * n_unit, 2 * center, seed=34)
    mask = np.full((2, 2, 15), 7.0, np.float32)
    features.gather_mask(x, center, first, n_unit, mask)
    want = np.full((2, 2, 15), 7.0, np.float32)
    units = x.reshape(2, n_unit, 2, center).transpose(0, 2, 1, 3).reshape(2, 2, n_unit * center)
    want[:, :, first : first + n_unit * center] = units
    np.testing.assert_array_equal(mask, want)


# ---------------------------------------------------------------------------------------------
# Samples
# ---------------------------------------------------------------------------------------------


def test_check_samples() -> None:
    """What is no number becomes zero and is counted; what is absurd is cut; the rest stays."""
    x = np.float32([0.5, np.nan, -np.inf, np.inf, 3e38, -3e38, 1e30, 1e-20, 1e-40, -1e-45, -0.0])
    out, bad = np.full(len(x), 5.0, np.float32), np.array([77])
    spectrum.check_samples(x, out, bad)
    assert bad[0] == 3
    want = np.float32([0.5, 0.0, 0.0, 0.0, 1e30, -1e30, 1e30, 1e-20, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(out, want)
    spectrum.check_samples(want, want, bad)  # in place, and set anew
    assert bad[0] == 0


@pytest.mark.parametrize(("size", "hop"), [(4, 1), (6, 2), (6, 6), (768, 256)])
def test_push_hop(size: int, hop: int) -> None:
    """The newest samples end the buffer."""
    signal, x = normal(size, seed=35), normal(hop, seed=36)
    want = np.concatenate([signal, x])[hop:]
    spectrum.push_hop(signal, x)
    np.testing.assert_array_equal(signal, want)


@pytest.mark.parametrize("delay", [1, 3, 4, 5, 11])
@pytest.mark.parametrize("limit", [0.0, 0.25, 1.0])
def test_mix_dry(delay: int, limit: float) -> None:
    """The delayed input, mixed in, for delays shorter and longer than the block."""
    x, enhanced = normal(24, seed=37), normal(24, seed=38)
    line, energy = np.zeros(delay, np.float32), np.ones(3)
    got = enhanced.copy()
    dry = np.concatenate([np.zeros(delay), x])[:24]
    for at in range(0, 24, 4):
        spectrum.mix_dry(x[at : at + 4], np.float32(limit), line, 2, energy, got[at : at + 4])
        hop = slice(at + 2, at + 4)
        signals = (enhanced[hop], dry[hop], dry[hop] - enhanced[hop])
        want = [np.sum(np.square(signal, dtype=np.float64)) for signal in signals]
        np.testing.assert_allclose(energy, want, rtol=1e-6)
    want = limit * dry + (1.0 - limit) * enhanced
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(line, x[24 - delay :])
