"""IPFIX (RFC 7011) in UDP datagrams."""

from __future__ import annotations

import numpy as np

from flowagent.batch import Array
from flowagent.ingest.datagrams import Datagrams, numbers
from flowagent.ingest.templated import Header, TemplatedDecoder


class Ipfix(TemplatedDecoder):
    """Sequence numbers count data records; the header says how long the message is."""

    protocol = "ipfix"
    version = 10
    header_size = 16
    template_set = 2
    options_set = 3

    def header(self, datagrams: Datagrams, rows: Array) -> Header:
        heads, at = datagrams.heads(rows, self.header_size), datagrams.offset[rows]
        claimed, received = numbers(heads, 2, 2), datagrams.length[rows]
        wrong = int(np.count_nonzero((claimed > received) | (claimed < self.header_size)))
        if wrong:
            # What is there is decoded all the same.
            self.state.stats.error(self.protocol, "bad_message_length", wrong)
        return Header(
            exporter=datagrams.exporter[:, rows],
            domain=numbers(heads, 12, 4),
            export_ns=numbers(heads, 4, 4) * 1_000_000_000,
            uptime_ms=None,
            sequence=numbers(heads, 8, 4),
            body=at + self.header_size,
            end=at + np.clip(claimed, self.header_size, received),
            received_ns=datagrams.received_ns[rows],
            order=rows.astype(np.int64) << 32,
        )
