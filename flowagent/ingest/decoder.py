"""The decoder: export datagrams of any protocol in, flow records as columns out.

Sync, no I/O, no clock: time comes with the datagrams. Each protocol is a
module with a class that has `feed(datagrams, rows)`; they share the `State`.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.ingest.datagrams import Datagrams, numbers
from flowagent.ingest.exporters import Exporters
from flowagent.ingest.held import HeldSets
from flowagent.ingest.ipfix import Ipfix
from flowagent.ingest.netflow5 import NetFlow5
from flowagent.ingest.netflow9 import NetFlow9
from flowagent.ingest.rates import Overrides
from flowagent.ingest.sflow5 import Sflow5
from flowagent.ingest.state import State
from flowagent.ingest.stats import Stats


class ProtocolDecoder(Protocol):
    """One export protocol."""

    def feed(self, datagrams: Datagrams, rows: Array) -> None:
        """Decode these datagrams (positions, in order of arrival) into `State.add`."""


class Decoder:
    """Decodes what one source received."""

    def __init__(
        self, *, wanted: Set[str] | None = None, ordered: bool = False, overrides: Overrides | None = None
    ) -> None:
        """`wanted`: the columns to decode, all where None; `ordered`: rows come in their order on the wire."""
        self.stats = Stats()
        self.exporters = Exporters(self.stats, overrides)
        self.held = HeldSets()
        self._state = State(self.stats, self.exporters, self.held, wanted, ordered=ordered)
        fixed = NetFlow5(self._state)
        self._decoders: dict[int, ProtocolDecoder] = {
            1: fixed,
            5: fixed,
            7: fixed,
            9: NetFlow9(self._state),
            10: Ipfix(self._state),
        }
        self._sflow = Sflow5(self._state)
        self.interfaces = self._sflow.interfaces

    def want(self, columns: Set[str] | None) -> None:
        """Decode these columns from now on, all where None."""
        self._state.wanted = columns

    def feed(self, datagrams: Datagrams) -> Batch:
        """The flow records of these datagrams; input that is wrong is counted in `stats`, never raised."""
        long_enough = datagrams.length >= 4
        rows = np.arange(len(datagrams)) if bool(long_enough.all()) else np.flatnonzero(long_enough)
        if len(rows) < len(datagrams):
            self.stats.datagrams["unknown"] += len(datagrams) - len(rows)
            self.stats.error("unknown", "truncated", len(datagrams) - len(rows))
        if not len(rows):
            return Batch({})
        versions = numbers(datagrams.heads(rows, 2), 0, 2)
        if bool((versions == versions[0]).all()):
            self._route(int(versions[0]), datagrams, rows)
        else:
            for version in np.unique(versions).tolist():
                self._route(version, datagrams, rows[versions == version])
        return self._state.take()

    def _route(self, version: int, datagrams: Datagrams, rows: Array) -> None:
        decoder = self._decoders.get(version)
        if version == 0:
            # sFlow's version is a 32-bit 5.
            is_sflow = numbers(datagrams.heads(rows, 4), 2, 2) == 5
            if bool(is_sflow.any()):
                self._sflow.feed(datagrams, rows[is_sflow])
            rows = rows[~is_sflow]
        if decoder is not None:
            decoder.feed(datagrams, rows)
        elif len(rows):
            self.stats.datagrams["unknown"] += len(rows)
            self.stats.error("unknown", "unknown_version", len(rows))

    def expire(self, now_ns: int) -> None:
        """Let go of what is too old; call it now and then."""
        self.stats.expired += self.held.expire(now_ns)
        self.exporters.expire(now_ns)

    def close(self) -> None:
        """No more input: what still waits for a template has waited in vain."""
        self.stats.expired += self.held.clear()
