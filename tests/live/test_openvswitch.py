"""Open vSwitch, the real program with its userspace datapath, exports real traffic to a running agent."""

import subprocess
import sys

import pytest
from live.agent import merged, sum_rows, total
from live.openvswitch import ADDRESSES, OpenVSwitch
from live.packets import flows_in
from live.polling import until

pytestmark = pytest.mark.service(
    "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "tcpdump", "ethtool", "curl", "netns", "/dev/net/tun"
)

CLIENT, SERVER = ADDRESSES
UDP_SIZES = (20, 300, 1400)
TCP_SIZE = 30_000

_SERVE = f"""
import socket
socket.setdefaulttimeout(10)
with socket.create_server(("{SERVER}", 8080)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.bind(("{SERVER}", 5353))
    print("ready", flush=True)
    for _ in range({len(UDP_SIZES)}):
        udp.recv(2000)
    with tcp.accept()[0] as connection:
        connection.sendall(bytes({TCP_SIZE}))
"""
_ASK = f"""
import socket
from scapy.layers.inet import ICMP
socket.setdefaulttimeout(10)
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
    for number in range(3):
        icmp.sendto(bytes(ICMP(id=7, seq=number) / bytes(400)), ("{SERVER}", 0))
        icmp.recv(2000)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    for size in {UDP_SIZES}:
        udp.sendto(bytes(size), ("{SERVER}", 5353))
with socket.create_connection(("{SERVER}", 8080)) as tcp:
    received = 0
    while data := tcp.recv(65536):
        received += len(data)
    assert received == {TCP_SIZE}, received
"""


@pytest.fixture(scope="module")
def switch(tmp_path_factory, make_netns):
    return OpenVSwitch(tmp_path_factory.mktemp("ovs"), make_netns)


@pytest.fixture
def traffic(switch):
    """Send ICMP, UDP and TCP between the hosts; what the bridge's ports saw of it, in IP bytes or bytes of frames."""

    def send(*, frames):
        client, server = switch.hosts
        with switch.watch() as captures, server.start(sys.executable, "-c", _SERVE, stdout=subprocess.PIPE) as serving:
            serving.stdout.readline()  # says that it is ready
            client.run(sys.executable, "-c", _ASK, timeout=15)
        assert serving.returncode == 0
        return flows_in(*captures, frames=frames)

    return send


IPFIX = {"sampling": 1, "obs_domain_id": 10, "obs_point_id": 20, "cache_active_timeout": 1, "cache_max_flows": 1000}


def wait_for(agent, truth):
    """Until the agent has written as many packets as there were."""
    until(lambda: total(sum_rows(agent.rows())).packets >= total(truth).packets, "all packets are in the rows")


def test_netflow_counts_the_frames_that_the_ports_saw(switch, traffic, make_agent):
    agent = make_agent(netns=switch.netns)
    switch.export("NetFlow", agent.port, active_timeout=1)
    truth = traffic(frames=True)

    wait_for(agent, truth)

    metrics = agent.metrics()
    assert metrics.flows == total(truth)
    assert metrics.errors == metrics.total("flowagent_ingest_lost_records_total") == 0
    agent.stop()
    assert sum_rows(agent.rows()) == truth


def test_ipfix_counts_each_packet_once(switch, traffic, make_agent):
    """The bridge reports a packet as it comes in and again as it goes out."""
    agent = make_agent(netns=switch.netns)
    switch.export("IPFIX", agent.port, **IPFIX)
    truth = traffic(frames=False)

    wait_for(agent, truth)

    metrics = agent.metrics()
    assert metrics.flows.bytes == total(truth).bytes  # ARP has packets, but no IP bytes
    assert metrics.total("flowagent_flow_sampling_records_total", sampling_source="prescaled") >= len(truth)
    assert metrics.total("flowagent_records_total", outcome="dropped", reason="duplicate_direction") >= len(truth)
    assert metrics.errors == metrics.total("flowagent_ingest_lost_records_total") == 0
    agent.stop()
    assert sum_rows(agent.rows()) == truth


def test_sflow_counts_the_frames_that_the_ports_saw(switch, traffic, make_agent):
    """Every packet is sampled, so nothing is an estimate; and the ports' own counters come, too."""
    agent = make_agent(netns=switch.netns)
    switch.export("sFlow", agent.port, sampling=1, polling=1, header=128, agent="lo")
    until(lambda: agent.metrics().total("flowagent_interface_up") > 0, "the first counters came")
    truth = traffic(frames=True)

    wait_for(agent, truth)

    metrics = agent.metrics()
    wire, everything = {"sampling_source": "wire"}, total(truth)
    assert metrics.flows.packets >= everything.packets  # ARP has no 5-tuple
    assert metrics.total("flowagent_flow_sampling_records_total", **wire) == metrics.flows.packets
    assert metrics.errors == metrics.total("flowagent_ingest_lost_records_total") == 0
    until(
        lambda: agent.metrics().total("flowagent_interface_octets_total", direction="in") >= everything.bytes,
        "the ports' counters are those of the traffic",
    )
    agent.stop()
    assert sum_rows(agent.rows()) == truth


def test_a_restart_loses_nothing(switch, traffic, make_agent):
    """Open vSwitch sends its templates again after ten minutes only: until then those on disk must do."""
    agent = make_agent(netns=switch.netns)
    switch.export("IPFIX", agent.port, **IPFIX)
    before = traffic(frames=False)
    wait_for(agent, before)
    until(lambda: agent.has_saved(datagrams=len(before)), "rows and templates are on disk")

    agent.kill()
    agent.start()
    both = merged(before, traffic(frames=False))

    wait_for(agent, both)
    metrics = agent.metrics()
    assert metrics.total("flowagent_ingest_templates_total") == 0, "templates came again: this run shows nothing"
    assert metrics.errors == metrics.total("flowagent_ingest_held_sets_total") == 0
    agent.stop()
    assert sum_rows(agent.rows()) == both
