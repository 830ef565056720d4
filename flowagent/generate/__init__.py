"""Flow exports of invented traffic: what `flowagent generate` sends, and what the demo and the benchmarks feed on.

An `Exporter` makes a ring of datagrams once and sends it round and round with
present times and continuing sequence numbers; `Sent` says exactly what it sent.
"""

from flowagent.generate.exporter import Exporter, Sent
from flowagent.generate.resend import Captured, Resender
from flowagent.generate.settings import PORTS, Settings

__all__ = ["PORTS", "Captured", "Exporter", "Resender", "Sent", "Settings"]
