"""Batch: rows as equal-length NumPy columns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_T = TypeVar("_T")


class Batch:
    """Rows as columns; immutable by convention: a stage returns a new Batch.

    `columns[name]` has its rows on the last axis: shape (n,), or (2, n) for
    addresses (see `schema`). `valid[name]`, where present, is a bool array of
    shape (n,) that is False where the value is unknown; a column that is
    unknown in every row is left out. A column may be a read-only broadcast of
    one value, so write into a column only after copying it.
    """

    __slots__ = ("_memo", "columns", "length", "valid")

    def __init__(
        self,
        columns: Mapping[str, Array],
        length: int | None = None,
        valid: Mapping[str, Array] | None = None,
    ) -> None:
        self.columns: dict[str, Array] = dict(columns)
        self.valid: dict[str, Array] = dict(valid or {})
        if length is None:
            length = next((a.shape[-1] for a in self.columns.values()), 0)
        self.length = length
        self._memo: dict[Hashable, Any] = {}
        for name, values in (*self.columns.items(), *self.valid.items()):
            if values.shape[-1] != length:
                raise ValueError(f"column {name}: {values.shape[-1]} rows, not {length}")

    def __len__(self) -> int:
        return self.length

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def __repr__(self) -> str:
        return f"Batch({self.length} rows: {', '.join(self.columns)})"

    def memo(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """What follows from these rows, computed once however many ask (a batch never changes)."""
        if key not in self._memo:
            self._memo[key] = make()
        found: _T = self._memo[key]
        return found

    def take(self, rows: Array) -> Self:
        """The rows at these positions (integers) or where True (bool)."""
        length = int(np.count_nonzero(rows)) if rows.dtype == np.bool_ else len(rows)
        if rows.dtype == np.bool_ and length == self.length:
            return self

        positions = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows

        def pick(values: Array) -> Array:
            if is_constant(values):
                return np.broadcast_to(values[..., :1], (*values.shape[:-1], length))
            return values.take(positions, axis=-1)

        return type(self)(
            {name: pick(values) for name, values in self.columns.items()} if self.length else self.columns,
            length,
            {name: pick(values) for name, values in self.valid.items()} if self.length else self.valid,
        )

    def rows(self, start: int, stop: int) -> Self:
        """A run of rows, as views."""
        return type(self)(
            {name: values[..., start:stop] for name, values in self.columns.items()},
            valid={name: values[start:stop] for name, values in self.valid.items()},
        )

    def every(self, step: int) -> Self:
        """One row in `step`, as views."""
        return type(self)(
            {name: values[..., ::step] for name, values in self.columns.items()},
            len(range(0, self.length, step)),
            {name: values[::step] for name, values in self.valid.items()},
        )

    def with_columns(self, columns: Mapping[str, Array], valid: Mapping[str, Array] | None = None) -> Self:
        """This batch with some columns added or replaced (a replaced column loses its old validity)."""
        kept = {name: mask for name, mask in self.valid.items() if name not in columns}
        return type(self)({**self.columns, **columns}, self.length, {**kept, **(valid or {})})

    def select(self, names: Iterable[str]) -> Self:
        """Only these columns, where present."""
        wanted = [name for name in names if name in self.columns]
        return type(self)(
            {name: self.columns[name] for name in wanted},
            self.length,
            {name: self.valid[name] for name in wanted if name in self.valid},
        )

    def is_known(self, name: str) -> Array:
        """Bool array (n,): where the column's value is known."""
        if name not in self.columns:
            return np.broadcast_to(np.False_, (self.length,))
        return self.valid.get(name, np.broadcast_to(np.True_, (self.length,)))

    def total(self, name: str) -> int:
        """Exact sum of an integer column over the rows where it is known."""
        if name not in self.columns:
            return 0
        values = self.columns[name]
        if name in self.valid:
            values = values[self.valid[name]]
        if is_constant(values):
            return int(values[0]) * len(values)
        if values.dtype.itemsize < 8:
            return int(values.sum(dtype=np.int64))
        # Two halves, so that no sum of 64-bit counters can wrap.
        low = int((values & values.dtype.type(0xFFFFFFFF)).sum(dtype=np.uint64))
        return low + (int((values >> values.dtype.type(32)).sum(dtype=np.int64)) << 32)

    @property
    def record_count(self) -> int:
        """Flow records these rows stand for: the sum of `records`, or one a row."""
        return self.total("records") if "records" in self.columns else self.length

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """All rows in order; a column that some batches lack is unknown in their rows."""
        batches = [b for b in batches if b.length]
        if not batches:
            return cls({})
        if len(batches) == 1:
            return batches[0]
        holders: dict[str, list[tuple[slice, Self]]] = {}
        length = 0
        for b in batches:
            rows = slice(length, length + b.length)
            length = rows.stop
            for name in b.columns:
                holders.setdefault(name, []).append((rows, b))
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        for name, parts in holders.items():
            whole = len(parts) == len(batches)
            columns[name] = _concat_column([(rows, b.columns[name]) for rows, b in parts], length, whole=whole)
            if not whole or any(name in b.valid for _, b in parts):
                known = valid[name] = np.zeros(length, np.bool_)
                for rows, b in parts:
                    known[rows] = b.valid.get(name, True)
        return cls(columns, length, valid)


def is_constant(values: Array) -> bool:
    """Whether the column is a broadcast of one value (cheap: looks at the stride only)."""
    return values.shape[-1] > 0 and values.strides[-1] == 0


def constant(value: Any, length: int, dtype: npt.DTypeLike) -> Array:
    """A column of `length` rows that all hold `value`, in the memory of one."""
    scalar = np.array(value, dtype)
    # As np.broadcast_to would, in a tenth of its time.
    column: Array = np.ndarray((*scalar.shape, length), scalar.dtype, scalar, strides=(*scalar.strides, 0))
    column.flags.writeable = False
    return column


def _concat_column(parts: Sequence[tuple[slice, Array]], length: int, *, whole: bool) -> Array:
    arrays = [values for _, values in parts]
    model = arrays[0]
    if whole and all(map(is_constant, arrays)):
        firsts = np.stack([values[..., 0] for values in arrays])
        if bool((firsts == firsts[0]).all()):
            return np.broadcast_to(model[..., :1], (*model.shape[:-1], length))
    if whole:
        return np.concatenate(arrays, axis=-1)
    filled = np.zeros((*model.shape[:-1], length), np.result_type(*{values.dtype for values in arrays}))
    for rows, values in parts:
        filled[..., rows] = values
    return filled
