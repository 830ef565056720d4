"""What is known of exporters: whose template is used, what is forgotten, and that all is bounded."""

import pytest
from build import OVS, template
from hypothesis import given
from hypothesis import strategies as st

from flowagent.ingest import exporters as ex
from flowagent.ingest.exporters import DomainKey, Exporters
from flowagent.ingest.rates import DOMAIN, MAX_SCOPES
from flowagent.ingest.stats import Stats
from flowagent.ingest.templates import Template, parse_template_set


@pytest.fixture
def exporters():
    return Exporters(Stats())


def key(low=1, domain=0, version=10):
    return DomainKey(0, low, version, domain)


def a_template(number=256, *fields, options=False):
    (found,) = parse_template_set(template(number, *(fields or [(8, 4)])), 10, options=options)
    return found


def withdrawal(number=256):
    return Template(number, 10, 0, 0, b"")


def define(exporters, session, one, now_ns=0):
    return exporters.define(session, one, now_ns)


def test_a_template_is_found_by_its_domain(exporters):
    session = exporters.session(key(), 1, 0)
    assert define(exporters, session, a_template())
    assert exporters.find(session, 256, 0) == (a_template(), False)
    assert exporters.find(session, 257, 0) is None
    assert exporters.find(exporters.session(key(low=2), 1, 0), 256, 0) is None
    assert exporters.find(exporters.session(key(version=9), 1, 0), 256, 0) is None


def test_a_template_sent_again_is_no_news(exporters):
    session = exporters.session(key(), 1, 0)
    assert define(exporters, session, a_template())
    changed = exporters.changed
    assert not define(exporters, session, a_template())
    assert exporters.changed == changed
    assert define(exporters, session, a_template(256, (12, 4)))
    assert exporters.changed > changed


def test_a_template_from_another_port_must_fit_exactly_until_it_comes_from_there(exporters):
    old, new = exporters.session(key(), 1, 0), exporters.session(key(), 2, 0)
    define(exporters, old, a_template())
    assert exporters.find(new, 256, 0).exact
    assert define(exporters, new, a_template())
    assert not exporters.find(new, 256, 0).exact


def test_open_vswitch_must_always_fit_exactly(exporters):
    session = exporters.session(key(), 1, 0)
    define(exporters, session, a_template(256, *OVS))
    assert exporters.find(session, 256, 0).exact


def test_another_domain_lends_its_newest_template(exporters):
    one, two, three = (exporters.session(key(domain=d), 1, 0) for d in (1, 2, 3))
    define(exporters, one, a_template(256, (8, 4)))
    define(exporters, two, a_template(256, (12, 4)))
    assert exporters.find(three, 256, 0) == (a_template(256, (12, 4)), True)
    define(exporters, two, withdrawal())
    assert exporters.find(three, 256, 0) is None


def test_withdrawal_of_one_and_of_all_of_a_kind(exporters):
    session = exporters.session(key(), 1, 0)
    options = Template(300, 10, 1, 1, b"\0\x22\0\4")
    for one in (a_template(256), a_template(257), a_template(258), options):
        define(exporters, session, one)
    assert not define(exporters, session, withdrawal(256))
    assert sorted(session.domain.templates) == [257, 258, 300]
    define(exporters, session, withdrawal(999))
    define(exporters, session, withdrawal(2))
    assert sorted(session.domain.templates) == [300]
    define(exporters, session, withdrawal(3))
    assert not session.domain.templates
    assert session.domain.size == ex._DOMAIN_BYTES + ex._SESSION_BYTES


def test_templates_grow_old_unless_used_or_sent(exporters):
    session = exporters.session(key(), 1, 0)
    later = ex.TEMPLATE_LIFETIME_NS + 1
    for number in (256, 257, 258):
        define(exporters, session, a_template(number))
    exporters.find(session, 256, later)
    define(exporters, session, a_template(257), later)
    exporters.expire(later)
    assert sorted(session.domain.templates) == [256, 257]


def test_rates_by_scope_are_bounded(exporters):
    domain = exporters.session(key(), 1, 0).domain
    assert exporters.set_rate(domain, DOMAIN, 5)
    assert not exporters.set_rate(domain, DOMAIN, 5)
    assert exporters.set_rate(domain, DOMAIN, 6)
    for n in range(2 * MAX_SCOPES):
        exporters.set_rate(domain, ("selector", n), 7)
    assert len(domain.rates) == MAX_SCOPES
    assert exporters.rates(domain)[DOMAIN] == 6


def test_ten_thousand_templates_of_one_exporter_are_bounded_and_its_neighbour_keeps_its_own():
    stats = Stats()
    exporters = Exporters(stats)
    quiet = exporters.session(key(low=2), 1, 0)
    define(exporters, quiet, a_template())
    loud = exporters.session(key(low=1), 1, 0)
    for number in range(256, 10_256):
        define(exporters, loud, a_template(number))
    assert len(loud.domain.templates) == ex.MAX_DOMAIN_TEMPLATES
    assert stats.evicted_templates == 10_000 - ex.MAX_DOMAIN_TEMPLATES
    assert exporters.find(quiet, 256, 0) is not None


def test_an_exporter_of_many_domains_forgets_its_own():
    stats = Stats()
    exporters = Exporters(stats)
    quiet = exporters.session(key(low=2), 1, 0)
    define(exporters, quiet, a_template())
    wide = [(i + 1, 4) for i in range(900)]
    for number in range(8000):
        define(exporters, exporters.session(key(domain=number // 50), 1, 0), a_template(256 + number % 50, *wide))
    sizes = {d.key.low: 0 for d in exporters}
    for d in exporters:
        sizes[d.key.low] += d.size
    assert sizes[1] <= ex.MAX_EXPORTER_BYTES
    assert exporters.find(quiet, 256, 0) is not None
    assert stats.evicted_templates > 0


def test_ten_thousand_exporters_fit():
    exporters = Exporters(Stats())
    for low in range(10_000):
        define(exporters, exporters.session(key(low=low), 1, 0), a_template())
    assert sum(len(d.templates) for d in exporters) == 10_000
    assert len(exporters.active(0)) == 10_000


def test_more_exporters_than_fit_forget_the_longest_silent():
    exporters = Exporters(Stats())
    for low in range(ex.MAX_DOMAINS + 10):
        exporters.session(key(low=0), 1, 0)
        exporters.session(key(low=low), 1, 0)
    known = {d.key.low for d in exporters}
    assert len(known) == ex.MAX_DOMAINS
    assert {0, ex.MAX_DOMAINS + 9} <= known
    assert 1 not in known


def test_the_largest_crowd_of_exporters_stays_within_the_memory_for_all():
    exporters = Exporters(Stats())
    wide = [(i + 1, 4) for i in range(1000)]
    templates = [a_template(number, *wide) for number in range(256, 556)]
    for low in range(60):
        for one in templates:
            define(exporters, exporters.session(key(low=low), 1, 0), one)
    assert exporters._size <= ex.MAX_BYTES
    known = {d.key.low for d in exporters}
    assert 59 in known
    assert 0 not in known


def test_sessions_of_a_domain_are_bounded():
    stats = Stats()
    exporters = Exporters(stats)
    for port in range(1000):
        exporters.session(key(), port, 0)
    assert len(list(exporters.sessions())) == ex.MAX_DOMAIN_SESSIONS
    assert stats.evicted_sessions == 1000 - ex.MAX_DOMAIN_SESSIONS


def test_a_forgotten_exporter_harms_nobody_who_still_holds_it(exporters):
    session = exporters.session(key(), 1, 0)
    define(exporters, session, a_template())
    exporters._forget_domain(key())
    assert exporters.find(session, 256, 0) is None
    assert not define(exporters, session, a_template())
    assert exporters.sequence(session) is session.sequence
    assert exporters.set_rate(session.domain, DOMAIN, 5)
    assert list(exporters) == []
    again = exporters.session(key(), 1, 0)
    define(exporters, again, a_template())
    assert exporters.find(session, 256, 0).exact


def test_open_vswitch_numbers_all_its_domains_together(exporters):
    one, two = (exporters.session(key(domain=d), 1, 0) for d in (1, 2))
    assert exporters.sequence(one) is not exporters.sequence(two)
    define(exporters, one, a_template(256, *OVS))
    assert exporters.sequence(one) is exporters.sequence(two)
    other_port = exporters.session(key(domain=1), 2, 0)
    assert exporters.sequence(other_port) is not exporters.sequence(one)


def test_loss_survives_what_is_forgotten(exporters):
    array = pytest.importorskip("numpy").array
    session = exporters.session(key(low=0xFFFF_0A00_0001), 1, 0)
    for sequence in (0, 100, 101, 102):
        session.sequence.follow(array([sequence]), array([1]), array([True]))
    assert exporters.lost_records() == {"10.0.0.1": 99}
    for port in range(2, 100):
        exporters.session(session.domain.key, port, 0)
    assert exporters.lost_records() == {"10.0.0.1": 99}
    exporters._forget_domain(session.domain.key)
    assert exporters.lost_records() == {"10.0.0.1": 99}


def test_loss_of_open_vswitch_is_counted_once(exporters):
    array = pytest.importorskip("numpy").array
    session = exporters.session(key(low=0xFFFF_0A00_0001), 1, 0)
    define(exporters, session, a_template(256, *OVS))
    for sequence in (0, 11, 12, 13):
        exporters.sequence(session).follow(array([sequence]), array([1]), array([True]))
    assert exporters.lost_records(final=True) == {"10.0.0.1": 10}
    for port in range(2, 100):
        exporters.sequence(exporters.session(session.domain.key, port, 0))
    exporters._forget_domain(session.domain.key)
    assert exporters.lost_records(final=True) == {"10.0.0.1": 10}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 9), st.integers(0, 5)), max_size=80))
def test_what_is_charged_is_what_is_there(steps):
    """Templates come, change, go and are forgotten; the account always balances."""
    exporters = Exporters(Stats())
    for low, domain, number, kind in steps:
        session = exporters.session(key(low, domain), 1, 0)
        if kind == 0:
            exporters._forget_domain(key(low, domain))
        elif kind == 1:
            define(exporters, session, withdrawal(256 + number))
        else:
            define(exporters, session, a_template(256 + number, *[(1, 4)] * kind))
    spent = {}
    for d in exporters:
        bodies = sum(ex._TEMPLATE_BYTES + len(k.template.body) for k in d.templates.values())
        spent[d.key] = ex._DOMAIN_BYTES + ex._SESSION_BYTES * len(d.sessions) + bodies
        assert d.size == spent[d.key]
    assert exporters._size == sum(spent.values())
    assert set(exporters._senders) == {k.sender for k in spent}
    for sender in exporters._senders.values():
        assert all(number in source.templates for number, source in sender.sources.items())
