"""The attributes of a flow: names that readers of the Collector's NetFlow receiver know, and nothing left out."""

import numpy as np
import pytest
from drawn import V4

from flowagent.batch import Batch
from flowagent.export.otlp_fields import ORIGINS, TRANSPORTS, attributes
from flowagent.export.value import plain
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS

RECEIVER = {
    "source.address", "source.port", "destination.address", "destination.port", "network.transport", "network.type",
    "flow.io.bytes", "flow.io.packets", "flow.type", "flow.sequence_num", "flow.time_received", "flow.start",
    "flow.end", "flow.sampling_rate", "flow.sampler_address", "flow.tcp_flags", "flow.in_if", "flow.out_if",
    "flow.ip_tos", "flow.ip_ttl", "flow.fragment_id", "flow.fragment_offset", "flow.ipv6_flow_label",
    "flow.icmp_type", "flow.icmp_code", "flow.src_mac", "flow.dst_mac", "flow.src_vlan", "flow.dst_vlan",
    "flow.vlan_id", "flow.next_hop", "flow.src_as", "flow.dst_as", "flow.bgp_next_hop", "flow.src_net",
    "flow.dst_net", "flow.forwarding_status", "flow.observation_domain_id", "flow.observation_point_id",
}  # fmt: skip
"""What the receiver writes; it has flow.ip_flags and flow.next_hop_as, too."""


def read(**columns):
    """The attributes of one row."""
    arrays = {}
    for name, value in columns.items():
        dtype = COLUMNS[name].dtype if name in COLUMNS and COLUMNS[name].kind != "name" else None
        arrays[name] = (
            np.array([[value[0]], [value[1]]], "u8") if isinstance(value, tuple) else np.array([value], dtype)
        )
    return {name: plain(value)[0] for name, value in attributes(Batch(arrays)).items()}


def test_the_receivers_names():
    assert RECEIVER - ORIGINS.keys() == set()


def test_ends_and_protocols():
    row = read(src_addr=(0, V4 | 0x0A000001), dst_addr=(0x20010DB8 << 32, 2), src_port=1, dst_port=443, proto=6)
    assert row == {
        "source.address": "10.0.0.1", "destination.address": "2001:db8::2", "source.port": 1, "destination.port": 443,
        "network.transport": "tcp", "network.type": "ipv4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "hopopt"),
        (1, "icmp"),
        (17, "udp"),
        (58, "ipv6-icmp"),
        (132, "sctp"),
        (145, "nsh"),
        (146, "unknown"),
        (255, "unknown"),
    ],
)
def test_transports(number, name):
    assert read(proto=number)["network.transport"] == name
    assert len(TRANSPORTS) == 256


@pytest.mark.parametrize(("number", "name"), [(0x0800, "ipv4"), (0x86DD, "ipv6"), (0x0806, "arp"), (0x88B5, "unknown")])
def test_network_types(number, name):
    assert read(ether_type=number) == {"network.type": name}


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        ("unknown", "unknown"),
        ("netflow5", "netflow_v5"),
        ("netflow9", "netflow_v9"),
        ("ipfix", "ipfix"),
        ("sflow5", "sflow_5"),
    ],
)
def test_flow_types(protocol, name):
    assert read(export_protocol=EXPORT_PROTOCOLS.index(protocol)) == {"flow.type": name}


def test_counts_and_times():
    row = read(bytes=1500, packets=0, records=3, start_ns=5, end_ns=7, received_ns=9, exporter=(0, V4 | 1))
    assert row == {
        "flow.io.bytes": 1500, "flow.io.packets": 0, "flow.records": 3, "flow.start": 5, "flow.end": 7,
        "flow.time_received": 9, "flow.sampler_address": "0.0.0.1",
    }  # fmt: skip


def test_sums_of_a_sample_are_times_the_weight():
    row = read(bytes=1500, packets=2, records=1, weight=4.0, inclusion_prob=0.25)
    assert row == {
        "flow.io.bytes": 6000, "flow.io.packets": 8, "flow.records": 4,
        "flow.sampling_weight": 4.0, "flow.sampling_probability": 0.25,
    }  # fmt: skip


def test_other_columns_have_their_own_names():
    row = read(direction=1, tunnel_key=77, src_k8s_name=b"web-1", src_mac=0x0123456789AB, mpls_label=16, src_mask=24)
    assert row == {
        "flow.direction": 1, "flow.tunnel_key": 77, "flow.src_k8s_name": "web-1", "flow.src_mac": "01:23:45:67:89:ab",
        "flow.mpls_label": 16, "flow.src_net": 24,
    }  # fmt: skip


def test_what_is_unknown_everywhere_is_left_out():
    batch = Batch({"bytes": np.ones(2, "u8"), "tos": np.zeros(2, "u1")}, valid={"tos": np.zeros(2, np.bool_)})
    assert list(attributes(batch)) == ["flow.io.bytes"]
