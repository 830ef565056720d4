"""The benchmarks run; what they measure is for people to read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def test_prints_a_table_and_writes_its_numbers(tmp_path):
    file = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "benchmarks", "group", "--quick", "--json", str(file)]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    machine, *_ = lines
    assert "NumPy" in machine
    assert "| rows | groups | ns/row, group_rows | ns/row, aggregate |" in lines
    document = json.loads(file.read_text())
    assert document["machine"] == machine
    assert [table["title"] for table in document["tables"]] == ["Group by 5-tuple"]
    assert document["tables"][0]["calibration_ms"][0] > 0


@pytest.mark.parametrize("name", ["netflow5", "netflow9", "ipfix", "ipfix, IPv6 too", "ovs"])
def test_an_export_made_without_sockets_is_decoded_whole(name):
    from benchmarks.flows import Export
    from flowagent.ingest.decoder import Decoder

    export, decoder = Export(name), Decoder()
    for datagrams in (*export.templates(), export.take(64), export.take(64)):
        batch = decoder.feed(datagrams)
    assert len(batch) == 64 * export.records_per_datagram
    assert not decoder.stats.errors
    assert not any(decoder.exporters.lost_records(final=True).values())


def test_drawn_records_look_like_decoded_ones():
    from benchmarks.decode import _default_decoder
    from benchmarks.flows import Export, Records

    export, decoder = Export("ipfix"), _default_decoder()
    for datagrams in (*export.templates(), export.take(64)):
        decoded = decoder.feed(datagrams)
    drawn = Records().draw(100)
    assert {n: (c.ndim, c.dtype) for n, c in drawn.columns.items()} == {
        n: (c.ndim, c.dtype) for n, c in decoded.columns.items()
    }


@pytest.mark.parametrize("name", ["sink", "flowagent"])
def test_a_trial_counts_every_record(name):
    from benchmarks.receivers import receivers
    from benchmarks.sender import Sender
    from benchmarks.trial import trial

    with Sender("netflow9") as sender:
        done = trial(receivers()[name], sender, 10_000, 0.1)
    assert done.loss == 0
    assert done.ns_per_record > 0
    assert done.peak_rss_mb > 0
