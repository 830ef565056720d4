"""The desk: questions answered in a thread, equal ones once, and not too many of them."""

import asyncio
import gc

import msgspec
import pytest
from history.flows import SECOND, filled, window

from flowagent.errors import ConfigError
from flowagent.history import desk as module
from flowagent.history import result
from flowagent.history.desk import Desk

ONE = [(1, 2, 6, 100, 1, 1)]


@pytest.fixture
def made():
    return filled([ONE, ONE])


@pytest.fixture
def desk(made):
    desk = Desk(made)
    yield desk
    desk.stop()


def looked(desk):
    (family,) = desk.families()
    return {labels[0]: count for labels, count in family.samples.items()}


async def test_answers_are_those_of_the_history(made, desk):
    asked = desk.parse({"dimensions": "src_port", "from": "0"})
    body = await desk.answer(asked)
    assert body == msgspec.json.encode(result.query(made, asked))


async def test_equal_questions_are_looked_up_once_until_something_is_new(made, desk):
    asked = [desk.parse({"dimensions": "src_port"}) for _ in range(20)]
    bodies = await asyncio.gather(*(desk.answer(one) for one in asked))
    assert len(set(bodies)) == 1
    assert looked(desk) == {"looked": 1, "shared": 19}
    made.add(window(ONE), 20 * SECOND)
    made.seal(30 * SECOND)
    assert await desk.answer(asked[0]) != bodies[0]
    assert looked(desk) == {"looked": 2, "shared": 19}


async def test_who_goes_away_takes_nothing_from_the_others(desk):
    asked = desk.parse({})
    first = asyncio.ensure_future(desk.answer(asked))  # noqa: TID251
    second = asyncio.ensure_future(desk.answer(asked))  # noqa: TID251
    await asyncio.sleep(0)
    first.cancel()
    assert b'"value":200' in await second


async def test_no_more_questions_wait_than_may(desk, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    asked = [desk.parse({"top": str(i)}) for i in range(1, 6)]
    answers = await asyncio.gather(*(desk.answer(one) for one in asked))
    assert [answer is None for answer in answers] == [False, False, True, True, True]
    assert await desk.answer(asked[4]) is not None, "they may ask again"


async def test_what_is_kept_for_others_is_bounded(desk, monkeypatch):
    size = len(await desk.answer(desk.parse({})))
    monkeypatch.setattr(module, "_MAX_KEPT", 3 * size)
    for top in range(1, 30):
        await desk.answer(desk.parse({"top": str(top)}))
    assert len(desk._kept) == 3


async def test_a_question_that_is_refused_late_is_not_kept(made, desk):
    made.seal(90_000 * SECOND)
    asked = desk.parse({"from": "0", "to": "now", "step": "10s"})
    for _ in range(2):
        with pytest.raises(ConfigError, match="steps"):
            await desk.answer(asked)
    assert desk._kept == {}
    gc.collect()


async def test_a_fault_is_told_to_who_asks_and_the_desk_goes_on(desk, monkeypatch):
    def fault(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(result, "answer", fault)
        with pytest.raises(ZeroDivisionError):
            await desk.answer(desk.parse({}))
    assert await desk.answer(desk.parse({})) is not None


async def test_rates_are_those_of_the_last_minute(desk):
    assert await desk.rates() == {"records": 0.1, "bytes": 10, "packets": 0.1}
    assert await Desk(filled([])).rates() is None


def test_what_can_be_asked(desk):
    told = desk.describe()
    assert [d["column"] for d in told["dimensions"]] == ["src_port", "dst_port", "proto", "in_if", "sampling_source"]
    assert told["measures"] == [{"name": n, "unit": n} for n in ("bytes", "packets", "flows")]
    assert told["history"]["windows"] == 2


async def test_small_answers_are_bounded_by_their_number(desk, monkeypatch):
    monkeypatch.setattr(module, "_MAX_ANSWERS", 5)
    for top in range(1, 30):
        await desk.answer(desk.parse({"top": str(top)}))
    assert [query.top for query in desk._kept] == [25, 26, 27, 28, 29]


async def test_rates_are_looked_up_once_for_all_who_ask(made, desk, monkeypatch):
    looked, look = [], result.answer
    monkeypatch.setattr(result, "answer", lambda *args: looked.append(args[1].measure) or look(*args))
    assert len({str(rates) for rates in await asyncio.gather(*(desk.rates() for _ in range(50)))}) == 1
    assert looked == ["flows", "bytes", "packets"]
    made.seal(30 * SECOND)
    await desk.rates()
    assert len(looked) == 6
