"""The attributes of a flow in OpenTelemetry's logs, in the words of the Collector's NetFlow receiver.

Semantic conventions name the ends and the protocols (`source.address`,
`network.transport`); for all else that receiver has set the names `flow.…`,
most of them after the fields of goflow2, from which it takes them.
"""

from __future__ import annotations

from flowagent.batch import Batch
from flowagent.export.encode import canonical
from flowagent.export.goflow2 import FIELDS, PROTOCOLS
from flowagent.export.origins import NOT_NEGATIVE, NOT_ZERO, Origin, column, weighted
from flowagent.export.value import Value

_NAMES = {
    "src_addr": "source.address", "src_port": "source.port",
    "dst_addr": "destination.address", "dst_port": "destination.port",
    "proto": "network.transport", "etype": "network.type",
    "bytes": "flow.io.bytes", "packets": "flow.io.packets",
    "time_flow_start_ns": "flow.start", "time_flow_end_ns": "flow.end", "time_received_ns": "flow.time_received",
}  # fmt: skip
FLOW_TYPES = ("unknown", "sflow_5", "netflow_v5", "netflow_v9", "ipfix")
NETWORK_TYPES = {0x0800: "ipv4", 0x0806: "arp", 0x86DD: "ipv6", 0x8847: "mpls", 0x88CC: "lldp"}
"""Ethernet types that have a name; others are `unknown`."""
_LAST_NAMED = PROTOCOLS.index("NSH")
TRANSPORTS = tuple(name.lower() if number <= _LAST_NAMED else "unknown" for number, name in enumerate(PROTOCOLS))


def _origins() -> dict[str, Origin]:
    found = {_NAMES.get(field.name, f"flow.{field.name}"): field.origin for field in FIELDS}
    found["flow.type"] = found["flow.type"].labelled(FLOW_TYPES.__getitem__)
    found["network.type"] = found["network.type"].labelled(lambda number: NETWORK_TYPES.get(number, "unknown"))
    found["network.transport"] = found["network.transport"].labelled(TRANSPORTS.__getitem__)
    found["flow.mpls_label"] = column("mpls_label")
    found["flow.records"] = weighted("records")
    return found


ORIGINS: dict[str, Origin] = _origins()
"""Where the attributes with names of their own come from."""
_USED = frozenset(name for origin in ORIGINS.values() for name in origin.columns)
TIME = column("end_ns").when(NOT_NEGATIVE).when(NOT_ZERO)
"""A record's time."""
OBSERVED = column("received_ns").when(NOT_NEGATIVE).when(NOT_ZERO)


def attributes(batch: Batch) -> dict[str, Value]:
    """All that is known of any row: attributes with names of their own, and other columns as `flow.` and their name."""
    values = ((name, origin.read(batch)) for name, origin in ORIGINS.items())
    found = {name: value for name, value in values if value is not None}
    for name, value in canonical(batch.select(name for name in batch.columns if name not in _USED)).items():
        found.setdefault(f"flow.{name}", value)
    return {name: value for name, value in found.items() if value.known is None or bool(value.known.any())}
