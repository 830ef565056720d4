"""A policy on /metrics: true counters and histograms since it began, and gauges of its last finished period."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from flowagent.aggregate.groups import GroupNumbers
from flowagent.aggregate.labels import OTHER, Key, group_label, label
from flowagent.aggregate.period import AMOUNTS, Amount, Period
from flowagent.aggregate.reading import Reading
from flowagent.aggregate.sums import Names
from flowagent.batch import Array
from flowagent.metrics import Distribution, Family

_LOWEST, _HIGHEST = -31, 2048
"""Indices that buckets of a histogram can have."""
HISTOGRAM_BYTES = 8 * (_HIGHEST - _LOWEST + 3)
"""Of each group's histogram since the beginning."""
_TOTALS = {
    "bytes": "Octets of the records that match a policy.",
    "packets": "Packets of the records that match a policy.",
    "records": "Flow records that match a policy.",
}


_Groups = list[tuple[int, str]]
"""Number and label of groups."""


class _Gauge(NamedTuple):
    name: str
    help: str
    labels: tuple[str, ...]


_TOP = _Gauge("flowagent_policy_top", "Largest keys in a policy's last finished period; at most the truth.",
              ("policy", "group", "of", "by", "key"))  # fmt: skip
_ERROR = _Gauge("flowagent_policy_top_error", "How much more than shown the true amount of a key may be.",
                ("policy", "of", "by"))  # fmt: skip
_DISTINCT = _Gauge("flowagent_policy_distinct", "Different values in a policy's last finished period, estimated.",
                   ("policy", "group", "of"))  # fmt: skip
_ENTROPY = _Gauge("flowagent_policy_entropy_bits", "How evenly an amount was spread in the last finished period.",
                  ("policy", "group", "of", "by"))  # fmt: skip


class PolicySeries:
    """Counters tell `limit` groups apart, histograms no more than `groups`, and the rest is added up as `other`.

    A group that once had a series of its own keeps it, so that nothing falls.
    Gauges have `limit` series at most and leave out the rest. The group is one
    label, `exporter=192.0.2.1,proto=6`, since policies group by different columns
    and a metric has one set of labels.
    """

    def __init__(self, policy: str, limit: int, groups: int) -> None:
        self._policy = policy
        self._limit = limit
        self._totals: dict[Amount, dict[str, float]] = {amount: {} for amount in AMOUNTS}
        self._flows: dict[Amount, dict[str, Array]] = {}
        self._counters, self._histograms = _Names(limit), _Names(min(limit, max(groups - 1, 1)))
        self._gauges: list[Family] | None = None
        self._left_out = 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory of the histograms."""
        return sum(flows.nbytes for by_name in self._flows.values() for flows in by_name.values())

    def absorb(self, period: Period, numbers: GroupNumbers) -> None:
        """Add what a period that ends has seen to what counts from the beginning."""
        self._gauges = None
        if self._limit:
            groups = _labelled(period, numbers)
            self._totals = {amount: self._with_totals(amount, period, groups) for amount in AMOUNTS}
            self._flows = {amount: self._with_flows(amount, period, groups) for amount in period.plan.quantiles}

    def families(self, live: Period | None, last: Period | None, numbers: GroupNumbers) -> Iterable[Family]:
        """All metrics of the policy."""
        if not self._limit:
            return
        if live is not None:
            yield from self._since_the_beginning(live, _labelled(live, numbers))
        if last is not None:
            yield from self._of(last, numbers)
        left_out = "Samples of periods left out of a policy's metrics because they would be more than max_series."
        yield Family("flowagent_policy_series_left_out", "counter", left_out, ("policy",),
                     {(self._policy,): self._left_out})  # fmt: skip

    def _since_the_beginning(self, live: Period, groups: _Groups) -> Iterator[Family]:
        for amount in AMOUNTS:
            totals = self._with_totals(amount, live, groups)
            samples = {(self._policy, group): value for group, value in totals.items()}
            yield Family(f"flowagent_policy_{amount}", "counter", _TOTALS[amount], ("policy", "group"), samples)
        for amount in live.plan.quantiles:
            flows = self._with_flows(amount, live, groups)
            text = f"{amount.capitalize()} of single flow records that match a policy."
            yield Family(f"flowagent_policy_flow_{amount}", "histogram", text, ("policy", "group"),
                         {(self._policy, group): _distribution(value) for group, value in flows.items()})  # fmt: skip

    def _of(self, last: Period, numbers: GroupNumbers) -> list[Family]:
        """The gauges of the last finished period, which do not change until another one ends."""
        if self._gauges is None:
            self._gauges = list(self._read(last, Reading(last, numbers), _labelled(last, numbers)))
        return self._gauges

    def _read(self, last: Period, reading: Reading, groups: _Groups) -> Iterator[Family]:
        plan = last.plan
        rankings = [of_by for of_by, k in plan.tables.items() if k]
        yield self._gauge(_TOP, (
            ((group, _joined(of), by, _text(of, key)), value)
            for of, by in rankings for number, group in groups for key, value in reading.ranking(of, by, number)
        ))  # fmt: skip
        yield self._gauge(_ERROR, (((_joined(of), by), last.tables[of, by].offset) for of, by in rankings))
        yield self._gauge(_DISTINCT, (
            ((group, _joined(of)), reading.distinct(of, number)) for of in plan.distinct for number, group in groups
        ))  # fmt: skip
        yield self._gauge(_ENTROPY, (
            ((group, _joined(of), by), reading.entropy(of, by, number).estimate)
            for of, by in plan.entropies for number, group in groups
        ))  # fmt: skip

    def _gauge(self, gauge: _Gauge, samples: Iterable[tuple[tuple[str, ...], float]]) -> Family:
        shown: dict[tuple[str, ...], float] = {}
        for labels, value in samples:
            if len(shown) < self._limit:
                shown[self._policy, *labels] = value
            else:
                self._left_out += 1
        return Family(gauge.name, "gauge", gauge.help, gauge.labels, shown)

    def _with_totals(self, amount: Amount, period: Period, groups: _Groups) -> dict[str, float]:
        totals = dict(self._totals[amount])
        # Groups come in the order of their numbers, which they keep for the period: whatever comes in between, a sum of
        # floats in this order does not fall.
        values = period.totals[amount].tolist()
        for number, group in groups:
            name = self._counters.of(group)
            totals[name] = totals.get(name, 0.0) + values[number]
        return totals

    def _with_flows(self, amount: Amount, period: Period, groups: _Groups) -> dict[str, Array]:
        flows = dict(self._flows.get(amount, {}))
        histogram = period.quantiles[amount]
        sums, zeros = histogram.sum, histogram.zeros
        for number, group in groups:
            name = self._histograms.of(group)
            indices, counts = histogram.buckets(number)
            more = np.zeros(HISTOGRAM_BYTES // 8)
            more[:2] = sums[number], zeros[number]
            more[indices + (2 - _LOWEST)] = counts
            flows[name] = flows[name] + more if name in flows else more
        return flows


class _Names:
    """Names of groups that have series of their own: the first `limit`, for good."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def of(self, group: str) -> str:
        """The group, or what it is counted with."""
        if group not in self._known and group != OTHER:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(group)
        return group


def _labelled(period: Period, numbers: GroupNumbers) -> _Groups:
    return [(number, group_label(numbers.names, key)) for number, key in period.groups(numbers)]


def _joined(of: Names) -> str:
    return ",".join(of)


def _text(of: Names, key: Key) -> str:
    return ",".join(label(name, value) for name, value in zip(of, key, strict=True))


def _distribution(dense: Array) -> Distribution:
    total, zero = dense[:2].tolist()
    used = np.flatnonzero(dense[2:])
    counts = dense[2:][used].tolist()
    # A sum rounded once cannot fall when counts grow, in whatever order they are.
    count = math.fsum((zero, *counts))
    return Distribution(count, total, zero, buckets=tuple(zip((used + _LOWEST).tolist(), counts, strict=True)))
