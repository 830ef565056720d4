"""FlowMessages read back as the rows that the sink wrote, and what is wrong in others."""

import numpy as np
import pytest
from written import differences, rows

from flowagent.batch import Batch
from flowagent.export.schemas import encoder
from flowagent.ingest.goflow2 import FIELDS, Goflow2Decoder
from flowagent.schema import COLUMNS

LOST = {"records"}


def messages(batch, many=1):
    each = encoder("goflow2", "protobuf").delimited(batch)
    return [b"".join(each[i : i + many]) for i in range(0, len(each), many)]


@pytest.mark.parametrize("many", [1, 7, 300])
def test_rows_come_back(many):
    batch = rows()
    found = Goflow2Decoder().decode(messages(batch, many))
    assert not found.errors
    assert differences(batch, found.batch, batch.columns) == []
    assert found.origin.tolist() == [i // many for i in range(len(batch))]
    assert found.batch.record_count == len(batch)


def test_every_column_of_the_schema_is_read():
    from flowagent.export.goflow2 import FIELDS as WRITTEN

    missing = {field.name for field in WRITTEN} - {f.name for f in WRITTEN if f.number in FIELDS}
    assert missing == {"bgp_next_hop"}
    assert {field.column for field in FIELDS.values()} - COLUMNS.keys() == {
        "forwardingStatus", "fragmentIdentification", "fragmentOffset", "flowLabelIPv6",
    }  # fmt: skip


@pytest.mark.parametrize("weight", [1.25, 2.0, 7.5, 1000.0])
def test_a_sampled_row_has_its_own_counts_and_its_probability(weight):
    n = 500
    octets = np.arange(1, n + 1, dtype="u8") * np.uint64(1000)
    prob = np.full(n, 1 / weight)
    batch = Batch({"bytes": octets, "inclusion_prob": prob, "weight": 1 / prob, "proto": np.full(n, 6, "u1")})
    found = Goflow2Decoder().decode(messages(batch)).batch
    assert np.abs(found["bytes"].astype(float) - octets).max() <= 1
    assert found["inclusion_prob"].tolist() == prob.tolist()
    assert "weight" not in found


def test_rows_that_were_not_sampled_stay_exact_beside_others():
    prob = np.array([1.0, 0.5])
    batch = Batch({"bytes": np.array([2**63 + 1, 100], "u8"), "inclusion_prob": prob, "weight": 1 / prob})
    assert Goflow2Decoder().decode(messages(batch)).batch["bytes"].tolist() == [2**63 + 1, 100]


def test_only_what_is_wanted_is_read():
    decoder = Goflow2Decoder()
    decoder.want(frozenset({"bytes", "sampling_source"}))
    found = decoder.decode(messages(rows())).batch
    assert set(found.columns) == {"bytes", "sampling_rate", "sampling_source", "records"}


def test_vlans_of_other_writers():
    found = Goflow2Decoder().decode([b"\x03\xe8\x01\x07", b"\x06\xe8\x01\x07\x88\x02\x08"]).batch
    assert found["vlan"].tolist() == [7, 8]


def test_lists_of_labels():
    found = Goflow2Decoder().decode([b"\x06\x8a\x05\x03\x80\x02\x07", b"\x04\x88\x05\x80\x02"]).batch
    assert found["mpls_label"].tolist() == [256, 256]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xa8\x01\x80\x80\x04", "bad_value"),  # a port of 65536
        (b"\x32\x05abcde", "bad_value"),  # an address of five bytes
        (b"\xd8\x01" + b"\xff" * 6 + b"\x7f", "bad_value"),  # a MAC address of 49 bits
        (b"\x48" + b"\xff" * 3, "bad_message"),
        (b"\x4a\x01x", "bad_value"),  # bytes that are bytes
        (b"\x08\x09", "bad_value"),  # a protocol that there is not
        (b"\xc1\x3e" + bytes(8), "bad_value"),  # a weight of 0
        (b"", "no_fields"),
        (b"\x98\x06\x01", "no_fields"),
    ],
)
def test_a_bad_message_costs_itself(body, reason):
    good = b"\x02\x48\x07"
    found = Goflow2Decoder().decode([good, bytes([len(body)]) + body, good])
    assert found.errors == {reason: 1}
    assert found.batch["bytes"].tolist() == [7, 7]
    assert found.origin.tolist() == [0, 2]


def test_what_is_cut_off_costs_the_rest_of_its_message():
    found = Goflow2Decoder().decode([b"\x02\x48\x07\x09abc", b"\x02\x48\x08"])
    assert found.errors == {"bad_message": 1}
    assert found.batch["bytes"].tolist() == [7, 8]


def test_nothing():
    found = Goflow2Decoder().decode([])
    assert (len(found.batch), len(found.origin), found.errors) == (0, 0, {})
