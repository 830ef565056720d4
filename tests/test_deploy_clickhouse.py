"""What deploy/ does with the topic of Kafka: flow.proto and clickhouse.sql read what the agent writes.

FLOWAGENT_TEST_CLICKHOUSE names a `clickhouse` program where there is one; it gets a test of its own.
"""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import yaml
from export.protobuf_class import message_class
from google.protobuf.unknown_fields import UnknownFieldSet

from flowagent.batch import Batch
from flowagent.clock import SystemClock
from flowagent.export import goflow2, schemas
from flowagent.schema import COLUMNS, EXPORT_PROTOCOLS

DEPLOY = Path(__file__).parents[1] / "deploy"
PROTO = (DEPLOY / "flow.proto").read_text("utf-8")
SQL = (DEPLOY / "clickhouse.sql").read_text("utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
AGENT = yaml.safe_load((DEPLOY / "agent.yaml").read_text("utf-8"))
SINK = next(entry for entry in AGENT["export"] if entry["type"] == "kafka")
NOW_NS = SystemClock().now_ns()
"""Rows must be new: ClickHouse deletes old ones."""


def proto_fields():
    """{name: (number, type)} of flow.proto, its types in the words of goflow2.py."""
    found = re.findall(r"^  ((?:repeated )?\w+) (\w+) = (\d+);$", PROTO, re.MULTILINE)
    return {field: (int(number), "enum" if kind == "FlowType" else kind) for kind, field, number in found}


def proto_enum():
    """[(name, number)] of FlowType."""
    found = re.findall(r"^    (\w+) = (\d+);$", PROTO, re.MULTILINE)
    return [(kind, int(number)) for kind, number in found]


def flow_rows(n):
    """n rows in which every field of the message is known, IPv4 and IPv6 in turn, as if received now."""
    numbers = np.arange(1, n + 1, dtype=np.uint64)
    is_v4 = numbers % 2 == 1
    address = np.stack([np.where(is_v4, 0, 0x20010DB8 << 32), np.where(is_v4, 0xFFFF_0A00_0000, 0) + numbers])
    columns = {}
    for column in schemas.encoder("goflow2", "protobuf").columns - {"sampling_source"}:
        is_address = COLUMNS[column].kind == "addr" if column in COLUMNS else column.endswith("Address")
        dtype = COLUMNS[column].dtype if column in COLUMNS else "u4"
        columns[column] = address.astype(np.uint64) if is_address else np.ones(n, dtype)
    columns |= {"bytes": numbers * 1000, "packets": numbers, "sampling_rate": np.full(n, 100.0)}
    columns |= {"weight": np.full(n, 4.0), "inclusion_prob": np.full(n, 0.25)}
    columns["export_protocol"][:] = EXPORT_PROTOCOLS.index("ipfix")
    columns |= dict.fromkeys(("start_ns", "end_ns", "received_ns"), NOW_NS + np.arange(n))
    return Batch(columns, n)


def delimited(data):
    """The messages in a stream of messages, each behind its length."""
    messages = []
    while data:
        length = shift = at = 0
        while not at or data[at - 1] & 0x80:
            length |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
        messages.append(data[at : at + length])
        data = data[at + length :]
    return messages


def test_flow_proto_has_the_fields_that_the_agent_writes():
    assert proto_fields() == {field.name: (field.number, field.type) for field in goflow2.FIELDS}


def test_flow_proto_has_the_types_of_exports():
    assert proto_enum() == [(kind, number) for number, kind in enumerate(goflow2.FLOW_TYPES)]


def test_what_the_agent_writes_is_read_by_flow_proto():
    message = message_class(proto_fields(), tuple(kind for kind, _ in proto_enum()))
    rows = flow_rows(10)
    data = b"".join(schemas.encoder(SINK["schema"], SINK["format"]).delimited(rows))
    found = [message.FromString(each) for each in delimited(data)]
    assert [flow.bytes for flow in found] == [4000 * i for i in range(1, 11)]
    assert [flow.packets for flow in found] == [4 * i for i in range(1, 11)]
    assert [len(flow.src_addr) for flow in found] == [4, 16] * 5
    for flow in found:
        assert {field.name for field, _ in flow.ListFields()} == proto_fields().keys()
        assert not list(UnknownFieldSet(flow))
        assert (flow.sampling_rate, flow.sampling_weight, flow.sampling_probability) == (100, 4, 0.25)


def columns_of(table):
    """{name: the rest of the line} of the columns of a table of clickhouse.sql."""
    body = re.search(rf"TABLE IF NOT EXISTS flows\.{table}\n\((.*?)\n\)", SQL, re.DOTALL)[1]
    return dict(re.findall(r"^    (\w+) (.*?),?$", body, re.MULTILINE))


def test_clickhouse_reads_fields_of_flow_proto_as_what_they_are():
    types = {"uint64": "UInt64", "uint32": "UInt32", "bytes": "String", "double": "Float64"}
    fields = proto_fields()
    assert columns_of("topic") == {column: types[fields[column][1]] for column in columns_of("topic")}


def test_clickhouse_keeps_what_it_reads():
    kept = {column: text for column, text in columns_of("raw").items() if "ALIAS" not in text}
    view = SQL[SQL.index("CREATE MATERIALIZED VIEW") :]
    read_ = re.findall(r" AS (\w+),?$", view, re.MULTILINE)
    read_ += [column for line in re.findall(r"^    ([\w, ]+),$", view, re.MULTILINE) for column in line.split(", ")]
    assert kept.keys() == columns_of("topic").keys() == set(read_)


def test_clickhouse_estimates_with_the_rate_alone():
    estimates = {column: text for column, text in columns_of("raw").items() if "ALIAS" in text}
    assert estimates == {
        f"estimated_{measure}": f"UInt64 ALIAS {measure} * sampling_rate" for measure in ("bytes", "packets")
    }


def test_clickhouse_reads_the_topic_that_the_agent_writes():
    assert (SINK["schema"], SINK["format"]) == ("goflow2", "protobuf")
    asked = dict(re.findall(r"(kafka_\w+) = '(.*?)'", SQL))
    assert asked == {
        "kafka_broker_list": ",".join(SINK["brokers"]),
        "kafka_topic_list": SINK["topic"],
        "kafka_group_name": "clickhouse",
        "kafka_format": "Protobuf",
        "kafka_schema": "flow.proto:FlowMessage",
    }


def test_clickhouse_has_the_files_where_it_looks():
    volumes = COMPOSE["services"]["clickhouse"]["volumes"]
    assert "./flow.proto:/var/lib/clickhouse/format_schemas/flow.proto:ro" in volumes
    assert any(re.fullmatch(r"\./clickhouse\.sql:/docker-entrypoint-initdb\.d/\w+\.sql:ro", each) for each in volumes)


def clickhouse(program, directory, *statements):
    """What `clickhouse local` answers."""
    done = subprocess.run(
        [program, "local", "--path", directory / "data", "--multiquery", "--query", ";\n".join(statements)],
        capture_output=True, text=True, check=False, cwd=directory, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


if CLICKHOUSE := os.environ.get("FLOWAGENT_TEST_CLICKHOUSE"):

    def test_clickhouse_finds_what_was_sent(tmp_path):
        (tmp_path / "rows").write_bytes(schemas.encoder("goflow2", "protobuf").joined(flow_rows(10)))
        (tmp_path / "flow.proto").write_text(PROTO)
        # A table that holds what is put in stands for the topic.
        sql, replaced = re.subn(r"ENGINE = Kafka\nSETTINGS[^;]*", "ENGINE = Memory", SQL)
        assert replaced == 1
        answer = clickhouse(
            CLICKHOUSE, tmp_path, sql.strip().rstrip(";"),
            "INSERT INTO flows.topic SELECT * FROM file('rows', 'Protobuf') "
            "SETTINGS format_schema = 'flow.proto:FlowMessage'",
            "SELECT toUnixTimestamp64Nano(time_received_ns), src_addr, bytes, estimated_bytes, estimated_packets, "
            "sampling_weight, sampling_probability FROM flows.raw ORDER BY time_received_ns FORMAT TSV",
        )  # fmt: skip
        assert answer == [
            [str(NOW_NS + i - 1), f"::ffff:10.0.0.{i}" if i % 2 else f"2001:db8::{i:x}", str(4000 * i),
             str(400_000 * i), str(400 * i), "4", "0.25"]
            for i in range(1, 11)
        ]  # fmt: skip
