"""flowagent: a per-node agent for flow records (IPFIX, NetFlow, sFlow)."""

from flowagent.cpu import tune

__version__ = "0.1.0"

tune()
