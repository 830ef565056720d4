"""A step of the history as it lies in memory: columns of few distinct values are codes, of one or two bytes a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch, constant, is_constant
from flowagent.grouping import group_rows, key_arrays
from flowagent.history.rows import Rows
from flowagent.schema import COLUMNS

_LARGEST = float(np.finfo(np.float32).max)


class Column(NamedTuple):
    """Row i has the value `codes[i]`, or i where there are no codes."""

    values: Array
    """(u,), or (2, u) for addresses."""
    known: Array | None
    """(u,) bool; None where all are known. Of names, one that is 0 is not."""
    codes: Array | None
    """(n,) unsigned integers."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(_nbytes(array) for array in self if array is not None)


def _nbytes(array: Array) -> int:
    return array[..., :1].nbytes if is_constant(array) else array.nbytes


def pack(batch: Batch, name: str) -> Column:
    """A column in the form that needs less memory."""
    values, known = batch[name], batch.valid.get(name)
    if COLUMNS[name].kind == "name":
        named = values != 0
        known = named if known is None else named & known
    n = len(batch)
    one = Batch({name: values}, n, {} if known is None else {name: known})
    groups = group_rows(list(key_arrays(one, [name])))
    count = len(groups.starts)
    dtype = np.min_scalar_type(max(0, count - 1))
    width = values[..., :1].nbytes
    if count > 1 and count * width + n * dtype.itemsize >= n * width:
        return _column(values.copy(), known, None)
    first = groups.first
    if count == 1:
        codes = constant(0, n, dtype)
    else:
        codes = np.empty(n, dtype)
        codes[groups.order] = np.repeat(np.arange(count, dtype=dtype), groups.sizes())
    return _column(values.take(first, axis=-1), None if known is None else known.take(first), codes)


def _column(values: Array, known: Array | None, codes: Array | None) -> Column:
    return Column(values, None if known is None or bool(known.all()) else known, codes)


@dataclass(frozen=True, slots=True)
class Step:
    """A sample of the rows of a stretch of time. Immutable, so that it may be read in another thread."""

    start_ns: int
    length_ns: int
    rows: int
    columns: dict[str, Column]
    value: dict[str, Array]
    """(n,) float64 estimates by measure."""
    deviation: dict[str, Array]
    """(n,) float32 square roots of their variances."""
    heaviest: dict[str, float]
    """See `Rows.heaviest`."""

    @classmethod
    def of(cls, rows: Rows, start_ns: int, length_ns: int, names: Iterable[str]) -> Step:
        """Rows with these columns of their keys."""
        columns = {name: pack(rows.keys, name) for name in names if name in rows.keys}
        deviation = {name: _root(variance) for name, variance in rows.variance.items()}
        value = {name: _once(column) for name, column in rows.value.items()}
        return cls(start_ns, length_ns, len(rows), columns, value, deviation, rows.heaviest)

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.length_ns

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        numbers = (*self.value.values(), *self.deviation.values())
        return sum(column.nbytes for column in self.columns.values()) + sum(map(_nbytes, numbers))

    def keys(self, names: Iterable[str]) -> Batch:
        """These columns, as far as they are here, row by row."""
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        for name in names:
            if name not in self.columns:
                continue
            values, known, codes = self.columns[name]
            columns[name] = _by_row(values, codes)
            if known is not None:
                valid[name] = _by_row(known, codes)
        return Batch(columns, self.rows, valid)

    def unpacked(self) -> Rows:
        """The rows as they were packed."""
        variance = {name: _square(column) for name, column in self.deviation.items()}
        return Rows(self.keys(self.columns), self.value, variance, self.heaviest)


def _by_row(values: Array, codes: Array | None) -> Array:
    if codes is None:
        return values
    if is_constant(codes):
        return np.broadcast_to(values[..., :1], (*values.shape[:-1], len(codes)))
    return values.take(codes, axis=-1)


def _once(values: Array) -> Array:
    """One value in the memory of one where all rows have the same."""
    if is_constant(values) or (len(values) and bool((values == values[0]).all())):
        return constant(values[0], len(values), values.dtype)
    return values


def _root(variance: Array) -> Array:
    variance = _once(variance)
    if is_constant(variance):
        return constant(min(np.sqrt(variance[0]), _LARGEST), len(variance), np.float32)
    return np.minimum(np.sqrt(variance), _LARGEST).astype(np.float32)


def _square(deviation: Array) -> Array:
    if is_constant(deviation):
        return constant(np.float64(deviation[0]) ** 2, len(deviation), np.float64)
    return np.square(deviation, dtype=np.float64)
