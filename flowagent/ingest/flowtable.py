"""The flow cache's table: rows of flows, found by their key.

Rows stay in their slots; a sorted array of hashes tells the slots, so that many
keys are looked up in one search. Two keys whose hashes are equal are not
confused: one of them is then taken for a new flow each time, which costs room
and gives more records, and no sum is wrong.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.hashing import finish
from flowagent.schema import COLUMNS

KEY = (
    "src_addr", "dst_addr", "src_port", "dst_port", "proto", "icmp_type", "icmp_code", "vlan",
    "in_if", "out_if", "direction", "tunnel_type", "tunnel_key", "tunnel_src_addr", "tunnel_dst_addr",
)  # fmt: skip
"""Columns that tell flows apart, what is not known being a value of its own."""
FIRST = ("tos", "ttl", "ether_type", "src_mac", "dst_mac", "mpls_label")
"""Columns of which a record has the first packet's value."""
COUNTS = ("start_ns", "end_ns", "bytes", "packets", "tcp_flags")
"""Columns that are merged, each by its own rule."""
FLAGS_KNOWN = np.uint16(1 << 15)
"""Stands among the flags of a flow, which are 12, if those of any packet were captured."""
_STORED = (*KEY, *FIRST)
_KNOWN = "known"
"""A column of bits: which of `_STORED` are known."""
_BIT = {name: np.uint32(1 << i) for i, name in enumerate(_STORED)}
_KEY_BITS = np.uint32(sum(_BIT[name] for name in KEY))
_BACK = {
    there: back
    for one, other in (("src_addr", "dst_addr"), ("src_port", "dst_port"), ("in_if", "out_if"),
                       ("tunnel_src_addr", "tunnel_dst_addr"))
    for there, back in ((one, other), (other, one))
}  # fmt: skip
"""Columns that change places in the other direction."""
_START_SIZE = 1024


class Rows(NamedTuple):
    """Flows of n different keys.

    columns  those of `KEY` and `FIRST`, 0 where not known, and `known` (n,) uint32
    counts   those of `COUNTS`
    """

    columns: dict[str, Array]
    counts: dict[str, Array]

    @classmethod
    def of(cls, rows: Batch, counts: dict[str, Array]) -> Self:
        """From a batch's columns, as far as it has them."""
        n = len(rows)
        known = np.zeros(n, np.uint32)
        columns = {}
        for name in _STORED:
            if name not in rows:
                columns[name] = _zeros(name, n)
            elif name in rows.valid:
                mask = rows.valid[name]
                columns[name] = np.where(mask, rows[name], rows[name].dtype.type(0))
                known |= np.where(mask, _BIT[name], np.uint32(0))
            else:
                columns[name] = rows[name]
                known |= _BIT[name]
        columns[_KNOWN] = known
        return cls(columns, counts)

    def take(self, rows: Array) -> Rows:
        """Some of them."""
        columns = {name: values.take(rows, axis=-1) for name, values in self.columns.items()}
        return Rows(columns, {name: values[rows] for name, values in self.counts.items()})

    def known(self) -> list[str]:
        """Columns of the key that are known in any row; in the others all values are 0."""
        bits = np.bitwise_or.reduce(self.columns[_KNOWN]) if len(self.columns[_KNOWN]) else 0
        return [name for name in KEY if bits & _BIT[name]]

    def hashes(self, multipliers: Array) -> Array:
        """(n,) uint64 of the key, by random odd multipliers, two a column; an unknown value adds nothing."""
        known = self.columns[_KNOWN] & _KEY_BITS
        found = np.multiply(known, multipliers[0], dtype=np.uint64)
        for name in self.known():
            first = 1 + 2 * KEY.index(name)
            values = self.columns[name]
            for word, multiplier in zip(values if values.ndim == 2 else (values,), multipliers[first:], strict=False):
                # So that differences in high bits do not stay there, where they might cancel out.
                spread = word ^ word >> np.uint64(32) if word.dtype.itemsize == 8 else word
                found += np.multiply(spread, multiplier, dtype=np.uint64)
        return finish(found)  # type: ignore[no-any-return]


class FlowTable:
    """Flows under way.

    columns, counts  arrays of `size` rows on their last axis, of which those in `live` mean something
    live             (flows,) int64: the rows in use
    """

    def __init__(self, seed: int | None = None) -> None:
        self.size = 0
        self.columns: dict[str, Array] = {name: _zeros(name, 0) for name in (*_STORED, _KNOWN)}
        self.counts: dict[str, Array] = {name: np.zeros(0, COLUMNS[name].dtype) for name in COUNTS}
        self.live = np.zeros(0, np.int64)
        self._hashes = np.zeros(0, np.uint64)
        """Of the rows in `live`, ascending."""
        self._free = np.zeros(0, np.int64)
        rng = np.random.default_rng(seed)
        self._multipliers = rng.integers(0, 2**63, 1 + 2 * len(KEY), np.uint64) * np.uint64(2) + np.uint64(1)

    def __len__(self) -> int:
        return len(self.live)

    def add(self, flows: Rows) -> None:
        """Merge flows of different keys into those of equal keys; the others are new."""
        hashes = flows.hashes(self._multipliers)
        at = self._find(flows, hashes)
        old = np.flatnonzero(at >= 0)
        self._update(at[old], flows.counts, old)
        if len(old) < len(at):
            new = np.flatnonzero(at < 0)
            self._insert(flows.take(new), hashes[new])

    def find(self, keys: Rows) -> Array:
        """(n,) int64: the row of each key, -1 where there is none."""
        return self._find(keys, keys.hashes(self._multipliers))

    def reversed(self, rows: Array) -> Rows:
        """The keys of the other direction of these flows."""
        columns = {name: self.columns[_BACK.get(name, name)].take(rows, axis=-1) for name in KEY}
        known = self.columns[_KNOWN][rows] & _KEY_BITS
        columns[_KNOWN] = np.zeros_like(known)
        for name in KEY:
            columns[_KNOWN] |= np.where(known & _BIT[_BACK.get(name, name)] != 0, _BIT[name], np.uint32(0))
        is_known = known & _BIT["direction"] != 0
        columns["direction"] = np.where(is_known, columns["direction"] ^ 1, columns["direction"])
        return Rows(columns, {})

    def take_out(self, rows: Array) -> Batch:
        """The flows in these rows, which are free then."""
        gone = np.zeros(self.size, np.bool_)
        gone[rows] = True
        kept = ~gone[self.live]
        known = self.columns[_KNOWN][rows]
        columns = {name: values[rows] for name, values in self.counts.items()}
        valid = {}
        for name in _STORED:
            mask = known & _BIT[name] != 0
            if bool(mask.any()):
                columns[name] = self.columns[name].take(rows, axis=-1)
                if not bool(mask.all()):
                    valid[name] = mask
        valid["tcp_flags"] = columns["tcp_flags"] & FLAGS_KNOWN != 0
        columns["tcp_flags"] = columns["tcp_flags"] & ~FLAGS_KNOWN
        self.live, self._hashes = self.live[kept], self._hashes[kept]
        self._free = np.concatenate([self._free, rows])
        return Batch(columns, valid=valid)

    def _find(self, keys: Rows, hashes: Array) -> Array:
        if not len(self.live):
            return np.full(len(hashes), -1, np.int64)
        place = np.minimum(np.searchsorted(self._hashes, hashes), len(self.live) - 1)
        rows = self.live[place]
        same = self._hashes[place] == hashes
        same &= (self.columns[_KNOWN][rows] ^ keys.columns[_KNOWN]) & _KEY_BITS == 0
        for name in keys.known():
            equal = self.columns[name].take(rows, axis=-1) == keys.columns[name]
            same &= equal if equal.ndim == 1 else equal.all(axis=0)
        # A crafted collision makes `group_rows` give a key twice; adding to a row works once only.
        rows = np.where(same, rows, -1)
        last = np.zeros(self.size + 1, np.int64)
        last[rows] = np.arange(len(rows))
        return np.where(last[rows] == np.arange(len(rows)), rows, -1)

    def _update(self, rows: Array, counts: dict[str, Array], which: Array) -> None:
        mine = self.counts
        mine["start_ns"][rows] = np.minimum(mine["start_ns"][rows], counts["start_ns"][which])
        mine["end_ns"][rows] = np.maximum(mine["end_ns"][rows], counts["end_ns"][which])
        mine["bytes"][rows] += counts["bytes"][which]
        mine["packets"][rows] += counts["packets"][which]
        mine["tcp_flags"][rows] |= counts["tcp_flags"][which]

    def _insert(self, flows: Rows, hashes: Array) -> None:
        n = len(hashes)
        if n > len(self._free):
            self._grow(len(self.live) + n)
        rows, self._free = self._free[-n:], self._free[:-n]
        for name, values in flows.columns.items():
            self.columns[name][..., rows] = values
        for name, values in flows.counts.items():
            self.counts[name][rows] = values
        order = np.argsort(hashes)
        hashes, rows = hashes[order], rows[order]
        places = np.searchsorted(self._hashes, hashes)
        self._hashes = np.insert(self._hashes, places, hashes)
        self.live = np.insert(self.live, places, rows)

    def _grow(self, least: int) -> None:
        size = max(least, 2 * self.size, _START_SIZE)
        for arrays in (self.columns, self.counts):
            for name, values in arrays.items():
                wider = np.zeros((*values.shape[:-1], size), values.dtype)
                wider[..., : self.size] = values
                arrays[name] = wider
        self._free = np.concatenate([self._free, np.arange(self.size, size, dtype=np.int64)])
        self.size = size


def _zeros(name: str, n: int) -> Array:
    if name == _KNOWN:
        return np.zeros(n, np.uint32)
    column = COLUMNS[name]
    return np.zeros((2, n) if column.kind == "addr" else n, column.dtype)
