"""Answers of the history as they are read, and numbers as people read them."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretended_agent import NOW, query

from flowagent.shown import amount, decode, error_text, printable


def read(**changes):
    return decode(json.dumps(query(**changes)).encode())


def test_an_answer_is_read():
    answer = read()
    assert answer.labels(answer.rows[0]) == ["shop", "data"]
    assert (answer.since, answer.until, answer.seconds) == (NOW - 60, NOW, 60)


@pytest.mark.parametrize("at", [[0], [0, 4], [-1, 0], [0, 0, 0]])
def test_a_row_that_is_nowhere_is_refused(at):
    with pytest.raises(ValueError, match="a row is at"):
        read(rows=[{"at": at, "value": 1}])


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"from": "x"}'])
def test_what_is_no_answer_is_refused(data):
    with pytest.raises(ValueError):
        decode(data)


def test_rates_are_over_the_time_that_is_known():
    history = {"oldest": NOW - 20, "newest": NOW - 5}
    assert read(history=history).seconds == 15
    assert read(history={"oldest": None, "newest": None}).seconds == 60


def test_honesty():
    assert "exact" in read(exact=True).honesty
    assert "95 %" in read().honesty
    assert "do not say their sampling rate" in read(unscaled=True, exact=True).honesty


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "bytes", "0 B"), (999, "bytes", "999 B"), (1000, "bytes", "1.0 kB"), (12_345_678, "bytes", "12.3 MB"),
        (999_960, "bytes", "1.0 MB"),
        (250e6, "bytes", "250 MB"), (4500, "packets", "4.5k packets"), (7, "flows", "7 flows"),
        (0.25, "flows", "0.2 flows"), (-5, "bytes", "-5 B"), (3, "", "3"), (1e30, "bytes", "1000000000000 EB"),
    ],
)  # fmt: skip
def test_amounts(value, unit, text):
    assert amount(value, unit) == text


def test_amounts_a_second():
    assert amount(1e6, "bytes", per_second=True) == "1.0 MB/s"
    assert amount(2000, "packets", per_second=True) == "2.0k packets/s"


@given(st.floats(1, 9e20))
def test_an_amount_is_near_to_its_value(value):
    number, prefix = re.fullmatch(r"([\d.]+) ([kMGTPE]?)B", amount(value, "bytes")).groups()
    assert float(number) * 1000 ** " kMGTPE".index(prefix or " ") == pytest.approx(value, rel=0.06)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (100, 0, ""),
        (100, 5, "± 5.0 %"),
        (100, 0.04, "± 0.0 %"),
        (100, 50, "± 50 %"),
        (1, 20, "± >1000 %"),
        (0, 1, "± >1000 %"),
    ],
)
def test_errors(value, error, text):
    assert error_text(value, error) == text


@given(st.text())
def test_nothing_from_outside_steers_the_terminal(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)


def test_what_is_harmless_stays():
    assert printable("größe → ✓") == "größe → ✓"
    assert printable("a\x1b[2Jb\u202ec") == "a�[2Jb�c"


@pytest.mark.parametrize("changes", [{"measure": "by\x1b[2J"}, {"unit": "\x07"}, {"times": [1.0], "step": 1.0}])
def test_an_answer_that_steers_a_terminal_or_lacks_its_series_is_refused(changes):
    with pytest.raises(ValueError, match=r"it is about|steps"):
        read(**changes)
