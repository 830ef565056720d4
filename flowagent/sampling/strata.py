"""Guaranteed shares of the budget: one exporter's flood must not crowd out the rows of all others.

Rows are divided into strata, each sampled by itself with a budget of its own;
totals stay unbiased and their variances add up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.grouping import group_rows, key_arrays

MAX_STRATA = 64
"""Strata sampled by themselves; the smallest ones beyond share one."""


def strata_of(batch: Batch, names: Sequence[str], most: int = MAX_STRATA) -> tuple[Array, int]:
    """(n,) uint8, the stratum of each row by its values of these columns; and how many there are, `most` at most.

    More than the budget has rows must not be: one without any would be missing from all totals.
    """
    most = min(most, MAX_STRATA)
    present = [name for name in names if name in batch]
    if not present or not len(batch):
        return np.zeros(len(batch), np.uint8), 1
    groups = group_rows(list(key_arrays(batch, present)))
    sizes = groups.sizes()
    by_size = np.argsort(-sizes, kind="stable")
    code_of_group = np.empty(len(sizes), np.uint8)
    code_of_group[by_size] = np.minimum(np.arange(len(sizes)), most - 1)
    codes = np.empty(len(batch), np.uint8)
    codes[groups.order] = np.repeat(code_of_group, sizes)
    return codes, min(len(sizes), most)


def shares(wanted: Array, rows: Array, budget: int, guarantee: float) -> Array:
    """(h,) int64: each stratum's budget, at least 1 where `budget` >= h, adding up to `budget` or all rows.

    `guarantee` of the budget, and no less than a row each, is divided evenly;
    the rest goes where one common threshold would put it (`wanted`, expected
    rows). Nobody gets more than its `rows`, which are at least 1: what one does
    not use is divided among the others.
    """
    even = _pour(np.ones(len(rows)), rows.astype(np.float64), max(guarantee * budget, min(len(rows), budget)))
    rest = _pour(np.maximum(wanted, 1e-9), rows - even, budget - float(even.sum()))
    whole = np.floor(even + rest + 1e-9).astype(np.int64)
    # What rounding left over goes to the largest fractions.
    left = min(budget, int(rows.sum())) - int(whole.sum())
    room = np.flatnonzero(whole < rows)
    for stratum in room[np.argsort((whole - even - rest)[room], kind="stable")][:left]:
        whole[stratum] += 1
    return whole


def _pour(weights: Array, room: Array, amount: float) -> Array:
    """Divide `amount` by weight, each at most its room, what overflows by weight again."""
    filled = np.zeros(len(room))
    for _ in range(len(room)):
        open_ = filled < room
        if amount <= 1e-9 or not open_.any():
            break
        more = np.minimum(np.where(open_, weights, 0) * (amount / weights[open_].sum()), room - filled)
        filled += more
        amount -= float(more.sum())
    return filled
