"""Enricher `geoip`: in which country, city and autonomous system addresses are, from files of MaxMind's format."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.component import Context, Settings
from flowagent.enrich.followed import Followed
from flowagent.enrich.keeping import keep_names
from flowagent.errors import ConfigError
from flowagent.grouping import group_rows
from flowagent.metrics import Family
from flowagent.sections import parse_duration

if TYPE_CHECKING:
    from flowagent.enrich.mmdb import Database

MAX_BYTES = 1 << 30
_SIDES = ("src", "dst")


class Config(Settings, frozen=True):
    """Say where addresses are (needs `flowagent[geoip]`)."""

    country: str | None = None
    """File with countries, such as GeoLite2-Country.mmdb; not needed beside `city`."""
    city: str | None = None
    """File with cities and countries, such as GeoLite2-City.mmdb."""
    asn: str | None = None
    """File with autonomous systems, such as GeoLite2-ASN.mmdb."""
    language: str = "en"
    """Language of the names of cities, as far as the file has it."""
    every: str | float = "60s"
    """How often to look whether the files changed."""

    def build(self, ctx: Context) -> GeoIp:
        if importlib.util.find_spec("maxminddb") is None:
            raise ConfigError(f"{ctx.name}.type", "needs a package more; install flowagent[geoip]")
        return GeoIp(self, ctx)


class GeoIp:
    """Places by the files."""

    needs = frozenset({"src_addr", "dst_addr"})

    def __init__(self, config: Config, ctx: Context) -> None:
        """Raises ConfigError."""
        self._every = parse_duration(config.every, f"{ctx.name}.every")
        if self._every <= 0:
            raise ConfigError(f"{ctx.name}.every", "is 0; write how often to look at the files, such as 60s")
        files = {"city": config.city, "country": config.country, "asn": config.asn}
        self._files = {kind: path for kind, path in files.items() if path is not None}
        if not self._files:
            raise ConfigError(f"{ctx.name}.city", "no file is named; write at least one of city, country and asn")
        self._followed: dict[str, Followed[Database]] = {}
        self._databases: dict[str, Database] = {}
        self._language, self._ctx = config.language, ctx
        self._parts = {part: kind for kind in self._files for part in _PARTS[kind]}
        """Of each column that can be added the file it comes from; a file of countries counts before one of cities."""
        self.adds = frozenset(f"{side}_{part}" for side in _SIDES for part in self._parts)
        self._deferred, self._evicted = dict.fromkeys(self._files, 0), dict.fromkeys(self._files, 0)
        """Counts of the files that were there before."""

    async def __aenter__(self) -> Self:
        """Raises ConfigError where a file cannot be read."""
        from flowagent.enrich.mmdb import Database

        readers: dict[str, Callable[[Any], tuple[str | int, ...]]] = {
            "country": lambda record: (_country(record),),
            "city": partial(_city, self._language),
            "asn": _asn,
        }
        try:
            for kind, path in self._files.items():
                make = partial(Database, read=readers[kind], columns=len(_PARTS[kind]))
                file = Followed(path, make, f"{self._ctx.name}.{kind}", self._ctx, MAX_BYTES)
                self._followed[kind] = file
                self._databases[kind] = await file.open()
        except ConfigError:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for file in self._followed.values():
            file.close()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_names(self._names), name=f"{self._ctx.name} names")
            group.create_task(self._follow(), name=f"{self._ctx.name} files")

    def _names(self) -> Iterable[Array]:
        """Columns of names; numbers of ASs are no names."""
        for kind, database in self._databases.items():
            yield from (column for part, column in zip(_PARTS[kind], database.known, strict=True) if part != "as")

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            for kind, file in self._followed.items():
                if (database := await file.changed()) is not None:
                    self._deferred[kind] += self._databases[kind].deferred
                    self._evicted[kind] += self._databases[kind].evictions
                    self._databases[kind] = database

    def ready(self) -> str | None:
        return None

    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        """See `Enricher`. The number of an AS is added only where none is known; 0 is none (RFC 7607)."""
        if len(self._databases) < len(self._files):
            return batch  # not entered yet, as in a reload
        columns: dict[str, Array] = {}
        valid: dict[str, Array] = {}
        for side in _SIDES:
            if f"{side}_addr" not in batch:
                continue
            missing = {part for part in self._parts if f"{side}_{part}" in wanted and _lacks(batch, side, part)}
            if not missing:
                continue
            found = self._find(batch[f"{side}_addr"], {self._parts[part] for part in missing})
            if missing & {"as", "as_name"}:
                numbers, said = _numbers(batch, f"{side}_as", found["as"])
                # The name is that of the number that the row has.
                found["as_name"] = np.where(numbers == found["as"], found["as_name"], np.uint64(0))
                if "as" in missing and said.any():
                    columns[f"{side}_as"], valid[f"{side}_as"] = numbers, said
            columns |= {f"{side}_{part}": found[part] for part in missing - {"as"}}
        return batch.with_columns(columns, valid) if columns else batch

    def _find(self, addresses: Array, kinds: Iterable[str]) -> dict[str, Array]:
        """What these files say of each address, by part; (n,) uint64."""
        groups = group_rows(list(addresses))
        distinct = addresses[:, groups.first]
        which = np.empty(addresses.shape[1], np.intp)
        which[groups.order] = np.repeat(np.arange(len(groups.starts)), groups.sizes())
        return {
            part: values.take(which)
            for kind in kinds
            for part, values in zip(_PARTS[kind], self._databases[kind].find(distinct), strict=True)
            if self._parts[part] == kind
        }

    def families(self) -> Iterable[Family]:
        known = self._databases.items()
        yield Family("flowagent_geoip_built_timestamp_seconds", "gauge", "When a file says that it was made.",
                     ("file",), {(kind,): database.built_seconds for kind, database in known})  # fmt: skip
        yield Family("flowagent_geoip_deferred", "counter", "Records not looked into yet, as there were too many new.",
                     ("file",), {(kind,): self._deferred[kind] + d.deferred for kind, d in known})  # fmt: skip
        yield Family("flowagent_geoip_evictions", "counter", "Records forgotten, as there were too many.",
                     ("file",), {(kind,): self._evicted[kind] + d.evictions for kind, d in known})  # fmt: skip
        for file in self._followed.values():
            yield from file.families()


def _lacks(batch: Batch, side: str, part: str) -> bool:
    """Whether a column is missing; that of a number also where it is not known in every row."""
    name = f"{side}_{part}"
    return name not in batch or (part == "as" and (name in batch.valid or not batch[name].all()))


def _numbers(batch: Batch, name: str, found: Array) -> tuple[Array, Array]:
    """(n,) uint32 and (n,) bool: the numbers of ASs that rows have, else the ones found, and where there is one."""
    numbers = found.astype(np.uint32)
    if name in batch:
        own = np.where(batch.is_known(name), batch[name], np.uint32(0))
        numbers = np.where(own != 0, own, numbers)
    return numbers, numbers != 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _at(record: Any, *path: str) -> Any:
    """What is in a record within records, or None."""
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _country(record: Any) -> str:
    """In the layout of MaxMind and DB-IP, or that of IPinfo, which has no records within records."""
    return _text(_at(record, "country", "iso_code") or _at(record, "country_code"))


def _city(language: str, record: Any) -> tuple[str, str]:
    """City and country."""
    city = _at(record, "city")
    texts = _at(city, "names")
    return _text(_at(texts, language) or _at(texts, "en") or city), _country(record)


def _asn(record: Any) -> tuple[int, str]:
    """Number and name."""
    number = _at(record, "autonomous_system_number") or str(_at(record, "asn") or "").removeprefix("AS")
    number = int(number) if str(number).isdecimal() else 0
    return number if number < 1 << 32 else 0, _text(
        _at(record, "autonomous_system_organization") or _at(record, "as_name")
    )


_PARTS = {"city": ("city", "country"), "country": ("country",), "asn": ("as", "as_name")}
"""What the readers take from a record of each file, in their order."""
