"""Sink `parquet`: Parquet files in directories by time, for pandas, DuckDB, Spark and the like; needs an extra.

    .NAME.part   rows as they come, a stream of Arrow: they are there as soon as a write is done
    .NAME.tmp    Parquet that is being made of it
    NAME         Parquet that is complete

Parquet can be read only when its end is written, and a file of few rows is a
bad one. So rows wait in a stream that may end anywhere, and become Parquet when
their time is over; what an agent left that was killed becomes Parquet at the
next start. A lock says whose a stream is.
"""

from __future__ import annotations

import asyncio
import fcntl
import glob
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import msgspec
import numpy as np

from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.delivery import Delivery
from flowagent.errors import ConfigError, Retry
from flowagent.export.parquet_columns import TEXT, Numbers, Texts, column, in_order, types, wider
from flowagent.sections import parse_duration
from flowagent.worker import Worker

GROUP_ROWS, GROUP_BYTES = 131_072, 64 << 20
"""Rows of a row group at most, and bytes of it in memory, about."""
MAX_COLUMNS = 1000
_LAST_SECONDS = 20.0
"""How long the end of the agent waits for the last file."""


class Config(Delivery, frozen=True, kw_only=True):
    """Write rows to Parquet files (needs `flowagent[parquet]`)."""

    path: str
    """The files, with strftime fields (UTC), such as `flows/date=%Y-%m-%d/hour=%H/part-%H%M%S.parquet`."""
    rotate_every: str | float = "5m"
    """Begin a new file at each multiple of this time."""
    rotate_rows: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    """Begin a new file after this many rows."""

    def build(self, ctx: Context) -> ParquetSink:
        if importlib.util.find_spec("pyarrow") is None:
            raise ConfigError(f"{ctx.name}.type", "needs a package more; install flowagent[parquet]")
        every = parse_duration(self.rotate_every, f"{ctx.name}.rotate_every")
        if every < 1:
            raise ConfigError(f"{ctx.name}.rotate_every", f"{self.rotate_every!r} is too short; at least 1s")
        if "%" not in self.path:
            raise ConfigError(f"{ctx.name}.path", "needs strftime fields such as %Y%m%dT%H%M%S, to tell files apart")
        return ParquetSink(self, ctx, round(every * SECOND))


class _Part(NamedTuple):
    """A stream of rows, locked as long as it is open."""

    raw: FileIO
    final: Path

    @property
    def path(self) -> Path:
        return _hidden(self.final, ".part")


class ParquetSink:
    """Opens a file at the first rows of its time. All but the coroutines runs in a thread."""

    def __init__(self, config: Config, ctx: Context, every_ns: int) -> None:
        self._ctx = ctx
        self._path = config.path
        self._every_ns = every_ns
        self._most_rows = config.rotate_rows
        self._types: dict[str, str] = {}
        """Of every column so far; files have them all."""
        self._schema: Any = None
        """Of the stream that is open."""
        self._part: _Part | None = None
        self._unfinished: list[_Part] = []
        """Streams of which no Parquet could be made yet."""
        self._rows = self._begun_ns = 0
        self._worker = Worker(f"parquet {ctx.name}")
        self._writing: asyncio.Future[int] | None = None

    async def __aenter__(self) -> Self:
        directory = self._name(self._ctx.clock.now_ns()).parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not os.access(directory, os.W_OK):
                raise PermissionError(13, "permission denied")
        except OSError as error:
            raise ConfigError(
                f"{self._ctx.name}.path", f"cannot write in {directory}: {error.strerror}; choose another directory"
            ) from error
        self._worker.start(self._recover)
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self._worker.run(self._close)
        except TimeoutError:
            self._ctx.log.error("no time for the last file; it is made at the next start")  # noqa: TRY400
        self._worker.stop()

    def columns(self) -> frozenset[str] | None:
        return None

    async def write(self, batch: Batch) -> int:
        if self._writing is None:  # else it took too long last time, and is still under way
            self._writing = self._worker.start(lambda: self.write_now(batch))
        writing = self._writing
        try:
            return await asyncio.shield(writing)
        finally:
            if writing.done():
                self._writing = None

    def write_now(self, batch: Batch) -> int:
        """What `write` does in its thread."""
        if not len(batch):
            return 0
        now_ns = self._ctx.clock.now_ns()
        is_changed = self._learn(types(batch))
        if self._part is not None and (is_changed or now_ns // self._every_ns != self._begun_ns // self._every_ns):
            self._finish()
        try:
            part = self._part or self._begin(now_ns)
            data = _stream(_record_batch(batch, self._types, self._schema), with_schema=not self._rows)
            _put(part.raw, data)
        except OSError as error:
            raise Retry(f"cannot write {self._path}: {error.strerror}") from error
        self._rows += len(batch)
        if self._rows >= self._most_rows:
            self._finish()
        return len(data)

    def _learn(self, found: Mapping[str, str]) -> bool:
        """Whether there is a new column, or a value of another type than before."""
        merged = {**self._types, **{name: wider(self._types.get(name, type_), type_) for name, type_ in found.items()}}
        if len(merged) > MAX_COLUMNS:
            merged = {name: merged[name] for name in list(merged)[:MAX_COLUMNS]}
            if len(self._types) < MAX_COLUMNS:
                self._ctx.log.warning("columns beyond the first %d are left out", MAX_COLUMNS)
        is_changed = merged != self._types
        self._types = merged
        return is_changed

    def _begin(self, now_ns: int) -> _Part:
        final = _free(self._name(now_ns))
        final.parent.mkdir(parents=True, exist_ok=True)
        raw = _hidden(final, ".part").open("xb", buffering=0)
        fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._part = _Part(raw, final)
        self._schema = _arrow_schema({name: self._types[name] for name in in_order(self._types)})
        self._rows, self._begun_ns = 0, now_ns
        return self._part

    def _finish(self) -> None:
        """Make Parquet of the rows so far, and of those with which that failed before."""
        if self._part is not None:
            self._unfinished.append(self._part)
        self._part = None
        self._unfinished = [part for part in self._unfinished if not self._convert(part)]

    def _convert(self, part: _Part) -> bool:
        try:
            _make_parquet(part.path, _hidden(part.final, ".tmp"), part.final)
        except Exception as error:  # noqa: BLE001 - whatever Arrow raises of a stream that it cannot read
            self._ctx.log.error("cannot make %s of %s: %s", part.final, part.path, error)  # noqa: TRY400
            return False
        part.raw.close()
        return True

    def _recover(self) -> None:
        """Make Parquet of what earlier runs left."""
        for path in _left(self._path):
            final = path.with_name(path.name[1:].removesuffix(".part"))
            with suppress(OSError), path.open("r+b", buffering=0) as raw:
                # Fails where it is another agent's, as does opening it where that has made Parquet of it just now.
                fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._convert(_Part(raw, final)):
                    self._ctx.log.info("finished %s, which an earlier run had left", final)

    def _close(self) -> None:
        self._finish()
        for part in self._unfinished:
            part.raw.close()

    def _name(self, now_ns: int) -> Path:
        return Path(datetime.fromtimestamp(now_ns / SECOND, UTC).strftime(self._path))


def _hidden(final: Path, suffix: str) -> Path:
    """Readers of whole directories pass over names that begin with a dot."""
    return final.with_name(f".{final.name}{suffix}")


def _free(path: Path) -> Path:
    """A name that nobody uses, when two files begin within the path's resolution."""
    stem, dot, rest = path.name.partition(".")
    count, free = 1, path
    while free.exists() or _hidden(free, ".part").exists():
        count += 1
        free = path.with_name(f"{stem}-{count}{dot}{rest}")
    return free


def _left(path: str) -> list[Path]:
    """The streams that there are of a path with strftime fields, oldest names first."""
    directory, slash, name = path.rpartition("/")
    stem, dot, rest = name.partition(".")
    directory, stem, rest = (re.sub(r"%-?.", "*", glob.escape(text)) for text in (directory, stem, rest))
    return sorted(map(Path, glob.glob(f"{directory}{slash}.{stem}*{dot}{rest}.part")))  # noqa: PTH207 - of any root


def _put(raw: FileIO, data: memoryview) -> None:
    """Write all of it or, where the disk is full, nothing."""
    start = raw.tell()
    rest = data
    try:
        while rest:
            rest = rest[raw.write(rest) :]
    except OSError:
        with suppress(OSError):
            raw.truncate(start)
            raw.seek(start)
        raise


def _arrow_schema(columns: Mapping[str, str]) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]

    kinds = {name: pa.string() if type_ == TEXT else pa.from_numpy_dtype(type_) for name, type_ in columns.items()}
    return pa.schema(list(kinds.items()))


def _record_batch(batch: Batch, columns: Mapping[str, str], schema: Any) -> Any:
    import pyarrow as pa

    arrays = [
        _array(column(batch, f.name, columns[f.name]), f.type) if f.name in batch else pa.nulls(len(batch), f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: Numbers | Texts, type_: Any) -> Any:
    import pyarrow as pa

    if isinstance(values, Numbers):
        return pa.array(values.data, type_, mask=None if values.known is None else ~values.known)
    known = None if values.known is None else pa.py_buffer(np.packbits(values.known, bitorder="little"))
    buffers = [known, pa.py_buffer(values.offsets), pa.py_buffer(values.data)]
    return pa.Array.from_buffers(type_, len(values.offsets) - 1, buffers)


def _stream(rows: Any, *, with_schema: bool) -> memoryview:
    """The rows as a message of a stream, behind that of the schema where the stream begins."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(rows)
        end = sink.tell()
    return memoryview(sink.getvalue())[0 if with_schema else rows.schema.serialize().size : end]


def _make_parquet(part: Path, temporary: Path, final: Path) -> None:
    """A file of Parquet instead of a stream; nothing where no row of the stream was written whole."""
    import pyarrow as pa
    from pyarrow import parquet

    with pa.OSFile(str(part)) as source:
        groups = _groups(source)
        first = next(groups, None)
        if first is not None:
            with temporary.open("wb") as out:
                with parquet.ParquetWriter(out, first.schema, compression="zstd") as writer:
                    for rows in chain((first,), groups):
                        writer.write_table(rows, row_group_size=GROUP_ROWS)
                os.fsync(out.fileno())
            temporary.replace(final)
    part.unlink()


def _groups(source: Any) -> Iterator[Any]:
    """The rows of a stream, as tables for a row group each, up to where it is cut off."""
    import pyarrow as pa

    rows: list[Any] = []
    count = size = 0
    try:
        for some in pa.ipc.open_stream(source):
            count, size = count + len(some), size + some.nbytes
            if rows and (count > GROUP_ROWS or size > GROUP_BYTES):
                yield pa.Table.from_batches(rows)
                rows, count, size = [], len(some), some.nbytes
            rows.append(some)
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) is not None:  # not the stream, but the disk
            raise
    if rows:
        yield pa.Table.from_batches(rows)
