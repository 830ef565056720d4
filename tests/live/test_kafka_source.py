"""Agents that read from Apache Kafka what others wrote: every row arrives, whoever ends, and doubles can be told."""

import json
import subprocess

import pytest
from live.agent import Sums
from live.generate import command, generate, parse
from live.kafka import PASSWORD, USER, Kafka, token
from live.outages import Receiver
from live.polling import until

pytestmark = pytest.mark.service("java", "mvn", "openssl")
SESSION = "6s"
"""The shortest that brokers allow."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    broker = Kafka(tmp_path_factory.mktemp("kafka")).start()
    yield broker
    broker.stop()


@pytest.fixture
def topic(request, kafka):
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    kafka.make_topic(name)
    return name


@pytest.fixture
def edge(make_agent, kafka, topic):
    """Start agents that send what they receive to the topic."""

    def start(**settings):
        sink = {"type": "kafka", "brokers": [kafka.address], "topic": topic, "max_wait": "100ms", **settings}
        return make_agent(export=[sink], analyse=[])

    return start


@pytest.fixture
def central(make_agent, kafka, topic):
    """Start agents that read the topic, all in one group."""

    def start(*, window=0, start=True, export=None, **settings):
        source = {"type": "kafka", "brokers": [kafka.address], "topic": topic, "session_timeout": SESSION, **settings}
        more = {} if export is None else {"export": export}
        return make_agent(ingest=[source], window=window, analyse=[], start=start, **more)

    return start


def rows_of(agent):
    """Those that are whole: one that was killed may have been about to write another."""
    file = agent.directory / "rows.ndjson"
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def sums(rows):
    return Sums(sum(row["packets"] for row in rows), sum(row["bytes"] for row in rows))


def distinct(*agents):
    """Every row once, and how many others there are."""
    rows = [row for agent in agents for row in rows_of(agent)]
    by_id = {row["row_id"]: row for row in rows}
    return list(by_id.values()), len(rows) - len(by_id)


def lag(*agents):
    return sum(agent.metrics().total("flowagent_kafka_lag_messages") for agent in agents)


@pytest.mark.parametrize(
    ("schema", "format_", "many"),
    [("goflow2", "protobuf", 1), ("goflow2", "protobuf", 100), ("canonical", "json", 1), ("canonical", "json", 100),
     ("canonical", "msgpack", 100), ("netobserv", "json", 1), ("netobserv", "msgpack", 1)],
)  # fmt: skip
def test_what_agents_write_is_read(edge, central, schema, format_, many):
    one = edge(schema=schema, format=format_, records_per_message=many)
    sent = generate(one.port, records=5000, rate=10_000, keys=800)
    one.stop()
    reader = central(schema=schema, format=format_)
    until(lambda: sums(rows_of(reader)) == sent.sums, "all rows are read")
    reader.stop()
    rows, repeated = distinct(reader)
    assert (sums(rows), repeated) == (sent.sums, 0)
    if schema == "canonical":
        assert sum(row["records"] for row in rows) == sent.records


@pytest.fixture
def load(edge):
    made = Load(edge)
    yield made
    made.give_up()


class Load:
    """Two agents that write to the topic what two exporters send them for some seconds."""

    def __init__(self, edge, records=60_000, rate=3000):
        self._edges = [edge(schema="goflow2", format="protobuf") for _ in range(2)]
        commands = [
            command(agent.port, records=records, rate=rate, keys=20_000, seed=i) for i, agent in enumerate(self._edges)
        ]
        self._senders = [subprocess.Popen(words, stdout=subprocess.PIPE) for words in commands]

    def give_up(self):
        for sender in self._senders:
            if sender.poll() is None:
                sender.kill()
                sender.communicate()

    def end(self):
        """What was sent; all of it is in the topic then."""
        sent = [parse(sender.communicate()[0]) for sender in self._senders]
        for agent in self._edges:
            agent.stop()
        return sent[0].sums + sent[1].sums


def test_a_member_that_is_killed_costs_no_row(central, load):
    """What it had read and not committed is read by the other; what it had written, too, has the same number."""
    first, second = central(schema="goflow2"), central(schema="goflow2")
    until(lambda: len(rows_of(first)) > 5000, "rows are read", timeout=30)
    until(lambda: len(rows_of(second)) > 5000, "by both", timeout=30)
    first.kill()
    total = load.end()
    until(lambda: sums(distinct(first, second)[0]) == total, "every row is there", timeout=60)
    until(lambda: lag(second) == 0, "all is read")
    second.stop()
    rows, repeated = distinct(first, second)
    assert sums(rows) == total
    assert repeated <= len(rows_of(first))
    print(f"{repeated} of {len(rows)} rows came twice")  # noqa: T201


def test_members_that_come_and_go_in_order_repeat_no_row(central, load):
    agents = [central(schema="goflow2"), central(schema="goflow2")]
    until(lambda: len(rows_of(agents[0])) > 2000, "rows are read", timeout=30)
    agents.append(central(schema="goflow2"))
    until(lambda: len(rows_of(agents[2])) > 1000, "the third has its share", timeout=30)
    agents[0].stop()
    total = load.end()
    until(lambda: sums(distinct(*agents)[0]) == total, "every row is there", timeout=60)
    for agent in agents[1:]:
        agent.stop()
    rows, repeated = distinct(*agents)
    assert (sums(rows), repeated) == (total, 0)


def test_a_window_loses_and_repeats_nothing_where_members_go_in_order(central, load):
    """Rows of a window have no number: partitions are given away only once it is written out."""
    agents = [central(schema="goflow2", window={"every": "10s"}) for _ in range(2)]
    until(lambda: agents[0].metrics().total("flowagent_ingest_records_total") > 2000, "rows are read", timeout=30)
    agents[0].stop()
    total = load.end()
    until(lambda: lag(agents[1]) == 0, "all is read", timeout=30)
    agents[1].stop()
    assert sums([row for agent in agents for row in rows_of(agent)]) == total


def test_while_a_sink_is_away_nothing_is_fetched_and_nothing_lost(edge, central, kafka):
    """Without a spool it is Kafka that keeps the rows; a kill in between costs nothing."""
    receiver = Receiver()
    sink = {"type": "webhook", "url": receiver.url, "spool": 0, "max_wait": "100ms"}
    reader = central(schema="goflow2", export=[sink])
    one = edge(schema="goflow2", format="protobuf")
    sent = generate(one.port, records=20_000, rate=10_000, keys=20_000)
    one.stop()
    until(lambda: reader.metrics().total("flowagent_sink_errors_total"), "the sink is away")
    reader.kill()
    receiver.start()
    reader.start()
    until(lambda: sums(receiver.rows) == sent.sums, "every row is there", timeout=40)
    reader.stop()
    receiver.stop()


def test_a_broker_that_is_away_for_a_while(edge, central, kafka):
    reader = central()
    one = edge()
    sent = generate(one.port, records=2000, rate=10_000, keys=500)
    until(lambda: sums(rows_of(reader)) == sent.sums, "all rows are read")
    kafka.kill()
    more = generate(one.port, records=2000, rate=10_000, keys=500, seed=2)
    kafka.start()
    until(lambda: sums(distinct(reader)[0]) == sent.sums + more.sums, "all rows are read", timeout=90)
    reader.stop()


def test_with_tls_and_a_token(edge, kafka, topic, make_agent, tmp_path):
    (tmp_path / "token").write_text(token(USER, 600))
    (tmp_path / "password").write_text(PASSWORD)
    for sasl in (
        {"mechanism": "OAUTHBEARER", "token_file": str(tmp_path / "token")},
        {"mechanism": "SCRAM-SHA-512", "username": USER, "password_file": str(tmp_path / "password")},
    ):
        source = {
            "type": "kafka", "brokers": [kafka.secure], "topic": topic, "group": sasl["mechanism"],
            "tls": {"ca": str(kafka.ca)}, "sasl": sasl,
        }  # fmt: skip
        reader = make_agent(ingest=[source], analyse=[])
        reader.stop()


def test_what_is_wrong_is_said(kafka, topic, make_agent):
    reader = make_agent(start=False, ingest=[{"type": "kafka", "brokers": ["127.0.0.1:9"], "topic": topic}])
    reader.launch()
    until(lambda: "cannot connect to 127.0.0.1:9: Connection refused" in reader.log, "it says why")
    reader.stop()
