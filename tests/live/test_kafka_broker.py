"""Apache Kafka has what the sink and the agent sent it, through outages of the broker, too."""

import asyncio
import gc
import ipaddress
import json
import os
import re
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from live.agent import Sums
from live.generate import generate
from live.kafka import PARTITIONS, PASSWORD, STRANGER, USER, Kafka, token
from live.polling import until

from flowagent import config
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.errors import Rejected, Retry
from flowagent.export.kafka import Config

pytestmark = pytest.mark.service("java", "mvn", "openssl")
DOCS = Path(__file__).parents[2] / "docs" / "sinks" / "kafka.md"
OUTAGE_SECONDS = float(os.environ.get("FLOWAGENT_TEST_OUTAGE_SECONDS", "15"))
"""How long the broker is away."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    broker = Kafka(tmp_path_factory.mktemp("kafka")).start()
    yield broker
    broker.stop()


@pytest.fixture
def topic(request):
    """One that no other test has."""
    return re.sub(r"[^\w.-]", "-", request.node.name)


def rows(n, hosts=40, seed=0):
    """Rows numbered by `bytes`; both directions of the conversations of some hosts."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(1, hosts + 1, (2, n)).astype(np.uint64)
    high = np.zeros(n, np.uint64)
    return Batch({
        "src_addr": np.stack([high, np.uint64(0xFFFF0A000000) + ends[0]]),
        "dst_addr": np.stack([high, np.uint64(0xFFFF0A000000) + ends[1]]),
        "proto": rng.choice(np.array([6, 17], np.uint8), n),
        "bytes": np.arange(n, dtype=np.uint64),
    })  # fmt: skip


def settings(kafka, topic, **more):
    return msgspec.convert({"brokers": [kafka.address], **more, "topic": topic}, Config)


def produce(kafka, topic, *batches, **more):
    """Send rows by the sink alone."""

    async def write():
        try:
            async with settings(kafka, topic, **more).build(Context("kafka")) as sink:
                for batch in batches:
                    await sink.write(batch)
        finally:
            await asyncio.sleep(0.05)  # the client does not wait until connections that failed are closed

    asyncio.run(write())


def numbers(messages):
    """`bytes` of all rows."""
    return [json.loads(line)["bytes"] for message in messages for line in message.value.splitlines()]


def pair(row):
    """Both ends, however the row has them."""
    return frozenset((row["src_addr"], row["dst_addr"]))


@pytest.mark.parametrize("many", [1, 100])
@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_row_arrives_once_and_in_order_by_conversation(kafka, topic, many, compression):
    batch = rows(3000)
    produce(
        kafka, topic, batch.rows(0, 1500), batch.rows(1500, 3000), compression=compression, records_per_message=many
    )
    messages = kafka.messages(topic)
    assert sorted(numbers(messages)) == list(range(3000))
    assert len(messages) <= 3000 // many + PARTITIONS * 2
    partitions, order = defaultdict(set), defaultdict(list)
    for message in messages:
        for line in message.value.splitlines():
            row = json.loads(line)
            partitions[pair(row)].add(message.partition)
            order[pair(row)].append(row["bytes"])
    assert {len(found) for found in partitions.values()} == {1}
    assert all(found == sorted(found) for found in order.values())
    assert len({message.partition for message in messages}) == PARTITIONS


def test_a_message_says_what_it_is(kafka, topic):
    produce(kafka, topic, rows(10), schema="netobserv")
    for message in kafka.messages(topic):
        row = json.loads(message.value)
        ends = sorted(ipaddress.ip_address(f"::ffff:{row[name]}").packed for name in ("SrcAddr", "DstAddr"))
        assert message.key == b"".join(ends)
        assert dict(message.headers)["schema"] == b"netobserv/json"
        assert dict(message.headers)["content-type"] == b"application/json"
        assert abs(message.timestamp / 1000 - time.time()) < 60  # noqa: TID251


def test_topics_by_protocol(kafka):
    produce(kafka, "by-{proto}", rows(1000))
    found = {n: [json.loads(m.value)["proto"] for m in kafka.messages(f"by-{n}")] for n in (6, 17)}
    assert set(found[6]) == {6}
    assert set(found[17]) == {17}
    assert len(found[6]) + len(found[17]) == 1000


def test_rows_without_a_key_are_spread(kafka, topic):
    produce(kafka, topic, *(rows(2000) for _ in range(3)), key="none")
    messages = kafka.messages(topic)
    assert sorted(numbers(messages)) == sorted([*range(2000)] * 3)
    assert Counter(message.partition for message in messages) == dict.fromkeys(range(PARTITIONS), 1000)


@pytest.mark.parametrize("many", [1, 1000])
def test_a_broker_that_takes_less_than_was_thought_gets_less(kafka, topic, many):
    kafka.make_topic(topic, 1, max_message_bytes="2000")
    produce(kafka, topic, rows(200), rows(200), compression="none", records_per_message=many)
    assert sorted(numbers(kafka.messages(topic))) == sorted([*range(200)] * 2)


def test_a_row_that_is_too_large_costs_itself_only(kafka, topic, caplog):
    kafka.make_topic(topic, 2, max_message_bytes="2000")
    batch = rows(50)
    notes = np.array([b"x"] * 50, object)
    notes[7] = bytes(5000)
    notes[8] = bytes(15_000)
    batch = batch.with_columns({"pen6876_1": notes})
    produce(kafka, topic, batch, compression="none", max_message_bytes="10kB")
    assert sorted(numbers(kafka.messages(topic))) == [n for n in range(50) if n not in (7, 8)]
    assert "2 of 50 rows were refused, " in caplog.text


def test_only_rows_that_are_too_large(kafka, topic):
    batch = rows(1).with_columns({"pen6876_1": np.array([bytes(20_000)], object)})
    with pytest.raises(Rejected, match="too_large"):
        produce(kafka, topic, batch, max_message_bytes="10kB")


def secure(kafka, tmp_path, password=PASSWORD, username=USER, mechanism="SCRAM-SHA-512"):
    """Settings for the listener that wants to know who comes."""
    (tmp_path / "password").write_text(password)
    sasl = {"mechanism": mechanism, "username": username, "password_file": str(tmp_path / "password")}
    return {"brokers": [kafka.secure], "tls": {"ca": str(kafka.ca)}, "sasl": sasl}


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_with_tls_and_credentials(kafka, topic, tmp_path, mechanism):
    produce(kafka, topic, rows(100), **secure(kafka, tmp_path, mechanism=mechanism))
    assert sorted(numbers(kafka.messages(topic))) == list(range(100))


def bearing(kafka, tmp_path, text):
    """Settings for the same listener, with a token."""
    (tmp_path / "token").write_text(text)
    sasl = {"mechanism": "OAUTHBEARER", "token_file": str(tmp_path / "token")}
    return {"brokers": [kafka.secure], "tls": {"ca": str(kafka.ca)}, "sasl": sasl}


def test_with_a_token(kafka, topic, tmp_path):
    produce(kafka, topic, rows(100), **bearing(kafka, tmp_path, token(USER, 600)))
    assert sorted(numbers(kafka.messages(topic))) == list(range(100))


def test_a_token_of_somebody_who_may_not(kafka, topic, tmp_path):
    with pytest.raises(Retry, match="cluster authorization failed"):
        produce(kafka, topic, rows(1), **bearing(kafka, tmp_path, token(STRANGER, 600)))


def test_an_expired_token_costs_no_row_and_can_be_mended(kafka, topic, tmp_path):
    with_token = bearing(kafka, tmp_path, token(USER, -600))

    async def write():
        async with settings(kafka, topic, timeout="4s", **with_token).build(Context("kafka")) as sink:
            with pytest.raises(Retry):
                await sink.write(rows(100))
            (tmp_path / "token").write_text(token(USER, 600))
            await sink.write(rows(100))
        await asyncio.sleep(0.05)

    asyncio.run(write())
    assert sorted(numbers(kafka.messages(topic))) == list(range(100))


def test_a_dead_broker_in_the_list_costs_nothing(kafka, topic):
    produce(kafka, topic, rows(100), brokers=["127.0.0.1:9", "no.such.host.invalid", kafka.address])
    assert sorted(numbers(kafka.messages(topic))) == list(range(100))


def test_what_is_wrong_is_said(kafka, topic, tmp_path):
    good = secure(kafka, tmp_path)
    for wrong, words in (
        (secure(kafka, tmp_path, mechanism="SCRAM-SHA-256"), "refuses the credentials with SCRAM-SHA-256"),
        (secure(kafka, tmp_path, username=STRANGER), "cluster authorization failed"),
        ({**good, "tls": {}}, "certificate verify failed"),
        ({**good, "tls": None}, "does it expect TLS"),
        ({**good, "sasl": None}, "do they want credentials"),
        ({**good, "brokers": [kafka.address]}, "does it speak TLS"),
        ({"brokers": ["127.0.0.1:9"]}, "cannot connect to 127.0.0.1:9: Connection refused"),
        ({"brokers": ["no.such.host.invalid"]}, "cannot connect to no.such.host.invalid:9092"),
    ):
        with pytest.raises(Retry, match=words):
            produce(kafka, topic, rows(1), **wrong)


def test_a_wrong_password_shows_in_readiness_and_can_be_mended(kafka, topic, tmp_path, make_agent):
    entry = {"type": "kafka", "topic": topic, **secure(kafka, tmp_path, password="wrong")}
    agent = make_agent(export=[entry], analyse=[])
    sent = generate(agent.port, records=1000, rate=10_000, keys=100)
    until(lambda: "refuses the credentials" in agent.log, "the log says it")
    with pytest.raises(OSError, match="503"):
        agent.get("/readyz")
    (tmp_path / "password").write_text(PASSWORD)
    until(lambda: total(kafka, topic) == sent.sums, "all is there", timeout=60, every=0.5)
    agent.stop()


def total(kafka, *topics):
    """Sums over all rows that are in the topics."""
    found = [json.loads(line) for message in kafka.messages(*topics) for line in message.value.splitlines()]
    return Sums(sum(row["packets"] for row in found), sum(row["bytes"] for row in found))


def test_what_the_agent_saw_is_what_kafka_has(kafka, topic, make_agent):
    agent = make_agent(export=[{"type": "kafka", "brokers": [kafka.address], "topic": topic}], analyse=[])
    sent = generate(agent.port, protocol="ipfix", records=40_000, rate=20_000, keys=500)
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    agent.stop()
    assert total(kafka, topic) == sent.sums


def test_rows_of_an_outage_come_once_when_it_is_over(kafka, topic, make_agent):
    entry = {"type": "kafka", "brokers": [kafka.address], "topic": topic, "timeout": "8s"}
    agent = make_agent(export=[entry], analyse=[])
    sent = [generate(agent.port, records=5000, rate=10_000, keys=300)]
    until(lambda: agent.metrics().total("flowagent_sink_records_total"), "rows are sent")
    kafka.stop()
    try:
        ends = time.perf_counter() + OUTAGE_SECONDS
        sent.append(generate(agent.port, records=5000, rate=10_000, keys=300))
        until(lambda: agent.metrics().total("flowagent_spool_rows"), "rows go to the spool")
        until(lambda: "Connection refused" in agent.log, "the log says why")
        with pytest.raises(OSError, match="503"):
            agent.get("/readyz")
        time.sleep(max(0, ends - time.perf_counter()))
    finally:
        kafka.start()
    back = time.perf_counter()
    # A write that was begun before ends by its timeout, then comes the longest pause.
    until(lambda: agent.metrics().total("flowagent_records_pending") == 0, "all is sent", timeout=20)
    print(f"all is sent {time.perf_counter() - back:.1f} s after the end of the outage")  # noqa: T201
    agent.get("/readyz")
    agent.stop()
    assert total(kafka, topic) == sent[0].sums + sent[1].sums


class Stream:
    """Numbered rows written all the time, each batch until it is taken."""

    def __init__(self, settings):
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.batches = 0
        self.retries = 0
        self.repeated_rows = 0

    async def _run(self):
        async with self._settings.build(Context("kafka")) as sink:
            while not self._stop.is_set():
                batch = rows(2000).with_columns({"bytes": np.arange(2000, dtype=np.uint64) + 2000 * self.batches})
                while True:
                    try:
                        async with asyncio.timeout(5):
                            await sink.write(Batch(batch.columns))
                        break
                    except (Retry, TimeoutError):
                        self.retries += 1
                        await asyncio.sleep(0.2)
                self.batches += 1
            self.repeated_rows = sink._producer.repeated_rows

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_a_broker_that_is_killed_loses_no_row(kafka, topic):
    with Stream(settings(kafka, topic, timeout="5s")) as stream:
        until(lambda: stream.batches > 3, "batches are taken")
        kafka.kill()
        until(lambda: stream.retries, "the sink notices")
        kafka.start()
        before = stream.batches
        until(lambda: stream.batches > before + 3, "batches are taken again", timeout=30)
    found = Counter(numbers(kafka.messages(topic)))
    assert found.keys() == set(range(2000 * stream.batches))
    assert found.total() - len(found) <= stream.repeated_rows <= 2000


def test_when_one_of_two_brokers_is_killed_the_other_takes_all(kafka, topic, tmp_path):
    second = Kafka(tmp_path, joins=kafka).start()
    try:
        kafka.make_topic(topic, replicas=2)
        with Stream(settings(kafka, topic, timeout="5s", brokers=[second.address, kafka.address])) as stream:
            until(lambda: stream.batches > 3, "batches are taken")
            second.kill()
            before = stream.batches
            until(lambda: stream.batches > before + 3, "batches are taken again", timeout=30)
    finally:
        second.kill()
    assert Counter(numbers(kafka.messages(topic))).keys() == set(range(2000 * stream.batches))


def test_another_batch_after_one_that_failed(kafka, topic, caplog):
    """The outlet drops what does not fit its spool: what failed does not come again."""

    async def write():
        async with settings(kafka, topic, timeout="4s").build(Context("kafka")) as sink:
            await sink.write(rows(10))
            kafka.stop()
            for _ in range(2):
                with pytest.raises(Retry, match="Connection refused"):
                    await sink.write(rows(1000, seed=1))
            kafka.start()
            await sink.write(rows(20))

    asyncio.run(write())
    assert len(numbers(kafka.messages(topic))) == 30
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []  # errors that nobody asked for


def examples():
    """The entries of `export` in the documentation."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return [entry for block in blocks for entry in yaml.safe_load(block)]


def test_the_first_example_of_the_documentation_works(kafka, make_agent):
    (example, _) = examples()
    parsed = config.parse({"export": [example]}, {"KAFKA": kafka.address})
    entry = {"type": "kafka", **msgspec.to_builtins(parsed.export[0].settings)}
    agent = make_agent(export=[entry], analyse=[])
    sent = generate(agent.port, records=2000, rate=10_000, keys=300)
    until(lambda: agent.metrics().decoded == sent.records, "all records came")
    agent.stop()
    found = [json.loads(message.value) for message in kafka.messages("flows")]
    assert Sums(sum(row["Packets"] for row in found), sum(row["Bytes"] for row in found)) == sent.sums


def test_the_example_with_credentials_works(kafka, tmp_path):
    (_, example) = examples()
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "ca.pem").write_bytes(kafka.ca.read_bytes())
    parsed = config.parse({"export": [example]}, {"SECRETS": str(tmp_path)}).export[0].settings
    batch = rows(10).with_columns({"exporter": rows(10)["src_addr"]})
    more = {**msgspec.to_builtins(parsed), "brokers": [kafka.secure]}
    produce(kafka, more.pop("topic"), batch, **more)
    topics = {f"flows-10.0.0.{low & 255}" for low in batch["exporter"][1].tolist()}
    assert sorted(numbers(kafka.messages(*topics))) == list(range(10))
