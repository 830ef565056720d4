"""The flows of NetObserv: its field names, types and units, and its labels in Loki.

Sources: the flow format that the NetObserv operator publishes
(docs/flows-format.adoc), and what its agent writes. Its readers multiply
nothing: totals are sums of `Bytes`, whatever `Sampling` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.export.origins import (
    ETHER_TYPE,
    ICMP,
    NOT_ZERO,
    PROBABILITY,
    RATE,
    SCTP,
    TCP,
    UDP,
    WEIGHT,
    Field,
    Origin,
    address,
    column,
    of_protocols,
    text,
    weighted,
)
from flowagent.export.text import words
from flowagent.export.value import Value, plain
from flowagent.grouping import group_rows, key_arrays

LOKI_LABELS = (
    "SrcK8S_Namespace", "SrcK8S_OwnerName", "SrcK8S_Type",
    "DstK8S_Namespace", "DstK8S_OwnerName", "DstK8S_Type",
    "K8S_FlowLayer", "FlowDirection",
)  # fmt: skip
"""Fields that NetObserv's console looks for among the labels of a Loki stream, and not in its lines."""
OPTIONAL_LOKI_LABELS = {
    "multi-cluster": ("K8S_ClusterName",),
    "zones": ("SrcK8S_Zone", "DstK8S_Zone"),
    "UDN": ("UdnId",),
}
"""Those that it looks for when a feature is on."""
STATIC_LOKI_LABELS = {"app": "netobserv-flowcollector"}
TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "SYN_ACK", "FIN_ACK", "RST_ACK")
"""By bit. NetObserv's agent adds the last three, where one packet had both flags; IPFIX cannot tell."""

_MS, _S = 1_000_000, 1_000_000_000
_INTERFACES = {"in_if": ("in_if_name", "interfaceName"), "out_if": ("out_if_name", "interfaceName_2")}
"""Interface indexes, and the columns and elements that may hold their names."""
_INTERFACE_COLUMNS = tuple(name for index, names in _INTERFACES.items() for name in (index, *names))
_HAS_PORTS, _IS_ICMP, _IS_TCP = of_protocols(TCP, UDP, SCTP), of_protocols(*ICMP), of_protocols(TCP)


def _flag_names(flags: int) -> list[str]:
    return [name for bit, name in enumerate(TCP_FLAGS) if flags >> bit & 1]


_FLAGS = column("tcp_flags").map(lambda flags: flags & np.uint16(0x7FF)).when(NOT_ZERO).when(_IS_TCP)


_DIRECTION = column("node_direction").or_else(column("direction"))


class _Interfaces(NamedTuple):
    """Each distinct pair once."""

    codes: Array
    """Which one a row has, intp (n,)."""
    names: list[list[str]]
    """Where the flow came in and where it went out, of what is known."""
    ends: Array
    """Which of both is known: indexes of _DIRECTIONS."""


_DIRECTIONS: tuple[list[int], ...] = ([], [0], [1], [0, 1])


def _interfaces(batch: Batch) -> _Interfaces | None:
    used = [name for name in _INTERFACE_COLUMNS if name in batch]
    if not used:
        return None
    groups = group_rows([key for name in used for key in _keys(batch, name)])
    codes = np.empty(len(batch), np.intp)
    codes[groups.order] = np.arange(len(groups.starts)).repeat(groups.sizes())
    distinct = batch.take(groups.first)
    came, went = (_interface_names(distinct, index) for index in _INTERFACES)
    names = [list(filter(None, pair)) for pair in zip(came, went, strict=True)]
    return _Interfaces(codes, names, np.array(came, np.bool_) + 2 * np.array(went, np.bool_))


def _keys(batch: Batch, name: str) -> Iterable[Array]:
    if batch[name].dtype.kind != "S":
        return key_arrays(batch, [name])
    return (batch.is_known(name), *words(batch[name]))


def _interface_names(batch: Batch, index: str) -> list[str]:
    """Of each row the name, or else the index; empty where neither is known."""
    given = [text(name).read(batch) for name in _INTERFACES[index]]
    known = [plain(value) for value in (*given, column(index).when(NOT_ZERO).read(batch)) if value is not None]
    return [str(next(filter(None, row), "")) for row in zip(*known, strict=True)] or [""] * len(batch)


def _read_interfaces(batch: Batch) -> Value | None:
    found = batch.memo("export interfaces", lambda: _interfaces(batch))
    if found is None:
        return None
    return Value("code", found.codes, label=found.names.__getitem__).where((found.ends > 0).take(found.codes))


def _read_directions(batch: Batch) -> Value | None:
    found = batch.memo("export interfaces", lambda: _interfaces(batch))
    if found is None:
        return None
    ends = found.ends.take(found.codes)
    return Value("code", ends, label=_DIRECTIONS.__getitem__).where(ends > 0)


def _kubernetes(end: str) -> Iterable[Field]:
    """What there is of source and destination alike."""
    name, what = end.capitalize(), {"src": "source", "dst": "destination"}[end]
    of_pods = {
        "Name": "name of the object", "Namespace": "its namespace", "Type": "its kind: Pod, Service, Node",
        "OwnerName": "name of its owner", "OwnerType": "kind of its owner: Deployment, StatefulSet",
        "HostName": "name of its node", "HostIP": "address of its node", "Zone": "availability zone",
        "NetworkName": "name of its network",
    }  # fmt: skip
    for part, doc in of_pods.items():
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", part).lower()
        yield Field(f"{name}K8S_{part}", "string", text(f"{end}_k8s_{snake}"), f"{what}: {doc}")
    yield Field(f"{name}SubnetLabel", "string", text(f"{end}_subnet_label"), f"{what}: name of its subnet")


_FIELDS = (
    Field("SrcAddr", "string", address("src_addr"), "source address"),
    Field("DstAddr", "string", address("dst_addr"), "destination address"),
    Field("SrcPort", "number", column("src_port").when(_HAS_PORTS), "source port, of TCP, UDP and SCTP"),
    Field("DstPort", "number", column("dst_port").when(_HAS_PORTS), "destination port, of TCP, UDP and SCTP"),
    Field("Proto", "number", column("proto"), "IP protocol"),
    Field("SrcMac", "string", column("src_mac", "MAC"), "source MAC address"),
    Field("DstMac", "string", column("dst_mac", "MAC"), "destination MAC address"),
    Field("Dscp", "number", column("tos").map(lambda tos: tos >> np.uint8(2)), "DSCP"),
    Field("IcmpType", "number", column("icmp_type").when(_IS_ICMP), "ICMP type, of ICMP"),
    Field("IcmpCode", "number", column("icmp_code").when(_IS_ICMP), "ICMP code, of ICMP"),
    Field("Flags", "string[]", _FLAGS.labelled(_flag_names), "TCP flags, of TCP: " + " ".join(TCP_FLAGS)),
    Field("Bytes", "number", weighted("bytes"), "octets as exported, times the weight of a sampled row", "bytes"),
    Field("Packets", "number", weighted("packets"), "packets, likewise", "packets"),
    Field("Sampling", "number", RATE, "one packet in so many was looked at; 1 where Bytes is scaled already"),
    Field("Interfaces", "string[]", Origin(_INTERFACE_COLUMNS, _read_interfaces), "interfaces, by name or else index"),
    Field("IfDirections", "number[]", Origin(_INTERFACE_COLUMNS, _read_directions), "of each: 0 in, 1 out"),
    Field("FlowDirection", "number", _DIRECTION, "0 ingress, 1 egress, 2 inner: of the node, or else of the interface"),
    Field("TimeFlowStartMs", "number", column("start_ns").map(lambda ns: ns // _MS), "first packet", "ms"),
    Field("TimeFlowEndMs", "number", column("end_ns").map(lambda ns: ns // _MS), "last packet", "ms"),
    Field("TimeReceived", "number", column("received_ns").map(lambda ns: ns // _S), "receipt by the agent", "s"),
    *_kubernetes("src"),
    *_kubernetes("dst"),
    Field("K8S_FlowLayer", "string", text("k8s_flow_layer"), "app or infra"),
    Field("K8S_ClusterName", "string", text("k8s_cluster_name"), "name of the cluster"),
    Field("Udns", "string[]", text("udn").listed(), "user-defined network"),
    Field("UdnId", "string", text("udn_id"), "its identifier"),
    Field("XlatSrcAddr", "string", address("nat_src_addr").when(NOT_ZERO), "source address after translation"),
    Field("XlatDstAddr", "string", address("nat_dst_addr").when(NOT_ZERO), "destination address after translation"),
    Field("XlatSrcPort", "number", column("nat_src_port").when(NOT_ZERO), "source port after translation"),
    Field("XlatDstPort", "number", column("nat_dst_port").when(NOT_ZERO), "destination port after translation"),
    Field("PktDropBytes", "number", weighted("dropped_bytes").when(NOT_ZERO), "octets dropped, as Bytes", "bytes"),
    Field("PktDropPackets", "number", weighted("dropped_packets").when(NOT_ZERO), "packets dropped", "packets"),
    Field("AgentIP", "string", address("exporter"), "address that the export came from"),
    Field("Etype", "number", ETHER_TYPE, "Ethernet type"),
    Field("SamplingWeight", "number", WEIGHT, "of a sampled row: rows it stands for; counted in Bytes and Packets"),
    Field("SamplingProbability", "number", PROBABILITY, "of a sampled row: probability with which it was kept"),
    Field("RowId", "number", column("row_id"), "number of a row that was read from Kafka"),
)

FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}
"""In their order of printing. `AgentIP` and `Etype` are of NetObserv's agent, sampling ones and `RowId` are ours."""
NOT_FILLED = (
    "TimeFlowRttNs", "ZoneId", "PktDropLatestFlags", "PktDropLatestState", "PktDropLatestDropCause",
    "DnsId", "DnsName", "DnsLatencyMs", "DnsErrno", "DnsFlags", "DnsFlagsResponseCode", "NetworkEvents", "IPSecStatus",
    "_RecordType", "_HashId", "_IsFirst", "numFlowLogs", "Bytes_AB", "Bytes_BA", "Packets_AB", "Packets_BA",
)  # fmt: skip
"""Published fields of which flow exports tell nothing."""
