"""Flows that several tell of are counted once, by rules that are stated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent import config, names
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.dedup import Deduplicate, Owners
from flowagent.errors import ConfigError
from flowagent.outcome import Outcomes
from flowagent.schema import EGRESS, INGRESS, INNER
from flowagent.sections import Dedup

NODES = {"node": names.code("node-a"), "-": 0}


def flows(ports, points=None, records=None):
    n = len(ports)
    columns = {
        "src_addr": np.array([[0] * n, [1] * n], np.uint64),
        "dst_addr": np.array([[0] * n, [2] * n], np.uint64),
        "src_port": np.array(ports, np.uint16),
        "dst_port": np.full(n, 443, np.uint16),
        "proto": np.full(n, 6, np.uint8),
        "records": np.array(records or [1] * n, np.uint64),
    }
    if points is not None:
        columns["observation_domain"] = np.array(points, np.uint32)
    return Batch(columns)


def at_points(outcomes=None, **settings):
    return Deduplicate(Dedup(points=("observation_domain",), **settings), outcomes or Outcomes(), 7)


def seen_by(directions, sources, destinations, known=None):
    n = len(directions)
    columns = {
        "node_direction": np.array(directions, np.uint8),
        "src_k8s_host_name": np.array([NODES[name] for name in sources], np.uint64),
        "dst_k8s_host_name": np.array([NODES[name] for name in destinations], np.uint64),
        "src_port": np.arange(n, dtype=np.uint16),
    }
    return Batch(columns, valid={"node_direction": np.array(known)} if known is not None else {})


def test_without_a_rule_every_row_counts():
    stage = Deduplicate(Dedup(), Outcomes(), 7)
    batch = flows([1, 1], [1, 2])
    assert stage.process(batch, 0) is batch
    assert stage.columns == frozenset()


def test_a_flow_counts_at_the_point_that_told_of_it_first():
    outcomes = Outcomes()
    stage = at_points(outcomes)
    kept = stage.process(flows([1, 2, 1, 2, 3], [10, 20, 20, 10, 20], records=[1, 1, 5, 1, 1]), 0)
    assert kept["src_port"].tolist() == [1, 2, 3]
    kept = stage.process(flows([1, 2, 3], [10, 10, 20]), SECOND)
    assert kept["src_port"].tolist() == [1, 3]
    assert outcomes.counts["dropped", "duplicate_point"] == 7


def test_another_point_takes_over_when_the_first_is_silent_for_long():
    stage = at_points(idle="60s")
    stage.process(flows([1], [10]), 0)
    assert len(stage.process(flows([1], [20]), 59 * SECOND)) == 0
    assert len(stage.process(flows([1], [20]), 60 * SECOND)) == 1
    assert len(stage.process(flows([1], [10]), 61 * SECOND)) == 0


def test_a_point_that_goes_on_reporting_stays():
    stage = at_points(idle="60s")
    for minute in range(5):
        assert len(stage.process(flows([1], [10]), minute * 50 * SECOND)) == 1
        assert len(stage.process(flows([1], [20]), minute * 50 * SECOND)) == 0


@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=40), max_size=6))
def test_each_flow_has_one_point_however_reports_are_batched(batches):
    stage, owners = at_points(), {}
    for rows in batches:
        kept = stage.process(flows([port for port, _ in rows], [point for _, point in rows]), 0)
        for port, point in rows:
            owners.setdefault(port, point)
        expected = [(port, point) for port, point in rows if owners[port] == point]
        assert list(zip(kept["src_port"].tolist(), kept["observation_domain"].tolist(), strict=True)) == expected


def test_memory_is_bounded_and_what_is_forgotten_is_counted():
    owners = Owners(1024, 600 * SECOND)
    rng = np.random.default_rng(1)
    for _ in range(20):
        hashes = rng.integers(0, 2**63, 1000, np.uint64) * np.uint64(2)
        assert not owners.others(hashes, hashes, 0).any()
    assert 20_000 - 4096 <= owners.evictions <= 20_000 - 3500


def told(*numbers):
    """Hashes of flows, all in the first place of the table, or of points."""
    return np.array(numbers, np.uint64)


def test_a_flow_that_comes_back_takes_the_place_that_it_had():
    owners = Owners(1024, 60 * SECOND)
    owners.others(told(5), told(1), 0)
    owners.others(told(5, 6), told(1, 1), 100 * SECOND)
    assert owners.evictions == 0
    assert owners.others(told(5, 6), told(2, 2), 100 * SECOND).tolist() == [True, True]


def test_a_flow_without_room_is_counted_once():
    owners = Owners(1024, 60 * SECOND)
    owners.others(told(1, 2, 3, 4, 5, 6), told(*[1] * 6), 0)
    assert owners.evictions == 2
    assert owners.others(told(1, 2, 3, 4), told(*[2] * 4), 0).all()


def test_flows_whose_hashes_are_alike_but_for_the_last_bits_are_told_apart():
    owners = Owners(1024, 60 * SECOND)
    assert not owners.others(told(0, 1, 2, 3), told(0, 1, 0, 1), 0).any()
    assert owners.others(told(0, 1, 2, 3), told(1, 1, 1, 1), 0).tolist() == [True, False, True, False]


@pytest.mark.parametrize(("back", "counts"), [(1, 0), (86400, 1)])
def test_a_clock_that_steps_back_far_does_not_hold_up_other_points(back, counts):
    stage = at_points(idle="60s")
    now = 20_000 * 86400
    stage.process(flows([1], [10]), now * SECOND)
    assert len(stage.process(flows([1], [20]), (now - back) * SECOND)) == counts


def test_after_a_step_back_flows_have_room_again():
    owners = Owners(1024, 60 * SECOND)
    owners.others(told(1, 2, 3, 4), told(*[1] * 4), 86400 * SECOND)
    for second in range(4):
        owners.others(told(5 + second), told(1), second * SECOND)
    assert owners.evictions == 0
    assert owners.others(told(5, 6, 7, 8), told(*[2] * 4), 4 * SECOND).all()


def test_as_many_flows_as_fit_are_hardly_forgotten():
    owners = Owners(100_000, 600 * SECOND)
    hashes = np.random.default_rng(2).integers(0, 2**63, 100_000, np.uint64) * np.uint64(2)
    owners.others(hashes, hashes, 0)
    evictions = owners.evictions
    others = owners.others(hashes, hashes + np.uint64(1), 0)
    assert 0 < np.count_nonzero(~others) <= evictions < 1000


def test_a_flow_between_nodes_counts_where_it_begins():
    outcomes = Outcomes()
    stage = Deduplicate(Dedup(nodes="source"), outcomes, 7)
    batch = seen_by([EGRESS, INGRESS, INGRESS, INNER], ["node", "node", "-", "node"], ["node", "node", "node", "node"])
    assert stage.process(batch, 0)["src_port"].tolist() == [0, 2, 3]
    assert outcomes.counts["dropped", "duplicate_node"] == 1
    assert stage.columns == {"node_direction", "src_k8s_host_name"}


def test_or_where_it_ends():
    stage = Deduplicate(Dedup(nodes="destination"), Outcomes(), 7)
    batch = seen_by([EGRESS, EGRESS, INGRESS], ["node", "node", "node"], ["node", "-", "node"])
    assert stage.process(batch, 0)["src_port"].tolist() == [1, 2]


def test_a_row_whose_direction_is_not_known_counts():
    stage = Deduplicate(Dedup(nodes="source"), Outcomes(), 7)
    assert len(stage.process(seen_by([0, 0], ["node"] * 2, ["node"] * 2, [False, True]), 0)) == 1
    assert len(stage.process(flows([1, 2]), 0)) == 2


def test_what_is_forgotten_is_a_metric_where_points_are_told_apart():
    assert [family.name for family in at_points().families()] == ["flowagent_dedup_evictions"]
    assert list(Deduplicate(Dedup(), Outcomes(), 7).families()) == []


@pytest.mark.parametrize(
    ("settings", "path", "says"),
    [
        ({"points": ["exporterr"]}, "dedup.points[0]", "did you mean exporter?"),
        ({"points": ["bytes"]}, "dedup.points[0]", "not a key column"),
        ({"idle": 0}, "dedup.idle", "is 0"),
        ({"nodes": "source"}, "dedup.nodes", "add {type: kubernetes"),
        ({"nodes": "neither"}, "dedup.nodes", "neither"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(settings, path, says):
    with pytest.raises(ConfigError, match=says) as caught:
        config.parse({"dedup": settings})
    assert caught.value.path == path
