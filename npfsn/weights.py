"""A model: its configuration and tensors, and the `.npz` file they are stored in.

The file is an ordinary NumPy archive: every tensor under its name in the checkpoint, and a member
`npfsn_header`, a 0-d string of JSON. In int8 files the matrices that `is_quantised` selects are
int8, each with a member NAME.scale, float32 per row. The header:

    {"format": 1, "architecture": "fast_fullsubnet", "config": {...}, "precision": "float32",
     "converter": "npfsn 0.1.0", "source": {"name": "best_model.tar", "sha256": "..."}}

`numpy.load(path, allow_pickle=False)` can read the file. The reader here does not use it, as files
may be untrusted: it checks every size before it allocates memory. The result is either a model
whose tensors are those that its configuration needs, finite and of the declared shapes, or a
ModelError. Members unpack to at most `MAX_RATIO` times the file's size plus 1 MiB; int8 matrices
then take four times their size as float32.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import io
import json
import math
import os
import re
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from . import __version__
from .archive import Archive, Entry
from .config import BaseConfig, Sequence
from .errors import ModelError, NpfsnError, listed, printable, shown
from .output import complete_or_absent, is_folder
from .quantise import dequantise, quantise
from .reading import ReadError, open_regular

FORMAT = 1
PRECISIONS = ("float32", "float16", "int8")
DEFAULT_FILE = "fast_fullsubnet.npz"
MAX_RATIO = 20.0
#: Suffix of the members that hold the row scales of int8 matrices.
_SCALE = ".scale"
MAX_HEADER_CHARS = 1 << 16
_HEADER = "npfsn_header"

#: Held while the default weights are read or a model is made ready.
loading = threading.RLock()


def _renew_lock() -> None:
    global loading
    loading = threading.RLock()


# The thread that holds the lock in the parent does not exist in a forked child.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)

# The header of an array, with its keys in NumPy's order. It is matched, never evaluated.
_NPY_HEADER = re.compile(
    r"\{\s*'descr':\s*'([^']{2,16})',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(((?:\d{1,12}\s*,\s*)*(?:\d{1,12})?)\s*\),?\s*\}\s*"
)


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """Configuration and tensors of one network, which do not change.

    Parameters
    ----------
    architecture : str
        A key of `npfsn.models.ARCHITECTURES`.
    config : Config
        That architecture's configuration.
    tensors : mapping of str to array
        Named as in the checkpoint; float32 or float16, C-contiguous, read-only. Matrices of int8
        files are dequantised to float32.
    info : mapping of str to object
        Where the model comes from: `source` (name and sha256 of the checkpoint; its norm, if it was
        trained with another than the configuration's), `converter`, `precision`, `format`. Must be
        serialisable as JSON.

    Raises
    ------
    TypeError
        `config` is not a Config, a tensor has another type, or `info` cannot be written as JSON.
    ModelError
        The configuration belongs to another architecture, the tensors do not match it, or one
        holds NaN or infinity.

    Examples
    --------
    >>> import npfsn
    >>> model = npfsn.load_model()
    >>> model, model.norm, model.config.hop_length
    (<npfsn.Model fast_fullsubnet, 5.85 M parameters>, 'cumulative_laplace_norm', 256)
    """

    architecture: str
    config: BaseConfig
    tensors: Mapping[str, npt.NDArray[Any]]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the fields and make them read-only."""
        from .models import ARCHITECTURES

        if not isinstance(self.config, BaseConfig):
            raise TypeError(f"config is of type {type(self.config).__name__}: expected a Config")
        named = isinstance(self.architecture, str) and self.architecture in ARCHITECTURES
        if not (named and isinstance(self.config, ARCHITECTURES[self.architecture].Config)):
            raise ModelError(
                f"architecture {shown(self.architecture)} with the configuration of another: "
                f"expected one of {', '.join(ARCHITECTURES)}, with its own"
            )
        if not isinstance(self.tensors, Mapping):
            found = type(self.tensors).__name__
            raise TypeError(f"tensors are of type {found}: expected a mapping of names to arrays")
        for name, tensor in self.tensors.items():
            if getattr(tensor, "dtype", None) not in (np.float32, np.float16):
                found = getattr(tensor, "dtype", type(tensor).__name__)
                raise TypeError(f"tensor {name} is {found}: expected float32 or float16")
        check_tensors(self.config, self.tensors)
        check_finite(self.tensors)
        tensors = {name: _frozen(tensor) for name, tensor in self.tensors.items()}
        object.__setattr__(self, "tensors", MappingProxyType(tensors))
        object.__setattr__(self, "info", MappingProxyType(_plain(self.info)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling, which read-only mappings do not."""
        return type(self), (self.architecture, self.config, dict(self.tensors), dict(self.info))

    def __copy__(self) -> Model:
        """Return the model itself: it is immutable, and streams then share its weights."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """Return the model itself, as `__copy__` does."""
        return self

    def __repr__(self) -> str:
        """Name architecture and size; the tensors would fill the screen."""
        return f"<npfsn.Model {self.architecture}, {self.n_parameters / 1e6:.2f} M parameters>"

    @property
    def norm(self) -> str:
        """Name of the norm it runs with if none is chosen: mostly the one it was trained with."""
        return str(self.config.norm_type)

    @property
    def n_parameters(self) -> int:
        """Number of trained values: all tensors but fixed ones, such as mel filters."""
        return sum(t.size for name, t in self.tensors.items() if name not in self.config.fixed)


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `info` as JSON would store it; raise TypeError where it cannot."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(info), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"info cannot be written as JSON: {error}") from None
    if not isinstance(plain.get("source", {}), dict):
        raise TypeError(f"info['source'] is {shown(plain['source'])}: expected a mapping")
    return plain


def _frozen(tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the tensor read-only, copied if it was writable."""
    if tensor.flags.writeable:
        tensor = tensor.copy()
    # Copies only if needed: kernels expect aligned values in C order.
    view: npt.NDArray[Any] = np.require(np.asarray(tensor), None, ["C", "A"]).view()
    view.flags.writeable = False
    return view


def load_model(path: str | os.PathLike[str] | Model | None = None) -> Model:
    """Load a model from an `.npz` file.

    Parameters
    ----------
    path : path-like, Model or None
        None: the built-in weights, read once per process. A Model is returned as it is.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        The file is missing, damaged, foreign or made by a newer npfsn.
    TypeError
        `path` is neither a path, a Model nor None.

    Examples
    --------
    >>> import npfsn
    >>> model = npfsn.load_model()
    >>> model.architecture, model.norm, model.config.streams
    ('fast_fullsubnet', 'cumulative_laplace_norm', True)
    """
    if isinstance(path, Model):
        return path
    if path is None:
        with loading:
            return _default_model()
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"model is of type {type(path).__name__}: expected a path, a Model or None")
    if os.fspath(path) == "":
        raise ModelError("no model is named: the path is empty; leave it out for the built-in one")
    path = Path(path)
    try:
        file, size = open_regular(path)
    except ReadError as error:
        raise ModelError(f"cannot open the model {path}: {error}") from None
    try:
        with file:
            return _read(file, size)
    except ReadError as error:
        raise ModelError(
            f"{path} is no intact npfsn model: {error}; get the file again, or convert its "
            "checkpoint with npfsn-convert"
        ) from None
    except NpfsnError as error:
        raise ModelError(f"cannot load the model {path}: {error}") from None


@functools.cache
def _default_model() -> Model:
    path = default_path()
    if path.is_file():
        return load_model(path)
    data = _packed().read_bytes()
    return _read(io.BytesIO(data), len(data))


def _packed() -> Any:
    """Return the default weights within the package, wherever it lies (`importlib.resources`)."""
    from importlib import resources  # only archives need it

    return resources.files(__package__) / "weights" / DEFAULT_FILE


def default_path() -> Path:
    """Return the path of the default weights: in the package or the checkout, or in an archive."""
    package = Path(__file__).resolve().parent
    for folder in (package / "weights", package.parent / "weights"):
        if (folder / DEFAULT_FILE).exists():
            return folder / DEFAULT_FILE
    if not package.is_dir() and _packed().is_file():
        return package / "weights" / DEFAULT_FILE
    raise ModelError(
        f"npfsn's own weights are missing (looked for {DEFAULT_FILE} in {package / 'weights'} and "
        f"{package.parent / 'weights'}): reinstall npfsn, or name a model file made by "
        "npfsn-convert"
    )


def check_tensors(config: BaseConfig, tensors: Mapping[str, Any]) -> None:
    """Check that the tensors are exactly those that a configuration needs.

    Parameters
    ----------
    config : Config
        With `tensor_shapes()`.
    tensors : mapping of str to array
        Anything with a `shape`.

    Raises
    ------
    ModelError
        A tensor is missing, unexpected or of another shape.
    """
    needed = config.tensor_shapes()
    missing = [name for name in needed if name not in tensors]
    unexpected = [name for name in tensors if name not in needed]
    if missing or unexpected:
        parts = [
            f"{len(names)} {what} ({listed([printable(name) for name in names], 4)})"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        remedy = (
            ""
            if missing
            else "; one that changes nothing, such as a window, is to be left out before saving"
        )
        raise ModelError(
            f"its tensors are not those of its configuration: {' and '.join(parts)}; expected "
            f"{len(needed)} tensors{remedy}"
        )
    for name, shape in needed.items():
        if tuple(tensors[name].shape) != shape:
            raise ModelError(
                f"its tensor {printable(name)} has shape {list(tensors[name].shape)}, expected "
                f"{list(shape)}"
            )


def check_finite(tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ModelError naming the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.dtype == np.float16:
            # NaN or infinity: all exponent bits set. Arithmetic on float16 is thirty times slower.
            finite = not np.any((tensor.view(np.uint16) & 0x7C00) == 0x7C00)
        else:
            # Minimum and maximum propagate NaN and, unlike isfinite on the tensor, need no memory.
            finite = not tensor.size or np.isfinite(tensor.min()) and np.isfinite(tensor.max())
        if not finite:
            raise ModelError(
                f"its tensor {printable(name)} holds NaN or infinity, which training that went "
                "wrong leaves behind: use an earlier checkpoint"
            )


# Writing.


def save_model(model: Model, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
    """Write a model to an `.npz` file, whole or not at all.

    The same model gives the same bytes every time.

    Parameters
    ----------
    model : Model
        If `info["precision"]` is "int8", as set by `convert`, matrices are stored in eight bits,
        otherwise in the type they have.
    path : path-like
        The file appears under this name only when it is complete.
    overwrite : bool
        False: raise FileExistsError rather than replace a file.

    Raises
    ------
    TypeError
        `model` is not a Model, or `path` not a path.
    ModelError
        Its configuration and `info` are too long for a file that `load_model` accepts.
    OSError
        The disk is full, or the folder is missing or not writable; nothing is left behind.
        FileExistsError if `path` exists and `overwrite` is False.

    Examples
    --------
    >>> import pathlib, tempfile, npfsn
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "copy.npz"
    >>> npfsn.save_model(npfsn.load_model(), path)
    >>> npfsn.load_model(path)
    <npfsn.Model fast_fullsubnet, 5.85 M parameters>
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"model is of type {type(model).__name__}: expected a Model, see load_model"
        )
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path is of type {type(path).__name__}: expected that of a model file")
    if os.fspath(path) == "":
        raise ModelError("the path is empty: expected that of a model file")
    if is_folder(path):
        raise IsADirectoryError(errno.EISDIR, "it is a folder: name a file", os.fspath(path))
    in_halves = all(tensor.dtype == np.float16 for tensor in model.tensors.values())
    stored = "float16" if in_halves else "float32"
    header = {
        "format": FORMAT,
        "architecture": model.architecture,
        "config": dataclasses.asdict(model.config),
        "precision": "int8" if model.info.get("precision") == "int8" else stored,
        "converter": model.info.get("converter", f"npfsn {__version__}"),
        "source": model.info.get("source", {}),
    }
    text = json.dumps(header)
    if len(text) > MAX_HEADER_CHARS:
        raise ModelError(
            f"configuration and info make a header of {len(text):,} characters: expected at most "
            f"{MAX_HEADER_CHARS:,}, or load_model would refuse the file"
        )
    members = {_HEADER: np.array(text)}
    for name, tensor in model.tensors.items():
        if header["precision"] == "int8" and is_quantised(model.config, name, tensor.shape):
            members[name], members[name + _SCALE] = quantise(tensor)
        else:
            members[name] = tensor
    with complete_or_absent(Path(path), overwrite) as partial:
        # Stored, not compressed: weights hardly compress.
        with zipfile.ZipFile(partial, "w") as archive:
            for name, array in members.items():
                member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever it is written
                member.create_system = 3  # the same on every system
                member.external_attr = 0o644 << 16
                member.file_size = array.nbytes
                with archive.open(member, "w") as stream:
                    np.lib.format.write_array(  # type: ignore[no-untyped-call]  # until NumPy 2.3
                        stream, array, version=(1, 0), allow_pickle=False
                    )


def is_quantised(config: BaseConfig, name: str, shape: tuple[int, ...]) -> bool:
    """Whether int8 files store this tensor in eight bits.

    They do so for the matrices of layers, except those that produce the mask, which are kept in
    half precision (`quantise.to_float16`).
    """
    return len(shape) == 2 and name not in config.fixed and not gives_mask(config, name)


def gives_mask(config: BaseConfig, name: str) -> bool:
    """Whether a tensor is the matrix of an output layer that produces the mask."""
    return name in {f"{stack}.fc_output_layer.weight" for stack in config.mask_stacks}


# Reading.


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is to be read as a model file: by its content, or else by its name."""
    try:
        file, size = open_regular(Path(path))
        with file:
            return f"{_HEADER}.npy" in Archive(file, size, max_ratio=math.inf).entries
    except ReadError:  # whatever it is: its reader will tell
        return Path(path).suffix.lower() == ".npz"


def _read(file: BinaryIO, size: int) -> Model:
    """Read an open `.npz` file."""
    archive = Archive(file, size, max_ratio=MAX_RATIO)
    entries = {name.removesuffix(".npy"): entry for name, entry in archive.entries.items()}
    if len(entries) != len(archive.entries):
        raise ModelError("it has two members of the same name")
    header_entry = entries.pop(_HEADER, None)
    if header_entry is None:
        raise ModelError(
            f"it is not an npfsn model (no {_HEADER}): convert a checkpoint with npfsn-convert"
        )
    header = _read_header(archive, header_entry)
    architecture, config, precision = _check_header(header)

    arrays = {name: _Npy(archive, entry) for name, entry in entries.items()}
    scales = _take_scales(arrays) if precision == "int8" else {}
    check_tensors(config, arrays)
    tensors = {}
    for name, array in arrays.items():
        if name in scales:
            tensors[name] = _read_int8(name, array, scales[name])
            continue
        if array.dtype not in (np.float32, np.float16):
            raise ModelError(
                f"its tensor {printable(name)} has type {array.dtype}, expected float32 or float16"
            )
        tensors[name] = array.read()
    info = {
        "format": header["format"],
        "precision": precision,
        "converter": _text(header.get("converter")),
        "source": {
            key: _text(value) for key, value in _object(header.get("source", {}), "source").items()
        },
    }
    return Model(architecture, config, tensors, info)


def _take_scales(arrays: dict[str, _Npy]) -> dict[str, _Npy]:
    """Take the scales of int8 matrices out of `arrays`."""
    names = [name for name, array in arrays.items() if array.dtype == np.int8]
    lost = [name for name in names if name + _SCALE not in arrays]
    if lost:
        raise ModelError(f"its int8 tensor {printable(lost[0])} has no {_SCALE}")
    return {name: arrays.pop(name + _SCALE) for name in names}


def _read_int8(name: str, array: _Npy, scale: _Npy) -> npt.NDArray[np.float32]:
    """Read one int8 matrix, dequantised to float32."""
    if len(array.shape) != 2 or scale.dtype != np.float32 or scale.shape != array.shape[:1]:
        raise ModelError(
            f"its int8 tensor {printable(name)} of shape {list(array.shape)} has a scale of type "
            f"{scale.dtype} and shape {list(scale.shape)}, expected float32, one per row"
        )
    values = scale.read()
    check_finite({name + _SCALE: values})
    if values.size and values.min() < 0:
        raise ModelError(f"its tensor {printable(name + _SCALE)} holds negative scales")
    matrix = dequantise(array.read(), values)
    matrix.flags.writeable = False  # not shared: `_frozen` need not copy
    return matrix


class _Npy:
    """One array in an archive, whose shape and type are read and checked before its values."""

    def __init__(self, archive: Archive, entry: Entry) -> None:
        self._archive = archive
        self._entry = entry
        name = printable(entry.name)
        head = archive.head(entry, 12)
        count = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(head[6:8], 0)  # bytes of the length
        length = int.from_bytes(head[8 : 8 + count], "little")
        if head[:6] != b"\x93NUMPY" or not count or len(head) < 8 + count or length > 4096:
            raise ModelError(f"its member {name} is no NumPy array")
        self._data_offset = 8 + count + length
        text = archive.head(entry, self._data_offset)[8 + count :].decode("latin1")
        match = _NPY_HEADER.fullmatch(text)
        if match is None:
            raise ModelError(f"its member {name} has an array header that cannot be read")
        descr, order, shape = match.groups()
        if not re.fullmatch(r"[<>|=][fiub]\d|[<>|=]U\d{1,6}", descr):
            raise ModelError(
                f"its member {name} has type {printable(descr)}, expected float32 or float16"
            )
        try:
            self.dtype = np.dtype(descr).newbyteorder("=")
            self._file_dtype = np.dtype(descr)
        except TypeError:
            raise ModelError(f"its member {name} has type {printable(descr)}") from None
        self._fortran_order = order == "True"
        self.shape = tuple(int(n) for n in re.findall(r"\d+", shape))
        if len(self.shape) > 8:
            raise ModelError(f"its member {name} has {len(self.shape)} dimensions")
        size = self.dtype.itemsize * math.prod(self.shape)
        if self._data_offset + size != entry.size:
            raise ModelError(
                f"its member {name} has {entry.size - self._data_offset:,} bytes, expected "
                f"{size:,} for {self.dtype} of shape {list(self.shape)}"
            )

    def read(self) -> npt.NDArray[Any]:
        """Read the values into an array of native byte order."""
        data = self._archive.read(self._entry)[self._data_offset :]
        array: npt.NDArray[Any] = np.frombuffer(data, self._file_dtype)
        array = array.reshape(self.shape, order="F" if self._fortran_order else "C")
        array = array.astype(self.dtype, copy=False)
        array.flags.writeable = False  # not shared: `_frozen` need not copy
        return array


def _read_header(archive: Archive, entry: Entry) -> dict[str, Any]:
    """Read the header, an object in JSON."""
    array = _Npy(archive, entry)
    if array.dtype.kind != "U" or array.shape != ():
        raise ModelError(f"its {_HEADER} is no single string")
    if array.dtype.itemsize > 4 * MAX_HEADER_CHARS:
        raise ModelError(f"its {_HEADER} has more than {MAX_HEADER_CHARS:,} characters")
    try:
        return _object(json.loads(str(array.read()), parse_constant=_refuse), _HEADER)
    except NpfsnError:
        raise
    except (ValueError, RecursionError):
        raise ModelError(f"its {_HEADER} is damaged (no valid JSON)") from None


def _refuse(constant: str) -> Any:
    raise ModelError(f"its {_HEADER} holds {constant}")


def _check_header(header: Mapping[str, Any]) -> tuple[str, Any, str]:
    """Check the header and build the configuration. Unknown keys of the header are tolerated."""
    version = header.get("format")
    if type(version) is not int or version < 1:
        raise ModelError(f"its {_HEADER} has no format version")
    if version > FORMAT:
        raise ModelError(
            f"made by a newer npfsn (format {shown(version)}, this one reads {FORMAT}): upgrade "
            "npfsn"
        )
    precision = header.get("precision", "float32")
    if precision not in PRECISIONS:
        raise ModelError(
            f"its precision is {printable(precision)}, this npfsn reads {', '.join(PRECISIONS)}"
            ": upgrade npfsn"
        )
    from .models import ARCHITECTURES

    architecture = header.get("architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ModelError(
            f"its architecture is {printable(architecture)}, this npfsn knows "
            f"{', '.join(ARCHITECTURES)}: upgrade npfsn, or convert the checkpoint again"
        )
    arguments = _object(header.get("config"), "config")
    _check_plain(arguments)
    fields = {item.name for item in dataclasses.fields(ARCHITECTURES[architecture].Config)}
    if unknown := sorted(arguments.keys() - fields):
        names = listed([printable(name) for name in unknown], 4)
        raise ModelError(
            f"its configuration has entries that this npfsn does not know ({names}): upgrade npfsn"
        )
    _check_complete(arguments, fields)
    config = build_config(lambda: ARCHITECTURES[architecture].Config(**arguments))
    return architecture, config, precision


def _check_complete(arguments: Mapping[str, Any], fields: set[str]) -> None:
    """Refuse missing entries: defaults are the published values, not those of this file."""
    missing = sorted(fields - arguments.keys())
    of_sequences = [item.name for item in dataclasses.fields(Sequence)]
    for name, value in arguments.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                missing += [f"{name}.{field}" for field in of_sequences if field not in part]
    if missing:
        raise ModelError(
            f"its configuration lacks {listed(missing, 4)}: convert the checkpoint again with "
            "npfsn-convert"
        )


def _check_plain(arguments: Mapping[str, Any]) -> None:
    """Refuse values that could pass for others: "", and booleans except `start_at_sound`."""
    pending = [value for name, value in arguments.items() if name != "start_at_sound"]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, bool) or value == "":
            raise ModelError(
                f"its configuration holds {value!r}, expected numbers, names and null: convert the "
                "checkpoint again with npfsn-convert"
            )


def build_config(build: Callable[[], Any]) -> Any:
    """Build a Config; turn any error about its values into a ModelError.

    Raises
    ------
    NpfsnError
        The Config refused a value.
    ModelError
        A value is of a type that the Config did not expect.
    """
    try:
        return build()
    except NpfsnError:
        raise
    except (
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ModelError(
            f"its configuration has values of the wrong kind ({printable(str(error), 120)})"
        ) from None


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(f"its {name} is missing or no JSON object")
    return value


def _text(value: object) -> str:
    """Return untrusted text in a printable form."""
    return printable(value, 200) if isinstance(value, str) else "unknown"
