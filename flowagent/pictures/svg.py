"""Writes SVG and HTML: elements as text, everything from outside escaped, numbers short."""

from __future__ import annotations

import unicodedata
from html import escape

from flowagent.pictures.theme import Theme
from flowagent.shown import printable

FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
LABEL, SMALL, GAP = 12.0, 10.5, 7.0
"""Sizes of names and numbers, and the gap between them."""
Attribute = str | float | None


def tag(name: str, *children: str, **attributes: Attribute) -> str:
    """An element; children are markup already. `_` in names of attributes is `-`; None leaves one out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{told}>{''.join(children)}</{name}>" if children else f"<{name}{told}/>"


def _value(value: str | float) -> str:
    return escape(printable(value)) if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """At most two places after the point, none where they are zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"


def plain(text: str) -> str:
    """A text as markup."""
    return escape(printable(text), quote=False)


def text(x: float, y: float, said: str, size: float = 12, **attributes: Attribute) -> str:
    """A line of text whose baseline begins at (x, y)."""
    return tag("text", plain(said), x=x, y=y, font_size=size, **attributes)


def path(*steps: str | float) -> str:
    """The `d` of a path: letters and numbers."""
    return " ".join(step if isinstance(step, str) else number(step) for step in steps)


def width(said: str, size: float = 12) -> float:
    """About how wide a text is, rather too wide than too narrow: fonts differ."""
    return size * sum(map(_advance, said))


def _advance(c: str) -> float:
    """Of a character, in its size."""
    if c in "mwMW@%—→":
        return 0.9
    if c in "iljtfrI.,:;|'! ()[]-":
        return 0.38
    if unicodedata.east_asian_width(c) in "WF":
        return 1.0
    return 0.7 if c.isupper() else 0.61


def cut(said: str, room: float, size: float = 12) -> str:
    """The text, cut so that it fits; the whole one belongs into a title."""
    said = printable(said)
    if width(said, size) <= room:
        return said
    while said and width(said + "…", size) > room:
        said = said[:-1]
    return said + "…"


def label(x: float, y: float, name: str, told: str, theme: Theme, *, is_left: bool = False, halo: bool = False) -> str:
    """A name and, smaller, a number beside it, to the right of (x, y) or to the left; a halo parts it from bands."""
    around: dict[str, Attribute] = {
        "stroke": theme.background, "stroke_width": 3, "stroke_opacity": 0.75, "stroke_linejoin": "round",
        "fill": "none", "aria_hidden": "true",
    }  # fmt: skip
    below = _label(x, y, name, told, is_left, around, around) if halo else ""
    return below + _label(x, y, name, told, is_left, {"fill": theme.ink}, {"fill": theme.muted})


def _label(
    x: float,
    y: float,
    name: str,
    told: str,
    is_left: bool,
    of_name: dict[str, Attribute],
    of_told: dict[str, Attribute],
) -> str:
    if is_left:
        # Two texts: not every program counts a smaller part in when a text ends at a place.
        where = x - width(told, SMALL) - GAP if told else x
        number_ = text(x, y, told, SMALL, **of_told, text_anchor="end") if told else ""
        return text(where, y, name, LABEL, **of_name, text_anchor="end") + number_
    more = tag("tspan", plain(told), dx=GAP, font_size=SMALL, **of_told) if told else ""
    return tag("text", plain(name) + more, x=x, y=y, font_size=LABEL, **of_name)


def room_for(room: float, told: str) -> float:
    """What is left for the name of a label."""
    return room - width(told, SMALL) - GAP
