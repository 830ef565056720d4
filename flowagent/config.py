"""The configuration: one YAML file into typed settings, with errors that say where, what and how to mend it.

A kind is its `type`, which is the name of its module: `{type: kafka}` under
`export` is `flowagent/export/kafka.py`. That module is imported only then.
"""

from __future__ import annotations

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
from flowagent.sections import History, Http, Sampling, State, Window, did_you_mean

PACKAGES = {
    "ingest": "flowagent.ingest",
    "enrich": "flowagent.enrich",
    "analyse": "flowagent.aggregate",
    "export": "flowagent.export",
}
"""Where the kinds of a section live."""
SECTIONS = ("window", "sampling", "history", "http", "state")
"""Those that are not lists of kinds."""
_ONLY_ONE = ("counters",)
"""Kinds whose metrics have one name: two would count everything twice."""
_ENV = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


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
    sampling: Sampling
    http: Http
    state: State
    enrich: tuple[Kind, ...] = ()
    history: History = History()


class _File(Settings, frozen=True):
    """The file's top level, before the kinds are looked up."""

    ingest: list[dict[str, Any]] | None = None
    enrich: list[dict[str, Any]] | None = None
    analyse: list[dict[str, Any]] | None = None
    export: list[dict[str, Any]] | None = None
    window: Window | Annotated[int, msgspec.Meta(ge=0, le=0)] = Window()
    sampling: Sampling = Sampling()
    history: History = History()
    http: Http = Http()
    state: State = State()


DEFAULTS: dict[str, list[dict[str, Any]]] = {
    "ingest": [{"type": "udp"}],
    "analyse": [
        {"type": "counters"},
        {
            "type": "policy",
            "name": "default",
            "top": [
                {"of": "src_addr"},
                {"of": "dst_addr"},
                {"of": ["proto", "dst_port"]},
                {"of": ["src_addr", "dst_addr"]},
            ],
            "distinct": ["src_addr", "dst_addr"],
            "quantiles": ["bytes"],
            "rates": ["bytes"],
        },
    ],
    "enrich": [],
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
    file.sampling.check(window)
    kinds = {section: tuple(_kinds(section, getattr(file, section), section + "[{}]")) for section in PACKAGES}
    file.history.check()
    file.http.check()
    if not kinds["ingest"]:
        raise ConfigError("ingest", "is empty; name at least one source, such as {type: udp}")
    return Config(
        window=window, sampling=file.sampling, history=file.history, http=file.http, state=file.state, **kinds
    )


def kind(section: str, entry: dict[str, Any], path: str) -> Kind:
    """One component, from an entry as it would stand in a section; raises ConfigError."""
    if not isinstance(entry, dict):
        raise ConfigError(path, f"is a {type(entry).__name__}; it must be an object of settings")
    return next(_kinds(section, [entry], path))


def _kinds(section: str, entries: list[dict[str, Any]] | None, place: str) -> Iterator[Kind]:
    names: set[str] = set()
    seen: set[str] = set()
    for i, entry in enumerate(DEFAULTS[section] if entries is None else entries):
        path = place.format(i)
        fields = dict(entry)
        type_ = fields.pop("type", None)
        if not isinstance(type_, str):
            raise ConfigError(f"{path}.type", f"is missing; one of: {', '.join(kinds_of(section))}")
        name = fields.pop("name", type_)
        if not isinstance(name, str) or name in names:
            if "name" in entry:
                raise ConfigError(f"{path}.name", f"{name!r} is taken or no text; names must differ within {section}")
            name = next(n for k in range(i + 1, i + 2 + len(names)) if (n := f"{type_}-{k}") not in names)
        names.add(name)
        if type_ in seen and type_ in _ONLY_ONE:
            raise ConfigError(
                f"{path}.type", f"{type_!r} is there already; there can be one only, give it all the labels"
            )
        seen.add(type_)
        settings = _convert(fields, config_class(section, type_, f"{path}.type"), path)
        yield Kind(section, name, type_, settings)


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
        raise ConfigError(path, f"{kind!r} is not a kind; one of: {', '.join(known)}{did_you_mean(kind, known)}")
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
                full, f"is not a setting{did_you_mean(name, known)}; known: {', '.join(known)}"
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
  - {type: policy, name: web, filter: "proto == tcp and dst_port in {80, 443}", top: [{of: dst_addr}], every: 60s}
window: {every: 10s, max_keys: 200000}         # 0 passes every record through
sampling: {budget: 500}                        # rows a second to forward at most; null forwards every row
history: {memory: 64MB, keep: 1h}              # recent flows in memory, for the API and the page
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
    return {
        **out,
        **{name: msgspec.to_builtins(getattr(config, name)) for name in SECTIONS},
    }


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
