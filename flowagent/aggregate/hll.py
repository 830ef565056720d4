"""HyperLogLog: how many distinct keys there were, in one byte a register, of many groups at once.

Registers as in Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog: the analysis
of a near-optimal cardinality estimation algorithm" (2007), on 64-bit hashes;
the estimator is the improved one of Ertl, "New cardinality estimation
algorithms for HyperLogLog sketches" (arXiv 1702.01284), which needs no tables
of bias and no second method for small numbers.
"""

from __future__ import annotations

import math

import numpy as np

from flowagent.batch import Array

_U64 = np.uint64
_ONE = _U64(0x3FF << 52)
"""The bits of 1.0: a mantissa put beside them is a float64 in [1, 2)."""
_MANTISSA = 52
_ALPHA = 1 / (2 * math.log(2))


class HyperLogLog:
    """`groups` sketches of 2^`precision` registers; memory is fixed, about groups * 2^precision bytes.

    Updating is idempotent and commutative, so sketches of the same hashes can
    be merged in any order, and of overlapping streams. The relative standard
    error of an estimate is 1.04 / sqrt(2^precision): 1.63 % at precision 12.
    """

    def __init__(self, groups: int = 1, precision: int = 12) -> None:
        if groups < 1 or not 4 <= precision <= 18:
            raise ValueError(f"{groups} groups of precision {precision}: at least 1, of 4 to 18")
        self.groups = groups
        self.precision = precision
        self._flat = np.zeros(groups << precision, np.uint8)
        # So many leading zeros are told apart: those that are in no index, and that a mantissa holds with a last one.
        self._max_zeros = min(_MANTISSA - 1, 64 - precision)

    @property
    def registers(self) -> Array:
        """(groups, 2^precision) uint8: 0 where nothing came; a view."""
        return self._flat.reshape(self.groups, -1)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._flat.nbytes

    @property
    def relative_error(self) -> float:
        """Standard error of an estimate, relative to it."""
        return 1.04 / math.sqrt(1 << self.precision)

    def update(self, hashes: Array, groups: Array | None = None) -> None:
        """Take in hashes, (n,) uint64 with all bits good, of `groups` (n,) intp in 0..groups-1, default 0.

        The low `precision` bits choose the register; it keeps the largest rank, 1
        + leading zeros. So registers i and i + m / 2 are one of a lower precision.
        """
        registers = (hashes & _U64((1 << self.precision) - 1)).view(np.intp)
        if groups is not None:
            registers += groups << self.precision
        # Leading zeros by the exponent of a float64 below 1: 0.5 has none. The bit put last bounds their number.
        rest = hashes >> _U64(64 - _MANTISSA)
        rest |= _ONE | _U64(1 << (_MANTISSA - 1 - self._max_zeros))
        fraction = rest.view(np.float64)
        fraction -= 1.0
        rest >>= _U64(_MANTISSA)
        np.subtract(_U64(1023), rest, out=rest)
        np.maximum.at(self._flat, registers, rest.astype(np.uint8))

    def merge(self, other: HyperLogLog) -> None:
        """Take in what the other sketch saw, group by group; ValueError where the shapes differ."""
        if (self.groups, self.precision) != (other.groups, other.precision):
            raise ValueError("sketches of different groups or precision do not merge")
        np.maximum(self._flat, other._flat, out=self._flat)

    def estimate(self) -> Array:
        """(groups,) float64: distinct hashes seen; 0 where there were none, infinite where no register can grow."""
        m = 1 << self.precision
        top = self._max_zeros + 1
        counts = np.stack([np.bincount(registers, minlength=top + 1) for registers in self.registers])
        harmonic = counts[:, 1:top] @ 0.5 ** np.arange(1, top)
        harmonic += m * _tau(1 - counts[:, top] / m) * 0.5 ** (top - 1)
        harmonic += m * _sigma(counts[:, 0] / m)
        with np.errstate(divide="ignore"):
            estimates: Array = _ALPHA * m * m / harmonic
        return estimates


def _sigma(x: Array) -> Array:
    """Sum of x and x^(2^k) 2^(k-1) over k >= 1, for 0 <= x <= 1: what registers that are still 0 stand for."""
    full = x == 1
    x = np.where(full, 0, x)
    total, before, factor = x, np.full_like(x, -1), 1.0
    while (total != before).any():
        x = x * x
        before, total = total, total + x * factor
        factor *= 2
    return np.where(full, np.inf, total)


def _tau(x: Array) -> Array:
    """A third of 1 - x - sum of (1 - x^(2^-k))^2 2^-k over k >= 1: what registers that can grow no more stand for."""
    x = np.where(x == 0, 1, x)
    total, before, factor = 1 - x, np.full_like(x, -1), 1.0
    while (total != before).any():
        x = np.sqrt(x)
        factor /= 2
        before, total = total, total - (1 - x) ** 2 * factor
    return total / 3
