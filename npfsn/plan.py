"""`npfsn enhance`: find the input files and name their outputs."""

from __future__ import annotations

import argparse
import errno
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .containers import (
    AUDIO_SUFFIXES,
    FOREIGN_SUFFIXES,
    RAW_SUFFIXES,
    WRITABLE,
    container_of,
    same_format,
)
from .errors import listed
from .output import is_folder
from .terminal import UsageError, torn_apart

# Most bytes of a list of paths, and of one path on any system.
_MAX_LIST = 16 << 20
_MAX_PATH = 32_767


@dataclass(frozen=True)
class Job:
    """One file to enhance."""

    src: Path
    dst: Path
    n_bytes: int


@dataclass
class Plan:
    """Files to enhance, files that failed already and files left out.

    Attributes
    ----------
    n_skipped, n_outputs : int
        Files left out because their output exists, or because they are outputs themselves.
    foreign : list of str
        Sound files in folders whose formats cannot be read.
    """

    jobs: list[Job] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    n_skipped: int = 0
    n_outputs: int = 0
    foreign: list[str] = field(default_factory=list)


def make_plan(args: argparse.Namespace) -> Plan:
    """Find the files and name their outputs.

    Parameters
    ----------
    args : argparse.Namespace
        As `npfsn.cli` makes them.

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        If the arguments contradict each other or name no input.
    """
    inputs = [*_inputs(args)]
    _check(args, inputs)
    plan = Plan()
    taken: dict[str, tuple[Path, str]] = {}
    existing: list[Job] = []
    found = [(src, _named(args, src, relative)) for src, relative in _find(args, inputs, plan)]
    if args.output_dir and _is_file_name(args.output_dir, inputs):
        found = [(src, _the_only_output(args, inputs)) for src, _ in found]
    places = [(_place(src), _place(dst)) for src, dst in found]
    sources = {source for source, _ in places}
    outputs = {target: source for source, target in places}
    for (src, dst), (source, target) in zip(found, places, strict=True):
        # An input that is also the output of another comes from an earlier run on `*.wav`.
        if args.suffix and outputs.get(source, source) != source:
            plan.n_outputs += 1
            continue
        key = os.path.join(_place(dst.parent), os.path.normcase(dst.name))
        if key in taken:
            other, its_source = taken[key]
            if its_source != source:  # else it is the same file, named twice
                plan.failures.append(
                    (
                        str(src),
                        f"{src} and {other} would both become {dst}: enhance them into folders of "
                        "their own",
                    )
                )
            continue
        taken[key] = src, source
        if target == source:
            message = f"{dst} is the input itself: name another output or folder with -o"
            plan.failures.append((str(src), message))
            continue
        there = os.path.isfile(dst)  # of a folder or a broken link the job says what is wrong
        if args.resume and there:
            plan.n_skipped += 1
            continue
        if target in sources:  # not even with --force
            message = (
                f"{src} would become {dst}, which is an input too: choose another folder, or leave "
                "it with --resume"
            )
            plan.failures.append((str(src), message))
            continue
        try:
            n_bytes = src.stat().st_size
        except (OSError, ValueError):
            n_bytes = 0  # the job itself will say what is wrong
            if _is_meant_as_output(args, inputs, src):
                reason = f"{os.strerror(errno.ENOENT)} (an output is named with -o {src})"
                plan.failures.append((str(src), f"cannot read {src}: {reason}"))
                continue
        job = Job(src, dst, n_bytes)
        (existing if there and not args.force else plan.jobs).append(job)
    if existing:
        names = listed([str(job.dst) for job in existing])
        message = (
            f"{names} exist{'s' if len(existing) == 1 else ''}: choose another name or folder, "
            "overwrite with --force, or leave what is there with --resume"
        )
        plan.failures += [(str(job.src), message) for job in existing]
    return plan


def _check(args: argparse.Namespace, inputs: list[str]) -> None:
    """Refuse arguments that contradict each other or name no input."""
    if "" in inputs:
        raise UsageError("an input has an empty name")
    if not inputs:
        raise UsageError("no input: name files, folders, -i DIR or --list FILE")
    if "-" in inputs and not os.path.lexists("-"):
        raise UsageError("-: files are not read from standard input: use `npfsn stream`")
    if torn := torn_apart(args.inputs):
        raise UsageError(torn)
    if args.output_dir == "":
        raise UsageError("the output folder has an empty name")
    if args.output_dir == "-":
        raise UsageError(
            "-o -: files are not written to standard output: name a file or a folder (./- for "
            "one of that name), or use `npfsn stream`"
        )
    if args.format and container_of(args.format) is None:
        raise UsageError(
            f"--format {args.format}: .{args.format} cannot be written; expected one such as "
            f"{WRITABLE}"
        )


def _named(args: argparse.Namespace, src: Path, relative: Path) -> Path:
    """Name the output of a file."""
    stem, dot, end = src.name.rpartition(".")  # the suffix of "a." is "." in any Python
    stem, suffix = (stem, dot + end) if stem else (src.name, "")
    suffix = f".{args.format}" if args.format else suffix
    folder = Path(args.output_dir) / relative if args.output_dir else src.parent
    return folder / f"{stem}{args.suffix}{suffix}"


def _is_file_name(name: str, inputs: list[str]) -> bool:
    """Whether -o names a sound file and not a folder."""
    if is_folder(name):
        return False
    bare, suffix = Path(name).name, Path(name).suffix.lower()
    if _of_sound(suffix):
        return True
    if _of_sound(bare.lower()):
        raise UsageError(
            f"-o {name}: nothing stands before {bare}; expected a name such as clean.wav, or for a "
            f"folder of that name {name}/"
        )
    # With one input file, .wva is a typing error: nobody wants a folder of that name.
    if suffix[1:].isalpha() and len(inputs) == 1 and os.path.isfile(inputs[0]):
        raise UsageError(
            f"-o {name}: {suffix} is no suffix of sound files, such as {WRITABLE}; a folder of "
            f"that name is {name}/"
        )
    return False


def _of_sound(suffix: str) -> bool:
    """Whether a suffix is one of sound files, whether they can be written or not."""
    known = suffix in AUDIO_SUFFIXES | FOREIGN_SUFFIXES | RAW_SUFFIXES
    return known or (suffix.startswith(".") and container_of(suffix[1:]) is not None)


def _is_meant_as_output(args: argparse.Namespace, inputs: list[str], src: Path) -> bool:
    """Whether an input is probably meant as the output: the second of two names, and no file."""
    second = not args.output_dir and len(inputs) == 2 and inputs[1:] == args.inputs[1:]
    named = second and Path(inputs[1]) == src
    return named and src.suffix.lower() in AUDIO_SUFFIXES and not os.path.lexists(src)


def _the_only_output(args: argparse.Namespace, inputs: list[str]) -> Path:
    """Return -o as the name of the one file to write."""
    dst = Path(args.output_dir)
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        what = f"there are {len(inputs)} inputs" if len(inputs) > 1 else "the input is a folder"
        raise UsageError(
            f"-o {dst} names a sound file, {what}: name a folder (one of that name is {dst}/)"
        )
    if args.format and not same_format(dst.suffix[1:].lower(), args.format):
        raise UsageError(f"-o {dst} and --format {args.format} name two formats: leave out one")
    return dst


def _place(path: Path) -> str:
    """Return one spelling for all names of a file."""
    try:
        return os.path.normcase(os.path.realpath(path))
    except (OSError, ValueError):  # a name that no file can have
        return str(path)


def _inputs(args: argparse.Namespace) -> Iterator[str]:
    """Yield the inputs: arguments, then the lines of lists, then the folders of -i."""
    lists = list(args.list)
    for name in args.inputs:
        if name.startswith("@") and len(name) > 1:
            lists.append(name[1:])
        else:
            yield from _spelled_out(name)
    for name in lists:
        text = _read_list(name, named=name in args.list)
        binary = text.count(b"\0") > text.count(b"\n")
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > _MAX_PATH:
                raise UsageError(
                    f"line {number} of the list {name} has {len(line)} characters: expected one "
                    "path a line"
                )
            if binary and b"\0" in line:
                raise UsageError(f"the list {name} is no text in UTF-8: expected one path a line")
            if line.strip() and not line.startswith(b"#"):
                yield os.fsdecode(line)
    yield from args.noisy_dir


def _spelled_out(name: str) -> list[str]:
    """Expand a pattern into file names, as most shells do, or return the name as it is."""
    if "\0" in name or os.path.lexists(name):
        return [name]
    return sorted(glob.glob(name)) or [name]


def _read_list(name: str, named: bool) -> bytes:
    """Read a list of paths from a file, a pipe or, for "-", standard input; `named` by --list."""
    try:
        if name == "-":
            text = sys.stdin.buffer.read(_MAX_LIST + 1) if sys.stdin else b""  # closed: as if empty
        else:
            with open(name, "rb") as file:
                text = file.read(_MAX_LIST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "" if named else f" (a sound file called @{name} is ./@{name})"
        raise UsageError(f"cannot read the list {name}: {reason}{hint}") from error
    if len(text) > _MAX_LIST:
        raise UsageError(f"the list {name} is larger than {_MAX_LIST >> 20} MiB: expected paths")
    return text.removeprefix(b"\xef\xbb\xbf")


def _find(
    args: argparse.Namespace, inputs: Iterable[str], plan: Plan
) -> Iterator[tuple[Path, Path]]:
    """Yield every file with its folder relative to the input that it was found in."""
    output = Path(args.output_dir) if args.output_dir else None
    for name in inputs:
        path = Path(name)
        if not os.path.isdir(name):  # unlike Path.is_dir, false for names no file can have
            yield path, Path()
            continue
        n_failed = len(plan.failures)
        found = list(_walk(path, args.recursive, output, plan))
        stems = {(src.parent, src.stem) for src, _ in found}
        for src, relative in found:
            # A second run over a folder must not enhance what the first one wrote there.
            original = src.stem.removesuffix(args.suffix)
            named = original != src.stem and (src.parent, original) in stems
            if named and (output is None or _place(src.parent) == _place(output / relative)):
                plan.n_outputs += 1
                continue
            yield src, relative
        if not found and len(plan.failures) == n_failed:
            hint = "names that begin with a dot do not count"
            hint += "" if args.recursive else "; -r also looks into the folders inside"
            message = f"{path} holds no sound files ({hint})"
            plan.failures.append((str(path), message))


def _walk(
    top: Path, recursive: bool, output: Path | None, plan: Plan
) -> Iterator[tuple[Path, Path]]:
    """Yield the sound files of a folder in the order of their names."""

    def unreadable(error: OSError) -> None:
        message = f"cannot read the folder {error.filename}: {error.strerror}"
        plan.failures.append((str(error.filename), message))

    # Linked folders are entered too, but none twice: links may lead in a circle. A folder that also
    # lies below is entered there, whatever links to it are called.
    root = Path(_place(top))
    entered = {str(root)} | ({_place(output)} if output else set())

    def lies_below(place: str) -> bool:
        return root in Path(place).parents and not any(
            part.startswith(".") for part in Path(place).relative_to(root).parts
        )

    for folder, subfolders, names in os.walk(top, onerror=unreadable, followlinks=True):
        here = Path(folder)
        inside = [here / name for name in sorted(subfolders) if recursive and name[0] != "."]
        subfolders.clear()
        for path in inside:
            place = _place(path)
            if place not in entered and not (path.is_symlink() and lies_below(place)):
                entered.add(place)
                subfolders.append(path.name)
        for name in sorted(names):
            path = here / name
            if name.startswith("."):
                continue
            if path.suffix.lower() in AUDIO_SUFFIXES:
                yield path, here.relative_to(top)
            elif path.suffix.lower() in FOREIGN_SUFFIXES:
                plan.foreign.append(str(path))
