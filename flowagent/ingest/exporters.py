"""What is known of each exporter: templates, sampling rates, sequence numbers; all bounded.

A *domain* is one observation domain (or v9 source id, or v5 engine) of one
address and keeps templates and rates: they outlive the exporter's port, which
changes when Open vSwitch is reconfigured without sending its templates again.
A *session* is a domain seen from one port, with its own sequence numbers (RFC
7011, section 1: transport session).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flowagent.addresses import address_text
from flowagent.ingest.rates import DOMAIN, MAX_SCOPES, Overrides, Scope
from flowagent.ingest.sequence import Sequence
from flowagent.ingest.stats import PROTOCOL_OF_VERSION, Stats
from flowagent.ingest.templates import Template

MAX_DOMAIN_SESSIONS = 64
MAX_DOMAINS = 16384
MAX_TEMPLATES = 65536
MAX_DOMAIN_TEMPLATES = 4096
TEMPLATE_LIFETIME_NS = 7 * 86400 * 10**9
"""A template neither sent again nor used for this long is forgotten (Open vSwitch sends them every 600 s)."""


class DomainKey(NamedTuple):
    """Address (two words), protocol version, observation domain."""

    high: int
    low: int
    version: int
    domain: int


@dataclass(slots=True)
class Known:
    """A template, the port it came from, and when it was last of use."""

    template: Template
    port: int
    used_ns: int


@dataclass(slots=True, eq=False)
class Domain:
    """One observation domain of one exporter."""

    key: DomainKey
    templates: dict[int, Known] = field(default_factory=dict)
    sessions: dict[int, Session] = field(default_factory=dict)
    rates: dict[Scope, float] = field(default_factory=dict)
    system_init_ns: int | None = None
    not_sent_packets: int | None = None
    last_ns: int = 0

    @property
    def address(self) -> str:
        return address_text(self.key.high, self.key.low)

    def set_rate(self, scope: Scope, rate: float) -> None:
        """Remember what an options record said."""
        if scope in self.rates or len(self.rates) < MAX_SCOPES:
            self.rates[scope] = rate


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
    """All domains of one address and version; Open vSwitch numbers the records of all its domains together."""

    domains: set[DomainKey] = field(default_factory=set)
    is_ovs: bool = False
    sequences: dict[int, Sequence] = field(default_factory=dict)


class Match(NamedTuple):
    """A template found for a set; `exact`: it may not be meant for it, so its records must fill the set."""

    template: Template
    exact: bool


class Exporters:
    """Every exporter seen, the longest silent ones forgotten first."""

    def __init__(self, stats: Stats, overrides: Overrides | None = None) -> None:
        self._stats = stats
        self._overrides = overrides or Overrides({})
        self._domains: OrderedDict[DomainKey, Domain] = OrderedDict()
        self._senders: dict[tuple[int, int, int], _Sender] = {}
        self._template_count = 0
        self.changed = 0
        """Grows when something worth saving changed."""
        self._lost_by_gone: dict[str, int] = {}

    def session(self, key: DomainKey, port: int, now_ns: int) -> Session:
        """The session, made at its first datagram."""
        domain = self._domain(key)
        domain.last_ns = now_ns
        session = domain.sessions.get(port)
        if session is None:
            session = domain.sessions[port] = Session(domain, port, Sequence(counts_records=key.version != 9))
            if len(domain.sessions) > MAX_DOMAIN_SESSIONS:
                self._forget_session(domain, next(iter(domain.sessions)))
        return session

    def _domain(self, key: DomainKey) -> Domain:
        domain = self._domains.get(key)
        if domain is None:
            domain = self._domains[key] = Domain(key)
            self._senders.setdefault(key[:3], _Sender()).domains.add(key)
            if len(self._domains) > MAX_DOMAINS:
                self._forget_domain(next(iter(self._domains)))
        else:
            self._domains.move_to_end(key)
        return domain

    def define(self, session: Session, template: Template, now_ns: int) -> bool:
        """Take in a template; False where it was known already and did not change. One without fields is withdrawn."""
        templates = session.domain.templates
        known = templates.get(template.id)
        if known is not None and known.template == template:
            known.used_ns, known.port = now_ns, session.port
            return False
        self.changed += 1
        if template.field_count == 0:
            self._withdraw(templates, template.id)
            return True
        if known is None:
            self._template_count += 1
        if template.is_ovs:
            self._senders[session.domain.key[:3]].is_ovs = True
        templates[template.id] = Known(template, session.port, now_ns)
        if len(templates) > MAX_DOMAIN_TEMPLATES:
            templates.pop(next(iter(templates)))
            self._template_count -= 1
            self._stats.evicted_templates += 1
        while self._template_count > MAX_TEMPLATES and len(self._domains) > 1:
            self._forget_domain(next(iter(self._domains)))
        return True

    def _withdraw(self, templates: dict[int, Known], number: int) -> None:
        """Forget one template, or all data (2) or options (3) templates (RFC 7011, section 8.1)."""
        if number > 255:
            gone = [number] if number in templates else []
        else:
            gone = [n for n, known in templates.items() if known.template.is_options == (number == 3)]
        for n in gone:
            del templates[n]
        self._template_count -= len(gone)

    def find(self, session: Session, template_id: int, now_ns: int) -> Match | None:
        """The template for a data set: the domain's own, or that of another domain of the exporter.

        Open vSwitch sends its templates to one of its domains only.
        """
        domain = session.domain
        known = domain.templates.get(template_id)
        if known is not None:
            known.used_ns = now_ns
            return Match(known.template, exact=known.port != session.port or known.template.is_ovs)
        for key in self._senders[domain.key[:3]].domains:
            other = self._domains[key].templates.get(template_id)
            if other is not None:
                other.used_ns = now_ns
                return Match(other.template, exact=True)
        return None

    def sequence(self, session: Session) -> Sequence:
        """Whose sequence numbers the session's datagrams carry."""
        sender = self._senders[session.domain.key[:3]]
        if not sender.is_ovs:
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
        return self._overrides.rate(domain.address)

    def rates(self, domain: Domain) -> dict[Scope, float]:
        """Rates by scope; domain 0 speaks for the whole exporter (RFC 7011, section 3.1)."""
        if domain.rates or domain.key.domain == 0:
            return domain.rates
        whole = self._domains.get(domain.key._replace(domain=0))
        return whole.rates if whole is not None else domain.rates

    def expire(self, now_ns: int) -> None:
        """Forget templates past their lifetime."""
        for domain in self._domains.values():
            old = [n for n, k in domain.templates.items() if now_ns - k.used_ns > TEMPLATE_LIFETIME_NS]
            for number in old:
                del domain.templates[number]
                self._template_count -= 1
                self._stats.evicted_templates += 1
                self.changed += 1

    def active(self, since_ns: int) -> int:
        """Addresses heard since then."""
        return len({d.key[:2] for d in self._domains.values() if d.last_ns >= since_ns})

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
        for (high, low, _), sender in self._senders.items():
            if sender.sequences:
                count = sum(s.lost_records(final=final) for s in sender.sequences.values())
                lost[address_text(high, low)] += count
        return lost

    def _forget_session(self, domain: Domain, port: int) -> None:
        self._keep_lost(domain.address, domain.sessions.pop(port).sequence)
        self._stats.evicted_sessions += 1

    def _forget_domain(self, key: DomainKey) -> None:
        domain = self._domains.pop(key)
        self._template_count -= len(domain.templates)
        self._stats.evicted_templates += len(domain.templates)
        for port in list(domain.sessions):
            self._forget_session(domain, port)
        sender = self._senders[key[:3]]
        sender.domains.discard(key)
        if not sender.domains:
            for sequence in sender.sequences.values():
                self._keep_lost(domain.address, sequence)
            del self._senders[key[:3]]

    def _keep_lost(self, address: str, sequence: Sequence) -> None:
        lost = sequence.lost_records()
        if lost:
            known = address in self._lost_by_gone or len(self._lost_by_gone) < MAX_DOMAINS
            name = address if known else "other"
            self._lost_by_gone[name] = self._lost_by_gone.get(name, 0) + lost

    def snapshot(self) -> list[dict[str, Any]]:
        """Templates and rates as plain data, for `restore`."""
        return [
            {
                "key": list(d.key),
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

    def restore(self, snapshot: list[dict[str, Any]]) -> None:
        """Take up what `snapshot` gave; KeyError, TypeError or ValueError where it is not that."""
        for saved in snapshot:
            key = DomainKey(*saved["key"])
            domain = self._domain(key)
            for number, count, scope, body, port, used_ns in saved["templates"]:
                template = Template(number, key.version, count, scope, body)
                self._senders[key[:3]].is_ovs |= template.is_ovs
                domain.templates[number] = Known(template, port, used_ns)
                self._template_count += 1
            for kind, number, rate in saved["rates"]:
                domain.set_rate((kind, number) if kind != "domain" else DOMAIN, float(rate))
            domain.system_init_ns = saved["system_init_ns"]

    @staticmethod
    def protocol(domain: Domain) -> str:
        """The export protocol of a domain."""
        return PROTOCOL_OF_VERSION.get(domain.key.version, "unknown")
