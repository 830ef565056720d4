"""Sketches of a policy's period as bytes that other engines read and merge (see `datasketches`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flowagent.aggregate import datasketches
from flowagent.aggregate.groups import GroupNumbers
from flowagent.aggregate.labels import OTHER, keys_of, label
from flowagent.aggregate.period import AMOUNTS, Amount, Period
from flowagent.aggregate.sums import Names
from flowagent.errors import ConfigError

_LARGEST = 2.0**62
"""Sums that surely fit into the format's integers of 63 bits."""


def encoded(period: Period, numbers: GroupNumbers, kind: str, of: Names, by: str, group: str | None) -> bytes:
    """One group's sketch of the columns `of`.

    `hll` is what `distinct` counts with: HyperLogLog, whose hashes are the same on
    all agents. `frequent` is a table of `top` or `entropy`, of the amount `by`:
    frequent items whose keys are texts, those of several columns joined by
    commas; sums are rounded to integers so that the bounds hold. `group` is a
    label as on /metrics (`proto=6,vlan=7`), None where no groups are told apart.
    Raises ConfigError, its path the argument, where there is no such sketch or group.
    """
    if kind == "hll":
        sketch = period.distinct.get(of)
        if sketch is None:
            raise ConfigError("of", _unmeasured(",".join(of), [",".join(names) for names in period.distinct]))
        return datasketches.hll(sketch.registers[_number(period, numbers, group)])
    amount = next((amount for amount in AMOUNTS if amount == by), None)
    if amount is None or (of, amount) not in period.tables:
        known = [f"{','.join(names)} by {a}" for names, a in period.tables]
        raise ConfigError("of", _unmeasured(f"{','.join(of)} by {by}", known))
    number = _number(period, numbers, group)
    if number == numbers.other and group is not None:
        raise ConfigError("group", f"{OTHER!r} is many groups together, which have no table of their own")
    return _frequent(period, numbers, of, amount, number)


def _unmeasured(asked: str, known: Sequence[str]) -> str:
    return f"{asked!r} is not measured; what is: {'; '.join(known) or 'nothing of the kind'}"


def _number(period: Period, numbers: GroupNumbers, group: str | None) -> int:
    """The number of a group that saw anything."""
    if not numbers.names:
        if group is not None:
            raise ConfigError("group", "is given, but the policy tells no groups apart")
        return 0
    known = {
        OTHER
        if key is None
        else ",".join(f"{n}={label(n, v)}" for n, v in zip(numbers.names, key, strict=True)): number
        for number, key in enumerate(numbers.keys())
        if period.totals["records"][number]
    }
    if group is None or group not in known:
        what = "is missing" if group is None else f"{group!r} is not there"
        raise ConfigError("group", f"{what}; {len(known)} are, such as {'; '.join([*known][:5]) or 'none'}")
    return known[group]


def _frequent(period: Period, numbers: GroupNumbers, of: Names, by: Amount, number: int) -> bytes:
    table = period.tables[of, by]
    if table.total > _LARGEST:
        raise ConfigError("by", f"the sums of {by} are too large for the format")
    keys, sums = period.rows_of(of, by, number, numbers)
    low = np.floor(sums)
    weights = low.astype(np.int64)
    return datasketches.frequent_strings(
        [",".join(map(label, of, key)) for key in keys_of(keys, of, np.arange(len(sums)))],
        weights,
        # What rounding down took from a sum, its upper bound must not lose.
        offset=math.ceil(table.offset + float(np.max(sums - low, initial=0.0))),
        # A group that got its number late has keys from before, when its totals were the others'.
        total=max(math.ceil(period.totals[by][number]), int(weights.sum())),
        capacity=table.capacity,
    )
