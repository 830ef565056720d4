"""Entropy: from all sums, from a sample within the error measured elsewhere, and bounds from a pruned table."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate.entropy import Bounds, entropy, normalized, pruned_entropy, sample_entropy
from flowagent.aggregate.table import Table
from flowagent.batch import Batch

sums = st.lists(st.integers(0, 1000), max_size=40)


def direct(values):
    total = sum(values)
    return -sum(v / total * math.log2(v / total) for v in values if v)


@given(sums.filter(any), st.sampled_from([1, 1000, 0.001]))
def test_equals_the_definition_in_any_unit(values, unit):
    assert entropy(np.array(values, np.float64) * unit) == pytest.approx(direct(values), abs=1e-9)


def test_the_ends_of_the_range():
    assert entropy(np.full(64, 3.0)) == pytest.approx(6)
    assert [entropy(np.array(values, np.float64)) for values in ([5], [0, 5, 0], [0], [])] == [0, 0, 0, 0]
    assert entropy(np.full(3, 2.0**64)) == pytest.approx(math.log2(3))


def test_normalized_by_the_number_of_keys():
    assert normalized(6.0, 64) == 1
    assert normalized(3.0, 64) == 0.5
    assert normalized(6.0, 63.2) == 1
    assert (normalized(0.0, 1), normalized(0.0, 0)) == (0, 0)


def threshold(weights, budget):
    """z for which so many are kept on average, with probability min(1, w / z)."""
    low, high = 0.0, float(weights.sum())
    for _ in range(60):
        z = (low + high) / 2
        low, high = (z, high) if np.minimum(1, weights / z).sum() > budget else (low, z)
    return high


@pytest.mark.parametrize(("budget", "expected"), [(1000, 0.102), (5000, 0.044), (20_000, 0.016)])
def test_a_sample_by_size_in_ratio_form(budget, expected):
    rng = np.random.default_rng(budget)
    # The quantiles of a Pareto distribution of shape 1.1, in bytes.
    weights = 1000 * ((np.arange(100_000) + 0.5) / 100_000) ** (-1 / 1.1)
    true = entropy(weights)
    prob = np.minimum(1, weights / threshold(weights, budget))
    errors = []
    for _ in range(100):
        kept = rng.random(len(weights)) < prob
        sample = weights[kept], prob[kept]
        errors.append([sample_entropy(*sample) - true, sample_entropy(*sample, weights.sum()) - true])
    deviation = np.std(errors, axis=0)
    assert np.abs(np.mean(errors, axis=0) / deviation * 10).max() < 4
    assert deviation[0] == pytest.approx(expected, rel=0.35)
    assert deviation[1] < 0.6 * deviation[0]


@given(sums)
def test_a_sample_of_all_is_exact(values):
    x = np.array(values, np.float64)
    ones = np.ones(len(x))
    assert sample_entropy(x, ones) == sample_entropy(x, ones, x.sum()) == pytest.approx(entropy(x), abs=1e-9)


def test_keys_without_a_sum_do_not_matter():
    # Two of four, as far as the sample tells.
    assert sample_entropy(np.array([0.0, 4.0, 4.0]), np.array([0.0, 0.5, 0.5])) == 2


def pruned(values, capacity, batches=1):
    """The table that is left of these sums by key, which came spread over the batches."""
    table = Table(capacity)
    for part in np.array_split(values, batches):
        table.update(Batch({"dst_port": part}), np.ones(len(part)))
    return table


@given(values=st.lists(st.integers(0, 30), min_size=1, max_size=60), capacity=st.integers(1, 10), k=st.integers(1, 4))
def test_the_true_entropy_is_within_the_bounds(values, capacity, k):
    counts = np.bincount(values).astype(np.float64)
    table = pruned(np.array(values, np.uint32), capacity, k)
    bounds = pruned_entropy(table.sums()[1], table.offset, table.total, np.count_nonzero(counts))
    assert bounds.low - 1e-9 <= entropy(counts) <= bounds.high + 1e-9
    assert bounds.low - 1e-9 <= bounds.estimate <= bounds.high + 1e-9
    if table.is_exact:
        assert bounds == Bounds(*[entropy(table.sums()[1])] * 3)


def test_the_bounds_can_be_reached():
    # 10 is lost: the kept ones may have 4 each and one other 2, or others 1 each.
    bounds = pruned_entropy(np.array([20.0, 3.0]), 4.0, 33.0, 12)
    assert bounds.low == pytest.approx(direct([24, 7, 2]))
    assert bounds.estimate == pytest.approx(direct([24, 7, *[0.2] * 10]))
    assert bounds.high == pytest.approx(direct([20, 3, *[1] * 10]))
    # 6 is lost, and there are no other keys.
    bounds = pruned_entropy(np.array([3.0, 20.0]), 4.0, 29.0, 2)
    assert bounds == pytest.approx((direct([24, 5]), direct([24, 5]), direct([22, 7])))


def test_too_few_distinct_keys_are_not_believed():
    # 90 is lost, and no key can have lost more than 10.
    bounds = pruned_entropy(np.array([50.0]), 10.0, 140.0, 2)
    assert bounds == pytest.approx([direct([60, *[10] * 8])] * 3)


@pytest.mark.parametrize(("capacity", "error"), [(512, 0.5), (8192, 0.2)])
def test_the_estimate_of_zipf_traffic_is_close(capacity, error):
    rng = np.random.default_rng(1)
    values = (rng.zipf(1.1, 300_000) % 2**32).astype(np.uint32)
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    table = pruned(values, capacity, 10)
    bounds = pruned_entropy(table.sums()[1], table.offset, table.total, len(counts))
    assert bounds.low < entropy(counts) < bounds.high
    assert abs(bounds.estimate - entropy(counts)) < error


def test_nothing_at_all():
    assert pruned_entropy(np.zeros(0), 0.0, 0.0, 0) == Bounds(0, 0, 0)
    assert pruned_entropy(np.zeros(0), 5.0, 10.0, 2) == pytest.approx((1, 1, 1))
