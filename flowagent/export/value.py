"""What a message says of its row, before it is text or bytes: one array for all rows, and what it means.

A schema makes a `Value` of each field from the columns of a batch; a format
makes text, bytes or Python objects of it.

    number  (n,)    of any integer or float dtype, or bool
    text    (n,)    bytes ("S"), UTF-8
    addr    (2, n)  uint64, as in `flowagent.schema`
    prefix  (3, n)  uint64, an address and behind it the length of a prefix it is in
    mac     (n,)    uint64; `MAC` is the same in capital letters
    code    (n,)    unsigned integers that stand for what `label` makes of them
    opaque  (n,)    Python bytes (dtype object), as hexadecimal
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from flowagent.batch import Array, is_constant
from flowagent.export import text

Kind = Literal["number", "text", "addr", "prefix", "mac", "MAC", "code", "opaque"]
_FEW = 1024
"""Rows whose addresses are quicker looked up one by one."""


@dataclass(frozen=True, slots=True)
class Value:
    """The values of one field: `known` is a bool mask (n,), or None where all are known."""

    kind: Kind
    data: Array
    known: Array | None = None
    label: Callable[[int], Any] | None = None
    is_list: bool = False
    """Whether each is the one element of a list."""

    @property
    def is_text(self) -> bool:
        """Whether JSON has it in quotes."""
        return self.kind not in ("number", "code")

    def where(self, mask: Array) -> Value:
        """Unknown where the mask (n,) is False, too."""
        if bool(mask.all()):
            return self
        return self._with(self.data, mask if self.known is None else mask & self.known)

    def or_else(self, other: Value | None) -> Value:
        """Another's values where these are not known."""
        if self.known is None or other is None:
            return self
        known = None if other.known is None else self.known | other.known
        return self._with(np.where(self.known, self.data, other.data), known)

    def map(self, function: Callable[[Array], Array]) -> Value:
        """Other data of the same rows; of the one value that all rows have, where that is so."""
        if not is_constant(self.data):
            return self._with(function(self.data), self.known)
        one = function(self.data[..., :1])
        return self._with(np.broadcast_to(one, (*one.shape[:-1], self.data.shape[-1])), self.known)

    def _with(self, data: Array, known: Array | None) -> Value:
        # dataclasses.replace takes four times as long.
        return Value(self.kind, data, known, self.label, self.is_list)


def json_text(value: Value) -> Array:
    """As JSON without the quotes of texts: (n,) "S" with NUL anywhere, or (1,) where all rows have the same."""
    data = distinct(value)
    match value.kind:
        case "number":
            return text.numbers(data)
        case "text":
            return text.strings(data)
        case "addr":
            return text.addresses(data)
        case "prefix":
            return text.prefixes(data)
        case "mac" | "MAC":
            return text.macs(data, upper=value.kind == "MAC")
        case "code":
            return label_table(value, data, msgspec.json.encode)[0].take(data)
        case "opaque":
            return np.array(_hexadecimal(data), "S")


def plain(value: Value) -> list[Any]:
    """As Python objects; `msgspec.UNSET` where unknown."""
    data = distinct(value)
    objects = _plain(value, data)
    if value.is_list:
        objects = [[item] for item in objects]
    if len(objects) == 1:
        objects *= value.data.shape[-1]
    if value.known is None:
        return objects
    return [item if known else msgspec.UNSET for item, known in zip(objects, value.known.tolist(), strict=True)]


def _plain(value: Value, data: Array) -> list[Any]:
    match value.kind:
        case "number":
            return data.tolist()  # type: ignore[no-any-return]
        case "text":
            return text.plain(data)
        case "addr" if data.shape[-1] < _FEW:
            return list(map(text.address, *data.tolist()))
        case "addr" | "prefix" | "mac" | "MAC":
            return text.split(json_text(value))
        case "code":
            assert value.label is not None
            codes = data.tolist()
            labels = {code: value.label(code) for code in set(codes)}
            return list(map(labels.__getitem__, codes))
        case "opaque":
            return _hexadecimal(data)


def distinct(value: Value) -> Array:
    """The data of all rows, or one of them where all rows have the same."""
    return np.ascontiguousarray(value.data[..., :1]) if is_constant(value.data) else value.data


def _hexadecimal(data: Array) -> list[str]:
    return [octets.hex() if isinstance(octets, bytes) else "" for octets in data.tolist()]


def label_table(value: Value, codes: Array, encode: Callable[[Any], bytes]) -> tuple[Array, Array]:
    """The labels of those codes that occur, encoded, and their lengths, each by its code."""
    assert value.label is not None
    counts = np.bincount(codes)
    used = np.flatnonzero(counts).tolist()
    texts = [encode(value.label(code)) for code in used]
    table = np.zeros(len(counts), f"S{max(map(len, texts), default=1)}")
    table[used] = texts
    lengths = np.zeros(len(counts), np.intp)
    lengths[used] = list(map(len, texts))
    return table, lengths
