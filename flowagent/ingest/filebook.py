"""Which files were read, and how far: kept in the state directory, so that a restart goes on where rows were settled.

A file is known by its path and what the file system calls it (device and inode), so that another one of the same
name is new. Bounded: files that are gone are forgotten, and beyond MAX_FILES no further ones are begun.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from flowagent.component import Context

MAX_FILES = 10_000


class Entry(msgspec.Struct):
    """What is settled of one file."""

    device: int
    inode: int
    offset: int = 0
    """Bytes; of files that are not tailed all or nothing."""
    rows: int = 0
    is_done: bool = False
    """Read to what was its end."""
    problem: str | None = None
    """Why it was set aside."""

    def is_of(self, stat: os.stat_result) -> bool:
        """Whether it speaks of this very file, which has not shrunk since."""
        return (self.device, self.inode) == (stat.st_dev, stat.st_ino) and stat.st_size >= self.offset


class FileBook:
    """Entries by path."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._path = ctx.state_dir / f"files-{ctx.name}.json" if ctx.state_dir else None
        self._entries: dict[str, Entry] = {}
        self._changed = False

    def __len__(self) -> int:
        return len(self._entries)

    def load(self) -> None:
        """Take up what an earlier run left; a file that cannot be read counts as none, and is set aside."""
        if self._path is None or not self._path.exists():
            return
        try:
            self._entries = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Entry])
        except (OSError, msgspec.MsgspecError) as error:
            self._ctx.log.error("cannot use %s (%s): all files are read again", self._path, error)  # noqa: TRY400
            self._path.replace(self._path.with_suffix(".bad"))

    def save(self) -> None:
        """Write what changed, atomically; OSError where it cannot be written."""
        if self._path is None or not self._changed:
            return
        temporary = self._path.with_suffix(".tmp")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(self._entries))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        self._changed = False

    def find(self, path: Path, stat: os.stat_result) -> Entry | None:
        """The entry of a file, a new one where it has none yet; None where there are too many."""
        entry = self._entries.get(str(path))
        if entry is not None and entry.is_of(stat):
            return entry
        if entry is None and len(self._entries) >= MAX_FILES:
            return None
        entry = self._entries[str(path)] = Entry(stat.st_dev, stat.st_ino)
        self._changed = True
        return entry

    def settle(self, entry: Entry, offset: int, rows: int, *, is_done: bool, problem: str | None) -> None:
        """All rows of a file up to here are settled."""
        entry.offset, entry.rows, entry.is_done, entry.problem = offset, rows, is_done, problem
        self._changed = True

    def keep(self, paths: Iterable[Path]) -> None:
        """Forget all other files."""
        there = set(map(str, paths))
        gone = self._entries.keys() - there
        for path in gone:
            del self._entries[path]
        self._changed |= bool(gone)
