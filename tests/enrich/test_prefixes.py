"""Longest prefixes, against the standard library's idea of what lies in them."""

import ipaddress

import numpy as np
import pytest
from enriching import addresses
from hypothesis import example, given
from hypothesis import strategies as st

from flowagent.batch import constant
from flowagent.enrich.prefixes import PrefixTable, parse_prefix

NEAR = st.integers(0, 40)


def network(cls, bits):
    """Prefixes that often nest, touch and end at the edges of the address space."""

    def build(at, near, length):
        address = (at + near) % (1 << bits)
        return cls((address >> bits - length << bits - length, length))

    some = st.sampled_from([0, 1 << bits - 1, (1 << bits) - 20, 10 << bits - 8, (10 << bits - 8) + (1 << bits - 16)])
    return st.builds(build, st.one_of(some, st.integers(0, (1 << bits) - 1)), NEAR, st.integers(0, bits))


V4, V6 = network(ipaddress.IPv4Network, 32), network(ipaddress.IPv6Network, 128)


def truth(prefixes, address):
    holding = [(p.prefixlen, value) for p, value in prefixes.items() if address in p]
    return max(holding)[1] if holding else -1


def edges(prefix):
    """Addresses in and around a prefix."""
    first, last = int(prefix.network_address), int(prefix.broadcast_address)
    most = (1 << prefix.max_prefixlen) - 1
    cls = type(prefix.network_address)
    return [cls(at) for at in (first - 1, first, (first + last) // 2, last, last + 1) if 0 <= at <= most]


@given(st.dictionaries(st.one_of(V4, V6), st.integers(0, 5), max_size=12))
@example({ipaddress.ip_network("0.0.0.0/0"): 1, ipaddress.ip_network("255.255.255.255/32"): 2})
@example({ipaddress.ip_network("::/0"): 1, ipaddress.ip_network("ffff:ffff:ffff:ffff::/64"): 2})
@example({ipaddress.ip_network("0.0.0.0/32"): 3, ipaddress.ip_network("::/128"): 4})
def test_every_address_has_the_value_of_its_longest_prefix(prefixes):
    table = PrefixTable(prefixes.items())
    asked = [address for prefix in prefixes for address in edges(prefix)]
    asked += [ipaddress.ip_address(text) for text in ("0.0.0.0", "255.255.255.255", "1::1", "::", "::1", "8.8.8.8")]
    # Not as IPv6 addresses: these are IPv4.
    asked = [a for a in asked if a.version == 4 or a.ipv4_mapped is None]
    found = table.find(addresses(*map(str, asked)))
    assert found.dtype == np.int32
    assert found.tolist() == [truth(prefixes, address) for address in asked]
    assert len(table) == len(prefixes)


def test_many_prefixes_at_random():
    rng = np.random.default_rng(3)
    prefixes = {}
    for value, (number, length) in enumerate(rng.integers([0, 10], [2**24, 33], (3000, 2)).tolist()):
        at = (10 << 24) + number >> 32 - length << 32 - length
        prefixes[ipaddress.IPv4Network((at, length))] = value
        wide = ipaddress.IPv6Network(((0x20010DB8 << 96) + (at << 44) >> 108 - length << 108 - length, length + 20))
        prefixes[wide] = value
    table = PrefixTable(prefixes.items())
    asked = [address for prefix in list(prefixes)[::10] for address in edges(prefix)]
    by_size = sorted(prefixes.items(), key=lambda item: -item[0].prefixlen)
    right = [next((value for prefix, value in by_size if address in prefix), -1) for address in asked]
    assert table.find(addresses(*map(str, asked))).tolist() == right


def test_nothing_is_found_in_an_empty_table():
    assert PrefixTable([]).find(addresses("10.0.0.1", "2001:db8::1")).tolist() == [-1, -1]
    assert PrefixTable([]).find(addresses()).tolist() == []


def test_an_ipv6_prefix_holds_no_ipv4():
    table = PrefixTable([(parse_prefix("::/0"), 1)])
    assert table.find(addresses("10.0.0.1", "::1")).tolist() == [-1, 1]


def test_one_address_for_all_rows_is_looked_up_once():
    table = PrefixTable([(parse_prefix("10.0.0.0/8"), 7)])
    found = table.find(constant([0, 0xFFFF_0A00_0001], 1000, np.uint64))
    assert found.shape == (1000,)
    assert found.strides == (0,)
    assert found[0] == 7


def test_memory_follows_the_prefixes():
    nets = [ipaddress.IPv4Network((i << 8, 24)) for i in range(0, 20_000, 2)]
    table = PrefixTable((net, i) for i, net in enumerate(nets))
    assert table.nbytes < 2_000_000


def test_negative_values_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        PrefixTable([(parse_prefix("10.0.0.0/8"), -1)])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "not a prefix"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("lan", "write one such as"),
        ("", "not a prefix"),
    ],
)
def test_a_wrong_prefix_says_what_is_right(text, says):
    with pytest.raises(ValueError, match=says):
        parse_prefix(text)


def test_an_address_is_a_prefix_of_one():
    assert parse_prefix("192.0.2.1").prefixlen == 32


def test_mapped_ipv4_is_ipv4():
    assert parse_prefix("::ffff:10.0.0.0/104") == ipaddress.ip_network("10.0.0.0/8")
