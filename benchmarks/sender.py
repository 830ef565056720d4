"""A sender as a process of its own, so that the receiver has its core for itself.

    python -m benchmarks.sender EXPORT

Reads lines with port, records a second and seconds, does as they say, and
answers each with a line of JSON that says what was sent.
"""

import subprocess
import sys
from typing import Self

import msgspec

from benchmarks.flows import EXPORTS
from benchmarks.process import SENDER_CPU, spawn
from flowagent.clock import SystemClock
from flowagent.generate import Exporter, Sent


class Sender:
    """The other end of such a process; ends it on leaving `with`."""

    def __init__(self, export: str) -> None:
        command = [sys.executable, "-m", "benchmarks.sender", export]
        self.export = export
        self._process = spawn(command, SENDER_CPU, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def send(self, port: int, rate: float, seconds: float) -> Sent:
        """Send so many records a second, 0 for as many as possible; returns when all are sent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{port} {rate} {seconds}\n".encode())
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Sent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    exporter = Exporter(EXPORTS[sys.argv[1]], SystemClock())
    for line in sys.stdin:
        port, rate, seconds = line.split()
        target = f"127.0.0.1:{port}"
        exporter.settings = msgspec.structs.replace(exporter.settings, target=target, rate=float(rate))
        sent = exporter.send(duration=float(seconds))
        sys.stdout.buffer.write(msgspec.json.encode(sent) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
