"""Rows in canonical names read back: JSON and MessagePack, one a message and several."""

import json

import msgspec
import numpy as np
import pytest
from written import differences, named, rows

from flowagent import names
from flowagent.export.schemas import encoder
from flowagent.ingest.canonical import CanonicalDecoder

forms = pytest.mark.parametrize("form", ["json", "msgpack"])


def messages(batch, form, many=1, schema="canonical"):
    each = encoder(schema, form).messages(names.spelled(batch))
    end = b"\n" if form == "json" and many > 1 else b""
    return [b"".join(row + end for row in each[i : i + many]) for i in range(0, len(each), many)]


@forms
@pytest.mark.parametrize("many", [1, 7, 300])
def test_rows_come_back(form, many):
    batch = named(rows(seed=many, records=np.arange(1, 301, dtype="u8"), forwardingStatus=np.full(300, 64, "u4")))
    found = CanonicalDecoder(form).decode(messages(batch, form, many))
    assert not found.errors
    assert differences(batch, found.batch, batch.columns) == []
    assert found.origin.tolist() == [i // many for i in range(len(batch))]


@forms
def test_a_sampled_row_has_its_probability(form):
    prob = np.array([0.25, 1.0])
    batch = rows(2, inclusion_prob=prob, weight=1 / prob)
    found = CanonicalDecoder(form).decode(messages(batch, form)).batch
    assert found["inclusion_prob"].tolist() == prob.tolist()
    assert "weight" not in found


def test_a_weight_alone_is_enough():
    found = CanonicalDecoder().decode([b'{"bytes":8,"weight":4}', b'{"bytes":7}']).batch
    assert found["inclusion_prob"].tolist() == [0.25, 1.0]
    assert found.is_known("inclusion_prob").tolist() == [True, False]


@forms
def test_only_what_is_wanted_is_read(form):
    decoder = CanonicalDecoder(form)
    decoder.want(frozenset({"bytes"}))
    columns = decoder.decode(messages(rows(), form)).batch.columns
    assert set(columns) == {"bytes", "records", "sampling_source"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"{", "bad_message"), (b"[1]", "bad_message"), (b"\xff", "bad_message"), (b'{"a":' * 5000, "bad_message"),
        (b'{"bytes":-1}', "bad_value"), (b'{"bytes":"1"}', "bad_value"), (b'{"bytes":true}', "bad_value"),
        (b'{"bytes":1e30}', "bad_value"), (b'{"bytes":[1]}', "bad_value"), (b'{"src_addr":"1.2.3"}', "bad_value"),
        (b'{"src_addr":5}', "bad_value"), (b'{"inclusion_prob":0}', "bad_value"), (b"{}", "no_fields"),
        (b'{"nonsense":1}', "no_fields"), (b'{"bytes":null}', "no_fields"),
    ],
)  # fmt: skip
def test_a_bad_message_costs_itself(message, reason):
    good = b'{"bytes":7}'
    found = CanonicalDecoder().decode([good, message, good])
    assert found.errors == {reason: 1}
    assert found.batch["bytes"].tolist() == [7, 7]
    assert found.origin.tolist() == [0, 2]


def test_a_bad_line_costs_itself():
    found = CanonicalDecoder().decode([b'{"bytes":1}\nnonsense\n\n{"bytes":2}\n'])
    assert found.batch["bytes"].tolist() == [1, 2]
    assert found.errors == {"bad_message": 1}


def test_an_object_may_go_over_lines():
    found = CanonicalDecoder().decode([json.dumps({"bytes": 5}, indent=1).encode()])
    assert found.batch["bytes"].tolist() == [5]


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x01", b"\x81\xa5bytes", b"\x81\xa5by"])
def test_a_bad_map_costs_itself(damage):
    good = msgspec.msgpack.encode({"bytes": 7})
    found = CanonicalDecoder("msgpack").decode([good, damage, good + good])
    assert found.batch["bytes"].tolist() == [7, 7, 7]
    assert found.errors == {"bad_message": 1}
    assert found.origin.tolist() == [0, 2, 2]
