"""A chord diagram: who sends to whom, around a circle. Dark bands are what goes out, light ones what comes in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flowagent.errors import ConfigError
from flowagent.pictures import svg
from flowagent.pictures.frame import FOOT, HEAD, MARGIN, Style, document, measured, nothing
from flowagent.pictures.graph import Graph, Link, build
from flowagent.pictures.theme import Key, Theme, colours, tones
from flowagent.shown import ARROW, Answer, amount

MAX_MEMBERS = 40
"""More fold into Other: thinner arcs tell nothing."""
_GAP, _RING, _HEAD_SHARE, _LEADER = 0.028, 16.0, 0.035, 14.0
_TWO_LINES = 30.0
OTHER: Key = ("Other", True)


@dataclass
class Member:
    """Somebody on the circle: what goes out and comes in, and where; angles clockwise from the top, in radians."""

    label: str
    is_grey: bool
    out: float = 0.0
    into: float = 0.0
    out_error: float = 0.0
    into_error: float = 0.0
    start: float = 0.0
    middle: float = 0.0
    """Where the band of what goes out ends, and that of what comes in begins."""
    end: float = 0.0

    @property
    def key(self) -> Key:
        """What tells it apart."""
        return self.label, self.is_grey


@dataclass
class Ribbon:
    """What one sends to another: indexes of members, and the angles of both feet."""

    source: int
    target: int
    value: float
    error: float
    source_from: float = 0.0
    source_to: float = 0.0
    target_from: float = 0.0
    target_to: float = 0.0


@dataclass(frozen=True)
class Circle:
    """Members in their order, and ribbons."""

    members: list[Member] = field(default_factory=list)
    ribbons: list[Ribbon] = field(default_factory=list)


def layout(graph: Graph) -> Circle:
    """Both columns of a graph as one circle: who has the same label is the same, and few enough of them."""
    flows = _flows(graph)
    members = {key: Member(*key) for key in (*(node.key for node in graph.nodes), OTHER)}
    for (source, target), link in flows.items():
        members[source].out += link.value
        members[target].into += link.value
        members[source].out_error = math.hypot(members[source].out_error, link.error)
        members[target].into_error = math.hypot(members[target].into_error, link.error)
    busy = sorted((m for m in members.values() if m.out + m.into > 0), key=lambda m: (m.is_grey, -(m.out + m.into)))
    circle = Circle(busy)
    _place(circle)
    place = {member.key: i for i, member in enumerate(busy)}
    circle.ribbons.extend(Ribbon(place[a], place[b], one.value, one.error) for (a, b), one in flows.items())
    _foot(circle)
    return circle


def _flows(graph: Graph) -> dict[tuple[Key, Key], Link]:
    """By who they are between, those beyond MAX_MEMBERS as Other."""
    sums: dict[Key, float] = {}
    for node in graph.nodes:
        if not node.is_grey:
            sums[node.key] = sums.get(node.key, 0.0) + node.value
    kept = set(sorted(sums, key=lambda key: -sums[key])[: MAX_MEMBERS - 2])
    flows: dict[tuple[Key, Key], Link] = {}
    for link in graph.links:
        ends = (graph.nodes[link.source], graph.nodes[link.target])
        a, b = (node.key if node.is_grey or node.key in kept else OTHER for node in ends)
        before = flows.get((a, b), Link(0, 0, 0.0, 0.0))
        flows[a, b] = Link(0, 0, before.value + link.value, math.hypot(before.error, link.error))
    return flows


def _place(circle: Circle) -> None:
    """Give each an arc as long as what goes out and comes in."""
    members = circle.members
    whole = sum(member.out + member.into for member in members)
    gap = min(_GAP, math.pi / 2 / max(len(members), 1)) if len(members) > 1 else 0.0
    scale = (2 * math.pi - gap * len(members)) / whole if whole else 0.0
    angle = 0.0
    for member in members:
        member.start = angle
        member.middle = member.start + member.out * scale
        member.end = angle = member.middle + member.into * scale
        angle += gap


def _foot(circle: Circle) -> None:
    """Feet side by side in each band, in an order in which ribbons of one member do not cross."""
    count = len(circle.members)
    whole = sum(member.out + member.into for member in circle.members)
    span = sum(member.end - member.start for member in circle.members)
    scale = span / whole if whole else 0.0
    at_out = [member.start for member in circle.members]
    at_in = [member.middle for member in circle.members]
    for ribbon in sorted(circle.ribbons, key=lambda r: (r.source - r.target - 1) % count):
        ribbon.source_from = at_out[ribbon.source]
        ribbon.source_to = at_out[ribbon.source] = ribbon.source_from + ribbon.value * scale
    for ribbon in sorted(circle.ribbons, key=lambda r: (r.target - r.source - 1) % count):
        ribbon.target_from = at_in[ribbon.target]
        ribbon.target_to = at_in[ribbon.target] = ribbon.target_from + ribbon.value * scale


def draw(answer: Answer, style: Style) -> str:
    """The SVG; raises ConfigError where the answer has not two dimensions."""
    if len(answer.dimensions) != 2:
        raise ConfigError("--dimensions", "a chord diagram has two, such as src_k8s_namespace,dst_k8s_namespace")
    circle = layout(build(answer))
    if not circle.members:
        return nothing(answer, style)
    height = style.height or 740.0
    radius = max(min((height - HEAD - FOOT) / 2 - 24, style.width / 2 - MARGIN - 200), 60.0)
    x, y = style.width / 2, HEAD + (height - HEAD - FOOT) / 2
    hues = colours([member.key for member in circle.members], style.theme)
    body = _ribbons(answer, circle, hues, radius - _RING, style) + _arcs(answer, circle, hues, radius)
    said = svg.tag("g", *body, transform=f"translate({svg.number(x)} {svg.number(y)})")
    return document(
        answer,
        style,
        height,
        [said, *_labels(answer, circle, (x, y, radius), height, style), _key(style.theme, height, style)],
    )


def _at(angle: float, radius: float) -> tuple[float, float]:
    return math.sin(angle) * radius, -math.cos(angle) * radius


def _arc(start: float, end: float, inner: float, outer: float) -> str:
    """A piece of a ring, not quite all of it: a whole circle would have no direction."""
    end = min(end, start + 2 * math.pi - 1e-3)
    large = float(end - start > math.pi)
    return svg.path("M", *_at(start, outer), "A", outer, outer, 0.0, large, 1.0, *_at(end, outer),
                    "L", *_at(end, inner), "A", inner, inner, 0.0, large, 0.0, *_at(start, inner), "Z")  # fmt: skip


def _arcs(answer: Answer, circle: Circle, hues: dict[Key, str], radius: float) -> list[str]:
    out = []
    for member in circle.members:
        dark, light = tones(hues[member.key])
        bands = (
            ("out", member.out, member.out_error, member.start, member.middle, dark),
            ("in", member.into, member.into_error, member.middle, member.end, light),
        )
        for way, value, error, start, end, colour in bands:
            if value > 0:
                tip = svg.tag("title", svg.plain(f"{member.label} {way}: {measured(answer, value, error)}"))
                out.append(svg.tag("path", tip, d=_arc(start, end, radius - _RING + 2, radius), fill=colour))
    return out


def _ribbons(answer: Answer, circle: Circle, hues: dict[Key, str], radius: float, style: Style) -> list[str]:
    """In the sender's colour, with an arrowhead at the receiver; the largest first."""
    out = []
    for ribbon in sorted(circle.ribbons, key=lambda r: -r.value):
        source, target = circle.members[ribbon.source], circle.members[ribbon.target]
        inner = radius * (1 - _HEAD_SHARE)
        middle = (ribbon.target_from + ribbon.target_to) / 2
        large = float(ribbon.source_to - ribbon.source_from > math.pi)
        d = svg.path(
            "M", *_at(ribbon.source_from, radius),
            "A", radius, radius, 0.0, large, 1.0, *_at(ribbon.source_to, radius),
            "Q", 0.0, 0.0, *_at(ribbon.target_from, inner),
            "L", *_at(middle, radius), "L", *_at(ribbon.target_to, inner),
            "Q", 0.0, 0.0, *_at(ribbon.source_from, radius), "Z",
        )  # fmt: skip
        said = f"{source.label}{ARROW}{target.label}: {measured(answer, ribbon.value, ribbon.error)}"
        tip, colour = svg.tag("title", svg.plain(said)), hues[source.key]
        out.append(svg.tag("path", tip, d=d, fill=colour, fill_opacity=style.theme.veil + 0.12,
                           stroke=colour, stroke_width=0.5, stroke_opacity=0.6))  # fmt: skip
    return out


def _labels(
    answer: Answer, circle: Circle, place: tuple[float, float, float], height: float, style: Style
) -> list[str]:
    """On both sides, none over another, each with a line to its arc."""
    x, y, radius = place
    out = []
    for is_left in (False, True):
        side = [(m, (m.start + m.end) / 2) for m in circle.members]
        side = sorted(((m, a) for m, a in side if (math.sin(a) < 0) == is_left), key=lambda pair: -math.cos(pair[1]))
        wanted = [y + _at(angle, radius + _LEADER)[1] for _, angle in side]
        low, high = HEAD + 14, height - FOOT - 22
        lines = 2 if len(side) * _TWO_LINES <= high - low else 1
        for (member, angle), line in zip(side, spread(wanted, _TWO_LINES / 2 * lines, low, high), strict=True):
            sign = -1 if is_left else 1
            edge = x + sign * (radius + _LEADER + 12)
            bend, end = _at(angle, radius + 2), _at(angle, radius + _LEADER - 4)
            d = svg.path("M", x + bend[0], y + bend[1], "L", x + end[0], y + end[1], "L", edge, line - 4)
            out.append(svg.tag("path", d=d, fill="none", stroke=style.theme.line))
            room = edge - 5 - MARGIN if is_left else style.width - MARGIN - edge - 5
            name = svg.cut(member.label, room, svg.LABEL)
            out.append(svg.label(edge + sign * 5, line, name, "", style.theme, is_left=is_left))
            if lines == 2:
                out.append(svg.text(edge + sign * 5, line + 13, _told(answer, member), svg.SMALL,
                                    fill=style.theme.muted, text_anchor="end" if is_left else "start"))  # fmt: skip
    return out


def _told(answer: Answer, member: Member) -> str:
    ways = (("out", member.out), ("in", member.into))
    return ", ".join(f"{way} {amount(value, answer.unit)}" for way, value in ways if value > 0)


def spread(wanted: list[float], apart: float, low: float, high: float) -> list[float]:
    """Rising places as near to the wanted ones as it takes to be `apart`, between low and high if there is room."""
    if not wanted:
        return []
    apart = min(apart, (high - low) / max(len(wanted) - 1, 1))
    placed: list[float] = []
    for one in wanted:
        placed.append(max(one, placed[-1] + apart if placed else low))
    placed[-1] = min(placed[-1], high)
    for i in range(len(placed) - 2, -1, -1):
        placed[i] = min(placed[i], placed[i + 1] - apart)
    return placed


def _key(theme: Theme, height: float, style: Style) -> str:
    """What dark and light mean."""
    dark, light = tones(theme.hues[0])
    x, y = style.width - MARGIN - 250, height - 26
    return "".join([
        svg.tag("rect", x=x, y=y, width=12, height=12, fill=dark),
        svg.text(x + 18, y + 10, "out", 11, fill=theme.muted),
        svg.tag("rect", x=x + 50, y=y, width=12, height=12, fill=light),
        svg.text(x + 68, y + 10, "in; ribbons in the sender's colour", 11, fill=theme.muted),
    ])  # fmt: skip
