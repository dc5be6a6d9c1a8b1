"""Read torch checkpoints into arrays, without torch and without running anything in a file.

`torch_file.py` reads the file; here a network is found in it, by the names of its tensors. Only the
wanted tensors are read, last, after every size has been checked against the file's.

Memory: the tensors returned take at most `MAX_RATIO` times the file's size, the storages they are
taken from at most the file's size, and the pickles less than 64 MiB.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt

from .errors import CheckpointError, listed, printable
from .pickles import PickleError
from .reading import ReadError, open_regular, read_at
from .torch_file import Tensor, read_state, read_tensors

MAX_RATIO = 4.0  # tensors may share a storage, and bfloat16 becomes float32

_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict")
# Prefixes of training programs, stripped from names if no known network was found.
_IN_FRONT = re.compile(r"(?:(?:module|_orig_mod|model)\.)*")
# Name of a network at the top level of the file.
_TOP = "top"
_MOST_NETWORKS = 16
# Tensors in all dicts with networks: a pickle can refer to one long name a hundred thousand times,
# and each network has names of its own.
_MOST_TENSORS = 10_000
# Dicts within dicts in which networks are found.
_DEEPEST = 20
# What DataParallel, torch.compile and the like add to names, before a network's or within them.
_WRAPPER = r"(?:(?:module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.)"
_WRAPPERS = re.compile(rf"(?:^|(?<=\.)){_WRAPPER}")
# Left in every layer by programs that count operations; not used in computation.
_COUNTERS = re.compile(r"(?:.+\.)?total_(?:ops|params)")
# Names of the stacks of recurrent layers in the published networks. Wrappers and training programs
# have added what precedes them in a tensor's name.
_BEGINS = re.compile(
    r"(?:^|(?<=\.))(?:encoder|bottleneck|decoder_lstm|fb_model|sb_model|sb_models|fullband_model)\."
    # Each part takes the wrappers behind it, so that there is one way only to read a name.
    rf"{_WRAPPER}*(?:sb_models\.{_WRAPPER}*)?(?:\d{{1,3}}\.{_WRAPPER}*)?"
    rf"sequence_model\.{_WRAPPER}*weight_ih_l0$"
)
# Part of the name of every tensor of such a stack.
_OF_A_LAYER = re.compile(r"(?:^|\.)(?:sequence_model|fc_output_layer|activate_function)\.")


@dataclass(frozen=True)
class Checkpoint:
    """A network and what else was found in a checkpoint.

    Attributes
    ----------
    path : Path
    file_size : int
        Bytes.
    sha256 : str
        Of the whole file, hexadecimal.
    tensors : dict of str to array
        The network's, under its own names, without `module.` and other wrappers; read-only, in the
        stored type (bfloat16, which NumPy lacks, as float32).
    dtypes : str
        The types as stored, such as "float32" or "bfloat16, int64", the most frequent first.
    metadata : dict
        Plain numbers and strings beside the tensors, such as `epoch`.
    network : str
        Where in the file it was: the keys of dicts and the prefix of its tensors' names.
    others : list of str
        The same for other networks, which were not read.
    left_out : list of str
        Names of tensors in the same dict that do not belong to the network.
    """

    path: Path
    file_size: int
    sha256: str
    tensors: dict[str, npt.NDArray[Any]]
    dtypes: str
    metadata: dict[str, Any]
    network: str
    others: list[str]
    left_out: list[str]


class _ChoiceError(PickleError):
    """There are several networks, or none of the given name."""


def read_checkpoint(path: str | os.PathLike[str], network: str | None = None) -> Checkpoint:
    """Read the tensors of a model from a file that `torch.save` wrote.

    The file may be a whole training state, whose model is under "model", "state_dict" or
    "model_state_dict", or a state dict by itself. Its name does not matter. Nothing in the file is
    run.

    Parameters
    ----------
    path : path-like
    network : str, optional
        Which network to read if there are several: a name that the error lists.

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointError
        The file cannot be read, is damaged, or holds something other than a plain state.
    """
    path = Path(path)
    try:
        file, size = open_regular(path)
    except ReadError as error:
        raise CheckpointError(f"cannot open the checkpoint {path}: {error}") from None
    try:
        with file:
            return _read(path, file, size, network)
    except _ChoiceError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (ReadError, PickleError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a torch checkpoint: {error}; expected a file that "
            "torch.save wrote, best of all torch.save(network.state_dict(), FILE)"
        ) from None


def _read(path: Path, file: BinaryIO, size: int, network: str | None) -> Checkpoint:
    """Read an open file."""
    state, storages = read_state(file, size)
    found, others = _find_network(state, network)
    wanted = found.tensors
    for name, value in found.within.items():
        no_tensor = type(value) is not Tensor and not name.endswith("_extra_state")
        if no_tensor and _OF_A_LAYER.search(name):
            raise PickleError(f"the entry {printable(name)} of its state dict is no tensor")
    total = sum(tensor.nbytes for tensor in wanted.values())
    if total > MAX_RATIO * size:
        raise ReadError(
            f"its tensors have {total:,} bytes, more than {MAX_RATIO:g} times the file's {size:,}"
        )
    counts = Counter(tensor.dtype for tensor in wanted.values())
    return Checkpoint(
        path=path,
        file_size=size,
        sha256=_sha256(file, size),
        tensors=dict(read_tensors(wanted, storages)),
        dtypes=", ".join(dtype for dtype, _ in counts.most_common()),
        metadata=_plain_values(state, found.within),
        network=found.name,
        others=others,
        left_out=found.beside,
    )


@dataclass(frozen=True)
class _Found:
    """A network found in a checkpoint.

    Attributes
    ----------
    name : str
        The keys that lead to its dict and the prefix of its tensors' names, joined by dots.
    within : dict
        The dict that holds its tensors, perhaps among others.
    tensors : dict of str to Tensor
        Named as in the network.
    beside : list of str
        Names of tensors in the dict that belong to no network.
    """

    name: str
    within: dict[str, Any]
    tensors: dict[str, Tensor]
    beside: list[str]


def _named(value: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a dict, except counters."""
    return {
        name: item
        for name, item in value.items()
        if type(item) is Tensor and not _COUNTERS.fullmatch(name)
    }


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the parts of names that wrappers add, unless two names become the same."""
    plain = {_WRAPPERS.sub("", name): item for name, item in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors


def _find_network(state: object, name: str | None) -> tuple[_Found, list[str]]:
    """Find the network, by `name` if given; return it and the names of the others."""
    if not isinstance(state, dict):
        raise PickleError("it holds no dict")
    networks = list(_networks(state))
    names = listed([each.name for each in networks], 8)
    if name is not None:
        chosen = [each for each in networks if each.name == name]
    elif len(networks) > 1:
        usual = [
            [each for each in networks if each.within is state.get(k)] for k in _STATE_DICT_KEYS
        ]
        chosen = next(filter(None, usual), networks)
    else:
        chosen = networks or [_what_may_be_one(state)]
    if not chosen:
        raise _ChoiceError(
            f"it holds no network that is called {printable(name)}: expected "
            f"{names or 'none, as it has none that is known by its names'}"
        )
    if len(chosen) > 1:
        raise _ChoiceError(
            f"it holds several networks: {names}; say which (--network NAME, or network= of "
            "npfsn.convert.convert)"
        )
    return chosen[0], [each.name for each in networks if each is not chosen[0]]


def _networks(state: dict[str, Any]) -> Iterator[_Found]:
    """Find networks by the names of their tensors, in dicts at any depth."""
    todo: list[tuple[tuple[str, ...], dict[str, Any]]] = [((), state)]
    seen = {id(state)}  # a pickle may refer to one dict a million times
    n_tensor = 0
    for keys, value in todo:
        tensors = _named(value)
        begins = {
            name[: match.start()]: None for name in tensors if (match := _BEGINS.search(name))
        }
        n_tensor += len(tensors) if begins else 0
        if n_tensor > _MOST_TENSORS:
            raise PickleError(f"it has more than {_MOST_TENSORS:,} tensors in dicts with networks")
        if len(begins) > _MOST_NETWORKS:
            raise PickleError(f"it holds more than {_MOST_NETWORKS} networks in one dict")
        # A tensor belongs to the network with the longest prefix that its name begins with.
        longest = sorted(begins, key=len, reverse=True)
        of = {name: next(filter(name.startswith, longest), None) for name in tensors}
        for begin in begins:
            own = {name[len(begin) :]: item for name, item in tensors.items() if of[name] == begin}
            parts = [part for part in (*keys, _WRAPPERS.sub("", begin).rstrip(".")) if part]
            yield _Found(
                printable(".".join(parts), 200) if parts else _TOP,
                value,
                _unwrapped(own),
                [name for name in tensors if of[name] is None],
            )
        if begins:
            continue
        for key, inner in value.items() if len(keys) < _DEEPEST else ():
            if isinstance(inner, dict) and id(inner) not in seen:
                seen.add(id(inner))
                todo.append(((*keys, key), inner))


def _what_may_be_one(state: dict[str, Any]) -> _Found:
    """Return a dict of tensors that is meant as a network: errors then say what it lacks."""
    usual = [state.get(key) for key in _STATE_DICT_KEYS]
    for within in [value for value in usual if isinstance(value, dict)] + [state]:
        if tensors := _named(within):
            in_front = _IN_FRONT.match(os.path.commonprefix(list(tensors)))
            n = in_front.end() if in_front else 0
            return _Found("", within, {name[n:]: item for name, item in tensors.items()}, [])
    keys = ", ".join(printable(key, 30) for key in list(state)[:8])
    raise PickleError(
        f"it holds no state dict (its entries: {keys or 'none'}; looked for tensors in "
        f"{', '.join(_STATE_DICT_KEYS)}, and for those of a network in all of them)"
    )


def _plain_values(*dicts: Any) -> dict[str, Any]:
    """Return numbers and strings stored with the tensors, such as `epoch`."""
    return {
        key: value
        for each in dicts
        for key, value in list(each.items())[:100]
        if len(key) <= 100 and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if type(value) is str:
        return len(value) <= 200
    if type(value) is int:
        return abs(value) < 1 << 64
    return type(value) in (float, bool)


def _sha256(file: BinaryIO, size: int) -> str:
    """Hash the whole file."""
    digest = hashlib.sha256()
    for start in range(0, size, 1 << 20):
        digest.update(read_at(file, start, min(1 << 20, size - start)))
    return digest.hexdigest()
