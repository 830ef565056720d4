"""Live capture: an agent on one end of a cable counts every packet that passes."""

import json
import subprocess
import sys

import pytest
from live.agent import UDP, Flow, Sums, sum_rows, total
from live.netns import Netns
from live.polling import until
from scapy.layers.inet import IP
from scapy.layers.l2 import Dot1Q, Ether

pytestmark = pytest.mark.service("netns", "ethtool", "curl")

NEAR, FAR = "10.9.0.1", "10.9.0.2"
_SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.bind((sys.argv[1], 4000))
    for _ in range(int(sys.argv[3])):
        udp.sendto(bytes(int(sys.argv[4])), (sys.argv[2], int(sys.argv[5])))
"""
_SINK = """
import socket, time
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
[sock.bind(("0.0.0.0", port)) for sock, port in zip(sockets, (5000, 5001))]
print("ready", flush=True)
time.sleep(3600)
"""
_SEND_FRAME = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind((sys.argv[1], 0))
    sock.send(bytes.fromhex(sys.argv[2]))
"""
_SERVE = """
import socket, sys
with socket.create_server((sys.argv[1], 8080)) as server:
    print("ready", flush=True)
    with server.accept()[0] as connection:
        connection.sendall(bytes(int(sys.argv[2])))
        connection.recv(1)
"""
_FETCH = """
import socket, sys
with socket.create_connection((sys.argv[1], 8080), 10) as tcp:
    left = int(sys.argv[2])
    while left:
        left -= len(tcp.recv(1 << 20))
"""


class Cable:
    """Two hosts; the one at the far end has the agent. Nothing passes but what is meant: neighbours are known."""

    def __init__(self, near: Netns, far: Netns) -> None:
        self.near, self.far = near, far
        near.connect(far, "near", "far")
        for netns, interface, address in ((near, "near", NEAR), (far, "far", FAR)):
            netns.run("ip", "address", "add", f"{address}/24", "dev", interface)
            netns.run("sysctl", "-q", f"net.ipv6.conf.{interface}.disable_ipv6=1")
        for netns, interface, address, other in (
            (near, "near", FAR, self._mac(far, "far")),
            (far, "far", NEAR, self._mac(near, "near")),
        ):
            netns.run("ip", "neighbour", "replace", address, "lladdr", other, "dev", interface, "nud", "permanent")

    def passed(self) -> Sums:
        """Packets and IP bytes that the kernel counted at the far end, both directions."""
        (link,) = json.loads(self.far.run("ip", "-s", "-j", "link", "show", "far"))
        packets = sum(link["stats64"][way]["packets"] for way in ("rx", "tx"))
        return Sums(packets, sum(link["stats64"][way]["bytes"] for way in ("rx", "tx")) - 14 * packets)

    def send(self, count: int, size: int, port: int = 5000) -> None:
        self.near.run(sys.executable, "-c", _SEND, NEAR, FAR, count, size, port)

    def ping(self, count: int) -> None:
        self.near.run("ping", "-q", "-c", count, "-i", "0.01", FAR)

    def fetch(self, size: int) -> None:
        server = self.far.start(sys.executable, "-c", _SERVE, FAR, size, stdout=subprocess.PIPE)
        server.stdout.readline()
        self.near.run(sys.executable, "-c", _FETCH, FAR, size)
        server.stdout.close()

    def listen(self) -> None:
        """Have somebody at the ports sent to, or the host would say that there is nobody."""
        sink = self.far.start(sys.executable, "-c", _SINK, stdout=subprocess.PIPE)
        sink.stdout.readline()
        sink.stdout.close()

    @staticmethod
    def _mac(netns: Netns, interface: str) -> str:
        (link,) = json.loads(netns.run("ip", "-j", "link", "show", interface))
        return link["address"]


@pytest.fixture
def cable(make_netns):
    made = Cable(make_netns(), make_netns())
    made.listen()
    return made


def capturing(make_agent, cable, **settings):
    """An agent at the far end."""
    source = {"type": "packets", "interface": "far", "idle_timeout": "1s", **settings}
    return make_agent(netns=cable.far, ingest=[source], window={"every": 0})


def seen(agent):
    return agent.metrics().total("flowagent_ingest_packets_total")


def test_every_packet_is_counted(make_agent, cable):
    agent = capturing(make_agent, cable)
    before = cable.passed()
    cable.ping(20)
    cable.fetch(3_000_000)
    cable.send(1000, 100)
    passed = Sums(*(after - b for after, b in zip(cable.passed(), before, strict=True)))
    until(lambda: seen(agent) >= passed.packets, "all packets were read")
    assert agent.metrics().total("flowagent_socket_drops_total") == 0
    agent.stop()
    flows = sum_rows(agent.rows())
    assert total(flows) == passed
    assert flows[Flow(NEAR, FAR, 4000, 5000, UDP)] == Sums(1000, 1000 * 128)
    assert flows[Flow(NEAR, FAR, 0, 0, 1)] == flows[Flow(FAR, NEAR, 0, 0, 1)] == Sums(20, 20 * 84)


def test_rows_tell_direction_interface_and_why_they_ended(make_agent, cable):
    agent = capturing(make_agent, cable)
    cable.fetch(100_000)
    until(lambda: agent.metrics().decoded == 2, "the conversation is over")
    agent.stop()
    there, back = sorted(agent.rows(), key=lambda row: row["direction"])
    (link,) = json.loads(cable.far.run("ip", "-j", "link", "show", "far"))
    assert (there["src_addr"], there["in_if"], there.get("out_if")) == (NEAR, link["ifindex"], None)
    assert (back["src_addr"], back["out_if"], back.get("in_if")) == (FAR, link["ifindex"], None)
    assert {row["flow_end_reason"] for row in (there, back)} == {3}
    assert {row["exporter"] for row in (there, back)} == {FAR}
    assert {(row["sampling_rate"], row["sampling_source"]) for row in (there, back)} == {(1, "config")}


def test_a_filter_is_obeyed_by_the_kernel(make_agent, cable):
    agent = capturing(make_agent, cable, filter="udp dst port 5001")
    cable.ping(3)
    cable.send(10, 50, port=5000)
    cable.send(7, 50, port=5001)
    until(lambda: seen(agent) >= 7, "packets were read")
    agent.stop()
    assert sum_rows(agent.rows()) == {Flow(NEAR, FAR, 4000, 5001, UDP): Sums(7, 7 * 78)}


def test_any_interface_and_the_loopback_once(make_agent, cable):
    agent = capturing(make_agent, cable, interface="any", filter="udp")
    cable.send(9, 50)
    cable.far.run(sys.executable, "-c", _SEND, "127.0.0.1", "127.0.0.1", 4, 50, 5000)
    until(lambda: seen(agent) >= 13, "packets were read")
    agent.stop()
    assert sum_rows(agent.rows()) == {
        Flow(NEAR, FAR, 4000, 5000, UDP): Sums(9, 9 * 78),
        Flow("127.0.0.1", "127.0.0.1", 4000, 5000, UDP): Sums(4, 4 * 78),
    }


def test_a_sample_tells_its_rate(make_agent, cable):
    agent = capturing(make_agent, cable, sampling_rate=4)
    cable.send(4000, 10)
    until(lambda: agent.metrics().total("flowagent_ingest_flows") == 0 and agent.metrics().decoded, "records came")
    agent.stop()
    rows = agent.rows()
    assert {(row["sampling_rate"], row["sampling_source"]) for row in rows} == {(4, "config")}
    # Of 4000 packets each with probability 1/4: within six standard deviations.
    assert abs(sum(row["packets"] for row in rows) - 1000) < 6 * (4000 * 0.25 * 0.75) ** 0.5


def test_a_tag_that_the_kernel_took_off_is_the_vlan(make_agent, cable):
    agent = capturing(make_agent, cable)
    frame = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / Dot1Q(vlan=77) / IP(src=NEAR, dst=FAR, proto=99)
    cable.near.run(sys.executable, "-c", _SEND_FRAME, "near", bytes(frame).hex())
    cable.ping(2)
    until(lambda: seen(agent) >= 5, "packets were read")
    agent.stop()
    assert {(row["proto"], row.get("vlan")) for row in agent.rows()} == {(99, 77), (1, None)}


def test_an_interface_may_go_and_come_back(make_agent, cable):
    agent = capturing(make_agent, cable)
    cable.far.run("ip", "link", "set", "far", "down")
    until(lambda: _not_ready(agent), "it says so")
    cable.far.run("ip", "link", "set", "far", "up")
    until(lambda: not _not_ready(agent), "it is ready again")
    cable.far.run("ip", "neighbour", "replace", NEAR, "lladdr", Cable._mac(cable.near, "near"), "dev", "far")
    cable.send(5, 10)
    until(lambda: seen(agent) >= 5, "packets were read")
    agent.stop()


def _not_ready(agent):
    try:
        agent.get("/readyz")
    except OSError:
        return True
    return False


@pytest.mark.service("setpriv")
def test_without_the_right_to_capture_it_says_what_to_do(tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text("ingest: [{type: packets, interface: lo}]\nhttp: {listen: null}\nstate: {path: state}\n")
    command = ["setpriv", "--bounding-set=-net_raw", sys.executable, "-m", "flowagent", "run", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False)
    assert done.returncode == 2
    assert "CAP_NET_RAW" in done.stderr
    assert "AmbientCapabilities" in done.stderr


def test_an_interface_that_is_not_there_is_named(tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text("ingest: [{type: packets, interface: nosuch0}]\nhttp: {listen: null}\nstate: {path: state}\n")
    command = [sys.executable, "-m", "flowagent", "run", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False)
    assert done.returncode == 2
    assert "there is no nosuch0" in done.stderr
    assert "lo" in done.stderr
