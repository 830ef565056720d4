"""A question about the history: its parameters, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

from flowagent.errors import ConfigError
from flowagent.filters import Filter, parse_filter
from flowagent.history.store import View
from flowagent.literals import EITHER
from flowagent.sections import did_you_mean, parse_duration

MAX_DIMENSIONS, MAX_TOP, MAX_STEPS = 4, 2000, 2000
MAX_NUMBERS = 200_000
"""Of all series of an answer together."""
MEASURES = {
    "bytes": "bytes", "packets": "packets", "flows": "records",
    "dropped_bytes": "dropped_bytes", "dropped_packets": "dropped_packets",
}  # fmt: skip
"""What can be asked for, and the column that it is the sum of. Its unit is the last word of its name."""
PARAMETERS = ("from", "to", "filter", "dimensions", "measure", "top", "fold", "step")
_MINUTES = 5
_AGO = re.compile(r"-\s*(\d[\w.\s]*)")
_FARTHEST = 1e10
"""Seconds since 1970 that are still taken for a time."""
Fold = Literal["dimension", "row"]


class Moment(NamedTuple):
    """A time in seconds: since 1970, or after the end of what the history has where it is relative."""

    seconds: float
    is_relative: bool = True

    @classmethod
    def parse(cls, text: str, path: str) -> Moment:
        """`1760000000.5`, `-15m` or `now`; raises ConfigError."""
        text = text.strip()
        if text == "now":
            return cls(0.0)
        ago = _AGO.fullmatch(text)
        if ago is not None:
            return cls(-parse_duration(ago[1].strip(), path))
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= _FARTHEST:
            raise ConfigError(path, f"{text!r} is no time; write seconds since 1970, how long ago as -15m, or now")
        return cls(seconds, is_relative=False)


class Query(NamedTuple):
    """What is asked; equal ones have equal answers as long as the history does not change."""

    since: Moment = Moment(-60.0 * _MINUTES)
    until: Moment = Moment(0.0)
    where: Filter | None = None
    dimensions: tuple[str, ...] = ()
    measure: str = "bytes"
    top: int = 20
    fold: Fold = "dimension"
    step: float | None = None
    """Seconds of a step of the series; None for no series."""

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> Query:
        """From the texts of a request; raises ConfigError, whose path is the parameter."""
        for name in parameters:
            if name not in PARAMETERS:
                hint = did_you_mean(name, list(PARAMETERS))
                raise ConfigError(name, f"is no parameter{hint}; known: {', '.join(PARAMETERS)}")
        text = parameters.get("filter", "").strip()
        measure, fold = parameters.get("measure", "bytes"), parameters.get("fold", "dimension")
        if measure not in MEASURES:
            hint = did_you_mean(measure, list(MEASURES))
            raise ConfigError("measure", f"{measure!r} is none{hint}; one of: {', '.join(MEASURES)}")
        if fold not in ("dimension", "row"):
            raise ConfigError("fold", f"{fold!r} is neither dimension nor row")
        query = cls(
            Moment.parse(parameters.get("from", f"-{_MINUTES}m"), "from"),
            Moment.parse(parameters.get("to", "now"), "to"),
            parse_filter(text, "filter") if text else None,
            _dimensions(parameters.get("dimensions", "")),
            measure,
            _top(parameters.get("top", "20")),
            cast("Fold", fold),
            _step(parameters["step"]) if "step" in parameters else None,
        )
        query._check_range()
        return query

    def _check_range(self) -> None:
        if self.since.is_relative != self.until.is_relative:
            return  # which is earlier depends on the time
        seconds = self.until.seconds - self.since.seconds
        if seconds <= 0:
            raise ConfigError("from", "is not before to")
        if self.step is not None:
            self.check_steps(math.ceil(seconds / self.step))

    def check_steps(self, steps: int) -> None:
        """Raise ConfigError where series of so many steps are too much."""
        if steps > MAX_STEPS:
            raise ConfigError("step", f"makes {steps} steps; at most {MAX_STEPS}: write a longer one")
        rows = self.top + 1 if self.fold == "row" and self.dimensions else 1
        if rows * steps > MAX_NUMBERS:
            problem = f"{rows} rows of {steps} steps are more than {MAX_NUMBERS} numbers; a longer step or a lower top"
            raise ConfigError("step", f"{problem} will do")

    def check(self, view: View) -> None:
        """Raise ConfigError where the history does not have what is asked for."""
        if MEASURES[self.measure] not in view.measures:
            raise ConfigError("measure", f"{self.measure} is not in the history; add it to window.measures")
        for name in self.dimensions:
            _check_column(name, "dimensions", view.columns)
        for name in sorted(self.where.columns if self.where is not None else ()):
            _check_column(name, "filter", view.columns)


def _check_column(name: str, path: str, there: frozenset[str]) -> None:
    if name in there:
        return
    if name in EITHER:
        raise ConfigError(path, f"{name!r} stands for {' and '.join(EITHER[name])}; name one or both")
    hint = did_you_mean(name, sorted(there))
    known = ", ".join(sorted(there))
    raise ConfigError(path, f"{name[:60]!r} is not a column of the history{hint}; there are: {known}")


def _dimensions(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    if len(names) > MAX_DIMENSIONS:
        raise ConfigError("dimensions", f"are {len(names)}; at most {MAX_DIMENSIONS}")
    if len(set(names)) < len(names):
        raise ConfigError("dimensions", "name a column twice")
    return names


def _top(text: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_TOP:
        raise ConfigError("top", f"{text[:20]!r} is none; a number from 1 to {MAX_TOP}")
    return int(text)


def _step(text: str) -> float:
    seconds = parse_duration(text, "step")
    if seconds < 1:
        raise ConfigError("step", f"{text!r} is too short; at least 1s")
    return seconds
