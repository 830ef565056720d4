"""The FlowMessage of goflow2: its names in JSON, its numbers and types in protobuf.

Sources: pb/flow.proto and the renderers of goflow2. It does not tell 0 from
unknown. Its readers take `bytes` times `sampling_rate` for the traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowagent.batch import Batch
from flowagent.export.origins import (
    ETHER_TYPE,
    IPV4,
    IPV6,
    NOT_NEGATIVE,
    PROBABILITY,
    RATE,
    WEIGHT,
    Condition,
    Origin,
    address,
    column,
    weighted,
)
from flowagent.export.protobuf import Type
from flowagent.export.text import is_v4
from flowagent.export.value import Value
from flowagent.schema import EXPORT_PROTOCOLS

FLOW_TYPES = ("FLOWUNKNOWN", "SFLOW_5", "NETFLOW_V5", "NETFLOW_V9", "IPFIX")
"""The enum FlowType, by number."""
ETHER_TYPES = {0x0806: "ARP", IPV4: "IPv4", IPV6: "IPv6"}
"""Those that have a name."""
_KEYWORDS = """
HOPOPT|ICMP|IGMP|GGP|IPv4|ST|TCP|CBT|EGP|IGP|BBN-RCC-MON|NVP-II|PUP|ARGUS|EMCON|XNET|CHAOS|UDP|MUX|DCN-MEAS|HMP|
PRM|XNS-IDP|TRUNK-1|TRUNK-2|LEAF-1|LEAF-2|RDP|IRTP|ISO-TP4|NETBLT|MFE-NSP|MERIT-INP|DCCP|3PC|IDPR|XTP|DDP|
IDPR-CMTP|TP++|IL|IPv6|SDRP|IPv6-Route|IPv6-Frag|IDRP|RSVP|GRE|DSR|BNA|ESP|AH|I-NLSP|SWIPE|NARP|Min-IPv4|TLSP|
SKIP|IPv6-ICMP|IPv6-NoNxt|IPv6-Opts|any-host-internal-protocol|CFTP|any-local-network|SAT-EXPAK|KRYPTOLAN|RVD|
IPPC|any-distributed-file-system|SAT-MON|VISA|IPCV|CPNX|CPHB|WSN|PVP|BR-SAT-MON|SUN-ND|WB-MON|WB-EXPAK|ISO-IP|
VMTP|SECURE-VMTP|VINES|IPTM|NSFNET-IGP|DGP|TCF|EIGRP|OSPFIGP|Sprite-RPC|LARP|MTP|AX.25|IPIP|MICP|SCC-SP|ETHERIP|
ENCAP|any-private-encryption-scheme|GMTP|IFMP|PNNI|PIM|ARIS|SCPS|QNX|A/N|IPComp|SNP|Compaq-Peer|IPX-in-IP|VRRP|
PGM|any-0-hop-protocol|L2TP|DDX|IATP|STP|SRP|UTI|SMP|SM|PTP|ISIS over IPv4|FIRE|CRTP|CRUDP|SSCOPMCE|IPLT|SPS|
PIPE|SCTP|FC|RSVP-E2E-IGNORE|Mobility Header|UDPLite|MPLS-in-IP|manet|HIP|Shim6|WESP|ROHC|Ethernet|AGGFRAG|NSH
"""
PROTOCOLS = (*_KEYWORDS.replace("\n", "").split("|"), *["unassigned"] * 107, *["experimental"] * 2, "reserved")
"""Names of the 256 IP protocols: IANA's keywords."""


class Field(NamedTuple):
    """A field of the message."""

    name: str
    number: int
    type: Type
    origin: Origin
    doc: str
    shown: Origin | None = None
    """What JSON has instead."""


_FLOW_TYPE_OF = np.array(
    [{"sflow5": 1, "netflow5": 2, "netflow9": 3, "ipfix": 4}.get(name, 0) for name in EXPORT_PROTOCOLS], np.uint8
)
_TYPE = column("export_protocol").map(_FLOW_TYPE_OF.take)
_HAS_NAME = Condition((), lambda _, value: value.map(lambda types: np.isin(types, list(ETHER_TYPES))).data)


def _prefix(end: str) -> Origin:
    """The prefix that an address is in."""
    lengths = column(f"{end}_mask")

    def join(batch: Batch, value: Value) -> Value:
        length = lengths.read(batch)
        assert length is not None
        fits = length.data <= np.where(is_v4(value.data), 32, 128)
        joined = Value("prefix", np.concatenate([value.data, length.data[np.newaxis]], dtype=np.uint64), value.known)
        return joined.where(fits if length.known is None else fits & length.known)

    found = address(f"{end}_addr").then(join, *lengths.columns)
    return Origin(found.columns, lambda batch: found.read(batch) if lengths.read(batch) is not None else None)


FIELDS: tuple[Field, ...] = (
    Field("type", 1, "enum", _TYPE, "protocol of the export", _TYPE.labelled(FLOW_TYPES.__getitem__)),
    Field("time_received_ns", 110, "uint64", column("received_ns").when(NOT_NEGATIVE), "receipt by the agent"),
    Field("sequence_num", 4, "uint32", column("sequence"), "sequence number in the export header"),
    Field("sampling_rate", 3, "uint64", RATE, "one packet in so many was looked at; 1 where bytes is scaled already"),
    Field("sampler_address", 11, "bytes", address("exporter"), "address that the export came from"),
    Field("time_flow_start_ns", 111, "uint64", column("start_ns").when(NOT_NEGATIVE), "first packet"),
    Field("time_flow_end_ns", 112, "uint64", column("end_ns").when(NOT_NEGATIVE), "last packet"),
    Field("bytes", 9, "uint64", weighted("bytes"), "octets as exported, times the weight of a sampled row"),
    Field("packets", 10, "uint64", weighted("packets"), "packets, likewise"),
    Field("src_addr", 6, "bytes", address("src_addr"), "source address"),
    Field("dst_addr", 7, "bytes", address("dst_addr"), "destination address"),
    Field(
        "etype", 30, "uint32", ETHER_TYPE, "Ethernet type; in JSON IPv4, IPv6 or ARP",
        ETHER_TYPE.when(_HAS_NAME).labelled(ETHER_TYPES.get),
    ),
    Field(
        "proto", 20, "uint32", column("proto"), "IP protocol; in JSON its name",
        column("proto").labelled(PROTOCOLS.__getitem__),
    ),
    Field("src_port", 21, "uint32", column("src_port"), "source port"),
    Field("dst_port", 22, "uint32", column("dst_port"), "destination port"),
    Field("in_if", 18, "uint32", column("in_if"), "ingress interface"),
    Field("out_if", 19, "uint32", column("out_if"), "egress interface"),
    Field("src_mac", 27, "uint64", column("src_mac", "mac"), "source MAC address; in JSON as text"),
    Field("dst_mac", 28, "uint64", column("dst_mac", "mac"), "destination MAC address; in JSON as text"),
    Field("src_vlan", 33, "uint32", column("vlan"), "VLAN at ingress"),
    Field("dst_vlan", 34, "uint32", column("dst_vlan"), "VLAN at egress"),
    Field("vlan_id", 29, "uint32", column("vlan"), "VLAN at ingress"),
    Field("ip_tos", 23, "uint32", column("tos"), "TOS or traffic class"),
    Field("forwarding_status", 24, "uint32", column("forwardingStatus"), "forwarding status"),
    Field("ip_ttl", 25, "uint32", column("ttl"), "TTL or hop limit"),
    Field("tcp_flags", 26, "uint32", column("tcp_flags"), "TCP flags"),
    Field("icmp_type", 31, "uint32", column("icmp_type"), "ICMP type"),
    Field("icmp_code", 32, "uint32", column("icmp_code"), "ICMP code"),
    Field("ipv6_flow_label", 37, "uint32", column("flowLabelIPv6"), "IPv6 flow label"),
    Field("fragment_id", 35, "uint32", column("fragmentIdentification"), "fragment identification"),
    Field("fragment_offset", 36, "uint32", column("fragmentOffset"), "fragment offset"),
    Field("src_as", 14, "uint32", column("src_as"), "source AS"),
    Field("dst_as", 15, "uint32", column("dst_as"), "destination AS"),
    Field("next_hop", 12, "bytes", address("next_hop"), "next hop"),
    Field("src_net", 16, "uint32", column("src_mask"), "source prefix length; in JSON the prefix", _prefix("src")),
    Field("dst_net", 17, "uint32", column("dst_mask"), "that of the destination; in JSON the prefix", _prefix("dst")),
    Field(
        "bgp_next_hop", 100, "bytes", address("bgpNextHopIPv4Address", "bgpNextHopIPv6Address"), "BGP next hop",
    ),
    Field("mpls_label", 81, "repeated uint32", column("mpls_label").listed(), "top MPLS label"),
    Field("observation_domain_id", 70, "uint32", column("observation_domain"), "observation domain"),
    Field("observation_point_id", 71, "uint32", column("observation_point"), "observation point"),
    Field("sampling_weight", 1000, "double", WEIGHT, "of a sampled row: rows it stands for; bytes has it in"),
    Field("sampling_probability", 1001, "double", PROBABILITY, "of a sampled row: probability with which it was kept"),
    Field("row_id", 1002, "uint64", column("row_id"), "number of a row that was read from Kafka"),
)  # fmt: skip
"""In the order of JSON, which is goflow2's. 1000 and above are for users' fields; those there are ours."""
NOT_FILLED: dict[str, int] = {
    "next_hop_as": 13, "ip_flags": 38, "mpls_ttl": 80, "mpls_ip": 82, "bgp_communities": 101, "as_path": 102,
    "layer_stack": 103, "layer_size": 104, "ipv6_routing_header_addresses": 105, "ipv6_routing_header_seg_left": 106,
}  # fmt: skip
"""Published fields that are never there."""
