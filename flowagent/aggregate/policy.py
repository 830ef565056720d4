"""Analysis `policy`: a named question about the traffic, answered over periods of time.

A filter says which records, `group_by` what to tell apart, the rest what to
measure. Periods tumble on the agent's clock, aligned to it; the last ones are
kept and can be merged. Memory is bounded by `memory`, from which the size of
the tables follows, and so the error of rankings.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import numpy as np

from flowagent.aggregate.groups import MAX_GROUPS, NUMBER, GroupNumbers
from flowagent.aggregate.period import AMOUNTS, SECOND_BYTES, Amount, Period, Plan
from flowagent.aggregate.reading import Reading
from flowagent.aggregate.series import HISTOGRAM_BYTES, PolicySeries
from flowagent.aggregate.sketches import encoded
from flowagent.aggregate.sums import Names, matching
from flowagent.batch import Batch
from flowagent.clock import SECOND
from flowagent.component import Context, Settings
from flowagent.errors import ConfigError
from flowagent.filters import Filter, parse_filter
from flowagent.metrics import Family
from flowagent.schema import COLUMNS
from flowagent.sections import did_you_mean, parse_duration, parse_size

MAX_CAPACITY, MIN_CAPACITY = 8192, 64
"""Keys of a table at most, and at least."""
_ROW_OVERHEAD = 8


class Ranking(Settings, frozen=True):
    """The largest keys by some amount."""

    of: str | tuple[str, ...]
    """Column or columns that make a key."""
    by: Amount = "bytes"
    """What is added up: bytes, packets or records."""
    k: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    """How many keys are shown."""


class Spread(Settings, frozen=True):
    """How evenly an amount is spread over keys."""

    of: str | tuple[str, ...]
    """Column or columns that make a key."""
    by: Amount = "bytes"
    """What is added up: bytes, packets or records."""


class Config(Settings, frozen=True):
    """Answer a question about the traffic by the period: totals, rankings, distinct counts, quantiles, entropy."""

    filter: str | None = None
    """Which records count; see docs/filters.md."""
    group_by: tuple[str, ...] = ()
    """Columns whose values are told apart; each group has all the measures."""
    max_groups: Annotated[int, msgspec.Meta(ge=1, le=MAX_GROUPS)] = 50
    """Groups told apart; the others are one together."""
    top: tuple[Ranking, ...] = ()
    """Rankings, `{of: [src_addr, dst_addr], by: bytes, k: 10}`; each with its error bound."""
    distinct: tuple[str | tuple[str, ...], ...] = ()
    """Columns, or lists of columns, whose different values are counted."""
    quantiles: tuple[Amount, ...] = ()
    """Amounts of a flow record (bytes, packets) whose median and percentiles are wanted."""
    entropy: tuple[Spread, ...] = ()
    """How evenly an amount is spread, `{of: dst_port, by: packets}`: scans and floods change it."""
    rates: tuple[Amount, ...] = ()
    """Amounts whose rate by the second is wanted: mean, percentiles, maximum."""
    every: str | float = "60s"
    """Length of a period."""
    periods: Annotated[int, msgspec.Meta(ge=1, le=1440)] = 5
    """Finished periods that are kept."""
    memory: str | int = "16MiB"
    """Bytes that all sketches may take; less memory means less exact rankings."""
    max_series: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 100
    """Series of each of the policy's metrics on /metrics; the rest is left out and counted."""

    def build(self, ctx: Context) -> Policy:
        return Policy(self, ctx.name)

    def condition(self, name: str) -> Filter | None:
        """The compiled filter."""
        return parse_filter(self.filter, f"{name}.filter") if self.filter is not None else None

    def check(self, name: str) -> None:
        """Raise ConfigError for columns that are none."""
        for setting, names in (
            ("group_by", [self.group_by]),
            ("top", [columns(r.of) for r in self.top]),
            ("distinct", [columns(of) for of in self.distinct]),
            ("entropy", [columns(s.of) for s in self.entropy]),
        ):
            for column in (column for of in names for column in of):
                if column not in COLUMNS or COLUMNS[column].merge != "key":
                    known = [c.name for c in COLUMNS.values() if c.merge == "key"]
                    raise ConfigError(
                        f"{name}.{setting}", f"{column!r} is not a key column{did_you_mean(column, known)}"
                    )
            if any(not of for of in names) and setting != "group_by":
                raise ConfigError(f"{name}.{setting}", "names no column")
            if any(len(set(of)) != len(of) for of in names):
                raise ConfigError(f"{name}.{setting}", "names a column twice")
        if parse_duration(self.every, f"{name}.every") < 1:
            raise ConfigError(f"{name}.every", f"{self.every!r} is too short; at least 1s")

    def plan(self, name: str) -> Plan:
        """What sketches there are; raises ConfigError where they do not fit into the memory."""
        tables: dict[tuple[Names, Amount], int] = {}
        for ranking in self.top:
            of_by = (columns(ranking.of), ranking.by)
            tables[of_by] = max(tables.get(of_by, 0), ranking.k)
        entropies = tuple((columns(s.of), s.by) for s in self.entropy)
        for of_by in entropies:
            tables.setdefault(of_by, 0)
        groups = self.max_groups + 1 if self.group_by else 1
        seconds = math.ceil(parse_duration(self.every, f"{name}.every")) + 2  # it may begin and end within one
        distinct = tuple(dict.fromkeys(columns(of) for of in self.distinct))
        plan = Plan(
            self.group_by, groups, tables, entropies, distinct, tuple(dict.fromkeys(self.quantiles)),
            tuple(dict.fromkeys(self.rates)), seconds, 0, 12 if groups == 1 else 10,
        )  # fmt: skip
        return plan._replace(capacity=self._capacity(plan, name))

    def _capacity(self, plan: Plan, name: str) -> int:
        """Keys that a table can have."""
        budget = parse_size(self.memory, f"{name}.memory")
        held = self.periods + 1  # one is under way
        fixed = held * (
            plan.groups * (8 * len(AMOUNTS) + (len(plan.counted) << plan.precision))
            + plan.groups * len(plan.quantiles) * HISTOGRAM_BYTES
            + plan.seconds * len(plan.rates) * SECOND_BYTES
        )
        fixed += min(self.max_series + 1, plan.groups) * len(plan.quantiles) * HISTOGRAM_BYTES  # on /metrics
        group = NUMBER.itemsize if plan.group_by else 0
        # A table under way has two more of its size in rows that came in last.
        a_key = sum(group + _row_bytes(of) for of, _ in plan.tables) * (held + 2)
        most = (budget - fixed) // a_key if a_key else MAX_CAPACITY
        least = max(MIN_CAPACITY, *(2 * k for k in plan.tables.values())) if plan.tables else 0
        if most < least or fixed > budget:
            needed = fixed + least * a_key
            raise ConfigError(
                f"{name}.memory",
                f"{self.memory!r} is too little, these measures need {needed:,} bytes at least; "
                "raise it, or lower periods, max_groups or the number of measures",
            )
        return min(MAX_CAPACITY, most)


class Policy:
    """Takes records in all the time; one period is under way from the first tick or record on."""

    every_record = False

    def __init__(self, config: Config, name: str) -> None:
        config.check(name)
        self.config = config
        self.name = name
        self._condition = config.condition(name)
        self._plan = config.plan(name)
        self._every_ns = round(parse_duration(config.every, f"{name}.every") * SECOND)
        self._numbers = GroupNumbers(config.group_by, config.max_groups, config.periods)
        filtered = self._condition.columns if self._condition is not None else frozenset()
        self._by_key_only = all(column in COLUMNS and COLUMNS[column].merge == "key" for column in filtered)
        keys = {column for of in (*(of for of, _ in self._plan.tables), *self._plan.counted) for column in of}
        self._summed = frozenset({*keys, *config.group_by, *filtered, *AMOUNTS, "sampling_rate"})
        self._live: Period | None = None
        self._begins_ns = 0
        self._finished: deque[Period] = deque(maxlen=config.periods)
        self._series = PolicySeries(name, config.max_series, self._plan.groups)

    @property
    def columns(self) -> frozenset[str]:
        """What it needs of each record."""
        return self._summed | {"received_ns"} if self._plan.rates else self._summed

    def process(self, records: Batch, flows: Batch, now_ns: int) -> None:
        rows = flows if self._can_use(flows, records) else records
        rows = matching(rows, self._condition)
        period = self._period(now_ns)
        if not len(rows):
            return
        records = matching(records, self._condition) if self._plan.quantiles or self._plan.rates else rows
        period.update(records, rows, self._numbers)

    def _can_use(self, flows: Batch, records: Batch) -> bool:
        """Whether merged rows tell the same: a filter on bytes, say, is about single records."""
        return self._by_key_only and not any(name in records and name not in flows for name in self._summed)

    def tick(self, now_ns: int) -> None:
        self._period(now_ns)

    def _period(self, now_ns: int) -> Period:
        """The one under way at this time; ends the one that is over.

        A clock that jumps ahead skips periods, which then never were. One that steps
        back, but not by more than a period, makes the one under way longer.
        """
        begins_ns = now_ns // self._every_ns * self._every_ns
        follows = begins_ns - self._begins_ns == self._every_ns
        if self._live is not None and not 0 <= self._begins_ns - begins_ns <= self._every_ns:
            if follows:
                self._live.goes_on(begins_ns)
            self._finish(self._live)
            self._live = None
        if self._live is None:
            self._begins_ns = begins_ns
            self._live = Period(self._plan, begins_ns if follows else now_ns)
        self._live.goes_on(now_ns)
        return self._live

    def _finish(self, period: Period) -> None:
        for table in period.tables.values():
            table.sums()  # merges the rows that came in last: `_capacity` has room for those of one period only
        self._series.absorb(period, self._numbers)
        self._finished.appendleft(period)
        self._numbers.next_period()

    @property
    def windows(self) -> int:
        """How many finished periods there are."""
        return len(self._finished)

    @property
    def nbytes(self) -> int:
        """Bytes of memory of all sketches."""
        live = self._live.nbytes if self._live is not None else 0
        return live + sum(period.nbytes for period in self._finished) + self._series.nbytes

    def describe(self) -> dict[str, Any]:
        """The policy's settings, and what there is of it."""
        return {
            "name": self.name,
            **msgspec.to_builtins(self.config),
            "windows": self.windows,
            "memory_used": self.nbytes,
            "table_capacity": self._plan.capacity,
        }

    def period(self, newest: int, oldest: int) -> Period | None:
        """Periods by age, 0 being the one under way, merged; None where one of them is not there."""
        periods = [self._live, *self._finished][newest : oldest + 1]
        if len(periods) != oldest + 1 - newest or not periods or periods[0] is None:
            return None
        if len(periods) == 1:
            return periods[0]
        merged = Period(self._plan, periods[0].starts_ns)
        for period in periods:
            assert period is not None
            merged.merge(period)
        return merged

    def result(self, newest: int, oldest: int) -> dict[str, Any] | None:
        """What these periods say together; see `Reading.result`."""
        period = self.period(newest, oldest)
        if period is None:
            return None
        return {"policy": self.name, "is_live": newest == 0, **Reading(period, self._numbers).result()}

    def sketch(self, kind: str, newest: int, oldest: int, of: Names, by: str, group: str | None) -> bytes | None:
        """A sketch of these periods for other engines, see `sketches.encoded`; None where a period is not there."""
        period = self.period(newest, oldest)
        return None if period is None else encoded(period, self._numbers, kind, of, by, group)

    def families(self) -> Iterable[Family]:
        last = self._finished[0] if self._finished else None
        yield from self._series.families(self._live, last, self._numbers)
        name = (self.name,)
        yield Family("flowagent_policy_memory_bytes", "gauge", "Bytes of a policy's sketches.", ("policy",),
                     {name: self.nbytes})  # fmt: skip
        folded = "Times a batch had a group beyond max_groups, counted with the others."
        yield Family("flowagent_policy_groups_folded", "counter", folded, ("policy",), {name: self._numbers.folded})


def columns(of: str | tuple[str, ...]) -> Names:
    """One column or several, as several."""
    return (of,) if isinstance(of, str) else of


def _row_bytes(names: Names) -> int:
    sizes = {"addr": 16}
    return _ROW_OVERHEAD + sum(
        sizes.get(COLUMNS[name].kind, np.dtype(COLUMNS[name].dtype).itemsize) + 1 for name in names
    )
