"""Exponential histograms: the right bucket to the last bit, quantiles within alpha, exact up to powers of two."""

import bisect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate.histogram import ALPHA, Histogram

TOP = 2**64 - 1
FRACTIONS = [2.0 ** (i / 32) / 2 for i in range(33)]
integers = st.integers(0, TOP) | st.integers(0, 100) | st.integers(0, 63).map(lambda b: 1 << b)


def bucket(value):
    """The index of the bucket by its definition, (2^((i-1)/32), 2^(i/32)]."""
    mantissa, exponent = math.frexp(value)
    return bisect.bisect_left(FRACTIONS, mantissa) + 32 * (exponent - 1)


def counted(values, weights=None, groups=1, group=None, **settings):
    histogram = Histogram(groups, **settings)
    histogram.update(np.asarray(values), weights, group)
    return histogram


def contents(histogram, group=0):
    indices, counts = histogram.buckets(group)
    return dict(zip(indices.tolist(), counts.tolist(), strict=True))


@given(st.floats(2**-40, 2.0**64, exclude_min=True))
def test_every_value_is_in_its_bucket(value):
    assert contents(counted([value], zero_threshold=2**-40)) == {bucket(value): 1}


@pytest.mark.parametrize("octave", [-1, 0, 1, 10, 40, 62, 63])
def test_the_ends_of_buckets_to_the_last_bit(octave):
    for i, fraction in enumerate(FRACTIONS[1:], 1):
        end = fraction * 2.0**octave * 2
        expected = i + 32 * octave
        assert contents(counted([end])) == {expected: 1}
        assert contents(counted([np.nextafter(end, 0)])) == {expected: 1}
        if end < 2**64:
            assert contents(counted([np.nextafter(end, np.inf)])) == {expected + 1: 1}


def test_known_bounds_of_schema_5():
    # The upper bounds of buckets -31 and 31, as Prometheus has them.
    values = [0.5109485743270583, np.nextafter(0.5109485743270583, 1), 1.9571441241754002]
    assert contents(counted(values)) == {-31: 1, -30: 1, 31: 1}


def test_integers_at_powers_of_two():
    for power in range(54):
        value = 1 << power
        assert contents(counted(np.array([value], np.uint64))) == {32 * power: 1}
        assert contents(counted(np.array([value + 1], np.uint64))) == {bucket(value + 1): 1}


@pytest.mark.parametrize(
    ("values", "zeros", "buckets"),
    [
        (np.array([TOP, 2**63, 2**63 + 2**11], np.uint64), 0, {2048: 1, 2016: 1, 2017: 1}),
        (np.array([-5, -(2**63), 0, 7], np.int64), 3, {bucket(7): 1}),
        (np.array([0.0, -0.0, -1e300, 5e-324, 0.5, 0.6]), 5, {bucket(0.6): 1}),
        (np.array([0, 255], np.uint8), 1, {bucket(255): 1}),
        (np.array([False, True]), 1, {0: 1}),
    ],
)
def test_values_of_any_type(values, zeros, buckets):
    histogram = counted(values)
    assert histogram.zeros.tolist() == [zeros]
    assert contents(histogram) == buckets
    assert histogram.count.tolist() == [len(values)]
    assert histogram.clamped == 0


def test_values_beyond_the_last_bucket():
    histogram = counted([1e30, 2.0**64, 3.0, 1e20], np.array([5.0, 1.0, 1.0, 1.0]))
    assert contents(histogram) == {2048: 7, bucket(3): 1}
    assert histogram.clamped == 2
    assert histogram.sum.tolist() == [5e30 + 2.0**64 + 3 + 1e20]


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    histogram = counted([1.0, 2.0], groups=2)
    for values, weights in (([3.0, bad], None), ([3.0, 4.0], np.array([1.0, bad]))):
        for group in (None, np.array([0, 1])):
            with pytest.raises(ValueError, match="not finite"):
                histogram.update(np.array(values), weights, group)
    assert (histogram.count.tolist(), histogram.sum.tolist()) == ([2, 0], [3, 0])


QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999)


@pytest.mark.parametrize("weighted", [False, True])
def test_quantiles_of_a_heavy_tail_are_within_alpha(weighted):
    rng = np.random.default_rng(1)
    values = rng.pareto(1.1, 200_000) + 1
    weights = rng.integers(1, 50, len(values)).astype(np.float64) if weighted else None
    histogram = counted(values, weights)
    for q in QUANTILES:
        true = np.quantile(values, q, method="inverted_cdf", weights=weights)
        assert abs(histogram.quantile(q)[0] - true) <= ALPHA * true * (1 + 1e-9)
    assert ALPHA < 0.011


@given(rows=st.lists(st.tuples(integers, st.integers(1, 9)), min_size=1, max_size=30), q=st.floats(0, 1))
def test_every_quantile_is_within_alpha(rows, q):
    values, weights = zip(*rows, strict=True)
    found = counted(np.array(values, np.uint64), np.array(weights, np.float64)).quantile(q)[0]
    repeated = sorted(float(v) for v, weight in rows for _ in range(weight))
    true = repeated[max(math.ceil(q * len(repeated)) - 1, 0)]
    assert abs(found - true) <= ALPHA * true * (1 + 1e-9)


def test_quantiles_of_nothing_and_of_zeros():
    histogram = counted([0, 0, 0, 5], groups=2)
    assert np.isnan(histogram.quantile(0.5)[1])
    assert histogram.quantile(0.75)[0] == 0
    assert histogram.quantile(1)[0] == pytest.approx(5, rel=ALPHA)
    with pytest.raises(ValueError, match=r"not in 0\.\.1"):
        histogram.quantile(1.5)


@given(values=st.lists(integers, max_size=30), powers=st.lists(st.integers(0, 64), max_size=5))
def test_counts_up_to_powers_of_two_are_exact(values, powers):
    bounds = [2.0**power for power in powers]
    found = counted(np.array(values, np.uint64)).cumulative(np.array(bounds))
    assert found.tolist() == [[sum(float(v) <= bound for v in values) for bound in bounds]]


@pytest.mark.parametrize("bound", [3.0, 0.25, 0.0, -2.0, np.inf, np.nan])
def test_other_bounds_are_refused(bound):
    with pytest.raises(ValueError, match="not powers of two"):
        counted([1.0]).cumulative(np.array([4.0, bound]))


def test_the_threshold_may_be_a_bound():
    histogram = counted([0.25, 0.3, 0.001], zero_threshold=0.25)
    assert histogram.cumulative(np.array([0.25, 0.5, 1])).tolist() == [[2, 3, 3]]


@given(a=st.lists(integers, max_size=20), b=st.lists(integers, max_size=20))
def test_merged_is_the_histogram_of_all(a, b):
    first, second = (counted(np.array(values, np.uint64)) for values in (a, b))
    first.merge(second)
    both = counted(np.array([*b, *a], np.uint64))
    assert contents(first) == contents(both)
    assert first.zeros.tolist() == both.zeros.tolist()
    assert first.sum.tolist() == pytest.approx(both.sum.tolist())


def test_merging_counts_what_was_clamped():
    first, second = counted([1e30]), counted([1e40, 1.0])
    first.merge(second)
    assert first.clamped == 2
    assert contents(first) == {2048: 2, 0: 1}


def test_groups_are_histograms_of_their_own():
    rng = np.random.default_rng(2)
    values, groups = rng.integers(0, 1 << 40, 5000, np.uint64), rng.integers(0, 3, 5000)
    weights = rng.integers(1, 9, 5000).astype(np.float64)
    together = counted(values, weights, 4, groups)
    for g in range(3):
        alone = counted(values[groups == g], weights[groups == g])
        assert contents(together, g) == contents(alone)
        assert together.sum[g] == pytest.approx(alone.sum[0])
        assert together.quantile(0.9)[g] == alone.quantile(0.9)[0]
        assert (together.zeros[g], together.count[g]) == (alone.zeros[0], alone.count[0])
    assert together.count[3] == 0


def test_without_groups_all_is_of_the_first():
    histogram = counted([3.0, 4.0], groups=2)
    assert (histogram.count.tolist(), histogram.sum.tolist()) == ([2, 0], [7, 0])


def test_the_order_does_not_matter():
    values = np.random.default_rng(3).integers(0, TOP, 1000, np.uint64)
    halves = counted(values[500:])
    halves.update(values[:500])
    assert contents(halves) == contents(counted(values))


def test_memory_is_bounded():
    assert counted(np.array([0, 1, 1 << 40], np.uint64)).nbytes < 11_000
    assert counted(np.array([1e300, TOP])).nbytes < 17_000
    assert counted([1.0], groups=10).nbytes < 3_000


def test_no_values():
    histogram = counted(np.zeros(0))
    assert (histogram.count.tolist(), contents(histogram), histogram.zeros.tolist()) == ([0], {}, [0])


def test_the_values_are_left_alone():
    values = np.array([1.0, 0.0, 1e30])
    values.flags.writeable = False
    counted(values)
    counted(np.broadcast_to(np.float64(3), (10,)), np.broadcast_to(np.float64(2), (10,)))
    assert values.tolist() == [1.0, 0.0, 1e30]


@pytest.mark.parametrize("settings", [{"groups": 0}, {"zero_threshold": 0.3}, {"zero_threshold": 0.0}])
def test_settings_that_do_not_work(settings):
    with pytest.raises(ValueError, match="at least 1"):
        Histogram(**settings)


@pytest.mark.parametrize("other", [Histogram(2), Histogram(zero_threshold=1)])
def test_different_shapes_do_not_merge(other):
    with pytest.raises(ValueError, match="do not merge"):
        Histogram().merge(other)
