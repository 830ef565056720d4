"""The traffic that a synthetic exporter sees: conversations of a site with the world, a few of them with most bytes.

Columns are NumPy arrays with one row a key or a flow. Addresses are (n, 16)
uint8; an IPv4 address is in the last four bytes. Everything follows from the
generator passed in.
"""

from __future__ import annotations

import ipaddress

import numpy as np

from flowagent.batch import Array

Columns = dict[str, Array]

TCP, UDP = 6, 17
ICMP = {4: 1, 6: 58}
SYN_ONLY = 0x02
UPLINKS = (47, 48)
"""Interfaces towards the remote side; hosts of the site are behind 1 to 40."""

_LARGEST = 4_000_000_000  # NetFlow v5 has 32-bit counters
_ECHO = {4: (0x0800, 0x0000), 6: (0x8000, 0x8100)}  # type and code of request and reply

# (protocol, port of the server, weight); protocol 0 stands for ICMP echo.
_SERVICES = (
    (TCP, 443, 34), (TCP, 80, 12), (TCP, 8080, 6), (TCP, 5432, 6), (TCP, 6379, 4), (TCP, 9092, 4), (TCP, 6443, 4),
    (TCP, 22, 2), (TCP, 3306, 2), (TCP, 25, 1), (UDP, 53, 12), (UDP, 443, 6), (UDP, 123, 2), (0, 0, 5),
)  # fmt: skip

# (network, AS number); the last two bytes of an address are the host's.
_SITE = {
    4: (("10.244.0.0/16", 64512), ("192.168.0.0/16", 64513), ("172.20.0.0/16", 64514)),
    6: (("fd00:10:244::/64", 64512), ("fd00:192:168::/64", 64513), ("fd00:172:20::/64", 64514)),
}
_WORLD = {
    4: (
        ("10.96.0.0/16", 64512), ("104.16.0.0/13", 13335), ("142.250.0.0/15", 15169), ("172.21.0.0/16", 64514),
        ("52.84.0.0/15", 16509), ("20.33.0.0/16", 8075), ("10.100.0.0/16", 64520), ("151.101.0.0/16", 54113),
        ("157.240.0.0/16", 32934), ("88.198.0.0/16", 24940), ("51.68.0.0/16", 16276), ("23.32.0.0/11", 20940),
    ),
    6: (
        ("fd00:10:96::/64", 64512), ("2606:4700::/32", 13335), ("2a00:1450::/32", 15169), ("2600:9000::/28", 16509),
        ("2620:1ec::/36", 8075), ("fd00:10:100::/64", 64520), ("2a04:4e42::/32", 54113), ("2a03:2880::/32", 32934),
        ("2a01:4f8::/32", 24940), ("2001:41d0::/32", 16276),
    ),
}  # fmt: skip
_GATEWAY = {4: (("192.168.255.0/24", 0),), 6: (("fe80::/64", 0),)}


class Traffic:
    """`count` distinct 5-tuples of one IP version (4 or 6), the most popular first, and the flows drawn from them.

    `keys` has per 5-tuple: src, dst, next_hop (k, 16) uint8; src_port,
    dst_port, protocol, tos, in_if, out_if, src_as, dst_as, src_mask, dst_mask,
    ip_version (k,) int64; mean_size (k,) int64, bytes of a full packet;
    outbound (k,) bool, True where the site's host is the source.
    """

    def __init__(self, rng: np.random.Generator, count: int, zipf: float, version: int) -> None:
        self._rng = rng
        self.keys = _keys(rng, count, version)
        self._cumulated = np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -zipf)

    def draw(self, count: int) -> Columns:
        """Draw `count` flows: a row of `keys` each, and more columns.

        key (n,) intp; packets, bytes, tcp_flags (n,) int64; end_ago,
        start_ago (n,) int64, milliseconds before the export.
        """
        rng = self._rng
        key = np.searchsorted(self._cumulated, rng.random(count) * self._cumulated[-1], "right")
        np.minimum(key, len(self._cumulated) - 1, out=key)
        flows = {name: column[key] for name, column in self.keys.items()}
        heavy = rng.random(count) < 0.02
        size = np.where(heavy, 1e5 * (1 + rng.pareto(1.2, count)), rng.lognormal(np.log(1500), 1.5, count))
        octets = np.clip(size, 64, _LARGEST).astype(np.int64)
        packets = -(-octets // flows["mean_size"])
        flags = rng.choice(np.array([0x1B, 0x1A, 0x18, 0x14]), count, p=[0.7, 0.1, 0.15, 0.05])
        flags[(packets <= 3) & (rng.random(count) < 0.1)] = SYN_ONLY
        end_ago = rng.integers(0, 1000, count)
        duration = np.minimum(rng.lognormal(np.log(300), 1.5, count), 60_000).astype(np.int64)
        return flows | {
            "key": key,
            "packets": packets,
            "bytes": octets,
            "tcp_flags": np.where(flows["protocol"] == TCP, flags, 0),
            "end_ago": end_ago,
            "start_ago": end_ago + np.where(packets > 1, duration, 0),
        }


def _keys(rng: np.random.Generator, count: int, version: int) -> Columns:
    """Distinct by construction: the i-th conversation has its own pair of site host and turn of that host.

    With ports the turn gives the client port, without (ICMP) the remote host.
    """
    i = rng.permutation(count)
    site_hosts = max(16, count // 8)
    turn, near = np.divmod(i, site_hosts)
    services = np.array(_SERVICES)
    weight = services[:, 2] / services[:, 2].sum()
    protocol, server_port, _ = services[rng.choice(len(services), count, p=weight)].T
    echo = protocol == 0
    far = np.where(echo, turn, rng.integers(0, max(16, count // 4), count))
    client_port = 32768 + (near * 31 + turn * 397) % 28_000
    request, reply = _ECHO[version]
    outbound = rng.random(count) < 0.5
    near_address, near_as, near_mask = _hosts(near, _SITE[version])
    far_address, far_as, far_mask = _hosts(far, _WORLD[version])
    side = outbound[:, None]
    near_if, far_if = 1 + near % 40, np.array(UPLINKS)[far % 2]
    size = np.where(outbound, rng.integers(128, 700, count), rng.integers(400, 1461, count))
    return {
        "src": np.where(side, near_address, far_address),
        "dst": np.where(side, far_address, near_address),
        "next_hop": _hosts(far % 2, _GATEWAY[version])[0],
        "src_port": np.where(echo, 0, np.where(outbound, client_port, server_port)),
        "dst_port": np.where(echo, np.where(outbound, request, reply), np.where(outbound, server_port, client_port)),
        "protocol": np.where(echo, ICMP[version], protocol),
        "tos": np.where(rng.random(count) < 0.1, 0xB8, 0),
        "in_if": np.where(outbound, near_if, far_if),
        "out_if": np.where(outbound, far_if, near_if),
        "src_as": np.where(outbound, near_as, far_as),
        "dst_as": np.where(outbound, far_as, near_as),
        "src_mask": np.where(outbound, near_mask, far_mask),
        "dst_mask": np.where(outbound, far_mask, near_mask),
        "ip_version": np.full(count, version),
        "mean_size": size,
        "outbound": outbound,
    }


def _hosts(number: Array, networks: tuple[tuple[str, int], ...]) -> tuple[Array, Array, Array]:
    """Address (n, 16), AS number and prefix length of hosts 0, 1, ...; different up to 65536 in each network."""
    parsed = [(ipaddress.ip_network(prefix), number_of_as) for prefix, number_of_as in networks]
    prefixes = np.stack(
        [np.frombuffer(network.network_address.packed.rjust(16, b"\0"), np.uint8) for network, _ in parsed]
    )
    turn, which = np.divmod(number, len(parsed))
    addresses = prefixes[which]
    host = (turn * 40_503 + 1) & 0xFFFF  # an odd factor: hosts are scattered and stay distinct
    addresses[:, 14], addresses[:, 15] = host >> 8, host & 0xFF
    asn = np.array([number_of_as for _, number_of_as in parsed])
    mask = np.array([network.prefixlen for network, _ in parsed])
    return addresses, asn[which], mask[which]
