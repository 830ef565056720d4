"""What NetFlow v9 and IPFIX have in common: sets, templates, options.

Most datagrams hold one data set and nothing else; they are told apart from the
rest column-wise and decoded many at a time. Datagrams with several sets or
with templates are walked one by one. A template that is new or differs takes
effect in its place in the stream: what came before it is decoded first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from flowagent.batch import Array, constant
from flowagent.errors import DecodeError
from flowagent.grouping import group_rows
from flowagent.ingest.datagrams import Datagrams, gather, numbers
from flowagent.ingest.exporters import Domain, DomainKey, Session
from flowagent.ingest.fields import Head, Values
from flowagent.ingest.held import HeldSet
from flowagent.ingest.options import Sampling, constant_sampling, domain_sampling, learn, row_sampling
from flowagent.ingest.records import Cut, Records, Sets, cut_records
from flowagent.ingest.state import State, protocol_column
from flowagent.ingest.templates import Template, parse_template_set


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
            _Feed(self, datagrams, rows).run()

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
        columns["exporter"] = Values(_spread(header.exporter[:, rows], per_row))
        columns["observation_domain"] = Values(_spread(header.domain[rows].astype(np.uint32), per_row))
        columns["export_protocol"] = protocol_column(self.protocol, records.total)
        if cohort.sampling is not None:
            columns.update(constant_sampling(state, records.total, cohort.sampling))
        elif cohort.domain is not None:
            columns.update(row_sampling(state, cohort.domain, records, head))
        if state.wants("received_ns"):
            columns["received_ns"] = Values(_spread(header.received_ns[rows], per_row))
        if state.wants("sequence"):
            columns["sequence"] = Values(_spread(header.sequence[rows].astype(np.uint32), per_row))
        order = None
        if state.ordered:
            place = records.offset[:, None] + np.arange(per_row) * records.layout.record_length
            order = (header.order[rows][:, None] + (place - header.body[rows][:, None]) * 2).reshape(-1)
        state.add(self.protocol, columns, records.total, order)
        reverse = records.layout.reverse_columns(records.bytes, head, state.wanted)
        if reverse is not None:
            self._reverse(reverse, columns, records.total, order)

    def _reverse(self, reverse: dict[str, Values], forward: dict[str, Values], count: int, order: Array | None) -> None:
        """Rows for the other direction of biflows, where anything went that way."""
        went = np.zeros(count, np.bool_)
        for name in ("packets", "bytes"):
            if name in reverse:
                went |= reverse[name].data > 0
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
        for sender, waiting in groups.items():
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


class _Feed:
    """One pass over the datagrams of one protocol that one call of `feed` brought."""

    def __init__(self, decoder: TemplatedDecoder, datagrams: Datagrams, rows: Array) -> None:
        self._decoder = decoder
        self._state = decoder.state
        self._datagrams = datagrams
        self._data = datagrams.data
        self._buffer = memoryview(datagrams.data)  # type: ignore[arg-type]  # arrays have the buffer protocol
        self._header = decoder.header(datagrams, rows)
        self._counts = np.zeros(len(rows), np.int64)
        self._counted = np.ones(len(rows), np.bool_)
        self._sessions, self._session_of = self._find_sessions(rows)
        self._pending: list[tuple[int, int, int, int]] = []  # datagram, place, bytes, set id
        self._pending_ids: set[tuple[int, int, int]] = set()  # exporter address and set id of the same

    def run(self) -> None:
        header, data = self._header, self._data
        room = header.end - header.body
        has_set = room >= 4
        set_heads = gather(data, np.where(has_set, header.body, 0), 4)
        set_id, set_length = numbers(set_heads, 0, 2), numbers(set_heads, 2, 2)
        simple = has_set & (set_length == room) & (set_id >= 256)
        self._simple = np.flatnonzero(simple)
        self._simple_id = set_id[self._simple]
        self._flushed = 0
        for row in np.flatnonzero(~simple).tolist():
            self._walk(row)
        self._flush(len(simple))
        self._follow_sequences()

    def _find_sessions(self, rows: Array) -> tuple[list[Session], Array]:
        d, domain = self._datagrams, self._header.domain
        high, low, port = d.exporter[0][rows], d.exporter[1][rows], d.port[rows]
        groups = group_rows([high, low, port, domain])
        session_of = np.empty(len(rows), np.int64)
        session_of[groups.order] = np.repeat(np.arange(len(groups.starts)), groups.sizes())
        sessions = []
        for i, size in zip(groups.first.tolist(), groups.sizes().tolist(), strict=True):
            key = DomainKey(int(high[i]), int(low[i]), self._decoder.version, int(domain[i]))
            session = self._state.exporters.session(key, int(port[i]), int(self._header.received_ns[i]))
            session.datagrams += size
            sessions.append(session)
        return sessions, session_of

    def _walk(self, row: int) -> None:
        """A datagram of several sets, or with templates, or damaged."""
        decoder, stats = self._decoder, self._state.stats
        place, end = int(self._header.body[row]), int(self._header.end[row])
        while end - place >= 4:
            set_id, length = struct.unpack_from("!HH", self._buffer, place)
            if length < 4 or place + length > end:
                stats.error(decoder.protocol, "bad_set_length")
                return
            if set_id >= 256:
                self._pending.append((row, place + 4, length - 4, set_id))
                self._pending_ids.add((*self._sessions[int(self._session_of[row])].domain.key[:2], set_id))
            elif set_id in (decoder.template_set, decoder.options_set):
                self._templates(row, place + 4, length - 4, options=set_id == decoder.options_set)
            else:
                stats.error(decoder.protocol, "reserved_set_id")
            place += length

    def _templates(self, row: int, place: int, length: int, *, options: bool) -> None:
        decoder, state = self._decoder, self._state
        session = self._sessions[int(self._session_of[row])]
        now_ns = int(self._header.received_ns[row])
        body = self._data[place : place + length].tobytes()
        try:
            for template in parse_template_set(body, decoder.version, options=options):
                state.stats.templates += 1
                state.stats.options_templates += options
                known = session.domain.templates.get(template.id)
                is_news = known is None or known.template != template or known.port != session.port
                if is_news and self._concerns(row, session, template.id):
                    self._flush(row)
                if state.exporters.define(session, template, now_ns):
                    decoder.release(session, template.id, int(self._header.order[row]))
        except DecodeError as error:
            state.stats.error(decoder.protocol, error.reason)

    def _concerns(self, row: int, session: Session, template_id: int) -> bool:
        """Whether a set before this template could be read by it, or should be decoded before one that is held."""
        if self._state.held.waits(session, template_id):
            return True
        if template_id < 256 or (*session.domain.key[:2], template_id) in self._pending_ids:
            return True
        last = int(np.searchsorted(self._simple, row))
        same = self._simple_id[self._flushed : last] == template_id
        if not bool(same.any()):
            return False
        high, low = self._header.exporter[:, self._simple[self._flushed : last][same]]
        return bool(((high == session.domain.key.high) & (low == session.domain.key.low)).any())

    def _flush(self, stop: int) -> None:
        """Decode every data set found so far, and the simple datagrams before `stop`."""
        last = int(np.searchsorted(self._simple, stop))
        rows = self._simple[self._flushed : last]
        place = self._header.body[rows] + 4
        length = self._header.end[rows] - place
        ids = self._simple_id[self._flushed : last]
        self._flushed = last
        if self._pending:
            found = np.array(self._pending, np.int64).T
            self._pending = []
            self._pending_ids.clear()
            rows, place = np.concatenate([rows, found[0]]), np.concatenate([place, found[1]])
            length, ids = np.concatenate([length, found[2]]), np.concatenate([ids, found[3]])
            order = np.lexsort((place, rows))
            rows, place, length, ids = rows[order], place[order], length[order], ids[order]
        if not len(rows):
            return
        sets, session_of = Sets(rows, place, length), self._session_of[rows]
        groups = group_rows([session_of, ids])
        parts = [np.sort(part) for part in np.split(groups.order, groups.starts[1:])]
        options = [part for part in parts if self._is_options(part, session_of, ids, rows)]
        for turn in self._turns(parts, np.concatenate(options), session_of) if options else [parts]:
            self._decode(turn, session_of, ids, sets)

    def _turns(self, parts: list[Array], options: Array, session_of: Array) -> list[list[Array]]:
        """Options records say how to read what follows them: an exporter that sent some is decoded in its order."""
        senders = [session.domain.key[:2] for session in self._sessions]
        number = {sender: i for i, sender in enumerate(senders)}
        sender_of = np.array([number[sender] for sender in senders])[session_of]
        is_options = np.zeros(len(session_of), np.int64)
        is_options[options] = 1
        turn = np.zeros(len(session_of), np.int64)
        for sender in np.unique(sender_of[options]):
            mine = np.flatnonzero(sender_of == sender)
            turn[mine] = 2 * np.cumsum(is_options[mine]) - is_options[mine]
        turns: dict[int, list[Array]] = {}
        for part in parts:
            for piece in np.split(part, np.flatnonzero(np.diff(turn[part])) + 1):
                turns.setdefault(int(turn[piece[0]]), []).append(piece)
        return [turns[n] for n in sorted(turns)]

    def _is_options(self, part: Array, session_of: Array, ids: Array, rows: Array) -> bool:
        session, now_ns = self._sessions[session_of[part[0]]], int(self._header.received_ns[rows[part[-1]]])
        match = self._state.exporters.find(session, int(ids[part[0]]), now_ns)
        return match is not None and match.template.is_options

    def _decode(self, parts: list[Array], session_of: Array, ids: Array, sets: Sets) -> None:
        """Decode sets, given in parts of one session and template id each, one cohort after the other."""
        cohorts: dict[Cohort, list[Array]] = {}
        for part in parts:
            session, template_id = self._sessions[session_of[part[0]]], int(ids[part[0]])
            cohort = self._decoder.cohort(session, template_id, int(self._header.received_ns[sets.rows[part[-1]]]))
            if cohort is None:
                self._hold(session, template_id, sets.take(part))
            else:
                cohorts.setdefault(cohort, []).append(part)
        for cohort, members in cohorts.items():
            where = np.concatenate(members) if len(members) > 1 else members[0]
            mine = sets.take(where)
            counts, misfit = self._decoder.decode_sets(self._data, self._header, cohort, mine)
            np.add.at(self._counts, mine.rows, np.where(misfit, 0, counts))
            for i in np.flatnonzero(misfit).tolist():
                self._hold(self._sessions[session_of[where[i]]], int(ids[where[i]]), mine.take(np.array([i])))

    def _hold(self, session: Session, template_id: int, sets: Sets) -> None:
        self._counted[sets.rows] = False
        self._decoder.hold(self._data, self._header, session, template_id, sets)

    def _follow_sequences(self) -> None:
        by_session = np.bincount(self._session_of, weights=self._counts, minlength=len(self._sessions))
        for session, records in zip(self._sessions, by_session.tolist(), strict=True):
            session.records += int(records)
        exporters = self._state.exporters
        sequences = [exporters.sequence(session) for session in self._sessions]
        distinct = {id(s): i for i, s in enumerate(sequences)}
        owner = np.array([distinct[id(s)] for s in sequences])[self._session_of]
        for number in sorted(set(distinct.values())):
            rows = np.flatnonzero(owner == number) if len(distinct) > 1 else slice(None)
            sequences[number].follow(self._header.sequence[rows], self._counts[rows], self._counted[rows])


def _spread(values: Array, per_row: int) -> Array:
    """Each value `per_row` times, along the last axis; a constant stays one."""
    if bool((values == values[..., :1]).all()):
        return constant(values[..., 0], values.shape[-1] * per_row, values.dtype)
    return np.repeat(values, per_row, axis=-1)
