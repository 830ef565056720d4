"""Messages of protobuf 3, column by column (https://protobuf.dev/programming-guides/encoding/).

They are as its libraries write them: fields in the order of their numbers, zeros left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from flowagent.batch import Array
from flowagent.export.matrix import Marked, Packed, pack
from flowagent.export.text import is_v4
from flowagent.export.value import Value, distinct

Type = Literal["uint32", "uint64", "enum", "bytes", "double", "repeated uint32"]
"""Of a field. `bytes` are addresses: 4 of IPv4, 16 of IPv6."""
_VARINT, _FIXED64, _LENGTH = 0, 1, 2
_WIRE_TYPES: dict[Type, int] = {
    "uint32": _VARINT, "uint64": _VARINT, "enum": _VARINT, "double": _FIXED64, "bytes": _LENGTH,
    "repeated uint32": _LENGTH,
}  # fmt: skip
_U64 = np.uint64
_ONES = 0x0101_0101_0101_0101
_GROUPS = {4: 0x0FFF_FFFF, 2: 0x0000_3FFF_0000_3FFF, 1: 0x007F_007F_007F_007F}
"""In words of twice so many bytes, the first half of their bits, at 7 bits a byte."""
_PREFIX = np.dtype("<u2")
"""Room for the length of a message, as a varint; there are not fields enough for a longer one."""
_LONGEST = 1 << 14


class Field(NamedTuple):
    """A field of the message, and its values."""

    number: int
    type: Type
    value: Value


class Messages(Packed):
    """Messages, each after its length, which is not part of it."""

    def delimited(self) -> list[bytes]:
        """Each together with its length."""
        return [self.data[start:stop] for start, stop in pairwise([0, *self.stops.tolist()])]


def encode(fields: Iterable[Field], rows: int) -> Messages:
    """A message a row. The fields come in the order of their numbers; what is unknown is left out, as is 0."""
    matrix = Marked(rows)
    matrix.column(np.zeros(1, _PREFIX), np.zeros(1, _PREFIX))
    for field in fields:
        values, present = _present(field)
        if present is None or bool(present.any()):
            start = matrix.width
            _add(field, values, matrix)
            if present is not None and not bool(present.all()):
                matrix.erase(start, ~present)
    assert matrix.width < _LONGEST
    data, used, lengths = matrix.build()
    prefixes, used_of_prefixes = _spread(lengths, _PREFIX.itemsize)
    for buffer, prefix in ((data, prefixes), (used, used_of_prefixes | _PREFIX.type(1))):
        np.ndarray((rows,), _PREFIX, buffer, 0, (matrix.width,))[:] = prefix
    stops = np.cumsum(lengths + np.where(lengths > 0x7F, np.uint32(2), np.uint32(1)), dtype=np.int64)
    return Messages(pack(data, used), stops - lengths, stops)


def _present(field: Field) -> tuple[Array, Array | None]:
    """The values, one of them where all are the same, and the rows that have one to write; None for all."""
    value = field.value
    values = distinct(value)
    if field.type == "bytes":
        return values, value.known
    present: Array | None = None
    if field.type == "double":
        values = values.astype("<f8")
    elif values.dtype.kind == "i":
        present = values >= 0
        values = values.astype(_U64)
    if field.type.endswith("32") and values.dtype.itemsize == 8:
        fits = values <= _U64(0xFFFF_FFFF)
        present = fits if present is None else present & fits
    if field.type != "repeated uint32":
        present = values != 0 if present is None else present & (values != 0)
    if value.known is None:
        return values, present
    return values, value.known if present is None else value.known & present


def _add(field: Field, values: Array, matrix: Marked) -> None:
    """Write a field of all rows."""
    matrix.constant(varint(field.number << 3 | _WIRE_TYPES[field.type]))
    if field.type == "bytes":
        _add_addresses(values, matrix)
    elif field.type == "double":
        matrix.column(values)
    else:
        octets, used = varints(values)
        if field.type == "repeated uint32":
            used |= used.dtype.type(1)  # a 0 in a list is written
            matrix.column(np.bitwise_count(used))
        matrix.column(octets, used)


def _add_addresses(words: Array, matrix: Marked) -> None:
    high, low = words
    v4 = is_v4(words)
    if bool(v4.all()):
        matrix.constant(b"\4")
        matrix.column(low.astype(">u4"))
        return
    matrix.column(np.where(v4, np.uint8(4), np.uint8(16)))
    matrix.column(
        np.where(v4, low << _U64(32), high).astype(">u8"), np.where(v4, _U64(_ONES >> 32), _U64(_ONES)).astype("<u8")
    )
    matrix.column(low.astype(">u8"), np.where(v4, _U64(0), _U64(_ONES)))


def varints(values: Array) -> tuple[Array, Array]:
    """Unsigned integers (n,) as varints: their bytes, and 1 for each that is used; 0 uses none.

    Both are (n,), of 1, 2, 4 or 8 bytes a row, or 10, as the greatest value needs.
    """
    greatest = int(values.max(initial=0))
    size = next((size for size in (1, 2, 4, 8) if not greatest >> 7 * size), 10)
    if size < 10:
        return _spread(values, size)
    halves = _spread(values & _U64((1 << 56) - 1), 8), _spread(values >> _U64(56), 2)
    octets, used = (np.empty(len(values), [("low", "<u8"), ("high", "<u2")]) for _ in range(2))
    (octets["low"], used["low"]), (octets["high"], used["high"]) = halves
    is_long = used["high"] != 0
    octets["low"][is_long] |= _U64(_ONES << 7)
    used["low"][is_long] = _ONES
    return octets, used


def _spread(values: Array, size: int) -> tuple[Array, Array]:
    """Varints of up to `size` bytes: the bits are spread to 7 a byte, in ever smaller halves."""
    word = np.dtype(f"<u{size}").type
    every, full = word(_ONES & (1 << 8 * size) - 1), (1 << 8 * size) - 1
    octets = values.astype(word)
    for half in (4, 2, 1):
        if half < size:
            low = _GROUPS[half] & full
            octets = (octets & word(low)) | ((octets & word(low << 7 * half & full)) << word(half))
    # A bit in each byte that is not zero or has such a one after it.
    used = octets
    for shift in (8, 16, 32):
        if shift < 8 * size:
            used = used | (used >> word(shift))
    used = (used + every * word(0x7F)) & (every << word(7))
    if size > 1:
        octets = octets | (used >> word(8))
    return octets, used >> word(7)


def varint(number: int) -> bytes:
    """A number >= 0 as protobuf writes it, seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
