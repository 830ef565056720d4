"""Strata are the values of some columns, the largest apart, and share the budget to the last row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.batch import Batch, constant
from flowagent.sampling.strata import MAX_STRATA, shares, strata_of

strata = st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 5000)), min_size=1, max_size=MAX_STRATA)


def batch_of(values, **columns):
    return Batch({"in_if": np.array(values, np.uint32), **columns})


def split(rows, budget, guarantee=0.5, wanted=None):
    rows = np.array(rows)
    return shares(np.array(rows if wanted is None else wanted, np.float64), rows, budget, guarantee).tolist()


def test_equal_values_share_a_stratum():
    codes, count = strata_of(batch_of([5, 7, 5, 5, 9]), ("in_if",))
    assert count == 3
    assert len({codes[0], codes[2], codes[3]}) == 1
    assert len(set(codes.tolist())) == 3


def test_several_columns_and_what_is_unknown():
    batch = Batch(
        {"proto": np.array([6, 6, 17, 6], np.uint8), "exporter": np.array([[0] * 4, [1, 2, 1, 1]], np.uint64)},
        valid={"proto": np.array([True, True, True, False])},
    )
    codes, count = strata_of(batch, ("proto", "exporter"))
    assert count == 4 == len(set(codes.tolist()))
    assert strata_of(batch, ("proto",))[1] == 3


@pytest.mark.parametrize("names", [(), ("out_if",)])
def test_no_columns_one_stratum(names):
    codes, count = strata_of(batch_of([1, 2, 3]), names)
    assert (codes.tolist(), count) == ([0, 0, 0], 1)


def test_no_rows():
    codes, count = strata_of(batch_of([]), ("in_if",))
    assert (len(codes), count) == (0, 1)


def test_a_column_that_is_the_same_everywhere():
    codes, count = strata_of(Batch({"in_if": constant(3, 5, np.uint32)}), ("in_if",))
    assert (codes.tolist(), count) == ([0] * 5, 1)


def test_the_smallest_share_one_where_there_are_too_many():
    sizes = np.arange(1, 101)
    codes, count = strata_of(batch_of(np.repeat(np.arange(100), sizes)), ("in_if",))
    assert count == MAX_STRATA
    rows = np.bincount(codes)
    assert rows[:-1].tolist() == sorted(range(38, 101), reverse=True)
    assert rows[-1] == sum(range(1, 38))


def test_no_more_of_them_than_asked():
    codes, count = strata_of(batch_of([1, 1, 1, 2, 2, 3, 4]), ("in_if",), 3)
    assert count == 3
    assert codes.tolist() == [0, 0, 0, 1, 1, 2, 2]


@given(strata, st.integers(1, 20_000), st.floats(0, 1))
def test_budgets_add_up_and_none_exceeds_its_rows(some, budget, guarantee):
    wanted, rows = (np.array(values) for values in zip(*some, strict=True))
    given_ = shares(wanted, rows, budget, guarantee)
    assert given_.sum() == min(budget, rows.sum())
    assert (given_ >= 0).all()
    assert (given_ <= rows).all()


@given(strata, st.integers(0, 5000), st.floats(0, 1))
def test_everybody_has_the_guaranteed_part_and_a_row_at_least(some, more, guarantee):
    wanted, rows = (np.array(values) for values in zip(*some, strict=True))
    budget = len(rows) + more
    even = np.floor(guarantee * budget / len(rows) - 1e-9)
    assert (shares(wanted, rows, budget, guarantee) >= np.minimum(rows, np.maximum(even, 1))).all()


def test_without_a_guarantee_one_threshold_decides():
    assert split([1000, 1000, 1000], 600, guarantee=0, wanted=[300, 200, 97]) == [301, 201, 98]


def test_with_nothing_but_guarantees_all_have_the_same():
    assert split([10_000, 500, 500], 300, guarantee=1) == [100, 100, 100]


def test_what_one_does_not_use_is_for_the_others():
    assert split([10_000, 10, 10_000], 1000, guarantee=1) == [495, 10, 495]
    assert split([10, 20, 30], 1000) == [10, 20, 30]


def test_half_for_all_and_half_where_the_traffic_is():
    assert split([90_000, 5000, 5000], 1200, wanted=[1200, 0, 0]) == [800, 200, 200]


def test_what_is_left_of_rounding_goes_to_the_largest_fractions():
    assert sum(split([100, 100, 100], 100)) == 100
    assert sorted(split([100, 100, 100], 100, guarantee=1)) == [33, 33, 34]
