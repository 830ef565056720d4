"""What turns rows into the bytes of messages, in one of the output schemas."""

from __future__ import annotations

from typing import Protocol

from flowagent.batch import Batch


class Encoder(Protocol):
    """One schema in one format. Pure: no I/O, no state that matters."""

    schema: str
    """Its name, as consumers are told: `canonical`, `netobserv`, `goflow2`."""
    content_type: str
    """MIME type of one message."""
    columns: frozenset[str] | None
    """The canonical columns it uses; None for all there are."""

    def messages(self, batch: Batch) -> list[bytes]:
        """One message a row."""

    def joined(self, batch: Batch) -> bytes:
        """All rows as one: lines of JSON, length-delimited protobuf, a stream of msgpack."""
