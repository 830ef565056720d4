"""Cutting data sets into records: many sets of one template at a time.

Sets of fixed-length records are a 2-D array of bytes already. Where a template
has variable-length fields, the records' places are found by walking record by
record through all sets at once, then records with the same field lengths are
put together, so that each such group is a plain array again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flowagent.batch import Array
from flowagent.elements import VARIABLE
from flowagent.grouping import group_rows
from flowagent.ingest.datagrams import gather
from flowagent.ingest.layout import Layout, layout_of
from flowagent.ingest.templates import Template

_FEW_SETS = 32
"""Sets from which on it pays to walk through all of them at once."""
PADDING = 3
"""A set may end in up to this many bytes of padding (RFC 7011, section 3.3.1)."""


class Sets(NamedTuple):
    """Data sets: `rows` (sets,) their datagrams, `offset` and `length` (sets,) int64 where their bodies lie."""

    rows: Array
    offset: Array
    length: Array

    def take(self, which: Array) -> Sets:
        """Some of them, by position or bool mask."""
        return Sets(self.rows[which], self.offset[which], self.length[which])


class Records(NamedTuple):
    """Records of one layout.

    bytes   uint8 (m, r, record_length)
    sets    (m,) the set, by its place in the input, that row m of `bytes` comes from
    offset  (m,) int64, where the first record of row m begins in the input buffer
    """

    layout: Layout
    bytes: Array
    sets: Array
    offset: Array

    @property
    def total(self) -> int:
        """Number of records."""
        return int(self.bytes.shape[0] * self.bytes.shape[1])


class Cut(NamedTuple):
    """What was found in the sets.

    counts   (sets,) int64: records in each
    overrun  (sets,) bool: the first record, or a variable-length one, runs past the end of the set
    left     (sets,) int64: bytes after the last record; padding, if the template is the right one
    """

    records: list[Records]
    counts: Array
    overrun: Array
    left: Array

    @property
    def misfit(self) -> Array:
        """(sets,) bool: the template does not explain the set to its end."""
        return self.overrun | (self.left > PADDING)


def cut_records(data: Array, offset: Array, length: Array, template: Template) -> Cut:
    """Find the records of sets whose bodies lie at `offset` with `length` bytes (both (sets,) int64) in `data`."""
    if template.is_variable:
        return _cut_variable(data, offset, length, template)
    size = template.min_length
    if size == 0:
        return Cut([], np.zeros(len(offset), np.int64), np.ones(len(offset), np.bool_), length)
    counts = length // size
    records = []
    for count, rows in _by_value(counts):
        if count:
            area = gather(data, offset[rows], count * size)
            records.append(Records(layout_of(template), area.reshape(len(area), count, size), rows, offset[rows]))
    return Cut(records, counts, counts == 0, length - counts * size)


def _by_value(values: Array) -> Iterator[tuple[int, Array]]:
    if bool((values == values[:1]).all()):
        yield int(values[0]), np.arange(len(values))
        return
    groups = group_rows([values])
    for rows in np.split(groups.order, groups.starts[1:]):
        yield int(values[rows[0]]), rows


def _cut_variable(data: Array, offset: Array, length: Array, template: Template) -> Cut:
    runs = fixed_runs(template)
    find = _find_one_by_one if len(offset) < _FEW_SETS else _find
    found, overrun, left = find(data, offset, offset + length, runs, template.min_length)
    if not found:
        return Cut([], np.zeros(len(offset), np.int64), np.ones(len(offset), np.bool_), left)
    sets = np.concatenate([f[0] for f in found])
    starts = np.concatenate([f[1] for f in found])
    lengths = np.concatenate([f[2] for f in found], axis=1)
    counts = np.bincount(sets, minlength=len(offset))
    return Cut(list(_by_layout(data, template, sets, starts, lengths)), counts, overrun | (counts == 0), left)


_Found = list[tuple[Array, Array, Array]]
"""Records by their set, where they begin, and the lengths of their variable fields (fields, records)."""


def _find(
    data: Array, offset: Array, end: Array, runs: tuple[list[int], int], least: int
) -> tuple[_Found, Array, Array]:
    """The records of all sets, one of each at a time; also `overrun` and `left` as in `Cut`."""
    overrun, left = np.zeros(len(offset), np.bool_), end - offset
    active, start = np.arange(len(offset)), offset.copy()
    found: _Found = []
    while True:
        left[active] = end[active] - start
        enough = left[active] >= least
        active, start = active[enough], start[enough]
        if not len(active):
            return found, overrun, left
        lengths, stop = _walk(data, start, end[active], *runs)
        fits = stop <= end[active]
        overrun[active[~fits & (left[active] > PADDING)]] = True
        active, start, lengths, stop = active[fits], start[fits], lengths[:, fits], stop[fits]
        if len(active):
            found.append((active, start, lengths))
        start = stop


def _find_one_by_one(
    data: Array, offset: Array, end: Array, runs: tuple[list[int], int], least: int
) -> tuple[_Found, Array, Array]:
    """The same, set by set: for a few sets of perhaps very many records."""
    overrun, left = np.zeros(len(offset), np.bool_), end - offset
    found: _Found = []
    for i, (first, last) in enumerate(zip(offset.tolist(), end.tolist(), strict=True)):
        starts, lengths, left[i] = _walk_set(data[first:last].tobytes(), *runs, least)
        overrun[i] = left[i] >= least and left[i] > PADDING
        if starts:
            of_fields = np.array(lengths, np.int64).reshape(len(starts), -1).T
            found.append((np.full(len(starts), i), np.array(starts) + first, of_fields))
    return found, overrun, left


def _walk_set(body: bytes, skips: list[int], tail: int, least: int) -> tuple[list[int], list[int], int]:
    """Where the records of one set begin, the lengths of their variable fields, and the bytes left."""
    starts: list[int] = []
    lengths: list[int] = []
    at, end = 0, len(body)
    while end - at >= least:
        place, sizes = at, []
        for skip in skips:
            place += skip
            if place + 2 >= end and (place >= end or body[place] == 255):
                return starts, lengths, end - at
            size, prefix = body[place], 1
            if size == 255:
                size, prefix = body[place + 1] << 8 | body[place + 2], 3
            sizes.append(size << 2 | prefix)
            place += prefix + size
        if place + tail > end:
            break
        starts.append(at)
        lengths += sizes
        at = place + tail
    return starts, lengths, end - at


def fixed_runs(template: Template) -> tuple[list[int], int]:
    """Bytes before each variable-length field since the last one, and after the last."""
    skips, run = [], 0
    for spec in template.fields:
        if spec.length == VARIABLE:
            skips.append(run)
            run = 0
        else:
            run += spec.length
    return skips, run


def _walk(data: Array, start: Array, end: Array, skips: list[int], tail: int) -> tuple[Array, Array]:
    """One record of each set: its variable fields' lengths (fields, sets), see `layout_of`, and where it stops."""
    position = start.copy()
    lengths = np.empty((len(skips), len(start)), np.int64)
    for row, skip in zip(lengths, skips, strict=True):
        position += skip
        row[:] = variable_length(data, position)
        position += (row >> 2) + (row & 3)
        # Past the end of its set a record is wrong already: stay there, so that no offset can run away.
        np.minimum(position, end + 1, out=position)
    return lengths, position + tail


def variable_length(data: Array, position: Array) -> Array:
    """The length said at each place (RFC 7011, section 7), times 4, plus the bytes that say it (see `layout_of`)."""
    last = len(data) - 1
    short = data[np.minimum(position, last)].astype(np.int64)
    long = short == 255
    if not bool(long.any()):
        return short * 4 + 1
    high = data[np.minimum(position + 1, last)].astype(np.int64)
    low = data[np.minimum(position + 2, last)].astype(np.int64)
    return np.where(long, (high << 8 | low) * 4 + 3, short * 4 + 1)


def _by_layout(data: Array, template: Template, sets: Array, starts: Array, lengths: Array) -> Iterator[Records]:
    groups = group_rows(list(lengths))
    for rows in np.split(groups.order, groups.starts[1:]):
        layout = layout_of(template, tuple(lengths[:, rows[0]].tolist()))
        area = gather(data, starts[rows], layout.record_length)
        yield Records(layout, area[:, None, :], sets[rows], starts[rows])
