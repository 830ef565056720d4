"""What the kernel (Linux 6.18) says of connections: read as pyroute2 reads it, and what is wrong is left out."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

from flowagent.addresses import address_text
from flowagent.batch import Batch
from flowagent.errors import DecodeError
from flowagent.ingest import conntrack_message
from flowagent.ingest.conntrack_message import DELETE, NEW, decode, find_messages, walk

DATA = Path(__file__).parents[1] / "data"
DUMP, EVENTS = (DATA / f"conntrack-{name}.bin" for name in ("dump", "events"))
_WORDS = {
    "src_port": ["SRC_PORT"],
    "dst_port": ["DST_PORT"],
    "icmp_type": ["ICMP_TYPE", "ICMPV6_TYPE"],
    "icmp_code": ["ICMP_CODE", "ICMPV6_CODE"],
}
_ADDRESSES = {2: "V4", 10: "V6"}


def read(data):
    found = find_messages(data)
    entries, of = decode(
        np.frombuffer(data, np.uint8), np.array(found.offset, np.int64), np.array(found.length, np.int64)
    )
    return found, entries, of


def plain(entries, row):
    """What is known of one entry."""
    values = {}
    for name, column in entries.columns.items():
        if entries.is_known(name)[row]:
            value = column[..., row]
            values[name] = address_text(*value.tolist()) if value.ndim else int(value)
    return values


def expected(message):
    """The same, by another decoder."""
    m = nfct_msg(message)
    m.decode()
    found = {"id": m.get_attr("CTA_ID"), "status": m.get_attr("CTA_STATUS"), "zone": m.get_attr("CTA_ZONE")}
    for side, prefix in (("ORIG", ""), ("REPLY", "reply_")):
        ip, proto = (m.get_nested(f"CTA_TUPLE_{side}", f"CTA_TUPLE_{part}") for part in ("IP", "PROTO"))
        family = _ADDRESSES[m["nfgen_family"]]
        found[f"{prefix}src_addr"] = ip.get_attr(f"CTA_IP_{family}_SRC")
        found[f"{prefix}dst_addr"] = ip.get_attr(f"CTA_IP_{family}_DST")
        found[f"{prefix}proto"] = proto.get_attr("CTA_PROTO_NUM")
        for name, words in _WORDS.items():
            values = [v for word in words if (v := proto.get_attr(f"CTA_PROTO_{word}")) is not None]
            found[prefix + name] = values[0] if values else None
        counters = m.get_attr(f"CTA_COUNTERS_{side}")
        if counters is not None:
            found[f"{prefix}packets"] = counters.get_attr("CTA_COUNTERS_PACKETS")
            found[f"{prefix}bytes"] = counters.get_attr("CTA_COUNTERS_BYTES")
    times = m.get_attr("CTA_TIMESTAMP")
    if times is not None:
        found["start_ns"], found["stop_ns"] = (times.get_attr(f"CTA_TIMESTAMP_{w}") for w in ("START", "STOP"))
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("file", [DUMP, EVENTS], ids=["dump", "events"])
def test_entries_are_what_another_decoder_reads(file):
    data = file.read_bytes()
    found, entries, of = read(data)
    assert len(entries) == len(found.offset) == {DUMP: 6, EVENTS: 27}[file]
    assert sorted(of.tolist()) == list(range(len(found.offset)))
    for row, message in enumerate(of.tolist()):
        at, size = found.offset[message], found.length[message]
        assert plain(entries, row) == expected(data[at : at + size])


def test_a_dump_says_that_it_ends():
    assert find_messages(DUMP.read_bytes()).done
    events = find_messages(EVENTS.read_bytes())
    assert not events.done
    assert set(events.kind) == {NEW, DELETE}
    assert events.kind.count(DELETE) == 6


def test_many_at_once_are_each_what_they_are_alone():
    found = find_messages(DUMP.read_bytes())
    messages = [DUMP.read_bytes()[at : at + n] for at, n in zip(found.offset, found.length, strict=True)]
    rng = np.random.default_rng(3)
    picked = rng.integers(0, len(messages), 500).tolist()
    _, entries, of = read(b"".join(messages[i] for i in picked))
    assert len(entries) == 500
    for row in range(0, 500, 7):
        assert plain(entries, row) == expected(messages[picked[of[row]]])


def test_a_refusal_and_an_interrupted_dump_are_told():
    refusal = struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -1) + DUMP.read_bytes()[:16]
    assert find_messages(refusal).error == 1
    first = bytearray(DUMP.read_bytes())
    first[6] |= 0x10
    assert find_messages(bytes(first)).interrupted


def test_what_is_cut_off_is_an_error():
    with pytest.raises(DecodeError, match="truncated"):
        find_messages(DUMP.read_bytes()[:-1])


def test_a_message_that_makes_no_sense_costs_itself():
    found = find_messages(DUMP.read_bytes())
    bad = bytearray(DUMP.read_bytes())
    struct.pack_into("=H", bad, found.offset[2] + 20, 3)  # an attribute shorter than its own header
    _, entries, of = read(bytes(bad))
    assert sorted(of.tolist()) == [0, 1, 3, 4, 5]
    assert len(entries) == 5


def test_shapes_are_bounded(monkeypatch):
    monkeypatch.setattr(conntrack_message, "MAX_SHAPES", 2)
    _, entries, of = read(DUMP.read_bytes())
    assert 2 <= len(entries) == len(of) < 6


def test_nothing_is_nothing():
    assert read(b"")[1:][0].columns == Batch({}).columns


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1667), st.integers(0, 255)), max_size=8))
def test_damage_is_never_raised(changes):
    data = bytearray(DUMP.read_bytes())
    for at, value in changes:
        data[at] = value
    try:
        found, entries, of = read(bytes(data))
    except DecodeError:
        return
    assert len(entries) == len(of) <= len(found.offset)


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_walked(data):
    places, heads = walk(bytes(20) + data)
    assert all(p.start + p.size <= 20 + len(data) for p in places)
    assert all(at < 20 + len(data) for at in heads)
