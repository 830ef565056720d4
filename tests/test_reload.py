"""Reload of a running pipeline (beside test_pipeline.py because one file would be too long).

What is the same goes on, what is gone drains and ends, what is new starts; where that fails, the old goes on.
"""

import asyncio

import pytest
from test_pipeline import PASS, TEN, Bench, rows, settle

from flowagent.errors import ConfigError
from flowagent.sections import Dedup, Window


async def test_what_is_the_same_goes_on_untouched():
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        source, sink = bench.made["in"], bench.made["out"]
        await pipeline.reload(bench.config([bench.source()], [bench.sink()]))
        assert (bench.made["in"], bench.made["out"]) == (source, sink)
        assert bench.journal == ["+out", "+in"]
        bench.deliver(1)
        await settle()
        assert sink.taken == [1]


async def test_what_changed_is_replaced():
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        old = bench.made["out"]
        bench.deliver(1)
        await pipeline.reload(bench.config([bench.source(version=2)], [bench.sink(version=2)]))
        # The old sink ends before the new one begins, which takes over its spool.
        assert bench.journal == ["+out", "+in", "-in", "-out", "+out", "+in"]
        await settle()
        bench.deliver(2)
        await settle()
        assert (old.taken, bench.made["out"].taken) == ([1], [2])
    assert bench.account == {("exported", ""): 2}


async def test_what_is_new_starts_and_what_is_gone_ends():
    bench = Bench()
    async with bench.running([bench.source("in1")], [bench.sink("out1")]) as pipeline:
        sources = [bench.source("in1"), bench.source("in2")]
        await pipeline.reload(bench.config(sources, [bench.sink("out2")]))
        assert bench.journal == ["+out1", "+in1", "+out2", "+in2", "-out1"]
        assert [k.name for k in pipeline.outlets] == ["out2"]


async def test_a_sink_that_goes_drains_first():
    bench = Bench()
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        sink = bench.made["out"]
        bench.deliver(1, 2, 3)
        await pipeline.reload(bench.config([bench.source()]))
        assert sink.taken == [1, 2, 3]
    assert bench.account == {("exported", ""): 3}


async def test_another_window_begins_after_the_old_one_was_written_out():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        bench.deliver(1, 2)
        await pipeline.reload(bench.config([bench.source()], [bench.sink()], window=PASS))
        bench.deliver(3)
        await settle()
        assert bench.made["out"].taken == [3, 3]
        assert bench.made["in"].wanted is None


async def test_another_rule_of_dedup_counts_from_then_on():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        assert "in_if" not in pipeline._wanted()
        bench.deliver(1)
        config = bench.config([bench.source()], [bench.sink()])
        await pipeline.reload(config._replace(dedup=Dedup(points=("bytes", "in_if"))))  # bytes stand for a point here
        await settle()
        assert bench.made["out"].taken == [1]
        assert {"in_if", "src_addr"} <= bench.made["in"].wanted
        bench.deliver(2)
        bench.deliver(4)
    assert bench.made["out"].taken == [1, 2]
    assert bench.account == {("exported", ""): 2, ("dropped", "duplicate_point"): 1}


async def test_rows_of_the_window_stay_where_the_window_stays():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        bench.deliver(1)
        await pipeline.reload(bench.config([bench.source()], [bench.sink(), bench.sink("out2")]))
        bench.deliver(2)
    assert bench.made["out"].taken == bench.made["out2"].taken == [3]


FAILURES = [ConfigError("in2.listen", "in use"), PermissionError(13, "denied")]


@pytest.mark.parametrize("error", FAILURES, ids=["config", "os"])
async def test_where_a_new_source_fails_to_start_the_old_goes_on(error):
    bench = Bench(window=TEN)
    async with bench.running([bench.source(version=1)], [bench.sink()]) as pipeline:
        old = pipeline.config
        bench.deliver(1, 2)
        bad = bench.config([bench.source(version=2, fails=error)], [bench.sink(), bench.sink("out2")], window=PASS)
        before = bench.made["in"]
        with pytest.raises(type(error)) as caught:
            await pipeline.reload(bad)
        assert caught.value is error
        assert pipeline.config is old
        assert list(pipeline.sources.values()) == [before]
        assert [k.name for k in pipeline.outlets] == ["out"]
        await settle()
        before.deliver(rows(4))
    assert sum(bench.made["out"].taken) == 7
    assert bench.account == {("exported", ""): 3}
    assert bench.pipeline.outcomes.pending == 0


async def test_where_a_reload_fails_no_row_of_the_window_is_lost():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        bench.deliver(1, 2)
        bad = bench.config([bench.source(), bench.source("in2", fails=OSError(98, "in use"))], [bench.sink()])
        with pytest.raises(OSError, match="in use"):
            await pipeline.reload(bad)
        bench.deliver(4)
    assert bench.made["out"].taken == [7]
    assert bench.account == {("exported", ""): 3}


async def test_where_a_reload_cannot_even_be_built_nothing_changed():
    bench = Bench(window=TEN)

    def make(_):
        raise ConfigError("out2.path", "wrong")

    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        wanted = bench.made["in"].wanted
        bench.deliver(1)
        bad = bench.sink("out2")
        object.__setattr__(bad.settings, "make", make)
        other = Window(every=5, key=("proto",), measures=("bytes",))
        with pytest.raises(ConfigError, match="wrong"):
            await pipeline.reload(bench.config([bench.source()], [bench.sink(), bad], window=other))
        assert bench.journal == ["+out", "+in"]
        assert bench.made["in"].wanted == wanted
        bench.deliver(2)
    assert sum(bench.made["out"].taken) == 3


async def test_after_a_failed_reload_sources_are_asked_for_the_old_columns():
    bench = Bench(window=TEN)
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        wanted = bench.made["in"].wanted
        with pytest.raises(OSError, match="no"):
            await pipeline.reload(
                bench.config([bench.source()], [bench.sink(), bench.sink("out2", fails=OSError(5, "no"))], window=PASS)
            )
        assert bench.made["in"].wanted == wanted


async def test_rows_that_come_during_a_failing_reload_are_accounted_for():
    bench = Bench()
    gate = asyncio.Event()
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        bad = bench.config(
            [bench.source(), bench.source("in2", fails=OSError(5, "no"), gate=gate)], [bench.sink(), bench.sink("out2")]
        )
        task = asyncio.get_running_loop().create_task(pipeline.reload(bad))
        await settle()
        bench.deliver(1, 2)
        gate.set()
        with pytest.raises(OSError, match="no"):
            await task
    assert bench.pipeline.outcomes.pending == 0
    assert bench.account == {("exported", ""): 2}


async def test_a_source_slow_to_start_does_not_end_the_agent():
    bench = Bench()
    gate = asyncio.Event()
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        task = asyncio.get_running_loop().create_task(pipeline.reload(bench.config([bench.source("new", gate=gate)])))
        # Longer than the pipeline's tick, for there is no source in the meantime.
        await asyncio.wait([bench.task], timeout=0.4)
        assert not bench.task.done()
        gate.set()
        await task
        assert bench.journal[-2:] == ["+new", "-out"]


async def test_stopping_in_the_middle_of_a_reload_ends_everything():
    bench = Bench()
    gate = asyncio.Event()
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        new = bench.config([bench.source(), bench.source("new", gate=gate)], [bench.sink()])
        task = asyncio.get_running_loop().create_task(pipeline.reload(new))
        await settle()
        bench.stop.set()
        await settle()
        gate.set()
        await asyncio.wait_for(asyncio.gather(task, bench.task), 5)
    assert sorted(bench.journal) == ["+in", "+new", "+out", "-in", "-new", "-out"]


async def test_a_reload_after_the_end_does_nothing():
    bench = Bench()
    async with bench.running([bench.source()]) as pipeline:
        pass
    await pipeline.reload(bench.config([bench.source("new")]))
    assert bench.journal == ["+in", "-in"]


async def test_a_source_that_is_new_brings_its_names():
    bench = Bench(window=Window())
    async with bench.running([bench.source()], [bench.sink()]) as pipeline:
        assert pipeline.history.brought == ()
        more = bench.source("more", brings=("src_k8s_name",))
        await pipeline.reload(bench.config([bench.source(), more], [bench.sink()]))
        assert "src_k8s_name" in pipeline._stages.window_columns
        assert pipeline.history.brought == ("src_k8s_name",)
