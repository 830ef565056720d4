"""Finding the sets of NetFlow v9 and IPFIX datagrams, and decoding them in the right order.

Datagrams that hold data sets only (nearly all do) are taken apart column-wise:
the first set of each, then the second of those that have one, and so on.
Datagrams with templates, or damaged ones, are walked one by one. A template that
is new or differs takes effect in its place in the stream: what came before it
and could be read by it is decoded first.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from flowagent.batch import Array
from flowagent.errors import DecodeError
from flowagent.grouping import group_rows
from flowagent.ingest.datagrams import Datagrams, gather, numbers
from flowagent.ingest.exporters import DomainKey, Session
from flowagent.ingest.records import Sets
from flowagent.ingest.templates import parse_template_set

if TYPE_CHECKING:
    from flowagent.ingest.templated import Cohort, TemplatedDecoder

_MANY = 4
"""Templates met at once from which on records are worth decoding without regard to their template."""
_MAX_SETS = 32
"""Data sets of a datagram that are found column-wise; one with more is walked by itself."""


class Walk:
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
        """Decode everything."""
        only_data = self._find_data_sets()
        for row in np.flatnonzero(~only_data).tolist():
            self._walk(row)
        self._flush(len(only_data))
        self._follow_sequences()

    def _find_data_sets(self) -> Array:
        """Find the sets of datagrams that hold data sets only; returns (k,) bool, which datagrams those are."""
        end = self._header.end
        only_data = np.ones(len(end), np.bool_)
        rows, place = np.arange(len(end)), self._header.body
        found: list[tuple[Array, Array, Array, Array]] = []
        for _ in range(_MAX_SETS):
            more = end[rows] - place >= 4
            rows, place = (rows, place) if bool(more.all()) else (rows[more], place[more])
            if not len(rows):
                break
            heads = gather(self._data, place, 4)
            ids, length = numbers(heads, 0, 2), numbers(heads, 2, 2)
            good = (ids >= 256) & (length >= 4) & (place + length <= end[rows])
            if not bool(good.all()):
                only_data[rows[~good]] = False
                rows, place, ids, length = rows[good], place[good], ids[good], length[good]
            found.append((rows, place + 4, length - 4, ids))
            place = place + length
        only_data[rows] &= end[rows] - place < 4  # more sets than _MAX_SETS
        rows, place, length, ids = found[0] if len(found) == 1 else _in_order(found)
        if not bool(only_data.all()):
            good = only_data[rows]
            rows, place, length, ids = rows[good], place[good], length[good], ids[good]
        self._found, self._found_ids, self._flushed = Sets(rows, place, length), ids, 0
        return only_data

    def _find_sessions(self, rows: Array) -> tuple[list[Session], Array]:
        d, domain = self._datagrams, self._header.domain
        high, low, port = d.exporter[0][rows], d.exporter[1][rows], d.port[rows]
        connection = port if self._state.exporters.by_connection else np.zeros_like(port)
        groups = group_rows([high, low, port, domain])
        session_of = np.empty(len(rows), np.int64)
        session_of[groups.order] = np.repeat(np.arange(len(groups.starts)), groups.sizes())
        sessions = []
        for i, size in zip(groups.first.tolist(), groups.sizes().tolist(), strict=True):
            key = DomainKey(
                int(high[i]), int(low[i]), self._decoder.version, int(domain[i]), connection=int(connection[i])
            )
            session = self._state.exporters.session(key, int(port[i]), int(self._header.received_ns[i]))
            session.datagrams += size
            sessions.append(session)
        return sessions, session_of

    def _walk(self, row: int) -> None:
        """A datagram with templates, or damaged."""
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
                    # What waited is older than anything in this datagram.
                    decoder.release(session, template.id, int(self._header.order[row]) - (1 << 31))
        except DecodeError as error:
            state.stats.error(decoder.protocol, error.reason)

    def _concerns(self, row: int, session: Session, template_id: int) -> bool:
        """Whether a set before this template could be read by it, or should be decoded before one that is held."""
        if self._state.held.waits(session, template_id):
            return True
        if template_id < 256 or (*session.domain.key[:2], template_id) in self._pending_ids:
            return True
        last = int(np.searchsorted(self._found.rows, row))
        same = self._found_ids[self._flushed : last] == template_id
        if not bool(same.any()):
            return False
        high, low = self._header.exporter[:, self._found.rows[self._flushed : last][same]]
        return bool(((high == session.domain.key.high) & (low == session.domain.key.low)).any())

    def _flush(self, stop: int) -> None:
        """Decode every data set before datagram `stop` that is not decoded yet."""
        last = int(np.searchsorted(self._found.rows, stop))
        rows, place, length = (values[self._flushed : last] for values in self._found)
        ids = self._found_ids[self._flushed : last]
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
        parts = np.split(groups.order, groups.starts[1:])
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
        mixed: list[tuple[Cohort, Array]] = []
        for cohort, members in cohorts.items():
            where = np.concatenate(members) if len(members) > 1 else members[0]
            mine = sets.take(where)
            if len(cohorts) >= _MANY and self._decoder.can_mix(cohort, mine):
                mixed.append((cohort, where))
            else:
                counts, misfit = self._decoder.decode_sets(self._data, self._header, cohort, mine)
                self._account(where, mine, counts, misfit, session_of, ids)
        if mixed:
            where = np.concatenate([w for _, w in mixed])
            which = np.repeat(np.arange(len(mixed)), [len(w) for _, w in mixed])
            mine, members_of = sets.take(where), [cohort for cohort, _ in mixed]
            counts, misfit = self._decoder.decode_mixed(self._data, self._header, members_of, which, mine)
            self._account(where, mine, counts, misfit, session_of, ids)

    def _account(self, where: Array, mine: Sets, counts: Array, misfit: Array, session_of: Array, ids: Array) -> None:
        """Note how many records sets held, and put aside those that their template does not fit."""
        found = np.where(misfit, 0, counts)
        self._counts += np.bincount(mine.rows, weights=found, minlength=len(self._counts)).astype(np.int64)
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


def _in_order(found: list[tuple[Array, Array, Array, Array]]) -> tuple[Array, Array, Array, Array]:
    """The sets of all passes by datagram, then by place."""
    if not found:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing, nothing
    rows, place, length, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(rows, kind="stable")
    return rows[order], place[order], length[order], ids[order]
