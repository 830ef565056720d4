"""Files that others may change at any time: read again when they did, and what they said before stays until then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.metrics import Family
from flowagent.worker import Worker

_T = TypeVar("_T")
_State = tuple[int, int, int] | None


class Followed(Generic[_T]):
    """What a file says; `read` makes it of its bytes, in a thread, and raises ValueError where they are wrong.

    `setting` is the path of the setting that names the file. A file of more than `max_bytes` is wrong.
    """

    def __init__(self, path: str, read: Callable[[bytes], _T], setting: str, ctx: Context, max_bytes: int) -> None:
        self._path, self._read, self._setting, self._max_bytes = Path(path), read, setting, max_bytes
        self._log = ctx.log
        self._worker = Worker(setting)
        self._state: _State = None
        self._loads = self._failures = 0

    async def open(self) -> _T:
        """Read it for the first time; raises ConfigError."""
        try:
            self._state = await self._worker.run(self._look)
            said = await self._worker.run(self._load)
        except (OSError, ValueError, RecursionError) as error:
            self.close()
            raise ConfigError(self._setting, self._problem(error)) from error
        self._loads += 1
        return said

    async def changed(self) -> _T | None:
        """What it says now, if it changed since the last look and can be read; what is wrong is logged once."""
        state: _State = None
        try:
            state = await self._worker.run(self._look)
            if state == self._state:
                return None
            said = await self._worker.run(self._load)
            if await self._worker.run(self._look) != state:
                return None  # somebody writes to it right now
        except (OSError, ValueError, RecursionError) as error:
            if state != self._state:
                self._failures += 1
                self._log.error("%s: %s; what it said before stays", self._setting, self._problem(error))
            self._state = state
            return None
        self._state = state
        self._loads += 1
        self._log.info("%s: read %s again", self._setting, self._path)
        return said

    def close(self) -> None:
        """Nothing is read any more."""
        self._worker.stop()

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        yield Family("flowagent_enrich_file_loads", "counter", "How often a file was read, the first time too.",
                     ("setting",), {(self._setting,): self._loads})  # fmt: skip
        yield Family("flowagent_enrich_file_failures", "counter", "Changes of a file that could not be read.",
                     ("setting",), {(self._setting,): self._failures})  # fmt: skip

    def _look(self) -> _State:
        stat = self._path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _load(self) -> _T:
        with self._path.open("rb") as file:
            # Memory is taken for as much as is asked for.
            data = file.read(min(os.fstat(file.fileno()).st_size, self._max_bytes) + 1)
        if len(data) > self._max_bytes:
            raise ValueError(f"is larger than {self._max_bytes >> 20} MiB; divide it or leave out what is not needed")
        return self._read(data)

    def _problem(self, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        return f"cannot read {self._path}: {reason}"
