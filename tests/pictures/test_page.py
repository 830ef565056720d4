"""One HTML file with the picture and all its numbers; PNG with a package more."""

import re
import sys
from html.parser import HTMLParser

import pytest
from drawn_answers import NOW, answer, small
from optional import needs_cairo

from flowagent.errors import ConfigError
from flowagent.pictures import page, sankey
from flowagent.pictures.frame import Style
from flowagent.pictures.theme import THEMES

STYLE = Style(THEMES["light"])


class Cells(HTMLParser):
    """The texts of cells, by row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        self._inside = tag in ("td", "th")
        if self._inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.rows[-1][-1] += data


def test_the_table_has_every_number():
    found = Cells(page.html(small(), sankey.draw(small(), STYLE), STYLE))
    assert found.rows[0] == ["source namespace", "destination namespace", "bytes", "±", "share", "rate"]
    assert found.rows[1] == ["shop", "data", "60,000,000", "10 %", "60.0 %", "1.0 MB/s"]
    assert found.rows[-1][2:] == ["100,000,000", "6.1 %", "100.0 %", "1.7 MB/s"]
    assert len(found.rows) == 1 + 5 + 1


def test_a_series_has_a_table_of_its_own():
    made = answer([["a", "b"]], [((0,), 3, 0, [1, 2]), ((1,), 5, 0, [5, 0])], [NOW - 20, NOW - 10])
    rows = Cells(page.html(made, "", STYLE)).rows
    assert rows[-3:] == [["time (UTC)", "a", "b"], ["2025-10-09 08:53:00", "1", "5"], ["2025-10-09 08:53:10", "2", "0"]]


def test_nothing_is_loaded_and_nothing_runs():
    bad = answer([["<script>alert(1)</script>"], ['"><img src=x onerror=y>']], [((0, 0), 5, 0)])
    text = page.html(bad, sankey.draw(bad, STYLE), STYLE)
    assert not {"script", "link", "img", "iframe", "object"} & set(Cells(text).tags)
    assert not re.search(r"(href|src)=|url\(|@import", re.sub(r"&quot;&gt;&lt;img src=x|&lt;img src=x", "", text))


@needs_cairo
def test_png_is_a_picture():
    drawn = page.png(sankey.draw(small(), STYLE), 1.0)
    assert drawn.startswith(b"\x89PNG")
    assert int.from_bytes(drawn[16:20], "big") == 1000


def test_png_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    with pytest.raises(ConfigError, match=r"--output: PNG needs CairoSVG .*install flowagent\[png\]"):
        page.png("<svg/>")
