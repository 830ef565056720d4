"""Source `tcp`: IPFIX over TCP and TLS (RFC 7011, section 10.4).

Each connection is a transport session of its own: its templates are known to it
alone and end with it. Whoever sends more than the agent can take is not read
from, so that it waits and loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter, deque
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, Self

import msgspec
import numpy as np

from flowagent.addresses import address_words
from flowagent.component import Context, Deliver, Settings
from flowagent.errors import ConfigError
from flowagent.ingest.connection import Connection, Limits, Refused
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.framing import Messages
from flowagent.ingest.rates import Overrides
from flowagent.ingest.report import decoder_families, describe_exporters
from flowagent.listeners import open_listeners
from flowagent.metrics import Family
from flowagent.sections import Tls, parse_duration, parse_listen

_AT_ONCE = 1 << 20
"""Bytes decoded without letting others run; so much is not waited for."""
_HOUSEKEEPING = 5.0
_HANG_UP_SECONDS = 1.0
_QUIET_SECONDS = 10.0
"""Between two lines of the log about refused connections."""
_REASONS = ("too_many", "too_many_of_address", "handshake", "handshake_timeout", "certificate",
            "unknown_version", "bad_message_length", "slow_message", "idle")  # fmt: skip
"""Why connections are refused or closed."""


class ServerTls(Tls, frozen=True):
    """Certificate and key of the agent, and whose clients may connect."""

    client_ca: str | None = None
    """File with the CAs whose certificates clients must show; without it anybody may connect."""

    def context(self, path: str) -> ssl.SSLContext:
        """What the `ssl` module needs to know; reads the files. Raises ConfigError below `path`."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            # A password is never asked for: there is nobody to answer.
            context.load_cert_chain(self.cert, self.key, password=lambda: b"")
        except OSError as error:  # SSLError is one
            problem = f"cannot use {self.cert} with {self.key}: {error.strerror or error}"
            raise ConfigError(f"{path}.cert", f"{problem}; name files of PEM that belong together") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as error:
                problem = f"cannot use {self.client_ca}: {error.strerror or error}"
                raise ConfigError(f"{path}.client_ca", f"{problem}; name a file of PEM") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Config(Settings, frozen=True):
    """Receive IPFIX over TCP or TLS."""

    listen: str | tuple[str, ...] = "127.0.0.1:4739"
    """Addresses to bind; [::] takes IPv4 too. 4740 is the usual port with TLS."""
    tls: ServerTls | None = None
    """`{cert: FILE, key: FILE, client_ca: FILE}` for TLS; with `client_ca`, for clients of these CAs only."""
    sampling_rates: dict[str, Annotated[float, msgspec.Meta(ge=1, le=1e12)]] = msgspec.field(default_factory=dict)
    """Sampling rate by exporter subnet, over what the exporter says."""
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 128
    """Connections at a time; more are refused."""
    max_connections_per_address: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 16
    """Connections at a time from one address."""
    max_rate: Annotated[int, msgspec.Meta(ge=1000)] | None = None
    """Bytes a second that are read from a connection at most; its exporter waits. null for no limit."""
    buffer: Annotated[int, msgspec.Meta(ge=4096, le=16 << 20)] = 128 << 10
    """Bytes from which on a connection is not read until they are decoded; it may hold 400 KiB more."""
    handshake_timeout: str | float = "10s"
    """How long a TLS handshake may take."""
    message_timeout: str | float = "30s"
    """How long a message that began may take to be whole."""
    idle_timeout: str | float = "1h"
    """How long a connection may be silent; 0 for ever."""
    max_delay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    """Seconds that a message may wait for others to be decoded with."""

    def build(self, ctx: Context) -> TcpSource:
        addresses = (self.listen,) if isinstance(self.listen, str) else self.listen
        if not addresses:
            raise ConfigError(f"{ctx.name}.listen", "is empty; name an address such as 127.0.0.1:4739")
        endpoints = [parse_listen(text, f"{ctx.name}.listen") for text in addresses]
        try:
            overrides = Overrides(self.sampling_rates)
        except ValueError as error:
            raise ConfigError(f"{ctx.name}.sampling_rates", f"{error}; write subnets such as 10.0.0.0/8") from error
        seconds = {name: parse_duration(getattr(self, name), f"{ctx.name}.{name}")
                   for name in ("handshake_timeout", "message_timeout", "idle_timeout")}  # fmt: skip
        for name in ("handshake_timeout", "message_timeout"):
            if not seconds[name]:
                raise ConfigError(f"{ctx.name}.{name}", "must be above 0; write 10s")
        limits = Limits(seconds["message_timeout"], seconds["idle_timeout"] or None, self.buffer, self.max_rate)
        tls = self.tls.context(f"{ctx.name}.tls") if self.tls is not None else None
        return TcpSource(self, ctx, endpoints, Decoder(overrides=overrides, by_connection=True), limits, tls,
                         seconds["handshake_timeout"])  # fmt: skip


class _Piece(NamedTuple):
    """Messages that one connection brought."""

    connection: Connection
    messages: Messages
    received_ns: int


class TcpSource:
    """Connections bring messages, `run` decodes those of all of them together."""

    def __init__(
        self,
        config: Config,
        ctx: Context,
        endpoints: list[tuple[str, int]],
        decoder: Decoder,
        limits: Limits,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        self._config, self._ctx, self._endpoints = config, ctx, endpoints
        self._limits, self._tls, self._handshake_seconds = limits, tls, handshake_seconds
        self.decoder = decoder
        self._servers: list[asyncio.Server] = []
        self._connections: dict[int, Connection] = {}
        """By number; those that ended are here until what they brought is decoded."""
        self._numbers = deque(range(1, config.max_connections + 1))
        self._ended: list[Connection] = []
        self._pieces: deque[_Piece] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._enough = asyncio.Event()
        self._accepted = 0
        self._refused: Counter[str] = Counter(dict.fromkeys(_REASONS, 0))
        self._quiet_until = 0.0

    @property
    def tcp_ports(self) -> list[int]:
        """The ports bound, in the order of `listen`."""
        return [sock.getsockname()[1] for server in self._servers for sock in server.sockets]

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            for host, port in self._endpoints:
                for sock in self._open(host, port):
                    limit = self._config.buffer // 2  # a stream is read until it holds twice its limit
                    server = await asyncio.start_server(self._serve, sock=sock, limit=limit)
                    stack.callback(server.close)
                    self._servers.append(server)
                self._warn_of_strangers(host)
            stack.pop_all()
        self._ctx.metrics.add(self._families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in self._servers:
            server.close()
        tasks = [c.task for c in self._connections.values() if c.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._servers = []
        self._ctx.metrics.remove(self._families)
        self.decoder.close()

    def want(self, columns: frozenset[str] | None) -> None:
        self.decoder.want(columns)

    def ready(self) -> str | None:
        return None if self._servers else f"{self._ctx.name}: not listening"

    def backlog(self) -> float:
        """Nothing is lost that waits: exporters are not read from meanwhile."""
        return 0.0

    def exporters(self) -> list[dict[str, Any]]:
        """What is known of each exporter, for the API."""
        return describe_exporters(self.decoder, self._ctx.name)

    async def run(self, deliver: Deliver) -> None:
        """Until cancelled."""
        due = self._ctx.clock.monotonic() + _HOUSEKEEPING
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HOUSEKEEPING):
                        await self._changed.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.max_delay):
                        await self._enough.wait()
                while self._pieces:
                    self._decode(deliver)
                    await asyncio.sleep(0)
                self._forget_ended()
                if self._ctx.clock.monotonic() >= due:
                    due = self._ctx.clock.monotonic() + _HOUSEKEEPING
                    self.decoder.expire(self._ctx.clock.now_ns())
        finally:
            await self._hang_up(deliver)

    async def _hang_up(self, deliver: Deliver) -> None:
        """Take no more connections; what they brought so far is still decoded."""
        for server in self._servers:
            server.close()
        open_ones = [c for c in self._connections.values() if c not in self._ended]
        for connection in open_ones:
            connection.stop()
        tasks = [c.task for c in open_ones if c.task is not None]
        ends = self._ctx.clock.monotonic() + _HANG_UP_SECONDS
        while tasks and self._ctx.clock.monotonic() < ends:
            while self._pieces:
                self._decode(deliver)
            _, waiting = await asyncio.wait(tasks, timeout=0.01)
            tasks = list(waiting)
        while self._pieces:
            self._decode(deliver)

    def _decode(self, deliver: Deliver) -> None:
        """Some of what waits, oldest first."""
        taken: list[_Piece] = []
        size = 0
        while self._pieces and size < _AT_ONCE:
            taken.append(self._pieces.popleft())
            size += len(taken[-1].messages.data)
        self._size -= size
        if self._size < _AT_ONCE:
            self._enough.clear()
        messages = _together(taken)
        try:
            batch = self.decoder.feed(messages)
        except Exception:
            # No input may stop the loop: what a fault of the decoder costs is counted and shown.
            self.decoder.stats.error("unknown", "internal", len(messages))
            self._ctx.log.exception("lost %d messages to an unexpected error", len(messages))
        else:
            if len(batch):
                deliver(batch)
        for piece in taken:
            piece.connection.taken.set()

    def _forget_ended(self) -> None:
        """Connections that ended and whose messages are decoded make room for others."""
        self._changed.clear()
        ended, self._ended = self._ended, []
        for connection in ended:
            self.decoder.disconnect(connection.address, connection.number)
            del self._connections[connection.number]
            self._numbers.append(connection.number)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its beginning to its end; asyncio made the task."""
        self._accepted += 1
        connection = None
        try:
            connection = self._admit(reader, writer)
            if self._tls is not None:
                await self._shake_hands(writer, self._tls)
            connection.is_open = True
            await self._read(connection)
        except Refused as refused:
            self._refuse(refused.reason, writer)
        except (OSError, asyncio.CancelledError):
            # It broke, or the agent ends; asyncio would log the cancellation as a fault.
            pass
        finally:
            writer.transport.abort()
            if connection is not None:
                if connection.framer.partial and not connection.framer.fault:
                    self.decoder.stats.error("ipfix", "truncated")
                self._ended.append(connection)
                self._changed.set()

    def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection:
        peer = writer.get_extra_info("peername")
        if peer is None:
            raise ConnectionResetError
        address = address_words(peer[0].partition("%")[0])
        if not self._numbers:
            raise Refused("too_many")
        if sum(c.address == address for c in self._connections.values()) >= self._config.max_connections_per_address:
            raise Refused("too_many_of_address")
        number = self._numbers.popleft()
        connection = Connection(number, address, (reader, writer), self._limits, self._ctx.clock)
        self._connections[number] = connection
        return connection

    async def _shake_hands(self, writer: asyncio.StreamWriter, tls: ssl.SSLContext) -> None:
        try:
            async with asyncio.timeout(self._handshake_seconds):
                # asyncio's own limit must not be the shorter one: it hides what happened.
                await writer.start_tls(tls, ssl_handshake_timeout=self._handshake_seconds + 1)
        except TimeoutError as error:
            raise Refused("handshake_timeout") from error
        except ssl.SSLError as error:
            about_it = isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE" in (error.reason or "")
            raise Refused("certificate" if about_it else "handshake") from error
        except OSError as error:
            raise Refused("handshake") from error

    async def _read(self, connection: Connection) -> None:
        """Take messages until the other side ends; raises Refused where it misbehaves."""
        while data := await connection.read():
            messages = connection.push(data)
            if messages.offset:
                connection.taken.clear()
                self._pieces.append(_Piece(connection, messages, self._ctx.clock.now_ns()))
                self._size += len(messages.data)
                self._changed.set()
                # Whoever fills its buffer has more to send.
                if self._size >= _AT_ONCE or len(data) >= self._config.buffer // 2:
                    self._enough.set()
            if connection.framer.fault is not None:
                self.decoder.stats.error("ipfix", connection.framer.fault)
                raise Refused(connection.framer.fault)
            # So much and no more waits of each connection.
            await connection.taken.wait()

    def _refuse(self, reason: str, writer: asyncio.StreamWriter) -> None:
        self._refused[reason] += 1
        now = self._ctx.clock.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            peer = writer.get_extra_info("peername") or ("?",)
            self._ctx.log.warning("closed a connection from %s: %s (more may follow unlogged)", peer[0], reason)

    def _open(self, host: str, port: int) -> list[socket.socket]:
        try:
            return open_listeners(host, port)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self._ctx.name}.listen",
                f"cannot listen on TCP {host} port {port}: {getattr(error, 'strerror', None) or error}; "
                "choose another or end the program that has it",
            ) from error

    def _warn_of_strangers(self, host: str) -> None:
        if host not in ("127.0.0.1", "::1", "localhost") and (
            self._config.tls is None or not self._config.tls.client_ca
        ):
            self._ctx.log.warning("%s takes records from anybody who reaches %s; tls.client_ca would say from whom",
                                  self._ctx.name, host)  # fmt: skip

    def _families(self) -> Iterable[Family]:
        name = self._ctx.name
        source = ("source",)
        refused = {(name, reason): count for reason, count in self._refused.items()}
        yield Family("flowagent_ingest_connections", "gauge", "Connections open now.", source,
                     {(name,): len(self._connections) - len(self._ended)})  # fmt: skip
        yield Family("flowagent_ingest_connections_accepted", "counter", "Connections that came, refused ones too.",
                     source, {(name,): self._accepted})  # fmt: skip
        yield Family("flowagent_ingest_connections_refused", "counter", "Connections refused or closed, by reason.",
                     ("source", "reason"), refused)  # fmt: skip
        yield from decoder_families(self.decoder, name)


def _together(pieces: list[_Piece]) -> Datagrams:
    """All messages in one buffer; the connection's number stands for the port."""
    starts = np.concatenate([[0], np.cumsum([len(p.messages.data) for p in pieces])[:-1]]).astype(np.int64)
    counts = np.array([len(p.messages.offset) for p in pieces])
    address = np.array([p.connection.address for p in pieces], np.uint64).T
    return Datagrams(
        data=np.frombuffer(b"".join(p.messages.data for p in pieces), np.uint8),
        offset=np.array([o for p in pieces for o in p.messages.offset], np.int64) + np.repeat(starts, counts),
        length=np.array([size for p in pieces for size in p.messages.length], np.int64),
        exporter=np.repeat(address, counts, axis=1),
        port=np.repeat(np.array([p.connection.number for p in pieces], np.uint16), counts),
        received_ns=np.repeat(np.array([p.received_ns for p in pieces], np.int64), counts),
    )
