"""The chord diagram: bands are the sums of rows and columns, arcs are whole and apart, ribbons fill the bands."""

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import msgspec
import pytest
from drawn_answers import answer, answers, small
from hypothesis import given
from hypothesis import strategies as st

from flowagent.errors import ConfigError
from flowagent.pictures import sankey
from flowagent.pictures.chord import MAX_MEMBERS, draw, layout, spread
from flowagent.pictures.frame import Style
from flowagent.pictures.graph import build
from flowagent.pictures.theme import THEMES
from flowagent.shown import Dimension, Value

SVG = "{http://www.w3.org/2000/svg}"
some = answers(2, 2).filter(lambda found: found.total.value > 0)


@given(some)
def test_out_is_the_sum_of_a_row_and_in_that_of_a_column(found):
    circle = layout(build(found))
    for i, member in enumerate(circle.members):
        assert member.out == pytest.approx(sum(r.value for r in circle.ribbons if r.source == i))
        assert member.into == pytest.approx(sum(r.value for r in circle.ribbons if r.target == i))
    assert sum(member.out for member in circle.members) == pytest.approx(found.total.value)
    assert sum(member.into for member in circle.members) == pytest.approx(found.total.value)


@given(some)
def test_arcs_are_as_long_as_their_values_and_go_once_around(found):
    members = layout(build(found)).members
    span = sum(member.end - member.start for member in members)
    whole = 2 * found.total.value
    assert 0 < span <= 2 * math.pi + 1e-9
    assert members[0].start == 0
    assert members[-1].end <= 2 * math.pi + 1e-9
    for member, after in zip(members, [*members[1:], None], strict=True):
        assert (member.middle - member.start) / span == pytest.approx(member.out / whole, abs=1e-9)
        assert (member.end - member.middle) / span == pytest.approx(member.into / whole, abs=1e-9)
        assert after is None or member.end < after.start


@given(some)
def test_ribbons_fill_the_bands_of_their_ends(found):
    circle = layout(build(found))
    for i, member in enumerate(circle.members):
        feet = sorted((r.source_from, r.source_to) for r in circle.ribbons if r.source == i)
        feet += sorted((r.target_from, r.target_to) for r in circle.ribbons if r.target == i)
        at = member.start
        for begin, end in feet:
            assert begin == pytest.approx(at, abs=1e-9)
            at = end
        assert at == pytest.approx(member.end, abs=1e-9)


def test_who_sends_and_receives_is_one_member():
    circle = layout(build(small()))
    assert [(m.label, m.out, m.into) for m in circle.members] == [
        ("shop", 65e6, 37e6), ("data", 30e6, 60e6), ("Other", 3e6, 3e6), ("unknown", 2e6, 0),
    ]  # fmt: skip


def test_too_many_members_fold_and_the_whole_stays():
    labels = [f"pod-{i}" for i in range(100)]
    found = answer([labels, labels], [((i, (i + 1) % 100), 1000 - i, 3) for i in range(100)])
    circle = layout(build(found))
    assert len(circle.members) <= MAX_MEMBERS
    assert circle.members[-1].label == "Other"
    assert sum(r.value for r in circle.ribbons) == found.total.value
    assert math.hypot(*(r.error for r in circle.ribbons)) == pytest.approx(found.total.error)


@given(answers(2, 2))
def test_any_answer_is_a_picture(found):
    for theme in THEMES.values():
        ET.fromstring(draw(found, Style(theme)))


def test_bands_are_dark_for_out_and_light_for_in_and_ribbons_have_the_senders_hue():
    root = ET.fromstring(draw(small(), Style(THEMES["light"])))
    group = root.find(f"{SVG}g")
    marks = {mark.find(f"{SVG}title").text.split(":")[0]: mark for mark in group}
    assert {"shop out", "shop in", "shop → data", "data → shop", "shop → shop", "unknown out"} <= marks.keys()
    assert "unknown in" not in marks
    assert marks["shop → data"].get("fill") == marks["shop → shop"].get("fill") != marks["data → shop"].get("fill")


@pytest.mark.parametrize("count", [1, 3])
def test_other_than_two_dimensions_are_refused(count):
    with pytest.raises(ConfigError, match="a chord diagram has two"):
        draw(answer([["a"]] * count, [((0,) * count, 1, 0)]), Style(THEMES["light"]))


@given(st.lists(st.floats(0, 500), max_size=30).map(sorted), st.floats(1, 40))
def test_labels_are_apart_and_inside(wanted, apart):
    placed = spread(wanted, apart, 0, 500)
    apart = min(apart, 500 / max(len(wanted) - 1, 1))
    assert len(placed) == len(wanted)
    assert all(b - a >= apart - 1e-6 for a, b in pairwise(placed))
    assert all(-1e-6 <= one <= 500 + 1e-6 for one in placed)


def test_labels_that_have_room_stay_where_they_are():
    assert spread([10, 50, 90], 20, 0, 100) == [10, 50, 90]


def test_who_is_called_unknown_or_other_is_not_taken_for_that():
    values = [Value("unknown"), Value("Other"), Value("unknown", unknown=True), Value("Other", other=True)]
    found = answer([[], []], [((i, i), 10 - i, 0) for i in range(4)])
    found = msgspec.structs.replace(found, dimensions=[Dimension(c, "", values) for c in ("src_zone", "dst_zone")])
    circle = layout(build(found))
    assert [(m.label, m.is_grey, m.out) for m in circle.members] == [
        ("unknown", False, 10), ("Other", False, 9), ("unknown", True, 8), ("Other", True, 7),
    ]  # fmt: skip
    picture = sankey.draw(found, Style(THEMES["light"]))
    assert all(f'fill="{hue}"' in picture for hue in (*THEMES["light"].hues[:2], THEMES["light"].other))
