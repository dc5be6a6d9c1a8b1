"""Recipes: the TOML reader against Python's own, and what is taken from a recipe."""

from __future__ import annotations

import math
import os
import random
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npfsn import toml
from npfsn.errors import RecipeError
from npfsn.recipe import read_recipe

FUZZ = int(os.environ.get("NPFSN_FUZZ", "1"))
SEED = int(os.environ.get("NPFSN_FUZZ_SEED", "20260103"))

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


# The reader against Python's own.

DOCUMENTS = [
    RECIPE,
    "",
    "a = 1",
    "a=1#x",
    "\ta = 1 \r\n\r\n",
    "a.b.c = 1\na.b.d = 2\n[x]\ny.z = 3",
    '"quoted key" = 1\n\'literal\\key\' = 2\n"a.b".c = 3\n"" = 4\n1234 = 5\n-_ = 6',
    'a = "\\b\\t\\n\\f\\r\\"\\\\\\u00e9\\U0001F600"',
    "a = 'C:\\path\\n'",
    'a = """\nline\\\n    \n   joined\nend"""',
    'a = """x""""\nb = """x"""""\nc = """a "" b"""',
    "a = '''\nraw \\n ''here''\n'''\nb = ''''x'''''",
    'a = """\r\nx\r\ny"""\r\n',
    "a = [1, 2,\n 3, # c\n]\nb = [[1], ['x', true]]\nc = []",
    "a = {x = 1, y.z = 2, 'k' = {}}\nb = {}",
    "a = [{x = 1}, {x = 2}]",
    "a = 0\nb = -0\nc = +7\nd = 1_000\ne = 0xDEAD_beef\nf = 0o17\ng = 0b1_0",
    "a = 1.5\nb = -0.0\nc = 1e3\nd = 1E-3\ne = 6.02_1e+2_3\nf = inf\ng = -inf\nh = +nan",
    "[[p]]\nn = 1\n[[p]]\nn = 2\n[p.q]\nx = 1\n[[p.r]]\n[[p.r]]\ny = 2",
    "[a.b.c]\nx = 1\n[a]\ny = 2\n[a.b]\nz = 3",
    "[fruit]\napple.color = 1\napple.taste.sweet = true\n[fruit.apple.texture]\nsmooth = true",
    "[ a . 'b' ]\nx=1",
    "[a.b]\n[a]\nc.d = 1",
    # Each of these is wrong somewhere.
    "a",
    "a =",
    "= 1",
    "a = 1 b = 2",
    "a = 1\na = 2",
    "a = 1\na.b = 2",
    "a.b = 1\na = 2",
    "[a]\n[a]",
    "[a]\nb = 1\n[a.b]",
    "a = 1\n[a]",
    "a = []\n[[a]]",
    "[[a]]\n[a]",
    "[a]\n[[a]]",
    "[a]\n[[a.b]]\n[a.b]",
    "a = {}\n[a.b]",
    "a = {x = 1}\na.y = 2",
    "a = {x.y = 1}\na.x.z = 2",
    "[fruit]\napple.color = 1\n[fruit.apple]",
    "[fruit]\napple.taste.sweet = 1\n[fruit.apple.taste]",
    "[a.b.c]\n[a]\nb.c.d = 1",
    "[a]\nb.c = 1\n[a.d]\n[x]\n[a.b.e]\n",
    "a = {x = 1,}",
    "a = {x = 1\n}",
    "a = [1 2]",
    "a = [1,,2]",
    "a = 01",
    "a = 1__0",
    "a = _1",
    "a = 1_",
    "a = 1.",
    "a = .5",
    "a = 1e",
    "a = 0x",
    "a = +0x1",
    "a = Inf",
    "a = tru",
    "a = truefalse",
    'a = "x',
    'a = "\\q"',
    'a = "\\ud800"',
    'a = "\\u12"',
    'a = "\n"',
    "a = 'x\n'",
    "a = '''x",
    "a = 'x\x00'",
    "# \x07",
    "a = 1 # \x07",
    "a = 1\rb = 2",
    "[]",
    "[a",
    "[a]]",
    "[[a]",
    "[a.]",
    "[.a]",
    "a..b = 1",
    '"""a""" = 1',
    "é = 1",
    "a = 1 # ok\n\x0b",
]


def outcome(loads, text):
    """Return what a reader makes of a text; floats as text, for NaN."""
    try:
        return repr(loads(text))
    except ValueError:
        return "refused"


needs_tomllib = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 has its own")


@needs_tomllib
@pytest.mark.parametrize("text", DOCUMENTS)
def test_reads_as_python_does(text):
    import tomllib

    # Python's own opens files in text mode only after turning line ends into "\n".
    assert outcome(toml.loads, text) == outcome(tomllib.loads, text)


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


def written(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\x7f", "\\u007F")
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return repr(value)


@settings(max_examples=150 * FUZZ, deadline=None, derandomize=True)
@given(st.dictionaries(st.text("abcxyz_-09", min_size=1, max_size=5), VALUES, max_size=5))
def test_what_is_written_comes_back(table):
    text = "".join(f"{key} = {written(value)}\n" for key, value in table.items())
    assert toml.loads(text) == table


@needs_tomllib
def test_damaged_documents_as_python_reads_them():
    import tomllib

    pieces = [*DOCUMENTS, "[a]\n", "[[a]]\n", "a.b = 1\n", "b = {c = 2}\n", "\n"]
    for case in range(2000 * FUZZ):
        rng = random.Random(f"{SEED} {case}")
        text = rng.choice(DOCUMENTS) + "\n" + rng.choice(pieces)
        for _ in range(rng.randrange(3)):
            position = rng.randrange(len(text))
            insert = rng.choice("[]{}=.,#'\"\\\n\r\t 0_-+eaxb:T") if rng.random() < 0.7 else ""
            text = text[:position] + insert + text[position + rng.randrange(2) :]
            text = text or "\n"
        ours, theirs = outcome(toml.loads, text), outcome(tomllib.loads, text)
        if "datetime." in theirs or (ours != theirs and _has_date(text)):
            continue  # dates are text here
        assert ours == theirs, f"seed {SEED}, case {case}: {text!r}"


def _has_date(text: str) -> bool:
    return toml._DATE.search(text) is not None


def test_digits_of_other_scripts_are_no_dates():
    with pytest.raises(toml.TomlError):
        toml.loads("a = \uff11979-05-27")


def test_dates_are_text():
    text = "a = 1979-05-27T07:32:00Z\nb = [1979-05-27, 07:32:00.5]\nc = 1979-05-27 07:32:00+01:00"
    assert toml.loads(text) == {
        "a": "1979-05-27T07:32:00Z",
        "b": ["1979-05-27", "07:32:00.5"],
        "c": "1979-05-27 07:32:00+01:00",
    }


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a=" * 100_000,
        "[" + "a." * 100_000 + "a]",
        "a." * 100_000 + "a = 1",
        "a = " + "9" * 100_000,
        "a = 0x" + "f" * 100_000,
        'a = "' + "\\" * 100_000,
        'a = """' + '"' * 100_000,
        'a = """' + "\\\n" * 100_000,
        "a = '" + "x" * 500_000,
        "#" * 500_000 + "\x07",
        " " * 500_000 + "\x07",
        "\n#" * 200_000 + "\x07",
        "a = [" + "\n" * 300_000,
        "a = 1" + "_0" * 100_000 + "_",
    ],
    ids=lambda text: text[:10],
)
def test_deep_and_endless_texts_are_refused(text):
    start = time.monotonic()
    with pytest.raises(toml.TomlError, match=r"^line \d+: "):
        toml.loads(text)
    assert time.monotonic() - start < 5


def test_infinity_and_nan_are_read():
    found = toml.loads("a = inf\nb = -inf\nc = nan")
    assert found["a"] == math.inf and found["b"] == -math.inf and math.isnan(found["c"])
