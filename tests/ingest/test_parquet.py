"""Parquet files into rows: the same as from lines of JSON, whatever types the columns have."""

import io
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.errors import ConfigError
from flowagent.export.encode import plain_values
from flowagent.ingest.parquet import CHUNK_ROWS, MAGIC, read

N = 5
BATCH = Batch(
    {
        "src_addr": np.array([address_words(a) for a in ("10.0.0.1", "::1", "10.0.0.1", "2001:db8::1", "::")], "u8").T,
        "src_mac": np.arange(N, dtype="u8"),
        "export_protocol": np.arange(N, dtype="u1"),
        "bytes": np.array([0, 1, 2**63, 2**64 - 1, 5], "u8"),
        "start_ns": np.array([-1, 0, 1, 1_700_000_000_000_000_000, 5], "i8"),
        "inclusion_prob": np.array([1, 0.5, 0.25, 1, 1e-3]),
        "forwardingStatus": np.arange(N, dtype="u8"),
    },
    valid={name: np.arange(N) != hole for hole, name in enumerate(("src_addr", "src_mac", "bytes", "inclusion_prob"))},
)


def plain(batch):
    """The columns as lists of what rows print, None where unknown."""
    return {
        n: [v if k else None for v, k in zip(plain_values(batch, n), batch.is_known(n), strict=True)]
        for n in batch.columns
    }


def stored(columns, **settings):
    """A Parquet file in memory."""
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out, **settings)
    return io.BytesIO(out.getvalue())


def rows(file, *columns):
    problems = []
    return Batch.concat(list(read(file, columns, problems.append))), problems


def arrays(batch):
    types = {"bytes": pa.uint64()}
    return {name: pa.array(values, types.get(name)) for name, values in plain(batch).items()}


def assert_same(found, batch):
    assert plain(found) == plain(batch)
    for name in batch.columns:
        assert found[name].dtype == batch[name].dtype


def test_the_rows_that_lines_of_json_would_have():
    found, problems = rows(stored(arrays(BATCH)), *BATCH.columns)
    assert problems == []
    assert_same(found, BATCH)


@pytest.mark.parametrize(
    "text", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_sort_of_text(text):
    columns = {n: a.cast(text) if a.type == pa.string() else a for n, a in arrays(BATCH).items()}
    found, problems = rows(stored(columns), *BATCH.columns)
    assert problems == []
    assert_same(found, BATCH)


NUMBERS = pa.array([6, None, 17])
SORTS = [NUMBERS.cast(kind) for kind in (pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float64())]


@pytest.mark.parametrize("array", [*SORTS, NUMBERS.dictionary_encode()], ids=lambda array: str(array.type))
def test_every_sort_of_number(array):
    found, problems = rows(stored({"proto": array}), "proto")
    assert problems == []
    assert plain(found) == {"proto": [6, None, 17]}


def test_numbers_of_what_rows_print_as_text():
    columns = {
        "src_addr": pa.array([0x0A000001, None], pa.uint32()),
        "export_protocol": [5, None],
        "src_mac": [None, 1],
    }
    assert plain(rows(stored(columns), *columns)[0]) == {
        "src_addr": ["10.0.0.1", None], "export_protocol": ["ipfix", None], "src_mac": [None, "00:00:00:00:00:01"],
    }  # fmt: skip


def test_timestamps():
    columns = {"start_ns": pa.array([1_700_000_000_123, None], pa.timestamp("ms", tz="UTC"))}
    assert plain(rows(stored(columns), "start_ns")[0]) == {"start_ns": [1_700_000_000_123_000_000, None]}


def test_only_what_is_wanted_is_read_and_what_is_not_there_is_unknown():
    file = stored({"bytes": [1, 2], "dst_port": ["no", "number"], "packets": pa.nulls(2)})
    found, problems = rows(file, "bytes", "packets", "proto")
    assert (plain(found), problems) == ({"bytes": [1, 2]}, [])


def test_rows_of_no_column_are_counted():
    assert len(rows(stored({"bytes": [1, 2]}), "proto")[0]) == 2


def test_a_row_with_a_wrong_value_is_named_and_left_out(tmp_path):
    n = CHUNK_ROWS + 100
    columns = {"src_addr": ["10.0.0.1"] * n, "proto": [6] * n}
    columns["src_addr"][CHUNK_ROWS + 6] = columns["src_addr"][2] = "no"
    columns["proto"][7] = 256
    file = tmp_path / "rows.parquet"
    file.write_bytes(stored(columns).getvalue())
    found, problems = rows(file, "src_addr", "proto")
    assert len(found) == n - 3
    assert problems == [
        f"{file}: row 3: src_addr: 'no' is not an address",
        f"{file}: row 8: proto: 256 is not a number from 0 to 255",
        f"{file}: row {CHUNK_ROWS + 7}: src_addr: 'no' is not an address",
    ]


def test_chunks_over_row_groups():
    file = stored({"bytes": pa.array(range(200_000))}, row_group_size=30_000)
    sizes = [(len(batch), batch["bytes"][0]) for batch in read(file, ["bytes"], print)]
    assert sum(size for size, _ in sizes) == 200_000
    assert max(size for size, _ in sizes) <= CHUNK_ROWS
    assert [first for _, first in sizes] == list(np.cumsum([0, *(size for size, _ in sizes[:-1])]))


@pytest.mark.parametrize(
    ("column", "values", "what"),
    [
        ("bytes", ["1"], "bytes is of type string; expected a number"),
        ("bytes", [[1]], "bytes is of type list<.*>; expected a number"),
        ("bytes", [True], "bytes is of type bool; expected a number"),
        ("src_addr", [b"\1\2\3\4"], "src_addr is of type binary; expected an address"),
        ("src_addr", [{"v4": "10.0.0.1"}], "src_addr is of type struct<.*>; expected an address"),
    ],
)
def test_a_type_that_cannot_be_read(column, values, what):
    with pytest.raises(ConfigError, match=f"input: the column {what}"):
        rows(stored({column: values}), column)


def test_without_pyarrow_one_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"x\.parquet: .*; install flowagent\[parquet\]"):
        list(read(tmp_path / "x.parquet", ["bytes"], print))


def test_a_file_that_is_cut_off():
    data = stored({"bytes": [1, 2]}).getvalue()
    assert data.startswith(MAGIC)
    found, (problem,) = rows(io.BytesIO(data[:-5]), "bytes")
    assert len(found) == 0
    assert problem.startswith("input: is damaged or cut off")


def test_of_a_damaged_file_what_could_be_read_is_used():
    data = bytearray(
        stored({"bytes": pa.array(range(200_000))}, row_group_size=CHUNK_ROWS, use_dictionary=False).getvalue()
    )
    half = len(data) // 2
    data[half : half + 300_000] = b"\xff" * 300_000
    found, (problem,) = rows(io.BytesIO(bytes(data)), "bytes")
    assert found["bytes"].tolist() == list(range(CHUNK_ROWS))
    assert "damaged" in problem


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(read(tmp_path / "missing", ["bytes"], print))


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6))
def test_integers_of_any_size(numbers):
    found, problems = rows(
        stored({"dst_port": pa.array(numbers, pa.int64()), "proto": [6] * len(numbers)}), "dst_port", "proto"
    )
    right = [n for n in numbers if n is None or 0 <= n <= 65535]
    assert len(problems) == len(numbers) - len(right)
    assert plain(found).get("dst_port", [None] * len(right)) == right
