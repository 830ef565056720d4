"""A history from files: what captures and exported rows add up to is what the history says."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from flowagent import recorded
from flowagent.config import parse
from flowagent.errors import ConfigError
from flowagent.history.query import Query
from flowagent.history.result import query as asked
from flowagent.replay import Pace, Replay

CAPTURES = Path(__file__).parent / "data" / "captures"
SECOND = 10**9
NOW = 1_760_000_000 * SECOND


def row(at, **more):
    return {"received_ns": NOW + at * SECOND, "src_addr": "192.0.2.1", "bytes": 100, "packets": 2} | more


def rows_file(tmp_path, rows, name="rows.ndjson"):
    file = tmp_path / name
    data = b"".join(json.dumps(one).encode() + b"\n" for one in rows)
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


def answer(paths, told=None, **parameters):
    query = Query.parse({"from": "0", "top": "50"} | parameters)
    found = recorded.history(paths, query, parse({}), (told if told is not None else []).append)
    oldest = found.describe()["oldest"]
    if oldest is not None:
        query = query._replace(since=query.since._replace(seconds=oldest))
    return asked(found, query)


def labelled(made):
    return {
        tuple(d.values[i].label for d, i in zip(made.dimensions, one.at, strict=True)): one.value for one in made.rows
    }


@pytest.mark.parametrize("name", ["softflowd-v9.pcap", "softflowd-v5.pcap", "pmacct-ipfix.pcap"])
@pytest.mark.parametrize("measure", ["bytes", "packets"])
def test_a_capture_adds_up_to_what_replay_counts(name, measure):
    job = Replay([CAPTURES / name], pace=Pace(0))
    job.raw(None)
    assert answer([CAPTURES / name], measure=measure).total.value == job.summaries[0].counts[measure] > 0


def test_errors_of_a_capture_are_told():
    told = []
    answer([CAPTURES / "ovs-mixed.pcap"], told)
    assert all("ovs-mixed.pcap: " in one for one in told)


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.ndjson.gz", "rows"])
def test_exported_rows_in_any_order(tmp_path, name):
    rows = [row(35, dst_addr="192.0.2.9"), row(0), row(12, dst_addr="192.0.2.9", bytes=50), row(3)]
    made = answer([rows_file(tmp_path, rows, name)], dimensions="src_addr,dst_addr", step="10s", fold="row")
    assert labelled(made) == {("192.0.2.1", "192.0.2.9"): 150, ("192.0.2.1", "unknown"): 200}
    assert made.total.series == [200, 50, 0, 100]
    assert (made.total.error, made.exact) == (0, False)  # nobody said how the rows were sampled
    assert made.unscaled


def test_samples_are_scaled_and_have_errors(tmp_path):
    rows = [row(i, sampling_rate=100, sampling_source="wire", weight=4, inclusion_prob=0.25) for i in range(50)]
    made = answer([rows_file(tmp_path, rows)])
    assert made.total.value == 50 * 100 * 100 * 4
    assert 0 < made.total.error < made.total.value
    assert not made.unscaled


def test_names_and_filters(tmp_path):
    rows = [row(0, src_k8s_namespace="shop"), row(1, src_k8s_namespace="data", bytes=7), row(2)]
    file = rows_file(tmp_path, rows)
    assert labelled(answer([file], dimensions="src_k8s_namespace")) == {("shop",): 100, ("data",): 7, ("unknown",): 100}
    some = answer([file], dimensions="src_addr", filter='src_k8s_namespace == "data"')
    assert labelled(some) == {("192.0.2.1",): 7}


def test_several_files_are_one(tmp_path):
    files = [rows_file(tmp_path, [row(i)], f"{i}.ndjson") for i in (20, 0)]
    assert answer(files).total.value == 200


def test_lines_that_are_no_rows_cost_themselves(tmp_path):
    file, told = rows_file(tmp_path, [row(0)]), []
    file.write_bytes(b"nonsense\n" + file.read_bytes())
    assert answer([file], told).total.value == 100
    assert len(told) == 1


def test_nothing_is_nothing(tmp_path):
    assert answer([rows_file(tmp_path, [])]).total.value == 0


def test_captures_and_rows_do_not_mix(tmp_path):
    with pytest.raises(ConfigError, match="captures and exported rows"):
        answer([rows_file(tmp_path, [row(0)]), CAPTURES / "softflowd-v9.pcap"])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"--from: .* is no file that is there"):
        answer([tmp_path / "none"])


def test_a_column_that_cannot_be_grouped_by(tmp_path):
    with pytest.raises(ConfigError, match=r"'bytes' is not a column to group by"):
        answer([rows_file(tmp_path, [row(0)])], dimensions="bytes")


def test_more_rows_than_can_be_held(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "MAX_ROWS", 2)
    with pytest.raises(ConfigError, match="more than 2 rows"):
        answer([rows_file(tmp_path, [row(i) for i in range(3)])])


def test_rows_of_another_schema_are_not_taken_for_nothing(tmp_path):
    file = rows_file(tmp_path, [{"SrcAddr": "192.0.2.1", "Bytes": 5}])
    with pytest.raises(ConfigError, match="bytes is in no row"):
        answer([file])
    assert answer([file], measure="flows").total.value == 1


def test_parquet(tmp_path):
    file = tmp_path / "rows.parquet"
    rows = [row(i, sampling_rate=2, sampling_source="wire") for i in range(5)]
    parquet.write_table(pa.Table.from_pylist(rows), file)
    made = answer([file], dimensions="src_addr")
    assert labelled(made) == {("192.0.2.1",): 1000}
    assert made.total.error > 0
