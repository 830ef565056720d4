"""Open vSwitch with its userspace datapath in a network namespace, hosts on its bridges; and its database alone."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from live.netns import Netns
from live.polling import until
from scapy.utils import RawPcapReader


def address_of(number: int) -> str:
    """Of the host with this number."""
    return f"10.77.0.{number}"


def mac_of(number: int) -> str:
    """The same of its interface."""
    return f"02:77:00:00:00:0{number}"


ADDRESSES = (address_of(1), address_of(2))
_TUNNEL_ENDS = ("172.31.77.1", "172.31.77.2")
_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class OpenVSwitch:
    """A bridge `br0` with a port `p1` to host 1 and so on; it exports to the loopback of its own namespace `netns`."""

    def __init__(self, directory: Path, make_netns: Callable[[], Netns], numbers: Sequence[int] = (1, 2)) -> None:
        self.directory = directory
        self.netns, *self.hosts = (make_netns() for _ in range(1 + len(numbers)))
        self._ports = [f"p{number}" for number in numbers]
        for number, port, host in zip(numbers, self._ports, self.hosts, strict=True):
            self.netns.connect(host, port, "eth0")
            host.run("ip", "link", "set", "eth0", "address", mac_of(number))
            host.run("ip", "address", "add", f"{address_of(number)}/24", "dev", "eth0")
        self._start()
        self.add_bridge("br0", *self._ports)

    @property
    def db(self) -> str:
        """Where the database is."""
        return f"unix:{self.directory / 'db.sock'}"

    def add_bridge(self, name: str, *ports: str) -> None:
        """Another bridge, with these ports."""
        words = [word for port in ports for word in ("--", "--may-exist", "add-port", name, port)]
        self.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", *words)

    def join(self, other: "OpenVSwitch") -> None:
        """Lay a cable for tunnels to another switch."""
        self.netns.connect(other.netns, "wire", "wire")
        for switch, address in ((self, _TUNNEL_ENDS[0]), (other, _TUNNEL_ENDS[1])):
            switch.add_bridge("br-ext", "wire")
            switch.netns.run("ip", "address", "add", f"{address}/24", "dev", "br-ext")
            switch.netns.run("ip", "link", "set", "br-ext", "up")

    def add_tunnel(self, kind: str, mine: str, other: "OpenVSwitch", theirs: str) -> None:
        """A tunnel (vxlan, geneve) between bridges of two switches that are joined."""
        for switch, bridge, here, there in ((self, mine, *_TUNNEL_ENDS), (other, theirs, *_TUNNEL_ENDS[::-1])):
            options = (f"options:local_ip={here}", f"options:remote_ip={there}", "options:key=77")
            switch.vsctl("add-port", bridge, kind, "--", "set", "interface", kind, f"type={kind}", *options)

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
        options = ["--timeout=15", f"--db={self.db}", *([] if wait else ["--no-wait"])]
        return self.netns.run("ovs-vsctl", *options, *command)

    def export(self, table: str, port: int, **settings: str | int) -> None:
        """Let the bridge export by `NetFlow`, `IPFIX` or `sFlow` only; a new exporter sends its templates first."""
        self.vsctl("clear", "bridge", "br0", "netflow", "ipfix", "sflow")
        columns = [f"{name}={value}" for name, value in settings.items()]
        row = ["--id=@exporter", "create", table, f'targets="127.0.0.1:{port}"', *columns]
        self.vsctl("--", "set", "bridge", "br0", f"{table.lower()}=@exporter", "--", *row)

    @contextlib.contextmanager
    def watch(self) -> Iterator[list[Path]]:
        """Capture what comes into the bridge; the files are complete at the end."""
        ports = self._ports
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


class Database:
    """An ovsdb-server without a switch, which holds the bridges br0 and br1."""

    def __init__(self, directory: Path) -> None:
        self.remote = f"unix:{directory / 'db.sock'}"
        self._directory = directory

    @contextlib.contextmanager
    def running(self) -> Iterator["Database"]:
        _command("ovsdb-tool", "create", self._directory / "conf.db", _SCHEMA)
        command = ["ovsdb-server", "conf.db", "--remote=punix:db.sock", "--unixctl=ctl"]
        environment = os.environ | {"OVS_RUNDIR": str(self._directory)}
        with subprocess.Popen(command, cwd=self._directory, env=environment, stderr=subprocess.DEVNULL) as server:
            until((self._directory / "db.sock").exists, "ovsdb-server listens")
            self.vsctl("init", "--", "add-br", "br0", "--", "add-br", "br1")
            yield self
            server.terminate()

    def vsctl(self, *command: str) -> str:
        return _command("ovs-vsctl", f"--db={self.remote}", "--no-wait", *command)

    def dump(self) -> str:
        """All there is."""
        return _command("ovsdb-client", "dump", self.remote, "Open_vSwitch")

    def rows(self, table: str) -> list[str]:
        """The UUIDs of a table."""
        return self.vsctl("--bare", "--columns=_uuid", "list", table).split()

    def get(self, table: str, column: str) -> str:
        """A value of the only row of a table."""
        [row] = self.rows(table)
        return self.vsctl("get", table, row, column).strip()

    def foreign(self, table: str = "IPFIX", bridges: Sequence[str] = ("br0",), **columns: object) -> None:
        """Let bridges export, as somebody else might have configured them."""
        words = [f"{name}={value}" for name, value in columns.items()]
        sets = [word for b in bridges for word in ("--", "set", "bridge", b, f"{table.lower()}=@x")]
        self.vsctl("--id=@x", "create", table, 'targets="192.0.2.1:9995"', *words, *sets)


def _command(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout


def _packets(captures: list[Path]) -> int:
    count = 0
    for capture in captures:
        with RawPcapReader(str(capture)) as reader:
            count += sum(1 for _ in reader)
    return count
