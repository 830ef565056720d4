"""Real connections through a router that translates addresses: the agent on it tells what its kernel counted."""

import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from live.polling import until

_SERVE = """
import socket, sys
size = int(sys.argv[1])
with socket.create_server(("10.2.0.2", 8000)) as server:
    while True:
        peer, _ = server.accept()
        with peer:
            while len(peer.recv(65536)) > 0:
                pass
            peer.sendall(bytes(size))
"""
_FETCH = """
import socket, sys
with socket.create_connection(("10.1.0.1", 8080), 5) as sock:
    sock.sendall(bytes(int(sys.argv[1])))
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass
"""
_SEND = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("10.1.0.2", 5555))
    for _ in range(100):
        sock.sendto(bytes(1000), ("10.2.0.2", 9))
"""
_RULES = """
table ip t {
  chain pre { type nat hook prerouting priority -100; tcp dport 8080 dnat to 10.2.0.2:8000; }
  chain post { type nat hook postrouting priority 100; oifname "south" tcp dport 8000 masquerade to :7000-7999; }
}
"""


@pytest.fixture(scope="module")
def lacking(make_netns):
    """Why this kernel cannot show connections, where it cannot: no service, so nothing that could be installed."""
    router = make_netns()
    if not Path("/proc/sys/net/netfilter/nf_conntrack_acct").exists():
        return "this kernel has no connection tracking"
    try:
        router.run("nft", "-f", "-", input=_RULES)
        router.run("conntrack", "-L")
    except subprocess.CalledProcessError as error:
        return f"this kernel lacks NAT or the netlink interface of connection tracking: {error.stderr.strip()}"
    return None


@pytest.fixture
def router(make_netns, lacking):
    """A router between a client (10.1.0.2) and a server (10.2.0.2); port 8080 of it leads to the server's 8000."""
    if lacking:
        pytest.skip(lacking)
    router, client, server = make_netns(), make_netns(), make_netns()
    for other, side, net in ((client, "north", 1), (server, "south", 2)):
        router.connect(other, side, "eth0")
        router.run("ip", "addr", "add", f"10.{net}.0.1/24", "dev", side)
        other.run("ip", "addr", "add", f"10.{net}.0.2/24", "dev", "eth0")
        other.run("ip", "route", "add", "default", "via", f"10.{net}.0.1")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    router.run("nft", "-f", "-", input=_RULES)
    router.client, router.server = client, server
    return router


def python(namespace, script, *words):
    return namespace.run("python3", "-c", script, *words)


def tracked(router):
    """What conntrack(8) shows: bytes and packets of both directions, by protocol and destination port."""
    found = {}
    for line in router.run("conntrack", "-L", "-o", "extended").splitlines():
        fields = defaultdict(list)
        for word in line.split():
            name, _, value = word.partition("=")
            fields[name].append(value)
        counts = [(int(p), int(b)) for p, b in zip(fields["packets"], fields["bytes"], strict=True)]
        found[line.split()[2], int(fields["dport"][0])] = counts
    return found


def rows_of(agent):
    return [row for row in agent.rows() if row.get("proto") in (6, 17)]


def sums(rows, **like):
    found = [row for row in rows if like.items() <= row.items()]
    return sum(row["packets"] for row in found), sum(row["bytes"] for row in found)


def start(make_agent, router, **settings):
    source = {"type": "conntrack", "interval": "300ms", "exporter": "192.0.2.7", **settings}
    return make_agent(netns=router, ingest=[source], window=0)


@pytest.mark.service("netns", "nft", "conntrack", "ethtool", "curl", "sysctl")
def test_translated_connections_are_counted_to_the_byte(make_agent, router):
    agent = start(make_agent, router, enable_accounting=True, enable_timestamps=True)
    router.server.start("python3", "-c", _SERVE, "300000")
    # A connection that is refused would be told of, too.
    until(lambda: router.server.run("ss", "-Hltn", "sport = :8000"), "the server listens")
    python(router.client, _FETCH, "50000")
    python(router.client, _SEND)
    truth = until(lambda: _settled(router), "nothing changes any more")
    (there, back), (sent, nothing) = truth["tcp", 8080], truth["udp", 9]
    assert there[1] > 50_000
    assert back[1] > 300_000
    assert sent == (100, 102_800)
    assert nothing == (0, 0)

    def told():
        rows = rows_of(agent)
        return sums(rows, dst_port=9) == sent and sums(rows, src_addr="10.2.0.2", src_port=8000) == back

    until(told, "all is told")
    router.run("conntrack", "-F")  # connections end; there is nothing more to tell of them
    agent.stop()
    rows = rows_of(agent)
    assert sums(rows, dst_port=8080) == there
    assert sums(rows, src_port=8000) == back
    assert sums(rows, dst_port=9) == sent
    assert len([row for row in rows if row.get("src_port") == 9]) == 0

    row = next(row for row in rows if row["dst_port"] == 8080)
    assert (row["src_addr"], row["dst_addr"]) == ("10.1.0.2", "10.1.0.1")
    assert (row["nat_src_addr"], row["nat_dst_addr"], row["nat_dst_port"]) == ("10.2.0.1", "10.2.0.2", 8000)
    assert 7000 <= row["nat_src_port"] <= 7999
    assert row["exporter"] == "192.0.2.7"
    assert row["sampling_rate"] == 1
    back_row = next(row for row in rows if row["src_port"] == 8000)
    assert back_row["dst_port"] == row["nat_src_port"]
    assert (back_row["nat_src_addr"], back_row["nat_src_port"]) == ("10.1.0.1", 8080)
    assert (back_row["nat_dst_addr"], back_row["nat_dst_port"]) == ("10.1.0.2", row["src_port"])
    assert row["start_ns"] <= row["end_ns"] <= row["received_ns"]
    assert not any("nat_src_addr" in row for row in rows if row["dst_port"] == 9)


@pytest.mark.service("netns", "nft", "conntrack", "ethtool", "curl", "sysctl")
def test_a_connection_shorter_than_the_interval_is_told_by_its_end(make_agent, router):
    agent = start(make_agent, router, enable_accounting=True, interval="1h")
    python(router.client, _SEND)
    truth = tracked(router)["udp", 9]
    router.run("conntrack", "-F")
    until(lambda: sums(rows_of(agent), dst_port=9) == truth[0], "the end is told")
    agent.stop()
    assert sums(rows_of(agent), dst_port=9) == truth[0]


@pytest.mark.service("netns", "nft", "conntrack", "ethtool", "curl", "sysctl")
def test_without_accounting_the_agent_says_what_to_do(make_agent, router):
    router.run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=0")
    source = {"type": "conntrack", "interval": "300ms"}
    agent = make_agent(netns=router, ingest=[source], window=0, start=False)
    agent.launch()
    until(lambda: "set net.netfilter.nf_conntrack_acct to 1" in agent.log, "it is logged")
    with pytest.raises(OSError, match="503"):
        agent.get("/readyz")
    router.run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1")
    until(lambda: _try(lambda: agent.get("/readyz")), "it is ready")
    agent.stop()


def _try(look):
    try:
        return look() is not None
    except (OSError, subprocess.CalledProcessError):
        return False


def _settled(router):
    first = tracked(router)
    return first if first == tracked(router) and ("tcp", 8080) in first and ("udp", 9) in first else None
