"""Sink `file`: NDJSON to a file or to stdout, written by a thread: a disk that blocks holds up nobody else.

With rotation, rows go to `NAME.part`, which gets its final name (by an atomic
rename) when it is complete: what has a final name is whole. `strftime` fields
in the path are the UTC time at which the file was begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Self

import msgspec
import zstandard

from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.component import Context, Settings
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.export.encode import json_lines
from flowagent.sections import parse_duration, parse_size
from flowagent.worker import Worker

Compression = Literal["none", "gzip", "zstd"]
_LAST_SECONDS = 5.0
"""How long the end of the agent waits for a disk or a reader of stdout that blocks."""
_BY_SUFFIX: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}


class Config(Settings, frozen=True):
    """Write flows as lines of JSON."""

    path: str
    """The file; `-` is stdout. May hold strftime fields. Ending in .gz or .zst it is compressed."""
    rotate_every: str | float = 0
    """Begin a new file after this time (10m, 1h); 0 for never."""
    rotate_size: str | int = 0
    """Begin a new file after this many bytes of rows (before compression); 0 for never."""
    keep: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Files of this run to keep beside the current one; 0 keeps all."""
    compression: Compression | None = None
    """Default: by the path's ending."""

    def build(self, ctx: Context) -> FileSink:
        every = parse_duration(self.rotate_every, f"{ctx.name}.rotate_every")
        size = parse_size(self.rotate_size, f"{ctx.name}.rotate_size")
        if self.path == "-" and (every or size or (self.compression or "none") != "none"):
            raise ConfigError(f"{ctx.name}.path", "stdout can neither be rotated nor compressed; name a file")
        if self.keep and not (every or size):
            raise ConfigError(f"{ctx.name}.keep", "needs rotate_every or rotate_size")
        if (every or size) and "%" not in self.path:
            raise ConfigError(
                f"{ctx.name}.path", "needs strftime fields such as %Y%m%dT%H%M%S, or each file would replace the last"
            )
        return FileSink(self, ctx, every, size)


class FileSink:
    """Opens a file at the first rows, so that no empty file is left."""

    def __init__(self, config: Config, ctx: Context, every: float, size: int) -> None:
        self._config = config
        self._ctx = ctx
        self._every_ns = round(every * SECOND)
        self._size = size
        self._compression = config.compression or _BY_SUFFIX.get(Path(config.path).suffix, "none")
        self._raw: FileIO | None = None
        self._out: BinaryIO | FileIO | None = None
        self._compress, self._end = _compressor("none")
        self._unwritten: tuple[bytes, int] | None = None
        self._final: Path | None = None
        self._written = 0
        self._begun_ns = 0
        self._done: list[Path] = []
        self._worker = Worker(f"file {ctx.name}")
        self._writing: asyncio.Future[int] | None = None

    async def __aenter__(self) -> Self:
        if self._config.path != "-":
            directory = Path(self._name(self._ctx.clock.now_ns())).parent
            try:
                directory.mkdir(parents=True, exist_ok=True)
                if not os.access(directory, os.W_OK):
                    raise PermissionError(13, "permission denied")
            except OSError as error:
                raise ConfigError(
                    f"{self._ctx.name}.path", f"cannot write in {directory}: {error.strerror}; choose another directory"
                ) from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self._worker.run(self._finish)
        except TimeoutError:
            self._ctx.log.error(  # noqa: TRY400 - where it blocks is no news
                "%s still blocks; what was under way may be incomplete", self._final or "stdout"
            )
        self._worker.stop()

    def columns(self) -> frozenset[str] | None:
        return None

    async def write(self, batch: Batch) -> int:
        if self._writing is None:  # else it took too long last time, and is still under way
            self._writing = self._worker.start(lambda: self._write(batch))
        writing = self._writing
        try:
            return await asyncio.shield(writing)
        finally:
            if writing.done():
                self._writing = None

    def _write(self, batch: Batch) -> int:
        now_ns = self._ctx.clock.now_ns()
        try:
            if self._unwritten is None:  # else this is the batch that failed last time
                lines = json_lines(batch)
                if self._due(now_ns):
                    self._finish()
                if self._out is None:
                    self._begin(now_ns)
                self._unwritten = (self._compress(lines), len(lines))
            data, length = self._unwritten
            self._put(data)
        except BrokenPipeError as error:
            self._unwritten = None
            raise Rejected("closed", "nobody reads stdout any more") from error
        except OSError as error:
            raise Retry(f"cannot write {self._final or self._config.path}: {error.strerror}") from error
        self._unwritten = None
        self._written += length
        return length

    def _put(self, data: bytes) -> None:
        """Write all of it or, where the disk is full, nothing: what is in the file is whole rows."""
        assert self._out is not None
        start = os.fstat(self._raw.fileno()).st_size if self._raw is not None else 0
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._out.write(rest) :]
            self._out.flush()
        except OSError:
            if self._raw is not None:
                with contextlib.suppress(OSError):  # a device or a pipe cannot be cut
                    self._raw.truncate(start)
                    self._raw.seek(start)
            raise

    def _due(self, now_ns: int) -> bool:
        if self._out is None:
            return False
        return bool(
            (self._size and self._written >= self._size)
            or (self._every_ns and now_ns - self._begun_ns >= self._every_ns)
        )

    def _begin(self, now_ns: int) -> None:
        self._begun_ns, self._written = now_ns, 0
        if self._config.path == "-":
            self._out = sys.stdout.buffer
            return
        self._final = self._free(Path(self._name(now_ns)))
        rotating = bool(self._every_ns or self._size)
        target = self._final.with_name(self._final.name + ".part") if rotating else self._final
        self._raw = self._out = target.open("wb" if rotating else "ab", buffering=0)
        self._compress, self._end = _compressor(self._compression)

    def _finish(self) -> None:
        raw, final = self._raw, self._final
        if raw is None or final is None:
            return
        try:
            # What failed last time is in the compressor's past already: without it nothing after it could be read.
            rest = self._unwritten[0] if self._unwritten is not None and self._compression != "none" else b""
            with raw:
                self._put(rest + self._end())
        except OSError as error:
            self._ctx.log.error("cannot complete %s: %s", raw.name, error.strerror)  # noqa: TRY400
            return
        finally:
            self._out = self._raw = self._final = None
        part = final.with_name(final.name + ".part")
        if part.exists():
            part.replace(final)
            self._done.append(final)
            while self._config.keep and len(self._done) > self._config.keep:
                self._done.pop(0).unlink(missing_ok=True)

    def _free(self, path: Path) -> Path:
        """A name that replaces no finished file when two begin within the path's resolution."""
        if not (self._every_ns or self._size):
            return path
        stem, dot, rest = path.name.partition(".")
        count, free = 1, path
        while free.exists() or free.with_name(free.name + ".part").exists():
            count += 1
            free = path.with_name(f"{stem}-{count}{dot}{rest}")
        return free

    def _name(self, now_ns: int) -> str:
        moment = datetime.fromtimestamp(now_ns / SECOND, UTC)
        return moment.strftime(self._config.path) if "%" in self._config.path else self._config.path


def _compressor(kind: Compression) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """What compresses a part of a file so that it can be read at once, and what ends the file."""
    if kind == "gzip":
        deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
        return lambda data: deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH), deflate.flush
    if kind == "zstd":
        zstd = zstandard.ZstdCompressor(level=3).compressobj()
        return lambda data: zstd.compress(data) + zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), zstd.flush
    return lambda data: data, bytes
