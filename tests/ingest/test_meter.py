"""Frames into flow records: what is counted as what, and what is not counted."""

from collections import Counter

import numpy as np
import pytest
from capturefiles import NS, RAW, ether, pcap
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from flowagent.addresses import address_text, address_words
from flowagent.batch import Batch
from flowagent.errors import ConfigError
from flowagent.ingest.capfile import Frames
from flowagent.ingest.fields import Values
from flowagent.ingest.flowcache import Limits
from flowagent.ingest.meter import Meter, Metering
from flowagent.ingest.packetfile import read_flows

V4 = IP(src="10.0.0.1", dst="10.0.0.2")
V6 = IPv6(src="fd00::1", dst="fd00::2")
MS = 1_000_000


def frames_of(*packets, link=1, wire=None):
    """Frames a millisecond apart."""
    data = [bytes(packet) for packet in packets]
    length = np.array([len(d) for d in data])
    return Frames(
        np.frombuffer(b"".join(data), np.uint8), np.cumsum(length) - length, length,
        length if wire is None else np.array(wire), NS + np.arange(len(data)) * MS, np.full(len(data), link),
    )  # fmt: skip


def metered(frames, columns=None, **settings):
    """All records, and the meter."""
    meter = Meter(Limits(), exporter=address_words("192.0.2.9"), **{"tunnels": False, **settings})
    return Batch.concat([*meter.add(frames, columns), *meter.flush()]), meter


def one(batch, name):
    """The value in the only row; None where unknown."""
    assert len(batch) == 1
    return batch[name][..., 0].tolist() if bool(batch.is_known(name)[0]) else None


def test_a_record_has_the_headers_fields():
    packet = V4 / TCP(sport=5, dport=80, flags="SA")
    batch, meter = metered(frames_of(ether(packet / Raw(b"ab")), ether(packet)))
    assert address_text(*one(batch, "src_addr")) == "10.0.0.1"
    assert [one(batch, n) for n in ("src_port", "dst_port", "proto", "packets", "bytes")] == [5, 80, 6, 2, 82]
    assert [one(batch, n) for n in ("tcp_flags", "ttl", "ether_type")] == [0x12, 64, 0x0800]
    assert (one(batch, "start_ns"), one(batch, "end_ns")) == (NS, NS + MS)
    assert address_text(*one(batch, "exporter")) == "192.0.2.9"
    assert meter.seen == (2, 82)
    assert not meter.skipped


def test_bytes_are_those_of_ip_without_padding_and_with_what_was_not_captured():
    padded = ether(V4 / UDP(sport=1, dport=2)) + bytes(18)
    cut = ether(V6 / UDP(sport=1, dport=2) / Raw(bytes(1000)))[:70]
    batch, _ = metered(frames_of(padded, cut, wire=[60, 1062]))
    assert sorted(batch["bytes"].tolist()) == [28, 1048]


def test_a_packet_that_the_card_will_cut_is_as_long_as_its_frame():
    batch, _ = metered(frames_of(ether(V4.__class__(src="10.0.0.1", dst="10.0.0.2", len=0) / TCP()), wire=[70_000]))
    assert one(batch, "bytes") == 70_000


def test_later_fragments_are_a_flow_without_ports():
    whole = IP(src="10.0.0.1", dst="10.0.0.2", id=7) / UDP(sport=5, dport=53) / Raw(bytes(4000))
    batch, _ = metered(frames_of(*(ether(IP(bytes(piece))) for piece in fragment(whole, fragsize=1480))))
    known = batch.is_known("src_port")
    assert len(batch) == 2
    assert batch["packets"][known].tolist() == [1]
    assert batch["packets"][~known].tolist() == [2]
    assert batch.total("bytes") == 4008 + 3 * 20


def test_flags_that_were_not_captured_are_not_known():
    whole = IP(src="10.0.0.1", dst="10.0.0.2", id=7) / TCP(sport=5, dport=80, flags=0) / Raw(bytes(4000))
    batch, _ = metered(frames_of(*(ether(IP(bytes(piece))) for piece in fragment(whole, fragsize=1480))))
    first = batch.is_known("src_port")
    assert batch.is_known("tcp_flags").tolist() == first.tolist()
    assert batch["tcp_flags"][first].tolist() == [0]


def test_types_of_icmp_are_flows_of_their_own():
    batch, _ = metered(frames_of(*(ether(V4 / ICMP(type=t)) for t in (8, 8, 0))))
    assert dict(zip(batch["icmp_type"].tolist(), batch["packets"].tolist(), strict=True)) == {8: 2, 0: 1}


def test_what_is_not_ip_or_not_there_is_counted():
    frames = frames_of(ether(ARP()), ether(V4 / TCP())[:30], ether(V4 / TCP()), b"", wire=[42, 54, 54, 60])
    batch, meter = metered(frames)
    assert len(batch) == 1
    assert meter.skipped == {"not_ip": 1, "truncated_capture": 2}


def test_link_types_may_be_mixed():
    frames = frames_of(ether(V4 / TCP()), bytes(V4 / TCP()), ether(V4 / TCP()), b"what is this")
    frames.link[:] = [1, RAW, 1, 147]
    batch, meter = metered(frames)
    assert one(batch.select(["packets"]), "packets") == 3
    assert meter.skipped == {"unsupported_link_type": 1}


@pytest.mark.parametrize("tunnels", [False, True])
def test_tunnels_are_looked_into_when_asked_for(tunnels):
    inner = ether(IP(src="10.1.0.1", dst="10.1.0.2") / TCP(sport=5, dport=80))
    packet = ether(V4 / UDP(sport=7, dport=4789) / VXLAN(vni=99) / Raw(inner))
    batch, _ = metered(frames_of(packet), tunnels=tunnels)
    expected = ("10.1.0.1", 80, 99, 40) if tunnels else ("10.0.0.1", 4789, None, len(packet) - 14)
    assert expected == (
        address_text(*one(batch, "src_addr")), one(batch, "dst_port"), one(batch, "tunnel_key"), one(batch, "bytes"),
    )  # fmt: skip


def test_what_the_kernel_says_beside_the_bytes_comes_first():
    frames = frames_of(ether(V4 / TCP()), ether(Dot1Q(vlan=5) / V4 / TCP()), ether(Dot1Q(vlan=5) / V4 / TCP()))
    vlan = Values(np.array([9, 0, 9], np.uint16), np.array([True, False, True]))
    batch, _ = metered(frames, {"vlan": vlan, "in_if": Values(np.full(3, 4, np.uint32))})
    assert dict(zip(batch["vlan"].tolist(), batch["packets"].tolist(), strict=True)) == {9: 2, 5: 1}
    assert batch["in_if"].tolist() == [4, 4]


def test_columns_that_nobody_wants_are_not_read():
    meter = Meter(Limits(), tunnels=False, exporter=(0, 0))
    meter.want(frozenset({"bytes", "ttl"}))
    batch = Batch.concat([*meter.add(frames_of(ether(V4 / TCP()))), *meter.flush()])
    assert "ttl" in batch
    assert "tos" not in batch


def test_the_rate_of_a_sample_is_told():
    batch, _ = metered(frames_of(ether(V4 / TCP())), sampling_rate=100.0)
    assert (one(batch, "sampling_rate"), one(batch, "sampling_source")) == (100, 4)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"idle_timeout": "100ms"}, "at least 1s"),
        ({"active_timeout": "soon"}, "not a duration"),
        ({"exporter": "me"}, "no address"),
    ],
)
def test_wrong_settings(settings, problem, tmp_path):
    (name,) = settings
    with pytest.raises(ConfigError, match=problem) as caught:
        list(read_flows(tmp_path / "nothing.pcap", Metering(**settings)))
    assert caught.value.path.endswith(name)


def test_a_file_of_packets(tmp_path):
    file = tmp_path / "packets.pcap"
    content = pcap((NS, ether(V4 / TCP())), (NS + 30 * 10**9, ether(V4 / TCP())), (NS + 31 * 10**9, ether(ARP())))
    file.write_bytes(content + b"torn")
    skipped, read = Counter(), []
    batches = list(read_flows(file, Metering(exporter="2001:db8::5"), skipped=skipped, progress=read.append))
    assert [b["flow_end_reason"].tolist() for b in batches] == [[1], [4]]
    assert {address_text(*b["exporter"][:, 0].tolist()) for b in batches} == {"2001:db8::5"}
    assert skipped == {"not_ip": 1, "truncated_file": 1}
    assert read[-1] == file.stat().st_size


@pytest.mark.parametrize(("content", "reason"), [(b"no capture at all", "bad_file"), (b"", "truncated_file")])
def test_a_file_of_something_else(tmp_path, content, reason):
    file, skipped = tmp_path / "what", Counter()
    file.write_bytes(content)
    assert list(read_flows(file, skipped=skipped)) == []
    assert skipped == {reason: 1}


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_flows(tmp_path / "nothing.pcap"))
