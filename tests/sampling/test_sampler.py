"""The sampler: parts in, one sample out, every record accounted for; what it promises is in test_acceptance.py."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trials import SECOND, groups, numbers, sampled, sampler, traffic, v4

from flowagent.batch import Batch, constant
from flowagent.outcome import Outcomes
from flowagent.sampling.sampler import Sampler
from flowagent.scale import scaled
from flowagent.sections import Sampling

METHODS = ["threshold", "priority", "systematic", "uniform", "hash"]
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def flows():
    return traffic(3000)


def take(taker, *parts, window=0):
    return next(sampled(taker, 1, *parts, first=window))


def chosen(batch):
    """Which rows of `traffic` these are."""
    return numbers(batch).tolist()


def metric(taker, name, labels=()):
    [family] = [family for family in taker.families() if family.name == name]
    return family.samples[labels]


@every_method
def test_rows_say_with_which_probability_they_are_there(flows, method):
    sample = take(sampler(300, method=method, fraction=0.05), flows)
    assert 50 < len(sample) <= 300
    assert set(sample.columns) == {*flows.columns, "inclusion_prob", "weight"}
    prob = sample["inclusion_prob"]
    assert ((prob > 0) & (prob <= 1)).all()
    assert sample["weight"] == pytest.approx(1 / prob)
    place = np.searchsorted(flows["dst_addr"][1], sample["dst_addr"][1])
    assert sample["bytes"].tolist() == flows["bytes"][place].tolist()


@every_method
@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 3000), max_size=6), budget=st.integers(1, 4000), by=st.booleans(), keep=st.booleans()
)
def test_every_record_is_in_the_sample_or_the_account(flows, method, cuts, budget, by, keep):
    records = np.arange(1, 3001, dtype=np.uint64)
    batch = flows.with_columns({"records": records})
    outcomes = Outcomes()
    config = Sampling(
        budget=budget, method=method, by=("in_if",) if by else (), keep=("dst_port == 53",) if keep else ()
    )  # fmt: skip
    taker = Sampler(config, SECOND, outcomes)
    ends = [0, *sorted(cuts), 3000]
    sample = take(taker, *(batch.rows(*part) for part in pairwise(ends)))
    assert len(sample) <= budget
    assert outcomes.counts["sampled_out", "budget"] == records.sum() - sample.record_count
    assert metric(taker, "flowagent_sampling_rows", ("in",)) == 3000
    assert metric(taker, "flowagent_sampling_rows", ("out",)) == len(sample)


def test_an_empty_window_has_an_empty_sample(flows):
    taker = sampler(10)
    assert len(taker.take()) == 0
    taker.add(flows.rows(0, 0), 0)
    taker.add(Batch({}), 0)
    assert len(taker.take()) == 0
    assert len(take(taker, flows)) > 0
    assert len(taker.take()) == 0


@every_method
def test_hardly_any_budget(flows, method):
    taker = sampler(0.1, method=method, fraction=1, by=("in_if",), keep=("dst_port == 53",))
    counts = [len(sample) for sample in sampled(taker, 50, flows)]
    assert max(counts) == 1


def test_a_budget_of_one_row_has_it_for_rules_and_others_alike(flows):
    few = flows.rows(0, 4)
    truly, taker = few.total("bytes"), sampler(1, keep=("dst_addr == 0.0.0.1 or dst_addr == 0.0.0.2",))
    totals = [scaled(s, "bytes").sum() for s in sampled(taker, 4000, few)]
    assert abs(np.mean(totals) - truly) < 4 * np.std(totals) / 4000**0.5


@every_method
def test_the_same_window_again_is_the_same_sample(flows, method):
    config = {"method": method, "fraction": 0.1}
    once, again = (take(sampler(200, **config), flows, window=5) for _ in range(2))
    assert chosen(once) == chosen(again)
    assert once["inclusion_prob"].tolist() == again["inclusion_prob"].tolist()


@every_method
@pytest.mark.parametrize("rotate", [True, False])
def test_windows_have_coins_of_their_own_unless_told_otherwise(flows, method, rotate):
    taker = sampler(200, method=method, fraction=0.05, rotate=rotate)
    one, other = (chosen(sample) for sample in sampled(taker, 2, flows))
    assert (one == other) == (not rotate)


def test_parts_have_coins_of_their_own(flows):
    config = {"objectives": {"flows": 1.0}}
    first = chosen(take(sampler(200, **config), flows))
    second = chosen(take(sampler(200, **config), flows.rows(0, 1), flows))
    assert len(set(first) & set(second)) < 60


def test_the_hash_method_has_one_coin_for_a_flow_in_all_parts(flows):
    sample = take(sampler(2000, method="hash", fraction=0.05), flows, flows, flows)
    rows = chosen(sample)
    assert len(rows) == 3 * len(set(rows)) > 200


def test_a_column_of_the_coin_that_is_not_there_does_not_make_all_rows_one():
    # With one coin for all of them they would all be dropped: there is no threshold that only some are above.
    batch = Batch({
        "src_as": np.arange(3000, dtype=np.uint32), "proto": constant(6, 3000, np.uint8),
        "bytes": np.full(3000, 100, np.uint64),
    })  # fmt: skip
    counts = [len(sample) for sample in sampled(sampler(200), 20, batch)]
    assert np.mean(counts) == pytest.approx(200 - 2 * 200**0.5, abs=10)


def test_rows_that_overload_split_have_coins_of_their_own():
    n = 4000
    batch = Batch({
        "src_addr": v4(np.tile(np.arange(n, dtype=np.uint64), 2)),
        "in_if": np.repeat(np.arange(2, dtype=np.uint32), n),
        "bytes": constant(100, 2 * n, np.uint64),
        "inclusion_prob": np.repeat([0.5, 0.25], n),
    })  # fmt: skip
    sample = take(sampler(2000, coin=("src_addr",), objectives={"bytes": 1}), batch)
    halves, quarters = (set(sample["src_addr"][1][sample["in_if"] == side].tolist()) for side in (0, 1))
    expected = len(halves) * len(quarters) / n
    assert abs(len(halves & quarters) - expected) < 4 * expected**0.5


def test_overload_does_not_change_the_coins_of_the_other_rows(flows):
    alone = take(sampler(200, objectives={"flows": 1}), flows)
    marked = flows.with_columns({"inclusion_prob": np.where(np.arange(3000) == 7, 0.5, 1.0)})
    assert len(set(chosen(alone)) ^ set(chosen(take(sampler(200, objectives={"flows": 1}), marked)))) <= 4


def test_probabilities_of_overload_and_of_the_budget_multiply(flows):
    shed = flows.with_columns({"inclusion_prob": constant(0.25, len(flows), np.float64)})
    assert take(sampler(5000), shed)["weight"].tolist() == [4.0] * len(flows)
    sample = take(sampler(300), shed)
    assert sample["inclusion_prob"].max() == 0.25
    assert (sample["weight"] >= 4).all()


def test_secrets_decide(flows, tmp_path):
    files = [tmp_path / name for name in "ab"]
    samples = []
    for file in files:
        file.write_text(file.name)
        samples.append(chosen(take(sampler(200, secret_file=str(file)), flows)))
    assert samples[0] != samples[1]
    assert samples[0] == chosen(take(sampler(200, secret_file=str(files[0])), flows))


def test_rows_of_a_rule_are_kept_and_the_others_stand_for_themselves(flows):
    sample = take(sampler(2000, keep=("dst_port == 53", "dst_port == 80")), flows)
    is_wanted = np.isin(sample["dst_port"], [53, 80])
    wanted = int(np.isin(flows["dst_port"], [53, 80]).sum())
    assert (is_wanted.sum(), sample["weight"][is_wanted].max()) == (wanted, 1) if wanted <= 1000 else True
    few = take(sampler(400, keep=("dst_port == 53",)), flows)
    assert np.count_nonzero(few["dst_port"] == 53) <= 200


def test_rules_have_more_than_half_where_the_others_leave_it(flows):
    rows = Batch.concat([flows.take(flows["dst_port"] == 53), flows.take(flows["dst_port"] == 80).rows(0, 50)])
    sample = take(sampler(len(rows) - 10, keep=("dst_port == 53",)), rows)
    assert np.count_nonzero(sample["dst_port"] == 80) == 50
    assert len(sample) > len(rows) - 100


def test_new_peers_are_kept():
    n = 3000
    old, new = traffic(n, seed=3), traffic(40, seed=4)
    new = new.with_columns({"dst_addr": v4(np.arange(n, n + 40, dtype=np.uint64))})
    taker = sampler(500, keep_new_peers="1h", objectives={"bytes": 1})
    assert 400 < len(take(taker, old)) <= 500  # everybody is new at first, and leaves nothing to others
    sample = take(taker, Batch.concat([old, new]), window=1)
    assert set(range(n, n + 40)) <= set(chosen(sample))
    sample = take(taker, Batch.concat([old, new]), window=2)
    assert not set(range(n, n + 40)) <= set(chosen(sample))


def test_no_more_is_held_than_some_budgets_and_a_part(monkeypatch, flows):
    monkeypatch.setattr("flowagent.sampling.sampler._LEAST", 0)
    taker = sampler(100)
    for start in range(0, 3000, 150):
        taker.add(flows.rows(start, start + 150), 0)
        held = sum(len(pool.batch) for pool in taker._parts)
        assert held <= 4 * 100
    assert len(taker.take()) <= 100


def test_the_threshold_is_shown(flows):
    taker = sampler(300, objectives={"bytes": 1.0})
    sample = take(taker, flows)
    z = metric(taker, "flowagent_sampling_threshold_bytes")
    light = sample["inclusion_prob"] < 1
    assert sample["bytes"][light] * sample["weight"][light] == pytest.approx(np.full(light.sum(), z))
    take(taker, flows.rows(0, 10))
    assert metric(taker, "flowagent_sampling_threshold_bytes") == 0
    take(taker, flows)
    taker.take()
    assert metric(taker, "flowagent_sampling_threshold_bytes") == 0


def test_what_the_sample_tells_is_counted(flows):
    upstream = flows.with_columns({"sampling_rate": constant(64.0, len(flows), np.float64)})
    taker, bytes_, variance = sampler(300), 0.0, 0.0
    for sample in sampled(taker, 3, upstream):
        x = 64 * sample["bytes"].astype(float)
        bytes_ += (x * sample["weight"]).sum()
        variance += (x**2 * sample["weight"] * (sample["weight"] - 1)).sum()
    assert metric(taker, "flowagent_sampled_bytes") == pytest.approx(bytes_)
    assert metric(taker, "flowagent_sampled_bytes_variance") > variance  # upstream sampling adds its part
    quiet = sampler(300)
    take(quiet, flows.rows(0, 100))
    assert metric(quiet, "flowagent_sampled_bytes") == flows.rows(0, 100).total("bytes")
    assert metric(quiet, "flowagent_sampled_bytes_variance") == 0


def test_counts_go_on_after_a_reload(flows):
    old, new = sampler(300), sampler(100)
    kept = len(take(old, flows))
    new.count_on(old)
    kept += len(take(new, flows))
    assert metric(new, "flowagent_sampling_rows", ("in",)) == 6000
    assert metric(new, "flowagent_sampling_rows", ("out",)) == kept


@every_method
def test_parts_of_different_columns_and_masks(flows, method):
    known = np.arange(1000) % 3 > 0
    first = Batch(flows.rows(0, 1000).columns, valid={"bytes": known, "dst_port": known})
    second = flows.rows(1000, 2000).with_columns({"vlan": constant(7, 1000, np.uint16)})
    third = flows.rows(2000, 3000).with_columns({"inclusion_prob": np.full(1000, 0.5)})
    sample = take(sampler(500, method=method, fraction=0.5, keep=("dst_port == 53",)), first, second, third)
    row = numbers(sample)
    assert (sample.is_known("bytes") == ((row >= 1000) | known[row % 1000])).all()
    assert (sample.is_known("vlan") == ((row >= 1000) & (row < 2000))).all()
    assert "inclusion_prob" not in sample.valid
    assert sample["inclusion_prob"][row >= 2000].max() <= 0.5


@every_method
def test_columns_that_are_read_only_or_the_same_everywhere(method):
    n = 500
    columns = {"src_addr": v4(np.arange(n, dtype=np.uint64)), "dst_port": np.arange(n, dtype=np.uint16)}
    for values in columns.values():
        values.flags.writeable = False
    same = {
        "dst_addr": constant((0, 1), n, np.uint64), "src_port": constant(9, n, np.uint16),
        "bytes": constant(90, n, np.uint64), "packets": constant(2, n, np.uint64), "records": constant(3, n, np.uint64),
    }  # fmt: skip
    sample = take(sampler(100, method=method, fraction=0.1), Batch({**columns, **same}))
    assert 20 < len(sample) <= 100
    assert sample["records"].tolist() == [3] * len(sample)


def test_traffic_without_bytes_or_packets(flows):
    bare = flows.select(("src_addr", "dst_addr", "src_port", "dst_port", "proto"))
    assert 200 < len(take(sampler(300), bare)) <= 300
    zero = flows.with_columns({"bytes": np.zeros(3000, np.uint64), "packets": np.zeros(3000, np.uint64)})
    assert 200 < len(take(sampler(300), zero)) <= 300


def test_counters_as_large_as_they_get(flows):
    huge = np.full(3000, 2**64 - 1, np.uint64)
    most = flows.with_columns({"bytes": huge, "packets": huge, "sampling_rate": constant(2.0**32, 3000, np.float64)})
    sample = take(sampler(300), most)
    assert 200 < len(sample) <= 300
    assert np.isfinite(sample["weight"]).all()


def test_the_groups_of_the_trials_are_what_they_are_taken_for():
    octets = traffic(50_000)["bytes"]
    assert np.bincount(groups(octets, np.random.default_rng(1)), octets)[0] / octets.sum() == pytest.approx(
        0.51, abs=0.01
    )
