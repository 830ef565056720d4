"""Network namespaces: places for traffic that nobody else sees."""

import itertools
import os
import socket
import subprocess

import pyroute2

_number = itertools.count()
_OFFLOADS = ("tx", "rx", "tso", "gso", "gro")


class Netns:
    """One namespace with its loopback up; ends with `delete`, and with it what was started in it."""

    def __init__(self) -> None:
        self.name = f"flowagent-{os.getpid()}-{next(_number)}"
        self._started: list[subprocess.Popen] = []
        _run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *command: object) -> list[str]:
        """The command, made to run inside; the process stays the same one."""
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    def run(self, *command: object, **options) -> str:
        """Run a command inside; its output."""
        return _run(*self.command(*command), **options)

    def start(self, *command: object, **options) -> subprocess.Popen:
        """Start a command inside and leave it running."""
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
        self._started.append(subprocess.Popen(self.command(*command), stdin=subprocess.DEVNULL, **options))
        return self._started[-1]

    def datagram_socket(self, address: str, port: int) -> socket.socket:
        """A UDP socket of this process that is bound inside; it never blocks."""
        sock = pyroute2.netns.create_socket(self.name, socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, port))
        sock.setblocking(False)
        return sock

    def connect(self, other: "Netns", mine: str, theirs: str) -> None:
        """Lay a cable: interfaces of these names, up, without offloads, so that counted packets are real packets."""
        _run("ip", "link", "add", mine, "netns", self.name, "type", "veth", "peer", "name", theirs, "netns", other.name)
        for namespace, interface in ((self, mine), (other, theirs)):
            namespace.run("ip", "link", "set", interface, "up", "addrgenmode", "none")
            namespace.run("ethtool", "-K", interface, *(word for f in _OFFLOADS for word in (f, "off")))

    def delete(self) -> None:
        """End what runs inside, then the namespace."""
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _run("ip", "netns", "del", self.name)


def _run(*command: str, timeout: float = 30, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, " ".join(command), done.stdout, done.stderr)
    return done.stdout
