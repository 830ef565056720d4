"""The Prometheus exposition in protobuf, the one format in which native histograms travel.

A body is a row of messages io.prometheus.client.MetricFamily, each after its
length as a varint. Their classes are made here, at run time, from the fields
that the exposition needs of the published metrics.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from flowagent.export.protobuf import varint
from flowagent.metrics import Distribution, Family

CONTENT_TYPE = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
_PACKAGE = "io.prometheus.client"
_MESSAGES = {
    "LabelPair": {"name": (1, "string"), "value": (2, "string")},
    "Counter": {"value": (1, "double")},
    "Gauge": {"value": (1, "double")},
    "Bucket": {
        "cumulative_count": (1, "uint64"),
        "upper_bound": (2, "double"),
        "cumulative_count_float": (4, "double"),
    },
    "BucketSpan": {"offset": (1, "sint32"), "length": (2, "uint32")},
    "Histogram": {
        "sample_count": (1, "uint64"),
        "sample_sum": (2, "double"),
        "bucket": (3, "Bucket[]"),
        "sample_count_float": (4, "double"),
        "schema": (5, "sint32"),
        "zero_threshold": (6, "double"),
        "zero_count_float": (8, "double"),
        "positive_span": (12, "BucketSpan[]"),
        "positive_count": (14, "double[]"),
    },
    "Metric": {
        "label": (1, "LabelPair[]"),
        "gauge": (2, "Gauge"),
        "counter": (3, "Counter"),
        "histogram": (7, "Histogram"),
    },
    # The type is an enum, which on the wire is an int32.
    "MetricFamily": {"name": (1, "string"), "help": (2, "string"), "type": (3, "int32"), "metric": (4, "Metric[]")},
}
_TYPES = {"counter": 0, "gauge": 1, "histogram": 4}
_ZERO_THRESHOLD = 2.0**-128
"""Values up to this are counted as 0: less than any bucket's bound, but not 0, which would mean no native histogram."""


def _message_class() -> Any:
    """The class of MetricFamily, made in a pool of its own."""
    file = FileDescriptorProto(name="metrics.proto", package=_PACKAGE, syntax="proto2")
    for message, fields in _MESSAGES.items():
        descriptor = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            base = kind.removesuffix("[]")
            field = descriptor.field.add(name=name, number=number)
            field.label = FieldDescriptorProto.LABEL_OPTIONAL if kind == base else FieldDescriptorProto.LABEL_REPEATED
            if base in _MESSAGES:
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{base}"
            else:
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{base.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.MetricFamily"))


_MetricFamily = _message_class()


def encode(families: Iterable[Family], exponents: Sequence[int]) -> bytes:
    """The families as a body; classic buckets end at 2 to the power of `exponents`."""
    body = bytearray()
    for family in families:
        message = _encode_family(family, exponents).SerializeToString()
        body += varint(len(message))
        body += message
    return bytes(body)


def _encode_family(family: Family, exponents: Sequence[int]) -> Any:
    name = f"{family.name}_total" if family.kind == "counter" else family.name
    message = _MetricFamily(name=name, help=family.help, type=_TYPES[family.kind])
    for values, value in family.samples.items():
        metric = message.metric.add()
        for label, text in zip(family.labels, values, strict=True):
            metric.label.add(name=label, value=text)
        if isinstance(value, Distribution):
            _fill_histogram(metric.histogram, value, exponents)
        else:
            getattr(metric, family.kind).value = value
    return message


def _fill_histogram(message: Any, value: Distribution, exponents: Sequence[int]) -> None:
    """Floats say all, as weights make fractions; some readers take classic counts from integers only."""
    message.sample_count = round(value.count)
    message.sample_count_float = value.count
    message.sample_sum = value.sum
    for exponent, count in zip(exponents, value.cumulative(exponents), strict=True):
        message.bucket.add(upper_bound=2.0**exponent, cumulative_count=round(count), cumulative_count_float=count)
    message.schema = value.schema
    message.zero_threshold = _ZERO_THRESHOLD
    message.zero_count_float = value.zero
    for offset, length in _spans([index for index, _ in value.buckets]):
        message.positive_span.add(offset=offset, length=length)
    message.positive_count.extend(count for _, count in value.buckets)


def _spans(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of neighbours as (offset, length); an offset counts from the end of the run before, the first from 0."""
    spans: list[tuple[int, int]] = []
    end = 0
    for index in indices:
        if spans and index == end:
            offset, length = spans[-1]
            spans[-1] = (offset, length + 1)
        else:
            spans.append((index - end, 1))
        end = index + 1
    return spans
