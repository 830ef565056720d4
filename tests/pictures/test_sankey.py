"""The Sankey diagram: its widths are the values, nothing overlaps, nothing leaves the picture."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from drawn_answers import answer, answers, small
from hypothesis import given

from flowagent.pictures.frame import Style
from flowagent.pictures.graph import build
from flowagent.pictures.sankey import NODE_WIDTH, draw, layout
from flowagent.pictures.theme import THEMES

SVG = "{http://www.w3.org/2000/svg}"
LEFT, RIGHT, TOP, BOTTOM = 100.0, 900.0, 50.0, 650.0


def laid_out(found):
    graph = build(found)
    return graph, layout(graph, len(found.dimensions), LEFT, RIGHT, TOP, BOTTOM)


@given(answers().filter(lambda found: found.total.value > 0))
def test_heights_are_values(found):
    graph, made = laid_out(found)
    for node, box in zip(graph.nodes, made.boxes, strict=True):
        assert box.height == pytest.approx(node.value * made.scale)
    for link, band in zip(graph.links, made.bands, strict=True):
        assert band.width == pytest.approx(link.value * made.scale)


@given(answers().filter(lambda found: found.total.value > 0))
def test_nodes_of_a_column_do_not_overlap_and_stay_inside(found):
    graph, made = laid_out(found)
    for column in range(len(found.dimensions)):
        boxes = sorted((made.boxes[i] for i in graph.column(column)), key=lambda box: box.y)
        assert all(one.y + one.height < other.y for one, other in pairwise(boxes))
        assert boxes[0].y >= TOP - 1e-6
        assert boxes[-1].y + boxes[-1].height <= BOTTOM + 1e-6
        assert all(LEFT <= box.x <= RIGHT - NODE_WIDTH + 1e-6 for box in boxes)


@given(answers(2).filter(lambda found: found.total.value > 0))
def test_bands_fill_both_sides_of_their_nodes_without_gap_or_overlap(found):
    graph, made = laid_out(found)
    for i, box in enumerate(made.boxes):
        for side, edge in (("source", "y0"), ("target", "y1")):
            bands = [b for one, b in zip(graph.links, made.bands, strict=True) if getattr(one, side) == i]
            at = box.y
            for band in sorted(bands, key=lambda band: (getattr(band, edge), band.width)):
                assert getattr(band, edge) == pytest.approx(at, abs=1e-6)
                at += band.width
            if bands:
                assert at == pytest.approx(box.y + box.height, abs=1e-6)


@given(answers())
def test_any_answer_is_a_picture(found):
    for theme in THEMES.values():
        ET.fromstring(draw(found, Style(theme)))


def test_a_picture_has_a_mark_for_each_link_and_node_and_each_says_what_it_is():
    root = ET.fromstring(draw(small(), Style(THEMES["light"])))
    bands, boxes = root.findall(f"{SVG}path"), root.findall(f"{SVG}rect")[1:]
    assert len(bands) == 5
    assert len(boxes) == 4 + 3
    told = {mark.find(f"{SVG}title").text for mark in [*bands, *boxes]}
    assert "shop → data: 60.0 MB ± 10 %, 60.0 %" in told
    assert "data → shop: 30.0 MB, 30.0 %" in told


def test_a_band_has_the_colour_of_its_source():
    root = ET.fromstring(draw(small(), Style(THEMES["light"])))
    boxes = {box.find(f"{SVG}title").text.split(":")[0]: box.get("fill") for box in root.findall(f"{SVG}rect")[1:]}
    for band in root.findall(f"{SVG}path"):
        assert band.get("fill") == boxes[band.find(f"{SVG}title").text.split(" →")[0]]


def test_no_traffic_is_said():
    assert "no traffic of this kind" in draw(answer([["a"], ["b"]], []), Style(THEMES["light"]))
