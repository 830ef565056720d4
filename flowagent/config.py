"""The configuration: one YAML file into typed settings, with errors that say where, what and how to mend it.

A kind is its `type`, which is the name of its module: `{type: kafka}` under
`export` is `flowagent/export/kafka.py`. That module is imported only then.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import msgspec
import yaml

from flowagent.component import Settings
from flowagent.errors import ConfigError
from flowagent.schema import COLUMNS, FLOW_KEY

PACKAGES = {"ingest": "flowagent.ingest", "analyse": "flowagent.aggregate", "export": "flowagent.export"}
"""Where the kinds of a section live."""
_ONLY_ONE = ("counters",)
"""Kinds whose metrics have one name: two would count everything twice."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 1e-3, "s": 1, None: 1, "m": 60, "h": 3600, "d": 86400}
_ENV = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class Window(Settings, frozen=True):
    """Aggregation of flow records by key; `window: 0` passes every record on as it came."""

    every: str | float = "10s"
    """Length of a window; 0 passes records through."""
    key: tuple[str, ...] = (*FLOW_KEY, "exporter", "observation_domain", "in_if", "out_if", "direction")
    """Columns that make a key."""
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
                raise ConfigError("window.key", f"{name!r} is not a key column{_did_you_mean(name, known)}")
        for name in self.measures:
            if name not in COLUMNS or COLUMNS[name].merge in ("key", "none"):
                known = [c.name for c in COLUMNS.values() if c.merge not in ("key", "none")]
                raise ConfigError("window.measures", f"{name!r} cannot be merged{_did_you_mean(name, known)}")


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


class Kind(NamedTuple):
    """One configured component."""

    section: str
    name: str
    type: str
    settings: Settings


class Config(NamedTuple):
    """The whole configuration, checked."""

    ingest: tuple[Kind, ...]
    analyse: tuple[Kind, ...]
    export: tuple[Kind, ...]
    window: Window
    http: Http
    state: State


class _File(Settings, frozen=True):
    """The file's top level, before the kinds are looked up."""

    ingest: list[dict[str, Any]] | None = None
    analyse: list[dict[str, Any]] | None = None
    export: list[dict[str, Any]] | None = None
    window: Window | Annotated[int, msgspec.Meta(ge=0, le=0)] = Window()
    http: Http = Http()
    state: State = State()


DEFAULTS: dict[str, list[dict[str, Any]]] = {
    "ingest": [{"type": "udp"}],
    "analyse": [{"type": "counters"}],
    "export": [],
}
"""What runs without any configuration."""


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read a file (None: the defaults); raises ConfigError."""
    if path is None:
        return parse({}, environ)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(str(path), f"cannot read the configuration: {reason}") from error
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2024-13-01 is a ValueError
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(where, f"is not YAML: {getattr(error, 'problem', error)}") from error
    return parse({} if raw is None else raw, environ)


def parse(raw: Any, environ: Mapping[str, str] = os.environ) -> Config:
    """Check a configuration that was read already; raises ConfigError."""
    if not isinstance(raw, dict):
        raise ConfigError(
            "", f"the configuration is a {type(raw).__name__}; it must be sections such as ingest: and export:"
        )
    try:
        file = _convert(_expand(raw, "", environ), _File, "")
    except RecursionError as error:
        raise ConfigError("", "the configuration is nested too deeply") from error
    window = file.window if isinstance(file.window, Window) else Window(every=0)
    window.check()
    kinds = {section: tuple(_kinds(section, getattr(file, section))) for section in PACKAGES}
    if file.http.listen is not None:
        parse_listen(file.http.listen, "http.listen")
    if not kinds["ingest"]:
        raise ConfigError("ingest", "is empty; name at least one source, such as {type: udp}")
    return Config(window=window, http=file.http, state=file.state, **kinds)


def _kinds(section: str, entries: list[dict[str, Any]] | None) -> Iterator[Kind]:
    names: set[str] = set()
    seen: set[str] = set()
    for i, entry in enumerate(DEFAULTS[section] if entries is None else entries):
        path = f"{section}[{i}]"
        fields = dict(entry)
        kind = fields.pop("type", None)
        if not isinstance(kind, str):
            raise ConfigError(f"{path}.type", f"is missing; one of: {', '.join(kinds_of(section))}")
        name = fields.pop("name", kind)
        if not isinstance(name, str) or name in names:
            if "name" in entry:
                raise ConfigError(f"{path}.name", f"{name!r} is taken or no text; names must differ within {section}")
            name = next(n for k in range(i + 1, i + 2 + len(names)) if (n := f"{kind}-{k}") not in names)
        names.add(name)
        if kind in seen and kind in _ONLY_ONE:
            raise ConfigError(
                f"{path}.type", f"{kind!r} is there already; there can be one only, give it all the labels"
            )
        seen.add(kind)
        settings = _convert(fields, config_class(section, kind, f"{path}.type"), path)
        yield Kind(section, name, kind, settings)


def kinds_of(section: str) -> list[str]:
    """The types that a section knows, by the names of its modules; nothing is run to find out but the imports."""
    package = importlib.import_module(PACKAGES[section])
    names = [m.name for m in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in names if hasattr(_module(section, name), "Config"))


def _module(section: str, name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"{PACKAGES[section]}.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"{PACKAGES[section]}.{name}":
            return None
        raise


def config_class(section: str, kind: str, path: str) -> type[Settings]:
    """The settings class of a kind; raises ConfigError where there is no such kind or a package is missing."""
    if not kind.isidentifier() or kind.startswith("_"):
        raise ConfigError(path, f"{kind!r} is not a kind; one of: {', '.join(kinds_of(section))}")
    try:
        module = _module(section, kind)
    except ModuleNotFoundError as error:
        raise ConfigError(path, f"{kind!r} needs the package {error.name}; install flowagent[{kind}]") from error
    found: type[Settings] | None = getattr(module, "Config", None)
    if found is None:
        known = kinds_of(section)
        raise ConfigError(path, f"{kind!r} is not a kind; one of: {', '.join(known)}{_did_you_mean(kind, known)}")
    return found


def _convert(value: Any, target: type[Any], path: str) -> Any:
    try:
        return msgspec.convert(value, target)
    except UnicodeEncodeError as error:
        raise ConfigError(path, f"{error.object!r} is not Unicode text") from error
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        where = where.rstrip("`")
        full = (path + where).lstrip(".")
        unknown = re.search(r"unknown field `(.+)`", problem)
        if unknown:
            name = unknown[1]
            known = _fields_at(target, where)
            full = f"{full}.{name}".lstrip(".")
            raise ConfigError(
                full, f"is not a setting{_did_you_mean(name, known)}; known: {', '.join(known)}"
            ) from error
        bad = _value_at(value, where)
        raise ConfigError(full, f"{bad!r} is wrong: {problem[0].lower()}{problem[1:]}") from error


def _fields_at(target: Any, where: str) -> list[str]:
    for part in re.findall(r"\.(\w+)", where):
        names = dict(zip(target.__struct_fields__, msgspec.structs.fields(target), strict=False))
        if part not in names:
            break
        inner = names[part].type
        candidates = [inner, *getattr(inner, "__args__", ())]
        target = next((c for c in candidates if hasattr(c, "__struct_fields__")), target)
    return list(target.__struct_fields__)


def _value_at(value: Any, where: str) -> Any:
    for key, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", where):
        try:
            value = value[key] if key else value[0 if index == "..." else int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _expand(value: Any, path: str, environ: Mapping[str, str]) -> Any:
    """Replace ${NAME} and ${NAME:-default} in texts."""
    if isinstance(value, dict):
        return {k: _expand(v, f"{path}.{k}".lstrip("."), environ) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, f"{path}[{i}]", environ) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = environ.get(name, default)
        if found is None:
            raise ConfigError(
                path, f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            )
        return found

    return _ENV.sub(replace, value)


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


def state_directory(state: State, environ: Mapping[str, str] = os.environ) -> Path:
    """Where state is kept."""
    if state.path is not None:
        return Path(state.path)
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "flowagent"


EXAMPLE = """\
# Everything here may be left out; `flowagent run` works without a configuration.
ingest:
  - {type: udp, listen: ["[::]:2055", "[::]:4739", "[::]:6343"], receive_buffer: 67108864}
    # sampling_rates: {"192.0.2.0/24": 1000}   # for exporters that do not say theirs
analyse:
  - {type: counters, labels: [exporter, proto], max_series: 1000}
window: {every: 10s, max_keys: 200000}         # 0 passes every record through
export:
  - {type: file, path: "flows-%Y%m%dT%H%M%S.ndjson.zst", rotate_every: 10m, keep: 144}
http: {listen: "127.0.0.1:8077"}
"""


def plain(config: Config) -> dict[str, Any]:
    """The configuration as plain data, every default filled in."""
    out: dict[str, Any] = {}
    for section in PACKAGES:
        kinds: tuple[Kind, ...] = getattr(config, section)
        out[section] = [{"type": k.type, "name": k.name, **msgspec.to_builtins(k.settings)} for k in kinds]
    return {**out, **{name: msgspec.to_builtins(getattr(config, name)) for name in ("window", "http", "state")}}


def json_schema() -> dict[str, Any]:
    """JSON schema of the file, for editors and checks."""
    schema = msgspec.json.schema(_File)
    for section in PACKAGES:
        choices = []
        for kind in kinds_of(section):
            settings = msgspec.json.schema(config_class(section, kind, section))
            one = settings["$defs"][settings["$ref"].rpartition("/")[2]]
            one["properties"] = {"type": {"const": kind}, "name": {"type": "string"}, **one["properties"]}
            one["required"] = ["type", *one.get("required", [])]
            choices.append(one)
        schema["$defs"]["_File"]["properties"][section] = {"type": "array", "items": {"oneOf": choices}}
    return schema
