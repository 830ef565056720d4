"""Log records: the official library reads what was written, and would write the same bytes."""

import numpy as np
import pytest
from drawn import batches
from hypothesis import given
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from flowagent.batch import Batch
from flowagent.export import encode as encoding
from flowagent.export.otlp_fields import attributes
from flowagent.export.otlp_logs import encode, resource
from flowagent.export.value import plain
from flowagent.schema import COLUMNS

NOW = 1_800_000_000_000_000_000
RESOURCE = resource({"service.name": "flowagent", "node": "ümläut €"})
NAMES = [*(COLUMNS.keys() - {"weight", "inclusion_prob"}), "forwardingStatus", "flowLabelIPv6", "src_k8s_name"]


def request(batch, start=0, stop=None):
    body = encode(batch, NOW).request(RESOURCE, start, len(batch) if stop is None else stop)
    read = ExportLogsServiceRequest.FromString(body)
    assert read.SerializeToString() == body
    return read


def records(batch, **rows):
    (of_resource,) = request(batch, **rows).resource_logs
    (of_scope,) = of_resource.scope_logs
    return list(of_scope.log_records)


def values(record):
    """Its attributes; none is there twice."""
    pairs = [(pair.key, getattr(pair.value, pair.value.WhichOneof("value"))) for pair in record.attributes]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def expected(batch):
    """The attributes of each row, as another way of reading them has them."""
    columns = {name: plain(value) for name, value in attributes(batch).items()}
    rows = [{} for _ in range(len(batch))]
    for name, items in columns.items():
        known = attributes(batch)[name].known
        for i, item in enumerate(items):
            if known is None or known[i]:
                rows[i][name] = min(item, 2**63 - 1) if isinstance(item, int) else item
    return rows


@given(batches(NAMES))
def test_what_was_known_comes_back(drawn):
    batch, _ = drawn
    read = records(batch)
    assert [values(record) for record in read] == expected(batch)
    assert len(read) == len(batch)


def test_times():
    columns = {"end_ns": np.array([5, 0, -1, 7]), "received_ns": np.array([9, 8, 7, 6])}
    batch = Batch(columns, valid={"end_ns": np.array([True, True, True, False])})
    read = [(record.time_unix_nano, record.observed_time_unix_nano) for record in records(batch)]
    assert read == [(5, 9), (0, 8), (0, 7), (0, 6)]


def test_without_times_it_was_observed_now():
    (record,) = records(Batch({"bytes": np.array([1], "u8")}))
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (0, NOW)


def test_who_says_it():
    (of_resource,) = request(Batch({"bytes": np.array([1], "u8")})).resource_logs
    assert values(of_resource.resource) == {"service.name": "flowagent", "node": "ümläut €"}
    assert of_resource.scope_logs[0].scope.name == "flowagent"
    (record,) = of_resource.scope_logs[0].log_records
    assert (record.severity_number, record.severity_text, record.HasField("body")) == (0, "", False)


@pytest.mark.parametrize("length", [0, 1, 100, 119, 120, 125, 126, 127, 128, 200, 256, 16_300, 16_384, 20_000])
def test_texts_of_any_length(length):
    text = b"x" * length
    batch = Batch({"src_k8s_name": np.array([text, b"y"], f"S{max(1, length)}")})
    assert [values(record)["flow.src_k8s_name"] for record in records(batch)] == [text.decode(), "y"]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**32, 2**56 - 1, 2**56, 2**63 - 1])
def test_integers_of_any_size(value):
    batch = Batch({"bytes": np.array([value, 3], "u8")})
    assert [values(record)["flow.io.bytes"] for record in records(batch)] == [value, 3]


def test_integers_that_do_not_fit_become_the_greatest():
    assert values(records(Batch({"tunnel_key": np.array([2**64 - 1], "u8")}))[0]) == {"flow.tunnel_key": 2**63 - 1}


def test_negative_numbers_floats_and_bytes():
    columns = {
        "mibObjectValueInteger": np.array([-1, 5]),
        "samplingProbability": np.array([0.5, np.inf]),
        "pen9_1": np.array([b"\x00\xff", b""], object),
    }
    assert [values(record) for record in records(Batch(columns))] == [
        {"flow.mibObjectValueInteger": -1, "flow.samplingProbability": 0.5, "flow.pen9_1": "00ff"},
        {"flow.mibObjectValueInteger": 5, "flow.samplingProbability": np.inf, "flow.pen9_1": ""},
    ]


def test_texts_that_are_not_utf8():
    assert values(records(Batch({"src_k8s_name": np.array([b"a\xffb"])}))[0]) == {"flow.src_k8s_name": "a�b"}


def test_any_run_of_rows_makes_a_request(monkeypatch):
    monkeypatch.setattr(encoding, "ROWS", 4)
    batch = Batch({"bytes": np.arange(10, dtype="u8")})
    for start in range(10):
        for stop in range(start + 1, 11):
            read = [values(record)["flow.io.bytes"] for record in records(batch, start=start, stop=stop)]
            assert read == list(range(start, stop))


def test_no_rows():
    assert records(Batch({})) == []
