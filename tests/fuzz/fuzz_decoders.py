"""Feeds mutated export datagrams to the decoder; nothing but a normal return may come out.

    python tests/fuzz/fuzz_decoders.py --datagrams 10000000 --seed 1

The corpus is every datagram of the captures in tests/data. One decoder lives
through the whole run, so that templates, held sets and sampling rates of many
damaged exporters pile up in it. A failure is cut down to the fewest datagrams
that still show it, which are printed and saved.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowagent.addresses import V4_MAPPED
from flowagent.export.encode import json_lines
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.pcap import captures
from flowagent.schema import COLUMNS

CAPTURES = Path(__file__).parents[1] / "data" / "captures"
WIDTH = 1600
"""Bytes kept of a datagram, and room to make it longer."""
SENDERS = 2
"""Exporters that send the datagrams of one capture."""
NUMBERS = np.array([0, 1, 2, 3, 4, 5, 7, 8, 127, 128, 254, 255, 256, 257, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF], np.uint16)
VERSIONS = np.array([0, 1, 5, 7, 9, 10, 11], np.uint8)
HEADERS = np.array([2, 6, 16, 18, 20, 22, 24, 26, 28, 30, 34, 62])
"""Where counts, lengths and set ids often stand."""
GROWTH_LIMIT = 48 << 20
ENCODE_EVERY, EXPIRE_EVERY = 8, 64


class Corpus(NamedTuple):
    """bytes (m, WIDTH) uint8, length (m,), capture (m,): which file each is from."""

    bytes: np.ndarray
    length: np.ndarray
    capture: np.ndarray


def corpus() -> Corpus:
    """Every datagram of the captures, cut to WIDTH."""
    files = [*sorted(CAPTURES.glob("*.pcap")), *sorted(p for p in CAPTURES.glob("public/files/*/*") if p.is_file())]
    payloads, owner = [], []
    for number, capture in enumerate(captures(files)):
        for datagrams in capture.datagrams():
            payloads += [datagrams.payload(i)[:WIDTH] for i in range(len(datagrams))]
            owner += [number] * len(datagrams)
    rows = np.zeros((len(payloads), WIDTH), np.uint8)
    for row, payload in zip(rows, payloads, strict=True):
        row[: len(payload)] = np.frombuffer(payload, np.uint8)
    return Corpus(rows, np.array([len(p) for p in payloads], np.int64), np.array(owner))


class Mutator:
    """Makes batches of damaged datagrams; batch k of a seed is always the same."""

    def __init__(self, source: Corpus, seed: int, size: int) -> None:
        self._source, self._seed, self._size = source, seed, size
        found = np.unique(source.capture, return_counts=True)
        # Large captures get more than small ones, but not in proportion.
        self._weight = (1 / np.sqrt(found[1]))[np.searchsorted(found[0], source.capture)]
        self._weight /= self._weight.sum()

    def batch(self, number: int) -> Datagrams:
        rng = np.random.default_rng((self._seed, number))
        n, source = self._size, self._source
        rows = rng.choice(len(source.length), n, p=self._weight)
        data, length = source.bytes[rows], source.length[rows].copy()
        for mutate in (_splice, _swap_header, _repeat, _number, _number, _flip_bits, _resize):
            # Some are left as they are, or no exporter would have templates.
            mutate(rng, source, data, length)
        sender = source.capture[rows] * SENDERS + rng.integers(0, SENDERS, n)
        sender[rng.random(n) < 0.02] = 0
        exporter = np.zeros((2, n), np.uint64)
        exporter[1] = np.uint64(V4_MAPPED | 10 << 24) + sender.astype(np.uint64)
        return Datagrams(
            data=data.reshape(-1),
            offset=np.arange(n, dtype=np.int64) * WIDTH,
            length=length,
            exporter=exporter,
            port=rng.choice(np.array([2055] * 19 + [4739], np.uint16), n),
            received_ns=np.full(n, 1_700_000_000 * 10**9 + number * 10**9, np.int64),
        )


def _some(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    return np.flatnonzero(rng.random(n) < share)


def _splice(rng, source: Corpus, data, length) -> None:
    """The head of one datagram, the tail of another."""
    rows = _some(rng, len(data), 0.05)
    other = rng.integers(0, len(source.length), len(rows))
    at = (rng.random(len(rows)) * length[rows]).astype(np.int64) // 4 * 4
    data[rows] = np.where(np.arange(WIDTH) < at[:, None], data[rows], source.bytes[other])
    length[rows] = np.maximum(at, source.length[other])


def _swap_header(rng, source: Corpus, data, length) -> None:
    """Another protocol's version word, or whole header."""
    rows = _some(rng, len(data), 0.05)
    data[rows, 1] = rng.choice(VERSIONS, len(rows))
    rows = _some(rng, len(data), 0.03)
    size = rng.choice(np.array([2, 16, 20, 24]), len(rows))
    other = source.bytes[rng.integers(0, len(source.length), len(rows))]
    data[rows] = np.where(np.arange(WIDTH) < size[:, None], other, data[rows])


def _repeat(rng, source: Corpus, data, length) -> None:
    """A piece of the datagram twice, so that all behind it moves."""
    rows = _some(rng, len(data), 0.05)
    at = (rng.random(len(rows)) * length[rows]).astype(np.int64)
    size = np.minimum(rng.integers(1, 200, len(rows)), at)
    places = np.arange(WIDTH) - np.where(np.arange(WIDTH) >= at[:, None], size[:, None], 0)
    data[rows] = np.take_along_axis(data[rows], places, 1)
    length[rows] = np.minimum(length[rows] + size, WIDTH)


def _number(rng, source: Corpus, data, length) -> None:
    """A 16-bit number that decoders stumble over, at a header's place or anywhere."""
    rows = _some(rng, len(data), 0.15)
    anywhere = (rng.random(len(rows)) * np.maximum(length[rows] - 2, 0)).astype(np.int64)
    at = np.where(rng.random(len(rows)) < 0.5, rng.choice(HEADERS, len(rows)), anywhere)
    value = np.where(
        rng.random(len(rows)) < 0.7,
        rng.choice(NUMBERS, len(rows)),
        (length[rows] + rng.integers(-24, 8, len(rows))).astype(np.uint16),
    )
    data[rows, at] = value >> 8
    data[rows, at + 1] = value & 0xFF


def _flip_bits(rng, source: Corpus, data, length) -> None:
    rows = np.repeat(_some(rng, len(data), 0.25), rng.integers(1, 5))
    at = (rng.random(len(rows)) * length[rows]).astype(np.int64)
    data[rows, at] ^= np.uint8(1) << rng.integers(0, 8, len(rows), np.uint8)


def _resize(rng, source: Corpus, data, length) -> None:
    """Cut short, or with more behind it than there should be."""
    rows = _some(rng, len(data), 0.08)
    length[rows] = (rng.random(len(rows)) * (length[rows] + 1)).astype(np.int64)
    rows = _some(rng, len(data), 0.02)
    length[rows] = np.minimum(length[rows] + rng.integers(1, 64, len(rows)), WIDTH)


class Check:
    """Feeds a decoder and looks at what it gives."""

    def __init__(self) -> None:
        self.decoder = Decoder(ordered=True)
        self.records = 0
        self._batches = 0

    def feed(self, datagrams: Datagrams) -> None:
        """Raises where anything is not as promised."""
        # Mostly a few columns, as a pipeline asks for; now and then all there are.
        rng = np.random.default_rng(self._batches)
        few = frozenset(rng.choice(np.array(list(COLUMNS)), 12, replace=False).tolist())
        self.decoder.want(few if self._batches % 4 else None)
        batch = self.decoder.feed(datagrams)
        self._batches += 1
        self.records += len(batch)
        assert self.records == self.decoder.stats.records.total(), "a row is missing"
        for name, values in batch.columns.items():
            column = COLUMNS.get(name)
            dtype = np.dtype(column.dtype) if column is not None else values.dtype
            assert values.dtype == dtype, f"{name} is {values.dtype}, not {dtype}"
            assert column is None or values.ndim == (2 if column.kind == "addr" else 1), f"{name} has another shape"
        if self._batches % ENCODE_EVERY == 0 and len(batch):
            json_lines(batch.rows(0, min(len(batch), 512)))
        if self._batches % EXPIRE_EVERY == 0:
            self.decoder.expire(int(datagrams.received_ns[-1]))
            assert min(self.decoder.exporters.lost_records().values(), default=0) >= 0, "negative loss"


def fuzz(
    count: int, seed: int, size: int, report: Callable[[str], None], make: Callable[[], Check] = Check
) -> dict[str, int]:
    """Feed `count` datagrams; returns what was counted. Raises AssertionError with a reproducer's path."""
    mutator, check = Mutator(corpus(), seed, size), make()
    batches = -(-count // size)
    warm_up, base, began = max(1, batches // 5), 0, time.perf_counter()
    for number in range(batches):
        try:
            check.feed(mutator.batch(number))
        except Exception as error:
            path = _reproducer(mutator, number, seed, error, make)
            raise AssertionError(f"batch {number} of seed {seed}: {error!r}; reproducer in {path}") from error
        if number + 1 == warm_up:
            base = rss()
        if number % max(1, batches // 50) == 0 or number + 1 == batches:
            done, seconds = (number + 1) * size, time.perf_counter() - began
            report(f"{done:>10} datagrams {done / seconds:>8.0f}/s {check.records:>10} records {rss() >> 20:>5} MB RSS")
    growth = rss() - base
    stats = check.decoder.stats
    report(f"growth after warm-up: {growth / (1 << 20):.1f} MB")
    for (protocol, reason), errors in sorted(stats.errors.items()):
        report(f"{protocol:>10} {reason:<22}{errors:>10}")
    for name in ("held", "replayed", "expired", "templates", "options_records", "evicted_templates"):
        report(f"{'':>10} {name:<22}{getattr(stats, name):>10}")
    assert growth < GROWTH_LIMIT, f"memory grew by {growth >> 20} MB"
    return {"datagrams": stats.datagrams.total(), "records": check.records, "errors": stats.errors.total()}


def rss() -> int:
    """Resident bytes of this process, once what was freed has gone back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _reproducer(mutator: Mutator, number: int, seed: int, error: Exception, make: Callable[[], Check]) -> Path:
    """The fewest datagrams that fail in the same way in a decoder that has seen nothing else."""

    def fails(sequence: list) -> bool:
        return _fails(sequence, type(error), make())

    for before in (0, 1, 3, 15, 63, 255):
        first = max(0, number - before)
        batches = [mutator.batch(k) for k in range(first, number + 1)]
        sequence = [(batch, i) for batch in batches for i in range(len(batch))]
        if fails(sequence):
            break
        if first == 0:
            return _save(sequence[-1:], seed, number, "not seen again without all that came before")
    else:
        return _save(sequence[-1:], seed, number, "not seen again without all that came before")
    pieces = 2
    while len(sequence) > 1:
        step = -(-len(sequence) // pieces)
        for rest in _without(sequence, step):
            if fails(rest):
                sequence, pieces = rest, max(2, pieces - 1)
                break
        else:
            if step == 1:
                break
            pieces = min(len(sequence), pieces * 2)
    return _save(sequence, seed, number, repr(error))


def _without(sequence: list, step: int) -> Iterator[list]:
    return (sequence[:at] + sequence[at + step :] for at in range(0, len(sequence), step))


def _fails(sequence: list[tuple[Datagrams, int]], kind: type[Exception], check: Check) -> bool:
    try:
        check.feed(_joined(sequence))
    except kind:
        return True
    except Exception:  # noqa: BLE001 (another failure is another story)
        return False
    return False


def _joined(sequence: list[tuple[Datagrams, int]]) -> Datagrams:
    return Datagrams(
        data=np.concatenate([d.data[d.offset[i] : d.offset[i] + WIDTH] for d, i in sequence]),
        offset=np.arange(len(sequence), dtype=np.int64) * WIDTH,
        length=np.array([d.length[i] for d, i in sequence]),
        exporter=np.array([d.exporter[:, i] for d, i in sequence]).T.copy(),
        port=np.array([d.port[i] for d, i in sequence]),
        received_ns=np.array([d.received_ns[i] for d, i in sequence]),
    )


def _save(sequence: list[tuple[Datagrams, int]], seed: int, number: int, note: str) -> Path:
    path = Path(f"fuzz-{seed}-{number}.txt")
    lines = [f"# {note}", *(f"{int(d.exporter[1, i]):x} {d.port[i]} {d.payload(i).hex()}" for d, i in sequence)]
    path.write_text("\n".join(lines) + "\n")
    return path.absolute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datagrams", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16384)
    arguments = parser.parse_args()

    def report(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    fuzz(arguments.datagrams, arguments.seed, arguments.batch, report)


if __name__ == "__main__":
    main()
