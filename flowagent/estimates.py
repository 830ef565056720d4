"""`flowagent estimate`: totals with intervals, for any groups, from rows that were forwarded and maybe sampled.

    files -> ingest/ndjson, ingest/parquet -> filter -> tallies by group, merged -> estimates -> table, JSON or CSV

Memory is bounded by the number of groups, not of rows.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO, cast

import msgspec
import numpy as np

from flowagent.batch import Batch
from flowagent.elements import column_kind
from flowagent.errors import ConfigError
from flowagent.export.encode import plain_values
from flowagent.filters import Filter, parse_filter
from flowagent.grouping import key_arrays
from flowagent.ingest import ndjson, parquet
from flowagent.literals import EITHER, WrongError, read_operand
from flowagent.sampling.estimate import Estimates, Tally, estimates, merge, tallies
from flowagent.scale import rates
from flowagent.schema import COLUMNS, SAMPLING_SOURCES
from flowagent.sections import did_you_mean

Format = Literal["table", "json", "csv"]
MEASURES = (*(c.name for c in COLUMNS.values() if c.merge == "sum"), "flows")
"""What there are totals of; `flows` counts rows."""
_SAMPLING = ("sampling_rate", "sampling_source", "inclusion_prob")
_PRESCALED = SAMPLING_SOURCES.index("prescaled")
_MERGE_ABOVE = 65536
"""Groups that are worth a merge."""
_FAR_OFF = 10
"""Times its total that half of an interval may be wide; how much more it is says nothing."""
_TOLD = 10
"""Problems of a file that are told; more are only counted."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked; `where` None takes every row, `top` 0 shows every group."""

    by: tuple[str, ...] = ()
    measure: str = "bytes"
    where: Filter | None = None
    top: int = 20
    confidence: float = 0.95

    @classmethod
    def parse(cls, by: str, measure: str, where: str | None, top: int, confidence: float) -> Query:
        """From the texts of the command line; raises ConfigError."""
        names = tuple(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
        for name in names:
            if name in EITHER:
                raise ConfigError("--by", f"{name!r} stands for {' and '.join(EITHER[name])}; name one or both")
            try:
                read_operand(name, 0)
            except WrongError as wrong:
                raise ConfigError("--by", wrong.what) from None
        if measure not in MEASURES:
            close = did_you_mean(measure, list(MEASURES))
            raise ConfigError("--measure", f"{measure!r} is none{close}; one of: {', '.join(MEASURES)}")
        if top < 0:
            raise ConfigError("--top", f"{top} is negative; write how many groups to show, 0 for all")
        if not 0 < confidence < 1:
            raise ConfigError("--confidence", f"{confidence} is no probability; write one such as 0.95")
        return cls(names, measure, None if where is None else parse_filter(where, "--where"), top, confidence)

    @property
    def columns(self) -> list[str]:
        """The columns that are needed to answer it."""
        measures = {"flows": (), "bytes": ("bytes", "packets")}.get(self.measure, (self.measure,))
        where = () if self.where is None else sorted(self.where.columns)
        return list(dict.fromkeys((*self.by, *measures, *_SAMPLING, *where)))


class Answer(NamedTuple):
    """Groups by falling total: their keys, one row each, and estimates, the last two being of all others and of all."""

    query: Query
    keys: Batch
    estimates: Estimates
    others: int
    """Groups that the one before the last stands for."""
    notes: list[str]
    """What limits how far the estimates can be trusted."""


class Totals:
    """Add rows in any number of batches, then ask for the answer."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._parts: list[tuple[Batch, Tally]] = []
        self._merged = self._held = 0
        self._unknown = self._prescaled = self._sampled = 0

    def add(self, batch: Batch) -> None:
        """Take rows in."""
        q = self._query
        if q.where is not None:
            batch = batch.take(q.where(batch))
        if not len(batch):
            return
        self._look_at_rates(batch)
        part = tallies(batch, q.measure, q.by)
        self._parts.append(part)
        self._held += len(part[0])
        if self._held > 2 * self._merged + _MERGE_ABOVE:
            self._parts = [merge(self._parts, q.by)]
            self._merged = self._held = len(self._parts[0][0])

    def _look_at_rates(self, batch: Batch) -> None:
        known = batch.is_known("sampling_rate")
        prescaled = ~known & batch.is_known("sampling_source")
        if "sampling_source" in batch:
            prescaled &= batch["sampling_source"] == _PRESCALED
        self._prescaled += int(np.count_nonzero(prescaled))
        self._unknown += int(np.count_nonzero(~known & ~prescaled))
        self._sampled += int(np.count_nonzero(np.broadcast_to(rates(batch), (len(batch),)) > 1))

    def answer(self) -> Answer:
        """What the rows so far add up to."""
        q = self._query
        keys, tally = merge(self._parts, q.by) if self._parts else (Batch({}), _no_tally(0))
        # Ties are broken by key, so that the same rows give the same answer.
        order = np.lexsort([*reversed(list(key_arrays(keys, [n for n in q.by if n in keys]))), -tally.total])
        ranked = Tally(*(column[order] for column in tally))
        shown = (min(q.top, len(order)) if q.top else len(order)) if q.by else 0
        parts = [Tally(*(c[:shown] for c in ranked)), _summed(Tally(*(c[shown:] for c in ranked))), _summed(ranked)]
        # All at once, for what is not seen in one may be as heavy as the heaviest in another.
        together = Tally(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        found = estimates(together, q.confidence)
        return Answer(q, keys.take(order[:shown]), found, len(order) - shown, list(self._notes()))

    def _notes(self) -> Iterator[str]:
        if self._query.measure not in ("bytes", "packets"):
            if self._sampled:
                yield f"{self._sampled:,} rows come from sampled packets: flows of which none was sampled are not here"
            return
        if self._unknown:
            yield f"{self._unknown:,} rows have an unknown sampling rate, which counts as 1: totals may be too low"
        if self._prescaled:
            yield f"{self._prescaled:,} rows were scaled by their exporter: intervals leave out what its sampling adds"
        if self._sampled:
            yield f"{self._sampled:,} rows come from sampled packets: the part that this has in intervals is a bound"


def _no_tally(groups: int) -> Tally:
    return Tally(*(np.zeros(groups) for _ in Tally._fields))


def _summed(tally: Tally) -> Tally:
    """All groups as one; there may be none."""
    n = len(tally.total)
    return merge([(Batch({}, n), tally)], ())[1] if n else _no_tally(1)


class Problems:
    """What could not be read: the first of each file are told, all are counted."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._here = self.count = 0

    def __call__(self, what: str) -> None:
        self.count += 1
        self._here += 1
        if self._here <= _TOLD:
            self._tell(what)

    def end_of(self, name: str) -> None:
        """What is told from now on is about another file."""
        if self._here > _TOLD:
            self._tell(f"{name}: {self._here - _TOLD} more errors like these")
        self._here = 0


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of the files as they are stored, 0 for a pipe; raises ConfigError for one that is not there."""
    total = 0
    for path in paths:
        try:
            total += 0 if str(path) == "-" else path.stat().st_size
        except OSError as error:
            raise _unreadable(path, error) from error
    return total


def read(
    paths: Iterable[Path], query: Query, problems: Problems, progress: Callable[[int], None] | None = None
) -> Answer:
    """The answer from all rows of these files, `-` being stdin; raises ConfigError for one that cannot be read.

    `progress` is told how many bytes of the files were read.
    """
    totals, before = Totals(query), 0
    for path in paths:
        try:
            with _open(path) as file:
                position = file.tell if file.seekable() else lambda: 0
                for batch in _batches(file, query.columns, problems):
                    totals.add(batch)
                    if progress is not None:
                        progress(before + position())
                before += position()
        except OSError as error:
            raise _unreadable(path, error) from error
        problems.end_of(str(path))
    return totals.answer()


def _open(path: Path) -> AbstractContextManager[BufferedReader]:
    return nullcontext(cast("BufferedReader", sys.stdin.buffer)) if str(path) == "-" else path.open("rb")


def _batches(file: BufferedReader, columns: Sequence[str], problems: Problems) -> Iterator[Batch]:
    # By content, not by name: no JSON begins like Parquet.
    if not file.peek(4).startswith(parquet.MAGIC):
        return ndjson.read(file, columns, problems)
    if not file.seekable():
        raise ConfigError(file.name, "Parquet cannot be read from a pipe; name the file")
    return parquet.read(file, columns, problems)


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(str(path), f"cannot be read: {error.strerror}; name a file of exported rows")


def write(answer: Answer, form: Format, out: TextIO) -> None:
    """Print the answer."""
    {"table": _table, "json": _json, "csv": _csv}[form](answer, out)


def _keys(answer: Answer) -> list[tuple[Any, ...]]:
    """The values of each group's key as they are printed, None where unknown."""
    columns = [plain_values(answer.keys, n) if n in answer.keys else [None] * len(answer.keys) for n in answer.query.by]
    known = ([None if v is msgspec.UNSET else v for v in values] for values in columns)
    return list(zip(*known, strict=True)) if columns else []


def _numbers(answer: Answer) -> list[dict[str, float]]:
    """Estimates as they are printed: whole numbers without a point."""
    rows = zip(*(column.tolist() for column in answer.estimates), strict=True)
    return [{n: int(v) if v == int(v) else v for n, v in zip(Estimates._fields, row, strict=True)} for row in rows]


def _lines(answer: Answer) -> Iterator[tuple[str, tuple[Any, ...], dict[str, float]]]:
    """What each line is about, its key and its numbers."""
    *groups, other, total = _numbers(answer)
    for key, numbers in zip(_keys(answer), groups, strict=True):
        yield "group", key, numbers
    nothing = (None,) * len(answer.query.by)
    if answer.others and answer.query.by:
        yield "other", nothing, other
    yield "total", nothing, total


def _json(answer: Answer, out: TextIO) -> None:
    q = answer.query
    document: dict[str, Any] = {"measure": q.measure, "confidence": q.confidence, "by": q.by, "groups": []}
    document |= {"other": None, "total": None}
    for kind, key, numbers in _lines(answer):
        if kind == "group":
            document["groups"].append(dict(zip(q.by, key, strict=True)) | numbers)
        else:
            document[kind] = {"groups": answer.others} | numbers if kind == "other" else numbers
    out.write(msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")


def _csv(answer: Answer, out: TextIO) -> None:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["line", *answer.query.by, *Estimates._fields])
    for kind, key, numbers in _lines(answer):
        writer.writerow([kind, *key, *numbers.values()])


def _table(answer: Answer, out: TextIO) -> None:
    """Columns of text; on a terminal with rules."""
    q = answer.query
    numbers = (q.measure, "±", "low", "high", "rows")
    cells = [[*(q.by or ("",)), *numbers]]
    for kind, key, n in _lines(answer):
        half = (n["high"] - n["low"]) / 2 / n["total"] if n["total"] else 0
        percent = f"{half:.1%}" if half < _FAR_OFF else f">{_FAR_OFF:.0%}"
        name = (
            ["" if value is None else str(value) for value in key] if kind == "group" else [kind, *[""] * len(key[1:])]
        )
        cells.append([*name, f"{n['total']:,.0f}", percent, *(f"{n[name]:,.0f}" for name in ("low", "high", "rows"))])
    is_right = ([column_kind(name) == "int" for name in q.by] or [False]) + [True] * len(numbers)
    if out.isatty():
        _on_terminal(cells, is_right, out)
        return
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, is_right, strict=True))
        out.write("  ".join(padded) + "\n")


def _on_terminal(cells: list[list[str]], is_right: list[bool], out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    keys = len(is_right) - len(Estimates._fields)
    for i, (name, right) in enumerate(zip(cells[0], is_right, strict=True)):
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=i >= keys)
    for row in cells[1:]:
        table.add_row(*row)
    # Addresses have colons, as the names of emoji do.
    Console(file=out, markup=False, emoji=False, highlight=False).print(table)
