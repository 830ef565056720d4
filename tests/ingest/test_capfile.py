"""Frames of capture files: where they lie, whatever the file is read in."""

import io
import struct
from collections import Counter

import pytest
from capturefiles import NS, RAW, SECOND, block, enhanced, interface, pcap, section

from flowagent.errors import DecodeError
from flowagent.ingest import capfile
from flowagent.ingest.capfile import exactly, read_frames


def frames(content, skipped=None):
    """(link type, time, bytes, length on the wire) of every frame, and what ended the reading."""
    stream, found, end = io.BytesIO(content), [], None
    try:
        for some in read_frames(exactly(stream, 4), stream, Counter() if skipped is None else skipped):
            for link, ns, at, length, wire in zip(
                some.link, some.ns, some.offset, some.length, some.wire, strict=True
            ):  # fmt: skip
                found.append((int(link), int(ns), some.data[at : at + length].tobytes(), int(wire)))
    except (EOFError, DecodeError, LookupError, struct.error) as error:
        end = type(error)
    return found, end


SOME = [(NS + i * 1_000_000, bytes([i]) * (i * 37 % 200)) for i in range(50)]


@pytest.fixture(params=[64, 1000, 1 << 20])
def buffer_size(request, monkeypatch):
    monkeypatch.setattr(capfile, "_CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("buffer_size")
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_in_parts(order):
    expected = [(1, ns, data, len(data)) for ns, data in SOME]
    assert frames(pcap(*SOME, order=order)) == (expected, None)


@pytest.mark.usefixtures("buffer_size")
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_in_parts(order):
    content = section(order) + interface(order, resolution=9) + interface(order, link=RAW, resolution=6)
    for i, (ns, data) in enumerate(SOME):
        content += enhanced(data, ns // 1000 if i % 3 == 0 else ns, int(i % 3 == 0), order=order)
    expected = [
        (RAW, ns // 1000 * 1000, data, len(data)) if i % 3 == 0 else (1, ns, data, len(data))
        for i, (ns, data) in enumerate(SOME)
    ]
    assert frames(content) == (expected, None)


def test_a_block_may_be_longer_than_the_buffer(monkeypatch):
    monkeypatch.setattr(capfile, "_CHUNK_BYTES", 64)
    content = section() + interface(resolution=9) + block("<", 0xBAD, bytes(100_000)) + enhanced(b"abcd", NS)
    assert frames(content) == ([(1, NS, b"abcd", 4)], None)


@pytest.mark.parametrize("resolution", [3, 9, 10, 18, 0x80 | 20, 0x80 | 40])
def test_times_of_any_resolution(resolution):
    per_second = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    ticks = [s * per_second + per_second // 3 for s in (0, 5, min(1 << 30, ((1 << 64) - 1) // per_second - 1))]
    content = section() + interface(resolution=resolution, offset=7)
    content += b"".join(enhanced(b"abcd", t) for t in ticks)
    found, _ = frames(content)
    assert [ns for _, ns, *_ in found] == [t * SECOND // per_second + 7 * SECOND for t in ticks]


def test_times_out_of_range_are_bad_packets():
    skipped = Counter()
    content = section() + interface(resolution=0, offset=-10) + enhanced(b"abcd", 5) + enhanced(b"abcd", 15)
    content += enhanced(b"abcd", 1 << 60)
    assert frames(content, skipped) == ([(1, 5 * SECOND, b"abcd", 4)], None)
    assert skipped == {"bad_packet": 2}


def test_frames_before_a_damaged_interface_are_read():
    content = section() + interface(resolution=9) + enhanced(b"abcd", NS) + block("<", 1, b"") + enhanced(b"abcd", NS)
    assert frames(content) == ([(1, NS, b"abcd", 4)], struct.error)


@pytest.mark.parametrize("size", [16, 17, 100])
def test_what_ends_inside_a_record_says_so(size):
    whole = pcap((NS, b"abcd"), (NS, bytes(100)))
    assert frames(whole[: 24 + 20 + size]) == ([(1, NS, b"abcd", 4)], EOFError)
