"""pmacctd, the real program, samples known packets and exports them by sFlow to a running agent."""

import subprocess

import pytest
from live.agent import sum_rows, total
from live.packets import flows_in, write_traffic
from live.polling import until
from scapy.utils import rdpcap, wrpcap

pytestmark = pytest.mark.service("pmacctd")

_AGENT = "192.0.2.77"
_DATAGRAM = 10
"""Samples that fit into one of its datagrams, at most: the last one, if it is not full, it never sends."""


def test_counts_what_pmacctd_sampled(make_agent, tmp_path):
    """It samples every packet here."""
    agent = make_agent()
    capture, settings = tmp_path / "traffic.pcap", tmp_path / "pmacctd.conf"
    write_traffic(capture, seed=5, conversations=200, ipv6=True)
    packets = rdpcap(str(capture))
    settings.write_text(
        f"daemonize: false\npcap_savefile: {capture}\nplugins: sfprobe[s]\n"
        f"sfprobe_receiver: 127.0.0.1:{agent.port}\nsfprobe_agentip: {_AGENT}\nsampling_rate: 1\n"
    )

    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.run(["pmacctd", "-f", settings], timeout=30, check=True, **quiet)
    until(lambda: agent.metrics().decoded > len(packets) - _DATAGRAM, "all samples came")

    metrics = agent.metrics()
    assert metrics.total("flowagent_flow_packets_total", exporter=_AGENT) == metrics.decoded
    assert metrics.errors == metrics.total("flowagent_ingest_lost_records_total") == 0
    agent.stop()
    found = sum_rows(agent.rows())
    sampled = tmp_path / "sampled.pcap"
    wrpcap(str(sampled), packets[: total(found).packets])
    assert found == flows_in(sampled, frames=True)
