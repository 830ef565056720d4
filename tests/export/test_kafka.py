"""The Kafka sink: rows as messages, their keys, partitions, topics and headers, and what the outlet is told."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiokafka import errors
from aiokafka.partitioner import DefaultPartitioner
from answering import delivered
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from pretended import Cluster, install

from flowagent import __version__
from flowagent.batch import Batch, constant
from flowagent.component import Context
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.export.kafka import Config, same_rows
from flowagent.export.keys import address_keys
from flowagent.export.schemas import FORMATS, encoder
from flowagent.frames import pack, unpack


@pytest.fixture
def cluster(monkeypatch):
    return install(monkeypatch)


def rows(n, seed=0):
    """Numbered by `bytes`; both directions of some conversations."""
    ends = np.random.default_rng(seed).integers(1, 9, (2, n)).astype(np.uint64)
    addresses = [np.stack([np.zeros(n, np.uint64), np.uint64(0xFFFF0A000000) + end]) for end in ends]
    return Batch({
        "src_addr": addresses[0],
        "dst_addr": addresses[1],
        "proto": np.where(np.arange(n) % 3, 6, 17).astype(np.uint8),
        "bytes": np.arange(n, dtype=np.uint64),
    })  # fmt: skip


def build(**settings):
    ctx = Context("out")
    return ctx, msgspec.convert({"timeout": 0.4, **settings}, Config).build(ctx)


async def write(*batches, **settings):
    """Bytes that the sink says it sent."""
    _, sink = build(**settings)
    async with sink:
        return sum([await sink.write(batch) for batch in batches])


def numbers(messages):
    return [json.loads(line)["bytes"] for message in messages for line in message.value.splitlines()]


def shown(ctx, name):
    return {labels: value for family in ctx.metrics.collect() if family.name == name
            for labels, value in family.samples.items() if value}  # fmt: skip


@pytest.mark.parametrize(("schema", "format_"), [(s, f) for s, formats in FORMATS.items() for f in formats])
async def test_every_schema_in_every_format(cluster, schema, format_):
    batch = rows(50)
    size = await write(batch, schema=schema, format=format_)
    made = encoder(schema, format_)
    expected = made.delimited(batch) if format_ == "protobuf" else made.messages(batch)
    assert Counter(message.value for message in cluster.taken) == Counter(expected)
    assert size == sum(map(len, expected)) + 50 * 32
    for message in cluster.taken:
        assert message.headers == {
            "schema": f"{schema}/{format_}".encode(),
            "content-type": made.content_type.encode(),
            "flowagent-version": __version__.encode(),
        }


@pytest.mark.parametrize(("schema", "format_"), [(s, f) for s, formats in FORMATS.items() for f in formats])
async def test_many_rows_in_a_message(cluster, schema, format_):
    batch = rows(50)
    cluster.partitions["flows"] = 1
    await write(batch, schema=schema, format=format_, records_per_message=30)
    made = encoder(schema, format_)
    expected = [made.joined(batch.rows(0, 30)), made.joined(batch.rows(30, 50))]
    assert [message.value for message in cluster.taken] == expected
    assert {message.key for message in cluster.taken} == {None}
    kind = b"application/x-ndjson" if format_ == "json" else made.content_type.encode()
    assert {message.headers["content-type"] for message in cluster.taken} == {kind}


async def test_the_default_format_is_json(cluster):
    await write(rows(1), schema="goflow2")
    assert cluster.taken[0].headers["schema"] == b"goflow2/json"


@trials(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 30), n=st.integers(1, 200), many=st.sampled_from([1, 7]), seed=st.integers(0, 99))
async def test_conversations_keep_to_their_partition_and_order(cluster, count, n, many, seed):
    cluster.taken.clear()
    cluster.partitions["flows"] = count
    batch = rows(n, seed)
    await write(batch, records_per_message=many)
    keys = address_keys(batch)
    partitions = list(range(count))
    assert sorted(numbers(cluster.taken)) == list(range(n))
    for key in set(keys):
        expected = [i for i in range(n) if keys[i] == key]
        mine = [m for m in cluster.taken if m.partition == DefaultPartitioner()(key, partitions, partitions)]
        assert [i for i in numbers(mine) if keys[i] == key] == expected
        if many == 1:
            assert [numbers([m])[0] for m in mine if m.key == key] == expected


async def test_keys_from_columns(cluster):
    await write(rows(10), key=["proto"])
    assert {message.key for message in cluster.taken} == {b"\x06", b"\x11"}


async def test_no_keys(cluster):
    cluster.partitions["flows"] = 3
    await write(*[rows(2000)] * 3, key="none")
    assert {message.key for message in cluster.taken} == {None}
    assert Counter(message.partition for message in cluster.taken) == {0: 2000, 1: 2000, 2: 2000}
    for partition in range(3):
        found = numbers(message for message in cluster.taken if message.partition == partition)
        assert all(b - a == 1 for a, b in pairwise(found) if b % 1000)


async def test_rows_without_addresses_have_no_key(cluster):
    batch = rows(20)
    known = np.arange(20) % 2 > 0
    await write(Batch(batch.columns, valid={"src_addr": known, "dst_addr": known}))
    assert Counter(message.key is None for message in cluster.taken) == {True: 10, False: 10}


async def test_topics_from_columns(cluster):
    cluster.partitions["by-6"], cluster.partitions["by-17"] = 2, 5
    ctx, sink = build(topic="by-{proto}", key="none", max_topics=1)
    async with sink:
        await sink.write(rows(30))
        assert shown(ctx, "flowagent_sink_topics") == {("out",): 1}
        assert shown(ctx, "flowagent_sink_other_topic_rows") == {("out",): 20}
    assert {m.topic: json.loads(m.value)["proto"] for m in cluster.taken} == {"by-17": 17, "by-other": 6}
    assert sorted(numbers(cluster.taken)) == list(range(30))


async def test_a_topic_that_must_not_be_used_costs_its_rows_only(cluster, caplog):
    cluster.partitions["by-6"] = errors.TopicAuthorizationFailedError("by-6")
    ctx, sink = build(topic="by-{proto}")
    async with sink:
        for _ in range(2):
            await sink.write(rows(30))
        assert shown(ctx, "flowagent_sink_refused_rows") == {("out", "not_authorized"): 40}
    assert Counter(message.topic for message in cluster.taken) == {"by-17": 20}
    assert caplog.text.count("20 of 30 rows were refused, topic by-6") == 1


async def test_only_rows_that_are_refused(cluster):
    ctx, sink = build()
    async with sink:
        cluster.partitions["flows"] = errors.TopicAuthorizationFailedError("flows")
        with pytest.raises(Rejected, match="not_authorized: topic flows"):
            await sink.write(rows(3))
        cluster.partitions["flows"] = 1
        cluster.answers = [errors.InvalidTopicError()]
        with pytest.raises(Rejected, match="invalid_topic"):
            await sink.write(rows(3))
        assert await sink.write(rows(3)) > 0
        assert shown(ctx, "flowagent_sink_refused_rows") == {("out", "not_authorized"): 3, ("out", "invalid_topic"): 3}
    assert numbers(cluster.taken) == [0, 1, 2]


async def test_a_write_that_is_tried_again_goes_on_where_it_was(cluster):
    ctx, sink = build()
    async with sink:
        cluster.partitions["flows"] = 2
        cluster.answers = [None, Cluster.LATE]
        batch = rows(100)
        with pytest.raises(Retry):
            await sink.write(batch)
        with pytest.raises(Retry):
            await sink.write(unpack(pack(batch)))  # as it comes from the spool
        cluster.wake()
        size = await sink.write(unpack(pack(batch)))
        assert size == sum(len(message.value) + len(message.key) for message in cluster.taken)
        assert shown(ctx, "flowagent_sink_repeated_rows") == {}
    assert sorted(numbers(cluster.taken)) == list(range(100))


async def test_another_batch_instead_of_the_one_that_failed(cluster):
    _, sink = build()
    async with sink:
        cluster.partitions["flows"] = 1
        cluster.answers = [Cluster.LATE]
        with pytest.raises(Retry):
            await sink.write(rows(5))
        await sink.write(rows(3))
    cluster.wake()
    assert numbers(cluster.taken) == [0, 1, 2]
    assert not cluster.alive


async def test_the_outlet_sends_all_whatever_happens_on_the_way(cluster):
    settings = msgspec.convert({"timeout": 0.4, "batch_rows": 50}, Config)
    cluster.answers = [errors.OutOfOrderSequenceNumber(), None, None, errors.KafkaError("odd"), None, Cluster.LATE]
    assert await delivered(settings, [rows(50), rows(50, seed=1)]) == {("exported", ""): 100}
    assert Counter(numbers(cluster.taken)) == Counter([*range(50)] * 2)
    assert not cluster.alive


async def test_nothing_to_write(cluster):
    assert await write(Batch({})) == 0
    assert not cluster.clients


def test_building_does_nothing(cluster):
    build()
    assert not cluster.clients


def test_columns():
    columns = build(schema="netobserv", key=["vlan"], topic="a-{next_hop}")[1].columns()
    assert columns == encoder("netobserv").columns | {"vlan", "next_hop"}
    assert build(key=["vlan"])[1].columns() is None


def test_columns_that_there_may_be():
    build(key=["src_addr", "src_k8s_namespace", "forwardingStatus", "pen6876_898", "interfaceName_2", "vlan_2"])


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"key": ["src_adr"]}, "out.key", "did you mean src_addr"),
        ({"key": []}, "out.key", "is empty"),
        ({"topic": "flows-{protocol}"}, "out.topic", "'protocol' is not a column"),
        ({"topic": "my flows"}, "out.topic", "is no topic"),
        ({"format": "protobuf"}, "out.format", "canonical is not written as 'protobuf'"),
        ({"max_message_bytes": "1kB"}, "out.max_message_bytes", "from 10kB"),
        ({"max_message_bytes": "1GB"}, "out.max_message_bytes", "to 100MB"),
        ({"brokers": []}, "out.brokers", "is empty"),
        ({"sasl": {"username": "me"}}, "out.sasl.password_file", "is missing"),
    ],
)
def test_settings_that_are_wrong(settings, path, words):
    with pytest.raises(ConfigError, match=words) as raised:
        build(**settings)
    assert raised.value.path == path


async def test_credentials_in_the_open_are_reported(cluster, tmp_path, caplog):
    (tmp_path / "password").write_text("x")
    sasl = {"mechanism": "PLAIN", "username": "me", "password_file": str(tmp_path / "password")}
    async with build(brokers=["kafka:9092"], sasl=sasl)[1]:
        assert "credentials go to kafka:9092 unencrypted" in caplog.text


def test_batches_of_the_same_rows():
    batch = rows(10).with_columns(
        {
            "sampling_rate": np.array([np.nan, 1.5] * 5),
            "wlanSSID": np.array([b"x", b"y"] * 5, object),
            "vlan": constant(3, 10, np.uint16),
        },
        {"sampling_rate": np.arange(10) % 2 > 0},
    )
    assert same_rows(batch, batch)
    assert same_rows(batch, unpack(pack(batch)))
    for other in (
        batch.rows(0, 9),
        batch.select(["src_addr"]),
        batch.with_columns({"proto": batch["bytes"].astype(np.uint8)}),
        batch.with_columns({"vlan": constant(4, 10, np.uint16)}),
        Batch(batch.columns),
        Batch(batch.columns, valid={"sampling_rate": np.zeros(10, np.bool_)}),
    ):
        assert not same_rows(batch, other)


def test_the_documentation_names_what_there_is():
    text = (Path(__file__).parents[2] / "docs" / "sinks" / "kafka.md").read_text()
    for name in (
        "max_topics",
        "records_per_message",
        "max_message_bytes",
        "compression",
        "brokers",
        "sasl",
        "tls",
        "key",
    ):
        assert name in Config.__struct_fields__
        assert name in text
