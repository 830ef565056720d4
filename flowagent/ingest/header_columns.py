"""Columns in the making, and parts of the frames they are read from; see `headers.py`."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array
from flowagent.ingest.datagrams import gather
from flowagent.ingest.fields import Values
from flowagent.schema import COLUMNS

LONGEST = 40
"""Bytes of the longest header that is read at once."""
MOVED = {"src_addr": "tunnel_src_addr", "dst_addr": "tunnel_dst_addr"}
"""Where addresses go when they turn out to be those of a tunnel."""


class Columns:
    """Columns of n rows, filled for some rows at a time; unknown until then."""

    def __init__(self, length: int, wanted: Set[str] | None) -> None:
        self.length = length
        self._wanted = wanted
        self._kept = wanted and wanted | {name for name, moved in MOVED.items() if moved in wanted}
        self._data: dict[str, Array] = {}
        self._known: dict[str, Array | None] = {}

    def wants(self, name: str) -> bool:
        """Whether the column is of any use."""
        return self._kept is None or name in self._kept

    def put(self, name: str, rows: Array | None, values: Array, known: Array | None = None) -> None:
        """Set the values of these rows, of all where None, as far as `known` (as long as `values`)."""
        if not self.wants(name):
            return
        column = COLUMNS.get(name)
        values = values.astype(column.dtype if column is not None else "u8", copy=False)
        if rows is None and (known is None or name not in self._data):
            self._data[name], self._known[name] = values, known
            return
        if known is not None:
            rows = np.flatnonzero(known) if rows is None else rows[known]
            values = values[..., known]
        if name not in self._data:
            self._data[name] = np.zeros((*values.shape[:-1], self.length), values.dtype)
            self._known[name] = np.zeros(self.length, np.bool_)
        self._data[name][..., rows] = values
        mask = self._known[name]
        if mask is not None:
            mask[rows] = True

    def forget(self, names: Iterable[str], rows: Array | None) -> None:
        """Make these columns unknown in these rows."""
        for name in names:
            if name not in self._data:
                continue
            mask = self._known[name]
            if mask is None:
                mask = self._known[name] = np.ones(self.length, np.bool_)
            mask[slice(None) if rows is None else rows] = False

    def move(self, rows: Array | None) -> None:
        """Make the addresses of these rows those of their tunnels."""
        for name, moved in MOVED.items():
            if name in self._data and self.wants(moved):
                mask = self._known[name]
                if rows is None:
                    self.put(moved, None, self._data[name].copy(), None if mask is None else mask.copy())
                else:
                    self.put(moved, rows, self._data[name][:, rows], None if mask is None else mask[rows])

    def values(self) -> dict[str, Values]:
        """The columns that are known in any row."""
        found: dict[str, Values] = {}
        for name, data in self._data.items():
            known = self._known[name]
            if (self._wanted is not None and name not in self._wanted) or not (known is None or bool(known.any())):
                continue
            found[name] = Values(data, None if known is None or bool(known.all()) else known)
        return found


@dataclass(slots=True)
class Part:
    """Some of the frames, and where in them the next header begins.

    rows     (m,) positions among all frames; None: all, in order
    at, end  (m,) int64: where in `data` the header begins, and the captured bytes or the packet end; at <= end
    """

    columns: Columns
    data: Array
    rows: Array | None
    at: Array
    end: Array

    def __len__(self) -> int:
        return len(self.at)

    def take(self, chosen: Array) -> Part:
        """Those where True."""
        if bool(chosen.all()):
            return self
        index = np.flatnonzero(chosen)
        rows = index if self.rows is None else self.rows[index]
        return Part(self.columns, self.data, rows, self.at[index], self.end[index])

    def skip(self, size: int | Array, end: Array | None = None) -> Part:
        """Behind `size` bytes, and no further than `end`."""
        end = self.end if end is None else end
        return Part(self.columns, self.data, self.rows, np.minimum(self.at + size, end), end)

    def header(self, size: int) -> Header:
        """The next `size` bytes of each."""
        left = self.end - self.at
        return Header(self, gather(self.data, self.at, size), left, int(left.min(initial=LONGEST)))

    def put(self, name: str, values: Array, known: Array | None = None) -> None:
        """Set a column in these rows."""
        self.columns.put(name, self.rows, values, known)


class Header(NamedTuple):
    """The same header of some frames.

    bytes  (m, size) uint8; what was not captured has no meaning
    left   (m,) int64: bytes that there are from the header's beginning on
    least  the least of them
    """

    part: Part
    bytes: Array
    left: Array
    least: int

    def has(self, size: int) -> Array | None:
        """(m,) bool: where the first `size` bytes were captured; None: everywhere."""
        return None if self.least >= size else self.left >= size

    def number(self, at: int, size: int) -> Array:
        """(m,) unsigned of 1, 2, 4 or 8 bytes, as it stands there."""
        return self.bytes[:, at] if size == 1 else self.bytes[:, at : at + size].view(f">u{size}")[:, 0]

    def tell(self, name: str, at: int, size: int) -> None:
        """Fill a column with a number of the header."""
        if self.part.columns.wants(name):
            self.part.put(name, self.number(at, size), self.has(at + size))

    def tell_mac(self, name: str, at: int) -> None:
        """Fill a column with a MAC address."""
        if self.part.columns.wants(name):
            words = self.number(at, 8).astype(np.uint64)
            words >>= np.uint64(16)
            self.part.put(name, words, self.has(at + 6))

    def tell_address(self, name: str, at: int, size: int) -> None:
        """Fill a column with an address of 4 or 16 bytes."""
        if not self.part.columns.wants(name):
            return
        words = np.empty((2, len(self.left)), np.uint64)
        if size == 4:
            words[0] = 0
            np.bitwise_or(self.number(at, 4), np.uint64(V4_MAPPED), out=words[1])
        else:
            words[0], words[1] = self.number(at, 8), self.number(at + 8, 8)
        self.part.put(name, words, self.has(at + size))
