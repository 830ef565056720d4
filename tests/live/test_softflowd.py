"""softflowd, the real program, exports known packets to a running agent."""

import subprocess
from pathlib import Path

import pytest
from live.agent import sum_rows, total
from live.packets import flows_in, write_traffic
from live.polling import until
from live.softflowd import Softflowd


@pytest.mark.service("softflowd")
@pytest.mark.parametrize("options", ["-v 5", "-v 9 -6", "-v 10 -6", "-v 10 -6 -b"])
def test_counts_what_softflowd_saw(make_agent, tmp_path, options):
    agent = make_agent()
    capture = tmp_path / "traffic.pcap"
    write_traffic(capture, seed=5, conversations=300, ipv6="-6" in options)
    truth = flows_in(capture)

    command = f"softflowd -d -r {capture} -c none -p {tmp_path}/pid -n 127.0.0.1:{agent.port} {options}"
    subprocess.run(command.split(), stderr=subprocess.DEVNULL, timeout=30, check=True)

    metrics = until(lambda: (m := agent.metrics()).decoded >= len(truth) and m, "all records came")
    assert metrics.flows == total(truth)
    assert metrics.total("flowagent_flow_records_total") == metrics.decoded == len(truth)
    assert metrics.errors == metrics.total("flowagent_ingest_lost_records_total") == 0
    agent.stop()
    assert sum_rows(agent.rows()) == truth


@pytest.mark.service("softflowd", "softflowctl", "ethtool", "curl", "netns")
@pytest.mark.parametrize("version", ["9", "10"])
def test_a_restart_loses_nothing(make_agent, make_netns, tmp_path, version):
    """softflowd does not repeat its templates after the agent's end: what comes then needs those on disk."""
    netns = make_netns()
    agent = make_agent(netns=netns)
    softflowd = Softflowd(tmp_path, netns, agent.port, "-v", version, "-6")
    captures = [tmp_path / "before.pcap", tmp_path / "after.pcap"]
    for seed, capture in enumerate(captures):
        write_traffic(capture, seed, conversations=60, ipv6=True)
    before, after = map(flows_in, captures)

    softflowd.see(captures[0], total(before).packets)
    softflowd.export()
    until(lambda: len(sum_rows(agent.rows())) == len(before) and agent.saved_templates(), "rows and templates are on disk")
    agent.kill()
    agent.start()
    softflowd.see(captures[1], total(after).packets)
    softflowd.export()
    metrics = until(lambda: (m := agent.metrics()).decoded >= len(after) and m, "the other records came")
    assert metrics.total("flowagent_ingest_templates_total") == 0, "the templates came again: this test shows nothing"
    assert metrics.flows == total(after)
    assert metrics.errors == 0
    agent.stop()
    assert total(sum_rows(agent.rows())) == tuple(map(sum, zip(total(before), total(after), strict=True)))
