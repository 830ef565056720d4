"""Maps of MessagePack, column by column (https://github.com/msgpack/msgpack/blob/master/spec.md).

Numbers, texts and maps have the shortest form that holds them, as msgspec writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from flowagent.batch import Array
from flowagent.export import text
from flowagent.export.matrix import Marked, Packed, first_bytes, pack
from flowagent.export.structs import structs
from flowagent.export.value import Value, distinct, json_text, label_table, plain

_FEW = 512
"""Rows for which all this is not worth it."""
_encode = msgspec.msgpack.Encoder().encode
_FORMS = np.array([0, 0xCC, 0xCD, 0xCE, 0xCF], np.uint8)
"""What stands before an integer of 1, 2, 4 or 8 bytes; the smallest ones stand there themselves."""


def messages(fields: Sequence[tuple[str, Value]], rows: int) -> list[bytes]:
    """A map a row, by the names of the fields; what is unknown is left out."""
    return list(map(_encode, structs(fields, rows))) if rows < _FEW else encode(fields, rows).messages()


def encode(fields: Sequence[tuple[str, Value]], rows: int) -> Packed:
    """The same, always by the matrix."""
    matrix = Marked(rows)
    _add_head(matrix, [value.known for _, value in fields], rows)
    for name, value in fields:
        start = matrix.width
        matrix.constant(_encode(name) + b"\x91" * value.is_list)
        _add(matrix, value)
        if value.known is not None:
            matrix.erase(start, ~value.known)
    data, used, lengths = matrix.build()
    stops = np.cumsum(lengths, dtype=np.int64)
    return Packed(pack(data, used), stops - lengths, stops)


def _add_head(matrix: Marked, known: Sequence[Array | None], rows: int) -> None:
    """How many entries a map has."""
    count = np.full(rows, sum(mask is None for mask in known), np.uint16)
    for mask in known:
        if mask is not None:
            count += mask
    _add_length(matrix, count, 0x80, 16, (), 0xDE)


def _add_length(matrix: Marked, lengths: Array, short: int, limit: int, form_8: tuple[int, ...], form_16: int) -> None:
    """A length in the form and the byte itself below `limit`, or behind its form in one byte or two."""
    greatest = int(lengths.max(initial=0))
    is_long = lengths >= limit
    is_16 = lengths > 0xFF if form_8 else is_long
    form = np.where(is_16, form_16, form_8[0]) if form_8 else form_16
    matrix.column(np.where(is_long, form, short | lengths).astype(np.uint8))
    if greatest >= limit:
        if greatest > 0xFF or not form_8:
            matrix.column((lengths >> 8).astype(np.uint8), is_16)
        matrix.column(lengths.astype(np.uint8), is_long)


def _add(matrix: Marked, value: Value) -> None:
    data = distinct(value)
    match value.kind:
        case "number" if data.dtype.kind == "f":
            matrix.constant(b"\xcb")
            matrix.column(data.astype(">f8"))
        case "number" if data.dtype.kind == "u" or (data.dtype.kind == "i" and int(data.min(initial=0)) >= 0):
            _add_unsigned(matrix, data)
        case "text":
            octets = text.utf8(data)
            lengths = np.strings.str_len(octets)
            _add_text(matrix, octets, lengths, first_bytes(lengths, octets.dtype.itemsize))
        case "addr" | "prefix" | "mac" | "MAC":
            octets = json_text(value)
            used = octets.view(np.uint8).reshape(len(octets), -1) != 0
            _add_text(matrix, octets, used.sum(axis=1), used.view(f"V{octets.dtype.itemsize}")[:, 0])
        case "code":
            table, lengths = label_table(value, data, _encode)
            matrix.column(table.take(data), first_bytes(lengths, table.dtype.itemsize).take(data))
        case _:
            encoded = [_encode(item) for item in plain(Value(value.kind, data))]
            octets = np.array(encoded, "S")
            matrix.column(octets, first_bytes(np.array(list(map(len, encoded))), octets.dtype.itemsize))


def _add_text(matrix: Marked, octets: Array, lengths: Array, used: Array) -> None:
    _add_length(matrix, lengths, 0xA0, 32, (0xD9,), 0xDA)
    matrix.column(octets, used)


def _add_unsigned(matrix: Marked, values: Array) -> None:
    """The shortest form: below 128 a byte that is the number, else a form and the number, big end first."""
    greatest = int(values.max(initial=0))
    if greatest < 0x80:
        matrix.column(values.astype(np.uint8))
        return
    form = (values > 0x7F).astype(np.uint8)
    sizes = [size for size in (1, 2, 4) if greatest >> 8 * size]
    for size in sizes:
        form += values > values.dtype.type((1 << 8 * size) - 1)
    matrix.column(np.where(form == 0, values, _FORMS.take(form)).astype(np.uint8))
    size = 2 * sizes[-1] if sizes else 1
    matrix.column(values.astype(f">u{size}"), _last_bytes(size).take(form))


def _last_bytes(size: int) -> Array:
    """What is used of an integer of `size` bytes, by the index of its form."""
    used = np.array([[place >= size - count for place in range(size)] for count in (0, 1, 2, 4, 8)])
    return used.view(f"V{size}")[:, 0]
