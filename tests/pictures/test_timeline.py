"""The timeline: layers end at the total of each step, and axes are round and long enough."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from drawn_answers import NOW, answer, small
from hypothesis import given
from hypothesis import strategies as st

from flowagent.errors import ConfigError
from flowagent.pictures.frame import Style
from flowagent.pictures.theme import THEMES
from flowagent.pictures.timeline import draw, layers, nice

SVG = "{http://www.w3.org/2000/svg}"


def series(*rows):
    times = [NOW - 10 * len(rows[0]) + 10 * i for i in range(len(rows[0]))]
    labels = [f"ns-{i}" for i in range(len(rows))]
    return answer([labels], [((i,), sum(row), 0, list(row)) for i, row in enumerate(rows)], times)


steps = st.integers(1, 20).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 10**12).map(float), min_size=n, max_size=n), min_size=1, max_size=8)
)


@given(steps)
def test_layers_lie_on_one_another_and_end_at_the_total(rows):
    stack = layers(series(*rows))
    assert stack[0].low == [0.0] * len(rows[0])
    for one, other in pairwise(stack):
        assert one.high == other.low
    assert stack[-1].high == pytest.approx([sum(step) for step in zip(*rows, strict=True)])
    for layer, row in zip(stack, rows, strict=True):
        assert [b - a for a, b in zip(layer.low, layer.high, strict=True)] == pytest.approx(row, abs=1e-2)


@given(st.floats(1e-6, 1e18))
def test_ticks_are_few_even_and_reach_the_largest(largest):
    ticks = nice(largest)
    assert ticks[0] == 0
    assert ticks[-1] >= largest * (1 - 1e-9)
    assert 2 <= len(ticks) <= 7
    assert ticks[-1] <= 2.5 * largest


@given(steps)
def test_any_series_is_a_picture(rows):
    root = ET.fromstring(draw(series(*rows), Style(THEMES["dark"])))
    for path in root.findall(f"{SVG}path"):
        numbers = [float(word) for word in path.get("d").split() if not word.isalpha()]
        assert all(0 <= x <= 1000 for x in numbers[::2])


def test_each_row_is_a_layer_and_in_the_legend():
    root = ET.fromstring(draw(series([1e6, 2e6], [3e6, 0]), Style(THEMES["light"])))
    told = [title.text for title in root.iter(f"{SVG}title")]
    assert told[1:] == ["ns-0: 3.0 MB, 50.0 %", "ns-1: 3.0 MB, 50.0 %"]
    said = "".join(root.itertext())
    assert "400 kB/s" in said
    assert "ns-1" in said


def test_an_answer_without_series_is_refused():
    with pytest.raises(ConfigError, match="--step"):
        draw(small(), Style(THEMES["light"]))
