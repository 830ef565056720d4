"""What is read of objects, and what is left of odd ones."""

import json

import pytest
from kube_api import node, pod, service

from flowagent.addresses import address_text
from flowagent.clock import SECOND
from flowagent.enrich.kube_objects import (
    GUESS_RANK,
    NODE_RANK,
    NODES,
    POD_RANK,
    PODS,
    SECONDARY_RANK,
    SERVICES,
    Owner,
    event,
    status,
)

START_NS = 1_714_557_600 * SECOND


def read(resource, thing):
    return resource.item(json.dumps(thing).encode())


def texts(thing, rank=None):
    return [address_text(one.high, one.low) for one in thing.addresses if rank in (None, one.rank)]


def test_a_pod():
    found = read(PODS, pod("web-1", "10.0.0.5,fd00::5", uid="u", owner=("StatefulSet", "web", "s")))
    assert (found.kind, found.uid, found.namespace, found.name) == ("Pod", "u", "shop", "web-1")
    assert found.owner == Owner("StatefulSet", "web", "s")
    assert (found.host_name, found.host_ip, found.since_ns, found.is_over) == ("node-a", "192.0.2.1", START_NS, False)
    assert texts(found, POD_RANK) == ["10.0.0.5", "fd00::5"]


@pytest.mark.parametrize("changes", [{"host_network": True}, {"host": "10.0.0.5"}])
def test_a_pod_on_its_nodes_network_has_no_address_of_its_own(changes):
    assert read(PODS, pod("p", "10.0.0.5", **changes)).addresses == ()


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_ended(phase):
    found = read(PODS, pod("p", "10.0.0.5", phase=phase, finished="2024-05-01T10:00:07.5Z"))
    assert (found.is_over, found.until_ns) == (True, START_NS + 7 * SECOND + SECOND // 2)
    assert read(PODS, pod("p", "10.0.0.5", phase=phase)).until_ns == 0


def test_the_owner_that_controls_comes_before_the_first():
    thing = pod("p")
    thing["metadata"]["ownerReferences"] = [
        {"kind": "Node", "name": "n", "uid": "1"}, {"kind": "Job", "name": "j", "uid": "2", "controller": True}
    ]  # fmt: skip
    assert read(PODS, thing).owner == Owner("Job", "j", "2")
    del thing["metadata"]["ownerReferences"][1]["controller"]
    assert read(PODS, thing).owner == Owner("Node", "n", "1")


def test_secondary_networks():
    networks = [
        {"name": "cbr0", "ips": ["10.0.0.5"], "default": True},
        {"name": "shop/fast", "interface": "net1", "ips": ["10.50.0.5", "10.0.0.5"], "mac": "02:00:00:00:00:01"},
        {"name": "shop/none"},
    ]
    found = read(PODS, pod("p", "10.0.0.5", networks=networks))
    assert texts(found, POD_RANK) == ["10.0.0.5"]
    assert texts(found, SECONDARY_RANK) == ["10.50.0.5"]
    assert found.addresses[1].network == "shop/fast"


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "\x00", '[{"ips": ["no"]}]', '[{"name": 5}]'])
def test_an_annotation_that_makes_no_sense_costs_only_itself(text):
    thing = pod("p", "10.0.0.5")
    thing["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"] = text
    assert texts(read(PODS, thing)) == ["10.0.0.5"]


def test_a_service():
    found = read(SERVICES, service("s", "172.30.0.1", "fd00::1", external=["203.0.113.1"], balancer=["203.0.113.2"]))
    assert (found.kind, found.since_ns, found.owner) == ("Service", START_NS, None)
    assert texts(found) == ["172.30.0.1", "fd00::1", "203.0.113.1", "203.0.113.2"]
    assert read(SERVICES, service("headless")).addresses == ()


def test_a_service_of_an_old_server_and_a_balancer_by_name():
    thing = service("s", "172.30.0.1")
    del thing["spec"]["clusterIPs"]
    thing["status"]["loadBalancer"]["ingress"] = [{"hostname": "lb.example"}]
    assert texts(read(SERVICES, thing)) == ["172.30.0.1"]


def test_a_node():
    annotations = {"network.cilium.io/ipv4-cilium-host": "10.2.0.77",
                   "projectcalico.org/IPv4IPIPTunnelAddr": "10.2.9.1",
                   "k8s.ovn.org/node-subnets": '{"default":["10.3.0.0/23"]}'}  # fmt: skip
    thing = node("a", "192.0.2.1", zone="z", external="198.51.100.1", subnets=["10.2.0.0/24", "fd00:2::/64"],
                 annotations=annotations)  # fmt: skip
    found = read(NODES, thing)
    assert (found.kind, found.namespace, found.host_name, found.host_ip, found.zone) == (
        "Node", "", "a", "192.0.2.1", "z")  # fmt: skip
    assert texts(found, NODE_RANK) == ["192.0.2.1", "198.51.100.1", "10.2.0.77", "10.2.9.1"]
    assert texts(found, GUESS_RANK) == ["10.2.0.1", "fd00:2::1", "10.3.0.1", "10.3.0.2"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"null", b'{"metadata": {"name": "p"}}', b'{"metadata": {"uid": 5}}', b'{"metadata": {"uid": "u"}',
        b'{"metadata": {"uid": "u", "creationTimestamp": "yesterday"}}', b'{"metadata": {"uid": "\xff"}}',
        b'{"metadata": {"uid": "u"}, "status": {"podIPs": [1]}}', b"[" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_pod(data):
    assert PODS.item(data) is None


def test_a_bad_object_costs_only_itself():
    page = PODS.page(json.dumps({"metadata": {"resourceVersion": "7", "continue": "c"},
                                 "items": [pod("a"), {"metadata": 5}, pod("b")]}).encode())  # fmt: skip
    assert (page.version, page.next, [one.name for one in page.items], page.bad) == ("7", "c", ["a", "b"], 1)
    assert PODS.page(b'{"metadata": {"resourceVersion": "7"}, "items": null}').items == []
    with pytest.raises(ValueError):
        PODS.page(b'{"items": [')


def test_events_and_errors():
    found = event(json.dumps({"type": "ADDED", "object": {"metadata": {"resourceVersion": "9"}}}).encode())
    assert (found.type, found.version) == ("ADDED", "9")
    error = event(b'{"type": "ERROR", "object": {"code": 410, "message": "too old"}}')
    assert (error.type, error.version, status(error.object)) == ("ERROR", "", (410, "too old"))
    assert status(b"<html>") == (0, "")
    with pytest.raises(ValueError):
        event(b'{"type": "ADDED"}')
