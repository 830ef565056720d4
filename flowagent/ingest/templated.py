"""What NetFlow v9 and IPFIX have in common: sets, templates, options.

Most datagrams hold one data set and nothing else; they are told apart from the
rest column-wise and decoded many at a time. Datagrams with several sets or
with templates are walked one by one. A template that is new or differs takes
effect in its place in the stream: what came before it is decoded first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flowagent.batch import Array, constant
from flowagent.errors import DecodeError
from flowagent.grouping import group_rows
from flowagent.ingest.datagrams import Datagrams, gather, numbers
from flowagent.ingest.exporters import Domain, DomainKey, Session
from flowagent.ingest.fields import Head, Values
from flowagent.ingest.held import HeldSet
from flowagent.ingest.options import learn, sampling_columns
from flowagent.ingest.records import Cut, Records, cut_records
from flowagent.ingest.state import State, origin_columns
from flowagent.ingest.templates import Template, parse_template_set


@dataclass(frozen=True, slots=True)
class Header:
    """What the datagrams' headers say; arrays (k,) int64.

    `body` and `end` are the places in the buffer where the sets begin and end;
    `uptime_ms` is None where the protocol has none; `order` sorts rows.
    """

    domain: Array
    export_ns: Array
    uptime_ms: Array | None
    sequence: Array
    body: Array
    end: Array
    received_ns: Array
    order: Array

    def head(self, rows: Array, domain: Domain) -> Head:
        """What the converters of fields need of these datagrams."""
        uptime = self.uptime_ms[rows][:, None] if self.uptime_ms is not None else None
        return Head(self.export_ns[rows][:, None], uptime, domain.system_init_ns)


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

    def decode_sets(
        self, data: Array, header: Header, session: Session, template_id: int, sets: tuple[Array, Array, Array]
    ) -> Array:
        """Decode data sets of one session and id; `sets`: datagram, place and bytes of each set's body.

        Returns (sets,) int64: the records in each, -1 where that is not known.
        """
        rows, offset, length = sets
        state = self.state
        match = state.exporters.find(session, template_id, int(header.received_ns[rows[-1]]))
        if match is None:
            self._hold(data, header, session, template_id, sets)
            return np.full(len(rows), -1, np.int64)
        cut = cut_records(data, offset, length, match.template)
        if match.exact:
            misfit = cut.misfit
            if bool(misfit.any()):
                self._hold(data, header, session, template_id, (rows[misfit], offset[misfit], length[misfit]))
                counts = np.full(len(rows), -1, np.int64)
                fits = ~misfit
                if bool(fits.any()):
                    fit_sets = (rows[fits], offset[fits], length[fits])
                    counts[fits] = self.decode_sets(data, header, session, template_id, fit_sets)
                return counts
        else:
            wrong = int((cut.overrun & (length > 0)).sum())
            if wrong:
                reason = "zero_length_template" if match.template.min_length == 0 else "bad_record_length"
                state.stats.error(self.protocol, reason, wrong)
        self._take(cut, header, session, match.template, rows)
        return cut.counts

    def _take(self, cut: Cut, header: Header, session: Session, template: Template, rows: Array) -> None:
        for records in cut.records:
            where = rows[records.sets]
            head = header.head(where, session.domain)
            if template.is_options:
                self.state.stats.options_records += records.total
                if learn(self.state.exporters, session.domain, records, head):
                    self.state.exporters.changed += 1
            else:
                session.records += records.total
                self._flows(records, header, head, session, template, where)

    def _flows(
        self, records: Records, header: Header, head: Head, session: Session, template: Template, rows: Array
    ) -> None:
        state, per_row = self.state, records.bytes.shape[1]
        columns = records.layout.columns(records.bytes, head, state.wanted)
        columns.update(origin_columns(session.domain, self.protocol, records.total))
        columns.update(sampling_columns(state, session.domain, records, head, template))
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

    def _hold(
        self, data: Array, header: Header, session: Session, template_id: int, sets: tuple[Array, Array, Array]
    ) -> None:
        stats = self.state.stats
        for row, offset, length in zip(*(a.tolist() for a in sets), strict=True):
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
        waiting = self.state.held.release(session, template_id)
        groups: dict[int, list[HeldSet]] = {}
        for held in waiting:
            groups.setdefault(id(held.session), []).append(held)
        for sets in groups.values():
            length = np.array([len(s.body) for s in sets], np.int64)
            place = np.cumsum(length) - length
            header = Header(
                domain=np.zeros(len(sets), np.int64),
                export_ns=np.array([s.export_ns for s in sets], np.int64),
                uptime_ms=np.array([s.uptime_ms for s in sets], np.int64) if self.version == 9 else None,
                sequence=np.array([s.sequence for s in sets], np.int64),
                body=np.zeros(len(sets), np.int64),
                end=length,
                received_ns=np.array([s.received_ns for s in sets], np.int64),
                order=np.full(len(sets), order, np.int64),
            )
            data = np.frombuffer(b"".join(s.body for s in sets) + bytes(8), np.uint8)
            before = self.state.stats.held
            self.decode_sets(data, header, sets[0].session, template_id, (np.arange(len(sets)), place, length))
            again = self.state.stats.held - before
            self.state.stats.held = before
            self.state.stats.replayed += len(sets) - again


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
                if known is None or known.template != template:
                    self._flush(row)
                if state.exporters.define(session, template, now_ns):
                    decoder.release(session, template.id, int(self._header.order[row]))
        except DecodeError as error:
            state.stats.error(decoder.protocol, error.reason)

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
            rows, place = np.concatenate([rows, found[0]]), np.concatenate([place, found[1]])
            length, ids = np.concatenate([length, found[2]]), np.concatenate([ids, found[3]])
            order = np.lexsort((place, rows))
            rows, place, length, ids = rows[order], place[order], length[order], ids[order]
        if not len(rows):
            return
        session_of = self._session_of[rows]
        groups = group_rows([session_of, ids])
        batches = [np.sort(part) for part in np.split(groups.order, groups.starts[1:])]
        options = [part for part in batches if self._is_options(part, rows, session_of, ids)]
        if options:
            batches = self._in_turn(batches, np.concatenate(options), session_of)
        for part in batches:
            session = self._sessions[int(session_of[part[0]])]
            sets = (rows[part], place[part], length[part])
            counts = self._decoder.decode_sets(self._data, self._header, session, int(ids[part[0]]), sets)
            np.add.at(self._counts, sets[0], np.maximum(counts, 0))
            self._counted[sets[0][counts < 0]] = False

    def _in_turn(self, batches: list[Array], options: Array, session_of: Array) -> list[Array]:
        """Options records say how to read what follows them: an exporter that sent some is decoded in its order."""
        senders = [session.domain.key[:3] for session in self._sessions]
        number = {sender: i for i, sender in enumerate(senders)}
        sender_of = np.array([number[sender] for sender in senders])[session_of]
        is_options = np.zeros(len(session_of), np.int64)
        is_options[options] = 1
        turn = np.zeros(len(session_of), np.int64)
        for sender in np.unique(sender_of[options]):
            mine = np.flatnonzero(sender_of == sender)
            turn[mine] = 2 * np.cumsum(is_options[mine]) - is_options[mine]
        parts = [p for part in batches for p in np.split(part, np.flatnonzero(np.diff(turn[part])) + 1)]
        return sorted(parts, key=lambda part: int(turn[part[0]]))

    def _is_options(self, part: Array, rows: Array, session_of: Array, ids: Array) -> bool:
        session = self._sessions[int(session_of[part[0]])]
        match = self._state.exporters.find(session, int(ids[part[0]]), int(self._header.received_ns[rows[part[-1]]]))
        return match is not None and match.template.is_options

    def _follow_sequences(self) -> None:
        exporters = self._state.exporters
        sequences = [exporters.sequence(session) for session in self._sessions]
        distinct = {id(s): i for i, s in enumerate(sequences)}
        owner = np.array([distinct[id(s)] for s in sequences])[self._session_of]
        for number in sorted(set(distinct.values())):
            rows = np.flatnonzero(owner == number) if len(distinct) > 1 else slice(None)
            sequences[number].follow(self._header.sequence[rows], self._counts[rows], self._counted[rows])


def _spread(values: Array, per_row: int) -> Array:
    """Each value `per_row` times; a constant stays one."""
    if bool((values == values[0]).all()):
        return constant(values[0], len(values) * per_row, values.dtype)
    return np.repeat(values, per_row)
