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
from capturefiles import (
    DATA,
    NS,
    PAYLOAD,
    PIECES,
    RAW,
    SECOND,
    TRUTHS,
    V4,
    V6,
    V6_UDP,
    block,
    enhanced,
    ether,
    interface,
    one,
    pcap,
    raw,
    read,
    rows,
    section,
)
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP

from flowagent.errors import ConfigError
from flowagent.ingest.pcap import Capture, captures

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
