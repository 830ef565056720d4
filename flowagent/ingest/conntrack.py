"""Source `conntrack`: connections that the kernel tracks, with their NAT, from its table and its events.

The table is read every `interval`, and what was counted since the last time
becomes rows; a connection that ends is told by an event with its last counters.
No packet is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Annotated, Self

import msgspec
import numpy as np

from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.component import Context, Deliver, Settings
from flowagent.errors import ConfigError, DecodeError
from flowagent.ingest.conntrack_message import DELETE, decode, find_messages
from flowagent.ingest.conntrack_rows import Seen, counters_of, is_dying, keys_of, rows_of
from flowagent.ingest.conntrack_table import News, Table
from flowagent.metrics import Family
from flowagent.sections import parse_duration

_NETFILTER = 12
_DESTROYED = 1 << 2
"""The group of events about connections that ended."""
_DUMP = struct.pack("=IHHIIBBH", 20, 0x101, 0x301, 1, 0, 0, 0, 0)
"""IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, both families."""
_SO_RCVBUFFORCE = 33
_READ = 1 << 17
_PART = 4 << 20
"""Bytes of a dump that are decoded without letting others run."""
_POLL = 0.2
"""Seconds between looks at the events; the socket's buffer holds those of longer."""
_AT_ONCE = 4096
"""Events decoded without letting others run."""
_DUMP_SECONDS = 30.0
_SETTINGS = Path("/proc/sys/net/netfilter")
_ACCOUNTING, _TIMESTAMPS, _EVENTS = "nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events"


class Config(Settings, frozen=True):
    """Tell of the connections that the kernel of this host tracks, in the agent's network namespace."""

    interval: str | float = "10s"
    """How often what was counted since is read."""
    enable_accounting: bool = False
    """Switch on counting (net.netfilter.nf_conntrack_acct), without which the kernel knows no bytes and packets."""
    enable_timestamps: bool = False
    """Switch on start and end of connections (net.netfilter.nf_conntrack_timestamp)."""
    exporter: str = "127.0.0.1"
    """Address that rows have as their exporter, such as the node's: ${NODE_IP}."""
    max_entries: Annotated[int, msgspec.Meta(ge=1, le=16_000_000)] = 262_144
    """Connections whose counters are remembered (40 bytes each); those beyond are told of when they end."""
    receive_buffer: Annotated[int, msgspec.Meta(ge=4096, le=2**31 - 1)] = 16 << 20
    """Bytes of kernel buffer to ask for, for events."""

    def build(self, ctx: Context) -> Conntrack:
        seconds = parse_duration(self.interval, f"{ctx.name}.interval")
        if seconds < _POLL:
            raise ConfigError(f"{ctx.name}.interval", f"{self.interval!r} is too short; at least {_POLL}s")
        try:
            exporter = address_words(self.exporter)
        except ValueError as error:
            raise ConfigError(f"{ctx.name}.exporter", f"{self.exporter!r} is no IP address") from error
        return Conntrack(self, ctx, seconds, exporter)


class Conntrack:
    """Reads dumps to their end and events between them; see `conntrack_table`."""

    def __init__(self, config: Config, ctx: Context, seconds: float, exporter: tuple[int, int]) -> None:
        self._config, self._ctx, self._seconds, self._exporter = config, ctx, seconds, exporter
        self._events: socket.socket | None = None
        self._table = Table(config.max_entries)
        self._wanted: frozenset[str] | None = None
        self._last_ns = 0
        self._dumps = self._records = self._overruns = self._interrupted = 0
        self._errors: Counter[str] = Counter()
        self._problem: str | None = "not started"
        self._told: str | None = None

    async def __aenter__(self) -> Self:
        for name, wish in (
            (_ACCOUNTING, self._config.enable_accounting),
            (_TIMESTAMPS, self._config.enable_timestamps),
        ):
            if wish:
                self._enable(name)
        with contextlib.ExitStack() as stack:
            self._events = stack.enter_context(_open(_DESTROYED, self._ctx.name))
            for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
                with contextlib.suppress(OSError):
                    self._events.setsockopt(socket.SOL_SOCKET, option, self._config.receive_buffer)
                    break
            try:
                await self._dump(None)  # what is there already counts from now on
            except (OSError, TimeoutError, DecodeError) as error:
                raise ConfigError(self._ctx.name, f"cannot read the connection table: {error}; {_REMEDY}") from error
            self._read_events(None, since_baseline=False)
            stack.pop_all()
        self._ctx.metrics.add(self._families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._families)
        if self._events is not None:
            self._events.close()
            self._events = None

    def want(self, columns: frozenset[str] | None) -> None:
        self._wanted = columns

    def ready(self) -> str | None:
        return f"{self._ctx.name}: {self._problem}" if self._problem else None

    def backlog(self) -> float:
        return 0.0

    async def run(self, deliver: Deliver) -> None:
        """Until cancelled; what was counted up to then is told, too."""
        clock = self._ctx.clock
        due = clock.monotonic() + self._seconds
        try:
            while True:
                await asyncio.sleep(min(_POLL, max(0.0, due - clock.monotonic())))
                await self._take_events(deliver)
                if clock.monotonic() >= due:
                    due = clock.monotonic() + self._seconds
                    await self._try_dump(deliver)
        finally:
            await self._take_events(deliver)
            await self._try_dump(deliver)

    async def _take_events(self, deliver: Deliver) -> None:
        """All that wait."""
        more = True
        while more:
            more = self._read_events(deliver) >= _AT_ONCE
            await asyncio.sleep(0)

    async def _try_dump(self, deliver: Deliver) -> None:
        try:
            await self._dump(deliver)
        except (OSError, TimeoutError, DecodeError) as error:
            self._errors["dump"] += 1
            self._say(f"cannot read the connection table: {error or 'it took too long'}")

    async def _dump(self, deliver: Deliver | None) -> None:
        """Read the table; without `deliver` only remember what is there."""
        self._table.begin()
        seen = Seen(self._ctx.clock.now_ns(), self._last_ns)
        uncounted = False
        async with asyncio.timeout(_DUMP_SECONDS), contextlib.aclosing(self._parts()) as parts:
            async for data in parts:
                entries, _ = self._decode(data)
                entries = entries.take(~is_dying(entries))
                if not len(entries):
                    continue
                uncounted |= "packets" not in entries
                news = self._table.dumped(keys_of(entries), counters_of(entries), baseline=deliver is None)
                self._give(deliver, entries, news, seen, ended=False)
                await asyncio.sleep(0)
        self._table.end()
        self._last_ns = seen.now_ns
        self._dumps += 1
        self._say(self._what_is_missing(uncounted=uncounted))

    async def _parts(self) -> AsyncGenerator[bytes]:
        """The answer to a request for all entries, some megabytes at a time."""
        loop = asyncio.get_running_loop()
        with _open(0, self._ctx.name) as sock:
            await loop.sock_sendall(sock, _DUMP)
            parts: list[bytes] = []
            size, done = 0, False
            while not done:
                data = await loop.sock_recv(sock, _READ)
                found = find_messages(data)
                if found.error:
                    raise OSError(found.error, os.strerror(found.error))
                self._interrupted += found.interrupted
                done = found.done
                parts.append(data)
                size += len(data)
                if size >= _PART or done:
                    yield b"".join(parts)
                    parts, size = [], 0

    def _read_events(self, deliver: Deliver | None, *, since_baseline: bool = True) -> int:
        """Take what events there are, at most some; how many."""
        assert self._events is not None
        parts: list[bytes] = []
        while len(parts) < _AT_ONCE:
            try:
                parts.append(self._events.recv(_READ))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self._errors["events"] += 1
                    break
                self._overruns += 1  # the kernel dropped some; the next dumps show who is gone
        if parts:
            entries, ended = self._decode(b"".join(parts))
            entries = entries.take(ended)
            if len(entries):
                news = self._table.ended(keys_of(entries), counters_of(entries), since_baseline=since_baseline)
                self._give(deliver, entries, news, Seen(self._ctx.clock.now_ns(), self._last_ns), ended=True)
        return len(parts)

    def _decode(self, data: bytes) -> tuple[Batch, np.ndarray]:
        """Entries, and which of them ended."""
        try:
            found = find_messages(data)
        except DecodeError as error:
            self._errors[error.reason] += 1
            return Batch({}), np.zeros(0, np.bool_)
        offset, length = np.array(found.offset, np.int64), np.array(found.length, np.int64)
        entries, of = decode(np.frombuffer(data, np.uint8), offset, length)
        if len(of) < len(offset):
            self._errors["bad_attribute"] += len(offset) - len(of)
        return entries, np.array(found.kind)[of] == DELETE if len(of) else np.zeros(0, np.bool_)

    def _give(self, deliver: Deliver | None, entries: Batch, news: News, seen: Seen, *, ended: bool) -> None:
        if deliver is None:
            return
        rows = rows_of(entries, news, self._exporter, seen, ended=ended)
        if len(rows):
            self._records += len(rows)
            deliver(rows if self._wanted is None else rows.select(self._wanted | {"records"}))

    def _what_is_missing(self, *, uncounted: bool) -> str | None:
        counts = _read(_ACCOUNTING)
        if counts == "0" or (counts is None and uncounted):
            return (
                "the kernel does not count bytes and packets of connections; "
                "set net.netfilter.nf_conntrack_acct to 1, or enable_accounting: true here"
            )
        if _read(_EVENTS) == "0":
            return "the kernel does not tell when connections end; set net.netfilter.nf_conntrack_events to 1"
        return None

    def _say(self, problem: str | None) -> None:
        """What keeps it from being ready; logged when it changes."""
        self._problem = problem
        if problem != self._told:
            self._told = problem
            if problem is not None:
                self._ctx.log.warning("%s", problem)
            else:
                self._ctx.log.info("connections are counted")

    def _enable(self, name: str) -> None:
        if _read(name) == "1":
            return
        try:
            (_SETTINGS / name).write_text("1\n")
        except OSError as error:
            setting = "enable_accounting" if name == _ACCOUNTING else "enable_timestamps"
            problem = f"cannot set net.netfilter.{name}: {error.strerror}; set it on the host"
            raise ConfigError(f"{self._ctx.name}.{setting}", problem) from error
        self._ctx.log.info("set net.netfilter.%s to 1", name)

    def _families(self) -> Iterable[Family]:
        name, labels = self._ctx.name, ("source", "protocol")
        records, errors = (
            {(name, "conntrack"): self._records},
            {(name, "conntrack", r): n for r, n in self._errors.items()},
        )
        yield Family("flowagent_ingest_records", "counter", "Flow records decoded.", labels, records)
        yield Family("flowagent_ingest_errors", "counter", "Input refused, by reason.", (*labels, "reason"), errors)
        yield Family("flowagent_conntrack_entries", "gauge", "Connections whose counters are remembered.", ("source",),
                     {(name,): len(self._table)})  # fmt: skip
        for what, count, text in (
            ("dumps", self._dumps, "Times the connection table was read."),
            ("interrupted_dumps", self._interrupted, "Dumps during which the table was rebuilt."),
            ("overruns", self._overruns, "Times events were dropped by the kernel for want of buffer."),
            ("untracked", self._table.untracked, "Times a connection of a dump found no room among those remembered."),
            ("vanished", self._table.vanished, "Connections that ended without an event."),
        ):
            yield Family(f"flowagent_conntrack_{what}", "counter", text, ("source",), {(name,): count})


_REMEDY = "this needs CAP_NET_ADMIN and a kernel with nf_conntrack_netlink"


def _open(groups: int, name: str) -> socket.socket:
    """A netlink socket that hears these groups."""
    try:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETFILTER
        )
        try:
            sock.bind((0, groups))
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ConfigError(name, f"cannot ask the kernel for its connections: {error.strerror}; {_REMEDY}") from error
    return sock


def _read(name: str) -> str | None:
    """A setting of the kernel; None where it has none."""
    try:
        return (_SETTINGS / name).read_text().strip()
    except OSError:
        return None
