"""Literals: what the words of a filter stand for, names of columns and values of theirs.

A value is a number: an address of 128 bits with IPv4 as ::ffff:a.b.c.d, a MAC
address of 48, the index of an enum's label.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from flowagent import names
from flowagent.addresses import V4_MAPPED, address_words
from flowagent.elements import COLUMN, TIMES, Element, element, type_kind
from flowagent.ranges import Number, Pair
from flowagent.schema import COLUMNS, Kind

EITHER = {"addr": ("src_addr", "dst_addr"), "port": ("src_port", "dst_port")}
"""Names of two columns, of which either may match."""
_NAMES: dict[str, dict[str, int]] = {
    "proto": {
        "icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51,
        "icmp6": 58, "ipv6-icmp": 58, "ospf": 89, "sctp": 132,
    },
    "tcp_flags": {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128},
}  # fmt: skip
_WHAT = {"int": "a number", "addr": "an address", "mac": "a MAC address with colons", "text": "text",
         "time": "a time in nanoseconds", "name": "a name", "bytes": "a string of bytes"}  # fmt: skip
_NUMBER = re.compile(r"(-?[0-9]{1,40}(?:\.[0-9]{1,40})?)(?:([kKMGT])(i?))?|0[xX]([0-9a-fA-F]{1,16})")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_RANGE = re.compile(r"(.[^-]*)-(.+)")
_V4 = (V4_MAPPED, V4_MAPPED | 0xFFFF_FFFF)


class WrongError(Exception):
    """A word makes no sense where it stands: `what` is wrong with the character at `position`."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(what)
        self.position, self.what = position, what


class Operand(NamedTuple):
    """What a name on the left stands for: a column, or the two of `addr` and `port`; values are of `dtype`."""

    name: str
    columns: tuple[str, ...]
    kind: Kind
    dtype: np.dtype[Any]
    labels: Mapping[str, int]
    """Names of values, in lower case."""

    @property
    def what(self) -> str:
        """Its values in words."""
        names = ", ".join(self.labels)
        if self.kind == "enum":
            return f"one of {names}"
        return f"{_WHAT[self.kind]} or one of {names}" if names else _WHAT[self.kind]

    @property
    def ends(self) -> Pair:
        """The least and the greatest value there can be."""
        if self.kind in ("addr", "mac"):
            return 0, (1 << (128 if self.kind == "addr" else 48)) - 1
        if self.kind == "enum":
            return 0, len(self.labels) - 1
        if self.is_float:
            return -math.inf, math.inf
        return int(np.iinfo(self.dtype).min), int(np.iinfo(self.dtype).max)

    @property
    def is_float(self) -> bool:
        """Whether fractions are among its values."""
        return self.dtype.kind == "f"


def read_operand(name: str, at: int) -> Operand:
    """The column or columns of a name that stands at this position; raises WrongError."""
    columns = EITHER.get(name, (name,))
    column = COLUMNS.get(columns[0])
    if column is not None:
        labels = {label: i for i, label in enumerate(column.labels)} or _NAMES.get(name, {})
        return Operand(name, columns, column.kind, np.dtype(column.dtype), labels)
    if not name.isidentifier():
        raise WrongError(at, f"expected a column such as src_port; {name} {_looks(name)}")
    extra = _elements().get(name)
    if extra is None:
        known = [*COLUMNS, *EITHER, *_elements()]
        raise WrongError(at, f"there is no column {name}{_did_you_mean(name, known)}")
    key = (extra.pen, extra.id)
    own = COLUMN.get(key) or (TIMES[key].column if key in TIMES else None)
    if own is not None:
        raise WrongError(at, f"{name} fills the column {own}; write {own}")
    kind = type_kind(extra.type)
    if kind in ("text", "bytes"):
        raise WrongError(at, f"{name} is {_WHAT[kind]}, which filters do not read")
    signed = kind == "time" or extra.type.startswith("signed")
    dtype = np.dtype("f8" if extra.type.startswith("float") else "i8" if signed else "u8")
    return Operand(name, columns, kind, dtype, {})


@cache
def value_names(column: str) -> dict[int, str]:
    """How filters call values of a column; of two names of one the first."""
    return {value: name for name, value in reversed(_NAMES.get(column, {}).items())}


@cache
def _elements() -> dict[str, Element]:
    """IANA's elements by name."""
    numbered = (element(0, number) for number in range(1, 1 << 15))
    return {e.name: e for e in numbered if not e.name.startswith("pen0_")}


def read_item(operand: Operand, text: str, at: int) -> Sequence[Pair]:
    """The values that an item of a set stands for: one value, a range or a prefix; raises WrongError."""
    first: Number
    last: Number
    is_value = text.startswith('"') or text.lower() in operand.labels
    parts = None if is_value else _RANGE.fullmatch(text)
    if operand.kind == "addr" and "/" in text and not is_value:
        first, last = _prefix(operand, text, at)
    elif parts and operand.kind not in ("enum", "name"):
        first, last = read_value(operand, parts[1], at), read_value(operand, parts[2], at + parts.start(2))
        if operand.kind == "addr" and _is_v4(first) != _is_v4(last):
            raise WrongError(at, f"{text} begins in one version of IP and ends in another")
        if first > last:
            raise WrongError(at, f"a range goes upwards; write {parts[2]}-{parts[1]}")
    else:
        first = last = read_value(operand, text, at)
    if operand.kind == "addr" and first < _V4[0] and last > _V4[1]:
        return [(first, _V4[0] - 1), (_V4[1] + 1, last)]  # who writes IPv6 does not mean IPv4
    return [(first, last)]


def read_value(operand: Operand, text: str, at: int) -> Number:
    """A single value; raises WrongError where it is of another kind or can never occur."""
    text = unquoted(text)
    value: Number | None = operand.labels.get(text.lower())
    if value is None and operand.kind != "enum":
        value = _number(text, whole=False) if operand.is_float else _READERS[operand.kind](text)
    if value is None:
        hint = _did_you_mean(text.lower(), operand.labels)
        raise WrongError(at, f"{operand.name} is {operand.what}; {text} {_looks(text)}{hint}")
    least, most = operand.ends
    if not least <= value <= most:
        raise WrongError(at, f"{operand.name} goes from {least} to {most}; {text} is outside")
    return value


def unquoted(text: str) -> str:
    """What a word stands for that may be in quotes."""
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _prefix(operand: Operand, text: str, at: int) -> tuple[int, int]:
    address, _, length = text.partition("/")
    first = int(read_value(operand, address, at))
    version, bits = (6, 128) if ":" in address else (4, 32)
    if not re.fullmatch("[0-9]{1,3}", length) or int(length) > bits:
        problem = f"the length of an IPv{version} prefix is a number from 0 to {bits}"
        raise WrongError(at + len(address) + 1, problem)
    size = 1 << bits - int(length)
    if first % size:
        right = ipaddress.ip_network((address, int(length)), strict=False)
        raise WrongError(at, f"{text} has bits set behind its length; write {right}, or {address} for one address")
    return first, first + size - 1


def _is_v4(value: Number) -> bool:
    return _V4[0] <= value <= _V4[1]


def _looks(text: str) -> str:
    """What a word is that was not expected."""
    if text in COLUMNS or text in EITHER:
        return "is a column, and columns are compared with values"
    address, slash, _ = text.partition("/")
    if _address(address) is not None:
        return "is a prefix" if slash else "is an address"
    if _mac(text) is not None:
        return "is a MAC address"
    if _NUMBER.fullmatch(text):
        return "is a number" if _number(text) is not None else "has a fraction"
    return "is not"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _number(text: str, *, whole: bool = True) -> Number | None:
    match = _NUMBER.fullmatch(text)
    if match is None or (whole and "." in text):
        return None
    number, suffix, binary, hexadecimal = match.groups()
    if hexadecimal:
        return int(hexadecimal, 16) if whole else float(int(hexadecimal, 16))
    factor: int = (1024 if binary else 1000) ** " kMGT".index((suffix or " ").replace("K", "k"))
    return int(number) * factor if whole else float(number) * factor


def _address(text: str) -> int | None:
    try:
        high, low = address_words(text)
    except ValueError:
        return None
    return high << 64 | low


def _mac(text: str) -> int | None:
    return int(text.replace(":", ""), 16) if _MAC.fullmatch(text) else None


_READERS: dict[Kind, Callable[[str], Number | None]] = {
    "int": _number, "time": _number, "addr": _address, "mac": _mac, "name": names.hashed,
}  # fmt: skip
