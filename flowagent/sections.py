"""The sections of the configuration that are not lists of kinds, and how texts in it become numbers."""

from __future__ import annotations

import difflib
import math
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from flowagent.component import Settings
from flowagent.errors import ConfigError
from flowagent.filters import Filter, parse_filter
from flowagent.schema import COLUMNS, FLOW_KEY

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 1e-3, "s": 1, None: 1, "m": 60, "h": 3600, "d": 86400}
KEY = (*FLOW_KEY, "exporter", "export_protocol", "observation_domain", "in_if", "out_if", "direction")
Objective = Literal["bytes", "packets", "flows"]
"""What a sample can be drawn to tell the totals of."""


class Window(Settings, frozen=True):
    """Aggregation of flow records by key; `window: 0` passes every record on as it came."""

    every: str | float = "10s"
    """Length of a window; 0 passes records through."""
    key: tuple[str, ...] = KEY
    """Columns that make a key. With the default, so do the names that rows of other agents bring."""
    measures: tuple[str, ...] = ("bytes", "packets", "records", "start_ns", "end_ns", "received_ns", "tcp_flags")
    """Columns that are merged, each by its own rule."""
    max_keys: Annotated[int, msgspec.Meta(ge=1024)] = 200_000
    """Keys held in memory; a window with more is written out early, in parts."""

    @property
    def seconds(self) -> float:
        """Length in seconds, 0 for pass-through."""
        return parse_duration(self.every, "window.every")

    def check(self) -> None:
        """Raise ConfigError where a column cannot play its part."""
        if 0 < self.seconds < 1:
            raise ConfigError("window.every", f"{self.every!r} is too short; at least 1s, or 0 for no window")
        for name in self.key:
            if name not in COLUMNS or COLUMNS[name].merge != "key":
                known = [c.name for c in COLUMNS.values() if c.merge == "key"]
                raise ConfigError("window.key", f"{name!r} is not a key column{did_you_mean(name, known)}")
        for name in self.measures:
            if name not in COLUMNS or COLUMNS[name].merge in ("key", "none"):
                known = [c.name for c in COLUMNS.values() if c.merge not in ("key", "none")]
                raise ConfigError("window.measures", f"{name!r} cannot be merged{did_you_mean(name, known)}")


class Sampling(Settings, frozen=True):
    """Which rows are forwarded; counters and policies see all records. Rows tell `weight` and `inclusion_prob`."""

    budget: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    """Rows a second to forward at most, over each window; null forwards every row."""
    method: Literal["threshold", "priority", "systematic", "uniform", "hash"] = "threshold"
    """How rows are chosen; see docs/sampling.md."""
    objectives: dict[Objective, Annotated[float, msgspec.Meta(ge=0)]] = msgspec.field(
        default_factory=lambda: {"bytes": 0.5, "packets": 0.25, "flows": 0.25}
    )
    """What totals should be exact of, and the share of the budget that each gets."""
    by: tuple[str, ...] = ()
    """Columns whose values have guaranteed shares of the budget, such as [exporter]."""
    guarantee: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Part of the budget that is divided evenly among the values of `by`."""
    keep: tuple[str, ...] = ()
    """Filters; rows that match any are kept for certain while they fit into half of the budget, or what is left."""
    keep_new_peers: str | float = 0
    """Keep the rows of two addresses that did not talk to each other for this long (1h); 0 for no such rule."""
    fraction: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    """Part of the flows that `method: hash` chooses."""
    rotate: bool = True
    """Choose anew in each window; false always chooses the same flows, so that errors do not average out."""
    coin: tuple[str, ...] = FLOW_KEY
    """Columns that decide by their hash whether a row is kept; agents decide alike about equal ones."""
    secret_file: str | None = None
    """File with a secret that all agents share; without one, the choice can be foreseen by who makes traffic."""
    overload: bool = True
    """When records come faster than they are processed, sample them before the window instead of losing them."""

    @property
    def new_peer_seconds(self) -> float:
        """Seconds after which a pair of addresses is new again; 0 for no such rule."""
        return parse_duration(self.keep_new_peers, "sampling.keep_new_peers")

    def rules(self) -> list[Filter]:
        """The compiled `keep`."""
        return [parse_filter(text, f"sampling.keep[{i}]") for i, text in enumerate(self.keep)]

    def secret(self) -> bytes:
        """What `secret_file` holds; empty without one."""
        if self.secret_file is None:
            return b""
        try:
            return Path(self.secret_file).read_bytes().strip()
        except OSError as error:
            raise ConfigError("sampling.secret_file", f"cannot read {self.secret_file}: {error.strerror}") from error

    def check(self, window: Window) -> None:
        """Raise ConfigError where a setting cannot do its work on this window's rows."""
        if not self.objectives.get("flows"):
            raise ConfigError("sampling.objectives.flows", "must be above 0, so that every flow has a chance")
        there = frozenset((*window.key, *window.measures, "records", "sampling_rate", "sampling_source"))
        for name in ("by", "coin"):
            for column in getattr(self, name):
                if column not in COLUMNS or COLUMNS[column].merge != "key":
                    known = [c.name for c in COLUMNS.values() if c.merge == "key"]
                    raise ConfigError(
                        f"sampling.{name}", f"{column!r} is not a key column{did_you_mean(column, known)}"
                    )
        if not self.coin:
            raise ConfigError("sampling.coin", "is empty; name columns such as src_addr")
        if not window.seconds:
            there = there | COLUMNS.keys()
        for i, rule in enumerate(self.rules()):
            for column in sorted(rule.columns - there):
                raise ConfigError(f"sampling.keep[{i}]", f"{column!r} is not in the window; add it to window.key")
        for column in sorted(frozenset(self.by) - there):
            raise ConfigError("sampling.by", f"{column!r} is not in the window; add it to window.key")
        _ = self.new_peer_seconds


class Dedup(Settings, frozen=True):
    """Flows that several tell of, counted once; see docs/dedup.md."""

    nodes: Literal["both", "source", "destination"] = "both"
    """Whose report counts of a flow between two nodes of a cluster; needs an agent on each, and names of both ends."""
    points: tuple[str, ...] = ()
    """Columns that tell observation points apart, such as [exporter, direction]; a flow counts at the first of them."""
    idle: str | float = "10m"
    """After so long without a report of the first, another may count; more than the active timeout of exporters."""
    max_flows: Annotated[int, msgspec.Meta(ge=1024, le=10_000_000)] = 100_000
    """Flows whose observation point is remembered, 100 to 200 bytes each."""

    @property
    def idle_seconds(self) -> float:
        """Seconds until another point may count."""
        return parse_duration(self.idle, "dedup.idle")

    def check(self) -> None:
        """Raise ConfigError where a column cannot tell points apart."""
        for i, name in enumerate(self.points):
            if name not in COLUMNS or COLUMNS[name].merge != "key":
                known = [c.name for c in COLUMNS.values() if c.merge == "key"]
                raise ConfigError(f"dedup.points[{i}]", f"{name!r} is not a key column{did_you_mean(name, known)}")
        if self.idle_seconds <= 0:
            raise ConfigError("dedup.idle", "is 0; write how long a point may be silent, such as 10m")


class History(Settings, frozen=True):
    """Recent flows in memory, for the API's questions and charts: weighted samples, so that every number has an error.

    Steps are made longer as they age, six times and more: the first 60 of each length stay as they are.
    """

    memory: str | int = "64MB"
    """How much it may take; what is oldest goes first. 0 for no history."""
    keep: str | float = "1h"
    """How far it goes back, as far as the memory suffices."""
    step: str | float = "10s"
    """Length of the finest steps; no less than a window."""
    rows: Annotated[int, msgspec.Meta(ge=64, le=1_000_000)] = 4096
    """Rows of each step. With 4096 a share of 1 % of 5 minutes is exact to 8 % (95 %), whatever else there is."""

    @property
    def bytes(self) -> int:
        """Memory in bytes; 0 for no history."""
        return parse_size(self.memory, "history.memory")

    @property
    def keep_seconds(self) -> float:
        """How far it goes back, in seconds."""
        return parse_duration(self.keep, "history.keep")

    def step_seconds(self, window: Window) -> float:
        """Length of the finest steps: whole windows."""
        step, every = parse_duration(self.step, "history.step"), window.seconds or 1.0
        return every * math.ceil(max(step, every) / every - 1e-9)

    def check(self) -> None:
        """Raise ConfigError where a setting cannot do its work."""
        _ = self.bytes
        if parse_duration(self.step, "history.step") < 1:
            raise ConfigError("history.step", f"{self.step!r} is too short; at least 1s")
        if not self.keep_seconds:
            raise ConfigError("history.keep", f"{self.keep!r} keeps nothing; memory: 0 is for no history")


class Tls(Settings, frozen=True):
    """Certificate and key for HTTPS."""

    cert: str
    key: str


class Http(Settings, frozen=True):
    """The HTTP server: metrics, health and API."""

    listen: str | None = "127.0.0.1:8077"
    """Address to serve on; null for no server."""
    token_file: str | None = None
    """File with the bearer token that /metrics and all below /api/ ask for."""
    tls: Tls | None = None
    """`{cert: FILE, key: FILE}` to serve HTTPS."""
    open: bool = False
    """Let everybody read who reaches the port, on an address other than the loopback with neither token nor TLS."""

    def check(self) -> None:
        """Raise ConfigError where the address is none, or open to others without a word."""
        if self.listen is None:
            return
        host, _ = parse_listen(self.listen, "http.listen")
        if not (is_loopback(host) or self.token_file or self.tls or self.open):
            raise ConfigError(
                "http.listen",
                f"{self.listen!r} can be reached by others, who would see all traffic; set http.token_file (or "
                "http.tls), or http.open: true where nobody can reach it who should not, or listen on 127.0.0.1",
            )


class State(Settings, frozen=True):
    """What survives a restart: templates and sampling rates."""

    path: str | None = None
    """Directory; default: $STATE_DIRECTORY, else $XDG_STATE_HOME/flowagent, else ~/.local/state/flowagent."""


def did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def parse_listen(text: str, path: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` into both parts."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 <= int(port) <= 65535:
        raise ConfigError(
            path, f"{text!r} is not an address to listen on; write host:port, such as 127.0.0.1:8077 or [::]:4739"
        )
    return host or "::", int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_duration(value: str | float, path: str) -> float:
    """Seconds from a number or a text such as 10s, 500ms, 5m, 1h."""
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ConfigError(path, f"{value!r} is not a duration; write a number of seconds, or 500ms, 10s, 5m, 1h")
        seconds = float(match[1]) * _UNITS[match[2]]
    if not 0 <= seconds <= 86400 * 366:
        raise ConfigError(path, f"{value!r} is out of range; durations are between 0 and a year")
    return seconds


def parse_size(value: str | int, path: str) -> int:
    """Bytes from a number or a text such as 64MB, 256MiB."""
    if isinstance(value, int) and value >= 0:
        return value
    match = re.fullmatch(r"(\d{1,18})\s*([kMGT]?)(i?)B?", str(value).strip())
    if match is None:
        raise ConfigError(path, f"{value!r} is not a size; write bytes, or 500kB, 64MiB, 1GB")
    power = " kMGT".index(match[2] or " ")
    return int(match[1]) * int((1024 if match[3] else 1000) ** power)
