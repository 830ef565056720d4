"""Packet captures in files: flow records of the packets in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.errors import DecodeError
from flowagent.ingest.capfile import (
    BAD_FILE,
    Frames,
    Stream,
    decompressed,
    exactly,
    is_capture,
    open_file,
    read_frames,
    unreadable,
)  # fmt: skip
from flowagent.ingest.meter import NO_EXPORTER, Meter, Metering

_AT_ONCE = 65536
"""Packets whose columns are in memory together."""


def read_flows(
    path: Path,
    metering: Metering | None = None,
    *,
    sampling_rate: float = 1.0,
    skipped: Counter[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Batch]:
    """Flow records of the packets in a pcap or pcapng file, also compressed with gzip or zstd.

    Time is that of the capture, so the same file gives the same records; see `flowcache.FlowCache` for their
    columns. The exporter is `metering.exporter`, else 192.0.2.1. `sampling_rate`: one packet in so many was
    captured. Frames that are in no record are counted in `skipped`, by the reasons of `Meter` and, as in
    `pcap.Capture`, bad_packet, truncated_file and bad_file; what comes before damage is in the records.
    `progress` is told how many bytes of the file were read. Memory is bounded. Raises ConfigError for a file
    that cannot be read, and for wrong settings.
    """
    metering = metering or Metering()
    limits = metering.limits("packets")
    exporter = metering.exporter_words("packets") or address_words(NO_EXPORTER)
    skipped = Counter() if skipped is None else skipped
    meter = Meter(limits, tunnels=metering.tunnels, exporter=exporter, sampling_rate=sampling_rate, skipped=skipped)
    with open_file(path) as file:
        for frames in _frames(path, decompressed(file), skipped):
            # As few batches as possible, for each costs the stages something.
            records = Batch.concat(list(meter.add(frames)))
            if len(records):
                yield records
            if progress is not None and file.seekable():
                progress(file.tell())
    yield from meter.flush()


def _frames(path: Path, stream: Stream, skipped: Counter[str]) -> Iterator[Frames]:
    """As far as the file is whole."""
    try:
        magic = exactly(stream, 4)
        if not is_capture(magic):
            raise DecodeError("bad_file", "neither pcap nor pcapng")
        for frames in read_frames(magic, stream, skipped):
            for start in range(0, len(frames), _AT_ONCE):
                yield frames.take(slice(start, start + _AT_ONCE))
    except EOFError:
        skipped["truncated_file"] += 1
    except BAD_FILE:
        skipped["bad_file"] += 1
    except OSError as error:
        raise unreadable(path, error) from error
