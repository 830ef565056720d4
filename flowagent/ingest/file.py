"""Source `file`: files that others write into a directory: captures of exports, Parquet, lines of JSON.

Files are read one after the other, the oldest first. One of plain lines is followed while it grows; any other is read
once it has not changed for a while. What is read is remembered, moved or deleted only when all its rows are settled
(see `progress`), so that nothing is lost; after a crash rows may come again, with the same `row_id`.
"""

from __future__ import annotations

import asyncio
import glob
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np

from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.component import Context, Deliver, Settings
from flowagent.errors import ConfigError
from flowagent.hashing import finish, seed_of
from flowagent.ingest.canonical import CanonicalDecoder
from flowagent.ingest.decoded import RowDecoder
from flowagent.ingest.filebook import MAX_FILES, Entry, FileBook
from flowagent.ingest.filereader import BadFileError, Captures, FileReader, Piece
from flowagent.ingest.netobserv import NetobservDecoder
from flowagent.ingest.nfdump import NfdumpDecoder
from flowagent.ingest.report import decoder_families
from flowagent.metrics import Family
from flowagent.schema import COLUMNS
from flowagent.sections import parse_duration
from flowagent.worker import Worker

_FULL = 0.5
"""Part of the room in front of a sink from which on nothing is read."""
_LOOK = 0.2
_UNDER_WAY, _BAD = ".part", ".bad"
"""How the names of files end that somebody writes, and that were set aside."""
_LINES = {"canonical": CanonicalDecoder, "netobserv": NetobservDecoder, "nfdump": NfdumpDecoder}


class Config(Settings, frozen=True):
    """Read files of exports or rows."""

    brings: ClassVar[tuple[str, ...]] = tuple(name for name, column in COLUMNS.items() if column.kind == "name")

    path: str | tuple[str, ...]
    """Files: patterns such as `/var/flows/*.pcap`; what is there already is read, too."""
    schema: Literal["canonical", "netobserv", "nfdump"] = "canonical"
    """What lines of JSON hold: rows of agents, flows of NetObserv, or what `nfdump -o json` prints."""
    captures: Captures = "auto"
    """What captures hold: `exports`, or `packets` to be counted into flows; `auto` looks into each."""
    then: Literal["keep", "delete", "move"] = "keep"
    """What becomes of a file that was read."""
    move_to: str | None = None
    """Directory for files that were read, on the same file system; with `then: move`."""
    every: str | float = "1s"
    """How often to look for files."""
    complete_after: str | float = "5s"
    """A file that has not changed for this long is complete."""
    once: bool = False
    """End when all files that are there have been read."""

    def build(self, ctx: Context) -> FileSource:
        if not self.path:
            raise ConfigError(f"{ctx.name}.path", "is empty; name files, such as /var/flows/*.pcap")
        if (self.then == "move") != (self.move_to is not None):
            raise ConfigError(f"{ctx.name}.move_to", "goes with `then: move`; write both, or none")
        return FileSource(self, ctx)


class _Read(NamedTuple):
    """What was delivered of a file."""

    mark: int
    path: Path
    entry: Entry
    offset: int
    rows: int
    is_done: bool
    problem: str | None


class FileSource:
    """Reads in a thread of its own, decodes there, delivers here."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self._ctx = ctx
        self._patterns = (config.path,) if isinstance(config.path, str) else config.path
        self._then, self._once = config.then, config.once
        self._move_to = Path(config.move_to) if config.move_to is not None else None
        self._every = parse_duration(config.every, f"{ctx.name}.every")
        self._complete_ns = round(parse_duration(config.complete_after, f"{ctx.name}.complete_after") * SECOND)
        lines: RowDecoder = _LINES[config.schema]()
        self._reader = FileReader(lines, config.captures)
        self._book = FileBook(ctx)
        self._worker = Worker(f"files {ctx.name}")
        self._waiting: deque[_Read] = deque()
        self._under_way: dict[Path, tuple[int, int]] = {}
        self._mark = self._settled = 0
        self._filled = 0.0
        self._wants_ids = True
        self._problem: str | None = None
        self._errors: Counter[str] = Counter()
        self._counts = Counter({"files": 0, "bad_files": 0, "records": 0})
        self.hurry = False

    async def __aenter__(self) -> Self:
        if self._move_to is not None and not self._move_to.is_dir():
            raise ConfigError(f"{self._ctx.name}.move_to", f"{self._move_to} is no directory; create it")
        self._book.load()
        self._ctx.metrics.add(self._families)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ctx.metrics.remove(self._families)
        self._account()
        self._worker.stop()
        self._reader.exports.close()

    def want(self, columns: frozenset[str] | None) -> None:
        self._reader.want(columns)
        self._wants_ids = columns is None or "row_id" in columns

    def ready(self) -> str | None:
        return f"{self._ctx.name}: {self._problem}" if self._problem else None

    def backlog(self) -> float:
        """Files can wait, so nothing is ever to be shed."""
        return 0.0

    def settled(self, mark: int, filled: float) -> None:
        self._settled, self._filled = mark, filled

    async def run(self, deliver: Deliver) -> None:
        """Until cancelled, or with `once` until all is read."""
        while True:
            found = self._found()
            self._book.keep(path for path, _ in found)
            for path, stat in found:
                await self._read(path, stat, deliver)
            self._account()
            if self._once:
                return
            await asyncio.sleep(self._every)

    def _found(self) -> list[tuple[Path, os.stat_result]]:
        """The files that are there, the oldest first."""
        found = {}
        for pattern in self._patterns:
            for name in glob.iglob(pattern, recursive=True):  # noqa: PTH207 - patterns may be absolute
                path = Path(name)
                try:
                    stat = path.stat()
                except OSError:
                    continue  # it went in this moment
                if path.is_file() and path.suffix not in (_UNDER_WAY, _BAD):
                    found[path] = stat
        return sorted(found.items(), key=lambda pair: (pair[1].st_mtime_ns, pair[0]))

    async def _read(self, path: Path, stat: os.stat_result, deliver: Deliver) -> None:
        """What is new in a file."""
        entry = self._book.find(path, stat)
        if entry is None:
            self._say(f"more than {MAX_FILES} files; move or delete those that were read (`then`)")
            return
        offset, rows = self._under_way.get(path, (entry.offset, entry.rows))
        is_complete = self._once or self._ctx.clock.now_ns() - stat.st_mtime_ns >= self._complete_ns
        is_known = entry.is_done and (not offset or stat.st_size == entry.offset)
        if is_known or any(read.path == path and read.is_done for read in self._waiting):
            return
        if not is_complete and not await self._worker.run(lambda: _is_plain(path)):
            return
        problem = None
        pieces = self._reader.read(path, offset)
        try:
            while (piece := await self._worker.run(lambda: next(pieces, None))) is not None:
                rows = self._take(path, entry, piece, rows, deliver)
                offset = piece.offset
                while self._filled >= _FULL:  # noqa: ASYNC110 - the pipeline tells a few times a second
                    await asyncio.sleep(_LOOK)
                self._account()
        except BadFileError as error:
            problem = str(error)
        except Exception:
            # No file may stop the agent.
            self._ctx.log.exception("%s is set aside for an unexpected error", path)
            problem = "an unexpected error, see the log"
        if is_complete or problem:
            self._end(path, entry, stat, offset, rows, problem)

    def _take(self, path: Path, entry: Entry, piece: Piece, rows: int, deliver: Deliver) -> int:
        self._errors.update(piece.errors)
        batch = piece.batch
        if len(batch):
            self._counts["records"] += 0 if piece.is_export else batch.record_count
            self._mark = deliver(self._numbered(batch, path, rows) if self._wants_ids else batch)
            rows += len(batch)
        if piece.offset:
            self._under_way[path] = (piece.offset, rows)
            self._waiting.append(_Read(self._mark, path, entry, piece.offset, rows, is_done=False, problem=None))
        return rows

    def _end(self, path: Path, entry: Entry, stat: os.stat_result, offset: int, rows: int, problem: str | None) -> None:
        self._counts["bad_files" if problem else "files"] += 1
        if problem:
            self._ctx.log.warning("%s %s", path, problem)
        self._under_way.pop(path, None)
        self._waiting.append(_Read(self._mark, path, entry, offset and stat.st_size, rows, True, problem))

    def _numbered(self, batch: Batch, path: Path, rows: int) -> Batch:
        """With a number for each row that has none: by the file's name and the row's place in it."""
        seed = np.uint64(seed_of("file", path.name))
        ids = finish(np.arange(rows, rows + len(batch), dtype=np.uint64) ^ seed) >> np.uint64(1)
        if "row_id" in batch:
            ids = np.where(batch.is_known("row_id"), batch["row_id"], ids)
        return batch.with_columns({"row_id": ids})

    def _account(self) -> None:
        """Remember what is settled, and let go of files all of whose rows are."""
        try:
            while self._waiting and self._waiting[0].mark <= self._settled:
                read = self._waiting.popleft()
                self._book.settle(read.entry, read.offset, read.rows, is_done=read.is_done, problem=read.problem)
                if read.is_done:
                    self._put_away(read)
            self._book.save()
        except OSError as error:
            self._say(f"cannot let go of what was read: {error}")
        else:
            self._say(None)

    def _put_away(self, read: _Read) -> None:
        if self._then == "keep":
            return
        if read.problem is not None:
            read.path.replace(read.path.with_name(read.path.name + _BAD))
        elif self._move_to is not None:
            read.path.replace(self._move_to / read.path.name)
        else:
            read.path.unlink(missing_ok=True)

    def _say(self, problem: str | None) -> None:
        if problem and problem != self._problem:
            self._ctx.log.error("%s", problem)
        self._problem = problem

    def _families(self) -> Iterable[Family]:
        name, protocol = self._ctx.name, self._reader.lines.name
        yield from decoder_families(self._reader.exports, name)
        yield from self._of_rows(name, protocol)

    def _of_rows(self, name: str, protocol: str) -> Iterator[Family]:
        labels, records = ("source", "protocol"), {(name, protocol): self._counts["records"]}
        yield Family("flowagent_ingest_records", "counter", "Flow records decoded.", labels, records)
        errors = {(name, protocol, reason): n for reason, n in self._errors.items()}
        yield Family("flowagent_ingest_errors", "counter", "Input refused, by reason.", (*labels, "reason"), errors)
        files = {(name, "read"): self._counts["files"], (name, "bad"): self._counts["bad_files"]}
        yield Family("flowagent_files", "counter", "Files that were read, or set aside.", ("source", "outcome"), files)


def _is_plain(path: Path) -> bool:
    """Whether a file has lines that can be read before it is complete."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError:
        return False
