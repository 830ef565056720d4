"""Source packets: its settings, and the ring on the loopback. tests/live/test_capture.py has real traffic."""

import asyncio
import errno
import os
import socket

import numpy as np
import pytest

from flowagent.batch import Batch
from flowagent.clock import ManualClock
from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.ingest import packetring
from flowagent.ingest.packetring import Ring
from flowagent.ingest.packets import Config, node_address

CTX = Context("packets", ManualClock())
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="capturing needs root")


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"interface": ()}, "interface"),
        ({"interface": ""}, "interface"),
        ({"interface": ("lo", "lo")}, "interface"),
        ({"interface": ("lo", "any")}, "interface"),
        ({"interface": "lo", "exporter": "me"}, "exporter"),
        ({"interface": "lo", "idle_timeout": 0}, "idle_timeout"),
    ],
)
def test_wrong_settings(settings, setting):
    with pytest.raises(ConfigError) as caught:
        Config(**settings).build(CTX)
    assert caught.value.path == f"packets.{setting}"


@pytest.mark.parametrize(
    ("error", "path", "said"),
    [
        (PermissionError(errno.EPERM, "no"), "packets", "CAP_NET_RAW"),
        (OSError(errno.EAFNOSUPPORT, "no"), "packets", "RestrictAddressFamilies"),
        (OSError(errno.ENODEV, "no"), "packets.interface", "there is no lo"),
        (OSError(errno.ENOMEM, "no"), "packets.ring", "no memory"),
        (OSError(errno.EIO, "what"), "packets", "cannot capture on lo: what"),
        (ImportError("there is no libpcap"), "packets.filter", "libpcap0.8"),
        (ValueError("syntax error"), "packets.filter", "syntax error"),
    ],
)
async def test_what_the_kernel_refuses_is_explained(monkeypatch, error, path, said):
    def refuse(*_):
        raise error

    monkeypatch.setattr(Ring, "open", refuse)
    source = Config(interface="lo", filter="tcp").build(CTX)
    with pytest.raises(ConfigError, match=said) as caught:
        await source.__aenter__()
    assert caught.value.path == path
    assert source.ready() == "packets: not capturing"


def test_the_node_has_an_address():
    assert socket.getaddrinfo(node_address("lo"), None)


@needs_root
async def test_the_loopback_is_counted_once():
    source = Config(interface="lo", filter="udp port 47471", exporter="192.0.2.9").build(Context("packets"))
    batches: list[Batch] = []
    async with source:
        assert source.ready() is None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 47471))
            for _ in range(50):
                sock.sendto(b"abcd", ("127.0.0.1", 47471))

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(source.run(batches.append), 0.5)
    (batch,) = batches
    assert (batch.total("packets"), batch.total("bytes")) == (50, 50 * 32)
    assert batch["direction"].tolist() == [0]
    assert batch["in_if"].tolist() == [socket.if_nametoindex("lo")]


@needs_root
def test_frames_at_the_end_of_the_ring_are_copied(monkeypatch):
    """Readers of headers look a little beyond a frame; nothing is there at the ring's end."""
    monkeypatch.setattr(packetring, "_MARGIN", 3 * packetring.BLOCK)
    ring = Ring("lo", size=2 * packetring.BLOCK, snaplen=128, promiscuous=False)
    ring.open()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.sendto(b"a rare text", sock.getsockname())
        found = []
        while not found:
            for frames, columns in ring.take(2):
                assert len(frames.data) >= int((frames.offset + frames.length).max()) + packetring._MARGIN
                assert all(len(values.data) == len(frames) for values in columns.values())
                found += [
                    (at, length) for at, length in zip(frames.offset.tolist(), frames.length.tolist(), strict=True)
                    if frames.data[at : at + length].tobytes().endswith(b"a rare text")
                ]  # fmt: skip
        assert len(found) == 1
        assert ring.count_drops() == 0
    finally:
        ring.close()


@needs_root
def test_a_full_ring_drops_and_counts():
    ring = Ring("lo", size=2 * packetring.BLOCK, snaplen=65535, promiscuous=False)
    ring.open()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            for _ in range(200):
                sock.sendto(bytes(60_000), sock.getsockname())
        assert ring.filled() == 1
        assert ring.count_drops() > 100
        taken = sum(len(frames) for frames, _ in ring.take(2))
        assert 0 < taken < 100
        assert ring.filled() < 1
        assert np.frombuffer(ring._memory, np.uint8).any()
    finally:
        ring.close()
