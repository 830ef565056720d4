"""Open vSwitch made to export to the agent, and told to stop; what its bridges export, and one packet in how many.

`attach` writes the configuration of one bridge in one transaction, and marks the row as its own. Where somebody else
configured the bridge already it refuses, unless told to replace that; then the row says what was there before, and
`detach` leaves the database as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from flowagent.errors import ConfigError
from flowagent.ovsdb import (
    EMPTY,
    Connection,
    Operation,
    Row,
    as_map,
    connect,
    mapping,
    select,
    unchanged,
    update,
    values,
)
from flowagent.sections import did_you_mean, parse_listen

Protocol = Literal["ipfix", "sflow", "netflow"]
TABLES: dict[Protocol, str] = {"ipfix": "IPFIX", "sflow": "sFlow", "netflow": "NetFlow"}
"""The table of each protocol's rows; the bridge's column has the protocol's name."""
TARGETS: dict[Protocol, str] = {"ipfix": "127.0.0.1:4739", "sflow": "127.0.0.1:6343", "netflow": "127.0.0.1:2055"}
MARK, WAS, INSTEAD_OF = "flowagent", "flowagent-was", "flowagent-instead-of"
"""Keys of external_ids: whose the row is; its columns before it was changed; the row whose place it takes."""
DEFAULT_SAMPLING = 400
"""What Open vSwitch takes for IPFIX and sFlow where nothing is set."""
CACHE_FLOWS = 8192
OFF = "true"
"""What switches sampling off in `enable-{input,output}-sampling`; "false", as the manual has it, does nothing (3.1)."""
UINT32_MAX, UINT16_MAX = 0xFFFFFFFF, 0xFFFF


class Scaling(NamedTuple):
    """What Open vSwitch makes of a probability: counts are multiplied by `factor`, and should have been by `rate`."""

    factor: int
    rate: float


def bridge_scaling(sampling: int) -> Scaling:
    """Of a bridge that samples one packet in `sampling`.

    Both the probability and the factor are quotients of integers: p = (2^32 - 1) / N, factor = (2^32 - 1) / p, each
    rounded down. Up to N = 65535 the factor is N; above that it may be more, as p was less. It is within 1/65536 of
    what it should be, so the rate is the factor.
    """
    factor = UINT32_MAX // max(1, UINT32_MAX // sampling)
    return Scaling(factor, float(factor))


def flow_scaling(probability: int) -> Scaling:
    """Of flows with the OpenFlow action sample(probability=1..65535).

    The factor is 65535 / p rounded down, which may tell but half of what there was: 1 for p = 32768.
    """
    return Scaling(UINT16_MAX // probability, UINT16_MAX / probability)


@dataclass(frozen=True, slots=True)
class Export:
    """How a bridge should export; None leaves a setting to Open vSwitch."""

    protocol: Protocol = "ipfix"
    target: str | None = None
    sampling: int | None = None
    cache_active_timeout: int = 10
    """Seconds; 0 sends every sampled packet as a record of its own."""
    template_interval: int = 60
    """Seconds, from Open vSwitch 3.2 on; before, it is 600."""
    domain: int | None = None

    def check(self) -> None:
        """Raise ConfigError where a setting makes no sense."""
        _ = parse_listen(self.to, "--target")
        if self.to.startswith(":"):
            raise ConfigError("--target", f"{self.to!r} has no address; write one, such as 127.0.0.1:4739")
        limits = (
            ("--sampling", self.sampling, 1, UINT32_MAX),
            ("--cache-active-timeout", self.cache_active_timeout, 0, 4200),
            ("--template-interval", self.template_interval, 1, 3600),
            ("--domain", self.domain, 0, UINT32_MAX),
        )
        for option, value, least, most in limits:
            if value is not None and not least <= value <= most:
                raise ConfigError(option, f"{value} is out of range; write a number from {least} to {most}")
        if self.protocol == "netflow" and self.sampling not in (None, 1):
            raise ConfigError("--sampling", "Open vSwitch does not sample for NetFlow; leave it out")
        if self.protocol != "ipfix" and self.domain is not None:
            raise ConfigError("--domain", f"is a setting of ipfix, not of {self.protocol}; leave it out")

    @property
    def to(self) -> str:
        """The target, or the protocol's own."""
        return TARGETS[self.protocol] if self.target is None else self.target

    def row(self, columns: frozenset[str]) -> Row:
        """Every column of the row but external_ids, as far as this version of Open vSwitch has them."""
        timeout, sampling = self.cache_active_timeout, EMPTY if self.sampling is None else self.sampling
        row: Row
        if self.protocol == "ipfix":
            # What goes out came in before, and is counted there. See OFF; should a version mean what its manual says,
            # packets are reported twice, and the agent counts each once.
            inputs_only = {"enable-output-sampling": OFF}
            row = {
                "sampling": sampling,
                "obs_domain_id": EMPTY if self.domain is None else self.domain,
                "obs_point_id": EMPTY,
                "cache_active_timeout": timeout or EMPTY,
                "cache_max_flows": CACHE_FLOWS if timeout else EMPTY,
                "template_interval": self.template_interval,
                "stats_interval": EMPTY,
                "other_config": as_map(inputs_only),
            }
        elif self.protocol == "sflow":
            row = {"sampling": sampling, "polling": EMPTY, "header": EMPTY, "agent": EMPTY}
        else:
            row = {
                "active_timeout": timeout, "engine_type": EMPTY, "engine_id": EMPTY, "add_id_to_interface": False,
            }  # fmt: skip
        return {name: value for name, value in {"targets": self.to, **row}.items() if name in columns}


@dataclass(frozen=True, slots=True)
class Exporting:
    """What a bridge exports by one protocol; None where Open vSwitch's default holds."""

    targets: list[str]
    sampling: int | None
    ours: bool
    """Whether `attach` made it so."""
    replaced: bool
    """Whether `detach` brings back what was there before."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """What one bridge exports, and how it samples."""

    name: str
    exports: dict[Protocol, Exporting] = field(default_factory=dict)
    ipfix: int | None = None
    """One packet in this many is reported by IPFIX; None where it is not on."""
    sflow: int | None = None
    """The same for sFlow."""
    obs_domain_id: int = 0
    obs_point_id: int = 0
    input_sampling: bool = True
    """Whether IPFIX reports packets that come in."""
    output_sampling: bool = True
    """Whether IPFIX reports packets that go out."""
    by_flows: bool = False
    """Whether flows may sample, too: with which probability only OpenFlow knows."""


class Interface(NamedTuple):
    """What an interface is called."""

    name: str
    iface_id: str = ""
    """What whoever plugged it in calls its port: `NAMESPACE_POD` in OVN-Kubernetes, a port's UUID in OpenStack."""


class Look(NamedTuple):
    """The bridges by name, and the interfaces by the kernel's number; all of one moment."""

    bridges: dict[str, Bridge]
    interfaces: dict[int, Interface]


async def look(database: Connection) -> Look:
    """How the bridges sample; raises OvsdbError."""
    config = await _Config.read(database, select("Interface", "name", "ifindex", "external_ids"))
    [interfaces] = config.more
    numbers = {n: _interface(row) for row in interfaces for n in values(row["ifindex"]) if n > 0}
    return Look({name: config.bridge(name) for name in sorted(config.bridges)}, numbers)


def _interface(row: dict[str, Any]) -> Interface:
    return Interface(row["name"], mapping(row["external_ids"]).get("iface-id", ""))


async def sampling_of(db: str, bridge: str | None = None) -> dict[str, Bridge]:
    """How each bridge of this database (`unix:PATH`), or one of them, samples; raises ConfigError and OvsdbError."""
    async with connect(db) as database:
        config = await _Config.read(database)
    if bridge is not None:
        config.find(bridge)
    return {name: config.bridge(name) for name in sorted(config.bridges) if bridge in (None, name)}


async def attach(
    db: str, bridge: str, export: Export, *, replace: bool = False
) -> Literal["attached", "replaced", "changed", "unchanged"]:
    """Let a bridge export so; what had to be done for it. Raises ConfigError and OvsdbError."""
    export.check()
    async with connect(db) as database:
        wish = export.row((await database.columns())[TABLES[export.protocol]])
        config = await _Config.read(database)
        config.find(bridge)
        row = config.row(bridge, export.protocol)
        ours = row is not None and _is_ours(row)
        if row is not None and not ours and not replace:
            targets = ", ".join(values(row["targets"])) or "nowhere"
            raise ConfigError(
                bridge,
                f"exports {export.protocol} to {targets} by somebody else's configuration; "
                "--replace takes its place, and detach brings it back",
            )
        if row is not None and ours and _same(wish, row):
            return "unchanged"
        await database.transact(
            *_attaching(config, bridge, export.protocol, wish), _comment(f"attach {bridge} {export.protocol}")
        )
    return "attached" if row is None else "changed" if ours else "replaced"


def _attaching(config: _Config, bridge: str, protocol: Protocol, wish: Row) -> Iterator[Operation]:
    table, row, uuid = TABLES[protocol], config.row(bridge, protocol), config.uuid(bridge, protocol)
    ids = {MARK: "attached"}
    if row is not None:
        ids |= mapping(row["external_ids"])  # if it is ours, they tell what was there before
        if not _is_ours(row):
            ids[WAS] = json.dumps(_settings(row), separators=(",", ":"))
    if row is not None and uuid is not None and not config.is_shared(uuid, protocol):
        yield unchanged(table, uuid, _settings(row))
        yield update(table, uuid, wish | {"external_ids": as_map(ids)})
        return
    if uuid is not None:
        ids.setdefault(INSTEAD_OF, uuid)
    yield {"op": "insert", "table": table, "row": wish | {"external_ids": as_map(ids)}, "uuid-name": "export"}
    yield from config.pointing(bridge, protocol, ["named-uuid", "export"])


async def detach(
    db: str, bridge: str, protocols: Iterable[Protocol] = tuple(TABLES)
) -> dict[Protocol, Literal["removed", "restored"]]:
    """Take back what `attach` did to a bridge; what that was. Raises ConfigError and OvsdbError."""
    done: dict[Protocol, Literal["removed", "restored"]] = {}
    operations: list[Operation] = []
    async with connect(db) as database:
        config = await _Config.read(database)
        config.find(bridge)
        for protocol in protocols:
            row = config.row(bridge, protocol)
            if row is not None and _is_ours(row):
                done[protocol] = "restored" if WAS in mapping(row["external_ids"]) else "removed"
                operations += _detaching(config, bridge, protocol, row)
        if operations:
            await database.transact(*operations, _comment(f"detach {bridge} {' '.join(done)}"))
    return done


def _detaching(config: _Config, bridge: str, protocol: Protocol, row: Row) -> Iterator[Operation]:
    ids, table, uuid = mapping(row["external_ids"]), TABLES[protocol], row["_uuid"][1]
    if WAS not in ids:
        yield from config.pointing(bridge, protocol, EMPTY)
        return
    was = {name: value for name, value in json.loads(ids[WAS]).items() if name in row}
    back = ids.get(INSTEAD_OF)
    if back is None:
        yield unchanged(table, uuid, _settings(row))
        yield update(table, uuid, was)
    elif back in config.rows[protocol]:
        yield from config.pointing(bridge, protocol, ["uuid", back])
    else:  # others used it, too, but do so no longer
        yield {"op": "insert", "table": table, "row": was, "uuid-name": f"was_{protocol}"}
        yield from config.pointing(bridge, protocol, ["named-uuid", f"was_{protocol}"])


class _Config:
    """The bridges, their exports and who uses those, all of one moment."""

    def __init__(self, results: list[list[Row]]) -> None:
        bridges, sets, *tables = results
        self.bridges = {row["name"]: row for row in bridges}
        self.rows = {p: {row["_uuid"][1]: row for row in rows} for p, rows in zip(TABLES, tables, strict=False)}
        self.more = tables[len(TABLES) :]
        self._sets = sets

    @classmethod
    async def read(cls, database: Connection, *more: Operation) -> _Config:
        return cls(
            await database.transact(
                select("Bridge", "_uuid", "name", *TABLES),
                select("Flow_Sample_Collector_Set", "bridge", "ipfix"),
                *(select(table) for table in TABLES.values()),
                *more,
            )
        )

    def find(self, bridge: str) -> None:
        """Raise ConfigError where there is no such bridge."""
        if bridge not in self.bridges:
            known = sorted(self.bridges)
            there = f"there are: {', '.join(known)}" if known else "there is none at all"
            raise ConfigError(bridge, f"is no bridge{did_you_mean(bridge, known)}; {there}")

    def uuid(self, bridge: str, protocol: Protocol) -> str | None:
        """Which row says how the bridge exports."""
        return next(iter(values(self.bridges[bridge][protocol])), None)

    def row(self, bridge: str, protocol: Protocol) -> Row | None:
        """How the bridge exports."""
        return self.rows[protocol].get(self.uuid(bridge, protocol) or "")

    def pointing(self, bridge: str, protocol: Protocol, value: Any) -> Iterator[Operation]:
        """Let the bridge export as another row says, where it does as before until then."""
        row = self.bridges[bridge]
        yield unchanged("Bridge", row["_uuid"][1], {protocol: row[protocol]})
        yield update("Bridge", row["_uuid"][1], {protocol: value})

    def is_shared(self, uuid: str, protocol: Protocol) -> bool:
        """Whether a change of this row would change more than one bridge."""
        users = [values(row[protocol]) for row in self.bridges.values()]
        if protocol == "ipfix":
            users += [values(row["ipfix"]) for row in self._sets]
        return sum(uuid in user for user in users) > 1

    def bridge(self, name: str) -> Bridge:
        """What one bridge does."""
        rows = {protocol: row for protocol in TABLES if (row := self.row(name, protocol)) is not None}
        ipfix, sflow = rows.get("ipfix", {}), rows.get("sflow")
        settings = mapping(ipfix["other_config"]) if ipfix else {}
        mine = self.bridges[name]["_uuid"][1]
        return Bridge(
            name,
            {protocol: _exporting(row) for protocol, row in rows.items()},
            ipfix=_number(ipfix, "sampling", DEFAULT_SAMPLING) if ipfix else None,
            sflow=None if sflow is None else _number(sflow, "sampling", DEFAULT_SAMPLING),
            obs_domain_id=_number(ipfix, "obs_domain_id", 0),
            obs_point_id=_number(ipfix, "obs_point_id", 0),
            input_sampling=settings.get("enable-input-sampling") != OFF,
            output_sampling=settings.get("enable-output-sampling") != OFF,
            by_flows=any(mine in values(row["bridge"]) for row in self._sets),
        )


def _settings(row: Row) -> Row:
    """All but what the database itself says of a row."""
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _exporting(row: Row) -> Exporting:
    sampling = values(row.get("sampling", EMPTY))
    return Exporting(
        values(row["targets"]), sampling[0] if sampling else None, _is_ours(row), WAS in mapping(row["external_ids"])
    )


def _number(row: Mapping[str, Any], column: str, default: int) -> int:
    found = values(row.get(column, EMPTY))
    return int(found[0]) if found else default


def _is_ours(row: Row) -> bool:
    return MARK in mapping(row["external_ids"])


def _same(wish: Row, row: Row) -> bool:
    return all(sorted(map(str, values(value))) == sorted(map(str, values(row[name]))) for name, value in wish.items())


def _comment(text: str) -> Operation:
    """What the database's log says about a transaction."""
    return {"op": "comment", "comment": f"flowagent: {text}"}
