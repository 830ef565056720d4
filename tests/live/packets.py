"""Packets: invented ones, and what a capture of real ones holds."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

from live.agent import TCP, UDP, Flow, Sums, merged
from scapy.layers import inet, inet6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapReader, wrpcap

IpPacket = inet.IP | inet6.IPv6


def write_traffic(path: Path, seed: int, conversations: int, *, ipv6: bool = False) -> None:
    """A capture of so many conversations, both directions of each, spread over a second."""
    rng = random.Random(seed)
    packets = [packet for _ in range(conversations) for packet in _conversation(rng, ipv6=ipv6 and rng.random() < 0.3)]
    now = time.time()  # noqa: TID251
    for i, packet in enumerate(packets):
        packet.time = now + i / len(packets)
    wrpcap(str(path), packets)


def _conversation(rng: random.Random, *, ipv6: bool) -> Iterator[Packet]:
    net, layer = ("fd00:7::", inet6.IPv6) if ipv6 else ("10.7.0.", inet.IP)
    client, server = f"{net}{rng.randrange(1, 200)}", f"{net}{rng.randrange(200, 250)}"
    ports = rng.randrange(1024, 65536), rng.choice((53, 80, 443, 6443))
    make = rng.choice((_tcp, _udp))
    for _ in range(rng.randrange(1, 6)):
        yield _ethernet() / layer(src=client, dst=server) / make(*ports) / Raw(bytes(rng.randrange(200)))
        if rng.random() < 0.7:
            yield _ethernet() / layer(src=server, dst=client) / make(*ports[::-1]) / Raw(bytes(rng.randrange(1400)))


def _ethernet() -> Packet:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def _tcp(sport: int, dport: int) -> Packet:
    return inet.TCP(sport=sport, dport=dport, flags="A")


def _udp(sport: int, dport: int) -> Packet:
    return inet.UDP(sport=sport, dport=dport)


def flows_in(*captures: Path, frames: bool = False) -> dict[Flow, Sums]:
    """Packets and IP bytes (or bytes of whole frames) of each 5-tuple."""
    return merged(*(one for capture in captures for one in _flows(capture, frames=frames)))


def _flows(capture: Path, *, frames: bool) -> Iterator[dict[Flow, Sums]]:
    with PcapReader(str(capture)) as reader:
        for packet in reader:
            ip = packet.getlayer(inet.IP) or packet.getlayer(inet6.IPv6)
            if ip is not None:
                yield {_flow(ip): Sums(1, packet.wirelen if frames else _length(ip))}


def _flow(ip: IpPacket) -> Flow:
    proto = ip.proto if ip.version == 4 else ip.nh
    ports = (ip.payload.sport, ip.payload.dport) if proto in (TCP, UDP) else (0, 0)
    return Flow(ip.src, ip.dst, *ports, proto)


def _length(ip: IpPacket) -> int:
    return ip.len if ip.version == 4 else 40 + ip.plen
