"""Columns for Arrow: the texts that lines of JSON have, and numbers of one type."""

import json

import numpy as np
import pytest
from drawn import V4, batches
from hypothesis import given

from flowagent.batch import Batch
from flowagent.export.encode import json_lines
from flowagent.export.parquet_columns import TEXT, Texts, column, in_order, types, wider
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS


def values(made):
    """As Python has them; None where unknown."""
    if isinstance(made, Texts):
        pairs = zip(made.offsets[:-1].tolist(), made.offsets[1:].tolist(), strict=True)
        found = [made.data[start:stop].decode() for start, stop in pairs]
        assert made.offsets[-1] == len(made.data)
    else:
        found = made.data.tolist()
    known = np.ones(len(found), np.bool_) if made.known is None else made.known
    return [value if k else None for value, k in zip(found, known.tolist(), strict=True)]


@given(batches([*(COLUMNS.keys() - {"weight", "inclusion_prob"}), "forwardingStatus", "src_k8s_name"], least=1))
def test_values_are_those_of_lines_of_json(drawn):
    batch, _ = drawn
    lines = [json.loads(line) for line in json_lines(batch).splitlines()]
    for name, type_ in types(batch).items():
        assert values(column(batch, name, type_)) == [line.get(name) for line in lines]


def test_types():
    batch = Batch({
        "src_addr": np.zeros((2, 1), "u8"), "src_mac": np.zeros(1, "u8"), "export_protocol": np.zeros(1, "u1"),
        "bytes": np.zeros(1, "u8"), "tos": np.zeros(1, "u1"), "start_ns": np.zeros(1, "i8"),
        "sampling_rate": np.zeros(1, "f8"), "src_k8s_name": np.array([b"a"]), "pen9_1": np.array([b"a"], object),
        "forwardingStatus": np.zeros(1, "u4"), "some": np.zeros(1, "i2"), "flag": np.zeros(1, np.bool_),
    })  # fmt: skip
    assert types(batch) == {
        "src_addr": TEXT, "src_mac": TEXT, "export_protocol": TEXT, "bytes": "uint64", "tos": "uint8",
        "start_ns": "int64", "sampling_rate": "float64", "src_k8s_name": TEXT, "pen9_1": TEXT,
        "forwardingStatus": "uint64", "some": "int64", "flag": "bool",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [("uint64", "uint64", "uint64"), ("uint64", "int64", "float64"), ("uint64", TEXT, TEXT), (TEXT, "float64", TEXT)],
)
def test_wider(one, other, both):
    assert wider(one, other) == wider(other, one) == both


def test_columns_that_all_rows_share():
    same = np.broadcast_to(np.array([[0], [V4 | 1]], "u8"), (2, 3))
    batch = Batch(
        {
            "exporter": same,
            "export_protocol": np.broadcast_to(np.uint8(5), 3),
            "bytes": np.broadcast_to(np.uint64(7), 3),
        }
    )
    assert values(column(batch, "exporter", TEXT)) == ["0.0.0.1"] * 3
    assert values(column(batch, "export_protocol", TEXT)) == [EXPORT_PROTOCOLS[5]] * 3
    assert values(column(batch, "bytes", "uint64")) == [7, 7, 7]


def test_texts_of_all_kinds():
    batch = Batch(
        {"name": np.array([b"", b"a\xff", "ü".encode()]), "pen9_1": np.array([b"\x00\xff", b"", b"a"], object)}
    )
    assert values(column(batch, "name", TEXT)) == ["", "a�", "ü"]
    assert values(column(batch, "pen9_1", TEXT)) == ["00ff", "", "61"]


def test_numbers_as_texts_and_as_floats():
    batch = Batch({"some": np.array([1, 20])})
    assert values(column(batch, "some", TEXT)) == ["1", "20"]
    assert values(column(batch, "some", "float64")) == [1.0, 20.0]


def test_order():
    assert in_order(["zeta", "bytes", "alpha", "received_ns"]) == ["received_ns", "bytes", "alpha", "zeta"]
