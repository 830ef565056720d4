"""Answers: equal to a plain loop where nothing was sampled, and their sums kept whatever is folded."""

import math
from collections import defaultdict

import msgspec
import numpy as np
import pytest
from history.flows import SECOND, filled, heavy, history, sums, window
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent import names
from flowagent.batch import Batch
from flowagent.errors import ConfigError
from flowagent.history.query import Query
from flowagent.history.result import MAX_ROWS, query
from flowagent.literals import value_names

DIMENSIONS = ("src_port", "dst_port", "proto")
# Few values, and the same on both sides: cycles a -> b -> a, loops a -> a, ties.
row = st.tuples(
    st.integers(0, 4), st.integers(0, 4), st.sampled_from([None, 6, 17]),
    st.integers(0, 5), st.integers(0, 3), st.integers(1, 2),
)  # fmt: skip
windows = st.lists(st.lists(row, max_size=12), max_size=9)
some_dimensions = st.lists(st.sampled_from(DIMENSIONS), unique=True, max_size=3)


def ask(made, **parameters):
    parameters.setdefault("from_", "0")
    return query(made, Query.parse({name.rstrip("_"): str(value) for name, value in parameters.items()}))


def label(name, value):
    if value is None:
        return "unknown"
    return value_names(name).get(value, str(value))


def by_label(answer):
    """The values of rows by their labels; no two rows may have the same."""
    found = {}
    for one in answer.rows:
        key = tuple(d.values[i].label for d, i in zip(answer.dimensions, one.at, strict=True))
        assert key not in found
        found[key] = one.value
    return found


@settings(deadline=None)
@given(windows, some_dimensions, st.sampled_from(["bytes", "packets", "flows"]), st.sampled_from(["dimension", "row"]))
def test_equal_to_a_plain_loop_where_all_are_shown(rows, dimensions, measure, fold):
    answer = ask(filled(rows), dimensions=",".join(dimensions), measure=measure, fold=fold, top=100)
    plain = sums(rows, dimensions, measure)
    labelled = {tuple(map(label, dimensions, key)): value for key, value in plain.items()}
    assert by_label(answer) == labelled
    assert answer.total.value == sum(plain.values())
    assert {one.error for one in answer.rows} <= {0}
    assert answer.exact


@settings(deadline=None)
@given(
    windows,
    some_dimensions,
    st.sampled_from(["dimension", "row"]),
    st.integers(1, 4),
    st.sampled_from([None, 10, 20, 30]),
)
def test_rows_sum_to_the_total_whatever_is_folded(rows, dimensions, fold, top, step):
    parameters = {"dimensions": ",".join(dimensions), "fold": fold, "top": top} | ({"step": step} if step else {})
    answer = ask(filled(rows), **parameters)
    assert sum(one.value for one in answer.rows) == answer.total.value
    whole = ask(filled(rows), to=answer.to) if answer.to else answer
    assert answer.total.value == whole.total.value
    values = [one.value for one in answer.rows]
    is_other = [all(d.values[i].other for d, i in zip(answer.dimensions, one.at, strict=True)) for one in answer.rows]
    assert values[: len(values) - any(is_other)] == sorted(values[: len(values) - any(is_other)], reverse=True)
    assert not any(is_other[:-1]) or not dimensions
    for dimension in answer.dimensions:
        assert sum(not value.other for value in dimension.values) <= top
        assert [value.other for value in dimension.values[:-1]] == [False] * (len(dimension.values) - 1)
    if step:
        assert len(answer.times) == len(answer.total.series)
        assert all(sum(one.series) == one.value for one in answer.rows)
        assert np.sum([one.series for one in answer.rows], axis=0).tolist() == answer.total.series or not answer.rows


@settings(deadline=None)
@given(windows, some_dimensions.filter(len))
def test_the_filter_of_a_value_selects_what_its_rows_add_up_to(rows, dimensions):
    made = filled(rows)
    answer = ask(made, dimensions=",".join(dimensions), top=2)
    for i, dimension in enumerate(answer.dimensions):
        for number, value in enumerate(dimension.values):
            here = sum(one.value for one in answer.rows if one.at[i] == number)
            shown = [v.filter for v in dimension.values if not v.other]
            text = f"not ({' or '.join(shown)})" if value.other and shown else value.filter
            assert ask(made, filter=text).total.value == here


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(70, 90), st.integers(0, 60), st.integers(1, 20))
def test_series_are_the_sums_of_their_steps_though_some_are_folded(seed, count, begin, length):
    rng = np.random.default_rng(seed)
    rows = [[(1, int(p), 6, int(b), 1, 1) for p, b in rng.integers(0, 5, (n, 2))] for n in rng.integers(0, 6, count)]
    answer = ask(
        filled(rows), from_=begin * 10, to=(begin + length) * 10, step="10s", dimensions="dst_port", fold="row"
    )
    found = defaultdict(float)
    for i, one in enumerate(rows):
        found[i * 10 // int(answer.step) * int(answer.step)] += sum(flow[3] for flow in one)
    assert answer.total.series == [found[int(at)] for at in answer.times]
    assert answer.from_ <= begin * 10
    assert answer.to >= min(begin + length, count // 6 * 6) * 10
    assert answer.step in (10, 60)
    assert all(at % answer.step == 0 for at in answer.times)


def test_other_stands_for_what_is_not_among_the_top_of_each_dimension():
    rows = [(1, 10, 6, 50, 1, 1), (2, 20, 6, 30, 1, 1), (3, 10, 6, 5, 1, 1), (1, 30, 6, 4, 1, 1), (4, 40, 6, 3, 1, 1)]
    answer = ask(filled([rows]), dimensions="src_port,dst_port", top=2)
    assert [[v.label for v in d.values] for d in answer.dimensions] == [["1", "2", "Other"], ["10", "20", "Other"]]
    assert [(one.at, one.value) for one in answer.rows] == [
        ([0, 0], 50), ([1, 1], 30), ([2, 0], 5), ([0, 2], 4), ([2, 2], 3)
    ]  # fmt: skip


def test_other_is_one_row_where_rows_are_folded():
    rows = [(1, 10, 6, 50, 1, 1), (2, 20, 6, 30, 1, 1), (3, 10, 6, 5, 1, 1), (1, 30, 6, 4, 1, 1)]
    answer = ask(filled([rows]), dimensions="src_port,dst_port", top=2, fold="row")
    assert by_label(answer) == {("1", "10"): 50, ("2", "20"): 30, ("Other", "Other"): 9}
    assert [one.at for one in answer.rows] == [[0, 0], [1, 1], [2, 2]]


def test_an_answer_has_few_rows_however_many_values_there_are():
    rows = [(a, b, 6, 100 + a, 1, 1) for a in range(90) for b in range(90)]
    answer = ask(filled([rows], rows=10_000), dimensions="src_port,dst_port", top=2000)
    assert len(answer.rows) == MAX_ROWS + 1
    assert answer.total.value == sum(one[3] for one in rows) == sum(one.value for one in answer.rows)


def test_without_dimensions_there_is_one_row():
    answer = ask(filled([[(1, 2, 6, 5, 1, 1), (2, 2, 6, 7, 1, 1)]]))
    assert [(one.at, one.value) for one in answer.rows] == [([], 12)]


def test_an_empty_history_has_an_empty_answer():
    for made in (filled([]), history(memory="64MB")):
        answer = ask(made, dimensions="src_port,proto", step=10, from_="-1h")
        assert (answer.rows, answer.total.value, answer.history["newest"]) == ([], 0, None)
        assert [d.values for d in answer.dimensions] == [[], []]
    assert msgspec.json.decode(msgspec.json.encode(answer))["history"]["oldest"] is None


def test_relative_times_count_from_the_newest():
    made = filled([[(1, 2, 6, 10**i, 1, 1)] for i in range(5)])
    answer = ask(made, from_="-20s")
    assert (answer.from_, answer.to, answer.total.value) == (30, 50, 11_000)
    assert ask(made, from_="-30s", to="-10s").total.value == 1100
    assert ask(made, from_=15, to=25).total.value == 110, "whole steps"
    assert ask(made, from_=1000, to=2000).total.value == 0


def test_what_is_not_over_yet_is_not_in_series():
    made = filled([[(1, 2, 6, 5, 1, 1)]] * 5)
    answer = ask(made, step="20s")
    assert (answer.times, answer.total.series, answer.to) == ([0, 20], [10, 10], 40)


def test_unknown_is_a_value_of_its_own_and_no_zero():
    made = filled([[(1, 2, None, 5, 1, 1), (1, 2, 0, 3, 1, 1)]])
    (proto,) = ask(made, dimensions="proto").dimensions
    assert [(v.label, v.unknown, v.filter) for v in proto.values] == [
        ("unknown", True, "proto is unknown"), ("0", False, "proto == 0")
    ]  # fmt: skip


def test_a_column_that_only_some_steps_have():
    made = filled([[(1, 2, 6, 5, 1, 1)]])
    made.name = lambda batch: batch.with_columns({"src_k8s_name": names.codes(["a"] * len(batch))})
    made.add(window([(1, 2, 6, 7, 1, 1)]), 10 * SECOND)
    made.seal(20 * SECOND)
    assert by_label(ask(made, dimensions="src_k8s_name")) == {("a",): 7, ("unknown",): 5}


@pytest.mark.parametrize(("source", "says"), [(0, {"unscaled"}), (1, set()), (3, {"prescaled"}), (None, {"unscaled"})])
def test_rates_that_are_not_known_are_told(source, says):
    batch = window([(1, 2, 6, 5, 1, 1)])
    batch = batch.select(n for n in batch.columns if not n.startswith("sampling"))
    if source is not None:
        batch = batch.with_columns({"sampling_source": np.array([source], np.uint8)})
    made = filled([batch])
    answer = ask(made)
    assert {name for name in ("unscaled", "prescaled") if getattr(answer, name)} == says
    assert answer.exact == (not says)
    assert not ask(made, measure="flows").unscaled, "flows are not scaled"


def test_sampling_by_exporters_is_scaled_and_has_an_error():
    batch = window([(1, 2, 6, 100_000, 100, 1), (2, 2, 6, 10, 1, 1)], sampling_rate=np.array([1000.0, 1.0]))
    answer = ask(filled([batch]), dimensions="src_port", measure="packets")
    assert by_label(answer) == {("1",): 100_000, ("2",): 1}
    assert answer.rows[0].error == pytest.approx(1.96 * math.sqrt(1000 * 999 * 100), rel=1e-3)
    assert answer.rows[1].error == 0
    assert not answer.exact


def test_what_may_be_missing_counts_where_nothing_was_seen():
    """A group of rows that were all kept for certain: others of it may have been left out."""
    rng = np.random.default_rng(1)
    made = filled([heavy(rng, 3000)], rows=128)
    heaviest = made.view().steps[0].heaviest["bytes"]
    answer = ask(made, dimensions="src_port", fold="row", top=1)
    assert answer.rows[0].error == pytest.approx(3.69 * heaviest, rel=0.01)


def coverage(measure, groups, asked, runs=250, **settings):
    """In how many of the runs each group's interval held the truth."""
    rng = np.random.default_rng(11)
    batches = [heavy(rng, 3000, ports=groups) for _ in range(3)]
    true = defaultdict(float)
    for batch in batches:
        values = batch["records" if measure == "flows" else measure].astype(float)
        for port in range(groups):
            true[str(port)] += values[batch["dst_port"] == port].sum()
    held, total = defaultdict(int), 0
    for seed in range(runs):
        answer = ask(filled(batches, seed=seed, **settings), dimensions="dst_port", measure=measure, top=100, **asked)
        for one in answer.rows:
            name = answer.dimensions[0].values[one.at[0]].label
            held[name] += abs(one.value - true[name]) <= one.error
        total += abs(answer.total.value - sum(true.values())) <= answer.total.error
    return [held[name] / runs for name in true], total / runs


@pytest.mark.parametrize("measure", ["bytes", "packets", "flows"])
def test_intervals_hold_the_truth_as_often_as_they_say(measure):
    each, total = coverage(measure, 4, {}, rows=512)
    assert 0.92 <= total <= 0.98
    assert 0.93 <= np.mean(each) <= 0.97


def test_intervals_hold_it_at_least_as_often_where_few_rows_are_left():
    each, _ = coverage("bytes", 40, {}, rows=128)
    assert np.mean(each) >= 0.95
    assert min(each) >= 0.9


@pytest.mark.parametrize("measure", ["bytes", "packets"])
def test_intervals_hold_it_where_exporters_saw_few_packets(measure):
    """One packet in 100 is seen of flows of 300 packets, about three of each; flows of none cannot be shown."""
    rng = np.random.default_rng(8)
    true = {"bytes": 300 * 900, "packets": 300}[measure]
    seen = rng.binomial(300, 0.01, 2000)
    rows = [(i, 2, 6, 900 * int(n), int(n), 1) for i, n in enumerate(seen) if n]
    made = filled([window(rows, sampling_rate=np.full(len(rows), 100.0))])
    answer = ask(made, dimensions="src_port", measure=measure, top=2000, fold="row")
    held = [abs(one.value - true) <= one.error for one in answer.rows]
    assert len(held) == len(rows)
    assert np.mean(held) >= 0.95


def test_intervals_hold_it_after_folds():
    rng = np.random.default_rng(4)
    batches = [heavy(rng, 800, ports=4) for _ in range(6)]
    true = sum(float(batch["bytes"].sum()) for batch in batches)
    held = 0
    for seed in range(200):
        made = filled(batches, seed=seed, rows=256)
        made.seal(3000 * SECOND)
        made.add(window([(1, 1, 6, 0, 0, 1)]), 3000 * SECOND)
        made.seal(3010 * SECOND)
        assert [s.length_ns // SECOND for s in made.view().steps] == [60, 10]
        answer = ask(made)
        held += abs(answer.total.value - true) <= answer.total.error
    assert 0.91 <= held / 200 <= 0.99


def test_steps_that_are_too_many_are_refused_though_the_range_was_not_known():
    made = filled([[(1, 2, 6, 5, 1, 1)]] * 3)
    made.seal(90_000 * SECOND)
    with pytest.raises(ConfigError, match="makes 9000 steps; at most 2000"):
        ask(made, from_="0", to="now", step="10s")


def test_an_answer_is_what_the_contract_says():
    made = filled([[(1, 2, 6, 5, 1, 1)]])
    plain = msgspec.json.decode(msgspec.json.encode(ask(made, dimensions="dst_port", step=10)))
    assert plain == {
        "from": 0, "to": 10, "measure": "bytes", "unit": "bytes", "exact": True,
        "dimensions": [{"column": "dst_port", "doc": "destination transport port",
                        "values": [{"label": "2", "filter": "dst_port == 2"}]}],
        "rows": [{"at": [0], "value": 5, "error": 0, "series": [5]}],
        "total": {"value": 5, "error": 0, "series": [5]},
        "times": [0], "step": 10, "history": made.describe(),
    }  # fmt: skip


def test_rows_of_nothing_are_left_out():
    answer = ask(filled([[(1, 2, 6, 0, 1, 1), (2, 2, 6, 5, 1, 1)]]), dimensions="src_port")
    assert by_label(answer) == {("2",): 5}


def test_empty_batches_are_no_windows():
    made = history()
    made.add(Batch({}), 0)
    assert made.view().steps == ()


def test_values_are_those_of_rows_only():
    made = filled([[(i, i, 6, 100 - i, 1, 1) for i in range(50)]])
    (values,) = (d.values for d in ask(made, dimensions="src_port", filter="dst_port == 3").dimensions)
    assert [value.label for value in values] == ["3"]
    (values,) = (d.values for d in ask(made, dimensions="src_port", filter="proto == udp").dimensions)
    assert values == []


def test_a_series_that_begins_in_older_steps_takes_them_whole():
    made = filled([[(1, 2, 6, 100, 1, 1)]] * 120)
    fine = next(s.start_ns for s in made.view().steps if s.length_ns == 10 * SECOND) // SECOND
    answer = ask(made, from_=fine, to=fine + 300, step="70s")
    assert (answer.from_, answer.step, answer.total.series) == (fine, 120, [1200] * 3)
