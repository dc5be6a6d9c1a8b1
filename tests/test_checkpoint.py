"""Torch files are read without torch, exactly, and whatever else they hold is refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import errno
import fractions
import hashlib
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import types
import uuid
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch_files as tf
from golden_cases import load_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from needs import posix

from npfsn import pickles
from npfsn.checkpoint import MAX_RATIO, read_checkpoint
from npfsn.errors import CheckpointError, printable
from npfsn.reading import ReadError, read_at, read_into

# More cases on request: NPFSN_FUZZ=100 runs a hundred times as many.
FUZZ = int(os.environ.get("NPFSN_FUZZ", "1"))
SEED = int(os.environ.get("NPFSN_FUZZ_SEED", "20260101"))
# What checkpoint.py promises: 64 MiB for the pickles, and for the file's own bytes a multiple.
PICKLE_MEMORY = 64 << 20
FILE_MULTIPLE = MAX_RATIO + 4

CASE = load_case("full_lstm_cum")
FORMATS = {"zip": tf.zip_bytes, "legacy": tf.legacy_bytes}


def small_state() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "a.bias": rng.standard_normal(3).astype(np.float32),
        "n": np.array(7, np.int64),
    }


def upstream(params: dict[str, np.ndarray], **options: object) -> dict[str, object]:
    """Make a training state like the published code's, optimiser and best score included."""
    tensors = tf.tensors(params, **options)
    moments = {
        i: {"step": tf.tensor(np.float32(3)), "exp_avg": tf.tensor(np.zeros_like(value))}
        for i, value in enumerate(params.values())
    }
    return {
        "epoch": 58,
        "best_score": tf.NumpyScalar(0.91),
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        "scaler": {"scale": 65536.0, "growth_interval": 2000},
        "model": tf.Ordered(tensors),
    }


def read(tmp_path: Path, data: bytes, name: str = "x.tar"):
    path = tmp_path / name
    path.write_bytes(data)
    return read_checkpoint(path)


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(CheckpointError) as info:
        read(tmp_path, data)
    message = str(info.value)
    assert "\n" not in message and message.isprintable()
    assert "x.tar" in message
    return message


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, strict=True)


# What people have.


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_training_state_gives_its_network_and_its_figures(tmp_path, file_format):
    data = FORMATS[file_format](upstream(CASE.params))
    found = read(tmp_path, data)
    assert_same(found.tensors, CASE.params)
    assert found.metadata == {"epoch": 58, "best_score": 0.91}
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.dtypes == "float32"
    assert found.file_size == len(data)
    assert not any(tensor.flags.writeable for tensor in found.tensors.values())


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
def test_the_state_dict_is_found_at_the_top_and_under_the_usual_keys(tmp_path, file_format, key):
    params = small_state()
    state = tf.Ordered(tf.tensors(params))
    data = FORMATS[file_format](state if key is None else {"epoch": 1, key: state})
    assert_same(read(tmp_path, data, "weights.pth").tensors, params)


@pytest.mark.parametrize("beside", [{}, {"name": "fullsubnet", "layers": 2}])
def test_a_model_without_tensors_is_no_state_dict(tmp_path, beside):
    """Some save what they know of the model under "model", and its tensors elsewhere."""
    params = small_state()
    state = {"model": beside, "state_dict": tf.tensors(params)}
    found = read(tmp_path, tf.zip_bytes(state))
    assert_same(found.tensors, params)


def test_a_prefix_that_some_names_lack_belongs_to_the_names(tmp_path):
    params = {"module.a": np.ones(2, np.float32), "b": np.zeros(3, np.float32)}
    assert_same(read(tmp_path, tf.zip_bytes(tf.tensors(params))).tensors, params)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model._orig_mod."]
)
def test_prefixes_are_taken_off_and_tensors_of_gpus_are_read(tmp_path, file_format, prefix):
    params = small_state()
    state = tf.tensors(params, prefix, location="cuda:0")
    assert_same(read(tmp_path, FORMATS[file_format]({"model": state})).tensors, params)


WRAPPED = {
    "averaged by torch": lambda sd: {
        "n_averaged": tf.tensor(np.int64(3)),
        **{f"module.{k}": v for k, v in sd.items()},
    },
    "parallel, beside a loss": lambda sd: {
        **{f"module.{k}": v for k, v in sd.items()},
        "criterion.w": ONE,
    },
    "averaged": lambda sd: {"n_averaged": 3, **{f"module.{k}": v for k, v in sd.items()}},
    "beside a loss": lambda sd: {
        "state_dict": {**{f"net.{k}": v for k, v in sd.items()}, "loss.weight": ONE}
    },
    "own attribute": lambda sd: {f"student.net.{k}": v for k, v in sd.items()},
    "own key": lambda sd: {"generator": sd, "epoch": 3, "optimizer": {"state": {0: {"m": ONE}}}},
    "nested": lambda sd: {"checkpoint": {"model": {"state_dict": sd}}},
    "counters among the tensors": lambda sd: {"model": {**sd, "step": 3}},
}
ONE = tf.tensor(np.ones(1, np.float32))


@pytest.mark.parametrize("how", WRAPPED)
def test_networks_are_found_in_what_training_programs_put_around_them(tmp_path, how):
    """By the names of their recurrent layers; what lies beside them is left out."""
    for case in ("fast_lstm_cum", "base_lstm_cum", "improved_48k"):
        params = load_case(case).params
        found = read(tmp_path, tf.zip_bytes(WRAPPED[how](tf.tensors(params))))
        assert_same(found.tensors, params)
    assert found.metadata.get("step") == (3 if "counters" in how else None)


def test_looking_for_networks_takes_no_time(tmp_path):
    """In dicts that hold themselves; ever deeper."""
    many = b"".join(tf.text(f"k{i}") + b"h\x00" for i in range(2000))
    wide = b"\x80\x02}q\x00(" + many + b"u."  # all of its entries are itself
    assert "no state dict" in limits(tmp_path, tf.pickle_file(wide), seconds=5)
    deep = b"\x80\x02}" + (tf.text("key") + b"}") * 100_000 + b"s" * 100_000 + b"."
    assert "no state dict" in limits(tmp_path, tf.pickle_file(deep), seconds=5)


def test_wrappers_in_names_are_read_in_one_way_only(tmp_path):
    """Each of these took 2 ms while there were many ways."""
    names = ["fb_model." + "module." * 71 + f"{i:03x}" for i in range(200)]
    state = {f"d{i}": dict.fromkeys(names, ONE) for i in range(45)}
    assert "no state dict" in limits(tmp_path, tf.zip_bytes(state), seconds=5)


@pytest.mark.parametrize("beginnings", [("", "ema."), ("student.", "teacher.")])
def test_of_several_networks_none_is_chosen(tmp_path, beginnings):
    tensors = tf.tensors(CASE.params)
    together = {begin + name: value for begin in beginnings for name, value in tensors.items()}
    names = ", ".join(begin.rstrip(".") or "top" for begin in beginnings)
    message = refusal(tmp_path, tf.zip_bytes(together))
    assert f"several networks: {names}; say which (--network NAME" in message
    apart = {f"net{begin}": tensors for begin in beginnings}
    assert "several networks: net" in refusal(tmp_path, tf.zip_bytes(apart))
    within = {"model": {f"model.{name}": value for name, value in together.items()}}
    assert "several networks: model.model" in refusal(tmp_path, tf.zip_bytes(within))
    chosen = read(tmp_path, tf.zip_bytes({**apart, "model": tensors}))
    assert_same(chosen.tensors, CASE.params)
    assert chosen.network == "model" and chosen.others == list(apart)


@pytest.mark.parametrize("file_format", FORMATS)
def test_of_several_networks_the_one_that_is_named_is_read(tmp_path, file_format):
    """By keys of dicts, by how names of tensors begin, by both."""
    named = {"model": CASE.params, "ema.shadow": {k: v + 1 for k, v in CASE.params.items()}}
    one, other = map(tf.tensors, named.values())
    states = [
        {**with_prefix("model.", one), **with_prefix("ema.module.shadow.", other)},
        {"model": one, "ema": with_prefix("shadow.", other)},
        {"model": one, "ema": {"shadow": with_prefix("module.", other)}},
    ]
    path = tmp_path / "x.tar"
    for state in states:
        path.write_bytes(FORMATS[file_format](state))
        for name, params in named.items():
            found = read_checkpoint(path, name)
            assert_same(found.tensors, params)
            assert (found.network, {found.network, *found.others}) == (name, {*named})
            assert found.left_out == []
        with pytest.raises(CheckpointError, match=r"called student: expected .*ema\.shadow"):
            read_checkpoint(path, "student")
    path.write_bytes(FORMATS[file_format]({**one, **with_prefix("ema.", other)}))
    assert_same(read_checkpoint(path, "top").tensors, CASE.params)
    path.write_bytes(FORMATS[file_format]({"x": one["sb_model.fc_output_layer.bias"]}))
    with pytest.raises(CheckpointError, match="expected none, as it has none"):
        read_checkpoint(path, "top")


def test_two_networks_of_one_name_cannot_be_told_apart(tmp_path):
    """A key may have dots in it."""
    tensors = tf.tensors(CASE.params)
    state = {"a": {"b": tensors}, "a.b": tensors}
    (tmp_path / "x.tar").write_bytes(tf.zip_bytes(state))
    with pytest.raises(CheckpointError, match=r"several networks: a\.b, a\.b;"):
        read_checkpoint(tmp_path / "x.tar", "a.b")


def test_only_tensors_make_a_network(tmp_path):
    """Optimisers and logs are kept by the names of parameters, too."""
    state = {
        "net": tf.tensors(CASE.params),
        "optim": {"state": {name: {"step": 3} for name in CASE.params}},
        "shapes": {name: value.shape for name, value in CASE.params.items()},
        "grad_norms": dict.fromkeys(CASE.params, 0.1),
    }
    found = read(tmp_path, tf.zip_bytes(state))
    assert_same(found.tensors, CASE.params)
    assert found.others == []


@pytest.mark.parametrize(
    "wrapper", ["module.", "_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."]
)
def test_wrappers_within_a_network_are_taken_off(tmp_path, wrapper):
    """torch.compile and the like of one stack, or of one layer; of the whole as well."""
    for part in ("sb_model.", "sb_model.sequence_model.", ""):
        state = {
            name.replace(part, part + wrapper) if part else f"net.{wrapper}{name}": tf.tensor(value)
            for name, value in CASE.params.items()
        }
        assert_same(read(tmp_path, tf.zip_bytes({"model": state})).tensors, CASE.params)
    twice = {"module.x": ONE, "x": ONE}
    assert list(read(tmp_path, tf.zip_bytes(twice)).tensors) == list(twice)


def test_what_is_no_weight_beside_the_weights_is_passed_over(tmp_path):
    """Counters of operations in each layer, and what is no tensor, wherever the state dict lies."""
    state = tf.tensors(CASE.params)
    state |= {"total_ops": ONE, "fb_model.sequence_model.total_params": ONE}
    state |= {"_extra_state": None, "notes": {"a": 1}, "log": "x" * 1000}
    for outer in (state, {"model": state}, {"state_dict": with_prefix("net.", state)}):
        found = read(tmp_path, tf.zip_bytes(outer))
        assert_same(found.tensors, CASE.params)
        assert found.left_out == []


def test_more_networks_than_any_program_saves_are_refused(tmp_path):
    one = tf.tensor(np.ones((4, 4), np.float32))
    state = {f"n{i}.fb_model.sequence_model.weight_ih_l0": one for i in range(17)}
    assert "more than 16 networks" in refusal(tmp_path, tf.zip_bytes(state))


@pytest.mark.parametrize("what", ["tensors", "dicts"])
def test_long_names_that_many_dicts_share_take_no_memory(tmp_path, what):
    """A pickle repeats a name of two kilobytes in memory with two bytes."""
    names = [f"x.{i:02d}".ljust(504, "a") + "\U0001f600" for i in range(100)]
    names[0] = "x.encoder.sequence_model.weight_ih_l0"
    memo = b"".join(tf.text(name) + bytes([ord("q"), i, ord("0")]) for i, name in enumerate(names))
    storage = tf.text("storage") + b"ctorch\nFloatStorage\n" + tf.text("0") + tf.text("cpu")
    memo += b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"K\x04tQK\x00K\x01\x85K\x01\x85tR"
    memo += b"qd0"  # the tensor is number 100
    value = b"hd" if what == "tensors" else b"}"
    one = b"}(" + b"".join(bytes([ord("h"), i]) + value for i in range(100)) + b"u"
    outer = b"".join(tf.text(f"k{i}".ljust(190, "b")) + one for i in range(400))
    content = tf.pickle_file(b"\x80\x02" + memo + b"}(" + outer + b"u.")
    reason = limits(tmp_path, content, memory=40 << 20)
    assert ("more than 10,000 tensors" if what == "tensors" else "no state dict") in reason


def with_prefix(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8", "i4", "i2", "i1", "u1", "?"])
def test_tensors_keep_their_type_and_values(tmp_path, file_format, dtype):
    value = np.arange(-3, 9).reshape(3, 4).astype(dtype)
    number = value[2, 1].reshape(())
    state = {"x": tf.tensor(value), "n": tf.tensor(number)}
    found = read(tmp_path, FORMATS[file_format](state))
    assert_same(found.tensors, {"x": value, "n": number})


@pytest.mark.parametrize("file_format", FORMATS)
def test_bfloat16_becomes_float32_exactly(tmp_path, file_format):
    bits = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    value = bits.view(np.float32).reshape(256, 256)
    state = {"x": tf.bfloat16(value), "n": tf.bfloat16(np.array(1.5))}
    found = read(tmp_path, FORMATS[file_format](state))
    assert found.tensors["n"].shape == () and found.tensors["n"] == 1.5
    assert found.dtypes == "bfloat16"
    assert found.tensors["x"].dtype == np.float32
    np.testing.assert_array_equal(found.tensors["x"].view(np.uint32), bits.reshape(256, 256))


@pytest.mark.parametrize("file_format", FORMATS)
def test_views_of_storages_are_read(tmp_path, file_format):
    rng = np.random.default_rng(1)
    value = rng.standard_normal((5, 7)).astype(np.float32)
    shared = tf.Storage.of(value)
    state = {
        "columns": tf.strided(value),
        "whole": tf.Tensor(shared, (5, 7)),
        "row": tf.Tensor(shared, (7,), offset=14),
        "corner": tf.Tensor(shared, (2, 2), (7, 1), offset=3 * 7 + 5),
        "every_other": tf.Tensor(shared, (5, 3), (7, 2), offset=1),
        "spread": tf.Tensor(shared, (3, 2), (0, 1)),
        "scalar": tf.Tensor(shared, (), offset=34),
        "empty": tf.Tensor(shared, (0, 3), offset=35),
        "parameter": tf.Tensor(shared, (7, 5), (1, 7), parameter=True),
    }
    expected = {
        "columns": value,
        "whole": value,
        "row": value[2],
        "corner": value[3:5, 5:7],
        "every_other": value[:, 1:6:2],
        "spread": np.broadcast_to(value[0, :2], (3, 2)),
        "scalar": value[4, 6],
        "empty": np.zeros((0, 3), np.float32),
        "parameter": value.T,
    }
    found = read(tmp_path, FORMATS[file_format](state)).tensors
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_parts_of_legacy_storages_are_read_and_end_within_them(tmp_path):
    """Old files may name a part of a storage; beyond its end lies memory of others."""
    value = np.arange(10, dtype=np.float32)
    data = tf.legacy_bytes({"x": tf.Tensor(tf.Storage.of(value), (3,), offset=1)})
    code = tf.Writer().code

    def part(*window):
        assert data.count(code(10) + b"NtQ") == 1
        return data.replace(code(10) + b"NtQ", code(10) + code(window) + b"tQ")

    assert_same(read(tmp_path, part("view", 4, 5)).tensors, {"x": value[5:8]})
    assert "needs 4 elements, but its storage has 3" in refusal(tmp_path, part("view", 4, 3))
    assert "reaches beyond it" in refusal(tmp_path, part("view", 4, 7))
    assert "size or offset -1" in refusal(tmp_path, part("view", -1, 5))
    assert "damaged part" in refusal(tmp_path, part(4, 5))


def test_untyped_storages_are_read(tmp_path):
    value = np.arange(5, dtype=np.uint16)
    storage = tf.Storage(value.tobytes(), "UntypedStorage", 1)
    found = read(tmp_path, tf.zip_bytes({"x": tf.Tensor(storage, (5,), dtype="uint16")}))
    assert_same(found.tensors, {"x": value})


def test_tensors_of_big_endian_machines_are_read(tmp_path):
    value = np.arange(6, dtype=np.float32)
    storage = tf.Storage(value.astype(">f4").tobytes(), "FloatStorage", 4)
    data = tf.zip_bytes({"x": tf.Tensor(storage, (6,))}, byteorder="big")
    np.testing.assert_array_equal(read(tmp_path, data).tensors["x"], value)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_a_numpy_scalar_beside_the_network_is_read(tmp_path, core):
    state = {"best_score": tf.NumpyScalar(-1.5e300, core), "model": {"x": tf.tensor(np.ones(2))}}
    assert read(tmp_path, tf.zip_bytes(state)).metadata == {"best_score": -1.5e300}


def test_all_of_a_large_file_is_in_its_digest(tmp_path):
    data = tf.zip_bytes({"x": tf.tensor(np.ones(300_000, np.float32))})
    assert len(data) > 1 << 20
    assert read(tmp_path, data).sha256 == hashlib.sha256(data).hexdigest()


def test_plain_values_beside_the_tensors_are_short(tmp_path):
    state = {"epoch": 3, "amp": True, "log": "x" * 201, "model": {"x": tf.tensor(np.ones(2))}}
    assert read(tmp_path, tf.zip_bytes(state)).metadata == {"epoch": 3, "amp": True}


BESIDE = {
    "options": argparse.Namespace(rate=1e-3, folder=PurePosixPath("/a")),
    "simple": types.SimpleNamespace(rate=1e-3),
    "set": {1, "two"},
    "frozen": frozenset([1, ("two",)]),
    "complex": 1 + 2j,
    "slice": slice(1, 2),
    "range": range(3),
    "bytes": bytearray(b"abc"),
    "window": collections.deque([1.0, 2.0], maxlen=20),
    "milestones": collections.Counter([30, 60]),
    "scores": {(1, "snr"): 2.0, b"x": 3.0, None: 1.0, 1 << 70: 2.0},
    "groups": collections.defaultdict(list, a=[1]),
    "counts": collections.defaultdict(int, a=1),
    "times": [datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), datetime.time(3)],
    "took": datetime.timedelta(hours=3),
    "deep": PurePosixPath("/" + "folder/" * 40),
    "windows": PureWindowsPath("c:/a"),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "run": uuid.UUID(int=7),
    "array": np.ones((3, 2)),
    "words": np.array(["a", "bc"]),
    "kinds": [float, int, str, bool, tuple, dict],
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", BESIDE)
def test_what_training_programs_keep_beside_a_network_is_passed_over(tmp_path, kind, protocol):
    """Alone, and in lists, dicts and objects."""
    value = BESIDE[kind]
    every = [value, {"x": value}, argparse.Namespace(x=[value])]
    code = pickle.dumps(every, protocol)[2:-1]
    state = {"log": tf.Raw(code), "model": {"x": tf.tensor(np.ones(2))}, "epoch": 3}
    for write in FORMATS.values():
        found = read(tmp_path, write(state))
        assert list(found.tensors) == ["x"]
        assert found.metadata == {"epoch": 3}


def test_a_usual_key_hides_no_network(tmp_path):
    """Where something else has tensors under it, too."""
    params = tf.tensors(CASE.params)
    averages = {"model": {"decay": tf.tensor(np.ones(1))}}
    for key in ("state_dict", "model_state_dict", "student"):
        assert_same(read(tmp_path, tf.zip_bytes({**averages, key: params})).tensors, CASE.params)


def test_storages_of_the_optimiser_are_not_needed(tmp_path):
    params = small_state()
    state = upstream(params)
    n_optimiser = 2 * len(params)
    drop = tuple(f"data/{i}" for i in range(n_optimiser))
    assert_same(read(tmp_path, tf.zip_bytes(state, drop=drop)).tensors, params)


def test_names_of_files_do_not_matter(tmp_path):
    data = tf.zip_bytes({"x": tf.tensor(np.ones(2))}, folder="what ever")
    for name in ("a", "a.npz", "a.tar.gz", "ä ü.pth"):
        assert read(tmp_path, data, name).tensors["x"].size == 2


def test_reading_needs_no_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from npfsn.checkpoint import read_checkpoint;"
        "print(list(read_checkpoint(sys.argv[1]).tensors), sys.modules['torch'])"
    )
    path = tmp_path / "x.tar"
    path.write_bytes(tf.zip_bytes(upstream(small_state())))
    command = [sys.executable, "-c", code, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == f"{list(small_state())} None"


# What torch itself writes.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"_use_new_zipfile_serialization": False},
        {"pickle_protocol": 4},
        {"pickle_protocol": 5},
    ],
)
def test_files_that_torch_writes_are_read(tmp_path, options):
    torch = pytest.importorskip("torch")
    model = torch.nn.LSTM(3, 5, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 2, 3))[0].sum().backward()
    optimizer.step()
    state = {
        "epoch": 3,
        "best_score": np.float64(0.5),
        "history": [0.1] * 50,
        "when": "now",
        "scores": {-5.0: 1.2, 0.0: 2.5, float("nan"): 0.0, None: 0.1, True: 3, 7: "x"},
        "optimizer": optimizer.state_dict(),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "type": torch.float32,
        "random": torch.get_rng_state(),
        "bytes": [b"", b"x", bytes(range(256))],
        "array": np.arange(3),
        "milestones": collections.Counter([3, 5]),
        "losses": collections.defaultdict(list, train=[1.0]),
        "seen": {1, 2},
        "mixing": torch.eye(3).to_sparse(),
        "spectrum": torch.zeros(3, dtype=torch.complex64),
        "model": model.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "x.tar"
    torch.save(state, path, **options)
    found = read_checkpoint(path)
    expected = {name: value.numpy() for name, value in model.state_dict().items()}
    assert_same(found.tensors, expected)
    assert found.metadata == {"epoch": 3, "best_score": 0.5, "when": "now"}


def test_files_of_torch_without_checksums_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.arange(5.0)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    found = read_checkpoint(tmp_path / "x.pt").tensors["x"]
    np.testing.assert_array_equal(found, np.arange(5, dtype=np.float32))


# What nobody should have: every one is refused with one sentence, and nothing runs.


class Evil:
    """Pickles to a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def evil_pickles(canary: Path) -> dict[str, bytes]:
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    quoted = tf.text(command)

    def protocol(version: int, *call: object) -> bytes:
        return pickle.dumps({"model": Evil(*call)}, protocol=version)

    attacks = {}
    for version in range(6):
        attacks[f"os.system, protocol {version}"] = protocol(version, os.system, command)
        attacks[f"eval, protocol {version}"] = protocol(version, eval, code)
        attacks[f"exec, protocol {version}"] = protocol(version, exec, code)
        attacks[f"getattr, protocol {version}"] = protocol(version, getattr, str, "format")
        attacks[f"Popen, protocol {version}"] = protocol(version, subprocess.Popen, command)
    two = b"\x80\x02"
    attacks |= {
        "INST": two + b"(" + quoted + b"ios\nsystem\n.",
        "OBJ": two + b"(cos\nsystem\n" + quoted + b"o.",
        "NEWOBJ": two + b"cos\nsystem\n(" + quoted + b"t\x81.",
        "NEWOBJ_EX": two + b"cos\nsystem\n(" + quoted + b"t}\x92.",
        "stack global": two + tf.text("os") + tf.text("system") + b"\x93" + quoted + b"\x85R.",
        "dotted": b"\x80\x04"
        + tf.text("collections")
        + tf.text("OrderedDict.__class__.__base__")
        + b"\x93.",
        "extension": two + b"\x82\x01.",
        "import": two + b"cantigravity\nfly_off\n.",
        "numpy load": two + b"cnumpy\nload\n(" + quoted + b"tR.",
        "torch load": two + b"ctorch\nload\n(" + quoted + b"tR.",
        "torch.hub": two + b"ctorch.hub\nload\n(" + quoted + b"tR.",
        "build dict": two + b"ccollections\nOrderedDict\n)R}" + tf.text("__class__") + b"Nsb.",
        "build module": two + b"cos\n__dict__\n}b.",
        "build name": two + b"ctorch\nFloatStorage\n}" + tf.text("call") + b"Nsb.",
        "call storage": two + b"ctorch\nFloatStorage\n(K\x04tR.",
        "call dtype": two + b"ctorch\nfloat32\n(K\x04tR.",
        "call text": two + quoted + b")R.",
        "call with list": two + b"ccollections\nOrderedDict\n]R.",
        "OrderedDict of pairs": two + b"ccollections\nOrderedDict\n(](" + quoted + b"Ne tR.",
        "_codecs.lookup": two + b"c_codecs\nlookup\n(" + quoted + b"tR.",
        "many arguments": two + b"ctorch\ndevice\n(" + b"N" * 100 + b"tR.",
        "persistent text": two + quoted + b"Q.",
        "persistent line": two + b"P0\n.",
        "persistent module": two + b"(" + tf.text("module") + b"N" * 4 + b"tQ.",
        "reduce without arguments": two + b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        "empty": b"",
        "only stop": b".",
        "no protocol, no stop": b"}",
        "unknown protocol": b"\x80\x09}.",
        "mark left": two + b"(}.",
        "two values": two + b"}}.",
        "pop nothing": two + b"0.",
        "tuple of nothing": two + b"\x87.",
        "memo of nothing": two + b"q\x00.",
        "memo never written": two + b"h\x07.",
        "append to dict": two + b"}Na.",
        "set item of list": two + b"]NNs.",
        "odd items": two + b"}(Nu.",
        "key is a list": two + b"}]Ns.",
        "key is a dict": two + b"}}Ns.",
        "key is a huge number": two + b"}\x8a\x09" + b"\x7f" * 9 + b"Ns.",
        "text beyond the end": two + b"X\xff\xff\xff\xff.",
        "text no UTF-8": two + b"X\x02\x00\x00\x00\xff\xff.",
        "bytes beyond the end": two + b"B\xff\xff\xff\x7f.",
        "LONG4 bomb": two + b"\x8b\xff\xff\xff\x7f.",
        "BINUNICODE8 bomb": b"\x80\x04\x8d" + b"\xff" * 8 + b".",
        "BYTEARRAY8 bomb": b"\x80\x05\x96" + b"\xff" * 8 + b".",
        "frame bomb": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
        "name without end": two + b"c" + b"a" * 10_000 + b".",
        "decimal bomb": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
        "number at the top": two + b"K\x07.",
        "list at the top": two + b"].",
        "nothing inside": two + b"}.",
        "model is no dict": two + b"}" + tf.text("model") + b"K\x01s.",
        "itself": two + b"}q\x00" + tf.text("model") + b"h\x00s.",
        "bytes after": two + b"}.junk",
    }
    return attacks


ATTACKS = tuple(evil_pickles(Path("canary")))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("file_format", ["zip", "zip within state", "legacy"])
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path, attack, file_format):
    canary = tmp_path / "canary"
    code = evil_pickles(canary)[attack]
    if file_format == "zip":
        data = tf.pickle_file(code)
    elif file_format == "legacy":
        writer = tf.Writer(legacy=True)
        head = b"".join(writer.pickle(value) for value in (tf.MAGIC, 1001, {}))
        data = head + code + writer.pickle([])
    else:
        inner = code.removeprefix(b"\x80\x02").removesuffix(b".") or b"0"
        good = tf.Writer().code({"y": tf.tensor(np.zeros(4, np.float32))})
        items = tf.text("model") + good + tf.text("z") + inner
        data = tf.pickle_file(b"\x80\x02}(" + items + b"u.")
    before = set(sys.modules)
    try:
        found = read(tmp_path, data)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:  # harmless where it stands: ignored beside the model
        assert file_format == "zip within state"
        assert set(found.tensors) == {"y"}
    assert not canary.exists()
    assert {m for m in set(sys.modules) - before if not m.startswith("numpy")} == set()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"ctorch\ndevice\n(" + b"N" * 65 + b"tR", "wrong arguments"),
        (b"cargparse\nNamespace\nN\x81", "none of the kinds"),
        (b"ccollections\nOrderedDict\n)\x81", "none of the kinds"),
        (b"])\x81", "none of the kinds"),
        (b"}Na", "appends to what is no list"),
        (b"]NNs", "item of what is no dict"),
        (b"(}", "ends in the middle"),
        (b"}}", "ends in the middle"),
        (b"cos\n", "damaged near byte"),
        (b"}h\x01", "damaged near byte"),
        (b"}q\x01", "damaged near byte"),
        (b"ctorch\nfloat32\n)R", "calls what is no function"),
        (b"ctorch\nfloat32\n}b", "changes what cannot be changed"),
        (b"\x82\x01", "instruction 0x82 at byte 2"),
        (b"N" * 400_000, "more than 400,000 instructions"),
    ],
)
def test_each_broken_pickle_is_refused_with_its_reason(tmp_path, code, reason):
    assert reason in refusal(tmp_path, tf.pickle_file(b"\x80\x02" + code + b"."))


def test_the_refused_name_is_told(tmp_path):
    message = refusal(tmp_path, tf.pickle_file(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR."))
    assert "os.system" in message and "nothing was run" in message


def test_names_are_told_without_control_characters(tmp_path):
    message = refusal(tmp_path, tf.pickle_file(b"\x80\x02c\x1b[31mred\nbell\x07\n."))
    assert "\\x1b[31mred.bell\\x07" in message
    assert len(printable("x" * 10_000)) == 80


def limits(
    tmp_path: Path, data: bytes, *, seconds: float = 20.0, memory: float = PICKLE_MEMORY
) -> str:
    """Read a bomb: it must be refused (or read) fast, within the memory that is promised."""
    path = tmp_path / "bomb.tar"
    path.write_bytes(data)
    size = len(data)
    del data
    outcome = "read"
    tracemalloc.start()
    start = time.process_time()  # whatever else the machine does
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        outcome = str(error)
    elapsed = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert elapsed < seconds
    assert peak < memory + FILE_MULTIPLE * size, f"{peak / 1e6:.0f} MB"
    return outcome


def bombs() -> dict[str, bytes]:
    n = 500_000  # more than are read
    ordered = b"ccollections\nOrderedDict\nq\x00"
    long_number = b"\x8a\xff" + b"\x7f" * 255
    equal_hashes = (i * ((1 << 61) - 1) for i in range(1, 100_000))

    def listed(head: bytes, items: bytes) -> bytes:
        return head + b"](" + items + b"e"

    bodies = {
        "dicts": b"}" * n,
        "lists nested": b"]" * n + b"a" * (n - 1),
        "tuples nested": b")" + b"\x85" * n,
        "marks": b"(" * n,
        "memo": b"N" + b"\x94" * n,
        "memo, long": b"N" + b"".join(b"r" + struct.pack("<L", i) for i in range(n)),
        "memo index": b"Nr\xff\xff\xff\xff",
        "numbers": listed(b"", long_number * 20_000),
        "floats": listed(b"", (b"G" + b"\1" * 8) * n),
        "one text many times": listed(tf.text("x" * 1_000_000) + b"q\x000", b"h\x00" * n),
        "bytes many times": listed(
            b"c_codecs\nencode\nq\x00(" + tf.text("x" * 1_000_000) + tf.text("latin1") + b"tq\x01",
            b"h\x00h\x01R" * (n // 3),
        ),
        "dicts many times": listed(ordered, b"h\x00)R" * (n // 2)),
        "copies of a list": listed(
            ordered + listed(b"", b"](NNe" * 1000) + b"\x85q\x01", b"h\x00h\x01R" * 100_000
        ),
        "arguments": b"ctorch\ndevice\nq\x00("
        + b"N" * 100_000
        + b"tq\x01"
        + b"h\x00h\x01R0" * 100_000,
        "same hash": b"}("
        + b"".join(b"\x8a\x0b" + key.to_bytes(11, "little") + b"N" for key in equal_hashes)
        + b"u",
        "wide text": listed(b"", tf.text("x" * 50_000 + "\N{GRINNING FACE}") * 100),
        "long keys": b"}("
        + (tf.text("k" * (4 << 20)) + b"q\x00N")
        + b"".join(tf.text(str(i)) + b"}h\x00}s" for i in range(300))
        + b"u",
        "long names": b"}("
        + (tf.text("t") + tf.Writer().code(ONE) + b"q\x00")
        + (tf.text("encoder." * (1 << 19)) + b"q\x01N")
        + b"".join(tf.text(str(i)) + b"}h\x01h\x00s" for i in range(100))
        + b"u",
        "numpy types": listed(
            b"cnumpy\ndtype\nq\x00X\x02\x00\x00\x00f8\x85q\x01", b"h\x00h\x01R" * (n // 3)
        ),
    }
    return {name: b"\x80\x04" + body + b"." for name, body in bodies.items()}


@pytest.mark.parametrize("bomb", tuple(bombs()))
def test_small_files_that_claim_much_memory_are_refused(tmp_path, monkeypatch, bomb):
    # Measuring memory takes time, and memory is proportional to the instructions: take a tenth.
    monkeypatch.setattr(pickles, "MAX_STEPS", pickles.MAX_STEPS // 10)
    outcome = limits(tmp_path, tf.pickle_file(bombs()[bomb]), seconds=5, memory=PICKLE_MEMORY / 10)
    assert outcome != "read"


@pytest.mark.parametrize("bomb", ["memo", "dicts"])
def test_bombs_of_full_size_are_refused(tmp_path, bomb):
    assert "instructions" in limits(tmp_path, tf.pickle_file(bombs()[bomb]))


def endless(kind: str) -> bytes:
    """Instructions for a tuple that has no end when spelt: of itself twice and twice, or deep."""
    if kind == "deep":
        return b"K\x01" + b"\x85" * 100_000
    code = b"K\x01\x85q\x00"
    for i in range(60):
        code += b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])
    return code


@pytest.mark.parametrize("kind", ["twice", "deep"])
@pytest.mark.parametrize("place", ["numel", "offset", "shape", "strides", "protocol"])
def test_values_without_end_are_not_spelt(tmp_path, place, kind):
    values = {"numel": b"K\x04", "offset": b"K\x00", "shape": b"K\x01", "strides": b"K\x01"}
    values[place] = endless(kind)
    storage = b"(" + tf.text("storage") + b"ctorch\nFloatStorage\n" + tf.text("0") + tf.text("cpu")
    code = b"\x80\x02}" + tf.text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n("
    code += storage + values["numel"] + b"tQ" + values["offset"]
    code += values["shape"] + b"\x85" + values["strides"] + b"\x85\x89NtRs."
    data = tf.pickle_file(code)
    if place == "protocol":
        magic = b"\x8a\x0a" + tf.MAGIC.to_bytes(10, "little")
        data = b"\x80\x02" + magic + b".\x80\x02" + endless(kind) + b"."
    assert "tuple" in limits(tmp_path, data, seconds=5)


def test_a_name_of_prefixes_alone_is_one_unless_it_is_too_long(tmp_path):
    """One that no tensor of a network has is none, if it is too long."""
    for n, outcome in ((80, "read"), (200_000, "no state dict")):
        state = {"model." * n + "w": tf.tensor(np.ones(4, np.float32))}
        assert outcome in limits(tmp_path, tf.zip_bytes(state), seconds=5)
    found = read(tmp_path, tf.zip_bytes({"model." * 80 + "w": ONE}))
    assert list(found.tensors) == ["w"]


def test_numbers_are_no_keys():
    """They can be chosen so that each takes all the places of those before it."""
    value = {1: 2, "a": {7: 8, "b": 9}, 2.5: 4, None: 5, False: 6, b"x": 1, (1, 2): 3}
    for protocol in (2, 3, 4, 5):
        data = pickle.dumps(value, protocol)
        names = {"_codecs.encode": pickles.Name(lambda *_: pickles.Opaque())}
        assert pickles.load(data, 0, names, lambda _: None) == ({"a": {"b": 9}}, len(data))


@pytest.mark.parametrize(
    ("layer", "value"), [("activate_function", [0.25]), ("fc_output_layer", None)]
)
def test_a_weight_that_is_no_tensor_is_not_passed_over(tmp_path, layer, value):
    state = {name: tf.tensor(array) for name, array in CASE.params.items()}
    state[f"fb_model.{layer}.weight"] = value
    for outer in (state, {"model": state}, {"x": {f"net.{k}": v for k, v in state.items()}}):
        message = refusal(tmp_path, tf.zip_bytes(outer))
        assert f"fb_model.{layer}.weight of its state dict is no tensor" in message


def test_nothing_in_more_dimensions_than_there_is_room_for_is_refused(tmp_path):
    for shape in ((0, 1 << 39, 1 << 39), (1 << 39, 0, 1 << 39)):
        tensor = tf.Tensor(FOUR, shape, strides=(1, 1, 1))
        assert "more elements than" in refusal(tmp_path, tf.zip_bytes({"w": tensor}))


def test_negated_tensors_are_refused(tmp_path):
    """Torch negates them when it reads them: read as they are, they have the wrong sign."""
    code = b"\x80\x02}" + tf.text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(("
    code += tf.text("storage") + b"ctorch\nFloatStorage\n" + tf.text("0") + tf.text("cpu")
    code += b"K\x04tQK\x00K\x04\x85K\x01\x85\x89N"
    data = tf.pickle_file(code + b"}" + b"tRs.")
    assert list(read(tmp_path, data).tensors) == ["w"]
    assert "negated" in refusal(
        tmp_path, tf.pickle_file(code + b"}" + tf.text("neg") + b"\x88stRs.")
    )


def test_a_function_with_an_endless_name_is_refused(tmp_path):
    """Its name is not put together: every letter of it takes four bytes."""
    long = tf.text("a" * 8_300_000 + "\N{GRINNING FACE}")
    data = tf.pickle_file(b"\x80\x04" + long + tf.text("b") + b"\x93.")
    assert "nothing was run" in limits(
        tmp_path, data, memory=PICKLE_MEMORY - FILE_MULTIPLE * len(data)
    )


def test_texts_together_are_limited(tmp_path):
    """Every letter of these takes four bytes."""
    some = tf.text("a" * 500 + "\N{GRINNING FACE}") + b"0"
    assert "too much text" in limits(tmp_path, tf.pickle_file(b"\x80\x02" + some * 9_000 + b"N."))


def test_text_that_stands_for_no_bytes(tmp_path):
    data = b"\x80\x02c_codecs\nencode\n" + tf.text("\u20ac") + tf.text("latin1") + b"\x86R."
    assert "holds no dict" in limits(tmp_path, tf.pickle_file(data))


def test_a_pickle_too_large_is_not_read(tmp_path):
    outcome = limits(tmp_path, tf.pickle_file(b"\x80\x02" + tf.text("x" * (9 << 20)) + b"."))
    assert "at most" in outcome


def test_compressed_members_that_grow_too_large_are_refused(tmp_path):
    value = np.zeros(4 << 20, np.float32)
    outcome = limits(tmp_path, tf.zip_bytes({"x": tf.tensor(value)}, compress=True))
    assert "times the file's" in outcome
    small = tf.zip_bytes({"x": tf.tensor(np.zeros(400, np.float32))}, compress=True)
    assert "torch.save never does" in refusal(tmp_path, small)


FOUR = tf.Storage.of(np.ones(4, np.float32))
BYTES = tf.Storage(bytes(16), "UntypedStorage", 1)


def claimed(size: int, numel: int) -> tf.Storage:
    """Return a storage that has `size` bytes and claims `numel` floats."""
    return tf.Storage(bytes(size), "FloatStorage", 4, numel=numel)


def test_compressed_pickles_of_another_size_are_refused(tmp_path):
    state = {"x": tf.Tensor(tf.Storage(b"", "FloatStorage", 4), (0,))}
    data = tf.zip_bytes(state, compress=True, drop=("data/0", "byteorder"))
    position = data.find(b"PK\1\2") + 24
    true = int.from_bytes(data[position : position + 4], "little")
    for claimed in (true - 1, true + 1, 0, 3 * true):
        damaged = data[:position] + claimed.to_bytes(4, "little") + data[position + 4 :]
        assert "damaged (compression)" in refusal(tmp_path, damaged)


TENSORS = {
    "beyond the storage": tf.Tensor(FOUR, (5,)),
    "offset beyond": tf.Tensor(FOUR, (4,), offset=1),
    "stride beyond": tf.Tensor(FOUR, (3,), (2,)),
    "negative stride": tf.Tensor(FOUR, (3,), (-1,), offset=3),
    "negative offset": tf.Tensor(FOUR, (3,), offset=-1),
    "negative size": tf.Tensor(FOUR, (-3,)),
    "huge size": tf.Tensor(FOUR, (1 << 62,), (0,)),
    "huge by stride 0": tf.Tensor(FOUR, (1 << 20, 1 << 20), (0, 0)),
    "size a text": tf.Tensor(FOUR, ("x",), (1,)),
    "size a switch": tf.Tensor(FOUR, (True,), (1,)),
    "offset a float": tf.Tensor(FOUR, (4,), offset=0.0),
    "too many strides": tf.Tensor(FOUR, (4,), (1, 1)),
    "nine dimensions": tf.Tensor(FOUR, (1,) * 9),
    "storage too short": tf.Tensor(claimed(12, 4), (4,)),
    "storage too long": tf.Tensor(claimed(20, 4), (4,)),
    "huge storage": tf.Tensor(claimed(16, 1 << 61), (4,)),
    "negative storage": tf.Tensor(claimed(16, -1), (4,)),
    "quantised": tf.Tensor(tf.Storage(bytes(16), "QUInt8Storage", 1), (16,)),
    "untyped without type": tf.Tensor(BYTES, (16,)),
    "unknown type": tf.Tensor(BYTES, (16,), dtype="float8_e4m3fn"),
}


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("file_format", FORMATS)
def test_tensors_that_reach_beyond_their_storage_are_refused(tmp_path, tensor, file_format):
    outcome = limits(tmp_path, FORMATS[file_format]({"model": {"x": TENSORS[tensor]}}), seconds=2)
    assert outcome != "read"


def test_many_names_for_one_storage_are_refused(tmp_path):
    storage = tf.Storage.of(np.ones(100_000, np.float32))
    state = {f"x{i}": tf.Tensor(storage, (100_000,)) for i in range(50)}
    assert "times the file's" in limits(tmp_path, tf.zip_bytes(state))


def test_one_storage_described_in_two_ways_is_refused(tmp_path):
    storage = tf.Storage.of(np.ones(4, np.float32))
    for numel, kind in ((2, "FloatStorage"), (4, "IntStorage")):
        other = tf.Storage(storage.data, kind, 4, numel=numel)
        data = tf.zip_bytes({"x": tf.Tensor(storage, (2,)), "y": tf.Tensor(other, (2,))})
        data = data.replace(tf.text("1") + tf.text("cpu"), tf.text("0") + tf.text("cpu"))
        assert "two ways" in refusal(tmp_path, tf.fix_crcs(data))


@pytest.mark.parametrize(
    ("written", "instead", "reason"),
    [
        (tf.text("0") + tf.text("cpu"), b"]" + tf.text("cpu"), "without a proper name"),
        (tf.text("0") + tf.text("cpu"), tf.text("") + tf.text("cpu"), "without a proper name"),
        (b"tQ", b"(" + tf.text("part") + b"K\x01K\x02ttQ", "a storage within a storage"),
        (tf.name("torch.storage", "UntypedStorage"), tf.text("x"), "a storage of unknown type"),
        (tf.name("torch", "float32"), tf.text("float32"), "a tensor of unknown type"),
        (b"tR\x88", b"tR0K\x01\x88", "a parameter that is no tensor"),
    ],
)
def test_tensors_that_torch_writes_otherwise_are_refused(tmp_path, written, instead, reason):
    storage = tf.Storage(bytes(16), "UntypedStorage", 1)
    state = {"x": tf.Tensor(storage, (4,), dtype="float32", parameter=True)}
    code = tf.Writer().pickle(state)
    assert code.count(written) == 1
    assert reason in refusal(tmp_path, tf.pickle_file(code.replace(written, instead)))


def test_a_list_of_storages_that_is_none_is_refused(tmp_path):
    data = tf.legacy_bytes({"x": tf.Tensor(FOUR, (4,))})
    keys = tf.Writer().pickle(["94000000000000"])
    assert data.count(keys) == 1
    for other in (b"\x80\x02N.", b"\x80\x02}."):
        assert "list of storages is damaged" in refusal(tmp_path, data.replace(keys, other))


# Archives.


def test_a_long_log_is_no_damage(tmp_path):
    """In neither format; a file that is cut off is told as one."""
    state = {"model": tf.tensors(small_state()), "log": "x" * (9 << 20)}
    for write in FORMATS.values():
        assert "beside the network, such as a log, is too large" in refusal(tmp_path, write(state))
    short = tf.legacy_bytes({"model": tf.tensors(small_state()), "log": "x" * 1000})
    assert "its pickle is cut off near byte" in refusal(tmp_path, short[:700])


def test_files_of_other_kinds_are_named(tmp_path):
    assert "is empty" in refusal(tmp_path, b"")
    assert "neither" in refusal(tmp_path, b"hello")
    assert "neither" in refusal(tmp_path, b"\x89HDF\r\n\x1a\n" + bytes(100))
    for begin, what in {
        b"\x1f\x8b": "gzip: unpack it first",
        b"BZh9": "bzip2: unpack it first",
        b"\xfd7zXZ\0": "xz: unpack it first",
        b"(\xb5/\xfd": "zstd: unpack it first",
        b"7z\xbc\xaf'\x1c": "7z archive: unpack it first",
        b"version https://git-lfs.github.com/spec/v1\noid": "Git LFS pointer",
        b"\n<!DOCTYPE html>": "web page",
        struct.pack("<Q", 60) + b'{"x": {"dtype": "F32"': "safetensors",
        b"\x08\x08\x12\x07pytorch\x1a\x052.3.0": "ONNX file",
    }.items():
        assert what in refusal(tmp_path, begin + bytes(100))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("folder/best_model.tar", b"x")
    assert "zip archive of other files: unpack it" in refusal(tmp_path, packed.getvalue())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"))
    assert "unpack it first" in refusal(tmp_path, buffer.getvalue())
    for other in ([1, 2], collections.OrderedDict(a=1), {"a": np.ones(3)}):
        assert "none of torch's" in refusal(tmp_path, pickle.dumps(other, protocol=2))
    assert "TorchScript" in refusal(
        tmp_path, tf.zip_bytes({}, extra={"constants.pkl": b"\x80\x02)."})
    )
    with zipfile.ZipFile(tmp_path / "x.tar", "w") as archive:
        archive.writestr("a.npy", b"")
    with pytest.raises(CheckpointError, match="NumPy archive"):
        read_checkpoint(tmp_path / "x.tar")
    with zipfile.ZipFile(tmp_path / "x.tar", "w") as archive:
        archive.writestr("a.txt", b"")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        read_checkpoint(tmp_path / "x.tar")


def test_missing_files_and_folders_are_refused(tmp_path):
    """No advice on what to write into a file that is not there."""
    with pytest.raises(
        CheckpointError, match=r"^cannot open .*missing\.tar: there is no such file$"
    ):
        read_checkpoint(tmp_path / "missing.tar")
    with pytest.raises(CheckpointError, match="folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read_checkpoint("nul\0.tar")


@posix
def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(CheckpointError, match="no regular file"):
            read_checkpoint(path)


@posix
def test_what_is_no_file_is_closed_again(tmp_path):
    """A program that tries a thousand folders would run out of descriptors."""
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(CheckpointError, match="expected a file"):
            read_checkpoint(path)
    following = os.open(os.devnull, os.O_RDONLY)
    os.close(following)
    assert following == lowest


def test_members_must_be_unique_and_apart(tmp_path):
    good = tf.zip_bytes({"x": tf.tensor(np.ones(4, np.float32))})
    assert "x" in read(tmp_path, good).tensors
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(tmp_path / "d.tar", "w") as archive,
    ):
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="occurs twice"):
        read_checkpoint(tmp_path / "d.tar")
    # All directory entries point at the same data: a small file that stands for a large one.
    data = bytearray(good)
    position = struct.unpack_from("<L", data, data.rfind(b"PK\5\6") + 16)[0]
    offsets = []
    while data[position : position + 4] == b"PK\1\2":
        offsets.append(position + 42)
        position += 46 + sum(struct.unpack_from("<3H", data, position + 28))
    for offset in offsets[1:]:
        struct.pack_into("<L", data, offset, 0)
    assert "overlap" in refusal(tmp_path, bytes(data))


def test_records_with_64_bit_sizes_are_read(tmp_path, monkeypatch):
    value = np.arange(100, dtype=np.float32)
    plain = tf.zip_bytes({"x": tf.tensor(value)})
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 50)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    wide = tf.zip_bytes({"x": tf.tensor(value)})
    assert b"PK\6\6" in wide and len(wide) > len(plain) + 76
    assert_same(read(tmp_path, wide).tensors, {"x": value})
    position = wide.rfind(b"PK\6\6")
    for offset in (0, 40, 48, 56, 64):  # signature, size, offset; then of the locator
        damaged = bytearray(wide)
        damaged[position + offset] ^= 0x40
        refusal(tmp_path, bytes(damaged))


def test_folders_of_an_archive_may_have_letters_of_their_own(tmp_path):
    """Torch calls the folder like the file."""
    value = np.ones(4, np.float32)
    with (
        zipfile.ZipFile(io.BytesIO(tf.zip_bytes({"x": tf.tensor(value)}))) as plain,
        zipfile.ZipFile(tmp_path / "a.tar", "w") as archive,
    ):
        for name in plain.namelist():
            archive.writestr(name.replace("archive/", "modèle/"), plain.read(name))
    assert_same(read_checkpoint(tmp_path / "a.tar").tensors, {"x": value})


def test_names_of_members_are_of_the_old_code_page_unless_they_say_so(tmp_path):
    value = np.ones(4, np.float32)
    plain = tf.zip_bytes({"x": tf.tensor(value)})
    data = bytearray(plain.replace(b"archive/", b"mod\x8alex/"))
    assert len(data) == len(plain) and data != plain
    assert_same(read(tmp_path, bytes(data)).tensors, {"x": value})
    data[data.find(b"PK\1\2") + 9] |= 8
    assert "the name of one of its members is damaged" in refusal(tmp_path, bytes(data))


def test_nothing_may_lie_before_or_behind_an_archive(tmp_path):
    good = tf.zip_bytes({"x": tf.tensor(np.ones(4, np.float32))})
    refusal(tmp_path, b"PK" + good)
    refusal(tmp_path, good + b"\0")
    position = good.rfind(b"PK\5\6")
    gap = good[:position] + b"between" + good[position:]
    assert "not where it should be" in refusal(tmp_path, gap)
    legacy = tf.legacy_bytes({"x": tf.tensor(np.ones(4, np.float32))})
    assert "follow its last" in refusal(tmp_path, legacy + b"\0")
    assert "cut off within its storage" in refusal(tmp_path, legacy[:-1])
    pickle_alone = tf.Writer().pickle({"x": tf.tensor(np.ones(4, np.float32))})
    assert "4 bytes follow its pickle" in refusal(tmp_path, tf.pickle_file(pickle_alone + b"junk"))


def test_encrypted_members_are_called_so(tmp_path):
    data = bytearray(tf.zip_bytes({"x": tf.tensor(np.ones(4, np.float32))}))
    data[data.find(b"PK\1\2") + 8] |= 1
    assert "is encrypted" in refusal(tmp_path, bytes(data))


def test_stored_members_have_one_size(tmp_path):
    """A larger one would have the bytes of the next member."""
    data = bytearray(tf.zip_bytes({"x": tf.tensor(np.ones(4, np.float32))}))
    data[data.find(b"PK\1\2") + 24] += 4
    assert "contradicts itself about its size" in refusal(tmp_path, bytes(data))


def test_a_file_that_shrinks_while_it_is_read_is_refused():
    """What is missing must not be whatever was in memory."""
    with pytest.raises(ReadError, match="became shorter"):
        read_into(io.BytesIO(bytes(10)), 0, np.zeros(11, np.uint8))


def test_a_disk_that_fails_is_told():
    class Disk(io.BytesIO):
        def read(self, size=-1):
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(ReadError, match=r"^it cannot be read \(Input/output error\)$"):
        read_at(Disk(bytes(10)), 0, 4)


def test_legacy_lists_of_storages_must_match(tmp_path):
    state = {"x": tf.tensor(np.ones(4, np.float32)), "y": tf.tensor(np.ones(3, np.float32))}
    assert "is missing" in refusal(tmp_path, tf.legacy_bytes(state, cut_keys=1))
    good = tf.legacy_bytes(state)
    keys = [b"94000000000000", b"94000000000064"]
    twice = good[::-1].replace(keys[1][::-1], keys[0][::-1], 1)[::-1]
    assert "does not match" in refusal(tmp_path, twice)
    count = struct.pack("<q", 3) + np.ones(3, np.float32).tobytes()
    other = good.replace(count, struct.pack("<q", 2) + count[8:])
    assert "has 2 elements, expected 3" in refusal(tmp_path, other)


# Damage: every outcome is an error of ours, or the right tensors.


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_checkpoint_cut_anywhere_is_refused(tmp_path, file_format):
    data = FORMATS[file_format](upstream(small_state()))
    for size in range(0, len(data), max(1, 7 // FUZZ)):
        refusal(tmp_path, data[:size])


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_checkpoint_of_a_real_size_cut_anywhere_is_refused(tmp_path, file_format):
    data = FORMATS[file_format](upstream(CASE.params))
    rng = random.Random(SEED)
    for size in [rng.randrange(len(data)) for _ in range(40 * FUZZ)]:
        refusal(tmp_path, data[:size])


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Damage a file in one to four places."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(out))
        kind = rng.randrange(6)
        if kind == 0:
            out[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[position] = rng.randrange(256)
        elif kind == 2:
            out[position : position + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\x01\0\0\0")
            )[: len(out) - position]
        elif kind == 3:
            del out[position : position + rng.randint(1, 16)]
        elif kind == 4:
            start = rng.randrange(len(out))
            out[position:position] = out[start : start + rng.randint(1, 32)]
        else:
            out[position : position + 1] = bytes([rng.choice(tuple(pickles._INSTRUCTIONS))])
        if not out:
            return b"\x80"
    return bytes(out)


@pytest.mark.parametrize("file_format", ["zip", "zip with checksums made good", "legacy"])
def test_a_checkpoint_damaged_anywhere_is_refused_or_right(tmp_path, file_format):
    params = small_state()
    data = FORMATS[file_format.split()[0]](upstream(params))
    path = tmp_path / "x.tar"
    n_read = 0
    for case in range(700 * FUZZ):
        rng = random.Random(f"{SEED} {file_format} {case}")
        damaged = mutate(rng, data)
        if "good" in file_format:
            damaged = tf.fix_crcs(damaged)
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error), f"seed {SEED}, case {case}"
            continue
        except BaseException:
            print(f"seed {SEED}, {file_format}, case {case}")
            raise
        n_read += 1
        assert all(isinstance(value, np.ndarray) for value in found.tensors.values())
        if file_format == "zip":  # checksums leave no room for another result
            assert set(found.tensors) <= set(params), f"seed {SEED}, case {case}"
            for name, value in found.tensors.items():
                np.testing.assert_array_equal(value, params[name])
    print(f"seed {SEED}: {n_read} of {700 * FUZZ} damaged files were still read")


INSTRUCTIONS = st.sampled_from(
    [bytes([code]) for code in sorted(pickles._INSTRUCTIONS)]
    + [tf.text(word) for word in ("model", "x", "storage", "0", "cpu", "latin1", "f8")]
    + [
        tf.name(*full.rsplit(".", 1))
        for full in (
            "collections.OrderedDict",
            "torch._utils._rebuild_tensor_v2",
            "torch._utils._rebuild_parameter",
            "torch.FloatStorage",
            "torch.Size",
            "numpy.dtype",
            "numpy.core.multiarray.scalar",
            "_codecs.encode",
        )
    ]
    + [b"K\x04", b"K\x00", b")", b"(", b"t", b"R", b"Q", b"}", b"]", b"q\x00", b"h\x00"]
    + [tf.Writer().code({"x": tf.tensor(np.zeros(4, np.float32))})]
)


@settings(
    max_examples=300 * FUZZ,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(code=st.lists(INSTRUCTIONS, max_size=40).map(b"".join))
def test_random_pickle_instructions_are_refused_or_read(tmp_path, code):
    try:
        read(tmp_path, tf.pickle_file(b"\x80\x02" + code + b"."))
    except CheckpointError:
        pass


@settings(
    max_examples=150 * FUZZ,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(code=st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(tmp_path, code):
    for data in (code, b"\x80\x02" + code, b"PK\3\4" + code, tf.pickle_file(b"\x80\x02" + code)):
        try:
            read(tmp_path, data)
        except CheckpointError:
            pass


def test_reading_takes_no_more_memory_than_promised(tmp_path):
    rng = np.random.default_rng(2)
    params = {f"x{i}": rng.standard_normal((500, 500)).astype(np.float32) for i in range(6)}
    for state in (
        upstream(params),
        {name: tf.bfloat16(value) for name, value in params.items()},
        {name: tf.strided(value) for name, value in params.items()},
    ):
        for write in FORMATS.values():
            assert limits(tmp_path, write(state)) == "read"


def test_members_end_before_the_directory(tmp_path):
    data = bytearray(tf.zip_bytes({"x": tf.tensor(np.ones(4, np.float32))}))
    last = data.rfind(b"PK\1\2")
    for at in (last + 20, last + 24):
        struct.pack_into("<L", data, at, struct.unpack_from("<L", data, at)[0] + 100)
    assert "reaches beyond the archive" in refusal(tmp_path, bytes(data))
