"""A synthetic exporter: sends flow records to one address at a steady rate, and knows exactly what it has sent."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowagent.clock import SECOND, Clock
from flowagent.errors import ConfigError
from flowagent.generate import ovs, sflow, wire
from flowagent.generate.sendmmsg import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from flowagent.generate.ring import Export, Ring
    from flowagent.generate.settings import Settings

BATCH = 256
"""Datagrams stamped and sent without a look at the clock: about a millisecond."""
TICK = 16
"""Datagrams worth waking up for, within the bounds below: bursts should stay small, and so should the work."""
SHORTEST_TICK, LONGEST_TICK = 0.002, 0.01
"""Seconds between two batches."""
LONGEST_PAUSE = 0.1
"""Seconds after which a wish to stop is seen."""

_UPTIME_MS = 86_400_000  # booted a day ago
_BUILDERS: dict[str, Callable[[Settings, np.random.Generator, int], Export]] = {
    "netflow5": wire.netflow5,
    "netflow9": wire.netflow9,
    "ipfix": wire.ipfix,
    "ovs": ovs.export,
    "sflow5": sflow.sflow5,
}


@dataclass(slots=True)
class Sent:
    """The truth about what left the exporter, for comparison with what a collector makes of it."""

    datagrams: int = 0
    """Those with templates included."""
    records: int = 0
    """Flow records; templates and options are none."""
    packets: int = 0
    """Sum of the records' packet counts; ovs has every packet twice, once for each direction."""
    bytes: int = 0
    """Sum of the records' byte counts (octetDeltaCount; of sFlow the length of the frames, without check sequence)."""
    payload: int = 0
    """Bytes of the datagrams themselves, without UDP and IP headers."""
    errors: int = 0
    """Attempts to send that failed; what was not sent in the end is not in the other numbers."""
    seconds: float = 0
    """How long it took."""


class Exporter:
    """Makes its datagrams when created; opens a socket only while `send` or `run` runs.

    Pacing is open loop: whatever is due by now is sent, however late. Sequence
    numbers go on from one call to the next; templates are sent at the start of
    each, as the source port is a new one.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.sent = Sent()
        """What the present or last call of `send` or `run` has sent so far."""
        self._clock = clock
        boot_ms = clock.now_ns() * 1000 // SECOND - _UPTIME_MS
        export = _BUILDERS[settings.protocol](settings, np.random.default_rng(settings.seed), boot_ms)
        self._data, self._templates = export.data, export.templates
        self._sequence = export.first_sequence
        self._senders = {ring: Sender(ring.data, ring.length) for ring in (self._data, self._templates) if ring}
        self._template_interval = settings.template_interval or (600 if settings.protocol == "ovs" else 20)

    def send(self, duration: float | None = None, records: int | None = None) -> Sent:
        """Send for so many seconds or until so many records, rounded up to whole datagrams, are sent; blocks.

        Without either it goes on until interrupted. Raises ConfigError where
        the target cannot be used.
        """
        with contextlib.closing(self._steps(duration, records)) as steps:
            for pause in steps:
                if pause:
                    time.sleep(pause)
        return self.sent

    async def run(self, stop: asyncio.Event) -> Sent:
        """Send until `stop` is set, beside the other tasks of an event loop.

        Raises ConfigError where the target cannot be used.
        """
        with contextlib.closing(self._steps(None, None)) as steps:
            for pause in steps:
                await asyncio.sleep(pause)
                if stop.is_set():
                    break
        return self.sent

    def _steps(self, duration: float | None, records: int | None) -> Generator[float]:
        """Send batch after batch; yields the seconds to wait before the next one."""
        per_datagram = int(self._data.sums[1, 1])
        limit = math.inf if records is None else -(-records // per_datagram)
        end = math.inf if duration is None else duration
        rate = self.settings.rate / per_datagram or math.inf
        tick = min(max(TICK / rate, SHORTEST_TICK), LONGEST_TICK)
        self.sent = Sent()
        done, refresh_at = 0, 0.0
        with self._connect() as sock:
            begin = self._clock.monotonic()
            while True:
                elapsed = self._clock.monotonic() - begin
                if elapsed >= refresh_at:
                    self._send_templates(sock)
                    refresh_at = elapsed + self._template_interval
                due = limit if math.isinf(rate) else min(limit, 1 + math.floor(min(elapsed, end) * rate))
                if done < due:
                    rows = self._data.take(int(min(BATCH, due - done)))
                    done += rows.stop - rows.start
                    self._send(sock, self._data, rows)
                self.sent.seconds = self._clock.monotonic() - begin
                if done >= limit or elapsed >= end:
                    return
                wait = max(tick, done / rate - self.sent.seconds)
                yield 0 if done < due else min(wait, LONGEST_PAUSE, max(0, end - self.sent.seconds))

    def _connect(self) -> socket.socket:
        host, port = self.settings.address()
        with contextlib.ExitStack() as stack:
            try:
                family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
                sock = stack.enter_context(socket.socket(family, kind, protocol))
                sock.connect(address)
            except OSError as error:
                problem = f"{self.settings.target!r} cannot be used ({error}); name a host that can be reached"
                raise ConfigError("target", problem) from error
            stack.pop_all()
        return sock

    def _send_templates(self, sock: socket.socket) -> None:
        if self._templates is not None:
            self._send(sock, self._templates, self._templates.take(len(self._templates)))

    def _send(self, sock: socket.socket, ring: Ring, rows: slice) -> None:
        self._sequence = ring.stamp(rows, self._sequence, self._clock.now_ns())
        refused, errors = self._senders[ring].send(sock, rows)
        counts = ring.sums[rows.stop] - ring.sums[rows.start]
        for row in refused:
            counts -= ring.sums[row + 1] - ring.sums[row]
        datagrams, records, packets, octets, payload = counts.tolist()
        sent = self.sent
        sent.datagrams += datagrams
        sent.records += records
        sent.packets += packets
        sent.bytes += octets
        sent.payload += payload
        sent.errors += errors
