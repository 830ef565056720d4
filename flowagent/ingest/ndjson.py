"""Rows that were exported as lines of JSON, for `flowagent estimate`: what `json_lines` in `export/encode.py` wrote.

    file  ->  blocks, decompressed  ->  chunks of whole lines  ->  structs of the wanted fields  ->  Batch

A line that is no row costs that line only. Memory is bounded, whatever is in the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import zstandard

from flowagent.batch import Batch
from flowagent.ingest.values import Problem, Read, Values, batch_of

CHUNK_ROWS = 65536
"""Rows that are read at once, about."""
_CHUNK_BYTES = 16 << 20
_BLOCK = 1 << 20
_STEP = 512
"""Compressed bytes that are taken at once: those of zstd may become 30,000 times as many."""
LONGEST = 1 << 20
"""Bytes of a line."""
_TOO_LONG = b"\0\0\0"
"""Stands for the head of a line that is longer, and is no JSON."""
_NO_ROW = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DAMAGED = (zlib.error, zstandard.ZstdError)
# By content, not by name: no JSON begins like this.
_COMPRESSED: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": partial(zlib.decompressobj, 31),
    b"\x28\xb5\x2f\xfd": lambda: zstandard.ZstdDecompressor().decompressobj(),
}


def read(source: Path | BinaryIO, columns: Collection[str], problem: Problem) -> Iterator[Batch]:
    """Yield the rows of a file or stream, also compressed with gzip or zstd, some CHUNK_ROWS at a time.

    Batches hold those of the `columns` that are known in any of their rows. Each bad line is told to
    `problem` and left out; so is the end of a file that was cut off. Raises OSError.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield from read(file, columns, problem)
        return
    place = f"{getattr(source, 'name', 'input')}: "
    rows = _Rows(columns, lambda what: problem(place + what))
    for first, lines in chunks(source, lambda what: problem(place + what)):
        yield rows.batch(first, lines)


def chunks(file: BinaryIO, problem: Problem, rows: int = CHUNK_ROWS) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines of a file, some `rows` at a time, decompressed, and the number of the first; raises OSError."""
    return _chunks(_sound(_blocks(file), problem), rows)


class _Rows:
    """Turns lines into rows."""

    def __init__(self, columns: Collection[str], problem: Problem) -> None:
        self._readers = [Values(name) for name in columns]
        fields = [
            (f"f{i}", r.type | None, msgspec.field(default=None, name=r.name)) for i, r in enumerate(self._readers)
        ]
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Row", fields, gc=False))
        self._problem = problem

    def batch(self, first: int, lines: bytes) -> Batch:
        """The rows of these lines, of which the first has this number."""
        rows, numbers = self._decode(first, lines)

        def column(i: int, reader: Values) -> Read:
            values: list[Any] = list(map(attrgetter(f"f{i}"), rows))
            return reader.of_texts(values) if reader.is_text else reader.of_numbers(values)

        batch, wrong = batch_of(((r.name, column(i, r)) for i, r in enumerate(self._readers)), len(rows))
        for row, reason in wrong.items():
            self._problem(f"line {numbers[row]}: {reason}")
        return batch

    def _decode(self, first: int, lines: bytes) -> tuple[Sequence[Any], Sequence[int]]:
        """Structs and the numbers of their lines."""
        try:
            rows = self._decoder.decode_lines(lines)
        except _NO_ROW:
            pass
        else:
            if len(rows) == lines.count(b"\n") + (not lines.endswith(b"\n")):
                return rows, range(first, first + len(rows))
        rows, numbers = [], []
        for number, line in enumerate(lines.split(b"\n"), first):
            if not line or line.isspace():
                continue
            try:
                rows.append(self._decoder.decode(line))
            except _NO_ROW as error:
                reason = f"longer than {LONGEST} bytes" if line.startswith(_TOO_LONG) else error
                self._problem(f"line {number}: {reason}")
            else:
                numbers.append(number)
        return rows, numbers


def _chunks(blocks: Iterator[bytes], rows: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines, with the number of the first of them."""
    parts: list[bytes] = []
    first, count, size = 1, 0, 0
    for part in _whole_lines(blocks):
        parts.append(part)
        count += part.count(b"\n")
        size += len(part)
        if count >= rows or size >= _CHUNK_BYTES:
            yield first, b"".join(parts)
            parts, first, count, size = [], first + count, 0, 0
    if parts:
        yield first, b"".join(parts)


def _whole_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks cut at ends of lines."""
    rest = b""
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
        if len(rest) > LONGEST:
            rest = _TOO_LONG
    if rest:
        yield rest


def _sound(blocks: Iterator[bytes], problem: Problem) -> Iterator[bytes]:
    """The blocks before the first damage."""
    try:
        yield from blocks
    except EOFError:
        problem("the compressed data is cut off; what is there was read")
    except _DAMAGED as error:
        problem(f"the compressed data is damaged; what stands before was read: {error}")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """What is in the file, decompressed; raises EOFError where that is cut off, or one of _DAMAGED."""
    blocks = iter(partial(file.read, _BLOCK), b"")
    first = next(blocks, b"")
    make = next((make for magic, make in _COMPRESSED.items() if first.startswith(magic)), None)
    blocks = chain([first], blocks)
    return blocks if make is None else _inflated(blocks, make)


def _inflated(blocks: Iterator[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    inflate = make()
    for block in blocks:
        for start in range(0, len(block), _STEP):
            data = block[start : start + _STEP]
            while data:
                if inflate.eof:  # what follows is compressed by itself
                    inflate = make()
                yield inflate.decompress(data)
                data = inflate.unused_data
    if not inflate.eof:
        raise EOFError
