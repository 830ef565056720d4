"""The rows that compete for a window's budget, and the threshold that decides between them.

Every row has a size. Keeping it with probability min(1, size / z) and dividing
by that probability gives an unbiased total of anything (Duffield, Lund and
Thorup, "Learn more, sample less", IEEE Trans. IT 51(5), 2005); z is such that
the expected number of rows meets the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from flowagent.batch import Array, Batch


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows still in the race; all arrays have one entry a row."""

    rows: Batch
    coin: Array
    """float64 in (0, 1]: uniform, drawn once; given that the row is here, uniform on (0, prob]."""
    prob: Array
    """float64 in (0, 1]: probability with which the row is here."""
    size: Array
    """float64 > 0: how much the row counts."""
    is_kept: Array
    """bool: a rule asks to keep the row."""

    def __len__(self) -> int:
        return len(self.coin)

    def weighted_size(self) -> Array:
        """Size over probability: what the row stands for now."""
        return self.size / self.prob

    def take(self, rows: Array) -> Self:
        """The rows at these positions; no selection by chance, so probabilities stay."""
        return type(self)(
            self.rows.take(rows), self.coin[rows], self.prob[rows], self.size[rows], self.is_kept[rows]
        )  # fmt: skip

    def split(self, side: Array) -> tuple[Self, Self]:
        """The rows where `side` is True, and the others."""
        first = np.flatnonzero(side)
        return self.take(first), (self.take(np.flatnonzero(~side)) if len(first) else self)

    def thin(self, keep: Array, prob: Array) -> Self:
        """The rows to keep (bool), each row's probability now being `prob`."""
        return replace(self, prob=prob).take(np.flatnonzero(keep))

    @classmethod
    def concat(cls, pools: Sequence[Self]) -> Self:
        """All rows of several pools."""
        if len(pools) == 1:
            return pools[0]
        names = ("coin", "prob", "size", "is_kept")
        columns = [np.concatenate([getattr(pool, name) for pool in pools]) for name in names]
        return cls(Batch.concat([pool.rows for pool in pools]), *columns)


def threshold(sizes: Array, budget: float) -> float:
    """The z with which the min(1, size / z) add up to `budget`; 0 where all rows fit. Sizes are >= 0.

    Exact: the j largest rows that are kept for certain are found by trying
    every j at once on the largest `budget` ones (reference: the same paper).
    """
    n, most = len(sizes), int(budget)
    if n <= budget:
        return 0.0
    cut = n - most - 1
    parted = np.partition(sizes, cut)
    largest = np.sort(parted[cut:])[::-1]
    # From the small end, so that a few giants do not swallow the digits of the rest.
    rest = parted[:cut].sum() + np.cumsum(largest[::-1])[::-1]
    z = rest / (budget - np.arange(most + 1)) if most < budget else rest[:-1] / (budget - np.arange(most))
    fits = largest[: len(z)] <= z
    return float(z[np.argmax(fits)]) if fits.any() else float(z[-1])
