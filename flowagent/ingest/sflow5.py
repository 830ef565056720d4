"""sFlow version 5: packets sampled by switches, and counters of their interfaces ("sFlow Version 5", sflow.org, 2004).

    datagram -> samples (flow, counters) -> records

Each level is a list of items with type and length; the k-th items of all
lists are found at once (`sflow_walk.py`), and then items of one type are read
at once, whoever sent them.

The exporter is the agent that the datagram names: it stays the same whichever
way the datagrams took, and one agent may send from several addresses. Loss is
read from the numbers of the datagrams, which each sub-agent counts; a lost one
stands for the mean number of flow samples in those that came.
"""

from __future__ import annotations

import numpy as np

from flowagent.batch import Array
from flowagent.grouping import group_rows
from flowagent.ingest.datagrams import Datagrams, gather, numbers, padded
from flowagent.ingest.exporters import DomainKey, Session
from flowagent.ingest.sflow_counters import Interfaces
from flowagent.ingest.sflow_flows import FORMATS, Samples, Senders, add_flows, agent_addresses
from flowagent.ingest.sflow_records import LONGEST
from flowagent.ingest.sflow_walk import Items, walk
from flowagent.ingest.state import State
from flowagent.ingest.stats import SFLOW5

PROTOCOL = "sflow5"
_HEADER = 24
"""Bytes of a header with an agent that has no address."""
_COUNTERS = {2: 12, 4: 16}
"""Types of counter samples, and bytes of their fixed part."""


class Sflow5:
    """Decodes flow samples into rows, and keeps the counters of interfaces."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.interfaces = Interfaces()

    def feed(self, datagrams: Datagrams, rows: Array) -> None:
        """Decode these datagrams, in order of arrival."""
        self._state.stats.datagrams[PROTOCOL] += len(rows)
        rows = self._whole(rows, datagrams.length[rows] >= _HEADER, "truncated")
        if not len(rows):
            return
        end = datagrams.offset + datagrams.length
        data = padded(datagrams.data, end[rows], 2 * LONGEST)
        words, size, valid = agent_addresses(data, datagrams.offset[rows] + 4, datagrams.exporter[:, rows])
        long_enough = datagrams.length[rows] >= 20 + size
        self._whole(rows, valid, "bad_agent_address")
        self._whole(rows[valid], long_enough[valid], "truncated")
        good = valid & long_enough
        rows, words, size = rows[good], words[:, good], size[good]
        if not len(rows):
            return
        at = datagrams.offset[rows] + 4 + size
        head = gather(data, at, 16)
        sub_agent, sequence, count = (numbers(head, i, 4) for i in (0, 4, 12))
        samples, broken = walk(data, at + 16, end[rows], count)
        if bool(broken.any()):
            self._state.stats.error(PROTOCOL, "bad_sample_length", int(broken.sum()))
        senders = Senders(
            words, datagrams.exporter[:, rows], sub_agent, sequence, datagrams.received_ns[rows], rows,
            datagrams.offset[rows],
        )  # fmt: skip
        flows = self._flows(data, senders, samples)
        self._counters(data, senders, samples)
        known = (samples.kind >= min(FORMATS)) & (samples.kind <= max(_COUNTERS))
        if not bool(known.all()):
            self._state.stats.error(PROTOCOL, "unknown_sample_type", int((~known).sum()))
        self._follow(senders, datagrams.port[rows], flows)

    def _whole(self, rows: Array, whole: Array, reason: str) -> Array:
        """The rows that are, the others counted."""
        if bool(whole.all()):
            return rows
        self._state.stats.error(PROTOCOL, reason, int((~whole).sum()))
        return rows[whole]

    def _fitting(self, samples: Items, kind: int, least: int) -> Items:
        """Those of one type, without those that are too short."""
        chosen = samples.kind == kind
        mine = samples if bool(chosen.all()) else samples.take(chosen)
        whole = mine.length >= least
        if not bool(whole.all()):
            self._state.stats.error(PROTOCOL, "bad_sample", int((~whole).sum()))
            mine = mine.take(whole)
        return mine

    def _flows(self, data: Array, senders: Senders, samples: Items) -> Array:
        """Decode flow samples; (k,) int64, how many each datagram had."""
        counts = np.zeros(len(senders.order), np.int64)
        for kind, (least, read) in FORMATS.items():
            items = self._fitting(samples, kind, least)
            if not len(items.owner):
                continue
            found: Samples = read(data, items)
            whole = add_flows(self._state, data, senders, items.owner, found)
            if not bool(whole.all()):
                self._state.stats.error(PROTOCOL, "bad_sample", int((~whole).sum()))
            counts += np.bincount(items.owner[whole], minlength=len(counts))
            self.interfaces.sampler_drops(senders, items.owner[whole], found.take(whole))
        return counts

    def _counters(self, data: Array, senders: Senders, samples: Items) -> None:
        for kind, least in _COUNTERS.items():
            items = self._fitting(samples, kind, least)
            if not len(items.owner):
                continue
            count = numbers(gather(data, items.at + least - 4, 4), 0, 4)
            records, broken = walk(data, items.at + least, items.at + items.length, count)
            if bool(broken.any()):
                self._state.stats.error(PROTOCOL, "bad_sample", int(broken.sum()))
                records = records.take(~broken[records.owner])
            number = numbers(gather(data, items.at, 4), 0, 4)[records.owner]
            self.interfaces.counters(data, senders, records._replace(owner=items.owner[records.owner]), number)

    def _follow(self, senders: Senders, ports: Array, flows: Array) -> None:
        """Account for the datagrams, and those that are missing, of each sub-agent and port."""
        high, low = senders.exporter
        groups = group_rows([high, low, senders.sub_agent, ports])
        for part in np.split(groups.order, groups.starts[1:]):
            part.sort()
            i = part[0]
            key = DomainKey(int(high[i]), int(low[i]), SFLOW5, int(senders.sub_agent[i]))
            # Agents are what a sender says: they take room that is its own.
            sender = (*senders.sender[:, i].tolist(), SFLOW5, 0)
            session: Session = self._state.exporters.session(key, int(ports[i]), int(senders.received_ns[i]), sender)
            session.datagrams += len(part)
            session.records += int(flows[part].sum())
            session.sequence.follow(senders.sequence[part], flows[part], np.ones(len(part), np.bool_))
