"""Captures made in memory: containers, packets, fragments, and what is read from them."""

import os
import struct
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import Ether

from flowagent.addresses import address_text
from flowagent.ingest.pcap import Capture

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
