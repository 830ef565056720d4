"""Colours, light and dark. Hues are Okabe and Ito's and a few between them, told apart by most eyes."""

from __future__ import annotations

from typing import Literal, NamedTuple

Name = Literal["light", "dark"]
Key = tuple[str, bool]
"""A label, and whether it stands for what is not one thing: something may be called Other, or unknown."""


class Theme(NamedTuple):
    """What things are painted with."""

    background: str
    ink: str
    muted: str
    """For what is said beside the point; its contrast with the background is 4.5 at least."""
    line: str
    other: str
    """For what stands for many, or is not known."""
    hues: tuple[str, ...]
    veil: float
    """Opacity of ribbons."""


_HUES = ("#0072b2", "#d55e00", "#009e73", "#b4589a", "#8a7a00", "#2b8fc9", "#a33b20", "#4b6fd6", "#5d8a1f", "#8659c4")
_BRIGHT = ("#4ea8de", "#f08a4b", "#2fc59b", "#e08fc4", "#cbb83b", "#7cc4ec", "#e0765c", "#8fa6f0", "#97c653", "#b594ea")
THEMES: dict[Name, Theme] = {
    "light": Theme("#ffffff", "#1b1f24", "#57606a", "#d0d7de", "#8c959f", _HUES, 0.38),
    "dark": Theme("#14181d", "#e6edf3", "#9aa5b1", "#3a424c", "#768390", _BRIGHT, 0.45),
}


def colours(keys: list[Key], theme: Theme) -> dict[Key, str]:
    """A colour by key, in the order of the keys."""
    named = list(dict.fromkeys(key for key in keys if not key[1]))
    grey = {key: theme.other for key in keys if key[1]}
    many = len(theme.hues)
    # Those of a second round are nearer to the ink, a third round begins anew.
    hues = [*theme.hues, *(mixed(hue, theme.ink, 0.5) for hue in theme.hues)]
    return grey | {key: hues[i % (2 * many)] for i, key in enumerate(named)}


def tones(colour: str) -> tuple[str, str]:
    """A dark and a light one of the same hue, with a contrast of at least 3."""
    dark = light = colour
    for step in range(1, 20):
        if contrast(dark, light) >= 3:
            break
        dark, light = mixed(colour, "#000000", 0.05 * step), mixed(colour, "#ffffff", 0.05 * step)
    return dark, light


def mixed(one: str, other: str, share: float) -> str:
    """A colour with so much of another."""
    pairs = zip(_parts(one), _parts(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2, 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _parts(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for part in _parts(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
