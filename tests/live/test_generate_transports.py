"""`flowagent generate` over TCP and TLS, and with a capture, into a running agent: it decodes what was sent."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from live.agent import Sums
from live.outages import make_certificate
from live.polling import free_port, until

CAPTURES = Path(__file__).parents[1] / "data" / "captures"


def run(*words):
    done = subprocess.run(
        [sys.executable, "-m", "flowagent", "generate", *map(str, words)], capture_output=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.decode(), json.loads(done.stdout) if done.stdout else None


def listening(make_agent, **settings):
    port = free_port(socket.SOCK_STREAM)
    agent = make_agent(ingest=[{"type": "tcp", "listen": f"127.0.0.1:{port}", **settings}], export=[])
    return agent, f"127.0.0.1:{port}"


@pytest.mark.service("openssl")
@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_what_was_sent_is_decoded(tmp_path, make_agent, transport):
    words, settings = [], {}
    if transport == "tls":
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        make_certificate(key, cert)
        words = ["--ca", cert, "--cert", cert, "--key", key]
        settings = {"tls": {"cert": str(cert), "key": str(key), "client_ca": str(cert)}}
    agent, target = listening(make_agent, **settings)
    code, _, sent = run("--target", target, "--transport", transport, "--records", 50_000, "--rate", 0, *words)
    assert code == 0
    metrics = until(lambda: (m := agent.metrics()).decoded == sent["records"] and m, "all records came")
    assert metrics.flows == Sums(sent["packets"], sent["bytes"])
    assert metrics.errors == metrics.total("flowagent_ingest_lost_records_total") == 0


def test_a_capture_is_sent_again(make_agent):
    capture = CAPTURES / "ovs-mixed.pcap"
    done = subprocess.run(
        [sys.executable, "-m", "flowagent", "replay", "--summary", str(capture)], capture_output=True, check=True
    )
    truth = json.loads(done.stdout)["total"]
    agent = make_agent(export=[])
    code, _, sent = run("--target", f"127.0.0.1:{agent.port}", "--replay", capture, "--speed", "max")
    assert (code, sent["datagrams"], sent["errors"]) == (0, truth["datagrams"], 0)
    until(lambda: agent.metrics().total("flowagent_ingest_datagrams_total") == truth["datagrams"], "all datagrams came")
    assert agent.metrics().decoded == truth["records"]


def test_nobody_there_is_exit_2():
    code, text, _ = run("--target", f"127.0.0.1:{free_port(socket.SOCK_STREAM)}", "--transport", "tcp", "--records", 1)
    assert code == 2
    assert "target:" in text
    assert "name a host that can be reached" in text
