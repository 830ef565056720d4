"""Live capture: frames sent over a cable between two network namespaces, counted by flowagent and by softflowd.

    python -m benchmarks.capture INTERFACE RATE SECONDS

sends frames from within a namespace.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.frames import make_frames
from benchmarks.options import Options
from benchmarks.process import RECEIVER_CPU, SENDER_CPU, cpu_ns, peak_rss, spawn
from benchmarks.table import Table, calibrate

RATES = (50_000, 200_000)
SIZE, FLOWS = 100, 5_000
_NEAR, _FAR = f"flowagent-near-{os.getpid()}", f"flowagent-far-{os.getpid()}"
_PREPARED, _AT_ONCE = 8192, 64


def run(options: Options) -> Table:
    table = Table("Live capture", calibration_ms=[calibrate()])
    table.notes.append(f"Frames of {SIZE} bytes of {FLOWS:,} flows; CPU of the process, with its system calls.")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        table.rows.append({"packets/s": "skipped"})
        table.notes.append("Needs root and iproute2.")
        return table
    probes = {"flowagent": _Flowagent} | ({"softflowd": _Softflowd} if shutil.which("softflowd") else {})
    with _cable():
        for rate in RATES[-1:] if options.quick else RATES:
            for _ in range(options.rounds):
                for name, probe in probes.items():
                    table.rows.append({"probe": name, **_trial(probe, rate, options.seconds)})
    return table


def _trial(make: type, rate: int, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="flowagent-benchmark-") as directory:
        probe = make(Path(directory))
        process = spawn(["ip", "netns", "exec", _FAR, *probe.command], RECEIVER_CPU,
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            time.sleep(2)
            _send(rate, 0.5)
            before = cpu_ns(process.pid)
            sent = _send(rate, seconds)
            time.sleep(0.5)
            used = cpu_ns(process.pid) - before
            seen, dropped = probe.counts()
            rss = peak_rss(process.pid)
        finally:
            process.terminate()
            process.wait(15)
    total = sent["sent"] + sent["warm"]
    return {
        "packets/s": sent["sent"] / sent["seconds"],
        "ns/packet": used / sent["sent"],
        "CPU, %": used / sent["seconds"] / 1e7,
        "counted": seen / total,
        "dropped by the kernel": dropped,
        "peak RSS, MB": rss,
    }


_WARM: dict[str, float] = {}


def _send(rate: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.capture", "near", str(rate), str(seconds)]
    process = spawn(["ip", "netns", "exec", _NEAR, *command], SENDER_CPU, stdout=subprocess.PIPE)
    sent = json.loads(process.communicate()[0])
    warm = _WARM.pop("sent", 0)
    if seconds < 1:
        _WARM["sent"] = sent["sent"]
    return {**sent, "warm": warm}


class _Flowagent:
    def __init__(self, directory: Path) -> None:
        config = directory / "agent.yaml"  # JSON is YAML
        config.write_text(json.dumps({
            "ingest": [{"type": "packets", "interface": "far"}],
            "analyse": [{"type": "counters"}],
            "http": {"listen": "127.0.0.1:8077"},
            "state": {"path": str(directory / "state")},
        }))  # fmt: skip
        self.command = [sys.executable, "-m", "flowagent", "run", "-c", str(config)]

    def counts(self) -> tuple[int, int]:
        url = "http://127.0.0.1:8077/metrics"
        get = f"import urllib.request as r; print(r.urlopen('{url}', timeout=10).read().decode())"
        text = _in_far(sys.executable, "-c", get)
        found = [re.search(rf"^flowagent_{name}_total\{{.*\}} (\S+)$", text, re.MULTILINE)
                 for name in ("ingest_packets", "socket_drops")]  # fmt: skip
        return tuple(int(float(match[1])) if match else 0 for match in found)


class _Softflowd:
    def __init__(self, directory: Path) -> None:
        self._control = directory / "control"
        self.command = ["softflowd", "-d", "-i", "far", "-n", "127.0.0.1:9", "-v", "9", "-m", "200000",
                        "-c", str(self._control), "-p", str(directory / "pid")]  # fmt: skip

    def counts(self) -> tuple[int, int]:
        text = _in_far("softflowctl", "-c", self._control, "statistics")
        seen, dropped = (
            re.search(r"Packets processed: (\d+)", text),
            re.search(r"dropped by (?:kernel|libpcap).*?(\d+)", text),
        )
        return int(seen[1]) if seen else 0, int(dropped[1]) if dropped else 0


def _in_far(*command: object) -> str:
    words = ["ip", "netns", "exec", _FAR, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@contextmanager
def _cable() -> Iterator[None]:
    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    made = []
    try:
        for name in (_NEAR, _FAR):
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", "near", "netns", _NEAR, "type", "veth", "peer", "name", "far", "netns", _FAR)
        for name, interface in ((_NEAR, "near"), (_FAR, "far"), (_FAR, "lo")):
            ip("-n", name, "link", "set", interface, "up")
        yield
    finally:
        for name in made:
            ip("netns", "del", name)


def main() -> None:
    """Send frames at an even rate; print how many."""
    from flowagent.generate.sendmmsg import Sender

    interface, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    frames = make_frames(_PREPARED, size=SIZE, flows=FLOWS)
    sender = Sender(frames, np.full(_PREPARED, SIZE))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((interface, 0))
        began, sent = time.perf_counter(), 0
        while sent < rate * seconds:
            wait = began + sent / rate - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            at = sent % _PREPARED
            refused = sender.send(sock, slice(at, at + _AT_ONCE)).refused
            sent += _AT_ONCE - len(refused)
        taken = time.perf_counter() - began
    print(json.dumps({"sent": sent, "seconds": taken}))


if __name__ == "__main__":
    main()
