"""NetFlow v9: headers, templates and options on the wire, uptimes, scapy as the other side."""

import struct

import pytest
from build import (
    EXPORT,
    FLOW,
    MS,
    SECOND,
    decode,
    define,
    errors,
    feed,
    flow,
    flow_set,
    template,
    v9,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.netflow import (
    GetNetflowRecordV9,
    NetflowDataflowsetV9,
    NetflowFlowsetV9,
    NetflowHeader,
    NetflowHeaderV9,
    NetflowHeaderV10,
    NetflowTemplateFieldV9,
    NetflowTemplateV9,
)

from flowagent.addresses import address_words
from flowagent.ingest.decoder import Decoder


def test_header_and_record():
    message = v9(define(300, *FLOW, version=9), flow_set(300, flow()), sequence=7, domain=0x80000001)
    assert decode(message, received_ns=3) == [{
        "exporter": "192.0.2.1", "observation_domain": 0x80000001, "export_protocol": 4, "sequence": 7,
        "src_addr": "10.0.0.1", "dst_addr": "10.0.0.2", "src_port": 1, "dst_port": 2, "proto": 6, "bytes": 100,
        "packets": 1, "records": 1, "received_ns": 3, "sampling_source": 0,
    }]  # fmt: skip


@pytest.mark.parametrize(("uptime", "then", "ago_ms"), [(9000, 4000, 5000), (500, 2**32 - 500, 1000), (500, 900, -400)])
def test_uptimes(uptime, then, ago_ms):
    message = v9(
        define(300, (22, 4), (21, 4), version=9), flow_set(300, struct.pack("!II", then, uptime)), uptime=uptime
    )
    (row,) = decode(message)
    assert row["start_ns"] == EXPORT * SECOND - ago_ms * MS
    assert row["end_ns"] == EXPORT * SECOND


def test_an_absolute_time_goes_before_an_uptime():
    fields = ((22, 4), (152, 8))
    (row,) = decode(v9(define(300, *fields, version=9), flow_set(300, struct.pack("!IQ", 5, 1234))))
    assert row["start_ns"] == 1234 * MS


@pytest.mark.parametrize("count", [0, 1, 65535])
def test_the_headers_count_does_not_matter(count):
    """Exporters do not agree on what it counts."""
    assert len(decode(v9(define(300, *FLOW, version=9), flow_set(300, flow() * 3), count=count))) == 3


def test_a_set_of_length_0_ends_the_datagram():
    message = v9(define(300, *FLOW, version=9), flow_set(300, flow()), bytes(40))
    assert len(decode(message)) == 1
    assert errors(message) == {"bad_set_length": 1}


def test_sequence_counts_datagrams():
    decoder = Decoder()
    messages = [v9(flow_set(300, flow() * 10), sequence=i) for i in range(20) if i not in (7, 8)]
    feed(decoder, v9(define(300, *FLOW, version=9), flow_set(300, flow() * 10), sequence=2**32 - 1), *messages)
    assert decoder.exporters.lost_records(final=True) == {"192.0.2.1": 20}


def test_sources_are_apart_but_lend_templates_that_fit():
    wide = define(301, *FLOW, (6, 4), version=9)
    decoder = Decoder()
    feed(decoder, v9(define(300, *FLOW, version=9), wide, domain=1))
    assert len(feed(decoder, v9(flow_set(300, flow()), domain=2))) == 1
    assert feed(decoder, v9(flow_set(301, flow()), domain=2)) == []
    assert decoder.stats.held == 1


V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)
FIELDS = {  # name in scapy: (number, bytes, values, column)
    "IPV4_SRC_ADDR": (8, 4, V4, "src_addr"),
    "IPV4_DST_ADDR": (12, 4, V4, "dst_addr"),
    "L4_SRC_PORT": (7, 2, st.integers(0, 2**16 - 1), "src_port"),
    "L4_DST_PORT": (11, 2, st.integers(0, 2**16 - 1), "dst_port"),
    "PROTOCOL": (4, 1, st.integers(0, 255), "proto"),
    "IN_BYTES": (1, 4, st.integers(0, 2**32 - 1), "bytes"),
    "IN_PKTS": (2, 8, st.integers(0, 2**64 - 1), "packets"),
    "INPUT_SNMP": (10, 2, st.integers(0, 2**16 - 1), "in_if"),
    "OUTPUT_SNMP": (14, 3, st.integers(0, 2**24 - 1), "out_if"),
    "SRC_AS": (16, 4, st.integers(0, 2**32 - 1), "src_as"),
    "TCP_FLAGS": (6, 1, st.integers(0, 255), "tcp_flags"),
    "SRC_MASK": (9, 1, st.integers(0, 128), "src_mask"),
    "SRC_VLAN": (58, 2, st.integers(0, 4095), "vlan"),
    "DIRECTION": (61, 1, st.integers(0, 1), "direction"),
    "IPV6_NEXT_HOP": (62, 16, V6, "next_hop"),
    "IN_SRC_MAC": (56, 6, st.integers(0, 2**48 - 1), "src_mac"),
}


@st.composite
def exports(draw):
    """Some fields, and records of them: dicts of scapy's names. Never so short that padding could be a record."""
    names = draw(st.permutations(["IN_PKTS", *sorted(draw(st.sets(st.sampled_from(sorted(FIELDS)))) - {"IN_PKTS"})]))
    records = draw(st.lists(st.fixed_dictionaries({n: FIELDS[n][2] for n in names}), min_size=1, max_size=8))
    return names, records


def scapy_sets(names, records, set_id):
    fields = [NetflowTemplateFieldV9(fieldType=FIELDS[n][0], fieldLength=FIELDS[n][1]) for n in names]
    templates = NetflowFlowsetV9(
        flowSetID=set_id, templates=[NetflowTemplateV9(templateID=256, template_fields=fields)]
    )
    record_class = GetNetflowRecordV9(templates, templateID=256)
    made = [f.name for f in record_class.fields_desc]
    rows = [record_class(**{f: wire(n, r[n]) for f, n in zip(made, names, strict=True)}) for r in records]
    return templates / NetflowDataflowsetV9(templateID=256, records=rows)


def wire(name, value):
    return value.to_bytes(6, "big").hex(":") if name.endswith("MAC") else value


def expected(names, records):
    def value(name, v):
        return address_words(v) if name.startswith("IPV") else v

    return [{FIELDS[n][3]: value(n, record[n]) for n in names} for record in records]


def found(rows, names):
    def value(name, v):
        return address_words(v) if name.startswith("IPV") else v

    return [{FIELDS[n][3]: value(n, row[FIELDS[n][3]]) for n in names} for row in rows]


@given(exports(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_what_scapy_builds_comes_out_as_it_went_in(export, sequence, source):
    names, records = export
    header = NetflowHeader(version=9) / NetflowHeaderV9(count=2, packageSequence=sequence, SourceID=source)
    rows = decode(bytes(header / scapy_sets(names, records, 0)))
    assert found(rows, names) == expected(names, records)
    assert {(r["sequence"], r["observation_domain"], r["export_protocol"]) for r in rows} == {(sequence, source, 4)}


@given(exports(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_same_as_ipfix(export, sequence, domain):
    names, records = export
    header = NetflowHeader(version=10) / NetflowHeaderV10(flowSequence=sequence, ObservationDomainID=domain)
    message = bytearray(bytes(header / scapy_sets(names, records, 2)))
    message[2:4] = struct.pack("!H", len(message))
    rows = decode(bytes(message))
    assert found(rows, names) == expected(names, records)
    assert {(r["sequence"], r["observation_domain"], r["export_protocol"]) for r in rows} == {(sequence, domain, 5)}


@pytest.mark.parametrize("end", range(4, 82))
def test_truncation_at_every_byte(end):
    message = v9(flow_set(0, template(300, *FLOW)), flow_set(300, flow()))
    whole = {20, 56, 81}  # header, template, data; up to three bytes more are padding
    is_damaged = not any(edge <= end < edge + 4 for edge in whole)
    assert len(decode(message[:end])) == (end == 81)
    assert bool(errors(message[:end])) == is_damaged
