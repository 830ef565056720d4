"""Every column of the graph adds up to the total, and what goes into a node comes out of it."""

import math

import pytest
from drawn_answers import answers, small
from hypothesis import given

from flowagent.pictures.graph import build


@given(answers())
def test_every_column_is_the_whole(found):
    graph = build(found)
    assert graph.total == sum(row.value for row in found.rows)
    for column in range(len(found.dimensions)):
        assert sum(graph.nodes[i].value for i in graph.column(column)) == pytest.approx(graph.total)


@given(answers(2))
def test_what_goes_into_a_node_comes_out_of_it(found):
    graph = build(found)
    for i, node in enumerate(graph.nodes):
        for side, is_end in (("source", len(found.dimensions) - 1), ("target", 0)):
            if node.column != is_end:
                there = sum(link.value for link in graph.links if getattr(link, side) == i)
                assert there == pytest.approx(node.value)


@given(answers(2))
def test_links_go_to_the_next_column(found):
    graph = build(found)
    assert all(graph.nodes[one.target].column == graph.nodes[one.source].column + 1 for one in graph.links)


def test_errors_of_rows_add_up_as_those_of_independent_samples():
    graph = build(small())
    (shop,) = [node for node in graph.nodes if node.column == 1 and node.label == "shop"]
    assert shop.error == pytest.approx(math.hypot(0, 0, 1e6))


def test_what_is_many_or_nothing_is_last():
    graph = build(small())
    assert [graph.nodes[i].label for i in graph.column(0)] == ["shop", "data", "unknown", "Other"]
    assert [node.is_grey for node in graph.nodes if node.column == 0] == [False, False, True, True]
