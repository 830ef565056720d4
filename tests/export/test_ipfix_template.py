"""Templates: every value that has an element comes back as it was, and nothing is said of what is unknown."""

import numpy as np
import pytest
from drawn import V4, batches
from hypothesis import given
from sent_ipfix import decode

from flowagent.batch import Batch, constant
from flowagent.export import ipfix_template
from flowagent.export.ipfix_message import data_messages, template_messages
from flowagent.export.ipfix_template import FALLBACK_IDS, FIRST_ID, Templates
from flowagent.schema import COLUMNS

LIMIT = 1400
EXACT = sorted({
    "src_addr", "dst_addr", "src_port", "dst_port", "proto", "bytes", "packets", "tcp_flags", "tos", "ttl", "in_if",
    "out_if", "direction", "ether_type", "src_mac", "dst_mac", "vlan", "dst_vlan", "src_as", "dst_as", "src_mask",
    "dst_mask", "next_hop", "dropped_bytes", "dropped_packets", "flow_end_reason", "nat_src_addr", "nat_dst_addr",
    "nat_src_port", "nat_dst_port", "nat_event", "tunnel_type", "tunnel_key", "icmp_type", "icmp_code",
    "observation_point",
})  # fmt: skip
"""Columns that a decoder fills from the elements they are sent as."""


def sent(batch, limit=LIMIT):
    """What a decoder makes of all rows, and the templates."""
    templates = Templates(limit)
    parts = [(template, template.records(rows)) for template, rows in templates.groups(batch)]
    messages = [*template_messages([template.record() for template in templates], 1, limit)]
    messages += [m for template, records in parts for m in data_messages(template.number, records, 1, limit)]
    assert all(len(message.data) <= limit for message in messages)
    sequence = 0
    for message in messages:
        message.stamp(1_700_000_000, sequence)
        sequence += message.records
    return decode(message.data for message in messages), templates


def known_rows(batch, names):
    """Each row as the values that are known, in any order of rows."""
    found = []
    for row in range(len(batch)):
        values = {name: batch[name][..., row].tolist() for name in names if batch.is_known(name)[row]}
        found.append(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in values.items()))
    return sorted(found)


def addresses(*words):
    return np.array(words, np.uint64).T.copy()


@given(batches(EXACT, least=1))
def test_what_was_known_comes_back(drawn):
    batch, _ = drawn
    # The decoder wants to know that it is ICMP, and who knows nothing would be sent as a row of zeros.
    batch = batch.with_columns({"proto": constant(1, len(batch), np.uint8)})
    back, _ = sent(batch)
    assert known_rows(back, EXACT) == known_rows(batch, EXACT)


@pytest.mark.parametrize("name", ["start_ns", "end_ns"])
def test_times_are_milliseconds(name):
    back, _ = sent(Batch({name: np.array([1_700_000_000_123_456_789, 5, -5])}))
    assert back[name].tolist() == [1_700_000_000_123_000_000, 0, 0]


def test_what_others_call_differently():
    batch = Batch({
        "exporter": addresses((0, V4 | 0x0A000001)), "observation_domain": np.array([7], "u4"),
        "received_ns": np.array([1_700_000_000_123_000_000]), "records": np.array([3], "u8"),
        "mpls_label": np.array([0xFFFFF], "u4"),
    })  # fmt: skip
    back, _ = sent(batch)
    names = (
        "exporterIPv4Address", "originalObservationDomainId", "collectionTimeMilliseconds", "deltaFlowCount",
        "mpls_label",
    )  # fmt: skip
    values = [back[name][..., 0].tolist() for name in names]
    assert values == [[0, V4 | 0x0A000001], 7, 1_700_000_000_123_000_000, 3, 0xFFFFF]


def test_iana_elements_without_a_column():
    extras = {
        "flowLabelIPv6": np.array([0xABCDE], "u8"),
        "forwardingStatus": np.array([300], "u8"),
        "mibObjectValueInteger": np.array([-5], "i8"),
        "samplingProbability": np.array([0.25]),
        "minimumTTL": np.array([3], "u8"),
        "bgpNextHopIPv6Address": addresses((1, 2)),
        "postSourceMacAddress": np.array([0x0123456789AB], "u8"),
        "systemInitTimeMilliseconds": np.array([1_700_000_000_000_000_000]),
    }
    back, _ = sent(Batch(extras))
    expected = {name: values[..., 0].tolist() for name, values in extras.items()}
    assert {name: back[name][..., 0].tolist() for name in extras} == expected


def test_numbers_that_an_element_cannot_hold_become_its_greatest():
    back, _ = sent(Batch({"minimumTTL": np.array([3, 300], "u8")}))
    assert back["minimumTTL"].tolist() == [3, 255]


def test_what_has_no_element_of_fixed_length_is_left_out():
    columns = {
        "bytes": np.array([1], "u8"), "src_k8s_name": np.array([b"web-1"]), "interfaceName": np.array([b"eth0"]),
        "weight": np.array([2.0]), "pen9_1": np.array([b"x"], object), "sequence": np.array([1], "u4"),
        "export_protocol": np.array([1], "u1"), "dataRecordsReliability": np.array([True]),
    }  # fmt: skip
    _, (template,) = sent(Batch(columns))
    assert [field.column for field in template.fields] == ["bytes"]


def test_each_pattern_of_known_columns_has_a_template():
    columns = {
        "src_addr": addresses((0, V4 | 1), (0, V4 | 2), (1, 2)),
        "bytes": np.array([1, 2, 3], "u8"),
        "in_if": np.array([4, 0, 0], "u4"),
    }
    back, templates = sent(Batch(columns, valid={"in_if": np.array([True, False, False])}))
    fields = [(t.number, [(f.column, f.number) for f in t.fields]) for t in templates]
    assert {number for number, _ in fields} == {FIRST_ID, FIRST_ID + 1, FIRST_ID + 2}
    assert sorted(names for _, names in fields) == [
        [("src_addr", 8), ("bytes", 1)],
        [("src_addr", 8), ("bytes", 1), ("in_if", 10)],
        [("src_addr", 27), ("bytes", 1)],
    ]
    assert sorted(back["bytes"].tolist()) == [1, 2, 3]


def test_equal_rows_later_need_no_new_template():
    templates = Templates(LIMIT)
    batch = Batch({"bytes": np.array([1], "u8")})
    first, again = ([t.number for t, _ in templates.groups(batch)] for _ in range(2))
    assert first == again == [FIRST_ID]


def test_the_flow_decides_of_elements_for_its_ip_version():
    columns = {"src_addr": addresses((1, 2)), "src_mask": np.array([64], "u1"), "icmp_type": np.array([1], "u1")}
    _, (template,) = sent(Batch(columns))
    assert [field.number for field in template.fields] == [27, 178, 29]


def test_there_are_never_too_many_templates(monkeypatch):
    monkeypatch.setattr(ipfix_template, "MAX_TEMPLATES", 3)
    n = 32
    masks = {name: np.arange(n) >> bit & 1 == 1 for bit, name in enumerate(("tos", "ttl", "vlan", "in_if", "bytes"))}
    columns = {name: np.ones(n, COLUMNS[name].dtype) for name in masks}
    columns["bytes"] = np.arange(n, dtype="u8")
    columns["src_addr"] = addresses(*([(1, 2), (0, V4 | 9)] * (n // 2)))
    back, templates = sent(Batch(columns, valid=masks))
    assert {t.number for t in templates} == {FIRST_ID, FIRST_ID + 1, FIRST_ID + 2, *FALLBACK_IDS.values()}
    assert templates.narrowed == n - 3
    assert len(back) == n
    assert back.total("bytes") == int(columns["bytes"][masks["bytes"]].sum())
    assert sorted(back["src_addr"].T.tolist()) == sorted(columns["src_addr"].T.tolist())


def test_rows_that_know_nothing_of_use_are_there_still():
    back, templates = sent(Batch({"weight": np.array([1.0, 2.0])}))
    assert (len(back), templates.narrowed) == (2, 2)


def test_a_record_is_no_longer_than_a_message():
    extras = {ipfix_template.element(0, n).name: np.array([n], "u8") for n in range(1, 500)}
    columns = {
        name: values
        for name, values in extras.items()
        if ipfix_template._field(name, values, 4) is not None
    }  # fmt: skip
    assert sum(ipfix_template._field(name, values, 4).form.dtype.itemsize for name, values in columns.items()) > 512
    back, templates = sent(Batch({"bytes": np.array([77], "u8"), **columns}), limit=512)
    assert back["bytes"].tolist() == [77]
    (template,) = templates
    assert len(template.fields) > 50


def test_two_columns_never_share_an_element():
    columns = {"in_if": np.array([1], "u4"), "ingressInterface": np.array([2], "u8")}
    _, (template,) = sent(Batch(columns))
    assert [field.column for field in template.fields] == ["in_if"]


def test_no_rows_no_template():
    assert list(Templates(LIMIT).groups(Batch({}))) == []
