"""What the protocol decoders of one source share."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np

from flowagent.batch import Array, Batch, constant
from flowagent.ingest.exporters import Exporters
from flowagent.ingest.fields import Values
from flowagent.ingest.held import HeldSets
from flowagent.ingest.stats import Stats
from flowagent.schema import EXPORT_PROTOCOLS

ORDER = "_order"
"""Column by which rows sort into the order in which they stood on the wire, where it was asked for."""


@dataclass(slots=True)
class State:
    """What the protocol decoders share: counters, exporters, held sets, and the rows of the datagrams being fed."""

    stats: Stats
    exporters: Exporters
    held: HeldSets
    wanted: Set[str] | None
    ordered: bool = False
    _parts: list[Batch] = field(default_factory=list)

    def add(self, protocol: str, columns: dict[str, Values], length: int, order: Array | None = None) -> None:
        """Take decoded rows; `order` sorts them among all rows of the datagrams being fed."""
        data = {name: values.data for name, values in columns.items()}
        valid = {name: values.known for name, values in columns.items() if values.known is not None}
        data["records"] = constant(1, length, np.uint64)
        if self.ordered and order is not None:
            data[ORDER] = order
        self.stats.records[protocol] += length
        self._parts.append(Batch(data, length, valid))

    def wants(self, column: str) -> bool:
        """Whether the column is to be decoded."""
        return self.wanted is None or column in self.wanted

    def take(self) -> Batch:
        """All rows added since the last time."""
        batch = Batch.concat(self._parts)
        self._parts = []
        if ORDER in batch:
            batch = batch.take(np.argsort(batch[ORDER], kind="stable"))
            del batch.columns[ORDER]
        return batch


def protocol_column(protocol: str, length: int) -> Values:
    """The column export_protocol."""
    return Values(constant(EXPORT_PROTOCOLS.index(protocol), length, np.uint8))
