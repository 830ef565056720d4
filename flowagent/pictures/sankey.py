"""A Sankey diagram in columns, one for each dimension: bands as wide as what goes from value to value."""

from __future__ import annotations

from dataclasses import dataclass

from flowagent.pictures import svg
from flowagent.pictures.frame import FOOT, HEAD, MARGIN, Style, document, measured, nothing, words
from flowagent.pictures.graph import Graph, build
from flowagent.pictures.theme import Key, colours
from flowagent.shown import ARROW, Answer, amount, error_text

PAD = 18.0
"""Between nodes; a label of each fits beside it, however thin it is."""
NODE_WIDTH = 14.0
_LEAST, _PER_NODE, _COLUMN_HEAD = 400.0, 44.0, 26.0


@dataclass(frozen=True)
class Box:
    """Where a node is."""

    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Band:
    """Where a link is: its upper edges at both ends, and how wide it is."""

    y0: float
    y1: float
    width: float


@dataclass(frozen=True)
class Layout:
    """Boxes by node and bands by link of a graph; `scale` is the height of one unit."""

    boxes: list[Box]
    bands: list[Band]
    scale: float


def layout(graph: Graph, columns: int, left: float, right: float, top: float, bottom: float) -> Layout:
    """Nodes in columns from left to right; each as high as its value, and so is what goes in and out of it."""
    members = [_ordered(graph, number) for number in range(columns)]
    most = max(map(len, members))
    pad = min(PAD, (bottom - top) / 2 / max(most - 1, 1))
    scale = (bottom - top - pad * (most - 1)) / graph.total if graph.total > 0 else 0.0
    step = (right - left - NODE_WIDTH) / max(columns - 1, 1)
    boxes = [Box(0, 0, 0)] * len(graph.nodes)
    for number, column in enumerate(members):
        used = sum(graph.nodes[i].value for i in column) * scale + pad * (len(column) - 1)
        y = top + (bottom - top - used) / 2
        for i in column:
            boxes[i] = Box(left + number * step, y, graph.nodes[i].value * scale)
            y += boxes[i].height + pad
    return Layout(boxes, _bands(graph, boxes, scale), scale)


def _ordered(graph: Graph, number: int) -> list[int]:
    """The nodes of a column so that few bands cross: by where they come from, those that are grey last."""
    column = graph.column(number)
    if number == 0:
        return column
    weight: dict[int, float] = {}
    for link in graph.links:
        if graph.nodes[link.target].column == number:
            weight[link.target] = weight.get(link.target, 0.0) + link.value * link.source
    return sorted(column, key=lambda i: (graph.nodes[i].is_grey, weight.get(i, 0.0) / graph.nodes[i].value, i))


def _bands(graph: Graph, boxes: list[Box], scale: float) -> list[Band]:
    out = {i: box.y for i, box in enumerate(boxes)}
    into = dict(out)
    links = graph.links
    begins, ends = [0.0] * len(links), [0.0] * len(links)
    for i in sorted(range(len(links)), key=lambda i: boxes[links[i].target].y):
        begins[i] = out[links[i].source]
        out[links[i].source] += links[i].value * scale
    for i in sorted(range(len(links)), key=lambda i: boxes[links[i].source].y):
        ends[i] = into[links[i].target]
        into[links[i].target] += links[i].value * scale
    return [Band(a, b, link.value * scale) for a, b, link in zip(begins, ends, links, strict=True)]


def draw(answer: Answer, style: Style) -> str:
    """The SVG."""
    graph, columns = build(answer), len(answer.dimensions)
    if not graph.nodes:
        return nothing(answer, style)
    most = max(len(graph.column(i)) for i in range(columns))
    top = HEAD + _COLUMN_HEAD
    height = style.height or top + max(_LEAST, _PER_NODE * most) + FOOT
    side = min(210.0, style.width / 4)
    found = layout(graph, columns, MARGIN + side, style.width - MARGIN - side, top, height - FOOT - 8)
    hues = colours([node.key for node in graph.nodes], style.theme)
    body = [*_heads(answer, graph, found, style)]
    body += _links(answer, graph, found, hues, style)
    body += _nodes(answer, graph, found, hues, style)
    return document(answer, style, height, body)


def _heads(answer: Answer, graph: Graph, found: Layout, style: Style) -> list[str]:
    """What each column is, over it."""
    out = []
    last = len(answer.dimensions) - 1
    for number, dimension in enumerate(answer.dimensions):
        x = found.boxes[graph.column(number)[0]].x
        anchor = "end" if number == 0 and last else "start"
        x += NODE_WIDTH if anchor == "end" else 0
        out.append(
            svg.text(x, HEAD + 8, words(dimension.column), svg.LABEL, fill=style.theme.muted, text_anchor=anchor)
        )
    return out


def _links(answer: Answer, graph: Graph, found: Layout, hues: dict[Key, str], style: Style) -> list[str]:
    """The widest first, so that thin ones are seen on top of them."""
    out = []
    for i in sorted(range(len(graph.links)), key=lambda i: -graph.links[i].value):
        link, band = graph.links[i], found.bands[i]
        source, target = graph.nodes[link.source], graph.nodes[link.target]
        x0, x1 = found.boxes[link.source].x + NODE_WIDTH, found.boxes[link.target].x
        middle, width = (x0 + x1) / 2, max(band.width, 0.6)
        d = svg.path("M", x0, band.y0, "C", middle, band.y0, middle, band.y1, x1, band.y1,
                     "L", x1, band.y1 + width, "C", middle, band.y1 + width, middle, band.y0 + width, x0,
                     band.y0 + width, "Z")  # fmt: skip
        said = f"{source.label}{ARROW}{target.label}: {measured(answer, link.value, link.error)}"
        out.append(svg.tag("path", svg.tag("title", svg.plain(said)), d=d, fill=hues[source.key],
                           fill_opacity=style.theme.veil))  # fmt: skip
    return out


def _nodes(answer: Answer, graph: Graph, found: Layout, hues: dict[Key, str], style: Style) -> list[str]:
    out = []
    last = len(answer.dimensions) - 1
    for node, box in zip(graph.nodes, found.boxes, strict=True):
        tip = svg.tag("title", svg.plain(f"{node.label}: {measured(answer, node.value, node.error)}"))
        out.append(svg.tag("rect", tip, x=box.x, y=box.y, width=NODE_WIDTH, height=max(box.height, 1.0),
                           fill=hues[node.key]))  # fmt: skip
        is_left = node.column == 0 and last > 0
        x = box.x - 8 if is_left else box.x + NODE_WIDTH + 8
        told = " ".join(filter(None, (amount(node.value, answer.unit), error_text(node.value, node.error))))
        step = (style.width - 2 * MARGIN) / max(last, 1)
        room = (box.x - MARGIN if is_left else style.width - MARGIN - x if node.column == last else step * 0.6) - 8
        name, y = svg.cut(node.label, svg.room_for(room, told), svg.LABEL), box.y + box.height / 2 + 4
        out.append(svg.label(x, y, name, told, style.theme, is_left=is_left, halo=True))
    return out
