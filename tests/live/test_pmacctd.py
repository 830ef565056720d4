"""pmacctd, the real program, samples known packets and exports them by sFlow to a running agent."""

import subprocess

import pytest
from live.agent import sum_rows, total
from live.packets import flows_in, write_traffic
from live.polling import until

pytestmark = pytest.mark.service("pmacctd")

_AGENT = "192.0.2.77"


def test_counts_what_pmacctd_sampled(make_agent, tmp_path):
    """It samples every packet here."""
    agent = make_agent()
    capture, settings = tmp_path / "traffic.pcap", tmp_path / "pmacctd.conf"
    write_traffic(capture, seed=5, conversations=200, ipv6=True)
    truth = flows_in(capture, frames=True)
    settings.write_text(
        f"daemonize: false\npcap_savefile: {capture}\npcap_savefile_wait: 1\nplugins: sfprobe[s]\n"
        f"sfprobe_receiver: 127.0.0.1:{agent.port}\nsfprobe_agentip: {_AGENT}\nsampling_rate: 1\n"
    )
    with subprocess.Popen(["pmacctd", "-f", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as probe:
        try:
            until(lambda: agent.metrics().decoded >= total(truth).packets, "all samples came")
        finally:
            probe.terminate()

    metrics = agent.metrics()
    assert metrics.flows == total(truth)
    assert metrics.total("flowagent_flow_bytes_total", exporter=_AGENT) == total(truth).bytes
    assert metrics.errors == metrics.total("flowagent_ingest_lost_records_total") == 0
    agent.stop()
    assert sum_rows(agent.rows()) == truth
