"""`flowagent generate` as a process: synthetic exports, and the truth about them."""

import json
import socket
import subprocess
import sys
from typing import NamedTuple

from live.agent import Sums


class Sent(NamedTuple):
    """What was sent."""

    records: int
    sums: Sums
    datagrams: int


def command(port: int, **options: str | float) -> list[str]:
    """The command that sends to a port of the loopback."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "flowagent", "generate", "--target", f"127.0.0.1:{port}", *flags]


def generate(port: int, **options: str | float) -> Sent:
    """Run it to its end."""
    done = subprocess.run(command(port, **options), capture_output=True, timeout=60, check=True)
    return parse(done.stdout)


def parse(output: bytes) -> Sent:
    """What it printed in the end."""
    sent = json.loads(output)
    assert sent["errors"] == 0, sent
    return Sent(sent["records"], Sums(sent["packets"], sent["bytes"]), sent["datagrams"])


def generated(**options: str | float) -> tuple[list[bytes], Sent]:
    """The datagrams themselves, received by nobody else."""
    datagrams = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(0.1)
        with subprocess.Popen(command(collector.getsockname()[1], **options), stdout=subprocess.PIPE) as process:
            while True:
                ended = process.poll() is not None
                try:
                    datagrams.append(collector.recv(65535))
                except TimeoutError:
                    if ended:
                        break
            sent = parse(process.stdout.read())
    assert len(datagrams) == sent.datagrams
    return datagrams, sent
