"""The demo's traffic and story: the same from the same seed, and each event seen in the rows and nowhere else."""

import ipaddress

import numpy as np
import pytest

from flowagent.clock import SECOND
from flowagent.generate.cluster import load
from flowagent.generate.scenario import Scenario

PLAN = load()
STEP = 0.5
AT = {event.kind: event.at for event in PLAN.story}


def addresses(rows, side):
    return rows[side][:, 12:].copy().view(">u4").reshape(-1).tolist()


def steps(first, last, seed=1, rate=2000):
    """A new scenario, and the rows of all exporters for each step between these seconds; earlier ones are skipped."""
    scenario = Scenario(PLAN, seed, rate, 0)
    numbers = range(int(first / STEP), int(last / STEP))
    return scenario, [scenario.step(n * STEP, STEP, round(n * STEP * SECOND)) for n in numbers]


def total(exports, column, exporter=slice(None)):
    return sum(int(rows[column].sum()) for export in exports for rows in export[exporter])


def test_a_seed_gives_the_same_rows():
    (_, one), (_, same), (_, other) = (steps(0, 3, seed) for seed in (1, 1, 2))
    for export, again in zip(one, same, strict=True):
        for rows, more in zip(export, again, strict=True):
            assert all(np.array_equal(rows[name], more[name]) for name in rows)
    assert total(one, "bytes") != total(other, "bytes")


@pytest.mark.parametrize("rate", [200, 4000])
def test_the_rate_is_about_what_was_asked_for(rate):
    scenario = Scenario(PLAN, 1, rate, 0)
    rows = [len(scenario._talk(n * STEP, STEP)["packets"]) for n in range(int(300 / STEP))]
    # A spike is more, a silence less; over two turns of the waves little remains of them.
    assert sum(rows) / 300 == pytest.approx(rate, rel=0.15)


def test_rates_go_up_and_down():
    scenario = Scenario(PLAN, 1, 4000, 0)
    rows = [len(scenario._talk(float(at), 1.0)["packets"]) for at in range(30, 150)]
    assert max(rows[:10]) > 1.5 * min(rows[75:])


def test_rows_are_what_a_switch_could_have_seen():
    _, exports = steps(0, 5)
    for rows in exports[3]:
        assert (rows["packets"] >= 1).all()
        assert (rows["bytes"] >= 40 * rows["packets"]).all()
        assert (rows["bytes"] <= 1500 * rows["packets"]).all()
        assert (rows["start_ago"] >= rows["end_ago"]).all()


def test_nodes_tell_of_their_pods_and_the_router_of_what_goes_in_and_out():
    _, exports = steps(0, 5)
    networks = [ipaddress.ip_network(node.pods) for node in PLAN.nodes]
    services = ipaddress.ip_network(PLAN.services)
    for *nodes, edge in exports:
        for network, rows in zip(networks, nodes, strict=True):
            found = [ipaddress.ip_address(one) for one in addresses(rows, "src")]
            assert all(one in network or one in services for one in found)
        ends = zip(addresses(edge, "src"), addresses(edge, "dst"), strict=True)
        assert all((one >> 24 == 10) != (other >> 24 == 10) for one, other in ends)


def test_the_router_samples_one_packet_in_a_hundred():
    scenario = Scenario(PLAN, 1, 20_000, 0)
    true = sampled = 0
    for n in range(40):
        state = scenario._rng.bit_generator.state
        flows = scenario._talk(n * STEP, STEP)
        outside = scenario.cluster.node[flows["slot"]].max(0) == len(PLAN.nodes)
        true += int(flows["packets"][outside].sum())
        scenario._rng.bit_generator.state = state
        sampled += int(scenario.step(n * STEP, STEP, 0)[-1]["packets"].sum())
    # A binomial: within five standard errors of 1 in 100.
    assert abs(sampled - true / 100) < 5 * (true / 100) ** 0.5


def test_a_deploy_replaces_pods_one_after_the_other():
    scenario = Scenario(PLAN, 1, 2000, 0)
    slots = scenario.cluster.slots("shop/checkout")
    before = scenario.cluster.address[slots].copy()
    changed = []
    for n in range(int(AT["deploy"] / STEP), int((AT["deploy"] + 26) / STEP)):
        scenario.step(n * STEP, STEP, round(n * STEP * SECOND))
        changed.append(int((scenario.cluster.address[slots] != before).sum()))
    assert sorted(set(changed)) == [0, 1, 2, 3]
    assert changed == sorted(changed)
    names = {m.address: m for m in scenario.cluster.members if m.kind == "Pod"}
    assert all(names[one].owner == "checkout" for one in scenario.cluster.address[slots].tolist())
    assert [names[one].until_ns < 70 * SECOND for one in before.tolist()] == [True] * 3


def test_a_new_pod_has_a_name_before_it_has_traffic():
    scenario, exports = steps(AT["deploy"], AT["deploy"] + 2)
    new = [m.address for m in scenario.cluster.members if m.owner == "checkout" and m.kind == "Pod" and m.since_ns]
    assert len(new) == 3
    assert not any(set(new) & set(addresses(rows, "src")) for export in exports for rows in export)


def test_each_round_deploys_another_workload():
    scenario = Scenario(PLAN, 1, 100, 0)
    deploy = PLAN.story[0]
    rounds = [scenario.subject(deploy, deploy.at + n * PLAN.seconds) for n in range(4)]
    assert rounds == [*deploy.of, deploy.of[0]]


def test_a_spike_is_in_what_customers_ask():
    def asked(first):
        scenario, exports = steps(first, first + 10)
        customers = set(scenario.cluster.address[scenario.cluster.slots("customers-us")].tolist())
        return sum(one in customers for *_, edge in exports for one in addresses(edge, "src"))

    assert asked(AT["spike"]) > 2.5 * asked(AT["spike"] - 11)


def test_a_scan_is_one_pod_and_thousands_of_ports():
    scenario, exports = steps(AT["scan"], AT["scan"] + 5)
    scanner = int(scenario.cluster.address[scenario.cluster.slots("analytics/reports")[0]])
    ports = {
        port
        for export in exports
        for rows in export
        for source, port in zip(addresses(rows, "src"), rows["dst_port"].tolist(), strict=True)
        if source == scanner
    }
    assert len(ports) > 1000
    _, before = steps(AT["scan"] - 5, AT["scan"])
    assert sum(int((rows["tcp_flags"] == 2).sum()) for export in before for rows in export) == 0


def test_who_is_silent_says_nothing_and_is_asked_still():
    scenario, exports = steps(AT["silence"], AT["silence"] + 10)
    silent = set(scenario.cluster.address[scenario.cluster.slots("payments/payments")].tolist())
    said = [one for export in exports for rows in export for one in addresses(rows, "src") if one in silent]
    asked = [one for export in exports for rows in export for one in addresses(rows, "dst") if one in silent]
    assert not said
    assert asked


def test_drops_are_reported_by_one_node_and_then_only():
    _, before = steps(AT["drops"] - 5, AT["drops"])
    _, exports = steps(AT["drops"], AT["drops"] + 5)
    assert total(before, "dropped_packets") == 0
    assert [total(exports, "dropped_packets", slice(i, i + 1)) > 0 for i in range(4)] == [False, False, True, False]
    share = total(exports, "dropped_packets") / total(exports, "packets", slice(2, 3))
    assert share == pytest.approx(0.08, abs=0.01)
