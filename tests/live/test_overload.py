"""More records than the agent can process, for a minute: it goes on, and what it forwards still tells the totals."""

import json
import math
import subprocess
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from live.generate import command
from live.polling import until

SECONDS = 60
TIMES = 3
"""What comes over what can be processed."""
ANSWER = 1.0
"""Seconds within which the agent must answer."""
CONVERSATION = ["src_addr", "dst_addr", "src_port", "dst_port", "proto"]
# Filters that all differ keep the policies from sharing their work: enough of it for any machine.
POLICIES = [
    {
        "type": "policy", "name": f"p{i}", "filter": f"dst_port != {i + 1}", "every": "5s", "periods": 1,
        "top": [{"of": "src_addr"}, {"of": "dst_addr"}, {"of": CONVERSATION}], "distinct": ["src_addr", CONVERSATION],
        "quantiles": ["bytes"], "memory": "2MiB",
    }
    for i in range(24)
]  # fmt: skip


def test_totals_survive_three_times_what_can_be_processed(make_agent):
    agent = make_agent(analyse=[{"type": "counters"}, *POLICIES], sampling={"budget": 500})
    sending = command(agent.port, protocol="ipfix", rate=0, duration=SECONDS, keys=20_000)
    with subprocess.Popen(sending, stdout=subprocess.PIPE) as generator:
        answers, factors, memory = watch(agent, generator)
        sent = json.loads(generator.stdout.read())
    until(lambda: agent.metrics().total("flowagent_records_pending") == 0, "nothing pending")
    metrics = agent.metrics()
    agent.stop()

    assert max(answers) < ANSWER
    assert max(factors) >= TIMES, f"the machine kept up; factors {factors}"
    assert max(memory[len(memory) // 3 :]) < 1.15 * memory[len(memory) // 3] + 20e6, memory
    # Everything received is in the account, and what was not received shows as lost.
    received = metrics.total("flowagent_flow_records_total")
    assert received == metrics.decoded == metrics.total("flowagent_records_total")
    lost = metrics.total("flowagent_ingest_lost_records_total")
    assert abs(sent["records"] - received - lost) <= 0.01 * sent["records"]
    for protocol, (estimate, half) in estimates(agent.rows()).items():
        exact = metrics.total("flowagent_flow_bytes_total", proto=str(protocol))
        # Four intervals are looked at, which must all hold: 3 sigma rather than 1.96.
        assert abs(estimate - exact) < 3 * half, (protocol, estimate, exact, half)
    assert metrics.total("flowagent_policy_bytes_total", policy="p0") == pytest.approx(metrics.flows.bytes, rel=0.02)


def watch(agent, generator):
    """How long the agent took to answer, the overload factor, and its resident memory, until the generator ends."""
    answers, factors, memory = [], [], []
    while generator.poll() is None:
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{agent.http_port}/healthz", timeout=10) as answer:
            answer.read()
        answers.append(time.perf_counter() - began)
        factors.append(agent.metrics().total("flowagent_overload_factor"))
        pages = int(Path(f"/proc/{agent.pid}/statm").read_text().split()[1])
        memory.append(pages * 4096)
        time.sleep(0.5)
    return answers, factors, memory


def estimates(rows):
    """Bytes by protocol and the standard error, from the weights of the rows alone."""
    totals, variances = defaultdict(float), defaultdict(float)
    for row in rows:
        totals[row["proto"]] += row["bytes"] * row["weight"]
        variances[row["proto"]] += row["bytes"] ** 2 * row["weight"] * (row["weight"] - 1)
    return {proto: (totals[proto], math.sqrt(variances[proto])) for proto in totals}
