"""The sections of the configuration that are not lists of kinds, and how texts in it become numbers."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from flowagent.component import Settings
from flowagent.errors import ConfigError
from flowagent.filters import Filter, parse_filter
from flowagent.schema import COLUMNS, FLOW_KEY

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 1e-3, "s": 1, None: 1, "m": 60, "h": 3600, "d": 86400}
KEY = (*FLOW_KEY, "exporter", "observation_domain", "in_if", "out_if", "direction")
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


class Tls(Settings, frozen=True):
    """Certificate and key for HTTPS."""

    cert: str
    key: str


class Http(Settings, frozen=True):
    """The HTTP server: metrics, health and API."""

    listen: str | None = "127.0.0.1:8077"
    """Address to serve on; null for no server."""
    token_file: str | None = None
    """File with the bearer token that all but /healthz and /readyz ask for."""
    tls: Tls | None = None
    """`{cert: FILE, key: FILE}` to serve HTTPS."""


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
