"""What is in a file that torch.save wrote: plain values, and tensors that can be read.

Two formats exist. Since 1.6 torch writes a zip archive of a pickle (`data.pkl`) and one member per
storage (`data/0`, ...). Before, it wrote five pickles followed by the storages. `pickles.py` reads
the pickles; it knows the names below and no others, and returns descriptions of tensors. Storages
are read when the arrays of wanted tensors are made, every size checked against the file's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .archive import Archive
from .errors import printable
from .pickles import MAX_BYTES, CutOff, Dict, Name, Opaque, PickleError, described, load
from .reading import ReadError, read_at, read_into

MAX_DIMENSIONS = 8
MAX_EXTENT = 1 << 40
MAX_KEY_LENGTH = 200

# Other files that are mistaken for checkpoints, by their first bytes.
_OTHER_KINDS = {
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"(\xb5/\xfd": "compressed with zstd: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"version https://git-lfs": "a Git LFS pointer in the place of the file: git lfs pull gets it",
    b"<": "a web page: download the file itself",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

# The types of torch's storages, little-endian in files. bfloat16, which NumPy lacks, is the upper
# half of a float32.
_BFLOAT16 = "bfloat16"
_DTYPES = {
    "float32": "<f4",
    "float64": "<f8",
    "float16": "<f2",
    _BFLOAT16: "<u2",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "|u1",
    "complex64": "<c8",
    "complex128": "<c16",
}
_STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


def read_state(file: BinaryIO, size: int) -> tuple[object, Storages]:
    """Read the object that was saved, in which tensors are described, but no storages yet.

    Parameters
    ----------
    file : binary file
    size : int
        Bytes in it.

    Returns
    -------
    state : object
        Dicts with keys of str alone, lists and plain values, with a `Tensor` for each tensor.
    storages : Storages
        For `read_tensors`.

    Raises
    ------
    ReadError, PickleError
        It is another file, damaged, or holds what is not known.
    """
    magic = read_at(file, 0, min(size, 4))
    if magic[:2] == b"PK":
        return _read_zip(file, size)
    if magic[:1] == b"\x80":
        return _read_legacy(file, size)
    raise ReadError(f"it {_other_kind(file, size)}")


def _other_kind(file: BinaryIO, size: int) -> str:
    """Describe a file that torch.save has not written."""
    head = read_at(file, 0, min(size, 512))
    if not head:
        return "is empty"
    if head[257:262] == b"ustar":
        return "is a tar archive of other files: unpack it first"
    if head[8:10] == b'{"':
        return "is a safetensors file, which is not read: load it and torch.save what it holds"
    if head[:1] == b"\x08" and head[4:].startswith(b"pytorch\x1a"):  # version, then who wrote it
        return "is an ONNX file, which is not read: take the checkpoint it was exported from"
    for begin, what in _OTHER_KINDS.items():
        if head.lstrip().startswith(begin):
            return f"is {what}"
    return "is neither a zip archive nor a pickle"


def _too_large(size: str) -> str:
    return (
        f"its pickle has {size} bytes, at most {MAX_BYTES:,} are read: what lies beside the "
        "network, such as a log, is too large"
    )


def _read_zip(file: BinaryIO, size: int) -> tuple[object, Storages]:
    """Read the pickle of an archive, but not yet its storages."""
    archive = Archive(file, size, max_ratio=1.0, ignore_missing_crc=True)
    pickles = [n for n in archive.entries if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickles) != 1:
        if any(name.endswith(".npy") for name in archive.entries):
            raise ReadError("it is a NumPy archive, and no model of npfsn's")
        if any(name.endswith((".pt", ".pth", ".tar", ".ckpt")) for name in archive.entries):
            raise ReadError("it is a zip archive of other files: unpack it first")
        raise ReadError("it is a zip archive, but has no data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in archive.entries:
        raise ReadError("it is a TorchScript program, which has no plain state dict")
    entry = archive.entries[pickles[0]]
    if entry.size > MAX_BYTES:
        raise ReadError(_too_large(f"{entry.size:,}"))
    data = archive.read(entry).tobytes()
    storages = _ZipStorages(archive, prefix)
    state, end = load(data, 0, _NAMES, storages.register)
    if end != len(data):
        raise PickleError(f"{len(data) - end:,} bytes follow its pickle")
    return state, storages


def _read_legacy(file: BinaryIO, size: int) -> tuple[object, Storages]:
    """Read the five pickles of a legacy file and find its storages."""
    data = read_at(file, 0, min(size, MAX_BYTES))
    storages = _LegacyStorages(file)
    try:
        magic, end = load(data, 0, {}, storages.register)
    except PickleError:
        magic = None
    if magic != _LEGACY_MAGIC:
        raise PickleError("it is a pickle, but none of torch's")
    protocol, end = load(data, end, {}, storages.register)
    if protocol != _LEGACY_PROTOCOL:
        raise PickleError(f"it has format {described(protocol)}, expected {_LEGACY_PROTOCOL}")
    # The third has the writer's byte order, but storages are always little-endian.
    _, end = load(data, end, {}, storages.register)
    try:
        state, end = load(data, end, _NAMES, storages.register)
    except CutOff:
        if len(data) < size:
            raise ReadError(_too_large(f"more than {MAX_BYTES:,}")) from None
        raise
    keys, end = load(data, end, {}, storages.register)
    storages.locate(keys, end, size)
    return state, storages


@dataclass(frozen=True)
class _Storage:
    """One storage. `dtype` is None for an untyped one, whose `numel` counts bytes."""

    key: str
    dtype: str | None
    numel: int
    offset: int = 0  # in elements, into the storage named `key` (views in old legacy files)

    @property
    def itemsize(self) -> int:
        return np.dtype(_DTYPES[self.dtype]).itemsize if self.dtype else 1


@dataclass(frozen=True)
class Tensor:
    """A window into a storage; offset and strides count elements."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the resulting array."""
        itemsize = 4 if self.dtype == _BFLOAT16 else np.dtype(_DTYPES[self.dtype]).itemsize
        return self.numel * itemsize


class Storages:
    """The storages of a file, whose raw bytes are read on demand."""

    def __init__(self) -> None:
        self.seen: dict[str, _Storage] = {}
        self.big_endian = False

    def register(self, identifier: object) -> _Storage:
        """Turn a persistent identifier into a storage, and record it."""
        if (
            type(identifier) is not tuple
            or not 5 <= len(identifier) <= 6
            or identifier[0] != "storage"
        ):
            raise PickleError("its pickle refers to something that is no tensor storage")
        _, kind, key, _, numel = identifier[:5]
        if type(kind) is not Name or not isinstance(kind.value, _StorageType):
            raise PickleError("its pickle has a storage of unknown type")
        key = str(key) if type(key) is int and 0 <= key < MAX_EXTENT else key
        if type(key) is not str or not 0 < len(key) <= MAX_KEY_LENGTH:
            raise PickleError("its pickle has a storage without a proper name")
        storage = _Storage(key, kind.value.dtype, _extent(numel))
        known = self.seen.setdefault(key, storage)
        if known != storage:
            raise PickleError(f"its storage {printable(key)} is described in two ways")
        return self.view(storage, identifier[5] if len(identifier) == 6 else None)

    def view(self, storage: _Storage, window: object) -> _Storage:
        """Return a part of a storage, which legacy files may refer to."""
        if window is not None:
            raise PickleError("its pickle has a storage within a storage")
        return storage

    def read(self, storage: _Storage) -> npt.NDArray[np.uint8]:
        """Read the bytes of a whole storage: uint8[numel * itemsize]."""
        raise NotImplementedError


@dataclass(frozen=True)
class _StorageType:
    dtype: str | None


@dataclass(frozen=True)
class _Dtype:
    name: str


class _ZipStorages(Storages):
    """Storages that are members of an archive."""

    def __init__(self, archive: Archive, prefix: str) -> None:
        super().__init__()
        self.archive = archive
        self.prefix = prefix
        order = archive.entries.get(f"{prefix}byteorder")
        if order is not None and order.size < 16:
            self.big_endian = archive.read(order).tobytes().strip() == b"big"

    def read(self, storage: _Storage) -> npt.NDArray[np.uint8]:
        entry = self.archive.entries.get(f"{self.prefix}data/{storage.key}")
        if entry is None:
            raise ReadError(f"its storage {printable(storage.key)} is missing")
        if not entry.is_stored:
            raise ReadError(
                f"its storage {printable(storage.key)} is compressed, which torch.save never does"
            )
        expected = storage.numel * storage.itemsize
        if entry.size != expected:
            raise ReadError(
                f"its storage {printable(storage.key)} has {entry.size:,} bytes, expected "
                f"{expected:,}"
            )
        return self.archive.read(entry)


class _LegacyStorages(Storages):
    """Storages that follow the pickles, each preceded by the number of its elements."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file = file
        self.offsets: dict[str, int] = {}

    def view(self, storage: _Storage, window: object) -> _Storage:
        if window is None:
            return storage
        if type(window) is not tuple or len(window) != 3:
            raise PickleError("its pickle has a damaged part of a storage")
        offset, numel = _extent(window[1]), _extent(window[2])
        if offset + numel > storage.numel:
            raise PickleError(f"a part of its storage {printable(storage.key)} reaches beyond it")
        return _Storage(storage.key, storage.dtype, numel, offset)

    def locate(self, keys: object, start: int, file_size: int) -> None:
        """Locate the storages, in the order of `keys`; check that they fill the file exactly."""
        if type(keys) is not list:
            raise PickleError("its list of storages is damaged")
        position = start
        for key in keys:
            storage = self.seen.get(key) if type(key) is str else None
            if storage is None or storage.key in self.offsets:
                raise PickleError("its list of storages does not match its tensors")
            if position + 8 > file_size:
                raise ReadError(f"it is cut off before its storage {printable(key)}")
            numel = int.from_bytes(read_at(self.file, position, 8), "little")
            if numel != storage.numel:
                raise ReadError(
                    f"its storage {printable(key)} has {numel:,} elements, expected "
                    f"{storage.numel:,}"
                )
            self.offsets[key] = position + 8
            position += 8 + storage.numel * storage.itemsize
            if position > file_size:
                raise ReadError(f"it is cut off within its storage {printable(key)}")
        if position != file_size:
            raise ReadError(f"{file_size - position:,} bytes follow its last storage")

    def read(self, storage: _Storage) -> npt.NDArray[np.uint8]:
        offset = self.offsets.get(storage.key)
        if offset is None:
            raise ReadError(f"its storage {printable(storage.key)} is missing")
        out = np.empty(storage.numel * storage.itemsize, np.uint8)
        read_into(self.file, offset, out)
        return out


def read_tensors(
    wanted: Mapping[str, Tensor], storages: Storages
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Read each storage needed once, and slice the tensors from it."""
    raw: dict[str, npt.NDArray[np.uint8]] = {}
    for name, tensor in wanted.items():
        storage = tensor.storage
        _check_bounds(name, tensor)
        if storage.key not in raw:
            raw[storage.key] = storages.read(storages.seen[storage.key])
        yield name, _cut(tensor, raw[storage.key], storages.big_endian)


def _check_bounds(name: str, tensor: Tensor) -> None:
    """Check that every element of a tensor lies within its storage."""
    storage = tensor.storage
    itemsize = np.dtype(_DTYPES[tensor.dtype]).itemsize
    available = storage.numel * storage.itemsize // itemsize
    last = tensor.offset + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if tensor.numel and last >= available:
        raise ReadError(
            f"its tensor {printable(name)} needs {last + 1:,} elements, but its storage has "
            f"{available:,}"
        )


def _cut(tensor: Tensor, raw: npt.NDArray[np.uint8], big_endian: bool) -> npt.NDArray[Any]:
    """Make the array of a tensor whose bounds have been checked."""
    dtype = np.dtype(_DTYPES[tensor.dtype])
    if big_endian:
        dtype = dtype.newbyteorder(">")
    array: npt.NDArray[Any]
    if tensor.numel == 0:
        array = np.zeros(tensor.shape, dtype)
    else:
        start = tensor.storage.offset * tensor.storage.itemsize + tensor.offset * dtype.itemsize
        usable = (raw.size - start) // dtype.itemsize * dtype.itemsize
        array = np.lib.stride_tricks.as_strided(
            raw[start : start + usable].view(dtype),
            tensor.shape,
            tuple(stride * dtype.itemsize for stride in tensor.strides),
            writeable=False,
        )
    if tensor.dtype == _BFLOAT16:
        array = np.left_shift(array, 16, dtype=np.uint32, out=np.empty(array.shape, np.uint32))
        array = array.view(np.float32)
    elif tensor.dtype == "bool":
        array = np.not_equal(array, 0, out=np.empty(array.shape, bool))
    array.flags.writeable = False
    return array


# What the names in a file stand for. These functions only build descriptions.

_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
# Types that training programs save with a network: options, scores, times, paths, windows of a
# loss. Modules of pathlib and NumPy go by two names, depending on the version.
_BESIDE = {
    "argparse": ("Namespace",),
    "builtins": ("set", "frozenset", "complex", "slice", "range", "bytearray"),
    "collections": ("Counter", "deque"),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "numpy.core.multiarray": ("_reconstruct",),
    "numpy._core.multiarray": ("_reconstruct",),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "torch": ("device",),
    "torch._utils": ("_rebuild_sparse_tensor",),
    "torch.serialization": ("_get_layout",),
    "torch.torch_version": ("TorchVersion",),
    "types": ("SimpleNamespace",),
    "uuid": ("UUID",),
}


def _extent(value: object) -> int:
    """Check a size, offset or stride."""
    if type(value) is not int or not 0 <= value < MAX_EXTENT:
        raise PickleError(f"its pickle has a tensor of size or offset {described(value)}")
    return value


def _extents(values: object) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or len(values) > MAX_DIMENSIONS:  # type: ignore[arg-type]
        raise PickleError(
            f"its pickle has a tensor whose shape is damaged or has more than {MAX_DIMENSIONS} "
            "dimensions"
        )
    return tuple(_extent(value) for value in values)  # type: ignore[attr-defined]


def _tensor(storage: object, dtype: str | None, offset: object, *sizes: object) -> Tensor:
    if type(storage) is not _Storage or (storage.dtype or dtype) is None:
        raise PickleError("its pickle has a tensor without a storage")
    shape, strides = (_extents(values) for values in sizes)
    if len(shape) != len(strides):
        raise PickleError("its pickle has a tensor whose shape and strides do not match")
    if math.prod(max(size, 1) for size in shape) >= MAX_EXTENT:  # an extent may be 0
        raise PickleError("its pickle has a tensor with more elements than there can be")
    return Tensor(storage, str(dtype or storage.dtype), _extent(offset), shape, strides)


def _check_metadata(metadata: object) -> None:
    """Refuse {"neg": True}: a view that torch negates, or conjugates, when it is read."""
    if metadata:
        raise PickleError(
            "its pickle has a tensor that is stored negated or conjugated: save it anew, after "
            "tensor.resolve_conj().resolve_neg()"
        )


def _rebuild_tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object = None,
    hooks: object = None,
    metadata: object = None,
    *ignored: object,
) -> Tensor:
    _check_metadata(metadata)
    return _tensor(storage, None, offset, shape, strides)


def _rebuild_tensor_v3(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    dtype: object,
    metadata: object = None,
    *ignored: object,
) -> Tensor:
    _check_metadata(metadata)
    if type(dtype) is not Name or type(dtype.value) is not _Dtype:
        raise PickleError("its pickle has a tensor of unknown type")
    return _tensor(storage, dtype.value.name, offset, shape, strides)


def _rebuild_parameter(data: object, *ignored: object) -> Tensor:
    # Ignored: requires_grad, hooks, attributes.
    if type(data) is not Tensor:
        raise PickleError("its pickle has a parameter that is no tensor")
    return data


def _ordered_dict() -> Dict:
    return Dict()


def _encode(text: object, encoding: object) -> object:
    """Return bytes that a pickle of version 2 stores as text; only short ones are needed."""
    if type(text) is str and len(text) <= 32 and encoding == "latin1":
        try:
            return text.encode("latin1")
        except UnicodeEncodeError:
            pass
    return Opaque()


def _default_dict(*ignored: object) -> Dict:
    return Dict()


def _empty_bytes() -> bytes:
    return b""


class _NumpyDtype(Opaque):
    """A NumPy type: `kind` such as "f8"; `build` sets its byte order."""

    __slots__ = ("kind", "order")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.order = "<"

    def build(self, state: object) -> None:
        if type(state) is tuple and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


def _numpy_dtype(kind: object, *ignored: object) -> _NumpyDtype:
    return _NumpyDtype(kind if type(kind) is str else "")


def _numpy_scalar(dtype: object, data: object = b"") -> object:
    """Turn a pickled NumPy scalar into a Python number."""
    if type(dtype) is _NumpyDtype and type(data) is bytes:
        known = dtype.kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1")
        if known and len(data) == int(dtype.kind[1]):
            order = dtype.order if dtype.order in "<>" else "<"
            return np.frombuffer(data, order + dtype.kind)[0].item()
    return Opaque()


def _opaque(*ignored: object) -> Opaque:
    return Opaque()


# Python 2's names of what Python 3's builtins call otherwise.
_OF_PYTHON_2 = {"int": "long", "range": "xrange", "str": "unicode"}


def _in_python_2(name: str) -> str:
    """Return the name in pickles of version 2, which Python 2 can read."""
    module, _, kind = name.rpartition(".")
    return f"__builtin__.{_OF_PYTHON_2.get(kind, kind)}" if module == "builtins" else name


def _table() -> dict[str, Name]:
    """Every name that may occur in a checkpoint."""
    names = {
        "collections.OrderedDict": Name(_ordered_dict),
        "collections.defaultdict": Name(_default_dict),
        "torch._utils._rebuild_tensor": Name(_rebuild_tensor),
        "torch._utils._rebuild_tensor_v2": Name(_rebuild_tensor),
        "torch._utils._rebuild_tensor_v3": Name(_rebuild_tensor_v3),
        "torch._utils._rebuild_parameter": Name(_rebuild_parameter),
        "torch._utils._rebuild_parameter_with_state": Name(_rebuild_parameter),
        "torch.Size": Name(_extents),
        "_codecs.encode": Name(_encode),
        "numpy.dtype": Name(_numpy_dtype),
        "numpy.ndarray": Name(),
    }
    for module in ("__builtin__", "builtins"):  # of Python 2 and 3
        names[f"{module}.bytes"] = Name(_empty_bytes)
        for factory in ("bool", "dict", "float", "int", "list", "str", "tuple"):  # of a defaultdict
            names[f"{module}.{factory}"] = names[_in_python_2(f"{module}.{factory}")] = Name()
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray.scalar"] = Name(_numpy_scalar)
    for module, kinds in _BESIDE.items():
        for kind in kinds:
            full = f"{module}.{kind}"
            names[full] = names[_in_python_2(full)] = Name(_opaque, Opaque)
    for dtype in _DTYPES:
        names[f"torch.{dtype}"] = Name(value=_Dtype(dtype))
    for storage, dtype in _STORAGE_DTYPES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            names[f"{module}.{storage}"] = Name(value=_StorageType(dtype))
    for module in ("torch", "torch.storage"):
        names[f"{module}.UntypedStorage"] = Name(value=_StorageType(None))
    return names


_NAMES = _table()
