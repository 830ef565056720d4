"""Columns as Arrow stores them, made without Arrow: numbers of one dtype, and texts as bytes and offsets.

Names and values are those of lines of JSON: addresses, MAC addresses and
labels are text, times are nanoseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.elements import column_kind
from flowagent.export import encode, text
from flowagent.export.matrix import first_bytes
from flowagent.export.value import Value, distinct, json_text, label_table, plain
from flowagent.schema import COLUMNS

TEXT = "text"
"""The type of a column of texts; others are NumPy's dtypes as text."""
_WIDEST = {"u": "uint64", "i": "int64", "f": "float64", "b": "bool"}


class Numbers(NamedTuple):
    """`data` (n,), `known` a bool mask (n,) or None where all are."""

    data: Array
    known: Array | None


class Texts(NamedTuple):
    """`offsets` (n + 1,) int32: where each text begins in `data`, UTF-8, and where the last one ends."""

    data: bytes
    offsets: Array
    known: Array | None


def types(batch: Batch) -> dict[str, str]:
    """The type of every column: that of the schema, or the widest of its kind."""
    return {name: _type(name, values) for name, values in batch.columns.items()}


def _type(name: str, values: Array) -> str:
    if values.ndim == 2 or values.dtype.kind not in _WIDEST or column_kind(name) in ("mac", "enum", "name"):
        return TEXT
    return np.dtype(COLUMNS[name].dtype).name if name in COLUMNS else _WIDEST[values.dtype.kind]


def wider(one: str, other: str) -> str:
    """A type that takes the values of both."""
    if one == other:
        return one
    return TEXT if TEXT in (one, other) else "float64"


def in_order(names: Iterable[str]) -> list[str]:
    """Canonical columns first, in their order, then the others by name."""
    order = {name: i for i, name in enumerate(COLUMNS)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def column(batch: Batch, name: str, type_: str) -> Numbers | Texts:
    """A column that is there, as this type."""
    if type_ != TEXT:
        return Numbers(np.ascontiguousarray(batch[name].astype(type_)), batch.valid.get(name))
    return _texts(encode.canonical(batch.select([name]))[name], len(batch))


def _texts(value: Value, rows: int) -> Texts:
    data = distinct(value)
    match value.kind:
        case "text":
            octets = text.utf8(data)
            lengths = np.strings.str_len(octets)
            used = first_bytes(lengths, octets.dtype.itemsize)
        case "code":
            table, of_code = label_table(value, data, str.encode)
            octets, lengths = table.take(data), of_code.take(data)
            used = first_bytes(of_code, table.dtype.itemsize).take(data)
        case "number" | "opaque":
            octets = np.array([str(item) for item in plain(Value(value.kind, data))], "S")
            lengths = np.strings.str_len(octets)
            used = first_bytes(lengths, octets.dtype.itemsize)
        case _:
            octets = json_text(value)
            marks = octets.view(np.uint8).reshape(len(octets), -1) != 0
            used, lengths = marks, marks.sum(axis=1)
    whole = np.ascontiguousarray(octets).view(np.uint8)[np.ascontiguousarray(used).view(np.bool_).reshape(-1)].tobytes()
    if len(lengths) != rows:
        whole, lengths = whole * rows, np.broadcast_to(lengths, rows)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return Texts(whole, offsets, value.known)
