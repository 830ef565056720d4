"""What the agent reads of Kubernetes objects, and the little that it keeps of them.

The types name only what is used, so that decoding makes nothing of the rest: this bounds memory.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct, field

from flowagent.addresses import address_words

PRIMARY = "primary"
"""The network name of addresses in the cluster's own network, as NetObserv has it."""
SECONDARY_RANK, GUESS_RANK, SERVICE_RANK, NODE_RANK, POD_RANK = range(5)
"""Who counts where an address has several holders at a time: the highest."""
_FREED = ("Succeeded", "Failed")


class Owner(NamedTuple):
    """Who made an object."""

    kind: str
    name: str
    uid: str


class Address(NamedTuple):
    """One address of an object: both words, its network, and its rank among the holders of that address."""

    high: int
    low: int
    network: str
    rank: int


class Thing(Struct, frozen=True):
    """A pod, service or node as the agent keeps it."""

    kind: str
    uid: str
    namespace: str
    name: str
    owner: Owner | None = None
    """Its direct owner; None where it has none."""
    host_name: str = ""
    host_ip: str = ""
    zone: str = ""
    since_ns: int = 0
    """When it began; 0 where that is not said."""
    is_over: bool = False
    """Whether it holds its addresses no longer, though it is there."""
    until_ns: int = 0
    """When it was over; 0 where that is not said."""
    addresses: tuple[Address, ...] = ()


class _OwnerReference(Struct):
    kind: str
    name: str
    uid: str = ""
    controller: bool | None = None


class _Labels(Struct):
    zone: str = field(name="topology.kubernetes.io/zone", default="")
    old_zone: str = field(name="failure-domain.beta.kubernetes.io/zone", default="")


class _Annotations(Struct):
    networks: str = field(name="k8s.v1.cni.cncf.io/network-status", default="")
    old_networks: str = field(name="k8s.v1.cni.cncf.io/networks-status", default="")
    ovn: str = field(name="k8s.ovn.org/node-subnets", default="")
    cilium4: str = field(name="network.cilium.io/ipv4-cilium-host", default="")
    cilium6: str = field(name="network.cilium.io/ipv6-cilium-host", default="")
    calico_ipip: str = field(name="projectcalico.org/IPv4IPIPTunnelAddr", default="")
    calico_vxlan4: str = field(name="projectcalico.org/IPv4VXLANTunnelAddr", default="")
    calico_vxlan6: str = field(name="projectcalico.org/IPv6VXLANTunnelAddr", default="")

    @property
    def node_addresses(self) -> tuple[str, ...]:
        """Addresses that a network plugin says the node has."""
        return self.cilium4, self.cilium6, self.calico_ipip, self.calico_vxlan4, self.calico_vxlan6


class Meta(Struct):
    """What the metadata of every object says."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    version: str = field(name="resourceVersion", default="")
    created: datetime | None = field(name="creationTimestamp", default=None)
    labels: _Labels | None = None
    annotations: _Annotations | None = None
    owners: list[_OwnerReference] | None = field(name="ownerReferences", default=None)


class Partial(Struct):
    """An object of which only the metadata is looked at, whatever its kind."""

    metadata: Meta


class _PodIp(Struct):
    ip: str = ""


class _Terminated(Struct):
    finished: datetime | None = field(name="finishedAt", default=None)


class _State(Struct):
    terminated: _Terminated | None = None


class _Container(Struct):
    state: _State | None = None


class _PodSpec(Struct, frozen=True, rename="camel"):
    node_name: str = ""
    host_network: bool = False


class _PodStatus(Struct, frozen=True):
    phase: str = ""
    host: str = field(name="hostIP", default="")
    ip: str = field(name="podIP", default="")
    ips: list[_PodIp] | None = field(name="podIPs", default=None)
    start: datetime | None = field(name="startTime", default=None)
    containers: list[_Container] | None = field(name="containerStatuses", default=None)


class _Pod(Struct):
    metadata: Meta
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _ServiceSpec(Struct, frozen=True):
    ip: str = field(name="clusterIP", default="")
    ips: list[str] | None = field(name="clusterIPs", default=None)
    external: list[str] | None = field(name="externalIPs", default=None)


class _Balancer(Struct):
    ingress: list[_PodIp] | None = None


class _ServiceStatus(Struct, frozen=True):
    balancer: _Balancer | None = field(name="loadBalancer", default=None)


class _Service(Struct):
    metadata: Meta
    spec: _ServiceSpec = _ServiceSpec()
    status: _ServiceStatus = _ServiceStatus()


class _NodeAddress(Struct):
    type: str = ""
    address: str = ""


class _NodeSpec(Struct, frozen=True):
    subnets: list[str] | None = field(name="podCIDRs", default=None)


class _NodeStatus(Struct, frozen=True):
    addresses: list[_NodeAddress] | None = None


class _Node(Struct):
    metadata: Meta
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _Network(Struct):
    name: str = ""
    ips: list[str] | None = None
    default: bool = False


def owner_of(meta: Meta) -> Owner | None:
    """The owner that controls an object, else the first one."""
    owners = meta.owners or ()
    chosen = next((owner for owner in owners if owner.controller), owners[0] if owners else None)
    return None if chosen is None else Owner(chosen.kind, chosen.name, chosen.uid)


def _pod(pod: _Pod) -> Thing:
    meta, status = pod.metadata, pod.status
    texts = [one.ip for one in status.ips or ()] or [status.ip]
    # A pod on its node's network has its node's address, so that address is the node's.
    own = () if pod.spec.host_network else [text for text in texts if text != status.host]
    is_over = status.phase in _FREED
    return Thing(
        "Pod", meta.uid, meta.namespace, meta.name, owner_of(meta),
        pod.spec.node_name, status.host,
        since_ns=_ns(status.start), is_over=is_over, until_ns=_finished_ns(status) if is_over else 0,
        addresses=_distinct([*_parsed(own, PRIMARY, POD_RANK), *_secondary(meta, texts)]),
    )  # fmt: skip


def _finished_ns(status: _PodStatus) -> int:
    """When the last container ended; 0 where a container does not say so."""
    ends = [one.state.terminated if one.state else None for one in status.containers or ()]
    times = [_ns(end.finished) if end else 0 for end in ends]
    return max(times, default=0) if all(times) else 0


def _secondary(meta: Meta, primary: list[str]) -> Iterator[Address]:
    """The addresses that the CNI's network status tells of, beside the primary ones."""
    annotations = meta.annotations or _Annotations()
    networks = _decoded(annotations.networks or annotations.old_networks, list[_Network])
    for network in networks or ():
        if not network.default:
            others = [text for text in network.ips or () if text not in primary]
            yield from _parsed(others, network.name, SECONDARY_RANK)


def _service(service: _Service) -> Thing:
    meta, spec = service.metadata, service.spec
    balancer = service.status.balancer or _Balancer()
    texts = [*(spec.ips or [spec.ip]), *(spec.external or ()), *(one.ip for one in balancer.ingress or ())]
    addresses = _distinct(_parsed(texts, PRIMARY, SERVICE_RANK))
    return Thing("Service", meta.uid, meta.namespace, meta.name, since_ns=_ns(meta.created),
                 addresses=addresses)  # fmt: skip


def _node(node: _Node) -> Thing:
    meta = node.metadata
    labels, annotations = meta.labels or _Labels(), meta.annotations or _Annotations()
    known = node.status.addresses or ()
    internal = [one.address for one in known if one.type == "InternalIP"]
    texts = [*internal, *(one.address for one in known if one.type == "ExternalIP")]
    addresses = [
        *_parsed((*texts, *annotations.node_addresses), PRIMARY, NODE_RANK),
        *_gateways(node.spec.subnets or (), annotations.ovn),
    ]
    return Thing(
        "Node", meta.uid, "", meta.name, host_name=meta.name, host_ip=(texts or [""])[0],
        zone=labels.zone or labels.old_zone, since_ns=_ns(meta.created), addresses=_distinct(addresses),
    )  # fmt: skip


def _gateways(subnets: Iterable[str], ovn: str) -> Iterator[Address]:
    """The node's own addresses in its subnets of pods: by custom the first, and with OVN-Kubernetes the second."""
    named = _decoded(ovn, dict[str, list[str] | str]) or {}
    ovn_subnets = named.get("default", [])
    of_ovn = [ovn_subnets] if isinstance(ovn_subnets, str) else ovn_subnets
    for subnet, offsets in [*((one, (1,)) for one in subnets), *((one, (1, 2)) for one in of_ovn)]:
        try:
            first = ipaddress.ip_network(subnet, strict=False).network_address
            texts = [str(first + offset) for offset in offsets]
        except ValueError:
            continue
        yield from _parsed(texts, PRIMARY, GUESS_RANK)


_T = TypeVar("_T")


def _decoded(text: str, kind: type[_T]) -> _T | None:
    """An annotation's JSON; None where there is none or it says something else."""
    try:
        return msgspec.json.decode(text, type=kind) if text else None
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _parsed(texts: Iterable[str], network: str, rank: int) -> Iterator[Address]:
    for text in texts:
        try:
            high, low = address_words(text.partition("/")[0])
        except ValueError:
            continue  # "None" for no address, or a name
        yield Address(high, low, network, rank)


def _distinct(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Each address once, in its first role."""
    found: dict[tuple[int, int], Address] = {}
    for one in addresses:
        found.setdefault((one.high, one.low), one)
    return tuple(found.values())


def _ns(time: datetime | None) -> int:
    return max(0, round(time.timestamp() * 1_000_000) * 1000) if time is not None else 0


class _ListMeta(Struct, frozen=True):
    version: str = field(name="resourceVersion", default="")
    next: str = field(name="continue", default="")


class _List(Struct):
    metadata: _ListMeta = _ListMeta()
    items: list[msgspec.Raw] | None = None


class _Event(Struct):
    type: str
    object: msgspec.Raw


class _Status(Struct):
    code: int = 0
    message: str = ""


_Read = TypeVar("_Read")


class Page(NamedTuple, Generic[_Read]):
    """A part of a list."""

    version: str
    next: str
    """Continues the list; empty at its end."""
    items: list[_Read]
    bad: int
    """Objects that are not as they should be."""


class Resource(Generic[_Read]):
    """A kind of objects: where they are listed, and what is read of them."""

    def __init__(self, name: str, path: str, type_: type[Any], read: Callable[[Any], _Read]) -> None:
        self.name, self.path = name, path
        self._decode = msgspec.json.Decoder(type_).decode
        self._read = read

    def item(self, data: bytes | msgspec.Raw) -> _Read | None:
        """One object; None where it is not as it should be."""
        try:
            found = self._decode(data)
            return self._read(found) if found.metadata.uid else None
        except (msgspec.MsgspecError, UnicodeError, OverflowError):
            return None

    def page(self, data: bytes) -> Page[_Read]:
        """A page of a list; raises ValueError."""
        whole = _decode_list(data)
        items = [self.item(raw) for raw in whole.items or ()]
        good = [item for item in items if item is not None]
        return Page(whole.metadata.version, whole.metadata.next, good, len(items) - len(good))


class Event(NamedTuple):
    """A line of a watch."""

    type: str
    version: str
    object: msgspec.Raw


_decode_list = msgspec.json.Decoder(_List).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_partial = msgspec.json.Decoder(Partial).decode
_decode_status = msgspec.json.Decoder(_Status).decode


def event(line: bytes) -> Event:
    """An event, not an ERROR's version; raises ValueError."""
    found = _decode_event(line)
    version = "" if found.type == "ERROR" else _decode_partial(found.object).metadata.version
    return Event(found.type, version, found.object)


def status(data: bytes | msgspec.Raw) -> tuple[int, str]:
    """Code and message of a Status, as errors are told; (0, "") where it is none."""
    try:
        found = _decode_status(data)
    except (msgspec.MsgspecError, UnicodeError):
        return 0, ""
    return found.code, found.message


PODS = Resource("pods", "/api/v1/pods", _Pod, _pod)
SERVICES = Resource("services", "/api/v1/services", _Service, _service)
NODES = Resource("nodes", "/api/v1/nodes", _Node, _node)
KINDS = {"pods": "Pod", "services": "Service", "nodes": "Node"}
"""The `Thing.kind` of each resource."""
