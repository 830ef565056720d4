"""Stage: enrichers say what the values of rows mean.

Names cost nothing where nobody looks: of records only those columns are made
that an analysis or the window uses, and the rest of rows that are forwarded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowagent.batch import Batch
from flowagent.component import Context, Enricher
from flowagent.metrics import Family
from flowagent.names import spelled
from flowagent.schema import COLUMNS


class Names:
    """Every enricher in the order of the configuration; a fault of one costs only the names it would have given."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._enrichers: Sequence[Enricher] = ()
        self._of_records: frozenset[str] = frozenset()
        self._all: frozenset[str] = frozenset()
        self._faults = 0

    def connect(self, enrichers: Sequence[Enricher], looked_at: frozenset[str]) -> None:
        """These give names; of records, `looked_at` are the columns that are used."""
        self._enrichers = enrichers
        self._all = frozenset().union(*(e.adds for e in enrichers))
        wanted = looked_at
        for enricher in reversed(enrichers):
            if enricher.adds & wanted:
                wanted |= enricher.needs
        self._of_records = wanted & self._all

    @property
    def needs(self) -> frozenset[str]:
        """What enrichers look at of records, names that others of them add aside."""
        needs = frozenset().union(*(e.needs for e in self._enrichers))
        return frozenset(name for name in needs if name not in COLUMNS or COLUMNS[name].kind != "name")

    def of_records(self, batch: Batch) -> Batch:
        """Records with the names that somebody looks at."""
        return self._enrich(batch, self._of_records)

    @property
    def names(self) -> frozenset[str]:
        """Every column of names that there may be."""
        return frozenset(name for name in self._all if COLUMNS[name].kind == "name")

    def named(self, batch: Batch) -> Batch:
        """Rows with every name there is, as numbers."""
        return self._enrich(batch, self._all)

    def of_rows(self, batch: Batch) -> Batch:
        """Rows with every name there is, as text."""
        return spelled(self.named(batch)) if len(batch) else batch

    def _enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        if not wanted or not len(batch):
            return batch
        for enricher in self._enrichers:
            if enricher.adds & wanted:
                try:
                    batch = enricher.enrich(batch, wanted)
                except Exception:
                    self._faults += 1
                    self._ctx.log.exception("rows stay without the names of %r", enricher)
        return batch

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        text = "Batches that an enricher failed on; their rows lack its names."
        yield Family("flowagent_enrich_faults", "counter", text, (), {(): self._faults})
