"""Writes files as `torch.save` does, without torch, and some that it never would.

`zip_bytes` and `legacy_bytes` write a state made of dicts, lists, tuples, plain values and the
stand-ins below. The pickles inside are of version 2, instruction by instruction, so that tests can
put anything into them.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STORAGE_NAMES = {
    "<f4": "FloatStorage",
    "<f8": "DoubleStorage",
    "<f2": "HalfStorage",
    "<i8": "LongStorage",
    "<i4": "IntStorage",
    "<i2": "ShortStorage",
    "|i1": "CharStorage",
    "|u1": "ByteStorage",
    "|b1": "BoolStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Storage:
    """A storage: raw little-endian bytes under a type name."""

    def __init__(self, data: bytes, kind: str, itemsize: int, *, numel: int | None = None) -> None:
        self.data = data
        self.kind = kind
        self.numel = len(data) // itemsize if numel is None else numel
        self.itemsize = itemsize

    @classmethod
    def of(cls, array: np.ndarray) -> Storage:
        array = np.ascontiguousarray(array)
        dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder != "|" else array.dtype
        return cls(array.astype(dtype).tobytes(), STORAGE_NAMES[dtype.str], dtype.itemsize)


@dataclass
class Tensor:
    """A window into a storage; strides default to those of a contiguous one."""

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    offset: Any = 0
    parameter: bool = False
    location: str = "cpu"
    dtype: str | None = None  # for untyped storages


@dataclass
class Raw:
    """Pickle instructions as they are."""

    code: bytes


@dataclass
class NumpyScalar:
    """A float64 as NumPy pickles it."""

    value: float
    core: str = "numpy._core"


class Ordered(dict):
    """Written as an OrderedDict, with the `_metadata` attribute that state dicts have."""


def tensor(array: np.ndarray, **options: Any) -> Tensor:
    """Give an array a storage of its own."""
    return Tensor(Storage.of(array), array.shape, **options)


def tensors(arrays: Mapping[str, np.ndarray], begin: str = "", **options: Any) -> dict[str, Tensor]:
    """Give each of the arrays a storage of its own; their names get another beginning."""
    return {begin + name: tensor(array, **options) for name, array in arrays.items()}


def bfloat16(array: np.ndarray) -> Tensor:
    """Keep the upper half of float32 values."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    data = (bits >> np.uint32(16)).astype("<u2").tobytes()
    return Tensor(Storage(data, "BFloat16Storage", 2), array.shape)


def strided(array: np.ndarray) -> Tensor:
    """Store a matrix column by column, after three values that are none of its own."""
    storage = Storage.of(np.concatenate([np.full(3, 7, array.dtype), array.ravel(order="F")]))
    strides = tuple(s // array.itemsize for s in np.asfortranarray(array).strides)
    return Tensor(storage, array.shape, strides, offset=3)


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<L", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


class Writer:
    """Writes pickles and numbers the storages they mention."""

    def __init__(self, *, legacy: bool = False) -> None:
        self.legacy = legacy
        self.keys: dict[int, str] = {}
        self.storages: list[Storage] = []

    def key(self, storage: Storage) -> str:
        if id(storage) not in self.keys:
            number = len(self.storages)
            self.keys[id(storage)] = str(94000000000000 + 64 * number if self.legacy else number)
            self.storages.append(storage)
        return self.keys[id(storage)]

    def pickle(self, value: object) -> bytes:
        return b"\x80\x02" + self.code(value) + b"."

    def code(self, value: object) -> bytes:
        if isinstance(value, Raw):
            return value.code
        if value is None:
            return b"N"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            if -(1 << 31) <= value < 1 << 31:
                return b"J" + struct.pack("<i", value)
            data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return text(value)
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.code, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.code, value)) + b"e"
        if isinstance(value, Ordered):
            items = b"".join(self.code(k) + self.code(v) for k, v in value.items())
            state = b"}" + text("_metadata") + name("collections", "OrderedDict") + b")Rs"
            return name("collections", "OrderedDict") + b")R(" + items + b"u" + state + b"b"
        if isinstance(value, Mapping):
            items = b"".join(self.code(k) + self.code(v) for k, v in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, NumpyScalar):
            dtype = (
                name("numpy", "dtype")
                + b"("
                + text("f8")
                + b"\x89\x88tR("
                + b"K\x03"
                + text("<")
                + b"NNN"
                + self.code(-1) * 2
                + b"K\x00tb"
            )
            latin = struct.pack("<d", value.value).decode("latin1")
            data = name("_codecs", "encode") + b"(" + text(latin) + text("latin1") + b"tR"
            return name(f"{value.core}.multiarray", "scalar") + b"(" + dtype + data + b"tR"
        if isinstance(value, Tensor):
            return self.tensor(value)
        raise TypeError(type(value))

    def tensor(self, value: Tensor) -> bytes:
        storage = value.storage
        untyped = storage.kind == "UntypedStorage"
        identifier = (
            b"("
            + text("storage")
            + name("torch.storage" if untyped else "torch", storage.kind)
            + text(self.key(storage))
            + text(value.location)
            + self.code(storage.numel)
            + (b"N" if self.legacy else b"")
            + b"tQ"
        )
        strides = value.strides
        if strides is None:
            strides, step = (), 1
            for size in reversed(value.shape):
                strides, step = (step, *strides), step * size
        arguments = (
            identifier
            + self.code(value.offset)
            + self.code(value.shape)
            + self.code(strides)
            + b"\x89"
            + name("collections", "OrderedDict")
            + b")R"
        )
        rebuild = "_rebuild_tensor_v2"
        if value.dtype is not None:
            rebuild = "_rebuild_tensor_v3"
            arguments += name("torch", value.dtype)
        code = name("torch._utils", rebuild) + b"(" + arguments + b"tR"
        if value.parameter:
            hooks = name("collections", "OrderedDict") + b")R"
            call = name("torch._utils", "_rebuild_parameter")
            code = call + b"(" + code + b"\x88" + hooks + b"tR"
        return code


def zip_bytes(
    state: object,
    *,
    folder: str = "archive",
    compress: bool = False,
    byteorder: str = "little",
    extra: Mapping[str, bytes] | None = None,
    drop: tuple[str, ...] = (),
) -> bytes:
    """Write a file in torch's format since 1.6."""
    writer = Writer()
    pickle = writer.pickle(state)
    members = {"data.pkl": pickle, "byteorder": byteorder.encode()}
    for number, storage in enumerate(writer.storages):
        members[f"data/{number}"] = storage.data
    members["version"] = b"3\n"
    members |= extra or {}
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for member, data in members.items():
            if member not in drop:
                archive.writestr(zipfile.ZipInfo(f"{folder}/{member}"), data, method)
    return buffer.getvalue()


def legacy_bytes(state: object, *, cut_keys: int | None = None) -> bytes:
    """Write a file in torch's format before 1.6."""
    writer = Writer(legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [writer.pickle(value) for value in (MAGIC, 1001, system, state)]
    keys = [writer.key(storage) for storage in writer.storages]
    parts.append(writer.pickle(keys[:cut_keys]))
    for storage in writer.storages[:cut_keys]:
        parts.append(struct.pack("<q", storage.numel) + storage.data)
    return b"".join(parts)


def pickle_file(code: bytes) -> bytes:
    """Make a zip file whose pickle is these instructions, with one storage of four floats."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array as NumPy's file format."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def fix_crcs(data: bytes) -> bytes:
    """Recompute the checksums of a (damaged) archive of stored members, where it can be read.

    Without this, a mutated archive is refused for its checksums before anything else is tried.
    """
    out = bytearray(data)
    position = data.rfind(b"PK\5\6")
    if position < 0 or position + 20 > len(data):
        return data
    position = struct.unpack_from("<L", data, position + 16)[0]
    while data[position : position + 4] == b"PK\1\2" and position + 46 <= len(data):
        size = struct.unpack_from("<L", data, position + 20)[0]
        length = 46 + sum(struct.unpack_from("<3H", data, position + 28))
        offset = struct.unpack_from("<L", data, position + 42)[0]
        if offset + 30 <= len(data):
            start = offset + 30 + sum(struct.unpack_from("<2H", data, offset + 26))
            crc = zlib.crc32(data[start : start + size])
            struct.pack_into("<L", out, position + 16, crc)
            struct.pack_into("<L", out, offset + 14, crc)
        position += length
    return bytes(out)
