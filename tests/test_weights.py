"""Model files: what is saved comes back, and whatever else a file holds is refused."""

from __future__ import annotations

import copy
import dataclasses
import errno
import io
import json
import math
import os
import pickle
import random
import re
import shutil
import stat
import struct
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import drawn_models
import numpy as np
import pytest
import torch_files as tf
from needs import posix

from npfsn import Enhancer, weights
from npfsn.archive import Archive, _widen
from npfsn.config import Sequence
from npfsn.errors import ModelError
from npfsn.fullband import Config
from npfsn.models import ARCHITECTURES
from npfsn.reading import ReadError
from npfsn.weights import MAX_RATIO, Model, load_model, save_model

FUZZ = int(os.environ.get("NPFSN_FUZZ", "1"))
SEED = int(os.environ.get("NPFSN_FUZZ_SEED", "20260102"))


def small_model(dtype: str = "float32") -> Model:
    """Make the smallest full-band baseline there is: three bins, one layer of two units."""
    rng = np.random.default_rng(3)
    shapes = {
        "fullband_model.sequence_model.weight_ih_l0": (8, 3),
        "fullband_model.sequence_model.weight_hh_l0": (8, 2),
        "fullband_model.sequence_model.bias_ih_l0": (8,),
        "fullband_model.sequence_model.bias_hh_l0": (8,),
        "fullband_model.fc_output_layer.weight": (6, 2),
        "fullband_model.fc_output_layer.bias": (6,),
    }
    tensors = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    args = {"norm_type": "cumulative_laplace_norm", "hop_length": 2}
    config = Config.from_tensors(shapes, args)
    source = {"name": "best.tar", "sha256": "0" * 64}
    return Model("fullband", config, tensors, {"source": source, "precision": dtype})


def members(model: Model) -> dict[str, np.ndarray]:
    """Return what the file of a model holds."""
    header = {
        "format": 1,
        "architecture": model.architecture,
        "config": dataclasses.asdict(model.config),
        "precision": model.info["precision"],
        "converter": "npfsn 0",
        "source": {"name": "best.tar", "sha256": "0" * 64},
    }
    return {"npfsn_header": np.array(json.dumps(header)), **model.tensors}


def with_header(path: Path, **changes: object) -> Path:
    """Write a small model whose header differs; None takes a key away."""
    parts = members(small_model())
    header = json.loads(str(parts["npfsn_header"]))
    for key, value in changes.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    parts["npfsn_header"] = np.array(json.dumps(header))
    np.savez(path, **parts)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as info:
        load_model(path)
    message = str(info.value)
    assert message.isprintable() and len(message) < 2000 and str(path) in message
    return message


def assert_same(found: Model, expected: Model) -> None:
    assert found.architecture == expected.architecture
    assert found.config == expected.config
    assert list(found.tensors) == list(expected.tensors)
    for name, value in expected.tensors.items():
        assert found.tensors[name].dtype == value.dtype
        np.testing.assert_array_equal(found.tensors[name], value, strict=True)


# What is saved comes back.


@pytest.mark.parametrize(
    "name", ["full_prelu_tanh", "fast_neighbors", "base_gru_offline", "improved_48k"]
)
def test_a_saved_model_is_loaded_as_it_was(tmp_path, name):
    model = drawn_models.golden_model(name)
    path = tmp_path / "m.npz"
    save_model(model, path)
    found = load_model(path)
    assert_same(found, model)
    assert found.norm == model.config.norm_type
    counted = [value.size for key, value in model.tensors.items() if key != "mel_scale.fb"]
    assert found.n_parameters == sum(counted)
    for value in found.tensors.values():
        assert not value.flags.writeable and value.flags.c_contiguous and value.flags.aligned
    assert load_model(str(path)).config == model.config
    assert load_model(found) is found


@pytest.mark.parametrize("said", ["float16", "bogus", None])
def test_a_file_says_what_its_tensors_are(tmp_path, said):
    model = small_model("float32")
    model = Model(model.architecture, model.config, model.tensors, {"precision": said})
    save_model(model, tmp_path / "m.npz")
    assert load_model(tmp_path / "m.npz").info["precision"] == "float32"
    name = next(iter(model.tensors))
    mixed = {**model.tensors, name: model.tensors[name].astype(np.float16)}
    save_model(Model(model.architecture, model.config, mixed), tmp_path / "m.npz")
    assert load_model(tmp_path / "m.npz").info["precision"] == "float32"


def test_a_saved_model_keeps_its_precision_and_source(tmp_path):
    model = small_model("float16")
    save_model(model, tmp_path / "m.npz")
    found = load_model(tmp_path / "m.npz")
    assert_same(found, model)
    assert found.info["precision"] == "float16"
    assert dict(found.info["source"]) == {"name": "best.tar", "sha256": "0" * 64}
    assert found.info["converter"].startswith("npfsn ")


def test_numpy_reads_it_without_pickles(tmp_path):
    model = small_model()
    save_model(model, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        header = json.loads(str(archive["npfsn_header"]))
        for name, value in model.tensors.items():
            np.testing.assert_array_equal(archive[name], value)
    assert header["format"] == 1 and header["architecture"] == "fullband"


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_model(small_model(), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:  # the clock has no part in it
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert all(entry.compress_size == entry.file_size for entry in entries)
    save_model(load_model(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_that_numpy_writes_are_read(tmp_path, save, order):
    parts = {name: np.asarray(value, order=order) for name, value in members(small_model()).items()}
    save(tmp_path / "m.npz", **parts)
    assert_same(load_model(tmp_path / "m.npz"), small_model())


def test_files_in_another_byte_order_are_read(tmp_path):
    model = small_model()
    parts = members(model)
    np.savez(
        tmp_path / "m.npz",
        **{name: value.astype(value.dtype.newbyteorder(">")) for name, value in parts.items()},
    )
    assert_same(load_model(tmp_path / "m.npz"), model)


def test_a_model_cannot_be_changed():
    model = small_model()
    name = next(iter(model.tensors))
    with pytest.raises(ValueError, match="read-only"):
        model.tensors[name][...] = 0
    with pytest.raises(TypeError):
        model.tensors[name] = np.zeros(3)
    with pytest.raises(TypeError):
        model.info["source"] = {}
    with pytest.raises(AttributeError):
        model.architecture = "other"


class OwnModel(Model):
    """As a program may have one."""


def test_a_model_travels():
    small = small_model()
    model = OwnModel(small.architecture, small.config, small.tensors, small.info)
    other = pickle.loads(pickle.dumps(model))
    assert type(other) is OwnModel
    assert_same(other, model)
    assert other.info == small.info != {}
    assert not any(value.flags.writeable for value in other.tensors.values())


def test_a_copy_of_a_model_is_the_model():
    """Whose packed weights it shares: also within a program's own objects."""
    model = small_model()
    app = {"model": model, "enhancer": Enhancer(model)}
    copied = copy.deepcopy(app)
    assert copy.copy(model) is model is copied["model"] is copied["enhancer"].model


def test_the_default_weights_are_found_and_read_once(tmp_path, monkeypatch):
    package = tmp_path / "npfsn"
    package.mkdir()
    monkeypatch.setattr(weights, "__file__", str(package / "weights.py"))
    weights._default_model.cache_clear()
    try:
        with pytest.raises(ModelError, match=r"fast_fullsubnet\.npz.*reinstall"):
            load_model()
        for folder in (tmp_path / "weights", package / "weights"):  # checkout, then wheel
            folder.mkdir()
            save_model(small_model(), folder / "fast_fullsubnet.npz")
            weights._default_model.cache_clear()
            assert load_model() is load_model()
            shutil.rmtree(folder)  # each is enough
    finally:
        weights._default_model.cache_clear()


def test_threads_read_the_default_weights_once(monkeypatch):
    read = []

    def slowly(file, size):
        read.append(size)
        time.sleep(0.05)
        return small_model()

    monkeypatch.setattr(weights, "_read", slowly)
    weights._default_model.cache_clear()
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: load_model(), range(8)))
    finally:
        weights._default_model.cache_clear()
    assert len(read) == 1
    assert all(model is found[0] for model in found)


# Whole or not at all.


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    save_model(small_model(), tmp_path / "m.npz")
    before = (tmp_path / "m.npz").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_model(small_model("float16"), tmp_path / "m.npz")
    assert (tmp_path / "m.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["m.npz"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(small_model(), tmp_path / "m.npz")
    assert os.listdir(tmp_path) == []


def test_an_interrupt_of_the_cleaning_up_leaves_nothing(tmp_path, monkeypatch):
    unlink, calls = os.unlink, []

    def interrupt_once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        unlink(*args)

    monkeypatch.setattr(os, "unlink", interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        save_model(small_model(), tmp_path / "m.npz", overwrite=False)
    assert os.listdir(tmp_path) == ["m.npz"]


def test_a_file_that_is_there_is_kept_and_a_new_one_is_as_open_as_others(tmp_path):
    path = tmp_path / "m.npz"
    save_model(small_model(), path, overwrite=False)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        save_model(small_model("float16"), path, overwrite=False)
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        save_model(small_model(), tmp_path / "missing" / "m.npz")
    assert os.listdir(tmp_path) == ["m.npz"]
    if os.name == "posix":  # as any other new file, not private as temporary files are
        (tmp_path / "plain").touch()
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("name", ["models/", "m.npz/"])
def test_the_name_of_a_folder_makes_no_file(tmp_path, name):
    (tmp_path / "m.npz").write_bytes(b"another's")
    with pytest.raises(IsADirectoryError, match="it is a folder: name a file.*" + name):
        save_model(small_model(), f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == ["m.npz"]
    assert (tmp_path / "m.npz").read_bytes() == b"another's"


def test_what_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    path = tmp_path / "m.npz"
    write_array = np.lib.format.write_array

    def meanwhile(*args, **options):
        path.write_bytes(b"another's")
        write_array(*args, **options)

    monkeypatch.setattr(np.lib.format, "write_array", meanwhile)
    with pytest.raises(FileExistsError, match=r"m\.npz exists already"):
        save_model(small_model(), path, overwrite=False)
    assert path.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["m.npz"]


@posix
def test_a_link_to_nothing_is_there_too(tmp_path):
    (tmp_path / "m.npz").symlink_to(tmp_path / "missing")
    with pytest.raises(FileExistsError):
        save_model(small_model(), tmp_path / "m.npz", overwrite=False)
    assert os.listdir(tmp_path) == ["m.npz"]


# What is refused, and how.


def test_damaged_headers_are_refused_with_their_reason(tmp_path):
    path = tmp_path / "m.npz"
    message = refusal(with_header(path, format=2))
    assert "made by a newer npfsn (format 2, this one reads 1): upgrade npfsn" in message
    for value in ("1", 0, -1, True, 1.0, [1], None):
        assert "no format version" in refusal(with_header(path, format=value))
    assert "wavenet" in refusal(with_header(path, architecture="wavenet"))
    assert "architecture" in refusal(with_header(path, architecture=[1]))
    assert "int4" in refusal(with_header(path, precision="int4"))
    assert "config" in refusal(with_header(path, config=None))
    assert "config" in refusal(with_header(path, config=[]))
    assert "source" in refusal(with_header(path, source="best.tar"))


def test_what_a_file_says_of_its_origin_is_printable(tmp_path):
    said = "\x1b[2J" + "x" * 1000
    model = load_model(with_header(tmp_path / "m.npz", converter=said, source={"name": said}))
    for text in (model.info["converter"], model.info["source"]["name"]):
        assert text.isprintable() and len(text) <= 200


def test_unknown_keys_of_the_header_are_tolerated(tmp_path):
    path = with_header(tmp_path / "m.npz", licence="MIT", notes={"a": [1]})
    assert_same(load_model(path), small_model())
    for key in ("precision", "converter", "source"):
        assert_same(load_model(with_header(path, **{key: None})), small_model())


CONFIG = json.loads(str(members(small_model())["npfsn_header"]))["config"]


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_type": "batch_norm"},
        {"norm_type": ["x"]},
        {"norm_type": None},
        {"n_fft": 6},
        {"n_fft": "4"},
        {"n_fft": 1 << 40},
        {"hop_length": 0},
        {"hop_length": 3},
        {"sample_rate": 1e9},
        {"look_ahead": -1},
        {"look_ahead": 10**30},
        {"unheard_of": 1},
        {"fullband_model": 3},
        {"fullband_model": {}},
        {"fullband_model": CONFIG["fullband_model"] | {"hidden_size": 1 << 30}},
        {"fullband_model": CONFIG["fullband_model"] | {"num_layers": 10**9}},
        {"fullband_model": CONFIG["fullband_model"] | {"num_layers": 2}},
        {"fullband_model": CONFIG["fullband_model"] | {"cell": "RNN"}},
        {"fullband_model": CONFIG["fullband_model"] | {"activation": {}}},
        {"fullband_model": CONFIG["fullband_model"] | {"activation": False}},
        {"fullband_model": CONFIG["fullband_model"] | {"activation": ""}},
        {"fullband_model": CONFIG["fullband_model"] | {"num_layers": True}},
        {"fullband_model": CONFIG["fullband_model"] | {"activation": "PReLU"}},
        {"norm_type": "x" * 60_000},
        {"look_ahead": [1] * 20_000},
        {"look_ahead": 10**4000},
        {"fullband_model": CONFIG["fullband_model"] | {"cell": "x" * 60_000}},
        {"fullband_model": CONFIG["fullband_model"] | {"activation": "x" * 60_000}},
    ],
    ids=lambda changes: str(changes)[:80],
)
def test_damaged_configurations_are_refused(tmp_path, changes):
    refusal(with_header(tmp_path / "m.npz", config=CONFIG | changes))


def with_encoder(path: Path, index: int, changes: dict, **more: np.ndarray) -> Path:
    """Write a Fast FullSubNet with another entry for one stack of its encoder, and more tensors."""
    save_model(drawn_models.small_model("fast_fullsubnet"), path)
    with np.load(path) as file:
        parts = dict(file) | more
    header = json.loads(str(parts["npfsn_header"]))
    header["config"]["encoder"][index] |= changes
    parts["npfsn_header"] = np.array(json.dumps(header))
    np.savez(path, **parts)
    return path


@pytest.mark.parametrize(("name", "value"), [("activation", ""), ("num_layers", True)])
def test_an_entry_of_one_of_several_stacks_is_what_it_says(tmp_path, name, value):
    path = with_encoder(tmp_path / "m.npz", 1, {name: value})
    assert f"its configuration holds {value!r}, expected numbers" in refusal(path)


@pytest.mark.parametrize("name", ["ReLU", "PReLU"])
def test_an_activation_without_a_linear_layer_is_refused(tmp_path, name):
    """Streams run activations after linear layers only: this one they would leave out."""
    assert drawn_models.small_model("fast_fullsubnet").config.encoder[0].output_size == 0
    slope = {"encoder.0.activate_function.weight": np.float32([0.25])} if name == "PReLU" else {}
    path = with_encoder(tmp_path / "m.npz", 0, {"activation": name}, **slope)
    assert f"ends in {name} without a linear layer" in refusal(path)


def test_an_entry_of_another_version_is_named(tmp_path):
    path = with_header(tmp_path / "m.npz", config=CONFIG | {"unheard_of": 1})
    with pytest.raises(ModelError, match=r"does not know \(unheard_of\): upgrade"):
        load_model(path)


@pytest.mark.parametrize("name", sorted(CONFIG))
def test_nothing_in_a_configuration_goes_without_saying(tmp_path, name):
    """What is published would take its place."""
    config = {key: value for key, value in CONFIG.items() if key != name}
    with pytest.raises(ModelError, match=f"lacks {name}: convert the checkpoint again"):
        load_model(with_header(tmp_path / "m.npz", config=config))


@pytest.mark.parametrize("name", sorted(CONFIG["fullband_model"]))
def test_nothing_of_a_stack_goes_without_saying(tmp_path, name):
    stack = {key: value for key, value in CONFIG["fullband_model"].items() if key != name}
    with pytest.raises(ModelError, match=rf"lacks fullband_model\.{name}: convert"):
        load_model(with_header(tmp_path / "m.npz", config=CONFIG | {"fullband_model": stack}))


def test_a_model_is_shown_in_a_line():
    assert repr(small_model()).startswith("<npfsn.Model fullband, 0.0")


def test_an_empty_path_is_told():
    with pytest.raises(ModelError, match="the path is empty"):
        load_model("")
    with pytest.raises(ModelError, match="the path is empty"):
        save_model(small_model(), "")


def test_section_bounds_are_whole_numbers():
    config = drawn_models.small_model("improved_fullsubnet").config
    first, *others = config.freq_cutoffs
    for bad in (float(first), str(first), None, -first):
        with pytest.raises(ModelError, match="freq_cutoffs"):
            dataclasses.replace(config, freq_cutoffs=(bad, *others))


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("fast_fullsubnet", {"num_mels": 8192, "noisy_input_num_neighbors": 2000}),
        ("fullsubnet", {"n_fft": 16384, "hop_length": 8192, "sb_num_neighbors": 8000}),
    ],
)
def test_more_features_than_a_frame_can_have_are_refused(architecture, changes):
    """A file of kilobytes could state sizes whose streams take gigabytes."""
    config = drawn_models.small_model(architecture).config
    n_freq = changes.get("n_fft", config.n_fft) // 2 + 1
    if architecture == "fullsubnet":
        changes["fb_model"] = dataclasses.replace(
            config.fb_model, input_size=n_freq, output_size=n_freq
        )
        features = 2 * (config.fb_num_neighbors + changes["sb_num_neighbors"]) + 2
        changes["sb_model"] = dataclasses.replace(config.sb_model, input_size=features)
    else:
        changes["encoder"] = (
            dataclasses.replace(config.encoder[0], input_size=8192),
            *config.encoder[1:-1],
            dataclasses.replace(config.encoder[-1], output_size=8192),
        )
        changes["bottleneck"] = dataclasses.replace(config.bottleneck, input_size=4002)
    with pytest.raises(ModelError, match="features each are too many"):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize("architecture", ["fast_fullsubnet", "fullsubnet", "improved_fullsubnet"])
def test_more_states_and_features_than_all_units_can_have_are_refused(architecture):
    """Units share weights, so a file stays small: many layers for all units, or many sections."""
    config = drawn_models.small_model(architecture).config
    changes = {}
    if architecture == "fast_fullsubnet":
        one = {"hidden_size": 1 << 16, "num_layers": 64}
        changes["bottleneck"] = dataclasses.replace(config.bottleneck, **one)
    elif architecture == "fullsubnet":
        changes = {"n_fft": 16384, "hop_length": 8192, "fb_num_neighbors": 0, "sb_num_neighbors": 0}
        changes["fb_model"] = Sequence("GRU", 8193, 1, 1, 8193)
        changes["sb_model"] = Sequence("LSTM", 2, 64, 64, 2)
    else:
        n, bins = 24, 128  # each section alone has few enough
        around = n * bins - 1
        changes = {"n_fft": 2 * n * bins, "hop_length": n * bins}
        changes["freq_cutoffs"] = tuple(range(bins, n * bins, bins))
        changes |= dict.fromkeys(("sb_num_center_freqs", "fb_num_center_freqs"), (1,) * n)
        changes |= dict.fromkeys(("sb_num_neighbor_freqs", "fb_num_neighbor_freqs"), (around,) * n)
        changes["fb_model"] = Sequence("GRU", n * bins, 1, 1, n * bins)
        changes["sb_models"] = (Sequence("GRU", 2 * (1 + 2 * around), 1, 1, 2),) * n
    with pytest.raises(
        ModelError, match=r"units with \d+ hidden states and features each are too many"
    ):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("key", "bad", "good", "message"),
    [
        ("hop_length", 64, 128, "hop_length is 64 with n_fft = 8192: expected 128 or more"),
        ("look_ahead", 64, 63, "look_ahead is 64 frames of 4097 bins: .* 262144 bins in all"),
    ],
)
def test_acoustics_that_cost_more_than_any_model_is_worth_are_refused(key, bad, good, message):
    """A sound file of a hundred bytes took half a minute, a stream 131 MB for its look-ahead."""
    config = drawn_models.small_model("fullband").config
    model = dataclasses.replace(config.fullband_model, input_size=4097, output_size=2 * 4097)
    changes = {"n_fft": 8192, "hop_length": 4096, "fullband_model": model}
    dataclasses.replace(config, **changes | {key: good})
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(config, **changes | {key: bad})


def test_a_deep_configuration_is_refused(tmp_path):
    """Python can read it a little deeper than it can print it."""
    path = tmp_path / "m.npz"
    text = str(members(small_model())["npfsn_header"])
    for depth in range(900, sys.getrecursionlimit() + 10):
        deep = text.replace(
            '"norm_type": "', '"norm_type": ' + "[" * depth + "]" * depth + ', "x": "'
        )
        np.savez(path, npfsn_header=np.array(deep), **dict(small_model().tensors))
        refusal(path)


def test_headers_that_are_none_are_refused(tmp_path):
    path = tmp_path / "m.npz"
    tensors = dict(small_model().tensors)
    good = str(members(small_model())["npfsn_header"])
    for header, reason in (
        (np.array("{"), "no valid JSON"),
        (np.array(""), "no valid JSON"),
        (np.array("[]"), "npfsn_header is missing or no JSON object"),
        (np.array("[" * 60_000), "no valid JSON"),
        (np.array(good[:-1] + ', "note": NaN}'), "npfsn_header holds NaN"),
        (np.array('{"format": ' + "9" * 10_000 + "}"), "no valid JSON"),
        (np.array(b"{}"), "has type |S2"),
        (np.array(1.0), "no single string"),
        (np.array(["{}", "{}"]), "no single string"),
        (np.array(good + " " * (1 << 16)), "more than 65,536 characters"),
    ):
        np.savez(path, npfsn_header=header, **tensors)
        assert reason in refusal(path)
    np.savez(path, npfsn_header=np.array(good), **tensors)
    load_model(path)
    np.savez(path, **tensors)
    message = "not an npfsn model (no npfsn_header): convert a checkpoint with npfsn-convert"
    assert message in refusal(path)


def test_unfit_tensors_are_refused_with_their_reason(tmp_path):
    path = tmp_path / "m.npz"
    parts = members(small_model())
    name = "fullband_model.fc_output_layer.bias"

    def variant(**changes):
        np.savez(path, **{k: v for k, v in (parts | changes).items() if v is not None})
        return refusal(path)

    assert f"1 missing ({name})" in variant(**{name: None})
    assert "2 unexpected (a, b)" in variant(a=np.zeros(2), b=np.zeros(2))
    assert f"{name} has shape [5], expected [6]" in variant(**{name: np.zeros(5, np.float32)})
    for dtype in ("f8", "i4", "u1", "?", "c8", "U3", "S3", "M8[s]"):
        message = variant(**{name: np.zeros(6, dtype)})
        assert "expected float32 or float16" in message
    for bad in (np.nan, np.inf, -np.inf):
        value = np.zeros(6, np.float32)
        value[3] = bad
        assert f"{name} holds NaN or infinity" in variant(**{name: value})
    half = np.zeros(6, np.float16)
    for bits in (0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF):
        half.view(np.uint16)[0] = bits
        assert "infinity" in variant(**{name: half})
    structured = np.zeros(6, [("a", "f4")])
    assert "cannot be read" in variant(**{name: structured})


def test_objects_are_never_unpickled(tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    parts = members(small_model())
    for name in ("npfsn_header", "fullband_model.fc_output_layer.bias", "extra"):
        value = np.empty((), object)
        value[()] = Evil()
        np.savez(tmp_path / "m.npz", **(parts | {name: value}))
        refusal(tmp_path / "m.npz")
    assert not canary.exists()


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "m.npz"
    for data in (b"", b"PK", b"hello" * 100, tf.npy_bytes(np.zeros(3)), b"PK\5\6" + bytes(18)):
        path.write_bytes(data)
        refusal(path)
    path.write_bytes(tf.zip_bytes({"x": tf.tensor(np.ones(2))}))
    assert "npfsn-convert" in refusal(path)
    assert "no such file" in refusal(tmp_path / "missing.npz")
    assert "folder" in refusal(tmp_path)
    too_long = refusal(tmp_path / ("x" * 300))
    assert ("cannot be opened" if os.name == "posix" else "no such file") in too_long
    with pytest.raises(ModelError) as refused:
        load_model(tmp_path / "m\ud800.npz")  # a name that cannot be printed
    assert "m\\ud800.npz" in str(refused.value).encode().decode()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "no regular file" in refusal(tmp_path / "pipe")
        with pytest.raises(OSError, match="it is a pipe"):
            save_model(small_model(), tmp_path / "pipe")
        assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(("name", "found"), [("a.npz", True), ("A.NPZ", True), ("a.tar", False)])
def test_a_damaged_model_file_is_told_by_its_suffix(tmp_path, name, found):
    (tmp_path / name).write_bytes(b"hello")
    assert weights.is_model_file(tmp_path / name) is found


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("fast_fullsubnet", {"encoder": ()}, "needs an encoder"),
        ("fast_fullsubnet", {"decoder": (Sequence("LSTM", 5, 4, 1, 6),)}, "decoder's layers"),
        ("fullsubnet", {"fb_model": Sequence("LSTM", 5, 4, 1, 6)}, "fb_model takes 5 and gives 6"),
        ("improved_fullsubnet", {"fb_model": Sequence("LSTM", 5, 4, 1, 6)}, "takes 5 and gives 6"),
        ("improved_fullsubnet", {"fdrc": True}, "expected a number"),
        ("improved_fullsubnet", {"fdrc": 0.0}, "expected a power above 0"),
        ("improved_fullsubnet", {"section_norm": "offline"}, "section_norm is 'offline'"),
        ("improved_fullsubnet", {"freq_cutoffs": ()}, "makes 1 sections"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(architecture, changes, message):
    config = drawn_models.small_model(architecture).config
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(config, **changes)


def test_a_cell_of_neither_kind_is_refused():
    shapes = {name: tensor.shape for name, tensor in small_model().tensors.items()}
    shapes["fullband_model.sequence_model.weight_hh_l0"] = (10, 2)
    with pytest.raises(ModelError, match=r"has shape \[10, 2\]: expected \[4 H, H\]"):
        Config.from_tensors(shapes, {"norm_type": "cumulative_laplace_norm", "hop_length": 2})


def test_only_a_model_is_saved(tmp_path):
    with pytest.raises(TypeError, match="of type dict: expected a Model"):
        save_model({}, tmp_path / "m.npz")


def test_unfit_members_are_refused_with_their_reason(tmp_path):
    path = tmp_path / "m.npz"
    parts = {f"{name}.npy": tf.npy_bytes(value) for name, value in members(small_model()).items()}

    def write(changes=(), method=zipfile.ZIP_STORED):
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in (*parts.items(), *changes):
                archive.writestr(name, data)

    write()
    assert_same(load_model(path), small_model())
    name, data = list(parts.items())[1]
    with pytest.warns(UserWarning, match="Duplicate"):
        write([(name, data)])
    assert "occurs twice" in refusal(path)
    write([(name.removesuffix(".npy"), data)])
    assert "two members" in refusal(path)
    write([("readme.txt", b"hello")])
    assert "no NumPy array" in refusal(path)
    write([(f"t{i}.npy", b"") for i in range(10_001)])
    assert "more than" in refusal(path)
    write([("x.npy", data)], zipfile.ZIP_BZIP2)
    assert "unknown way" in refusal(path)
    for bad in (
        data[:-1],
        data + b"\0",
        data[:20],
        data[:8],
        b"",
        data.replace(b"(8, 3)", b"(9, 3)"),
        data.replace(b"(8, 3)", b"(-8,3)"),
        data.replace(b"(8, 3)", b"(24,\n)"),
        data.replace(b"False", b"eval("),
        data.replace(b"NUMPY\1", b"NUMPY\7"),
        data[:8] + b"\xff\xff" + data[10:],
        data[:8] + (4_042 + data[8]).to_bytes(2, "little") + b"{" + b" " * 4_042 + data[11:],
        data.replace(b"'<f4'", b"'|O8'"),
        data.replace(b"'<f4'", b"'<f3'"),
        data.replace(b"(8, 3)", b"(" + b"9" * 4 + b")"),
    ):
        parts[name] = bad
        write()
        refusal(path)
    parts[name] = tf.npy_bytes(np.zeros((8, 3, *(1,) * 7), np.float32))
    write()
    assert "has 9 dimensions" in refusal(path)


def limited(path: Path, room: int = 8 << 20) -> str:
    """Load a model that is a bomb; return what it said."""
    size = path.stat().st_size
    tracemalloc.start()
    start = time.monotonic()
    try:
        message = refusal(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - start < 10
    assert peak < MAX_RATIO * size + room, f"{peak / 1e6:.0f} MB"
    return message


def test_a_bomb_that_claims_to_be_empty_is_refused(tmp_path):
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("npfsn_header.npy", bytes(16 << 20))
    data = bytearray(path.read_bytes())
    data[22:26] = bytes(4)  # in the member's own header, then in the directory
    at = data.find(b"PK\1\2") + 24
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    assert limited(path, room=1 << 20)


@pytest.mark.parametrize("kind", ["noise", "zeros"])
def test_a_large_compressed_member_is_read_whole(tmp_path, kind):
    """In pieces of a megabyte: more go in, or come out, than one."""
    values = np.random.default_rng(1).integers(256, size=(5 << 20) + 3).astype(np.uint8)
    values *= kind == "noise"
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", values.data)
    with path.open("rb") as file:
        opened = Archive(file, path.stat().st_size, max_ratio=math.inf)
        assert np.array_equal(opened.read(opened.entries["x"]), values)


def test_a_member_that_unpacks_to_more_than_it_claims_takes_no_memory(tmp_path):
    """Nor if it fills all that it claims and then goes on."""
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(64 << 20))
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2") + 24
    data[at : at + 4] = (4096).to_bytes(4, "little")
    archive = Archive(io.BytesIO(data), len(data), max_ratio=1000.0)
    tracemalloc.start()
    try:
        with pytest.raises(ReadError, match="is damaged"):
            archive.read(archive.entries["x"])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_compressed_members_that_grow_too_large_are_refused(tmp_path):
    path = tmp_path / "m.npz"
    parts = members(small_model())
    np.savez_compressed(path, **parts, zeros=np.zeros(40 << 20, np.int8))
    assert "times the file's" in limited(path)
    # A header that says there are 300 MB, of which there is little.
    huge = tf.npy_bytes(np.zeros((10, 10), np.float32))
    huge = huge.replace(b"(10, 10), }    ", b"(75000000,), } ")
    assert b"75000000" in huge
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in parts.items():
            archive.writestr(f"{name}.npy", tf.npy_bytes(value))
        archive.writestr("x.npy", huge)
    assert "has 400 bytes, expected 300,000,000" in limited(path)
    # A directory that claims sizes its members do not have.
    np.savez_compressed(path, **parts)
    data = bytearray(path.read_bytes())
    position = data.find(b"PK\1\2") + 24  # of the first member, the header
    true = int.from_bytes(data[position : position + 4], "little")
    for claimed in (900_000, true + 4, true - 4, 200, 0):
        data[position : position + 4] = claimed.to_bytes(4, "little")
        path.write_bytes(data)
        limited(path)


# Damage.


def damaged(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        position = rng.randrange(len(out))
        kind = rng.randrange(5)
        if kind == 0:
            out[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[position : position + 4] = rng.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", bytes(4)))
        elif kind == 2:
            del out[position : position + rng.randint(1, 16)]
        elif kind == 3:
            start = rng.randrange(len(out))
            out[position:position] = out[start : start + rng.randint(1, 32)]
        else:
            out[position] = rng.randrange(32, 127)  # what JSON and array headers are made of
    return bytes(out)


def test_a_model_file_cut_anywhere_is_refused(tmp_path):
    save_model(small_model(), tmp_path / "whole.npz")
    data = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "m.npz"
    for size in range(0, len(data), max(1, 5 // FUZZ)):
        path.write_bytes(data[:size])
        refusal(path)


@pytest.mark.parametrize("kind", ["stored", "compressed", "stored, checksums made good"])
def test_a_model_file_damaged_anywhere_is_refused(tmp_path, kind):
    model = small_model()
    path = tmp_path / "m.npz"
    (np.savez_compressed if kind == "compressed" else np.savez)(path, **members(model))
    data = path.read_bytes()
    n_read = 0
    for case in range(500 * FUZZ):
        rng = random.Random(f"{SEED} {kind} {case}")
        changed = damaged(rng, data)
        path.write_bytes(tf.fix_crcs(changed) if "good" in kind else changed)
        try:
            found = load_model(path)
        except ModelError as error:
            assert "\n" not in str(error), f"seed {SEED}, case {case}"
            continue
        except BaseException:
            print(f"seed {SEED}, {kind}, case {case}")
            raise
        n_read += 1
        assert all(np.isfinite(value).all() for value in found.tensors.values())
        if "good" not in kind:
            assert_same(found, model)
    print(f"seed {SEED}: {n_read} of {500 * FUZZ} damaged files were still read")


def test_reading_takes_about_the_size_of_the_file(tmp_path):
    model = drawn_models.golden_model("fast_lstm_cum")
    path = tmp_path / "m.npz"
    save_model(model, path)
    size = path.stat().st_size
    tracemalloc.start()
    found = load_model(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_same(found, model)
    assert peak < 1.1 * size + (4 << 20)


@pytest.mark.parametrize(
    ("architecture", "field"), [("fast_fullsubnet", "quiet_level"), ("improved_fullsubnet", "fdrc")]
)
def test_numpy_numbers_in_a_configuration_are_plain_ones(architecture: str, field: str) -> None:
    """A stream's state carries a digest of the configuration, as text."""
    config = drawn_models.small_model(architecture).config
    assert repr(dataclasses.replace(config, **{field: np.float64(0.25)})) == repr(
        dataclasses.replace(config, **{field: 0.25})
    )


@pytest.mark.parametrize("path", [5, b"model.npz", ["model.npz"]])
def test_what_is_no_path_is_named(path: object) -> None:
    with pytest.raises(TypeError, match="model is of type .*: expected a path, a Model or None"):
        load_model(path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model is of type"):
        Enhancer(path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path is of type .*: expected that of a model file"):
        save_model(load_model(), path)  # type: ignore[arg-type]


def changed(name, tensor):
    """Return a small model with one other tensor, or without it."""
    model = drawn_models.small_model("fullband")
    tensors = {key: value for key, value in model.tensors.items() if key != name}
    if tensor is not None:
        tensors[name] = tensor
    return dataclasses.replace(model, tensors=tensors)


BIAS = "fullband_model.fc_output_layer.bias"


@pytest.mark.parametrize(
    ("tensor", "error"),
    [
        (np.zeros(3, np.float32), ModelError),
        (None, ModelError),
        (np.zeros(514), TypeError),
        (np.zeros(514, np.int64), TypeError),
        ([0.0] * 514, TypeError),
    ],
    ids=["shape", "missing", "float64", "int64", "list"],
)
def test_a_model_is_made_of_what_its_configuration_needs(tensor, error):
    assert drawn_models.small_model("fullband").tensors[BIAS].shape == (514,)
    with pytest.raises(error, match=BIAS):
        changed(BIAS, tensor)


def test_a_model_has_a_configuration_of_its_architecture():
    model = drawn_models.small_model("fullband")
    with pytest.raises(TypeError, match="config is of type dict"):
        dataclasses.replace(model, config=dataclasses.asdict(model.config))
    for wrong in ("foo", "fullsubnet"):
        with pytest.raises(ModelError, match=f"architecture '{wrong}'.*expected one of fast_"):
            Enhancer(dataclasses.replace(model, architecture=wrong))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_model_that_is_not_finite_is_none(dtype):
    """It could not be read, and would answer with silence."""
    tensor = np.zeros(514, dtype)
    tensor[3] = np.nan
    with pytest.raises(ModelError, match=f"{BIAS} holds NaN"):
        changed(BIAS, tensor)


def deep(depth: int) -> list:
    """Return a list in a list in a list ..."""
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"architecture": "fast"}, ModelError, "architecture 'fast' with"),
        ({"architecture": ["fullband"]}, ModelError, "expected one of fast_fullsubnet"),
        ({"architecture": None}, ModelError, "architecture None with"),
        ({"tensors": None}, TypeError, "tensors are of type NoneType: expected a mapping"),
        ({"info": None}, TypeError, "info cannot be written as JSON"),
        ({"info": {"converter": b"x"}}, TypeError, "info cannot be written as JSON"),
        ({"info": {"source": {"n": float("nan")}}}, TypeError, "info cannot be written as JSON"),
        ({"info": {"x": deep(10**5)}}, TypeError, "info cannot be written as JSON"),
        ({"info": {"source": 3}}, TypeError, r"info\['source'\] is 3: expected a mapping"),
    ],
)
def test_what_no_file_could_hold_is_no_model(wrong, error, said):
    with pytest.raises(error, match=said):
        dataclasses.replace(small_model(), **wrong)


def test_a_model_keeps_its_own_info():
    source = {"name": "a.tar"}
    model = dataclasses.replace(small_model(), info={"source": source})
    source["name"] = "b.tar"
    assert model.info["source"] == {"name": "a.tar"}


def test_no_file_is_written_that_would_not_be_read(tmp_path):
    path = tmp_path / "m.npz"

    def named(n: int) -> Model:
        return dataclasses.replace(small_model(), info={"source": {"name": "x" * n}})

    save_model(named(0), path)
    with np.load(path) as archive:
        room = weights.MAX_HEADER_CHARS - len(str(archive["npfsn_header"]))
    save_model(named(room), path)
    assert_same(load_model(path), small_model())
    path.unlink()
    with pytest.raises(ModelError, match="a header of 65,537 characters: expected at most 65,536"):
        save_model(named(room + 1), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_configuration_as_published_has_the_defaults_of_what_was_not(architecture):
    config = drawn_models.small_model(architecture, start_at_sound=True).config
    if architecture == "fast_fullsubnet":
        config = dataclasses.replace(config, quiet_level=0.1)
    published = config.as_published()
    defaults = {item.name: item.default for item in dataclasses.fields(config)}
    assert published != config and published.start_at_sound is False
    for name, value in dataclasses.asdict(published).items():
        unpublished = name in ("start_at_sound", "quiet_level")
        assert value == (defaults[name] if unpublished else dataclasses.asdict(config)[name])


@pytest.mark.parametrize("level", [-1.0, float("nan"), float("inf"), True, "0.1", None])
def test_a_quiet_level_is_a_number_from_0_up(level):
    config = drawn_models.small_model("fast_fullsubnet").config
    with pytest.raises(ModelError, match=r"quiet_level is .*: expected a number from 0"):
        dataclasses.replace(config, quiet_level=level)


def test_a_model_keeps_what_it_was_given():
    """Whoever made the arrays may go on writing to them."""
    config = drawn_models.small_model("fullband").config
    tensors = {name: np.ones(shape, np.float32) for name, shape in config.tensor_shapes().items()}
    model = Model("fullband", config, tensors)
    for name, tensor in tensors.items():
        tensor[...] = 2.0
        assert (model.tensors[name] == 1.0).all()
        assert not model.tensors[name].flags.writeable


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_kernels_find_tensors_as_they_expect_them(dtype):
    """Read-only arrays need no copy, but in another order or between two addresses."""
    name = "fullband_model.fc_output_layer.weight"
    model = drawn_models.small_model("fullband")
    tensor = model.tensors[name].astype(dtype)
    odd = np.frombuffer(b"\0" + tensor.tobytes(), dtype, tensor.size, 1).reshape(tensor.shape)
    turned = np.asfortranarray(tensor)
    turned.flags.writeable = False
    assert not (odd.flags.aligned or odd.flags.writeable or turned.flags.c_contiguous)
    for given in (odd, turned):
        found = changed(name, given).tensors[name]
        assert found.flags.c_contiguous and found.flags.aligned and not found.flags.writeable
        np.testing.assert_array_equal(found, tensor, strict=True)


def with_scale(path: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> str:
    """Write an int8 model with one scale changed, or (None) without it; return its name."""
    model = drawn_models.small_model("fullband")
    save_model(dataclasses.replace(model, info={"precision": "int8"}), path)
    with np.load(path) as file:
        members = dict(file)
    name = next(name for name in members if name.endswith(".scale"))
    members[name] = change(members[name])
    np.savez(path, **{key: value for key, value in members.items() if value is not None})
    return name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: None, "has no .scale"),
        (lambda x: x[:1], "one per row"),
        (lambda x: x[0], "one per row"),
        (lambda x: np.append(x, x[:1]), "one per row"),
        (lambda x: x.astype(np.float64), "one per row"),
        (lambda x: np.full_like(x, 3e38), "NaN or infinity"),  # of the weights: too large a product
    ],
)
def test_each_row_of_a_matrix_has_a_scale_that_fits(tmp_path, change, message):
    path = tmp_path / "a.npz"
    with_scale(path, lambda x: x)
    load_model(path)
    with_scale(path, change)
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_only_matrices_have_a_scale_per_row(tmp_path):
    """The product of a bias and its scales would have their number of values squared."""
    parts = members(small_model())
    parts[BIAS], parts[f"{BIAS}.scale"] = np.zeros(6, np.int8), np.ones(6, np.float32)
    header = json.loads(str(parts["npfsn_header"])) | {"precision": "int8"}
    parts["npfsn_header"] = np.array(json.dumps(header))
    np.savez(tmp_path / "m.npz", **parts)
    assert f"int8 tensor {BIAS} of shape [6] has a scale" in refusal(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("value", "message"), [(-1.0, "holds negative scales"), (np.nan, "NaN"), (np.inf, "NaN or inf")]
)
def test_scales_are_numbers_from_0_up(tmp_path, value, message):
    path = tmp_path / "a.npz"
    name = with_scale(path, lambda x: np.append(np.float32(value), x[1:]))
    with pytest.raises(ModelError, match=f"{re.escape(name)} holds") as caught:
        load_model(path)
    assert message in str(caught.value)


def test_sizes_of_large_archives_may_follow_other_fields():
    extra = struct.pack("<HHB", 0x5455, 1, 0) + struct.pack("<HH2Q", 1, 16, 7, 8)
    assert _widen(extra, 0xFFFFFFFF, 0xFFFFFFFF, 9) == (7, 8, 9)


def test_the_extra_field_holds_only_the_sizes_that_did_not_fit():
    """In their order, whichever they are."""
    full = 0xFFFFFFFF
    one, two = struct.pack("<HHQ", 1, 8, 7 << 32), struct.pack("<HH2Q", 1, 16, 7 << 32, 8)
    assert _widen(one, 1, 2, full) == (1, 2, 7 << 32)
    assert _widen(one, full, 2, 3) == (7 << 32, 2, 3)
    assert _widen(two, 1, full, full) == (1, 7 << 32, 8)
    assert _widen(b"what ever", 1, 2, 3) == (1, 2, 3)


@pytest.mark.parametrize(
    "extra",
    [
        b"",
        b"\1\0\20",  # a part of a field's head
        struct.pack("<HHQ", 1, 8, 7),  # one size where two are missing
        struct.pack("<HHQ", 1, 16, 7),  # cut off
        struct.pack("<HH2Q", 2, 16, 7, 8),  # of another kind
        struct.pack("<HH2Q", 2, 99, 7, 8),
    ],
)
def test_sizes_that_are_nowhere_are_damage(extra):
    with pytest.raises(ReadError, match="64-bit sizes"):
        _widen(extra, 0xFFFFFFFF, 0xFFFFFFFF, 9)


@pytest.mark.parametrize("at", [12, 16])
def test_directory_records_of_two_widths_agree(tmp_path, monkeypatch, at):
    """Size and offset of the directory; the narrow record may leave them to the wide one."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = tmp_path / "a.npz"
    save_model(small_model(), path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "b.npz", "w") as wide:
        for name in plain.namelist():
            wide.writestr(name, plain.read(name))
    data = (tmp_path / "b.npz").read_bytes()
    (own,) = struct.unpack_from("<L", data, len(data) - 22 + at)
    assert b"PK\6\6" in data and own != 0xFFFFFFFF
    for value in (own, 0xFFFFFFFF, own + 1):
        changed = bytearray(data)
        struct.pack_into("<L", changed, len(data) - 22 + at, value)
        path.write_bytes(changed)
        if value == own + 1:
            with pytest.raises(ModelError, match="records contradict each other"):
                load_model(path)
        else:
            assert_same(load_model(path), small_model())


def test_a_wide_record_lies_before_its_locator(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as wide:
        for name in "abc":
            wide.writestr(name, b"")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\6\7", b"junkPK\6\7"))
    with pytest.raises(ModelError, match="64-bit record"):
        load_model(path)


def test_no_directory_is_larger_than_that_of_any_model(tmp_path):
    """It would be read at once, however large the file is."""
    size = 6_000_000
    path = tmp_path / "a.npz"
    path.write_bytes(bytes(size) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
    with pytest.raises(ModelError, match="its directory has 6,000,000 bytes, more than any model"):
        load_model(path)


def test_an_archive_of_nothing_is_no_model(tmp_path):
    path = tmp_path / "a.npz"
    zipfile.ZipFile(path, "w").close()
    assert path.stat().st_size == 22
    with pytest.raises(ModelError) as refused:
        load_model(path)
    assert "cannot be read" not in str(refused.value)


@pytest.mark.parametrize("at", [4, 6])
def test_a_part_of_an_archive_in_several_files_is_called_so(tmp_path, at):
    path = tmp_path / "a.npz"
    save_model(small_model(), path)
    data = bytearray(path.read_bytes())
    data[len(data) - 22 + at] = 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="one part of an archive in several files"):
        load_model(path)


def test_a_member_in_another_file_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    save_model(small_model(), path)
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\1\2") + 34] = 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="in another file"):
        load_model(path)


@pytest.mark.parametrize("comment", [b"of mine", b"PK\5\6 and so on, longer than a record"])
def test_an_archive_may_have_a_comment(tmp_path, comment):
    path = tmp_path / "a.npz"
    save_model(small_model(), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    assert_same(load_model(path), small_model())


def test_archives_that_contradict_themselves_are_refused(tmp_path):
    """How many members there are; how one is packed."""
    path = tmp_path / "a.npz"
    save_model(small_model(), path)
    data = path.read_bytes()
    for at, said in ((len(data) - 22 + 8, "several files"), (8, "damaged")):
        damaged = bytearray(data)
        damaged[at] ^= 8
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=said):
            load_model(path)


@pytest.mark.parametrize(("at", "change"), [(0, 1), (28, -1), (28, 1), (30, 1), (32, 1)])
def test_a_directory_that_does_not_end_with_its_last_entry_is_damaged(tmp_path, at, change):
    """Its signature, and the sizes of its name, of what follows and of its comment."""
    path = tmp_path / "a.npz"
    save_model(small_model(), path)
    data = bytearray(path.read_bytes())
    data[data.rfind(b"PK\1\2") + at] += change
    path.write_bytes(data)
    with pytest.raises(ModelError, match="its directory is damaged"):
        load_model(path)


def test_a_model_keeps_the_name_of_its_converter(tmp_path):
    path, model = tmp_path / "a.npz", drawn_models.small_model("fullband")
    save_model(dataclasses.replace(model, info={"converter": "npfsn 0.0.1"}), path)
    assert load_model(path).info["converter"] == "npfsn 0.0.1"
    save_model(load_model(path), path)
    assert load_model(path).info["converter"] == "npfsn 0.0.1"


def test_eight_bits_keep_rows_of_zeros_and_what_is_fixed(tmp_path):
    model, dead = drawn_models.small_model("fast_fullsubnet"), "encoder.1.fc_output_layer.weight"
    tensors = dict(model.tensors)
    tensors[dead] = np.zeros_like(tensors[dead])
    model = dataclasses.replace(model, tensors=tensors, info={"precision": "int8"})
    save_model(model, tmp_path / "a")
    found = load_model(tmp_path / "a").tensors
    for name in (dead, "mel_scale.fb"):
        np.testing.assert_array_equal(found[name], tensors[name])
