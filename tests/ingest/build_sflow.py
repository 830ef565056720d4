"""sFlow datagrams built byte by byte."""

import ipaddress
import struct

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

AGENT = "198.51.100.9"
FRAME = bytes(
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    / IP(src="192.0.2.1", dst="192.0.2.2")
    / TCP(sport=4000, dport=443, flags="SA")
    / bytes(100)
)


def address(text):
    if text is None:
        return struct.pack("!I", 0)
    value = ipaddress.ip_address(text)
    return struct.pack("!I", 1 if value.version == 4 else 2) + value.packed


def datagram(*samples, agent=AGENT, sub_agent=0, sequence=1, count=None):
    head = struct.pack("!I", 5) + address(agent)
    count = len(samples) if count is None else count
    return head + struct.pack("!IIII", sub_agent, sequence, 1000, count) + b"".join(samples)


def item(kind, body, length=None):
    body += bytes(-len(body) % 4)
    return struct.pack("!II", kind, len(body) if length is None else length) + body


def flow(*records, rate=100, in_if=3, out_if=4, source=3, drops=0, number=1, count=None):
    count = len(records) if count is None else count
    return item(1, struct.pack("!8I", number, source, rate, 0, drops, in_if, out_if, count) + b"".join(records))


def expanded_flow(*records, rate=100, in_if=(0, 3), out_if=(0, 4), source=(0, 3), drops=0):
    fixed = struct.pack("!11I", 1, *source, rate, 0, drops, *in_if, *out_if, len(records))
    return item(3, fixed + b"".join(records))


def header(frame=FRAME, protocol=1, frame_length=None, stripped=4, size=128):
    frame_length = len(frame) + stripped if frame_length is None else frame_length
    kept = frame[:size]
    return item(1, struct.pack("!IIII", protocol, frame_length, stripped, len(kept)) + kept)


NAMES = (
    "if_index", "if_type", "speed", "direction", "status", "in_octets", "in_unicast", "in_multicast", "in_broadcast",
    "in_discards", "in_errors", "in_unknown", "out_octets", "out_unicast", "out_multicast", "out_broadcast",
    "out_discards", "out_errors", "promiscuous",
)  # fmt: skip


def interface(if_index, **values):
    values = {"status": 3, "if_index": if_index} | values
    return item(1, struct.pack("!IIQIIQIIIIIIQIIIIII", *(values.get(name, 0) for name in NAMES)))


def datapath(*values):
    """Hit, missed, lost, masks tried; flows, masks."""
    return item(2207, struct.pack("!6I", *values))


def counters(*records, source=3, number=1):
    return item(2, struct.pack("!III", number, source, len(records)) + b"".join(records))


def expanded_counters(*records, source=(0, 3), number=1):
    return item(4, struct.pack("!IIII", number, *source, len(records)) + b"".join(records))
