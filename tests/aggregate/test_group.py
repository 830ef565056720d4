"""Aggregation: equal keys become one row, unknown is a value of its own in a key and no value in a measure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.aggregate.group import aggregate
from flowagent.batch import Batch, constant
from flowagent.schema import COLUMNS

KEY = ("proto", "src_addr", "in_if", "sampling_rate")
MEASURES = ("bytes", "packets", "start_ns", "end_ns", "tcp_flags")
MERGE = {
    "sum": lambda values: sum(values) % 2**64,
    "min": min,
    "max": max,
    "or": lambda values: int(np.bitwise_or.reduce(np.array(values, "u8"))),
}


def to_batch(rows, *, constants=True):
    """Rows (dicts, None for unknown) as columns; values that are all equal become broadcasts where asked for."""
    columns, valid = {}, {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if all(v is None for v in values):
            continue
        addr = COLUMNS[name].kind == "addr"
        filled = [((0, 0) if addr else 0) if v is None else v for v in values]
        array = np.array(filled, COLUMNS[name].dtype)
        if constants and len(set(values)) == 1:
            columns[name] = constant(values[0], len(rows), COLUMNS[name].dtype)
        else:
            columns[name] = array.T.copy() if addr else array
        if None in values:
            valid[name] = np.array([v is not None for v in values])
    return Batch(columns, len(rows), valid)


def to_rows(batch, names):
    """The other way round."""
    columns = []
    for name in names:
        if name not in batch:
            columns.append([None] * len(batch))
            continue
        values = batch[name].T.tolist()
        plain = [tuple(v) if isinstance(v, list) else v for v in values]
        columns.append([v if k else None for v, k in zip(plain, batch.is_known(name).tolist(), strict=True)])
    return list(zip(*columns, strict=True))


def reference(rows, key, measures):
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in key), []).append(row)
    merged = set()
    for values, members in groups.items():
        out = []
        for name in measures:
            known = [row[name] for row in members if row.get(name) is not None]
            out.append(MERGE[COLUMNS[name].merge](known) if known else None)
        merged.add((*values, *out))
    return merged


def aggregated(rows, key=("proto",), measures=("bytes",)):
    return sorted(to_rows(aggregate(to_batch(rows), key, measures), (*key, *measures)), key=repr)


def optional(values):
    return st.none() | values


row = st.fixed_dictionaries(
    {},
    optional={
        "proto": optional(st.sampled_from([0, 6, 17])),
        "src_addr": optional(st.sampled_from([(0, 0), (0, 1), (1, 0), (2**64 - 1, 2**64 - 1)])),
        "in_if": optional(st.sampled_from([0, 2**32 - 1])),
        "sampling_rate": optional(st.sampled_from([1.0, 1.5, 1000.0])),
        "bytes": optional(st.integers(0, 2**64 - 1)),
        "packets": optional(st.integers(0, 10)),
        "start_ns": optional(st.integers(-(2**63), 2**63 - 1)),
        "end_ns": optional(st.integers(-(2**63), 2**63 - 1)),
        "tcp_flags": optional(st.integers(0, 2**16 - 1)),
    },
)


@given(rows=st.lists(row, min_size=1, max_size=25), constants=st.booleans())
def test_equals_a_dict_of_lists(rows, constants):
    found = to_rows(aggregate(to_batch(rows, constants=constants), KEY, MEASURES), (*KEY, *MEASURES))
    assert len(found) == len(set(found))
    assert set(found) == reference(rows, KEY, MEASURES)


@pytest.mark.parametrize(
    ("name", "values", "merged"),
    [
        ("bytes", [1, 2, 3], 6),
        ("packets", [0, 0], 0),
        ("start_ns", [5, -3, 4], -3),
        ("end_ns", [5, -3, 4], 5),
        ("received_ns", [5, 9], 9),
        ("tcp_flags", [0x02, 0x10, 0x11], 0x13),
    ],
)
def test_merge_rules(name, values, merged):
    assert aggregated([{"proto": 6, name: v} for v in values], measures=(name,)) == [(6, merged)]


def test_sums_are_exact_modulo_2_to_the_64():
    top = 2**64 - 1
    assert aggregated([{"proto": 6, "bytes": top}, {"proto": 6, "bytes": top - 1}]) == [(6, top - 2)]


def test_the_sum_of_a_constant():
    assert aggregated([{"proto": 6, "bytes": 7}] * 3 + [{"proto": 17, "bytes": 7}]) == [(17, 7), (6, 21)]


def test_unknown_values_are_left_out_of_a_merge():
    rows = [{"proto": 6, "start_ns": 5}, {"proto": 6, "start_ns": None}, {"proto": 17, "start_ns": None}]
    assert aggregated(rows, measures=("start_ns",)) == [(17, None), (6, 5)]


def test_unknown_is_a_key_of_its_own_and_not_zero():
    rows = [{"proto": 0, "bytes": 1}, {"proto": None, "bytes": 2}, {"proto": None, "bytes": 3}]
    assert aggregated(rows) == [(0, 1), (None, 5)]


def test_what_lies_in_memory_where_a_key_is_unknown_does_not_matter():
    batch = Batch(
        {"proto": np.array([6, 17], "u1"), "bytes": np.array([1, 2], "u8")}, valid={"proto": np.array([False, False])}
    )
    assert to_rows(aggregate(batch, ("proto",), ("bytes",)), ("proto", "bytes")) == [(None, 3)]


def test_what_lies_in_memory_where_an_address_is_unknown_does_not_matter():
    batch = Batch(
        {"src_addr": np.array([[1, 2], [3, 4]], "u8"), "bytes": np.array([1, 2], "u8")},
        valid={"src_addr": np.array([False, False])},
    )
    assert to_rows(aggregate(batch, ("src_addr",), ("bytes",)), ("src_addr", "bytes")) == [(None, 3)]


def test_columns_that_are_missing_are_left_out():
    batch = aggregate(to_batch([{"proto": 6, "bytes": 1}]), ("proto", "tos"), ("bytes", "packets"))
    assert sorted(batch.columns) == ["bytes", "proto"]


def test_without_any_key_column_all_is_one_row():
    assert aggregated([{"bytes": 1}, {"bytes": 2}], key=()) == [(3,)]
    assert aggregated([{"bytes": 1}, {"bytes": 2}], key=("proto",)) == [(None, 3)]


def test_columns_that_are_neither_do_not_survive():
    assert list(aggregate(to_batch([{"proto": 6, "tos": 1, "bytes": 1}]), ("proto",), ("bytes",)).columns) == [
        "proto",
        "bytes",
    ]


def test_nothing_stays_nothing():
    assert len(aggregate(Batch({}), ("proto",), ("bytes",))) == 0


def test_dtypes_stay():
    batch = aggregate(to_batch([{"proto": 6, "bytes": 1, "tcp_flags": 2}] * 2), ("proto",), ("bytes", "tcp_flags"))
    assert {name: values.dtype.str for name, values in batch.columns.items()} == {
        "proto": "|u1",
        "bytes": "<u8",
        "tcp_flags": "<u2",
    }


def test_the_input_is_left_alone():
    batch = to_batch([{"proto": i % 2, "bytes": i} for i in range(10)], constants=False)
    for values in batch.columns.values():
        values.flags.writeable = False
    aggregate(batch, ("proto",), ("bytes",))
    assert batch["bytes"].tolist() == list(range(10))
