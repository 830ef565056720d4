"""The rows that compete for a window's budget, and the threshold that decides between them.

Every row has a size. Keeping it with probability min(1, size / z) and dividing
by that probability gives an unbiased total of anything (Duffield, Lund and
Thorup, "Learn more, sample less", IEEE Trans. IT 51(5), 2005); z is such that
the expected number of rows meets the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from flowagent.batch import Array, Batch, constant, is_constant


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows still in the race; all arrays have one entry a row."""

    batch: Batch
    """Where the rows are; others that are out of the race may be there, too."""
    row: Array
    """intp: which row of the batch it is."""
    coin: Array
    """float64 in (0, 1]: uniform, drawn once; given that the row is here, uniform on (0, prob]."""
    prob: Array
    """float64 in (0, 1]: probability with which the row is here."""
    size: Array
    """float64 > 0: how much the row counts."""
    is_kept: Array
    """bool: a rule asks to keep the row."""

    @classmethod
    def of(cls, batch: Batch, coin: Array, size: Array, is_kept: Array) -> Self:
        """All rows of a batch."""
        n = len(batch)
        return cls(batch, np.arange(n), coin, constant(1.0, n, np.float64), size, is_kept)

    def __len__(self) -> int:
        return len(self.coin)

    def columns(self, names: Iterable[str]) -> Batch:
        """Some columns of the rows."""
        return self.batch.select(names).take(self.row)

    def weighted_size(self) -> Array:
        """Size over probability: what the row stands for now."""
        return self.size if is_constant(self.prob) and self.prob[0] == 1 else self.size / self.prob

    def take(self, rows: Array) -> Self:
        """The rows at these positions; no selection by chance, so probabilities stay."""
        return type(self)(
            self.batch, self.row[rows], self.coin[rows], self.prob[rows], self.size[rows], self.is_kept[rows]
        )  # fmt: skip

    def split(self, side: Array) -> tuple[Self, Self]:
        """The rows where `side` is True, and the others."""
        first = np.flatnonzero(side)
        return self.take(first), (self.take(np.flatnonzero(~side)) if len(first) else self)

    def thin(self, keep: Array, z: float) -> Self:
        """The rows to keep (bool), chosen so that each row's probability is now that of the threshold z, if lower."""
        kept = self.take(np.flatnonzero(keep))
        return replace(kept, prob=np.minimum(kept.prob, kept.size / z))

    def packed(self) -> Self:
        """The same without the rows that are out of the race."""
        return replace(self, batch=self.batch.take(self.row), row=np.arange(len(self)))

    @classmethod
    def concat(cls, pools: Sequence[Self]) -> Self:
        """All rows of several pools, which are packed or of one batch."""
        first = pools[0]
        if len(pools) == 1:
            return first
        joined = [np.concatenate([getattr(pool, name) for pool in pools]) for name in cls.__slots__[1:]]
        if all(pool.batch is first.batch for pool in pools):
            return cls(first.batch, *joined)
        return cls(Batch.concat([pool.batch for pool in pools]), np.arange(len(joined[0])), *joined[1:])


def threshold(sizes: Array, budget: float) -> float:
    """The z with which the min(1, size / z) add up to `budget` > 0; 0 where all rows fit. Sizes are >= 0.

    Exact. With too large a z, those above it are kept for certain under the
    right one, too; so they are set aside, and z is solved for the others and
    what is left of the budget, until none is above. (A partial sort is no
    quicker, and a hundred times slower at times where many sizes are equal.)
    """
    n = len(sizes)
    if n <= budget:
        return 0.0
    # With z below this, rows as small as the smallest would exceed the budget already.
    is_large = sizes > sizes.min() * (n / budget)
    small, large = np.where(is_large, 0.0, sizes).sum(), sizes[is_large]
    while True:
        z = float(small + large.sum()) / budget
        is_certain = large > z
        certain = np.count_nonzero(is_certain)
        if not certain:
            return z
        large = large[~is_certain]
        budget -= certain
