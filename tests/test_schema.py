"""The canonical columns: names, types and merge rules that configuration, decoders and sinks rely on."""

import re

import numpy as np
import pytest

from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS, FLOW_KEY, SAMPLING_SOURCES

# In the order in which they are printed.
NAMES = re.findall(
    r"\w+",
    """
    received_ns exporter observation_domain observation_point export_protocol sequence
    start_ns end_ns
    src_addr dst_addr src_port dst_port proto
    bytes packets records
    tcp_flags tos ttl icmp_type icmp_code
    in_if out_if direction node_direction ether_type src_mac dst_mac vlan dst_vlan
    src_as dst_as src_mask dst_mask next_hop
    sampling_rate sampling_source
    dropped_bytes dropped_packets flow_end_reason
    nat_src_addr nat_dst_addr nat_src_port nat_dst_port nat_event
    tunnel_type tunnel_key tunnel_src_addr tunnel_dst_addr
    mpls_label
    src_k8s_name dst_k8s_name src_k8s_namespace dst_k8s_namespace src_k8s_type dst_k8s_type
    src_k8s_owner_name dst_k8s_owner_name src_k8s_owner_type dst_k8s_owner_type
    src_k8s_host_name dst_k8s_host_name src_k8s_host_ip dst_k8s_host_ip src_k8s_zone dst_k8s_zone
    src_k8s_network_name dst_k8s_network_name k8s_flow_layer k8s_cluster_name
    src_subnet_label dst_subnet_label src_country dst_country src_city dst_city src_as_name dst_as_name
    in_if_name out_if_name service
    weight inclusion_prob row_id
""",
)
KINDS = {"int", "addr", "mac", "time", "enum", "name", "text", "bytes"}
every_column = pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())


def test_the_columns_and_their_order():
    assert list(COLUMNS) == NAMES


@every_column
def test_names_are_plain(column):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)
    assert COLUMNS[column.name] is column


@every_column
def test_each_says_what_it_is(column):
    assert column.doc
    assert column.kind in KINDS


@every_column
def test_the_dtype_fits_the_kind(column):
    dtype = np.dtype(column.dtype)
    expected = {"addr": "u8", "mac": "u8", "name": "u8", "time": "i8", "enum": "u1"}.get(column.kind)
    assert expected is None or dtype == np.dtype(expected)
    assert (column.unit == "ns") == (column.kind == "time")
    assert bool(column.labels) == (column.kind == "enum")


@every_column
def test_only_integers_are_merged(column):
    assert column.merge in ("key", "none") or np.dtype(column.dtype).kind in "ui"


def test_merge_rules():
    rules = {name: c.merge for name, c in COLUMNS.items() if c.merge not in ("key", "none")}
    assert rules == {
        "received_ns": "max",
        "start_ns": "min",
        "end_ns": "max",
        "bytes": "sum",
        "packets": "sum",
        "records": "sum",
        "tcp_flags": "or",
        "dropped_bytes": "sum",
        "dropped_packets": "sum",
    }


def test_unknown_comes_first_where_values_have_names():
    # Zero is what memory holds before anybody writes.
    assert EXPORT_PROTOCOLS[0] == SAMPLING_SOURCES[0] == "unknown"
    assert SAMPLING_SOURCES[1:] == ("wire", "ovsdb", "prescaled", "config")


def test_the_five_tuple_is_made_of_key_columns():
    assert FLOW_KEY == ("src_addr", "dst_addr", "src_port", "dst_port", "proto")
    assert {COLUMNS[name].merge for name in FLOW_KEY} == {"key"}
