"""Flow rows of the moment as datagrams of NetFlow v5 and v9 and of IPFIX, as the exporters of the demo send them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from flowagent.clock import SECOND
from flowagent.generate import wire
from flowagent.generate.traffic import Columns
from flowagent.generate.wire import HEADER5, HEADER9, HEADER_IPFIX, IPV4_TEMPLATE, PAYLOAD, RECORD5, Field

_COMMON = (
    Field("src", 8, 4), Field("dst", 12, 4), Field("src_port", 7, 2), Field("dst_port", 11, 2), Field("protocol", 4, 1),
    Field("tcp_flags", 6, 1), Field("bytes", 1, 8), Field("packets", 2, 8), Field("in_if", 10, 4),
    Field("out_if", 14, 4), Field("src_as", 16, 4), Field("dst_as", 17, 4),
)  # fmt: skip
FIELDS = {
    "netflow9": [*_COMMON, Field("start", 22, 4), Field("end", 21, 4)],
    "ipfix": [*_COMMON, Field("dropped_bytes", 132, 8), Field("dropped_packets", 133, 8),
              Field("start", 152, 8), Field("end", 153, 8)],
}  # fmt: skip
_DTYPES = {"netflow5": RECORD5, **{name: wire.record_dtype(fields) for name, fields in FIELDS.items()}}
_HEADERS = {"netflow5": HEADER5, "netflow9": HEADER9, "ipfix": HEADER_IPFIX}
_BOOTED_MS = 86_400_000
_U32 = 0xFFFF_FFFF


class Messages:
    """Makes the datagrams of one exporter, with its sequence numbers; it booted a day before it was made."""

    def __init__(self, protocol: str, domain: int, sampling_rate: int, now_ns: int) -> None:
        self._protocol, self._domain, self._rate = protocol, domain, sampling_rate
        self._boot_ms = now_ns // (SECOND // 1000) - _BOOTED_MS
        self._header, self._dtype = _HEADERS[protocol], _DTYPES[protocol]
        room = PAYLOAD - self._header.dtype.itemsize - 8
        self._per_datagram = 30 if protocol == "netflow5" else room // self._dtype.itemsize
        self._sequence = 0

    def templates(self, now_ns: int) -> Iterator[bytes]:
        """The datagram that says how records are to be read and at which rate was sampled; none for NetFlow v5."""
        if self._protocol == "netflow9":
            sets = wire.template_set(0, {IPV4_TEMPLATE: FIELDS["netflow9"]})
            sets += wire.sampling9(self._domain, self._rate)
            yield self._framed(sets, 3, 1, now_ns)
        elif self._protocol == "ipfix":
            sets = wire.template_set(2, {IPV4_TEMPLATE: FIELDS["ipfix"]}) + wire.sampling_ipfix(
                self._domain, self._rate
            )
            yield self._framed(sets, 3, 1, now_ns)

    def flows(self, rows: Columns, now_ns: int) -> Iterator[bytes]:
        """Datagrams of rows as `Scenario.step` gives them."""
        n = len(rows["packets"])
        records = np.zeros(n, self._dtype)
        wire.write_columns(records, rows)
        instant = self._instant_ms(now_ns) - (0 if self._protocol == "ipfix" else self._boot_ms)
        for name in ("start", "end"):
            records[name] = instant - rows[f"{name}_ago"]
        for first in range(0, n, self._per_datagram):
            part = records[first : first + self._per_datagram]
            data = part.tobytes()
            if self._protocol == "netflow5":
                yield self._framed(data, len(part), len(part), now_ns)
                continue
            data += bytes(-len(data) % 4)
            units = 1 if self._header.counts_datagrams else len(part)
            yield self._framed(struct.pack(">HH", IPV4_TEMPLATE, 4 + len(data)) + data, len(part), units, now_ns)

    def _instant_ms(self, now_ns: int) -> int:
        return now_ns // (SECOND // 1000) // self._header.step_ms * self._header.step_ms

    def _framed(self, body: bytes, count: int, units: int, now_ns: int) -> bytes:
        instant = self._instant_ms(now_ns)
        header = np.zeros(1, self._header.dtype)
        fields = {
            "version": {"netflow5": 5, "netflow9": 9, "ipfix": 10}[self._protocol],
            "count": count, "length": self._header.dtype.itemsize + len(body),
            "uptime": instant - self._boot_ms & _U32,
            "seconds": instant // 1000, "nanoseconds": instant % 1000 * 1_000_000,
            "sequence": self._sequence & _U32, "domain": self._domain, "engine": self._domain,
            "sampling": wire.DETERMINISTIC << 14 | self._rate,
        }  # fmt: skip
        for name in self._header.dtype.names or ():
            header[name] = fields[name]
        self._sequence += units
        return header.tobytes() + body
