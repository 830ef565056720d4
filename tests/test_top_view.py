"""How top looks: what is in which place, and that nothing from outside gets out of it."""

import copy
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pretended_agent import STATUS, query
from rich.console import Console

from flowagent.shown import decode
from flowagent.top_view import Look, bar, duration, header, ranked, screen, table


def read(**changes):
    return decode(json.dumps(query(**changes)).encode())


def drawn(*what, width=120, height=40):
    out = io.StringIO()
    Console(file=out, width=width, height=height, markup=False, emoji=False, highlight=False).print(*what)
    return out.getvalue()


def test_a_row_has_its_labels_its_rate_its_error_and_its_share():
    lines = drawn(table(read(), Look(), bars=0)).splitlines()
    assert lines[0].split() == ["src_k8s_namespace", "dst_k8s_namespace", "bytes/s", "±", "share"]
    assert lines[2].split() == ["shop", "data", "1.0", "MB/s", "±", "10", "%", "50.0", "%"]
    assert lines[3].split() == ["data", "shop", "500", "kB/s", "25.0", "%"]
    assert lines[-1].split() == ["total", "2.0", "MB/s", "±", "5.8", "%", "100.0", "%"]


@pytest.mark.parametrize(
    ("look", "order"),
    [
        (Look(), [60e6, 30e6, 1500]),
        (Look(is_reversed=True), [1500, 30e6, 60e6]),
        (Look(sort="error"), [60e6, 1500, 30e6]),
        (Look(sort="name"), [30e6, 60e6, 1500]),
    ],
)
def test_the_order_and_the_fold_last(look, order):
    assert [row.value for row in ranked(read(), look)] == [*order, 30e6 - 1500]


def test_bars_are_as_long_as_their_values():
    lengths = [len(bar(v, 0, 100, 24).plain) for v in (100, 50, 0.1, 0)]
    assert lengths == [24, 12, 0, 0]


@example(1e308, 0.0, 5e-324)
@given(st.floats(0, 1e18), st.floats(0, 1e18), st.floats(0, 1e18))
def test_a_bar_never_leaves_its_place(value, error, largest):
    assert len(bar(value, error, largest, 24).plain) <= 24


def test_what_is_uncertain_of_a_bar_is_dim():
    assert [(span.start, span.end, span.style) for span in bar(100, 50, 100, 24).spans] == [
        (0, 12, "cyan"),
        (12, 24, "dim cyan"),
    ]


def test_the_header_has_rates_health_and_honesty():
    head = drawn(*header(read(), STATUS, Look(filter="proto == tcp")))
    for part in ("flowagent 9.9 node-a1", "up 1h 10m", "2.3k records/s", "38.7 MB/s", "45.0k packets/s", "ready",
                 "dropped: internal 3", "failing: kafka", "± is the 95 % interval",
                 "bytes by src_k8s_namespace, dst_k8s_namespace where proto == tcp, last 1m"):  # fmt: skip
        assert part in head


def test_what_is_missing_is_said():
    head = drawn(*header(read(history={"newest": None}), STATUS | {"ready": ["templates"]}, Look()))
    assert "not ready: templates" in head
    assert "nothing came yet" in head


def test_labels_from_outside_are_harmless():
    bad = copy.deepcopy(query())
    bad["dimensions"][0]["values"][0]["label"] = "\x1b[31m[bold]evil\n:smile:"
    out = drawn(screen(decode(json.dumps(bad).encode()), STATUS, Look(), 120, 40))
    assert "�[31m[bold]evil�:smile:" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("height", [1, 10, 15, 40])
@pytest.mark.parametrize("width", [20, 60, 200])
def test_it_fits_the_terminal(width, height):
    values = [{"label": f"v{i}", "filter": "x"} for i in range(100)]
    rows = [{"at": [i, i], "value": 1.0} for i in range(100)]
    many = query(rows=rows, dimensions=[{"column": c, "doc": "", "values": values} for c in ("src_addr", "dst_addr")])
    lines = drawn(
        screen(decode(json.dumps(many).encode()), STATUS, Look(problem="x" * 300), width, height), width=width
    ).splitlines()
    assert len(lines) <= max(height, 13)
    assert max(map(len, lines)) <= width


def test_the_prompt_takes_the_place_of_the_keys():
    assert "q quit" in drawn(screen(read(), STATUS, Look(), 120, 40))
    out = drawn(screen(read(), STATUS, Look(prompt="proto == "), 120, 40))
    assert "filter: proto == " in out
    assert "q quit" not in out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.6, "1m"), (61, "1m 1s"), (3600, "1h"), (100_000, "1d 3h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
