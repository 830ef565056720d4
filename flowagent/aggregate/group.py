"""Aggregation: rows with equal keys become one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowagent.batch import Array, Batch, constant, is_constant
from flowagent.grouping import Groups, group_rows, key_arrays
from flowagent.schema import COLUMNS


def aggregate(batch: Batch, key: Sequence[str], measures: Sequence[str]) -> Batch:
    """One row for each distinct key; measures merge by the rule of their column. Unknown is a key value of its own."""
    if not len(batch):
        return batch
    present = [name for name in key if name in batch]
    groups = group_rows(list(key_arrays(batch, present)))
    first = groups.first
    keys = batch.select(present).take(first)
    merged: dict[str, Array] = {}
    valid: dict[str, Array] = {}
    for name in measures:
        if name not in batch:
            continue
        merged[name], known = _merge(batch, name, groups)
        if known is not None:
            valid[name] = known
    return keys.with_columns(merged, valid)


def _merge(batch: Batch, name: str, groups: Groups) -> tuple[Array, Array | None]:
    values, rule = batch[name], COLUMNS[name].merge
    known = batch.valid.get(name)
    ufunc = {"sum": np.add, "min": np.minimum, "max": np.maximum, "or": np.bitwise_or}[rule]
    if is_constant(values) and known is None:
        if rule == "sum":
            return values[0] * groups.sizes().astype(values.dtype), None
        return constant(values[0], len(groups.starts), values.dtype), None
    if known is None:
        return ufunc.reduceat(values.take(groups.order), groups.starts), None
    neutral = {"sum": 0, "or": 0, "min": np.iinfo(values.dtype).max, "max": np.iinfo(values.dtype).min}[rule]
    filled = np.where(known, values, values.dtype.type(neutral))
    any_known = np.logical_or.reduceat(known[groups.order], groups.starts)
    merged = ufunc.reduceat(filled[groups.order], groups.starts)
    return np.where(any_known, merged, values.dtype.type(0)), any_known
