"""Packets: invented ones, and what a capture of real ones holds."""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from live.agent import TCP, UDP, Flow, Sums
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet import TCP as TcpLayer
from scapy.layers.inet import UDP as UdpLayer
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapReader
