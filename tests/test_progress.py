"""Marks: settled in their order, once all that was made of a delivery is done with or on disk."""

from hypothesis import given
from hypothesis import strategies as st

from flowagent.outcome import Outcomes, Ticket
from flowagent.progress import _MAX_SPANS, Progress


def ticket(progress, sinks=1):
    return Ticket(Outcomes(), 1, sinks, progress.span)


def delivered(progress, tickets, sinks=1):
    """One delivery that became so many tickets at once."""
    progress.next()
    made = [ticket(progress, sinks) for _ in range(tickets)]
    progress.end_span()
    return made


def test_what_became_nothing_is_settled_at_once():
    progress = Progress()
    delivered(progress, 0)
    assert progress.delivered == progress.settled == 1


def test_it_is_settled_when_the_last_sink_is_done():
    progress = Progress()
    (one,) = delivered(progress, 1, sinks=2)
    one.done(None)
    assert progress.settled == 0
    one.done("sink_refused")
    assert progress.settled == 1


def test_what_is_on_disk_is_settled_once():
    progress = Progress()
    (one,), (two,) = delivered(progress, 1), delivered(progress, 1)
    one.saved()
    assert progress.settled == 1
    one.done(None, was_saved=True)
    assert progress.settled == 1
    two.done(None)
    assert progress.settled == 2


def test_a_window_settles_what_it_was_made_of():
    progress = Progress()
    for _ in range(5):
        progress.next()  # all of it is in the window
    early = ticket(progress)
    early.done(None)
    assert progress.settled == 0
    rows = ticket(progress)
    progress.end_span()
    assert progress.settled == 0
    rows.done(None)
    assert progress.settled == 5


def test_marks_are_settled_in_their_order():
    progress = Progress()
    (one,), (two,) = delivered(progress, 1), delivered(progress, 1)
    two.done(None)
    assert progress.settled == 0
    one.done(None)
    assert progress.settled == 2


def test_without_sinks_the_end_of_the_stages_is_the_end():
    progress = Progress()
    delivered(progress, 3, sinks=0)
    assert progress.settled == 1


@given(st.lists(st.integers(0, 3), max_size=30), st.randoms(use_true_random=False))
def test_a_mark_is_settled_exactly_when_no_ticket_up_to_it_is_open(deliveries, random):
    progress = Progress()
    open_tickets = [(mark, one) for mark, n in enumerate(deliveries, 1) for one in delivered(progress, n)]
    while True:
        first = min((mark for mark, _ in open_tickets), default=len(deliveries) + 1)
        assert progress.settled == first - 1
        if not open_tickets:
            return
        _, one = open_tickets.pop(random.randrange(len(open_tickets)))
        one.done(None)


def test_it_follows_a_bounded_number_of_spans():
    progress = Progress()
    made = [delivered(progress, 1)[0] for _ in range(3 * _MAX_SPANS)]
    assert len(progress._spans) == _MAX_SPANS
    for one in made:
        one.done(None)
    progress.end_span()
    assert progress.settled == progress.delivered
