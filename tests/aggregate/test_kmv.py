"""K minimum values: the smallest hashes whatever their order, estimates and set operations as good as theory says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate.kmv import KMinValues

TOP = 2**64 - 1
hashes = st.lists(st.integers(0, 30) | st.integers(TOP - 5, TOP) | st.integers(0, TOP), max_size=40)
sizes = st.integers(3, 12)


def sketch(values, k=4096):
    kmv = KMinValues(k)
    kmv.update(np.array(values, np.uint64))
    return kmv


def state(kmv):
    return kmv.limit, kmv.hashes.tolist()


def reference(values, k):
    """Theta and the sample by the definition."""
    smallest = sorted(set(values))[:k]
    return (smallest[-1], smallest[:-1]) if len(smallest) == k else (2**64, smallest)


def draw(rng, n):
    return rng.integers(0, TOP, n, np.uint64, endpoint=True)


@given(values=hashes, k=sizes, cuts=st.lists(st.integers(0, 40), max_size=3))
def test_the_smallest_are_kept_whatever_the_batches(values, k, cuts):
    kmv = KMinValues(k)
    for part in np.split(np.array(values, np.uint64), sorted(cuts)):
        kmv.update(part)
    assert state(kmv) == reference(values, k)
    kmv.update(np.array(values[::-1], np.uint64))
    assert state(kmv) == reference(values, k)


@given(a=hashes, b=hashes, k=sizes)
def test_merged_is_the_sketch_of_all(a, b, k):
    merged = sketch(a, k)
    merged.merge(sketch(b, k))
    assert state(merged) == reference([*a, *b], k)
    merged.merge(merged)
    assert state(merged) == state(sketch(a, k).union(sketch(b, k))) == reference([*a, *b], k)


@given(a=hashes, b=hashes, k=sizes, other_k=sizes)
def test_set_operations_are_those_of_the_sets_below_theta(a, b, k, other_k):
    mine, other = sketch(a, k), sketch(b, other_k)
    theta = min(mine.limit, other.limit)
    results = [
        (mine.union(other), set(a) | set(b)),
        (mine.intersection(other), set(a) & set(b)),
        (mine.difference(other), set(a) - set(b)),
    ]
    for result, true in results:
        assert result.limit <= theta
        assert result.hashes.tolist() == sorted(v for v in true if v < result.limit)
    both, either = ([v for v in values if v < theta] for values in (set(a) & set(b), set(a) | set(b)))
    assert mine.jaccard(other)[0] == (len(both) / len(either) if either else 0)


@given(a=hashes, b=hashes, k=sizes, other_k=sizes)
def test_merging_sketches_of_different_size(a, b, k, other_k):
    merged = sketch(a, k)
    merged.merge(sketch(b, other_k))
    assert merged.hashes.tolist() == sorted(v for v in set(a) | set(b) if v < merged.limit)
    assert len(merged.hashes) < k


def test_exact_below_k_and_by_the_largest_from_k_on():
    values = draw(np.random.default_rng(1), 1000)
    ordered = np.sort(values)
    assert sketch(values[:99], 100).estimate() == 99
    assert sketch(values[:99], 100).standard_error() == 0
    assert sketch(values[:100], 100).estimate() == pytest.approx(99 / (int(values[:100].max()) / 2**64))
    assert sketch(values, 100).estimate() == pytest.approx(99 / (int(ordered[99]) / 2**64))
    assert sketch([]).estimate() == 0


@pytest.mark.parametrize(("k", "expected"), [(1024, 3.13), (4096, 1.56)])
def test_the_error_is_the_one_of_theory(k, expected):
    rng = np.random.default_rng(k)
    n, trials = 100_000, 150
    sketches = [sketch(draw(rng, n), k) for _ in range(trials)]
    errors = np.array([kmv.estimate() for kmv in sketches]) / n - 1
    assert abs(errors.mean()) < 4 * errors.std() / trials**0.5
    assert 100 * errors.std() == pytest.approx(expected, rel=4 / (2 * trials) ** 0.5)
    assert 100 * sketches[0].relative_error == pytest.approx(expected, abs=0.005)
    assert np.mean([kmv.standard_error() for kmv in sketches]) == pytest.approx(n * expected / 100, rel=0.05)


def test_set_operations_are_unbiased_and_know_their_error():
    rng = np.random.default_rng(2)
    trials, only_a, only_b, common = 300, 1500, 3500, 1000
    found = {}
    for _ in range(trials):
        a, b, both = draw(rng, only_a), draw(rng, only_b), draw(rng, common)
        mine, other = sketch(np.append(a, both), 2048), sketch(np.append(b, both), 2048)
        for name, true, result in (
            ("union", only_a + only_b + common, mine.union(other)),
            ("intersection", common, mine.intersection(other)),
            ("difference", only_a, mine.difference(other)),
        ):
            found.setdefault((name, true), []).append((result.estimate(), result.standard_error()))
        share = common / (only_a + only_b + common)
        found.setdefault(("jaccard", share), []).append(mine.jaccard(other))
    for (name, true), pairs in found.items():
        estimates, errors = np.array(pairs).T
        assert abs(estimates.mean() - true) < 4 * estimates.std() / trials**0.5, name
        assert errors.mean() == pytest.approx(estimates.std(), rel=0.2), name


def test_the_order_of_a_long_stream_does_not_matter():
    values = draw(np.random.default_rng(3), 60_000)
    ascending, descending = np.sort(values), np.sort(values)[::-1]
    assert state(sketch(ascending, 500)) == state(sketch(descending, 500)) == reference(values.tolist(), 500)


def test_memory_is_bounded():
    rng = np.random.default_rng(4)
    kmv = KMinValues(100)
    for n in (1, 30, 90, 5000, 7, 100_000, 3, 99):
        kmv.update(draw(rng, n))
        assert kmv.nbytes <= 16 * 100


def test_the_hashes_that_came_in_are_neither_kept_nor_changed():
    values = draw(np.random.default_rng(5), 10)
    before = values.tolist()
    kmv = sketch([])
    kmv.update(values)
    values[:] = 0
    assert kmv.hashes.tolist() == sorted(before)


def test_too_small_for_an_error():
    with pytest.raises(ValueError, match="at least 3"):
        KMinValues(2)
