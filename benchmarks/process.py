"""Processes on cores of their own, and what the kernel says about them and their sockets."""

import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.table import calibrate

ROOT = Path(__file__).resolve().parent.parent
_CPUS = sorted(os.sched_getaffinity(0))
RECEIVER_CPU = _CPUS[0]
SENDER_CPU = _CPUS[:2][-1]
"""The same where there is only one."""


def spawn(command: list[str], cpu: int, **settings: Any) -> subprocess.Popen[bytes]:
    """Start a process that stays on one CPU with all its threads; `settings` as for Popen."""
    process = subprocess.Popen(command, cwd=ROOT, **settings)
    os.sched_setaffinity(process.pid, {cpu})
    return process


def cpu_ns(pid: int) -> int:
    """Processor time of a process with all threads that live, user and system: exact, not in ticks."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files)


def peak_rss(pid: int) -> float:
    """The most memory that a process had, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise ProcessLookupError(f"process {pid} has ended")
    return int(found[1]) * 1024 / 1e6


def free_port(kind: socket.SocketKind) -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def queued_bytes(port: int) -> int | None:
    """What waits in the receive buffer of a UDP port; None where nobody listens."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if int(local.rpartition(":")[2], 16) == port and remote.endswith(":0000"):
            return int(queues.partition(":")[2], 16)
    return None


def calibrate_receiver_cpu() -> float:
    """Milliseconds of the calibration loop there."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {RECEIVER_CPU})
    try:
        return calibrate()
    finally:
        os.sched_setaffinity(0, mine)
