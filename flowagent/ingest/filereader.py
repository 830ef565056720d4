"""Rows of one file, a piece at a time: captures of exports, Parquet, or lines of JSON, told apart by their content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from flowagent.batch import Batch
from flowagent.errors import ConfigError
from flowagent.ingest import ndjson, parquet
from flowagent.ingest.decoded import RowDecoder
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.packetfile import read_flows
from flowagent.ingest.pcap import Capture
from flowagent.schema import COLUMNS

_PCAP = (b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a")
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_ROWS = 8192
"""Rows of a piece, about."""


Captures = Literal["auto", "exports", "packets"]
"""What captures hold; `auto` looks into each."""


class Piece(NamedTuple):
    """Some rows, and where the next ones begin."""

    batch: Batch
    errors: Counter[str]
    offset: int
    """Bytes of the file that are read; 0 where it can only be read from its begin."""
    is_export: bool = False
    """Whether the decoder of exports counts the records."""


class BadFileError(Exception):
    """A file that cannot be read at all, or not on."""


class FileReader:
    """Reads files one after the other; templates of captured exports last from one to the next."""

    def __init__(self, lines: RowDecoder, captures: Captures = "auto") -> None:
        self.lines = lines
        self._captures = captures
        self.exports = Decoder()
        self._columns: frozenset[str] | None = None

    def want(self, columns: frozenset[str] | None) -> None:
        """Which columns are used downstream; None for all."""
        self._columns = columns
        self.lines.want(columns)
        self.exports.want(columns)

    def read(self, path: Path, offset: int) -> Iterator[Piece]:
        """The rows behind this offset; BadFileError with the reason, behind the rows that can be read."""
        try:
            with path.open("rb") as file:
                start = file.peek(4)[:4]
            if start in _PCAP:
                yield from self._captured(path)
            elif start == parquet.MAGIC:
                yield from self._parquet(path)
            elif start[:2] == _COMPRESSED[0] or start == _COMPRESSED[1]:
                yield from self._compressed(path)
            else:
                yield from self._lines(path, offset)
        except ConfigError as error:
            raise BadFileError(error.problem) from error
        except OSError as error:
            raise BadFileError(f"cannot be read: {error.strerror or error}") from error

    def _captured(self, path: Path) -> Iterator[Piece]:
        """Of exports, or of packets, which are counted into flows."""
        capture = Capture([path])
        if self._captures == "packets" or (self._captures == "auto" and capture.holds_packets()):
            skipped: Counter[str] = Counter()
            for flows in read_flows(path, skipped=skipped):
                yield Piece(flows, Counter(), 0)
        else:
            for datagrams in capture.datagrams():
                yield Piece(self.exports.feed(datagrams), Counter(), 0, is_export=True)
            skipped = capture.skipped
        yield Piece(Batch({}), Counter({reason: n for reason, n in skipped.items() if reason != "not_udp"}), 0)
        if "bad_file" in skipped or "truncated_file" in skipped:
            raise BadFileError("is damaged or cut off; what stands before was read")

    def _parquet(self, path: Path) -> Iterator[Piece]:
        problems: list[str] = []
        columns = COLUMNS.keys() if self._columns is None else self._columns & COLUMNS.keys()
        for batch in parquet.read(path, columns, problems.append):
            yield Piece(batch, Counter({"bad_value": len(problems)}), 0)
            problems.clear()
        if problems:
            raise BadFileError(problems[-1].removeprefix(f"{path}: "))

    def _compressed(self, path: Path) -> Iterator[Piece]:
        """Lines, or a capture."""
        problems: list[str] = []
        with path.open("rb") as file:
            pieces = ndjson.chunks(file, problems.append, _ROWS)
            first = next(pieces, (1, b""))[1]
            if first[:4] in _PCAP:
                yield from self._captured(path)
                return
            if first:
                yield self._decoded(first, 0)
            for _, lines in pieces:
                yield self._decoded(lines, 0)
        if problems:
            raise BadFileError(problems[-1])

    def _lines(self, path: Path, offset: int) -> Iterator[Piece]:
        """Whole lines only: the last one may be under way."""
        with path.open("rb") as file:
            file.seek(offset)
            while True:
                block = file.read(ndjson.LONGEST)
                end = block.rfind(b"\n") + 1
                if not end and len(block) == ndjson.LONGEST:
                    raise BadFileError(f"has a line longer than {ndjson.LONGEST} bytes, or none at all")
                if not end:
                    return
                offset += end
                file.seek(offset)
                yield self._decoded(block[:end], offset)

    def _decoded(self, lines: bytes, offset: int) -> Piece:
        found = self.lines.decode([lines])
        return Piece(found.batch, found.errors, offset)
