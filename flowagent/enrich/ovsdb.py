"""Enricher `ovsdb`: what only Open vSwitch's database knows of its flows: the sampling rate, and names of interfaces.

Open vSwitch multiplies its IPFIX counts by a rate that it does not tell, so their error cannot be told either. With
the rate from the database the multiplication is undone (`scale.unscaled`), and such rows become rows of a known rate
like any other exporter's: `sampling_source` is then `ovsdb`. Totals stay what they were, and get their variance.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, NamedTuple, Self

import msgspec
import numpy as np

from flowagent import names, ovsdb
from flowagent.addresses import address_words
from flowagent.batch import Array, Batch
from flowagent.component import Context, Settings
from flowagent.enrich.table import text_column
from flowagent.errors import ConfigError
from flowagent.metrics import Family
from flowagent.ovs import Bridge, Scaling, bridge_scaling, flow_scaling, look
from flowagent.scale import OVSDB, unscaled
from flowagent.schema import SAMPLING_SOURCES
from flowagent.sections import parse_duration

_PRESCALED = SAMPLING_SOURCES.index("prescaled")
_FORGET_AFTER = 30
"""Times `every` after which what was read is trusted no longer."""
_SIDES = ("in", "out")
_WORD = (1 << 64) - 1


class Config(Settings, frozen=True):
    """Tell the sampling rate of Open vSwitch on this host, and its interfaces' names, from its database."""

    db: str = ovsdb.DEFAULT
    """Where it is: `unix:PATH` or `tcp:HOST:PORT`."""
    every: str | float = "10s"
    """How often to read it."""
    exporters: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Subnets that the records of this Open vSwitch come from: this host's own addresses."""
    interface_names: Literal["name", "iface-id"] = "name"
    """What interfaces are called: as the kernel does, or as whoever plugged them in, such as `NAMESPACE_POD` of OVN."""
    probabilities: dict[int, Annotated[int, msgspec.Meta(ge=1, le=65535)]] = msgspec.field(default_factory=dict)
    """Of flows that sample (OpenFlow): `probability` by `obs_domain_id` of the action, which the database lacks."""

    def build(self, ctx: Context) -> Ovsdb:
        return Ovsdb(self, ctx)


class Table(NamedTuple):
    """What was read, as columns to look values up in; immutable."""

    domains: Array
    """(d,) uint32, ascending."""
    factor: Array
    """(d,) int64: what counts of the domain were multiplied by."""
    rate: Array
    """(d,) float64: what they should have been multiplied by."""
    indexes: Array
    """(i,) uint32, ascending: the kernel's numbers of interfaces."""
    interfaces: Array
    """(i + 1,) uint64: their names, and none."""

    @classmethod
    def build(cls, scalings: Mapping[int, Scaling], interfaces: Mapping[int, str]) -> Self:
        """From observation domains and interface numbers."""
        domains, indexes = sorted(scalings), sorted(interfaces)
        return cls(
            np.array(domains, np.uint32),
            np.array([scalings[d].factor for d in domains], np.int64),
            np.array([scalings[d].rate for d in domains], np.float64),
            np.array(indexes, np.uint32),
            text_column(interfaces[i] for i in indexes),
        )


_NOTHING = Table.build({}, {})


class Ovsdb:
    """Rates and names by the table that `run` keeps up to date."""

    adds = frozenset({"sampling_rate", "sampling_source", "in_if_name", "out_if_name"})
    needs = frozenset(
        {"exporter", "observation_domain", "sampling_source", "sampling_rate", "bytes", "packets", "in_if", "out_if"}
    )

    def __init__(self, config: Config, ctx: Context) -> None:
        """Raises ConfigError."""
        self._ctx, self._config = ctx, config
        self._every = parse_duration(config.every, f"{ctx.name}.every")
        if self._every < 1:
            raise ConfigError(f"{ctx.name}.every", f"{config.every!r} is too often; at least 1s")
        self._subnets = [
            _subnet(text, f"{ctx.name}.exporters[{i}]") for i, text in enumerate(dict.fromkeys(config.exporters))
        ]
        self._table = _NOTHING
        self._problem: str | None = f"has not read {config.db} yet"
        self._read_at: float | None = None
        self._unclear: frozenset[int] = frozenset()
        self._reads = self._errors = self._undone = self._indivisible = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing is open between two reads."""

    async def run(self) -> None:
        """Read again and again until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(self._every)

    async def read(self) -> None:
        """Read once; what cannot be read is logged once, and soon trusted no longer."""
        now = self._ctx.clock.monotonic()
        try:
            async with ovsdb.connect(self._config.db) as database:
                found = await look(database)
        except ovsdb.OvsdbError as error:
            self._errors += 1
            if str(error) != self._problem:
                self._ctx.log.warning("%s", error)
            self._problem = str(error)
            if self._read_at is None or now - self._read_at > _FORGET_AFTER * self._every:
                self._table = _NOTHING
            return
        if self._problem is not None:
            self._ctx.log.info("read %s: %d bridges", self._config.db, len(found.bridges))
        self._reads += 1
        self._read_at, self._problem = now, None
        by_id = self._config.interface_names == "iface-id"
        called = {n: (one.iface_id if by_id else "") or one.name for n, one in found.interfaces.items()}
        self._table = Table.build(self._scalings(found.bridges.values()), called)

    def _scalings(self, bridges: Iterable[Bridge]) -> dict[int, Scaling]:
        """By domain; of bridges of one domain that sample differently nothing is known."""
        rates: dict[int, set[int]] = {}
        for bridge in bridges:
            if bridge.ipfix is not None:
                rates.setdefault(bridge.obs_domain_id, set()).add(bridge.ipfix)
        scalings = {domain: bridge_scaling(next(iter(found))) for domain, found in rates.items() if len(found) == 1}
        scalings |= {domain: flow_scaling(p) for domain, p in self._config.probabilities.items()}
        unclear = rates.keys() - scalings.keys()
        if unclear - self._unclear:
            text = ", ".join(map(str, sorted(unclear)))
            self._ctx.log.warning("bridges of observation domain %s sample differently; give each its own", text)
        self._unclear = frozenset(unclear)
        return scalings

    def ready(self) -> str | None:
        """None once it was read, and for as long as that counts."""
        return None if self._table is not _NOTHING else self._problem

    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        """See `Enricher`: rows that Open vSwitch had scaled get a rate, and their counts are those of before."""
        table = self._table
        if table is _NOTHING or not {"exporter", "sampling_source"} <= batch.columns.keys() or not len(batch):
            return batch
        source = batch["sampling_source"]
        theirs = (source == _PRESCALED) | (source == OVSDB)
        if not theirs.any():
            return batch
        theirs &= self._is_here(batch["exporter"])
        if "sampling_rate" in wanted and "observation_domain" in batch:
            batch = self._with_rate(batch, table, theirs & (source == _PRESCALED))
        added: dict[str, Array] = {}
        for side in _SIDES:
            name = f"{side}_if_name"
            if name in wanted and name not in batch and f"{side}_if" in batch:
                where = _find(table.indexes, batch[f"{side}_if"])
                known = theirs & batch.is_known(f"{side}_if")
                added[name] = np.where(known, table.interfaces.take(where, mode="wrap"), names.CODE.type(0))
        return batch.with_columns(added) if added else batch

    def _with_rate(self, batch: Batch, table: Table, rows: Array) -> Batch:
        where = _find(table.domains, batch["observation_domain"])
        rows = rows & (where >= 0) & batch.is_known("observation_domain")
        count = int(np.count_nonzero(rows))
        if not count:
            return batch
        after = unscaled(batch, np.where(rows, table.factor.take(where), 0), table.rate.take(where))
        left = int(np.count_nonzero(rows & (after["sampling_source"] == _PRESCALED)))
        self._undone += count - left
        self._indivisible += left
        return after

    def _is_here(self, exporter: Array) -> Array:
        """(n,) bool: whether the address is in one of the subnets."""
        high, low = exporter
        here = np.zeros(len(high), np.bool_)
        for (net_high, net_low), (mask_high, mask_low) in self._subnets:
            here |= ((high & mask_high) == net_high) & ((low & mask_low) == net_low)
        return here

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        name = (self._ctx.name,)
        if self._read_at is not None:
            age = self._ctx.clock.monotonic() - self._read_at
            yield Family("flowagent_ovsdb_age_seconds", "gauge", "Since Open vSwitch's database was read last.",
                         ("enricher",), {name: age})  # fmt: skip
        reads = {(*name, "ok"): self._reads, (*name, "error"): self._errors}
        yield Family("flowagent_ovsdb_reads", "counter", "Times that Open vSwitch's database was asked.",
                     ("enricher", "result"), reads)  # fmt: skip
        text = "Observation domains by what is known of their sampling: unclear where bridges differ."
        known = {(*name, "known"): len(self._table.domains), (*name, "unclear"): len(self._unclear)}
        yield Family("flowagent_ovsdb_domains", "gauge", text, ("enricher", "sampling"), known)
        text = "Rows whose scaling was undone, or not, as the factor does not divide the counts: sampling had changed."
        rows = {(*name, "undone"): self._undone, (*name, "indivisible"): self._indivisible}
        yield Family("flowagent_ovsdb_rows", "counter", text, ("enricher", "scaling"), rows)


def _find(keys: Array, values: Array) -> Array:
    """(n,) intp: where in the ascending keys each value is, -1 where it is not."""
    if not len(keys):
        return np.full(len(values), -1, np.intp)
    where = np.searchsorted(keys, values.astype(keys.dtype, copy=False))
    where[where == len(keys)] = 0
    return np.where(keys[where] == values, where, -1)


def _subnet(text: str, path: str) -> tuple[tuple[np.uint64, np.uint64], tuple[np.uint64, np.uint64]]:
    """The words of a network and of its mask; IPv4 is mapped into IPv6."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(path, f"{text!r} is no subnet: {error}; write one such as 127.0.0.0/8") from error
    high, low = address_words(str(network.network_address))
    mask = (1 << 128) - (1 << network.max_prefixlen - network.prefixlen)
    return (np.uint64(high), np.uint64(low)), (np.uint64(mask >> 64), np.uint64(mask & _WORD))
