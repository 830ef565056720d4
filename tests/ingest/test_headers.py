"""Packet headers to columns, compared with what scapy built."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, GRE, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN

from flowagent.addresses import address_text, address_words
from flowagent.ingest import headers
from flowagent.ingest.headers import parse
from flowagent.schema import COLUMNS

MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
INNER_MACS = {"src": "02:00:00:00:00:0a", "dst": "02:00:00:00:00:0b"}
LINK, INNER_LINK = Ether(**MACS), Ether(**INNER_MACS)
V4 = IP(src="192.0.2.1", dst="192.0.2.2", ttl=63, tos=0x28, id=7)
V4_OPTIONS = IP(src="192.0.2.1", dst="192.0.2.2", ttl=63, tos=0x28, id=7, options=[IPOption_Router_Alert()])
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=62, tc=0xB8, fl=0x12345)
INNER4, INNER6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")
REQUEST = ARP(hwsrc="02:00:00:00:00:01", psrc="192.0.2.1")
TCP_ACK = TCP(sport=4000, dport=443, flags="SA")
MAC_COLUMNS = {"src_mac": 0x020000000001, "dst_mac": 0x020000000002}
INNER_MAC_COLUMNS = {"src_mac": 0x02000000000A, "dst_mac": 0x02000000000B}
ON_V4 = {
    "src_addr": "192.0.2.1", "dst_addr": "192.0.2.2", "ttl": 63, "tos": 0x28,
    "fragmentIdentification": 7, "fragmentOffset": 0, "fragmentFlags": 0,
}  # fmt: skip
ON_V6 = {"src_addr": "2001:db8::1", "dst_addr": "2001:db8::2", "ttl": 62, "tos": 0xB8, "flowLabelIPv6": 0x12345}
ON_TCP = {"proto": 6, "src_port": 4000, "dst_port": 443, "tcp_flags": 0x12}
ON_INNER4 = {
    "src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "ttl": 64, "tos": 0,
    "fragmentIdentification": 1, "fragmentOffset": 0, "fragmentFlags": 0, "ipTotalLength": 40,
}  # fmt: skip
ON_INNER6 = {
    "src_addr": "fd00::1", "dst_addr": "fd00::2", "ttl": 64, "tos": 0, "flowLabelIPv6": 0, "ipTotalLength": 60,
}  # fmt: skip
IN_V4 = {"tunnel_src_addr": "192.0.2.1", "tunnel_dst_addr": "192.0.2.2"}
IN_V6 = {"tunnel_src_addr": "2001:db8::1", "tunnel_dst_addr": "2001:db8::2"}


def framed(frames):
    """Data, offset, length of frames that lie one behind the other."""
    length = np.array([len(f) for f in frames], np.int64)
    return np.frombuffer(b"".join(frames), np.uint8), np.cumsum(length) - length, length


def told(frames, link=headers.ETHERNET, **options):
    """What is known of each frame."""
    columns = parse(*framed(frames), link, **options)
    rows = [{} for _ in frames]
    for name, (data, known) in columns.items():
        assert data.shape[-1] == len(frames)
        assert data.dtype == (COLUMNS[name].dtype if name in COLUMNS else np.uint64)
        for i, row in enumerate(rows):
            if known is None or known[i]:
                row[name] = address_text(*map(int, data[:, i])) if data.ndim == 2 else int(data[i])
    return rows


def ethernet(kind, **more):
    return MAC_COLUMNS | {"ether_type": kind} | more


CASES = {
    "TCP": (LINK / V4 / TCP_ACK / b"data", ethernet(0x0800, **ON_V4, **ON_TCP, ipTotalLength=44)),
    "TCP over IPv6": (LINK / V6 / TCP_ACK / b"data", ethernet(0x86DD, **ON_V6, **ON_TCP, ipTotalLength=64)),
    "UDP": (
        LINK / V4 / UDP(sport=53, dport=5353) / b"x",
        ethernet(0x0800, **ON_V4, proto=17, src_port=53, dst_port=5353, ipTotalLength=29),
    ),
    "SCTP": (
        LINK / V4 / SCTP(sport=1, dport=2),
        ethernet(0x0800, **ON_V4, proto=132, src_port=1, dst_port=2, ipTotalLength=32),
    ),
    "ICMP": (
        LINK / V4 / ICMP(type=3, code=1) / b"12345678",
        ethernet(0x0800, **ON_V4, proto=1, icmp_type=3, icmp_code=1, ipTotalLength=36),
    ),
    "ICMPv6": (
        LINK / V6 / ICMPv6EchoRequest(),
        ethernet(0x86DD, **ON_V6, proto=58, icmp_type=128, icmp_code=0, ipTotalLength=48),
    ),
    "options": (
        LINK / V4_OPTIONS / TCP_ACK,
        ethernet(0x0800, **ON_V4, **ON_TCP, ipTotalLength=44),
    ),
    "VLAN": (LINK / Dot1Q(vlan=100) / V4 / TCP_ACK, ethernet(0x0800, **ON_V4, **ON_TCP, ipTotalLength=40, vlan=100)),
    "VLAN in VLAN": (
        LINK / Dot1AD(vlan=4094, prio=7) / Dot1Q(vlan=12) / V6 / TCP_ACK,
        ethernet(0x86DD, **ON_V6, **ON_TCP, ipTotalLength=60, vlan=4094, dot1qCustomerVlanId=12),
    ),
    "MPLS": (
        LINK / MPLS(label=70000, s=0) / MPLS(label=17, s=1) / V4 / TCP_ACK,
        ethernet(0x8847, **ON_V4, **ON_TCP, ipTotalLength=40, mpls_label=70000),
    ),
    "PPPoE": (
        LINK / PPPoE(sessionid=1) / PPP() / V4 / TCP_ACK,
        ethernet(0x8864, **ON_V4, **ON_TCP, ipTotalLength=40),
    ),
    "ARP": (LINK / REQUEST, ethernet(0x0806)),
    "802.3": (Dot3(**MACS) / LLC() / SNAP(), MAC_COLUMNS),
    "first fragment": (
        LINK / IP(src="192.0.2.1", dst="192.0.2.2", ttl=63, tos=0x28, id=7, flags="MF") / TCP_ACK,
        ethernet(0x0800, **ON_V4 | {"fragmentFlags": 0x20}, **ON_TCP, ipTotalLength=40),
    ),
    "later fragment": (
        LINK / IP(src="192.0.2.1", dst="192.0.2.2", ttl=63, tos=0x28, id=7, frag=185, proto=6) / bytes(TCP_ACK),
        ethernet(0x0800, **ON_V4 | {"fragmentOffset": 185}, proto=6, ipTotalLength=40),
    ),
    "IPv6 first fragment": (
        LINK / V6 / IPv6ExtHdrFragment(id=9, m=1) / TCP_ACK,
        ethernet(0x86DD, **ON_V6, **ON_TCP, ipTotalLength=68, fragmentIdentification=9, fragmentOffset=0,
                 fragmentFlags=0x20),
    ),
    "IPv6 later fragment": (
        LINK / V6 / IPv6ExtHdrFragment(id=9, m=0, offset=181, nh=6) / bytes(TCP_ACK),
        ethernet(0x86DD, **ON_V6, proto=6, ipTotalLength=68, fragmentIdentification=9, fragmentOffset=181,
                 fragmentFlags=0),
    ),
    "IPv6 extensions": (
        LINK / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["fd00::9"]) / IPv6ExtHdrDestOpt() / TCP_ACK,
        ethernet(0x86DD, **ON_V6, **ON_TCP, ipTotalLength=100),
    ),
    "VXLAN": (
        LINK / V4 / UDP(sport=5, dport=4789) / VXLAN(vni=5001, flags=8) / INNER_LINK / INNER4 / TCP_ACK,
        INNER_MAC_COLUMNS | ON_INNER4 | ON_TCP | IN_V4 | {"ether_type": 0x0800, "tunnel_type": 1, "tunnel_key": 5001},
    ),
    "VXLAN, the kernel's port": (
        LINK / Dot1Q(vlan=3) / V6 / UDP(sport=5, dport=8472) / VXLAN(vni=9, flags=8) / INNER_LINK / Dot1Q(vlan=4)
        / INNER6 / TCP_ACK,
        INNER_MAC_COLUMNS | ON_INNER6 | ON_TCP | IN_V6
        | {"ether_type": 0x86DD, "tunnel_type": 1, "tunnel_key": 9, "vlan": 4},
    ),
    "VXLAN with ARP": (
        LINK / V4 / UDP(sport=5, dport=4789) / VXLAN(vni=1, flags=8) / INNER_LINK / REQUEST,
        INNER_MAC_COLUMNS | IN_V4 | {"ether_type": 0x0806, "tunnel_type": 1, "tunnel_key": 1},
    ),
    "not VXLAN": (
        LINK / V4 / UDP(sport=5, dport=4789) / bytes(64),
        ethernet(0x0800, **ON_V4, proto=17, src_port=5, dst_port=4789, ipTotalLength=92),
    ),
    "Geneve": (
        LINK / V4 / UDP(sport=5, dport=6081) / GENEVE(vni=77, proto=0x6558, optionlen=2, options=bytes(8))
        / INNER_LINK / INNER4 / TCP_ACK,
        INNER_MAC_COLUMNS | ON_INNER4 | ON_TCP | IN_V4 | {"ether_type": 0x0800, "tunnel_type": 7, "tunnel_key": 77},
    ),
    "GRE": (
        LINK / V4 / GRE() / INNER4 / TCP_ACK,
        ethernet(0x0800, **ON_INNER4, **ON_TCP, **IN_V4, tunnel_type=2),
    ),
    "GRE with a key": (
        LINK / V6 / GRE(chksum_present=1, key_present=1, seqnum_present=1, key=99) / INNER6 / TCP_ACK,
        ethernet(0x86DD, **ON_INNER6, **ON_TCP, **IN_V6, tunnel_type=2, tunnel_key=99),
    ),
    "GRE with Ethernet": (
        LINK / V4 / GRE(proto=0x6558, key_present=1, key=5) / INNER_LINK / INNER4 / TCP_ACK,
        INNER_MAC_COLUMNS | ON_INNER4 | ON_TCP | IN_V4 | {"ether_type": 0x0800, "tunnel_type": 2, "tunnel_key": 5},
    ),
    "IP in IP": (LINK / V4 / INNER4 / TCP_ACK, ethernet(0x0800, **ON_INNER4, **ON_TCP, **IN_V4)),
    "IPv6 in IP": (LINK / V4 / INNER6 / TCP_ACK, ethernet(0x0800, **ON_INNER6, **ON_TCP, **IN_V4)),
}  # fmt: skip
FRAMES = [bytes(frame) for frame, _ in CASES.values()]
TRUTHS = [expected for _, expected in CASES.values()]


@pytest.mark.parametrize("name", CASES)
def test_a_frame_alone(name):
    frame, expected = CASES[name]
    assert told([bytes(frame)]) == [expected]


def test_all_frames_together():
    assert told(FRAMES) == TRUTHS


@settings(deadline=None)
@given(st.lists(st.sampled_from(range(len(FRAMES))), min_size=1, max_size=30))
def test_neighbours_do_not_matter(chosen):
    assert told([FRAMES[i] for i in chosen]) == [TRUTHS[i] for i in chosen]


@pytest.mark.parametrize("name", CASES)
def test_a_frame_that_ends_early_tells_what_is_there(name):
    """Cut behind any byte, with other bytes behind the cut, it tells nothing else than the whole one or its outside."""
    whole, outside = bytes(CASES[name][0]), told([bytes(CASES[name][0])], inner=False)[0]
    expected = CASES[name][1]
    n = len(whole)
    for filling in (b"\x00", b"\x45", b"\xff"):
        data = b"".join(whole[:i] + filling * 64 for i in range(n + 1))
        length = np.arange(n + 1)
        columns = parse(np.frombuffer(data, np.uint8), np.cumsum(length + 64) - length - 64, length)
        for column, (values, known) in columns.items():
            for i in np.flatnonzero(known) if known is not None else range(n + 1):
                value = address_text(*map(int, values[:, i])) if values.ndim == 2 else int(values[i])
                assert value in (expected.get(column), outside.get(column)), (column, i)


def test_fields_are_known_from_their_last_byte_on():
    frame = bytes(CASES["TCP"][0])
    first = {"src_mac": 12, "dst_mac": 6, "ether_type": 14, "tos": 16, "ttl": 23, "proto": 24, "src_addr": 30,
             "dst_addr": 34, "src_port": 36, "dst_port": 38, "tcp_flags": 48, "ipTotalLength": 18,
             "fragmentIdentification": 20, "fragmentOffset": 22, "fragmentFlags": 21}  # fmt: skip
    rows = told([frame[:i] for i in range(60)])
    assert {name: next(i for i, row in enumerate(rows) if name in row) for name in rows[-1]} == first


def test_what_stands_behind_a_packet_is_not_part_of_it():
    short = bytes(LINK / IP(src="192.0.2.1", dst="192.0.2.2", proto=6, len=20))
    assert "src_port" not in told([short + bytes(26)])[0]
    assert "dst_port" not in told([bytes(LINK / IPv6(src="::1", dst="::2", nh=6, plen=2)) + bytes(26)])[0]


def test_a_packet_not_cut_into_segments_yet_has_no_length():
    segmented = bytes(LINK / IP(src="192.0.2.1", dst="192.0.2.2", len=0) / TCP_ACK)
    assert told([segmented])[0]["src_port"] == 4000


LINKS = {
    headers.IPV4: (V4 / TCP_ACK, ON_V4 | ON_TCP | {"ipTotalLength": 40}),
    headers.IPV6: (V6 / TCP_ACK, ON_V6 | ON_TCP | {"ipTotalLength": 60}),
    101: (V6 / TCP_ACK, ON_V6 | ON_TCP | {"ipTotalLength": 60}),
    headers.NULL: (b"\x02\0\0\0" + bytes(V4 / TCP_ACK), ON_V4 | ON_TCP | {"ipTotalLength": 40}),
    headers.MPLS: (MPLS(label=5, s=1) / V4 / TCP_ACK, ON_V4 | ON_TCP | {"ipTotalLength": 40, "mpls_label": 5}),
    headers.SLL: (
        CookedLinux(src=b"\x02\0\0\0\0\x01", lladdrlen=6, proto=0x0800) / V4 / TCP_ACK,
        ON_V4 | ON_TCP | {"ipTotalLength": 40, "src_mac": 0x020000000001, "ether_type": 0x0800},
    ),
    headers.SLL2: (
        CookedLinuxV2(src=b"\x02\0\0\0\0\x01", lladdrlen=6, proto=0x86DD) / V6 / TCP_ACK,
        ON_V6 | ON_TCP | {"ipTotalLength": 60, "src_mac": 0x020000000001, "ether_type": 0x86DD},
    ),
}  # fmt: skip


@pytest.mark.parametrize("link", LINKS)
def test_links(link):
    frame, expected = LINKS[link]
    assert told([bytes(frame), bytes(frame)], link) == [expected] * 2


def test_a_link_that_is_not_understood_is_refused():
    with pytest.raises(ValueError, match="link type 105"):
        parse(*framed(FRAMES), 105)


def test_tunnels_stay_closed_where_that_is_wished():
    row = told([bytes(CASES["VXLAN"][0])], inner=False)[0]
    assert (row["src_addr"], row["dst_port"], "tunnel_key" in row) == ("192.0.2.1", 4789, False)


def test_only_what_is_wanted():
    assert told(FRAMES, wanted={"dst_port"}) == [{k: v for k, v in t.items() if k == "dst_port"} for t in TRUTHS]
    outer = {"tunnel_src_addr", "tunnel_key"}
    assert told(FRAMES, wanted=outer) == [{k: v for k, v in t.items() if k in outer} for t in TRUTHS]


def test_no_frames():
    assert parse(np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64)) == {}


def test_chains_of_extensions_and_labels_are_bounded():
    endless = bytes(LINK / V6)[:20] + b"\x00" + bytes(LINK / V6)[21:] + bytes(8) * 40
    assert "proto" not in told([endless])[0]
    assert told([bytes(LINK / MPLS(label=3, s=0)) + b"\x00\x00\x30\x00" * 60])[0] == ethernet(0x8847, mpls_label=3)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=150), min_size=1, max_size=8), st.sampled_from(sorted(headers.LINKS)))
def test_noise_is_read_within_its_bounds(frames, link):
    """What lies around the frames makes no difference."""
    alone = told(frames, link)
    padded = [b"\xa5" * 7 + f + b"\x5a" * 7 for f in frames]
    data, offset, length = framed(padded)
    columns = parse(data, offset + 7, length - 14, link)
    for i, row in enumerate(alone):
        for name, (values, known) in columns.items():
            if known is None or known[i]:
                value = address_text(*map(int, values[:, i])) if values.ndim == 2 else int(values[i])
                assert row[name] == value
            else:
                assert name not in row


ADDRESSES4, ADDRESSES6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
PORT, BYTE = st.integers(0, 0xFFFF), st.integers(0, 255)
OUTSIDE_TUNNELS = PORT.filter(lambda port: port not in (4789, 8472, 6081))


@st.composite
def packets(draw):
    """A frame by scapy and the columns it should become."""
    expected = {"ether_type": 0x0800, "ttl": draw(BYTE), "tos": draw(BYTE)}
    if draw(st.booleans()):
        expected |= {"src_addr": draw(ADDRESSES4), "dst_addr": draw(ADDRESSES4)}
        network = IP(src=expected["src_addr"], dst=expected["dst_addr"], ttl=expected["ttl"], tos=expected["tos"])
    else:
        expected |= {"src_addr": draw(ADDRESSES6), "dst_addr": draw(ADDRESSES6), "ether_type": 0x86DD}
        network = IPv6(src=expected["src_addr"], dst=expected["dst_addr"], hlim=expected["ttl"], tc=expected["tos"])
        if draw(st.booleans()):
            network /= IPv6ExtHdrHopByHop()
    ports = {"src_port": draw(PORT), "dst_port": draw(OUTSIDE_TUNNELS)}
    proto = draw(st.sampled_from([6, 17, 132]))
    expected |= {"proto": proto, **ports}
    layer = {6: TCP, 17: UDP, 132: SCTP}[proto](sport=ports["src_port"], dport=ports["dst_port"])
    if proto == 6:
        expected["tcp_flags"] = layer.flags = draw(st.integers(0, 511))
    link = LINK
    if draw(st.booleans()):
        expected["vlan"] = draw(st.integers(0, 4095))
        link = LINK / Dot1Q(vlan=expected["vlan"])
    return bytes(link / network / layer / draw(st.binary(max_size=20))), expected


@settings(deadline=None)
@given(st.lists(packets(), min_size=1, max_size=12))
def test_packets_of_any_kind(made):
    rows = told([frame for frame, _ in made])
    for row, (_, expected) in zip(rows, made, strict=True):
        shown = {k: v for k, v in row.items() if k in (*expected, "tunnel_type", "icmp_type", "mpls_label")}
        assert shown == {k: address(v) if k.endswith("addr") else v for k, v in expected.items()}


def address(text):
    return address_text(*address_words(text))
