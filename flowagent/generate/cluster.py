"""The cluster that `flowagent demo` plays, read from cluster.toml: nodes, pods, services, and who is outside.

Whoever can be at an end of a flow has a slot. Slots of one party (a workload, a service, a group outside) lie side
by side, so that a party is a range, and a pod that is replaced gives its slot to its successor.
"""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from flowagent.batch import Array

FOREVER = (1 << 63) - 1
_ALPHABET = np.array(list("bcdfghjklmnpqrstvwxz2456789"))
"""What Kubernetes makes the ends of names from."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Edge(_Strict, frozen=True):
    """The router between the cluster and the outside."""

    name: str
    exporter: str
    """Its address on the loopback."""
    protocol: str
    sampling_rate: int


class Node(_Strict, frozen=True):
    """A node, which exports what its pods send to one another."""

    name: str
    zone: str
    address: str
    pods: str
    """The network that its pods have addresses of."""
    exporter: str
    protocol: str
    sampling_rate: int = 1


class Outside(_Strict, frozen=True):
    """Hosts outside of the cluster."""

    networks: tuple[str, ...]
    number_of_as: int = msgspec.field(name="as")


class Wave(_Strict, frozen=True):
    """How a rate goes up and down: 1 + depth * sin(2 pi (t / seconds + phase))."""

    seconds: float
    depth: float
    phase: float


class Talk(msgspec.Struct, frozen=True, array_like=True):
    """Who asks whom for what."""

    source: str
    destination: str
    port: int
    rate: float
    """Flows a second, of all members of the source together."""
    asked: float
    answered: float
    """Bytes of a flow there and back, on average."""
    wave: str


class _Traffic(_Strict, frozen=True):
    edges: tuple[Talk, ...]


class Event(_Strict, frozen=True, rename={"partners": "with"}):
    """Something that happens in the story."""

    at: float
    seconds: float
    kind: str
    of: tuple[str, ...]
    says: str
    factor: float = 1
    partners: tuple[str, ...] = ()


class Plan(_Strict, frozen=True, rename={"talks": "traffic"}):
    """The whole file."""

    seconds: float
    services: str
    """The network that services have addresses of."""
    ports: dict[str, int]
    """Of TCP, by what is behind them, as far as the enricher `services` does not know it by itself."""
    edge: Edge
    nodes: tuple[Node, ...]
    namespaces: dict[str, dict[str, int]]
    kinds: dict[str, tuple[str, ...]]
    outside: dict[str, Outside]
    waves: dict[str, Wave]
    talks: _Traffic
    story: tuple[Event, ...]

    def kind_of(self, workload: str) -> str:
        """Deployment, StatefulSet or DaemonSet."""
        return next((kind for kind, names in self.kinds.items() if workload in names), "Deployment")


def load() -> Plan:
    """Read the file that comes with the package."""
    raw = tomllib.loads(Path(__file__).with_name("cluster.toml").read_text("utf-8"))
    return msgspec.convert(raw, Plan)


class Member(NamedTuple):
    """Who held an address from when until when."""

    address: int
    kind: str
    """Pod, Service or Node."""
    namespace: str
    name: str
    owner_kind: str
    owner: str
    node: Node | None
    """Where it runs; None for services."""
    since_ns: int
    until_ns: int = FOREVER


class Cluster:
    """Who is there now; everything follows from the plan and the generator."""

    def __init__(self, plan: Plan, rng: np.random.Generator, now_ns: int) -> None:
        self.plan = plan
        self._rng = rng
        self._hosts = dict.fromkeys(plan.nodes, 1)
        self._templates: dict[str, str] = {}
        """Of Deployments: the part of names that pods of one rollout share."""
        addresses: list[int] = []
        nodes: list[int] = []
        numbers_of_as: list[int] = []
        self.members: list[Member] = [
            Member(_number(node.address), "Node", "", node.name, "Node", node.name, node, now_ns) for node in plan.nodes
        ]
        """Everybody who has a name, past ones too."""
        self.holder: dict[int, Member] = {}
        """Pods by their slots."""
        self.parties: dict[str, slice] = {}
        """Slots by `namespace/workload`, `service:namespace/workload` and the names of groups outside."""

        def party(name: str, hosts: list[tuple[int, int]], number_of_as: int = 0) -> None:
            self.parties[name] = slice(len(addresses), len(addresses) + len(hosts))
            for address, node in hosts:
                addresses.append(address)
                nodes.append(node)
                numbers_of_as.append(number_of_as)

        for namespace, workloads in plan.namespaces.items():
            for workload, count in workloads.items():
                first = len(addresses)
                pods = [self._pod(namespace, workload, i, (first + i) % len(plan.nodes), now_ns) for i in range(count)]
                self.holder |= {first + i: pod for i, pod in enumerate(pods)}
                party(
                    f"{namespace}/{workload}", [(p.address, (first + i) % len(plan.nodes)) for i, p in enumerate(pods)]
                )
        self.pods = len(addresses)
        """Slots below this number are pods."""
        for i, name in enumerate(list(self.parties)):
            namespace, _, workload = name.partition("/")
            address = _number(plan.services.partition("/")[0]) + 256 + 7 * i
            self.members.append(Member(address, "Service", namespace, workload, "Service", workload, None, now_ns))
            party(f"service:{name}", [(address, i % len(plan.nodes))])
        for name, group in plan.outside.items():
            hosts = [(int(host), len(plan.nodes)) for net in group.networks for host in ipaddress.ip_network(net)]
            party(name, hosts, group.number_of_as)
        self.address: Array = np.array(addresses, np.uint32)
        """(s,) uint32: the IPv4 address in each slot."""
        self.node: Array = np.array(nodes)
        """(s,) int64: index of the node that it is on; the number of nodes for those outside."""
        self.number_of_as: Array = np.array(numbers_of_as)
        """(s,) int64; 0 in the cluster."""

    def _pod(self, namespace: str, workload: str, number: int, node: int, now_ns: int) -> Member:
        """A new pod with the next free address of its node."""
        where = self.plan.nodes[node]
        network = ipaddress.ip_network(where.pods)
        self._hosts[where] = self._hosts[where] % (network.num_addresses - 3) + 1
        kind = self.plan.kind_of(workload)
        name = f"{workload}-{number}" if kind == "StatefulSet" else f"{workload}-{self._text(5)}"
        if kind == "Deployment":
            template = self._templates.setdefault(f"{namespace}/{workload}", self._text(9))
            name = f"{workload}-{template}-{self._text(5)}"
        address = int(network.network_address) + 1 + self._hosts[where]
        pod = Member(address, "Pod", namespace, name, kind, workload, where, now_ns)
        self.members.append(pod)
        return pod

    def _text(self, length: int) -> str:
        return "".join(self._rng.choice(_ALPHABET, length).tolist())

    def roll_out(self, workload: str) -> None:
        """New pods of a Deployment are of another rollout from now on."""
        self._templates[workload] = self._text(9)

    def successor(self, slot: int, now_ns: int) -> Member:
        """A pod that will take over a slot; it has a name at once, and traffic from `replace` on."""
        old = self.holder[slot]
        return self._pod(old.namespace, old.owner, 0, int(self.node[slot]), now_ns)

    def replace(self, slot: int, new: Member, now_ns: int) -> None:
        """From now on the traffic of a slot is that of its new pod; the old one is gone."""
        old = self.holder[slot]
        self.members[self.members.index(old)] = old._replace(until_ns=now_ns)
        self.holder[slot] = new
        self.address[slot] = new.address

    def forget(self, before_ns: int) -> None:
        """Pods that were gone by then are not told of any more."""
        self.members = [member for member in self.members if member.until_ns > before_ns]

    def slots(self, party: str) -> Array:
        """(k,) int64: the slots of a party, of all workloads of a namespace, or of `*`, all pods."""
        if party == "*":
            return np.arange(self.pods)
        if party in self.parties:
            return np.arange(self.parties[party].start, self.parties[party].stop)
        return np.concatenate([self.slots(name) for name in self.parties if name.startswith(f"{party}/")])


def _number(address: str) -> int:
    return int(ipaddress.ip_address(address))
