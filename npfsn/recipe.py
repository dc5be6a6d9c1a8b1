"""Reads a training recipe (`train.toml`) for what a checkpoint's tensors cannot tell.

Only `[model] path`, `[model.args]` and `[acoustics]` are used. What is about training is ignored.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import toml
from .config import NORMS
from .errors import RecipeError, printable, shown
from .reading import ReadError, open_regular, read_at

MAX_BYTES = 1 << 18  # published ones have some 5 KB; reading takes up to 200 times a file's size
#: Keys of the acoustics that a model uses.
ACOUSTICS = ("sr", "sample_rate", "n_fft", "win_length", "hop_length")
ABSENT_NORM = "offline_laplace_norm"  # default of the training code

# Names in the first version of the training code, and their present names.
_OLD_NAMES = {
    "n_freqs": "num_freqs",
    "n_neighbor": "sb_num_neighbors",
    "fband_output_activate_function": "fb_output_activate_function",
    "sband_output_activate_function": "sb_output_activate_function",
    "fband_model_hidden_size": "fb_model_hidden_size",
    "sband_model_hidden_size": "sb_model_hidden_size",
    "use_offline_norm": "norm_type",
    "use_offline_laplace_norm": "norm_type",
    "use_offline_gaussian_norm": "norm_type",
    "use_cumulative_norm": "norm_type",
    "use_forgetting_norm": "norm_type",
    "use_hybrid_norm": "norm_type",
}


class Arguments(dict[str, Any]):
    """The arguments in a recipe, with a record of the names that were looked up."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key` in the recipe, or `default`."""
        self.asked.add(key)
        return super().get(key, default)


@dataclass(frozen=True)
class Recipe:
    """The parts of a recipe that are used.

    Attributes
    ----------
    name : str
        What messages call it.
    architecture : str or None
        A key of `npfsn.models.ARCHITECTURES`, or None if the recipe's model path does not tell.
    args : dict
        `[model.args]` and the acoustics, with `sample_rate` for `sr`; without `norm_type`.
    norm : str or None
        None: the recipe has no `norm_type`, which means `ABSENT_NORM`.
    sections : tuple of str
        Names of all sections if there are no acoustics, whose name may be misspelt.
    """

    name: str
    architecture: str | None
    args: dict[str, Any]
    norm: str | None
    sections: tuple[str, ...] = ()


def read_recipe(source: str | os.PathLike[str] | Mapping[str, Any]) -> Recipe:
    """Read a recipe from a TOML file, or take one that has been read already.

    Parameters
    ----------
    source : path-like or mapping

    Returns
    -------
    Recipe

    Raises
    ------
    RecipeError
        The file cannot be read, is no TOML, has no `[model.args]`, or uses names of the first
        version of the training code.
    """
    if isinstance(source, Mapping):
        return _interpret("the recipe", source)
    path = Path(source)
    try:
        file, size = open_regular(path)
        with file:
            if size > MAX_BYTES:
                raise ReadError(f"it has {size:,} bytes, at most {MAX_BYTES:,} are read")
            document = toml.loads(read_at(file, 0, size).decode("utf-8-sig"))
    except ReadError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"cannot read the recipe {path}: it is no text in UTF-8") from None
    except toml.TomlError as error:
        raise RecipeError(f"the recipe {path} is no valid TOML: {error}") from None
    return _interpret(f"the recipe {path}", document)


def look_alike(name: str, others: Iterable[str]) -> str | None:
    """Return the one of `others` that may be a slip for `name`, or for which `name` may be one."""
    in_small = {str(other).lower(): other for other in others}
    found = difflib.get_close_matches(name.lower(), in_small, 1, 0.8)
    return in_small[found[0]] if found else None


def _interpret(name: str, document: Mapping[str, Any]) -> Recipe:
    model = document.get("model")
    if not isinstance(model, Mapping) or not isinstance(args := model.get("args"), Mapping):
        inherited = document.get("inherit")
        hint = (
            f"; it inherits from {printable(inherited)}: copy what is missing into it"
            if inherited is not None
            else ": expected the train.toml that the model was trained with"
        )
        raise RecipeError(f"{name} has no [model.args]{hint}")
    found = _checked(name, args)
    acoustics = _acoustics(name, document)
    for key, value in (acoustics or {}).items():
        # Recipes of Improved FullSubNet repeat the STFT sizes in [model.args].
        if found.setdefault(key, value) != value and key in ACOUSTICS:
            raise RecipeError(
                f"{name} has {key} = {value} in its acoustics, but {shown(found[key])} in "
                "[model.args]"
            )
    old = [key for key in found if key in _OLD_NAMES]
    if old:
        raise RecipeError(
            f"{name} uses names of the first version of the training code: replace "
            + ", ".join(f"{key} by {_OLD_NAMES[key]}" for key in old)
        )
    if "sr" in found:
        rate = found.pop("sr")
        if found.setdefault("sample_rate", rate) != rate:
            said = shown(found["sample_rate"])
            raise RecipeError(f"{name} has sr = {shown(rate)} but sample_rate = {said}")
    norm = found.pop("norm_type", None)
    if norm is None:
        _check_absence(name, document, found)
    elif not isinstance(norm, str):
        raise RecipeError(f"{name} has norm_type = {shown(norm)}: expected the name of a norm")
    sections = tuple(map(str, document)) if acoustics is None else ()
    return Recipe(name, _architecture(model.get("path")), found, norm, sections)


def _check_absence(name: str, document: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Refuse entries that may be a misplaced or misspelt `norm_type`, which `[model.args]` lacks.

    A recipe without one means a norm that cannot stream, which no slip should lead to.
    """
    if (near := look_alike("norm_type", args)) is not None:
        raise RecipeError(f"{name} has {printable(near)}, but no norm_type: is that meant?")
    tables = [("[model.args]", args), ("no section", document)]
    tables += [(f"[{key}]", table) for key, table in document.items()]
    for where, table in tables:
        for key, value in table.items() if isinstance(table, Mapping) else ():
            if key == "norm_type" or (isinstance(value, str) and value in NORMS):
                raise RecipeError(
                    f"{name} has {printable(key)} = {shown(value)} in {printable(where)}, but no "
                    "norm_type in [model.args]: is that meant?"
                )


def _architecture(path: object) -> str | None:
    """Return the architecture that a model path such as "fast_fullsubnet.model.Model" names."""
    from .models import ARCHITECTURES  # not above: it comes with LLVM

    names = {module.Config.recipe_name: name for name, module in ARCHITECTURES.items()}
    parts = path.split(".") if isinstance(path, str) else []
    return next((names[part] for part in parts if part in names), None)


def _acoustics(name: str, document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the acoustics, which older recipes keep under `[acoustic]`, if there are any."""
    sections = [key for key in ("acoustics", "acoustic") if key in document]
    if len(sections) > 1:
        raise RecipeError(f"{name} has both [acoustics] and [acoustic]: leave one of them")
    if not sections:
        return None
    section = document[sections[0]]
    if not isinstance(section, Mapping):
        raise RecipeError(f"{name} has {sections[0]} = {shown(section)}: expected a table")
    found = {}
    for key, value in section.items():
        value = _plain(value)
        if key in ACOUSTICS and type(value) is not int:
            raise RecipeError(f"{name} has {key} = {shown(value)}: expected a whole number")
        found[str(key)] = value
    return found


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number: recipes given as mappings may hold such."""
    return value.item() if isinstance(value, np.generic) else value


def _checked(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return `[model.args]`, checked to hold only numbers, names, switches and lists of these."""
    args = {key: _plain(value) for key, value in args.items()}
    for key, value in args.items():
        items = value if isinstance(value, (list, tuple)) else [value]
        if not all(item is None or isinstance(item, (bool, int, float, str)) for item in items):
            raise RecipeError(
                f"{name} has a {printable(key)} in [model.args] that is neither a number, a name, "
                "a switch nor a list"
            )
    return args
