"""Totals with intervals from rows that were exported: from files and stdin to tables, and true to what was there."""

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from flowagent import estimates as module
from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.cli import main
from flowagent.errors import ConfigError
from flowagent.estimates import Answer, Problems, Query, Totals, read, write
from flowagent.export.encode import json_lines
from flowagent.sampling.estimate import Estimates

DATA = Path(__file__).parent / "data" / "captures"


def query(by="", measure="bytes", where=None, top=0, confidence=0.95):
    return Query.parse(by, measure, where, top, confidence)


def answer(batches, *args, **settings):
    totals = Totals(query(*args, **settings))
    for batch in batches:
        totals.add(batch)
    return totals.answer()


def printed(found, form="table", out=None):
    out = out or io.StringIO()
    write(found, form, out)
    return out.getvalue()


def document(found):
    return json.loads(printed(found, "json"))


def sampled(n=2000, seed=1, groups=50):
    """Rows of which some were kept with a probability below 1."""
    rng = np.random.default_rng(seed)
    return Batch(
        {
            "src_addr": np.stack([np.zeros(n, "u8"), 0xFFFF_0A00_0000 + rng.integers(0, groups, n).astype("u8")]),
            "dst_port": rng.integers(0, 5, n).astype("u2"),
            "bytes": rng.integers(1, 10_000, n).astype("u8"),
            "packets": rng.integers(1, 10, n).astype("u8"),
            "inclusion_prob": rng.choice([0.125, 0.5, 1.0], n),
        },
        valid={"dst_port": rng.random(n) < 0.9},
    )


@pytest.fixture
def flowagent(monkeypatch, capfd):
    """Run `flowagent` in this process: exit code, stdout, stderr."""

    def run(*args, stdin=None):
        monkeypatch.setattr(sys, "argv", ["flowagent", *map(str, args)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(stdin)))
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capfd.readouterr()

    return run


def stored(path, data):
    """A file of these rows, or of these bytes."""
    path.write_bytes(json_lines(data) if isinstance(data, Batch) else data)
    return path


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"by": "src_adr"}, "--by: there is no column src_adr; did you mean src_addr?"),
        ({"by": "src_addr,port"}, "--by: 'port' stands for src_port and dst_port; name one or both"),
        ({"by": "interfaceName"}, "--by: interfaceName is text"),
        ({"by": "sourceIPv4Address"}, "--by: sourceIPv4Address fills the column src_addr; write src_addr"),
        ({"measure": "byte"}, "--measure: 'byte' is none; did you mean bytes?; one of: bytes, packets, records,"),
        ({"measure": "proto"}, "--measure: 'proto' is none"),
        ({"where": "proto = tpc"}, "--where: proto is a number or one of"),
        ({"top": -1}, "--top: -1 is negative"),
        ({"confidence": 1.0}, r"--confidence: 1.0 is no probability"),
        ({"confidence": float("nan")}, r"--confidence: nan is no probability"),
    ],
)
def test_what_cannot_be_asked(args, message):
    with pytest.raises(ConfigError) as error:
        query(**args)
    assert str(error.value).startswith(message)


def test_the_columns_that_are_needed():
    rate = ["sampling_rate", "sampling_source", "inclusion_prob"]
    assert query("dst_port, dst_port,in_if", where="proto == tcp").columns == [
        "dst_port", "in_if", "bytes", "packets", *rate, "proto",
    ]  # fmt: skip
    assert query(measure="flows").columns == rate
    assert query(measure="dropped_packets").columns == ["dropped_packets", *rate]


def test_totals_of_rows_that_were_all_kept_are_exact():
    rows = Batch({"proto": np.array([6, 17, 6], "u1"), "bytes": np.array([1, 2, 4], "u8")})
    found = document(answer([rows], "proto"))
    assert list(found.items()) == [
        ("measure", "bytes"), ("confidence", 0.95), ("by", ["proto"]),
        ("groups", [{"proto": 6, "total": 5, "variance": 0, "low": 5, "high": 5, "rows": 2},
                    {"proto": 17, "total": 2, "variance": 0, "low": 2, "high": 2, "rows": 1}]),
        ("other", None), ("total", {"total": 7, "variance": 0, "low": 7, "high": 7, "rows": 3}),
    ]  # fmt: skip


@pytest.mark.parametrize("measure", ["bytes", "packets", "records", "flows"])
def test_totals_by_group_are_the_sums_of_value_over_probability(measure):
    rows = sampled()
    found = document(answer([rows], "src_addr,dst_port", measure))
    values = rows[measure] if measure in rows else np.ones(len(rows))
    expected = {}
    for i in range(len(rows)):
        port = int(rows["dst_port"][i]) if rows.valid["dst_port"][i] else None
        key = (f"10.0.0.{rows['src_addr'][1, i] & np.uint64(255)}", port)
        total, variance, count = expected.get(key, (0, 0, 0))
        x, p = int(values[i]), rows["inclusion_prob"][i]
        expected[key] = total + x / p, variance + x * x * (1 - p) / p**2, count + 1
    groups = {(g["src_addr"], g["dst_port"]): (g["total"], g["variance"], g["rows"]) for g in found["groups"]}
    assert groups.keys() == expected.keys()
    for key, numbers in groups.items():
        assert numbers == pytest.approx(expected[key])


def test_other_keeps_the_total():
    for top in (1, 7, 49, 50, 51):
        found = document(answer([sampled()], "src_addr", top=top))
        assert len(found["groups"]) == min(top, 50)
        lines = [*found["groups"], *([found["other"]] if found["other"] else [])]
        assert bool(found["other"]) == (top < 50)
        for name in ("total", "variance", "rows"):
            assert sum(line[name] for line in lines) == pytest.approx(found["total"][name])
        assert all(line["low"] <= line["total"] <= line["high"] for line in lines)


def test_groups_come_by_falling_total_and_ties_by_key():
    ports = np.random.default_rng(3).permutation(500).astype("u2")
    rows = Batch({"dst_port": ports, "bytes": (ports % 3).astype("u8")})
    found = document(answer([rows.rows(0, 250), rows.rows(250, 500)], "dst_port"))
    assert [g["dst_port"] for g in found["groups"]] == sorted(range(500), key=lambda port: (-(port % 3), port))


def test_the_same_in_one_batch_and_in_many(monkeypatch):
    rows = sampled()
    whole = document(answer([rows], "src_addr,dst_port", top=30))
    monkeypatch.setattr(module, "_MERGE_ABOVE", 60)
    totals = Totals(query("src_addr,dst_port", top=30))
    for start in range(0, len(rows), 20):
        totals.add(rows.rows(start, start + 20))
        assert totals._held <= 3 * 50 * 6 + 80
    parts = document(totals.answer())
    assert [g["src_addr"] for g in parts["groups"]] == [g["src_addr"] for g in whole["groups"]]
    for mine, theirs in zip([*parts["groups"], parts["other"]], [*whole["groups"], whole["other"]], strict=True):
        assert [mine[n] for n in ("total", "low", "high")] == pytest.approx(
            [theirs[n] for n in ("total", "low", "high")]
        )


def test_where_takes_rows_out():
    rows = sampled()
    found = document(answer([rows], where="dst_port == 3 and bytes > 5000"))
    mask = rows.valid["dst_port"] & (rows["dst_port"] == 3) & (rows["bytes"] > 5000)
    assert found["total"]["rows"] == mask.sum()
    assert found["total"]["total"] == pytest.approx((rows["bytes"] / rows["inclusion_prob"])[mask].sum())
    assert document(answer([rows], where="proto == tcp"))["total"]["rows"] == 0


def test_a_group_none_of_whose_light_rows_is_here_may_be_larger_all_the_same():
    columns = {"proto": np.array([6, 17], "u1"), "bytes": np.array([100, 50], "u8")}
    rows = Batch({**columns, "inclusion_prob": np.array([1.0, 0.5])})
    for top in (1, 0):  # the light row is in another group, shown or not
        certain = document(answer([rows], "proto", top=top))["groups"][0]
        assert certain["low"] == certain["total"] == 100
        assert certain["high"] > 200


def test_no_rows():
    for by in ("", "src_addr"):
        found = document(answer([], by))
        assert found["groups"] == []
        assert found["other"] is None
        assert found["total"] == {"total": 0, "variance": 0, "low": 0, "high": 0, "rows": 0}


KEYS = Batch(
    {
        "src_addr": np.array([address_words(a) for a in ("2001:db8:a:b::1", "10.0.0.1", "::")], "u8").T,
        "src_mac": np.array([1, 2, 3], "u8"),
        "in_if": np.array([7, 0, 0], "u4"),
    },
    valid={"src_addr": np.array([True, True, False]), "in_if": np.array([True, True, False])},
)
NUMBERS = np.array(
    [[5e6, 0.25, 4e6, 6.1e6, 9], [10, 0, 9, 2e3, 1], [3, 0, 3, 3, 1], [0, 0, 0, 7, 4], [5e6, 1, 4e6, 6e6, 15]]
)


def handmade(by, *settings):
    return Answer(query(by, *settings), KEYS, Estimates(*NUMBERS.T[:4], NUMBERS[:, 4].astype(int)), 4, [])


def test_a_table():
    assert printed(handmade("src_addr,in_if", "packets")).splitlines() == [
        "src_addr         in_if    packets       ±        low       high  rows",
        "2001:db8:a:b::1      7  5,000,000   21.0%  4,000,000  6,100,000     9",
        "10.0.0.1             0         10  >1000%          9      2,000     1",
        "                                3    0.0%          3          3     1",
        "other                           0    0.0%          0          7     4",
        "total                   5,000,000   20.0%  4,000,000  6,000,000    15",
    ]


def test_a_long_line_of_a_table_is_not_wrapped():
    columns = "src_addr,dst_addr,nat_src_addr,nat_dst_addr,next_hop,tunnel_src_addr,tunnel_dst_addr,exporter"
    address = np.array([address_words("2001:db8:1111:2222:3333:4444:5555:6666")] * 2, "u8").T
    rows = Batch({**dict.fromkeys(columns.split(","), address), "bytes": np.ones(2, "u8")})
    lines = printed(answer([rows], columns)).splitlines()
    assert len(lines) == 3
    assert lines[1].count("2001:db8:1111:2222:3333:4444:5555:6666") == 8


def test_on_a_terminal_addresses_stay_what_they_are(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "120")
    text = printed(handmade("src_addr"), out=Terminal())
    assert "2001:db8:a:b::1" in text
    assert [line.split()[0] for line in text.splitlines() if "6,000,000" in line] == ["total"]


def test_json_says_null_where_the_key_is_unknown():
    found = document(handmade("src_addr,src_mac,in_if,proto"))
    assert [list(group.values())[:4] for group in found["groups"]] == [
        ["2001:db8:a:b::1", "00:00:00:00:00:01", 7, None],
        ["10.0.0.1", "00:00:00:00:00:02", 0, None],
        [None, "00:00:00:00:00:03", None, None],
    ]
    assert found["other"] == {"groups": 4, "total": 0, "variance": 0, "low": 0, "high": 7, "rows": 4}


def test_csv():
    assert printed(handmade("src_addr,in_if"), "csv").splitlines() == [
        "line,src_addr,in_if,total,variance,low,high,rows",
        "group,2001:db8:a:b::1,7,5000000,0.25,4000000,6100000,9",
        "group,10.0.0.1,0,10,0,9,2000,1",
        "group,,,3,0,3,3,1",
        "other,,,0,0,0,7,4",
        "total,,,5000000,1,4000000,6000000,15",
    ]


def rated(rate, source):
    columns = {
        "bytes": np.array([100], "u8"),
        "packets": np.array([1], "u8"),
        "sampling_source": np.array([source], "u1"),
    }
    return Batch(columns if rate is None else {**columns, "sampling_rate": np.array([rate])})


@pytest.mark.parametrize(
    ("rate", "source", "measure", "notes"),
    [
        (1.0, 1, "bytes", []),
        (None, 0, "bytes", ["1 rows have an unknown sampling rate, which counts as 1: totals may be too low"]),
        (None, 3, "packets", ["1 rows were scaled by their exporter: intervals leave out what its sampling adds"]),
        (10.0, 1, "bytes", ["1 rows come from sampled packets: the part that this has in intervals is a bound"]),
        (10.0, 1, "flows", ["1 rows come from sampled packets: flows of which none was sampled are not here"]),
        (None, 0, "flows", []),
    ],
)
def test_notes_on_what_the_exporters_did(rate, source, measure, notes):
    assert answer([rated(rate, source)], measure=measure).notes == notes


def test_files_of_every_sort_at_once(tmp_path, flowagent):
    rows = sampled()
    lines = json_lines(rows).splitlines(keepends=True)
    parts = [b"".join(lines[start:stop]) for start, stop in ((0, 500), (500, 900), (900, 1200), (1200, 1800))]
    plain = stored(tmp_path / "a.ndjson", parts[0])
    gzipped = stored(tmp_path / "b.json.gz", gzip.compress(parts[1]))
    zipped = stored(tmp_path / "c.jsonl.zst", zstandard.compress(parts[2]))
    decoded = [json.loads(line) for line in parts[3].splitlines()]
    parquet.write_table(pa.Table.from_pylist(decoded), tmp_path / "d.parquet")
    stdin = io.BytesIO(b"".join(lines[1800:]))
    options = ["--by", "src_addr,dst_port", "--format", "json", "--top", 0]
    code, out, err = flowagent("estimate", plain, gzipped, zipped, tmp_path / "d.parquet", "-", *options, stdin=stdin)
    assert code == 0
    found, expected = json.loads(out), document(answer([rows], "src_addr,dst_port"))
    assert [g["src_addr"] for g in found["groups"]] == [g["src_addr"] for g in expected["groups"]]
    assert found["total"] == pytest.approx(expected["total"])
    assert err == "note: 2,000 rows have an unknown sampling rate, which counts as 1: totals may be too low\n"


def test_parquet_from_a_pipe(flowagent, monkeypatch):
    out = io.BytesIO()
    parquet.write_table(pa.table({"bytes": [1]}), out)
    pipe = io.BytesIO(out.getvalue())
    pipe.name, pipe.seekable = "<stdin>", lambda: False
    code, out, err = flowagent("estimate", "-", stdin=pipe)
    assert (code, out) == (2, "")
    assert err == "flowagent: <stdin>: Parquet cannot be read from a pipe; name the file\n"


@pytest.mark.parametrize(("strict", "code"), [([], 0), (["--strict"], 1)])
def test_bad_lines_cost_themselves(flowagent, tmp_path, strict, code):
    bad = stored(tmp_path / "bad.ndjson", b'{"bytes":1}\n' + b"x\n" * 13)
    more = stored(tmp_path / "more.ndjson", b'y\n{"bytes":2}\n')
    found, out, err = flowagent("estimate", bad, more, "--format", "csv", *strict)
    assert found == code
    assert out.splitlines()[-1] == "total,3,0,3,3,2"
    lines = err.splitlines()
    assert [line.split(": ")[:2] for line in lines[:10]] == [[str(bad), f"line {n}"] for n in range(2, 12)]
    assert lines[10] == f"{bad}: 3 more errors like these"
    assert lines[11].startswith(f"{more}: line 1: ")
    assert len(lines) == 13  # and the note on rates


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["missing.ndjson"], "missing.ndjson: cannot be read: No such file or directory"),
        ([DATA], f"{DATA}: cannot be read: Is a directory"),
        (
            [DATA / "fprobe-v5.truth.json", "--by", "srcport"],
            "--by: there is no column srcport; did you mean src_port?",
        ),
        ([DATA / "fprobe-v5.truth.json", "--where", "proto =="], "--where: expected"),
    ],
)
def test_wrong_usage_is_2(flowagent, args, message):
    code, out, err = flowagent("estimate", *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"flowagent: {message}")


def test_progress_ends_at_the_size_of_all_files(tmp_path):
    paths = [stored(tmp_path / name, rows) for name, rows in (("a", sampled()), ("b", sampled(seed=2)), ("c", b""))]
    told = []
    read(paths, query(), Problems(print), told.append)
    assert told == sorted(told)
    assert told[-1] == module.size_of(paths) == sum(path.stat().st_size for path in paths)


def test_from_a_capture_to_a_table(flowagent, tmp_path):
    config = stored(tmp_path / "c.yaml", b"sampling: {budget: 40}")
    rows = tmp_path / "rows.ndjson"
    assert flowagent("replay", DATA / "softflowd-many-v9.pcap", "-c", config, "-o", rows)[0] == 0
    code, out, err = flowagent("estimate", rows, "--by", "src_addr,dst_port", "--where", "proto == tcp", "--top", 3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["src_addr", "dst_port", "bytes", "±", "low", "high", "rows"]
    assert [line.split()[0] for line in lines[4:]] == ["other", "total"]
