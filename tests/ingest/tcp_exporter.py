"""A TCP source that runs, and exporters that connect to it."""

import asyncio
import struct
from contextlib import asynccontextmanager

from flowagent.component import Context
from flowagent.ingest.tcp import Config

HOST = "127.0.0.1"
FIELDS = struct.pack("!HHHHHHHHHH", 8, 4, 12, 4, 1, 8, 2, 4, 4, 1)
SWAPPED = struct.pack("!HHHHHHHHHH", 8, 4, 12, 4, 2, 4, 1, 8, 4, 1)
RECORD = struct.Struct("!IIQIB")


def template(fields=FIELDS, number=256):
    return struct.pack("!HHHH", 2, 8 + len(fields), number, len(fields) // 4) + fields


def data_set(*octets, number=256):
    body = b"".join(RECORD.pack(0xC0000201, 0xC6336401, n, 1, 17) for n in octets)
    return struct.pack("!HH", number, 4 + len(body)) + body


def message(*sets, sequence=0, domain=7):
    body = b"".join(sets)
    return struct.pack("!HHIII", 10, 16 + len(body), 1_700_000_000, sequence, domain) + body


@asynccontextmanager
async def running(name="tcp", **settings):
    """A running source, the batches it delivers, and its context."""
    ctx = Context(name)
    source = Config(**({"listen": f"{HOST}:0", "max_delay": 0.001} | settings)).build(ctx)
    delivered = []
    async with source:
        task = asyncio.get_running_loop().create_task(source.run(delivered.append))
        try:
            yield source, delivered, ctx
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(look, seconds=5):
    async with asyncio.timeout(seconds):
        while not look():  # noqa: ASYNC110 (what it waits for is the other end of a connection)
            await asyncio.sleep(0.002)


@asynccontextmanager
async def connected(source, **options):
    reader, writer = await asyncio.open_connection(options.pop("host", HOST), source.tcp_ports[0], **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def is_closed(reader):
    """Wait for the other side to hang up."""
    async with asyncio.timeout(5):
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True


def octets(delivered):
    return sorted(n for batch in delivered for n in batch["bytes"].tolist())


def samples(ctx, name):
    return next(f.samples for f in ctx.metrics.collect() if f.name == f"flowagent_ingest_{name}")


def refused(ctx):
    return {reason: n for (_, reason), n in samples(ctx, "connections_refused").items() if n}
