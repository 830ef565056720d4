"""What is around every picture: title, what it is about, how far it can be trusted, and its description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flowagent.pictures import svg
from flowagent.pictures.theme import Theme
from flowagent.shown import ARROW, Answer, amount, error_text

MARGIN, HEAD, FOOT = 24, 84, 40
_SIDES = {"src": "source", "dst": "destination", "in": "input", "out": "output"}
_WORDS = {"k8s": "", "addr": "address", "proto": "protocol", "if": "interface", "as": "AS", "name": ""}


@dataclass(frozen=True)
class Style:
    """How a picture is to be."""

    theme: Theme
    title: str = ""
    """Empty: one that says what it shows."""
    width: float = 1000
    height: float = 0
    """0: as high as it needs to be."""


def words(column: str) -> str:
    """A column's name as people say it: source namespace."""
    side, _, rest = column.partition("_")
    parts = [_SIDES[side], *rest.split("_")] if side in _SIDES and rest else column.split("_")
    said = " ".join(word for word in (_WORDS.get(part, part) for part in parts) if word)
    return said if said not in _SIDES.values() else f"{said} name"


def title(answer: Answer, style: Style) -> str:
    """What the picture shows."""
    by = ARROW.join(words(dimension.column) for dimension in answer.dimensions)
    return style.title or f"{answer.measure.replace('_', ' ').capitalize()} by {by}"


def subtitle(answer: Answer) -> str:
    """Total, its rate, and the time."""
    value, error = answer.total.value, answer.total.error
    rate = amount(value / answer.seconds, answer.unit, per_second=True)
    told = " ".join(filter(None, (amount(value, answer.unit), error_text(value, error))))
    return f"{told}, {rate} on average, {instant(answer.since)} to {instant(answer.until, day=False)} UTC"


def instant(seconds: float, *, day: bool = True) -> str:
    """A moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S" if day else "%H:%M:%S")


def measured(answer: Answer, value: float, error: float) -> str:
    """A value, how far off it may be, and its share, as tooltips say it."""
    whole = answer.total.value
    share = f"{100 * value / whole:.1f} %" if whole else ""
    return ", ".join(
        filter(None, (" ".join(filter(None, (amount(value, answer.unit), error_text(value, error)))), share))
    )


def document(answer: Answer, style: Style, height: float, body: Sequence[str]) -> str:
    """The whole picture; `body` is drawn between HEAD and height - FOOT."""
    theme, width = style.theme, style.width
    said, about = title(answer, style), subtitle(answer)
    room = width - 2 * MARGIN
    size = min(20.0, max(13.0, room / svg.width(said, 1.08)))  # bold is wider
    heading = [
        svg.text(MARGIN, 36, svg.cut(said, room, 1.08 * size), size, fill=theme.ink, font_weight="bold"),
        svg.text(MARGIN, 58, svg.cut(about, room, 13), 13, fill=theme.muted),
        svg.text(MARGIN, height - 16, svg.cut(footnote(answer), room, 11), 11, fill=theme.muted),
    ]
    return svg.tag(
        "svg",
        svg.tag("title", svg.plain(said), id="title"),
        svg.tag("desc", svg.plain(f"{about}. {described(answer)}"), id="desc"),
        svg.tag("rect", width=width, height=height, fill=theme.background),
        *heading,
        *body,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {svg.number(width)} {svg.number(height)}",
        width=width, height=height, role="img", aria_labelledby="title desc", font_family=svg.FONT,
    )  # fmt: skip


def footnote(answer: Answer) -> str:
    """How far the numbers can be trusted, and that time is missing where it is."""
    asked = answer.until - answer.since
    missing = (
        f"; of the time asked for, {answer.seconds:.0f} s of {asked:.0f} s are known"
        if answer.seconds < 0.95 * asked
        else ""
    )
    return f"{answer.honesty[0].upper()}{answer.honesty[1:]}{missing}."


def described(answer: Answer) -> str:
    """The largest rows as sentences, for who does not see the picture."""
    rows = [
        f"{ARROW.join(answer.labels(row))}: {measured(answer, row.value, row.error)}"
        for row in answer.rows[:10]
        if row.value > 0
    ]
    more = len(answer.rows) - len(rows)
    return "; ".join(rows) + (f"; and {more} more" if more > 0 else "") + "."


def nothing(answer: Answer, style: Style) -> str:
    """The picture of no traffic."""
    said = svg.text(
        style.width / 2, 150, "no traffic of this kind in this time", 15, fill=style.theme.muted, text_anchor="middle"
    )
    return document(answer, style, 240, [said])
