"""The meter: frames into flow records, the same for packets captured live and those in files.

Frames  ->  headers  ->  the packets that are IP  ->  flow cache  ->  Batch of records
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from flowagent.addresses import address_words
from flowagent.batch import Array, Batch, constant
from flowagent.clock import SECOND
from flowagent.component import Settings
from flowagent.errors import ConfigError
from flowagent.ingest import headers
from flowagent.ingest.capfile import Frames
from flowagent.ingest.fields import Values
from flowagent.ingest.flowcache import FlowCache, Limits
from flowagent.ingest.flowtable import FIRST, KEY
from flowagent.schema import SAMPLING_SOURCES
from flowagent.sections import parse_duration

NO_EXPORTER = "192.0.2.1"
"""Stands for the exporter of what was captured by nobody knows whom: an address for documentation (RFC 5737)."""
_LENGTH = "ipTotalLength"
_WANTED = frozenset((*KEY, *FIRST, "tcp_flags", _LENGTH))
_MAX_IP = 65575
"""The longest IP packet whose header can say its length: 40 bytes of IPv6 header and 65535 of payload."""


class Metering(Settings, frozen=True):
    """How packets become flow records."""

    idle_timeout: str | float = "15s"
    """A flow without a packet for this long is over."""
    active_timeout: str | float = "60s"
    """A flow that lasts this long becomes a record, and what follows another."""
    max_flows: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 200_000
    """Flows in memory, about 200 bytes each; those without a packet for the longest time make room for more."""
    tunnels: bool = False
    """Count the packets inside of tunnels (VXLAN, Geneve, GRE, IP in IP) instead of the outer ones."""
    exporter: str | None = None
    """Address that stands for this observer in the rows; see docs/ingest.md for the default."""

    def limits(self, path: str) -> Limits:
        """For the flow cache; raises ConfigError."""
        idle, active = (parse_duration(getattr(self, name), f"{path}.{name}") for name in _TIMEOUTS)
        for name, seconds in zip(_TIMEOUTS, (idle, active), strict=True):
            if seconds < 1:
                raise ConfigError(f"{path}.{name}", "is too short; at least 1s")
        return Limits(round(idle * SECOND), round(active * SECOND), self.max_flows)

    def exporter_words(self, path: str) -> tuple[int, int] | None:
        """The words of `exporter`; raises ConfigError."""
        try:
            return address_words(self.exporter) if self.exporter is not None else None
        except ValueError as error:
            raise ConfigError(f"{path}.exporter", f"{self.exporter!r} is no address; write 192.0.2.1") from error


_TIMEOUTS = ("idle_timeout", "active_timeout")


class Seen(NamedTuple):
    """Packets, and bytes of IP, that became part of a flow."""

    packets: int = 0
    bytes: int = 0


class Meter:
    """Counts packets into flows.

    seen     what was counted
    skipped  frames that were not, by reason:
        not_ip                 frames of another protocol
        truncated_capture      frames of which not even the IP header was captured
        unsupported_link_type  frames from a network of another kind

    Records have the columns of `FlowCache`, and `exporter`, `sampling_rate` and `sampling_source`.
    Ports and ICMP types are unknown in fragments but the first, which are so a flow of their own.
    `bytes` are those of IP, as its header says; of the outer packet unless `tunnels` are looked into.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        tunnels: bool,
        exporter: tuple[int, int],
        sampling_rate: float = 1.0,
        skipped: Counter[str] | None = None,
    ) -> None:
        self.cache = FlowCache(limits)
        self.seen = Seen()
        self.skipped = Counter() if skipped is None else skipped
        self._tunnels = tunnels
        self._wanted: frozenset[str] = _WANTED
        self.exporter = exporter
        self._sampling_rate = sampling_rate

    def want(self, columns: frozenset[str] | None) -> None:
        """Which columns are used downstream; None for all."""
        self._wanted = _WANTED if columns is None else _WANTED - (frozenset(FIRST) - columns)

    def add(self, frames: Frames, columns: Mapping[str, Values] | None = None) -> Iterator[Batch]:
        """Take frames in, in about the order of time; yields records that are over.

        `columns` of n rows are what is known of the packets beside their bytes, and take precedence where known.
        """
        for rows, packets in self._parsed(frames, columns or {}):
            yield from self._named(self.cache.add(packets, frames.ns if rows is None else frames.ns[rows]))

    def expire(self, now_ns: int) -> Iterator[Batch]:
        """Time went on: records that are over."""
        yield from self._named(self.cache.expire(now_ns))

    def flush(self) -> Iterator[Batch]:
        """Records of all flows under way."""
        yield from self._named(self.cache.flush())

    def _parsed(self, frames: Frames, columns: Mapping[str, Values]) -> Iterator[tuple[Array | None, Batch]]:
        """Packets of IP with the frames they are from (None: all), link type by link type."""
        for link in np.flatnonzero(np.bincount(frames.link)).tolist() if len(frames) else []:
            rows = None if bool((frames.link == link).all()) else np.flatnonzero(frames.link == link)
            part = frames if rows is None else frames.take(rows)
            if link not in headers.LINKS:
                self.skipped["unsupported_link_type"] += len(part)
                continue
            parsed = headers.parse(
                part.data, part.offset, part.length, link, inner=self._tunnels, wanted=self._wanted
            )  # fmt: skip
            parsed |= _over(parsed, columns, rows)
            good = self._good(part, parsed)
            total = parsed.pop(_LENGTH, None)
            packets = _batch(parsed, len(part))
            if total is not None:
                packets = packets.with_columns({"bytes": _bytes(total.data, part.wire)})
            if not bool(good.all()):
                rows = np.flatnonzero(good) if rows is None else rows[good]
                packets = packets.take(good)
            if len(packets):
                self.seen = Seen(self.seen.packets + len(packets), self.seen.bytes + packets.total("bytes"))
                yield rows, packets

    def _good(self, frames: Frames, parsed: Mapping[str, Values]) -> Array:
        """(n,) bool: frames of which the IP header was captured up to its addresses; others are counted."""
        good = np.ones(len(frames), np.bool_)
        for name in ("dst_addr", "proto", _LENGTH):
            values = parsed.get(name, Values(good, np.zeros_like(good)))
            if values.known is not None:
                good &= values.known
        if not bool(good.all()):
            cut = ~good & (frames.length < frames.wire)
            for reason, which in (("truncated_capture", cut), ("not_ip", ~good & ~cut)):
                if bool(which.any()):
                    self.skipped[reason] += int(np.count_nonzero(which))
        return good

    def _named(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        source = SAMPLING_SOURCES.index("config")
        for batch in batches:
            n = len(batch)
            yield batch.with_columns({
                "exporter": constant(self.exporter, n, np.uint64),
                "sampling_rate": constant(self._sampling_rate, n, np.float64),
                "sampling_source": constant(source, n, np.uint8),
            })  # fmt: skip


def _over(parsed: Mapping[str, Values], columns: Mapping[str, Values], rows: Array | None) -> dict[str, Values]:
    """The given columns of these rows, filled up with what was parsed where they say nothing."""
    found = {}
    for name, given in columns.items():
        mine = given if rows is None else Values(given.data[rows], None if given.known is None else given.known[rows])
        if mine.known is not None and name in parsed:
            data, known = parsed[name]
            known = None if known is None else mine.known | known
            mine = Values(np.where(mine.known, mine.data, data), known)
        found[name] = mine
    return found


def _batch(columns: Mapping[str, Values], length: int) -> Batch:
    valid = {name: values.known for name, values in columns.items() if values.known is not None}
    return Batch({name: values.data for name, values in columns.items()}, length, valid)


def _bytes(total: Array, wire: Array) -> Array:
    """(n,) uint64: bytes of the packet; of what was to be cut into packets and says no length, those of the frame."""
    total = total.astype(np.uint64, copy=False)
    unsaid = (total == 0) | (wire > _MAX_IP)
    return np.where(unsaid, wire.astype(np.uint64), total) if bool(unsaid.any()) else total
