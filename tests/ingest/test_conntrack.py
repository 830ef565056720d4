"""The source `conntrack` beside a kernel that the test plays: dumps, events, refusals, and what is logged."""

import asyncio
import errno
import socket
import struct
from contextlib import asynccontextmanager

import pytest
from test_conntrack_message import DUMP, EVENTS, find_messages

from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.ingest import conntrack
from flowagent.ingest.conntrack import Config
from flowagent.ingest.conntrack_message import DELETE

DONE = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
REFUSED = struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -errno.EPERM) + bytes(16)


def cut(data, kind=None):
    found = find_messages(data)
    ranges = zip(found.offset, found.length, found.kind, strict=True)
    return [data[at : at + n] for at, n, what in ranges if kind is None or what == kind]


ENTRIES, ENDS = cut(DUMP.read_bytes()), cut(EVENTS.read_bytes(), DELETE)


def grown(message, octets):
    """The entry with so many bytes more in its first direction."""
    at = message.index(struct.pack("=HH", 12, 2), message.index(struct.pack("=HH", 28, 0x8009))) + 4
    value = int.from_bytes(message[at : at + 8], "big") + octets
    packets = int.from_bytes(message[at - 12 : at - 4], "big") + 1
    return (
        message[: at - 12]
        + packets.to_bytes(8, "big")
        + message[at - 4 : at]
        + value.to_bytes(8, "big")
        + message[at + 8 :]
    )


class Kernel:
    """Answers requests with `table`; `tell` sends an event."""

    def __init__(self, settings):
        self.table, self.answer, self.dumps, self.settings = [], None, 0, settings
        self._events = None

    def open(self, groups, _):
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        if groups:
            assert groups == 1 << 2
            self._events = mine
            return theirs

        def answer():
            asyncio.get_running_loop().remove_reader(mine)
            request = mine.recv(100)
            assert request[:8] == struct.pack("=IHH", 20, 0x101, 0x301)
            self.dumps += 1
            if self.answer is not None:
                mine.send(self.answer)
            else:
                for at in range(0, len(self.table), 3):
                    mine.send(b"".join(self.table[at : at + 3]))
                mine.send(DONE)
            mine.close()

        asyncio.get_running_loop().add_reader(mine, answer)
        return theirs

    def tell(self, *messages):
        for message in messages:
            self._events.send(message)

    def close(self):
        if self._events is not None:
            self._events.close()


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    (tmp_path / "nf_conntrack_acct").write_text("1\n")
    (tmp_path / "nf_conntrack_timestamp").write_text("0\n")
    monkeypatch.setattr(conntrack, "_SETTINGS", tmp_path)
    monkeypatch.setattr(conntrack, "_POLL", 0.01)
    made = Kernel(tmp_path)
    monkeypatch.setattr(conntrack, "_open", made.open)
    yield made
    made.close()


@asynccontextmanager
async def running(**settings):
    ctx = Context("conntrack")
    source = Config(**({"interval": "20ms"} | settings)).build(ctx)
    delivered = []
    async with source:
        task = asyncio.get_running_loop().create_task(source.run(delivered.append))
        try:
            yield source, delivered, ctx
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()


async def until(look):
    async with asyncio.timeout(5):
        while not look():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def octets(delivered):
    return sum(batch.total("bytes") for batch in delivered)


def samples(ctx, name):
    return next(f.samples for f in ctx.metrics.collect() if f.name == f"flowagent_{name}")


async def test_what_is_counted_since_the_beginning_is_told(kernel):
    kernel.table = ENTRIES
    async with running() as (source, delivered, ctx):
        await until(lambda: kernel.dumps > 2)
        assert delivered == []
        assert source.ready() is None
        assert samples(ctx, "conntrack_entries")["conntrack",] == 6
        kernel.table = [grown(ENTRIES[0], 1000), *ENTRIES[1:]]
        await until(lambda: octets(delivered) == 1000)
    assert samples(ctx, "ingest_records")["conntrack", "conntrack"] == 1


async def test_connections_that_begin_and_end_are_told_whole(kernel):
    async with running() as (_, delivered, ctx):
        kernel.table = ENTRIES[:3]
        await until(lambda: sum(map(len, delivered)) >= 5)
        kernel.table = []
        kernel.tell(*ENDS)
        await until(lambda: sum(batch.record_count for batch in delivered) == 11)
    # All of them once, whether a dump or their end told of them.
    assert octets(delivered) == 31 + 31 + 104 + 104 + 31 + 323 + 219 + 443 + 299 + 168 + 168
    assert samples(ctx, "conntrack_vanished")["conntrack",] == 0


async def test_what_was_counted_up_to_the_end_is_told(kernel):
    kernel.table = ENTRIES
    async with running(interval="1h") as (_, delivered, _):
        kernel.table = [grown(ENTRIES[0], 1000), *ENTRIES[1:5]]
        kernel.tell(grown(next(end for end in ENDS if end[24:64] == ENTRIES[5][24:64]), 7))
        await asyncio.sleep(0)
    assert octets(delivered) == 1007


async def test_only_what_is_wanted_is_delivered(kernel):
    async with running() as (source, delivered, _):
        source.want(frozenset({"bytes", "nat_src_addr"}))
        kernel.tell(*ENDS)
        await until(lambda: delivered)
    assert set(Batch.concat(delivered).columns) == {"bytes", "nat_src_addr", "records"}


async def test_without_accounting_it_is_not_ready_and_says_what_to_do(kernel, caplog):
    (kernel.settings / "nf_conntrack_acct").write_text("0\n")
    async with running() as (source, _, _):
        assert "set net.netfilter.nf_conntrack_acct to 1, or enable_accounting: true" in source.ready()
        await until(lambda: kernel.dumps > 3)
        assert caplog.text.count("does not count") == 1
        (kernel.settings / "nf_conntrack_acct").write_text("1\n")
        await until(lambda: source.ready() is None)


async def test_without_events_it_is_not_ready_and_says_what_to_do(kernel):
    (kernel.settings / "nf_conntrack_events").write_text("0\n")
    async with running() as (source, _, _):
        assert "set net.netfilter.nf_conntrack_events to 1" in source.ready()


async def test_accounting_and_timestamps_can_be_switched_on(kernel):
    (kernel.settings / "nf_conntrack_acct").write_text("0\n")
    async with running(enable_accounting=True, enable_timestamps=True) as (source, _, _):
        assert source.ready() is None
    assert [(kernel.settings / n).read_text() for n in ("nf_conntrack_acct", "nf_conntrack_timestamp")] == ["1\n"] * 2


async def test_a_setting_that_cannot_be_changed(kernel):
    (kernel.settings / "nf_conntrack_acct").unlink()
    (kernel.settings / "nf_conntrack_acct").mkdir()
    with pytest.raises(ConfigError, match=r"conntrack\.enable_accounting: cannot set net\.netfilter\."):
        async with running(enable_accounting=True):
            pass


async def test_a_refusal_at_the_start(kernel):
    kernel.answer = REFUSED
    with pytest.raises(
        ConfigError, match=r"cannot read the connection table: .*not permitted; this needs CAP_NET_ADMIN"
    ):
        async with running():
            pass


async def test_a_refusal_later_is_counted_and_gone_when_it_is_over(kernel):
    async with running() as (source, delivered, ctx):
        kernel.answer = REFUSED
        await until(lambda: source.ready() is not None)
        assert "not permitted" in source.ready()
        assert samples(ctx, "ingest_errors")["conntrack", "conntrack", "dump"] > 0
        kernel.answer, kernel.table = None, ENTRIES
        await until(lambda: source.ready() is None)
        await until(lambda: sum(map(len, delivered)) == 11)


async def test_bad_messages_are_counted_and_stop_nothing(kernel):
    async with running() as (_, delivered, ctx):
        broken = bytearray(ENDS[0])
        struct.pack_into("=H", broken, 20, 1)
        kernel.tell(b"\0" * 30, bytes(broken), ENDS[1])
        await until(lambda: len(samples(ctx, "ingest_errors")) > 0)
        kernel.tell(ENDS[2])
        await until(lambda: delivered)


async def test_events_that_the_kernel_dropped_are_counted(kernel):
    async with running(interval="1h") as (source, delivered, ctx):
        real = source._events

        class Overrun:
            def recv(self, size):
                source._events = real
                raise OSError(errno.ENOBUFS, "No buffer space available")

        source._events = Overrun()
        kernel.tell(ENDS[0])
        await until(lambda: delivered)
        assert samples(ctx, "conntrack_overruns")["conntrack",] == 1


@pytest.mark.parametrize(("settings", "path"), [({"interval": "50ms"}, "interval"), ({"exporter": "node"}, "exporter")])
def test_wrong_settings(settings, path):
    with pytest.raises(ConfigError) as caught:
        Config(**settings).build(Context("conntrack"))
    assert caught.value.path == f"conntrack.{path}"
