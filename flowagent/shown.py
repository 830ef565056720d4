"""An answer of the history, as `flowagent top` and `render` read it; see docs/api.md, `/api/v1/query`.

And how its numbers are written for people: short, with their unit, and with how far off they may be.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

ARROW = " → "
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")
_UNITS = {"bytes": "B", "packets": "packets", "flows": "flows"}


class Value(Struct, frozen=True):
    """A value of a dimension."""

    label: str
    filter: str | None = None
    """Selects it; None where nothing does, as for the fold."""
    other: bool = False
    """It stands for all that are not shown."""
    unknown: bool = False


class Dimension(Struct, frozen=True):
    """A column that rows are grouped by, and the values that are shown of it."""

    column: str
    doc: str
    values: list[Value]


class Row(Struct, frozen=True):
    """A combination of values: `at` has an index into the values of each dimension."""

    at: list[int]
    value: float
    error: float = 0.0
    """Half of the 95 % interval."""
    series: list[float] | None = None


class Total(Struct, frozen=True):
    """Of all rows."""

    value: float
    error: float = 0.0
    series: list[float] | None = None


class History(Struct, frozen=True):
    """How far back the agent remembers."""

    oldest: float | None = None
    newest: float | None = None
    windows: int = 0
    rows: int = 0
    step: float = 0.0


class Answer(Struct, frozen=True, rename={"since": "from", "until": "to"}):
    """What was asked for."""

    since: float
    until: float
    measure: str
    unit: str
    exact: bool
    dimensions: list[Dimension]
    rows: list[Row]
    total: Total
    times: list[float] | None = None
    step: float | None = None
    unscaled: bool = False
    """Some exporters do not say their sampling rate."""
    prescaled: bool = False
    """Some was scaled by its exporter, whose sampling is not in the errors."""
    history: History = History()

    def value(self, row: Row, dimension: int) -> Value:
        """What a row has of a dimension."""
        return self.dimensions[dimension].values[row.at[dimension]]

    def labels(self, row: Row) -> list[str]:
        """The row's values as they are shown."""
        return [printable(self.value(row, i).label) for i in range(len(self.dimensions))]

    @property
    def seconds(self) -> float:
        """How much time it is about: the part of what was asked for that the agent remembers."""
        newest, oldest = self.history.newest, self.history.oldest
        since = self.since if oldest is None else max(self.since, oldest)
        until = self.until if newest is None else min(self.until, newest)
        return max(until - since, 0.0) or max(self.until - self.since, 1e-9)

    @property
    def honesty(self) -> str:
        """How far its numbers can be trusted, as a sentence."""
        if self.unscaled:
            return "some exporters do not say their sampling rate: real totals are at least these"
        if self.prescaled:
            return "some was scaled by its exporter: ± leaves out what its sampling adds"
        if self.exact:
            return "exact: nothing was sampled"
        return "some was sampled: ± is the 95 % interval"


def check(answer: Answer) -> Answer:
    """The answer, where its rows fit its dimensions and its times; raises ValueError."""
    if not (answer.measure + answer.unit).isprintable():
        raise ValueError(f"it is about {printable(answer.measure)!r} in {printable(answer.unit)!r}")
    sizes = [len(dimension.values) for dimension in answer.dimensions]
    for row in answer.rows:
        if len(row.at) != len(sizes) or not all(0 <= i < size for i, size in zip(row.at, sizes, strict=True)):
            raise ValueError(f"a row is at {row.at[:8]}, which is not one of the {len(sizes)} dimensions' values")
        if len(row.series or ()) != len(answer.times or ()):
            raise ValueError(f"a row has {len(row.series or ())} steps, not {len(answer.times or ())}")
    return answer


def decode(data: bytes) -> Answer:
    """An answer from its JSON; raises ValueError."""
    try:
        return check(msgspec.json.decode(data, type=Answer))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def amount(value: float, unit: str, *, per_second: bool = False) -> str:
    """A number as people write it: 12.3 MB, 4.5 k packets/s."""
    size = abs(value)
    power = 0
    while power + 1 < len(_DECIMAL) and (size >= 999.5 if power == 0 else size >= 999.95):
        size /= 1000
        power += 1
    digits = 0 if (power == 0 and size == int(size)) or size >= 99.95 else 1
    sign = "-" if value < 0 else ""
    name = _UNITS.get(unit, unit)
    per = "/s" if per_second else ""
    if name == "B":
        return f"{sign}{size:.{digits}f} {_DECIMAL[power]}B{per}"
    return f"{sign}{size:.{digits}f}{_DECIMAL[power]} {name}{per}".rstrip()


def error_text(value: float, error: float) -> str:
    """How far off a value may be, as a part of it; empty where it is exact."""
    if error <= 0:
        return ""
    if value <= 0 or error >= 10 * value:
        return "± >1000 %"
    share = 100 * error / value
    return f"± {share:.1f} %" if share < 9.95 else f"± {share:.0f} %"


def printable(text: str) -> str:
    """A text from outside without characters that would steer a terminal or turn the line around."""
    return "".join(c if c.isprintable() else "�" for c in text)
