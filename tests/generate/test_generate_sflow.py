"""Synthetic sFlow, read back by scapy and by the decoder."""

import socket
import struct

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from flowagent.clock import ManualClock
from flowagent.generate import Exporter, Settings, sflow
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder

NOW_NS = 1_800_000_000 * 10**9
BOOT_MS = NOW_NS // 10**6 - 86_400_000
SIZE = 192
"""Bytes of a sample with its type and length."""


def made(**changes):
    settings = Settings(**{"protocol": "sflow5", "ring": 24, "keys": 50, "sampling_rate": 64} | changes)
    return sflow.sflow5(settings, np.random.default_rng(settings.seed), BOOT_MS)


def round_of(export, sequence=1):
    ring = export.data
    rows = ring.take(len(ring))
    following = ring.stamp(rows, sequence, NOW_NS)
    return [ring.data[i, : ring.length[i]].tobytes() for i in range(rows.start, rows.stop)], following


def samples(payload):
    assert len(payload) == 28 + 7 * SIZE <= 1400
    return [payload[28 + SIZE * i : 28 + SIZE * (i + 1)] for i in range(7)]


def test_the_header():
    export = made(observation_domain=9)
    first, sequence = round_of(export)
    then, _ = round_of(export, sequence)
    heads = [struct.unpack_from("!7I", payload) for payload in first + then]
    assert heads == [(5, 1, 0x7F000001, 9, 1 + n, 86_400_000, 7) for n in range(48)]


def test_sample_numbers_and_pools_go_on_across_rounds():
    export = made()
    first, sequence = round_of(export)
    then, _ = round_of(export, sequence)
    found = [struct.unpack_from("!8I", sample, 8) for payload in first + then for sample in samples(payload)]
    assert [(n, source, rate, pool, drops) for n, source, rate, pool, drops, *_ in found] == [
        (n, 2 << 24 | 1000, 64, 64 * n, 0) for n in range(1, 48 * 7 + 1)
    ]


@pytest.mark.parametrize(("share", "six"), [(0, 0), (0.3, 2), (1, 7)])
def test_scapy_reads_the_packets(share, six):
    decoder = Decoder(ordered=True)
    payloads, _ = round_of(made(ipv6_share=share))
    batch = decoder.feed(Datagrams.of(payloads))
    frames = [Ether(sample[-128:]) for payload in payloads for sample in samples(payload)]
    lengths = [struct.unpack_from("!I", sample, 52)[0] for payload in payloads for sample in samples(payload)]
    assert sum(IPv6 in frame for frame in frames) == six * 24
    assert sum(frame.haslayer(TCP) or frame.haslayer(UDP) for frame in frames) > 50
    for i, (frame, length) in enumerate(zip(frames, lengths, strict=True)):
        packet = frame.getlayer(IP) or frame.getlayer(IPv6)
        size = packet.len if IP in frame else packet.plen + 40
        assert length == size + 14 + 4
        assert batch["bytes"][i] == size + 14
        layer = frame.getlayer(TCP) or frame.getlayer(UDP)
        if layer:
            assert (layer.sport, layer.dport) == (batch["src_port"][i], batch["dst_port"][i])
        elif IP in frame:
            assert frame[ICMP].type == batch["icmp_type"][i]
        if IP in frame:
            checksum, packet.chksum = packet.chksum, None
            assert IP(bytes(packet)).chksum == checksum


def test_counts_are_those_of_the_samples():
    export = made()
    payloads, _ = round_of(export)
    batch = Decoder().feed(Datagrams.of(payloads))
    datagrams, records, packets, octets, payload = export.data.sums[-1].tolist()
    assert (datagrams, records, packets) == (24, len(batch), batch.total("packets"))
    assert (octets, payload) == (batch.total("bytes"), sum(map(len, payloads)))


def test_what_arrives_is_what_was_sent():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{sock.getsockname()[1]}"
        sender = Exporter(Settings(protocol="sflow5", target=target, rate=0, ring=16), ManualClock())
        sent = sender.send(records=70)
        payloads = [sock.recv(65535) for _ in range(sent.datagrams)]
    decoder = Decoder()
    batch = decoder.feed(Datagrams.of(payloads))
    assert (sent.records, sent.packets, sent.bytes) == (70, 70, batch.total("bytes"))
    assert sum(decoder.exporters.lost_records(final=True).values()) == 0
