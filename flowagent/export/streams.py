"""Rows into streams: a stream is a set of labels, and there are never more of them alive than were allowed.

Values of labels come from traffic, so their number has no bound of its own.
Label sets beyond the limit share the one stream that has the static labels
only; what they would have been labelled with stays in their lines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np

from flowagent.batch import Array, constant, is_constant
from flowagent.clock import SECOND
from flowagent.export.text import words
from flowagent.export.value import Value, plain
from flowagent.grouping import Groups, group_rows
from flowagent.metrics import Family

IDLE_NS = 1800 * SECOND
"""A stream that got nothing for so long is not alive any more (Loki's default `chunk_idle_period`)."""
_Key = tuple[str, ...]
"""The values of all labels; empty where there is none."""


class _Stream:
    """One that is alive."""

    __slots__ = ("labels", "used_ns")

    def __init__(self, labels: bytes) -> None:
        self.labels = labels
        self.used_ns = 0


class Assigned(NamedTuple):
    """The number of each row's stream, and whether that is the shared one for want of room: (n,) each."""

    of_row: Array
    folded: Array


class Streams:
    """The streams that are alive."""

    def __init__(
        self,
        names: Mapping[str, str],
        static: Mapping[str, str],
        limit: int,
        render: Callable[[Mapping[str, str]], bytes],
    ) -> None:
        """`names` are the fields that make labels, and the labels they make; `render` makes of labels what is sent."""
        self._names, self._labels = tuple(names), tuple(names.values())
        self._static = static
        self._limit = limit
        self._render = render
        self._shared = render(static)
        self._alive: OrderedDict[_Key, _Stream] = OrderedDict()
        self._folded = self._evicted = 0

    def __len__(self) -> int:
        return len(self._alive)

    def assign(self, fields: Mapping[str, Value], rows: int, now_ns: int, numbers: dict[bytes, int]) -> Assigned:
        """A stream for each row, by those fields that there are; streams that have no number yet are given one."""
        shared = numbers.setdefault(self._shared, len(numbers))
        present = [fields[name] for name in self._names if name in fields]
        groups = group_values(present, rows)
        of_group = np.full(len(groups.starts), shared)
        folded = np.zeros(len(groups.starts), np.bool_)
        columns = [texts(taken(fields[name], groups.first)) if name in fields else repeat("") for name in self._names]
        for i, key in enumerate(zip(*columns, strict=False) if present else ()):
            stream = self._find(key, now_ns) if any(key) else self._shared
            if stream is None:
                folded[i] = True
            else:
                of_group[i] = numbers.setdefault(stream, len(numbers))
        assigned = Assigned(spread(groups, of_group), spread(groups, folded))
        self._folded += int(np.count_nonzero(assigned.folded))
        return assigned

    def _find(self, key: _Key, now_ns: int) -> bytes | None:
        """The stream of these labels; None where there is no room for it."""
        stream = self._alive.get(key)
        if stream is None:
            if len(self._alive) >= self._limit:
                oldest = next(iter(self._alive.values()))
                if now_ns - oldest.used_ns < IDLE_NS:
                    return None
                self._alive.popitem(last=False)
                self._evicted += 1
            labels = {label: text for label, text in zip(self._labels, key, strict=True) if text}
            stream = self._alive[key] = _Stream(self._render({**self._static, **labels}))
        stream.used_ns = now_ns
        self._alive.move_to_end(key)
        return stream.labels

    def families(self, sink: str) -> Iterable[Family]:
        """Self metrics."""
        yield Family("flowagent_sink_streams", "gauge", "Label sets that are alive.", ("sink",), {(sink,): len(self)})
        text = "Label sets forgotten as nothing came for them, to make room."
        yield Family("flowagent_sink_streams_evicted", "counter", text, ("sink",), {(sink,): self._evicted})
        text = "Rows that share one stream, as their label sets would have been too many."
        yield Family("flowagent_sink_folded_rows", "counter", text, ("sink",), {(sink,): self._folded})


def group_values(values: Sequence[Value], rows: int) -> Groups:
    """Group rows by the exact values of some fields."""
    columns = [column for value in values for column in _columns(value)]
    return group_rows(columns or [constant(0, rows, np.uint8)])


def _columns(value: Value) -> Iterable[Array]:
    """What tells values apart, as 1-D integers."""
    data, known = value.data, value.known
    if known is not None:
        yield known
        data = np.where(known, data, data.dtype.type())
    if is_constant(data):
        return
    if data.ndim == 2:
        yield from data
    elif data.dtype.kind == "S":
        yield from words(data)
    elif data.dtype == object:
        numbers: dict[object, int] = {}
        yield np.array([numbers.setdefault(one, len(numbers)) for one in data.tolist()])
    else:
        yield data.view(f"u{data.dtype.itemsize}") if data.dtype.kind == "f" else data


def spread(groups: Groups, values: Array) -> Array:
    """What is known of groups (g,), for their rows (n,)."""
    out = np.empty(len(groups.order), values.dtype)
    out[groups.order] = values.repeat(groups.sizes())
    return out


def taken(value: Value, rows: Array) -> Value:
    """The values at these positions."""
    data, known = value.data, value.known
    if is_constant(data):
        data = np.broadcast_to(data[..., :1], (*data.shape[:-1], len(rows)))
    else:
        data = data.take(rows, axis=-1)
    return replace(value, data=data, known=None if known is None else known.take(rows))


def texts(value: Value) -> list[str]:
    """As labels have them; empty where unknown."""
    items = plain(value)
    if value.is_list:
        items = [item if item is msgspec.UNSET else item[0] for item in items]
    if value.known is None and value.is_text:
        return items
    return [item if isinstance(item, str) else _text(item) for item in items]


def _text(item: Any) -> str:
    return "" if item is msgspec.UNSET else msgspec.json.encode(item).decode()
