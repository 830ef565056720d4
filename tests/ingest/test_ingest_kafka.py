"""Source `kafka` with a pretended group: settings, what is delivered, when it waits, and what is counted."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from aiokafka.errors import KafkaError

from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.ingest import kafka
from flowagent.ingest.consumer import Run
from flowagent.ingest.kafka import Config, row_ids
from flowagent.ingest.offsets import Commit, Place

A, B = Place("flows", 0), Place("flows", 1)


@dataclass
class Message:
    offset: int
    value: bytes | None


def run_of(place, first, *values):
    return Run(place, [Message(first + i, value) for i, value in enumerate(values)], 1000)


@dataclass
class Group:
    """What members find: runs to fetch, and what they committed."""

    fetches: list = field(default_factory=list)
    fails: list = field(default_factory=list)
    members: list = field(default_factory=list)
    commits: list = field(default_factory=list)

    def member(self, _brokers, settings, offsets, settle):
        self.members.append(Member(self, offsets, settle))
        self.settings = settings
        return self.members[-1]


class Member:
    def __init__(self, group, offsets, settle):
        self.group, self.offsets, self.settle = group, offsets, settle
        self.rebalances = self.commit_errors = self.fetched = 0
        self.assigned = [A, B]
        self.is_closed = False

    async def start(self):
        if self.group.fails:
            raise self.group.fails.pop(0)

    async def close(self):
        self.is_closed = True

    def newest(self, _):
        return 1000

    def answered_ms(self):
        return None

    async def fetch(self, _):
        await asyncio.sleep(0)
        if not self.group.fetches:
            await asyncio.sleep(0.01)
            return []
        self.fetched += 1
        found = self.group.fetches.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def commit(self):
        commits = self.offsets.commits(self.assigned)
        self.offsets.committed(commits)
        self.group.commits += [commits] if commits else []


@pytest.fixture
def group(monkeypatch):
    made = Group()
    monkeypatch.setattr(kafka, "Consumer", made.member)
    monkeypatch.setattr(kafka, "_COMMIT", 0.0)
    monkeypatch.setattr(kafka, "_LOOK", 0.01)
    monkeypatch.setattr(kafka, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(kafka, "_PROBE", 0.05)
    return made


class Taker:
    """Takes what is delivered."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        return len(self.batches)

    def column(self, name):
        return [value for batch in self.batches for value in batch[name].tolist()]


@contextlib.asynccontextmanager
async def running(taker, **settings):
    async with msgspec.convert(settings, Config).build(Context("kafka")) as source:
        task = asyncio.get_running_loop().create_task(source.run(taker))
        try:
            yield source
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def metric(source, name):
    return {f.name: f.samples for f in source._families()}[f"flowagent_{name}"]


async def test_rows_are_delivered_and_committed_once_settled(group):
    group.fetches = [[run_of(A, 5, b'{"bytes":1}', b'{"bytes":2}'), run_of(B, 7, b'{"bytes":3}')]]
    taker = Taker()
    async with running(taker) as source:
        await until(lambda: taker.batches)
        await asyncio.sleep(0.05)
        assert group.commits == []
        source.settled(1, 0.0)
        await until(lambda: group.commits)
        assert source.ready() is None
        assert source.backlog() == 0
        assert metric(source, "kafka_lag_messages") == {("kafka", "flows", "0"): 993, ("kafka", "flows", "1"): 992}
    assert taker.column("bytes") == [1, 2, 3]
    assert group.commits == [{A: Commit(7, "read=7"), B: Commit(8, "read=8")}]


async def test_what_is_settled_at_the_end_is_committed_before_it_leaves(group):
    group.fetches = [[run_of(A, 0, b'{"bytes":1}')]]
    taker = Taker()
    async with Config().build(Context("kafka")) as source:
        task = asyncio.get_running_loop().create_task(source.run(taker))
        await until(lambda: taker.batches)
        task.cancel()
        await asyncio.wait([task])
        assert not group.members[0].is_closed
        source.settled(1, 0.0)
    assert group.members[0].is_closed
    assert group.commits == [{A: Commit(1, "read=1")}]


async def test_bad_messages_cost_themselves(group):
    group.fetches = [[run_of(A, 0, b"nonsense", None, b'{"bytes":-1}', b"{}", b'{"bytes":7}')]]
    taker = Taker()
    async with running(taker) as source:
        await until(lambda: taker.batches)
        errors = metric(source, "ingest_errors")
    assert taker.column("bytes") == [7]
    assert {reason: n for (_, _, reason), n in errors.items()} == {"bad_message": 2, "bad_value": 1, "no_fields": 1}
    assert metric(source, "ingest_records") == {("kafka", "canonical"): 1}
    assert metric(source, "kafka_messages") == {("kafka",): 5}


async def test_a_message_without_rows_is_committed_too(group):
    group.fetches = [[run_of(A, 0, b"nonsense")]]
    async with running(Taker()) as source:
        await until(lambda: metric(source, "kafka_messages") == {("kafka",): 1})
        source.settled(0, 0.0)
        await until(lambda: group.commits)
    assert group.commits == [{A: Commit(1, "read=1")}]


async def test_a_fault_of_the_decoder_costs_its_message(group, monkeypatch):
    decode = kafka.CanonicalDecoder.decode

    def faulty(self, values):
        if b'{"bytes":13}' in values:
            raise ZeroDivisionError
        return decode(self, values)

    monkeypatch.setattr(kafka.CanonicalDecoder, "decode", faulty)
    group.fetches = [[run_of(A, 0, *(b'{"bytes":%d}' % i for i in range(10, 20)))]]
    taker = Taker()
    async with running(taker) as source:
        await until(lambda: taker.batches)
        assert metric(source, "ingest_errors") == {("kafka", "canonical", "internal"): 1}
    assert taker.column("bytes") == [n for n in range(10, 20) if n != 13]
    assert len(set(taker.column("row_id"))) == 9


async def test_nothing_is_fetched_while_a_sink_is_full(group):
    taker = Taker()
    async with running(taker) as source:
        await until(lambda: group.members)
        source.settled(0, 0.6)
        await asyncio.sleep(0.05)
        group.fetches = [[run_of(A, 0, b'{"bytes":1}')]]
        await asyncio.sleep(0.1)
        assert not taker.batches
        source.settled(0, 0.4)
        await until(lambda: taker.batches)


async def test_it_hurries_while_partitions_are_to_go(group):
    group.fetches = [[run_of(A, 0, b'{"bytes":1}')]]
    taker = Taker()
    async with running(taker) as source:
        await until(lambda: taker.batches)
        waiting = asyncio.get_running_loop().create_task(group.members[0].settle())
        await asyncio.sleep(0.01)
        assert source.hurry
        source.settled(0, 0.0)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        source.settled(1, 0.0)
        await waiting
        assert not source.hurry


async def test_what_is_left_is_not_delivered_once_partitions_went(group, monkeypatch):
    monkeypatch.setattr(kafka, "_MESSAGES", 1)
    group.fetches = [[run_of(A, 0, b'{"bytes":1}', b'{"bytes":2}')]]
    taker = Taker()

    def deliver(batch):
        group.members[0].rebalances += 1
        return taker(batch)

    async with running(deliver) as source:
        await until(lambda: taker.batches)
        await asyncio.sleep(0.05)
        assert taker.column("bytes") == [1]
        assert source._offsets.position(A) == 1


async def test_it_connects_again_and_again(group):
    group.fails = [KafkaError("gone"), OSError(111, "refused"), RuntimeError("a fault")]
    group.fetches = [KafkaError("lost"), [run_of(A, 0, b'{"bytes":1}')]]
    taker = Taker()
    async with running(taker, brokers=["127.0.0.1:9"]) as source:
        await until(lambda: taker.batches)
        assert source.ready() is None
    assert len(group.members) == 5
    assert all(member.is_closed for member in group.members)


async def test_before_it_is_a_member_it_is_not_ready(group):
    group.fails = [KafkaError("gone")] * 1000
    async with running(Taker(), brokers=["127.0.0.1:9"]) as source:
        await until(lambda: "cannot connect to 127.0.0.1:9" in (source.ready() or ""))


def test_a_row_has_the_same_number_wherever_it_is_read():
    one, two = run_of(A, 5, b"", b""), run_of(A, 6, b"")
    assert row_ids([one])[1] == row_ids([two])[0]
    many = row_ids([run_of(Place(topic, p), 0, *[b""] * 500) for topic in ("x", "y") for p in range(10)])
    assert len(np.unique(many)) == 10_000


async def test_several_rows_of_a_message_have_numbers_of_their_own(group):
    group.fetches = [[run_of(A, 0, b'{"bytes":1}\n{"bytes":2}', b'{"bytes":3}\n{"bytes":4,"row_id":9}')]] * 2
    taker = Taker()
    async with running(taker):
        await until(lambda: taker.batches)
    ids = taker.column("row_id")
    assert len(set(ids)) == 4
    assert ids[3] == 9
    assert max(ids) < 2**63


async def test_numbers_are_given_where_somebody_wants_them(group):
    group.fetches = [[run_of(A, 0, b'{"bytes":1}')]]
    taker = Taker()
    source = Config().build(Context("kafka"))
    source.want(frozenset({"bytes"}))
    source._take(group.fetches[0], taker)
    assert "row_id" not in taker.batches[0]


def test_large_fetches_are_cut(monkeypatch):
    monkeypatch.setattr(kafka, "_BYTES", 10)
    runs = [run_of(A, 0, b"x" * 6, b"x" * 6, b"x"), run_of(B, 0, b"x", None)]
    parts = list(kafka._parts(runs))
    assert [[(r.place, [m.offset for m in r.messages]) for r in part] for part in parts] == [
        [(A, [0, 1])], [(A, [2]), (B, [0, 1])],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"topic": []}, "is empty"), ({"topic": "a b"}, "is no topic"), ({"topic": "^("}, "is no regular expression"),
        ({"schema": "goflow2", "format": "json"}, "is not read as 'json'"), ({"format": "protobuf"}, "is not read as"),
        ({"brokers": []}, "is empty"), ({"settle": "soon"}, "is not a duration"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        msgspec.convert(settings, Config).build(Context("kafka"))


def test_settings_of_the_group(group):
    source = msgspec.convert({"topic": ["flows", "^more-.*"], "group": "g", "start": "latest"}, Config).build(
        Context("kafka")
    )
    assert source._settings == (("flows", "^more-.*"), "g", False, 10.0, 15.0)
