"""Rows in as many requests as it takes: split where too large, what is refused is counted, nothing is sent twice."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.component import Context
from flowagent.errors import Rejected, Retry
from flowagent.export.parts import _MAX_REFUSALS, Parts
from flowagent.export.post import REFUSED, TOO_LARGE, TOO_LONG, TOO_OLD, Refusal

BIG = 1 << 30
SIZE = 100
"""Bytes of a row."""


class Server:
    """Takes bodies, which are row numbers; refuses what `judge` gives a reason for."""

    def __init__(self, judge=lambda rows: None, *, max_bytes=BIG):
        self.judge = judge
        self.taken = []
        self.requests = 0
        self.parts = Parts(Context("out"), max_bytes, self.post)

    async def post(self, body):
        self.requests += 1
        rows = [int(body[at : at + SIZE]) for at in range(0, len(body), SIZE)]
        reason = self.judge(rows)
        if isinstance(reason, Exception):
            raise reason
        if reason is not None:
            raise Refusal(reason, 400, "")
        self.taken += rows

    async def send(self, start, stop):
        def encode(first, last):
            return b"".join(b"%*d" % (SIZE, start + row) for row in range(first, last))

        return await self.parts.send(stop - start, encode)

    @property
    def refused(self):
        (family,) = self.parts.families()
        return {reason: rows for (_, reason), rows in family.samples.items() if rows}


def larger_than(rows):
    return lambda came: TOO_LARGE if len(came) > rows else None


def older_than(row):
    return lambda came: TOO_OLD if came[0] < row else None


async def test_one_request_where_all_fits():
    server = Server()
    assert await server.send(0, 10) == 10 * SIZE
    assert (server.taken, server.requests, server.refused) == (list(range(10)), 1, {})


async def test_nothing_for_no_rows():
    server = Server()
    assert await server.send(0, 0) == 0
    assert server.requests == 0


async def test_what_is_over_the_limit_is_not_even_tried():
    server = Server(max_bytes=4 * SIZE)
    await server.send(0, 10)
    assert server.taken == list(range(10))
    assert server.requests == 4


@pytest.mark.parametrize("most", [1, 3, 100, 999])
async def test_halved_until_it_fits(most):
    server = Server(larger_than(most))
    await server.send(0, 1000)
    assert server.taken == list(range(1000))
    assert not server.refused


async def test_a_limit_is_remembered():
    server = Server(larger_than(100))
    await server.send(0, 1000)
    before = server.requests
    await server.send(1000, 2000)
    # Now and then it tries a little more than was taken so far.
    assert server.requests - before <= 1000 / 50 + 2
    assert server.taken == list(range(2000))


async def test_a_limit_that_went_is_noticed():
    server = Server(larger_than(100), max_bytes=1000 * SIZE)
    await server.send(0, 1000)
    server.judge = lambda _: None
    for start in range(1000, 30_000, 1000):
        await server.send(start, start + 1000)
    before = server.requests
    await server.send(30_000, 31_000)
    assert server.requests - before == 1


async def test_a_row_that_is_too_large_costs_itself_only(caplog):
    server = Server(lambda rows: TOO_LARGE if 123 in rows else None)
    assert await server.send(0, 1000) == 999 * SIZE
    assert server.taken == [row for row in range(1000) if row != 123]
    assert server.refused == {TOO_LARGE: 1}
    assert "1 of 1000 rows were refused, too_large" in caplog.text


async def test_a_line_that_is_too_long_says_nothing_of_the_limit():
    server = Server(lambda rows: TOO_LONG if 123 in rows else None)
    await server.send(0, 1000)
    before = server.requests
    await server.send(1000, 2000)
    assert server.refused == {TOO_LONG: 1}
    assert server.requests - before == 1


@given(st.integers(0, 300), st.integers(1, 300))
def test_rows_that_are_too_old_are_found(oldest, rows):
    server = Server(older_than(oldest))
    if oldest >= rows:
        with pytest.raises(Rejected):
            asyncio.run(server.send(0, rows))
    else:
        asyncio.run(server.send(0, rows))
    assert sorted(server.taken) == list(range(oldest, rows))
    assert server.refused.get(TOO_OLD, 0) == min(oldest, rows)
    assert server.requests <= 2 * rows.bit_length() + 1


async def test_all_rows_too_old_are_rejected_soon():
    server = Server(older_than(BIG))
    with pytest.raises(Rejected) as raised:
        await server.send(0, 10_000)
    assert raised.value.reason == TOO_OLD
    assert server.requests < 20


async def test_what_is_refused_for_no_known_reason_is_not_taken_apart():
    server = Server(lambda _: REFUSED)
    with pytest.raises(Rejected) as raised:
        await server.send(0, 1000)
    assert (raised.value.reason, str(raised.value)) == (REFUSED, "refused: 400")
    assert server.requests == 1


async def test_a_server_that_refuses_everything_is_asked_so_often_only():
    server = Server(lambda _: TOO_LONG)
    with pytest.raises(Rejected):
        await server.send(0, 100_000)
    assert server.requests <= _MAX_REFUSALS + 40
    assert server.refused == {TOO_LONG: 100_000}


async def test_tried_again_after_a_failure_in_the_middle_it_sends_the_rest_only():
    failures = [Retry("busy"), Retry("busy"), None]
    server = Server(lambda rows: failures.pop(0) if rows[0] >= 500 and failures else None, max_bytes=100 * SIZE)
    for _ in range(2):
        with pytest.raises(Retry):
            await server.send(0, 1000)
    await server.send(0, 1000)
    assert server.taken == list(range(1000))


async def test_other_rows_after_a_failure_are_sent_whole():
    failures = [Retry("busy")]
    server = Server(lambda rows: failures.pop(0) if rows[0] >= 500 and failures else None, max_bytes=500 * SIZE)
    with pytest.raises(Retry):
        await server.send(0, 1000)
    await server.send(0, 500)
    assert server.taken == [*range(500), *range(500)]


async def test_the_same_rows_twice_are_sent_twice():
    server = Server()
    await server.send(0, 10)
    await server.send(0, 10)
    assert server.taken == [*range(10), *range(10)]


async def test_equal_parts_of_one_write_are_all_sent():
    server = Server(larger_than(1))
    body = b"%*d" % (SIZE, 7)
    failures = [None, None, Retry("busy")]
    server.judge = lambda rows: TOO_LARGE if len(rows) > 1 else failures.pop(0) if failures else None
    with pytest.raises(Retry):
        await server.parts.send(4, lambda first, last: body * (last - first))
    await server.parts.send(4, lambda first, last: body * (last - first))
    assert server.taken == [7, 7, 7, 7]


async def test_the_same_problem_is_logged_once(caplog):
    server = Server(lambda rows: TOO_LONG if len(rows) > 1 or rows[0] % 10 == 3 else None)
    for start in range(0, 40, 10):
        await server.send(start, start + 10)
    assert server.refused == {TOO_LONG: 4}
    assert len(caplog.records) == 1


def test_every_reason_is_there_from_the_start():
    (family,) = Server().parts.families()
    assert family.samples == {("out", reason): 0 for reason in (TOO_LARGE, TOO_LONG, TOO_OLD, REFUSED)}
