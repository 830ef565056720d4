"""flowagent: a per-node agent for flow records (IPFIX, NetFlow, sFlow)."""

__version__ = "0.1.0"
