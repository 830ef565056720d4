"""NetFlow v9 (RFC 3954)."""

from __future__ import annotations

import numpy as np

from flowagent.batch import Array
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.state import be32
from flowagent.ingest.templated import Header, TemplatedDecoder


class NetFlow9(TemplatedDecoder):
    """Sequence numbers count datagrams; times are relative to the exporter's uptime."""

    protocol = "netflow9"
    version = 9
    header_size = 20
    template_set = 0
    options_set = 1

    def header(self, datagrams: Datagrams, rows: Array) -> Header:
        data, at = datagrams.data, datagrams.offset[rows]
        return Header(
            domain=be32(data, at + 16),
            export_ns=be32(data, at + 8) * 1_000_000_000,
            uptime_ms=be32(data, at + 4),
            sequence=be32(data, at + 12),
            body=at + self.header_size,
            end=at + datagrams.length[rows],
            received_ns=datagrams.received_ns[rows],
            order=rows.astype(np.int64) << 32,
        )
