"""An interpreter for the few pickle instructions that `torch.save` writes.

A pickle is a program: Python's own reader calls any function that the file names. This one cannot.
It builds dicts, lists, tuples, numbers and strings, and calls only the functions in a short table,
all of them npfsn's own; any other name raises an error and nothing is called. It is a loop over
bytes, so no file can make it recurse, and every instruction takes a bounded amount of memory, so
`MAX_STEPS` bounds the total.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import NpfsnError, printable

MAX_BYTES = 8 << 20
MAX_STEPS = 400_000
_MAX_NAME = 512
_MAX_ARGUMENTS = 64
# Longer strings are logs, not names. _MAX_TEXTS limits bytes in memory: one character above U+FFFF
# makes Python store its whole string with four bytes per character.
_MAX_TEXT, _MAX_TEXTS = 512, 16 << 20


class PickleError(NpfsnError, ValueError):
    """A pickle is damaged or names something unknown; always reported as a CheckpointError."""


class CutOff(PickleError):
    """A pickle goes on after the end of the data, which may be only part of a file."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """What a name in a file stands for: a function, a value or neither.

    Parameters
    ----------
    call : callable or None
        Called with the arguments, which it checks itself (raising PickleError).
    value : object
        What the name stands for as an argument, for such callables to recognise.
    """

    call: Callable[..., object] | None = None
    value: object = None


class Opaque:
    """Placeholder for an object that is not needed, such as an array or a path.

    Its contents are dropped.
    """

    __slots__ = ()

    def build(self, state: object) -> None:
        """Ignore the state of the object."""


class Dict(dict[Any, Any]):
    """Result for an OrderedDict or defaultdict."""

    __slots__ = ()

    def build(self, state: object) -> None:
        """Ignore its attributes (`_metadata` of a state dict)."""


def load(
    data: bytes, start: int, names: Mapping[str, Name], persistent: Callable[[object], object]
) -> tuple[Any, int]:
    """Read one pickle.

    Parameters
    ----------
    data : bytes
        May hold more than this pickle.
    start : int
        Where it begins.
    names : mapping of "module.name" to Name
        Every name that may occur.
    persistent : callable
        Turns a persistent identifier into an object.

    Returns
    -------
    value : object
    end : int
        Where the next byte after the pickle is.

    Raises
    ------
    PickleError
        The pickle is damaged, longer than `MAX_STEPS` instructions, or not as torch.save writes it.
    """
    machine = _Machine(data, start, names, persistent)
    try:
        return machine.run()
    except (IndexError, UnicodeDecodeError):
        # A read from an empty stack or memo, or an invalid string.
        raise PickleError(f"its pickle is damaged near byte {machine.position:,}") from None


def described(value: object) -> str:
    """Describe a value, by its type unless it is an int: the text of nested ones may be endless."""
    return printable(value, 30) if type(value) is int else f"of type {type(value).__name__}"


@dataclass
class _Machine:
    """Stack, memo and position of one run."""

    data: bytes
    position: int
    names: Mapping[str, Name]
    persistent: Callable[[object], object]
    stack: list[Any] = field(default_factory=list)
    outer: list[list[Any]] = field(default_factory=list)  # the stacks below each open mark
    memo: list[Any] = field(default_factory=list)
    texts: int = 0  # bytes in memory

    def run(self) -> tuple[Any, int]:
        for _ in range(MAX_STEPS):
            code = self.take(1)[0]
            if code == _STOP:
                if len(self.stack) != 1 or self.outer:
                    raise PickleError("its pickle ends in the middle")
                return self.stack[0], self.position
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise PickleError(
                    f"its pickle has the instruction 0x{code:02x} at byte "
                    f"{self.position - 1:,}, which no plain state dict needs"
                )
            instruction(self)
        raise PickleError(
            f"its pickle has more than {MAX_STEPS:,} instructions: what lies beside the network, "
            "such as a log, is too long"
        )

    # Reading operands.

    def take(self, size: int) -> bytes:
        piece = self.data[self.position : self.position + size]
        if len(piece) != size:
            raise CutOff(f"its pickle is cut off near byte {self.position:,}")
        self.position += size
        return piece

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + _MAX_NAME)
        if end < 0:
            raise IndexError
        text = self.take(end - self.position).decode("utf-8")
        self.position = end + 1
        return text

    def text(self, size: int) -> object:
        data = self.take(size)
        if size > _MAX_TEXT:
            return Opaque()
        text = data.decode("utf-8")
        self.texts += sys.getsizeof(text)
        if self.texts > _MAX_TEXTS:
            raise PickleError(
                "its pickle has too much text: what lies beside the network, such as a log, is too "
                "long"
            )
        return text

    def close_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    # Instructions.

    def push(self, value: object) -> None:
        self.stack.append(value)

    def protocol(self) -> None:
        version = self.number("<B")
        if not 2 <= version <= 5:
            raise PickleError(f"its pickle has version {version}, expected 2 to 5")

    def frame(self) -> None:
        if self.number("<Q") > len(self.data) - self.position:
            raise IndexError

    def open_mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def integer(self) -> None:
        self.push(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def memoize(self, number: int) -> None:
        if number == len(self.memo):  # the usual order
            self.memo.append(self.stack[-1])
        else:
            self.memo[number] = self.stack[-1]

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.push(items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Opaque:
            raise PickleError("its pickle appends to what is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise IndexError
        if type(target) is Opaque:
            return
        if type(target) not in (dict, Dict):
            raise PickleError("its pickle sets an item of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys are never looked up, and integer keys could be chosen to collide, so that
            # building a dict takes hours.
            if type(key) is str:
                target[key] = value

    def frozen_set(self) -> None:
        self.close_mark()
        self.push(Opaque())

    def name(self, module: object, name: object) -> None:
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else None
        if full is None or full not in self.names:
            raise PickleError(
                f"it names {printable(full)}, which is no part of a plain state dict, so nothing "
                "was run and nothing more was read"
            )
        self.push(self.names[full])

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Name or function.call is None or type(arguments) is not tuple:
            raise PickleError("its pickle calls what is no function")
        if len(arguments) > _MAX_ARGUMENTS:  # every call copies them
            raise PickleError("its pickle calls a function with wrong arguments")
        try:
            self.push(function.call(*arguments))
        except TypeError:
            raise PickleError("its pickle calls a function with wrong arguments") from None

    def new(self) -> None:
        arguments, kind = self.stack.pop(), self.stack[-1]
        if type(kind) is not Name or kind.value is not Opaque or type(arguments) is not tuple:
            raise PickleError("its pickle makes what is none of the kinds that are known")
        self.stack[-1] = Opaque()

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, (Opaque, Dict)):
            raise PickleError("its pickle changes what cannot be changed")
        target.build(state)

    def persistent_id(self) -> None:
        self.push(self.persistent(self.stack.pop()))


_STOP = ord(".")

_INSTRUCTIONS: dict[int, Callable[[_Machine], Any]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("("): _Machine.open_mark,
    ord("0"): lambda m: m.stack.pop(),
    ord("1"): lambda m: m.close_mark(),
    # Constants and numbers.
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("J"): lambda m: m.push(m.number("<i")),
    0x8A: _Machine.integer,
    ord("G"): lambda m: m.push(m.number(">d")),
    # Strings.
    ord("X"): lambda m: m.push(m.text(m.number("<L"))),
    0x8C: lambda m: m.push(m.text(m.number("<B"))),
    ord("B"): lambda m: m.push(m.take(m.number("<L"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    0x96: lambda m: m.push(m.take(m.number("<Q"))),
    # Containers.
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.close_mark())),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("a"): lambda m: m.append([m.stack.pop()]),
    ord("e"): lambda m: m.append(m.close_mark()),
    ord("s"): lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    ord("u"): lambda m: m.set_items(m.close_mark()),
    0x8F: lambda m: m.push(Opaque()),  # a set
    0x90: lambda m: m.append(m.close_mark()),
    0x91: _Machine.frozen_set,
    # Memo.
    ord("q"): lambda m: m.memoize(m.number("<B")),
    ord("r"): lambda m: m.memoize(m.number("<L")),
    0x94: lambda m: m.memoize(len(m.memo)),
    ord("h"): lambda m: m.push(m.memo[m.number("<B")]),
    ord("j"): lambda m: m.push(m.memo[m.number("<L")]),
    # Names and what they do.
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: _Machine.stack_name,
    ord("R"): _Machine.call,
    0x81: _Machine.new,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent_id,
}
