"""Enricher `interfaces`: names of this host's interfaces for what exporters on this host send, and their speeds.

An interface index says something only on the machine it is of, so rows of routers and of other hosts get no names
from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np

from flowagent import names
from flowagent.addresses import address_words
from flowagent.batch import Array, Batch, constant
from flowagent.clock import SECOND
from flowagent.component import Context, Settings
from flowagent.enrich.keeping import keep_names
from flowagent.enrich.prefixes import PrefixTable, parse_prefix
from flowagent.enrich.table import FOREVER, AddressTable, text_column
from flowagent.errors import ConfigError
from flowagent.metrics import Family
from flowagent.schema import EXPORT_PROTOCOLS
from flowagent.worker import Worker

if TYPE_CHECKING:
    from flowagent.enrich.netlink import Known, Link

Protocol = Literal["unknown", "netflow1", "netflow5", "netflow7", "netflow9", "ipfix", "sflow5"]
LOOPBACK = ("127.0.0.0/8", "::1/128")
MAX_SHOWN, MAX_GONE = 256, 4096
KEEP_NS = 600 * SECOND
"""How long an interface that is gone keeps its name, for what exporters tell of late."""
_FLEETING = frozenset({"veth", "tun", "ipvlan", "macvlan", "ifb", "dummy"})
"""Kinds that come and go with pods and machines; there are no metrics of them."""
_AGAIN_SECONDS, _MOST_SECONDS = 1.0, 60.0
_NAMES = {"in_if_name": "in_if", "out_if_name": "out_if"}
_MACS = {"src_mac": "src_addr", "dst_mac": "dst_addr"}


class Config(Settings, frozen=True):
    """Name the interfaces of this host (Linux)."""

    protocols: tuple[Protocol, ...] = ("netflow9", "ipfix", "sflow5")
    """Protocols by which exporters on this host send its interface indexes; in NetFlow 5, Open vSwitch sends others."""
    neighbours: bool = False
    """Add MAC addresses of neighbours where flows have none."""

    def build(self, ctx: Context) -> Interfaces:
        if sys.platform != "linux":
            raise ConfigError(f"{ctx.name}.type", f"needs Linux, and this is {sys.platform}; leave it out here")
        return Interfaces(self, ctx)


class _Tables(NamedTuple):
    """Made of what is known; immutable."""

    interfaces: AddressTable
    """By their index, in the place of an address."""
    names: Array
    """(k + 1,) uint64: of interfaces by their number; the last is none."""
    own: PrefixTable
    """This host's addresses."""
    neighbours: AddressTable
    macs: Array
    """(m + 1,) uint64: of neighbours by their number; the last is none."""


class Interfaces:
    """Names by the tables that `run` keeps up to date; `links` are the interfaces there are now."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self._ctx, self._with_neighbours = ctx, config.neighbours
        self._trusted = np.zeros(256, np.bool_)
        self._trusted[[EXPORT_PROTOCOLS.index(name) for name in config.protocols]] = True
        self._macs = frozenset(_MACS if config.neighbours else ())
        self.adds = self._macs | _NAMES.keys()
        addresses = {_MACS[name] for name in self._macs}
        self.needs = frozenset({"exporter", "export_protocol", *_NAMES.values(), *addresses})
        self.links: tuple[Link, ...] = ()
        self._gone: OrderedDict[int, tuple[str, int]] = OrderedDict()
        self._tables: _Tables | None = None
        self._problem: str | None = "the interfaces are not known yet"
        self._resyncs = self._lost = self._evicted = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing is open."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_names(self._names), name=f"{self._ctx.name} names")
            group.create_task(self._follow(), name=f"{self._ctx.name} netlink")

    def _names(self) -> Iterable[Array]:
        return [self._tables.names] if self._tables is not None else []

    async def _follow(self) -> None:
        """Ask the kernel, and begin again where it told more than could be read."""
        from flowagent.enrich.netlink import Netlink, NetlinkLostError

        loop, wait = asyncio.get_running_loop(), _AGAIN_SECONDS

        def tell(known: Known) -> None:
            with contextlib.suppress(RuntimeError):  # the agent has ended
                loop.call_soon_threadsafe(self._take, known)

        while True:
            worker, began = Worker(self._ctx.name), self._ctx.clock.monotonic()
            netlink = Netlink(tell, neighbours=self._with_neighbours)
            try:
                await worker.run(netlink.follow)
            except NetlinkLostError as error:
                self._resyncs += 1
                self._problem = f"netlink: {error}" if self._tables is None else None
                self._ctx.log.warning("asks for all interfaces again: %s", error)
            except Exception:  # a message that cannot be decoded, or is none that was foreseen
                self._resyncs += 1
                self._problem = "netlink: an unexpected error, see the log" if self._tables is None else None
                self._ctx.log.exception("asks for all interfaces again")
            finally:
                netlink.stop()
                worker.stop()
            if self._ctx.clock.monotonic() - began > _MOST_SECONDS:
                wait = _AGAIN_SECONDS
            await asyncio.sleep(wait)
            wait = min(2 * wait, _MOST_SECONDS)

    def ready(self) -> str | None:
        return self._problem

    def _take(self, known: Known) -> None:
        """New tables of what the kernel says."""
        now_ns = self._ctx.clock.now_ns()
        there = {link.ifindex: link.name for link in known.links}
        for link in self.links:
            if link.ifindex not in there:
                self._gone[link.ifindex] = link.name, now_ns + KEEP_NS
                self._gone.move_to_end(link.ifindex)
        while self._gone and (next(iter(self._gone.values()))[1] <= now_ns or len(self._gone) > MAX_GONE):
            _, (_, until_ns) = self._gone.popitem(last=False)
            self._evicted += until_ns > now_ns
        self.links, self._lost = tuple(sorted(known.links, key=lambda link: link.ifindex)), max(self._lost, known.lost)
        named = {index: name for index, (name, _) in self._gone.items()} | there
        macs = dict(known.neighbours)
        held = np.array([address_words(address) for address in macs], np.uint64).reshape(-1, 2).T
        self._tables = _Tables(
            _always(_as_addresses(np.fromiter(named, np.uint64))),
            text_column(named.values()),
            PrefixTable((parse_prefix(text), 0) for text in (*LOOPBACK, *known.addresses)),
            _always(held),
            np.array([*macs.values(), 0], np.uint64),
        )
        self._problem = None

    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        """See `Enricher`. Indexes are named only of exporters and protocols that are known to mean this host's."""
        tables = self._tables
        missing = {name for name in _NAMES if name in wanted and name not in batch and _NAMES[name] in batch}
        macs = {
            name for name in self.adds & wanted & _MACS.keys() if _MACS[name] in batch and not _is_whole(batch, name)
        }
        if tables is None or not (missing or macs) or "exporter" not in batch or not len(batch):
            return batch
        is_own = (tables.own.find(batch["exporter"]) >= 0) & batch.is_known("exporter")
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        is_named = is_own & self._is_trusted(batch)
        for name in missing:
            columns[name] = _named(tables, batch, _NAMES[name], is_named)
        for name in macs if is_own.any() else ():
            found = tables.macs.take(tables.neighbours.find(batch[_MACS[name]]), mode="wrap")
            has_own = batch.is_known(name)
            fills = is_own & ~has_own & (found != 0)
            if fills.any():
                columns[name] = np.where(has_own, batch[name], found) if name in batch else found
                valid[name] = has_own | fills
        return batch.with_columns(columns, valid) if columns else batch

    def _is_trusted(self, batch: Batch) -> Array:
        """Whether the row's protocol means interface indexes; without the column it is unknown."""
        if "export_protocol" not in batch:
            return np.broadcast_to(self._trusted[0], (len(batch),))
        return self._trusted.take(np.where(batch.is_known("export_protocol"), batch["export_protocol"], 0))

    def families(self) -> Iterable[Family]:
        shown = [link for link in self.links if link.kind not in _FLEETING][:MAX_SHOWN]
        yield Family("flowagent_host_interface_up", "gauge", "Whether an interface of this host works.", ("interface",),
                     {(link.name,): float(link.is_up) for link in shown})  # fmt: skip
        yield Family("flowagent_host_interface_speed_bytes", "gauge", "Bytes a second that an interface can take.",
                     ("interface",), {(k.name,): k.speed for k in shown if k.speed is not None})  # fmt: skip
        yield Family("flowagent_interfaces", "gauge", "Interfaces of this host.", (), {(): len(self.links)})
        yield Family("flowagent_interfaces_resyncs", "counter", "How often all interfaces had to be asked for again.",
                     (), {(): self._resyncs})  # fmt: skip
        yield Family("flowagent_interfaces_evictions", "counter", "Interfaces that are gone, and had no room any more.",
                     (), {(): self._evicted})  # fmt: skip
        yield Family("flowagent_interfaces_lost", "gauge", "Interfaces, addresses and neighbours without room.",
                     (), {(): self._lost})  # fmt: skip


def _named(tables: _Tables, batch: Batch, column: str, is_named: Array) -> Array:
    """(n,) uint64: the names of interfaces by their index."""
    if not is_named.any():
        return constant(0, len(batch), names.CODE)
    found = tables.interfaces.find(_as_addresses(batch[column]))
    return np.where(is_named & batch.is_known(column), tables.names.take(found, mode="wrap"), np.uint64(0))


def _as_addresses(indexes: Array) -> Array:
    """(2, n) uint64, as such a table has them."""
    low = indexes.astype(np.uint64)
    return np.stack([np.zeros_like(low), low])


def _always(addresses: Array) -> AddressTable:
    """Who holds them, now and always: their numbers."""
    count = addresses.shape[1]
    always, forever = np.zeros(count, np.int64), np.full(count, FOREVER)
    return AddressTable(addresses, always, forever, np.arange(count, dtype=np.int32))


def _is_whole(batch: Batch, name: str) -> bool:
    """Whether a column is known in every row."""
    return name in batch and name not in batch.valid
