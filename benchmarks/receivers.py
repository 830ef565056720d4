"""What is sent to: the sink, the agent, and nfcapd where it is installed."""

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.process import free_port
from flowagent.schema import FLOW_KEY

TOPS: tuple[str | list[str], ...] = ("src_addr", "dst_addr", "dst_port", ["src_addr", "dst_addr"])
BUFFER = 64 << 20
"""Bytes of receive buffer that all ask for: the agent's default."""


class Receiver(Protocol):
    """Made for one trial, with a directory and a UDP port of its own."""

    command: list[str]
    unit: str
    """What it counts: `datagrams` or `records`."""

    def __init__(self, directory: Path, port: int) -> None:
        """Prepare; nothing runs yet."""

    def received(self, stop: Callable[[], str]) -> int:
        """How much came in all; calls `stop`, which ends the process and returns what it printed."""


class Sink:
    """Takes and forgets."""

    unit = "datagrams"

    def __init__(self, _: Path, port: int) -> None:
        self.command = [sys.executable, "-m", "benchmarks.sink", str(port), str(BUFFER)]

    def received(self, stop: Callable[[], str]) -> int:
        return int(stop())


class Agent:
    """`flowagent run` as it is by default: counters and the default policy, without outputs."""

    unit = "records"
    sections: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def __init__(self, directory: Path, port: int) -> None:
        http = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        self._metrics = f"http://{http}/metrics"
        config = directory / "agent.yaml"  # JSON is YAML
        config.write_text(json.dumps({
            "ingest": [{"type": "udp", "listen": f"127.0.0.1:{port}", "receive_buffer": BUFFER}],
            **self.sections,
            "http": {"listen": http},
            "state": {"path": str(directory / "state")},
        }))  # fmt: skip
        self.command = [sys.executable, "-m", "flowagent", "run", "-c", str(config)]

    def received(self, stop: Callable[[], str]) -> int:
        with urllib.request.urlopen(self._metrics, timeout=10) as answer:
            text = answer.read().decode()
        stop()
        return sum(
            int(float(n)) for n in re.findall(r"^flowagent_ingest_records_total\{.*\} (\S+)$", text, re.MULTILINE)
        )


class BareAgent(Agent):
    """Counters and window only."""

    sections = {"analyse": [{"type": "counters"}]}  # noqa: RUF012 - never changed


class FiveTupleAgent(Agent):
    """The same with a shorter key."""

    sections = {**BareAgent.sections, "window": {"key": FLOW_KEY}}  # noqa: RUF012 - never changed


class SamplingAgent(Agent):
    """Six policies instead of the default one, and the default sampler."""

    sections = {  # noqa: RUF012 - never changed
        "analyse": [
            {"type": "counters"},
            *({"type": "policy", "name": f"top{i}", "top": [{"of": of}]} for i, of in enumerate(TOPS)),
            {"type": "policy", "name": "distinct", "distinct": ["src_addr", ["src_addr", "dst_addr"]]},
            {"type": "policy", "name": "sizes", "quantiles": ["bytes"]},
        ],
        "sampling": {"budget": 500},
    }


class Nfcapd:
    """Stores every record in a file."""

    unit = "records"

    def __init__(self, directory: Path, port: int) -> None:
        self._files = directory / "flows"
        self._files.mkdir()
        self.command = [
            "nfcapd", "-b", "127.0.0.1", "-p", str(port), "-B", str(BUFFER), "-w", str(self._files), "-t", "3600",
        ]  # fmt: skip

    def received(self, stop: Callable[[], str]) -> int:
        stop()
        total = 0
        for file in self._files.iterdir():
            text = subprocess.run(["nfdump", "-I", "-r", file], capture_output=True, text=True, check=True).stdout
            found = re.search(r"^Flows: (\d+)", text, re.MULTILINE)
            total += int(found[1]) if found else 0
        return total


def receivers() -> dict[str, type[Receiver]]:
    """Those that can run here, by name; the sink first."""
    found: dict[str, type[Receiver]] = {
        "sink": Sink,
        "flowagent": Agent,
        "flowagent, bare": BareAgent,
        "flowagent, 5-tuple": FiveTupleAgent,
        "flowagent, six policies": SamplingAgent,
    }
    if shutil.which("nfcapd") and shutil.which("nfdump"):
        found["nfcapd"] = Nfcapd
    return found
