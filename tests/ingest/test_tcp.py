"""The TCP source on loopback connections: sessions are apart, and one bad peer costs nobody else."""

import asyncio
import random
import socket

import pytest
from tcp_exporter import HOST, SWAPPED, connected, data_set, message, octets, running, samples, template, until

from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.ingest.tcp import Config, ServerTls


async def test_messages_become_rows_of_the_peer():
    async with running() as (source, delivered, ctx), connected(source) as (_, writer):
        writer.write(message(template(), data_set(10, 20)) + message(data_set(30), sequence=2))
        await until(lambda: octets(delivered) == [10, 20, 30])
        batch = Batch.concat(delivered)
        assert set(batch["exporter"][1].tolist()) == {0xFFFF_7F00_0001}
        assert set(batch["observation_domain"].tolist()) == {7}
        assert samples(ctx, "datagrams")["tcp", "ipfix"] == 2
        assert samples(ctx, "records")["tcp", "ipfix"] == 3
        assert samples(ctx, "connections")["tcp",] == 1
        assert samples(ctx, "lost_records") == {(HOST,): 0}
        assert source.exporters()[0]["records"] == 3
        assert source.ready() is None


async def test_a_piece_may_end_at_every_byte():
    stream = message(template(), data_set(1)) + message(data_set(2, 3), sequence=1)
    async with running(max_connections_per_address=200) as (source, delivered, _):
        for at in range(1, len(stream)):
            async with connected(source) as (_, writer):
                writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                writer.write(stream[:at])
                await asyncio.sleep(0.001)
                writer.write(stream[at:])
                writer.write_eof()
                await until(lambda at=at: len(octets(delivered)) == 3 * at)
    assert octets(delivered) == sorted([1, 2, 3] * (len(stream) - 1))


async def test_templates_are_known_to_their_connection_alone():
    async with (
        running() as (source, delivered, ctx),
        connected(source) as (_, first),
        connected(source) as (_, second),
    ):
        first.write(message(template()))
        await until(lambda: samples(ctx, "templates")["tcp",] == 1)
        second.write(message(data_set(1)))
        await until(lambda: samples(ctx, "held_sets")["tcp",] == 1)
        assert octets(delivered) == []
        # The same id and domain of the same address, and another meaning.
        second.write(message(template(SWAPPED)))
        first.write(message(data_set(2)))
        await until(lambda: sum(map(len, delivered)) == 2)
        assert sorted(Batch.concat(delivered)["bytes"].tolist()) == [2, (1 & 0xFFFFFFFF) << 32 | 1]


async def test_templates_end_with_their_connection():
    async with running() as (source, delivered, ctx):
        async with connected(source) as (_, writer):
            writer.write(message(template(), data_set(1)))
            await until(lambda: octets(delivered) == [1])
        await until(lambda: not source.exporters())
        assert samples(ctx, "template_evictions")["tcp",] == 0
        async with connected(source) as (_, writer):
            writer.write(message(data_set(2)))
            await until(lambda: samples(ctx, "waiting_sets")["tcp",] == 1)
        # What waited for a template has waited in vain.
        await until(lambda: samples(ctx, "expired_sets")["tcp",] == 1)
        assert samples(ctx, "waiting_sets")["tcp",] == 0
    assert octets(delivered) == [1]


async def test_what_the_peer_sent_before_it_ended_is_decoded():
    async with running(max_delay=0.1) as (source, delivered, _):
        async with connected(source) as (_, writer):
            writer.write(message(template(), data_set(1)))
            writer.close()
            await writer.wait_closed()
        assert octets(delivered) == []
        await until(lambda: octets(delivered) == [1])


async def test_what_is_here_when_the_agent_ends_is_decoded():
    async with running(max_delay=1.0) as (source, delivered, _), connected(source) as (_, writer):
        writer.write(message(template(), data_set(1)))
        await until(lambda: source._pieces)
        # These are not read yet: one piece of each connection waits at a time.
        writer.write(message(data_set(2), sequence=1) + message(data_set(3), sequence=2)[:-1])
        await writer.drain()
        await asyncio.sleep(0.05)
    assert octets(delivered) == [1, 2]


async def test_records_that_were_lost_stay_counted():
    async with running() as (source, delivered, ctx):
        async with connected(source) as (_, writer):
            writer.write(message(template(), data_set(1)) + message(data_set(2), sequence=11))
            await until(lambda: len(octets(delivered)) == 2)
        await until(lambda: not source.exporters())
        assert samples(ctx, "lost_records") == {(HOST,): 10}


async def test_a_fault_of_the_decoder_stops_nothing(monkeypatch, caplog):
    async with running() as (source, delivered, ctx), connected(source) as (_, writer):
        writer.write(message(template(), data_set(1)))
        await until(lambda: octets(delivered) == [1])
        with monkeypatch.context() as patch:
            patch.setattr(source.decoder, "feed", lambda _: 1 / 0)
            writer.write(message(data_set(2)))
            await until(lambda: ("tcp", "unknown", "internal") in samples(ctx, "errors"))
        writer.write(message(data_set(3)))
        await until(lambda: octets(delivered) == [1, 3])
    assert "unexpected error" in caplog.text


async def test_ipv6_and_ipv4_on_one_port():
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    async with running(listen="[::]:0") as (source, delivered, _):
        for host, n in ((HOST, 1), ("::1", 2)):
            async with connected(source, host=host) as (_, writer):
                writer.write(message(template(), data_set(n)))
                await until(lambda n=n: n in octets(delivered))
    rows = Batch.concat(delivered)
    senders = dict(zip(rows["bytes"].tolist(), rows["exporter"].T.tolist(), strict=True))
    assert senders == {1: [0, 0xFFFF_7F00_0001], 2: [0, 1]}


async def test_random_bytes_stop_nothing():
    chance = random.Random(4)
    async with running(max_connections_per_address=100) as (source, delivered, ctx):
        for _ in range(60):
            async with connected(source) as (_, writer):
                stream = bytearray(message(template(), data_set(1), data_set(2)) * 3)
                for _ in range(chance.randrange(1, 6)):
                    stream[chance.randrange(len(stream))] = chance.randrange(256)
                writer.write(bytes(stream[: chance.randrange(len(stream))]))
        async with connected(source) as (_, writer):
            writer.write(message(template(), data_set(77)))
            await until(lambda: 77 in octets(delivered))
        assert not any(protocol == "unknown" for _, protocol, _ in samples(ctx, "errors"))


async def test_a_port_that_is_taken_is_an_error_and_nothing_is_open():
    async with running() as (source, _, _):
        taken = f"{HOST}:{source.tcp_ports[0]}"
        second = Config(listen=(f"{HOST}:0", taken)).build(Context("second"))
        with pytest.raises(ConfigError, match=r"second.listen: cannot listen on TCP 127.0.0.1 port \d+: .*in use"):
            async with second:
                pass
        assert second.tcp_ports == []


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"listen": ()}, "tcp.listen"),
        ({"listen": "here"}, "tcp.listen"),
        ({"sampling_rates": {"x": 2}}, "tcp.sampling_rates"),
        ({"message_timeout": 0}, "tcp.message_timeout"),
        ({"handshake_timeout": "soon"}, "tcp.handshake_timeout"),
        ({"tls": ServerTls(cert="nowhere.pem", key="nowhere.key")}, "tcp.tls.cert"),
    ],
)
def test_wrong_settings(settings, path):
    with pytest.raises(ConfigError) as caught:
        Config(**settings).build(Context("tcp"))
    assert caught.value.path == path


def test_without_settings_only_this_host_may_connect():
    assert Config().listen == "127.0.0.1:4739"


async def test_open_to_anybody_is_said(caplog):
    async with running(listen="0.0.0.0:0"):
        assert "takes records from anybody" in caplog.text
