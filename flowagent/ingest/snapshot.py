"""Templates and sampling rates on disk, so that a restart costs no blind minutes."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import msgspec

from flowagent.component import Context
from flowagent.ingest.exporters import Exporters
from flowagent.ingest.rates import MAX_RATE

_FORMAT = 1
_U64 = Annotated[int, msgspec.Meta(ge=0)]
_U32 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_U16 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]


class _Domain(TypedDict):
    key: tuple[_U64, _U64, _U16, _U32]
    templates: list[tuple[_U16, _U16, int, bytes, _U16, int]]
    rates: list[tuple[str, int, Annotated[float, msgspec.Meta(ge=1, le=MAX_RATE)]]]
    system_init_ns: int | None


class _File(TypedDict):
    format: int
    exporters: list[_Domain]


class Snapshot:
    """One file for each source, replaced atomically when something changed."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._saved = 0
        self._failed = False

    @property
    def path(self) -> Path | None:
        """Where it lies; None where the agent keeps no state."""
        return self._ctx.state_dir / f"templates-{self._ctx.name}.msgpack" if self._ctx.state_dir else None

    def load(self, exporters: Exporters) -> None:
        """Take up what was saved; a file that cannot be read is set aside."""
        path = self.path
        if path is None:
            return
        try:
            if not path.exists():
                return
            saved = msgspec.msgpack.decode(path.read_bytes(), type=_File)
            if saved["format"] != _FORMAT:
                raise ValueError(f"format {saved['format']}")
            exporters.restore(cast("list[dict[str, Any]]", saved["exporters"]), self._ctx.clock.now_ns())
        except (OSError, KeyError, TypeError, ValueError, struct.error, msgspec.MsgspecError) as error:
            aside = path.with_suffix(".bad")
            with contextlib.suppress(OSError):
                path.replace(aside)
            self._ctx.log.error("cannot use the saved templates in %s (%s); set aside as %s", path, error, aside.name)  # noqa: TRY400
        self._saved = exporters.changed

    def save(self, exporters: Exporters) -> None:
        """Write the file if anything changed since the last time; a failure is logged once and tried again."""
        path = self.path
        if path is None or exporters.changed == self._saved:
            return
        data = msgspec.msgpack.encode({"format": _FORMAT, "exporters": exporters.snapshot()})
        temporary = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            if not self._failed:
                self._ctx.log.warning(
                    "cannot save templates to %s: %s; they will not survive a restart", path, error.strerror
                )
            self._failed = True
            return
        self._failed = False
        self._saved = exporters.changed
