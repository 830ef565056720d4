"""Addresses as two words and as text."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.addresses import V4_MAPPED, address_text, address_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.0.0.0", (0, 0xFFFF_0000_0000)),
        ("192.0.2.1", (0, 0xFFFF_C000_0201)),
        ("255.255.255.255", (0, 0xFFFF_FFFF_FFFF)),
        ("::", (0, 0)),
        ("::1", (0, 1)),
        ("2001:db8::42", (0x2001_0DB8_0000_0000, 0x42)),
        ("::fffe:c000:201", (0, 0xFFFE_C000_0201)),
    ],
)
def test_words_of_a_text_and_back(text, words):
    assert address_words(text) == words
    assert address_text(*words) == text


def test_a_mapped_address_prints_as_ipv4():
    assert address_words("::ffff:192.0.2.1") == address_words("192.0.2.1")


def test_the_mapped_prefix():
    assert address_words("0.0.0.0")[1] == V4_MAPPED


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_comes_back(address):
    assert address_text(*address_words(str(address))) == str(address)


@given(st.ip_addresses(v=6))
def test_every_ipv6_address_comes_back(address):
    words = address_words(str(address))
    assert words[0] << 64 | words[1] == int(address)
    assert address_words(address_text(*words)) == words
    assert ipaddress.ip_address(address_text(*words)) in (address, address.ipv4_mapped)


@pytest.mark.parametrize("text", ["", "192.0.2", "192.0.2.256", "2001:db8::g", "host.example"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="address"):
        address_words(text)
