"""`flowagent ovs attach` makes a real Open vSwitch export, and an agent's totals hold within their stated error."""

import asyncio
import json
import subprocess
import sys
import time

import pytest
from live.openvswitch import OpenVSwitch, address_of, mac_of
from live.polling import until

from flowagent.ovs import sampling_of

pytestmark = pytest.mark.service(
    "ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovsdb-client", "ethtool", "curl", "netns", "/dev/net/tun"
)

TCP, UDP = 6, 17
FAR = {2: "the same bridge", 3: "a VXLAN tunnel", 4: "a Geneve tunnel"}
"""Hosts that host 1 talks to, and how it gets there."""
_OVS = "from flowagent.ovs_cli import app; app()"  # as `flowagent ovs` does
_MEANT = "proto == udp or src_port == 8080 or dst_port == 8080"
"""Not what found out whether hosts answer."""
_ENOUGH = 25
"""Sampled packets from which on an interval that rests on the normal distribution can be relied on."""
_SERVE = """
import socket, sys
address, size = sys.argv[1], int(sys.argv[2])
with socket.create_server((address, 8080)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.bind((address, 5353))
    print("ready", flush=True)
    with tcp.accept()[0] as connection:
        connection.sendall(bytes(size))
        connection.recv(1)
"""
_DOWNLOAD = """
import socket, sys, threading
def run(address):
    with socket.create_connection((address, 8080), 10) as tcp:
        left = int(sys.argv[1])
        while left:
            left -= len(tcp.recv(1 << 20))
threads = [threading.Thread(target=run, args=[a]) for a in sys.argv[2:]]
[t.start() for t in threads]
[t.join() for t in threads]
"""
_REACH = """
import socket, sys
for target in sys.argv[1:]:
    try:
        socket.create_connection((target, 9), 1)
    except ConnectionRefusedError:
        pass
    except OSError:
        sys.exit("no answer")
print("all answer")
"""
_SEND = """
import socket, sys, time
count, targets = int(sys.argv[1]), sys.argv[2:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    begin = time.perf_counter()
    for i in range(count):
        for target in targets:
            udp.sendto(bytes(i % 1000), (target, 5353))
        if i % 10 == 0:
            time.sleep(max(0, begin + i * 1e-4 - time.perf_counter()))
"""


@pytest.fixture(scope="module")
def switch(tmp_path_factory, make_netns):
    """Hosts 1 and 2 on one bridge; 3 and 4 behind tunnels, on two bridges of another switch."""
    near = OpenVSwitch(tmp_path_factory.mktemp("near"), make_netns)
    far = OpenVSwitch(tmp_path_factory.mktemp("far"), make_netns, (3, 4))
    far.vsctl("del-port", "br0", "p4")
    far.add_bridge("br1", "p4")
    near.join(far)
    near.add_tunnel("vxlan", "br0", far, "br0")
    near.add_tunnel("geneve", "br0", far, "br1")
    near.hosts += far.hosts
    for number, host in enumerate(near.hosts, 1):
        host.run("ip", "link", "set", "eth0", "mtu", "1400")
        for other in {1, *FAR} - {number}:
            host.run("ip", "neigh", "add", address_of(other), "lladdr", mac_of(other), "dev", "eth0")
    return near


@pytest.fixture
def ovs(switch):
    """Run a command of `flowagent ovs`; its output."""

    def run(command, *words):
        words = [sys.executable, "-c", _OVS, command, *map(str, words), "--db", switch.db]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout

    return run


def configuration(switch):
    tables = ("Open_vSwitch", "Bridge", "Port", "IPFIX", "sFlow", "NetFlow", "Flow_Sample_Collector_Set")
    dump = ["ovsdb-client", "dump", switch.db, "Open_vSwitch"]
    return [
        switch.netns.run(*dump, table, *(["bridges", "external_ids", "next_cfg"] if table == "Open_vSwitch" else []))
        for table in tables
    ]


def received(host):
    """IP packets and bytes that a host got so far."""
    packets, octets = (
        int(host.run("cat", f"/sys/class/net/eth0/statistics/{name}")) for name in ("rx_packets", "rx_bytes")
    )
    return packets, octets - 14 * packets


def traffic(switch, datagrams, size):
    """Send UDP to the far hosts and TCP back; packets and IP bytes that each host got, by protocol."""
    first, *others = switch.hosts
    addresses = [address_of(number) for number in FAR]
    until(lambda: first.start(sys.executable, "-c", _REACH, *addresses).wait(15) == 0, "all hosts answer")
    serving = [
        host.start(sys.executable, "-c", _SERVE, address, size, stdout=subprocess.PIPE)
        for host, address in zip(others, addresses, strict=True)
    ]
    for server in serving:
        server.stdout.readline()  # says that it is ready
    truth = {}
    for proto, command in ((UDP, [_SEND, datagrams]), (TCP, [_DOWNLOAD, size])):
        before = [received(host) for host in switch.hosts]
        first.run(sys.executable, "-c", *command, *addresses, timeout=30)
        time.sleep(0.3)
        for number, (host, was) in enumerate(zip(switch.hosts, before, strict=True), 1):
            truth[address_of(number), proto] = tuple(a - b for a, b in zip(received(host), was, strict=True))
    for server in serving:
        server.terminate()
        server.communicate()
    return truth


def estimate(agent, measure):
    """What `flowagent estimate` makes of the rows: low, total and high by host and protocol."""
    words = ["estimate", str(agent.directory / "rows.ndjson"), "--by", "dst_addr,proto", "--measure", measure]
    words += ["--where", _MEANT, "--confidence", "0.99999999", "--format", "json", "--top", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "flowagent", *words], capture_output=True, text=True, check=True, timeout=20
    )
    assert "unknown" not in done.stderr
    groups = json.loads(done.stdout)["groups"]
    return {(g["dst_addr"], g["proto"]): (g["low"], g["total"], g["high"]) for g in groups}


def quiet(agent):
    """Until the switch has nothing more to tell."""
    seen = [-1, 0.0]

    def same():
        decoded = agent.metrics().decoded
        if decoded != seen[0]:
            seen[:] = decoded, time.perf_counter()
        return decoded and time.perf_counter() - seen[1] > 1.3

    until(same, "no more records come", every=0.2)


@pytest.mark.parametrize(
    ("sampling", "datagrams", "size"), [(1, 500, 300_000), (16, 3000, 3_000_000), (400, 12_000, 24_000_000)]
)
def test_totals_hold_within_their_stated_error(switch, ovs, make_agent, sampling, datagrams, size):
    agent = make_agent(netns=switch.netns, enrich=[{"type": "ovsdb", "db": switch.db, "every": "1s"}])
    before = configuration(switch)
    ovs("attach", "br0", "--target", f"127.0.0.1:{agent.port}", "--sampling", sampling, "--cache-active-timeout", 1)
    until(lambda: agent.metrics().total("flowagent_ovsdb_domains", sampling="known"), "the agent knows the sampling")

    truth = traffic(switch, datagrams, size)
    quiet(agent)
    metrics = agent.metrics()
    agent.stop()
    ovs("detach", "br0")

    assert configuration(switch) == before
    assert metrics.total("flowagent_ovsdb_rows_total", scaling="undone") > 0
    assert metrics.total("flowagent_flow_sampling_records_total", sampling_source="prescaled") == 0
    for i, measure in enumerate(("packets", "bytes")):
        found = estimate(agent, measure)
        for key, true in truth.items():
            if true[0] < _ENOUGH * sampling:
                continue
            low, total, high = found[key]
            assert low <= true[i] <= high, (measure, key, true[i], found[key])
            if sampling == 1:
                assert low == total == high == true[i]
    rows = agent.rows()
    assert {row["in_if_name"] for row in rows if row.get("src_addr") == address_of(1)} == {"p1"}
    assert {row["sampling_rate"] for row in rows} == {sampling}


def test_the_switch_says_what_was_attached(switch, ovs):
    ovs("attach", "br0", "--sampling", "64", "--domain", "9")
    there = asyncio.run(sampling_of(switch.db))
    assert (there["br0"].ipfix, there["br0"].obs_domain_id, there["br0"].output_sampling) == (64, 9, False)
    assert [json.loads(ovs("status", "br0", "--json"))[0][n] for n in ("ipfix", "obs_domain_id")] == [64, 9]
    ovs("detach", "br0")
    assert not asyncio.run(sampling_of(switch.db))["br0"].exports


@pytest.mark.parametrize("protocol", ["sflow", "netflow", "ipfix"])
def test_detach_leaves_what_others_configured(switch, ovs, protocol):
    table = {"sflow": "sFlow", "netflow": "NetFlow", "ipfix": "IPFIX"}[protocol]
    switch.vsctl("--id=@x", "create", table, 'targets="127.0.0.1:9"', "--", "set", "bridge", "br0", f"{protocol}=@x")
    before = configuration(switch)
    ovs("attach", "br0", "--protocol", protocol, "--replace")
    assert configuration(switch) != before
    ovs("detach", "br0")
    assert configuration(switch) == before
    switch.vsctl("clear", "bridge", "br0", protocol)
