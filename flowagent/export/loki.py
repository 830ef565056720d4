"""Sink `loki`: rows as log lines, in streams by a few labels, to Loki or what speaks its push API.

Labels are NetObserv's by default, so that its console finds the flows; fields
that make labels are not in the line again. A line's time is the flow's end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple, Self

import msgspec
import numpy as np

from flowagent.batch import Array, Batch
from flowagent.component import Context
from flowagent.errors import ConfigError, Rejected
from flowagent.export import encode, netobserv
from flowagent.export.lines import json_lines
from flowagent.export.parts import Parts
from flowagent.export.post import TOO_LARGE, TOO_LONG, TOO_OLD, Poster, Posting
from flowagent.export.push import FORMATS
from flowagent.export.schemas import fields_of
from flowagent.export.streams import Streams, group_values, spread, taken, texts
from flowagent.export.value import Value
from flowagent.metrics import Family
from flowagent.sections import did_you_mean, parse_size

PATH = "/loki/api/v1/push"
_TIMES = ("end_ns", "received_ns")
"""What a line's time is; the first that is known."""
_OLD = re.compile(r"too far behind|out of order|too old", re.IGNORECASE)
_LONG = re.compile(r"max entry size|(entry|line) (is )?too (large|long)", re.IGNORECASE)
_LARGE = re.compile(r"larger than max|(body|message|payload|request)[a-z ]* too (large|big)", re.IGNORECASE)


class Config(Posting, frozen=True, kw_only=True):
    """Push rows to Loki."""

    format: Literal["protobuf", "json"] = "protobuf"
    """`protobuf` is compressed with Snappy, `json` with gzip."""
    schema: Literal["netobserv", "canonical"] = "netobserv"
    """Names and values in lines and labels."""
    labels: tuple[str, ...] | None = None
    """Fields that make a stream, where there are any; default: NetObserv's, none with `schema: canonical`."""
    static_labels: dict[str, str] = msgspec.field(default_factory=lambda: dict(netobserv.STATIC_LOKI_LABELS))
    """Labels of every stream; one at least."""
    structured_metadata: tuple[str, ...] = ()
    """Fields that go beside the line instead of into it (Loki 3)."""
    max_streams: Annotated[int, msgspec.Meta(ge=1, le=50_000)] = 1000
    """Label sets that are alive at a time; those beyond share one stream, with their fields in the line."""
    tenant: str | None = None
    """Value of X-Scope-OrgID."""
    max_line_bytes: str | int = "256kB"
    """Longer lines are dropped, and counted."""
    max_push_bytes: str | int = "2MB"
    """Bytes of a request before compression at most; fewer where the server refuses that as too large."""

    def build(self, ctx: Context) -> LokiSink:
        return LokiSink(self, ctx)

    def label_names(self, path: str) -> dict[str, str]:
        """Fields, and the labels that they make; raises ConfigError."""
        fields = self.labels
        if fields is None:
            fields = netobserv.LOKI_LABELS if self.schema == "netobserv" else ()
        self._check_static(f"{path}.static_labels")
        self._check_fields(f"{path}.labels", fields)
        self._check_fields(f"{path}.structured_metadata", self.structured_metadata)
        names = {field: label_name(field) for field in fields}
        for field, name in names.items():
            if name in self.static_labels or list(names.values()).count(name) > 1:
                raise ConfigError(f"{path}.labels", f"the label {name} is there twice; leave out {field!r}")
            if field in self.structured_metadata:
                raise ConfigError(f"{path}.structured_metadata", f"{field!r} is a label already; leave it out here")
        return names

    def _check_static(self, path: str) -> None:
        if not self.static_labels:
            raise ConfigError(path, "is empty; a stream has one label at least, such as app: flows")
        for name in self.static_labels:
            if label_name(name) != name:
                raise ConfigError(path, f"{name!r} is no label; {label_name(name)} would be one")

    def _check_fields(self, path: str, fields: Iterable[str]) -> None:
        known = list(netobserv.FIELDS)
        for field in fields:
            if self.schema == "netobserv" and field not in known:
                raise ConfigError(path, f"{field!r} is not a field{did_you_mean(field, known)}")


def label_name(field: str) -> str:
    """The field's name with `_` for what a label cannot have."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", field)
    return f"_{name}" if name[:1].isdigit() else name or "_"


def judge(status: int, text: str) -> str | None:
    """The reason of a refusal for good, by the words of Loki's answer; None where the status says it all."""
    if status in (400, 500) and _LARGE.search(text):
        return TOO_LARGE  # 500 where the limit is one between Loki's parts
    if status == 400 and _OLD.search(text):
        return TOO_OLD
    return TOO_LONG if status == 400 and _LONG.search(text) else None


class _Rows(NamedTuple):
    """What is pushed of a batch."""

    entries: list[bytes]
    of_row: Array
    """(n,): the number of the stream of each."""
    streams: Sequence[bytes]


class LokiSink:
    """Pushes rows in order of time."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self._ctx = ctx
        self._format = FORMATS[config.format]
        self._columns, self._read = fields_of(config.schema)
        names = config.label_names(ctx.name)
        self._outside = frozenset((*names, *config.structured_metadata))
        self._metadata = config.structured_metadata
        self._max_line = parse_size(config.max_line_bytes, f"{ctx.name}.max_line_bytes")
        self._headers = dict(self._format.headers)
        if config.tenant is not None:
            self._headers["X-Scope-OrgID"] = config.tenant
        self._poster = Poster(config, ctx, PATH, judge)
        self._parts = Parts(ctx, parse_size(config.max_push_bytes, f"{ctx.name}.max_push_bytes"), self._push)
        self._streams = Streams(names, config.static_labels, config.max_streams, self._format.stream)

    async def __aenter__(self) -> Self:
        await self._poster.__aenter__()
        self._ctx.metrics.add(self._families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._families)
        await self._poster.__aexit__(*exc)

    def columns(self) -> frozenset[str] | None:
        return None if self._columns is None else self._columns | set(_TIMES)

    async def write(self, batch: Batch) -> int:
        rows = self._rows(*in_order(batch, self._ctx.clock.now_ns()))
        if len(batch) and not rows.entries:
            raise Rejected(TOO_LONG, f"lines of more than {self._max_line} bytes")
        return await self._parts.send(len(rows.entries), partial(self._body, rows))

    async def _push(self, body: bytes) -> None:
        await self._poster.post(self._format.compress(body), self._headers)

    def _rows(self, times: Array, batch: Batch) -> _Rows:
        entries: list[bytes] = []
        of_row = [np.zeros(0, np.intp)]
        numbers: dict[bytes, int] = {}
        start = 0
        for part in encode.parts(batch):
            fields = self._read(part)
            assigned = self._streams.assign(fields, len(part), self._ctx.clock.now_ns(), numbers)
            lines = self._lines(fields, assigned.folded)
            pairs = self._pairs(fields, len(part))
            fits = np.fromiter(map(len, lines), np.int64, len(lines)) <= self._max_line
            found = self._format.entries(times[start : start + len(part)], lines, pairs)
            if not bool(fits.all()):
                self._parts.count(TOO_LONG, len(part) - int(np.count_nonzero(fits)))
                found = [found[row] for row in np.flatnonzero(fits).tolist()]
            entries += found
            of_row.append(assigned.of_row[fits])
            start += len(part)
        return _Rows(entries, np.concatenate(of_row), list(numbers))

    def _lines(self, fields: Mapping[str, Value], folded: Array) -> list[bytes]:
        """A line a row; those of folded rows have the fields of their labels, too."""
        if not bool(folded.any()):
            return _json(fields, self._outside, len(folded))
        lines = [b""] * len(folded)
        for mask, without in ((~folded, self._outside), (folded, self._metadata)):
            rows = np.flatnonzero(mask)
            some = {name: taken(value, rows) for name, value in fields.items()}
            for row, line in zip(rows.tolist(), _json(some, without, len(rows)), strict=True):
                lines[row] = line
        return lines

    def _pairs(self, fields: Mapping[str, Value], rows: int) -> Sequence[Sequence[bytes]]:
        """Structured metadata of each row; nothing where none was asked for. Each distinct value is written once."""
        columns = []
        for name in self._metadata:
            if name in fields:
                groups = group_values([fields[name]], rows)
                pairs = np.empty(len(groups.starts), object)
                pairs[:] = [
                    self._format.pair(label_name(name), text) if text else b""
                    for text in texts(taken(fields[name], groups.first))
                ]
                columns.append(spread(groups, pairs).tolist())
        return [list(filter(None, row)) for row in zip(*columns, strict=True)]

    def _body(self, rows: _Rows, start: int, stop: int) -> bytes:
        """A request with some of the rows, which keep their order within each stream."""
        of_row = rows.of_row[start:stop].astype(np.uint16)
        order = np.argsort(of_row, kind="stable")  # of 16-bit numbers: a radix sort
        entries = [rows.entries[start + row] for row in order.tolist()]
        sizes = np.bincount(of_row, minlength=len(rows.streams))
        ends = np.cumsum(sizes).tolist()
        return self._format.body(
            (rows.streams[number], entries[ends[number] - sizes[number] : ends[number]])
            for number in np.flatnonzero(sizes).tolist()
        )

    def _families(self) -> Iterable[Family]:
        yield from self._parts.families()
        yield from self._streams.families(self._ctx.name)


def in_order(batch: Batch, now_ns: int) -> tuple[Array, Batch]:
    """Rows in order of time, behind their times (n,) int64: of their end, else of arrival, else now."""
    times: Array = np.full(len(batch), now_ns)
    for name in reversed(_TIMES):
        if name in batch:
            times = np.where(batch.is_known(name), batch[name], times)
    if bool((times[1:] >= times[:-1]).all()):
        return times, batch
    order = np.argsort(times)
    return times[order], batch.take(order)


def _json(fields: Mapping[str, Value], without: Iterable[str], rows: int) -> list[bytes]:
    left = [(name, value) for name, value in fields.items() if name not in without]
    return bytes(json_lines(left, rows)).split(b"\n")[:-1]
