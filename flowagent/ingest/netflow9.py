"""NetFlow v9 (RFC 3954)."""

from __future__ import annotations

import numpy as np

from flowagent.batch import Array
from flowagent.ingest.datagrams import Datagrams, numbers
from flowagent.ingest.templated import Header, TemplatedDecoder


class NetFlow9(TemplatedDecoder):
    """Sequence numbers count datagrams; times are relative to the exporter's uptime."""

    protocol = "netflow9"
    version = 9
    header_size = 20
    template_set = 0
    options_set = 1

    def header(self, datagrams: Datagrams, rows: Array) -> Header:
        heads, at = datagrams.heads(rows, self.header_size), datagrams.offset[rows]
        return Header(
            exporter=datagrams.exporter[:, rows],
            domain=numbers(heads, 16, 4),
            export_ns=numbers(heads, 8, 4) * 1_000_000_000,
            uptime_ms=numbers(heads, 4, 4),
            sequence=numbers(heads, 12, 4),
            body=at + self.header_size,
            end=at + datagrams.length[rows],
            received_ns=datagrams.received_ns[rows],
            order=rows.astype(np.int64) << 32,
        )
