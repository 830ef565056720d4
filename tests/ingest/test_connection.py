"""Limits of connections: how many, how fast, how long, and what comes over them."""

import asyncio
import socket
import struct

import pytest
from tcp_exporter import (
    FIELDS,
    HOST,
    RECORD,
    SWAPPED,
    connected,
    data_set,
    is_closed,
    message,
    octets,
    refused,
    running,
    samples,
    template,
    until,
)

from flowagent.component import Context
from flowagent.ingest.tcp import Config


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\0\x09" + bytes(40), "unknown_version"),
        (b"GET / HTTP/1.1\r\n\r\n", "unknown_version"),
        (b"\0\x0a\0\x0f" + bytes(40), "bad_message_length"),
        (b"\0\x0a\0\0", "bad_message_length"),
    ],
)
async def test_what_is_no_message_closes_its_connection_only(bad, reason):
    async with (
        running() as (source, delivered, ctx),
        connected(source) as (_, good),
        connected(source) as (reader, writer),
    ):
        good.write(message(template()))
        writer.write(message(template(), data_set(1)) + bad + message(data_set(9)))
        assert await is_closed(reader)
        assert refused(ctx) == {reason: 1}
        assert samples(ctx, "errors")["tcp", "ipfix", reason] == 1
        good.write(message(data_set(2)))
        await until(lambda: octets(delivered) == [1, 2])


async def test_an_end_inside_a_message_is_counted():
    async with running() as (source, _, ctx):
        async with connected(source) as (_, writer):
            writer.write(message(template())[:-1])
            writer.write_eof()
            await until(lambda: ("tcp", "ipfix", "truncated") in samples(ctx, "errors"))
        assert refused(ctx) == {}


async def test_a_message_must_be_whole_in_time():
    """Byte after byte does not help."""
    async with running(message_timeout="200ms") as (source, _, ctx), connected(source) as (reader, writer):
        dripping = message(template(), data_set(*range(50)))
        for i in range(len(dripping)):
            writer.write(dripping[i : i + 1])
            await asyncio.sleep(0.01)
            if writer.transport.is_closing() or reader.at_eof() or refused(ctx):
                break
        assert await is_closed(reader)
        assert refused(ctx) == {"slow_message": 1}


async def test_slow_is_not_who_sends_whole_messages():
    async with running(message_timeout="300ms", idle_timeout="5s") as (source, delivered, ctx):
        async with connected(source) as (_, writer):
            stream = message(template()) + b"".join(message(data_set(n), sequence=n) for n in range(8))
            # Every piece ends inside a message.
            for at in range(0, len(stream), 50):
                writer.write(stream[at : at + 50])
                await asyncio.sleep(0.05)
            await until(lambda: octets(delivered) == list(range(8)))
        assert refused(ctx) == {}


async def test_who_is_silent_is_closed():
    async with running(idle_timeout="50ms") as (source, _, ctx), connected(source) as (reader, _):
        assert await is_closed(reader)
        assert refused(ctx) == {"idle": 1}


async def test_more_connections_than_allowed_are_refused_until_one_ends():
    async with running(max_connections=2) as (source, delivered, ctx), connected(source) as (_, first):
        async with connected(source), connected(source) as (reader, _):
            assert await is_closed(reader)
            assert refused(ctx) == {"too_many": 1}
        await until(lambda: samples(ctx, "connections")["tcp",] == 1)
        async with connected(source) as (_, writer):
            writer.write(message(template(), data_set(1)))
            first.write(message(template(), data_set(2)))
            await until(lambda: octets(delivered) == [1, 2])
        assert samples(ctx, "connections_accepted")["tcp",] == 4


async def test_one_address_does_not_take_all_connections():
    async with running(max_connections_per_address=1) as (source, delivered, ctx), connected(source):
        async with connected(source) as (reader, _):
            assert await is_closed(reader)
        async with connected(source, local_addr=("127.0.0.2", 0)) as (_, writer):
            writer.write(message(template(), data_set(1)))
            await until(lambda: octets(delivered) == [1])
        assert refused(ctx) == {"too_many_of_address": 1}


async def test_many_connections_at_once():
    async with running(max_connections=100, max_connections_per_address=100) as (source, delivered, ctx):

        async def export(n):
            async with connected(source) as (_, writer):
                # Every other one has its fields in another order under the same id.
                layout, record = (FIELDS, RECORD.pack(1, 2, n, 1, 17))
                if n % 2:
                    layout, record = SWAPPED, struct.pack("!IIIQB", 1, 2, 1, n, 17)
                data = struct.pack("!HH", 256, 4 + len(record)) + record
                writer.write(message(template(layout)))
                for i in range(20):
                    writer.write(message(data, sequence=i))
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write_eof()
                await until(lambda: octets(delivered).count(n) == 20, 20)

        await asyncio.gather(*(export(n) for n in range(100)))
        assert refused(ctx) == {}
        assert not any(samples(ctx, "lost_records").values())
    assert octets(delivered) == sorted(list(range(100)) * 20)


async def test_who_sends_too_fast_waits():
    """While nobody takes rows, little of what is sent is in memory, and later nothing is missing."""
    source = Config(listen=f"{HOST}:0", buffer=8192).build(Context("tcp"))
    delivered = []
    async with source, connected(source) as (_, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        writer.write(message(template()))
        sent = 0
        while sent < 20_000_000:
            writer.write(message(data_set(*[1] * 1000)) * 10)
            sent += 10_000 * 21
            try:
                async with asyncio.timeout(0.3):
                    await writer.drain()
            except TimeoutError:
                break
        assert sent < 20_000_000
        assert source._size <= 300_000
        count = sent // 21
        task = asyncio.get_running_loop().create_task(source.run(delivered.append))
        await until(lambda: sum(map(len, delivered)) == count, 20)
        task.cancel()
        await asyncio.wait([task])


async def test_the_rate_of_a_connection_has_a_limit():
    async with running(max_rate=50_000) as (source, delivered, _), connected(source) as (_, writer):
        loop = asyncio.get_running_loop()
        began = loop.time()
        writer.write(message(template()) + b"".join(message(data_set(*[1] * 100), sequence=n) for n in range(12)))
        await until(lambda: sum(map(len, delivered)) == 1200, 10)
        # 25,000 bytes, and what was read at once goes first.
        assert loop.time() - began > 0.2 or max(map(len, delivered)) == 1200
        assert source._connections[1]._next > began + 0.4
