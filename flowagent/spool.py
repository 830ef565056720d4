"""The spool: rows that a sink could not take, on disk until it can.

One SQLite file a sink, in WAL mode: what `put` returned from survives the death
of the process (not, with `synchronous=NORMAL`, a loss of power in that second).
Bounded; what no longer fits is dropped oldest first. A file that is damaged is
put aside and a new one begun: rows of an outage are not worth an agent that
does not start. One that cannot be used for now, as the disk is full or somebody
else has it, stays where it is.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from flowagent.batch import Batch
from flowagent.frames import pack, unpack

_SCHEMA = """
CREATE TABLE IF NOT EXISTS frames (
    id INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER NOT NULL, records INTEGER NOT NULL, data BLOB NOT NULL
)
"""
_NOT_NOW = frozenset({
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
})  # fmt: skip
"""What says nothing of the file itself."""


class Entry(NamedTuple):
    """What was put into the spool."""

    id: int
    rows: int
    records: int
    """Input records that the rows stand for."""
    size: int
    """Bytes of data."""


class Spool:
    """First in, first out. May be called from any thread; calls block on the disk."""

    def __init__(self, path: Path, max_bytes: int, log: logging.Logger) -> None:
        self._path = path
        self.max_bytes = max_bytes
        self._log = log
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._entries: dict[int, Entry] = {}
        self.bytes = 0
        self.rows = 0

    def open(self) -> Self:
        """Take up what an earlier run left; raises OSError where the file cannot be made."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            # The low byte is the primary code; none is given where the file did not pass the check.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_NOW:
                self._close()
                raise OSError(f"cannot use {self._path}: {error}") from error
            self._set_aside(error)
            try:
                self._connect()
            except sqlite3.DatabaseError as again:
                raise OSError(f"cannot use {self._path}: {again}") from again
        return self

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._db.execute(_SCHEMA)
        # A tenth of a second for 256 MB; without it, a damaged file may open and then refuse every row.
        (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(" ".join(verdict.split()))
        found = self._db.execute("SELECT id, rows, records, length(data) FROM frames ORDER BY id").fetchall()
        self._entries = {row[0]: Entry(*row) for row in found}
        self.bytes = sum(entry.size for entry in self._entries.values())
        self.rows = sum(entry.rows for entry in self._entries.values())

    def _set_aside(self, error: Exception) -> None:
        self._close()
        number = 1
        while (aside := self._path.with_suffix(f".damaged-{number}")).exists():
            number += 1
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._log.error("the spool %s is damaged (%s); it is now %s, a new one begins", self._path, error, aside.name)

    def close(self) -> None:
        """Leave what is there for the next run."""
        self._close()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> Iterator[Entry]:
        """All that is there, oldest first."""
        return iter(self._entries.values())

    def put(self, batch: Batch) -> tuple[Entry, list[Entry]]:
        """Append rows; what was put, and what was dropped to make room. OSError where the disk fails."""
        data = pack(batch)
        with self._lock:
            return self._put(batch, data)

    def _put(self, batch: Batch, data: bytes) -> tuple[Entry, list[Entry]]:
        dropped = []
        while self._entries and self.bytes + len(data) > self.max_bytes:
            dropped.append(self._forget(next(iter(self._entries))))
        try:
            db = self._database()
            cursor = db.execute(
                "INSERT INTO frames (rows, records, data) VALUES (?, ?, ?)", (len(batch), batch.record_count, data)
            )
        except sqlite3.Error as error:
            raise OSError(f"cannot write to {self._path}: {error}") from error
        entry = Entry(int(cursor.lastrowid or 0), len(batch), batch.record_count, len(data))
        self._entries[entry.id] = entry
        self.bytes += entry.size
        self.rows += entry.rows
        return entry, dropped

    def oldest(self) -> tuple[Entry, Batch] | None:
        """What is to be sent next; it stays until `remove`. A frame that cannot be read comes as an empty batch."""
        with self._lock:
            return self._oldest()

    def _oldest(self) -> tuple[Entry, Batch] | None:
        if not self._entries:
            return None
        entry = next(iter(self._entries.values()))
        try:
            row = self._database().execute("SELECT data FROM frames WHERE id = ?", (entry.id,)).fetchone()
            return entry, unpack(row[0]) if row is not None else Batch({})
        except (sqlite3.Error, ValueError) as error:
            self._log.error("rows in the spool %s cannot be read: %s", self._path, error)
            return entry, Batch({})

    def remove(self, entry_id: int) -> None:
        """This was sent, or refused for good."""
        with self._lock:
            if entry_id in self._entries:
                self._forget(entry_id)

    def _forget(self, entry_id: int) -> Entry:
        entry = self._entries.pop(entry_id)
        try:
            self._database().execute("DELETE FROM frames WHERE id = ?", (entry_id,))
            if not self._entries:
                self._database().execute("PRAGMA incremental_vacuum")
        except sqlite3.Error as error:
            self._log.error("cannot remove rows from %s: %s", self._path, error)
        self.bytes -= entry.size
        self.rows -= entry.rows
        return entry

    def _database(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.ProgrammingError("the spool is not open")
        return self._db
