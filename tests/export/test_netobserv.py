"""The flows of NetObserv: each field as published, in name, type and unit, and all of them as one would by hand."""

import contextlib
import json
import math

import msgspec
import numpy as np
import pytest
from drawn import V4, address_text, batches, decoded, mac_text, same_addresses
from hypothesis import given

from flowagent.batch import Batch
from flowagent.export.netobserv import (
    FIELDS,
    LOKI_LABELS,
    NOT_FILLED,
    OPTIONAL_LOKI_LABELS,
    STATIC_LOKI_LABELS,
    TCP_FLAGS,
)
from flowagent.export.schemas import encoder
from flowagent.schema import COLUMNS, SAMPLING_SOURCES

ENDS = [
    f"{end}K8S_{part}"
    for end in ("Src", "Dst")
    for part in ("Name", "Namespace", "Type", "OwnerName", "OwnerType", "HostName", "HostIP", "Zone", "NetworkName")
]
# The published list (docs/flows-format.adoc of the NetObserv operator).
PUBLISHED = {
    **dict.fromkeys(("SrcAddr", "DstAddr", "SrcMac", "DstMac", "XlatSrcAddr", "XlatDstAddr"), "string"),
    **dict.fromkeys(("SrcPort", "DstPort", "Proto", "Dscp", "IcmpType", "IcmpCode", "Bytes", "Packets"), "number"),
    **dict.fromkeys(("Sampling", "FlowDirection", "TimeFlowStartMs", "TimeFlowEndMs", "TimeReceived"), "number"),
    **dict.fromkeys(("XlatSrcPort", "XlatDstPort", "PktDropBytes", "PktDropPackets"), "number"),
    **dict.fromkeys(("Flags", "Interfaces", "Udns"), "string[]"),
    "IfDirections": "number[]",
    **dict.fromkeys((*ENDS, "SrcSubnetLabel", "DstSubnetLabel", "K8S_FlowLayer", "K8S_ClusterName", "UdnId"), "string"),
}
PUBLISHED_ELSEWHERE = {
    "TimeFlowRttNs", "ZoneId", "PktDropLatestFlags", "PktDropLatestState", "PktDropLatestDropCause", "DnsId", "DnsName",
    "DnsLatencyMs", "DnsErrno", "DnsFlags", "DnsFlagsResponseCode", "NetworkEvents", "IPSecStatus", "_RecordType",
    "_HashId", "_IsFirst", "numFlowLogs", "Bytes_AB", "Bytes_BA", "Packets_AB", "Packets_BA",
}  # fmt: skip
OURS = {
    "AgentIP": "string",
    "Etype": "number",
    "SamplingWeight": "number",
    "SamplingProbability": "number",
    "RowId": "number",
}


def test_the_fields_are_those_of_the_published_list():
    assert {name: field.type for name, field in FIELDS.items()} == PUBLISHED | OURS
    assert set(NOT_FILLED) == PUBLISHED_ELSEWHERE


def test_the_labels_of_loki():
    assert LOKI_LABELS == (
        "SrcK8S_Namespace", "SrcK8S_OwnerName", "SrcK8S_Type", "DstK8S_Namespace", "DstK8S_OwnerName", "DstK8S_Type",
        "K8S_FlowLayer", "FlowDirection",
    )  # fmt: skip
    assert STATIC_LOKI_LABELS == {"app": "netobserv-flowcollector"}
    optional = {name for names in OPTIONAL_LOKI_LABELS.values() for name in names}
    assert optional == {"K8S_ClusterName", "SrcK8S_Zone", "DstK8S_Zone", "UdnId"}
    assert (set(LOKI_LABELS) | optional) <= FIELDS.keys()


def flow(valid=None, **columns):
    """The flow of one row, from JSON; a column that is None is not known, though there."""
    arrays = {}
    for name, value in columns.items():
        dtype = COLUMNS[name].dtype if name in COLUMNS and COLUMNS[name].kind != "name" else "S"
        arrays[name] = np.array([value], "u8" if isinstance(value, tuple) else dtype).T
    (message,) = encoder("netobserv").messages(Batch(arrays, valid=valid))
    return json.loads(message)


def v4(number):
    return (0, V4 | number)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"dst_addr": v4(0x0A000001)}, {"DstAddr": "10.0.0.1", "Etype": 0x0800}),
        ({"dst_addr": (0x20010DB8 << 32, 1)}, {"DstAddr": "2001:db8::1", "Etype": 0x86DD}),
        ({"proto": 6, "src_port": 0, "dst_port": 65535}, {"Proto": 6, "SrcPort": 0, "DstPort": 65535}),
        ({"proto": 17, "src_port": 53}, {"Proto": 17, "SrcPort": 53}),
        ({"proto": 132, "src_port": 53}, {"Proto": 132, "SrcPort": 53}),
        ({"proto": 1, "src_port": 0}, {"Proto": 1}),
        ({"src_port": 1}, {"SrcPort": 1}),
        ({"src_mac": 0x0A580A82020D}, {"SrcMac": "0A:58:0A:82:02:0D"}),
        ({"dst_mac": 0}, {"DstMac": "00:00:00:00:00:00"}),
        ({"tos": 0xB8}, {"Dscp": 46}),
        ({"tos": 3}, {"Dscp": 0}),
        ({"proto": 1, "icmp_type": 8, "icmp_code": 0}, {"Proto": 1, "IcmpType": 8, "IcmpCode": 0}),
        ({"proto": 58, "icmp_type": 128}, {"Proto": 58, "IcmpType": 128}),
        ({"proto": 6, "icmp_type": 0, "icmp_code": 0}, {"Proto": 6}),
        ({"proto": 6, "tcp_flags": 0x12}, {"Proto": 6, "Flags": ["SYN", "ACK"]}),
        ({"proto": 6, "tcp_flags": 0x7FF}, {"Proto": 6, "Flags": list(TCP_FLAGS)}),
        ({"proto": 6, "tcp_flags": 0x100}, {"Proto": 6, "Flags": ["SYN_ACK"]}),
        ({"proto": 6, "tcp_flags": 0xF800}, {"Proto": 6}),
        ({"proto": 17, "tcp_flags": 2}, {"Proto": 17}),
        ({"bytes": 2**64 - 1, "packets": 0}, {"Bytes": 2**64 - 1, "Packets": 0}),
        ({"sampling_rate": 400.0}, {"Sampling": 400}),
        ({"sampling_source": SAMPLING_SOURCES.index("prescaled")}, {"Sampling": 1}),
        ({"sampling_source": 0}, {}),
        ({"in_if": 3, "out_if": 4}, {"Interfaces": ["3", "4"], "IfDirections": [0, 1]}),
        ({"in_if": 3, "out_if": 0}, {"Interfaces": ["3"], "IfDirections": [0]}),
        ({"out_if": 4}, {"Interfaces": ["4"], "IfDirections": [1]}),
        ({"in_if": 0}, {}),
        ({"in_if": 3, "interfaceName": b"eth0"}, {"Interfaces": ["eth0"], "IfDirections": [0]}),
        (
            {"in_if": 3, "interfaceName": b"", "out_if": 4, "interfaceName_2": b"br-int"},
            {"Interfaces": ["3", "br-int"], "IfDirections": [0, 1]},
        ),
        (
            {"in_if_name": b"a", "interfaceName": b"b", "out_if_name": b"c"},
            {"Interfaces": ["a", "c"], "IfDirections": [0, 1]},
        ),
        ({"direction": 0}, {"FlowDirection": 0}),
        ({"direction": 1}, {"FlowDirection": 1}),
        ({"direction": 0, "node_direction": 2}, {"FlowDirection": 2}),
        ({"start_ns": 1_700_000_000_123_999_999}, {"TimeFlowStartMs": 1_700_000_000_123}),
        ({"end_ns": 1_700_000_000_123_999_999}, {"TimeFlowEndMs": 1_700_000_000_123}),
        ({"received_ns": 1_700_000_000_999_999_999}, {"TimeReceived": 1_700_000_000}),
        ({"nat_src_addr": v4(1), "nat_dst_addr": v4(0)}, {"XlatSrcAddr": "0.0.0.1"}),
        ({"nat_src_port": 0, "nat_dst_port": 80}, {"XlatDstPort": 80}),
        ({"dropped_bytes": 100, "dropped_packets": 2}, {"PktDropBytes": 100, "PktDropPackets": 2}),
        ({"dropped_bytes": 0, "dropped_packets": 0}, {}),
        ({"exporter": v4(0x7F000001)}, {"AgentIP": "127.0.0.1"}),
        ({"ether_type": 0x0806}, {"Etype": 0x0806}),
        ({"udn": b"blue"}, {"Udns": ["blue"]}),
        ({"src_k8s_host_ip": b"10.0.0.9"}, {"SrcK8S_HostIP": "10.0.0.9"}),
        ({"src_k8s_host_ip": v4(0x0A000009)}, {"SrcK8S_HostIP": "10.0.0.9"}),
        ({"src_k8s_namespace": b""}, {}),
    ],
    ids=",".join,
)
def test_a_field(columns, expected):
    assert flow(**columns) == expected


def test_a_name_that_is_not_known_is_not_used():
    columns = {"in_if": np.array([3, 3, 4], "u4"), "in_if_name": np.array([b"eth0", b"eth0", b"eth0"])}
    batch = Batch(columns, valid={"in_if_name": np.array([True, False, True])})
    flows = [json.loads(message) for message in encoder("netobserv").messages(batch)]
    assert [flow["Interfaces"] for flow in flows] == [["eth0"], ["3"], ["eth0"]]


TEXTS = {
    name: field.origin.columns[0]
    for name, field in FIELDS.items()
    if "K8S" in name or "Label" in name or name == "UdnId"
}


@pytest.mark.parametrize(("name", "column"), TEXTS.items())
def test_a_text_from_enrichment(name, column):
    words = {"SrcK8S_HostIP": "src_k8s_host_ip", "DstK8S_OwnerName": "dst_k8s_owner_name"}
    assert column == words.get(name, column)
    assert flow(**{column: b"some-name"}) == {name: "some-name"}


def test_the_columns_of_texts():
    assert set(TEXTS.values()) == {
        *(f"{end}_k8s_{part}" for end in ("src", "dst") for part in (
            "name", "namespace", "type", "owner_name", "owner_type", "host_name", "host_ip", "zone", "network_name",
        )),
        "src_subnet_label", "dst_subnet_label", "k8s_flow_layer", "k8s_cluster_name", "udn_id",
    }  # fmt: skip


def test_a_row_of_a_sample_tells_its_weight_and_has_it_in_its_sums():
    sums = {"bytes": 100, "packets": 3, "dropped_bytes": 7, "dropped_packets": 1}
    assert flow(**sums, weight=4.0, inclusion_prob=0.25, sampling_rate=10.0) == {
        "Bytes": 400, "Packets": 12, "PktDropBytes": 28, "PktDropPackets": 4, "Sampling": 10,
        "SamplingWeight": 4, "SamplingProbability": 0.25,
    }  # fmt: skip


def test_the_columns_it_may_need_are_known():
    columns = encoder("netobserv").columns
    assert {
        "src_addr",
        "tcp_flags",
        "tos",
        "in_if",
        "interfaceName",
        "weight",
        "inclusion_prob",
        "sampling_source",
    } <= columns
    assert columns & {"ttl", "observation_domain", "src_as"} == set()


NAMES = (
    "src_addr", "dst_addr", "src_port", "dst_port", "proto", "src_mac", "tos", "icmp_type", "tcp_flags", "bytes",
    "packets", "sampling_rate", "sampling_source", "in_if", "out_if", "direction", "start_ns", "received_ns",
    "nat_src_addr", "nat_src_port", "dropped_bytes", "exporter", "ether_type", "src_k8s_name", "dst_k8s_namespace",
    "k8s_flow_layer", "udn", "in_if_name", "interfaceName_2", "ttl",
)  # fmt: skip


def flags(row):
    found = [name for bit, name in enumerate(TCP_FLAGS) if row["tcp_flags"] & 1 << bit]
    return found if among(row, 6) and found else None


def among(row, *protocols):
    return row.get("proto", protocols[0]) in protocols


def rate(row):
    if "sampling_rate" in row:
        return round(row["sampling_rate"])
    return 1 if row["sampling_source"] == SAMPLING_SOURCES.index("prescaled") else None


def ends(row):
    """Where the flow came in and went out."""
    named = (row.get("in_if_name", b""), row.get("in_if")), (row.get("interfaceName_2", b""), row.get("out_if"))
    return [decoded(name) or str(index or "") for name, index in named]


def ether_type(row):
    given = [row[name] for name in ("src_addr", "dst_addr") if name in row]
    return row.get("ether_type") or next((0x0800 if is_v4(address) else 0x86DD for address in given), None)


def name_in(column):
    return lambda row: decoded(row[column]) if is_filled(row[column]) else None


# What each field is of a row, by hand; None or a KeyError where it is not there.
NAIVE = {
    "SrcAddr": lambda row: address_text(row["src_addr"]),
    "DstAddr": lambda row: address_text(row["dst_addr"]),
    "SrcPort": lambda row: row["src_port"] if among(row, 6, 17, 132) else None,
    "DstPort": lambda row: row["dst_port"] if among(row, 6, 17, 132) else None,
    "Proto": lambda row: row["proto"],
    "SrcMac": lambda row: mac_text(row["src_mac"]).upper(),
    "Dscp": lambda row: row["tos"] // 4,
    "IcmpType": lambda row: row["icmp_type"] if among(row, 1, 58) else None,
    "Flags": flags,
    "Bytes": lambda row: row["bytes"],
    "Packets": lambda row: row["packets"],
    "Sampling": rate,
    "Interfaces": lambda row: [end for end in ends(row) if end] or None,
    "IfDirections": lambda row: [i for i, end in enumerate(ends(row)) if end] or None,
    "FlowDirection": lambda row: row["direction"],
    "TimeFlowStartMs": lambda row: row["start_ns"] // 10**6,
    "TimeReceived": lambda row: row["received_ns"] // 10**9,
    "SrcK8S_Name": name_in("src_k8s_name"),
    "DstK8S_Namespace": name_in("dst_k8s_namespace"),
    "K8S_FlowLayer": name_in("k8s_flow_layer"),
    "Udns": lambda row: [decoded(row["udn"])] if is_filled(row["udn"]) else None,
    "XlatSrcAddr": lambda row: (
        address_text(row["nat_src_addr"]) if row["nat_src_addr"] not in ((0, 0), (0, V4)) else None
    ),
    "XlatSrcPort": lambda row: row["nat_src_port"] or None,
    "PktDropBytes": lambda row: row["dropped_bytes"] or None,
    "AgentIP": lambda row: address_text(row["exporter"]),
    "Etype": ether_type,
}


def naive(row):
    out = {}
    for name, value_of in NAIVE.items():
        with contextlib.suppress(KeyError):
            out[name] = value_of(row)
    return {name: value for name, value in out.items() if value is not None}


def is_filled(text):
    return bool(text) and text[:1] != b"\0"


def is_v4(words):
    return words[0] == 0 and words[1] >> 32 == 0xFFFF


ADDRESSES = ("SrcAddr", "DstAddr", "XlatSrcAddr", "AgentIP")


@given(batches(NAMES))
def test_equals_a_naive_implementation(drawn):
    batch, rows = drawn
    rows = [{name: value for name, value in row.items() if not hides(name, value)} for row in rows]
    expected = [naive(row) for row in rows]
    as_json = [json.loads(message) for message in encoder("netobserv").messages(batch)]
    assert [same_addresses(row, ADDRESSES) for row in as_json] == expected
    as_maps = [msgspec.msgpack.decode(message) for message in encoder("netobserv", "msgpack").messages(batch)]
    assert [same_addresses(row, ADDRESSES) for row in as_maps] == expected


def hides(name, value):
    """A text that begins with NUL counts as empty."""
    return isinstance(value, bytes) and value[:1] == b"\0" and name in ("in_if_name", "interfaceName_2")


def test_numbers_are_integers_where_nothing_is_sampled():
    message = encoder("netobserv").messages(Batch({"sampling_rate": np.array([100.0, 2.4])}))
    assert message == [b'{"Sampling":100}', b'{"Sampling":2}']
    assert not math.isnan(json.loads(message[0])["Sampling"])
