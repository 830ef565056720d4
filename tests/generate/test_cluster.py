"""The demo's cluster: its file is whole, and pods give their slots to their successors."""

import ipaddress

import numpy as np

from flowagent.generate.cluster import FOREVER, Cluster, load

PLAN = load()


def made(seed=1):
    return Cluster(PLAN, np.random.default_rng(seed), 1000)


def test_it_is_a_small_cluster_in_two_zones():
    cluster = made()
    kinds = [member.kind for member in cluster.members]
    assert (len(PLAN.nodes), len({node.zone for node in PLAN.nodes}), len(PLAN.namespaces)) == (3, 2, 9)
    assert (kinds.count("Pod"), kinds.count("Service")) == (63, 26)
    assert cluster.pods == 63


def test_everybody_that_is_named_in_the_file_is_in_it():
    cluster = made()
    nodes = {node.name for node in PLAN.nodes}
    for talk in PLAN.talks.edges:
        assert len(cluster.slots(talk.source))
        assert len(cluster.slots(talk.destination))
        assert talk.wave in PLAN.waves
    for event in PLAN.story:
        assert event.at + event.seconds <= PLAN.seconds
        assert all(len(cluster.slots(name)) for name in event.partners)
        assert all(name in cluster.parties or name in nodes for name in event.of)


def test_exactly_one_exporter_samples():
    rates = [exporter.sampling_rate for exporter in (*PLAN.nodes, PLAN.edge)]
    assert sorted(rates) == [1, 1, 1, 100]


def test_addresses_are_of_one_each_and_pods_in_the_network_of_their_node():
    cluster = made()
    assert len(set(cluster.address.tolist())) == len(cluster.address)
    for slot in range(cluster.pods):
        node = PLAN.nodes[cluster.node[slot]]
        address = ipaddress.ip_address(int(cluster.address[slot]))
        assert address in ipaddress.ip_network(node.pods)
        assert cluster.holder[slot].node == node
    assert (cluster.node[[*cluster.slots("customers-eu")]] == 3).all()


def test_a_seed_gives_the_same_names():
    assert made().members == made().members
    assert made().members != made(2).members


def test_a_replaced_pod_is_over_and_its_slot_is_its_successors():
    cluster = made()
    slot = int(cluster.slots("shop/checkout")[0])
    old = cluster.holder[slot]
    new = cluster.successor(slot, 2000)
    assert cluster.address[slot] == old.address
    cluster.replace(slot, new, 3000)
    assert cluster.address[slot] == new.address != old.address
    assert (new.owner, new.since_ns, new.until_ns) == ("checkout", 2000, FOREVER)
    assert new.name != old.name
    assert old._replace(until_ns=3000) in cluster.members
    cluster.forget(3000)
    assert not any(member.name == old.name for member in cluster.members)


def test_pods_of_a_rollout_share_a_part_of_their_name():
    cluster = made()
    slots = cluster.slots("shop/checkout").tolist()
    before = {cluster.holder[slot].name.rsplit("-", 1)[0] for slot in slots}
    cluster.roll_out("shop/checkout")
    after = {cluster.successor(slot, 0).name.rsplit("-", 1)[0] for slot in slots}
    assert len(before) == len(after) == 1
    assert before != after


def test_addresses_of_a_node_come_round_before_they_leave_its_network():
    cluster = made()
    network = ipaddress.ip_network(PLAN.nodes[0].pods)
    slot = int(np.flatnonzero(cluster.node[: cluster.pods] == 0)[0])
    seen = {cluster.successor(slot, 0).address for _ in range(600)}
    assert len(seen) == network.num_addresses - 3
    assert all(ipaddress.ip_address(one) in network for one in seen)
    assert int(network.broadcast_address) not in seen
