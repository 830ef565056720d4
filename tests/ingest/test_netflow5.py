"""NetFlow v1, v5 and v7: fields, times, engines, sampling modes, counts that lie, loss."""

import struct

import pytest
from build import EXPORT, MS, SECOND, column, decode, errors, feed, v5, v5_record
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.netflow import NetflowHeader, NetflowHeaderV5, NetflowRecordV5

from flowagent.ingest.decoder import Decoder
from flowagent.ingest.rates import Overrides


def test_every_field():
    (row,) = decode(v5(v5_record(hop="10.0.0.9", first=1000, last=2500), uptime=3000, ns=7, sequence=9, engine=0x0102))
    expected = {
        "exporter": "192.0.2.1", "observation_domain": 0x0102, "export_protocol": 2, "sequence": 9,
        "start_ns": EXPORT * SECOND + 7 - 2000 * MS, "end_ns": EXPORT * SECOND + 7 - 500 * MS,
        "src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "next_hop": "10.0.0.9", "src_port": 5, "dst_port": 6,
        "proto": 6, "bytes": 400, "packets": 3, "records": 1, "tcp_flags": 0x12, "tos": 8, "in_if": 1, "out_if": 2,
        "src_as": 64512, "dst_as": 64513, "src_mask": 24, "dst_mask": 16, "received_ns": 5, "sampling_source": 0,
    }  # fmt: skip
    assert decode(v5(v5_record(hop="10.0.0.9", first=1000, last=2500), uptime=3000, ns=7, sequence=9, engine=0x0102),
                  received_ns=5) == [expected]  # fmt: skip
    assert row["received_ns"] == 0


def test_version_1_has_its_flags_elsewhere_and_no_sequence():
    record = bytearray(v5_record() + bytes(4))
    record[36:48] = struct.pack("!HBBB7x", 0, 17, 4, 0x1B)
    (row,) = decode(v5(bytes(record), version=1))
    assert (row["proto"], row["tos"], row["tcp_flags"], row["export_protocol"]) == (17, 4, 0x1B, 1)
    assert not {"sequence", "src_as", "src_mask"} & set(row)


def test_version_1_records_of_softflowd_are_four_bytes_shorter():
    short = v5(*[v5_record(octets=i) for i in range(14)], version=1)
    long = v5(*[v5_record(octets=i).ljust(52, b"\0") for i in range(14, 20)], version=1)
    assert column(decode(short, long, short), "bytes") == [*range(20), *range(14)]
    assert errors(short, long) == {}


def test_version_7_records_are_four_bytes_longer():
    rows = decode(v5(v5_record() + b"\x0a\0\0\xfe", v5_record(octets=5) + bytes(4), version=7))
    assert column(rows, "bytes") == [400, 5]
    assert column(rows, "export_protocol") == [3, 3]


@pytest.mark.parametrize(
    ("word", "rate", "source"),
    [(0, None, 0), (0x4000, None, 0), (100, 100, 1), (0x4000 | 100, 100, 1), (0xFFFF, 0x3FFF, 1)],
)
def test_the_two_mode_bits_are_no_part_of_the_rate(word, rate, source):
    (row,) = decode(v5(v5_record(), sampling=word))
    assert (row.get("sampling_rate"), row["sampling_source"]) == (rate, source)


def test_the_users_word_goes_before_the_header():
    decoder = Decoder(overrides=Overrides({"192.0.2.1/32": 7}))
    (row,) = feed(decoder, v5(v5_record(), sampling=100))
    assert (row["sampling_rate"], row["sampling_source"]) == (7, 4)


@pytest.mark.parametrize(("uptime", "first", "ago_ms"), [(1000, 2**32 - 1000, 2000), (1000, 1200, -200)])
def test_uptime_wraps_and_may_lie_ahead(uptime, first, ago_ms):
    (row,) = decode(v5(v5_record(first=first), uptime=uptime))
    assert row["start_ns"] == EXPORT * SECOND - ago_ms * MS


@pytest.mark.parametrize("version", [1, 5, 7])
def test_only_wanted_columns(version):
    decoder = Decoder(wanted={"bytes", "sampling_rate"})
    record = v5_record() + bytes(0 if version == 5 else 4)
    (row,) = feed(decoder, v5(record, version=version))
    always = {"records", "exporter", "observation_domain", "export_protocol", "sampling_source"}
    assert set(row) - always == {"bytes"}


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (2, 2), (3, 2), (31, 2), (65535, 2)])
def test_a_count_that_lies(count, rows):
    message = v5(v5_record(), v5_record(), count=count)
    assert len(decode(message)) == rows
    assert errors(message) == ({"bad_record_count": 1} if count > 2 else {})


@pytest.mark.parametrize("version", [1, 5, 7])
def test_truncation_at_every_byte(version):
    size = 48 if version == 5 else 52
    message = v5(*[v5_record().ljust(size, b"\0")] * 3, version=version)
    header = len(message) - 3 * size
    looks_whole = {header + 3 * 48} if version == 1 else set()  # like one of softflowd
    for end in set(range(4, len(message))) - looks_whole:
        assert len(decode(message[:end])) == max(0, (end - header) // size)
        assert errors(message[:end]) == ({"truncated": 1} if end < header else {"bad_record_count": 1})


def test_engines_are_domains_of_their_own_and_so_are_their_numbers():
    decoder = Decoder()
    messages = [v5(v5_record(), sequence=i * (1 + 9 * e), engine=e) for i in range(5) for e in (0, 1)]
    rows = feed(decoder, *messages)
    assert sorted(set(column(rows, "observation_domain"))) == [0, 1]
    assert decoder.exporters.lost_records(final=True) == {"192.0.2.1": 4 * 9}


@pytest.mark.parametrize("offset", [0, -1, 1])
def test_nothing_is_lost_whichever_way_records_are_numbered(offset):
    """By the first record, or by the last as Open vSwitch does, or by all so far."""
    decoder, total, messages = Decoder(), 100, []
    for n in (3, 1, 7, 2, 30, 4):
        number = total if not offset else total + n + min(offset, 0)
        messages.append(v5(*[v5_record()] * n, sequence=number))
        total += n
    feed(decoder, *messages)
    assert decoder.exporters.lost_records(final=True) == {"192.0.2.1": 0}


def test_different_counts_and_exporters_in_one_batch_keep_their_order():
    messages = [v5(*[v5_record(octets=100 * i + j) for j in range(1 + i % 3)], sequence=i) for i in range(9)]
    senders = ["10.0.0.1", "10.0.0.2", "2001:db8::1"] * 3
    rows = decode(*messages, exporter=senders, port=[1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert column(rows, "bytes") == [100 * i + j for i in range(9) for j in range(1 + i % 3)]
    assert column(rows, "exporter") == [senders[i] for i in range(9) for _ in range(1 + i % 3)]


U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
IPV4 = st.ip_addresses(v=4).map(str)
RECORD = st.fixed_dictionaries({
    "src": IPV4, "dst": IPV4, "nexthop": IPV4, "input": U16, "output": U16, "dpkts": U32, "dOctets": U32,
    "srcport": U16, "dstport": U16, "prot": U8, "tos": U8, "src_as": U16, "dst_as": U16, "src_mask": U8, "dst_mask": U8,
})  # fmt: skip
NAMES = {
    "src": "src_addr", "dst": "dst_addr", "nexthop": "next_hop", "input": "in_if", "output": "out_if",
    "dpkts": "packets", "dOctets": "bytes", "srcport": "src_port", "dstport": "dst_port", "prot": "proto",
    "tos": "tos", "src_as": "src_as", "dst_as": "dst_as", "src_mask": "src_mask", "dst_mask": "dst_mask",
}  # fmt: skip


@given(st.lists(RECORD, min_size=1, max_size=30), U32, U16)
def test_what_scapy_builds_comes_out_as_it_went_in(records, sequence, engine):
    header = NetflowHeaderV5(count=len(records), flowSequence=sequence, engineType=engine >> 8, engineID=engine & 0xFF)
    message = NetflowHeader(version=5) / header
    for record in records:
        message /= NetflowRecordV5(**record)
    rows = decode(bytes(message))
    assert [{name: row[column] for name, column in NAMES.items()} for row in rows] == records
    assert set(column(rows, "sequence")) == {sequence}
    assert set(column(rows, "observation_domain")) == {engine}
