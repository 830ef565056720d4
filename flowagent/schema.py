"""The canonical columns: name, dtype, kind, unit and how two values merge.

Every decoder fills these, every sink prints from these. An element without a
column travels as an extra column under its IANA name (see `elements.py`).

Kinds and their arrays (n = rows of the batch):

    int    (n,)    integer or float of `dtype`
    addr   (2, n)  uint64, high and low half of the IPv6 address; IPv4 is ::ffff:a.b.c.d
    mac    (n,)    uint64, the address in the low 48 bits
    time   (n,)    int64, nanoseconds since 1970
    enum   (n,)    uint8, an index into `labels`
    name   (n,)    uint64, the number of a text (see `names`); 0 is none. As text once rows leave the stages
    text   (n,)    bytes ("S"), NUL-padded UTF-8
    bytes  (n,)    Python bytes (dtype object), printed as hexadecimal
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["int", "addr", "mac", "time", "enum", "name", "text", "bytes"]
Merge = Literal["key", "sum", "min", "max", "or", "none"]


@dataclass(frozen=True, slots=True)
class Column:
    """One canonical column.

    `merge` says what a window does with the values of one key: `sum`, `min`,
    `max`, `or`; `key` columns can only be grouped by; `none` does not survive.
    """

    name: str
    dtype: str
    merge: Merge
    doc: str
    kind: Kind = "int"
    unit: str = ""
    labels: tuple[str, ...] = ()


EXPORT_PROTOCOLS = ("unknown", "netflow1", "netflow5", "netflow7", "netflow9", "ipfix", "sflow5")
SAMPLING_SOURCES = ("unknown", "wire", "ovsdb", "prescaled", "config")


def _addr(name: str, doc: str) -> Column:
    return Column(name, "u8", "key", doc, kind="addr")


def _name(name: str, doc: str) -> Column:
    return Column(name, "u8", "key", doc, kind="name")


def _sides(part: str, doc: str) -> tuple[Column, Column]:
    return _name(f"src_{part}", f"source: {doc}"), _name(f"dst_{part}", f"destination: {doc}")


_NAMES = (
    *_sides("k8s_name", "name of the pod, service or node"),
    *_sides("k8s_namespace", "its namespace"),
    *_sides("k8s_type", "its kind: Pod, Service, Node"),
    *_sides("k8s_owner_name", "name of its topmost owner"),
    *_sides("k8s_owner_type", "kind of that owner: Deployment, StatefulSet"),
    *_sides("k8s_host_name", "name of its node"),
    *_sides("k8s_host_ip", "address of its node"),
    *_sides("k8s_zone", "availability zone of its node"),
    *_sides("k8s_network_name", "name of its secondary network"),
    _name("k8s_flow_layer", "app or infra"),
    _name("k8s_cluster_name", "name of the cluster"),
    *_sides("subnet_label", "label of the subnet"),
    *_sides("country", "ISO code of the country"),
    *_sides("city", "city"),
    *_sides("as_name", "name of the autonomous system"),
    _name("in_if_name", "name of the ingress interface"),
    _name("out_if_name", "name of the egress interface"),
    _name("service", "name of the service by protocol and port"),
)
"""What enrichment adds; see docs/kubernetes.md."""

_COLUMNS = (
    Column("received_ns", "i8", "max", "when the agent took the datagram from the kernel", "time", "ns"),
    _addr("exporter", "address the export came from; of sFlow that of its agent"),
    Column("observation_domain", "u4", "key", "IPFIX observation domain, v9 source id, v5 engine, sFlow sub-agent"),
    Column("observation_point", "u8", "key", "IPFIX observationPointId"),
    Column("export_protocol", "u1", "key", "protocol of the export", "enum", labels=EXPORT_PROTOCOLS),
    Column("sequence", "u4", "none", "sequence number in the export header"),
    Column("start_ns", "i8", "min", "first packet of the flow", "time", "ns"),
    Column("end_ns", "i8", "max", "last packet of the flow", "time", "ns"),
    _addr("src_addr", "source address"),
    _addr("dst_addr", "destination address"),
    Column("src_port", "u2", "key", "source transport port"),
    Column("dst_port", "u2", "key", "destination transport port"),
    Column("proto", "u1", "key", "IP protocol number"),
    Column("bytes", "u8", "sum", "octets, as exported (not multiplied by the sampling rate)", unit="bytes"),
    Column("packets", "u8", "sum", "packets, as exported", unit="packets"),
    Column("records", "u8", "sum", "flow records this row stands for", unit="records"),
    Column("tcp_flags", "u2", "or", "TCP control bits seen"),
    Column("tos", "u1", "key", "IPv4 TOS or IPv6 traffic class"),
    Column("ttl", "u1", "key", "IP TTL or hop limit"),
    Column("icmp_type", "u1", "key", "ICMP or ICMPv6 type"),
    Column("icmp_code", "u1", "key", "ICMP or ICMPv6 code"),
    Column("in_if", "u4", "key", "ingress interface index"),
    Column("out_if", "u4", "key", "egress interface index"),
    Column("direction", "u1", "key", "0 ingress, 1 egress, as seen by the observation point"),
    Column("ether_type", "u2", "key", "Ethernet type"),
    Column("src_mac", "u8", "key", "source MAC address", "mac"),
    Column("dst_mac", "u8", "key", "destination MAC address", "mac"),
    Column("vlan", "u2", "key", "VLAN id at ingress"),
    Column("dst_vlan", "u2", "key", "VLAN id at egress"),
    Column("src_as", "u4", "key", "source autonomous system"),
    Column("dst_as", "u4", "key", "destination autonomous system"),
    Column("src_mask", "u1", "key", "source prefix length"),
    Column("dst_mask", "u1", "key", "destination prefix length"),
    _addr("next_hop", "address of the next hop"),
    Column("sampling_rate", "f8", "key", "one packet in this many was looked at; null when unknown"),
    Column("sampling_source", "u1", "key", "how the rate is known", "enum", labels=SAMPLING_SOURCES),
    Column("dropped_bytes", "u8", "sum", "octets the exporter says it dropped", unit="bytes"),
    Column("dropped_packets", "u8", "sum", "packets the exporter says it dropped", unit="packets"),
    Column("flow_end_reason", "u1", "key", "IPFIX flowEndReason"),
    _addr("nat_src_addr", "source address after translation"),
    _addr("nat_dst_addr", "destination address after translation"),
    Column("nat_src_port", "u2", "key", "source port after translation"),
    Column("nat_dst_port", "u2", "key", "destination port after translation"),
    Column("nat_event", "u1", "key", "IPFIX natEvent"),
    Column("tunnel_type", "u1", "key", "Open vSwitch tunnelType: 1 VXLAN, 2 GRE, 3 LISP, 4 STT, 7 Geneve"),
    Column("tunnel_key", "u8", "key", "VNI, GRE key or the like"),
    _addr("tunnel_src_addr", "outer source address"),
    _addr("tunnel_dst_addr", "outer destination address"),
    Column("mpls_label", "u4", "key", "top MPLS label"),
    *_NAMES,
    Column("weight", "f8", "none", "each sampled row stands for this many rows"),
    Column("inclusion_prob", "f8", "none", "probability with which the row was kept"),
    Column("row_id", "u8", "none", "number of a row that was read from Kafka, the same however often it is read"),
)

COLUMNS: dict[str, Column] = {column.name: column for column in _COLUMNS}
"""The canonical columns in their order of printing."""

FLOW_KEY = ("src_addr", "dst_addr", "src_port", "dst_port", "proto")
"""The 5-tuple."""
