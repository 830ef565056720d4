"""Captured datagrams sent once more: `flowagent generate --replay`."""

from __future__ import annotations

import contextlib
import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flowagent.clock import Clock
from flowagent.errors import ConfigError
from flowagent.generate.link import connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowagent.generate.settings import Settings

MAX_SENDERS = 200
"""Sockets open at a time; the one that was silent longest goes first."""
MAX_SOURCES = 60_000
"""Local addresses used, and captured senders counted, at most."""
_IPFIX = b"\0\x0a"


class Captured(NamedTuple):
    """A datagram: its sender's address (two words) and port, when it was captured, and what it holds."""

    sender: tuple[int, int, int]
    at_ns: int
    payload: bytes


@dataclass(slots=True)
class Resent:
    """What was sent."""

    datagrams: int = 0
    payload: int = 0
    """Bytes of the datagrams, without UDP and IP headers."""
    senders: int = 0
    """Distinct addresses and ports that the capture has, up to 60,000."""
    left_out: int = 0
    """Datagrams that are no IPFIX and so cannot go over TCP."""
    errors: int = 0
    """Datagrams that could not be sent."""
    seconds: float = 0


class Resender:
    """Sends from a socket, or over a connection, for each sender of the capture.

    On the loopback each captured address has an address of its own (127.1.0.1
    and following), so that exporters stay apart; elsewhere only their ports differ.
    """

    def __init__(self, settings: Settings, clock: Clock, wait: Callable[[int], None]) -> None:
        """`wait` is told when a datagram was captured and returns when it is to be sent."""
        self.resent = Resent()
        self._settings, self._clock, self._wait = settings, clock, wait
        self._open: OrderedDict[tuple[int, int, int], tuple[contextlib.ExitStack, socket.socket]] = OrderedDict()
        self._seen: set[tuple[int, int, int]] = set()
        self._sources: dict[tuple[int, int], int] = {}
        self._local = settings.address()[0].startswith("127.")

    def send(self, captured: Iterable[Captured], duration: float | None = None) -> Resent:
        """Send them; ends early after `duration` seconds. Raises ConfigError where the target cannot be used."""
        began, resent = self._clock.monotonic(), self.resent
        with contextlib.ExitStack() as everything:
            everything.callback(self._close_all)
            for one in captured:
                if duration is not None and self._clock.monotonic() - began >= duration:
                    break
                self._wait(one.at_ns)
                self._send(one)
                resent.seconds = self._clock.monotonic() - began
        resent.seconds = self._clock.monotonic() - began
        return resent

    def _send(self, one: Captured) -> None:
        resent = self.resent
        if self._settings.transport != "udp" and not one.payload.startswith(_IPFIX):
            resent.left_out += 1
            return
        sock = self._socket(one.sender)
        try:
            sock.sendall(one.payload)
        except OSError as error:
            if self._settings.transport != "udp":
                raise ConfigError("target", f"{self._settings.target} closed the connection ({error})") from error
            resent.errors += 1  # nobody listens, for one
            return
        resent.datagrams += 1
        resent.payload += len(one.payload)

    def _socket(self, sender: tuple[int, int, int]) -> socket.socket:
        if sender not in self._open:
            if len(self._open) >= MAX_SENDERS:
                self._open.popitem(last=False)[1][0].close()
            stack = contextlib.ExitStack()
            sock = stack.enter_context(connected(self._settings, self._source(sender[:2])))
            self._open[sender] = stack, sock
            if len(self._seen) < MAX_SOURCES:
                self._seen.add(sender)
            self.resent.senders = len(self._seen)
        self._open.move_to_end(sender)
        return self._open[sender][1]

    def _source(self, address: tuple[int, int]) -> str | None:
        if not self._local:
            return None
        number = self._sources.get(address, len(self._sources) % MAX_SOURCES + 1)
        if len(self._sources) < MAX_SOURCES:
            self._sources[address] = number
        return f"127.1.{number >> 8}.{number & 255}"

    def _close_all(self) -> None:
        while self._open:
            self._open.popitem(last=False)[1][0].close()
