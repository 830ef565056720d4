"""What to generate, and for whom."""

from __future__ import annotations

import re
from typing import Literal, get_args

import msgspec

from flowagent.errors import ConfigError

Protocol = Literal["netflow5", "netflow9", "ipfix", "ovs", "sflow5"]
"""`ovs` is IPFIX as the bridge exporter of Open vSwitch 3.1 speaks it."""

MAX_KEYS = 1_000_000
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>\d{1,5})")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One exporter: the traffic that it sees and how it tells of it; raises ConfigError for what cannot be."""

    target: str = "127.0.0.1:2055"
    """Where the datagrams go: `host:port`, an IPv6 address in brackets."""
    protocol: Protocol = "ipfix"
    rate: float = 1000
    """Flow records per second; 0 sends as fast as it goes."""
    keys: int = 10_000
    """Distinct 5-tuples."""
    zipf: float = 1.1
    """Exponent of their popularity: the r-th is drawn with a probability proportional to r**-zipf; 0 is uniform."""
    ipv6_share: float = 0.2
    """Share of IPv6 records, rounded to whole records of a datagram; netflow5 knows none and ignores it."""
    seed: int = 1
    """Equal settings give equal traffic."""
    observation_domain: int = 1
    """IPFIX observation domain, NetFlow v9 source id, NetFlow v5 engine type and id (two bytes), sFlow sub-agent."""
    sampling_rate: int = 1
    """One packet in how many the exporter says that it looked at; above 1 it is announced. Counters do not change."""
    template_interval: float | None = None
    """Seconds between repetitions of the templates; default: 600 for ovs as in Open vSwitch, else 20."""
    ring: int = 4096
    """Datagrams that are made beforehand and sent round and round with new times and sequence numbers."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        self.address()
        if self.protocol not in get_args(Protocol):
            known = ", ".join(get_args(Protocol))
            raise ConfigError("protocol", f"{self.protocol!r} is not a protocol to generate; one of: {known}")
        self._check_range("rate", 0, 1e9)
        self._check_range("keys", 1, MAX_KEYS)
        self._check_range("zipf", 0, 10)
        self._check_range("ipv6_share", 0, 1)
        self._check_range("seed", 0, 2**64 - 1)
        self._check_range("observation_domain", 0, 0xFFFF if self.protocol == "netflow5" else 0xFFFF_FFFF)
        self._check_range("sampling_rate", 1, 0x3FFF if self.protocol == "netflow5" else 0xFFFF_FFFF)
        if self.protocol == "ovs" and self.sampling_rate != 1:
            problem = "Open vSwitch never announces its sampling; leave it at 1"
            raise ConfigError("sampling_rate", f"{self.sampling_rate} cannot be sent: {problem}")
        if self.template_interval is not None:
            self._check_range("template_interval", 0.1, 86400)
        self._check_range("ring", 1, 1_000_000)

    def address(self) -> tuple[str, int]:
        """Host and port of the target."""
        match = _ADDRESS.fullmatch(self.target)
        port = int(match["port"]) if match else 0
        if not match or not 1 <= port <= 65535:
            raise ConfigError("target", f"{self.target!r} is no address; write it as 127.0.0.1:2055 or [::1]:4739")
        return match["v6"] or match["host"], port

    def _check_range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:  # NaN is refused, too
            raise ConfigError(
                name, f"{value!r} is out of range; choose from {low:g} to {high:.15g} for {self.protocol}"
            )
