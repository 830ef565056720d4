"""softflowd on an interface of a network namespace, told when to export."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from live.netns import Netns
from live.polling import until

_SEND = """
import socket, sys
from scapy.utils import RawPcapReader
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock, RawPcapReader(sys.argv[2]) as frames:
    sock.bind((sys.argv[1], 0))
    for frame, _ in frames:
        sock.send(frame)
    for _ in range(int(sys.argv[3])):
        sock.send(bytes(12) + bytes.fromhex("88b5") + bytes(1000))
"""
_FILLERS = 500
"""Frames of no protocol sent after the others: softflowd waits until what it has received fills a block."""


class Softflowd:
    """Watches one end of a cable and exports to the port of the namespace's loopback when told to."""

    def __init__(self, directory: Path, netns: Netns, port: int, *options: str) -> None:
        self._netns = netns
        self._control = directory / "softflowd.ctl"
        self._frames = 0
        netns.connect(netns, "watched", "sender")
        command = ["softflowd", "-d", "-i", "watched", "-c", self._control, "-p", directory / "softflowd.pid"]
        netns.start(*command, "-n", f"127.0.0.1:{port}", *options)
        until(self._control.exists, "softflowd listens")

    def see(self, capture: Path, packets: int) -> None:
        """Send the packets of a capture past it; returns when it has counted them."""
        self._frames += packets
        self._netns.run(sys.executable, "-c", _SEND, "sender", capture, _FILLERS)
        until(lambda: self._counted() >= self._frames, f"softflowd has seen {self._frames} packets")

    def export(self) -> None:
        """Let it send all flows that it holds, and forget them."""
        self._ask("expire-all")

    def _counted(self) -> int:
        """IP packets seen so far."""
        return int(re.search(r"Packets processed: (\d+)", self._ask("statistics"))[1])

    def _ask(self, command: str) -> str:
        return subprocess.run(["softflowctl", "-c", self._control, command], capture_output=True, text=True, timeout=10, check=True).stdout  # fmt: skip
