"""Exponential histograms: quantiles of weighted values within 1.1 %, of many groups at once.

The buckets are those of Prometheus native histograms of schema 5: bucket i
holds the values in (b^(i-1), b^i], b = 2^(1/32). With the middle of a bucket as
the answer this is DDSketch (Masson, Rim and Lee, VLDB 2019): every quantile is
within alpha = (b - 1) / (b + 1) = 1.083 % of the true one. As an octave is 32
buckets exactly, counts up to a power of two are exact.
"""

from __future__ import annotations

import math

import numpy as np

from flowagent.batch import Array

_PER_OCTAVE = 32
_TOP_EXPONENT = 64
_BASE = 2 ** (1 / _PER_OCTAVE)
ALPHA = (_BASE - 1) / (_BASE + 1)
"""Largest relative error of a quantile."""
_CELL_BITS = 46
_BUCKET_BITS = _CELL_BITS + 1
_BIAS = 1023 * _PER_OCTAVE


def _carries() -> Array:
    """(64,) int64: what to add to a float64's bits so that all above bit 47 is its bucket's index (plus `_BIAS`).

    The top six bits of a mantissa tell 64 cells of an octave apart. Cells are
    narrower than buckets, so at most one bucket ends within a cell, and the sum
    is made to carry just behind the last value of that bucket.
    """
    ends = np.array([2 ** (i / _PER_OCTAVE) for i in range(_PER_OCTAVE + 1)]).view(np.int64)
    ends -= ends[0]
    cells = np.arange(64) << _CELL_BITS
    buckets = ends.searchsorted(cells)
    behind = ends[buckets] + 1
    ends_within = behind <= cells + (1 << _CELL_BITS)
    carries: Array = np.where(ends_within, ((buckets + 1) << _BUCKET_BITS) - behind, (buckets << _BUCKET_BITS) - cells)
    return carries


_CARRIES = _carries()


class Histogram:
    """`groups` histograms of float64 counts: any weights, also those of a sample (1 / inclusion probability).

    Values up to `zero_threshold`, a power of two, are counted as zeros. The
    default suits integers; for seconds take 2^-10 or so. Buckets are made as
    values need them, up to 2^64: 11 kB a group where values reach 2^40, 17 kB at
    most. Larger values go into the last bucket and are counted in `clamped`.
    Integers above 2^53 are rounded to float64 first.
    """

    def __init__(self, groups: int = 1, *, zero_threshold: float = 0.5) -> None:
        mantissa, exponent = math.frexp(zero_threshold)
        if groups < 1 or mantissa != 0.5 or not -64 < exponent <= _TOP_EXPONENT:
            raise ValueError(f"{groups} groups from {zero_threshold}: at least 1, from a power of two in 2^-64..2^63")
        self.groups = groups
        self.zero_threshold = zero_threshold
        self.clamped = 0
        """Values above 2^64, whatever their weights."""
        # Column 0 counts zeros, column c > 0 is bucket c + self._low.
        self._low = (exponent - 1) * _PER_OCTAVE
        self._counts = np.zeros((groups, 1))
        self._sums = np.zeros(groups)

    def update(self, values: Array, weights: Array | None = None, groups: Array | None = None) -> None:
        """Count values, (n,) of any real dtype, by `weights` (n,) float64, default 1, in `groups` (n,) intp, default 0.

        ValueError where a value or weight is not finite; then nothing was counted.
        """
        if not len(values):
            return
        values = values.astype(np.float64, copy=False)
        if weights is None:
            weights = np.ones(len(values))
        if groups is None:
            sums = np.dot(values, weights)
        else:
            sums = np.bincount(groups, weights=values * weights, minlength=self.groups)
        if not np.isfinite(sums).all():
            raise ValueError("a value or weight is not finite")
        columns = self._columns(values)
        width = self._counts.shape[1]
        if groups is None:
            self._counts[0] += np.bincount(columns, weights, width)
            self._sums[0] += sums
        else:
            columns += groups * width
            np.add.at(self._counts.reshape(-1), columns, weights)
            self._sums += sums

    def _columns(self, values: Array) -> Array:
        """The column of each value; makes those that are missing."""
        bits = values.view(np.int64)
        columns = bits >> _CELL_BITS
        columns &= 63
        columns = _CARRIES.take(columns)
        columns += bits
        columns >>= _BUCKET_BITS
        columns -= _BIAS + self._low
        # Bits of positive floats are ordered as the floats are, those of others are below.
        highest = int(columns.max())
        last = _TOP_EXPONENT * _PER_OCTAVE - self._low
        if highest > last:
            self.clamped += int(np.count_nonzero(columns > last))
            highest = last
            np.minimum(columns, last, out=columns)
        if int(columns.min()) < 0:
            np.maximum(columns, 0, out=columns)
        self._make(highest)
        return columns

    def _make(self, column: int) -> None:
        """Have this column, and the rest of its octave."""
        missing = column + 1 - self._counts.shape[1]
        if missing > 0:
            missing += -missing % _PER_OCTAVE
            self._counts = np.pad(self._counts, ((0, 0), (0, missing)))

    def merge(self, other: Histogram) -> None:
        """Add what the other one counted, group by group; ValueError where groups or thresholds differ."""
        if (self.groups, self.zero_threshold) != (other.groups, other.zero_threshold):
            raise ValueError("histograms of different groups or thresholds do not merge")
        width = other._counts.shape[1]
        self._make(width - 1)
        self._counts[:, :width] += other._counts
        self._sums += other._sums
        self.clamped += other.clamped

    @property
    def count(self) -> Array:
        """(groups,) float64: sum of weights."""
        counts: Array = self._counts.sum(axis=1)
        return counts

    @property
    def sum(self) -> Array:
        """(groups,) float64: weighted sum of the values themselves."""
        return self._sums.copy()

    @property
    def zeros(self) -> Array:
        """(groups,) float64: weight of the values up to `zero_threshold`."""
        return self._counts[:, 0].copy()

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._counts.nbytes + self._sums.nbytes

    def quantile(self, q: float) -> Array:
        """(groups,) float64: the smallest value that at least the share `q` of the weight does not exceed.

        Within `ALPHA` of it, relative, where it is above `zero_threshold` and at
        most 2^64; 0 up to the threshold; NaN for a group without weight.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"quantile {q} is not in 0..1")
        below = self._counts.cumsum(axis=1)
        total = below[:, -1]
        rank = np.maximum(q * total, np.nextafter(0, 1))
        column = (below < rank[:, np.newaxis]).sum(axis=1)
        middle: Array = 2 / (1 + _BASE) * np.exp2((column + self._low) / _PER_OCTAVE)
        middle[column == 0] = 0.0
        middle[total == 0] = np.nan
        return middle

    def buckets(self, group: int = 0) -> tuple[Array, Array]:
        """Indices (k,) int64, ascending, and counts (k,) float64 of the buckets not empty; zeros are in `zeros`."""
        used = np.flatnonzero(self._counts[group, 1:]) + 1
        return used + self._low, self._counts[group, used]

    def cumulative(self, bounds: Array) -> Array:
        """(groups, k) float64: weight of the values up to each of these bounds, (k,) powers of two; exact.

        ValueError for other bounds and those below `zero_threshold`.
        """
        mantissas, exponents = np.frexp(bounds)
        columns = (exponents.astype(np.intp) - 1) * _PER_OCTAVE - self._low
        if (mantissas != 0.5).any() or (columns < 0).any():
            raise ValueError(f"bounds {bounds} are not powers of two from {self.zero_threshold} on")
        below: Array = self._counts.cumsum(axis=1)
        return below.take(columns, axis=1, mode="clip")
