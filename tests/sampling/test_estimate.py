"""Totals and intervals: sums as defined, the same from parts as from the whole, and known quantiles."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.batch import Batch, constant
from flowagent.sampling.estimate import MANY, estimates, merge, row_variances, tallies
from flowagent.scale import upstream_variance

rows = st.lists(
    st.tuples(
        st.integers(0, 2**40), st.integers(1, 1000), st.sampled_from([1.0, 0.5, 0.01]) | st.floats(1e-3, 1),
        st.integers(0, 3), st.sampled_from([1.0, 64.0]), st.booleans(),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


def batch_of(some):
    octets, packets, prob, group, rate, is_known = zip(*some, strict=True)
    return Batch(
        {
            "bytes": np.array(octets, np.uint64), "packets": np.array(packets, np.uint64),
            "inclusion_prob": np.array(prob), "in_if": np.array(group, np.uint32), "sampling_rate": np.array(rate),
        },
        valid={"bytes": np.array(is_known), "sampling_rate": np.array(is_known)},
    )  # fmt: skip


def flows(count, weight, certain=0):
    """So many rows that stand for `weight` flows each, and some more for themselves."""
    return Batch({"inclusion_prob": np.repeat([1 / weight, 1.0], [count, certain])}, count + certain)


def told(batch, measure="bytes", by=(), confidence=0.95):
    return estimates(tallies(batch, measure, by)[1], confidence)


def by_group(keys, tally):
    return {
        key: tuple(values) for key, *values in zip(keys["in_if"].tolist(), *(a.tolist() for a in tally), strict=True)
    }


@given(rows)
def test_totals_and_variances_are_sums_over_rows(some):
    batch = batch_of(some)
    keys, tally = tallies(batch, "bytes", ("in_if",))
    for group, total, variance, seen, count in zip(
        keys["in_if"], tally.total, tally.variance, tally.seen, tally.rows, strict=True
    ):
        mine = [(b * (r if k else 1) * k, p, i) for i, (b, _, p, g, r, k) in enumerate(some) if g == group]
        upstream = upstream_variance(batch, "bytes")
        assert total == pytest.approx(sum(x / p for x, p, _ in mine))
        assert variance == pytest.approx(sum(x * x * (1 - p) / p**2 + upstream[i] / p for x, p, i in mine))
        assert seen == pytest.approx(sum(x for x, _, _ in mine))
        assert count == len(mine)


@given(rows, st.sampled_from(["bytes", "packets", "records", "flows"]))
def test_the_variances_of_rows_add_up_to_the_total(some, measure):
    batch = batch_of(some)
    assert row_variances(batch, measure).sum() == pytest.approx(tallies(batch, measure)[1].variance.sum())
    assert row_variances(batch, measure).shape == (len(some),)


@given(rows, st.lists(st.integers(0, 40), max_size=4))
def test_parts_merged_are_the_whole(some, cuts):
    batch = batch_of(some)
    ends = [0, *sorted(min(cut, len(some)) for cut in cuts), len(some)]
    parts = [tallies(batch.rows(a, b), "bytes", ("in_if",)) for a, b in pairwise(ends)]
    merged, whole = by_group(*merge(parts, ("in_if",))), by_group(*tallies(batch, "bytes", ("in_if",)))
    assert merged.keys() == whole.keys()
    for key, values in whole.items():
        assert merged[key] == pytest.approx(values)


@given(rows)
def test_an_interval_holds_its_total_and_what_was_seen(some):
    e = told(batch_of(some), by=("in_if",))
    assert (e.low <= e.total * (1 + 1e-9)).all()
    assert (e.total <= e.high * (1 + 1e-9)).all()
    assert e.rows.dtype == np.int64


@pytest.mark.parametrize("measure", ["bytes", "packets", "records", "flows"])
def test_rows_that_are_certain_are_exact(measure):
    batch = Batch({"bytes": np.array([10, 20], np.uint64), "packets": np.array([1, 2], np.uint64)})
    e = told(batch, measure)
    assert e.low == e.high == e.total
    assert e.total.tolist() == [{"bytes": 30, "packets": 3}.get(measure, 2)]
    assert e.variance.tolist() == [0]


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(1, 0.0253, 5.572), (2, 0.2422, 7.225), (5, 1.623, 11.668), (10, 4.795, 18.390), (20, 12.217, 30.888)],
)
def test_few_rows_of_equal_weight_have_garwoods_interval(count, low, high):
    e = told(flows(count, 1000), "flows")
    assert e.total[0] == pytest.approx(1000 * count)
    assert e.high[0] == pytest.approx(1000 * high, rel=0.01)
    assert e.low[0] == pytest.approx(max(1000 * low, count), abs=20)


def test_many_rows_have_the_normal_interval():
    e = told(flows(MANY, 11), "flows")
    half = 1.959964 * (MANY * 110) ** 0.5
    assert [e.low[0], e.high[0]] == pytest.approx([11 * MANY - half, 11 * MANY + half])
    few = told(flows(MANY - 1, 11), "flows")
    assert few.high[0] - few.total[0] > half  # the step between them is a small one, to the safe side
    assert few.high[0] - few.total[0] < 1.3 * half


def test_certain_rows_only_move_the_interval():
    few, more = told(flows(5, 100), "flows"), told(flows(5, 100, certain=1000), "flows")
    assert more.low - 1000 == pytest.approx(few.low)
    assert more.high - 1000 == pytest.approx(few.high)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_confidence_is_what_is_asked_for(confidence):
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    e = told(flows(100, 11), "flows", confidence=confidence)
    assert e.high[0] - e.total[0] == pytest.approx(z * (100 * 110) ** 0.5)


def test_what_was_missed_may_weigh_as_much_as_the_heaviest_of_any_group():
    batch = Batch({
        "in_if": np.array([1, 1, 2, 3], np.uint32),
        "inclusion_prob": np.array([0.5, 0.5, 0.01, 1.0]),
    })  # fmt: skip
    keys, tally = tallies(batch, "flows", ("in_if",))
    high = dict(zip(keys["in_if"].tolist(), estimates(tally).high.tolist(), strict=True))
    assert high[3] == pytest.approx(1 + 369, rel=0.01)
    assert high[1] > 369
    alone = told(batch.rows(0, 2), "flows").high[0]
    assert alone == pytest.approx(2 * 7.225, rel=0.01)


def test_upstream_sampling_widens_the_interval():
    columns = {"packets": np.array([100], np.uint64), "sampling_rate": np.array([64.0])}
    e = told(Batch(columns), "packets")
    assert e.total.tolist() == [6400]
    half = 1.959964 * (64 * 63 * 100) ** 0.5
    assert [e.low[0], e.high[0]] == pytest.approx([6400 - half, 6400 + half])
    both = told(Batch(columns | {"inclusion_prob": np.array([0.1])}), "packets")
    assert both.variance[0] == pytest.approx(6400**2 * 0.9 / 0.01 + 64 * 63 * 100 / 0.1)
    assert both.high[0] - both.total[0] > 10 * half


def test_upstream_sampling_says_nothing_about_flows_that_were_not_seen():
    e = told(Batch({"bytes": np.array([5], np.uint64), "sampling_rate": np.array([64.0])}), "flows")
    assert (e.total[0], e.variance[0]) == (1, 0)


def test_nothing_sampled_nothing_told():
    keys, tally = tallies(Batch({"bytes": np.zeros(0, np.uint64)}), "bytes", ("in_if",))
    assert len(keys) == 0
    assert all(len(column) == 0 for column in estimates(tally))
    none = merge([(keys, tally), (keys, tally)], ("in_if",))
    assert len(none[0]) == 0


def test_without_columns_to_group_by_all_rows_are_one_group():
    batch = batch_of([(10, 1, 0.5, 1, 1.0, True), (20, 1, 0.5, 2, 1.0, True)])
    for by in ((), ("out_if",)):
        keys, tally = tallies(batch, "bytes", by)
        assert (len(keys), list(keys.columns)) == (1, [])
        assert tally.total.tolist() == [60]


def test_groups_by_addresses_and_what_is_unknown():
    batch = Batch(
        {"src_addr": np.array([[0, 0, 0], [1, 1, 2]], np.uint64), "proto": np.array([6, 6, 6], np.uint8)},
        valid={"proto": np.array([True, False, True])},
    )
    keys, tally = tallies(batch, "records", ("src_addr", "proto"))
    found = zip(keys["src_addr"][1].tolist(), keys.is_known("proto").tolist(), tally.total.tolist(), strict=True)
    assert sorted(found) == [(1, False, 1), (1, True, 1), (2, True, 1)]


def test_parts_that_lack_a_column_merge_as_unknown():
    with_it = batch_of([(10, 1, 1.0, 1, 1.0, True)])
    without = with_it.select(("bytes",))
    keys, tally = merge([tallies(b, "bytes", ("in_if",)) for b in (with_it, without, without)], ("in_if",))
    assert sorted(zip(keys.is_known("in_if").tolist(), tally.total.tolist(), strict=True)) == [(False, 20), (True, 10)]


def test_columns_that_are_the_same_everywhere():
    batch = Batch({
        "bytes": constant(10, 4, np.uint64), "packets": constant(1, 4, np.uint64), "in_if": constant(2, 4, np.uint32),
        "inclusion_prob": constant(0.5, 4, np.float64), "sampling_rate": constant(2.0, 4, np.float64),
    })  # fmt: skip
    keys, tally = tallies(batch, "bytes", ("in_if",))
    assert keys["in_if"].tolist() == [2]
    assert tally.total.tolist() == [160]
    assert tally.variance.tolist() == [4 * (20**2 * 0.5 / 0.25 + 2 * 10**2 / 0.5)]
    assert row_variances(batch, "bytes").tolist() == [(20**2 * 0.5 / 0.25 + 2 * 10**2 / 0.5)] * 4
