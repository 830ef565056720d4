"""The demo as a person meets it: `top` shows what the API says, scripts get it as JSON, reports as SVG."""

import json
import re
import subprocess
import sys
import urllib.parse
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from live.polling import until
from live.terminal import Terminal

from flowagent import shown
from flowagent.top_view import Look, ranked

OPENAPI = json.loads((Path(__file__).parents[2] / "flowagent" / "web" / "openapi.json").read_text())
ANSWER = Draft202012Validator({"$ref": "#/components/schemas/Answer", "components": OPENAPI["components"]})
BY = "src_k8s_namespace,dst_k8s_namespace"


def flowagent(*args):
    done = subprocess.run([sys.executable, "-m", "flowagent", *args], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.fixture
def played(make_agent):
    """A demo of which the history has something, and its URL."""
    agent = make_agent(start=False, history={"step": "1s"}).start("demo")
    url = f"http://127.0.0.1:{agent.http_port}"
    until(lambda: json.loads(agent.get(f"/api/v1/query?dimensions={BY}"))["rows"], "the history has rows")
    # Names come a second after the start, and the first rows may be without.
    until(lambda: "shop" in agent.get(f"/api/v1/query?dimensions={BY}&from=-2s"), "the rows have names")
    yield agent, url
    agent.stop()


def test_top_as_json_is_what_the_api_describes(played):
    _, url = played
    answer = json.loads(flowagent("top", "--url", url, "--once", "--json", "--dimensions", BY))
    assert list(ANSWER.iter_errors(answer)) == []
    assert answer["total"]["value"] > 0
    assert not answer["exact"]  # the edge router samples
    assert any(row["error"] > 0 for row in answer["rows"])


@pytest.mark.service("tmux")
def test_top_in_a_terminal_shows_what_the_api_says(played, tmp_path):
    """Of a time that is over, so that both say the same."""
    agent, url = played
    command = [sys.executable, "-m", "flowagent", "top", "--url", url, "--dimensions", BY, "-n", "5", "--over", "3s"]
    with Terminal(tmp_path, *command, "--every", "500ms") as terminal:
        until(lambda: "q quit" in terminal.screen, "top is drawn")

        def both():
            asked = urllib.parse.urlencode(
                {"dimensions": BY, "top": 5, "fold": "row", "from": "-3s", "measure": "bytes"}
            )
            answer = shown.decode(agent.get(f"/api/v1/query?{asked}").encode())
            return _lines(answer) <= {
                re.sub(r"[█▏▎▍▌▋▊▉]+", "", line).replace(" ", "") for line in terminal.screen.splitlines()
            }

        until(both, "the same numbers", every=0.1)
        terminal.type("d")
        until(lambda: "bytes by src_k8s_owner_name, dst_k8s_owner_name" in terminal.screen, "other dimensions")
        terminal.type("m")
        until(lambda: "packets/s" in terminal.screen.splitlines()[3], "another measure")
        terminal.type("f", "proto == tcp", "Enter")
        until(lambda: "where proto == tcp" in terminal.screen, "a filter")
        terminal.type("f", " x", "Enter")
        until(lambda: "q quit" in terminal.screen and "expected" in terminal.screen, "what is wrong with it")
        terminal.resize(60, 12)
        until(lambda: len(terminal.screen.splitlines()) == 12 and "total" in terminal.screen, "a smaller terminal")
        terminal.type("q")
        until(terminal.has_ended, "it ends")


def _lines(answer):
    """The lines of the table without spaces."""
    return {
        "".join([
            *answer.labels(row), shown.amount(row.value / answer.seconds, "bytes", per_second=True),
            shown.error_text(row.value, row.error), f"{100 * row.value / answer.total.value:.1f}%",
        ]).replace(" ", "")
        for row in ranked(answer, Look())
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["sankey", "chord", "timeline"])
def test_a_picture_of_an_agent(played, kind):
    _, url = played
    root = ET.fromstring(flowagent("render", kind, "--from", url, "--since=-1m"))
    said = " ".join(root.itertext())
    assert "Bytes by source namespace → destination namespace" in said
    assert "shop" in said
    assert "± is the 95 % interval" in said
