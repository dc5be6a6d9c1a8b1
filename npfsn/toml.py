"""A reader of TOML 1.0, for training recipes.

Python has a reader only from 3.11 on, and npfsn supports 3.10 without further packages. With one
reader for all versions, the tests cover it on each; where Python has its own, they compare the two.
Dates and times are returned as text: no recipe needs them.
"""

from __future__ import annotations

import re
from typing import Any

from .errors import printable, shown

MAX_DEPTH = 32
_MAX_DIGITS = 40

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t]|\r?\n|#[^\x00-\x08\n-\x1f\x7f]*(?=\r?\n|\Z))*")
_COMMENT = re.compile(r"#[^\x00-\x08\n-\x1f\x7f]*")
_NEWLINE = re.compile(r"\r?\n|\Z")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'[^"\\\x00-\x08\n-\x1f\x7f]+')
_BASIC_LINES = re.compile(r'(?:[^"\\\x00-\x08\x0b-\x1f\x7f]|\r\n)+')
_LITERAL = re.compile(r"[^'\x00-\x08\n-\x1f\x7f]*")
_LITERAL_LINES = re.compile(r"(?:[^'\x00-\x08\x0b-\x1f\x7f]|\r\n)+")
_FOLD = re.compile(r"\\[ \t]*\r?\n[ \t\r\n]*")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_CODES = {"u": re.compile(r"[0-9A-Fa-f]{4}"), "U": re.compile(r"[0-9A-Fa-f]{8}")}
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)?)?"
    r"|\d\d:\d\d:\d\d(?:\.\d+)?",
    re.ASCII,
)
_BASED = re.compile(r"0x[0-9A-Fa-f](?:_?[0-9A-Fa-f])*|0o[0-7](?:_?[0-7])*|0b[01](?:_?[01])*")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9](?:_?\d)*)(\.\d(?:_?\d)*)?([eE][+-]?\d(?:_?\d)*)?", re.ASCII)
_SPECIAL = re.compile(r"[+-]?(?:inf|nan)")


class TomlError(ValueError):
    """The text is no TOML; the message says where."""


def loads(text: str) -> dict[str, Any]:
    """Read a TOML document.

    Parameters
    ----------
    text : str

    Returns
    -------
    dict
        Of str, int, float, bool, list and dict; dates and times as str.

    Raises
    ------
    TomlError
    """
    return _Reader(text).document()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.root: dict[str, Any] = {}
        self.section = 0
        # How each dict or list (by identity) was made: this decides what may be added to it.
        self.headers: set[int] = set()  # tables that have had their own [header]
        self.dotted: dict[int, int] = {}  # tables made by dotted keys: the section they belong to
        self.closed: set[int] = set()  # inline tables
        self.table_lists: set[int] = set()  # made by [[header]]

    def fail(self, what: str) -> TomlError:
        line = self.text.count("\n", 0, self.position) + 1
        return TomlError(f"line {line}: {what}")

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match.group()

    def accept(self, token: str) -> bool:
        if not self.text.startswith(token, self.position):
            return False
        self.position += len(token)
        return True

    def expect(self, token: str, after: str) -> None:
        if not self.accept(token):
            raise self.fail(f"expected {token!r} after {after}")

    # Structure.

    def document(self) -> dict[str, Any]:
        table = self.root
        while True:
            self.skip(_BLANK)
            if self.position == len(self.text):
                return self.root
            if self.accept("[["):
                table = self.open_list()
            elif self.accept("["):
                table = self.open_table()
            else:
                self.key_value(table)
            self.skip(_SPACE)
            self.skip(_COMMENT)
            if _NEWLINE.match(self.text, self.position) is None:
                raise self.fail("expected the end of the line")

    def open_table(self) -> dict[str, Any]:
        *parents, last = self.key()
        self.expect("]", "the name of a table")
        self.section += 1
        table = self.descend(parents).setdefault(last, {})
        if (
            type(table) is not dict
            or id(table) in self.headers
            or id(table) in self.dotted
            or id(table) in self.closed
        ):
            raise self.fail(f"{shown(last)} is defined twice")
        self.headers.add(id(table))
        return table

    def open_list(self) -> dict[str, Any]:
        *parents, last = self.key()
        self.expect("]]", "the name of a list of tables")
        self.section += 1
        parent = self.descend(parents)
        if last not in parent:
            parent[last] = []
            self.table_lists.add(id(parent[last]))
        tables = parent[last]
        if id(tables) not in self.table_lists:
            raise self.fail(f"{shown(last)} is defined twice")
        table: dict[str, Any] = {}
        tables.append(table)
        self.headers.add(id(table))
        return table

    def descend(self, names: list[str]) -> dict[str, Any]:
        table = self.root
        for name in names:
            child = table.setdefault(name, {})
            if id(child) in self.table_lists:
                child = child[-1]
            if type(child) is not dict or id(child) in self.closed:
                raise self.fail(f"{shown(name)} is no table")
            table = child
        return table

    def key_value(self, table: dict[str, Any]) -> None:
        *parents, last = self.key()
        self.expect("=", f"the key {shown(last)}")
        for name in parents:
            child = table.setdefault(name, {})
            if (
                type(child) is not dict
                or id(child) in self.closed
                or id(child) in self.headers
                or self.dotted.get(id(child), self.section) != self.section
            ):
                raise self.fail(f"{shown(name)} is defined twice")
            self.dotted[id(child)] = self.section
            table = child
        if last in table:
            raise self.fail(f"{shown(last)} is defined twice")
        self.skip(_SPACE)
        table[last] = self.value()

    def key(self) -> list[str]:
        names = []
        while True:
            self.skip(_SPACE)
            if self.accept('"'):
                names.append(self.basic_string())
            elif self.accept("'"):
                names.append(self.literal_string())
            else:
                names.append(self.skip(_BARE_KEY))
                if not names[-1]:
                    raise self.fail("expected a key")
            self.skip(_SPACE)
            if len(names) > MAX_DEPTH:
                raise self.fail(f"tables lie more than {MAX_DEPTH} deep")
            if not self.accept("."):
                return names

    # Values.

    def value(self) -> Any:
        if self.accept('"""'):
            return self.basic_lines()
        if self.accept('"'):
            return self.basic_string()
        if self.accept("'''"):
            return self.literal_lines()
        if self.accept("'"):
            return self.literal_string()
        if self.accept("true"):
            return True
        if self.accept("false"):
            return False
        if self.accept("["):
            return self.nested(self.array)
        if self.accept("{"):
            return self.nested(self.inline_table)
        return self.skip(_DATE) or self.number()

    def nested(self, read: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"values lie more than {MAX_DEPTH} deep")
        value = read()
        self.depth -= 1
        return value

    def number(self) -> int | float:
        if token := self.skip(_SPECIAL):
            return float(token)
        token = self.skip(_BASED)
        if not token:
            match = _NUMBER.match(self.text, self.position)
            if match is None:
                raise self.fail("expected a value")
            self.position = match.end()
            token = match.group()
            if match[1] or match[2]:
                return float(token.replace("_", ""))
        digits = token.replace("_", "")
        if len(digits) > _MAX_DIGITS:
            raise self.fail("the number is too long")
        return int(digits, 0)

    def array(self) -> list[Any]:
        items: list[Any] = []
        while True:
            self.skip(_BLANK)
            if self.accept("]"):
                return items
            items.append(self.value())
            self.skip(_BLANK)
            if not self.accept(","):
                self.expect("]", "the values of a list")
                return items

    def inline_table(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        self.skip(_SPACE)
        if not self.accept("}"):
            outer, self.section = self.section, -id(table)  # its dotted keys are its own
            while True:
                self.key_value(table)
                self.skip(_SPACE)
                if not self.accept(","):
                    self.expect("}", "the entries of a table")
                    break
            self.section = outer
        self.close(table)
        return table

    def close(self, table: dict[str, Any]) -> None:
        pending = [table]
        while pending:
            table = pending.pop()
            self.closed.add(id(table))
            pending.extend(value for value in table.values() if type(value) is dict)

    # Strings.

    def basic_string(self) -> str:
        parts = []
        while not self.accept('"'):
            parts.append(self.skip(_BASIC) or self.escape())
        return "".join(parts)

    def basic_lines(self) -> str:
        self.accept("\r\n") or self.accept("\n")
        parts = []
        while not self.accept('"""'):
            piece = self.skip(_BASIC_LINES)
            if not piece and self.accept('"'):
                piece = '"'
            parts.append(piece or self.escape(fold=True))
        return self.trailing_quotes(parts, '"')

    def literal_string(self) -> str:
        text = self.skip(_LITERAL)
        self.expect("'", "a text")
        return text

    def literal_lines(self) -> str:
        self.accept("\r\n") or self.accept("\n")
        parts = []
        while not self.accept("'''"):
            piece = self.skip(_LITERAL_LINES)
            if not piece:
                self.expect("'", "a text of several lines")
                piece = "'"
            parts.append(piece)
        return self.trailing_quotes(parts, "'")

    def trailing_quotes(self, parts: list[str], quote: str) -> str:
        """Take up to two quotes before the closing three as text; return the string."""
        for _ in range(2):
            if self.accept(quote):
                parts.append(quote)
        return "".join(parts).replace("\r\n", "\n")

    def escape(self, *, fold: bool = False) -> str:
        if fold and self.skip(_FOLD):
            return ""
        self.expect("\\", "the characters of a text")
        kind = self.text[self.position : self.position + 1]
        self.position += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self.skip(_CODES[kind]) if kind in _CODES else ""
        if digits:
            code = int(digits, 16)
            if code < 0xD800 or 0xDFFF < code <= 0x10FFFF:
                return chr(code)
        raise self.fail(f"unknown escape \\{printable(kind)}")
