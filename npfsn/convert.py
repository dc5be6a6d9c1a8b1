"""`npfsn-convert`: convert a torch checkpoint and its recipe to one `.npz` model file.

A model file can be converted, too: to another precision, or to run with another norm.

The architecture and all sizes are read from the tensors. What tensors cannot tell (look-ahead,
shrink factor, how features split into neighbours, activations, acoustics) comes from the recipe,
which is checked against the tensors, or from the published defaults. The norm is never guessed: it
decides what the network computes and whether it can stream, and no checkpoint contains it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from . import __version__
from .checkpoint import Checkpoint, read_checkpoint
from .config import CAUSAL_NORMS, OFFLINE_NORMS, check_norm, check_stacks
from .describe import latency, norm_in_words, streaming
from .errors import (
    CheckpointError,
    ModelError,
    NormError,
    NpfsnError,
    RecipeError,
    in_shell,
    listed,
    printable,
)
from .output import is_folder
from .quantise import dequantise, quantise, to_float16
from .recipe import ABSENT_NORM, Arguments, Recipe, look_alike, read_recipe
from .stopping import Stopped, ended, stoppable
from .terminal import (
    ArgumentParser,
    open_standard_streams,
    print_error,
    print_report,
    torn_apart,
)
from .weights import (
    FORMAT,
    PRECISIONS,
    Model,
    build_config,
    check_finite,
    check_tensors,
    gives_mask,
    is_model_file,
    is_quantised,
    load_model,
    save_model,
)

_SHOWN = 20  # names listed in the report


def convert(
    checkpoint_path: str | os.PathLike[str],
    *,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    norm: str | None = None,
    precision: Literal["float32", "float16", "int8"] | None = None,
    network: str | None = None,
) -> Model:
    """Convert a torch checkpoint to a model, without torch; or a model file to another.

    Parameters
    ----------
    checkpoint_path : path-like
        A file that `torch.save` wrote: a training state or a state dict. Or a model file of any
        name, which takes neither `recipe` nor `network`.
    recipe : path-like or mapping, optional
        The train.toml that the model was trained with, as a path or as a parsed mapping.
    norm : str, optional
        The norm that the model was trained with; required without a recipe. For a model file, the
        norm that replaces its own from now on, at some cost in quality.
    precision : {"float32", "float16", "int8"}, optional
        Type in which the weights are stored; default: float32, or that of the model file. This
        does not change the precision of computation.
    network : str, optional
        Which network to convert if the checkpoint holds several: a name that the error lists.

    Returns
    -------
    Model

    Raises
    ------
    CheckpointError
        The checkpoint cannot be read, or is of no known architecture.
    RecipeError
        The recipe cannot be read, or is for another architecture or norm.
    NormError
        The norm is unknown, or given by neither `recipe` nor `norm`.
    ModelError
        The model file is damaged, or comes with arguments for a checkpoint. Tensors do not fit
        together, contradict the recipe or are not finite, or the precision is unknown.
    TypeError
        `checkpoint_path` is not a path, or `recipe` neither a path nor a mapping.

    Warns
    -----
    UserWarning
        The recipe has an unknown name that resembles one it lacks, for which a default is used.

    Examples
    --------
    >>> from npfsn.convert import convert
    >>> model = convert("best_model.tar", recipe="train.toml")  # doctest: +SKIP
    >>> npfsn.save_model(model, "best_model.npz")  # doctest: +SKIP
    """
    converted = _convert(
        checkpoint_path, recipe=recipe, norm=norm, precision=precision, network=network
    )
    for line in converted.warnings:
        warnings.warn(line, stacklevel=2)
    return converted.model


class _Converted(NamedTuple):
    """A model, and what to say of it.

    Attributes
    ----------
    model : Model
    report : list of (str, str)
        Titles and texts: what was found, and where each value came from.
    warnings : list of str
    """

    model: Model
    report: list[tuple[str, str]]
    warnings: list[str]


@dataclasses.dataclass(frozen=True)
class _Origins:
    """Where a model came from, for the report.

    Attributes
    ----------
    checkpoint : Checkpoint
    recipe : Recipe or None
    norm : str
        Where the norm was given.
    asked : frozenset of str
        Names of the arguments that this model uses.
    """

    checkpoint: Checkpoint
    recipe: Recipe | None
    norm: str
    asked: frozenset[str]


def _convert(
    checkpoint_path: str | os.PathLike[str],
    *,
    recipe: str | os.PathLike[str] | Mapping[str, Any] | None,
    norm: str | None,
    precision: str | None,
    network: str | None,
) -> _Converted:
    for name, given, types, expected in (
        ("checkpoint_path", checkpoint_path, (str, os.PathLike), "the path of a checkpoint"),
        ("recipe", recipe, (str, os.PathLike, Mapping, type(None)), "a path or a mapping"),
    ):
        if not isinstance(given, types):
            raise TypeError(f"{name} is of type {type(given).__name__}: expected {expected}")
        if isinstance(given, str) and not given:
            raise CheckpointError(f"{name} is empty: expected {expected}")
    if precision is not None and precision not in PRECISIONS:
        raise ModelError(f"precision {precision!r}: expected {' or '.join(PRECISIONS)}")
    if is_model_file(checkpoint_path):
        for option, value in (("recipe", recipe), ("network", network)):
            if value is not None:
                raise ModelError(
                    f"{checkpoint_path} is a model file, for which there is no {option} to give: "
                    "leave it out, or name the checkpoint"
                )
        return _convert_model(Path(checkpoint_path), norm, precision)
    precision = precision or "float32"
    read = None if recipe is None else read_recipe(recipe)
    checkpoint = read_checkpoint(checkpoint_path, network)
    norm, norm_origin = _find_norm(read, norm)
    name = checkpoint.path.name

    shapes = {key: tensor.shape for key, tensor in checkpoint.tensors.items()}
    architecture, module = _recognise(checkpoint.path, shapes)
    if read is not None and read.architecture not in (None, architecture):
        raise RecipeError(
            f"{read.name} is for {read.architecture}, but {name} holds {architecture}: give the "
            "recipe it was trained with"
        )
    args = Arguments(read.args if read is not None else {}, norm_type=norm)
    try:
        check_stacks(shapes)
        config = _build_config(module, shapes, args, read)
        check_tensors(config, checkpoint.tensors)
        check_finite(checkpoint.tensors)
        tensors = _cast_all(config, checkpoint.tensors, precision)
    except ModelError as error:
        raise ModelError(f"cannot convert {name}: {error}") from None
    source = {"name": printable(name, 200), "sha256": checkpoint.sha256}
    model = Model(architecture, config, tensors, _info(precision, source))
    origins = _Origins(checkpoint, read, norm_origin, frozenset(args.asked))
    return _Converted(model, _report(model, origins), list(islice(_misspelt(origins), 20)))


def _convert_model(path: Path, norm: str | None, precision: str | None) -> _Converted:
    """Convert a model file to another norm or precision."""
    model = load_model(path)
    source = model.info["source"]
    config = model.config.with_norm(norm)
    if config != model.config:
        source = {"norm": model.config.norms, **source}  # the first stays: it was trained with that
    precision = precision or model.info["precision"]
    try:
        tensors = _cast_all(model.config, model.tensors, precision)
    except ModelError as error:
        raise ModelError(f"cannot convert {path.name}: {error}") from None
    model = Model(model.architecture, config, tensors, _info(precision, source))
    return _Converted(model, _summary(model, norm_in_words(config, source)), [])


def _info(precision: str, source: Mapping[str, str]) -> dict[str, Any]:
    """Describe a model that is made now."""
    return {
        "format": FORMAT,
        "precision": precision,
        "converter": f"npfsn {__version__}",
        "source": dict(source),
    }


def _build_config(
    module: Any, shapes: Mapping[str, Any], args: Arguments, recipe: Recipe | None
) -> Any:
    """Build the configuration; if defaults do not fit the tensors, ask for the recipe.

    It does not help where tensors are missing.
    """
    try:
        return build_config(lambda: module.Config.from_tensors(shapes, args))
    except ModelError as error:
        if recipe is not None or any(word in str(error) for word in ("recipe", "missing")):
            raise
        raise ModelError(
            f"{error}; without a recipe, published defaults stand in for what tensors do not tell: "
            "give the recipe it was trained with (-C train.toml)"
        ) from None


def _find_norm(recipe: Recipe | None, norm: str | None) -> tuple[str, str]:
    """Return the norm and where it was given. It is never guessed."""
    if norm is not None:
        check_norm(norm)
    if recipe is None:
        if norm is None:
            raise NormError(
                "a checkpoint does not tell its norm, which decides what the network computes: "
                "give the recipe it was trained with (-C train.toml), or name the norm (--norm), "
                f"one of {', '.join(CAUSAL_NORMS)} (these stream), {', '.join(OFFLINE_NORMS)} "
                "(these need the whole signal)"
            )
        return norm, "from --norm"
    try:
        said = check_norm(ABSENT_NORM if recipe.norm is None else recipe.norm)
    except NormError as error:
        raise RecipeError(f"norm_type in {recipe.name}: {error}") from None
    origin = "recipe" if recipe.norm is not None else "recipe names none, which means this one"
    if norm is not None and norm != said:
        means = "names no norm_type, which means" if recipe.norm is None else "says"
        raise RecipeError(
            f"{recipe.name} {means} {said}, but --norm says {norm}: write norm_type into the "
            "recipe as the model was trained, and leave --norm out"
        )
    return said, origin


def _recognise(path: Path, shapes: Mapping[str, Any]) -> tuple[str, Any]:
    """Find the architecture by the names and shapes of the tensors."""
    from .models import ARCHITECTURES  # not above: it comes with LLVM

    for architecture, module in ARCHITECTURES.items():
        if any(name.startswith(module.Config.tensor_prefix) for name in shapes):
            return architecture, module
    shown = ", ".join(printable(name) for name in list(shapes)[:4])
    raise CheckpointError(
        f"{path} holds none of the models known here ({', '.join(ARCHITECTURES)}): its "
        f"{len(shapes)} tensors begin with {shown}"
    )


def _cast_all(
    config: Any, tensors: Mapping[str, npt.NDArray[Any]], precision: str
) -> dict[str, npt.NDArray[Any]]:
    """Cast tensors to the types they are stored in, in C order."""
    return {name: _cast(config, name, tensors[name], precision) for name in tensors}


def _cast(config: Any, name: str, tensor: npt.NDArray[Any], precision: str) -> npt.NDArray[Any]:
    if tensor.dtype.kind != "f":
        raise ModelError(
            f"its tensor {printable(name)} has type {tensor.dtype}, expected floating point"
        )
    with np.errstate(all="ignore"):  # checked below
        out = np.asarray(tensor, "float32" if precision == "int8" else precision, order="C")
    if out.dtype.itemsize < tensor.dtype.itemsize:
        try:
            check_finite({name: out})
        except ModelError:
            raise ModelError(
                f"its tensor {printable(name)} has values too large for {out.dtype}"
            ) from None
    if precision == "int8" and is_quantised(config, name, out.shape):
        out = dequantise(*quantise(out))
    elif precision == "int8" and gives_mask(config, name):
        out = to_float16(out)
    out.flags.writeable = False  # not shared: `Model` need not copy
    return out


# The command.

_EXAMPLES = """\
examples:
  npfsn-convert best_model.tar -C train.toml
      the recipe says what the tensors cannot; writes best_model.npz here
  npfsn-convert best_model.tar --norm cumulative_laplace_norm -o denoise.npz
      without a recipe: published defaults, which are printed, and the norm you name
  npfsn-convert best_model.tar -C train.toml --precision float16 --force
      a file half as large, and faster on most CPUs: weights are read in half precision,
      computation stays in float32
  npfsn-convert best_model.npz --precision float16 -o smaller.npz
      the same from a model file, which needs no recipe
  npfsn-convert best_model.npz --norm cumulative_laplace_norm -o live.npz
      make a model that was trained with an offline norm stream, at some cost in quality
  npfsn-convert best_model.tar -C train.toml --precision int8 --force
      a quarter of the size; to compute in eight bits, too, run it with --precision int8

The norm is in the recipe ([model.args] norm_type), not in the checkpoint. These can stream:
  {causal}
These need the whole signal:
  {offline}

exit codes: 0 converted, 1 something is wrong with a file or the arguments do not fit it, 2 wrong
arguments or norm not known, 130 interrupted, 143 terminated, 129 the terminal is gone. No
incomplete file is left behind.
"""


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="npfsn-convert",
        description="Convert a PyTorch checkpoint of the FullSubNet family to a model file for "
        "npfsn, or a model file to another precision or norm. PyTorch is not needed, and nothing "
        "in the checkpoint is run.",
        epilog=_EXAMPLES.format(causal=", ".join(CAUSAL_NORMS), offline=", ".join(OFFLINE_NORMS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="file that torch.save wrote, or a model file (.npz)"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="default: the checkpoint's name with .npz, here"
    )
    parser.add_argument(
        "-C",
        "--config",
        "--recipe",
        metavar="RECIPE.toml",
        help="recipe the checkpoint was trained with",
    )
    parser.add_argument(
        "--norm",
        metavar="NAME",
        help="norm it was trained with, if there is no recipe; for a model file, the norm to run "
        "it with from now on",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of the file (default: float32, or as in the model file)",
    )
    parser.add_argument(
        "--network", metavar="NAME", help="which network, if the checkpoint holds several"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT if it exists")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show where an error came from"
    )
    parser.add_argument("--version", action="version", version=f"npfsn {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0 done, 1 something is wrong with a file or the arguments do not fit it, 2 wrong arguments
        or no norm known, 130 interrupted, 143 terminated, 129 hung up.
    """
    open_standard_streams()
    parser = _parser()
    try:
        options, unknown = parser.parse_known_args(argv)
        if torn := torn_apart([options.checkpoint, *unknown]):
            parser.error(torn)
        if unknown:
            hint = ""
            if not unknown[0].startswith("-"):  # a second name
                is_recipe = unknown[0].lower().endswith(".toml")
                hint = f" ({'a recipe' if is_recipe else 'the output'} is named with "
                hint += f"{in_shell(['-C' if is_recipe else '-o', unknown[0]])})"
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    except (NpfsnError, BrokenPipeError) as error:  # the help finds no room, or no reader
        return ended(error, "npfsn-convert")
    source = Path(options.checkpoint)
    named = f"{source.stem}.npz" if options.output is None else options.output
    output = Path(named)
    try:
        with stoppable():
            for name in ("checkpoint", "output", "config"):
                if getattr(options, name) == "":
                    what = {"config": "recipe"}.get(name, name)
                    raise CheckpointError(f"no {what} is named: the name is empty")
            with _writing(output):
                _check_output(named, source, options.config, options.force)
            model, report, misspelt = _convert(
                source,
                recipe=options.config,
                norm=options.norm,
                precision=options.precision,
                network=options.network,
            )
            with _writing(output):
                save_model(model, output, overwrite=options.force)
    except (Exception, KeyboardInterrupt, Stopped) as error:
        code = ended(error, "npfsn-convert", options.verbose)
        return 2 if isinstance(error, NormError) else code
    if not options.quiet:
        size = ""
        with contextlib.suppress(OSError):  # another program may have moved it on already
            size = f"{_megabytes(output.stat().st_size)}, "
        report.append(("written", f"{output}: {size}{model.info['precision']}"))
        for title, text in report:
            print_report(f"{title + ':':<15}{text}")
        for line in misspelt:
            print_error(f"warning: {line}", "npfsn-convert")
    return 0


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turn an OSError into a ModelError that names the output."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"cannot write {output}: {error.strerror or error}") from error


def _check_output(named: str, source: Path, recipe: str | None, force: bool) -> None:
    """Refuse an output that cannot be written or would replace something, before any work."""
    output = Path(named)
    if str(output) == "-":
        raise ModelError("a model is not written to standard output: name a file with -o")
    if is_folder(named):
        raise ModelError(f"{named} is a folder: name a file with -o")
    if output.exists() and not output.is_file():
        raise ModelError(f"{output} is a pipe or device: name a file with -o")
    if not output.parent.is_dir():
        raise ModelError(f"the folder {output.parent} does not exist: make it, or choose another")
    if output.exists():
        if source.exists() and output.samefile(source):
            raise ModelError(f"{output} is the input itself: name another file with -o")
        if recipe is not None and os.path.exists(recipe) and output.samefile(recipe):
            raise ModelError(f"{output} is the recipe itself: name another file with -o")
        if not force:
            raise ModelError(f"{output} exists already: name another file or add --force")


# The report.


def _summary(model: Model, norm: str) -> list[tuple[str, str]]:
    """Return the lines of the report on any model."""
    return [
        ("model", f"{model.architecture}, {model.n_parameters:,} parameters"),
        ("norm", norm),
        ("streams", streaming(model.config)),
        ("latency", latency(model.config)),
    ]


def _report(model: Model, origins: _Origins) -> list[tuple[str, str]]:
    """Return the lines of the report: what was found, and where each value came from."""
    checkpoint = origins.checkpoint
    beside = ", ".join(f"{key} {_short(value)}" for key, value in checkpoint.metadata.items())
    lines = [
        (
            "checkpoint",
            f"{printable(checkpoint.path.name, 200)}: {len(checkpoint.tensors)} tensors, "
            f"{checkpoint.dtypes}, {_megabytes(checkpoint.file_size)}"
            + (f" ({beside})" if beside else ""),
        ),
        *_summary(model, f"{model.norm} ({origins.norm})"),
    ]
    for title, values in _values(model, origins).items():
        if values:
            lines.append((title, ", ".join(values)))
    if checkpoint.others:
        names = listed(checkpoint.others, _SHOWN)
        lines.append(("taken", f"{checkpoint.network}; also there: {names} (--network NAME)"))
    if checkpoint.left_out:
        names = listed([printable(name) for name in checkpoint.left_out], _SHOWN)
        lines.append(("left out", f"{names} (not the network's)"))
    if ignored := _ignored(origins):
        lines.append(("not needed", f"{listed(ignored, _SHOWN)} (in the recipe)"))
    return lines


def _values(model: Model, origins: _Origins) -> dict[str, list[str]]:
    """Group the values of the configuration by where they came from."""
    args = origins.recipe.args if origins.recipe is not None else {}
    said = {name: value for name, value in args.items() if name in origins.asked}
    found: dict[str, list[str]] = {"from tensors": [], "from recipe": [], "from defaults": []}
    config = model.config
    for field in dataclasses.fields(config):
        # The norm has a line of its own. What was never published is shown if the recipe sets it.
        if field.name == "norm_type" or field.name in config.unpublished.keys() - said.keys():
            continue
        value = getattr(config, field.name)
        if field.name in config.fields_from_shapes:
            found["from tensors"].append(f"{field.name} = {_describe(value)}")
            if field.name in config.activations:
                key = config.activations[field.name]
                stacks = value if isinstance(value, tuple) else (value,)
                names = [stack.activation or "none" for stack in stacks]
                where = "from recipe" if key in said else "from defaults"
                if "PReLU" in names:
                    where = "from tensors"
                found[where].append(
                    f"{field.name}'s output activation = {'/'.join(names)}"
                    if key is None
                    else f"{key} = {names[0]}"
                )
            continue
        where = "from defaults"
        if said.get(field.name) is not None:
            where = "from recipe"
        elif field.name.endswith(("neighbors", "neighbor_freqs")):
            if field.name != config.optional_neighbors:
                where = "from tensors"
        found[where].append(f"{field.name} = {_describe(value)}")
    return found


def _ignored(origins: _Origins) -> list[str]:
    """Return the arguments of the recipe that this model does not use."""
    args = origins.recipe.args if origins.recipe is not None else {}
    return [printable(name) for name in args if name not in origins.asked]


def _misspelt(origins: _Origins) -> Iterator[str]:
    """Yield a warning for each unused argument that looks like one the recipe lacks."""
    recipe = origins.recipe
    if recipe is None:
        return
    named = {*recipe.args, *(["norm_type"] if recipe.norm is not None else [])}
    lacking = sorted(origins.asked - named)
    for key in _ignored(origins):
        if (meant := look_alike(key, lacking)) is not None:
            yield f"the recipe has {key}, which is not known here: is {meant} meant?"
    if (section := look_alike("acoustics", recipe.sections)) is not None:
        yield f"the recipe has [{printable(section)}]: is [acoustics] meant?"


def _describe(value: Any) -> str:
    """Format a value, such as "LSTM 257-2x512-257" for a stack of layers."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_describe(item) for item in value) + "]"
    if not dataclasses.is_dataclass(value):
        return str(value)
    stack: Any = value
    layers = f"{stack.num_layers}x" if stack.num_layers > 1 else ""
    linear = f"-{stack.output_size}" if stack.output_size else ""
    return f"{stack.cell} {stack.input_size}-{layers}{stack.hidden_size}{linear}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(value, 40)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


if __name__ == "__main__":
    sys.exit(main())
