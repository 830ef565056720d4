"""A policy's metrics: counters and histograms that never fall, gauges of the last finished period, all bounded."""

from collections import defaultdict

import numpy as np
import pytest
from flow_rows import feed, flow_rows, policy_of, sums, total
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowagent.clock import SECOND
from flowagent.export.prometheus import Exposition
from flowagent.metrics import Metrics

EXPONENTS = range(-1, 64, 3)


def families(policy):
    return {f.name.removeprefix("flowagent_policy_"): f for f in policy.families()}


def samples(policy, name):
    return families(policy)[name].samples


WEB = [{"dst_port": 443, "proto": 6, "bytes": 100, "packets": 2}] * 3
DNS = [{"dst_port": 53, "proto": 17, "bytes": 10, "packets": 1}, {"dst_port": 5353, "proto": 17, "bytes": 40}]


def test_totals_since_the_beginning_with_the_period_under_way():
    policy = policy_of()
    feed(policy, WEB)
    assert samples(policy, "bytes") == {("p", ""): 300}
    feed(policy, DNS, 12)
    assert samples(policy, "bytes") == {("p", ""): 350}
    assert samples(policy, "packets") == {("p", ""): 7}
    policy.tick(900 * SECOND)
    assert samples(policy, "records") == {("p", ""): 5}


def test_totals_by_group():
    policy = policy_of(group_by=["proto", "vlan"])
    feed(policy, WEB + DNS)
    assert samples(policy, "records") == {("p", "proto=6,vlan="): 3, ("p", "proto=17,vlan="): 2}


def test_before_anything_came():
    assert families(policy_of()).keys() == {"series_left_out", "memory_bytes", "groups_folded"}
    policy = policy_of(group_by=["proto"], top=[{"of": "dst_port"}], quantiles=["bytes"])
    policy.tick(0)
    policy.tick(11 * SECOND)
    assert samples(policy, "bytes") == samples(policy, "flow_bytes") == samples(policy, "top") == {}


def test_gauges_are_of_the_last_finished_period():
    policy = policy_of(top=[{"of": ["proto", "dst_port"]}], distinct=["dst_port"], entropy=[{"of": "dst_port"}])
    feed(policy, WEB)
    assert "top" not in families(policy)
    feed(policy, DNS, 10)
    assert samples(policy, "top") == {("p", "", "proto,dst_port", "bytes", "6,443"): 300}
    assert samples(policy, "top_error") == {("p", "proto,dst_port", "bytes"): 0}
    assert samples(policy, "distinct")["p", "", "dst_port"] == pytest.approx(1, abs=0.01)
    assert samples(policy, "entropy_bits") == {("p", "", "dst_port", "bytes"): 0}
    policy.tick(20 * SECOND)
    assert samples(policy, "top") == {
        ("p", "", "proto,dst_port", "bytes", "17,5353"): 40, ("p", "", "proto,dst_port", "bytes", "17,53"): 10,
    }  # fmt: skip
    assert samples(policy, "entropy_bits")["p", "", "dst_port", "bytes"] == pytest.approx(0.721928)
    policy.tick(30 * SECOND)
    assert samples(policy, "top") == {}


def test_keys_of_groups_that_are_counted_together_are_added_up():
    policy = policy_of(group_by=["proto"], max_groups=1, top=[{"of": "dst_port"}])
    feed(policy, [{"proto": 6, "bytes": 1, "dst_port": 1}])
    feed(policy, [{"proto": proto, "bytes": 5, "dst_port": 53} for proto in (17, 132, 1)])
    policy.tick(11 * SECOND)
    assert samples(policy, "top") == {
        ("p", "proto=6", "dst_port", "bytes", "1"): 1, ("p", "other", "dst_port", "bytes", "53"): 15,
    }  # fmt: skip


def test_histograms_are_those_of_prometheus():
    policy = policy_of(quantiles=["bytes"])
    feed(policy, [{"bytes": 0}, {"bytes": 1}, {"bytes": 1000}, {"bytes": 1024}, {"bytes": None}])
    (distribution,) = samples(policy, "flow_bytes").values()
    assert (distribution.count, distribution.sum, distribution.zero) == (4, 2025, 1)
    assert distribution.buckets == ((0, 1), (319, 1), (320, 1))
    assert distribution.cumulative([0, 9, 10]) == [2, 2, 4]


def test_the_largest_and_smallest_buckets_have_room():
    policy = policy_of(quantiles=["bytes"])
    feed(policy, [{"bytes": 1}, {"bytes": 2**63, "sampling_rate": 1e12}])
    policy.tick(11 * SECOND)
    (distribution,) = samples(policy, "flow_bytes").values()
    assert distribution.buckets == ((0, 1), (2048, 1))


def test_counters_tell_so_many_groups_apart_and_then_the_rest_together():
    policy = policy_of(group_by=["dst_port"], max_series=2, quantiles=["packets"])
    for port in range(5):
        feed(policy, [{"dst_port": port, "bytes": 1, "packets": 3}], 10 * port)
    assert samples(policy, "bytes") == {("p", "dst_port=0"): 1, ("p", "dst_port=1"): 1, ("p", "other"): 3}
    counts = {group: value.count for (_, group), value in samples(policy, "flow_packets").items()}
    assert counts == {"dst_port=0": 1, "dst_port=1": 1, "other": 3}


def test_a_group_that_had_a_series_keeps_it_when_another_gets_a_lower_number():
    policy = policy_of(group_by=["dst_port"], max_groups=2, max_series=2, periods=1)
    feed(policy, [{"dst_port": 1, "bytes": 1}])
    feed(policy, [{"dst_port": 2, "bytes": 10}])
    for now in (10, 20):
        feed(policy, [{"dst_port": 2, "bytes": 10}], now)
    assert samples(policy, "bytes") == {("p", "dst_port=1"): 1, ("p", "dst_port=2"): 30}
    feed(policy, [{"dst_port": 9, "bytes": 100}], 21)  # in the place of 1
    assert samples(policy, "bytes") == {("p", "dst_port=1"): 1, ("p", "dst_port=2"): 30, ("p", "other"): 100}


def test_gauges_leave_out_what_is_too_many_and_count_it_once_a_period():
    policy = policy_of(top=[{"of": "dst_port", "k": 5}], max_series=3)
    feed(policy, [{"dst_port": port, "bytes": port} for port in range(1, 10)])
    policy.tick(10 * SECOND)
    for _ in range(2):
        top = samples(policy, "top")
        assert [key for *_, key in top] == ["9", "8", "7"]
    assert samples(policy, "series_left_out") == {("p",): 2}


def test_no_series_are_wanted():
    policy = policy_of(max_series=0, quantiles=["bytes"])
    feed(policy, WEB)
    policy.tick(11 * SECOND)
    assert families(policy).keys() == {"memory_bytes", "groups_folded"}


def test_what_was_folded_and_how_much_memory_there_is():
    policy = policy_of(group_by=["dst_port"], max_groups=1)
    feed(policy, [{"dst_port": port} for port in range(4)])
    assert samples(policy, "groups_folded") == {("p",): 3}
    assert samples(policy, "memory_bytes") == {("p",): policy.nbytes}


def test_the_exposition_prints_all_of_it():
    policy = policy_of(
        group_by=["src_addr"], top=[{"of": "src_addr"}], distinct=["dst_port"], entropy=[{"of": "proto"}],
        quantiles=["bytes"],
    )  # fmt: skip
    feed(policy, [{"src_addr": (0, 1), "proto": 6, "bytes": 5}, {"src_addr": None, "bytes": 7}])
    policy.tick(10 * SECOND)
    metrics = Metrics()
    metrics.add(policy.families)
    text = Exposition(metrics).render("text/plain")[0].decode()
    for line in (
        'flowagent_policy_bytes_total{group="src_addr=::1",policy="p"} 5.0',
        'flowagent_policy_top{by="bytes",group="src_addr=",key="",of="src_addr",policy="p"} 7.0',
        'flowagent_policy_top_error{by="bytes",of="src_addr",policy="p"} 0.0',
        'flowagent_policy_flow_bytes_bucket{group="src_addr=::1",le="16.0",policy="p"} 1.0',
        'flowagent_policy_entropy_bits{by="bytes",group="src_addr=",of="proto",policy="p"} 0.0',
    ):
        assert line in text.splitlines()


SETTINGS = [
    {"periods": 1, "quantiles": ["bytes", "packets"]},
    {"periods": 1, "group_by": ["dst_port"], "max_groups": 2, "max_series": 2, "quantiles": ["bytes"]},
    {"periods": 2, "group_by": ["src_addr"], "max_groups": 4, "max_series": 3, "quantiles": ["packets"]},
    {"periods": 1, "group_by": ["vlan", "proto"], "max_groups": 3, "max_series": 1},
]
moves = st.tuples(flow_rows(max_size=6), st.sampled_from([0, 0, 3, 10, 10, 25, -4, -30]), st.booleans())


def numbers_of(policy):
    """Every number that must not fall: of counters, and of histograms each that a scrape shows."""
    found = {}
    for family in policy.families():
        for labels, value in family.samples.items():
            if family.kind == "counter":
                found[family.name, labels] = value
            elif family.kind == "histogram":
                numbers = [value.count, value.sum, value.zero, *value.cumulative(EXPONENTS)]
                assert numbers[3:] == sorted(numbers[3:])
                assert max(numbers[3:]) <= value.count
                found |= {(family.name, labels, i): n for i, n in enumerate(numbers)}
                found |= {(family.name, labels, "bucket", i): n for i, n in value.buckets}
    return found


@settings(deadline=None)
@given(st.sampled_from(SETTINGS), st.lists(moves, max_size=12), st.floats(1, 3))
@example(SETTINGS[1], [([{"dst_port": p, "bytes": p}], 10 * (p > 2), True) for p in (1, 2, 2, 2, 9, 2, 1)], 1.0)
def test_nothing_falls_and_nothing_is_missing(settings_of, moves, factor):
    policy, now, all_rows, before = policy_of(**settings_of), 10**6, [], {}
    for drawn, seconds, is_scraped in moves:
        now += seconds
        rows = [{**row, "inclusion_prob": 1 / factor} if row.get("vlan") else row for row in drawn]
        feed(policy, rows, now)
        all_rows += rows
        if is_scraped:
            after = numbers_of(policy)
            fallen = {k: (n, after.get(k)) for k, n in before.items() if after.get(k, -1) < n}
            assert not fallen
            before = after
    shown = families(policy)
    if not all_rows:
        return
    for amount in ("bytes", "packets", "records"):
        of_amount = shown[amount].samples
        assert sum(of_amount.values()) == pytest.approx(total(all_rows, amount), rel=1e-12)
        assert len(of_amount) <= policy.config.max_series + 1
    for amount in policy.config.quantiles:
        known = [row for row in all_rows if row.get(amount) is not None]
        values = shown[f"flow_{amount}"].samples.values()
        assert sum(value.count for value in values) == pytest.approx(total(known, "records"), rel=1e-12)
        assert sum(value.sum for value in values) == pytest.approx(total(known, amount), rel=1e-12)


@given(st.lists(flow_rows(max_size=8), min_size=1, max_size=6))
def test_groups_that_always_had_a_number_are_exact(parts):
    policy, truth = policy_of(group_by=["proto", "dst_port"]), defaultdict(float)
    for i, rows in enumerate(parts):
        feed(policy, rows, 7 * i)
        for k, value in sums(rows, ("proto", "dst_port"), "bytes").items():
            truth[k] += value
    label = "proto={},dst_port={}".format
    wanted = {("p", label(*("" if v is None else v for v in k))): value for k, value in truth.items()}
    assert samples(policy, "bytes") == pytest.approx(wanted, rel=1e-12)


def test_histograms_of_many_groups_take_no_more_memory_than_was_planned():
    policy = policy_of(
        group_by=["src_port"], max_groups=5, quantiles=["bytes"], periods=1, max_series=100_000, memory="2MiB"
    )
    rng = np.random.default_rng(1)
    for period in range(40):
        rows = [{"src_port": 10 * period + i, "bytes": int(2 ** rng.uniform(0, 64))} for i in range(8)]
        feed(policy, rows, 10 * period)
        list(policy.families())
    assert len(samples(policy, "flow_bytes")) == 6
    assert policy.nbytes <= 2 << 20
