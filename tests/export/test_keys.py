"""Keys of messages, and partitions as Kafka's own clients choose them."""

import ipaddress

import numpy as np
import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from flowagent.addresses import address_words
from flowagent.batch import Batch, constant
from flowagent.export.keys import address_keys, column_keys, murmur2, partitions_of

some_addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


def addresses(*texts):
    return np.array([address_words(text) for text in texts], np.uint64).reshape(-1, 2).T


def packed(text):
    """16 bytes."""
    address = ipaddress.ip_address(text)
    return (b"" if address.version == 6 else bytes(10) + b"\xff\xff") + address.packed


@given(st.lists(st.tuples(some_addresses, some_addresses), min_size=1, max_size=20))
def test_both_directions_have_one_key(pairs):
    src, dst = zip(*pairs, strict=True)
    there = address_keys(Batch({"src_addr": addresses(*src), "dst_addr": addresses(*dst)}))
    back = address_keys(Batch({"src_addr": addresses(*dst), "dst_addr": addresses(*src)}))
    assert there == back == [b"".join(sorted((packed(a), packed(b)))) for a, b in pairs]


def test_addresses_that_are_not_known():
    a, b = addresses("10.0.0.1", "10.0.0.2", "10.0.0.3"), addresses("10.0.0.9", "10.0.0.9", "10.0.0.9")
    known = {"src_addr": np.array([True, False, False]), "dst_addr": np.array([True, True, False])}
    keys = address_keys(Batch({"src_addr": a, "dst_addr": b}, valid=known))
    assert keys == [packed("10.0.0.1") + packed("10.0.0.9"), bytes(16) + packed("10.0.0.9"), None]
    assert address_keys(Batch({"dst_addr": b})) == [bytes(16) + packed("10.0.0.9")] * 3
    assert address_keys(Batch({"bytes": np.arange(2)})) == [None, None]


def test_columns_are_joined():
    batch = Batch({
        "exporter": addresses("10.0.0.1", "2001:db8::1"),
        "src_port": np.array([258, 3], np.uint16),
        "proto": constant(6, 2, np.uint8),
        "src_k8s_namespace": np.array([b"shop", b"db"]),
        "wlanSSID": np.array([b"\x00x", None], object),
    })  # fmt: skip
    assert column_keys(batch, ["src_port", "exporter", "proto"]) == [
        b"\x01\x02" + packed("10.0.0.1") + b"\x06",
        b"\x00\x03" + packed("2001:db8::1") + b"\x06",
    ]
    assert column_keys(batch, ["src_k8s_namespace"]) == [b"shop", b"db"]
    assert column_keys(batch, ["src_k8s_namespace", "wlanSSID"]) == [b"shop\x00x", b"db"]


def test_a_key_does_not_depend_on_whether_other_rows_have_the_column():
    ports = np.array([1, 2], np.uint16)
    unknown = {"vlan": np.array([False, True])}
    (with_it, _) = column_keys(Batch({"src_port": ports, "vlan": ports}, valid=unknown), ["vlan", "src_port"])
    (without, _) = column_keys(Batch({"src_port": ports}), ["vlan", "src_port"])
    assert with_it == without == b"\0\0\0\1"
    (missing, _) = column_keys(Batch({"src_port": ports}), ["src_k8s_namespace", "next_hop", "src_port"])
    assert missing == bytes(16) + b"\0\1"


def test_columns_of_which_nothing_is_known():
    batch = Batch({"vlan": np.array([1, 2], np.uint16)}, valid={"vlan": np.array([False, True])})
    assert column_keys(batch, ["vlan", "dst_vlan"]) == [None, b"\0\2\0\0"]
    assert column_keys(batch, ["dst_vlan"]) == [None, None]
    text = Batch({"udn": np.array([b"a", b"b"])}, valid={"udn": np.array([False, True])})
    assert column_keys(text, ["udn"]) == [None, b"b"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536), ("abc", 479470107)],
)
def test_hashes_that_kafkas_own_tests_expect(key, expected):
    assert murmur2([key.encode()]).astype(np.int32) == [expected]


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_hashes_of_keys_of_all_lengths(keys):
    assert murmur2(keys).tolist() == [reference(key) for key in keys]


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 1000)), min_size=1, max_size=30))
def test_partitions_are_those_of_other_clients(cases):
    keys, counts = zip(*cases, strict=True)
    chosen = partitions_of(keys, np.array(counts))
    assert chosen.tolist() == [DefaultPartitioner()(key, list(range(count)), []) for key, count in cases]
