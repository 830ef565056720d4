"""What the benchmarks feed on, made without sockets: export datagrams, and records as a decoder makes them of those."""

import time
from collections.abc import Iterator

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.batch import Array, Batch, constant
from flowagent.generate import Settings, ovs, sflow, wire
from flowagent.generate.ring import Ring
from flowagent.generate.traffic import Traffic
from flowagent.ingest.datagrams import Datagrams
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS, FLOW_KEY

KEYS = 100_000
"""Distinct 5-tuples, with the generator's Zipf popularity."""
EXPORTS = {
    "netflow5": Settings(protocol="netflow5", keys=KEYS),
    "netflow9": Settings(protocol="netflow9", keys=KEYS, ipv6_share=0),
    "ipfix": Settings(protocol="ipfix", keys=KEYS, ipv6_share=0),
    "ipfix, IPv6 too": Settings(protocol="ipfix", keys=KEYS, ipv6_share=0.2),
    "ovs": Settings(protocol="ovs", keys=KEYS),
    "sflow5": Settings(protocol="sflow5", keys=KEYS, sampling_rate=400),
}
"""Dense exports, one of them with two sets in each datagram, one with a record a datagram, and sampled packets."""
_BUILDERS = {"netflow5": wire.netflow5, "netflow9": wire.netflow9, "ipfix": wire.ipfix, "ovs": ovs.export,
             "sflow5": sflow.sflow5}  # fmt: skip
_EXPORTER = V4_MAPPED | 0x7F000001


class Export:
    """One of `EXPORTS`, without end."""

    def __init__(self, name: str) -> None:
        settings = EXPORTS[name]
        boot_ms = time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000 - 86_400_000
        made = _BUILDERS[settings.protocol](settings, np.random.default_rng(settings.seed), boot_ms)
        self._data, self._templates, self._sequence = made.data, made.templates, made.first_sequence
        self.records_per_datagram = int(made.data.sums[1, 1])

    def templates(self) -> Iterator[Datagrams]:
        """What an exporter sends first; nothing where the protocol has no templates."""
        if self._templates is not None:
            yield self._take(self._templates, len(self._templates))

    def take(self, count: int) -> Datagrams:
        """The next datagrams, as many or, at the end of a round, fewer; valid until the ring has come round."""
        return self._take(self._data, count)

    def _take(self, ring: Ring, count: int) -> Datagrams:
        rows, now_ns = ring.take(count), time.clock_gettime_ns(time.CLOCK_REALTIME)
        self._sequence = ring.stamp(rows, self._sequence, now_ns)
        k = rows.stop - rows.start
        exporter = np.zeros((2, k), np.uint64)
        exporter[1] = _EXPORTER
        return Datagrams(
            data=ring.data.reshape(-1),
            offset=np.arange(rows.start, rows.stop) * ring.data.shape[1],
            length=ring.length[rows],
            exporter=exporter,
            port=np.full(k, 40_000, np.uint16),
            received_ns=np.full(k, now_ns),
        )


class Records:
    """Records with the columns that the default window takes, a fifth of them IPv6."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        zipf = Settings().zipf
        self._v4 = Traffic(rng, KEYS * 4 // 5, zipf, 4)
        self._v6 = Traffic(rng, KEYS // 5, zipf, 6)

    def draw(self, count: int) -> Batch:
        """So many records, each of a key drawn anew."""
        v6 = count // 5
        return Batch.concat([_batch(self._v4.draw(count - v6), V4_MAPPED), _batch(self._v6.draw(v6), 0)])


def _batch(flows: dict[str, Array], mapped: int) -> Batch:
    n, now_ns = len(flows["key"]), 1_700_000_000_000_000_000
    columns = {
        "src_addr": _addresses(flows["src"], mapped),
        "dst_addr": _addresses(flows["dst"], mapped),
        "proto": flows["protocol"],
        "start_ns": now_ns - flows["start_ago"] * 1_000_000,
        "end_ns": now_ns - flows["end_ago"] * 1_000_000,
        **{name: flows[name] for name in (*FLOW_KEY[2:4], "bytes", "packets", "tcp_flags", "in_if", "out_if")},
    }
    same = {
        "exporter": (0, _EXPORTER), "observation_domain": 1, "received_ns": now_ns, "records": 1,
        "export_protocol": EXPORT_PROTOCOLS.index("ipfix"), "sampling_source": 0,
    }  # fmt: skip
    return Batch(
        {name: values.astype(COLUMNS[name].dtype) for name, values in columns.items()}
        | {name: constant(value, n, COLUMNS[name].dtype) for name, value in same.items()}
    )


def _addresses(octets: Array, mapped: int) -> Array:
    words = np.ascontiguousarray(octets).view(">u8").T.astype(np.uint64)
    words[1] |= np.uint64(mapped)
    return words
