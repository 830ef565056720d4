"""The sender: what arrives is what it says it sent, at the rate it was told, whatever the other side does."""

import asyncio
import contextlib
import math
import socket
import threading
from itertools import pairwise

import msgspec
import pytest
from literal_flow_decoder import BYTES, PACKETS, Decoder

from flowagent.clock import SystemClock
from flowagent.errors import ConfigError
from flowagent.generate import Exporter, Sent, Settings, sendmmsg
from flowagent.generate.exporter import BATCH

PROTOCOLS = ("netflow5", "netflow9", "ipfix", "ovs")


@contextlib.contextmanager
def listener(family=socket.AF_INET):
    """A bound socket and its address as a target."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            pytest.skip(f"no {host} here")
        sock.setblocking(False)
        port = sock.getsockname()[1]
        yield sock, f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"


def received(sock):
    datagrams = []
    with contextlib.suppress(BlockingIOError):
        while True:
            datagrams.append(sock.recv(65535))
    return datagrams


def exporter(target, **settings):
    return Exporter(Settings(**{"target": target, "rate": 0, "ring": 8, "keys": 50} | settings), SystemClock())


def truth(datagrams):
    """What Sent should say, but for errors and seconds."""
    decoder = Decoder()
    messages = [decoder.decode(datagram) for datagram in datagrams]
    return Sent(
        datagrams=len(datagrams),
        records=sum(len(message.records) for message in messages),
        packets=sum(message.sum(PACKETS) for message in messages),
        bytes=sum(message.sum(BYTES) for message in messages),
        payload=sum(map(len, datagrams)),
    )


def without_time(sent):
    return Sent(sent.datagrams, sent.records, sent.packets, sent.bytes, sent.payload, sent.errors)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_arrives_is_what_was_sent(protocol):
    with listener() as (sock, target):
        sender = exporter(target, protocol=protocol)
        per_datagram = {"netflow5": 30, "netflow9": 20, "ipfix": 17, "ovs": 1}[protocol]
        sent = sender.send(records=20 * per_datagram - 1 if per_datagram > 1 else 20)
        assert without_time(sent) == truth(received(sock))
        assert sent.records == 20 * per_datagram
        assert sent.seconds < 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sequence_numbers_go_on_from_call_to_call(protocol):
    with listener() as (sock, target):
        sender = exporter(target, protocol=protocol)
        sender.send(records=11)
        sender.send(records=11)
        decoder = Decoder()
        messages = [decoder.decode(datagram) for datagram in received(sock)]
    expected = 1 if protocol == "ovs" else 0
    for message in messages:
        assert message.sequence == expected
        options = len(message.options) if protocol in ("ipfix", "ovs") else 0
        expected += 1 if protocol == "netflow9" else len(message.records) + options


def test_templates_come_first_and_again():
    with listener() as (sock, target):
        sender = exporter(target, rate=1700, template_interval=0.1)
        sender.send(duration=0.35)
        sets = [int.from_bytes(datagram[16:18], "big") for datagram in received(sock)]
    assert sets[0] == 2
    assert 2 <= sets.count(2) <= 4
    assert sets.count(256) == 1 + 35


def test_ovs_repeats_its_templates_every_600_seconds_only():
    class Fast(SystemClock):
        """A thousand times as fast."""

        def monotonic(self):
            return super().monotonic() * 1000

    with listener() as (sock, target):
        settings = Settings(target=target, protocol="ovs", rate=0.05, ring=8)
        Exporter(settings, Fast()).send(duration=900)
        sets = [int.from_bytes(datagram[16:18], "big") for datagram in received(sock)]
    assert sets.count(2) == 36
    assert sets.count(3) == sets.count(462) == 2


@pytest.mark.parametrize("rate", [100, 2000])
def test_pace(rate):
    with listener() as (sock, target):
        sent = exporter(target, rate=rate).send(duration=0.5)
        assert 0.5 <= sent.seconds < 2
        assert sent.records == (1 + math.floor(0.5 * rate / 17)) * 17
        assert len(received(sock)) == sent.datagrams


def test_flat_out_until_the_time_is_over():
    with listener() as (_sock, target):
        sent = exporter(target, ring=300).send(duration=0.1)
    assert sent.datagrams > 1000
    assert 0.1 <= sent.seconds < 1


def test_nobody_listens():
    with listener() as (_sock, target):
        pass
    sent = exporter(target).send(records=50 * 17)
    assert (sent.datagrams, sent.records) == (51, 850)
    assert 0 < sent.errors <= 51


def test_refused_datagrams_are_not_counted(monkeypatch):
    with listener() as (sock, target):
        sender = exporter(target)
        monkeypatch.setattr(sendmmsg.Sender, "_send_some", flaky(sendmmsg.Sender._send_some, bad={3, 4}))
        sent = sender.send(records=8 * 17)
        expected = truth(received(sock))
    assert sent.errors == 4
    expected.errors = 4
    assert sent.datagrams == 1 + 6
    assert without_time(sent) == expected


def flaky(real, bad):
    """Rows that can never be sent; the one template datagram is row 0."""

    def send_some(self, sock, start, stop):
        good = next((row for row in sorted(bad) if start <= row < stop), stop)
        return real(self, sock, start, good) if good > start else 0

    return send_some


def test_without_sendmmsg_all_is_the_same(monkeypatch):
    with listener() as (sock, target):
        exporter(target, ring=4).send(records=6 * 17)
        fast = received(sock)
        monkeypatch.setattr(sendmmsg, "_find_sendmmsg", lambda: None)
        sent = exporter(target, ring=4).send(records=6 * 17)
        slow = received(sock)
    assert [len(datagram) for datagram in fast] == [len(datagram) for datagram in slow]
    assert without_time(sent) == truth(slow) == truth(fast)


def test_without_sendmmsg_and_nobody_listens(monkeypatch):
    monkeypatch.setattr(sendmmsg, "_find_sendmmsg", lambda: None)
    test_nobody_listens()


def test_ipv6_target():
    with listener(socket.AF_INET6) as (sock, target):
        sent = exporter(target).send(records=40)
        assert without_time(sent) == truth(received(sock))


def test_a_ring_larger_than_a_batch_arrives_whole():
    with listener() as (sock, target):
        datagrams = []
        done = threading.Event()

        def drain():
            while not done.wait(0.001):
                datagrams.extend(received(sock))

        thread = threading.Thread(target=drain)
        thread.start()
        sent = exporter(target, ring=500, rate=2000 * 17).send(records=1200 * 17)
        done.set()
        thread.join()
        datagrams += received(sock)
    assert sent.datagrams == 1201
    assert without_time(sent) == truth(datagrams)


async def test_run_sends_until_it_shall_stop():
    with listener() as (sock, target):
        sender = exporter(target, rate=1700)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(sender.run(stop))
            await asyncio.sleep(0.2)
            assert sender.sent.records > 0
            stop.set()
        sent = task.result()
        assert sent is sender.sent
        assert without_time(sent) == truth(received(sock))
    assert sent.records <= 1700


async def test_run_flat_out_leaves_the_loop_to_others_after_every_batch():
    with listener() as (_sock, target):
        sender = exporter(target, ring=512)
        stop = asyncio.Event()
        seen = []
        async with asyncio.TaskGroup() as group:
            task = group.create_task(sender.run(stop))
            for _ in range(20):
                await asyncio.sleep(0)
                seen.append(sender.sent.datagrams)
            stop.set()
    steps = [after - before for before, after in pairwise(seen)]
    assert set(steps) == {BATCH}
    assert task.result().datagrams >= 19 * BATCH


async def test_run_closes_its_socket_when_cancelled():
    with listener() as (_sock, target), pytest.raises(TimeoutError):
        await asyncio.wait_for(exporter(target, rate=100).run(asyncio.Event()), 0.05)


def test_unusable_target():
    with pytest.raises(ConfigError, match=r"target.*255\.255\.255\.255:9.*can be reached"):
        exporter("255.255.255.255:9").send(records=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", "localhost"),
        ("target", "127.0.0.1:0"),
        ("target", "127.0.0.1:65536"),
        ("target", "::1:4739"),
        ("protocol", "sflow"),
        ("rate", -1),
        ("rate", math.nan),
        ("keys", 0),
        ("keys", 2_000_000),
        ("zipf", -0.5),
        ("ipv6_share", 1.5),
        ("seed", -1),
        ("observation_domain", 2**32),
        ("sampling_rate", 0),
        ("template_interval", 0),
        ("ring", 0),
    ],
)
def test_bad_settings_name_field_value_and_remedy(field, value):
    with pytest.raises(ConfigError) as caught:
        Settings(**{field: value})
    assert caught.value.path == field
    assert repr(value) in caught.value.problem
    assert any(word in caught.value.problem for word in ("write", "one of", "choose"))


def test_limits_of_a_protocol():
    for changes in ({"sampling_rate": 16384}, {"observation_domain": 65536}):
        with pytest.raises(ConfigError, match="netflow5"):
            Settings(protocol="netflow5", **changes)
    with pytest.raises(ConfigError, match="never announces"):
        Settings(protocol="ovs", sampling_rate=400)


def test_settings_from_a_mapping():
    assert msgspec.convert({"target": "[::1]:4739", "protocol": "ovs"}, Settings).address() == ("::1", 4739)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"speed": 1}, Settings)
    with pytest.raises(ConfigError, match="rate"):
        msgspec.convert({"rate": -1}, Settings)
