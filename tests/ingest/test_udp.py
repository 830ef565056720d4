"""The UDP source on real loopback sockets: what arrives is decoded, what the kernel dropped is counted."""

import asyncio
import random
import socket
import struct
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.exporters import Exporters
from flowagent.ingest.snapshot import Snapshot
from flowagent.ingest.stats import Stats
from flowagent.ingest.udp import Config

LOCAL = "127.0.0.1:0"
TEMPLATE = struct.pack("!HHHHHHHHHHHHHH", 2, 28, 256, 5, 8, 4, 12, 4, 1, 8, 2, 4, 4, 1)
RECORD = struct.Struct("!IIQIB")


def netflow5(octets, sequence=0):
    """A datagram of one record for each number of octets."""
    head = struct.pack("!HHIIIIHH", 5, len(octets), 1000, 1_700_000_000, 0, sequence, 0, 0)
    record = struct.Struct("!4s4s4sHHIIIIHHBBBBHHBBH")
    address = socket.inet_aton("192.0.2.1")
    return head + b"".join(
        record.pack(address, address, address, 1, 2, 1, n, 0, 0, 80, 443, 0, 2, 6, 0, 0, 0, 24, 24, 0) for n in octets
    )


def ipfix(*sets, sequence=0):
    body = b"".join(sets)
    return struct.pack("!HHIII", 10, 16 + len(body), 1_700_000_000, sequence, 7) + body


def data_set(*octets):
    body = b"".join(RECORD.pack(0xC0000201, 0xC6336401, n, 1, 17) for n in octets)
    return struct.pack("!HH", 256, 4 + len(body)) + body


@asynccontextmanager
async def running(state_dir=None, name="udp", **settings):
    """A running source, the batches it delivers, and its context."""
    ctx = Context(name, state_dir=state_dir)
    settings = {"listen": LOCAL, "receive_buffer": 1 << 22, "max_delay": 0.001, "batch": 64} | settings
    source = Config(**settings).build(ctx)
    delivered = []
    async with source:
        task = asyncio.get_running_loop().create_task(source.run(delivered.append))
        try:
            yield source, delivered, ctx
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(look, seconds=5):
    """Poll until the condition holds."""
    async with asyncio.timeout(seconds):
        while not look():  # noqa: ASYNC110 (what it waits for is another process: the kernel)
            await asyncio.sleep(0.002)


def send(port, *payloads, host="127.0.0.1", family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        for payload in payloads:
            sock.sendto(payload, (host, port))
        return sock.getsockname()[1]


def octets(delivered):
    return sorted(n for batch in delivered for n in batch["bytes"].tolist())


def samples(ctx, name):
    return next(f.samples for f in ctx.metrics.collect() if f.name == f"flowagent_{name}")


async def test_datagrams_become_batches():
    async with running() as (source, delivered, _):
        send(source.ports[0], netflow5([10, 20]), netflow5([30], sequence=2))
        await until(lambda: len(octets(delivered)) == 3)
    assert octets(delivered) == [10, 20, 30]
    batch = Batch.concat(delivered)
    assert set(batch["exporter"][1].tolist()) == {0xFFFF_7F00_0001}
    assert (batch["received_ns"] > 1_600_000_000 * 10**9).all()


async def test_any_protocol_on_any_of_several_ports():
    async with running(listen=(LOCAL, LOCAL, LOCAL)) as (source, delivered, _):
        assert len(set(source.ports)) == 3
        send(source.ports[0], netflow5([1]))
        send(source.ports[1], ipfix(TEMPLATE, data_set(2, 3)))
        send(source.ports[2], ipfix(TEMPLATE, data_set(4)), netflow5([5]))
        await until(lambda: len(octets(delivered)) == 5)
    assert octets(delivered) == [1, 2, 3, 4, 5]


async def test_ipv6_and_ipv4_on_one_port():
    try:
        async with running(listen="[::]:0") as (source, delivered, _):
            send(source.ports[0], netflow5([1]))
            send(source.ports[0], netflow5([2]), host="::1", family=socket.AF_INET6)
            await until(lambda: len(octets(delivered)) == 2)
            rows = Batch.concat(delivered)
    except (ConfigError, OSError):
        pytest.skip("no IPv6 here")
    senders = dict(zip(rows["bytes"].tolist(), rows["exporter"].T.tolist(), strict=True))
    assert senders == {1: [0, 0xFFFF_7F00_0001], 2: [0, 1]}


async def test_datagrams_of_60000_bytes_among_small_ones():
    many = list(range(1000, 1000 + 2850))
    assert len(ipfix(data_set(*many))) > 59_800
    async with running() as (source, delivered, _):
        send(source.ports[0], ipfix(TEMPLATE), ipfix(data_set(1)), ipfix(data_set(*many)), ipfix(data_set(2)))
        await until(lambda: len(octets(delivered)) >= len(many) + 2)
    assert octets(delivered) == [1, 2, *many]


async def test_more_than_one_batch_at_a_time():
    async with running(batch=16, receive_buffer=1 << 22) as (source, delivered, ctx):
        send(source.ports[0], *(netflow5([n], sequence=n) for n in range(500)))
        await until(lambda: len(octets(delivered)) + samples(ctx, "socket_drops")["udp",] >= 500)
        assert samples(ctx, "ingest_datagrams")["udp", "netflow5"] == len(octets(delivered))
    assert octets(delivered) == list(range(500))
    assert len(delivered) >= 500 // 16


async def test_what_the_kernel_holds_at_the_end_is_still_taken():
    async with running(max_delay=1.0) as (source, delivered, _):
        send(source.ports[0], netflow5([1]))
        await until(lambda: delivered)
        # The source now waits, for lack of more it would do so for a while.
        send(source.ports[0], netflow5([2]))
    assert octets(delivered) == [1, 2]


async def test_bad_datagrams_are_counted_and_cost_only_themselves():
    async with running() as (source, delivered, ctx):
        send(source.ports[0], b"", b"\0", b"\xff" * 50, netflow5([1])[:-1], netflow5([7]))
        await until(lambda: delivered)
        errors = samples(ctx, "ingest_errors")
    assert octets(delivered) == [7]
    assert errors == {
        ("udp", "unknown", "truncated"): 2,
        ("udp", "unknown", "unknown_version"): 1,
        ("udp", "netflow5", "bad_record_count"): 1,
    }


async def test_a_fault_in_a_decoder_does_not_stop_the_loop(caplog):
    async with running() as (source, delivered, ctx):
        feed = source.decoder.feed

        def faulty(datagrams: Datagrams):
            source.decoder.feed = feed
            raise ZeroDivisionError("oops")

        source.decoder.feed = faulty
        send(source.ports[0], netflow5([1]))
        await until(lambda: source.decoder.feed is feed)
        send(source.ports[0], netflow5([2]))
        await until(lambda: delivered)
        assert samples(ctx, "ingest_errors") == {("udp", "unknown", "internal"): 1}
    assert octets(delivered) == [2]
    assert "oops" in caplog.text


async def test_the_kernels_drops_are_counted():
    async with running(receive_buffer=4096) as (source, delivered, ctx):
        # Nobody reads while this sends, for it never awaits.
        send(source.ports[0], *(netflow5([n] * 30, sequence=30 * n) for n in range(200)))
        await until(lambda: delivered)
        await until(lambda: samples(ctx, "ingest_datagrams")["udp", "netflow5"] + dropped(ctx) == 200)
        assert 100 < dropped(ctx) < 200


def dropped(ctx):
    return samples(ctx, "socket_drops")["udp",]


async def test_lost_records_are_counted():
    async with running() as (source, delivered, ctx):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for sequence in (0, 1, 2, 7, 8, 9):
                sock.sendto(netflow5([1], sequence=sequence), ("127.0.0.1", source.ports[0]))
                await until(lambda n=sequence: n in {s for b in delivered for s in b["sequence"].tolist()})
        assert samples(ctx, "ingest_lost_records") == {("127.0.0.1",): 4}


async def test_columns_that_nobody_wants_are_not_decoded():
    async with running() as (source, delivered, _):
        source.want(frozenset({"bytes"}))
        send(source.ports[0], netflow5([1]))
        await until(lambda: delivered)
    assert "bytes" in delivered[0]
    assert "src_addr" not in delivered[0]


async def test_ready_when_bound_and_templates_are_known():
    source = Config(listen=LOCAL).build(Context("udp"))
    assert source.ready() == "udp: not listening"
    async with running() as (source, delivered, _):
        assert source.ready() is None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(ipfix(data_set(1)), ("127.0.0.1", source.ports[0]))
            await until(source.ready)
            assert "1 of 1 active exporters have not sent their templates yet" in source.ready()
            sock.sendto(ipfix(TEMPLATE), ("127.0.0.1", source.ports[0]))
            await until(lambda: delivered)
        assert source.ready() is None
    assert source.ready() == "udp: not listening"


async def test_rates_set_by_the_user():
    async with running(sampling_rates={"127.0.0.0/8": 500}) as (source, delivered, _):
        send(source.ports[0], netflow5([1]))
        await until(lambda: delivered)
    assert delivered[0]["sampling_rate"].tolist() == [500]


def test_subnets_that_are_none():
    with pytest.raises(ConfigError, match=r"^udp.sampling_rates: .*; write subnets such as 10.0.0.0/8"):
        Config(sampling_rates={"10.0.0.1/8": 5}).build(Context("udp"))


def test_nothing_to_listen_on():
    with pytest.raises(ConfigError, match=r"^udp.listen: is empty; name an address such as 0.0.0.0:4739"):
        Config(listen=()).build(Context("udp"))


async def test_a_port_in_use():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        source = Config(listen=(LOCAL, f"127.0.0.1:{port}")).build(Context("udp"))
        with pytest.raises(ConfigError, match="Address already in use; choose another") as caught:
            await source.__aenter__()
    assert caught.value.path == "udp.listen"
    assert f"UDP 127.0.0.1 port {port}" in caught.value.problem


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70 + ".b", "ho\0st", "192.0.2.1"])
async def test_a_host_that_is_not_ours(host):
    source = Config(listen=f"{host}:0").build(Context("udp"))
    with pytest.raises(ConfigError, match="cannot listen on UDP"):
        await source.__aenter__()


async def test_two_processes_may_share_a_port():
    async with AsyncExitStack() as stack:
        first, _, _ = await stack.enter_async_context(running(reuse_port=True))
        listen = f"127.0.0.1:{first.ports[0]}"
        second, _, _ = await stack.enter_async_context(running(reuse_port=True, listen=listen))
        assert second.ports == first.ports


async def test_templates_survive_a_restart(tmp_path):
    async with running(tmp_path) as (source, delivered, _):
        send(source.ports[0], ipfix(TEMPLATE, data_set(1)))
        await until(lambda: delivered)
    async with running(tmp_path) as (source, delivered, _):
        send(source.ports[0], ipfix(data_set(2, 3)))
        await until(lambda: delivered)
    assert octets(delivered) == [2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["templates-udp.msgpack"]


async def test_without_a_state_directory_nothing_is_kept():
    async with running() as (source, delivered, _):
        send(source.ports[0], ipfix(TEMPLATE, data_set(1)))
        await until(lambda: delivered)


async def test_a_state_directory_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    async with running(tmp_path / "file") as (source, delivered, _):
        send(source.ports[0], ipfix(TEMPLATE, data_set(1)))
        await until(lambda: delivered)
    assert "they will not survive a restart" in caplog.text


def saved_state(directory):
    """A state file as a run would leave it."""
    ctx = Context("udp", state_dir=directory)
    exporters = Exporters(Stats())
    source = Config(listen=LOCAL).build(ctx)
    source.decoder.feed(Datagrams.of([ipfix(TEMPLATE, data_set(1))]))
    Snapshot(ctx).save(source.decoder.exporters)
    assert exporters.changed == 0
    return directory / "templates-udp.msgpack"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"nonsense",
        msgspec.msgpack.encode({"format": 99, "exporters": []}),
        msgspec.msgpack.encode([1, 2]),
        msgspec.msgpack.encode({"format": 1}),
        msgspec.msgpack.encode({"format": 1, "exporters": [5]}),
        msgspec.msgpack.encode({"format": 1, "exporters": [{"key": [0, 1, 10, 7]}]}),
    ],
    ids=["empty", "zeros", "text", "format", "list", "keyless", "number", "half"],
)
async def test_a_corrupted_state_file_is_set_aside(tmp_path, caplog, content):
    path = tmp_path / "templates-udp.msgpack"
    path.write_bytes(content)
    async with running(tmp_path) as (source, delivered, _):
        send(source.ports[0], ipfix(TEMPLATE, data_set(1)))
        await until(lambda: delivered)
        assert (tmp_path / "templates-udp.bad").read_bytes() == content
    assert "set aside as templates-udp.bad" in caplog.text
    assert path.exists()


def test_no_damage_to_a_state_file_stops_the_agent(tmp_path, caplog):
    caplog.set_level("CRITICAL", "flowagent")
    path = saved_state(tmp_path)
    whole = path.read_bytes()
    rng = random.Random(1)
    damaged = [whole[:n] for n in range(0, len(whole), 5)]
    damaged += [whole[:i] + bytes([rng.randrange(256)]) + whole[i + 1 :] for i in range(len(whole)) for _ in range(4)]
    for content in damaged:
        path.write_bytes(content)
        ctx = Context("udp", state_dir=tmp_path)
        source = Config(listen=LOCAL).build(ctx)
        Snapshot(ctx).load(source.decoder.exporters)
        # What it took up can be used, shown, aged and saved again.
        source.decoder.feed(Datagrams.of([ipfix(data_set(2)), ipfix(TEMPLATE, data_set(1))]))
        assert list(source._families())
        msgspec.json.encode(source.exporters())
        source.decoder.expire(2**62)
        assert msgspec.msgpack.encode(source.decoder.exporters.snapshot())
