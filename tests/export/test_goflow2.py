"""The FlowMessage of goflow2: each field as published, in JSON and protobuf, and all of them as one would by hand."""

import contextlib
import ipaddress
import json

import numpy as np
import pytest
from drawn import V4, batches, ip, mac_text
from hypothesis import given
from protobuf_class import message_class

from flowagent.batch import Batch
from flowagent.export.goflow2 import FIELDS, FLOW_TYPES, NOT_FILLED, PROTOCOLS
from flowagent.export.schemas import encoder
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS, SAMPLING_SOURCES

# pb/flow.proto as published: numbers and types.
PUBLISHED = {
    "type": (1, "enum"), "sampling_rate": (3, "uint64"), "sequence_num": (4, "uint32"), "src_addr": (6, "bytes"),
    "dst_addr": (7, "bytes"), "bytes": (9, "uint64"), "packets": (10, "uint64"), "sampler_address": (11, "bytes"),
    "next_hop": (12, "bytes"), "next_hop_as": (13, "uint32"), "src_as": (14, "uint32"), "dst_as": (15, "uint32"),
    "src_net": (16, "uint32"), "dst_net": (17, "uint32"), "in_if": (18, "uint32"), "out_if": (19, "uint32"),
    "proto": (20, "uint32"), "src_port": (21, "uint32"), "dst_port": (22, "uint32"), "ip_tos": (23, "uint32"),
    "forwarding_status": (24, "uint32"), "ip_ttl": (25, "uint32"), "tcp_flags": (26, "uint32"),
    "src_mac": (27, "uint64"), "dst_mac": (28, "uint64"), "vlan_id": (29, "uint32"), "etype": (30, "uint32"),
    "icmp_type": (31, "uint32"), "icmp_code": (32, "uint32"), "src_vlan": (33, "uint32"), "dst_vlan": (34, "uint32"),
    "fragment_id": (35, "uint32"), "fragment_offset": (36, "uint32"), "ipv6_flow_label": (37, "uint32"),
    "ip_flags": (38, "uint32"), "observation_domain_id": (70, "uint32"), "observation_point_id": (71, "uint32"),
    "mpls_ttl": (80, "repeated uint32"), "mpls_label": (81, "repeated uint32"), "mpls_ip": (82, "repeated bytes"),
    "bgp_next_hop": (100, "bytes"), "bgp_communities": (101, "repeated uint32"), "as_path": (102, "repeated uint32"),
    "layer_stack": (103, "repeated enum"), "layer_size": (104, "repeated uint32"),
    "ipv6_routing_header_addresses": (105, "repeated bytes"), "ipv6_routing_header_seg_left": (106, "uint32"),
    "time_received_ns": (110, "uint64"), "time_flow_start_ns": (111, "uint64"), "time_flow_end_ns": (112, "uint64"),
}  # fmt: skip
OURS = {"sampling_weight": (1000, "double"), "sampling_probability": (1001, "double"), "row_id": (1002, "uint64")}


FlowMessage = message_class(PUBLISHED | OURS, ("FLOWUNKNOWN", "SFLOW_5", "NETFLOW_V5", "NETFLOW_V9", "IPFIX"))


def test_the_fields_are_those_of_the_published_message():
    filled = {field.name: (field.number, field.type) for field in FIELDS}
    assert filled.items() <= (PUBLISHED | OURS).items()
    assert {name: number for name, (number, _) in PUBLISHED.items() if name not in filled} == NOT_FILLED


def test_the_names_of_protocols():
    assert len(PROTOCOLS) == 256
    names = {0: "HOPOPT", 1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 47: "GRE", 50: "ESP", 58: "IPv6-ICMP",
             89: "OSPFIGP", 112: "VRRP", 115: "L2TP", 132: "SCTP", 145: "NSH", 146: "unassigned", 252: "unassigned",
             253: "experimental", 254: "experimental", 255: "reserved"}  # fmt: skip
    assert {number: PROTOCOLS[number] for number in names} == names


def row(**columns):
    dtype = {"forwardingStatus": "u4", "flowLabelIPv6": "u4", "fragmentIdentification": "u4", "fragmentOffset": "u2"}
    return Batch(
        {
            name: np.array([value], "u8" if isinstance(value, tuple) else dtype.get(name) or COLUMNS[name].dtype).T
            for name, value in columns.items()
        }
    )


def from_json(batch):
    (message,) = encoder("goflow2").messages(batch)
    return json.loads(message)


def from_protobuf(batch):
    """What is set in the message."""
    (data,) = encoder("goflow2", "protobuf").messages(batch)
    message = FlowMessage.FromString(data)
    assert message.SerializeToString(deterministic=True) == data
    fields = {field.name: value for field, value in message.ListFields()}
    return {name: list(value) if name == "mpls_label" else value for name, value in fields.items()}


def v4(number):
    return (0, V4 | number)


V6 = (0x20010DB8 << 32, 1)
PACKED4, PACKED6 = bytes([10, 0, 0, 1]), bytes.fromhex("20010db8000000000000000000000001")


@pytest.mark.parametrize(
    ("columns", "shown", "packed"),
    [
        ({"export_protocol": EXPORT_PROTOCOLS.index("ipfix")}, {"type": "IPFIX"}, {"type": 4}),
        ({"export_protocol": EXPORT_PROTOCOLS.index("netflow9")}, {"type": "NETFLOW_V9"}, {"type": 3}),
        ({"export_protocol": EXPORT_PROTOCOLS.index("netflow5")}, {"type": "NETFLOW_V5"}, {"type": 2}),
        ({"export_protocol": EXPORT_PROTOCOLS.index("sflow5")}, {"type": "SFLOW_5"}, {"type": 1}),
        ({"export_protocol": EXPORT_PROTOCOLS.index("netflow7")}, {"type": "FLOWUNKNOWN"}, {}),
        ({"received_ns": 7}, {"time_received_ns": 7}, {"time_received_ns": 7}),
        ({"start_ns": 2**63 - 1}, {"time_flow_start_ns": 2**63 - 1}, {"time_flow_start_ns": 2**63 - 1}),
        ({"end_ns": -1}, {}, {}),
        ({"sequence": 2**32 - 1}, {"sequence_num": 2**32 - 1}, {"sequence_num": 2**32 - 1}),
        ({"sampling_rate": 1000.0}, {"sampling_rate": 1000}, {"sampling_rate": 1000}),
        (
            {"sampling_source": SAMPLING_SOURCES.index("prescaled")},
            {"sampling_rate": 1},
            {"sampling_rate": 1},
        ),
        ({"exporter": v4(0x0A000001)}, {"sampler_address": "10.0.0.1"}, {"sampler_address": PACKED4}),
        ({"bytes": 2**64 - 1}, {"bytes": 2**64 - 1}, {"bytes": 2**64 - 1}),
        ({"packets": 0}, {"packets": 0}, {}),
        (
            {"src_addr": v4(0x0A000001)},
            {"src_addr": "10.0.0.1", "etype": "IPv4"},
            {"src_addr": PACKED4, "etype": 0x0800},
        ),
        ({"dst_addr": V6}, {"dst_addr": "2001:db8::1", "etype": "IPv6"}, {"dst_addr": PACKED6, "etype": 0x86DD}),
        ({"ether_type": 0x0806}, {"etype": "ARP"}, {"etype": 0x0806}),
        ({"ether_type": 0x8847}, {}, {"etype": 0x8847}),
        ({"proto": 6}, {"proto": "TCP"}, {"proto": 6}),
        ({"proto": 0}, {"proto": "HOPOPT"}, {}),
        ({"src_port": 443, "dst_port": 0}, {"src_port": 443, "dst_port": 0}, {"src_port": 443}),
        ({"in_if": 1, "out_if": 2**32 - 1}, {"in_if": 1, "out_if": 2**32 - 1}, {"in_if": 1, "out_if": 2**32 - 1}),
        ({"src_mac": 0x0A580A82020D}, {"src_mac": "0a:58:0a:82:02:0d"}, {"src_mac": 0x0A580A82020D}),
        ({"dst_mac": 1}, {"dst_mac": "00:00:00:00:00:01"}, {"dst_mac": 1}),
        ({"vlan": 7, "dst_vlan": 8}, {"src_vlan": 7, "dst_vlan": 8, "vlan_id": 7}, None),
        ({"tos": 184, "ttl": 64}, {"ip_tos": 184, "ip_ttl": 64}, None),
        ({"tcp_flags": 0x1FF}, {"tcp_flags": 0x1FF}, None),
        ({"icmp_type": 8, "icmp_code": 3}, {"icmp_type": 8, "icmp_code": 3}, None),
        ({"forwardingStatus": 64}, {"forwarding_status": 64}, None),
        ({"flowLabelIPv6": 9}, {"ipv6_flow_label": 9}, None),
        ({"fragmentIdentification": 9, "fragmentOffset": 5}, {"fragment_id": 9, "fragment_offset": 5}, None),
        ({"src_as": 64512, "dst_as": 2**32 - 1}, {"src_as": 64512, "dst_as": 2**32 - 1}, None),
        ({"next_hop": v4(0x0A000001)}, {"next_hop": "10.0.0.1"}, {"next_hop": PACKED4}),
        ({"bgpNextHopIPv4Address": v4(0x0A000001)}, {"bgp_next_hop": "10.0.0.1"}, {"bgp_next_hop": PACKED4}),
        ({"bgpNextHopIPv6Address": V6}, {"bgp_next_hop": "2001:db8::1"}, {"bgp_next_hop": PACKED6}),
        ({"src_mask": 24, "dst_mask": 8}, {}, {"src_net": 24, "dst_net": 8}),
        (
            {"src_mask": 24, "src_addr": v4(0x0A0102FF)},
            {"src_addr": "10.1.2.255", "etype": "IPv4", "src_net": "10.1.2.0/24"},
            {"src_addr": bytes([10, 1, 2, 255]), "etype": 0x0800, "src_net": 24},
        ),
        (
            {"dst_mask": 33, "dst_addr": v4(0x0A0102FF)},
            {"dst_addr": "10.1.2.255", "etype": "IPv4"},
            {"dst_addr": bytes([10, 1, 2, 255]), "etype": 0x0800, "dst_net": 33},
        ),
        ({"mpls_label": 100}, {"mpls_label": [100]}, {"mpls_label": [100]}),
        ({"mpls_label": 0}, {"mpls_label": [0]}, {"mpls_label": [0]}),
        ({"observation_domain": 5}, {"observation_domain_id": 5}, None),
        ({"observation_point": 2**32 - 1}, {"observation_point_id": 2**32 - 1}, None),
        ({"observation_point": 2**32}, {"observation_point_id": 2**32}, {}),
        (
            {"bytes": 100, "packets": 3, "weight": 4.0, "inclusion_prob": 0.25, "sampling_rate": 10.0},
            {"bytes": 400, "packets": 12, "sampling_weight": 4, "sampling_probability": 0.25, "sampling_rate": 10},
            None,
        ),
    ],
    ids=lambda case: ",".join(case) if case else "",
)
def test_a_field(columns, shown, packed):
    assert from_json(row(**columns)) == shown
    assert from_protobuf(row(**columns)) == (shown if packed is None else packed)


NAMES = (
    "export_protocol", "received_ns", "start_ns", "sequence", "sampling_rate", "sampling_source", "exporter", "bytes",
    "packets", "src_addr", "dst_addr", "ether_type", "proto", "src_port", "in_if", "src_mac", "vlan", "tos",
    "tcp_flags", "src_as", "next_hop", "src_mask", "dst_mask", "bgpNextHopIPv4Address", "bgpNextHopIPv6Address",
    "mpls_label", "observation_domain", "observation_point", "forwardingStatus", "fragmentOffset", "direction",
)  # fmt: skip


def rate(row):
    if "sampling_rate" in row:
        return round(row["sampling_rate"])
    return 1 if row["sampling_source"] == SAMPLING_SOURCES.index("prescaled") else None


def ether_type(row):
    given = [row[name] for name in ("src_addr", "dst_addr") if name in row]
    return row.get("ether_type") or next((0x0800 if ip(words).version == 4 else 0x86DD for words in given), None)


def prefix(row, end):
    address, length = ip(row[f"{end}_addr"]), row[f"{end}_mask"]
    if length > address.max_prefixlen:
        return None
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


def bgp_next_hop(row):
    return row.get("bgpNextHopIPv4Address") or row["bgpNextHopIPv6Address"]


def time(row, name):
    return row[name] if row[name] >= 0 else None


TYPES = {"sflow5": 1, "netflow5": 2, "netflow9": 3, "ipfix": 4}
ETHER_TYPES = {0x0806: "ARP", 0x0800: "IPv4", 0x86DD: "IPv6"}
ADDRESSES = {
    "sampler_address": lambda row: row["exporter"],
    "src_addr": lambda row: row["src_addr"],
    "dst_addr": lambda row: row["dst_addr"],
    "next_hop": lambda row: row["next_hop"],
    "bgp_next_hop": bgp_next_hop,
}
NUMBERS = {
    "time_received_ns": lambda row: time(row, "received_ns"),
    "time_flow_start_ns": lambda row: time(row, "start_ns"),
    "sequence_num": lambda row: row["sequence"],
    "sampling_rate": rate,
    "bytes": lambda row: row["bytes"],
    "packets": lambda row: row["packets"],
    "src_port": lambda row: row["src_port"],
    "in_if": lambda row: row["in_if"],
    "src_vlan": lambda row: row["vlan"],
    "vlan_id": lambda row: row["vlan"],
    "ip_tos": lambda row: row["tos"],
    "tcp_flags": lambda row: row["tcp_flags"],
    "src_as": lambda row: row["src_as"],
    "mpls_label": lambda row: [row["mpls_label"]],
    "observation_domain_id": lambda row: row["observation_domain"],
    "observation_point_id": lambda row: row["observation_point"],
    "forwarding_status": lambda row: row["forwardingStatus"],
    "fragment_offset": lambda row: row["fragmentOffset"],
}
# What each field is of a row, by hand; None or a KeyError where it is not there.
IN_JSON = {
    **NUMBERS,
    **{name: (lambda row, of=of: ip(of(row))) for name, of in ADDRESSES.items()},
    "type": lambda row: FLOW_TYPES[TYPES.get(EXPORT_PROTOCOLS[row["export_protocol"]], 0)],
    "etype": lambda row: ETHER_TYPES.get(ether_type(row)),
    "proto": lambda row: PROTOCOLS[row["proto"]],
    "src_mac": lambda row: mac_text(row["src_mac"]),
    "src_net": lambda row: prefix(row, "src"),
    "dst_net": lambda row: prefix(row, "dst"),
}
IN_PROTOBUF = {
    **NUMBERS,
    **{name: (lambda row, of=of: ip(of(row)).packed) for name, of in ADDRESSES.items()},
    "type": lambda row: TYPES.get(EXPORT_PROTOCOLS[row["export_protocol"]], 0),
    "etype": ether_type,
    "proto": lambda row: row["proto"],
    "src_mac": lambda row: row["src_mac"],
    "src_net": lambda row: row["src_mask"],
    "dst_net": lambda row: row["dst_mask"],
}


def by_hand(table, row):
    out = {}
    for name, value_of in table.items():
        with contextlib.suppress(KeyError):
            out[name] = value_of(row)
    return {name: value for name, value in out.items() if value is not None}


def read_addresses(flow):
    """The flow with its addresses as such: two programs write some rare ones of IPv6 in two ways (RFC 5952)."""
    out = {name: ipaddress.ip_address(value) if name in ADDRESSES else value for name, value in flow.items()}
    return out | {name: str(ipaddress.ip_network(out[name])) for name in ("src_net", "dst_net") if name in out}


@given(batches(NAMES))
def test_json_equals_a_naive_implementation(drawn):
    batch, rows = drawn
    found = [read_addresses(json.loads(message)) for message in encoder("goflow2").messages(batch)]
    assert found == [by_hand(IN_JSON, row) for row in rows]


@given(batches(NAMES))
def test_protobuf_equals_a_naive_implementation(drawn):
    batch, rows = drawn
    messages = encoder("goflow2", "protobuf").messages(batch)
    expected = []
    for row in rows:
        fields = by_hand(IN_PROTOBUF, row)
        if fields.get("observation_point_id", 0) >= 2**32:
            del fields["observation_point_id"]
        expected.append(FlowMessage(**fields))
    assert messages == [message.SerializeToString(deterministic=True) for message in expected]
    assert [FlowMessage.FromString(message) for message in messages] == expected


def test_the_columns_it_may_need_are_known():
    for format_ in ("json", "protobuf"):
        columns = encoder("goflow2", format_).columns
        assert {"src_addr", "export_protocol", "sampling_source", "weight", "forwardingStatus", "src_mask"} <= columns
        assert columns & {"direction", "tunnel_key", "src_k8s_name"} == set()
