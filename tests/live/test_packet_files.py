"""Packets in a file: the flows that flowagent counts are those of softflowd and of tshark."""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from live.packets import write_traffic
from live.softflowd import datagrams_of
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.utils import PcapReader, wrpcap

from flowagent.addresses import address_text
from flowagent.batch import Batch
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.packetfile import read_flows

TCP, UDP_NUMBER = 6, 17
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """TCP and UDP of both versions, ICMP, fragments, and what is not IP."""
    directory = tmp_path_factory.mktemp("capture")
    traffic, whole = directory / "traffic.pcap", directory / "whole.pcap"
    write_traffic(traffic, seed=7, conversations=200, ipv6=True)
    with PcapReader(str(traffic)) as reader:
        packets = list(reader)
    big = IP(src="10.7.0.1", dst="10.7.0.201", id=77) / UDP(sport=5, dport=53) / Raw(bytes(4000))
    more = [
        LINK / ARP(psrc="10.7.0.1", pdst="10.7.0.2"),
        *(LINK / IP(src="10.7.0.1", dst="10.7.0.201") / ICMP(type=8) / Raw(bytes(n)) for n in (10, 20)),
        LINK / IPv6(src="fd00:7::1", dst="fd00:7::2") / ICMPv6EchoRequest(data=bytes(56)),
        *(LINK / IP(bytes(piece)) for piece in fragment(big, fragsize=1480)),
    ]
    for i, packet in enumerate(more):
        packet.time = packets[-1].time + (i + 1) / 1000
    wrpcap(str(whole), [*packets, *more])
    return whole


def records(batches):
    """Key without what only one side knows -> packets, bytes, TCP flags, start, end."""
    sums = defaultdict(lambda: (0, 0, 0, 1 << 63, 0))
    for b in batches:
        known = {name: b.is_known(name) for name in ("src_port", "tcp_flags", "icmp_type")}
        for i in range(len(b)):
            proto = int(b["proto"][i])
            ported = proto in (TCP, UDP_NUMBER) and known["src_port"][i]
            ports = tuple(int(b[name][i]) if ported else 0 for name in ("src_port", "dst_port"))
            icmp = int(b["icmp_type"][i]) if known["icmp_type"][i] and proto in (1, 58) else 0
            key = (*(address_text(*b[name][:, i].tolist()) for name in ("src_addr", "dst_addr")), *ports, proto, icmp)
            packets, size, flags, start, end = sums[key]
            more = int(b["tcp_flags"][i]) if known["tcp_flags"][i] else 0
            sums[key] = (
                packets + int(b["packets"][i]), size + int(b["bytes"][i]), flags | more,
                min(start, int(b["start_ns"][i])), max(end, int(b["end_ns"][i])),
            )  # fmt: skip
    return dict(sums)


def both_ways(found):
    """The duration of each conversation in ms; softflowd's and tshark's times are those of both directions."""
    times = defaultdict(list)
    for (src, dst, sport, dport, proto, _), (*_, start, end) in found.items():
        times[(proto, *sorted([(src, sport), (dst, dport)]))] += [start, end]
    return {key: (max(all_times) - min(all_times)) / 1e6 for key, all_times in times.items()}


@pytest.mark.service("softflowd")
def test_packets_bytes_flags_and_times_are_softflowds(capture, tmp_path):
    copy = Path(shutil.copy(capture, tmp_path))
    decoder = Decoder(ordered=True)
    theirs = records(decoder.feed(Datagrams.of([d])) for d in datagrams_of(copy, "-v 9 -6"))
    ours = records(read_flows(capture))
    assert {key: value[:3] for key, value in ours.items()} == {key: value[:3] for key, value in theirs.items()}
    assert len(ours) > 300
    mine, other = both_ways(ours), both_ways(theirs)
    for key, duration in mine.items():
        if key[0] in (TCP, UDP_NUMBER):  # ICMP has a conversation for each type
            assert other[key] == pytest.approx(duration, abs=1.01)


def conversations(capture, kind):
    """tshark's table: both ends -> frames and bytes from the second, from the first; the duration in s."""
    command = ["tshark", "-n", "-q", "-z", f"conv,{kind}", "-r", str(capture)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    line = re.compile(
        r"(\S+):(\d+) +<-> (\S+):(\d+) +(\d+) (\d+) (\w+) +(\d+) (\d+) (\w+) +\d+ \d+ \w+ +[\d.]+ +([\d.]+)"
    )
    for src, sport, dst, dport, n1, b1, u1, n2, b2, u2, seconds in line.findall(text):
        found[src, int(sport), dst, int(dport)] = (int(n1), (int(b1), u1), int(n2), (int(b2), u2), float(seconds))
    return found


@pytest.mark.service("tshark")
@pytest.mark.parametrize(("kind", "proto"), [("tcp", TCP), ("udp", UDP_NUMBER)])
def test_conversations_are_tsharks(capture, kind, proto):
    ours = records(read_flows(capture))
    durations = both_ways(ours)
    table = conversations(capture, kind)
    assert len(table) > 50
    for (src, sport, dst, dport), (n_back, b_back, n_there, b_there, seconds) in table.items():
        if (sport, dport) == (5, 53):
            continue  # tshark puts fragments together and counts the frame that completes them
        for key, frames, size in (
            ((dst, src, dport, sport, proto, 0), n_back, b_back),
            ((src, dst, sport, dport, proto, 0), n_there, b_there),
        ):
            packets, octets, *_ = ours.get(key, (0, 0))
            assert packets == frames
            # Of frames, with the Ethernet header; with a unit where it is rounded.
            octets += 14 * packets
            assert (octets if size[1] == "bytes" else octets // 1000) == size[0]
        assert durations[(proto, *sorted([(src, sport), (dst, dport)]))] == pytest.approx(seconds * 1000, abs=0.11)


def test_the_sums_are_those_of_the_file(capture):
    whole = Batch.concat(list(read_flows(capture)))
    with PcapReader(str(capture)) as reader:
        layers = [packet.getlayer(IP) or packet.getlayer(IPv6) for packet in reader]
    sizes = [layer.len if layer.version == 4 else 40 + layer.plen for layer in layers if layer is not None]
    assert (whole.total("packets"), whole.total("bytes")) == (len(sizes), sum(sizes))
