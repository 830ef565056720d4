"""A running agent: `flowagent run` as a process of its own, and what it says about itself."""

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml
from live.netns import Netns
from live.polling import free_port, until
from prometheus_client.parser import text_string_to_metric_families

TCP, UDP = 6, 17


class Flow(NamedTuple):
    """A 5-tuple; ports are 0 where the protocol has none."""

    src: str
    dst: str
    src_port: int
    dst_port: int
    proto: int


class Sums(NamedTuple):
    """What is known of a flow, or of all."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.packets + other.packets, self.bytes + other.bytes)


class Metrics:
    """One look at /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> int:
        """Sum over the series that have these labels."""
        found = [s for s in self._samples if s.name == name and labels.items() <= s.labels.items()]
        return int(sum(s.value for s in found))

    @property
    def flows(self) -> Sums:
        """Of all records."""
        return Sums(self.total("flowagent_flow_packets_total"), self.total("flowagent_flow_bytes_total"))

    @property
    def decoded(self) -> int:
        return self.total("flowagent_ingest_records_total")

    @property
    def errors(self) -> int:
        return self.total("flowagent_ingest_errors_total")


class Agent:
    """Listens on a UDP port of the loopback, writes rows to a file, keeps its state in its directory.

    `sections` go over the default configuration; `netns` is where it runs.
    """

    def __init__(self, directory: Path, *, netns: Netns | None = None, **sections: Any) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = free_port(socket.SOCK_DGRAM)
        self.http_port = free_port(socket.SOCK_STREAM)
        self.config = {
            "ingest": [{"type": "udp", "listen": f"127.0.0.1:{self.port}"}],
            "window": {"every": "1s"},
            "export": [{"type": "file", "path": str(directory / "rows.ndjson")}],
            "http": {"listen": f"127.0.0.1:{self.http_port}"},
            "state": {"path": str(directory / "state")},
            **sections,
        }
        self._netns = netns
        self._process: subprocess.Popen | None = None

    def start(self, command: str = "run") -> Self:
        """Start it, again too; returns when it is ready."""
        self.launch(command)
        until(self._ready_or_ended, "ready")
        assert self._process.poll() is None, self.log
        return self

    def launch(self, command: str = "run") -> None:
        """Start it without waiting for anything."""
        self.write_config()
        words = [sys.executable, "-m", "flowagent", command, "-c", str(self.directory / "agent.yaml")]
        if self._netns is not None:
            words = self._netns.command(*words)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)

    def write_config(self) -> None:
        (self.directory / "agent.yaml").write_text(yaml.safe_dump(self.config))

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGTERM; returns when it has drained and ended as it should."""
        self._process.terminate()
        assert self.exit_code() == 0, self.log

    def exit_code(self) -> int:
        """Wait until it ends."""
        return self._process.wait(15)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        file = self.directory / "log"
        return file.read_text() if file.exists() else ""

    def rows(self, name: str = "rows.ndjson") -> list[dict[str, Any]]:
        """The rows in its file so far."""
        file = self.directory / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def metrics(self) -> Metrics:
        return Metrics(self.get("/metrics"))

    def has_saved(self, datagrams: int) -> bool:
        """Whether so many datagrams came, and all rows and templates of theirs are on disk."""
        metrics = self.metrics()
        return (
            metrics.total("flowagent_ingest_datagrams_total") >= datagrams
            and metrics.total("flowagent_records_pending") == 0
            and any((self.directory / "state").glob("templates-*.msgpack"))
        )

    def get(self, path: str, accept: str = "*/*") -> str:
        """The body of a page; raises OSError where the answer is not 200."""
        url = f"http://127.0.0.1:{self.http_port}{path}"
        if self._netns is not None:
            try:
                return self._netns.run("curl", "-sSf", "-H", f"Accept: {accept}", url)
            except subprocess.CalledProcessError as error:
                raise OSError(error.stderr) from error
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=10) as answer:
            return answer.read().decode()

    def _ready_or_ended(self) -> bool:
        if self._process.poll() is not None:
            return True
        try:
            self.get("/readyz")
        except OSError:
            return False
        return True


def sum_rows(rows: Iterable[dict[str, Any]]) -> dict[Flow, Sums]:
    """Packets and bytes of each 5-tuple of canonical rows; rows without addresses (ARP and the like) are left out."""
    return merged(*({_flow(row): Sums(row["packets"], row["bytes"])} for row in rows if "src_addr" in row))


def _flow(row: dict[str, Any]) -> Flow:
    ports = (row["src_port"], row["dst_port"]) if row["proto"] in (TCP, UDP) else (0, 0)
    return Flow(row["src_addr"], row["dst_addr"], *ports, row["proto"])


def merged(*parts: dict[Flow, Sums]) -> dict[Flow, Sums]:
    """The sums of each flow over all parts."""
    sums: defaultdict[Flow, Sums] = defaultdict(Sums)
    for part in parts:
        for flow, more in part.items():
            sums[flow] += more
    return dict(sums)


def total(flows: dict[Flow, Sums]) -> Sums:
    """Over all flows."""
    return sum(flows.values(), Sums())
