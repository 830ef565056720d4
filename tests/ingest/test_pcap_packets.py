"""Captured packets on their way to UDP: link types, headers, fragments (a part of test_pcap)."""

import pytest
from capturefiles import BIG, LINK, NS, PAYLOAD, RAW, SECOND, V4, V6, V6_UDP, ether, fragmented, one, pcap, raw, read
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.packet import Raw

# Link types


@pytest.mark.parametrize(
    ("link", "head"),
    [
        (1, LINK),
        (1, LINK / Dot1Q(vlan=100)),
        (1, LINK / Dot1AD(vlan=7) / Dot1Q(vlan=100)),
        (1, Ether(src=LINK.src, dst=LINK.dst, type=0x9100) / Dot1Q(vlan=7) / Dot1Q(vlan=100)),
        (113, CookedLinux()),
        (113, CookedLinux(proto=0x8100) / Dot1Q(vlan=100)),
        (276, CookedLinuxV2()),
        (276, CookedLinuxV2(proto=0x8100) / Dot1Q(vlan=100)),
        (0, Loopback()),
        (108, Loopback()),
        *((link, None) for link in (12, 14, 101)),
    ],
)
@pytest.mark.parametrize(
    ("ip", "source"), [(V4 / PAYLOAD, "192.0.2.7"), (V6 / V6_UDP / PAYLOAD, "2001:db8::7")], ids=["IPv4", "IPv6"]
)
def test_link_types(tmp_path, link, head, ip, source):
    frame = bytes(head / ip if head else ip)
    assert read(tmp_path, pcap((NS, frame), link=link)) == (one(source=source), {})


def test_link_types_of_one_ip_version(tmp_path):
    assert read(tmp_path, pcap((NS, bytes(V4 / PAYLOAD)), link=228)) == (one(), {})
    v6 = bytes(V6 / V6_UDP / PAYLOAD)
    assert read(tmp_path, pcap((NS, v6), link=229)) == (one(source="2001:db8::7"), {})


def test_unsupported_link_type(tmp_path):
    content = pcap((NS, b"\x80\x02" * 30), (NS, b""), link=105)
    assert read(tmp_path, content) == ([], {"unsupported_link_type": 2})


# Packets


@pytest.mark.parametrize(
    "head",
    [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(28))]),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=0) / IPv6ExtHdrDestOpt(),
        Raw(bytes([17, 4]) + bytes(22)),
        IPv6ExtHdrFragment(id=5),
    ],
)
def test_ipv6_extension_headers(tmp_path, head):
    packet = V6 / head / V6_UDP / PAYLOAD
    if isinstance(head, Raw):  # an authentication header
        packet.nh = 51
    assert read(tmp_path, pcap((NS, ether(packet)))) == (one(source="2001:db8::7"), {})


def test_ipv4_options_padding_and_an_empty_payload(tmp_path):
    options = IP(src="192.0.2.7", dst="192.0.2.99", options=[b"\x01" * 8]) / UDP(sport=4739, dport=2055)
    frames = [(NS, ether(options / PAYLOAD)), (NS, ether(V4).ljust(60, b"\0"))]
    assert read(tmp_path, pcap(*frames)) == (one() + one(b""), {})


def test_other_protocols_are_counted(tmp_path):
    others = [
        ARP(),
        IP(src="192.0.2.7") / TCP(),
        IP(src="192.0.2.7") / ICMP() / bytes(V4 / PAYLOAD),
        V6 / ICMPv6EchoRequest(),
        V6 / IPv6ExtHdrFragment(m=1, nh=58) / bytes(16),
        V6 / IPv6ExtHdrHopByHop(nh=59),
    ]
    frames = [(NS, ether(p)) for p in others] + [(NS, b"\x01\x80\xc2\0\0\0" + bytes(6) + b"\0\x26\x42\x42\x03")]
    assert read(tmp_path, pcap(*frames, (NS, ether(V4 / PAYLOAD)))) == (one(), {"not_udp": 7})


@pytest.mark.parametrize(
    "bad",
    [
        ether(IP(src="192.0.2.7", ihl=4) / UDP() / PAYLOAD),
        ether(IP(src="192.0.2.7", ihl=15, len=28) / UDP() / b""),
        ether(IP(src="192.0.2.7", len=4000) / UDP() / PAYLOAD),
        ether(IP(src="192.0.2.7") / UDP(len=7) / PAYLOAD),
        ether(IP(src="192.0.2.7") / UDP(len=4000) / PAYLOAD),
        ether(V4 / PAYLOAD)[:14] + b"\x75" + ether(V4 / PAYLOAD)[15:],
        ether(IPv6(plen=4000) / UDP() / PAYLOAD),
        ether(IPv6(plen=4) / UDP() / PAYLOAD),
        ether(IPv6(nh=60, plen=8) / bytes([17, 255]) / PAYLOAD),
        ether(IPv6(nh=60) / b""),
        ether(V4 / PAYLOAD)[:30],
        b"\x02",
        b"",
    ],
)
def test_packets_that_contradict_themselves(tmp_path, bad):
    content = pcap((NS, bad), (NS, ether(V4 / PAYLOAD)))
    assert read(tmp_path, content) == (one(), {"bad_packet": 1})


@pytest.mark.parametrize("cut", [10, 20, 36, 60, 240])
def test_packets_captured_in_part(tmp_path, cut):
    assert read(tmp_path, pcap((NS, ether(V4 / PAYLOAD)), cut=cut)) == ([], {"truncated_capture": 1})


def test_a_cut_in_what_follows_the_datagram_does_not_matter(tmp_path):
    frame = ether(V4 / b"\0\5").ljust(60, b"\0")
    assert read(tmp_path, pcap((NS, frame), cut=50)) == (one(b"\0\5"), {})


# Fragments


@fragmented
@pytest.mark.parametrize("order", [1, -1], ids=["in order", "backwards"])
def test_fragments_make_a_datagram_with_the_time_of_the_last(tmp_path, pieces, source, order):
    assert len(pieces) > 6
    expected = one(BIG, source, ns=NS + (len(pieces) - 1) * 1000)
    assert read(tmp_path, raw(*pieces[::order])) == (expected, {})


@fragmented
def test_fragments_captured_twice(tmp_path, pieces, source):
    found, skipped = read(tmp_path, raw(*(p for piece in pieces[:-1] for p in (piece, piece)), pieces[-1]))
    assert [row[3] for row in found] == [BIG]
    assert skipped == {}


@fragmented
def test_a_missing_fragment_is_counted_and_not_made_up_for_by_a_later_packet(tmp_path, pieces, source):
    start = raw(*pieces[1:])
    later = pcap((NS + 31 * SECOND, pieces[0]), link=RAW)[24:]
    assert read(tmp_path, start) == ([], {"incomplete_fragments": 1})
    assert read(tmp_path, start + later) == ([], {"incomplete_fragments": 2})


@fragmented
def test_the_table_of_fragments_is_bounded_and_gives_up_the_oldest(tmp_path, pieces, source):
    first = [bytes(fragment(IP(src="192.0.2.8", id=i) / UDP() / bytes(2000), 1400)[0]) for i in range(100)]
    found, skipped = read(tmp_path, raw(pieces[0], *first, *pieces[1:]))
    assert found == []
    assert skipped == {"incomplete_fragments": 102}
    found, skipped = read(tmp_path, raw(*first, *pieces))
    assert [row[3] for row in found] == [BIG]
    assert skipped == {"incomplete_fragments": 100}


@pytest.mark.parametrize(
    ("offset", "reason"), [(10, "bad_packet"), (12, "incomplete_fragments")], ids=["overlap", "gap"]
)
def test_fragments_that_do_not_fit_together(tmp_path, offset, reason):
    first = IP(src="192.0.2.7", proto=17, flags="MF") / bytes(88)
    last = IP(src="192.0.2.7", proto=17, frag=offset) / bytes(240)
    assert read(tmp_path, raw(bytes(first), bytes(last))) == ([], {reason: 1})


@pytest.mark.parametrize("piece", [IP(proto=17, flags="MF"), IP(proto=17, frag=8191) / bytes(100)])
def test_fragments_that_cannot_be(tmp_path, piece):
    assert read(tmp_path, raw(bytes(piece))) == ([], {"bad_packet": 1})
