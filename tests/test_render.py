"""`flowagent render`: what is asked of an agent, defaults that fit, files by their ending."""

import json
import xml.etree.ElementTree as ET

import pytest
from optional import needs_cairo
from pretended_agent import COLUMNS, NOW, PretendedAgent, query

from flowagent import shown
from flowagent.client import Access
from flowagent.config import parse
from flowagent.errors import ConfigError
from flowagent.pictures.frame import Style
from flowagent.pictures.theme import THEMES
from flowagent.render import KINDS, Ask, from_agent, from_files, option, picture, width

STYLE = Style(THEMES["light"])


@pytest.fixture
def agent():
    with PretendedAgent() as made:
        yield made


async def test_a_sankey_asks_for_values_of_each_dimension(agent):
    answer = await from_agent(Access(agent.url), Ask("sankey"))
    assert answer == shown.decode(json.dumps(query()).encode())
    assert agent.queries == [
        {"dimensions": "src_k8s_namespace,dst_k8s_namespace", "measure": "bytes", "top": "12", "fold": "dimension"}
    ]


async def test_all_that_is_wished_is_asked_for(agent):
    ask = Ask("chord", "src_addr,dst_addr", "packets", "proto == tcp", 5, "-1h", "-30m")
    await from_agent(Access(agent.url), ask)
    assert agent.queries == [
        {"dimensions": "src_addr,dst_addr", "measure": "packets", "filter": "proto == tcp", "top": "5",
         "from": "-1h", "to": "-30m", "fold": "dimension"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ask", "step"),
    [(Ask("timeline"), "5s"), (Ask("timeline", since="-1h"), "60s"), (Ask("timeline", since="-30s"), "1s"),
     (Ask("timeline", step="7s"), "7s"), (Ask("timeline", since="1760000000"), "10s")],
)  # fmt: skip
async def test_a_timeline_has_as_many_steps_as_can_be_told_apart(agent, ask, step):
    agent.answers["/api/v1/query"] = query(times=[NOW], step=10.0, rows=[])
    await from_agent(Access(agent.url), ask)
    assert (agent.queries[0]["step"], agent.queries[0]["fold"]) == (step, "row")


async def test_addresses_where_there_are_no_names(agent):
    plain = [one for one in COLUMNS["dimensions"] if "k8s" not in one["column"]]
    agent.answers["/api/v1/columns"] = COLUMNS | {"dimensions": plain}
    await from_agent(Access(agent.url), Ask("sankey"))
    assert agent.queries[0]["dimensions"] == "src_addr,dst_addr"


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/api/v1/query", (400, {"error": "is no time", "path": "from"}), "--since: is no time"),
        ("/api/v1/query", {"rows": []}, "--from: the agent's answer is not what it should be"),
        ("/api/v1/columns", b"[]", "--from: the agent's answer is not what it should be"),
        ("/api/v1/columns", (401, {"error": "no"}), "--token-file"),
    ],
)
async def test_what_the_agent_refuses(agent, path, answer, said):
    agent.answers[path] = answer
    with pytest.raises(ConfigError, match=said):
        await from_agent(Access(agent.url), Ask("sankey"))


def test_options_of_parameters():
    assert [option(one) for one in ("from", "to", "filter", "--from", "")] == [
        "--since",
        "--until",
        "--filter",
        "--from",
        "",
    ]


def rows(tmp_path):
    file = tmp_path / "rows.ndjson"
    made = [{"received_ns": (1_760_000_000 + i) * 10**9, "src_addr": f"192.0.2.{i % 3}", "dst_addr": "192.0.2.9",
             "bytes": 100 * i, "packets": i} for i in range(40)]  # fmt: skip
    file.write_text("".join(json.dumps(one) + "\n" for one in made))
    return file, sum(one["bytes"] for one in made)


@pytest.mark.parametrize("kind", KINDS)
def test_from_files(tmp_path, kind):
    file, whole = rows(tmp_path)
    answer = from_files([file], Ask(kind), parse({}), pytest.fail)
    assert answer.total.value == whole
    assert answer.dimensions[0].column == "src_addr"
    assert (answer.times is not None) == (kind == "timeline")
    ET.fromstring(picture(answer, kind, STYLE, ".svg"))


def test_files_of_some_time_only(tmp_path):
    file, _ = rows(tmp_path)
    ask = Ask("sankey", since="1760000010", until="1760000020")
    assert from_files([file], ask, parse({}), pytest.fail).total.value == sum(100 * i for i in range(10, 20))


@pytest.mark.parametrize(
    ("ask", "said"), [(Ask("sankey", since="soon"), "--since: 'soon'"), (Ask("sankey", filter="x =="), "--filter: ")]
)
def test_what_cannot_be_asked_of_files(tmp_path, ask, said):
    with pytest.raises(ConfigError, match=said):
        from_files([rows(tmp_path)[0]], ask, parse({}), pytest.fail)


def test_formats():
    answer = shown.decode(json.dumps(query()).encode())
    assert picture(answer, "sankey", STYLE, ".svg").startswith(b"<svg ")
    assert picture(answer, "sankey", STYLE, ".html").startswith(b"<!DOCTYPE html>")
    with pytest.raises(ConfigError, match=r"--output: '\.gif' is not known"):
        picture(answer, "chord", STYLE, ".gif")


@needs_cairo
def test_pixels():
    answer = shown.decode(json.dumps(query()).encode())
    assert picture(answer, "chord", STYLE, ".png").startswith(b"\x89PNG")


def test_more_columns_are_wider():
    answer = shown.decode(json.dumps(query()).encode())
    assert width(answer) == 1000
