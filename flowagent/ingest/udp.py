"""Source `udp`: exports of any protocol on any port.

Waking up for every datagram costs more than reading it, so the source lets
datagrams gather in the socket's buffer and takes hundreds at a time: it waits
at most `max_delay`, less when the buffer would fill by more than a quarter at
the rate seen, and not at all under full load.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from typing import Annotated, Any, Self

import msgspec

from flowagent.clock import SECOND
from flowagent.component import Context, Deliver, Settings
from flowagent.errors import ConfigError
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.rates import Overrides
from flowagent.ingest.recvmmsg import Receiver
from flowagent.ingest.report import decoder_families, describe_exporters
from flowagent.ingest.snapshot import Snapshot
from flowagent.metrics import Family
from flowagent.sections import parse_listen

DEFAULT_PORTS = (2055, 4739, 6343)
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_USED, _MEMINFO_SIZE, _MEMINFO_DROPS = 0, 1, 8
_SKB_OVERHEAD = 900
"""Bytes of receive buffer a datagram takes beyond its payload, about."""
_FLOOR_RATE = 100_000
"""A burst of this many datagrams a second must fit into the buffer while the source waits."""
_ACTIVE_NS = 60 * SECOND
"""An exporter heard within this time is active; ready means that the templates of at least half of them are known."""
_LONG = 0.1
"""Seconds that decoding what was taken at once should not exceed."""
_FEW = 64
"""Datagrams taken at once at the least."""
_HOUSEKEEPING = 5.0
"""Seconds between saving templates and forgetting what is old."""


class Config(Settings, frozen=True):
    """Receive exports over UDP."""

    listen: str | tuple[str, ...] = tuple(f"[::]:{port}" for port in DEFAULT_PORTS)
    """Addresses to bind; [::] takes IPv4 too."""
    receive_buffer: Annotated[int, msgspec.Meta(ge=4096, le=2**31 - 1)] = 64 << 20
    """Bytes of kernel buffer to ask for, for each address."""
    reuse_port: bool = False
    """Share the port with other processes (SO_REUSEPORT)."""
    sampling_rates: dict[str, Annotated[float, msgspec.Meta(ge=1, le=1e12)]] = msgspec.field(default_factory=dict)
    """Sampling rate by exporter subnet, over what the exporter says."""
    max_delay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """Seconds that a datagram may wait in the socket."""
    batch: Annotated[int, msgspec.Meta(ge=16, le=16384)] = 8192
    """Datagrams taken at once."""

    def build(self, ctx: Context) -> UdpSource:
        addresses = (self.listen,) if isinstance(self.listen, str) else self.listen
        if not addresses:
            raise ConfigError(f"{ctx.name}.listen", "is empty; name an address such as 0.0.0.0:4739")
        endpoints = [parse_listen(text, f"{ctx.name}.listen") for text in addresses]
        try:
            overrides = Overrides(self.sampling_rates)
        except ValueError as error:
            raise ConfigError(f"{ctx.name}.sampling_rates", f"{error}; write subnets such as 10.0.0.0/8") from error
        return UdpSource(self, ctx, endpoints, overrides)


class UdpSource:
    """Reads its sockets in turn; one decoder, since exporters may use any of the ports."""

    def __init__(self, config: Config, ctx: Context, endpoints: list[tuple[str, int]], overrides: Overrides) -> None:
        self._config = config
        self._ctx = ctx
        self._endpoints = endpoints
        self._sockets: list[socket.socket] = []
        self._receiver: Receiver | None = None
        self._snapshot = Snapshot(ctx)
        self.decoder = Decoder(overrides=overrides)
        self._limit = config.batch
        self._capacity = 1
        self._due = 0.0
        self._readable = asyncio.Event()

    @property
    def ports(self) -> list[int]:
        """The ports bound, in the order of `listen`."""
        return [s.getsockname()[1] for s in self._sockets]

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for host, port in self._endpoints:
                self._sockets.append(stack.enter_context(self._open(host, port)))
            stack.pop_all()
        self._receiver = Receiver(self._config.batch)
        self._snapshot.load(self.decoder.exporters)
        self._ctx.metrics.add(self._families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._families)
        self._snapshot.save(self.decoder.exporters)
        self.decoder.close()
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    def want(self, columns: frozenset[str] | None) -> None:
        self.decoder.want(columns)

    def ready(self) -> str | None:
        if not self._sockets:
            return f"{self._ctx.name}: not listening"
        active = self.decoder.exporters.active(self._ctx.clock.now_ns() - _ACTIVE_NS)
        waiting = sum(not active.get(address, True) for address in self.decoder.held.exporters)
        if 2 * waiting > len(active):
            return f"{self._ctx.name}: {waiting} of {len(active)} active exporters have not sent their templates yet"
        return None

    def backlog(self) -> float:
        return max((_filled(sock) for sock in self._sockets), default=0.0)

    def exporters(self) -> list[dict[str, Any]]:
        """What is known of each exporter, for the API."""
        return describe_exporters(self.decoder, self._ctx.name)

    async def run(self, deliver: Deliver) -> None:
        """Until cancelled."""
        clock = self._ctx.clock
        began = clock.monotonic()
        self._due = began + _HOUSEKEEPING
        try:
            while True:
                await self._wait_readable(_HOUSEKEEPING)
                since, began = began, clock.monotonic()
                count = await self._drain(deliver)
                if count:
                    await asyncio.sleep(self._delay(count / max(began - since, 1e-3)))
                else:
                    self._readable.clear()
        finally:
            for sock in self._sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            self._drain_rest(deliver)

    async def _wait_readable(self, seconds: float) -> None:
        """Until a datagram is there, or this long; at once while the last look found some."""
        if self._readable.is_set():
            return
        for sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock.fileno(), self._wake)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._readable.wait()

    def _wake(self) -> None:
        self._readable.set()
        # Until the sockets are empty again nobody needs to be told.
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())

    async def _drain(self, deliver: Deliver) -> int:
        """Empty the sockets, letting others run between calls; how many datagrams there were."""
        total, full = 0, list(self._sockets)
        while full:
            again = []
            for sock in full:
                began, limit = self._ctx.clock.monotonic(), self._limit
                count = self._receive(sock, deliver)
                self._adapt(self._ctx.clock.monotonic() - began)
                total += count
                if count >= limit:
                    again.append(sock)
                    await asyncio.sleep(0)
            full = again
            self._housekeeping()
        return total

    def _adapt(self, spent: float) -> None:
        """Take fewer datagrams at once when they take long (a flood of new exporters): others must get their turn."""
        if spent > _LONG:
            self._limit = max(_FEW, self._limit // 2)
        elif self._limit < self._config.batch:
            self._limit = min(self._config.batch, self._limit * 2)

    def _drain_rest(self, deliver: Deliver) -> None:
        """What the kernel still holds when the source ends, up to what it can hold."""
        for sock in self._sockets:
            left = self._capacity
            while left > 0 and (count := self._receive(sock, deliver)):
                left -= count

    def _receive(self, sock: socket.socket, deliver: Deliver) -> int:
        assert self._receiver is not None
        try:
            datagrams = self._receiver.receive(sock, self._ctx.clock.now_ns(), self._limit)
        except OSError as error:
            # Such as an ICMP error that the kernel reports here; the socket goes on.
            self._ctx.log.warning("receive failed: %s", error)
            return 0
        if datagrams is None:
            return 0
        try:
            batch = self.decoder.feed(datagrams)
        except Exception:
            # No input may stop the loop: what a fault of the decoder costs is counted and shown.
            self.decoder.stats.error("unknown", "internal", len(datagrams))
            self._ctx.log.exception("lost %d datagrams to an unexpected error", len(datagrams))
            return len(datagrams)
        if len(batch):
            deliver(batch)
        return len(datagrams)

    def _delay(self, rate: float) -> float:
        """Seconds to wait before the next look at this many datagrams a second: a quarter of the buffer may fill."""
        return min(self._config.max_delay, self._capacity / 4 / max(rate, _FLOOR_RATE))

    def _housekeeping(self) -> None:
        if self._ctx.clock.monotonic() < self._due:
            return
        self._due = self._ctx.clock.monotonic() + _HOUSEKEEPING
        self.decoder.expire(self._ctx.clock.now_ns())
        self._snapshot.save(self.decoder.exporters)

    def _open(self, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            if host != "::":
                raise
            host, sock = "0.0.0.0", socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)  # noqa: S104
        try:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if self._config.reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._grow_buffer(sock, host, port)
            sock.bind((host, port))
        except (OSError, ValueError, TypeError) as error:  # the last two: no name that could be looked up
            sock.close()
            raise ConfigError(
                f"{self._ctx.name}.listen",
                f"cannot listen on UDP {host} port {port}: {getattr(error, 'strerror', None) or error}; "
                "choose another or end the program that has it",
            ) from error
        return sock

    def _grow_buffer(self, sock: socket.socket, host: str, port: int) -> None:
        wish = self._config.receive_buffer
        for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, wish)
                break
        # The kernel doubles what was asked and reports that.
        granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        self._capacity = max(1, 2 * granted // (1500 + _SKB_OVERHEAD))
        level = self._ctx.log.info if granted >= wish else self._ctx.log.warning
        level("UDP %s port %d: receive buffer %d bytes of %d asked%s", host, port, granted, wish,
              "" if granted >= wish else " (raise net.core.rmem_max)")  # fmt: skip

    def _kernel_drops(self) -> int:
        """Datagrams the kernel dropped for want of buffer, exact also when nothing comes after them."""
        return sum(_memory(sock)[_MEMINFO_DROPS] for sock in self._sockets)

    def _families(self) -> Iterable[Family]:
        name = (self._ctx.name,)
        text = "Datagrams the kernel dropped because the receive buffer was full."
        yield Family("flowagent_socket_drops", "counter", text, ("source",), {name: self._kernel_drops()})
        yield from decoder_families(self.decoder, self._ctx.name)


def _memory(sock: socket.socket) -> tuple[int, ...]:
    """What the kernel says of a socket's buffers; zeros where it does not."""
    try:
        return struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))
    except OSError:
        return (0,) * 9


def _filled(sock: socket.socket) -> float:
    """The part of the receive buffer that is in use."""
    memory = _memory(sock)
    return memory[_MEMINFO_USED] / memory[_MEMINFO_SIZE] if memory[_MEMINFO_SIZE] else 0.0
