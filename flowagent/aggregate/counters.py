"""Analysis `counters`: exact Prometheus counters of bytes, packets and records by chosen labels.

Counts are of all records, before any sampling, and multiplied by the upstream
sampling rate where it is known. The number of series is bounded: once
`max_series` label sets exist, new ones are added to one series whose labels
all say `other`, so that the totals stay exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from flowagent.aggregate.labels import OTHER, keys_of, label
from flowagent.batch import Array, Batch, is_constant
from flowagent.component import Context, Settings
from flowagent.errors import ConfigError
from flowagent.grouping import Groups, group_rows, key_arrays
from flowagent.metrics import Family
from flowagent.scale import measure, probabilities, upstream_variance
from flowagent.schema import COLUMNS, SAMPLING_SOURCES

_MEASURES = ("bytes", "packets")
_FLOAT_EXACT = 1 << 53


class Config(Settings, frozen=True):
    """Count flows by label."""

    labels: tuple[str, ...] = ("exporter", "proto")
    """Columns that become labels."""
    max_series: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    """Label sets kept apart; the rest is counted together as `other`."""

    def build(self, ctx: Context) -> Counters:
        for name in self.labels:
            if name not in COLUMNS or COLUMNS[name].merge != "key":
                known = ", ".join(c.name for c in COLUMNS.values() if c.merge == "key")
                raise ConfigError(f"{ctx.name}.labels", f"{name!r} cannot be a label; one of: {known}")
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"{ctx.name}.labels", "names a column twice")
        return Counters(self.labels, self.max_series)


class Counters:
    """Counters `flowagent_flow_{bytes,packets,records}_total`, and the variance of bytes by upstream sampling."""

    every_record: ClassVar[bool] = True

    def __init__(self, labels: tuple[str, ...], max_series: int) -> None:
        self._labels = labels
        self._max_series = max_series
        self._series: dict[tuple[str, ...], list[float]] = {}
        self._keys: dict[tuple[object, ...], list[float]] = {}
        self._folded = 0
        self._sources = np.zeros(len(SAMPLING_SOURCES), np.int64)

    @property
    def columns(self) -> frozenset[str]:
        """What is needed of each record."""
        return frozenset((*self._labels, *_MEASURES, "records", "sampling_rate", "sampling_source", "inclusion_prob"))

    def process(self, batch: Batch, flows: Batch | None = None, now_ns: int = 0) -> None:  # noqa: ARG002
        """Count these records; neither windows nor the time matter."""
        if not len(batch):
            return
        self._count_sources(batch)
        batch = _unsampled(batch)
        present = [name for name in self._labels if name in batch]
        by = [*present, "sampling_rate"] if "sampling_rate" in batch else present
        groups, sums = _sum_groups(batch, by)
        first = groups.first
        rates = _rates(batch, first)
        keys = keys_of(batch, self._labels, first)
        for key, rate, size, octets, packets, variance in zip(
            keys, rates, groups.sizes().tolist(), sums["bytes"], sums["packets"], sums["variance"], strict=True
        ):
            totals = self._keys.get(key) or self._new_series(key)
            totals[0] += octets if rate == 1 else round(octets * rate)
            totals[1] += packets if rate == 1 else round(packets * rate)
            totals[2] += size
            totals[3] += variance

    def tick(self, now_ns: int) -> None:
        """Counters do not depend on the time."""

    def _new_series(self, key: tuple[object, ...]) -> list[float]:
        if len(self._keys) < self._max_series:
            labels = tuple(label(name, value) for name, value in zip(self._labels, key, strict=True))
            totals = self._series.setdefault(labels, [0, 0, 0, 0.0])
            self._keys[key] = totals
            return totals
        self._folded += 1
        return self._series.setdefault((OTHER,) * len(self._labels), [0, 0, 0, 0.0])

    def _count_sources(self, batch: Batch) -> None:
        if "sampling_source" not in batch:
            return
        source = batch["sampling_source"]
        if is_constant(source):
            self._sources[source[0]] += len(source)
        else:
            self._sources += np.bincount(source, minlength=len(self._sources))

    def families(self) -> Iterable[Family]:
        """The counters."""
        texts = (
            ("bytes", "Octets of flows, scaled by the sampling rate where it is known."),
            ("packets", "Packets of flows, scaled by the sampling rate where it is known."),
            ("records", "Flow records received, after de-duplication."),
            ("bytes_variance", "Variance of the octets that upstream packet sampling is to blame for, at most."),
        )
        for i, (name, text) in enumerate(texts):
            samples = {labels: totals[i] for labels, totals in self._series.items()}
            yield Family(f"flowagent_flow_{name}", "counter", text, self._labels, samples)
        folded = "Times a batch had a label set beyond max_series, counted as other."
        yield Family("flowagent_flow_series_folded", "counter", folded, (), {(): self._folded})
        known = "Flow records by how their sampling rate is known; unknown ones are counted unscaled."
        sources = {(name,): int(n) for name, n in zip(SAMPLING_SOURCES, self._sources, strict=True)}
        yield Family("flowagent_flow_sampling_records", "counter", known, ("sampling_source",), sources)


def _unsampled(batch: Batch) -> Batch:
    """Rows that another agent sampled with the totals that each stands for; exact rows as they are."""
    prob = probabilities(batch)
    if isinstance(prob, float) and prob == 1:
        return batch
    return batch.with_columns(
        {
            name: np.where(prob == 1, _measure(batch, name), np.rint(measure(batch, name) / prob).astype(np.uint64))
            for name in _MEASURES
        }
    )


def _sum_groups(batch: Batch, by: list[str]) -> tuple[Groups, dict[str, list[int]]]:
    """Group by these columns; exact sums of bytes and packets of each group, and the variance of its scaled bytes."""
    variance = upstream_variance(batch, "bytes")
    arrays = [a for a in key_arrays(batch, by) if not is_constant(a) and bool((a != a[:1]).any())]
    if not arrays:
        groups = Groups(np.arange(len(batch)), np.zeros(1, np.intp))
        sums = {name: [batch.total(name)] for name in _MEASURES}
        return groups, {**sums, "variance": [variance.sum()]}
    if len(arrays) == 1 and arrays[0].dtype in (np.uint8, np.bool_):
        dense = _sum_dense(batch, arrays[0], variance)
        if dense is not None:
            return dense
    groups = group_rows(arrays)
    sums = {name: _exact_sums(_measure(batch, name)[groups.order], groups.starts) for name in _MEASURES}
    return groups, {**sums, "variance": np.add.reduceat(variance[groups.order], groups.starts).tolist()}


def _sum_dense(batch: Batch, codes: Array, variance: Array) -> tuple[Groups, dict[str, list[int]]] | None:
    """The same by counting, where one byte tells the groups apart; None where float sums would not be exact."""
    codes = codes.astype(np.intp)
    counts = np.bincount(codes, minlength=256)
    used = np.flatnonzero(counts)
    spread = variance if not is_constant(variance) else None
    sums: dict[str, list[int]] = {
        "variance": [0] * len(used) if spread is None else np.bincount(codes, spread, 256)[used].tolist()
    }
    for name in _MEASURES:
        values = _measure(batch, name)
        if int(values.max()) * len(values) >= _FLOAT_EXACT:
            return None
        sums[name] = np.bincount(codes, weights=values, minlength=256)[used].astype(np.int64).tolist()
    # One row of each code stands for its group; sizes come from the gaps between starts.
    representative = np.zeros(256, np.intp)
    representative[codes] = np.arange(len(codes))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[used])])[:-1]
    order = np.zeros(len(codes), np.intp)
    order[starts] = representative[used]
    return Groups(order, starts), sums


def _measure(batch: Batch, name: str) -> Array:
    if name not in batch:
        return np.zeros(len(batch), np.uint64)
    values = batch[name]
    return np.where(batch.valid[name], values, np.uint64(0)) if name in batch.valid else values


def _exact_sums(values: Array, starts: Array) -> list[int]:
    """Sums that cannot wrap, whatever an exporter claims."""
    if int(values.max()) < 1 << 40:
        return np.add.reduceat(values, starts).tolist()  # type: ignore[no-any-return]
    low = np.add.reduceat(values & np.uint64(0xFFFFFFFF), starts).tolist()
    high = np.add.reduceat(values >> np.uint64(32), starts).tolist()
    return [a + (b << 32) for a, b in zip(low, high, strict=True)]


def _rates(batch: Batch, rows: Array) -> list[float]:
    """The factor of each of these rows; 1 where the rate is not known (or already applied)."""
    if "sampling_rate" not in batch:
        return [1] * len(rows)
    rates = batch["sampling_rate"][rows].tolist()
    known = batch.is_known("sampling_rate")[rows].tolist()
    return [(int(r) if r == int(r) else r) if k else 1 for r, k in zip(rates, known, strict=True)]
