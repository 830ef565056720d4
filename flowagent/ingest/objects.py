"""Objects of JSON or MessagePack, as messages and lines hold them, and their values key by key."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

import msgpack  # type: ignore[import-untyped,unused-ignore]
import msgspec
import numpy as np

from flowagent.batch import Array
from flowagent.ingest.decoded import BAD_MESSAGE, BAD_VALUE

Object = dict[str, Any]
Format = Literal["json", "msgpack"]
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BAD_MAPS = (ValueError, msgpack.UnpackException)
_json = msgspec.json.Decoder(Object)
_msgpack = msgspec.msgpack.Decoder(Object)
_LARGEST = 1 << 26
"""Bytes of a message of maps at most; brokers do not take such."""


def read(values: list[bytes], form: Format, errors: Counter[str]) -> tuple[list[Object], Array]:
    """The objects of these messages, each of which may hold several, and (n,) intp: which one each comes from.

    In JSON several are lines, in MessagePack they stand one behind the other. What is no object is counted.
    """
    if form == "json":
        found = _all_lines(values)
        if found is not None:
            return found
    each: Callable[[bytes, Counter[str]], list[Object]] = _lines if form == "json" else _maps
    parts = [each(value, errors) for value in values]
    return list(chain.from_iterable(parts)), np.repeat(np.arange(len(values)), list(map(len, parts)))


def _all_lines(values: list[bytes]) -> tuple[list[Object], Array] | None:
    """All at once; None where anything is unusual."""
    try:
        rows = _json.decode_lines(b"\n".join(values))
    except _BAD:
        return None
    counts = [value.count(b"\n") + (value[-1:] not in (b"\n", b"")) for value in values]
    return (rows, np.repeat(np.arange(len(values)), counts)) if sum(counts) == len(rows) else None


def _lines(value: bytes, errors: Counter[str]) -> list[Object]:
    try:
        return [_json.decode(value)]  # over several lines, maybe
    except _BAD:
        rows = []
    for line in value.split(b"\n"):
        if line and not line.isspace():
            try:
                rows.append(_json.decode(line))
            except _BAD:
                errors[BAD_MESSAGE] += 1
    return rows


def _maps(value: bytes, errors: Counter[str]) -> list[Object]:
    try:
        return [_msgpack.decode(value)]
    except _BAD:
        rows: list[Object] = []
    try:
        for row in msgpack.Unpacker(io.BytesIO(value), max_buffer_size=_LARGEST):
            if isinstance(row, dict):
                rows.append({key: item for key, item in row.items() if isinstance(key, str)})
            else:
                errors[BAD_MESSAGE] += 1
    except _BAD_MAPS:
        errors[BAD_MESSAGE] += 1
    if not rows and not errors:
        errors[BAD_MESSAGE] += 1
    return rows


class Table:
    """The values of objects, key by key; `wrong` (n,) bool says which objects have one of a type that cannot be."""

    def __init__(self, rows: list[Object]) -> None:
        self._rows = rows
        self.keys = dict.fromkeys(chain.from_iterable(rows))
        """All there are."""
        self.wrong = np.zeros(len(rows), np.bool_)

    def __len__(self) -> int:
        return len(self._rows)

    def values(self, key: str, *types: type) -> list[Any] | None:
        """One of each object, None where it has none; those of other types are marked. None where nobody has any."""
        if key not in self.keys:
            return None
        values = [row.get(key) for row in self._rows]
        other = set(map(type, values)) - {*types, type(None)}
        if other:
            self.wrong[[i for i, value in enumerate(values) if type(value) in other]] = True
            values = [None if type(value) in other else value for value in values]
        return values

    def kept(self, errors: Counter[str]) -> Array:
        """(n,) bool: the objects of which no value is wrong; others are counted."""
        errors[BAD_VALUE] += int(np.count_nonzero(self.wrong))
        return ~self.wrong
