"""The pipeline and sources that read from a log: what they are told, and when they are closed."""

import asyncio

import numpy as np
import pytest
import test_pipeline
from test_pipeline import TEN, Bench, Source, rows

from flowagent import pipeline as pipeline_module


class Log(Source):
    """A source that reads again what was not settled."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.hurry = False
        self.told = []

    def settled(self, mark, filled):
        self.told.append((mark, filled))


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(test_pipeline, "Source", Log)


@pytest.mark.usefixtures("log")
async def test_a_source_is_told_what_is_settled_and_closed_after_the_sinks():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]):
        source = bench.made["in"]
        assert source.deliver(rows(1)) == 1
        assert source.deliver(rows(2)) == 2
        bench.pipeline.tick()
        assert source.told[-1][0] == 0
    assert source.told[-1][0] == 2
    assert bench.journal.index("-out") < bench.journal.index("-in")


@pytest.mark.usefixtures("log")
async def test_what_is_given_up_at_the_end_is_not_settled(monkeypatch):
    monkeypatch.setattr(pipeline_module, "DRAIN_SECONDS", 0.05)
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink(hangs=True)]):
        source = bench.made["in"]
        source.deliver(rows(1))
    assert source.told[-1][0] == 0
    assert bench.pipeline.outcomes.counts["dropped", "shutdown"] == 1


@pytest.mark.usefixtures("log")
async def test_a_source_in_a_hurry_cuts_the_window_short():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]):
        source = bench.made["in"]
        source.deliver(rows(1))
        source.hurry = True
        bench.pipeline.tick()
        await asyncio.sleep(0.01)
        bench.pipeline.tick()
        assert source.told[-1][0] == 1


async def test_rows_count_for_the_records_they_stand_for():
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink()]):
        bench.made["in"].deliver(rows(1).with_columns({"records": np.array([7], "u8")}))
    assert bench.pipeline.outcomes.decoded == bench.pipeline.outcomes.counts["exported", ""] == 7
