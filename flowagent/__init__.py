"""flowagent: a per-node agent for flow records (IPFIX and NetFlow)."""

from flowagent.cpu import tune

__version__ = "0.1.0"

tune()
