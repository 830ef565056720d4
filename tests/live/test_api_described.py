"""The API against its own description, by a program that knows only that: whatever it sends, no fault, no surprise."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from live.generate import generate
from live.polling import until

PROGRAM = Path(sys.executable).with_name("schemathesis")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Answers without an end, and one that only agents in a cluster have.
LEFT_OUT = ("/api/v1/stream", "/api/v1/kubernetes/snapshot")


@pytest.mark.service(str(PROGRAM))
def test_whatever_is_sent_the_answer_is_as_described(make_agent, tmp_path):
    agent = make_agent(history={"step": "1s"})
    generate(agent.port, records=2000)
    url = f"http://127.0.0.1:{agent.http_port}/api/v1"

    def remembered():
        with urllib.request.urlopen(f"{url}/query?dimensions=src_addr") as answer:
            return json.load(answer)["rows"]

    until(remembered, "flows are in the history")
    options = ["--checks", CHECKS, "-n", "10", "--seed", "1", "--generation-database", "none", "--no-color"]
    options += [word for path in LEFT_OUT for word in ("--exclude-path", path)]
    words = [PROGRAM, "run", f"{url}/openapi.json", *options]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    agent.stop()
    assert "could not answer" not in agent.log
