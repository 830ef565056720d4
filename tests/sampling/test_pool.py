"""The threshold solves its equation whatever the sizes, and a pool keeps its rows and their numbers together."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.batch import Batch, constant
from flowagent.sampling.pool import Pool, threshold

sizes = st.lists(
    st.sampled_from([0.0, 1.0, 1.0, 2.0]) | st.integers(0, 2**64).map(float) | st.floats(1e-6, 1e6),
    min_size=1,
    max_size=60,
)
positive = sizes.map(lambda values: [max(value, 1e-6) for value in values])
parts = st.floats(0.001, 0.999)


def kept(values, z):
    """How many rows are expected."""
    return sum(min(1.0, value / z) for value in values) if z else len(values)


def reference(values, budget):
    """The same threshold by trying every number of certain rows, in exact arithmetic; None where there is none."""
    descending = sorted(map(Fraction, values), reverse=True)
    budget = Fraction(budget)
    for certain, size in enumerate(descending):
        if certain < budget and size <= (z := sum(descending[certain:]) / (budget - certain)):
            return z
    return None


@given(positive, parts)
def test_the_probabilities_add_up_to_the_budget(values, part):
    budget = part * len(values)
    assert kept(values, threshold(np.array(values), budget)) == pytest.approx(budget, rel=1e-9)


@given(positive, st.data())
def test_whole_budgets_too(values, data):
    budget = data.draw(st.integers(1, len(values)))
    z = threshold(np.array(values), budget)
    assert kept(values, z) == pytest.approx(budget, rel=1e-9)
    assert (z == 0) == (budget == len(values))


@given(sizes, parts)
def test_equals_the_reference_where_some_count_nothing(values, part):
    budget = part * len(values)
    z = threshold(np.array(values), budget)
    assert z == pytest.approx(float(reference(values, budget)), rel=1e-9)
    if z:
        assert kept(values, z) == pytest.approx(budget, rel=1e-9)
    else:
        assert sum(value > 0 for value in values) <= budget


@given(positive, parts, st.sampled_from([1e-9, 3.0, 1e12]))
def test_does_not_depend_on_the_unit_or_the_order(values, part, unit):
    budget = part * len(values)
    z = threshold(np.array(values), budget)
    assert threshold(np.array(values)[::-1] * unit, budget) == pytest.approx(z * unit, rel=1e-9)


@pytest.mark.parametrize("rest", [1.0, 3.0])
def test_giants_do_not_swallow_the_digits_of_the_rest(rest):
    values = np.full(1002, rest)
    values[[5, 700]] = 1e18, 3e30
    assert threshold(values, 12) == pytest.approx(100 * rest, rel=1e-12)


def test_giants_of_every_order():
    values = np.concatenate([2.0 ** np.arange(200), np.ones(800)])
    z = threshold(values, 250)
    assert kept(values, z) == pytest.approx(250, rel=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_many_equal_ones_below_a_few_that_differ(share):
    # Partial sorts have been a hundred times slower on these; what counts here is that the result is right.
    rng = np.random.default_rng(1)
    values = np.maximum(rng.pareto(1.1, 20_000), np.quantile(rng.pareto(1.1, 20_000), share))
    assert kept(values, threshold(values, 1000)) == pytest.approx(1000, rel=1e-9)


def test_equal_sizes():
    assert threshold(np.full(10, 7.0), 4) == pytest.approx(17.5)
    assert threshold(constant(7.0, 10, np.float64), 2.5) == pytest.approx(28)


@pytest.mark.parametrize("budget", [3, 3.5, 10])
def test_all_rows_fit(budget):
    assert threshold(np.array([1.0, 2.0, 3.0]), budget) == 0
    assert threshold(np.zeros(0), budget) == 0


def test_a_budget_of_less_than_one_row():
    assert threshold(np.array([1.0, 3.0]), 0.5) == 8
    assert threshold(np.array([5.0]), 0.25) == 20


def test_what_it_is_given_stays_as_it_is():
    values = np.array([3.0, 1.0, 2.0])
    values.flags.writeable = False
    assert threshold(values, 2) == 3
    assert values.tolist() == [3, 1, 2]


def pool(n=6, first=0, **columns):
    rows = np.arange(first, first + n)
    batch = Batch({"src_port": rows.astype(np.uint16), **columns})
    return Pool.of(batch, (rows + 1) / 100, rows + 1.0, rows % 2 == 0)


def content(some):
    """Row by row: port, coin, probability, size, whether a rule keeps it."""
    ports = some.columns(("src_port",))["src_port"] if len(some) else np.zeros(0)
    return list(zip(*(a.tolist() for a in (ports, some.coin, some.prob, some.size, some.is_kept)), strict=True))


def test_a_new_pool_has_all_rows_for_certain():
    assert content(pool(2)) == [(0, 0.01, 1, 1, True), (1, 0.02, 1, 2, False)]
    assert pool(2).weighted_size().tolist() == [1, 2]


def test_taking_rows_takes_all_of_them():
    whole = content(pool())
    assert content(pool().take(np.array([4, 1, 1]))) == [whole[4], whole[1], whole[1]]
    assert content(pool().take(np.array([4, 1])).take(np.array([1]))) == [whole[1]]
    assert content(pool().take(np.zeros(0, np.intp))) == []


@pytest.mark.parametrize("side", [[1, 0, 1, 0, 0, 0], [0] * 6, [1] * 6])
def test_both_sides_are_the_whole(side):
    side = np.array(side, np.bool_)
    first, other = pool().split(side)
    whole = np.array(content(pool()))
    assert content(first) == [tuple(row) for row in whole[side].tolist()]
    assert content(other) == [tuple(row) for row in whole[~side].tolist()]


def test_thinning_lowers_probabilities_to_those_of_the_threshold():
    thinned = pool().thin(np.array([False, True, True, True, True, True]), 4.0)
    assert thinned.prob.tolist() == [0.5, 0.75, 1, 1, 1]
    assert thinned.weighted_size().tolist() == [4, 4, 4, 5, 6]
    assert thinned.columns(("src_port",))["src_port"].tolist() == [1, 2, 3, 4, 5]


def test_thinning_twice_is_thinning_with_the_higher_threshold():
    once = pool().thin(np.ones(6, np.bool_), 5.0)
    for z in (2.0, 5.0):
        assert content(pool().thin(np.ones(6, np.bool_), z).thin(np.ones(6, np.bool_), 5.0)) == content(once)
        assert content(once.thin(np.ones(6, np.bool_), z)) == content(once)


def test_packing_lets_go_of_the_other_rows():
    some = pool().take(np.array([5, 0]))
    packed = some.packed()
    assert content(packed) == content(some)
    assert len(packed.batch) == 2
    assert packed.row.tolist() == [0, 1]


def test_pools_of_one_batch_are_joined_without_copying_it():
    whole = pool()
    first, other = whole.split(whole.is_kept)
    joined = Pool.concat([other, first])
    assert content(joined) == content(other) + content(first)
    assert joined.batch is whole.batch


def test_pools_of_several_batches_are_joined():
    some = [pool(3), pool(0), pool(2, first=10).thin(np.ones(2, np.bool_), 50.0)]
    joined = Pool.concat(some)
    assert content(joined) == content(some[0]) + content(some[2])
    assert len(joined.batch) == 5
    assert Pool.concat(some[:1]) is some[0]


def test_columns_keep_what_is_unknown_and_what_is_the_same_everywhere():
    batch = Batch(
        {"proto": constant(6, 3, np.uint8), "bytes": np.array([1, 2, 3], np.uint64)},
        valid={"bytes": np.array([True, False, True])},
    )
    some = Pool.of(batch, np.full(3, 0.5), np.ones(3), np.zeros(3, np.bool_)).take(np.array([2, 1]))
    columns = some.columns(("proto", "bytes", "src_port"))
    assert list(columns.columns) == ["proto", "bytes"]
    assert columns.valid["bytes"].tolist() == [True, False]
    assert columns["proto"].strides == (0,)
