"""Captures: every container, link type and header on the way to UDP; damage is counted, never raised."""

import gzip
import io
import json
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    fragment6,
)
from scapy.layers.l2 import ARP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.packet import Raw

from flowagent.addresses import address_text
from flowagent.errors import ConfigError
from flowagent.ingest.pcap import Capture, captures

DATA = Path(__file__).parents[1] / "data" / "captures"
TRUTHS = sorted(DATA.rglob("*.truth.json"))
SECOND = 10**9
NS = 1_700_000_000 * SECOND + 123_456_789
ETHERNET, RAW = 1, 101

# With addresses, or scapy asks the network for them.
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="192.0.2.7", dst="192.0.2.99") / UDP(sport=4739, dport=9995)
V6 = IPv6(src="2001:db8::7", dst="2001:db8::99")
V6_UDP = UDP(sport=4739, dport=9995)
PAYLOAD = b"\x00\x0a" + bytes(range(200))


def pcap(*packets, link=ETHERNET, order="<", magic=0xA1B23C4D, cut=None):
    """A pcap file of (time in ns, frame)."""
    out = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 1 << 18, link)
    unit = 1 if magic == 0xA1B23C4D else 1000
    for ns, frame in packets:
        kept = frame[:cut]
        out += struct.pack(f"{order}4I", ns // SECOND, ns % SECOND // unit, len(kept), len(frame)) + kept
    return out


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    return struct.pack(f"{order}2I", kind, len(body) + 12) + body + struct.pack(f"{order}I", len(body) + 12)


def section(order="<"):
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order="<", link=ETHERNET, longest=0, resolution=None, offset=None):
    options = struct.pack(f"{order}2H4s", 2, 3, b"lo0\0")
    if resolution is not None:
        options += struct.pack(f"{order}2HB3x", 9, 1, resolution)
    if offset is not None:
        options += struct.pack(f"{order}2Hq", 14, 8, offset)
    return block(order, 1, struct.pack(f"{order}HxxI", link, longest) + options + bytes(4))


def enhanced(frame, ticks, number=0, order="<", captured=None):
    captured = len(frame) if captured is None else captured
    head = struct.pack(f"{order}5I", number, ticks >> 32, ticks & 0xFFFFFFFF, captured, len(frame))
    return block(order, 6, head + frame[:captured])


def ether(packet):
    return bytes(LINK / packet)


def read(tmp_path, content, **options):
    """All datagrams of one file as (exporter, port, ns, payload), and what was skipped."""
    path = tmp_path / "file"
    path.write_bytes(content)
    capture = Capture([path])
    return rows(capture, **options), dict(capture.skipped)


def rows(capture, **options):
    return [
        (address_text(*map(int, d.exporter[:, i])), int(d.port[i]), int(d.received_ns[i]), d.payload(i))
        for d in capture.datagrams(**options)
        for i in range(len(d))
    ]


def one(payload=PAYLOAD, source="192.0.2.7", port=4739, ns=NS):
    return [(source, port, ns, payload)]


# Containers


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "ns"), [(0xA1B2C3D4, NS // 1000 * 1000), (0xA1B23C4D, NS)])
def test_pcap_in_both_orders_and_resolutions(tmp_path, order, magic, ns):
    content = pcap((NS, ether(V4 / PAYLOAD)), order=order, magic=magic)
    assert read(tmp_path, content) == (one(ns=ns), {})


def test_pcap_whose_link_type_tells_of_check_sequences(tmp_path):
    frame = ether(V4 / PAYLOAD) + b"\xde\xad\xbe\xef"
    assert read(tmp_path, pcap((NS, frame), link=0x2400_0001)) == (one(), {})


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("resolution", "ticks", "ns"),
    [
        (None, NS // 1000, NS // 1000 * 1000),
        (6, NS // 1000, NS // 1000 * 1000),
        (9, NS, NS),
        (10, NS * 10 + 9, NS),
        (0, NS // SECOND, NS // SECOND * SECOND),
        (0x80 | 10, 1_700_000_000 * 1024 + 512, 1_700_000_000 * SECOND + SECOND // 2),
    ],
)
def test_pcapng_resolutions(tmp_path, order, resolution, ticks, ns):
    content = section(order) + interface(order, resolution=resolution)
    content += enhanced(ether(V4 / PAYLOAD), ticks, order=order)
    assert read(tmp_path, content) == (one(ns=ns), {})


def test_pcapng_interfaces_have_their_own_link_type_and_time(tmp_path):
    content = section() + interface(resolution=9, offset=100) + interface(link=RAW, resolution=6)
    content += enhanced(bytes(V4 / PAYLOAD), NS // 1000, 1) + enhanced(ether(V4 / PAYLOAD), NS, 0)
    expected = one(ns=NS // 1000 * 1000) + one(ns=NS + 100 * SECOND)
    assert read(tmp_path, content) == (expected, {})


def test_pcapng_sections_start_anew_and_unknown_blocks_are_passed_over(tmp_path):
    content = section() + interface() + block("<", 0xBAD, b"abcd" * 5)
    content += section(">") + interface(">", link=RAW, resolution=9)
    content += block(">", 5, bytes(20)) + enhanced(bytes(V4 / PAYLOAD), NS, order=">")
    assert read(tmp_path, content) == (one(), {})


def test_pcapng_simple_and_old_packets(tmp_path):
    frame = ether(V4 / PAYLOAD)
    simple = block("<", 3, struct.pack("<I", len(frame)) + frame)
    old = block("<", 2, struct.pack("<HH4I", 0, 7, NS >> 32, NS & 0xFFFFFFFF, len(frame), len(frame)) + frame)
    content = section() + interface(resolution=9) + old + simple
    assert read(tmp_path, content) == (one() * 2, {})


def test_pcapng_simple_packet_is_cut_by_its_interface(tmp_path):
    frame = ether(V4 / PAYLOAD)
    content = section() + interface(longest=96) + block("<", 3, struct.pack("<I", len(frame)) + frame[:96])
    assert read(tmp_path, content) == ([], {"truncated_capture": 1})


@pytest.mark.parametrize(
    "bad",
    [
        enhanced(ether(V4 / PAYLOAD), NS, number=3),
        enhanced(ether(V4 / PAYLOAD), 1 << 63),
        block("<", 6, struct.pack("<5I", 0, 0, 0, 5000, 5000) + bytes(8)),
        block("<", 6, b"abcd"),
        block("<", 3, b""),
    ],
)
def test_pcapng_a_bad_packet_block_costs_only_itself(tmp_path, bad):
    content = section() + interface(resolution=9) + bad + enhanced(ether(V4 / PAYLOAD), NS)
    assert read(tmp_path, content) == (one(), {"bad_packet": 1})


@pytest.mark.parametrize(
    "damage",
    [
        struct.pack("<2I", 6, 8),
        struct.pack("<2I", 6, 33),
        struct.pack("<2I", 6, 1 << 30),
        block("<", 0x0A0D0D0A, b"what" * 4),
        block("<", 1, b"abcd"),
        block("<", 1, struct.pack("<HxxI2H", 1, 0, 9, 1)),
    ],
)
def test_pcapng_a_damaged_structure_ends_the_file(tmp_path, damage):
    content = section() + interface(resolution=9) + enhanced(ether(V4 / PAYLOAD), NS) + damage
    assert read(tmp_path, content + bytes(64)) == (one(), {"bad_file": 1})


def test_pcap_with_an_impossible_length_ends_there(tmp_path):
    content = pcap((NS, ether(V4 / PAYLOAD))) + struct.pack("<4I", 0, 0, 1 << 31, 1 << 31)
    assert read(tmp_path, content + bytes(64)) == (one(), {"bad_file": 1})


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

BIG = os.urandom(9000)
PIECES = {
    "IPv4": ([bytes(p) for p in fragment(IP(bytes(V4 / BIG)), 1400)], "192.0.2.7"),
    "IPv6": ([bytes(p) for p in fragment6(V6 / IPv6ExtHdrFragment(id=9) / V6_UDP / BIG, 1400)], "2001:db8::7"),
    "IPv6, options": (
        [bytes(p) for p in fragment6(V6 / IPv6ExtHdrFragment(id=9) / IPv6ExtHdrDestOpt() / V6_UDP / BIG, 1400)],
        "2001:db8::7",
    ),
}
fragmented = pytest.mark.parametrize(("pieces", "source"), PIECES.values(), ids=PIECES)


def raw(*frames, step=1000):
    return pcap(*((NS + i * step, frame) for i, frame in enumerate(frames)), link=RAW)


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


# Damage


def small_captures():
    frames = [ether(V4 / PAYLOAD), ether(ARP()), *(ether(IP(p)) for p in PIECES["IPv4"][0][:2])]
    frames += [ether(V6 / V6_UDP / b"\0\5abc"), ether(V4 / b"\0\1")]
    blocks = [section(), interface(resolution=9)] + [enhanced(f[:400], NS) for f in frames]
    return {"pcap": pcap(*((NS, f[:400]) for f in frames)), "pcapng": b"".join(blocks)}


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_a_file_cut_anywhere_gives_a_prefix(tmp_path, form, compress):
    content = compress(small_captures()[form])
    whole, skipped = read(tmp_path, content)
    assert len(whole) == 3
    assert "truncated_file" not in skipped
    cuts = 0
    for size in range(len(content)):
        found, skipped = read(tmp_path, content[:size])
        assert found == whole[: len(found)]
        assert skipped.keys() <= {"truncated_file", "not_udp", "bad_packet", "incomplete_fragments"}
        cuts += skipped.get("truncated_file", 0)
    # Only between packets a cut cannot be told from an end.
    assert len(content) - cuts <= 10


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("random")


@given(st.binary(max_size=400), st.sampled_from(sorted({0, 1, 12, 108, 113, 276, 228})), st.booleans())
def test_random_packets(scratch, content, link, ip):
    frame = content if not ip else bytes([0x45 if content[:1] < b"\x80" else 0x60]) + content
    found, skipped = read(scratch, pcap((NS, frame), link=link))
    assert len(found) + sum(skipped.values()) == 1


@given(
    st.sampled_from([b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", section(), b"\x1f\x8b", b""]), st.binary(max_size=400)
)
def test_random_files(scratch, start, content):
    read(scratch, start + content)


@given(st.data())
def test_damaged_captures(scratch, data):
    content = bytearray(small_captures()[data.draw(st.sampled_from(["pcap", "pcapng"]))])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read(scratch, bytes(content))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
def test_damaged_compression_is_counted(tmp_path, compress):
    content = bytearray(compress(small_captures()["pcap"]))
    content[-4] ^= 0x55
    _, skipped = read(tmp_path, bytes(content))
    assert skipped["bad_file"] == 1
    (capture,) = captures([tmp_path / "file"])
    assert rows(capture) == read(tmp_path, bytes(content))[0]


# Files


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        zstandard.compress,
        lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
        lambda data: zstandard.compress(data[:700]) + zstandard.compress(data[700:]),
    ],
)
def test_compressed_captures_are_read_as_they_are(tmp_path, compress):
    content = (DATA / "ovs-nf5.pcap").read_bytes()
    assert read(tmp_path, compress(content)) == read(tmp_path, content)


def test_payload_files_next_to_each_other_are_one_capture(tmp_path):
    def file(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    first, second = file("a.dat", b"\0\x09template"), file("b.bin.gz", gzip.compress(b"\0\x09data"))
    whole, last = file("c.pcap", pcap((NS, ether(V4 / PAYLOAD)))), file("d", b"\0\x05")
    cut, third = file("e.pcap", b"\xa1\xb2"), file("f", b"\0\x05long enough")
    groups = captures([first, second, whole, whole, third, third, cut, third, last])
    assert [list(group.paths) for group in groups] == [
        [first, second],
        [whole],
        [whole],
        [third, third],
        [cut],
        [third],
        [last],
    ]
    start = 1_700_000_001 * SECOND
    assert rows(groups[0]) == [
        ("192.0.2.1", 4444, start, b"\0\x09template"),
        ("192.0.2.1", 4444, start + SECOND, b"\0\x09data"),
    ]
    assert [groups[0].name, groups[1].name] == [f"{first} and 1 more", str(whole)]
    assert groups[0].size == first.stat().st_size + second.stat().st_size
    assert rows(groups[4]) == []
    assert groups[4].skipped == {"truncated_file": 1}


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir])
def test_files_that_cannot_be_read(tmp_path, make):
    path = tmp_path / "missing.pcap"
    make(path)
    with pytest.raises(ConfigError, match=r"missing\.pcap: cannot be read: .*; name a") as caught:
        captures([DATA / "ovs-nf5.pcap", path])
    assert caught.value.path == str(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        rows(Capture([path]))


def test_reading_that_fails_midway(tmp_path, monkeypatch):
    class Disk(io.BytesIO):
        def peek(self, size):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", lambda path, mode: Disk())
    for attempt in (captures, lambda paths: rows(Capture(paths))):
        with pytest.raises(ConfigError, match="Input/output error"):
            attempt([tmp_path / "capture"])


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(65536))
    with pytest.raises(ConfigError, match="neither pcap nor pcapng and too long"):
        captures([path])
    assert read(tmp_path, bytes(65536)) == ([], {"bad_file": 1})
    assert len(read(tmp_path, bytes(65535))[0]) == 1


def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[(DATA / "ovs-nf5.pcap").read_bytes()])
    (capture,) = captures([path])
    assert capture.size == 0
    writer.start()
    assert len(rows(capture)) == 15
    writer.join()


# Chunks


def test_chunks_are_bounded_by_count(tmp_path):
    path = tmp_path / "many.pcap"
    path.write_bytes(raw(*(bytes(V4 / bytes([i, 1])) for i in range(10))))
    capture = Capture([path])
    chunks = list(capture.datagrams(chunk=4))
    assert [len(c) for c in chunks] == [4, 4, 2]
    assert [c.payload(i)[0] for c in chunks for i in range(len(c))] == list(range(10))
    d = chunks[0]
    assert (d.data.dtype, d.offset.dtype, d.length.dtype) == (np.uint8, np.int64, np.int64)
    assert (d.exporter.dtype, d.port.dtype, d.received_ns.dtype) == (np.uint64, np.uint16, np.int64)
    assert d.exporter.shape == (2, 4)
    assert d.port.shape == d.received_ns.shape == (4,)


def test_chunks_are_bounded_by_bytes(tmp_path):
    path = tmp_path / "large.pcap"
    path.write_bytes(raw(*[bytes(V4 / bytes(60000))] * 200))
    sizes = [int(d.length.sum()) for d in Capture([path]).datagrams()]
    assert len(sizes) == 2
    assert max(sizes) < (8 << 20) + 65536
    assert sum(sizes) == 200 * 60000


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_progress_ends_at_the_size_of_the_files(tmp_path, compress):
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.write_bytes(compress((DATA / "ovs-ipfix-flow.pcap").read_bytes()))
    told = []
    capture = Capture(paths)
    assert sum(len(d) for d in capture.datagrams(chunk=100, progress=told.append)) == 2 * 672
    assert told == sorted(told)
    assert len(told) > 10
    assert told[-1] == capture.size == sum(path.stat().st_size for path in paths)


def test_every_reading_begins_anew(tmp_path):
    path = tmp_path / "mixed.pcap"
    path.write_bytes(pcap((NS, ether(ARP())), (NS, ether(V4 / PAYLOAD))))
    capture = Capture([path])
    for _ in range(2):
        assert rows(capture) == one()
        assert capture.skipped == {"not_udp": 1}


def test_a_reading_may_be_left(tmp_path):
    reading = Capture([DATA / "ovs-ipfix-flow.pcap"]).datagrams(chunk=1)
    next(reading)
    reading.close()


# Real captures


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda path: path.name.removesuffix(".truth.json"))
def test_captures_hold_what_is_known_of_them(truth):
    known = json.loads(truth.read_text())
    names = known.get("files") or [known["file"]]
    (capture,) = captures([truth.parent / name for name in names])
    chunks = list(capture.datagrams())
    assert sum(len(d) for d in chunks) == known["datagrams"]["total"]
    assert sum(int(d.length.sum()) for d in chunks) == known["datagrams"]["udp_payload_bytes"]
    assert int(chunks[0].received_ns[0]) // 10**6 == known["datagrams"]["first_ms"]
    assert int(chunks[-1].received_ns[-1]) // 10**6 == known["datagrams"]["last_ms"]
    ports = {port for d in chunks for port in d.port.tolist()}
    assert ports >= {stream["src_port"] for stream in known["streams"]}


def test_there_are_captures():
    assert len(TRUTHS) == 45
