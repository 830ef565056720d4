"""Open vSwitch with its userspace datapath in a network namespace, and two hosts on its bridge."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from live.netns import Netns
from live.polling import until
from scapy.utils import RawPcapReader

ADDRESSES = ("10.77.0.1", "10.77.0.2")
_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class OpenVSwitch:
    """A bridge `br0` with the hosts' ports `p1` and `p2`; it exports to the loopback of its own namespace `netns`."""

    def __init__(self, directory: Path, make_netns: Callable[[], Netns]) -> None:
        self.directory = directory
        self.netns, *self.hosts = (make_netns() for _ in range(3))
        for number, host in enumerate(self.hosts, 1):
            self.netns.connect(host, f"p{number}", "eth0")
            host.run("ip", "link", "set", "eth0", "address", f"02:77:00:00:00:0{number}")
            host.run("ip", "address", "add", f"{ADDRESSES[number - 1]}/24", "dev", "eth0")
        self._start()
        self.vsctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        self.vsctl("add-port", "br0", "p1", "--", "add-port", "br0", "p2")

    def _start(self) -> None:
        database, socket = self.directory / "conf.db", self.directory / "db.sock"
        files = {"OVS_RUNDIR": self.directory, "OVS_LOGDIR": self.directory, "OVS_DBDIR": self.directory}
        environment = os.environ | {name: str(path) for name, path in files.items()}
        subprocess.run(["ovsdb-tool", "create", database, _SCHEMA], check=True, timeout=30)
        self.netns.start("ovsdb-server", database, f"--remote=punix:{socket}", env=environment)
        until(socket.exists, "ovsdb-server listens")
        self.vsctl("init", wait=False)
        # Flows that nobody uses go soon: NetFlow reports a flow when it ends.
        self.vsctl(
            "set", "Open_vSwitch", ".", "other_config:max-idle=500", "other_config:max-revalidator=100", wait=False
        )
        self.netns.start("ovs-vswitchd", f"unix:{socket}", "--disable-system", env=environment)

    def vsctl(self, *command: str, wait: bool = True) -> str:
        """Change the switch's configuration; by default until that is in effect."""
        options = ["--timeout=15", f"--db=unix:{self.directory / 'db.sock'}", *([] if wait else ["--no-wait"])]
        return self.netns.run("ovs-vsctl", *options, *command)

    def export(self, table: str, port: int, **settings: str | int) -> None:
        """Let the bridge export by `NetFlow` or `IPFIX` and nothing else; a new exporter sends its templates first."""
        self.vsctl("clear", "bridge", "br0", "netflow", "ipfix")
        columns = [f"{name}={value}" for name, value in settings.items()]
        row = ["--id=@exporter", "create", table, f'targets="127.0.0.1:{port}"', *columns]
        self.vsctl("--", "set", "bridge", "br0", f"{table.lower()}=@exporter", "--", *row)

    @contextlib.contextmanager
    def watch(self) -> Iterator[list[Path]]:
        """Capture what comes into the bridge; the files are complete at the end."""
        ports = [f"p{number}" for number in range(1, 1 + len(self.hosts))]
        captures = [self.directory / f"{port}.pcap" for port in ports]
        tcpdumps = []
        for port, capture in zip(ports, captures, strict=True):
            command = ["tcpdump", "--immediate-mode", "-i", port, "-Q", "in", "-U", "-Z", "root", "-w", capture]
            tcpdumps.append(self.netns.start(*command, stderr=subprocess.PIPE))
            tcpdumps[-1].stderr.readline()  # says that it listens
        before = self._received(ports)
        yield captures
        until(lambda: before + _packets(captures) == self._received(ports), "tcpdump has what the ports counted")
        for tcpdump in tcpdumps:
            tcpdump.terminate()
            tcpdump.communicate(timeout=10)

    def _received(self, ports: list[str]) -> int:
        """Packets that came in by these ports since they were made."""
        counters = [f"/sys/class/net/{port}/statistics/rx_packets" for port in ports]
        return sum(map(int, self.netns.run("cat", *counters).split()))


def _packets(captures: list[Path]) -> int:
    count = 0
    for capture in captures:
        with RawPcapReader(str(capture)) as reader:
            count += sum(1 for _ in reader)
    return count
