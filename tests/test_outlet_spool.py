"""A sink with a spool: outages, hanging writes, ends, restarts; rows arrive at least once and in order."""

import asyncio
import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent import outlet as outlet_module
from flowagent.batch import Batch
from flowagent.channel import Item
from flowagent.component import Context
from flowagent.delivery import Delivery
from flowagent.errors import ConfigError, Rejected, Retry
from flowagent.outcome import Outcomes, Ticket
from flowagent.outlet import Outlet
from flowagent.progress import Progress

NO_PAUSE = SimpleNamespace(random=lambda: -1)
QUICK = {"batch_rows": 100, "max_wait": 0}


class Sink:
    """Takes rows while `works`; else raises, or hangs until it works."""

    def __init__(self, *, works=True, fails=None, hangs=False):
        self.works = asyncio.Event()
        self.fails, self.hangs = fails or Retry("out of reach"), hangs
        self.taken, self.writes = [], []
        if works:
            self.works.set()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def write(self, batch):
        self.writes.append(len(batch))
        if not self.works.is_set():
            if not self.hangs:
                raise self.fails
            await self.works.wait()
        self.taken += batch["bytes"].tolist()
        return 8 * len(batch)


class Bench:
    """Runs of one agent after the other over one state directory."""

    def __init__(self, path, **delivery):
        self.path = path
        self.delivery = Delivery(**(QUICK | delivery))
        self.outcomes = Outcomes()

    @contextlib.asynccontextmanager
    async def run(self, sink, *, close=True, end=True):
        """An outlet that runs; at the end it is closed as SIGTERM would, or cancelled."""
        self.outcomes = Outcomes()
        context = Context("out", rng=NO_PAUSE, state_dir=self.path)
        self.outlet = Outlet(sink, context, self.outcomes, self.delivery)
        async with self.outlet:
            task = asyncio.get_running_loop().create_task(self.outlet.run())
            try:
                yield self.outlet
                if close:
                    self.outlet.close("shutdown")
                    await asyncio.wait([task], timeout=5)
            finally:
                task.cancel()
                await asyncio.wait([task])
        if end:
            assert self.outcomes.pending == 0

    def put(self, *values, span=None):
        batch = Batch({"bytes": np.array(values, "u8")})
        self.outcomes.decoded += len(batch)
        self.outlet.channel.put(Item(batch, Ticket(self.outcomes, len(batch), 1, span)))

    def account(self):
        return {key: n for key, n in self.outcomes.counts.items() if n}

    def metric(self, name):
        return {family.name: family.samples["out",] for family in self.outlet.families()}[f"flowagent_{name}"]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (what is waited for is the outlet's own)
            await asyncio.sleep(0.005)


async def test_a_sink_that_works_needs_no_disk(bench):
    sink = Sink()
    async with bench.run(sink):
        bench.put(1, 2)
        bench.put(3)
    assert sink.taken == [1, 2, 3]
    assert bench.account() == {("exported", ""): 3}
    assert bench.metric("spool_rows") == 0


async def test_what_waits_is_sent_together(bench):
    sink = Sink()
    bench.delivery = Delivery(batch_rows=4, max_wait="50ms")
    async with bench.run(sink):
        for value in range(10):
            bench.put(value)
        await until(lambda: len(sink.taken) == 10)
    assert sink.writes == [4, 4, 2]


async def test_bytes_bound_a_batch_too(bench):
    sink = Sink()
    bench.delivery = Delivery(batch_rows=1000, batch_bytes=80, max_wait=0)
    async with bench.run(sink):
        bench.put(0)
        await until(lambda: sink.taken)
        for value in range(1, 41):
            bench.put(value)
        await until(lambda: len(sink.taken) == 41)
    assert max(sink.writes) == 10


async def test_an_outage_goes_through_the_disk_in_order(bench):
    sink = Sink(works=False)
    async with bench.run(sink):
        for value in range(5):
            bench.put(value)
        await until(lambda: bench.metric("spool_rows") == 5)
        assert bench.metric("sink_queue_rows") == 0
        assert bench.metric("spool_bytes") > 0
        assert bench.outlet.failing == "out of reach"
        sink.works.set()
        bench.put(5)
        await until(lambda: len(sink.taken) == 6)
    assert sink.taken == [0, 1, 2, 3, 4, 5]
    assert bench.account() == {("exported", ""): 6}
    assert bench.metric("spool_rows") == bench.metric("spool_bytes") == 0


async def test_an_end_in_an_outage_leaves_all_on_disk_and_the_next_run_sends_it(bench):
    async with bench.run(Sink(works=False)):
        for value in range(5):
            bench.put(value)
    assert bench.account() == {("spooled", ""): 5}
    sink = Sink()
    async with bench.run(sink):
        assert bench.outcomes.restored == 5
        bench.put(5)
        await until(lambda: len(sink.taken) == 6)
    assert sink.taken == [0, 1, 2, 3, 4, 5]
    assert bench.account() == {("exported", ""): 6}


async def test_an_end_in_an_outage_does_not_wait(bench):
    async with bench.run(Sink(works=False, fails=Retry("busy", after=3600))):
        bench.put(1)
        await until(lambda: bench.metric("spool_rows") == 1)
    assert bench.account() == {("spooled", ""): 1}


async def test_once_the_spool_drains_pauses_are_short_again(bench, monkeypatch):
    sink = Sink(works=False)
    async with bench.run(sink):
        for value in range(300):
            bench.put(value)
        await until(lambda: bench.outlet._pause > 1)
        sink.works.set()
        await until(lambda: sink.taken)
        assert bench.outlet._pause == outlet_module._FIRST_PAUSE
        await until(lambda: len(sink.taken) == 300)


async def test_what_a_write_hangs_on_is_on_disk_soon(bench, monkeypatch):
    monkeypatch.setattr(outlet_module, "_PATIENCE", 0.02)
    sink = Sink(works=False, hangs=True)
    async with bench.run(sink):
        bench.put(1, 2)
        await until(lambda: sink.writes)
        bench.put(3)
        await until(lambda: bench.metric("spool_rows") == 3)
        sink.works.set()
        await until(lambda: bench.metric("spool_rows") == 0)
    assert sink.taken == [1, 2, 3]
    assert bench.account() == {("exported", ""): 3}


async def test_a_kill_loses_nothing_that_was_on_disk(bench, monkeypatch):
    monkeypatch.setattr(outlet_module, "_PATIENCE", 0.02)
    sink = Sink(works=False, hangs=True)
    async with bench.run(sink, close=False):
        bench.put(1, 2)
        bench.put(3)
        await until(lambda: bench.metric("spool_rows") == 3)
        # A copy of the state directory is what a kill at this moment would leave.
        copy = bench.path.parent / "copy"
        (copy / "spool").mkdir(parents=True)
        for file in (bench.path / "spool").iterdir():
            (copy / "spool" / file.name).write_bytes(file.read_bytes())
    after = Bench(copy)
    sink = Sink()
    async with after.run(sink):
        await until(lambda: len(sink.taken) == 3)
    assert sink.taken == [1, 2, 3]


async def test_cancelled_within_a_write_nothing_is_lost(bench):
    sink = Sink(works=False, hangs=True)
    async with bench.run(sink, close=False):
        bench.put(1, 2)
        await until(lambda: sink.writes)
        bench.put(3)
    assert bench.account() == {("spooled", ""): 3}
    sink = Sink()
    async with bench.run(sink):
        await until(lambda: len(sink.taken) == 3)
    assert sink.taken == [1, 2, 3]


async def test_what_is_refused_for_good_does_not_block_what_is_behind(bench):
    sink = Sink(works=False)
    async with bench.run(sink):
        bench.put(1)
        await until(lambda: bench.metric("spool_rows") == 1)
        bench.put(2)
        sink.fails = Rejected("too_large")
        await until(lambda: ("dropped", "sink_too_large") in bench.account())
        sink.works.set()
        bench.put(3)
        await until(lambda: 3 in sink.taken)
    assert sum(bench.account().values()) == 3
    assert bench.account()["exported", ""] >= 1


async def test_past_the_bound_the_oldest_go_and_are_counted(bench):
    bench.delivery = Delivery(batch_rows=500, max_wait=0, spool=30_000)
    rng = np.random.default_rng(1)
    sink = Sink(works=False)
    async with bench.run(sink):
        batches = [rng.integers(0, 2**62, 500).tolist() for _ in range(20)]
        for batch in batches:
            bench.put(*batch)
            await until(lambda: bench.metric("sink_queue_rows") == 0)
        await until(lambda: bench.metric("spool_rows") + bench.metric("sink_dropped_rows") == 10_000)
        dropped = bench.metric("sink_dropped_rows")
        assert dropped > 0
        assert bench.account() == {("dropped", "spool_full"): dropped}
        sink.works.set()
        await until(lambda: bench.metric("spool_rows") == 0)
    assert sink.taken == [value for batch in batches for value in batch][dropped:]
    assert bench.account() == {("dropped", "spool_full"): dropped, ("exported", ""): 10_000 - dropped}


async def test_a_disk_that_fails_is_counted(bench, monkeypatch, caplog):
    sink = Sink(works=False)
    async with bench.run(sink):

        def put(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(bench.outlet._spool, "put", put)
        bench.put(1)
        await until(lambda: bench.metric("spool_errors"))
    assert bench.account() == {("dropped", "spool_failed"): 1}
    assert "No space left" in caplog.text


async def test_a_spool_that_cannot_be_made_is_an_error_of_the_configuration(tmp_path):
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(ConfigError, match=r"out\.spool"):
        async with Bench(tmp_path).run(Sink()):
            pass


async def test_without_a_state_directory_rows_wait_in_memory(tmp_path):
    sink, outcomes = Sink(works=False), Outcomes()
    outlet = Outlet(sink, Context("out", rng=NO_PAUSE), outcomes, Delivery(**QUICK))
    async with outlet:
        task = asyncio.get_running_loop().create_task(outlet.run())
        outlet.channel.put(Item(Batch({"bytes": np.array([1], "u8")}), Ticket(outcomes, 1, 1)))
        await until(lambda: len(sink.writes) > 2)
        sink.works.set()
        outlet.close("shutdown")
        await asyncio.wait_for(task, 5)
    assert sink.taken == [1]
    assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["put", "put", "fail", "work", "restart", "cancel", "settle"]), max_size=14))
def test_whatever_happens_rows_arrive_at_least_once_and_first_in_order(tmp_path_factory, steps):
    asyncio.run(_story(tmp_path_factory.mktemp("state"), steps))


async def _story(path, steps):
    bench, count, works = Bench(path), 0, True
    taken, steps = [], [*steps, "work", "settle"]
    while steps:
        sink = Sink(works=works)
        sink.taken = taken
        restart = None
        async with bench.run(sink, close=True):
            while steps and restart is None:
                step = steps.pop(0)
                if step == "put":
                    bench.put(count, count + 1)
                    count += 2
                elif step in ("fail", "work"):
                    works = step == "work"
                    (sink.works.set if works else sink.works.clear)()
                elif step == "settle":
                    await asyncio.sleep(0.01)
                else:
                    restart = step
            if not steps and restart is None:
                await until(lambda n=count: set(taken) == set(range(n)))
    assert sorted(set(taken)) == list(range(count))
    firsts = list(dict.fromkeys(taken))
    assert firsts == sorted(firsts)


async def test_a_disk_that_fails_while_a_write_hangs_costs_nothing(bench, monkeypatch):
    """The write may succeed yet."""
    monkeypatch.setattr(outlet_module, "_PATIENCE", 0.02)
    monkeypatch.setattr(outlet_module.Spool, "put", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    sink, progress = Sink(works=False, hangs=True), Progress()
    async with bench.run(sink) as outlet:
        progress.next()
        bench.put(1, span=progress.span)
        progress.end_span()
        await until(lambda: bench.metric("spool_errors") > 1)
        assert bench.account() == {}
        assert progress.settled == 0
        sink.works.set()
        await until(lambda: sink.taken == [1])
    assert not outlet.channel.rows
    assert bench.account() == {("exported", ""): 1}
    assert progress.settled == 1


async def test_rows_are_settled_once_they_are_on_disk(bench):
    sink, progress = Sink(works=False), Progress()
    async with bench.run(sink):
        progress.next()
        bench.put(1, span=progress.span)
        progress.end_span()
        await until(lambda: progress.settled == 1)
        assert bench.metric("spool_rows") == 1
        assert bench.account() == {}
        assert 0 < bench.outlet.filled < 1


async def test_how_much_waits_in_memory(bench):
    outlet = Outlet(Sink(), Context("out"), Outcomes(), Delivery(spool=0), max_rows=10)
    assert outlet.filled == 0
    outlet.channel.put(Item(Batch({"bytes": np.arange(5, dtype="u8")}), Ticket(Outcomes(), 5, 1)))
    assert outlet.filled == 0.5
