"""Group rows by the exact value of some columns: the one group-by of the agent.

Hash the columns, put the hash's high bits and the row number into one uint64,
sort that (NumPy's vectorised sort on plain integers is several times faster
than any argsort), and split runs of equal hashes where the true values differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch, constant, is_constant

_U64 = np.uint64
# Random and odd: the top bits of sum(column * multiplier) are a universal hash
# that nobody outside can aim at. Results never depend on the values drawn.
_MULTIPLIERS = np.random.default_rng().integers(0, 2**63, 64, np.uint64) * _U64(2) + _U64(1)


class Groups(NamedTuple):
    """`order` (n,) intp: rows sorted so that equal ones are neighbours; `starts` (g,) intp: where groups begin in it.

    Within a group rows keep their order. Crafted hash collisions could at worst
    make one value appear as two groups; two values never share a group.
    """

    order: Array
    starts: Array

    @property
    def first(self) -> Array:
        """The first row of each group."""
        return self.order[self.starts]

    def sizes(self) -> Array:
        """Rows in each group, int64."""
        ends = np.empty_like(self.starts)
        ends[:-1] = self.starts[1:]
        ends[-1:] = len(self.order)
        return ends - self.starts


def group_rows(columns: Sequence[Array]) -> Groups:
    """Group by the tuple of these 1-D integer or bool columns of equal length."""
    n = len(columns[0])
    varying = [c for c in columns if not _all_equal(c)]
    if not varying or n <= 1:
        return Groups(np.arange(n), np.zeros(min(n, 1), np.intp))
    hashes = np.multiply(varying[0], _MULTIPLIERS[0], dtype=_U64, casting="unsafe")
    # An exporter may send a template of any number of fields; to use a multiplier again is only slower.
    for column, multiplier in zip(varying[1:], cycle(_MULTIPLIERS[1:]), strict=False):
        hashes += np.multiply(column, multiplier, dtype=_U64, casting="unsafe")
    bits = _U64((n - 1).bit_length())
    mask = (_U64(1) << bits) - _U64(1)
    packed = hashes
    packed &= ~mask
    packed |= np.arange(n, dtype=_U64)
    packed.sort()
    order = (packed & mask).astype(np.intp)
    packed >>= bits
    differs = packed[1:] != packed[:-1]
    for column in varying:
        values = column.take(order)
        differs |= values[1:] != values[:-1]
    starts = np.flatnonzero(differs)
    starts += 1
    return Groups(order, np.concatenate([np.zeros(1, np.intp), starts]))


def key_arrays(batch: Batch, names: Iterable[str]) -> Iterable[Array]:
    """The 1-D arrays that tell keys apart: both words of an address, bits of a float, and what is unknown."""
    for name in names:
        values = batch[name]
        if name in batch.valid:
            known = batch.valid[name]
            yield known
            values = np.where(known, values, values.dtype.type(0))
        if values.dtype == np.float64:
            values = values.view(np.uint64) if not is_constant(values) else constant(values[0], len(values), np.float64)
        if values.ndim == 2:
            yield from values
        elif not is_constant(values):
            yield values
    if len(batch):
        # At least one array, so that the number of rows is known.
        yield constant(0, len(batch), np.uint8)


def _all_equal(column: Array) -> bool:
    return is_constant(column) or bool((column == column[:1]).all())
