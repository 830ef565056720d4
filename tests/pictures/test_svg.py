"""The writer of SVG: whatever text comes from outside stays text."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.pictures import svg
from flowagent.pictures.theme import THEMES
from flowagent.shown import printable


@given(st.text())
def test_text_stays_text(said):
    root = ET.fromstring(svg.tag("g", svg.text(0, 0, said), title=said))
    assert root.find("text").text == (printable(said) or None)
    assert root.get("title") == printable(said)


@pytest.mark.parametrize(
    ("value", "written"), [(0, "0"), (1.0, "1"), (1.239, "1.24"), (-0.5, "-0.5"), (100, "100"), (1e-9, "0")]
)
def test_numbers_are_short(value, written):
    assert svg.number(value) == written


def test_attributes():
    assert svg.tag("rect", stroke_width=2, class_="n", fill=None) == '<rect stroke-width="2" class="n"/>'


@given(st.text(max_size=40), st.floats(20, 300))
def test_a_cut_text_fits(said, room):
    found = svg.cut(said, room)
    assert svg.width(found) <= room
    assert found == printable(said) or found.endswith("…")


@pytest.mark.parametrize("is_left", [False, True])
def test_a_label_has_its_number_on_the_right(is_left):
    root = ET.fromstring(svg.tag("g", svg.label(100, 10, "shop", "5 MB", THEMES["light"], is_left=is_left)))
    assert "".join(root.itertext()) == "shop5 MB"
    if is_left:
        name, number = root.findall("text")
        assert float(name.get("x")) < float(number.get("x")) == 100
