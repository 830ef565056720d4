"""IPFIX as the bridge exporter of Open vSwitch 3.1 sends it: every packet seen on its way in and on its way out.

88 templates, one for each combination of layer 2, layer 3, layer 4, tunnel
and direction, and one for its own statistics. One data record a message,
times as microseconds before the header's second, names of variable length,
and among the flow's counters the running totals of the whole exporter.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowagent.generate.ring import Counts, Export, Header, Ring, Totals, messages_ring
from flowagent.generate.traffic import ICMP, TCP, UDP, Columns, Traffic
from flowagent.generate.wire import HEADER_IPFIX, ipfix_message, write_columns

if TYPE_CHECKING:
    from flowagent.batch import Array
    from flowagent.generate.settings import Settings

HEADER = Header(HEADER_IPFIX.dtype, step_ms=1000, ahead=1)  # rounds up to whole seconds
NICIRA = 6876
"""Enterprise number of the tunnel elements."""
VARIABLE = 65535
STATISTICS_TEMPLATE = 462

_FULL = 1024  # a template message that has reached this length is sent
_VLAN_TAG = 4

# Template ids are 256 plus these for VLAN, layer 3, layer 4, tunnel and egress.
_L2, _L3, _L4, _TUNNEL_STEP, _EGRESS_STEP = 60, 20, 4, 2, 1
_L4_OF = np.zeros(256, np.int64)
_L4_OF[[TCP, UDP, ICMP[4], ICMP[6]]] = 1, 2, 4, 4

Element = tuple[str, int, int]
"""Column, element and length; those of the tunnel are of enterprise NICIRA."""

_COMMON: tuple[Element, ...] = (
    ("observation_point", 138, 4), ("direction", 61, 1), ("src_mac", 56, 6), ("dst_mac", 80, 6),
    ("ether_type", 256, 2), ("ether_length", 240, 1),
    ("in_if", 10, 4), ("in_type", 368, 4), ("in_name", 82, VARIABLE), ("in_description", 83, VARIABLE),
)  # fmt: skip
_EGRESS: tuple[Element, ...] = (
    ("out_if", 14, 4), ("out_type", 369, 4), ("out_name", 82, VARIABLE), ("out_description", 83, VARIABLE),
)  # fmt: skip
_VLAN: tuple[Element, ...] = (("vlan", 58, 2), ("dot1q_vlan", 243, 2), ("dot1q_priority", 244, 1))
_IP: tuple[Element, ...] = (
    ("ip_version", 60, 1), ("ttl", 192, 1), ("protocol", 4, 1), ("dscp", 195, 1), ("precedence", 196, 1), ("tos", 5, 1),
)  # fmt: skip
_IPV4: tuple[Element, ...] = (("src", 8, 4), ("dst", 12, 4))
_IPV6: tuple[Element, ...] = (("src", 27, 16), ("dst", 28, 16), ("flow_label", 31, 4))
_PORTS: tuple[Element, ...] = (("src_port", 7, 2), ("dst_port", 11, 2))
_ICMP4: tuple[Element, ...] = (("icmp_type", 176, 1), ("icmp_code", 177, 1))
_ICMP6: tuple[Element, ...] = (("icmp_type", 178, 1), ("icmp_code", 179, 1))
_TUNNEL: tuple[Element, ...] = (
    ("tunnel_src", 893, 4), ("tunnel_dst", 894, 4), ("tunnel_protocol", 895, 1), ("tunnel_src_port", 896, 2),
    ("tunnel_dst_port", 897, 2), ("tunnel_type", 891, 1), ("tunnel_key", 892, VARIABLE),
)  # fmt: skip
_COUNTERS: tuple[Element, ...] = (
    ("start_ago_us", 158, 4), ("end_ago_us", 159, 4), ("dropped_packets", 133, 8), ("dropped_packets_total", 135, 8),
    ("packets", 2, 8), ("packets_total", 86, 8), ("in_unicast_total", 354, 8), ("in_multicast_total", 355, 8),
    ("in_broadcast_total", 356, 8), ("out_unicast_total", 357, 8), ("out_broadcast_total", 358, 8),
    ("multicast_packets", 19, 8), ("multicast_packets_total", 174, 8), ("l2_bytes", 352, 8),
    ("l2_bytes_total", 353, 8), ("end_reason", 136, 1),
)  # fmt: skip
_IP_COUNTERS: tuple[Element, ...] = (
    ("dropped_bytes", 132, 8), ("dropped_bytes_total", 134, 8), ("bytes", 1, 8), ("bytes_total", 85, 8),
    ("bytes_squared", 198, 8), ("bytes_squared_total", 199, 8), ("min_length", 25, 8), ("max_length", 26, 8),
    ("multicast_bytes", 20, 8), ("multicast_bytes_total", 175, 8),
)  # fmt: skip
_TCP_COUNTERS: tuple[Element, ...] = (
    ("ack_total", 222, 8), ("fin_total", 219, 8), ("psh_total", 221, 8), ("rst_total", 220, 8),
    ("syn_total", 218, 8), ("urg_total", 223, 8),
)  # fmt: skip
_GROWING = (
    "packets_total", "in_unicast_total", "out_unicast_total", "l2_bytes_total", "bytes_total",
    "bytes_squared_total", "ack_total", "fin_total", "psh_total", "rst_total", "syn_total",
)  # fmt: skip
"""The running totals that this traffic moves; nothing is dropped, broadcast or urgent."""


class _Port(NamedTuple):
    name: str
    ifindex: int  # a tunnel port has none


_PORTS_OF_BRIDGE = (
    _Port("eth0", 2), _Port("trunk0", 3), _Port("vx0", 0),
    _Port("tap3f61a0c2-1b", 4), _Port("tap9c04d77e-52", 5), _Port("veth41", 6), _Port("access100", 7),
)  # fmt: skip
_UPLINK, _TRUNK, _OVERLAY = 0, 1, 2
_HOST_PORTS = np.array([3, 4, 5, 6])
_ACCESS = 6
_CONSTANTS: dict[str, int | bytes] = {
    "observation_point": 1, "vlan": 100, "dot1q_vlan": 100, "end_reason": 2,
    "tunnel_src": 0xAC14FFFE, "tunnel_dst": 0xAC14FFFD, "tunnel_protocol": UDP, "tunnel_src_port": 51201,
    "tunnel_dst_port": 4789, "tunnel_type": 1, "tunnel_key": b"\x00\x13\x89", "tunnel_key_length": 3,
}  # fmt: skip
"""A VLAN and a VXLAN tunnel with its 3-byte network identifier; flows end by the active timeout."""


def export(settings: Settings, rng: np.random.Generator, boot_ms: int) -> Export:
    """Each flow as an ingress record and, next to it, an egress record; the sequence number starts at 1."""
    records = _records(_flows(settings, rng))
    data, length, positions = _datagrams(records, settings.observation_domain)
    totals = _totals(records, positions)
    totals.stamp(data, slice(0, len(data)), 0)
    one = np.ones(len(data), np.int64)
    ring = Ring(
        data, length, HEADER, Counts(one, records["packets"], records["bytes"], one), boot_ms=boot_ms, totals=totals
    )
    messages = template_messages(settings.observation_domain)
    units = [0] * (len(messages) - 1) + [1]
    return Export(ring, messages_ring(messages, units, HEADER, boot_ms=boot_ms), 1)


def template_id(vlan: Array, l3: Array, l4: Array, tunnel: Array, egress: Array) -> Array:
    """Return template ids (n,) int64 for VLAN (0, 1), layer 3 (0 to 2), layer 4 (0 to 4), tunnel and egress (0, 1)."""
    steps = np.array([_L2, _L3, _L4, _TUNNEL_STEP, _EGRESS_STEP])
    ids: Array = 256 + steps @ np.stack([vlan, l3, l4, tunnel, egress])
    return ids


def templates() -> dict[int, tuple[Element, ...]]:
    """List all 88 by id, in the order in which they are sent."""
    found = {}
    layers = [(0, 0), *itertools.product((1, 2), range(5))]  # without layer 3 there is no layer 4
    for vlan, (l3, l4), tunnel, egress in itertools.product((0, 1), layers, (0, 1), (0, 1)):
        l4_elements = ((), _PORTS, _PORTS, _PORTS, _ICMP4 if l3 == 1 else _ICMP6)[l4]
        parts = [_COMMON, _EGRESS * egress, _VLAN * vlan]
        if l3:
            parts += [_IP, _IPV4 if l3 == 1 else _IPV6, l4_elements]
        parts += [_TUNNEL * tunnel, _COUNTERS, _IP_COUNTERS * (l3 > 0), _TCP_COUNTERS * (l4 == 1)]
        number = int(template_id(*np.array([vlan, l3, l4, tunnel, egress])))
        found[number] = tuple(itertools.chain.from_iterable(parts))
    return found


def template_messages(domain: int) -> list[bytes]:
    """Make the messages of a template refresh: 18 with templates; in domain 0 one more, and statistics."""
    messages, pending = [], b""
    for number, elements in templates().items():
        pending += struct.pack(">HH", number, len(elements)) + b"".join(map(_specifier, elements))
        if 20 + len(pending) >= _FULL:
            messages.append(pending)
            pending = b""
    if pending:
        messages.append(pending)
    framed = [ipfix_message(struct.pack(">HH", 2, 4 + len(m)) + m, domain) for m in messages]
    # 144: exporting process; 167: packets that it did not send
    options = struct.pack(">HHHHHHHHH", 3, 18, STATISTICS_TEMPLATE, 2, 1, 144, 4, 167, 8)
    statistics = struct.pack(">HHIQ", STATISTICS_TEMPLATE, 16, 1, 0)
    return [*framed, ipfix_message(options, 0), ipfix_message(statistics, 0)]


def _specifier(element: Element) -> bytes:
    _, number, size = element
    if element in _TUNNEL:
        return struct.pack(">HHI", number | 0x8000, size, NICIRA)
    return struct.pack(">HH", number, size)


def _flows(settings: Settings, rng: np.random.Generator) -> Columns:
    """Half as many flows as datagrams, both IP versions mixed, and where they go through the bridge.

    Columns of `Traffic.draw` and in_port, out_port, l3, l4 (n,) int64: indices
    of ports and template layers.
    """
    count = (settings.ring + 1) // 2
    six = round(count * settings.ipv6_share)
    draws = [
        Traffic(rng, max(1, round(settings.keys * flows / count)), settings.zipf, version).draw(flows)
        for version, flows in ((4, count - six), (6, six))
        if flows
    ]
    order = rng.permutation(count)
    flows = {name: np.concatenate([draw[name] for draw in draws])[order] for name in draws[0]}
    outbound = flows["outbound"]
    near_if = np.where(outbound, flows["in_if"], flows["out_if"])
    host = _HOST_PORTS[near_if % len(_HOST_PORTS)]
    uplink = np.where(host == _ACCESS, _TRUNK, _UPLINK)
    # What leaves through a tunnel port gets no egress record, so all that the overlay does here is to send.
    overlay = (near_if % 5 == 0) & (host != _ACCESS)
    return flows | {
        "in_port": np.where(overlay, _OVERLAY, np.where(outbound, host, uplink)),
        "out_port": np.where(overlay | ~outbound, host, uplink),
        "l3": np.where(flows["ip_version"] == 4, 1, 2),
        "l4": _L4_OF[flows["protocol"]],
        "flow_label": rng.integers(1, 1 << 20, count),
    }


def _records(flows: Columns) -> Columns:
    """Two rows a flow, ingress and egress: the columns that templates name, and `template` (n,) int64."""
    rows = {name: np.repeat(column, 2, axis=0) for name, column in flows.items()}
    packets, octets, tos = rows["packets"], rows["bytes"], rows["tos"]
    direction = np.arange(len(packets)) % 2
    in_port, out_port = rows["in_port"], rows["out_port"]
    tagged = np.where(direction, out_port, in_port) == _TRUNK
    ether_length = 14 + _VLAN_TAG * tagged
    tunnelled = (in_port == _OVERLAY) & (direction == 0)
    rows |= {
        "template": template_id(tagged, rows["l3"], rows["l4"], tunnelled, direction),
        "direction": direction,
        "src_mac": _mac(rows["src"]),
        "dst_mac": _mac(rows["dst"]),
        "ether_type": np.where(rows["ip_version"] == 4, 0x0800, 0x86DD),
        "ether_length": ether_length,
        "ttl": np.where(rows["outbound"], 64, 57),
        "dscp": tos >> 2,
        "precedence": tos >> 5,
        "icmp_type": rows["dst_port"] >> 8,
        "icmp_code": rows["dst_port"] & 0xFF,
        # The header is a second ahead of the instant that flow times count from.
        "start_ago_us": (rows["start_ago"] + 1000) * 1000,
        "end_ago_us": (rows["end_ago"] + 1000) * 1000,
        "l2_bytes": octets + ether_length * packets,
    }
    for side, port in (("in", in_port), ("out", out_port)):
        rows[f"{side}_if"] = np.array([p.ifindex for p in _PORTS_OF_BRIDGE])[port]
        rows[f"{side}_name"] = np.array([p.name.encode() for p in _PORTS_OF_BRIDGE])[port]
        rows[f"{side}_name_length"] = np.array([len(p.name) for p in _PORTS_OF_BRIDGE])[port]
    # Packets as equal as they can be: some one byte longer than the others.
    short, longer = np.divmod(octets, packets)
    rows["min_length"], rows["max_length"] = short, short + (longer > 0)
    rows["bytes_squared"] = (packets - longer) * short**2 + longer * (short + 1) ** 2
    return rows | {name: np.full(len(packets), value) for name, value in _CONSTANTS.items()} | _running(rows)


def _running(rows: Columns) -> Columns:
    """Make the columns _GROWING: what the exporter has counted up to and including each record."""
    packets, flags = rows["packets"], np.where(rows["protocol"] == TCP, rows["tcp_flags"], 0)
    counted = {
        "packets_total": packets,
        "in_unicast_total": np.where(rows["direction"], 0, packets),
        "out_unicast_total": np.where(rows["direction"], packets, 0),
        "l2_bytes_total": rows["l2_bytes"],
        "bytes_total": rows["bytes"],
        "bytes_squared_total": rows["bytes_squared"],
        "fin_total": flags & 1,
        "syn_total": flags >> 1 & 1,
        "rst_total": flags >> 2 & 1,
        "psh_total": (flags >> 3 & 1) * (packets + 1) // 2,
        "ack_total": (flags >> 4 & 1) * packets,
    }
    return {name: np.cumsum(column) for name, column in counted.items()}


def _mac(addresses: Array) -> Array:
    """Make locally administered MAC addresses (n, 6) uint8 that end like the IP addresses."""
    mac = np.zeros((len(addresses), 6), np.uint8)
    mac[:, 0], mac[:, 2:] = 2, addresses[:, 12:]
    return mac


def _datagrams(records: Columns, domain: int) -> tuple[Array, Array, Array]:
    """Make messages of one record each: their memory (n, width) uint8, lengths (n,) int64, and positions of totals.

    These are (n, g) int64: where in that memory the totals _GROWING of each message are; -1: it has none.
    """
    known = templates()
    layout = np.stack([records["template"], records["in_name_length"], records["out_name_length"]], 1)
    layout[:, 2] *= records["direction"]
    layouts, which = np.unique(layout, axis=0, return_inverse=True)
    dtypes = [_message_dtype(known[number], *lengths) for number, *lengths in layouts.tolist()]
    which = which.reshape(-1)
    length = np.array([dtype.itemsize for dtype in dtypes])[which]
    width = int(length.max())
    data = np.zeros((len(which), width), np.uint8)
    positions = np.full((len(which), len(_GROWING)), -1)
    for i, dtype in enumerate(dtypes):
        rows, fields = np.flatnonzero(which == i), dict(dtype.fields or {})
        messages = np.zeros(len(rows), dtype)
        messages["version"], messages["length"], messages["domain"] = 10, dtype.itemsize, domain
        messages["set_id"], messages["set_length"] = layouts[i, 0], dtype.itemsize - HEADER.dtype.itemsize
        write_columns(messages, {name: records[name][rows] for name in fields if name in records})
        data[rows, : dtype.itemsize] = messages.view(np.uint8).reshape(len(rows), -1)
        for j, name in enumerate(_GROWING):
            if name in fields:
                positions[rows, j] = rows * width + fields[name][1]
    return data, length, positions


def _totals(records: Columns, positions: Array) -> Totals:
    values = np.stack([records[name] for name in _GROWING], 1).astype(np.uint64)
    present = positions >= 0
    first = np.concatenate([[0], np.cumsum(present.sum(1))])
    per_round = np.broadcast_to(values[-1], values.shape)
    return Totals(first, positions[present], values[present], per_round[present])


def _message_dtype(elements: tuple[Element, ...], in_name: int, out_name: int) -> np.dtype[np.void]:
    """Header, set header and record; an element of variable length is its length byte and so many bytes."""
    variable = {"in_name": in_name, "out_name": out_name, "tunnel_key": 3}
    unsigned = {1: "u1", 2: ">u2", 4: ">u4", 8: ">u8"}
    fields: list[Any] = [*HEADER.dtype.descr, ("set_id", ">u2"), ("set_length", ">u2")]
    for name, _, size in elements:
        if size == VARIABLE:
            fields.append((f"{name}_length", "u1"))
            if name in variable:
                fields.append((name, f"S{variable[name]}"))
        elif name in ("src", "dst") or size not in unsigned:
            fields.append((name, "u1", size))
        else:
            fields.append((name, unsigned[size]))
    return np.dtype(fields)
