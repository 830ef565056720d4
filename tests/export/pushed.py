"""Reads Loki's push requests: protobuf by the official library, from the published field numbers, and JSON."""

import json
import re
from typing import NamedTuple

import cramjam
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_STRING, _MESSAGE = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_MESSAGE
_MESSAGES = {
    "LabelPair": [("name", 1, _STRING, ""), ("value", 2, _STRING, "")],
    "Entry": [
        ("timestamp", 1, _MESSAGE, ".google.protobuf.Timestamp"), ("line", 2, _STRING, ""),
        ("structuredMetadata", 3, _MESSAGE, "LabelPair*"),
    ],
    "Stream": [("labels", 1, _STRING, ""), ("entries", 2, _MESSAGE, "Entry*")],
    "PushRequest": [("streams", 1, _MESSAGE, "Stream*")],
}  # fmt: skip


def _push_request():
    file = FileDescriptorProto(name="push.proto", package="logproto", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    for message, fields in _MESSAGES.items():
        descriptor = file.message_type.add(name=message)
        for name, number, kind, of in fields:
            field = descriptor.field.add(name=name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if of.endswith("*"):
                field.label = FieldDescriptorProto.LABEL_REPEATED
            if of:
                field.type_name = of.removesuffix("*") if of[0] == "." else f".logproto.{of.removesuffix('*')}"
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("logproto.PushRequest"))


PushRequest = _push_request()


class Line(NamedTuple):
    """One of a stream."""

    labels: dict[str, str]
    time_ns: int
    text: str
    metadata: dict[str, str]

    @property
    def fields(self):
        """What stands in it."""
        return json.loads(self.text)


def lines(content_type, body):
    """All lines of a request in its order; a label that is there twice is an error."""
    if content_type == "application/json":
        return list(_json(json.loads(body)))
    return list(_protobuf(PushRequest.FromString(bytes(cramjam.snappy.decompress_raw(body)))))


def streams(content_type, body):
    """The labels of each stream, as they stand there."""
    if content_type == "application/json":
        return [stream["stream"] for stream in json.loads(body)["streams"]]
    request = PushRequest.FromString(bytes(cramjam.snappy.decompress_raw(body)))
    return [parsed(stream.labels) for stream in request.streams]


def _json(request):
    for stream in request["streams"]:
        for time_ns, line, *metadata in stream["values"]:
            yield Line(stream["stream"], int(time_ns), line, dict(*metadata))


def _protobuf(request):
    for stream in request.streams:
        for entry in stream.entries:
            time_ns = entry.timestamp.seconds * 10**9 + entry.timestamp.nanos
            metadata = {pair.name: pair.value for pair in entry.structuredMetadata}
            yield Line(parsed(stream.labels), time_ns, entry.line, metadata)


def parsed(labels):
    """`{a="b", c="d"}` as a dict; values are quoted as in Go, of which JSON's quoting is a part."""
    one = r'([a-zA-Z_][a-zA-Z0-9_]*)=("(?:[^"\\\n]|\\.)*")'
    assert re.fullmatch(rf"{{{one}(, {one})*}}", labels), labels
    pairs = re.findall(one, labels)
    assert len(dict(pairs)) == len(pairs), labels
    return {name: json.loads(value) for name, value in pairs}
