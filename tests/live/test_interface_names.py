"""Names of interfaces, as an agent learns them from a kernel where they change."""

import signal
import sys

import pytest
from live.polling import until

pytestmark = pytest.mark.service("netns", "ip", "ethtool", "curl")
ENRICH = [{"type": "interfaces"}]
STORM = 2000


def export(netns, target, protocol="ipfix"):
    """Let an exporter in a namespace send 400 records, of interfaces 1 to 40 and two uplinks."""
    command = [sys.executable, "-m", "flowagent", "generate", "--protocol", protocol]
    netns.run(*command, "--target", target, "--records", 400, "--rate", 10_000)


def rows_after(agent, count):
    """All rows, once there are so many."""
    return until(lambda: len(rows := agent.rows()) >= count and rows, f"{count} rows are written")


def named(rows):
    """The names that interfaces have, by index."""
    sides = [(row[side], row.get(f"{side}_name")) for row in rows for side in ("in_if", "out_if")]
    return {index: name for index, name in sides if name}


def interfaces(agent):
    return agent.metrics().total("flowagent_interfaces")


@pytest.fixture
def host(make_netns):
    """A host with interfaces 7 and 9."""
    netns = make_netns()
    netns.run("ip", "link", "add", "name", "port7", "index", 7, "type", "bridge")
    netns.run("ip", "link", "add", "name", "port9", "index", 9, "type", "bridge")
    return netns


def test_exporters_on_the_host_get_names_as_interfaces_change(make_agent, host):
    agent = make_agent(netns=host, enrich=ENRICH, window=0)
    until(lambda: interfaces(agent) == 3, "all interfaces are known")
    export(host, f"127.0.0.1:{agent.port}")
    assert named(rows_after(agent, 400)) == {1: "lo", 7: "port7", 9: "port9"}

    host.run("ip", "link", "set", "port7", "name", "renamed")
    host.run("ip", "link", "del", "port9")
    host.run("ip", "link", "add", "name", "port12", "index", 12, "type", "bridge")
    until(lambda: "port12" in agent.get("/metrics"), "the bridge is known")
    export(host, f"127.0.0.1:{agent.port}")
    # What is gone keeps its name for flows that are told of late.
    assert named(rows_after(agent, 800)[400:]) == {1: "lo", 7: "renamed", 9: "port9", 12: "port12"}
    agent.stop()


def test_numbers_that_are_no_interfaces_of_this_host_get_no_names(make_agent, make_netns, host):
    elsewhere = make_netns()
    host.connect(elsewhere, "cable", "cable")
    host.run("ip", "addr", "add", "198.51.100.1/24", "dev", "cable")
    elsewhere.run("ip", "addr", "add", "198.51.100.2/24", "dev", "cable")
    agent = make_agent(netns=host, enrich=ENRICH, window=0)
    agent.config["ingest"][0]["listen"] = f"0.0.0.0:{agent.port}"
    agent.stop()
    agent.start()
    until(lambda: interfaces(agent) == 4, "all interfaces are known")

    export(elsewhere, f"198.51.100.1:{agent.port}")
    assert named(rows_after(agent, 400)) == {}
    export(host, f"198.51.100.1:{agent.port}", "netflow5")
    assert named(rows_after(agent, 800)) == {}
    export(host, f"198.51.100.1:{agent.port}")
    names = named(rows_after(agent, 1200)[800:])
    assert (names[7], names[9]) == ("port7", "port9")
    agent.stop()


def test_a_storm_of_changes_is_survived(make_agent, host):
    """More messages than the kernel keeps for the agent, which does not read them at the time."""
    agent = make_agent(netns=host, enrich=ENRICH, window=0)
    until(lambda: interfaces(agent) == 3, "all interfaces are known")
    agent.signal(signal.SIGSTOP)
    host.run("ip", "-batch", "-", input="".join(f"link set port7 mtu {1500 + i % 2}\n" for i in range(STORM)))
    host.run("ip", "link", "set", "port7", "name", "calm")
    agent.signal(signal.SIGCONT)
    until(lambda: agent.metrics().total("flowagent_interfaces_resyncs_total") == 1, "messages were lost")
    until(lambda: "asks for all interfaces again" in agent.log, "the log says so")

    def renamed():
        before = len(agent.rows())
        export(host, f"127.0.0.1:{agent.port}")
        return named(rows_after(agent, before + 400)[before:]).get(7) == "calm"

    until(renamed, "the new name is known")
    agent.stop()
