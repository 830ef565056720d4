"""A sink with its queue and retries: fine, failing for a while, for good, both, or hanging."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from flowagent.batch import Batch
from flowagent.channel import Item
from flowagent.component import Context
from flowagent.delivery import Delivery
from flowagent.errors import Rejected, Retry
from flowagent.outcome import Outcomes, Ticket
from flowagent.outlet import Outlet

# Random numbers that make every pause without an `after` last no time.
NO_PAUSE = SimpleNamespace(random=lambda: -1)


AS_IT_COMES = Delivery(batch_rows=1, max_wait=0, spool=0)


class ScriptedSink:
    """Each write does the next step of the script (raises it, or hangs), and succeeds once the script is over."""

    def __init__(self, *script):
        self.script = list(script)
        self.taken = []
        self.writes = 0
        self.writing = asyncio.Event()

    async def write(self, batch):
        self.writes += 1
        self.writing.set()
        step = self.script.pop(0) if self.script else None
        if step == "hang":
            await asyncio.Event().wait()
        if step is not None:
            raise step
        self.taken += batch["bytes"].tolist()
        return 10 * len(batch)


class Bench:
    """An outlet with a scripted sink."""

    def __init__(self, *script, max_rows=100, rng=NO_PAUSE, delivery=AS_IT_COMES):
        self.sink = ScriptedSink(*script)
        self.outcomes = Outcomes()
        self.outlet = Outlet(self.sink, Context("out", rng=rng), self.outcomes, delivery, max_rows)

    def put(self, *values):
        batch = Batch({"bytes": np.array(values, "u8")})
        self.outcomes.decoded += len(batch)
        self.outlet.channel.put(Item(batch, Ticket(self.outcomes, len(batch), 1)))

    async def drain(self):
        self.outlet.channel.close()
        await asyncio.wait_for(self.outlet.run(), 5)

    def metrics(self):
        return {
            f.name.removeprefix("flowagent_sink_"): f.samples["out",]
            for f in self.outlet.families()
            if f.name.startswith("flowagent_sink_")
        }

    def account(self):
        return {key: n for key, n in self.outcomes.counts.items() if n}


def numbers(**changed):
    return {"records": 0, "bytes": 0, "errors": 0, "retries": 0, "dropped_rows": 0, "queue_rows": 0} | changed


async def test_ok():
    bench = Bench()
    bench.put(1, 2)
    bench.put(3)
    await bench.drain()
    assert bench.sink.taken == [1, 2, 3]
    assert bench.metrics() == numbers(records=3, bytes=30)
    assert bench.account() == {("exported", ""): 3}
    assert bench.outlet.failing is None


def test_its_series_exist_from_the_start():
    assert Bench().metrics() == numbers()


async def test_transient_failure_is_tried_again_whole():
    bench = Bench(Retry("busy", after=0), Retry("busy"))
    bench.put(1, 2)
    await bench.drain()
    assert bench.sink.taken == [1, 2]
    assert bench.metrics() == numbers(records=2, bytes=20, errors=2, retries=2)
    assert bench.account() == {("exported", ""): 2}
    assert bench.outlet.failing is None


async def test_permanent_failure_drops_the_batch_and_goes_on():
    bench = Bench(Rejected("too_large", "5 MB"))
    bench.put(1, 2)
    bench.put(3)
    await bench.drain()
    assert bench.sink.taken == [3]
    assert bench.metrics() == numbers(records=1, bytes=10, errors=1)
    assert bench.account() == {("exported", ""): 1, ("dropped", "sink_too_large"): 2}


async def test_mixed_failures():
    bench = Bench(Retry("busy", after=0), Rejected("too_large"), None, Retry("busy", after=0))
    for value in (1, 2, 3):
        bench.put(value)
    await bench.drain()
    assert bench.sink.taken == [2, 3]
    assert bench.metrics() == numbers(records=2, bytes=20, errors=3, retries=2)
    assert bench.account() == {("exported", ""): 2, ("dropped", "sink_too_large"): 1}


async def test_a_fault_of_the_sinks_own_code_costs_the_batch_only(caplog):
    bench = Bench(ZeroDivisionError("oops"))
    bench.put(1, 2)
    bench.put(3)
    await bench.drain()
    assert bench.sink.taken == [3]
    assert bench.metrics() == numbers(records=1, bytes=10, errors=1)
    assert bench.account() == {("exported", ""): 1, ("dropped", "sink_internal"): 2}
    assert "oops" in caplog.text


async def test_a_write_that_never_ends_is_given_up_and_tried_again():
    bench = Bench("hang", delivery=Delivery(batch_rows=1, max_wait=0, spool=0, timeout="10ms"))
    bench.put(1, 2)
    await bench.drain()
    assert bench.sink.taken == [1, 2]
    assert bench.metrics() == numbers(records=2, bytes=20, errors=1, retries=1)


async def test_hanging_it_can_be_cancelled_and_what_it_held_is_counted():
    bench = Bench("hang")
    bench.put(1, 2)
    task = asyncio.get_running_loop().create_task(bench.outlet.run())
    await bench.sink.writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.account() == {("dropped", "shutdown"): 2}


async def test_hanging_its_queue_drops_the_oldest_and_counts():
    bench = Bench("hang", max_rows=10)
    bench.put(0)
    task = asyncio.get_running_loop().create_task(bench.outlet.run())
    await bench.sink.writing.wait()
    for first in (10, 20, 30):
        bench.put(*range(first, first + 6))
    assert bench.metrics() == numbers(dropped_rows=12, queue_rows=6)
    assert bench.account() == {("dropped", "sink_queue_full"): 12}
    task.cancel()
    await asyncio.wait([task])
    assert bench.outcomes.pending == 6


async def test_failing_says_why_until_it_works_again(caplog):
    bench = Bench(Retry("cannot reach 192.0.2.1", after=0), Retry("cannot reach 192.0.2.1", after=0))
    seen = []
    write = bench.sink.write

    async def spying_write(batch):
        seen.append(bench.outlet.failing)
        return await write(batch)

    bench.sink.write = spying_write
    bench.put(1)
    with caplog.at_level("INFO", "flowagent"):
        await bench.drain()
    assert seen == [None, "cannot reach 192.0.2.1", "cannot reach 192.0.2.1"]
    assert bench.outlet.failing is None
    # The same problem is logged once.
    assert [r.message for r in caplog.records] == ["cannot reach 192.0.2.1", "works again"]


async def test_it_waits_as_long_as_the_other_side_asks_or_longer_each_time(monkeypatch):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    bench = Bench(*[Retry("busy")] * 10, Retry("busy", after=7), rng=SimpleNamespace(random=lambda: 1))
    bench.put(1)
    await bench.outlet._send_new([await bench.outlet.channel.get()])
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10, 7])


async def test_after_a_write_that_worked_pauses_are_short_again(monkeypatch):
    pauses = []

    async def sleep(seconds):
        if seconds:
            pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    busy = Retry("busy")
    bench = Bench(busy, busy, busy, None, busy, busy, rng=SimpleNamespace(random=lambda: 1))
    bench.put(1)
    bench.put(2)
    bench.outlet.channel.close()
    await bench.outlet._send_all()
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 0.2, 0.4])


async def test_jitter_keeps_many_agents_apart(monkeypatch):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for seed in range(50):
        bench = Bench(Retry("busy"), rng=np.random.default_rng(seed))
        bench.put(1)
        await bench.outlet._send_new([await bench.outlet.channel.get()])
    first = pauses
    assert all(0.1 <= pause <= 0.2 for pause in first)
    assert len(set(first)) > 40


class Pushing(ScriptedSink):
    """Sends something else, too, which fails the first time."""

    every = 0.01

    def __init__(self):
        super().__init__()
        self.pushes = 0
        self.enough = asyncio.Event()

    async def push(self):
        self.pushes += 1
        if self.pushes == 1:
            raise RuntimeError("broken")
        if self.pushes == 3:
            self.enough.set()


async def test_a_sink_may_send_something_else_at_times(caplog):
    bench = Bench()
    bench.outlet.sink = Pushing()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(bench.outlet.run())
        await bench.outlet.sink.enough.wait()
        bench.put(1)
        bench.outlet.channel.close()
    assert bench.outlet.sink.taken == [1]
    assert bench.metrics()["errors"] == 1
    assert "RuntimeError: broken" in caplog.text
