"""Datagrams of exports are known by their lengths."""

import json
import struct

import pytest
from capturefiles import TRUTHS
from hypothesis import given
from hypothesis import strategies as st

from flowagent.ingest.exports import is_export
from flowagent.ingest.pcap import captures


def sets(*sizes):
    return b"".join(struct.pack("!HH", 256, size) + bytes(size - 4) for size in sizes)


GOOD = {
    "v5": struct.pack("!HH", 5, 2) + bytes(20 + 96),
    "v9": struct.pack("!HH", 9, 1) + bytes(16) + sets(12, 30),
    "v9, padded": struct.pack("!HH", 9, 1) + bytes(16) + sets(13) + bytes(3),
    "ipfix": struct.pack("!HH", 10, 36) + bytes(12) + sets(20),
    "sflow": struct.pack("!II", 5, 1) + bytes(24),
}
BAD = {
    "nothing": b"",
    "v5 of another length": GOOD["v5"] + b"\0",
    "v5 of no records": struct.pack("!HH", 5, 0) + bytes(20),
    "v9 with a set that is too long": GOOD["v9"][:-1],
    "v9 with a set id that means nothing": struct.pack("!HH", 9, 1) + bytes(16) + struct.pack("!HH", 4, 8) + bytes(4),
    "ipfix of another length": GOOD["ipfix"] + bytes(4),
    "a set of no length": struct.pack("!HH", 10, 24) + bytes(20),
    "a question of the DNS": struct.pack("!6H", 9, 0x0100, 1, 0, 0, 0) + b"\3www\7example\3com\0\0\1\0\1",
    "sflow of an address of no kind": struct.pack("!II", 5, 3) + bytes(24),
}


@pytest.mark.parametrize("name", GOOD)
def test_exports(name):
    assert is_export(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_others(name):
    assert not is_export(BAD[name])


@given(st.binary(max_size=200), st.sampled_from([b"", b"\0\5", b"\0\x09", b"\0\x0a", b"\0\0\0\5"]))
def test_any_bytes(payload, start):
    assert is_export(start + payload) in (True, False)


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda path: path.name.removesuffix(".truth.json"))
def test_captures_of_exports_hold_no_packets(truth):
    known = json.loads(truth.read_text())
    names = known.get("files") or [known["file"]]
    (capture,) = captures([truth.parent / name for name in names])
    assert not capture.holds_packets()
