"""What NetFlow v9 and IPFIX have in common: data sets read by templates, options, sets that wait.

`walk.py` finds the sets; here they are decoded, many at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from flowagent.batch import Array, constant
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.exporters import Domain, Session
from flowagent.ingest.fields import Head, Values
from flowagent.ingest.held import HeldSet
from flowagent.ingest.mixed import FEW_IN_SET, can_mix, cut_mixed
from flowagent.ingest.options import (
    Sampling,
    constant_sampling,
    domain_sampling,
    learn,
    mixed_sampling,
    row_sampling,
)
from flowagent.ingest.records import Cut, Records, Sets, cut_records
from flowagent.ingest.state import State, protocol_column
from flowagent.ingest.templates import Template
from flowagent.ingest.walk import Walk


@dataclass(frozen=True, slots=True)
class Header:
    """What the datagrams' headers say; arrays (k,) int64.

    `body` and `end` are the places in the buffer where the sets begin and end;
    `uptime_ms` is None where the protocol has none; `order` sorts rows;
    `exporter` is (2, k) uint64.
    """

    exporter: Array
    domain: Array
    export_ns: Array
    uptime_ms: Array | None
    sequence: Array
    body: Array
    end: Array
    received_ns: Array
    order: Array

    def head(self, rows: Array, system_init_ns: int | None) -> Head:
        """What the converters of fields need of these datagrams."""
        uptime = self.uptime_ms[rows][:, None] if self.uptime_ms is not None else None
        return Head(self.export_ns[rows][:, None], uptime, system_init_ns)


class Cohort(NamedTuple):
    """Sets that are read alike, whoever sent them: hundreds of exporters with one template are decoded at once.

    `domain` is their domain where it matters for how they are read, else None.
    """

    template: Template
    exact: bool
    system_init_ns: int | None
    sampling: Sampling | None
    domain: Domain | None


class TemplatedDecoder:
    """Base of the two protocols; a subclass says where things stand in the header."""

    protocol: ClassVar[str]
    version: ClassVar[int]
    header_size: ClassVar[int]
    template_set: ClassVar[int]
    options_set: ClassVar[int]

    def __init__(self, state: State) -> None:
        self.state = state

    def header(self, datagrams: Datagrams, rows: Array) -> Header:
        """Read the headers of these datagrams, all of at least `header_size` bytes."""
        raise NotImplementedError

    def feed(self, datagrams: Datagrams, rows: Array) -> None:
        """Decode these datagrams, in order of arrival."""
        stats = self.state.stats
        stats.datagrams[self.protocol] += len(rows)
        long_enough = datagrams.length[rows] >= self.header_size
        if not bool(long_enough.all()):
            stats.error(self.protocol, "truncated", int((~long_enough).sum()))
            rows = rows[long_enough]
        if len(rows):
            Walk(self, datagrams, rows).run()

    def cohort(self, session: Session, template_id: int, now_ns: int) -> Cohort | None:
        """How the sets of a session under a template id are to be read; None where the template is not known."""
        match = self.state.exporters.find(session, template_id, now_ns)
        if match is None:
            return None
        domain, template = session.domain, match.template
        if template.is_options:
            return Cohort(template, match.exact, domain.system_init_ns, None, domain)
        sampling = domain_sampling(self.state.exporters, domain, template)
        return Cohort(template, match.exact, domain.system_init_ns, sampling, None if sampling else domain)

    def decode_sets(self, data: Array, header: Header, cohort: Cohort, sets: Sets) -> tuple[Array, Array]:
        """Decode data sets of one cohort.

        Returns (sets,) int64, the records in each, and (sets,) bool, those that
        were not decoded because the template does not fit them.
        """
        cut = cut_records(data, sets.offset, sets.length, cohort.template)
        if not cohort.exact:
            wrong = int((cut.overrun & (sets.length > 0)).sum())
            if wrong:
                reason = "zero_length_template" if cohort.template.min_length == 0 else "bad_record_length"
                self.state.stats.error(self.protocol, reason, wrong)
            self._take(cut, header, cohort, sets.rows)
            return cut.counts, np.zeros(len(sets.rows), np.bool_)
        misfit = cut.misfit
        if bool(misfit.any()):
            fitting = sets.take(~misfit)
            if len(fitting.rows):
                self._take(
                    cut_records(data, fitting.offset, fitting.length, cohort.template), header, cohort, fitting.rows
                )
        else:
            self._take(cut, header, cohort, sets.rows)
        return cut.counts, misfit

    def can_mix(self, cohort: Cohort, sets: Sets) -> bool:
        """Whether these sets of a cohort are better decoded together with those of others."""
        wanted = self.state.wanted is not None and cohort.sampling is not None and cohort.system_init_ns is None
        if not wanted or cohort.template.is_options or not can_mix(cohort.template):
            return False
        return int(sets.length.max()) // cohort.template.min_length <= FEW_IN_SET

    def decode_mixed(
        self, data: Array, header: Header, cohorts: list[Cohort], which: Array, sets: Sets
    ) -> tuple[Array, Array]:
        """Decode sets of cohorts that `can_mix`, each of `which` (sets,); returns what `decode_sets` does."""
        state = self.state
        mix = cut_mixed(data, [cohort.template for cohort in cohorts], which, sets)
        exact = np.array([cohort.exact for cohort in cohorts])[which]
        misfit = exact & mix.misfit
        wrong = int((~exact & mix.overrun & (sets.length > 0)).sum())
        if wrong:
            state.stats.error(self.protocol, "bad_record_length", wrong)
        mix = mix.of_sets(~misfit)
        n, rows = len(mix.sets), sets.rows[mix.sets]
        if n and state.wanted is not None:
            columns = mix.columns(data, header.head(rows, None), state.wanted)
            columns.update(self._origin(header, rows, 1))
            samplings = [cohort.sampling for cohort in cohorts if cohort.sampling is not None]
            columns.update(mixed_sampling(state, samplings, which[mix.sets]))
            order = header.order[rows] + (mix.start - header.body[rows]) * 2 if state.ordered else None
            state.add(self.protocol, columns, n, order)
        return mix.counts, misfit

    def _origin(self, header: Header, rows: Array, per_row: int) -> dict[str, Values]:
        """Columns that say where records come from."""
        columns = {
            "exporter": Values(_spread(header.exporter[:, rows], per_row)),
            "observation_domain": Values(_spread(header.domain[rows].astype(np.uint32), per_row)),
            "export_protocol": protocol_column(self.protocol, len(rows) * per_row),
        }
        if self.state.wants("received_ns"):
            columns["received_ns"] = Values(_spread(header.received_ns[rows], per_row))
        if self.state.wants("sequence"):
            columns["sequence"] = Values(_spread(header.sequence[rows].astype(np.uint32), per_row))
        return columns

    def _take(self, cut: Cut, header: Header, cohort: Cohort, rows: Array) -> None:
        for records in cut.records:
            where = rows[records.sets]
            head = header.head(where, cohort.system_init_ns)
            if cohort.template.is_options:
                assert cohort.domain is not None
                self.state.stats.options_records += records.total
                if learn(self.state.exporters, cohort.domain, records, head):
                    self.state.exporters.changed += 1
            else:
                self._flows(records, header, head, cohort, where)

    def _flows(self, records: Records, header: Header, head: Head, cohort: Cohort, rows: Array) -> None:
        state, per_row = self.state, records.bytes.shape[1]
        columns = records.layout.columns(records.bytes, head, state.wanted)
        columns.update(self._origin(header, rows, per_row))
        if cohort.sampling is not None:
            columns.update(constant_sampling(state, records.total, cohort.sampling))
        elif cohort.domain is not None:
            columns.update(row_sampling(state, cohort.domain, records, head))
        order = None
        if state.ordered:
            place = records.offset[:, None] + np.arange(per_row) * records.layout.record_length
            order = (header.order[rows][:, None] + (place - header.body[rows][:, None]) * 2).reshape(-1)
        state.add(self.protocol, columns, records.total, order)
        # Bytes and packets tell whether anything went that way, wanted or not.
        wanted = state.wanted | {"bytes", "packets"} if state.wanted is not None else None
        reverse = records.layout.reverse_columns(records.bytes, head, wanted)
        if reverse is not None:
            self._reverse(reverse, columns, records.total, order)

    def _reverse(self, reverse: dict[str, Values], forward: dict[str, Values], count: int, order: Array | None) -> None:
        """Rows for the other direction of biflows, where anything went that way."""
        went = np.zeros(count, np.bool_)
        for name in ("packets", "bytes"):
            if name in reverse:
                went |= reverse[name].data > 0
                if not self.state.wants(name):
                    del reverse[name]
        for name in ("exporter", "observation_domain", "export_protocol", "received_ns", "sequence",
                     "sampling_rate", "sampling_source"):  # fmt: skip
            if name in forward:
                reverse.setdefault(name, forward[name])
        rows = np.flatnonzero(went)
        if not len(rows):
            return
        picked = {
            name: Values(v.data[..., rows], v.known[rows] if v.known is not None else None)
            for name, v in reverse.items()
        }
        self.state.add(self.protocol, picked, len(rows), order[rows] + 1 if order is not None else None)

    def hold(self, data: Array, header: Header, session: Session, template_id: int, sets: Sets) -> None:
        """Put sets aside until their template comes."""
        stats = self.state.stats
        for row, offset, length in zip(sets.rows.tolist(), sets.offset.tolist(), sets.length.tolist(), strict=True):
            held = HeldSet(
                session=session,
                body=data[offset : offset + length].tobytes(),
                export_ns=int(header.export_ns[row]),
                uptime_ms=int(header.uptime_ms[row]) if header.uptime_ms is not None else 0,
                sequence=int(header.sequence[row]),
                received_ns=int(header.received_ns[row]),
            )
            stats.held += 1
            stats.expired += self.state.held.hold(template_id, held)

    def release(self, session: Session, template_id: int, order: int) -> None:
        """A template came: decode the sets that waited for it."""
        stats = self.state.stats
        groups: dict[Session, list[HeldSet]] = {}
        for held in self.state.held.release(session, template_id):
            groups.setdefault(held.session, []).append(held)
        for sender, waiting in sorted(groups.items(), key=lambda item: item[0].domain.key):
            header, data, sets = _held_sets(waiting, self.version, order)
            cohort = self.cohort(sender, template_id, waiting[-1].received_ns)
            assert cohort is not None
            _, misfit = self.decode_sets(data, header, cohort, sets)
            stats.replayed += int((~misfit).sum())
            if bool(misfit.any()):
                stats.held -= int(misfit.sum())  # they are counted already
                self.hold(data, header, sender, template_id, sets.take(misfit))


def _held_sets(waiting: list[HeldSet], version: int, order: int) -> tuple[Header, Array, Sets]:
    """Held sets of one session as if they had just come, in a buffer of their own."""
    k = len(waiting)
    length = np.array([len(s.body) for s in waiting], np.int64)
    key = waiting[0].session.domain.key
    header = Header(
        exporter=constant((key.high, key.low), k, np.uint64),
        domain=constant(key.domain, k, np.int64),
        export_ns=np.array([s.export_ns for s in waiting], np.int64),
        uptime_ms=np.array([s.uptime_ms for s in waiting], np.int64) if version == 9 else None,
        sequence=np.array([s.sequence for s in waiting], np.int64),
        body=np.zeros(k, np.int64),
        end=length,
        received_ns=np.array([s.received_ns for s in waiting], np.int64),
        order=np.full(k, order, np.int64),
    )
    data = np.frombuffer(b"".join(s.body for s in waiting) or bytes(1), np.uint8)
    return header, data, Sets(np.arange(k), np.cumsum(length) - length, length)


def _spread(values: Array, per_row: int) -> Array:
    """Each value `per_row` times, along the last axis; a constant stays one."""
    if bool((values == values[..., :1]).all()):
        return constant(values[..., 0], values.shape[-1] * per_row, values.dtype)
    return np.repeat(values, per_row, axis=-1)
