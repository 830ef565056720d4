"""Datagrams: what a source hands to the decoder, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from flowagent.addresses import address_words
from flowagent.batch import Array


@dataclass(frozen=True, slots=True)
class Datagrams:
    """k export datagrams in order of arrival, all in one buffer.

    data         (bytes,) uint8: the buffer; the source may write it anew after the decoder returned
    offset       (k,) int64: where each payload begins in `data`
    length       (k,) int64: its bytes
    exporter     (2, k) uint64: the sender's address, IPv4 as ::ffff:a.b.c.d
    port         (k,) uint16: the sender's port
    received_ns  (k,) int64: when it was taken from the kernel, or the capture's time stamp
    """

    data: Array
    offset: Array
    length: Array
    exporter: Array
    port: Array
    received_ns: Array

    def __len__(self) -> int:
        return len(self.offset)

    def payload(self, i: int) -> bytes:
        """A copy of one payload."""
        start = int(self.offset[i])
        return self.data[start : start + int(self.length[i])].tobytes()

    def part(self, start: int, stop: int) -> Datagrams:
        """A run of these datagrams, in the same buffer."""
        run = slice(start, stop)
        return Datagrams(
            self.data, self.offset[run], self.length[run], self.exporter[:, run], self.port[run], self.received_ns[run]
        )

    @classmethod
    def of(
        cls,
        payloads: Sequence[bytes],
        *,
        exporter: str | Sequence[str] = "192.0.2.1",
        port: int | Sequence[int] = 4444,
        received_ns: int | Sequence[int] = 0,
    ) -> Self:
        """Datagrams from payloads held as bytes; one sender and time for all, or one each."""
        k = len(payloads)
        length = np.array([len(p) for p in payloads], np.int64)
        exporters = [exporter] * k if isinstance(exporter, str) else exporter
        words = {text: address_words(text) for text in set(exporters)}
        return cls(
            data=np.frombuffer(b"".join(payloads), np.uint8),
            offset=np.concatenate([np.zeros(1, np.int64), np.cumsum(length)[:-1]])[:k],
            length=length,
            exporter=np.array([words[text] for text in exporters], np.uint64).reshape(k, 2).T.copy(),
            port=np.full(k, port, np.uint16) if isinstance(port, int) else np.array(port, np.uint16),
            received_ns=np.full(k, received_ns, np.int64)
            if isinstance(received_ns, int)
            else np.array(received_ns, np.int64),
        )

    def heads(self, rows: Array, size: int) -> Array:
        """The first `size` bytes of these payloads, (len(rows), size) uint8; past a payload's end they mean nothing."""
        return gather(self.data, self.offset[rows], size)


def gather(data: Array, offset: Array, size: int) -> Array:
    """A copy of the `size` bytes at each offset: (len(offset), size) uint8.

    Copying first pays: columns are then read from memory that lies together.
    What would lie beyond the buffer reads as zero.
    """
    if len(data) < size or int(offset.max()) > len(data) - size:
        data = np.concatenate([data, np.zeros(size, np.uint8)])
    # Every place in the buffer as an item of `size` bytes: indexing then copies whole items.
    places: Array = np.ndarray((len(data) - size + 1,), f"V{size}", buffer=data, strides=(1,))
    return places[offset].view(np.uint8).reshape(len(offset), size)


def padded(data: Array, end: Array, size: int) -> Array:
    """The buffer, made longer where less than `size` bytes follow the last of these ends, so that `gather` need not."""
    return data if int(end.max()) <= len(data) - size else np.concatenate([data, np.zeros(size, np.uint8)])


def numbers(heads: Array, at: int, size: int) -> Array:
    """The big-endian number of 2 or 4 bytes at one place of each head, int64."""
    return heads[:, at : at + size].view(f">u{size}")[:, 0].astype(np.int64)
