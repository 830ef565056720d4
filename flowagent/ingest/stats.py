"""What a decoder counted, by protocol."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SFLOW5 = 0x10005
"""Stands for sFlow's version 5, which as a number is NetFlow's, too; no version word has this value."""
PROTOCOL_OF_VERSION = {1: "netflow1", 5: "netflow5", 7: "netflow7", 9: "netflow9", 10: "ipfix", SFLOW5: "sflow5"}


@dataclass(slots=True)
class Stats:
    """Monotone counts. Protocols and reasons come from bounded sets; templates count once each time they arrive.

    Of the sets that came before their template, `held` counts those put
    aside, `replayed` those decoded later, `expired` those given up.
    """

    datagrams: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    sampling: Counter[str] = field(default_factory=Counter)
    templates: int = 0
    options_templates: int = 0
    options_records: int = 0
    held: int = 0
    replayed: int = 0
    expired: int = 0
    evicted_templates: int = 0
    evicted_sessions: int = 0

    def error(self, protocol: str, reason: str, count: int = 1) -> None:
        """Count input that was refused."""
        self.errors[protocol, reason] += count
