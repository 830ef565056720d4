"""A timeline: rates by step, one on top of the other, as stairs, as each step is a sum and not a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from flowagent.errors import ConfigError
from flowagent.pictures import svg
from flowagent.pictures.frame import FOOT, HEAD, MARGIN, Style, document, measured, nothing
from flowagent.pictures.theme import Key, colours
from flowagent.shown import ARROW, Answer, Row, amount, error_text

_LEFT, _RIGHT, _AXIS = 76.0, 300.0, 26.0
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True)
class Layer:
    """A row: where its stairs begin and end in each step, in units of the measure."""

    row: Row
    low: list[float]
    high: list[float]


def layers(answer: Answer) -> list[Layer]:
    """The rows from the bottom up, as they come; the last one ends at the total of each step."""
    below = [0.0] * len(answer.times or [])
    out = []
    for row in answer.rows:
        above = [low + max(value, 0.0) for low, value in zip(below, row.series or [], strict=True)]
        out.append(Layer(row, below, above))
        below = above
    return out


def draw(answer: Answer, style: Style) -> str:
    """The SVG; raises ConfigError where the answer has no series."""
    if answer.times is None or not answer.step:
        raise ConfigError("--step", "the answer has no series; name a step, such as 10s")
    stack = layers(answer)
    most = max((value for layer in stack for value in layer.high), default=0.0)
    if most <= 0:
        return nothing(answer, style)
    height = style.height or max(460.0, HEAD + FOOT + _AXIS + 22 * len(stack))
    plot = _Plot(
        MARGIN + _LEFT,
        style.width - MARGIN - _RIGHT,
        HEAD + 10,
        height - FOOT - _AXIS,
        answer,
        nice(most / answer.step),
    )
    labels = [(ARROW.join(answer.labels(row)) or "all", _is_grey(answer, row)) for row in answer.rows]
    hues = colours(labels, style.theme)
    body = [*plot.axes(style)]
    for layer, key in zip(stack, labels, strict=True):
        tip = svg.tag("title", svg.plain(f"{key[0]}: {measured(answer, layer.row.value, layer.row.error)}"))
        body.append(svg.tag("path", tip, d=plot.stairs(layer), fill=hues[key],
                            stroke=style.theme.background, stroke_width=0.6))  # fmt: skip
    body += _legend(answer, labels, hues, plot.right + 24, style)
    return document(answer, style, height, body)


def _is_grey(answer: Answer, row: Row) -> bool:
    values = [answer.value(row, i) for i in range(len(row.at))]
    return bool(values) and all(value.other or value.unknown for value in values)


def nice(largest: float) -> list[float]:
    """About five round numbers from 0 up to the first one that is not below the largest."""
    power = 10.0 ** math.floor(math.log10(largest / 4)) if largest > 0 else 1.0
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 5 >= largest)
    return [step * i for i in range(math.ceil(largest / step - 1e-9) + 1)]


@dataclass(frozen=True)
class _Plot:
    """Where the stairs are drawn."""

    left: float
    right: float
    top: float
    bottom: float
    answer: Answer
    ticks: list[float]
    """Of the rate."""

    @property
    def _times(self) -> list[float]:
        """Where steps begin, and where the last one ends."""
        times = self.answer.times or []
        return [*times, times[-1] + (self.answer.step or 0)]

    def x(self, time: float) -> float:
        first, last = self._times[0], self._times[-1]
        return self.left + (self.right - self.left) * (time - first) / (last - first)

    def y(self, value: float) -> float:
        """Of a value of one step."""
        return self.bottom - (self.bottom - self.top) * value / (self.answer.step or 1) / self.ticks[-1]

    def stairs(self, layer: Layer) -> str:
        """The outline of a layer."""
        times = self._times
        steps: list[str | float] = ["M", self.x(times[0]), self.y(layer.low[0])]
        for i, value in enumerate(layer.high):
            steps += ["L", self.x(times[i]), self.y(value), "L", self.x(times[i + 1]), self.y(value)]
        for i in range(len(layer.low) - 1, -1, -1):
            steps += ["L", self.x(times[i + 1]), self.y(layer.low[i]), "L", self.x(times[i]), self.y(layer.low[i])]
        return svg.path(*steps, "Z")

    def axes(self, style: Style) -> list[str]:
        """Lines and numbers of rates and times."""
        theme, out = style.theme, []
        for rate in self.ticks:
            y = self.y(rate * (self.answer.step or 1))
            out.append(svg.tag("path", d=svg.path("M", self.left, y, "L", self.right, y), stroke=theme.line))
            said = amount(rate, self.answer.unit, per_second=True)
            out.append(svg.text(self.left - 8, y + 4, said, svg.SMALL, fill=theme.muted, text_anchor="end"))
        times = self._times
        apart = next((t for t in _TICKS if (times[-1] - times[0]) / t <= 8), _TICKS[-1])
        form = "%H:%M:%S" if apart < 60 else "%H:%M" if apart < 43200 else "%m-%d"
        for i in range(math.ceil(times[0] / apart), math.floor(times[-1] / apart) + 1):
            x = self.x(i * apart)
            out.append(svg.tag("path", d=svg.path("M", x, self.bottom, "L", x, self.bottom + 5), stroke=theme.muted))
            said = datetime.fromtimestamp(i * apart, UTC).strftime(form)
            out.append(svg.text(x, self.bottom + 18, said, svg.SMALL, fill=theme.muted, text_anchor="middle"))
        return out


def _legend(answer: Answer, labels: list[Key], hues: dict[Key, str], x: float, style: Style) -> list[str]:
    """What is what, from the top down as in the picture."""
    out = []
    for i, (row, key) in enumerate(reversed(list(zip(answer.rows, labels, strict=True)))):
        y = HEAD + 18 + 22 * i
        told = " ".join(filter(None, (amount(row.value, answer.unit), error_text(row.value, row.error))))
        name = svg.cut(key[0], svg.room_for(style.width - MARGIN - x - 20, told), svg.LABEL)
        out.append(svg.tag("rect", x=x, y=y - 10, width=12, height=12, fill=hues[key]))
        out.append(svg.label(x + 20, y, name, told, style.theme))
    return out
