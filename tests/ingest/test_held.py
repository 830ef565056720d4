"""Held sets: kept for their template, in bounds, for a while."""

import pytest

from flowagent.ingest.exporters import DomainKey, Exporters
from flowagent.ingest.held import LIFETIME_NS, MAX_BYTES, MAX_EXPORTER_BYTES, HeldSet, HeldSets
from flowagent.ingest.stats import Stats


@pytest.fixture
def session():
    exporters = Exporters(Stats())
    return lambda low=1, port=4739, domain=0: exporters.session(DomainKey(0, low, 10, domain), port, 0)


def held(session, body=b"abc", received_ns=0):
    return HeldSet(session, body, 0, 0, 0, received_ns)


def test_a_template_releases_what_waited_for_it(session):
    sets, mine = HeldSets(), session()
    for number, body in ((256, b"a"), (257, b"b"), (256, b"c")):
        assert sets.hold(number, held(mine, body)) == 0
    assert len(sets) == 3
    assert [s.body for s in sets.release(mine, 256)] == [b"a", b"c"]
    assert sets.release(mine, 256) == []
    assert len(sets) == 1


def test_any_domain_of_the_same_port_releases_and_nobody_else(session):
    sets = HeldSets()
    sets.hold(256, held(session(domain=5)))
    assert sets.release(session(low=2), 256) == []
    assert sets.release(session(port=9), 256) == []
    assert len(sets.release(session(domain=7), 256)) == 1


def test_old_sets_are_given_up(session):
    sets = HeldSets()
    sets.hold(256, held(session(), received_ns=0))
    sets.hold(257, held(session(), received_ns=LIFETIME_NS))
    assert sets.expire(LIFETIME_NS) == 0
    assert sets.expire(LIFETIME_NS + 1) == 1
    assert len(sets) == 1
    assert sets.clear() == 1
    assert len(sets) == 0


def test_an_exporter_gives_up_its_own_oldest_sets(session):
    sets, size = HeldSets(), 60_000
    sets.hold(300, held(session(low=2), bytes(size)))
    gone = [sets.hold(256 + i, held(session(), bytes(size))) for i in range(40)]
    assert sum(gone) == 40 + 1 - len(sets)
    assert len(sets) == 1 + MAX_EXPORTER_BYTES // (size + 300)
    assert sets.release(session(), 256) == []
    assert len(sets.release(session(), 256 + 39)) == 1
    assert len(sets.release(session(low=2), 300)) == 1
    assert len(sets.exporters) == 1


def test_all_together_are_bounded(session):
    sets, size = HeldSets(), 60_000
    for low in range(400):
        sets.hold(256, held(session(low=low), bytes(size)))
    assert len(sets) == MAX_BYTES // (size + 300)
    assert sets.release(session(low=0), 256) == []


def test_a_set_larger_than_all_the_room_is_not_kept(session):
    sets = HeldSets()
    assert sets.hold(256, held(session(), bytes(MAX_EXPORTER_BYTES))) == 1
    assert len(sets) == 0


def test_readiness_counts_active_exporters_without_templates_only():
    from flowagent.ingest.exporters import DomainKey, Exporters
    from flowagent.ingest.stats import Stats
    from flowagent.ingest.templates import Template

    exporters = Exporters(Stats())
    old, new = (exporters.session(DomainKey(0, low, 10, 0), 1, at) for low, at in ((1, 5), (2, 50)))
    assert exporters.active(10) == {(0, 2): False}
    exporters.define(new, Template(300, 10, 1, 0, b"\0\1\0\4"), 50)
    assert exporters.active(10) == {(0, 2): True}
    assert exporters.active(0) == {(0, 1): False, (0, 2): True}
    assert old.domain.templates == {}
