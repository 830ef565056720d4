"""How rows are handed to a sink: settings that every sink over a network shares. `outlet.py` does what they say."""

from __future__ import annotations

from typing import Annotated

import msgspec

from flowagent.component import Settings


class Delivery(Settings, frozen=True):
    """Base of the Configs of sinks that may be out of reach for a while."""

    batch_rows: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10_000
    """Rows sent at once at most."""
    batch_bytes: str | int = "1MB"
    """Bytes sent at once, about."""
    max_wait: str | float = "1s"
    """How long rows wait for others to be sent with."""
    timeout: str | float = "30s"
    """A write that takes longer is given up and tried again."""
    spool: str | int = "256MB"
    """Bytes on disk for rows that cannot be sent now; the oldest go when it is full. 0 keeps them in memory only."""
