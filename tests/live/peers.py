"""What others read out of a capture of exports: flowagent, tshark and nfdump."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from live.agent import Sums
from live.generate import Sent
from live.polling import free_port, until
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

PORT = 2055


def write_capture(path: Path, datagrams: Iterable[bytes]) -> None:
    """Datagrams as one exporter would have sent them."""
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2")
    wrpcap(str(path), [frame / UDP(sport=50000, dport=PORT) / datagram for datagram in datagrams])


def flowagent_reads(capture: Path) -> Sent:
    command = [sys.executable, "-m", "flowagent", "replay", "--summary", "--strict", str(capture)]
    everything = json.loads(_output(command))["total"]
    return Sent(everything["records"], Sums(everything["packets"], everything["bytes"]), everything["datagrams"])


def tshark_reads(capture: Path) -> Sent:
    # It refuses templates of more than 60 elements by default.
    options = ["-d", f"udp.port=={PORT},cflow", "-o", "cflow.max_template_fields:0", "-T", "fields"]
    fields = ["-e", "cflow.packets", "-e", "cflow.octets", "-E", "separator=;"]
    lines = [line.split(";") for line in _output(["tshark", "-r", str(capture), *options, *fields]).splitlines()]
    packets, octets = ([int(v) for line in lines for v in line[i].split(",") if v] for i in (0, 1))
    return Sent(len(packets), Sums(sum(packets), sum(octets)), len(lines))


def tshark_reads_sflow(capture: Path) -> Sent:
    """Packets and bytes as sampled, without the 4 bytes of the frame check sequence."""
    fields = ["-T", "fields", "-e", "sflow_245.header.frame_length", "-E", "separator=;"]
    lines = _output(["tshark", "-r", str(capture), "-d", f"udp.port=={PORT},sflow", *fields]).splitlines()
    lengths = [int(value) for line in lines for value in line.split(",") if value]
    return Sent(len(lengths), Sums(len(lengths), sum(lengths) - 4 * len(lengths)), len(lines))


def nfdump_reads(datagrams: Sequence[bytes], directory: Path) -> Sent:
    port = free_port(socket.SOCK_DGRAM)
    directory.mkdir()
    command = ["nfcapd", "-w", directory, "-b", "127.0.0.1", "-p", str(port), "-B", "4000000", "-t", "3600"]
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with (
        subprocess.Popen(command, **quiet) as nfcapd,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter,
    ):
        try:
            until(lambda: _unread(port) is not None, "nfcapd listens")
            for datagram in datagrams:
                exporter.sendto(datagram, ("127.0.0.1", port))
            until(lambda: _unread(port) == 0, "nfcapd has read everything")
        finally:
            nfcapd.terminate()
    summary = dict(re.findall(r"^(\w+): (\d+)$", _output(["nfdump", "-R", str(directory), "-I"]), re.MULTILINE))
    return Sent(int(summary["Flows"]), Sums(int(summary["Packets"]), int(summary["Bytes"])), len(datagrams))


def _unread(port: int) -> int | None:
    """Bytes that wait in a port's receive buffer; None where nobody has the port."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}"):
            return int(fields[4].split(":")[1], 16)
    return None


def _output(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True)
    return done.stdout.decode()
