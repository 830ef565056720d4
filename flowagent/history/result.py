"""The answer to a question about the history: one pass over its rows, column-wise.

    steps of the range -> ids of each dimension's values -> filter -> fold -> sums by row and step -> words

Rows sum to the total exactly: every number is rounded to a whole one before anything is added up. The error of a sum
is the half width of its 95 % interval (docs/accuracy.md): 1.96 standard deviations where its variance is that of 30
or more of the heaviest rows that may be missing, else how much more there may be than was seen, by Garwood's bound
for as many (Biometrika 28, 1936).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from flowagent.batch import Array, Batch, constant
from flowagent.clock import SECOND
from flowagent.grouping import group_rows, key_arrays
from flowagent.history.packed import Column, Step
from flowagent.history.query import MAX_NUMBERS, MEASURES, Moment, Query
from flowagent.history.store import History, View
from flowagent.history.wording import OTHER, UNKNOWN, words
from flowagent.schema import COLUMNS, SAMPLING_SOURCES

MAX_ROWS = 5000
"""Rows of an answer; what is smaller is in the one whose every part is `Other`."""
_Z = 1.959964
_MANY = 30
_SOURCE_UNKNOWN = SAMPLING_SOURCES.index("unknown")
_SOURCE_PRESCALED = SAMPLING_SOURCES.index("prescaled")


class Value(msgspec.Struct, omit_defaults=True, frozen=True):
    """A value of a dimension, as it reads."""

    label: str
    filter: str | None = None
    unknown: bool = False
    other: bool = False


class Dimension(msgspec.Struct, frozen=True):
    """A dimension and its values: those of the rows, by falling total, `Other` last."""

    column: str
    doc: str
    values: list[Value]


class Total(msgspec.Struct, omit_defaults=True, frozen=True):
    """A sum with half the width of its 95 % interval."""

    value: float
    error: float
    series: list[float] | None = None


class Row(msgspec.Struct, omit_defaults=True, frozen=True):
    """A sum of the rows that have these values, which are given by their places in the dimensions' lists."""

    at: list[int]
    value: float
    error: float
    series: list[float] | None = None


class Answer(msgspec.Struct, omit_defaults=True, frozen=True, rename={"from_": "from"}):
    """The answer as it goes out as JSON; times are seconds since 1970."""

    from_: float
    to: float
    measure: str
    unit: str
    exact: bool
    dimensions: list[Dimension]
    rows: list[Row]
    total: Total
    history: dict[str, Any]
    times: list[float] | None = None
    step: float | None = None
    unscaled: bool = False
    prescaled: bool = False


class _Frame(NamedTuple):
    """What of the history is asked for: from, to (ns) and the steps in it; `step_ns` 0 where there is one sum only."""

    from_ns: int
    to_ns: int
    step_ns: int
    steps: list[Step]

    @property
    def length(self) -> int:
        """Steps of a series."""
        return (self.to_ns - self.from_ns) // self.step_ns if self.step_ns else 1


class _Ids(NamedTuple):
    """A dimension's values as numbers: `ids` (n,) of the rows into `values`, a batch of one column."""

    ids: Array
    values: Batch


def query(history: History, asked: Query) -> Answer:
    """The answer as of now; raises ConfigError where the history has not what is asked for."""
    view, described = history.view(), history.describe()
    asked.check(view)
    return answer(view, asked, described)


def answer(view: View, asked: Query, described: dict[str, Any]) -> Answer:
    """The answer from a view, which another thread may look at; raises ConfigError where its steps are too many."""
    frame = _framed(view, asked)
    measure = MEASURES[asked.measure]
    columns = list(asked.where.columns) if asked.where is not None else []
    kept = np.flatnonzero(_filtered(frame.steps, asked, columns))
    value = _joined(frame.steps, "value", measure).take(kept)
    variance = np.square(_joined(frame.steps, "deviation", measure).take(kept))
    dimensions = [_ids(frame.steps, name, kept) for name in asked.dimensions]
    heaviest = max((step.heaviest.get(measure, 0.0) for step in frame.steps), default=0.0)
    row_of, at, order = _folded(dimensions, value, asked, frame.length)
    rows = len(at)
    steps = _step_of(frame, kept)
    sums = np.rint(_sum_by(row_of * frame.length + steps, value, rows * frame.length)).reshape(rows, frame.length)
    errors = _errors(row_of, value, variance, heaviest, rows)
    total_error = _errors(np.zeros_like(row_of), value, variance, heaviest, 1)[0] if rows or heaviest else 0.0
    unscaled, prescaled = _sources(frame.steps, kept) if measure in ("bytes", "packets") else (False, False)
    return _written(
        asked, frame, described,
        _Sums(dimensions, at, order, sums, errors, float(total_error)),
        exact=not (heaviest or variance.any() or unscaled or prescaled), unscaled=unscaled, prescaled=prescaled,
    )  # fmt: skip


def _framed(view: View, asked: Query) -> _Frame:
    through = view.through_ns or 0
    since, until = (_moment_ns(moment, through) for moment in (asked.since, asked.until))
    until = min(until, through)
    begin, before, unit, longest = since, -1, 1, view.length_ns
    while begin != before:  # to begin with a whole step may take in longer ones, of which there are few lengths
        before = begin
        lengths = (s.length_ns for s in view.steps if s.end_ns > begin and s.start_ns < until)
        unit = longest = max([longest, *lengths])
        if asked.step is not None:
            unit = longest * math.ceil(round(asked.step * SECOND) / longest - 1e-9)
        begin = since // unit * unit
    if asked.step is None:
        end = max(begin, min(-(-until // unit) * unit, through))
        return _Frame(begin, end, 0, [s for s in view.steps if begin <= s.start_ns < end])
    end = max(begin, min(-(-until // unit), through // unit) * unit)
    asked.check_steps((end - begin) // unit)
    return _Frame(begin, end, unit, [s for s in view.steps if begin <= s.start_ns and s.end_ns <= end])


def _moment_ns(moment: Moment, through_ns: int) -> int:
    seconds = round(moment.seconds * SECOND)
    return max(0, through_ns + seconds) if moment.is_relative else seconds


def _filtered(steps: Sequence[Step], asked: Query, columns: Sequence[str]) -> Array:
    """(n,) bool: the rows of all steps that match."""
    if asked.where is None:
        return constant(True, sum(step.rows for step in steps), np.bool_)
    masks = [asked.where(step.keys(columns)) for step in steps]
    return np.concatenate(masks) if masks else np.zeros(0, np.bool_)


def _joined(steps: Sequence[Step], kind: str, measure: str) -> Array:
    """(n,) float64: values or deviations of all steps, 0 where there is none."""
    parts = [getattr(step, kind).get(measure, constant(0.0, step.rows, np.float64)) for step in steps]
    return np.concatenate(parts).astype(np.float64, copy=False) if parts else np.zeros(0)


def _step_of(frame: _Frame, kept: Array) -> Array | int:
    """Which step of a series each row belongs to."""
    if not frame.step_ns:
        return 0
    starts = np.array([(s.start_ns - frame.from_ns) // frame.step_ns for s in frame.steps], np.intp)
    return np.repeat(starts, [s.rows for s in frame.steps]).take(kept)


def _ids(steps: Sequence[Step], name: str, kept: Array) -> _Ids:
    """The values of a column in all steps, each once; what is unknown is one of them."""
    parts, codes, begin = [], [], 0
    for step in steps:
        column = step.columns.get(name, _nothing(name, step.rows))
        count = column.values.shape[-1]
        known = {} if column.known is None else {name: column.known}
        parts.append(Batch({name: column.values}, count, known))
        place = np.arange(step.rows) if column.codes is None else column.codes
        codes.append(place.astype(np.int32) + np.int32(begin))
        begin += count
    if not parts:
        return _Ids(np.zeros(0, np.intp), Batch({}))
    values = Batch.concat(parts)
    groups = group_rows(list(key_arrays(values, [name])))
    which = np.empty(begin, np.intp)
    which[groups.order] = np.repeat(np.arange(len(groups.starts)), groups.sizes())
    return _Ids(which.take(np.concatenate(codes).take(kept)), values.take(groups.first))


def _nothing(name: str, rows: int) -> Column:
    """A column that a step does not have."""
    column = COLUMNS[name]
    values = np.zeros((2, 1) if column.kind == "addr" else 1, column.dtype)
    return Column(values, np.zeros(1, np.bool_), constant(0, rows, np.uint8))


def _folded(dimensions: Sequence[_Ids], value: Array, asked: Query, steps: int) -> tuple[Array, Array, list[Array]]:
    """Which row of the answer each row of the history goes into, (n,) intp, and what the answer's rows are.

    `at` (r, d) the numbers of their values, by `order`, for each dimension the ids of its values; the number after
    the last of these is Other. Rows are sorted by falling sum, the one that is Other in every dimension is last.
    """
    most = min(MAX_ROWS, max(1, MAX_NUMBERS // max(1, steps) - 1))
    if asked.fold == "row" and dimensions:
        return _folded_by_row(dimensions, value, min(asked.top, most))
    numbers, order = [], []
    for ids, values in dimensions:
        sums = np.bincount(ids, value, len(values))
        best = _largest(sums, list(key_arrays(values, list(values.columns))), asked.top)
        best = best[sums[best] > 0]  # others are only in rows that the filter left out
        number = np.full(len(values), len(best), np.intp)
        number[best] = np.arange(len(best))
        numbers.append(number.take(ids))
        order.append(best)
    return (*_ranked(numbers, value, most, [len(best) for best in order]), order)


def _folded_by_row(dimensions: Sequence[_Ids], value: Array, top: int) -> tuple[Array, Array, list[Array]]:
    ids = [d.ids for d in dimensions]
    row_of, at = _ranked(ids, value, top, [len(d.values) for d in dimensions])
    order, numbered = [], np.empty_like(at)
    for i, d in enumerate(dimensions):
        column = at[:, i]
        # In the order of their first row, which is that of the falling sum.
        used, first = np.unique(column[column < len(d.values)], return_index=True)
        used = used[np.argsort(first)]
        number = np.full(len(d.values) + 1, len(used), np.intp)
        number[used] = np.arange(len(used))
        numbered[:, i] = number.take(column)
        order.append(used)
    return row_of, numbered, order


def _ranked(numbers: Sequence[Array], value: Array, top: int, others: Sequence[int]) -> tuple[Array, Array]:
    """Rows by falling sum, at most `top` and one more of all others, whose numbers are `others`."""
    if not numbers:
        return np.zeros(len(value), np.intp), np.zeros((1 if value.any() else 0, 0), np.intp)
    groups = group_rows([*numbers])
    which = np.empty(len(value), np.intp)
    which[groups.order] = np.repeat(np.arange(len(groups.starts)), groups.sizes())
    combos = np.stack([number.take(groups.first) for number in numbers], axis=1)
    sums = np.rint(np.bincount(which, value, len(combos)))
    is_other = (combos == np.array(others)).all(axis=1)
    best = _largest(np.where(is_other, -1.0, sums), list(combos.T), top)
    best = best[(sums[best] > 0) & ~is_other[best]]
    row = np.full(len(combos), len(best), np.intp)
    row[best] = np.arange(len(best))
    at = combos[best]
    if sums.sum() > sums[best].sum():
        at = np.concatenate([at, np.array([others])])
    return row.take(which), at


def _largest(sums: Array, keys: Sequence[Array], count: int) -> Array:
    """The places of the largest sums, falling; of equal ones those with the lesser key come first."""
    places = np.arange(len(sums))
    if count < len(sums):
        cut = np.partition(sums, len(sums) - count)[len(sums) - count]
        places = np.flatnonzero(sums >= cut)
    order = np.lexsort([*(key.take(places) for key in reversed(keys)), -sums[places]])
    return places[order][:count]


def _sum_by(numbers: Array, value: Array, count: int) -> Array:
    """(count,) float64; what has a higher number is 0."""
    return np.bincount(numbers, value, count)[:count]


def _errors(row_of: Array, value: Array, variance: Array, heaviest: float, rows: int) -> Array:
    """(r,) float64: half widths of 95 % intervals."""
    total = _sum_by(row_of, variance, rows)
    weight = np.full(rows, heaviest)
    sampled = np.flatnonzero((variance > 0) & (value > 0) & (row_of < rows))
    np.maximum.at(weight, row_of[sampled], variance[sampled] / value[sampled])
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.where(weight > 0, total / (weight * weight), 0.0)
        few = weight * (_garwood(count + 1) - count)
    return np.where(weight > 0, np.where(count < _MANY, few, _Z * np.sqrt(total)), 0.0)


def _garwood(count: Array) -> Array:
    """The upper bound of a Poisson mean of which `count` - 1 were seen, by Wilson and Hilferty's cube."""
    return np.asarray(count * (1 - 1 / (9 * count) + _Z / (3 * np.sqrt(count))) ** 3)


def _sources(steps: Sequence[Step], kept: Array) -> tuple[bool, bool]:
    """Whether the rate of some rows is unknown, and whether some were scaled by their exporters."""
    ids, values = _ids(steps, "sampling_source", kept)
    there = values.take(np.flatnonzero(np.bincount(ids, minlength=len(values))))
    if not len(there):
        return False, False
    known, source = there.is_known("sampling_source"), there["sampling_source"]
    return bool((~known | (source == _SOURCE_UNKNOWN)).any()), bool((known & (source == _SOURCE_PRESCALED)).any())


class _Sums(NamedTuple):
    """What was counted: see `_folded`; `sums` (r, steps), whole numbers, `errors` (r,)."""

    dimensions: Sequence[_Ids]
    at: Array
    order: Sequence[Array]
    sums: Array
    errors: Array
    total_error: float


def _written(
    asked: Query, frame: _Frame, described: dict[str, Any], s: _Sums, *, exact: bool, unscaled: bool, prescaled: bool
) -> Answer:
    """The answer in words."""
    with_series = frame.step_ns > 0
    series = s.sums.tolist() if with_series else [None] * len(s.sums)
    rows = [
        Row(at, value, error, one)
        for at, value, error, one in zip(
            s.at.tolist(), s.sums.sum(axis=1).tolist(), s.errors.tolist(), series, strict=True
        )
    ]
    whole = s.sums.sum(axis=0)
    total = Total(float(whole.sum()), s.total_error, whole.tolist() if with_series else None)
    return Answer(
        frame.from_ns / SECOND,
        frame.to_ns / SECOND,
        asked.measure,
        asked.measure.rpartition("_")[2],
        exact,
        [_dimension(name, s, i) for i, name in enumerate(asked.dimensions)],
        rows,
        total,
        described,
        times=[(frame.from_ns + i * frame.step_ns) / SECOND for i in range(frame.length)] if with_series else None,
        step=frame.step_ns / SECOND if with_series else None,
        unscaled=unscaled,
        prescaled=prescaled,
    )


def _dimension(name: str, s: _Sums, i: int) -> Dimension:
    batch = s.dimensions[i].values.take(s.order[i])
    values = [
        _value(name, value, known)
        for value, known in zip(batch[name].T.tolist(), batch.is_known(name).tolist(), strict=True)
    ] if len(batch) else []  # fmt: skip
    if len(s.at) and bool((s.at[:, i] == len(values)).any()):
        values.append(Value(OTHER, other=True))
    return Dimension(name, COLUMNS[name].doc, values)


def _value(name: str, value: Any, known: bool) -> Value:
    if not known:
        return Value(UNKNOWN, f"{name} is unknown", unknown=True)
    label, filtered = words(name, value)
    return Value(label, filtered)
