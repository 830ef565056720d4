"""Messages of all rows side by side: a matrix of bytes with a row for each, written column by column.

A row is a template, repeated for all rows, into which columns are written at
their places. What has many lengths gets the width of the longest, and what is
too much is taken out of the whole at once: of text every NUL, of binary
formats what a second matrix of the same shape does not mark as used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from flowagent.batch import Array

_TABULATED = 256
"""Widths of which all marks are kept."""


class _Span(NamedTuple):
    """Bytes of every row."""

    start: int
    stop: int


class Matrix:
    """Bytes of `rows` messages, put together from left to right."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._template = bytearray()
        self._columns: list[tuple[_Span, Array]] = []
        self._erased: list[tuple[_Span, Array]] = []

    @property
    def width(self) -> int:
        """Bytes of a row so far."""
        return len(self._template)

    def constant(self, data: bytes) -> None:
        """The same in all rows."""
        self._template += data

    def column(self, values: Array) -> None:
        """The bytes of an array (rows,) of any fixed width; or (1,), the same in all rows."""
        if len(values) == 1:
            self.constant(values.tobytes())
            return
        start = self.width
        self._template += bytes(values.dtype.itemsize)
        self._columns.append((_Span(start, self.width), values))

    def erase(self, start: int, absent: Array) -> None:
        """What stands from `start` to here becomes NUL in the rows of a bool mask (rows,)."""
        self._erased.append((_Span(start, self.width), absent))

    def build(self) -> bytearray:
        """Row after row."""
        matrix = self._template * self.rows
        for span, values in self._columns:
            self._view(matrix, span, values.dtype)[:] = values
        for span, absent in self._erased:
            self._view(matrix, span, np.dtype(f"S{span.stop - span.start}"))[absent] = b""
        return matrix

    def _view(self, matrix: bytearray, span: _Span, dtype: np.dtype[Any]) -> Array:
        return np.ndarray((self.rows,), dtype, matrix, span.start, (self.width,))


class Packed(NamedTuple):
    """Messages one after the other."""

    data: bytes
    starts: Array
    """int64 (n,): where each begins, and where it ends."""
    stops: Array

    def messages(self) -> list[bytes]:
        """Each by itself."""
        return [self.data[start:stop] for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True)]


class Marked:
    """Like Matrix, for bytes of which each may be used or not."""

    def __init__(self, rows: int) -> None:
        self._data, self._used = Matrix(rows), Matrix(rows)

    @property
    def width(self) -> int:
        """Bytes of a row so far, used or not."""
        return self._data.width

    def constant(self, data: bytes) -> None:
        """The same in all rows."""
        self._data.constant(data)
        self._used.constant(b"\1" * len(data))

    def column(self, values: Array, used: Array | None = None) -> None:
        """The bytes of an array, as in Matrix; another of the same width has a 1 for those that are used, else a 0."""
        self._data.column(values)
        if used is None:
            self._used.constant(b"\1" * values.dtype.itemsize)
        else:
            self._used.column(used)

    def erase(self, start: int, absent: Array) -> None:
        """What stands from `start` to here is not used in the rows of a bool mask (rows,)."""
        self._used.erase(start, absent)

    def build(self) -> tuple[bytearray, bytearray, Array]:
        """Row after row the data and what is used of it, for `pack`, and the length of each row: uint32 (rows,)."""
        used = self._used.build()
        lengths = np.frombuffer(used, np.uint8).reshape(-1, self.width).sum(axis=1, dtype=np.uint32)
        return self._data.build(), used, lengths


def pack(data: bytearray, used: bytearray) -> bytes:
    """The bytes that are used."""
    return np.frombuffer(data, np.uint8)[np.frombuffer(used, np.bool_)].tobytes()


def first_bytes(lengths: Array, width: int) -> Array:
    """What is used of columns of some width, where that is the first bytes, as many as `lengths` (n,) says."""
    if width <= _TABULATED:
        return _marks(width).take(lengths)
    return (np.arange(width) < lengths[:, np.newaxis]).view(f"V{width}")[:, 0]


@lru_cache(maxsize=_TABULATED)
def _marks(width: int) -> Array:
    """Those of every length."""
    return np.tri(width + 1, width, -1, np.bool_).view(f"V{width}")[:, 0]
