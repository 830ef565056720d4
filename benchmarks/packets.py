"""Packets in a file, in memory as the kernel caches it, into flow records."""

import tempfile
from pathlib import Path

from benchmarks.frames import write_capture
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.ingest.packetfile import read_flows

CASES = (
    # bytes of a frame, flows, packets a second of the capture's own time
    (100, 5_000, 200_000),
    (100, 100_000, 200_000),
    (100, 5_000, 5_000),
    (800, 5_000, 200_000),
)
_PACKETS = 400_000


def run(options: Options) -> Table:
    table = Table("Packets in a file into flows", calibration_ms=[calibrate()])
    table.notes.append("On one core, reading the file included.")
    with tempfile.TemporaryDirectory(prefix="flowagent-benchmark-") as name:
        file = Path(name, "packets.pcap")
        for size, flows, rate in CASES[:1] if options.quick else CASES:
            packets = _PACKETS // 10 if options.quick else _PACKETS
            write_capture(file, packets, size=size, flows=flows, rate=rate)
            records = sum(map(len, read_flows(file)))

            def read(watch: Stopwatch) -> int:
                with watch:
                    return sum(batch.total("packets") for batch in read_flows(file))

            ns = measure(read, options.enough)
            table.rows.append({
                "bytes/frame": size, "flows": flows, "packets/s in the capture": rate, "records": records,
                "ns/packet": ns, "packets/s": 1e9 / ns,
            })  # fmt: skip
    return table
