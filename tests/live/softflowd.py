"""softflowd, the real program, reading a capture."""

import socket
import subprocess
from pathlib import Path


def export(capture: Path, port: int, options: str) -> None:
    """Let softflowd export the flows of a capture."""
    command = f"softflowd -d -r {capture} -c none -p {capture}.pid -n 127.0.0.1:{port} {options}"
    subprocess.run(command.split(), stderr=subprocess.DEVNULL, timeout=30, check=True)


def datagrams_of(capture: Path, options: str) -> list[bytes]:
    """What softflowd would have sent to an agent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.setblocking(False)
        export(capture, collector.getsockname()[1], options)
        datagrams = []
        while True:
            try:
                datagrams.append(collector.recv(65535))
            except BlockingIOError:
                return datagrams
