"""Rows from connection tracking entries: one for each direction in which packets went."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch, constant
from flowagent.hashing import finish, hash_rows
from flowagent.ingest.conntrack_table import News
from flowagent.schema import FLOW_KEY, SAMPLING_SOURCES

_SEEN_REPLY, _DYING = 1 << 1, 1 << 9
_PARTS = ("src_addr", "dst_addr", "src_port", "dst_port", "proto", "icmp_type", "icmp_code")
_TRANSLATIONS = {
    "nat_src_addr": ("src_addr", "dst_addr"),
    "nat_dst_addr": ("dst_addr", "src_addr"),
    "nat_src_port": ("src_port", "dst_port"),
    "nat_dst_port": ("dst_port", "src_port"),
}
"""What a packet has before translation, and where the other direction's tuple says what it has then."""
_U64 = np.uint64


class Seen(NamedTuple):
    """When entries were looked at: now, and the time before."""

    now_ns: int
    last_ns: int


def keys_of(entries: Batch) -> Array:
    """(n,) uint64: a hash of what tells entries apart: tuple, the kernel's id, zone."""
    keys = hash_rows(entries, FLOW_KEY)
    for name in ("id", "zone"):
        # Also where no entry here has one: a key must not depend on the others.
        known = np.where(entries.is_known(name), entries[name], 0) if name in entries else np.zeros(len(entries))
        keys = finish(keys ^ known.astype(_U64))
    return keys


def counters_of(entries: Batch) -> Array:
    """(4, n) uint64: packets, bytes, those of the reply; zero where the kernel does not count."""
    names = ("packets", "bytes", "reply_packets", "reply_bytes")
    return np.stack([np.where(entries.is_known(n), entries[n], 0).astype(_U64) if n in entries
                     else np.zeros(len(entries), _U64) for n in names])  # fmt: skip


def is_dying(entries: Batch) -> Array:
    """(n,) bool: entries whose end is told by an event."""
    return _has(entries, _DYING)


def _has(entries: Batch, bit: int) -> Array:
    if "status" not in entries:
        return np.zeros(len(entries), np.bool_)
    return (entries["status"] & bit > 0) & entries.is_known("status")


def rows_of(entries: Batch, news: News, exporter: tuple[int, int], seen: Seen, *, ended: bool) -> Batch:
    """Canonical rows of what is new. Connections that the kernel did not count have rows when they `ended`."""
    counted = entries.is_known("packets") & entries.is_known("reply_packets")
    parts = []
    for reply in (False, True):
        packets = news.counters[2 * reply]
        told = packets > 0
        if ended:
            told |= ~counted & (_has(entries, _SEEN_REPLY) if reply else np.True_)
        rows = np.flatnonzero(told)
        if len(rows):
            part = _direction(entries.take(rows), reply=reply)
            part = part.with_columns(*_sums(news.counters[2 * reply : 2 * reply + 2, rows], counted[rows]))
            parts.append(part.with_columns(*_times(entries.take(rows), news.known[rows], seen)))
    found = Batch.concat(parts)
    return found.with_columns(_constants(len(found), exporter, seen)) if len(found) else found


def _direction(entries: Batch, *, reply: bool) -> Batch:
    """Tuple of one direction, and how it was translated: the other direction's tuple, turned round."""
    mine, other = ("reply_", "") if reply else ("", "reply_")
    columns, valid = {}, {}
    for name in _PARTS:
        if mine + name in entries:
            columns[name] = entries[mine + name]
            if mine + name in entries.valid:
                valid[name] = entries.valid[mine + name]
    pairs = {nat: (mine + now, other + then) for nat, (now, then) in _TRANSLATIONS.items()
             if mine + now in entries and other + then in entries}  # fmt: skip
    translated = np.zeros(len(entries), np.bool_)
    for before, after in pairs.values():
        differ = entries[before] != entries[after]
        translated |= differ.any(axis=0) if differ.ndim == 2 else differ & entries.is_known(after)
    if bool(translated.any()):
        for nat, (_, after) in pairs.items():
            columns[nat] = entries[after]
            valid[nat] = translated & entries.is_known(after)
    return Batch(columns, len(entries), valid)


def _sums(counters: Array, counted: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    if not bool(counted.any()):
        return {}, {}
    columns = {"packets": counters[0], "bytes": counters[1]}
    return columns, {} if bool(counted.all()) else dict.fromkeys(columns, counted)


def _times(entries: Batch, known: Array, seen: Seen) -> tuple[dict[str, Array], dict[str, Array]]:
    """First and last packet where the kernel has timestamps; what was told of before begins where that ended."""
    if "start_ns" not in entries:
        return {}, {}
    start = np.where(known, np.maximum(entries["start_ns"], seen.last_ns), entries["start_ns"])
    stop = np.full(len(entries), seen.now_ns, np.int64)
    if "stop_ns" in entries:
        stop = np.where(entries.is_known("stop_ns"), entries["stop_ns"], stop)
    # A clock that was set back tells of beginnings that are still to come.
    columns = {"start_ns": np.minimum(start, stop), "end_ns": stop}
    there = entries.is_known("start_ns")
    return columns, {} if bool(there.all()) else dict.fromkeys(columns, there)


def _constants(length: int, exporter: tuple[int, int], seen: Seen) -> dict[str, Array]:
    return {
        "received_ns": constant(seen.now_ns, length, np.int64),
        "exporter": constant(exporter, length, np.uint64),
        "observation_domain": constant(0, length, np.uint32),
        "records": constant(1, length, np.uint64),
        # The kernel looks at every packet.
        "sampling_rate": constant(1, length, np.float64),
        "sampling_source": constant(SAMPLING_SOURCES.index("wire"), length, np.uint8),
    }
