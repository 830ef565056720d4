"""Messages cut out of a stream, wherever its pieces end."""

import struct

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowagent.ingest.framing import Framer


def message(size, fill=0):
    return struct.pack("!HH", 10, size) + bytes([fill]) * (size - 4)


def cut(framer, data):
    """The messages themselves."""
    found = framer.push(data)
    assert sum(found.length) == len(found.data)
    return [found.data[o : o + n] for o, n in zip(found.offset, found.length, strict=True)]


def test_a_piece_may_end_at_every_byte():
    sent = [message(16, 1), message(17, 2), message(40, 3)]
    stream = b"".join(sent)
    for at in range(len(stream) + 1):
        framer = Framer()
        assert cut(framer, stream[:at]) + cut(framer, stream[at:]) == sent
        assert (framer.partial, framer.fault) == (0, None)


def test_byte_by_byte():
    framer, sent = Framer(), [message(16, 1), message(65535, 2), message(16, 3)]
    assert [m for byte in b"".join(sent) for m in cut(framer, bytes([byte]))] == sent


def test_what_is_not_whole_is_told():
    framer = Framer()
    assert cut(framer, message(20)[:19]) == []
    assert framer.partial == 19
    assert len(cut(framer, b"\0\0\x0a")) == 1
    assert framer.partial == 2


def test_messages_before_a_fault_are_whole():
    framer = Framer()
    assert cut(framer, message(16) + b"\0\x09\0\x20" + message(16)) == [message(16)]
    assert framer.fault == "unknown_version"


def test_no_message_is_shorter_than_its_header():
    for size in range(16):
        framer = Framer()
        assert cut(framer, struct.pack("!HH", 10, size) + bytes(60)) == []
        assert framer.fault == "bad_message_length"


def test_nothing_is_kept_after_a_fault():
    framer = Framer()
    for _ in range(100):
        assert cut(framer, b"GET / HTTP/1.1\r\n" * 1000) == []
    assert framer.partial < 20_000


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=30))
@example([message(20)[:3], b"\x14", bytes(16), message(16)])
def test_any_bytes_are_messages_or_a_fault(pieces):
    """What comes out does not depend on where the pieces end, and is all of what went in until the fault."""
    framer, whole = Framer(), Framer()
    found = [m for piece in pieces for m in cut(framer, piece)]
    stream = b"".join(pieces)
    assert found == cut(whole, stream)
    assert framer.fault == whole.fault
    assert stream.startswith(b"".join(found))
    if framer.fault is None:
        assert framer.partial == len(stream) - sum(map(len, found)) < 65535


@settings(deadline=None)
@given(st.lists(st.integers(16, 400), max_size=20), st.data())
def test_messages_come_out_as_they_went_in(sizes, data):
    sent = [message(size, i) for i, size in enumerate(sizes)]
    stream, framer, found = b"".join(sent), Framer(), []
    while stream:
        n = data.draw(st.integers(1, len(stream)))
        found += cut(framer, stream[:n])
        stream = stream[n:]
    assert found == sent
