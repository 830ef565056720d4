"""Writes SVG and HTML: elements as text, everything from outside escaped, numbers short."""

from __future__ import annotations

import unicodedata
from html import escape

from flowagent.shown import printable

FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
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
    """About how wide a text is, rather too wide than too narrow."""
    wide = sum(
        1.0 if unicodedata.east_asian_width(c) in "WF" else 0.62 if c.isupper() or c in "mwMW@%" else 0.54 for c in said
    )
    return wide * size


def cut(said: str, room: float, size: float = 12) -> str:
    """The text, cut so that it fits; the whole one belongs into a title."""
    said = printable(said)
    if width(said, size) <= room:
        return said
    while said and width(said + "…", size) > room:
        said = said[:-1]
    return said + "…"
