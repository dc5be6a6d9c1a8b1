"""`npfsn-convert`: the right model or one sentence, and never a guess that is not told."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch_files as tf
from commands import environment
from drawn_models import small_model
from golden_cases import ALL_CASES, Case, load_case
from needs import full_device, posix

from npfsn import cli, fullsubnet, improved_fullsubnet
from npfsn.checkpoint import read_checkpoint
from npfsn.config import CAUSAL_NORMS, OFFLINE_NORMS, Sequence
from npfsn.convert import convert, main
from npfsn.errors import CheckpointError, ModelError, NormError, NpfsnError, RecipeError
from npfsn.stopping import Stopped
from npfsn.weights import PRECISIONS, load_model, save_model

ARCHITECTURES = {
    "full": "fullsubnet",
    "fast": "fast_fullsubnet",
    "base": "fullband",
    "improved": "improved_fullsubnet",
}
PACKAGES = ARCHITECTURES | {"base": "fullband_baseline"}
NORM = "cumulative_laplace_norm"


def state(case: Case, make=tf.tensor) -> dict[str, object]:
    return {"epoch": 58, "model": tf.Ordered({k: make(v) for k, v in case.params.items()})}


def saved(case: Case, folder: Path) -> Path:
    """Write the checkpoint of a golden case."""
    path = folder / "x.tar"
    path.write_bytes(tf.zip_bytes(state(case)))
    return path


def recipe_of(case: Case) -> dict[str, object]:
    """Return the recipe of a golden case, in the shape of the published ones."""
    args = {k: v for k, v in case.config["model_args"].items() if v is not None}
    return {
        "acoustics": {
            "n_fft": case.config["n_fft"],
            "win_length": case.config["n_fft"],
            "sr": case.config["sr"],
            "hop_length": case.config["hop_length"],
        },
        "model": {"path": f"{PACKAGES[case.config['arch']]}.model.Model", "args": args},
    }


def toml_of(recipe: dict[str, object]) -> str:
    lines = []

    def text(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return "[" + ", ".join(map(text, value)) + "]"
        return f'"{value}"' if isinstance(value, str) else repr(value)

    def table(prefix: str, content: dict[str, object]) -> None:
        lines.append(f"[{prefix}]")
        inner = {k: v for k, v in content.items() if isinstance(v, dict)}
        lines.extend(f"{k} = {text(v)}" for k, v in content.items() if k not in inner)
        for key, value in inner.items():
            table(f"{prefix}.{key}", value)

    for key, value in recipe.items():
        table(key, value)
    return "\n".join(lines) + "\n"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    """Make a FullSubNet checkpoint, in a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "best_model.tar"
    path.write_bytes(tf.zip_bytes(state(load_case("full_lstm_cum"))))
    return path


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(toml_of(recipe_of(load_case("full_lstm_cum"))))
    return path


def report(out: str) -> dict[str, str]:
    """Return the lines of a report, by what they begin with."""
    return dict(line.split(":", 1) for line in out.splitlines())


# The right model.


@pytest.mark.parametrize("name", ALL_CASES)
def test_golden_cases_convert_to_their_config_and_tensors(tmp_path, name):
    case = load_case(name)
    path = saved(case, tmp_path)
    model = convert(path, recipe=recipe_of(case))
    assert model.architecture == ARCHITECTURES[case.config["arch"]]
    assert set(model.tensors) == set(case.params)
    for key, value in case.params.items():
        np.testing.assert_array_equal(model.tensors[key], value, strict=True)
    args = case.config["model_args"]
    for key in ("norm_type", "look_ahead", "shrink_size", "sb_num_neighbors", "num_mels"):
        if key in args:
            assert getattr(model.config, key) == args[key]
    assert model.config.n_fft == case.config["n_fft"]
    assert model.config.hop_length == case.config["hop_length"]
    assert model.config.sample_rate == case.config["sr"]
    assert model.config.streams == (args["norm_type"] in CAUSAL_NORMS)
    save_model(model, tmp_path / "x.npz")
    found = load_model(tmp_path / "x.npz")
    assert found.config == model.config and found.norm == args["norm_type"]


@pytest.mark.parametrize("name", ["full_lstm_cum", "full_gru_cum", "fast_lstm_cum", "improved_16k"])
def test_published_defaults_fit_without_a_recipe(tmp_path, name):
    case = load_case(name)
    path = saved(case, tmp_path)
    norm = case.config["model_args"]["norm_type"]
    assert convert(path, norm=norm).config == convert(path, recipe=recipe_of(case)).config


def test_a_learned_slope_without_a_linear_layer_is_refused(tmp_path):
    """It would have to be applied to hidden states, which no network of the family does."""
    content = state(load_case("fast_lstm_cum"))
    content["model"]["encoder.0.activate_function.weight"] = tf.tensor(np.array([0.25], "f4"))
    path = tmp_path / "x.tar"
    path.write_bytes(tf.zip_bytes(content))
    with pytest.raises(NpfsnError, match="ends in PReLU without a linear layer"):
        convert(path, norm="cumulative_laplace_norm")


@pytest.mark.parametrize(
    ("name", "prefix"), [("full_lstm_cum", "fb_model"), ("fast_lstm_cum", "bottleneck")]
)
def test_a_learned_slope_needs_no_recipe(tmp_path, name, prefix):
    """What a tensor says counts more than what was published."""
    case = load_case(name)
    content = state(case)
    content["model"][f"{prefix}.activate_function.weight"] = tf.tensor(np.array([0.25], "f4"))
    path = tmp_path / "x.tar"
    path.write_bytes(tf.zip_bytes(content))
    model = convert(path, norm="cumulative_laplace_norm")
    assert getattr(model.config, prefix).activation == "PReLU"
    if name == "full_lstm_cum":  # but a recipe that says otherwise is another's
        recipe = recipe_of(case)
        recipe["model"]["args"]["fb_output_activate_function"] = False
        with pytest.raises(NpfsnError, match="says fb_output_activate_function = False"):
            convert(path, recipe=recipe)
        recipe["model"]["args"]["fb_output_activate_function"] = "ReLU"
        with pytest.raises(NpfsnError, match="says fb_output_activate_function = 'ReLU'"):
            convert(path, recipe=recipe)


def largest_error(model, case: Case) -> float:
    return max(
        float(np.abs(model.tensors[k].astype(np.float64) - v).max()) for k, v in case.params.items()
    )


VARIANTS = {
    "zip": lambda case: tf.zip_bytes(state(case)),
    "legacy": lambda case: tf.legacy_bytes(state(case)),
    "bare": lambda case: tf.zip_bytes(state(case)["model"]),
    "bare legacy": lambda case: tf.legacy_bytes(state(case)["model"]),
    "prefix and cuda": lambda case: tf.zip_bytes(
        tf.tensors(case.params, "module.", location="cuda:1")
    ),
    "strided": lambda case: tf.zip_bytes(state(case, tf.strided)),
    "double": lambda case: tf.zip_bytes(state(case, lambda v: tf.tensor(v.astype(np.float64)))),
    "half": lambda case: tf.zip_bytes(state(case, lambda v: tf.tensor(v.astype(np.float16)))),
    "bfloat16": lambda case: tf.legacy_bytes(state(case, tf.bfloat16)),
}
# Largest relative rounding of a weight: none, 11 bits, or (cut off, not rounded) 8 bits.
ROUNDING = {"half": 2.0**-11, "bfloat16": 2.0**-7}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_file_gives_the_weights_that_it_holds(tmp_path, variant):
    case = load_case("full_lstm_cum")
    data = VARIANTS[variant](case)
    (tmp_path / "x.pth").write_bytes(data)
    model = convert(tmp_path / "x.pth", norm=NORM)
    largest = max(float(np.abs(v).max()) for v in case.params.values())
    assert largest_error(model, case) <= ROUNDING.get(variant, 0.0) * largest
    assert all(v.dtype == np.float32 for v in model.tensors.values())
    assert model.info["source"] == {"name": "x.pth", "sha256": hashlib.sha256(data).hexdigest()}


def test_half_precision_is_rounded_once(checkpoint):
    case = load_case("full_lstm_cum")
    model = convert(checkpoint, norm=NORM, precision="float16")
    for key, value in case.params.items():
        np.testing.assert_array_equal(model.tensors[key], value.astype(np.float16), strict=True)
    with pytest.raises(ModelError, match="float8"):
        convert(checkpoint, norm=NORM, precision="float8")


# One sentence.


def written(tmp_path: Path, tensors: Mapping[str, np.ndarray], name: str = "x.tar") -> Path:
    """Write a checkpoint of these tensors."""
    path = tmp_path / name
    path.write_bytes(tf.zip_bytes(tf.tensors(tensors)))
    return path


def altered(tmp_path: Path, **changes: object) -> Path:
    """Write a checkpoint some of whose tensors are replaced, added, or (None) missing."""
    params = load_case("full_lstm_cum").params | changes
    return written(tmp_path, {k: v for k, v in params.items() if v is not None}, "altered.tar")


BIAS, WEIGHT = "sb_model.fc_output_layer.bias", "sb_model.fc_output_layer.weight"
CELL = "sb_model.sequence_model.weight_hh_l0"


def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path):
    def refusal(error: type[Exception] = ModelError, **changes: object) -> str:
        with pytest.raises(error) as info:
            convert(altered(tmp_path, **changes), norm=NORM)
        assert "altered.tar" in str(info.value) and "\n" not in str(info.value)
        return str(info.value)

    message = refusal(**{BIAS: None})
    assert f"1 missing ({BIAS}); a layer that has no biases needs zeros" in message
    assert "zeros" not in refusal(**{BIAS: None, CELL: None})
    message = refusal(extra=np.zeros(3, np.float32))
    assert "1 unexpected (extra)" in message and "left out before saving" in message
    message = refusal(extra=np.zeros(3, np.float32), **{BIAS: None, WEIGHT: None})
    assert "left out before" not in message
    assert "[3], expected [2]" in refusal(**{BIAS: np.zeros(3, np.float32)})
    assert "floating point" in refusal(**{BIAS: np.zeros(2, np.int32)})
    assert "holds NaN" in refusal(**{BIAS: np.array([0, np.nan], np.float32)})
    assert "too large for float32" in refusal(**{BIAS: np.array([0, 1e300])})
    assert CELL in refusal(**{CELL: np.zeros((97, 24), np.float32)})
    assert CELL in refusal(**{CELL: np.zeros(96, np.float32)})
    assert CELL in refusal(**{CELL: None})
    inputs = "fb_model.sequence_model.weight_ih_l0"
    assert f"tensor {inputs} has shape [257, 192]: expected [192, any]" in refusal(
        **{inputs: np.zeros((257, 192), np.float32)}
    )
    deeper = "fb_model.sequence_model.weight_ih_l1"
    assert f"tensor {deeper} has shape [192, 47]: expected [192, 48]" in refusal(
        **{deeper: np.zeros((192, 47), np.float32)}
    )
    many = {f"extra{i}": np.zeros(1, np.float32) for i in range(50)}
    assert "50 unexpected (extra0, extra1, extra2, extra3 and 46 more)" in refusal(**many)
    far = "fb_model.sequence_model.bias_ih_l64"
    assert f"tensor {far} is of layer 64: expected at most 64 layers" in refusal(
        **{far: np.zeros(192, np.float32)}
    )
    stacks = {f"x.{i}.fc_output_layer.bias": np.zeros(1, np.float32) for i in range(2000)}
    assert "it has 2002 stacks of layers: expected at most 64" in refusal(**stacks)
    reverse = "fb_model.sequence_model.weight_ih_l0_reverse"
    assert f"{reverse} is of a layer that runs both ways" in refusal(
        **{reverse: np.zeros((192, 257), np.float32)}
    )
    projection = "sb_model.sequence_model.weight_hr_l1"
    assert "(proj_size)" in refusal(**{projection: np.zeros((4, 24), np.float32)})

    (tmp_path / "other.tar").write_bytes(tf.zip_bytes({"conv.weight": tf.tensor(np.ones(3))}))
    with pytest.raises(CheckpointError, match=r"none of the models known here .*conv\.weight"):
        convert(tmp_path / "other.tar", norm=NORM)


@pytest.mark.parametrize("parts", ["{}_g {}_v", "{}_orig {}_mask", "parametrizations.{}.original0"])
@pytest.mark.parametrize(
    ("layer", "weight"), [("sequence_model", "weight_hh_l0"), ("fc_output_layer", "weight")]
)
def test_weights_that_are_computed_from_others_are_refused(tmp_path, parts, layer, weight):
    """The refusal names a tensor that is there and says what to do before saving."""
    layer = f"sb_model.{layer}"
    shape = load_case("full_lstm_cum").params[f"{layer}.{weight}"].shape
    names = [f"{layer}.{part.format(weight)}" for part in parts.split()]
    changes = dict.fromkeys(names, np.ones(shape, np.float32))
    with pytest.raises(ModelError, match=r"before saving \(torch") as info:
        convert(altered(tmp_path, **{f"{layer}.{weight}": None}, **changes), norm=NORM)
    assert names[0] in str(info.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values())
def test_a_tensor_that_is_missing_is_named(tmp_path, architecture):
    """Whichever it is: sizes and layers are read from the others."""
    tensors = small_model(architecture).tensors
    for name in tensors:
        path = written(tmp_path, {key: v for key, v in tensors.items() if key != name})
        with pytest.raises(NpfsnError, match=rf"\b{re.escape(name)}\b") as info:
            convert(path, norm=NORM)
        assert "missing" in str(info.value), info.value


@pytest.mark.parametrize(
    ("architecture", "lost", "named"),
    [
        ("fullsubnet", "fb_model.fc_output_layer", "fb_model.fc_output_layer.weight"),
        ("fullsubnet", "sb_model.fc_output_layer", "sb_model.fc_output_layer.weight"),
        ("fullband", "fullband_model.fc_output_layer", "fullband_model.fc_output_layer.weight"),
        ("fast_fullsubnet", "bottleneck.fc_output_layer", "bottleneck.fc_output_layer.weight"),
        ("fast_fullsubnet", "mel_scale.fb", "mel_scale.fb"),
        ("fast_fullsubnet", "decoder_lstm.0", "decoder_lstm.0.sequence_model.weight_ih_l0"),
        ("fast_fullsubnet", "encoder.1.fc_output_layer", "an encoder that ends in a linear layer"),
        ("improved_fullsubnet", "fb_model.fc_output_layer", "fb_model.fc_output_layer.weight"),
    ],
)
def test_a_layer_that_is_missing_is_named(tmp_path, architecture, lost, named):
    """No recipe could take its place, so none is asked for."""
    tensors = small_model(architecture).tensors
    left = {key: v for key, v in tensors.items() if not f"{key}.".startswith(f"{lost}.")}
    assert len(left) < len(tensors)
    path = written(tmp_path, left)
    with pytest.raises(ModelError, match=re.escape(named)) as info:
        convert(path, norm=NORM)
    assert "missing" in str(info.value) and "recipe" not in str(info.value)


def test_values_too_large_for_half_are_refused_only_there(tmp_path):
    path = altered(tmp_path, **{BIAS: np.array([0, 1e6], np.float32)})
    assert convert(path, norm=NORM).tensors[BIAS][1] == np.float32(1e6)
    with pytest.raises(ModelError, match="too large for float16"):
        convert(path, norm=NORM, precision="float16")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_freqs", 129),
        ("sequence_model", "GRU"),
        ("sequence_model", 5),
        ("fb_model_hidden_size", 512),
        ("sb_model_hidden_size", 384),
        ("sb_num_neighbors", 14),
        ("sb_num_neighbors", "15"),
        ("fb_num_neighbors", 3),
        ("fb_num_neighbors", -1),
        ("fb_num_neighbors", True),
        ("fb_num_neighbors", [1]),
        ("look_ahead", -1),
        ("look_ahead", 2.0),
        ("look_ahead", 10**20),
        ("look_ahead", [2]),
        ("fb_output_activate_function", "Softmax"),
        ("fb_output_activate_function", "PReLU"),
        ("fb_output_activate_function", [1]),
        ("sb_output_activate_function", True),
        ("norm_type", "batch_norm"),
        ("norm_type", ""),
    ],
)
def test_recipes_are_checked_against_the_tensors(checkpoint, key, value):
    recipe = recipe_of(load_case("full_lstm_cum"))
    recipe["model"]["args"][key] = value
    with pytest.raises(NpfsnError) as info:
        convert(checkpoint, recipe=recipe)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_fft": 1024, "win_length": 1024},
        {"win_length": 400},
        {"hop_length": 300},
        {"hop_length": 0},
        {"sr": 0},
        {"sr": -16000},
        {"sr": 10**12},
    ],
    ids=str,
)
def test_acoustics_are_checked(checkpoint, changes):
    recipe = recipe_of(load_case("full_lstm_cum"))
    recipe["acoustics"].update(changes)
    with pytest.raises(NpfsnError):
        convert(checkpoint, recipe=recipe)


@pytest.mark.parametrize(
    "name, argument, tensor",
    [
        ("full_lstm_cum", "num_freqs", "fb_model.sequence_model.weight_ih_l0"),
        ("full_lstm_cum", "sb_model_hidden_size", "sb_model.sequence_model.weight_hh_l0"),
        ("base_lstm_cum", "hidden_size", "fullband_model.sequence_model.weight_hh_l0"),
        ("fast_lstm_cum", "encoder_input_size", "mel_scale.fb"),
        ("fast_lstm_cum", "bottleneck_num_layers", "bottleneck.sequence_model.weight_hh_l1"),
        ("improved_16k", "num_freqs", "fb_model.sequence_model.weight_ih_l0"),
    ],
)
def test_a_recipe_of_other_sizes_is_refused(tmp_path, name, argument, tensor):
    case = load_case(name)
    recipe = recipe_of(case)
    recipe["model"]["args"][argument] = 77
    path = saved(case, tmp_path)
    message = f"the recipe says {argument} = 77, but tensor {tensor}"
    with pytest.raises(ModelError, match=re.escape(message)):
        convert(path, recipe=recipe)


@pytest.mark.parametrize(
    "name", ["fast_lstm_cum", "full_lstm_cum", "base_lstm_cum", "improved_16k"]
)
def test_the_report_tells_what_was_asked_for(tmp_path, capsys, name):
    """All that recipes say is compared, used or called not needed; never used and not needed."""
    case = load_case(name)
    recipe = recipe_of(case)
    args = recipe["model"]["args"]
    args.setdefault("look_ahead", 2)
    args["weight_init"] = False
    path = saved(case, tmp_path)
    (tmp_path / "x.toml").write_text(toml_of(recipe))
    out = str(tmp_path / "x.npz")
    assert main([str(path), "-C", str(tmp_path / "x.toml"), "-o", out]) == 0
    lines = report(capsys.readouterr().out)
    ignored = set(lines["not needed"].split("(")[0].replace(",", " ").split())
    used = set(re.findall(r"(\w+) = ", lines["from recipe"]))
    assert not ignored & used and "weight_init" in ignored
    # Without a future of its own this one looks ahead by nothing.
    assert ("look_ahead" in ignored) == (name == "improved_16k")
    other = recipe_of(case)
    for argument in ignored - {"weight_init", "look_ahead"}:
        other["model"]["args"].pop(argument)
    assert convert(path, recipe=other).config == load_model(out).config


def test_a_section_without_its_linear_layer_is_refused(tmp_path):
    case = load_case("improved_16k")
    lost = "sb_model.sb_models.1.fc_output_layer"
    left = {name: v for name, v in case.params.items() if not name.startswith(lost)}
    assert len(left) == len(case.params) - 2
    path = written(tmp_path, left)
    with pytest.raises(ModelError, match=re.escape(f"tensor {lost}.weight is missing")):
        convert(path, recipe=recipe_of(case))


def test_a_checkpoint_without_its_first_section_is_refused(tmp_path):
    case = load_case("improved_16k")
    lost = "sb_model.sb_models.0."
    path = written(tmp_path, {k: v for k, v in case.params.items() if not k.startswith(lost)})
    missing = f"tensor {lost}sequence_model.weight_ih_l0 is missing"
    with pytest.raises(ModelError, match=re.escape(missing)):
        convert(path, recipe=recipe_of(case))


def test_parts_that_have_other_names_are_named(tmp_path):
    case = load_case("full_lstm_cum")
    renamed = {name.replace("fb_model", "full\nband"): v for name, v in case.params.items()}
    message = "fb_model.sequence_model.weight_ih_l0 is missing: .* it has full\\\\nband, sb_model$"
    with pytest.raises(ModelError, match=message):
        convert(written(tmp_path, renamed), recipe=recipe_of(case))


@pytest.mark.parametrize("value", [20, "20, 80"])
def test_bounds_of_sections_are_a_list(tmp_path, value):
    case = load_case("improved_16k")
    recipe = recipe_of(case)
    recipe["model"]["args"]["freq_cutoffs"] = value
    message = f"freq_cutoffs is {value!r}: expected a list of whole numbers"
    with pytest.raises(ModelError, match=message):
        convert(saved(case, tmp_path), recipe=recipe)


def test_a_recipe_of_another_architecture_is_refused(checkpoint):
    with pytest.raises(
        RecipeError, match="is for fast_fullsubnet, but best_model.tar holds fullsubnet"
    ):
        convert(checkpoint, recipe=recipe_of(load_case("fast_lstm_cum")))


# The norm is never guessed.


def test_without_a_norm_it_stops(checkpoint, capsys):
    with pytest.raises(NormError):
        convert(checkpoint)
    assert main([str(checkpoint)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in (*CAUSAL_NORMS, *OFFLINE_NORMS, "-C", "--norm", "stream"):
        assert word in message
    assert main([str(checkpoint), "--norm", "batch_norm"]) == 2
    assert "batch_norm" in capsys.readouterr().err
    assert os.listdir() == ["best_model.tar"]


def test_a_recipe_without_a_norm_means_the_offline_one(checkpoint, capsys):
    recipe = recipe_of(load_case("full_lstm_cum"))
    del recipe["model"]["args"]["norm_type"]
    assert convert(checkpoint, recipe=recipe).norm == "offline_laplace_norm"
    assert convert(checkpoint, recipe=recipe, norm="offline_laplace_norm").config.streams is False
    with pytest.raises(RecipeError, match="names no norm_type, which means offline_laplace_norm"):
        convert(checkpoint, recipe=recipe, norm=NORM)
    Path("r.toml").write_text(toml_of(recipe))
    assert main([str(checkpoint), "-C", "r.toml"]) == 0
    out = capsys.readouterr().out
    assert "offline_laplace_norm (recipe names none, which means this one)" in out
    assert "no: its norm (offline_laplace_norm) needs the whole signal" in out


def test_norm_and_recipe_must_agree(checkpoint, recipe):
    assert convert(checkpoint, recipe=recipe, norm=NORM).norm == NORM
    with pytest.raises(RecipeError, match=f"says {NORM}, but --norm says forgetting_norm"):
        convert(checkpoint, recipe=recipe, norm="forgetting_norm")


@pytest.mark.parametrize("wrong", [5, b"best_model.tar"])
def test_what_is_no_path_is_named(wrong, checkpoint):
    with pytest.raises(TypeError, match="checkpoint_path is of type .*: expected the path of a ch"):
        convert(wrong, norm=NORM)
    with pytest.raises(TypeError, match="recipe is of type .*: expected a path or a mapping"):
        convert(checkpoint, recipe=wrong)


# The command.


def test_the_report_says_where_each_value_came_from(checkpoint, recipe, capsys):
    assert main([str(checkpoint), "-C", str(recipe)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = report(captured.out)
    assert "20 tensors, float32" in lines["checkpoint"] and "epoch 58" in lines["checkpoint"]
    assert lines["model"].strip() == "fullsubnet, 100,771 parameters"
    assert lines["norm"].strip() == f"{NORM} (recipe)"
    assert lines["streams"].strip() == "yes"
    assert "768 samples (48 ms)" in lines["latency"] and "64 ms end to end" in lines["latency"]
    assert "fb_model = LSTM 257-2x48-257" in lines["from tensors"]
    assert "look_ahead = 2" in lines["from recipe"]
    assert "fb_output_activate_function = ReLU" in lines["from recipe"]
    assert "from defaults" not in lines
    assert "num_groups_in_drop_band" in lines["not needed"]
    size = os.path.getsize("best_model.npz")
    assert f"best_model.npz: {size / 1e6:.2f} MB, float32" in lines["written"]
    assert load_model("best_model.npz").norm == NORM


def test_the_report_without_a_recipe(checkpoint, capsys):
    assert main([str(checkpoint), "--norm", NORM]) == 0
    lines = report(capsys.readouterr().out)
    assert lines["norm"].strip() == f"{NORM} (from --norm)"
    for value in ("look_ahead = 2", "hop_length = 256", "fb_num_neighbors = 0"):
        assert value in lines["from defaults"]
    assert "from recipe" not in lines and "not needed" not in lines


def test_the_report_of_an_activation_with_a_tensor(tmp_path, capsys, monkeypatch):
    """A PReLU's slope is in the checkpoint, which is what settles it."""
    monkeypatch.chdir(tmp_path)
    case = load_case("full_prelu_tanh")
    saved(case, tmp_path)
    Path("x.toml").write_text(toml_of(recipe_of(case)))
    assert main(["x.tar", "-C", "x.toml"]) == 0
    lines = report(capsys.readouterr().out)
    assert "fb_output_activate_function = PReLU" in lines["from tensors"]
    assert "sb_output_activate_function = Tanh" in lines["from recipe"]


def test_the_report_of_a_fast_fullsubnet(tmp_path, capsys, monkeypatch):
    """What is assumed is printed, and what another architecture's recipe says is not needed."""
    monkeypatch.chdir(tmp_path)
    case = load_case("fast_lstm_cum")
    recipe = recipe_of(case)
    recipe["model"]["args"] |= {"hidden_size": 999, "output_activate_function": "Tanh"}
    saved(case, tmp_path)
    Path("x.toml").write_text(toml_of(recipe))
    assert main(["x.tar", "-C", "x.toml"]) == 0
    lines = report(capsys.readouterr().out)
    assert "encoder's output activation = none/ReLU" in lines["from defaults"]
    assert "bottleneck's output activation = ReLU" in lines["from defaults"]
    assert main(["x.tar", "--norm", NORM, "--force"]) == 0
    told = report(capsys.readouterr().out)
    assert "encoder_output_num_neighbors = 0" in told["from defaults"]
    assert "noisy_input_num_neighbors = 5" in told["from tensors"]
    assert "hidden_size" in lines["not needed"]
    assert "output_activate_function" in lines["not needed"]
    assert "bottleneck_hidden_size" not in lines["not needed"]


@pytest.mark.parametrize("architecture", ["fast_fullsubnet", "fullsubnet", "fullband"])
def test_what_tensors_tell_is_not_called_a_default(tmp_path, capsys, architecture):
    """The number of bins, and with it the window, is the size of a tensor."""
    path = written(tmp_path, small_model(architecture).tensors)
    assert main([str(path), "--norm", NORM, "-o", str(tmp_path / "y.npz")]) == 0
    lines = report(capsys.readouterr().out)
    assert "n_fft = " in lines["from tensors"] and "n_fft = " not in lines["from defaults"]


def test_a_hop_that_nobody_has_said_is_asked_for(tmp_path):
    """The published one is not guessed where it cannot be."""
    model = small_model("fullband", n_fft=320, hop_length=160)
    path = written(tmp_path, model.tensors)
    with pytest.raises(ModelError, match=r"hop is not known.*-C.*hop_length"):
        convert(path, norm=NORM)


@pytest.mark.parametrize("key", ["norm_typ", "normtype", "Norm_type", "NORM_TYPE"])
def test_a_misspelt_norm_is_refused(checkpoint, recipe, capsys, key):
    """It decides what the network computes; without it, recipes mean one that cannot stream."""
    recipe.write_text(recipe.read_text().replace("norm_type", key))
    assert main([str(checkpoint), "-C", str(recipe)]) == 1
    assert f"has {key}, but no norm_type: is that meant?" in capsys.readouterr().err
    assert not Path("best_model.npz").exists()


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("[model.args]", 'norm = "forgetting_norm"'),
        ("[model]", 'norm_type = "cumulative_laplace_norm"'),
        ("[trainer]", 'norm_type = "cumulative_laplace_norm"'),
        ("no section", 'norm = "offline_gaussian_norm"'),
    ],
)
def test_a_misplaced_norm_is_refused(checkpoint, recipe, capsys, place, line):
    """As a misspelt one: whoever wrote it down did not mean that there is none."""
    text = "".join(part for part in recipe.read_text().splitlines(True) if "norm_type" not in part)
    if place == "no section":
        text = f"{line}\n{text}"
    elif place in text:
        text = text.replace(f"{place}\n", f"{place}\n{line}\n")
    else:
        text += f"\n{place}\n{line}\n"
    recipe.write_text(text)
    assert main([str(checkpoint), "-C", str(recipe)]) == 1
    said = f"has {line.replace(chr(34), chr(39))} in {place}, but no norm_type in [model.args]"
    assert said in capsys.readouterr().err
    assert not Path("best_model.npz").exists()


@pytest.mark.parametrize(
    "old, new, warning",
    [
        ("hop_length", "hop_len", "has hop_len, which is not known here: is hop_length meant"),
        ("[acoustics]", "[accoustics]", "has [accoustics]: is [acoustics] meant"),
        ("hop_length", "HOP_LENGTH", "has HOP_LENGTH, which is not known here: is hop_length"),
        ("[acoustics]", "[ACOUSTICS]", "has [ACOUSTICS]: is [acoustics] meant"),
    ],
)
def test_misspelt_acoustics_show(checkpoint, recipe, capsys, old, new, warning):
    """The published hop of 256 would stand in for the one it was trained with."""
    said = recipe.read_text()
    assert old in said
    recipe.write_text(said.replace(old, new))
    assert main([str(checkpoint), "-C", str(recipe)]) == 0
    assert warning in capsys.readouterr().err
    with pytest.warns(UserWarning, match=re.escape(warning)):
        convert(checkpoint, recipe=recipe)


def test_a_rate_under_its_long_name_and_numbers_of_numpy_are_understood(checkpoint):
    recipe = recipe_of(load_case("full_lstm_cum"))
    acoustics = recipe["acoustics"]
    acoustics["sample_rate"] = np.int64(acoustics.pop("sr") + 8000)
    acoustics["device"] = ["a microphone"]
    args = recipe["model"]["args"]
    args["look_ahead"] = np.int32(args["look_ahead"])
    config = convert(checkpoint, recipe=recipe).config
    assert config.sample_rate == 24000 and type(config.sample_rate) is int


def test_the_recipe_is_not_overwritten(checkpoint, recipe, capsys):
    before = recipe.read_bytes()
    assert main([str(checkpoint), "-C", str(recipe), "-o", str(recipe), "--force"]) == 1
    assert "is the recipe itself" in capsys.readouterr().err
    assert recipe.read_bytes() == before


def test_what_lies_beside_the_network_shows(tmp_path, capsys):
    tensors = {f"net.{name}": value for name, value in load_case("base_lstm_cum").params.items()}
    tensors["loss.weight"] = np.ones(1, np.float32)
    path = written(tmp_path, tensors)
    assert main([str(path), "--norm", NORM, "-o", str(tmp_path / "a.npz")]) == 0
    assert "left out:      loss.weight (not the network's)" in capsys.readouterr().out


def test_which_of_several_networks_shows(tmp_path, capsys):
    """And another one can be named."""
    one, other = load_case("full_lstm_cum"), load_case("base_lstm_cum")
    state = {
        "model": tf.tensors(one.params),
        "teacher": tf.tensors(other.params, "net."),
    }
    path, out = tmp_path / "a.ckpt", tmp_path / "a.npz"
    path.write_bytes(tf.zip_bytes(state))
    assert main([str(path), "--norm", NORM, "-o", str(out)]) == 0
    assert "taken:         model; also there: teacher.net (--network" in capsys.readouterr().out
    assert load_model(out).architecture == "fullsubnet"
    assert (
        main([str(path), "--norm", NORM, "-o", str(out), "--network=teacher.net", "--force"]) == 0
    )
    assert "taken:         teacher.net; also there: model" in capsys.readouterr().out
    assert load_model(out).architecture == "fullband"
    assert convert(path, norm=NORM, network="teacher.net").architecture == "fullband"
    assert main([str(path), "--norm", NORM, "-o", str(out), "--network", "ema", "--force"]) == 1
    assert "expected model, teacher.net" in capsys.readouterr().err


def test_defaults_that_do_not_fit_are_nobodys_mistake(tmp_path):
    """What tensors do not tell is asked for; a recipe that contradicts itself is told as it is."""
    model = small_model("fullsubnet", n_fft=768, hop_length=384)
    path = written(tmp_path, model.tensors)
    with pytest.raises(ModelError, match=r"hop_length = 256: .*; without a recipe, .*-C train"):
        convert(path, norm=NORM)
    recipe = {
        "acoustics": {"n_fft": 768, "hop_length": 256},
        "model": {"args": {"norm_type": NORM}},
    }
    with pytest.raises(ModelError, match="hop_length = 256: ") as info:
        convert(path, recipe=recipe)
    assert "without a recipe" not in str(info.value)


def test_a_misspelt_argument_shows(checkpoint, recipe, capsys):
    recipe.write_text(recipe.read_text().replace("look_ahead", "look_ahed"))
    assert main([str(checkpoint), "-C", str(recipe)]) == 0
    captured = capsys.readouterr()
    with pytest.warns(UserWarning, match="is look_ahead meant"):
        assert convert(checkpoint, recipe=recipe).config.look_ahead == 2
    lines = report(captured.out)
    assert "look_ahead = 2" in lines["from defaults"] and "look_ahed" in lines["not needed"]
    assert captured.err == (
        "npfsn-convert: warning: the recipe has look_ahed, which is not known here: is look_ahead "
        "meant?\n"
    )
    text = recipe.read_text()
    names = "\n".join(f"look_ahea{i} = 1" for i in range(1_000))
    recipe.write_text(text.replace("[model.args]", f"[model.args]\n{names}"))
    assert main([str(checkpoint), "-C", str(recipe), "--force"]) == 0
    assert capsys.readouterr().err.count("is look_ahead meant?\n") == 20
    names = "\n".join(f"look_{i} = 1" for i in range(10_000))
    recipe.write_text(text.replace("[model.args]", f"[model.args]\n{names}"))
    assert main([str(checkpoint), "-C", str(recipe), "--force"]) == 0
    out = capsys.readouterr().out
    assert "look_0, look_1" in out and " more (in the recipe)" in out and len(out) < 2000


def test_an_existing_output_needs_force_and_impossible_ones_are_refused(checkpoint, capsys):
    arguments = [str(checkpoint), "--norm", NORM, "-q"]
    assert main(arguments) == 0
    assert capsys.readouterr() == ("", "")
    before = Path("best_model.npz").read_bytes()
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--force", "--precision", "float16"]) == 0
    half = Path("best_model.npz").read_bytes()
    assert len(half) < 0.6 * len(before)
    assert main([*arguments, "-o", "other.npz"]) == 0
    assert Path("other.npz").read_bytes() == before
    for output, reason in (
        ("missing/x.npz", "does not exist"),
        (".", "folder"),
        ("models/", "models/ is a folder: name a file with -o"),
        ("other.npz/", "other.npz/ is a folder: name a file with -o"),  # there is a file so named
        (str(checkpoint), "is the input itself"),
    ):
        assert main([*arguments, "--force", "-o", output]) == 1
        captured = capsys.readouterr()
        assert reason in captured.err and captured.err.count("\n") == 1
    assert checkpoint.read_bytes() == tf.zip_bytes(state(load_case("full_lstm_cum")))
    assert Path("other.npz").read_bytes() == before
    assert sorted(os.listdir()) == ["best_model.npz", "best_model.tar", "other.npz"]


@pytest.mark.parametrize("name", ["model", "best.tar", "x.onnx"])
def test_a_model_file_converts_whatever_its_name(checkpoint, recipe, name):
    assert main([str(checkpoint), "-C", str(recipe), "-o", "x.npz"]) == 0
    os.rename("x.npz", name)
    assert main([name, "--precision", "int8", "-o", "y.npz"]) == 0
    assert load_model("y.npz").info["precision"] == "int8"


def test_a_checkpoint_converts_whatever_its_name(checkpoint, recipe, capsys):
    os.rename(checkpoint, "best.npz")
    assert main(["best.npz", "-C", str(recipe), "-o", "x.npz"]) == 0
    np.savez("best.npz", weight=np.zeros(3))
    assert main(["best.npz", "-C", str(recipe), "-o", "y.npz"]) == 1
    assert "it is a NumPy archive, and no model of npfsn's" in capsys.readouterr().err


def test_a_model_file_converts_to_what_its_checkpoint_would(checkpoint, recipe, capsys):
    """Through float32 from any precision; what has been rounded stays so."""
    arguments = [str(checkpoint), "-C", str(recipe), "-q", "--precision"]
    for precision in PRECISIONS:
        assert main([*arguments, precision, "-o", f"{precision}.npz"]) == 0
    files = {name: Path(f"{name}.npz").read_bytes() for name in PRECISIONS}
    for source, precision, same in (
        ("float32", "float32", "float32"),
        ("float32", "float16", "float16"),
        ("float32", "int8", "int8"),
        ("float16", "float16", "float16"),
        ("int8", "int8", "int8"),
    ):
        assert main([f"{source}.npz", "--precision", precision, "-o", "again.npz", "--force"]) == 0
        assert Path("again.npz").read_bytes() == files[same]
        lines = report(capsys.readouterr().out)
        assert lines["norm"] == " " * 10 + load_model("again.npz").norm
        assert re.fullmatch(rf" +again\.npz: [\d.]+ MB, {precision}", lines["written"])
    widened = convert("float16.npz", precision="float32")
    assert widened.info["precision"] == "float32"
    assert widened.info["source"] == load_model("float32.npz").info["source"]
    for name, tensor in load_model("float16.npz").tensors.items():
        np.testing.assert_array_equal(widened.tensors[name], tensor.astype("f"), strict=True)


@pytest.mark.parametrize(("option", "flag"), [("recipe", "-C"), ("network", "--network")])
def test_a_model_file_needs_neither_recipe_nor_network(checkpoint, recipe, option, flag, capsys):
    assert main([str(checkpoint), "-C", str(recipe), "-q"]) == 0
    with pytest.raises(ModelError, match=f"is a model file, for which there is no {option}"):
        convert("best_model.npz", **{option: str(recipe)})
    assert main(["best_model.npz", flag, str(recipe), "-o", "other.npz"]) == 1
    assert f"no {option} to give: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_file_keeps_its_precision(checkpoint, recipe, precision):
    assert main([str(checkpoint), "-C", str(recipe), "-q", "--precision", precision]) == 0
    before = Path("best_model.npz").read_bytes()
    save_model(convert("best_model.npz"), "again.npz")
    assert Path("again.npz").read_bytes() == before


@pytest.mark.parametrize("name", ["full_lstm_offline", "improved_48k"])
def test_a_norm_chosen_for_a_model_file_is_told_with_the_one_it_was_trained_with(
    tmp_path, capsys, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    case = load_case(name)
    trained = convert(saved(case, tmp_path), recipe=recipe_of(case))
    assert not trained.config.streams
    save_model(trained, "x.npz")
    assert main(["x.npz", "--norm", NORM, "-o", "live.npz"]) == 0
    words = f"{NORM}.* \\(trained with {trained.config.norms}\\)\n"
    assert re.search(f"norm: +{words}", capsys.readouterr().out)
    model = load_model("live.npz")
    assert model.config == trained.config.with_norm(NORM) and model.config.streams
    assert cli.main(["info", "live.npz"]) == 0
    assert re.search(f"norm +{words}", capsys.readouterr().out)
    for key, tensor in trained.tensors.items():
        np.testing.assert_array_equal(model.tensors[key], tensor, strict=True)
    # Another choice, and back again.
    assert main(["live.npz", "--norm", "forgetting_norm", "-o", "b.npz"]) == 0
    assert f"(trained with {trained.config.norms})\n" in capsys.readouterr().out
    assert main(["b.npz", "--norm", trained.norm, "-o", "c.npz"]) == 0
    assert "trained with" not in capsys.readouterr().out
    assert load_model("c.npz").config == trained.config
    assert main(["x.npz", "--norm", "laplace", "-o", "d.npz"]) == 2
    assert "unknown norm" in capsys.readouterr().err and not Path("d.npz").exists()


def test_a_model_file_that_cannot_be_converted_is_named(checkpoint, recipe, capsys):
    assert main([str(checkpoint), "-C", str(recipe), "-q"]) == 0
    model = load_model("best_model.npz")
    name = next(iter(model.tensors))
    large = {**model.tensors, name: np.full_like(model.tensors[name], 1e5)}
    save_model(dataclasses.replace(model, tensors=large), "large.npz")
    for source, reason in (
        ("large.npz", f"cannot convert large.npz: its tensor {name} has values too large"),
        ("none.npz", "cannot open the model none.npz"),
        ("best_model.npz", "best_model.npz is the input itself"),
    ):
        more = [] if source == "best_model.npz" else ["-o", "other.npz"]
        assert main([source, "--precision", "float16", "--force", *more]) == 1
        err = capsys.readouterr().err
        assert reason in err and err.count("\n") == 1
    assert not Path("other.npz").exists()
    assert load_model("best_model.npz").info["precision"] == "float32"


@posix
def test_a_pipe_or_device_is_no_place_for_a_model(checkpoint, capsys):
    os.mkfifo("pipe")
    os.symlink("/dev/null", "device")
    for output in ("pipe", "device"):
        assert main([str(checkpoint), "--norm", NORM, "--force", "-o", output]) == 1
        assert "is a pipe or device" in capsys.readouterr().err
    assert not Path("pipe").is_file() and not Path("device").is_file()


@posix
def test_a_forbidden_folder_is_told(checkpoint, capsys):
    os.mkdir("forbidden", 0o500)
    os.chmod(".", 0o755)
    root = os.geteuid() == 0
    if root:  # may write anywhere
        os.seteuid(65534)
    try:
        code = main([checkpoint.name, "--norm", NORM, "-o", "forbidden/x.npz"])
    finally:
        if root:
            os.seteuid(0)
    assert code == 1
    message = capsys.readouterr().err
    assert "cannot write forbidden" in message and "Permission denied" in message
    assert os.listdir("forbidden") == []


def test_an_output_that_appears_meanwhile_is_kept(checkpoint, capsys, monkeypatch):
    """It was not there when this was looked at, and nobody said --force."""

    def slow(path, network):
        Path("best_model.npz").write_text("mine")
        return read_checkpoint(path, network)

    monkeypatch.setattr("npfsn.convert.read_checkpoint", slow)
    assert main([str(checkpoint), "--norm", NORM]) == 1
    assert "best_model.npz exists already" in capsys.readouterr().err
    assert Path("best_model.npz").read_text() == "mine"
    assert sorted(os.listdir()) == ["best_model.npz", "best_model.tar"]


def test_a_full_disk_leaves_no_file(checkpoint, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main([str(checkpoint), "--norm", NORM]) == 1
    message = capsys.readouterr().err
    assert "cannot write best_model.npz: No space left on device" in message
    assert message.count("\n") == 1
    assert os.listdir() == ["best_model.tar"]


@pytest.mark.parametrize("verbose", [False, True])
def test_a_mistake_of_this_program_is_one_sentence(checkpoint, capsys, monkeypatch, verbose):
    def wrong(*_, **__):
        raise IndexError("nobody thought of this")

    monkeypatch.setattr("npfsn.convert.save_model", wrong)
    arguments = [str(checkpoint), "--norm", NORM, *["-v"] * verbose]
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "error: unexpected IndexError: nobody thought of this (-v shows where)\n" in message
    assert ("Traceback" in message) == verbose and (message.count("\n") == 1) != verbose
    assert os.listdir() == ["best_model.tar"]


def test_bad_files_leave_one_sentence_and_no_file(checkpoint, capsys):
    Path("bad.tar").write_bytes(tf.pickle_file(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR."))
    Path("cut.tar").write_bytes(checkpoint.read_bytes()[:-1000])
    Path("bad.toml").write_text("[model.args\n")
    before = sorted(os.listdir())
    for arguments in (
        ["bad.tar", "--norm", NORM],
        ["cut.tar", "--norm", NORM],
        ["missing.tar", "--norm", NORM],
        [".", "--norm", NORM],
        ["..", "--norm", NORM],
        ["", "--norm", NORM],
        [str(checkpoint), "-C", "bad.toml"],
        [str(checkpoint), "-C", "missing.toml"],
    ):
        assert main(arguments) == 1, arguments
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert captured.err.startswith("npfsn-convert: error: ")
    assert sorted(os.listdir()) == before


def test_names_cannot_write_on_the_terminal(checkpoint, capsys):
    for arguments in (["bad\x1b[31m\n.tar"], [str(checkpoint), "-o", "bad\x1b[31m\n.npz"]):
        main([*arguments, "--norm", NORM])
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err and "bad\\x1b[31m\\n" in out + err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 1, "error: not enough memory"),
        (Stopped(signal.SIGTERM), 143, "terminated"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_it_early_leaves_no_file(checkpoint, capsys, monkeypatch, error, code, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    assert main([str(checkpoint), "--norm", NORM]) == code
    assert capsys.readouterr().err == f"npfsn-convert: {said}\n"
    assert os.listdir() == ["best_model.tar"]


@posix
def test_it_hears_sigterm(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert main([str(checkpoint), "--norm", NORM]) == 143
    assert os.listdir() == ["best_model.tar"]


@full_device
@pytest.mark.parametrize("way", [">&-", "2>&-", ">/dev/full", "2>/dev/full"])
def test_outputs_that_take_nothing_stop_nothing(checkpoint, way):
    command = f'exec "$0" -m npfsn.convert "$1" --norm {NORM} {way}'
    found = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, str(checkpoint)],
        capture_output=True,
        env=environment(),
    )
    assert found.returncode == 0 and b"Traceback" not in found.stderr
    assert load_model("best_model.npz").norm == NORM


def test_wrong_arguments_show_the_usage_and_help_shows_examples(capsys):
    for arguments in ([], ["a", "b"], ["a", "--precision", "int4"], ["a", "--what"]):
        with pytest.raises(SystemExit) as info:
            main(arguments)
        assert info.value.code == 2
        assert "usage: npfsn-convert" in capsys.readouterr().err
    with pytest.raises(SystemExit) as info:
        main(["--help"])
    assert info.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out and all(name in out for name in (*CAUSAL_NORMS, *OFFLINE_NORMS))


@pytest.mark.parametrize(
    ("second", "hint"),
    [
        ("train.toml", " (a recipe is named with -C train.toml)\n"),
        ("model.npz", " (the output is named with -o model.npz)\n"),
        ("--what", "\n"),
    ],
)
def test_a_second_name_is_neither_recipe_nor_output(capsys, second, hint):
    with pytest.raises(SystemExit):
        main(["best_model.tar", second])
    assert f"unrecognized arguments: {second}{hint}" in capsys.readouterr().err


def test_a_name_with_spaces_needs_quotes(checkpoint, capsys):
    checkpoint.rename("best model.tar")
    with pytest.raises(SystemExit):
        main(["best", "model.tar", "-C", "train.toml"])
    quote = '"' if os.name == "nt" else "'"
    said = f"a name with spaces needs quotes: {quote}best model.tar{quote}\n"
    assert said in capsys.readouterr().err


def test_as_a_module_and_without_torch(checkpoint, recipe):
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # importing it would fail
        "from npfsn.convert import main\n"
        "code = main(sys.argv[1:])\n"
        "for name in ('onnxruntime', 'matplotlib', 'tomllib'):\n"
        "    assert name not in sys.modules, name\n"
        "sys.exit(code)\n"
    )
    arguments = [str(checkpoint), "-C", str(recipe)]
    options = {"capture_output": True, "text": True, "env": environment()}
    first = subprocess.run([sys.executable, "-c", code, *arguments], **options)
    assert first.returncode == 0, first.stderr
    assert "written:" in first.stdout
    module = [sys.executable, "-m", "npfsn.convert", *arguments]
    again = subprocess.run(module, **options)
    assert again.returncode == 1 and "exists already" in again.stderr
    forced = subprocess.run([*module, "--force"], **options)
    assert forced.returncode == 0 and forced.stdout == first.stdout


def test_stdout_and_an_empty_name_are_refused(checkpoint, capsys):
    assert main([str(checkpoint), "--norm", NORM, "-o", "-"]) == 1
    assert "not written to standard output" in capsys.readouterr().err
    assert main(["", "--norm", NORM]) == 1
    assert "no checkpoint is named" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\0", "a\x85b", "\u2028"])
def test_messages_are_one_line_whatever_a_file_is_called(name):
    """Of Python, too: a server may log them."""
    for action in (convert, load_model):
        with pytest.raises(NpfsnError) as info:
            action(name + ".npz")
        assert str(info.value).isprintable()


@pytest.mark.parametrize("name", ["sb_num_neighbors", "fb_num_neighbors"])
def test_there_are_fewer_neighbours_than_bins(name):
    def config(n: int) -> fullsubnet.Config:
        numbers = {"sb_num_neighbors": 0, "fb_num_neighbors": 0, name: n}
        full, sub = Sequence("LSTM", 9, 4, 2, 9, "ReLU"), Sequence("LSTM", 2 * n + 2, 4, 2, 2)
        return fullsubnet.Config(
            NORM, n_fft=16, hop_length=8, fb_model=full, sb_model=sub, **numbers
        )

    config(8)
    with pytest.raises(ModelError, match=name):
        config(9)


def test_neighbours_that_a_recipe_leaves_out_follow_from_the_others():
    full, sub = Sequence("LSTM", 9, 4, 2, 9, "ReLU"), Sequence("LSTM", 8, 4, 2, 2)
    numbers = {"n_fft": 16, "hop_length": 8, "fb_num_neighbors": 2}
    made = fullsubnet.Config(NORM, fb_model=full, sb_model=sub, sb_num_neighbors=1, **numbers)
    said = {"norm_type": NORM, "win_length": 16, **numbers}
    assert fullsubnet.Config.from_tensors(made.tensor_shapes(), said) == made


def test_centres_of_noisy_and_full_band_input_are_alike():
    def config(center: int) -> improved_fullsubnet.Config:
        return improved_fullsubnet.Config(
            NORM,
            n_fft=16,
            hop_length=4,
            freq_cutoffs=(4,),
            sb_num_center_freqs=(1, 2),
            sb_num_neighbor_freqs=(1, 1),
            fb_num_center_freqs=(1, center),
            fb_num_neighbor_freqs=(1, 1),
            fb_model=Sequence("LSTM", 8, 4, 2, 8),
            sb_models=(Sequence("LSTM", 6, 4, 2, 2), Sequence("LSTM", 8, 4, 2, 4)),
        )

    config(2)
    with pytest.raises(ModelError, match="the same for noisy and full-band input"):
        config(4)


@pytest.mark.parametrize("value", [0, -1, 1001])
def test_a_shrink_size_is_one_or_more(value):
    with pytest.raises(ModelError, match="shrink_size"):
        small_model("fast_fullsubnet", shrink_size=value)


@pytest.mark.parametrize("option", ["checkpoint", "-o", "-C"])
def test_an_empty_name_is_told(option, tmp_path, capsys):
    arguments = {"checkpoint": "a.tar", "-o": str(tmp_path / "a.npz"), "-C": "a.toml", option: ""}
    name = arguments.pop("checkpoint")
    assert main([name, *(word for pair in arguments.items() for word in pair)]) == 1
    what = {"-o": "output", "-C": "recipe"}.get(option, option)
    assert f"no {what} is named: the name is empty" in capsys.readouterr().err


@pytest.mark.parametrize("path, recipe, what", [("", None, "checkpoint_path"), ("a", "", "recipe")])
def test_an_empty_name_is_told_in_python(path, recipe, what):
    with pytest.raises(CheckpointError, match=f"^{what} is empty: expected"):
        convert(path, recipe=recipe, norm=NORM)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_during_imports_ends_the_command_in_a_sentence(name):
    """It waits until they are done: numpy, for one, takes it for a mistake of its own."""
    number = int(getattr(signal, name))
    program = (
        "import signal, sys\n"
        "class Late:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == 'numpy': signal.raise_signal({number})\n"
        "sys.meta_path.insert(0, Late())\n"
        "from npfsn.cli import convert\n"
        "assert 'numpy' not in sys.modules\n"
        "sys.exit(convert(['a.tar']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = "interrupted" if name == "SIGINT" else "terminated"
    assert (done.returncode, done.stderr) == (128 + number, f"npfsn-convert: {said}\n")


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("fast_fullsubnet", {"look_ahead": 5, "shrink_size": 3, "quiet_level": 2.5}),
        ("fullsubnet", {"look_ahead": 5}),
        ("fullband", {"look_ahead": 5}),
        ("improved_fullsubnet", {"fdrc": 0.3}),
    ],
)
def test_what_no_tensor_says_comes_from_the_recipe(architecture, said):
    config = small_model(architecture, **said).config
    stacks = "fb_model sb_model sb_models fullband_model encoder bottleneck decoder".split()
    args = {key: value for key, value in vars(config).items() if key not in stacks}
    assert type(config).from_tensors(config.tensor_shapes(), args) == config


@pytest.mark.parametrize(
    ("architecture", "stack", "name"),
    [
        ("fullsubnet", "fb_model", "fb_output_activate_function"),
        ("fullsubnet", "sb_model", "sb_output_activate_function"),
        ("fullband", "fullband_model", "output_activate_function"),
    ],
)
def test_an_output_activation_is_that_of_its_own_stack(architecture, stack, name):
    config = small_model(architecture).config
    changed = dataclasses.replace(getattr(config, stack), activation="Tanh")
    expected = dataclasses.replace(config, **{stack: changed})
    args = {"norm_type": config.norm_type, name: "Tanh"}
    assert type(config).from_tensors(config.tensor_shapes(), args) == expected


def test_a_wide_improved_fullsubnet_needs_no_recipe():
    centers = (1, 4, 8, 16)
    config = improved_fullsubnet.Config(
        "cumulative_laplace_norm",
        sample_rate=48000,
        n_fft=960,
        hop_length=480,
        freq_cutoffs=(20, 120, 240),
        sb_num_center_freqs=centers,
        sb_num_neighbor_freqs=(1, 1, 1, 1),
        fb_num_center_freqs=centers,
        fb_num_neighbor_freqs=(1, 1, 1, 1),
        fb_model=Sequence("LSTM", 480, 3, 1, 480),
        sb_models=tuple(Sequence("LSTM", 2 * n + 4, 3, 1, 2 * n) for n in centers),
    )
    args = {"norm_type": config.norm_type}
    assert type(config).from_tensors(config.tensor_shapes(), args) == config


@pytest.mark.parametrize("width", [2, 9])
def test_a_bottleneck_gives_one_value_a_band(width):
    config = small_model("fast_fullsubnet").config
    with pytest.raises(ModelError, match=f"gives {width}: expected 6 .* and 1"):
        bottleneck = dataclasses.replace(config.bottleneck, output_size=width)
        dataclasses.replace(config, bottleneck=bottleneck)


def test_layers_of_an_encoder_fit_together():
    config = small_model("fast_fullsubnet").config
    first, last = config.encoder
    with pytest.raises(ModelError, match="do not fit together"):
        dataclasses.replace(config, encoder=(first, dataclasses.replace(last, input_size=6)))


def test_a_full_band_mask_has_two_values_a_bin():
    config = small_model("fullband").config
    with pytest.raises(ModelError, match="expected 257 bins and 514 mask values"):
        changed = dataclasses.replace(config.fullband_model, output_size=257)
        dataclasses.replace(config, fullband_model=changed)


@pytest.mark.parametrize("name", ["sb_num_neighbor_freqs", "fb_num_neighbor_freqs"])
def test_no_more_neighbours_of_a_section_than_there_are_bins(name):
    config = improved_fullsubnet.Config.smallest("cumulative_laplace_norm")
    for n in (7, 8):
        models = (Sequence("LSTM", 2 * (n + 2), 4, 2, 2), config.sb_models[1])
        with contextlib.nullcontext() if n == 7 else pytest.raises(ModelError, match=name):
            dataclasses.replace(config, sb_models=models, **{name: (n, 1)})


def test_an_output_that_is_moved_on_at_once(checkpoint, tmp_path, monkeypatch, capsys):
    """By a program that waits for it: it was written all the same."""

    def save_and_move(model, path, overwrite):
        save_model(model, path, overwrite=overwrite)
        os.rename(path, tmp_path / "moved.npz")

    monkeypatch.setattr("npfsn.convert.save_model", save_and_move)
    assert main([str(checkpoint), "--norm", "cumulative_laplace_norm", "-o", "x.npz"]) == 0
    assert "written:       x.npz: float32" in capsys.readouterr().out
    assert load_model(tmp_path / "moved.npz").norm == "cumulative_laplace_norm"
