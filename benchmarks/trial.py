"""One trial: a receiver is started, warmed up, sent to for a while, and asked what it got."""

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import (
    RECEIVER_CPU,
    calibrate_receiver_cpu,
    cpu_ns,
    free_port,
    peak_rss,
    queued_bytes,
    spawn,
)
from benchmarks.receivers import Receiver
from benchmarks.sender import Sender

WARM_UP = 1.0
"""Seconds of sending at the same rate before anything is measured, at most."""
SETTLE = 0.25
"""Seconds after which whatever was taken from the socket is worked off."""
_PATIENCE = 15.0


@dataclass(frozen=True)
class Trial:
    """What came of it; all but loss and memory is of the time after warming up."""

    rate: float
    """Records a second that were sent."""
    seconds: float
    """How long sending took."""
    ns_per_record: float
    """Processor time of the receiver, user and system, for each record sent."""
    loss: float
    """Part of what was sent that the receiver did not count."""
    drain: float
    """Seconds until the socket was empty after the last datagram."""
    peak_rss_mb: float
    calibration_ms: float

    def kept_up(self) -> bool:
        """Next to nothing lost, and not just parked in the buffer."""
        return self.loss < 0.001 and self.drain < SETTLE + 0.05 * self.seconds


def trial(make: type[Receiver], sender: Sender, rate: float, seconds: float) -> Trial:
    """`rate` 0: as fast as the sender can."""
    with tempfile.TemporaryDirectory(prefix="flowagent-benchmark-") as name:
        directory, port = Path(name), free_port(socket.SOCK_DGRAM)
        receiver = make(directory, port)
        with _running(receiver.command, directory) as (pid, stop):
            _until(lambda: queued_bytes(port) is not None, f"{receiver.command} to listen")
            time.sleep(SETTLE)
            warm = sender.send(port, rate, min(WARM_UP, seconds))
            _drained(port)
            calibration = calibrate_receiver_cpu()
            before = cpu_ns(pid)
            sent = sender.send(port, rate, seconds)
            drain = _drained(port)
            used = cpu_ns(pid) - before
            rss = peak_rss(pid)
            offered = getattr(warm, receiver.unit) + getattr(sent, receiver.unit)
            lost = offered - receiver.received(stop)
    return Trial(
        rate=sent.records / sent.seconds,
        seconds=sent.seconds,
        ns_per_record=used / sent.records,
        loss=max(0, lost) / offered,
        drain=drain,
        peak_rss_mb=rss,
        calibration_ms=calibration,
    )


@contextlib.contextmanager
def _running(command: list[str], directory: Path) -> Iterator[tuple[int, Callable[[], str]]]:
    """Run a receiver: its process id, and how to end it and get what it printed."""
    output, errors = directory / "stdout", directory / "stderr"
    with output.open("wb") as out, errors.open("wb") as err:
        process = spawn(command, RECEIVER_CPU, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def stop() -> str:
        process.send_signal(signal.SIGTERM)
        process.wait(_PATIENCE)
        return output.read_text()

    try:
        yield process.pid, stop
    except Exception as error:
        error.add_note(errors.read_text()[-1000:])
        raise
    finally:
        process.kill()
        process.wait()


def _drained(port: int) -> float:
    """Wait until nothing is left to do; seconds until the socket was empty."""
    began = time.perf_counter()
    _until(lambda: not queued_bytes(port), "an empty socket")
    seconds = time.perf_counter() - began
    time.sleep(SETTLE)
    return seconds


def _until(happened: Callable[[], bool], what: str) -> None:
    end = time.perf_counter() + _PATIENCE
    while not happened():
        if time.perf_counter() > end:
            raise TimeoutError(f"waited {_PATIENCE:g} s for {what}")
        time.sleep(0.005)
