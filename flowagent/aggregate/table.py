"""The capped table: sums by key, exact for up to `capacity` keys, and with known error beyond.

Two ways to drop keys. Misra-Gries (Misra and Gries 1982; merging as in Agarwal
et al., "Mergeable summaries", 2012) gives every sum a deterministic bound, which
suits the largest keys. Unbiased space saving (Ting, "Data sketches for
disaggregated subset sum and frequent item estimation", SIGMOD 2018), reduced by
priority sampling (Duffield, Lund and Thorup, JACM 2007), makes the sum over any
set of keys unbiased, which suits grouping by something else later.

Updates are kept as they come until there are enough to be worth a merge, as in
a log-structured merge tree, so a row is touched a few times at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flowagent.batch import Array, Batch, is_constant
from flowagent.grouping import group_rows, key_arrays
from flowagent.hashing import hash_rows, unit_interval


class Table:
    """Sums of weights by key, a key being all columns of a row; what is unknown is a key value of its own.

    Misra-Gries, the default: `sum <= true <= sum + offset`, where a key that is
    not there has sum 0, and offset <= total / (capacity + 1), the capacity being
    the smallest of tables merged. `unbiased`: the expectation of any sum over keys
    is the true one, and a single sum is within `offset` of it, a wider bound; needs
    `rng`. Weights are float64, so sums of
    integers are exact below 2^53. Memory is bounded by three times `capacity`
    rows, and the rows of one update. What was taken in must not be changed
    by the giver.
    """

    def __init__(self, capacity: int, *, unbiased: bool = False, rng: np.random.Generator | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}: at least 1")
        if unbiased and rng is None:
            raise ValueError("an unbiased table needs rng")
        self.capacity = capacity
        self.unbiased = unbiased
        self._rng = rng
        self.clear()

    def clear(self) -> None:
        """Forget all rows and numbers."""
        self._keys = Batch({})
        self._sums = np.zeros(0)
        self._pending: list[tuple[Batch, Array]] = []
        self._pending_rows = 0
        self._offset = 0.0
        self._pruned = 0
        self._total = 0.0

    def update(self, keys: Batch, weights: Array) -> None:
        """Add weights, (n,) float64 >= 0, to the sums of these keys, (n,) rows; keys may repeat.

        ValueError for weights that are negative or not finite; then nothing was added.
        """
        if len(weights) != len(keys):
            raise ValueError(f"{len(weights)} weights for {len(keys)} keys")
        if not len(keys):
            return
        added = float(weights.sum())
        if not weights.min() >= 0 or not math.isfinite(added):
            raise ValueError("a weight is negative or not finite")
        self._total += added
        self._append(keys, weights)

    def merge(self, other: Table) -> None:
        """Add another table's sums, and its error to the error; ValueError for a table of the other kind."""
        if self.unbiased != other.unbiased:
            raise ValueError("an unbiased table and one with bounds do not merge")
        keys, sums = other.sums()
        self._offset += other._offset
        self._pruned += other._pruned
        self._total += other._total
        if len(keys):
            self._append(keys, sums)

    def sums(self) -> tuple[Batch, Array]:
        """All keys, at most `capacity`, in no particular order, and their sums, (n,) float64."""
        self._fold()
        return self._keys, self._sums

    def top(self, k: int) -> tuple[Batch, Array]:
        """The keys with the `k` largest sums, and these, (k,) float64, largest first; ties in the order of the keys."""
        keys, sums = self.sums()
        rows = np.arange(len(sums))
        if 0 < k < len(sums):
            rows = np.flatnonzero(sums >= np.partition(sums, -k)[-k])
        candidates = keys.take(rows)
        by_key = list(key_arrays(candidates, sorted(candidates.columns)))
        rows = rows[np.lexsort((*reversed(by_key), -sums[rows]))[:k]] if by_key else rows
        return keys.take(rows), sums[rows]

    @property
    def offset(self) -> float:
        """How far a sum may be from the true one (see the class); 0 while nothing was dropped."""
        self._fold()
        return self._offset

    @property
    def total(self) -> float:
        """Sum of all weights ever, whatever was dropped."""
        return self._total

    @property
    def pruned(self) -> int:
        """Times a key was dropped; one that comes again may be dropped again."""
        self._fold()
        return self._pruned

    @property
    def is_exact(self) -> bool:
        """Whether no key was ever dropped."""
        return self.pruned == 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory, those of arrays that came in and are not merged yet included."""
        held = [(self._keys, self._sums), *self._pending]
        return sum(sums.nbytes + _nbytes(keys) for keys, sums in held)

    def _append(self, keys: Batch, weights: Array) -> None:
        self._pending.append((keys, weights))
        self._pending_rows += len(keys)
        if self._pending_rows > 2 * self.capacity:
            self._fold()

    def _fold(self) -> None:
        """Merge what is pending and drop the keys that are too many."""
        if not self._pending:
            return
        parts = [(self._keys, self._sums), *self._pending]
        self._pending, self._pending_rows = [], 0
        keys = Batch.concat([keys for keys, _ in parts])
        weights = np.concatenate([weights for _, weights in parts])
        self._keys, (self._sums,) = group_sums(keys, tuple(keys.columns), [weights])
        if len(self._sums) > self.capacity:
            if self._rng is not None and self.unbiased:
                self._sample(self._rng)
            else:
                self._subtract()

    def _subtract(self) -> None:
        """Misra-Gries: lower all sums by the first that is too many; those that are left with nothing go."""
        cut = _nth_largest(self._sums, self.capacity + 1)
        self._keep(self._sums > cut, cut)
        self._sums -= cut

    def _sample(self, rng: np.random.Generator) -> None:
        """Priority sampling: keep the largest sum / u, u uniform on (0, 1]; no sum is less than the first that is not.

        The u are hashes of the keys under a fresh seed, so that a seeded `rng`
        gives the same table however the rows are ordered.
        """
        seed = int(rng.integers(1 << 63))
        priorities = self._sums / unit_interval(hash_rows(self._keys, sorted(self._keys.columns), seed))
        cut = _nth_largest(priorities, self.capacity + 1)
        self._keep(priorities > cut, cut)
        np.maximum(self._sums, cut, out=self._sums)

    def _keep(self, kept: Array, cut: float) -> None:
        self._offset += cut
        self._pruned += len(kept) - int(np.count_nonzero(kept))
        self._keys, self._sums = self._keys.take(kept), self._sums[kept]


def group_sums(batch: Batch, names: Sequence[str], values: Sequence[Array]) -> tuple[Batch, list[Array]]:
    """One row for each distinct key, a key being these columns where present, and the sums of its values.

    `values` are arrays (n,) float64; of each there is a sum (g,), g the number of
    rows returned, in no particular order. Unknown is a key value of its own.
    """
    keys = batch.select(names)
    if not len(keys):
        return keys, list(values)
    groups = group_rows(list(key_arrays(keys, keys.columns)))
    return keys.take(groups.first), [np.add.reduceat(v.take(groups.order), groups.starts) for v in values]


def _nth_largest(values: Array, n: int) -> float:
    return float(np.partition(values, -n)[-n])


def _nbytes(batch: Batch) -> int:
    arrays = [*batch.columns.values(), *batch.valid.values()]
    return sum(a.itemsize if is_constant(a) else a.nbytes for a in arrays)
