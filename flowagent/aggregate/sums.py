"""What several analyses of one batch need, computed once: the rows that match, groups, and sums of groups."""

from __future__ import annotations

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.filters import Filter
from flowagent.grouping import Groups, group_rows, key_arrays
from flowagent.hashing import hash_rows
from flowagent.scale import scaled

Names = tuple[str, ...]

SKETCH_SEED = 0
"""The same on all agents, so that their sketches merge."""


def matching(batch: Batch, condition: Filter | None) -> Batch:
    """The rows for which a filter holds."""
    if condition is None:
        return batch
    return batch.memo(("matching", condition), lambda: batch.take(condition(batch)))


def groups_of(batch: Batch, names: Names) -> Groups:
    """Rows grouped by these columns, where present."""

    def make() -> Groups:
        present = [name for name in names if name in batch]
        return group_rows(list(key_arrays(batch, present)))

    return batch.memo(("groups", names), make)


def distinct(batch: Batch, names: Names) -> Batch:
    """One row for each group, with these columns."""
    return batch.memo(("distinct", names), lambda: batch.select(names).take(groups_of(batch, names).first))


def estimates_of(batch: Batch, measure: str) -> Array:
    """(n,) float64: a measure's estimate that each row makes."""
    return batch.memo(("estimates", measure), lambda: scaled(batch, measure))


def sums_of(batch: Batch, names: Names, measure: str) -> Array:
    """(g,) float64: the estimated total of a measure for each row of `distinct`."""

    def make() -> Array:
        groups = groups_of(batch, names)
        return np.add.reduceat(estimates_of(batch, measure).take(groups.order), groups.starts)

    return batch.memo(("sums", names, measure), make)


def hashes_of(batch: Batch, names: Names, of: Names) -> Array:
    """(g,) uint64: hashes of the columns `of` for each row of `distinct`."""
    return batch.memo(("hashes", names, of), lambda: hash_rows(distinct(batch, names), of, SKETCH_SEED))
