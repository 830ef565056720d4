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
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS

MAX_EXTRA_COLUMNS = 512
"""Columns that a batch may have besides the canonical ones: each takes room in every row."""
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
    _extras: set[str] = field(default_factory=set)

    def add(self, protocol: str, columns: dict[str, Values], length: int, order: Array | None = None) -> None:
        """Take decoded rows; `order` sorts them among all rows of the datagrams being fed."""
        data = {name: values.data for name, values in columns.items()}
        if self.wanted is None:
            self._limit_extras(protocol, data)
        valid = {name: v.known for name, v in columns.items() if v.known is not None and name in data}
        data["records"] = constant(1, length, np.uint64)
        if self.ordered and order is not None:
            data[ORDER] = order
        self.stats.records[protocol] += length
        self._parts.append(Batch(data, length, valid))

    def _limit_extras(self, protocol: str, data: dict[str, Array]) -> None:
        fresh = data.keys() - COLUMNS.keys() - self._extras
        if len(fresh) > MAX_EXTRA_COLUMNS - len(self._extras):
            self.stats.error(protocol, "too_many_columns")
            for name in fresh:
                del data[name]
        else:
            self._extras |= fresh

    def wants(self, column: str) -> bool:
        """Whether the column is to be decoded."""
        return self.wanted is None or column in self.wanted

    def take(self) -> Batch:
        """All rows added since the last time."""
        batch = Batch.concat(self._parts)
        self._parts = []
        self._extras.clear()
        if ORDER in batch:
            batch = batch.take(np.argsort(batch[ORDER], kind="stable"))
            del batch.columns[ORDER]
        return batch


def protocol_column(protocol: str, length: int) -> Values:
    """The column export_protocol."""
    return Values(constant(EXPORT_PROTOCOLS.index(protocol), length, np.uint8))
