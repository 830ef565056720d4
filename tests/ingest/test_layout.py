"""Layouts: which column every field of a template fills, and what is done where two fields want the same."""

import struct

import numpy as np
import pytest
from build import template

from flowagent.addresses import address_text
from flowagent.elements import VARIABLE
from flowagent.ingest.fields import Head
from flowagent.ingest.layout import layout_of
from flowagent.ingest.templates import parse_template_set

HEAD = Head(np.array([[10**18]]), np.array([[0]]))
IPFIX_HEAD = Head(np.array([[10**18]]))
V6 = bytes.fromhex("20010db8000000000000000000000001")


def layout(*fields, lengths=None):
    (found,) = parse_template_set(template(256, *fields), 10, options=False)
    return layout_of(found, lengths)


def read(fields, *records, head=HEAD, wanted=None, lengths=None, reverse=False):
    """The columns of these records; None where a value is unknown."""
    raw = np.frombuffer(b"".join(records), np.uint8).reshape(1, len(records), -1)
    one = layout(*fields, lengths=lengths)
    assert raw.shape[-1] == one.record_length
    columns = (one.reverse_columns if reverse else one.columns)(raw, head, wanted)
    return None if columns is None else {name: plain(values) for name, values in columns.items()}


def plain(values):
    data = values.data
    items = [address_text(*words) for words in data.T.tolist()] if data.ndim == 2 else data.tolist()
    known = values.known if values.known is not None else [True] * len(items)
    return [v if k else None for v, k in zip(items, known, strict=True)]


def test_canonical_columns_and_extra_ones():
    fields = [(8, 4), (7, 2), (56, 6), (85, 8), (82, 4), (243, 2)]
    record = bytes([10, 0, 0, 1]) + struct.pack("!H6sQ4sH", 80, b"\2\0\0\0\0\1", 99, b"eth0", 100)
    assert read(fields, record) == {
        "src_addr": ["10.0.0.1"],
        "src_port": [80],
        "src_mac": [0x020000000001],
        "octetTotalCount": [99],
        "interfaceName": [b"eth0"],
        "vlan": [100],
    }


def test_only_what_is_wanted_is_read():
    fields = [(8, 4), (12, 4), (1, 4)]
    assert read(fields, bytes(12), wanted={"bytes", "nothing"}) == {"bytes": [0]}


def test_repeated_elements_keep_their_order():
    fields = [(82, 2), (83, 1), (82, 2), (83, 1), (82, 2)]
    assert read(fields, b"p1ap2bp3") == {
        "interfaceName": [b"p1"],
        "interfaceDescription": [b"a"],
        "interfaceName_2": [b"p2"],
        "interfaceDescription_2": [b"b"],
        "interfaceName_3": [b"p3"],
    }


def test_a_repeated_canonical_element_gets_a_number():
    assert read([(1, 1), (1, 1)], b"\5\6") == {"bytes": [5], "bytes_2": [6]}


def test_unknown_elements_are_opaque():
    assert read([(1234, 56, 2), (0x7FFF, 2)], b"\1\2\3\4") == {"pen1234_56": [b"\1\2"], "pen0_32767": [b"\3\4"]}


def test_a_field_without_bytes_fills_nothing():
    assert read([(8, 0), (1, 1), (0, 0)], b"\5") == {"bytes": [5]}


@pytest.mark.parametrize("field", [(8, 5), (56, 5), (1, 9), (152, 16), (150, 16), (322, 16), (6876, 892, 9), (18, 7)])
def test_a_field_of_a_senseless_length_fills_nothing(field):
    assert read([field, (2, 1)], bytes(field[-1]) + b"\7") == {"packets": [7]}


def test_reduced_size_and_too_large_numbers():
    fields = [(1, 3), (7, 4), (4, 2)]
    record = b"\1\0\0" + struct.pack("!IH", 70000, 6)
    assert read(fields, record) == {"bytes": [65536], "src_port": [None], "proto": [6]}


def test_a_template_for_both_ip_versions():
    fields = [(8, 4), (27, 16), (9, 1), (29, 1)]
    records = [bytes([10, 0, 0, 1]) + bytes(16) + b"\x18\0", bytes(4) + V6 + b"\0\x40"]
    expected = {"src_addr": ["10.0.0.1", "2001:db8::1"], "src_mask": [24, 64]}
    assert read(fields, *records) == expected
    swapped = [bytes(16) + bytes([10, 0, 0, 1]) + b"\0\x18", V6 + bytes(4) + b"\x40\0"]
    assert read([fields[1], fields[0], fields[3], fields[2]], *swapped) == expected


def test_icmp_of_both_ip_versions():
    fields = [(4, 1), (176, 1), (177, 1), (178, 1), (179, 1)]
    assert read(fields, b"\1\3\1\0\0", b"\x3a\0\0\x80\2") == {
        "proto": [1, 58], "icmp_type": [3, 128], "icmp_code": [1, 2],
    }  # fmt: skip


@pytest.mark.parametrize("element", [32, 139])
def test_icmp_type_and_code_in_one_field_are_only_known_of_icmp(element):
    fields = [(4, 1), (element, 2)]
    found = read(fields, b"\x01\x08\x01", b"\x06\x00\x00", b"\x3a\x80\x02")
    assert found == {"proto": [1, 6, 58], "icmp_type": [8, None, 128], "icmp_code": [1, None, 2]}


def test_icmp_without_a_protocol_is_taken_at_its_word():
    assert read([(32, 2)], b"\x08\x01") == {"icmp_type": [8], "icmp_code": [1]}


def test_an_icmp_type_or_protocol_too_large_stays_unknown():
    fields = [(4, 2), (176, 2)]
    records = [
        struct.pack("!HH", 1, 300),
        struct.pack("!HH", 6, 3),
        struct.pack("!HH", 257, 3),
        struct.pack("!HH", 1, 3),
    ]
    assert read(fields, *records)["icmp_type"] == [None, None, None, 3]


def test_mpls():
    assert read([(70, 3), (71, 3)], bytes.fromhex("00064100065f")) == {
        "mpls_label": [100], "mplsLabelStackSection2": [bytes.fromhex("00065f")],
    }  # fmt: skip
    assert read([(70, 3), (70, 3)], bytes.fromhex("000641000651")) == {"mpls_label": [100], "mpls_label_2": [101]}
    assert read([(70, 2)], b"\0\1") == {"mplsTopLabelStackSection": [b"\0\1"]}


def test_the_finest_time_of_several_is_used():
    fields = [(150, 4), (152, 8), (22, 4)]
    assert read(fields, struct.pack("!IQI", 1, 2000, 3)) == {"start_ns": [2_000_000_000]}
    assert read(fields[:1], struct.pack("!I", 1)) == {"start_ns": [1_000_000_000]}


def test_uptime_in_ipfix_needs_a_boot_time_and_a_record_may_bring_it():
    assert read([(22, 4)], struct.pack("!I", 5), head=IPFIX_HEAD) == {}
    found = read([(22, 4), (160, 8)], struct.pack("!IQ", 5, 1000), head=IPFIX_HEAD)
    assert found == {"start_ns": [1_005_000_000], "systemInitTimeMilliseconds": [1_000_000_000]}


def test_every_record_has_its_own_boot_time_unless_that_is_nonsense():
    records = [struct.pack("!IQ", 5, boot) for boot in (1000, 2000)]
    assert read([(22, 4), (160, 8)], *records, head=IPFIX_HEAD)["start_ns"] == [1_005_000_000, 2_005_000_000]
    assert "start_ns" not in read([(22, 4), (160, 8)], struct.pack("!Iq", 5, -1), head=IPFIX_HEAD)


def test_of_two_addresses_one_may_be_of_no_use():
    fields = [(22, 4), (21, 4), (8, 4), (27, 16)]
    found = read(fields, bytes(8) + bytes([10, 0, 0, 1]) + V6, head=IPFIX_HEAD)
    assert found == {"src_addr": ["10.0.0.1"]}


def test_of_two_numbers_the_known_one_that_is_not_zero():
    records = [struct.pack("!HB", *pair) for pair in ((300, 0), (0, 24), (0, 0), (16, 24))]
    assert read([(9, 2), (29, 1)], *records)["src_mask"] == [None, 24, 0, 16]


def test_structured_data_is_skipped_as_opaque():
    fields = [(1, 1), (291, VARIABLE), (292, VARIABLE), (293, VARIABLE), (2, 1)]
    record = b"\5" + b"\3abc" + b"\xff\0\2de" + b"\0" + b"\6"
    assert read(fields, record, lengths=(3 * 4 + 1, 2 * 4 + 3, 1)) == {
        "bytes": [5], "basicList": [b"abc"], "subTemplateList": [b"de"], "packets": [6],
    }  # fmt: skip


def test_reverse_elements_turn_the_flow_around():
    fields = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 1), (29305, 1, 1), (29305, 6, 1), (10, 1), (14, 1)]
    record = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 8, 6, 50, 60, 2, 3, 4])
    assert "bytes" in read(fields, record)
    assert read(fields, record, reverse=True) == {
        "bytes": [60], "tcp_flags": [2], "src_addr": ["10.0.0.2"], "dst_addr": ["10.0.0.1"], "src_port": [8],
        "dst_port": [7], "proto": [6], "in_if": [4], "out_if": [3],
    }  # fmt: skip
    assert read(fields, record, reverse=True, wanted={"src_addr", "bytes"}) == {"bytes": [60], "src_addr": ["10.0.0.2"]}


def test_reverse_times_are_its_own_or_the_same():
    fields = [(152, 8), (153, 8), (29305, 152, 8), (29305, 1, 1)]
    found = read(fields, struct.pack("!QQQB", 1, 2, 3, 9), reverse=True)
    assert (found["start_ns"], found["end_ns"]) == ([3_000_000], [2_000_000])


def test_a_template_of_one_direction_has_no_reverse():
    assert read([(1, 1)], b"\1", reverse=True) is None


def test_a_layout_is_made_once_until_there_are_too_many():
    first = layout((1, 4))
    assert layout((1, 4)) is first
    for i in range(400):
        layout(*[(n + 1, 4) for n in range(500)], (1000 + i, 4))
    again = layout((1, 4))
    assert again is not first
    assert again.record_length == first.record_length
