"""Shedding: as much as the backlog asks for, the large records last, in probabilities that are powers of two."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import numbers, traffic

from flowagent.batch import Batch, constant
from flowagent.outcome import Outcomes
from flowagent.sampling.shed import MAX_FACTOR, Shed

OBJECTIVES = {"bytes": 0.5, "packets": 0.25, "flows": 0.25}


def shed(factor=1.0, objectives=OBJECTIVES, seed=1):
    made = Shed(Outcomes(), np.random.default_rng(seed))
    made.configure(objectives)
    made.factor = factor
    return made


def alike(n=1000):
    return Batch({name: constant(1, n, np.uint64) for name in ("bytes", "packets", "records")})


def test_all_records_go_on_untouched_without_a_backlog():
    batch = alike()
    assert shed().process(batch) is batch


def test_none_is_shed_where_that_is_not_wanted():
    batch = alike()
    made = shed(8.0, None)
    assert made.process(batch) is batch
    assert made._outcomes.counts["sampled_out", "overload"] == 0


def test_from_the_first_time_on_records_say_their_probability():
    made = shed(4.0)
    made.process(alike())
    made.factor = 1.0
    batch = made.process(alike(5))
    assert batch["inclusion_prob"].tolist() == [1.0] * 5
    assert batch["inclusion_prob"].strides == (0,)


@pytest.mark.parametrize("factor", [2.0, 8.0, 1024.0])
def test_equal_records_are_shed_by_exactly_the_factor(factor):
    out = shed(factor).process(alike(100_000))
    assert set(out["inclusion_prob"].tolist()) == {1 / factor}
    expected = 100_000 / factor
    assert abs(len(out) - expected) < 4 * math.sqrt(expected)


@given(st.floats(1.01, MAX_FACTOR))
def test_at_least_half_of_what_is_asked_is_shed_and_no_more(factor):
    batch = traffic(5000)
    out = shed(factor).process(batch)
    prob = out["inclusion_prob"]
    mantissa, exponent = np.frexp(prob)
    assert (mantissa == 0.5).all()
    assert (exponent <= 1).all()
    assert len(out) < 2 * 5000 / factor + 4 * math.sqrt(2 * 5000 / factor)
    assert (1 / prob).max() <= 8 * factor  # a quarter of the budget is for flows


def test_the_largest_records_are_certain_to_go_on():
    batch = traffic(5000)
    out = shed(16.0).process(batch)
    certain = out["inclusion_prob"] == 1
    assert out["bytes"][certain].max() == batch["bytes"].max()
    assert np.isin(np.sort(batch["bytes"])[-50:], out["bytes"][certain]).all()


@pytest.mark.parametrize("factor", [3.0, 50.0])
def test_totals_are_unbiased_and_their_variance_is_what_follows(factor):
    batch, made = traffic(2000), shed(factor)
    totals = {name: [] for name in OBJECTIVES}
    claimed = {name: [] for name in OBJECTIVES}
    for _ in range(2000):
        out = made.process(batch)
        prob = out["inclusion_prob"]
        for name in OBJECTIVES:
            values = np.ones(len(out)) if name == "flows" else out[name].astype(float)
            totals[name].append((values / prob).sum())
            claimed[name].append((values**2 * (1 - prob) / prob**2).sum())
    for name in OBJECTIVES:
        true = len(batch) if name == "flows" else batch.total(name)
        assert abs(np.mean(totals[name]) - true) < 4 * np.std(totals[name]) / 2000**0.5, name
        assert np.mean(claimed[name]) / np.var(totals[name]) == pytest.approx(1, abs=0.13), name


def test_what_is_shed_is_accounted_for_in_records():
    batch = traffic(1000).with_columns({"records": np.arange(1000, dtype=np.uint64)})
    made = shed(10.0)
    out = made.process(batch)
    assert made._outcomes.counts["sampled_out", "overload"] == batch.record_count - out.record_count > 0


def test_records_come_in_their_order_with_all_their_columns():
    batch = traffic(1000)
    known = np.arange(1000) % 2 > 0
    out = shed(4.0).process(Batch(batch.columns, valid={"bytes": known}))
    assert (np.diff(numbers(out)) > 0).all()
    assert out.valid["bytes"].tolist() == known[numbers(out)].tolist()
    assert set(out.columns) == {*batch.columns, "inclusion_prob"}


@pytest.mark.parametrize("n", [0, 1])
def test_next_to_no_records(n):
    out = shed(1024.0).process(alike(n))
    assert len(out) <= n
    assert "inclusion_prob" in out


def test_records_without_bytes():
    empty = {name: constant(0, 1000, np.uint64) for name in ("bytes", "packets")}
    assert 0 < len(shed(8.0).process(Batch(empty))) < 1000
    assert 0 < len(shed(8.0).process(Batch({"proto": constant(6, 1000, np.uint8)}))) < 1000


def test_the_factor_doubles_while_the_backlog_is_high_and_does_not_fall():
    made, factors = shed(), []
    for backlog in (0.3, 0.5, 0.5, 0.6, 0.55, 0.55, 0.3):
        made.follow(backlog)
        factors.append(made.factor)
    assert factors == [1, 2, 4, 8, 8, 16, 16]


def test_it_falls_by_and_by_once_the_backlog_is_gone():
    made, factors = shed(4.0), []
    for _ in range(8):
        made.follow(0.05)
        factors.append(made.factor)
    assert factors[:2] == pytest.approx([3.2, 2.56])
    assert factors[-1] == 1


def test_it_has_a_limit():
    made = shed()
    for _ in range(50):
        made.follow(1.0)
    assert made.factor == MAX_FACTOR
    [family] = made.families()
    assert (family.name, family.samples) == ("flowagent_overload_factor", {(): MAX_FACTOR})


def test_sources_that_let_a_quarter_gather_cause_nothing():
    made = shed()
    for backlog in np.linspace(0, 0.39, 40):
        made.follow(backlog)
    assert made.factor == 1


def test_probabilities_that_rows_bring_count():
    made = shed(4.0)
    brought = alike(10_000).with_columns({"inclusion_prob": constant(0.5, 10_000, np.float64)})
    assert set(made.process(brought)["inclusion_prob"].tolist()) == {0.125}
    made.factor = 1.0
    assert set(made.process(brought)["inclusion_prob"].tolist()) == {0.5}
