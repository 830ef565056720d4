"""Sizes: each objective gets what its share of the budget would buy alone, and no row is without a chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.batch import Batch, constant
from flowagent.sampling.pool import threshold
from flowagent.sampling.sizes import Sizes

counts = st.lists(st.integers(0, 2**64 - 1) | st.integers(1, 100), min_size=2, max_size=50)
THREE = {"bytes": 0.5, "packets": 0.25, "flows": 0.25}


def rows(octets, packets=None, **columns):
    octets = np.array(octets, np.uint64)
    packets = np.ones(len(octets), np.uint64) if packets is None else np.array(packets, np.uint64)
    return Batch({"bytes": octets, "packets": packets, **columns})


def fitted(batch, budget, objectives):
    sizes = Sizes(objectives)
    sizes.fit(batch, budget)
    return sizes


def test_all_rows_count_alike_until_there_is_something_to_go_by():
    sizes = Sizes(THREE)
    assert not sizes.is_fitted
    assert sizes.bytes_unit == 0
    assert sizes.of(rows([1, 1000])).tolist() == [1, 1]
    sizes.fit(rows([1, 1000]), 1)
    assert sizes.is_fitted


@given(counts, st.floats(0.05, 0.95))
def test_one_objective_alone_has_the_whole_budget(octets, part):
    budget = part * len(octets)
    sizes = fitted(rows(octets), budget, {"bytes": 3})
    unit = threshold(np.array(octets, np.float64), budget)
    assert sizes.bytes_unit == pytest.approx(unit or 1)
    assert sizes.of(rows(octets)) == pytest.approx(np.array(octets, np.float64) / (unit or 1))


@given(counts, st.floats(0.05, 0.95))
def test_every_objective_is_served_and_the_budget_is_not_exceeded(octets, part):
    packets = [octet // 1000 + 1 for octet in octets]
    batch, budget = rows(octets, packets), part * len(octets)
    size = fitted(batch, budget, THREE).of(batch)
    for values, share in ((octets, 0.5), (packets, 0.25), ([1] * len(octets), 0.25)):
        unit = threshold(np.array(values, np.float64), share * budget)
        if unit:
            assert (size >= np.array(values, np.float64) / unit * (1 - 1e-9)).all()
    assert np.minimum(1, size).sum() <= budget * (1 + 1e-9)
    assert (size > 0).all()


def test_shares_are_relative_and_none_is_no_objective():
    batch = rows([1, 50, 3000], [1, 1, 2])
    expected = fitted(batch, 2, {"bytes": 0.5, "flows": 0.5}).of(batch).tolist()
    assert fitted(batch, 2, {"bytes": 3, "packets": 0, "flows": 3}).of(batch).tolist() == expected


def test_sizes_are_of_what_rows_stand_for():
    upstream = rows([100, 100], sampling_rate=np.array([1.0, 64.0]))
    assert np.diff(np.log2(fitted(upstream, 1, {"bytes": 1}).of(upstream))).tolist() == [6]
    shed = rows([100, 100], inclusion_prob=np.array([1.0, 0.25]))
    assert np.diff(np.log2(fitted(shed, 1, {"flows": 1}).of(shed))).tolist() == [2]


def test_what_is_unknown_counts_nothing_but_is_a_flow():
    batch = Batch({"bytes": np.array([7, 100], np.uint64)}, valid={"bytes": np.array([False, True])})
    assert fitted(batch, 1, {"bytes": 1}).of(batch)[0] == 0
    assert (fitted(batch, 1, {"bytes": 1, "flows": 1}).of(batch) > 0).all()
    without = Batch({"proto": constant(6, 2, np.uint8)})
    assert fitted(without, 1, THREE).of(without).tolist() == [0.125, 0.125]


def test_traffic_without_bytes():
    batch = rows([0, 0, 0])
    assert fitted(batch, 1, {"bytes": 1}).of(batch).tolist() == [0, 0, 0]
    assert fitted(batch, 1, {"bytes": 1, "flows": 1}).of(batch) == pytest.approx([1 / 6] * 3)


def test_some_of_many_rows_are_enough():
    rng = np.random.default_rng(1)
    octets = np.ceil(100 * (rng.pareto(1.1, 200_000) + 1)).astype(np.uint64)
    sizes = fitted(rows(octets), 5000, {"bytes": 0.5, "flows": 0.5})
    exact = threshold(octets.astype(np.float64), 2500)
    assert sizes.bytes_unit == pytest.approx(exact, rel=0.2)
    assert sizes.of(rows([0])) == pytest.approx(2500 / 200_000, rel=0.001)


def test_columns_that_are_the_same_everywhere_or_read_only():
    batch = Batch({"bytes": constant(500, 4, np.uint64), "packets": constant(2, 4, np.uint64)})
    size = fitted(batch, 2, THREE).of(batch)
    assert size == pytest.approx([0.25] * 4)
    size[0] = 1  # its own
    assert batch["bytes"].tolist() == [500] * 4


def test_no_rows():
    assert len(fitted(rows([1, 2]), 1, THREE).of(rows([]))) == 0
    assert len(Sizes(THREE).of(rows([]))) == 0
