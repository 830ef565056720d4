"""Upstream sampling: which rate an exporter says, or the user knows, that it samples packets with.

Sources, first match wins: the user's override for the exporter's subnet; a
field of the record itself; an options record for the record's selector, its
input interface, or its whole domain; the NetFlow v5 header. Elements: 34, 50,
305 with 306, 309 with 310, 311 (RFC 5477, section 8; RFC 3954, section 8).
An unknown rate stays unknown.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from typing import Literal

Scope = tuple[Literal["domain", "selector", "interface"], int]
"""What a rate holds for; the number is 0, a selector or sampler id, or an interface index."""

DOMAIN: Scope = ("domain", 0)
SELECTOR_ELEMENTS = ("selectorId", "samplerId")
RATE_ELEMENTS = (
    "samplingInterval", "samplerRandomInterval", "samplingPacketInterval", "samplingPacketSpace",
    "samplingSize", "samplingPopulation", "samplingProbability",
)  # fmt: skip
MAX_RATE = 1e12
"""A rate above this makes no sense, and what is multiplied by it might no longer be a finite number."""
MAX_SCOPES = 1024
"""Selectors and interfaces remembered for one observation domain."""


def rate_of(fields: Mapping[str, float]) -> float | None:
    """One packet in how many was looked at, from whatever elements say it; None where they do not, or make no sense."""
    rate: float | None = None
    if fields.get("samplingInterval"):
        rate = fields["samplingInterval"]
    elif fields.get("samplerRandomInterval"):
        rate = fields["samplerRandomInterval"]
    elif fields.get("samplingPacketInterval"):
        interval = fields["samplingPacketInterval"]
        # Without a space some exporters mean the rate itself.
        space = fields.get("samplingPacketSpace")
        rate = interval if space is None else (interval + space) / interval
    elif fields.get("samplingSize") and fields.get("samplingPopulation"):
        rate = fields["samplingPopulation"] / fields["samplingSize"]
    elif fields.get("samplingProbability"):
        rate = 1 / fields["samplingProbability"]
    return rate if rate is not None and math.isfinite(rate) and 1 <= rate <= MAX_RATE else None


def scope_of(fields: Mapping[str, float]) -> Scope:
    """What an options record speaks of."""
    for name in SELECTOR_ELEMENTS:
        if name in fields:
            return ("selector", int(fields[name]))
    interface = fields.get("ingressInterface") or fields.get("in_if") or fields.get("scopeInterface")
    return ("interface", int(interface)) if interface else DOMAIN


class Overrides:
    """Rates that the user sets by exporter subnet; the longest prefix wins."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        networks = [(ipaddress.ip_network(text), rate) for text, rate in rates.items()]
        self._networks = sorted(networks, key=lambda item: -item[0].prefixlen)
        self._known: dict[str, float | None] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def rate(self, exporter: str) -> float | None:
        """The rate for this exporter, if one is set."""
        if not self._networks:
            return None
        if exporter not in self._known:
            if len(self._known) > 65536:
                self._known.clear()
            address = ipaddress.ip_address(exporter)
            self._known[exporter] = next((rate for net, rate in self._networks if address in net), None)
        return self._known[exporter]
