"""`flowagent top`: what keys do, what is asked, and what is printed once."""

import io
import json
import re

import pytest
from pretended_agent import COLUMNS, PretendedAgent, query, value

from flowagent.client import Access, Client, Unanswered
from flowagent.top import SETS, Ask, Top, once

NAMESPACES = ("src_k8s_namespace", "dst_k8s_namespace")


@pytest.fixture
def agent():
    with PretendedAgent() as made:
        yield made


@pytest.fixture
async def top(agent):
    async with Client(Access(agent.url)) as client:
        made = Top(client, Ask())
        await made.begin()
        yield made


def press(top, keys):
    for key in keys:
        top.key(key)


async def test_it_begins_with_the_first_dimensions_that_the_agent_has(top, agent):
    assert top.ask.dimensions == NAMESPACES
    assert agent.queries == [
        {"from": "-1m", "measure": "bytes", "dimensions": ",".join(NAMESPACES), "top": "20", "fold": "row"}
    ]


async def test_dimensions_of_which_nothing_is_known_are_passed_over(agent):
    def answer(params):
        unknown = params["dimensions"].startswith("src_k8s")
        values = [{"label": "unknown", "unknown": True, "filter": "x"}] if unknown else [value("192.0.2.1")]
        columns = params["dimensions"].split(",")
        return query(dimensions=[{"column": c, "doc": "", "values": values} for c in columns], rows=[])

    agent.answers["/api/v1/query"] = answer
    async with Client(Access(agent.url)) as client:
        top = Top(client, Ask())
        await top.begin()
    assert top.ask.dimensions == ("src_addr", "dst_addr")


async def test_dimensions_are_chosen_once_something_is_known(agent):
    agent.answers["/api/v1/query"] = nothing = query(rows=[], history={})
    nothing["dimensions"] = [one | {"values": []} for one in nothing["dimensions"]]
    async with Client(Access(agent.url)) as client:
        top = Top(client, Ask())
        await top.begin()
        assert top.ask.dimensions == NAMESPACES
        agent.answers["/api/v1/query"] = lambda params: query() if "addr" in params["dimensions"] else nothing
        await top.wait(0.01)
        assert top.ask.dimensions == ("src_addr", "dst_addr")
        agent.answers["/api/v1/query"] = nothing
        await top.wait(0.01)
        assert top.ask.dimensions == ("src_addr", "dst_addr")


async def test_dimensions_that_were_asked_for_stay(agent):
    async with Client(Access(agent.url)) as client:
        top = Top(client, Ask(dimensions=("proto",)))
        await top.begin()
        assert top.ask.dimensions == ("proto",)
        press(top, "d")
        assert top.ask.dimensions == NAMESPACES


async def test_keys_change_what_is_asked(top, agent):
    press(top, "dm+")
    await top.wait(60)
    assert agent.queries[-1] == {
        "from": "-1m",
        "measure": "packets",
        "dimensions": "src_addr,dst_addr",
        "top": "30",
        "fold": "row",
    }
    press(top, "-" * 10)
    assert top.ask.top == 10


async def test_dimensions_come_round(top):
    there = [one for one in SETS if {d["column"] for d in COLUMNS["dimensions"]}.issuperset(one)]
    press(top, "d" * len(there))
    assert top.ask.dimensions == there[0]


async def test_keys_change_the_order(top):
    press(top, "sr")
    assert (top.look.sort, top.look.is_reversed) == ("error", True)
    press(top, "ss")
    assert top.look.sort == "value"


async def test_a_filter_is_typed(top, agent):
    press(top, ["f", *"proto == udq", "\x7f", "p", "\r"])
    assert top.look.prompt is None
    await top.wait(60)
    assert agent.queries[-1]["filter"] == "proto == udp"
    press(top, ["/", "\x15", "\r"])
    await top.wait(60)
    assert "filter" not in agent.queries[-1]


async def test_a_filter_that_was_not_meant(top):
    press(top, ["f", *"q", "\x1b"])
    assert (top.look.prompt, top.look.filter, top.is_over) == (None, "", False)


@pytest.mark.parametrize("key", ["q", "\x03"])
async def test_quit(top, key):
    press(top, key)
    assert top.is_over


async def test_a_pause_asks_nothing_but_what_is_wanted(top, agent):
    press(top, "p")
    before = len(agent.queries)
    await top.wait(0.01)
    assert len(agent.queries) == before
    press(top, "m")
    await top.wait(60)
    assert len(agent.queries) == before + 1
    press(top, "p")
    await top.wait(60)
    assert len(agent.queries) == before + 2


async def test_a_failure_is_told_and_the_last_answer_stays(top, agent):
    before = top.answer
    agent.answers["/api/v1/query"] = 400, {"error": "there is no column x", "path": "filter"}
    await top.wait(0.01)
    assert (top.answer, top.look.problem) == (before, "there is no column x")
    agent.answers["/api/v1/query"] = query(measure="packets")
    await top.wait(0.01)
    assert (top.answer.measure, top.look.problem) == ("packets", "")


@pytest.mark.parametrize("answer", [b"[]", {"dimensions": [{}]}, b"1"])
async def test_columns_that_are_none(agent, answer):
    agent.answers["/api/v1/columns"] = answer
    with pytest.raises(Unanswered, match="another version"):
        await once(Client(Access(agent.url)), Ask(), io.StringIO(), as_json=False)


async def test_an_answer_that_is_none(agent):
    agent.answers["/api/v1/query"] = {"rows": 1}
    with pytest.raises(Unanswered, match="another version"):
        await once(Client(Access(agent.url)), Ask(), io.StringIO(), as_json=False)


async def test_once_as_json_is_the_apis_answer(agent):
    out = io.StringIO()
    await once(Client(Access(agent.url)), Ask(), out, as_json=True)
    assert json.loads(out.getvalue()) == query()


async def test_once_in_a_pipe_has_no_escape_codes_and_no_bars(agent):
    out = io.StringIO()
    await once(Client(Access(agent.url)), Ask(), out, as_json=False)
    text = out.getvalue()
    assert "\x1b" not in text
    assert "█" not in text
    assert re.search(r"shop +data +1.0 MB/s +± 10 % +50.0 %", text)
