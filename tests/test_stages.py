"""What happens to records between sources and sinks: in order, accounted for whatever fails, by the clock."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from stage_bench import BUSY, Bench, Looker, config, records

from flowagent import names
from flowagent import stages as stages_module
from flowagent.batch import Batch, constant
from flowagent.config import parse
from flowagent.history.query import Query
from flowagent.history.result import query
from flowagent.schema import EXPORT_PROTOCOLS, SAMPLING_SOURCES

# The way of the data


def test_every_record_goes_to_counters_at_once_and_to_policies_with_others_before_the_window(monkeypatch):
    journal = []
    counters, policy = Looker("counters", True, journal), Looker("policy", False, journal)
    bench = Bench(analyses=[policy, counters])
    hold = bench.stages._window.hold
    monkeypatch.setattr(bench.stages._window, "hold", lambda *args: journal.append("window") or hold(*args))
    bench.feed(records(3))
    bench.feed(records(3))
    bench.tick(0.25)
    assert journal == ["counters", "counters", "policy", "window"]
    assert counters.records == policy.records == 6
    (batch, flows, _) = policy.seen[0]
    assert (len(batch), len(flows), flows["records"].tolist()) == (6, 3, [2, 2, 2])
    assert counters.seen[0][0] is counters.seen[0][1]


def test_the_second_report_of_a_packet_is_seen_by_nobody():
    ovs = {
        "exporter": constant((0, 1), 4, "u8"), "observation_domain": constant(1, 4, "u4"),
        "sampling_source": constant(SAMPLING_SOURCES.index("prescaled"), 4, "u1"),
        "export_protocol": constant(EXPORT_PROTOCOLS.index("ipfix"), 4, "u1"),
        "direction": np.array([0, 1, 1, 0], np.uint8),
    }  # fmt: skip
    counters, policy = Looker("c", True), Looker("p")
    bench = Bench(analyses=[counters, policy])
    bench.feed(records(4, **ovs))
    bench.tick(10)
    assert counters.records == policy.records == bench.exported == 2
    assert bench.lost() == {("dropped", "duplicate_direction"): 2}


def test_a_flow_that_two_points_tell_of_counts_once():
    domains = {"observation_domain": np.array([1, 2, 2], np.uint32)}
    bench = Bench(dedup={"points": ["observation_domain"]}, analyses=[counters := Looker("c", True)])
    assert "observation_domain" in bench.stages.analysed_columns
    bench.feed(Batch.concat([records(2, 7), records(1, 7)]).with_columns(domains))
    bench.tick(10)
    assert counters.records == bench.exported == 2
    assert bench.lost() == {("dropped", "duplicate_point"): 1}


def test_records_gather_until_there_are_enough(monkeypatch):
    monkeypatch.setattr(stages_module, "_ENOUGH", 10)
    policy = Looker()
    bench = Bench(analyses=[policy])
    for i in range(3):
        bench.feed(records(4, 4 * i), i / 10)
    assert [(len(batch), now) for batch, _, now in policy.seen] == [(12, 0)]
    bench.feed(records(4), 0.7)
    assert len(policy.seen) == 1
    bench.tick(1)
    assert [(len(batch), now) for batch, _, now in policy.seen] == [(12, 0), (4, 0.7)]


def test_what_has_gathered_belongs_to_the_window_in_which_it_came():
    policy = Looker()
    bench = Bench(analyses=[policy])
    bench.feed(records(1), 1)
    bench.tick(2)
    bench.feed(records(1), 9.9)
    assert len(bench.tick(10.1)) == 1
    assert bench.exported == 2
    assert [now for _, _, now in policy.seen] == [1, 9.9]
    assert policy.ticks == [2, 10.1]
    assert len(bench.tick(20)) == 0


def test_windows_are_aligned_to_the_clock():
    bench = Bench()
    bench.feed(records(1), 1003)
    assert len(bench.tick(1009.9)) == 0
    assert len(bench.tick(1010)) == 1
    assert len(bench.tick(1020)) == 0


def test_a_clock_that_jumps_ahead_ends_the_window():
    bench = Bench()
    bench.feed(records(1), 3)
    assert len(bench.tick(10**9)) == 1


@pytest.mark.parametrize("sampling", [None, {"budget": 100}])
def test_a_clock_that_steps_back_ends_the_window_if_it_steps_far(sampling):
    bench = Bench(sampling=sampling)
    bench.feed(records(1), 1000)
    bench.tick(1003)
    bench.feed(records(1), 995)
    assert len(bench.tick(991)) == 0
    bench.feed(records(1), 500)
    assert bench.tick(500)["records"].tolist() == [3]
    bench.feed(records(1), 501)
    assert len(bench.tick(510)) == 1


def test_the_rest_comes_at_the_end():
    bench = Bench()
    bench.feed(records(3), 1)
    assert len(bench.tick(1, final=True)) == 3
    assert len(bench.tick(1, final=True)) == 0
    assert bench.inside == 0


def test_a_window_with_too_many_keys_is_written_out_early():
    bench = Bench()
    for i in range(40):
        bench.feed(records(2000, 2000 * i))
    assert bench.exported > 60_000
    bench.tick(10)
    assert bench.exported == 80_000
    assert bench.metric("window_early_flushes")[()] > 0


def test_an_empty_batch_is_nothing():
    bench = Bench(analyses=[policy := Looker()])
    assert len(bench.feed(Batch({}))) == 0
    assert len(bench.tick(10)) == 0
    assert policy.seen == []
    assert policy.ticks == [10]


# Without a window


def test_records_pass_through_at_once():
    policy = Looker()
    bench = Bench(window=0, analyses=[policy])
    rows = bench.feed(records(3))
    assert rows["src_addr"][1].tolist() == [0, 1, 2]
    assert "weight" not in rows
    assert policy.seen[0][0] is policy.seen[0][1]
    assert len(bench.tick(10)) == 0


def test_records_that_pass_through_are_sampled_by_the_second():
    bench = Bench(window=0, sampling={"budget": 10, "method": "systematic"})
    for i in range(8):
        assert len(bench.feed(records(10, 10 * i), 5 + i / 10)) == 0
    assert len(bench.tick(5.9)) == 0
    rows = bench.tick(6)
    assert len(rows) == 10
    assert rows["weight"].tolist() == pytest.approx([8] * 10)
    assert bench.lost() == {("sampled_out", "budget"): 70}
    assert bench.inside == 0
    bench.feed(records(4), 6.2)
    assert bench.tick(7)["weight"].tolist() == [1] * 4


# Sampling


def test_a_window_is_sampled_at_its_end():
    bench = Bench(sampling={"budget": 2, "method": "systematic"})
    for i in range(3):
        bench.feed(records(100, 100 * i), i)
        assert len(bench.tick(i + 0.5)) == 0
    rows = bench.tick(10)
    assert len(rows) == 20
    assert (rows["weight"] * rows["inclusion_prob"]).tolist() == pytest.approx([1] * 20)
    assert rows["weight"].sum() == pytest.approx(300)
    assert bench.lost() == {("sampled_out", "budget"): 280}


def test_a_window_that_is_written_out_early_is_still_within_the_budget():
    bench = Bench(sampling={"budget": 100, "method": "priority"})
    for i in range(40):
        bench.feed(records(2000, 2000 * i))
    rows = bench.tick(10)
    assert bench.metric("window_early_flushes")[()] > 0
    assert len(rows) == 1000
    assert bench.inside == 0


# Overload


def test_under_overload_policies_and_rows_are_a_weighted_sample_and_counters_are_not():
    counters, policy = Looker("c", True), Looker("p")
    bench = Bench(analyses=[counters, policy])
    for i in range(4):
        bench.feed(records(1000, 1000 * i), i, BUSY)
    rows = bench.tick(10)
    assert counters.records == 4000
    assert 200 < policy.records < 2000
    assert bench.lost() == {("sampled_out", "overload"): 4000 - policy.records}
    assert len(rows) == policy.records == bench.exported
    assert set(rows["inclusion_prob"].tolist()) <= {0.5, 0.25, 0.125, 0.0625}
    assert (rows["weight"] * rows["inclusion_prob"] == 1).all()
    assert bench.metric("overload_factor") == {(): 16}


@pytest.mark.parametrize("window", [0, "10s"])
@pytest.mark.parametrize("sampling", [{}, {"budget": 40}, {"budget": 40, "objectives": {"bytes": 1, "flows": 0.1}}])
def test_estimates_of_a_sample_are_unbiased(window, sampling):
    sizes = np.random.default_rng(1).pareto(1.2, 2000)
    octets = (100 * (sizes + 1)).astype(np.uint64)
    errors = []
    for seed in range(60):
        bench = Bench(window, sampling, seed=seed)
        for i, backlog in enumerate((0, BUSY, BUSY, 0)):
            part = slice(500 * i, 500 * i + 500)
            bench.feed(records(500, 500 * i + 2000 * seed, bytes=octets[part]), i / 5, backlog)
        bench.tick(10)
        total = math.fsum(
            (rows["bytes"] * rows["weight"]).sum() if "weight" in rows else float(rows["bytes"].sum())
            for rows in bench.out if len(rows)
        )  # fmt: skip
        errors.append(total - float(octets.sum()))
        assert bench.inside == 0
    z = np.mean(errors) / (np.std(errors) / math.sqrt(len(errors)))
    assert np.std(errors) > 0
    assert abs(z) < 4


def test_overload_may_be_switched_off():
    bench = Bench(sampling={"overload": False})
    bench.feed(records(100), 0, BUSY)
    assert len(bench.tick(10)) == 100
    assert bench.lost() == {}
    assert bench.metric("overload_factor") == {(): 1}


def test_overload_ends_though_nothing_comes():
    bench = Bench()
    bench.feed(records(100), 0, BUSY)
    assert bench.metric("overload_factor") == {(): 2}
    for i in range(10):
        bench.stages.tick(i, 0.0)
    assert bench.metric("overload_factor") == {(): 1}


def test_rows_tell_no_weight_where_none_was_shed():
    bench = Bench()
    bench.feed(records(100))
    assert not {"weight", "inclusion_prob"} & bench.tick(10).columns.keys()


def test_after_overload_rows_are_whole_again():
    bench = Bench()
    bench.feed(records(1000), 0, BUSY)
    bench.tick(10)
    for _ in range(20):
        bench.feed(Batch({}), 11)  # the backlog is gone
    bench.feed(records(7), 12)
    rows = bench.tick(20)
    assert rows["weight"].tolist() == rows["inclusion_prob"].tolist() == [1] * 7


# History


def remembered(bench):
    """The rows and bytes of each step of the history."""
    return [(s.start_ns // 10**9, s.rows, float(s.value["bytes"].sum())) for s in bench.stages.history.view().steps]


@pytest.mark.parametrize("window", ["10s", 0])
def test_the_history_has_what_came_in_though_little_of_it_goes_on(window):
    bench = Bench(window, {"budget": 1})
    bench.feed(records(500))
    bench.feed(records(500), 3)
    bench.tick(12)
    assert bench.exported < 100
    assert remembered(bench) == [(0, 500, 100_000)]


def test_windows_that_are_written_out_early_are_in_it_whole():
    bench = Bench()
    bench.stages._window._max_keys = 100
    for i in range(4):
        bench.feed(records(200, i * 200), i)
        bench.tick(i + 0.25)
    bench.tick(10)
    assert remembered(bench) == [(0, 800, 80_000)]


def test_time_goes_on_in_it_without_records():
    bench = Bench()
    bench.tick(31)
    assert bench.stages.history.view().through_ns == 30 * 10**9
    bench.feed(records(1), 32)
    bench.tick(45)
    assert bench.stages.history.view().through_ns == 40 * 10**9


def test_it_needs_no_columns_but_those_of_the_window():
    bench = Bench()
    assert bench.stages.history.columns <= bench.stages.window_columns
    assert "src_port" not in bench.stages.analysed_columns
    assert "src_port" in Bench(0).stages.analysed_columns


def test_a_reload_keeps_the_history():
    bench = Bench()
    bench.feed(records(3))
    bench.tick(10)
    bench.stages.configure(config("10s", {"budget": 5}))
    assert remembered(bench) == [(0, 3, 300)]
    bench.stages.configure(config("20s"))
    assert remembered(bench) == [], "steps have another length now"


def test_a_window_that_is_cut_short_ends_no_step_of_it():
    bench = Bench()
    for second in range(5):
        bench.feed(records(1, second), second)
        assert len(bench.tick(second, final=True)) == 1
        assert remembered(bench) == []
    bench.tick(10)
    assert remembered(bench) == [(0, 5, 500)]
    assert bench.stages.history.view().through_ns == 10 * 10**9


@pytest.mark.parametrize("every", ["10s", 0])
def test_names_that_rows_bring_are_in_it(every):
    bench = Bench()
    source = SimpleNamespace(settings=SimpleNamespace(brings=("src_k8s_name", "dst_k8s_name")))
    bench.stages.configure(parse({"window": {"every": every}})._replace(ingest=(source,)))
    bench.stages.connect([], [])
    bench.feed(records(2).with_columns({"src_k8s_name": names.codes(["web", "db"])}))
    bench.tick(10)
    told = query(bench.stages.history, Query.parse({"dimensions": "src_k8s_name"}))
    assert {value.label for value in told.dimensions[0].values} == {"web", "db"}
    assert "dst_k8s_name" not in bench.stages.history.view().columns
