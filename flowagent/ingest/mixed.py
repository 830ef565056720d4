"""Records of many templates at once.

Open vSwitch sends one record a datagram in any of 88 templates, so that a drain
holds a few records of each. Reading them template by template would cost more
calls than there are records. Here each column is read from all records at once,
whatever their template, by the place that it has in each.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flowagent.batch import Array
from flowagent.grouping import group_rows
from flowagent.ingest.datagrams import gather
from flowagent.ingest.fields import Converter, Head, Values
from flowagent.ingest.layout import Layout, layout_of, only_icmp
from flowagent.ingest.records import PADDING, Sets, fixed_runs, variable_length
from flowagent.ingest.templates import Template

_Way = tuple[int, Converter]
FEW_IN_SET = 4
"""Sets of more records are read faster by themselves."""


@lru_cache(maxsize=4096)
def can_mix(template: Template) -> bool:
    """Whether each column of its records has one place only, and they describe one direction."""
    if template.min_length == 0:
        return False
    variable = (1 << 2 | 1,) * len(fixed_runs(template)[0])
    return layout_of(template, variable if template.is_variable else None).places is not None


def _places(layout: Layout, names: frozenset[str]) -> list[tuple[str, _Way, int]]:
    """Where these columns lie in a layout; kept there for the columns asked for last."""
    asked, places = layout.last_asked or (None, [])
    if asked != names:
        found = ((name, layout.places.get(name)) for name in sorted(names)) if layout.places else ()
        places = [(name, (piece.length, piece.convert), piece.offset) for name, piece in found if piece]
        layout.last_asked = (names, places)
    return places


@dataclass(frozen=True, slots=True)
class Mix:
    """Records (n,) found in sets (s,) of many templates.

    layouts  the layouts met
    layout   (n,) which of them the record has
    sets     (n,) the set it is from
    start    (n,) int64, where it begins in the buffer
    counts   (s,) int64, records in each set
    overrun  (s,) bool, a record runs past the end of the set, or it holds none
    left     (s,) int64, bytes after the last record
    """

    layouts: list[Layout]
    layout: Array
    sets: Array
    start: Array
    counts: Array
    overrun: Array
    left: Array

    @property
    def misfit(self) -> Array:
        """(s,) bool: the template does not explain the set to its end."""
        return self.overrun | (self.left > PADDING)

    def of_sets(self, good: Array) -> Mix:
        """Only the records of these sets, bool (s,)."""
        if bool(good.all()):
            return self
        keep = good[self.sets]
        records = (self.layout[keep], self.sets[keep], self.start[keep])
        return Mix(self.layouts, *records, self.counts, self.overrun, self.left)

    def columns(self, data: Array, head: Head, wanted: Set[str]) -> dict[str, Values]:
        """The columns of all records; `head` has one row for each."""
        names = wanted | {"proto"} if {"icmp_type", "icmp_code"} & wanted else wanted
        ways = self._ways(names)
        read = {name: self._column(data, head, found) for name, found in ways.items()}
        out = {name: values for name, values in read.items() if values is not None}
        if "proto" in out:
            only_icmp(out, self._said_proto(out["proto"], ways["proto"]))
        return {name: values for name, values in out.items() if name in wanted}

    def _said_proto(self, proto: Values, ways: dict[_Way, Array]) -> Values:
        """The protocol, ICMP where the template has none: nothing speaks against its ICMP elements then."""
        says = np.zeros(len(self.layouts), np.bool_)
        for places in ways.values():
            says |= places >= 0
        silent = ~says[self.layout]
        if not bool(silent.any()):
            return proto
        known = np.ones_like(silent) if proto.known is None else proto.known | silent
        return Values(np.where(silent, np.uint8(1), proto.data), known)

    def _ways(self, names: Set[str]) -> dict[str, dict[_Way, Array]]:
        """For each column the ways to read it (length and converter), with the place in each layout, -1 for none."""
        ways: dict[str, dict[_Way, list[int]]] = {}
        for i, layout in enumerate(self.layouts):
            for name, key, offset in _places(layout, frozenset(names)):
                places = ways.setdefault(name, {}).get(key)
                if places is None:
                    places = ways[name][key] = [-1] * len(self.layouts)
                places[i] = offset
        return {name: {key: np.array(places) for key, places in found.items()} for name, found in ways.items()}

    def _column(self, data: Array, head: Head, ways: dict[_Way, Array]) -> Values | None:
        parts: list[tuple[Array, Values]] = []
        for (length, convert), places in ways.items():
            place = places[self.layout]
            rows = np.flatnonzero(place >= 0)
            if not len(rows):
                continue
            everywhere = len(rows) == len(place)
            raw = gather(data, self.start + place if everywhere else self.start[rows] + place[rows], length)
            values = convert(raw[:, None, :], head if everywhere else head.take(rows))
            if everywhere:
                return values
            if values is not None:
                parts.append((rows, values))
        return self._joined(parts) if parts else None

    def _joined(self, parts: list[tuple[Array, Values]]) -> Values:
        first = parts[0][1].data
        data = np.zeros((*first.shape[:-1], len(self.start)), first.dtype)
        known = np.zeros(len(self.start), np.bool_)
        for rows, values in parts:
            data[..., rows] = values.data
            known[rows] = True if values.known is None else values.known
        return Values(data, None if bool(known.all()) else known)


def cut_mixed(data: Array, templates: Sequence[Template], which: Array, sets: Sets) -> Mix:
    """Find the records of sets, each of template `which` (s,) of `templates`."""
    table = _Table(templates)
    end, length = sets.offset + sets.length, sets.length
    counts, left = np.zeros(len(length), np.int64), length.copy()
    overrun = np.zeros(len(length), np.bool_)
    active, start = np.arange(len(length)), sets.offset.copy()
    found: list[tuple[Array, Array, Array]] = []
    while len(active):
        left[active] = end[active] - start
        enough = left[active] >= table.min_length[which[active]]
        active, start = active[enough], start[enough]
        lengths, stop = table.walk(data, which[active], start, end[active])
        fits = stop <= end[active]
        overrun[active[~fits & (left[active] > PADDING)]] = True
        active, start, lengths, stop = active[fits], start[fits], lengths[:, fits], stop[fits]
        counts[active] += 1
        found.append((active, start, lengths))
        start = stop
    overrun |= counts == 0
    of_set, starts = (np.concatenate([f[i] for f in found]) for i in (0, 1))
    lengths = np.concatenate([f[2] for f in found], axis=1)
    layouts, layout = table.layouts(which[of_set], lengths)
    return Mix(layouts, layout, of_set, starts, counts, overrun, left)


class _Table:
    """What is needed of many templates to walk along their records, as arrays (templates,) or (templates, fields)."""

    def __init__(self, templates: Sequence[Template]) -> None:
        runs = [fixed_runs(template) for template in templates]
        self._templates = templates
        self._variable = np.array([len(skips) for skips, _ in runs])
        self._most = int(self._variable.max())
        self._skips = np.zeros((len(runs), self._most), np.int64)
        for row, (skips, _) in zip(self._skips, runs, strict=True):
            row[: len(skips)] = skips
        self._tail = np.array([tail for _, tail in runs])
        self.min_length = np.array([template.min_length for template in templates])

    def walk(self, data: Array, which: Array, start: Array, end: Array) -> tuple[Array, Array]:
        """One record of each set: its variable fields' lengths (fields, sets), 0 where it has fewer, and its end."""
        position = start.copy()
        lengths = np.zeros((self._most, len(start)), np.int64)
        for field in range(self._most):
            position += self._skips[which, field]
            has = self._variable[which] > field
            lengths[field] = np.where(has, variable_length(data, position), 0)
            position += (lengths[field] >> 2) + (lengths[field] & 3)
            np.minimum(position, end + 1, out=position)
        return lengths, position + self._tail[which]

    def layouts(self, which: Array, lengths: Array) -> tuple[list[Layout], Array]:
        """The layouts met among records, and which of them each has."""
        if not len(which):
            return [], which
        groups = group_rows([which, *lengths])
        layout = np.empty(len(which), np.int64)
        layout[groups.order] = np.repeat(np.arange(len(groups.starts)), groups.sizes())
        met = []
        for row in groups.first.tolist():
            template, fields = self._templates[which[row]], self._variable[which[row]]
            met.append(layout_of(template, tuple(lengths[:fields, row].tolist()) if fields else None))
        return met, layout
