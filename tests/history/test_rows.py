"""Estimates of rows and their variances: as they come, merged, thinned."""

import numpy as np
import pytest
from history.flows import heavy, window

from flowagent.batch import Batch
from flowagent.history.rows import estimated, merge, thin

KEYS = ("src_port", "dst_port", "proto")
MEASURES = ("bytes", "packets", "records")


def rows(batch):
    return estimated(batch, KEYS, MEASURES)


def test_what_was_not_sampled_is_exact():
    made = rows(window([(1, 2, 6, 100, 3, 2)]))
    assert {name: column.tolist() for name, column in made.value.items()} == {
        "bytes": [100], "packets": [3], "records": [2]
    }  # fmt: skip
    assert [column.tolist() for column in made.variance.values()] == [[0], [0], [0]]
    assert set(made.heaviest.values()) == {0}


def test_rates_and_probabilities_are_made_up_for():
    batch = window([(1, 2, 6, 1000, 2, 1)], sampling_rate=np.array([10.0]), inclusion_prob=np.array([0.5]))
    made = rows(batch)
    assert made.value["bytes"].tolist() == [20_000]
    assert made.value["records"].tolist() == [2], "a rate of packets says nothing of flows"
    # 20,000^2 (1 - 1/2) of the agent, and N (N - 1) times at least octets^2 / packets of the exporter, over 1/2.
    assert made.variance["bytes"][0] >= 2e8 + 2 * 90 * 1000**2 / 2
    assert made.variance["records"].tolist() == [2]
    assert made.heaviest["records"] == 1
    assert made.heaviest["bytes"] == 10_000


def test_equal_keys_are_added_up():
    one = rows(window([(1, 2, 6, 100, 1, 1), (1, 3, None, 10, 1, 1)]))
    two = rows(window([(1, 2, 6, 1, 1, 1), (1, 3, None, 20, 2, 1), (1, 3, 0, 5, 5, 5)]))
    merged = merge([one, two])
    found = dict(zip(zip(merged.keys["dst_port"].tolist(), merged.keys.is_known("proto").tolist(), strict=True),
                     merged.value["bytes"].tolist(), strict=True))  # fmt: skip
    assert found == {(2, True): 101, (3, False): 30, (3, True): 5}


def test_a_measure_that_a_part_lacks_is_nothing_there():
    one = rows(window([(1, 2, 6, 100, 1, 1)]))
    two = rows(window([(1, 2, 6, 5, 1, 1)]))
    del two.value["packets"], two.variance["packets"], two.heaviest["packets"]
    assert merge([two, one]).value["packets"].tolist() == [1]


def test_of_times_the_latest_counts():
    batch = window([(1, 2, 6, 1, 1, 1), (1, 2, 6, 1, 1, 1)], end_ns=np.array([5, 9]))
    merged = merge([estimated(batch, (*KEYS, "end_ns"), MEASURES)])
    assert merged.keys["end_ns"].tolist() == [9]


def test_few_rows_stay_as_they_are():
    made = rows(window([(1, 2, 6, 100, 1, 1)]))
    assert thin(made, 1, np.random.default_rng(1)) is made


@pytest.mark.parametrize("budget", [64, 500])
def test_thinned_rows_fit_and_say_what_they_stand_for(budget):
    rng = np.random.default_rng(3)
    made = rows(heavy(rng, 5000))
    kept = thin(made, budget, rng)
    assert budget / 2 < len(kept) <= budget
    assert all((kept.variance[name] >= 0).all() for name in MEASURES)
    light = kept.variance["bytes"] > 0
    assert kept.value["bytes"][light].max() <= kept.heaviest["bytes"]


def test_totals_and_variances_are_unbiased_over_two_thinnings():
    rng = np.random.default_rng(5)
    batch = heavy(rng, 2000)
    true = {name: batch[name].sum(dtype=np.float64) for name in MEASURES}
    totals = {name: [] for name in MEASURES}
    variances = {name: [] for name in MEASURES}
    for _ in range(400):
        first = [thin(rows(batch.take(np.arange(i, 2000, 2))), 300, rng) for i in range(2)]
        kept = thin(merge(first), 200, rng)
        for name in MEASURES:
            totals[name].append(kept.value[name].sum())
            variances[name].append(kept.variance[name].sum())
    for name in MEASURES:
        deviation = np.std(totals[name])
        assert abs(np.mean(totals[name]) - true[name]) < 4 * deviation / 20
        assert 0.8 < np.mean(variances[name]) / deviation**2 < 1.25


def test_rows_of_nothing():
    made = rows(Batch({}))
    assert len(merge([made, made])) == 0
