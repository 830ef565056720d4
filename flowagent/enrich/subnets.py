"""Enricher `subnets`: what the networks of source and destination are called, by the longest prefix that fits."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import NamedTuple, Self

import msgspec

from flowagent.batch import Batch
from flowagent.component import Context, Settings
from flowagent.enrich.followed import Followed
from flowagent.enrich.keeping import keep_names
from flowagent.enrich.prefixes import Prefix, PrefixTable, parse_prefix
from flowagent.enrich.table import text_column
from flowagent.errors import ConfigError
from flowagent.metrics import Family
from flowagent.sections import parse_duration

MAX_PREFIXES, MAX_BYTES = 500_000, 64 << 20
PRIVATE = (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10",
)  # fmt: skip
"""Addresses that are no one's in the internet: RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291."""
_SIDES = {"src_subnet_label": "src_addr", "dst_subnet_label": "dst_addr"}
Labels = dict[Prefix, str]


class Config(Settings, frozen=True):
    """Label addresses by the network they are in."""

    labels: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Prefixes (or addresses) by their label; the longest prefix that an address lies in counts."""
    file: str | None = None
    """File of more of them: YAML like `labels`, or CSV with lines `prefix,label`; `labels` counts before it."""
    every: str | float = "10s"
    """How often to look whether the file changed."""
    private: str | None = None
    """Label for private addresses (RFC 1918, RFC 4193, link-local and so on) that no other prefix holds."""

    def build(self, ctx: Context) -> Subnets:
        return Subnets(self, ctx)


class _Labelled(NamedTuple):
    prefixes: PrefixTable
    labels: tuple[str, ...]
    """By the values of the prefixes."""


class Subnets:
    """Labels by the settings and, if there is one, the file."""

    needs = frozenset(_SIDES.values())
    adds = frozenset(_SIDES)

    def __init__(self, config: Config, ctx: Context) -> None:
        """Raises ConfigError."""
        self._name = ctx.name
        self._every = parse_duration(config.every, f"{ctx.name}.every")
        if self._every <= 0:
            raise ConfigError(f"{ctx.name}.every", "is 0; write how often to look at the file, such as 10s")
        self._own = _own_labels(config.labels, f"{ctx.name}.labels")
        self._private = dict.fromkeys(map(parse_prefix, PRIVATE), config.private) if config.private else {}
        if not self._own and not self._private and config.file is None:
            problem = "is empty and there is no file; write prefixes by label, such as {office: [192.0.2.0/24]}"
            raise ConfigError(f"{ctx.name}.labels", problem)
        self._file: Followed[_Labelled] | None = None
        if config.file is not None:
            self._file = self._followed(config.file, f"{ctx.name}.file", ctx)
        self._take(self._made({}))

    def _followed(self, path: str, setting: str, ctx: Context) -> Followed[_Labelled]:
        read = _READERS.get(PurePath(path).suffix.lower())
        if read is None:
            raise ConfigError(setting, f"{path!r} is of no known format; its name must end in {', '.join(_READERS)}")
        return Followed(path, lambda data: self._made(read(data)), setting, ctx, MAX_BYTES)

    def _made(self, more: Labels) -> _Labelled:
        """The table of these labels and those of the settings, which count before them."""
        prefixes = {**self._private, **more, **self._own}
        labels = tuple(dict.fromkeys(prefixes.values()))
        entities = {label: entity for entity, label in enumerate(labels)}
        table = PrefixTable((prefix, entities[label]) for prefix, label in prefixes.items())
        return _Labelled(table, labels)

    def _take(self, made: _Labelled) -> None:
        self._table = made.prefixes, text_column(made.labels)

    async def __aenter__(self) -> Self:
        if self._file is not None:
            self._take(await self._file.open())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_names(lambda: [self._table[1]]), name=f"{self._name} names")
            group.create_task(self._follow(), name=f"{self._name} file")

    async def _follow(self) -> None:
        while self._file is not None:
            await asyncio.sleep(self._every)
            if (made := await self._file.changed()) is not None:
                self._take(made)

    def ready(self) -> str | None:
        return None

    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        """See `Enricher`."""
        prefixes, labels = self._table
        added = {
            name: labels.take(prefixes.find(batch[side]), mode="wrap")
            for name, side in _SIDES.items()
            if name in wanted and name not in batch and side in batch
        }
        return batch.with_columns(added) if added else batch

    def families(self) -> Iterable[Family]:
        yield Family("flowagent_subnets_prefixes", "gauge", "Prefixes that have a label.", (),
                     {(): len(self._table[0])})  # fmt: skip
        if self._file is not None:
            yield from self._file.families()


def _own_labels(labels: Mapping[str, Iterable[str]], path: str) -> Labels:
    """Of the settings; raises ConfigError."""
    found: Labels = {}
    for label, prefixes in labels.items():
        for i, text in enumerate(prefixes):
            try:
                _add(found, text, label)
            except ValueError as error:
                raise ConfigError(f"{path}.{label}[{i}]", str(error)) from error
    return found


def _add(labels: Labels, text: str, label: str) -> None:
    prefix = parse_prefix(text.strip())
    if not label.strip():
        raise ValueError(f"{text} has an empty label; leave the prefix out instead")
    if labels.setdefault(prefix, label.strip()) != label.strip():
        raise ValueError(f"{text} has the label {labels[prefix]!r} already; a prefix has one label")
    if len(labels) > MAX_PREFIXES:
        raise ValueError(f"there are more than {MAX_PREFIXES} prefixes; leave some out")


def _read_yaml(data: bytes) -> Labels:
    """Raises ValueError."""
    found: Labels = {}
    try:
        labels = msgspec.yaml.decode(data, type=dict[str, list[str]])
    except Exception as error:  # a tag such as !!bool before other text is a KeyError, !!int before none an IndexError
        raise ValueError(f"{error}; write prefixes by label, such as `office: [192.0.2.0/24]`") from error
    for label, prefixes in labels.items():
        for text in prefixes:
            try:
                _add(found, text, label)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
    return found


def _read_csv(data: bytes) -> Labels:
    """Raises ValueError. Empty lines, lines that begin with # and a heading `prefix,label` are passed over."""
    found: Labels = {}
    lines = csv.reader(data.decode("utf-8-sig").splitlines())
    try:
        for fields in lines:
            if not fields or fields[0].startswith("#") or (lines.line_num == 1 and fields[0] == "prefix"):
                continue
            if len(fields) != 2:
                raise ValueError(f"has {len(fields)} fields; write prefix,label")
            _add(found, *fields)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"line {lines.line_num}: {error}") from error
    return found


_READERS: dict[str, Callable[[bytes], Labels]] = {".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv}
