"""A policy on /metrics: true counters and histograms since it began, and gauges of its last finished period."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flowagent.aggregate.groups import GroupNumbers
from flowagent.aggregate.histogram import Histogram
from flowagent.aggregate.labels import OTHER, Key, label
from flowagent.aggregate.period import AMOUNTS, Amount, Period
from flowagent.aggregate.sums import Names
from flowagent.metrics import Distribution, Family

_TOTALS = {
    "bytes": "Octets of the records that match a policy.",
    "packets": "Packets of the records that match a policy.",
    "records": "Flow records that match a policy.",
}


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
    """Each metric has `limit` series at most: counters add the groups beyond to `other`, gauges leave them out.

    The group is one label, `exporter=192.0.2.1,proto=6`, since policies group by
    different columns and a metric has one set of labels.
    """

    def __init__(self, policy: str, limit: int) -> None:
        self._policy = policy
        self._limit = limit
        self._totals: dict[Amount, dict[str, float]] = {amount: {} for amount in AMOUNTS}
        self._flows: dict[Amount, dict[str, Distribution]] = {}
        self._left_out = 0

    def absorb(self, period: Period, numbers: GroupNumbers) -> None:
        """Add what a period that ends has seen to what counts from the beginning."""
        self._totals = {amount: self._with_totals(amount, period, numbers) for amount in AMOUNTS}
        self._flows = {amount: self._with_flows(amount, period, numbers) for amount in period.plan.quantiles}

    def families(self, live: Period | None, last: Period | None, numbers: GroupNumbers) -> Iterable[Family]:
        """All metrics of the policy."""
        if not self._limit:
            return
        if live is not None:
            for amount in AMOUNTS:
                totals = self._with_totals(amount, live, numbers)
                samples = {(self._policy, group): value for group, value in totals.items()}
                yield Family(f"flowagent_policy_{amount}", "counter", _TOTALS[amount], ("policy", "group"), samples)
            for amount in live.plan.quantiles:
                flows = self._with_flows(amount, live, numbers)
                text = f"{amount.capitalize()} of single flow records that match a policy."
                name = f"flowagent_policy_flow_{amount}"
                yield Family(name, "histogram", text, ("policy", "group"),
                             {(self._policy, group): value for group, value in flows.items()})  # fmt: skip
        if last is not None:
            yield self._gauge(_TOP, self._rankings(last, numbers))
            yield self._gauge(_ERROR, (
                ((_joined(of), by), table.offset)
                for (of, by), table in last.tables.items() if last.plan.tables[of, by]
            ))  # fmt: skip
            yield self._gauge(_DISTINCT, (
                ((group, _joined(of)), float(sketch.estimate()[number]))
                for of, sketch in last.distinct.items() for number, group in _groups(last, numbers)
            ))  # fmt: skip
            yield self._gauge(_ENTROPY, (
                ((group, _joined(of), by), last.entropy(of, by, number, numbers).estimate)
                for of, by in last.plan.entropies for number, group in _groups(last, numbers)
            ))  # fmt: skip
        left_out = "Samples left out of a policy's metrics because they would be more than max_series."
        yield Family("flowagent_policy_series_left_out", "counter", left_out, ("policy",),
                     {(self._policy,): self._left_out})  # fmt: skip

    def _gauge(self, gauge: _Gauge, samples: Iterable[tuple[tuple[str, ...], float]]) -> Family:
        shown: dict[tuple[str, ...], float] = {}
        for labels, value in samples:
            if len(shown) < self._limit:
                shown[self._policy, *labels] = value
            else:
                self._left_out += 1
        return Family(gauge.name, "gauge", gauge.help, gauge.labels, shown)

    def _rankings(self, period: Period, numbers: GroupNumbers) -> Iterator[tuple[tuple[str, ...], float]]:
        for (of, by), k in period.plan.tables.items():
            for number, group in _groups(period, numbers) if k else ():
                for key, value in period.ranking(of, by, number, numbers):
                    yield (group, _joined(of), by, _text(of, key)), value

    def _with_totals(self, amount: Amount, period: Period, numbers: GroupNumbers) -> dict[str, float]:
        totals = dict(self._totals[amount])
        for number, group in _groups(period, numbers):
            name = self._bounded(group, totals)
            totals[name] = totals.get(name, 0) + float(period.totals[amount][number])
        return totals

    def _with_flows(self, amount: Amount, period: Period, numbers: GroupNumbers) -> dict[str, Distribution]:
        flows = dict(self._flows.get(amount, {}))
        for number, group in _groups(period, numbers):
            name = self._bounded(group, flows)
            more = _distribution(period.quantiles[amount], number)
            flows[name] = flows[name] + more if name in flows else more
        return flows

    def _bounded(self, group: str, known: Iterable[str]) -> str:
        known = set(known)
        return group if group in known or len(known) < self._limit else OTHER


def _groups(period: Period, numbers: GroupNumbers) -> Iterator[tuple[int, str]]:
    """Groups that saw anything, by number, with their label."""
    for number, key in enumerate(numbers.keys()):
        if not numbers.names:
            yield number, ""
        elif period.totals["records"][number]:
            yield (
                number,
                OTHER
                if key is None
                else ",".join(f"{name}={label(name, value)}" for name, value in zip(numbers.names, key, strict=True)),
            )


def _joined(of: Names) -> str:
    return ",".join(of)


def _text(of: Names, key: Key) -> str:
    return ",".join(label(name, value) for name, value in zip(of, key, strict=True))


def _distribution(histogram: Histogram, group: int) -> Distribution:
    indices, counts = histogram.buckets(group)
    zero = float(histogram.zeros[group])
    # A sum rounded once cannot fall when counts grow, in whatever order they are.
    count = math.fsum((zero, *counts.tolist()))
    buckets = tuple(zip(indices.tolist(), counts.tolist(), strict=True))
    return Distribution(count=count, sum=float(histogram.sum[group]), zero=zero, buckets=buckets)
