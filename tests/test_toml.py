"""The TOML reader against Python's own."""

from __future__ import annotations

import math
import os
import random
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recipe import RECIPE

from npfsn import toml

FUZZ = int(os.environ.get("NPFSN_FUZZ", "1"))
SEED = int(os.environ.get("NPFSN_FUZZ_SEED", "20260103"))

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
