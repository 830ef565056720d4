"""Delivery to Kafka: what is acknowledged, what is tried again, and what is refused."""

import asyncio
from collections import Counter

import msgspec
import pytest
from aiokafka import errors
from pretended import Cluster, install

from flowagent.brokers import Brokers
from flowagent.clock import ManualClock
from flowagent.component import Context
from flowagent.errors import Rejected, Retry
from flowagent.export.kafka import Config
from flowagent.export.producer import Form, Producer, Result, Run

LATE = Cluster.LATE
HEADERS = [("schema", b"x")]


@pytest.fixture
def cluster(monkeypatch):
    return install(monkeypatch)


def made(rows=1, max_bytes=100_000, timeout=0.4, compression="none"):
    ctx = Context("out", ManualClock())
    brokers = Brokers(msgspec.convert({}, Config), ctx)
    form = Form(rows, b"".join, HEADERS)
    return Producer(brokers, form, ctx, timeout=timeout, max_bytes=max_bytes, compression=compression)


def run(*rows, partition=0, topic="flows", key=b"k"):
    return Run(topic, partition, [key] * len(rows), list(rows))


async def deliver(producer, *runs):
    result = Result()
    producer.take(runs, result)
    assert await producer.deliver() is result
    return result


def values(cluster):
    return [message.value for message in cluster.taken]


async def test_messages_arrive_as_they_were_given(cluster):
    producer = made(compression="zstd")
    result = await deliver(producer, run(b"a", b"bb"), run(b"c", partition=2, key=None))
    assert [(m.partition, m.key, m.value) for m in cluster.taken] == [
        (0, b"k", b"a"),
        (0, b"k", b"bb"),
        (2, None, b"c"),
    ]
    assert all(message.headers == {"schema": b"x"} for message in cluster.taken)
    assert {message.timestamp for message in cluster.taken} == {producer._ctx.clock.now_ns() // 10**6}
    assert result == Result(bytes=6)
    (client,) = cluster.clients
    assert client.settings["enable_idempotence"]
    assert client.settings["compression_type"] == "zstd"
    await producer.close()
    assert not cluster.alive


async def test_rows_are_joined_to_messages(cluster):
    await deliver(made(rows=3), run(*(b"%d" % i for i in range(7))), run(b"x", partition=1))
    assert values(cluster) == [b"012", b"345", b"6", b"x"]
    assert {message.key for message in cluster.taken} == {None}


async def test_messages_of_many_rows_have_room(cluster):
    rows = [bytes(3000)] * 10
    await deliver(made(rows=100, max_bytes=10_000), run(*rows))
    assert [len(value) for value in values(cluster)] == [9000, 9000, 9000, 3000]


async def test_what_does_not_fit_into_one_record_batch_goes_with_the_next(cluster):
    rows = [b"%04d" % i * 1000 for i in range(20)]
    await deliver(made(max_bytes=10_000), run(*rows), run(b"x", partition=1))
    assert [value[:4] for value in values(cluster) if value != b"x"] == [row[:4] for row in rows]


async def test_clients_are_made_when_there_is_something_to_do_and_kept(cluster):
    producer = made()
    assert cluster.clients == []
    await deliver(producer, run(b"a"))
    await deliver(producer, run(b"b"))
    assert len(cluster.clients) == 1
    assert producer.is_idle


@pytest.mark.parametrize("error", [errors.KafkaConnectionError("no"), OSError("no"), TimeoutError()])
async def test_brokers_that_are_away(cluster, error):
    producer = made()
    cluster.start_error, cluster.problem = error, "they are away"
    producer.take([run(b"a")], Result())
    for _ in range(2):
        with pytest.raises(Retry, match="they are away"):
            await producer.deliver()
    assert not cluster.alive
    cluster.start_error = None
    assert (await producer.deliver()).bytes == 2
    assert producer.repeated_rows == 0


async def test_brokers_that_hang_while_a_client_starts(cluster):
    class Hanging(BaseException):
        pass

    cluster.start_error = Hanging()
    with pytest.raises(Hanging):
        await made().partitions("flows")
    assert not cluster.alive


async def test_brokers_that_want_credentials(cluster):
    cluster.start_error = errors.KafkaConnectionError("Unable to bootstrap")
    with pytest.raises(Retry, match="do they want credentials"):
        await made().partitions("flows")


async def test_partitions_of_a_topic(cluster):
    producer = made()
    assert await producer.partitions("flows") == 4
    cluster.partitions["flows"] = errors.UnknownTopicOrPartitionError()
    with pytest.raises(Retry, match="the topic flows is not there"):
        await producer.partitions("flows")
    cluster.problem = "they are away"
    with pytest.raises(Retry, match="they are away"):
        await producer.partitions("flows")
    cluster.partitions["flows"] = errors.TopicAuthorizationFailedError("flows")
    with pytest.raises(Rejected, match="not_authorized: topic flows"):
        await producer.partitions("flows")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.MessageSizeTooLargeError(), "too_large"),
        (errors.RecordListTooLargeError(), "too_large"),
        (errors.InvalidTopicError(), "invalid_topic"),
        (errors.TopicAuthorizationFailedError("flows"), "not_authorized"),
        (errors.ClusterAuthorizationFailedError(), "not_authorized"),
        (errors.InvalidTimestampError(), "refused"),
        (errors.PolicyViolationError(), "refused"),
    ],
)
async def test_what_is_refused_costs_itself_only(cluster, error, reason):
    producer = made()
    cluster.answers = [None, error]
    result = await deliver(producer, run(b"a"), run(b"b", partition=1), run(b"c", partition=2))
    assert values(cluster) == [b"a", b"c"]
    assert result.refused == Counter({reason: 1})
    assert "topic flows: " in result.why
    await deliver(producer, run(b"d", partition=1))
    assert values(cluster)[-1] == b"d"
    assert len(cluster.clients) == 2
    assert len(cluster.alive) == 1


@pytest.mark.parametrize(
    ("error", "repeated"),
    [
        (errors.OutOfOrderSequenceNumber(), 0),
        (errors.UnknownError(), 0),
        (errors.InvalidProducerEpoch(), 0),
        (errors.ProducerFenced(), 1),
        (errors.KafkaError("unexpected"), 1),
    ],
)
async def test_what_may_be_tried_again_is(cluster, error, repeated):
    producer = made()
    cluster.answers = [None, error]
    producer.take([run(b"a"), run(b"b", partition=1)], Result())
    with pytest.raises(Retry, match="topic flows: "):
        await producer.deliver()
    assert (await producer.deliver()).bytes == 4
    assert values(cluster) == [b"a", b"b"]
    assert producer.repeated_rows == repeated
    assert len(cluster.clients) == 2


async def test_record_batches_that_are_too_large_are_halved(cluster):
    producer = made(max_bytes=100_000)
    rows = [b"%02d" % i + bytes(500) for i in range(16)]
    cluster.answers = [errors.MessageSizeTooLargeError(), errors.MessageSizeTooLargeError()]
    result = await deliver(producer, run(*rows))
    assert values(cluster) == rows
    assert not result.refused
    assert cluster.clients[-1].settings["max_batch_size"] < 2100
    await deliver(producer, run(*rows))
    assert values(cluster) == rows * 2
    assert producer.repeated_rows == 0


async def test_rows_that_are_too_large_for_any_record_batch(cluster):
    result = await deliver(made(max_bytes=10_000), run(b"a", bytes(9_990), b"b"), run(bytes(11_000), partition=1))
    assert values(cluster) == [b"a", b"b"]
    assert result.refused == Counter(too_large=2)


async def test_what_is_not_acknowledged_stays_on_its_way(cluster):
    producer = made()
    cluster.answers = [None, LATE]
    producer.take([run(b"a"), run(b"b", partition=1)], Result())
    cluster.problem = "they are away"
    for _ in range(10):
        with pytest.raises(Retry, match="they are away"):
            await producer.deliver()
    assert not producer.is_idle
    cluster.wake()
    assert (await producer.deliver()).bytes == 4
    assert values(cluster) == [b"a", b"b"]
    assert len(cluster.clients) == 1
    assert producer.repeated_rows == 0


async def test_a_call_that_is_cancelled_loses_nothing(cluster):
    producer = made(timeout=60)
    cluster.answers = [LATE]
    producer.take([run(b"a")], Result())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await producer.deliver()
    cluster.wake()
    assert (await producer.deliver()).bytes == 2
    assert values(cluster) == [b"a"]


async def test_a_client_that_hears_nothing_of_brokers_that_are_there_is_given_up(cluster):
    producer = made()
    cluster.answers = [LATE]
    producer.take([run(b"a", b"b"), run(b"c", partition=1)], Result())
    for _ in range(4):
        with pytest.raises(Retry, match=r"no acknowledgement .* in-sync replicas"):
            await producer.deliver()
    assert not cluster.alive
    assert (await producer.deliver()).bytes == 6
    assert sorted(values(cluster)) == [b"a", b"b", b"c"]
    assert producer.repeated_rows == 2


async def test_dropped_rows_do_not_come_any_more(cluster):
    producer = made()
    cluster.answers = [LATE]
    producer.take([run(b"a")], Result())
    with pytest.raises(Retry):
        await producer.deliver()
    await producer.drop()
    assert producer.is_idle
    assert not cluster.alive
    cluster.wake()
    await deliver(producer, run(b"b"))
    assert values(cluster) == [b"b"]
    assert producer.repeated_rows == 0


async def test_a_topic_that_lost_partitions(cluster):
    producer = made()
    cluster.partitions["flows"] = 1
    producer.take([run(b"a"), run(b"b", partition=1)], Result())
    with pytest.raises(Retry, match="fewer partitions"):
        await producer.deliver()
    assert producer.is_idle


async def test_a_topic_that_is_forbidden_meanwhile(cluster):
    cluster.partitions["secret"] = errors.TopicAuthorizationFailedError("secret")
    result = await deliver(made(), run(b"a"), run(b"b", b"c", topic="secret"))
    assert values(cluster) == [b"a"]
    assert result.refused == Counter(not_authorized=2)


async def test_a_client_that_fails_when_it_is_given_something(cluster, monkeypatch):
    producer = made()
    await deliver(producer, run(b"a"))
    (client,) = cluster.clients

    async def send_batch(batch, topic, *, partition):
        raise errors.ProducerClosed

    monkeypatch.setattr(client, "send_batch", send_batch)
    producer.take([run(b"b")], Result())
    with pytest.raises(Retry, match="ProducerClosed"):
        await producer.deliver()
    assert (await producer.deliver()).bytes == 2
    assert values(cluster) == [b"a", b"b"]
