"""What a decoder makes of messages that were sent."""

import struct

from flowagent.batch import Batch
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder


def decode(messages):
    """The rows of all messages, which must be without fault."""
    decoder = Decoder(ordered=True)
    messages = [bytes(message) for message in messages]
    batch = decoder.feed(Datagrams.of(messages)) if messages else Batch({})
    assert not decoder.stats.errors
    assert not any(decoder.exporters.lost_records(final=True).values())
    assert not len(decoder.held)
    return batch


def framed(data):
    """The messages of a stream of bytes."""
    messages = []
    while data:
        (length,) = struct.unpack_from(">H", data, 2)
        assert len(data) >= length
        messages.append(data[:length])
        data = data[length:]
    return messages


def header(message):
    """Version, length, export time, sequence, domain."""
    return struct.unpack_from(">HHIII", message)
