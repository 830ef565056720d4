"""Entropy of a traffic matrix or the like: how evenly a total is spread over keys, in bits.

H = log2 W - (1 / W) sum of x log2 x, over the sums x of the keys, W their total.
Scans and floods show in it: many keys that hold little raise it, one that holds
much lowers it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array


class Bounds(NamedTuple):
    """What is known of an entropy, in bits."""

    low: float
    estimate: float
    high: float


def entropy(sums: Array) -> float:
    """Bits, from the sums by key, (n,) float64 >= 0; 0 where all is one key, or nothing."""
    return _bits(float(sums.sum()), _x_log_x(sums))


def normalized(bits: float, keys: float) -> float:
    """Relative to the largest entropy of so many keys, log2(keys): 1 is evenly spread; 0 for a single key."""
    return min(bits / math.log2(keys), 1.0) if keys > 1 else 0.0


def sample_entropy(sums: Array, inclusion_prob: Array, total: float | None = None) -> float:
    """Bits, from the sums of a sample of keys, each kept independently with its `inclusion_prob`; both (n,) float64.

    Without `total` both W and the sum of x log2 x are estimated from the sample,
    whose errors mostly cancel in the ratio. With the true W as `total` the sum of
    x log2 x is corrected by regression on the known error of W, which leaves less
    than half of the ratio's error. Neither depends on the unit of the sums.
    """
    kept = sums > 0
    x, prob = sums[kept], inclusion_prob[kept]
    logs, scaled = np.log2(x), x / prob
    estimated, x_log_x = float(scaled.sum()), float((scaled * logs).sum())
    if total is None:
        return _bits(estimated, x_log_x)
    variances = (1 - prob) * scaled**2
    if variances.any():
        x_log_x += float((variances * logs).sum() / variances.sum()) * (total - estimated)
    return _bits(total, x_log_x)


def pruned_entropy(sums: Array, offset: float, total: float, distinct: float) -> Bounds:
    """Bits, from what a Misra-Gries table kept: sums (n,), each too low by at most `offset`, and the `total` of all.

    Keys that were dropped have at most `offset` each. `low` is the entropy of the
    most uneven spread that agrees with this, `high` of the most even one over
    `distinct` keys (an estimate will do: a few percent change little). `estimate`
    adds `offset` to all that was kept, as is right for keys that were there from
    the start, and spreads the rest evenly; it is an approximation without
    guarantee. All three are equal where `offset` is 0.
    """
    x = np.sort(sums)[::-1]
    rest = max(total - float(x.sum()), 0.0)
    if offset <= 0 or not rest:
        bits = entropy(x)
        return Bounds(bits, bits, bits)
    # The largest first are given all they can have: no other spread is as uneven.
    given = np.clip(rest - offset * np.arange(len(x)), 0, offset)
    left = max(rest - float(given.sum()), 0.0)
    whole = math.floor(left / offset)
    uneven = _x_log_x(x + given) + whole * _plus(offset) + _plus(left - whole * offset)
    others = max(distinct - len(x), left / offset)
    spread = left * math.log2(left / others) if left else 0.0
    even = _most_even(x, offset, total, others)
    high = _bits(total, _x_log_x(np.clip(even, x, x + offset)) + others * _plus(min(even, offset)))
    low = _bits(total, uneven)
    return Bounds(low, min(_bits(total, _x_log_x(x + given) + spread), high), high)


def _most_even(x: Array, offset: float, total: float, others: float) -> float:
    """The level to which all is filled up, each at most by `offset`, for the sum to be `total`."""
    # What is filled in is a piecewise linear function of the level, whose slope changes where a key begins and ends.
    levels = np.concatenate([x, x + offset, [0.0, offset]])
    slopes = np.concatenate([np.ones(len(x)), np.full(len(x), -1.0), [others, -others]])
    order = np.argsort(levels)
    levels = levels[order]
    filled = np.concatenate([[0.0], np.cumsum(np.diff(levels) * np.cumsum(slopes[order])[:-1])])
    return float(np.interp(total - x.sum(), filled, levels))


def _x_log_x(x: Array) -> float:
    x = x[x > 0]
    return float((x * np.log2(x)).sum())


def _plus(x: float) -> float:
    return x * math.log2(x) if x > 0 else 0.0


def _bits(total: float, x_log_x: float) -> float:
    return max(math.log2(total) - x_log_x / total, 0.0) if total > 0 else 0.0
