"""Rows in canonical names, as people and programs read them: addresses as text, MACs with colons, unknown left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from flowagent import names
from flowagent.batch import Array, Batch
from flowagent.elements import column_kind
from flowagent.export import lines
from flowagent.export.value import Kind, Value, plain
from flowagent.schema import COLUMNS

ROWS = 8192
"""Rows that are encoded at once, as long as they are short."""
_ORDER = {name: i for i, name in enumerate(COLUMNS)}
_BYTES = 32 << 20
"""Of texts that are encoded at once."""
_EXACT = 2.0**53
_KINDS: dict[str, Kind] = {"mac": "mac", "enum": "code", "addr": "addr"}


def json_lines(batch: Batch) -> bytes:
    """One JSON object a row in canonical names, each ended by a newline; unknown values are left out."""
    return b"".join(lines.json_lines(canonical(part).items(), len(part)) for part in parts(batch))


def plain_values(batch: Batch, name: str) -> list[Any]:
    """The column as Python values; `msgspec.UNSET` where unknown."""
    return plain(_value(batch, name))


def canonical(batch: Batch) -> dict[str, Value]:
    """The columns, in canonical order and extra ones last."""
    return {name: _value(batch, name) for name in sorted(batch.columns, key=lambda name: _ORDER.get(name, len(_ORDER)))}


def _value(batch: Batch, name: str) -> Value:
    values, known = batch[name], batch.valid.get(name)
    if values.dtype == object:
        is_bytes = np.fromiter((isinstance(octets, bytes) for octets in values.tolist()), np.bool_, len(values))
        return Value("opaque", values, known).where(is_bytes)
    if values.dtype.kind == "S":
        return Value("text", values, known)
    if column_kind(name) == "name":
        return Value("text", names.texts(values), known).where(values != 0)
    kind = _KINDS.get("addr" if values.ndim == 2 else column_kind(name), "number")
    if kind == "code":
        return Value(kind, values, known, COLUMNS[name].labels.__getitem__)
    return Value(kind, values, known).map(_whole) if values.dtype.kind == "f" else Value(kind, values, known)


def _whole(values: Array) -> Array:
    """Floats as integers, where all of them are whole."""
    is_whole = bool((values == np.trunc(values)).all()) and bool((np.abs(values) < _EXACT).all())
    return values.astype(np.int64) if is_whole else values


def parts(batch: Batch) -> Iterator[Batch]:
    """The rows in pieces that are encoded one after the other, so that memory is bounded and near."""
    widths = [values.dtype.itemsize for values in batch.columns.values() if values.dtype.kind == "S"]
    longest = [max(map(len, filter(None, v.tolist())), default=0) for v in batch.columns.values() if v.dtype == object]
    rows = max(1, min(ROWS, _BYTES // max(1, sum(widths) + 2 * sum(longest))))
    if len(batch) <= rows or not batch.columns:
        yield from [batch] * bool(len(batch))
        return
    for start in range(0, len(batch), rows):
        yield batch.rows(start, min(start + rows, len(batch)))
