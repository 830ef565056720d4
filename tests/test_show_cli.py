"""The commands that show traffic, as they are called."""

import json
import subprocess
import sys

import pytest
from pretended_agent import PretendedAgent, query


@pytest.fixture
def agent():
    with PretendedAgent() as made:
        yield made


def flowagent(*args, **more):
    command = [sys.executable, "-m", "flowagent", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)
    return done.returncode, done.stdout, done.stderr


def test_top_once_as_json(agent):
    code, out, err = flowagent("top", "--url", agent.url, "--once", "--json")
    assert (code, json.loads(out), err) == (0, query(), "")


def test_top_in_a_pipe_prints_a_table_and_ends(agent):
    args = ["--dimensions", "proto, dst_port", "-n", 5, "--over", "5m", "--filter", "proto == tcp"]
    code, out, err = flowagent("top", *args, env={"FLOWAGENT_URL": agent.url})
    assert (code, err) == (0, "")
    assert "where proto == tcp" in out
    assert agent.queries[-1] == {"from": "-5m", "measure": "bytes", "dimensions": "proto,dst_port", "top": "5",
                                 "fold": "row", "filter": "proto == tcp"}  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--url", "http://127.0.0.1:1"], "no agent answers at http://127.0.0.1:1 (Connection refused); start it"),
        (["--url", "nowhere"], "--url: 'nowhere' is not the URL of an agent"),
        (["--measure", "joy"], "--measure: 'joy' is none; one of: bytes"),
        (["--every", "1ms"], "--every: '1ms' is out of range"),
        (["--over", "soon"], "--over: 'soon' is not a duration"),
        (["--json"], "--json: goes with --once"),
    ],
)
def test_what_top_cannot_do_is_2_and_says_why(args, message):
    code, out, err = flowagent("top", *args)
    assert (code, out) == (2, "")
    assert err.startswith("flowagent: ")
    assert message in err


def test_what_the_agent_refuses_is_told_with_its_option(agent):
    agent.answers["/api/v1/query"] = 400, {"error": "there is no column x", "path": "filter", "position": 0}
    assert flowagent("top", "--url", agent.url, "--filter", "x == 1") == (
        2,
        "",
        "flowagent: --filter: there is no column x\n",
    )


def test_render_of_an_agent_into_a_file(agent, tmp_path):
    file = tmp_path / "picture.html"
    assert flowagent("render", "sankey", "--from", agent.url, "-o", file, "--theme", "dark", "--title", "Q3") == (
        0,
        "",
        "",
    )
    assert "<title>Q3</title>" in file.read_text("utf-8")


def test_render_to_stdout_is_svg(agent):
    code, out, err = flowagent("render", "chord", "--from", agent.url)
    assert (code, err) == (0, "")
    assert out.startswith("<svg ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pie"], "KIND: 'pie' is none; one of: sankey, chord, timeline"),
        (["chord", "--from", "missing.pcap"], "--from: missing.pcap is no file that is there"),
        (["chord", "--from", "http://127.0.0.1:1", "--from", "x.pcap"], "--from: one agent, or any number of files"),
        (["chord", "--from", "http://127.0.0.1:1"], "no agent answers"),
    ],
)
def test_what_render_cannot_do_is_2_and_says_why(args, message):
    code, out, err = flowagent("render", *args)
    assert (code, out) == (2, "")
    assert message in err
