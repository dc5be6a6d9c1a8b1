"""Recipes: what is taken from them, and what is refused."""

from __future__ import annotations

import tracemalloc

import pytest

from npfsn.errors import RecipeError
from npfsn.recipe import read_recipe

RECIPE = """\
# A recipe as people have it: ours, with the published one's sections and names.
[meta]
save_dir = "~/Experiments"
description = "FullSubNet, cumulative norm"
seed = 0  # of everything；全部
use_amp = true

[acoustics]
n_fft = 512
win_length = 512
sr = 16000
hop_length = 256

[loss_function]
name = "mse_loss"
[loss_function.args]

[train_dataset]
path = "dataset_train.Dataset"
[train_dataset.args]
snr_range = [-5, 20]
reverb_proportion = 0.75
dataset_dir_list = [
#   "~/unused",
    "~/with_reverb/",  # comment
    "~/no_reverb/"
]

[model]
path = "fullsubnet.model.Model"

[model.args]
sb_num_neighbors = 15
fb_num_neighbors = 0
num_freqs = 257
look_ahead = 2
sequence_model = "LSTM"
fb_output_activate_function = "ReLU"
sb_output_activate_function = false
fb_model_hidden_size = 512
sb_model_hidden_size = 384
weight_init = false
norm_type = "cumulative_laplace_norm"
num_groups_in_drop_band = 2

[trainer.train]
clip_grad_norm_value = 10
learning_rate = 1e-3
"""


def test_a_recipe_tells_architecture_norm_and_arguments(tmp_path):
    path = tmp_path / "train.toml"
    for text in (RECIPE, RECIPE.replace("\n", "\r\n"), "\ufeff" + RECIPE):
        path.write_bytes(text.encode())
        recipe = read_recipe(path)
        assert recipe.architecture == "fullsubnet"
        assert recipe.norm == "cumulative_laplace_norm"
        assert recipe.args["look_ahead"] == 2 and recipe.args["sample_rate"] == 16000
        assert recipe.args["sb_output_activate_function"] is False
        assert {"n_fft", "win_length", "hop_length"} <= set(recipe.args)
        assert not {"sr", "norm_type", "seed"} & set(recipe.args)


@pytest.mark.parametrize(
    ("path", "architecture"),
    [
        ("fast_fullsubnet.model.Model", "fast_fullsubnet"),
        ("fullband_baseline.model.Model", "fullband"),
        ("improved_fullsubnet.model.Model", "improved_fullsubnet"),
        ("model.Model", None),
        ("my.own.Net", None),
    ],
)
def test_the_path_of_a_recipe_tells_its_architecture(path, architecture):
    assert read_recipe({"model": {"path": path, "args": {}}}).architecture == architecture


def test_variants_of_recipes(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(RECIPE.replace("[acoustics]", "[acoustic]"), encoding="utf-8")
    assert read_recipe(path).args["hop_length"] == 256
    without_norm = "\n".join(line for line in RECIPE.split("\n") if "norm_type" not in line)
    path.write_text(without_norm, encoding="utf-8")
    assert read_recipe(path).norm is None
    improved = {"model": {"args": {"n_fft": 960, "hop_length": 480}}, "acoustics": {"sr": 48000}}
    assert read_recipe(improved).args == {"n_fft": 960, "hop_length": 480, "sample_rate": 48000}


def refusal(source) -> str:
    with pytest.raises(RecipeError) as info:
        read_recipe(source)
    assert str(info.value).isprintable() and len(str(info.value)) < 2000
    return str(info.value)


def test_recipes_that_are_refused(tmp_path):
    path = tmp_path / "train.toml"
    assert "no such file" in refusal(path)
    assert "folder" in refusal(tmp_path)
    path.write_bytes(b"[model.args]\nx = '\xff'")
    assert "UTF-8" in refusal(path)
    path.write_text("[model\n")
    assert "line 1" in refusal(path)
    path.write_bytes(b"#" * (2 << 20))
    assert "at most" in refusal(path)
    path.write_text("")
    assert "[model.args]" in refusal(path)
    path.write_text('inherit = "common.toml"\n[model]\npath = "x"\n')
    assert "inherits from common.toml" in refusal(path)


@pytest.mark.parametrize(
    "recipe",
    [
        {"acoustics": "x" * 100_000, "model": {"args": {}}},
        {"acoustics": {"sr": "x" * 100_000}, "model": {"args": {}}},
        {"acoustics": {"sr": 8000}, "model": {"args": {"n_fft": 1, "sample_rate": "\x1b\n" * 999}}},
        {"model": {"args": {"sr": "\x1b[31m\n", "sample_rate": 16000}}},
        {"model": {"args": {"norm_type": [1] * 100_000}}},
    ],
    ids=lambda recipe: str(recipe)[:80],
)
def test_values_of_recipes_are_told_in_few_words(recipe):
    refusal(recipe)


def test_names_of_recipes_are_told_in_few_words(tmp_path):
    path = tmp_path / "train.toml"
    name = "x" * 100_000
    for text in (
        f"{name} = 1\n{name} = 2",
        f"{name}",
        f"[{name}]\n[{name}]",
        f"{name}=1\n[{name}.a]",
    ):
        path.write_text(text)
        refusal(path)


def test_a_file_larger_than_any_recipe_is_refused(tmp_path):
    """Reading takes a multiple of its size: blank lines were the worst."""
    path = tmp_path / "x.toml"
    for n_line, found in ((1 << 17, r"has no \[model"), (1 << 18, "at most 262,144 are read")):
        path.write_text("#\n" * n_line)
        tracemalloc.start()
        with pytest.raises(RecipeError, match=found):
            read_recipe(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


def test_contradictions_and_old_names():
    def document(args=None, **sections):
        return {"model": {"args": args or {}}, **sections}

    assert "both" in refusal(document(acoustics={}, acoustic={}))
    assert "expected a table" in refusal(document(acoustics=3))
    assert "whole number" in refusal(document(acoustics={"sr": 16000.0}))
    assert "whole number" in refusal(document(acoustics={"n_fft": True}))
    assert "in its acoustics, but 960" in refusal(
        document({"n_fft": 960}, acoustics={"n_fft": 512})
    )
    assert "name of a norm" in refusal(document({"norm_type": False}))
    assert "neither" in refusal(document({"x": {"y": 1}}))
    assert "neither" in refusal(document({"x": [[1]]}))
    # Silently, the first version's norm would be taken for the absent one, and its sizes ignored.
    message = refusal(document({"use_cumulative_norm": True, "n_neighbor": 15}))
    assert "use_cumulative_norm by norm_type" in message
    assert "n_neighbor by sb_num_neighbors" in message
    assert "[model.args]" in refusal({"model": 3})


@pytest.mark.parametrize(
    "name",
    [
        "n_freqs",
        "n_neighbor",
        "fband_output_activate_function",
        "sband_output_activate_function",
        "fband_model_hidden_size",
        "sband_model_hidden_size",
        "use_offline_norm",
        "use_offline_laplace_norm",
        "use_offline_gaussian_norm",
        "use_cumulative_norm",
        "use_forgetting_norm",
        "use_hybrid_norm",
    ],
)
def test_no_old_name_is_ignored(name):
    """Each is refused by itself: what it says would otherwise be a default's to say."""
    assert f"replace {name} by " in refusal({"model": {"args": {name: 1}}})
