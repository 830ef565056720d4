"""What nfdump prints of the flows that nfcapd stored is read as they were sent."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from live.generate import generate
from live.polling import free_port, until

pytestmark = pytest.mark.service("nfcapd", "nfdump")


@pytest.fixture
def stored(tmp_path):
    """What is sent to nfcapd: the file that it makes of it."""
    (tmp_path / "stored").mkdir()
    port = free_port(socket.SOCK_DGRAM)
    words = ["nfcapd", "-l", tmp_path / "stored", "-p", str(port), "-t", "60"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: list((tmp_path / "stored").glob("nfcapd.current*")), "nfcapd listens")
        sent = generate(port, records=500, rate=2000, keys=100, protocol="netflow9")
        until(lambda: _received(process.pid, port) == 0, "all is read")
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    (file,) = (tmp_path / "stored").glob("nfcapd.2*")
    return file, sent


def _received(_pid, port):
    """Bytes that wait in the socket."""
    for family in ("udp", "udp6"):
        with Path(f"/proc/net/{family}").open() as table:
            for line in table.read().splitlines()[1:]:
                if line.split()[1].endswith(f":{port:04X}"):
                    return int(line.split()[4].split(":")[1], 16)
    return 0


def test_flows_are_those_that_were_sent(stored, make_agent, tmp_path):
    file, sent = stored
    done = subprocess.run(
        ["nfdump", "-r", file, "-o", "json"], env={**os.environ, "TZ": "UTC"}, capture_output=True, check=True
    )
    (tmp_path / "flows.ndjson").write_text("".join(json.dumps(flow) + "\n" for flow in json.loads(done.stdout)))
    source = {"type": "file", "path": str(tmp_path / "*.ndjson"), "schema": "nfdump"}
    reader = make_agent(ingest=[source], window=0, analyse=[])
    until(lambda: len(reader.rows()) >= sent.records, "all rows are read")
    reader.stop()
    rows = reader.rows()
    assert sum(row["records"] for row in rows) == sent.records
    assert (sum(row["packets"] for row in rows), sum(row["bytes"] for row in rows)) == sent.sums
    assert {row["exporter"] for row in rows} == {"127.0.0.1"}
    assert all(abs(row["received_ns"] - row["end_ns"]) < 3600 * 10**9 for row in rows)
