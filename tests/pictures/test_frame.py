"""What is around a picture: a title in words, totals, times, honesty, and a description for who cannot see it."""

import dataclasses
import xml.etree.ElementTree as ET

import msgspec
import pytest
from drawn_answers import NOW, small

from flowagent.pictures.frame import Style, described, document, footnote, subtitle, title, words
from flowagent.pictures.theme import THEMES
from flowagent.shown import History

STYLE = Style(THEMES["light"])
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("src_k8s_namespace", "source namespace"), ("dst_k8s_owner_name", "destination owner"),
        ("src_k8s_name", "source name"), ("dst_addr", "destination address"), ("dst_port", "destination port"),
        ("proto", "protocol"), ("in_if", "input interface"), ("exporter", "exporter"), ("src_as", "source AS"),
        ("src_subnet_label", "source subnet label"),
    ],
)  # fmt: skip
def test_columns_in_words(column, said):
    assert words(column) == said


def test_the_title_is_what_is_shown_or_what_was_wished():
    assert title(small(), STYLE) == "Bytes by source namespace → destination namespace"
    assert title(small(), dataclasses.replace(STYLE, title="Q3")) == "Q3"


def test_the_total_its_error_its_rate_and_the_time():
    assert subtitle(small()) == "100 MB ± 6.1 %, 1.7 MB/s on average, 2025-10-09 08:52:20 to 08:53:20 UTC"


def test_time_that_is_not_known_is_said():
    assert footnote(small()) == "Some was sampled: ± is the 95 % interval."
    part = msgspec.structs.replace(small(), history=History(NOW - 20, NOW))
    assert footnote(part).endswith("of the time asked for, 20 s of 60 s are known.")


def test_the_largest_are_told_in_words():
    assert described(small()).startswith("shop → data: 60.0 MB ± 10 %, 60.0 %; data → shop: 30.0 MB, 30.0 %; ")


def test_a_document_can_be_read_aloud():
    root = ET.fromstring(document(small(), dataclasses.replace(STYLE, title="a < b & c"), 300, []))
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "title desc"
    assert root.find(f"{SVG}title").text == "a < b & c"
    assert root.find(f"{SVG}desc").text.startswith("100 MB ± 6.1 %")
