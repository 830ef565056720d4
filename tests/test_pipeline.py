"""The pipeline with recording doubles: order of start and stop, drain, reload, and who waits for whom."""

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from flowagent import pipeline as pipeline_module
from flowagent.batch import Batch, constant
from flowagent.clock import ManualClock
from flowagent.component import Context
from flowagent.config import Config, Kind
from flowagent.errors import ConfigError
from flowagent.pipeline import Pipeline
from flowagent.sections import Http, Sampling, State, Window

PASS = Window(every=0)
TEN = Window(every=10, key=("src_port",), measures=("bytes", "records"))


@dataclass(frozen=True)
class Recipe:
    """Stands for settings: equal where `version` is, whatever it builds."""

    make: object = field(compare=False)
    version: int = 1
    brings: tuple = ()

    def build(self, ctx):
        return self.make(ctx)


class Double:
    """Writes into the journal when it starts and ends; fails to start where told so."""

    def __init__(self, journal, name, *, fails=None, gate=None):
        self.journal, self.name, self.fails, self.gate = journal, name, fails, gate

    async def __aenter__(self):
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            self.journal.append(f"!{self.name}")
            raise self.fails
        self.journal.append(f"+{self.name}")
        return self

    async def __aexit__(self, *_):
        self.journal.append(f"-{self.name}")


class Source(Double):
    """Delivers what the test tells it to, and at its end what the kernel still held."""

    def __init__(self, *args, rest=None, ends=None, breaks=None, **settings):
        super().__init__(*args, **settings)
        self.rest, self.ends, self.breaks = rest, ends or asyncio.Event(), breaks
        self.deliver = self.wanted = self.missing = None

    async def run(self, deliver):
        self.deliver = deliver
        try:
            await self.ends.wait()
            if self.breaks is not None:
                raise self.breaks
        finally:
            if self.rest is not None:
                deliver(self.rest)

    def want(self, columns):
        self.wanted = columns

    def ready(self):
        return self.missing

    def backlog(self):
        return 0.0


class Sink(Double):
    """Keeps the bytes of each row, or hangs."""

    def __init__(self, *args, hangs=False, needs=None, **settings):
        super().__init__(*args, **settings)
        self.hangs, self.needs = hangs, needs
        self.taken = []

    async def write(self, batch):
        if self.hangs:
            await asyncio.Event().wait()
        self.taken += batch["bytes"].tolist()
        return 0

    def columns(self):
        return self.needs


class Analysis:
    columns = frozenset({"proto"})
    every_record = True

    def __init__(self, _ctx=None):
        self.seen = 0

    def process(self, records, _flows, _now_ns):
        self.seen += len(records)

    def tick(self, _now_ns):
        pass

    def families(self):
        return ()


class Bench:
    """A pipeline of doubles and what they wrote into the journal."""

    def __init__(self, *, window=PASS):
        self.journal = []
        self.clock = ManualClock()
        self.made = {}
        self.window = window

    def kind(self, section, name, version=1, brings=(), **settings):
        cls = {"ingest": Source, "export": Sink}[section]
        type_ = {"ingest": "udp", "export": "file"}[section]

        def make(_):
            self.made[name] = cls(self.journal, name, **settings)
            return self.made[name]

        return Kind(section, name, type_, Recipe(make, version, brings))

    def source(self, name="in", version=1, **settings):
        return self.kind("ingest", name, version, **settings)

    def sink(self, name="out", version=1, **settings):
        return self.kind("export", name, version, **settings)

    def config(self, sources, sinks=(), analyse=(), window=None):
        return Config(tuple(sources), tuple(analyse), tuple(sinks), window or self.window, Sampling(), Http(), State())

    def build(self, *args, **settings):
        self.pipeline = Pipeline(self.config(*args, **settings), Context("test", self.clock))
        return self.pipeline

    @asynccontextmanager
    async def running(self, *args, **settings):
        pipeline = self.build(*args, **settings)
        stop, started = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        task = loop.create_task(pipeline.run(stop, started=started))
        self.task, self.stop = task, stop
        first = loop.create_task(started.wait())
        await asyncio.wait([first, task], return_when="FIRST_COMPLETED")
        first.cancel()
        try:
            if not task.done():
                await settle()
                yield pipeline
        finally:
            stop.set()
            await asyncio.wait_for(task, 5)

    def deliver(self, *octets, name="in", port=1):
        self.made[name].deliver(rows(*octets, port=port))

    @property
    def account(self):
        return {key: n for key, n in self.pipeline.outcomes.counts.items() if n}


def rows(*octets, port=1):
    n = len(octets)
    return Batch(
        {"bytes": np.array(octets, "u8"), "src_port": constant(port, n, "u2"), "records": constant(1, n, "u8")}
    )


async def settle():
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def short_drain(monkeypatch):
    monkeypatch.setattr(pipeline_module, "DRAIN_SECONDS", 0.05)


async def test_sinks_start_before_sources_and_sources_stop_before_sinks():
    bench = Bench()
    async with bench.running([bench.source("in1"), bench.source("in2")], [bench.sink("out1"), bench.sink("out2")]):
        assert bench.journal == ["+out1", "+out2", "+in1", "+in2"]
    assert set(bench.journal[4:6]) == {"-in1", "-in2"}
    assert set(bench.journal[6:]) == {"-out1", "-out2"}


async def test_building_starts_nothing():
    bench = Bench()
    bench.build([bench.source()], [bench.sink()])
    assert bench.journal == []


@pytest.mark.parametrize("error", [ConfigError("in.listen", "in use"), OSError(5, "no device")])
async def test_a_source_that_fails_to_start_unwinds_what_was_started(error):
    bench = Bench()
    with pytest.raises(type(error)) as caught:
        async with bench.running([bench.source("in1"), bench.source("in2", fails=error)], [bench.sink()]):
            pass
    assert caught.value is error
    assert bench.journal == ["+out", "+in1", "!in2", "-in1", "-out"]


async def test_a_sink_that_fails_to_start_leaves_no_source_started():
    bench = Bench()
    with pytest.raises(ConfigError, match="no directory"):
        async with bench.running(
            [bench.source()], [bench.sink("out1"), bench.sink("out2", fails=ConfigError("out2", "no directory"))]
        ):
            pass
    assert bench.journal == ["+out1", "!out2", "-out1"]


async def test_it_ends_when_every_source_has_ended():
    bench = Bench()
    ends = asyncio.Event()
    async with bench.running([bench.source("in1", ends=ends), bench.source("in2", ends=ends)], [bench.sink()]):
        bench.deliver(1, name="in1")
        ends.set()
        await asyncio.wait_for(bench.task, 5)
    assert bench.made["out"].taken == [1]
    assert bench.journal[-1] == "-out"


async def test_a_source_that_breaks_ends_everything_and_is_told():
    bench = Bench()
    ends = asyncio.Event()

    async def run():
        async with bench.running([bench.source(ends=ends, breaks=ZeroDivisionError("oops"))], [bench.sink()]):
            bench.deliver(1)
            await settle()
            ends.set()
            await asyncio.wait([bench.task], timeout=5)

    with pytest.raises(ZeroDivisionError, match="oops"):
        await run()
    assert bench.journal == ["+out", "+in", "-in", "-out"]
    assert bench.account == {("exported", ""): 1}


async def test_rows_reach_every_sink():
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink("out1"), bench.sink("out2")]):
        bench.deliver(1, 2)
        bench.deliver(3)
        await settle()
        assert bench.made["out1"].taken == bench.made["out2"].taken == [1, 2, 3]
    assert bench.account == {("exported", ""): 3}
    assert bench.pipeline.outcomes.pending == 0


async def test_draining_takes_what_sources_and_window_still_hold():
    bench = Bench(window=TEN)
    async with bench.running([bench.source(rest=rows(5, 6))], [bench.sink()]):
        bench.deliver(1, 2)
        await settle()
        assert bench.made["out"].taken == []
        assert bench.pipeline.outcomes.pending == 2
    assert bench.made["out"].taken == [14]
    assert bench.account == {("exported", ""): 4}
    assert bench.pipeline.outcomes.pending == 0


async def test_the_window_is_written_out_on_the_clock():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        bench.deliver(1, 2)
        bench.clock.advance(9.9)
        pipeline.tick()
        await settle()
        assert bench.made["out"].taken == []
        bench.clock.advance(0.1)
        pipeline.tick()
        await settle()
        assert bench.made["out"].taken == [3]


async def test_it_ticks_by_itself():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]):
        bench.deliver(1)
        bench.clock.advance(10)
        async with asyncio.timeout(5):
            while not bench.made["out"].taken:  # noqa: ASYNC110 (the tick is the pipeline's own)
                await asyncio.sleep(0.01)


async def test_analysis_sees_every_record_once():
    bench = Bench(window=TEN)
    analysis = Analysis()
    kind = Kind("analyse", "counters", "counters", Recipe(lambda _: analysis))
    async with bench.running([bench.source()], [], [kind]):
        bench.deliver(1, 2)
        bench.deliver(3)
        assert analysis.seen == 3
    assert bench.account == {("exported", ""): 3}


async def test_a_slow_sink_never_stalls_another(short_drain, caplog):
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink("slow", hangs=True), bench.sink("fast")]):
        for n in range(100):
            bench.deliver(n)
        await settle()
        async with asyncio.timeout(5):
            while len(bench.made["fast"].taken) < 100:  # noqa: ASYNC110 (waits for the sink under test)
                await asyncio.sleep(0)
        assert bench.pipeline.outcomes.pending == 100
    assert "export slow did not finish within 0.05 s" in caplog.text
    assert bench.account == {("exported", ""): 100}
    assert bench.journal[-2:] in (["-slow", "-fast"], ["-fast", "-slow"])


async def test_what_a_hanging_sink_never_took_is_counted_as_dropped(short_drain):
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink(hangs=True)]):
        bench.deliver(1, 2)
        await settle()
        bench.deliver(3)
    assert bench.account == {("dropped", "shutdown"): 3}


def test_only_columns_that_somebody_uses_are_asked_for():
    bench = Bench(window=TEN)
    analyse = Kind("analyse", "counters", "counters", Recipe(Analysis))
    base = {"exporter", "observation_domain", "direction", "sampling_source"}
    bench.build([bench.source()], [bench.sink()], [analyse])
    assert bench.made["in"].wanted == base | {
        "proto",
        "src_port",
        "bytes",
        "records",
        "sampling_rate",
        "inclusion_prob",
    }
    bench.build([bench.source()], [bench.sink(needs=frozenset({"dst_port"}))], [analyse], window=PASS)
    remembered = bench.pipeline.history.columns
    assert remembered > {"src_addr", "dst_port", "in_if", "bytes", "packets", "sampling_rate"}
    assert bench.made["in"].wanted == base | {"proto", "dst_port"} | remembered
    bench.build([bench.source()], [bench.sink("a", needs=frozenset({"x"})), bench.sink("b")], window=PASS)
    assert bench.made["in"].wanted is None
    bench.build([bench.source()], [], [analyse], window=PASS)
    assert bench.made["in"].wanted == base | {"proto"} | remembered


async def test_not_ready_says_what_is_missing():
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        assert pipeline.not_ready() == []
        bench.made["in"].missing = "in: not listening"
        next(iter(pipeline.outlets.values())).failing = "disk full"
        assert pipeline.not_ready() == ["in: not listening", "out: disk full"]


async def test_its_metrics_are_there_while_it_runs():
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        names = {f.name for f in pipeline._ctx.metrics.collect()}
        assert {"flowagent_records", "flowagent_windows", "flowagent_sink_records"} <= names
    assert {f.kind for f in pipeline._ctx.metrics.collect()} == {"counter"}


async def test_a_clock_far_ahead_breaks_nothing(caplog):
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        bench.deliver(1)
        bench.clock.advance(300 * 365 * 86400 - 1)
        pipeline.tick()
        await settle()
    assert bench.made["out"].taken == [1]
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
