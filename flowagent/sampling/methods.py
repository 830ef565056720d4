"""The ways to choose rows, each a small class under one contract; `sampling.method` names one.

| name | size | who is kept |
|---|---|---|
| `threshold` | by objectives | each row by its own coin: unbiased variance, near the best |
| `priority` | by objectives | the largest of size / coin: exactly k rows |
| `systematic` | by objectives | every so often along rows sorted by exporter, interface, source: little error in each |
| `uniform` | all alike | each row by its own coin, as 1-in-N does: for comparison |
| `hash` | all alike | flows whose hash falls into a fixed range (RFC 5475, section 6.2.2): agents pick the same ones |

The coins come from a hash of the flow key, so "chance" is repeatable, and
agents with the same secret and windows choose alike.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.sampling.pool import Pool, threshold
from flowagent.sections import Sampling


class Method(Protocol):
    """What the sampler asks of a way to choose. Stateless."""

    by_size: bool
    """Whether sizes tell rows apart, or all are 1."""

    def admit(self, pool: Pool) -> Pool:
        """A first choice among rows that just came, whatever the budget."""

    def cut(self, pool: Pool, budget: int, chance: float, /) -> Pool:
        """At most `budget` rows, their probabilities lowered to match; `chance` is uniform on (0, 1] and new each time.

        The threshold may follow from sizes and from who is left, but not from
        the coins that it is compared with.
        """


class Threshold:
    """Poisson sampling with probability proportional to size."""

    by_size = True

    def admit(self, pool: Pool) -> Pool:
        return pool

    def cut(self, pool: Pool, budget: int, _chance: float, /) -> Pool:
        """How many are kept varies, so fewer are aimed at; a sample that is too large all the same is thinned again.

        That is as if it had been drawn with the higher threshold at once, since
        this depends on sizes and on who is left, not on the coins.
        """
        if not budget:
            return pool.take(np.zeros(0, np.intp))
        aim = max(budget - 2 * math.sqrt(budget), budget / 2)
        while len(pool) > budget:
            z = threshold(pool.weighted_size(), aim)
            pool = pool.thin(pool.coin * z <= pool.size, z)
        return pool


class Uniform(Threshold):
    """The same with all sizes equal."""

    by_size = False


class Hash(Uniform):
    """A fixed part of all flows; only what exceeds the budget is thinned."""

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction

    def admit(self, pool: Pool) -> Pool:
        return pool.thin(pool.coin <= self._fraction, 1 / self._fraction)


class Priority:
    """Priority sampling (Duffield, Lund and Thorup, JACM 54(6), 2007)."""

    by_size = True

    def admit(self, pool: Pool) -> Pool:
        return pool

    def cut(self, pool: Pool, budget: int, _chance: float, /) -> Pool:
        if len(pool) <= budget:
            return pool
        priority = pool.size / pool.coin
        cut = len(priority) - budget - 1
        tau = np.partition(priority, cut)[cut]
        return pool.thin(priority > tau, tau)


class Systematic:
    """Systematic sampling with probability proportional to size (Madow 1949), along a fixed order of the rows.

    Exactly `budget` rows, the total of the sizes without any error, and every
    run of neighbours in the order with an error below z.
    """

    by_size = True

    def admit(self, pool: Pool) -> Pool:
        return pool

    def cut(self, pool: Pool, budget: int, chance: float, /) -> Pool:
        if not budget:
            return pool.take(np.zeros(0, np.intp))
        while len(pool) > budget:
            size = pool.weighted_size()
            z = threshold(size, budget)
            ratio = np.minimum(1.0, size / z)
            order = _order(pool.columns(_PLACE))
            steps = np.floor(np.cumsum(ratio[order]) + chance)
            keep = np.zeros(len(order), np.bool_)
            keep[order] = np.diff(steps, prepend=math.floor(chance)) > 0
            pool = pool.thin(keep, z)
        return pool


_PLACE = ("src_addr", "in_if", "exporter")


def _order(batch: Batch) -> Array:
    """Rows so that those of an exporter, an interface, a source prefix are neighbours (where prefixes have 32 bits)."""
    n = len(batch)
    bits = (n - 1).bit_length()
    key = np.zeros(n, np.uint64)
    if "src_addr" in batch:
        high, low = batch["src_addr"]
        key = np.where(high > 0, high >> np.uint64(32), low & np.uint64(0xFFFFFFFF))
    for name, width in (("in_if", 6), ("exporter", 8)):
        if name in batch:
            values = batch[name] if batch[name].ndim == 1 else batch[name][1]
            mask = np.uint64((1 << width) - 1)
            key = key | ((values.astype(np.uint64) & mask) << np.uint64(32 if name == "in_if" else 38))
    # The sort key has 46 bits; with the row number below, whatever does not fit is cut off its fine end.
    spare = max(0, 46 + bits - 64)
    packed = ((key >> np.uint64(spare)) << np.uint64(bits)) | np.arange(n, dtype=np.uint64)
    packed.sort()
    return (packed & np.uint64((1 << bits) - 1)).astype(np.intp)


_BY_NAME: dict[str, type[Threshold | Priority | Systematic]] = {
    "threshold": Threshold, "priority": Priority, "systematic": Systematic, "uniform": Uniform,
}  # fmt: skip


def method_of(config: Sampling) -> Method:
    """The one that the configuration names."""
    return Hash(config.fraction) if config.method == "hash" else _BY_NAME[config.method]()
