"""The account: decoded = exported + sampled out + dropped + pending."""

import itertools

import pytest

from flowagent.outcome import Outcomes, Ticket


def account(outcomes):
    return {key: value for key, value in outcomes.counts.items() if value}


def test_it_begins_with_series_at_zero():
    records, restored, pending = Outcomes().families()
    assert records.name == "flowagent_records"
    assert records.labels == ("outcome", "reason")
    assert records.samples == {("exported", ""): 0, ("sampled_out", "budget"): 0, ("sampled_out", "overload"): 0}
    assert (restored.name, restored.samples) == ("flowagent_records_restored", {(): 0})
    assert (pending.name, pending.samples) == ("flowagent_records_pending", {(): 0})


def test_what_is_not_accounted_for_is_pending():
    outcomes = Outcomes()
    outcomes.decoded = 10
    outcomes.dropped("duplicate_direction", 3)
    outcomes.exported(5)
    assert outcomes.pending == 2


def test_without_a_sink_the_end_of_the_pipeline_counts_as_exported():
    outcomes = Outcomes()
    Ticket(outcomes, 7, 0)
    assert account(outcomes) == {("exported", ""): 7}


def test_it_is_decided_when_the_last_sink_is_done():
    outcomes = Outcomes()
    ticket = Ticket(outcomes, 7, 2)
    ticket.done(None)
    assert account(outcomes) == {}
    ticket.done("sink_queue_full")
    assert account(outcomes) == {("exported", ""): 7}


@pytest.mark.parametrize("reasons", list(itertools.permutations(["shutdown", "sink_queue_full"])))
def test_taken_by_none_it_is_dropped_for_the_last_reason(reasons):
    outcomes = Outcomes()
    ticket = Ticket(outcomes, 7, 2)
    for reason in reasons:
        ticket.done(reason)
    assert account(outcomes) == {("dropped", reasons[-1]): 7}


@pytest.mark.parametrize("order", list(itertools.permutations([None, "shutdown", "sink_refused"])))
def test_taken_by_any_it_is_exported_once(order):
    outcomes = Outcomes()
    ticket = Ticket(outcomes, 7, 3)
    for reason in order:
        ticket.done(reason)
    assert account(outcomes) == {("exported", ""): 7}
