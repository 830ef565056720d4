"""Totals from sampled rows, with how far off they may be.

A row that was kept with probability p and brought x stands for x / p, and adds
x^2 (1-p) / p^2 to the unbiased estimate of the variance; what upstream sampling
is to blame for adds its own part (see `scale`). Sums over any rows, chosen by
whatever they have in common, are totals and variances, and both add up over
groups and over time, as long as no packet is counted twice: keep to one
direction and one observation point.

    batch -> tallies(batch, "bytes", by=("src_addr",)) -> merge(...) -> estimates(...)

Two intervals. With at least MANY light rows (p < 1) the normal one. With fewer,
the gamma interval of Fay and Feuer (Statistics in Medicine 16, 1997) for a sum
of weighted Poisson counts, which is Garwood's where all weights are equal; it
also tells how much may be there of which nothing was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.grouping import group_rows, key_arrays
from flowagent.scale import probabilities, received, upstream_variance

MANY = 30
"""Light rows from which on the normal interval is used."""


class Estimates(NamedTuple):
    """Arrays of equal length, float64; `rows` int64: rows that an estimate rests on."""

    total: Array
    variance: Array
    low: Array
    high: Array
    rows: Array


class Tally(NamedTuple):
    """What estimates follow from; every array has one entry a group."""

    total: Array
    """Sum of x / p."""
    variance: Array
    """Sum of the estimated variances, both stages."""
    upstream: Array
    """The upstream part of it."""
    seen: Array
    """Sum of x: the true total is no less, as far as the agent can tell."""
    light: Array
    """Rows with p < 1."""
    light_total: Array
    """Their sum of x / p."""
    light_square: Array
    """Their sum of (x / p)^2."""
    light_largest: Array
    """Their largest x / p."""
    rows: Array
    """All rows."""


def row_variances(batch: Batch, measure: str) -> Array:
    """(n,) float64: the unbiased estimate of the variance that each row adds to a total."""
    prob = probabilities(batch)
    values = received(batch, measure)
    return np.asarray(values * values * (1 - prob) / (prob * prob) + upstream_variance(batch, measure) / prob)


def tallies(batch: Batch, measure: str, by: Sequence[str] = ()) -> tuple[Batch, Tally]:
    """One group for each distinct value of the columns `by`: its values, and the tally of its rows.

    `measure` is `bytes`, `packets`, `records`, `flows` (rows), or any summed column.
    """
    prob = np.broadcast_to(np.asarray(probabilities(batch), np.float64), (len(batch),))
    values = received(batch, measure)
    upstream = upstream_variance(batch, measure) / prob
    estimate = values / prob
    light = prob < 1
    light_estimate = np.where(light, estimate, 0.0)
    each = Tally(
        total=estimate,
        variance=estimate * estimate * (1 - prob) + upstream,
        upstream=upstream,
        seen=values,
        light=light.astype(np.float64),
        light_total=light_estimate,
        light_square=light_estimate * light_estimate,
        light_largest=light_estimate,
        rows=np.ones(len(batch)),
    )
    return merge([(batch.select(by), each)], by)


def merge(parts: Sequence[tuple[Batch, Tally]], by: Sequence[str]) -> tuple[Batch, Tally]:
    """The tallies of several batches as one, equal groups added up."""
    keys = Batch.concat([keys for keys, _ in parts])
    joined = [np.concatenate(columns) for columns in zip(*(tally for _, tally in parts), strict=True)]
    n = len(joined[0])
    if not n:
        return Batch({}), Tally(*(np.zeros(0) for _ in Tally._fields))
    present = [name for name in by if name in keys]
    groups = group_rows(list(key_arrays(keys, present)) if present else [np.zeros(n, np.uint8)])
    ufuncs = [np.maximum if name == "light_largest" else np.add for name in Tally._fields]
    reduced = [u.reduceat(column[groups.order], groups.starts) for u, column in zip(ufuncs, joined, strict=True)]
    first = groups.first
    return (keys.take(first) if present else Batch({}, len(first))), Tally(*reduced)


def estimates(tally: Tally, confidence: float = 0.95) -> Estimates:
    """Totals with intervals that hold the true total with this probability (each by itself, not all at once)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z * np.sqrt(tally.variance)
    low, high = tally.total - half, tally.total + half
    few = tally.light < MANY
    # What was missed may weigh as much as the heaviest kept in any group, though all of this group's are lighter.
    heaviest = np.full(len(few), tally.light_largest.max(initial=0.0))
    below, above = _gamma(tally.light_total, tally.light_square, heaviest, z)
    upstream = z * z * tally.upstream
    low = np.where(few, tally.total - np.sqrt((tally.light_total - below) ** 2 + upstream), low)
    high = np.where(few, tally.total + np.sqrt((above - tally.light_total) ** 2 + upstream), high)
    # Without upstream sampling there is at least what was seen.
    low = np.maximum(low, np.where(tally.upstream > 0, 0.0, tally.seen))
    return Estimates(tally.total, tally.variance, low, high, tally.rows.astype(np.int64))


def _gamma(total: Array, square: Array, heaviest: Array, z: float) -> tuple[Array, Array]:
    """Bounds of a sum of weighted Poisson counts: `total`, of squares `square`, whose next one may weigh `heaviest`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.where(square > 0, total * total / square, 0.0)
        low = np.where(count > 0, total / count * _chi_square_half(count, -z), 0.0)
        scale = (square + heaviest**2) / (total + heaviest)
        high = np.where(heaviest > 0, scale * _chi_square_half((total + heaviest) / scale, z), total)
    return low, high


def _chi_square_half(shape: Array, z: float) -> Array:
    """Half the quantile of chi-square with 2 x shape degrees of freedom, that is of the gamma distribution.

    Wilson and Hilferty's cube (Proc. Natl. Acad. Sci. 17, 1931), as Byar uses it.
    """
    return np.asarray(shape * np.maximum(0.0, 1 - 1 / (9 * shape) + z / (3 * np.sqrt(shape))) ** 3)
