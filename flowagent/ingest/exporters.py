"""What is known of each exporter: templates, sampling rates, sequence numbers; all bounded.

A *domain* is one observation domain (or v9 source id, or v5 engine) of one
address and keeps templates and rates: they outlive the exporter's port, which
changes when Open vSwitch is reconfigured without sending its templates again.
A *session* is a domain seen from one port, with its own sequence numbers (RFC
7011, section 1: transport session).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flowagent.addresses import address_text
from flowagent.ingest.rates import DOMAIN, MAX_SCOPES, Overrides, Scope
from flowagent.ingest.sequence import Sequence
from flowagent.ingest.stats import PROTOCOL_OF_VERSION, SFLOW5, Stats
from flowagent.ingest.templates import Template

MAX_DOMAIN_SESSIONS = 64
MAX_SERIES, MAX_SENDER_SERIES = 1000, 250
MAX_DOMAINS = 16384
MAX_DOMAIN_TEMPLATES = 4096
MAX_BYTES = 64 << 20
MAX_EXPORTER_BYTES = 16 << 20
"""Memory for what is known, by the estimates below: of all exporters, of one."""
_DOMAIN_BYTES, _SESSION_BYTES, _TEMPLATE_BYTES, _RATE_BYTES = 1000, 2500, 700, 250
TEMPLATE_LIFETIME_NS = 7 * 86400 * 10**9
"""A template neither sent again nor used for this long is forgotten (Open vSwitch sends them every 600 s)."""


SenderKey = tuple[int, int, int, int]
"""Address (two words), protocol version, connection."""


class DomainKey(NamedTuple):
    """Address (two words), protocol version, observation domain.

    And the connection, where what it taught ends with it (RFC 7011, section 8); 0 for datagrams.
    """

    high: int
    low: int
    version: int
    domain: int
    connection: int = 0

    @property
    def sender(self) -> SenderKey:
        """Whose domain it is, unless it was told of by another."""
        return self.high, self.low, self.version, self.connection


@dataclass(slots=True)
class Known:
    """A template, the port it came from, and when it was last of use."""

    template: Template
    port: int
    used_ns: int


@dataclass(slots=True, eq=False)
class Domain:
    """One observation domain of one exporter; its memory is charged to `sender`, who told of it first."""

    key: DomainKey
    sender: SenderKey
    templates: dict[int, Known] = field(default_factory=dict)
    sessions: dict[int, Session] = field(default_factory=dict)
    rates: dict[Scope, float] = field(default_factory=dict)
    system_init_ns: int | None = None
    not_sent_packets: int | None = None
    last_ns: int = 0
    size: int = 0
    is_forgotten: bool = False

    @property
    def address(self) -> str:
        return address_text(self.key.high, self.key.low)


@dataclass(slots=True, eq=False)
class Session:
    """One domain seen from one port."""

    domain: Domain
    port: int
    sequence: Sequence
    datagrams: int = 0
    records: int = 0


@dataclass(slots=True)
class _Sender:
    """All domains of one address, version and connection; Open vSwitch numbers the records of all its domains together.

    `domains` has the one that was silent longest first, `sources` the domain
    that sent the newest template of an id.
    """

    domains: OrderedDict[DomainKey, None] = field(default_factory=OrderedDict)
    sources: dict[int, Domain] = field(default_factory=dict)
    size: int = 0
    is_ovs: bool = False
    sequences: dict[int, Sequence] = field(default_factory=dict)


class Match(NamedTuple):
    """A template found for a set; `exact`: it may not be meant for it, so its records must fill the set."""

    template: Template
    exact: bool


class Exporters:
    """Every exporter seen, the longest silent ones forgotten first."""

    def __init__(self, stats: Stats, overrides: Overrides | None = None, *, by_connection: bool = False) -> None:
        """`by_connection`: a sender's ports are connections, which know nothing of one another."""
        self.by_connection = by_connection
        self._stats = stats
        self._overrides = overrides or Overrides({})
        self._domains: OrderedDict[DomainKey, Domain] = OrderedDict()
        self._senders: dict[SenderKey, _Sender] = {}
        self._size = 0
        self.changed = 0
        """Grows when something worth saving changed."""
        self._lost_by_gone: dict[str, int] = {}
        self._names: set[str] = set()
        self._names_of: Counter[SenderKey] = Counter()

    def session(self, key: DomainKey, port: int, now_ns: int, sender: SenderKey | None = None) -> Session:
        """The session, made at its first datagram; `sender` where that is another address than the exporter's."""
        domain = self._domain(key, sender)
        domain.last_ns = now_ns
        session = domain.sessions.get(port)
        if session is not None and len(domain.sessions) > 1:
            domain.sessions[port] = domain.sessions.pop(port)  # the longest silent is first
        if session is None:
            session = domain.sessions[port] = Session(
                domain, port, Sequence(counts_records=key.version not in (9, SFLOW5))
            )
            self._charge(domain, _SESSION_BYTES)
            if len(domain.sessions) > MAX_DOMAIN_SESSIONS:
                self._forget_session(domain, next(iter(domain.sessions)))
        return session

    def _domain(self, key: DomainKey, sender: SenderKey | None = None) -> Domain:
        domain = self._domains.get(key)
        if domain is None:
            domain = self._domains[key] = Domain(key, sender or key.sender)
            self._senders.setdefault(domain.sender, _Sender()).domains[key] = None
            self._name(domain)
            self._charge(domain, _DOMAIN_BYTES)
            if len(self._domains) > MAX_DOMAINS:
                self._forget_domain(next(iter(self._domains)))
        else:
            self._domains.move_to_end(key)
            self._senders[domain.sender].domains.move_to_end(key)
        return domain

    def _name(self, domain: Domain) -> None:
        if len(self._names) < MAX_SERIES and self._names_of[domain.sender] < MAX_SENDER_SERIES:
            self._names_of[domain.sender] += domain.address not in self._names
            self._names.add(domain.address)

    def _charge(self, domain: Domain, size: int) -> None:
        """Account for memory; where it gets too much, what was silent longest goes: the exporter's own, or of all."""
        if domain.is_forgotten:
            return
        sender = self._senders[domain.sender]
        domain.size += size
        sender.size += size
        self._size += size
        while size > 0 and sender.size > MAX_EXPORTER_BYTES:
            self._forget_domain(next(iter(sender.domains)))
        while size > 0 and self._size > MAX_BYTES:
            self._forget_domain(next(iter(self._domains)))

    def define(self, session: Session, template: Template, now_ns: int) -> bool:
        """Take in a template; whether sets that could not be decoded may be now. One without fields is withdrawn."""
        domain, templates = session.domain, session.domain.templates
        known = templates.get(template.id)
        if known is not None and known.template == template:
            moved = known.port != session.port
            known.used_ns, known.port = now_ns, session.port
            return moved
        if domain.is_forgotten:
            return False
        self.changed += 1
        if template.field_count == 0:
            self._withdraw(domain, template.id)
            return False
        sender = self._senders[domain.sender]
        sender.is_ovs |= template.is_ovs
        sender.sources[template.id] = domain
        templates[template.id] = Known(template, session.port, now_ns)
        if len(templates) > MAX_DOMAIN_TEMPLATES:
            self._drop_template(domain, next(iter(templates)))
            self._stats.evicted_templates += 1
        growth = _TEMPLATE_BYTES + len(template.body)
        if known is not None:
            growth -= _TEMPLATE_BYTES + len(known.template.body)
        self._charge(domain, growth)
        return not domain.is_forgotten

    def _withdraw(self, domain: Domain, number: int) -> None:
        """Forget one template, or all data (2) or options (3) templates (RFC 7011, section 8.1)."""
        every = [n for n, known in domain.templates.items() if known.template.is_options == (number == 3)]
        for n in every if number < 256 else [number]:
            self._drop_template(domain, n)

    def _drop_template(self, domain: Domain, number: int) -> None:
        known = domain.templates.pop(number, None)
        if known is not None:
            self._charge(domain, -_TEMPLATE_BYTES - len(known.template.body))
            sources = self._senders[domain.sender].sources
            if sources.get(number) is domain:
                del sources[number]

    def find(self, session: Session, template_id: int, now_ns: int) -> Match | None:
        """The template for a data set: the domain's own, or that of another domain of the exporter.

        Open vSwitch sends its templates to one of its domains only.
        """
        domain = session.domain
        known = domain.templates.get(template_id)
        if known is not None:
            known.used_ns = now_ns
            return Match(known.template, exact=known.port != session.port or known.template.is_ovs)
        sender = self._senders.get(domain.sender)
        source = sender.sources.get(template_id) if sender is not None else None
        if source is None:
            return None
        other = source.templates[template_id]
        other.used_ns = now_ns
        return Match(other.template, exact=True)

    def set_rate(self, domain: Domain, scope: Scope, rate: float) -> bool:
        """Remember what an options record said; whether that is news."""
        if domain.rates.get(scope) == rate:
            return False
        if scope not in domain.rates:
            if len(domain.rates) >= MAX_SCOPES:
                return False
            self._charge(domain, _RATE_BYTES)
        domain.rates[scope] = rate
        return True

    def sequence(self, session: Session) -> Sequence:
        """Whose sequence numbers the session's datagrams carry."""
        sender = self._senders.get(session.domain.sender)
        if sender is None or not sender.is_ovs:
            return session.sequence
        sequence = sender.sequences.get(session.port)
        if sequence is None:
            sequence = sender.sequences[session.port] = Sequence(counts_records=True)
            if len(sender.sequences) > MAX_DOMAIN_SESSIONS:
                self._keep_lost(session.domain.address, sender.sequences.pop(next(iter(sender.sequences))))
        return sequence

    def peer(self, domain: Domain, number: int) -> Domain:
        """Another domain of the same exporter."""
        return domain if number == domain.key.domain else self._domain(domain.key._replace(domain=number))

    def override(self, domain: Domain) -> float | None:
        """The rate that the user set for this exporter."""
        return self._overrides.rate(domain.address) if self._overrides else None

    @property
    def has_overrides(self) -> bool:
        """Whether the user set any rate."""
        return bool(self._overrides)

    def override_of(self, high: int, low: int) -> float | None:
        """The rate that the user set for the exporter of this address."""
        return self._overrides.rate(address_text(high, low))

    def rates(self, domain: Domain) -> dict[Scope, float]:
        """Rates by scope; domain 0 speaks for the whole exporter (RFC 7011, section 3.1)."""
        if domain.rates or domain.key.domain == 0:
            return domain.rates
        whole = self._domains.get(domain.key._replace(domain=0))
        return whole.rates if whole is not None else domain.rates

    def disconnect(self, address: tuple[int, int], connection: int) -> None:
        """A connection ended, and all that it taught with it; what it lost stays counted."""
        for version in PROTOCOL_OF_VERSION:
            sender = self._senders.get((*address, version, connection))
            for key in list(sender.domains) if sender is not None else ():
                self._forget_domain(key, ended=True)

    def expire(self, now_ns: int) -> None:
        """Forget templates past their lifetime."""
        for domain in self._domains.values():
            old = [n for n, k in domain.templates.items() if now_ns - k.used_ns > TEMPLATE_LIFETIME_NS]
            for number in old:
                self._drop_template(domain, number)
                self._stats.evicted_templates += 1
                self.changed += 1

    def active(self, since_ns: int) -> dict[tuple[int, int], bool]:
        """Addresses (two words) heard since then, and whether any template of theirs is known."""
        found: dict[tuple[int, int], bool] = {}
        for domain in self._domains.values():
            if domain.last_ns >= since_ns:
                found[domain.key[:2]] = found.get(domain.key[:2], False) or bool(domain.templates)
        return found

    def series(self, address: str) -> str:
        """The address as a metric label: the first have a series of their own, for good; fewer of one sender."""
        return address if address in self._names else "other"

    def __iter__(self) -> Iterator[Domain]:
        return iter(self._domains.values())

    def sessions(self) -> Iterator[Session]:
        """The sessions known now."""
        return (session for domain in self._domains.values() for session in domain.sessions.values())

    def lost_records(self, *, final: bool = False) -> dict[str, int]:
        """Lost records by exporter address, never falling."""
        lost = dict(self._lost_by_gone)
        for domain in self._domains.values():
            count = sum(s.sequence.lost_records(final=final) for s in domain.sessions.values())
            lost[domain.address] = lost.get(domain.address, 0) + count
        for (high, low, *_), sender in self._senders.items():
            if sender.sequences:
                count = sum(s.lost_records(final=final) for s in sender.sequences.values())
                lost[address_text(high, low)] += count
        return lost

    def _forget_session(self, domain: Domain, port: int, *, ended: bool = False) -> None:
        self._keep_lost(domain.address, domain.sessions.pop(port).sequence, final=ended)
        self._charge(domain, -_SESSION_BYTES)
        self._stats.evicted_sessions += not ended

    def _forget_domain(self, key: DomainKey, *, ended: bool = False) -> None:
        """Let a domain go: for want of room, or because it `ended`."""
        domain = self._domains.pop(key)
        self._stats.evicted_templates += 0 if ended else len(domain.templates)
        for number in list(domain.templates):
            self._drop_template(domain, number)
        for port in list(domain.sessions):
            self._forget_session(domain, port, ended=ended)
        self._charge(domain, -domain.size)
        domain.rates.clear()
        domain.is_forgotten = True
        sender = self._senders[domain.sender]
        del sender.domains[key]
        if not sender.domains:
            for sequence in sender.sequences.values():
                self._keep_lost(domain.address, sequence, final=ended)
            del self._senders[domain.sender]

    def _keep_lost(self, address: str, sequence: Sequence, *, final: bool = False) -> None:
        lost = sequence.lost_records(final=final)
        if lost:
            known = address in self._lost_by_gone or len(self._lost_by_gone) < MAX_DOMAINS
            name = address if known else "other"
            self._lost_by_gone[name] = self._lost_by_gone.get(name, 0) + lost

    def snapshot(self) -> list[dict[str, Any]]:
        """Templates and rates as plain data, for `restore`."""
        return [
            {
                "key": list(d.key[:4]),
                "templates": [
                    [k.template.id, k.template.field_count, k.template.scope_count, k.template.body, k.port, k.used_ns]
                    for k in d.templates.values()
                ],
                "rates": [[kind, number, rate] for (kind, number), rate in d.rates.items()],
                "system_init_ns": d.system_init_ns,
            }
            for d in self._domains.values()
            if d.templates or d.rates
        ]

    def restore(self, snapshot: list[dict[str, Any]], now_ns: int | None = None) -> None:
        """Take up what `snapshot` gave, as used `now_ns`; KeyError, TypeError or ValueError where it is not that."""
        for saved in snapshot:
            key = DomainKey(*saved["key"])
            domain = self._domain(key)
            for number, count, scope, body, port, used_ns in saved["templates"]:
                template = Template(number, key.version, count, scope, body)
                _ = template.fields  # a damaged one fails here and not when it is used
                self.define(Session(domain, port, Sequence(counts_records=True)), template, now_ns or used_ns)
            for kind, number, rate in saved["rates"]:
                self.set_rate(domain, (kind, number) if kind != "domain" else DOMAIN, float(rate))
            domain.system_init_ns = saved["system_init_ns"]

    @staticmethod
    def protocol(domain: Domain) -> str:
        """The export protocol of a domain."""
        return PROTOCOL_OF_VERSION.get(domain.key.version, "unknown")
