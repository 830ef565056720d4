"""Lines of JSON, column by column.

A row of the matrix is `{"name":value,"other":value}` with NUL where a value is
short or a field unknown. One pass takes the NULs out; JSON has none of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec
import numpy as np

from flowagent.batch import Array
from flowagent.export.matrix import Matrix
from flowagent.export.structs import structs
from flowagent.export.value import Value, json_text

_FEW = 512
"""Rows for which all this is not worth it."""
_encode_lines = msgspec.json.Encoder().encode_lines


def json_lines(fields: Iterable[tuple[str, Value]], rows: int) -> bytes | bytearray:
    """One object a row, each ended by a newline; what is unknown is left out."""
    return _encode_lines(structs(fields, rows)) if rows < _FEW else matrix_lines(fields, rows)


def matrix_lines(fields: Iterable[tuple[str, Value]], rows: int) -> bytearray:
    """The same, always by the matrix."""
    matrix = Matrix(rows)
    matrix.constant(b"{")
    # Rows in which a field came before; None where that is so of all.
    begun: Array | None = np.zeros(rows, np.bool_)
    for i, (name, value) in enumerate(fields):
        start = matrix.width
        if begun is None:
            matrix.constant(b",")
        elif i:
            matrix.column(np.where(begun, b",", b""))
        before, after = _around(name, value.is_text, value.is_list)
        matrix.constant(before)
        matrix.column(json_text(value))
        matrix.constant(after)
        if value.known is None:
            begun = None
        else:
            matrix.erase(start, ~value.known)
            begun = None if begun is None else begun | value.known
    matrix.constant(b"}\n")
    return matrix.build().translate(None, b"\0")


@lru_cache(maxsize=4096)
def _around(name: str, is_text: bool, is_list: bool) -> tuple[bytes, bytes]:
    """What stands before and after a value."""
    quote, opening, closing = b'"' * is_text, b"[" * is_list, b"]" * is_list
    return msgspec.json.encode(name) + b":" + opening + quote, quote + closing
