"""Counts as exported become estimates, and the variance that upstream sampling gave them is never told too small."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.batch import Batch, constant
from flowagent.scale import (
    LONGEST,
    OVSDB,
    SHORTEST,
    measure,
    probabilities,
    rates,
    received,
    scaled,
    unscaled,
    upstream_variance,
)
from flowagent.schema import SAMPLING_SOURCES

lengths = st.lists(st.integers(int(SHORTEST), int(LONGEST)), min_size=1, max_size=30)


def record(octets, packets, rate=64.0, **columns):
    return Batch({
        "bytes": np.array([octets], np.uint64), "packets": np.array([packets], np.uint64),
        "sampling_rate": np.array([rate]), **columns,
    })  # fmt: skip


def two(valid=None, **columns):
    return Batch(columns, 2, valid)


def test_without_sampling_everything_counts_once():
    batch = two(bytes=np.array([10, 20], np.uint64))
    assert rates(batch) == probabilities(batch) == 1
    assert received(batch, "bytes").tolist() == scaled(batch, "bytes").tolist() == [10, 20]
    assert upstream_variance(batch, "bytes").tolist() == [0, 0]


def test_a_rate_that_is_not_known_counts_as_one():
    masked = two({"sampling_rate": np.array([True, False])}, sampling_rate=np.array([64.0, 0.0]))
    assert rates(masked).tolist() == [64, 1]
    assert upstream_variance(masked.with_columns({"packets": np.array([1, 1], np.uint64)}), "packets").tolist() == [
        4032,
        0,
    ]


def test_both_stages_multiply():
    batch = two(
        bytes=np.array([10, 20], np.uint64), sampling_rate=np.array([64.0, 1.0]), inclusion_prob=np.array([0.5, 0.25])
    )
    assert received(batch, "bytes").tolist() == [640, 20]
    assert scaled(batch, "bytes").tolist() == [1280, 80]


def test_one_value_for_all_rows_stays_one():
    batch = two(sampling_rate=constant(64.0, 2, np.float64), inclusion_prob=constant(0.5, 2, np.float64))
    assert (rates(batch), probabilities(batch)) == (64.0, 0.5)


@pytest.mark.parametrize("name", ["flows", "records", "dropped_bytes"])
def test_upstream_sampling_scales_bytes_and_packets_only(name):
    batch = two(
        sampling_rate=constant(64.0, 2, np.float64), inclusion_prob=constant(0.5, 2, np.float64),
        records=np.array([1, 1], np.uint64), dropped_bytes=np.array([1, 1], np.uint64),
    )  # fmt: skip
    assert scaled(batch, name).tolist() == [2, 2]
    assert upstream_variance(batch, name).tolist() == [0, 0]


def test_measures_that_are_not_there():
    batch = two()
    assert measure(batch, "flows").tolist() == measure(batch, "records").tolist() == [1, 1]
    assert measure(batch, "bytes").tolist() == [0, 0]


def test_what_is_unknown_counts_nothing():
    batch = two({"bytes": np.array([False, True])}, bytes=np.array([10, 20], np.uint64))
    assert measure(batch, "bytes").tolist() == [0, 20]


def test_estimates_are_arrays_of_their_own():
    batch = two(bytes=constant(5, 2, np.uint64))
    for make in (measure, received, scaled):
        values = make(batch, "bytes")
        values += 1  # no broadcast, and not the batch's
        assert values.tolist() == [6, 6]
    assert batch["bytes"].tolist() == [5, 5]


@given(lengths, st.sampled_from([1.0, 2.0, 64.0, 1000.5]))
def test_the_variance_of_bytes_is_bounded_from_above(packets, rate):
    [told] = upstream_variance(record(sum(packets), len(packets), rate), "bytes").tolist()
    truly = rate * (rate - 1) * sum(length**2 for length in packets)
    assert told >= truly * (1 - 1e-12)
    # Not by more than if every packet had been as long as they get.
    assert told <= rate * (rate - 1) * sum(packets) * LONGEST * (1 + 1e-12)


@pytest.mark.parametrize("packets", [[700], [40], [40, 1500], [1500] * 3, [40] * 5])
def test_it_is_exact_for_one_packet_and_for_the_shortest_and_longest(packets):
    [told] = upstream_variance(record(sum(packets), len(packets)), "bytes").tolist()
    assert told == pytest.approx(64 * 63 * sum(length**2 for length in packets))


def test_packets_longer_than_expected_are_at_least_equal():
    assert upstream_variance(record(2 * 9000, 2), "bytes")[0] >= 64 * 63 * 2 * 9000**2


@given(st.lists(st.integers(int(SHORTEST), int(LONGEST)), min_size=1, max_size=10))
def test_an_unknown_number_of_packets_is_the_worst_one(packets):
    octets = np.array([sum(packets)], np.uint64)
    truly = 64 * 63 * sum(length**2 for length in packets)
    for batch in (
        Batch({"bytes": octets, "sampling_rate": np.array([64.0])}),
        record(sum(packets), 0),
        Batch(record(sum(packets), 9).columns, valid={"packets": np.array([False])}),
    ):
        assert upstream_variance(batch, "bytes")[0] >= truly


def test_no_bytes_no_variance():
    assert upstream_variance(record(0, 0), "bytes").tolist() == [0]
    assert upstream_variance(record(0, 1), "bytes").tolist() == [0]


def test_the_variance_of_packets_is_exact_for_coins():
    rng = np.random.default_rng(1)
    truly, rate = 5000, 20
    seen = rng.binomial(truly, 1 / rate, 4000)
    batch = Batch({"packets": seen.astype(np.uint64), "sampling_rate": constant(float(rate), 4000, np.float64)})
    estimate = received(batch, "packets")
    assert abs(estimate.mean() - truly) < 4 * estimate.std() / 4000**0.5
    assert upstream_variance(batch, "packets").mean() / estimate.var() == pytest.approx(1, abs=0.09)


def test_no_rows():
    empty = record(1, 1).rows(0, 0)
    for name in ("bytes", "packets", "flows", "records"):
        assert len(scaled(empty, name)) == len(upstream_variance(empty, name)) == 0


def prescaled(octets, packets, **columns):
    n = len(octets)
    return Batch({
        "bytes": np.array(octets, np.uint64), "packets": np.array(packets, np.uint64),
        "sampling_source": np.full(n, SAMPLING_SOURCES.index("prescaled"), np.uint8), **columns,
    })  # fmt: skip


def test_scaling_is_undone_exactly():
    before = prescaled([1600, 32, 48000], [16, 16, 32])
    after = unscaled(before, np.full(3, 16), np.full(3, 16.0))
    assert after["bytes"].tolist() == [100, 2, 3000]
    assert after["packets"].tolist() == [1, 1, 2]
    assert after["sampling_rate"].tolist() == [16] * 3
    assert after["sampling_source"].tolist() == [OVSDB] * 3
    assert before["bytes"].tolist() == [1600, 32, 48000]
    for name in ("bytes", "packets"):
        assert received(after, name).tolist() == received(before, name).tolist()
        assert (upstream_variance(after, name) > 0).all()
        assert not upstream_variance(before, name).any()


def test_only_rows_that_the_factor_divides():
    before = prescaled([1600, 1601, 1600, 1600], [16, 16, 17, 16])
    after = unscaled(before, np.array([16, 16, 16, 0]), np.full(4, 16.0))
    assert after["bytes"].tolist() == [100, 1601, 1600, 1600]
    assert after["packets"].tolist() == [1, 16, 17, 16]
    assert after.valid["sampling_rate"].tolist() == [True, False, False, False]
    assert (after["sampling_source"] == OVSDB).tolist() == [True, False, False, False]
    assert received(after, "bytes").tolist() == received(before, "bytes").tolist()


def test_rates_of_other_rows_stay():
    before = prescaled([10, 20], [1, 2], sampling_rate=np.array([64.0, 0.0]))
    before = Batch(before.columns, valid={"sampling_rate": np.array([True, False])})
    after = unscaled(before, np.array([0, 2]), np.array([0.0, 2.5]))
    assert after["sampling_rate"].tolist() == [64, 2.5]
    assert "sampling_rate" not in after.valid
    assert received(after, "packets").tolist() == [64, 2.5]


def test_what_is_unknown_stays_unknown_though_its_scaling_is_undone():
    before = Batch(prescaled([0, 32], [16, 16]).columns, valid={"bytes": np.array([False, True])})
    after = unscaled(before, np.full(2, 16), np.full(2, 16.0))
    assert after.valid["bytes"].tolist() == [False, True]
    assert after["packets"].tolist() == [1, 1]


def test_nothing_to_undo_is_no_change():
    before = prescaled([10], [1])
    assert unscaled(before, np.array([0]), np.array([0.0])) is before
    assert unscaled(before, np.array([3]), np.array([3.0])) is before
    empty = before.rows(0, 0)
    assert unscaled(empty, np.zeros(0, np.int64), np.zeros(0)) is empty


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.integers(1, 65535))
def test_undoing_never_changes_what_is_estimated(samples, factor):
    octets = [size * factor for size in samples]
    before = prescaled(octets, [factor] * len(samples))
    after = unscaled(before, np.full(len(samples), factor), np.full(len(samples), float(factor)))
    assert (after["sampling_source"] == OVSDB).all()
    assert received(after, "bytes").tolist() == pytest.approx(octets, rel=1e-12)
