"""The IPFIX sink: a decoder finds the same sums and columns, knows the rates, and has the templates it needs."""

import asyncio
import re
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from drawn import V4
from sent_ipfix import decode, framed, header

from flowagent.batch import Batch, constant
from flowagent.channel import Item
from flowagent.clock import SECOND, ManualClock
from flowagent.component import Context
from flowagent.config import parse
from flowagent.errors import ConfigError, Retry
from flowagent.export.ipfix import Config
from flowagent.outcome import Outcomes, Ticket
from flowagent.outlet import Outlet

DOCS = Path(__file__).parents[2] / "docs" / "sinks" / "ipfix.md"
START = 1_700_000_000


class Udp(asyncio.DatagramProtocol):
    """A collector that keeps what comes."""

    async def start(self, port=0):
        loop = asyncio.get_running_loop()
        self.datagrams = []
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", port))
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.port = self._transport.get_extra_info("sockname")[1]
        return self

    def datagram_received(self, data, _):
        self.datagrams.append(data)

    def stop(self):
        self._transport.close()

    async def came(self):
        """All so far."""
        await asyncio.sleep(0.02)
        found, self.datagrams = self.datagrams, []
        return found


class Tcp:
    """A collector that keeps what comes over each connection."""

    async def start(self, port=0):
        self.streams = []
        self._writers = []
        self._server = await asyncio.start_server(self._take, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _take(self, reader, writer):
        self.streams.append(bytearray())
        self._writers.append(writer)
        mine = self.streams[-1]
        while data := await reader.read(65536):
            mine += data
        writer.close()

    async def stop(self):
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0.02)

    async def came(self):
        """The messages of each connection."""
        await asyncio.sleep(0.05)
        return [framed(bytes(data)) for data in self.streams]


@pytest.fixture
async def udp():
    collector = await Udp().start()
    yield collector
    collector.stop()


@pytest.fixture
async def tcp():
    collector = await Tcp().start()
    yield collector
    await collector.stop()


@asynccontextmanager
async def sending(collector, clock=None, **settings):
    built = msgspec.convert({"collector": f"127.0.0.1:{collector.port}", **settings}, Config)
    async with built.build(Context("out", clock or ManualClock(START * SECOND))) as sink:
        yield sink


def rows(n, first=0, **columns):
    """IPv4 and, each third, IPv6."""
    numbers = np.arange(first, first + n, dtype=np.uint64)
    is_v6 = numbers % 3 == 0
    addresses = np.stack([np.where(is_v6, 1, 0), np.where(is_v6, numbers, V4 | 0x0A000000 | numbers)]).astype("u8")
    times = (START * 1000 + numbers.astype("i8")) * 10**6
    return Batch({
        "src_addr": addresses, "dst_addr": addresses,
        "src_port": numbers.astype("u2"), "dst_port": constant(443, n, "u2"), "proto": constant(6, n, "u1"),
        "bytes": numbers * np.uint64(1000), "packets": numbers + np.uint64(1),
        "start_ns": times, "end_ns": times + 10**6,
        **columns,
    })  # fmt: skip


def values(batch, *names):
    """The columns as plain rows, sorted."""
    arrays = [batch[name] if batch[name].ndim == 1 else batch[name][1] for name in names]
    return sorted(zip(*(array.tolist() for array in arrays), strict=True))


COLUMNS = "src_addr", "dst_addr", "src_port", "dst_port", "proto", "bytes", "packets", "start_ns", "end_ns"


async def test_udp_carries_all_columns_and_sums(udp):
    batch = rows(3000)
    async with sending(udp) as sink:
        size = await sink.write(batch)
    came = await udp.came()
    assert size == sum(map(len, came))
    assert max(map(len, came)) <= 1400
    back = decode(came)
    assert values(back, *COLUMNS) == values(batch, *COLUMNS)
    assert set(back["observation_domain"].tolist()) == {1}


async def test_tcp_carries_all_columns_and_sums(tcp):
    batch = rows(3000)
    async with sending(tcp, protocol="tcp") as sink:
        assert await sink.write(batch) > 100_000
        await sink.write(rows(10, first=5000))
    ((*messages,),) = await tcp.came()
    assert len(messages) < 10
    back = decode(messages)
    assert values(back, *COLUMNS) == values(Batch.concat([batch, rows(10, first=5000)]), *COLUMNS)


async def test_small_datagrams_and_other_domains(udp):
    async with sending(udp, mtu=512, observation_domain=0xFFFFFFFF) as sink:
        await sink.write(rows(1000))
    came = await udp.came()
    assert max(map(len, came)) <= 512
    assert {header(message)[4] for message in came} == {0xFFFFFFFF}
    assert len(decode(came)) == 1000


async def test_export_time_and_sequence(udp):
    clock = ManualClock(START * SECOND)
    async with sending(udp, clock) as sink:
        await sink.write(rows(2, first=1))
        clock.advance(5)
        await sink.write(rows(1, first=1))
    came = [header(message) for message in await udp.came()]
    assert [(seconds, sequence) for _, _, seconds, sequence, _ in came] == [
        (START, 0), (START, 0), (START + 5, 2),
    ]  # fmt: skip


def sets(messages):
    """The ids of all sets, of messages with one each."""
    return [int.from_bytes(message[16:18], "big") for message in messages]


async def test_templates_come_again_over_udp_when_it_is_time(udp):
    clock = ManualClock(START * SECOND)
    rated = rows(1, first=1, sampling_rate=np.array([8.0]))
    async with sending(udp, clock, template_refresh="10s") as sink:
        for _ in range(5):
            await sink.write(rated)
            clock.advance(4)
    assert sets(await udp.came()) == [2, 3, 256, 259, 259, 259, 2, 3, 256, 259, 259]


async def test_new_templates_and_rates_come_before_they_are_used(udp):
    async with sending(udp) as sink:
        for rate in (None, 8.0, 8.0, 9.0):
            more = {} if rate is None else {"sampling_rate": np.array([rate])}
            await sink.write(rows(1, first=1, **more))
    assert sets(await udp.came()) == [2, 259, 2, 3, 256, 260, 260, 256, 260]


async def test_over_tcp_templates_come_once_a_connection(tcp):
    clock = ManualClock(START * SECOND)
    async with sending(tcp, clock, protocol="tcp", template_refresh="10s") as sink:
        for _ in range(3):
            await sink.write(rows(1, first=1))
            clock.advance(60)
    assert [sets(messages) for messages in await tcp.came()] == [[2, 259, 259, 259]]


async def test_sampling_rates_are_told(udp):
    rates = np.array([100.0, 0, 7.5, 100.0])
    batch = rows(4, sampling_rate=rates)
    batch.valid["sampling_rate"] = rates > 0
    async with sending(udp) as sink:
        await sink.write(batch)
    back = decode(await udp.came())
    assert back.total("bytes") == batch.total("bytes")
    found = np.where(back.is_known("sampling_rate"), back["sampling_rate"], 0)
    assert found[np.argsort(back["src_port"])].tolist() == [100, 0, 7.5, 100]


async def test_scaled_sums_have_the_rate_in_them_and_nobody_is_told(udp):
    rates = np.array([100.0, 0, 7.0, 100.0])
    batch = rows(4, first=1, sampling_rate=rates)
    batch.valid["sampling_rate"] = rates > 0
    async with sending(udp, scale=True) as sink:
        await sink.write(batch)
    back = decode(await udp.came())
    assert "sampling_rate" not in back
    assert values(back, "src_port", "bytes", "packets") == [
        (1, 100_000, 200), (2, 2000, 3), (3, 21_000, 28), (4, 400_000, 500),
    ]  # fmt: skip


@pytest.mark.parametrize("scale", [False, True])
async def test_totals_of_a_sample_are_right_on_average(udp, scale):
    n = 20_000
    rng = np.random.default_rng(5)
    weight, rate = 1 / rng.uniform(0.05, 1, n), rng.integers(1, 5, n).astype(float)
    batch = rows(n, records=constant(1, n, "u8"), weight=weight, sampling_rate=rate, packets=constant(1, n, "u8"))
    async with sending(udp, scale=scale, pace=100_000) as sink:
        await sink.write(batch)
    back = decode(await udp.came())
    factor = weight * rate if scale else weight
    for name, truth in (("packets", factor.sum()), ("bytes", (batch["bytes"] * factor).sum())):
        # Each row is rounded up or down: by half of one at most, as its standard deviation.
        assert abs(back.total(name) - truth) < 4 * 0.5 * np.sqrt(n)
    assert back.total("deltaFlowCount") == pytest.approx(
        weight.sum() if not scale else factor.sum(), abs=2 * np.sqrt(n)
    )


async def test_a_row_is_sent_alike_again(udp):
    batch = rows(100, weight=np.full(100, 1.3))
    async with sending(udp) as sink:
        for _ in range(2):
            await sink.write(Batch(batch.columns))
    back = decode(await udp.came())
    assert sorted(back["bytes"].tolist())[::2] == sorted(back["bytes"].tolist())[1::2]


async def test_nobody_there_is_tried_again(udp):
    udp.stop()
    await asyncio.sleep(0)
    async with sending(udp) as sink:
        with pytest.raises(Retry, match=f"cannot send to 127.0.0.1:{udp.port}: Connection refused"):
            await sink.write(rows(1))
        again = await Udp().start(udp.port)
        await sink.write(rows(5))
        assert len(decode(await again.came())) == 5
        again.stop()


async def test_nobody_there_over_tcp(tcp):
    await tcp.stop()
    async with sending(tcp, protocol="tcp") as sink:
        with pytest.raises(Retry, match="cannot send to"):
            await sink.write(rows(1))


async def test_a_host_without_address():
    built = Config(collector="collector.invalid:4739").build(Context("out"))
    async with built as sink:
        with pytest.raises(Retry, match="cannot send to collector"):
            await sink.write(rows(1))


async def test_no_row_is_lost_when_the_collector_starts_anew():
    first = await Tcp().start()
    settings = Config(
        collector=f"127.0.0.1:{first.port}", protocol="tcp", batch_rows=100, spool=0, max_wait=0, timeout=2
    )
    ctx = Context("out")
    outcomes = Outcomes()
    async with Outlet(settings.build(ctx), ctx, outcomes, settings) as outlet:
        running = asyncio.ensure_future(outlet.run())  # noqa: TID251
        outcomes.decoded = 300
        outlet.channel.put(Item(rows(100), Ticket(outcomes, 100, 1)))
        (messages,) = await first.came()
        await first.stop()
        outlet.channel.put(Item(rows(100, 100), Ticket(outcomes, 100, 1)))
        await asyncio.sleep(0.1)
        assert outlet.failing
        again = await Tcp().start(first.port)
        outlet.channel.put(Item(rows(100, 200), Ticket(outcomes, 100, 1)))
        outlet.close("shutdown")
        await asyncio.wait_for(running, 10)
    (later,) = await again.came()
    assert values(Batch.concat([decode(messages), decode(later)]), "src_port") == [(i,) for i in range(300)]
    assert outcomes.counts["exported", ""] == 300
    await again.stop()


async def test_rows_without_a_template_are_counted(udp):
    ctx = Context("out", ManualClock(START * SECOND))
    async with Config(collector=f"127.0.0.1:{udp.port}").build(ctx) as sink:
        await sink.write(Batch({"weight": np.ones(3)}))
        found = {family.name: family.samples for family in ctx.metrics.collect()}
    assert found["flowagent_sink_narrowed_rows"] == {("out",): 3}


async def test_no_rows_no_datagram(udp):
    async with sending(udp) as sink:
        assert await sink.write(Batch({})) == 0
    assert await udp.came() == []


def test_settings_that_are_wrong(tmp_path):
    for settings, path in (
        ({"collector": "nowhere"}, "out.collector"),
        ({"collector": ":4739"}, "out.collector"),
        ({"collector": "host:0"}, "out.collector"),
        ({"tls": {}}, "out.tls"),
        ({"protocol": "tcp", "tls": {"ca": str(tmp_path / "none")}}, "out.tls.ca"),
        ({"template_refresh": "soon"}, "out.template_refresh"),
    ):
        with pytest.raises(ConfigError) as raised:
            msgspec.convert({"collector": "host:4739", **settings}, Config).build(Context("out"))
        assert raised.value.path == path


async def test_the_examples_of_the_documentation_work(udp, tcp, tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    examples = [entry for block in blocks for entry in yaml.safe_load(block)]
    kinds = parse({"export": examples}, {"UDP": str(udp.port), "TCP": str(tcp.port)}).export
    assert [kind.settings.protocol for kind in kinds] == ["udp", "tcp"]
    for kind in kinds:
        async with kind.settings.build(Context(kind.name)) as sink:
            await sink.write(rows(3))
    assert len(decode(await udp.came())) == 3
    assert [len(decode(messages)) for messages in await tcp.came()] == [3]
