"""Other collectors read what the agent sends as IPFIX: the same packets and bytes, whatever the window made of them."""

import json
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from export.sent_ipfix import decode
from live.agent import TCP, UDP, Flow, Sums, merged, sum_rows
from live.generate import generate
from live.outages import Collector as TlsCollector
from live.outages import make_certificate, records_on_disk
from live.peers import flowagent_reads, tshark_reads, write_capture
from live.polling import free_port, until


class Nfcapd:
    """Writes what comes to its port into a directory; nothing about its buffers is changed."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.port = free_port(socket.SOCK_DGRAM)

    def __enter__(self):
        command = ["nfcapd", "-w", self._directory, "-b", "127.0.0.1", "-p", str(self.port), "-t", "3600"]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self._process = subprocess.Popen(command, **quiet)
        until(lambda: self._waiting() is not None, "nfcapd listens")
        return self

    def __exit__(self, *_):
        until(lambda: self._waiting() == 0, "nfcapd has read everything")
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(15)

    def _waiting(self):
        """Bytes that it has not read; None where it has not got its port."""
        for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{self.port:04X}"):
                return int(fields[4].split(":")[1], 16)
        return None

    def nfdump(self, *options):
        command = ["nfdump", "-R", self._directory, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def sums(self):
        found = dict(re.findall(r"^(\w+): (\d+)$", self.nfdump("-I"), re.MULTILINE))
        return Sums(int(found["Packets"]), int(found["Bytes"]))

    def flows(self):
        """The sums of each 5-tuple."""
        found = []
        for line in self.nfdump("-q", "-N", "-6", "-o", "fmt:%sa %da %sp %dp %pr %pkt %byt").splitlines():
            src, dst, src_port, dst_port, proto, packets, octets = line.split()
            ports = (src_port, dst_port) if int(proto) in (TCP, UDP) else (0, 0)
            flow = Flow(src, dst, *map(int, ports), int(proto))
            found.append({flow: Sums(int(packets), int(octets))})
        return merged(*found)


class Collector:
    """Keeps all datagrams that come."""

    def __enter__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self.port = self._socket.getsockname()[1]
        self.datagrams = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self):
        while True:
            over = self._over.is_set()
            try:
                self.datagrams.append(self._socket.recv(65535))
            except TimeoutError:
                if over:
                    return

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        self._socket.close()


def run(make_agent, port, generator=None, settings=None, **sections):
    """What an agent that sends to a port was sent itself."""
    export = [{"type": "ipfix", "collector": f"127.0.0.1:{port}", **(settings or {})}, *sections.pop("more", [])]
    agent = make_agent(export=export, analyse=[], **sections)
    sent = generate(
        agent.port, **{"protocol": "ipfix", "records": 30_000, "rate": 20_000, "keys": 5000, **(generator or {})}
    )
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    agent.stop()
    return sent


@pytest.mark.service("nfcapd", "nfdump")
@pytest.mark.parametrize("window", [{"every": "1s"}, 0], ids=["window", "record by record"])
@pytest.mark.parametrize("protocol", ["netflow9", "ipfix"])
def test_nfdump_finds_the_same_sums(tmp_path, make_agent, protocol, window):
    with Nfcapd(tmp_path / "nfcapd") as nfcapd:
        sent = run(make_agent, nfcapd.port, {"protocol": protocol}, window=window)
    assert nfcapd.sums() == sent.sums


@pytest.mark.service("nfcapd", "nfdump")
def test_nfdump_finds_the_same_flows(tmp_path, make_agent):
    file = tmp_path / "rows.ndjson"
    with Nfcapd(tmp_path / "nfcapd") as nfcapd:
        run(make_agent, nfcapd.port, window={"every": "1s"}, more=[{"type": "file", "path": str(file)}])
    ours = sum_rows(json.loads(line) for line in file.read_text().splitlines())
    assert nfcapd.flows() == ours


@pytest.mark.service("nfcapd", "nfdump")
def test_nfdump_finds_scaled_sums(tmp_path, make_agent):
    with Nfcapd(tmp_path / "nfcapd") as nfcapd:
        sent = run(make_agent, nfcapd.port, {"sampling_rate": 100}, window={"every": "1s"}, settings={"scale": True})
    # What came before the exporter had told its rate is as it was.
    assert 99 * sent.sums.bytes < nfcapd.sums().bytes <= 100 * sent.sums.bytes


@pytest.mark.service("tshark")
@pytest.mark.parametrize("window", [{"every": "1s"}, 0], ids=["window", "record by record"])
def test_tshark_and_flowagent_find_the_same_sums(tmp_path, make_agent, window):
    with Collector() as collector:
        sent = run(make_agent, collector.port, {"records": 5000}, window=window)
    capture = tmp_path / "sent.pcap"
    write_capture(capture, collector.datagrams)
    ours, theirs = flowagent_reads(capture), tshark_reads(capture)
    assert ours == theirs
    assert ours.sums == sent.sums
    assert ours.datagrams == len(collector.datagrams)


def over_tls(make_agent, collector, **tls):
    """An agent that sends to a collector over TLS, and knows no other sink."""
    to = {"type": "ipfix", "collector": f"127.0.0.1:{collector.port}", "protocol": "tcp", "tls": tls}
    return make_agent(export=[to], analyse=[])


def sums(messages):
    rows = decode(messages)
    return Sums(int(rows["packets"].sum()), int(rows["bytes"].sum()))


@pytest.mark.service("openssl")
def test_over_tls_the_same_sums_come(tmp_path, make_agent):
    with TlsCollector(tmp_path) as collector:
        agent = over_tls(make_agent, collector, ca=str(collector.ca))
        sent = generate(agent.port, protocol="ipfix", records=30_000, rate=20_000, keys=5000)
        until(lambda: agent.metrics().decoded == sent.records, "all records came")
        agent.stop()
        until(lambda: collector.ended, "the collector has read everything")
    assert sums(collector.messages) == sent.sums
    assert collector.versions == ["TLSv1.3"]
    assert collector.refused == []


@pytest.mark.service("openssl")
@pytest.mark.parametrize("trust", ["another CA", "another name"])
def test_a_certificate_that_is_refused_costs_no_row(tmp_path, make_agent, trust):
    """The agent says why, counts it, and keeps the rows until the certificate is right."""
    with TlsCollector(tmp_path) as collector:
        tls = {"ca": str(collector.ca)}
        if trust == "another CA":
            tls["ca"] = str(tmp_path / "other.pem")
            make_certificate(tmp_path / "other.key", tmp_path / "other.pem")
        else:
            tls["server_name"] = "collector.example"
        agent = over_tls(make_agent, collector, **tls)
        sent = generate(agent.port, protocol="ipfix", records=2000, rate=20_000, keys=500)
        until(lambda: agent.metrics().total("flowagent_records_pending") == sent.records, "all records came")
        until(lambda: records_on_disk(agent, "ipfix") == sent.records, "all is on disk")
        metrics = agent.metrics()
        assert metrics.total("flowagent_sink_errors_total") >= metrics.total("flowagent_sink_retries_total") > 0
        assert metrics.total("flowagent_sink_records_total") == metrics.total("flowagent_sink_bytes_total") == 0
        assert "certificate verify failed" in agent.log
        with pytest.raises(OSError, match="503"):
            agent.get("/readyz")
        until(lambda: collector.refused, "the collector noticed")
        assert collector.messages == []

        agent.stop()
        agent.config["export"][0]["tls"] = {"ca": str(collector.ca)}
        agent.start()
        until(lambda: agent.metrics().total("flowagent_records_total", outcome="exported") == sent.records, "all sent")
        agent.stop()
        until(lambda: collector.ended, "the collector has read everything")
    assert sums(collector.messages) == sent.sums
