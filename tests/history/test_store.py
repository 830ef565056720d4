"""The history: steps, folds, memory, time."""

import numpy as np
import pytest
from history.flows import SECOND, filled, heavy, history, window

from flowagent import names
from flowagent.history.query import Query
from flowagent.history.result import query
from flowagent.history.store import KEPT

ONE = [(1, 2, 6, 100, 1, 1)]


def total(made, **parameters):
    return query(made, Query.parse({"from": "0", "to": "now", **parameters})).total.value


def lengths(made):
    return [step.length_ns // SECOND for step in made.view().steps]


def test_a_step_is_there_when_its_time_is_over():
    made = history()
    made.add(window(ONE), 0)
    assert made.view().steps == ()
    before = made.version
    made.seal(9 * SECOND)
    assert made.view().steps == ()
    made.seal(10 * SECOND)
    assert made.version > before
    assert [(s.start_ns, s.end_ns, s.rows) for s in made.view().steps] == [(0, 10 * SECOND, 1)]
    assert made.view().through_ns == 10 * SECOND


def test_rows_of_the_next_step_end_the_one_before():
    made = history()
    made.add(window(ONE), 0)
    made.add(window(ONE), 10 * SECOND)
    assert [s.start_ns for s in made.view().steps] == [0]


def test_parts_of_a_step_are_one():
    made = history(every="5s")
    for start in (0, 5, 5):
        made.add(window(ONE), start * SECOND)
    made.seal(10 * SECOND)
    (step,) = made.view().steps
    assert (step.rows, step.value["bytes"].tolist()) == (1, [300])


def test_pass_through_records_are_merged():
    made = history(every=0)
    for i in range(50):
        made.add(window([(i % 3, 2, 6, 100, 1, 1)] * 2000), i * SECOND // 5)
    made.seal(10 * SECOND)
    (step,) = made.view().steps
    assert step.rows == 3
    assert total(made) == 50 * 2000 * 100


def test_time_goes_on_where_nothing_comes():
    made = filled([ONE])
    before = made.version
    made.seal(40 * SECOND)
    assert made.view().through_ns == 40 * SECOND
    assert made.version > before


def test_old_steps_are_folded_and_totals_stay():
    made = filled([[(1, 2, 6, 100 + i, 1, 1)] for i in range(90)], rows=64)
    assert lengths(made) == [60] * 5 + [10] * 60
    assert total(made) == sum(100 + i for i in range(90))


def test_steps_are_folded_again_and_again():
    made = filled([ONE] * (KEPT * 6 + 200), keep="1d")
    assert set(lengths(made)) == {10, 60, 600}
    assert lengths(made) == sorted(lengths(made), reverse=True)
    assert total(made) == 100 * (KEPT * 6 + 200)


def test_a_fold_goes_by_the_clock_and_not_by_how_many_there_are():
    made = history()
    for i in (0, 3, 200):
        made.add(window(ONE), i * 10 * SECOND)
    made.seal(201 * 10 * SECOND)
    assert lengths(made) == [60, 10]


def test_what_is_too_old_goes():
    made = filled([ONE] * 100, keep="5m")
    assert min(s.start_ns for s in made.view().steps) == 700 * SECOND
    made.seal(2000 * SECOND)
    assert made.view().steps == ()


def test_memory_is_bounded_and_what_goes_is_counted():
    rng = np.random.default_rng(2)
    made = filled([heavy(rng, 500) for _ in range(50)], memory="200kB", rows=512)
    held = {f.name: next(iter(f.samples.values())) for f in made.families()}
    assert held["flowagent_history_bytes"] <= 200_000
    assert held["flowagent_history_evictions"] == 50 - held["flowagent_history_steps"] > 0
    assert made.view().steps[-1].end_ns == 500 * SECOND


def test_rows_are_bounded_while_a_step_is_open_and_after():
    rng = np.random.default_rng(2)
    made = history(rows=64)
    for _ in range(3):
        made.add(heavy(rng, 40_000), 0)
        assert sum(map(len, made._parts)) + made._raw_rows <= 4 * 64 + 32768
    made.seal(10 * SECOND)
    assert made.view().steps[0].rows <= 64


def test_no_memory_no_history():
    made = filled([ONE], memory=0)
    assert not made.is_on
    assert made.columns == frozenset()
    assert made.view().steps == ()
    assert list(made.families()) == []


def test_names_are_joined_when_a_step_ends():
    asked = []

    def name(batch):
        asked.append(len(batch))
        return batch.with_columns({"src_k8s_name": names.codes([f"pod {port}" for port in batch["src_port"]])})

    made = history()
    made.name, made.names = name, frozenset({"src_k8s_name"})
    made.add(window([(1, 2, 6, 5, 1, 1), (2, 2, 6, 7, 1, 1)]), 0)
    assert asked == []
    made.seal(10 * SECOND)
    assert asked == [2]
    answer = query(made, Query.parse({"dimensions": "src_k8s_name"}))
    assert [value.label for value in answer.dimensions[0].values] == ["pod 2", "pod 1"]


def test_a_clock_that_steps_back_loses_nothing():
    made = history()
    made.add(window(ONE), 1800 * SECOND)
    made.add(window(ONE), 0)
    made.seal(10 * SECOND)
    assert (len(made.view().steps), total(made)) == (2, 100)
    made.seal(1900 * SECOND)
    assert total(made) == 200


@pytest.mark.parametrize("change", [{"rows": 128}, {"keep": "30m"}, {"memory": "1MB"}])
def test_a_reload_keeps_what_is_there(change):
    made = filled([ONE])
    made.configure(history(**change)._settings, made._window)
    assert total(made) == 100


@pytest.mark.parametrize("change", [{"step": "20s"}, {"memory": 0}])
def test_steps_of_another_length_begin_anew(change):
    made = filled([ONE])
    made.configure(history(**change)._settings, made._window)
    assert made.view().steps == ()


def test_it_knows_of_silence_since_it_began():
    made = history()
    made.seal(35 * SECOND)
    assert made.describe()["oldest"] is None
    made.add(window(ONE), 100 * SECOND)
    made.seal(120 * SECOND)
    assert (made.describe()["oldest"], made.describe()["newest"]) == (30, 120)


def test_it_does_not_claim_to_know_what_is_gone():
    aged = filled([ONE] * 100, keep="5m")
    assert aged.describe()["oldest"] == 700
    rng = np.random.default_rng(2)
    small = filled([heavy(rng, 500) for _ in range(50)], memory="200kB", rows=512)
    assert small.describe()["oldest"] == small.view().steps[0].start_ns / SECOND > 0


def test_an_empty_history_says_so():
    assert history().describe() == {
        "oldest": None, "newest": None, "windows": 0, "rows": 0, "step": 10, "memory": 0
    }  # fmt: skip
