"""IPFIX messages (RFC 7011, section 3): sets of templates, of what is said of sampling rates, and of data records.

Rates are told as RFC 5477 has it: each gets a selector, a record of an options
template says one packet in how many it selects, and data records name it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.export.ipfix_template import OPTIONS_ID, SELECTOR
from flowagent.export.streams import spread
from flowagent.grouping import group_rows

HEADER = struct.Struct(">HHIII")
"""Version, length, export time in seconds, sequence, observation domain."""
_SET = struct.Struct(">HH")
_VERSION, _TEMPLATE_SET, _OPTIONS_SET = 10, 2, 3
_SYSTEMATIC_COUNT = 1
_OPTIONS = struct.pack(">11H", OPTIONS_ID, 4, 1, 302, 4, 304, 2, 305, 4, 306, 4)
"""Selector (the scope), its algorithm, interval and space."""
_OPTION = struct.Struct(">IHII")
_EXACT = 10**6
"""Greatest interval that a rate with a fraction is told with."""
_LARGEST = 1 << 32
MAX_RATES = 1000


class Message(NamedTuple):
    """A message whose export time and sequence number are still to be stamped."""

    data: memoryview
    records: int
    """Data records in it, those of options too: by so much the sequence number grows."""

    def stamp(self, seconds: int, sequence: int) -> None:
        """Write them in."""
        struct.pack_into(">II", self.data, 4, seconds, sequence & 0xFFFF_FFFF)


class Rates:
    """The sampling rates that were met, and their selectors."""

    def __init__(self) -> None:
        self._known: dict[float, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def with_selectors(self, batch: Batch) -> Batch:
        """The rows with the selectors of their rates, where these are known and can be told."""
        if "sampling_rate" not in batch:
            return batch
        rates = np.where(batch.is_known("sampling_rate"), batch["sampling_rate"], 0.0)
        groups = group_rows([rates.view(np.uint64)])
        numbers = spread(groups, np.array(list(map(self._number, rates[groups.first].tolist())), np.uint32))
        known = numbers > 0
        return batch.with_columns({SELECTOR: numbers}, {} if bool(known.all()) else {SELECTOR: known})

    def _number(self, rate: float) -> int:
        """0 for one that cannot be told."""
        if rate in self._known or not 1 <= rate < _LARGEST or len(self._known) >= MAX_RATES:
            return self._known.get(rate, 0)
        self._known[rate] = len(self._known) + 1
        return self._known[rate]

    def records(self) -> list[bytes]:
        """Data records of the options template, one for each."""
        return [_option(selector, rate) for rate, selector in self._known.items()]


def _option(selector: int, rate: float) -> bytes:
    """What a selector selects: of each `interval + space` packets the first `interval`."""
    exact = Fraction(rate)
    limit = _EXACT
    while (ratio := exact.limit_denominator(limit)).numerator >= _LARGEST:
        limit //= 10
    return _OPTION.pack(selector, _SYSTEMATIC_COUNT, ratio.denominator, ratio.numerator - ratio.denominator)


def template_messages(templates: Iterable[bytes], domain: int, limit: int) -> Iterator[Message]:
    """Template records in messages of `limit` bytes at most."""
    return _messages(_TEMPLATE_SET, templates, domain, limit)


def options_template_message(domain: int) -> Message:
    """The options template of the rates."""
    return _message(_OPTIONS_SET, [_OPTIONS], domain)


def option_messages(records: Iterable[bytes], domain: int, limit: int) -> Iterator[Message]:
    """The records of the rates in messages."""
    return _messages(OPTIONS_ID, records, domain, limit)


def _messages(set_id: int, records: Iterable[bytes], domain: int, limit: int) -> Iterator[Message]:
    """As many records in each as it has room for."""
    room = limit - HEADER.size - _SET.size
    some: list[bytes] = []
    size = 0
    for record in records:
        if some and size + len(record) > room:
            yield _message(set_id, some, domain)
            some, size = [], 0
        some.append(record)
        size += len(record)
    if some:
        yield _message(set_id, some, domain)


def _message(set_id: int, records: list[bytes], domain: int) -> Message:
    body = b"".join(records)
    data = bytearray(_head(set_id, len(body), domain) + body)
    return Message(memoryview(data), len(records) if set_id >= OPTIONS_ID else 0)


def _head(set_id: int, size: int, domain: int) -> bytes:
    """The headers of a message with one set, whose records have `size` bytes."""
    size += _SET.size
    return HEADER.pack(_VERSION, HEADER.size + size, 0, 0, domain) + _SET.pack(set_id, size)


def data_messages(set_id: int, records: Array, domain: int, limit: int) -> Iterator[Message]:
    """Data records (n,) of one template in messages of `limit` bytes at most: one set each."""
    head = HEADER.size + _SET.size
    width = records.dtype.itemsize
    most = max(1, (limit - head) // width)
    whole = len(records) // most * most
    for part, count in ((records[:whole], most), (records[whole:], len(records) - whole)):
        if len(part):
            size = head + count * width
            octets = np.empty((len(part) // count, size), np.uint8)
            octets[:, :head] = np.frombuffer(_head(set_id, count * width, domain), np.uint8)
            octets[:, head:] = part.view(np.uint8).reshape(len(octets), -1)
            data = octets.reshape(-1).data
            yield from (Message(data[start : start + size], count) for start in range(0, len(data), size))
