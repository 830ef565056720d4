"""Stages that fail, that are configured anew, and everything together: every record is accounted for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_bench import BUSY, Bench, Looker, config, records

from flowagent import stages as stages_module
from flowagent.metrics import Metrics

# Faults


@pytest.mark.parametrize("every_record", [True, False])
def test_a_fault_of_an_analysis_costs_no_record(every_record, caplog):
    broken = Looker("broken", every_record, fails=("process", "tick", "families"))
    others = [Looker("first", True), Looker("second")]
    bench = Bench(analyses=[broken, *others])
    bench.feed(records(5))
    assert len(bench.tick(10)) == 5
    assert [look.records for look in others] == [5, 5]
    assert others[1].ticks == [10]
    assert bench.lost() == {}
    assert bench.metric("analysis_faults") == {(): 3}
    assert bench.metric("looks")["second",] == 1
    assert "an analysis failed: broken" in caplog.text


PLACES = {
    "prepare": lambda s: (s._prepare, "process"),
    "shed": lambda s: (s._shed, "process"),
    "condense": lambda s: (s._window, "condense"),
    "hold": lambda s: (s._window, "hold"),
    "flush": lambda s: (s._window, "flush"),
    "sampler": lambda s: (s._sampler, "add"),
    "cut": lambda s: (s._sampler, "_cut"),
    "take": lambda s: (s._sampler, "take"),
}


class Fault:
    """Breaks a method, from now until it was called."""

    def __init__(self, monkeypatch, stages, place, after=False):
        self.target, self.name = PLACES[place](stages)
        self.inner, self.after, self.patch = getattr(self.target, self.name), after, monkeypatch
        monkeypatch.setattr(self.target, self.name, self.call)

    def call(self, *args, **kwargs):
        self.patch.setattr(self.target, self.name, self.inner)
        if self.after:
            self.inner(*args, **kwargs)
        raise ZeroDivisionError


@pytest.mark.parametrize("place", ["prepare", "shed", "condense"])
def test_a_fault_with_a_batch_costs_that_batch(place, monkeypatch, caplog):
    bench = Bench()
    bench.feed(records(2))
    bench.tick(1)
    Fault(monkeypatch, bench.stages, place)
    bench.feed(records(5))
    bench.tick(2)
    assert bench.lost() == {("dropped", "internal"): 5}
    assert "lost 5 records to an unexpected error" in caplog.text
    bench.feed(records(3))
    assert bench.tick(10)["records"].sum() == 5
    assert bench.inside == 0


@pytest.mark.parametrize("place", ["hold", "flush", "sampler", "cut", "take"])
@pytest.mark.parametrize("after", [False, True])
def test_a_fault_of_window_or_sampler_costs_what_is_inside_once(place, after, monkeypatch):
    bench = Bench(sampling={"budget": 0.5})
    bench.feed(records(20))
    bench.tick(1)
    Fault(monkeypatch, bench.stages, place, after)
    bench.feed(records(5), 2)
    bench.tick(3)
    bench.tick(10)
    bench.tick(10.25)
    assert bench.inside == 0
    assert bench.outcomes.counts["dropped", "internal"] > 0
    bench.feed(records(3), 11)
    assert len(bench.tick(20)) == 3
    assert bench.inside == 0
    assert bench.metric("sampling_rows")["out",] >= 3


# Another configuration


def test_another_window_goes_on_with_the_counts():
    bench = Bench(sampling={"budget": 100})
    bench.feed(records(3))
    bench.tick(1, final=True)
    bench.stages.configure(config("5s", {"budget": 50}))
    bench.feed(records(4), 2)
    assert len(bench.tick(5)) == 4
    assert bench.metric("windows") == {(): 2}
    assert bench.metric("sampling_rows")["in",] == 7
    assert bench.stages.window_columns >= {"src_addr", "proto", "bytes", "records", "inclusion_prob"}


def test_counts_of_a_sampler_stay_where_none_follows_and_when_one_comes_back():
    bench = Bench(sampling={"budget": 100})
    bench.feed(records(3))
    bench.tick(1, final=True)
    for sampling, rows in ((None, 3), ({"budget": 100}, 3)):
        bench.stages.configure(config("10s", sampling))
        joined = Metrics()
        joined.add(bench.stages.families)
        joined.add(bench.metrics.collect)
        (family,) = [f for f in joined.collect() if f.name == "flowagent_sampling_rows"]
        assert family.samples["in",] == rows
    bench.feed(records(2), 11)
    bench.tick(20)
    (family,) = [f for f in joined.collect() if f.name == "flowagent_sampling_rows"]
    assert family.samples["in",] == 5


def test_what_is_needed_of_each_record():
    bench = Bench(window=0, analyses=[Looker()])
    assert bench.stages.window_columns is None
    assert bench.stages.analysed_columns >= {"proto", "exporter", "direction"}


# Everything together

batches = st.builds(records, st.integers(0, 60), st.integers(0, 500))
steps = st.lists(
    st.tuples(st.just("feed"), batches, st.sampled_from([0.0, 0.0, 0.2, BUSY]))
    | st.tuples(st.just("tick"), st.sampled_from([0.25, 1, 9, 10, 35, -3, -20]), st.booleans())
    | st.tuples(st.just("fault"), st.sampled_from(sorted(PLACES)), st.booleans())
    | st.tuples(st.just("configure"), st.sampled_from([0, "3s", "10s"]), st.sampled_from([None, 1, 5, 1000])),
    max_size=30,
)


@settings(deadline=None, max_examples=300)
@given(steps, st.sampled_from([0, "10s"]), st.sampled_from([None, 1, 5]), st.sampled_from([5, 100, 32768]))
def test_every_record_is_accounted_for(moves, window, budget, enough):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages_module, "_ENOUGH", enough)
        run(moves, window, budget, patch)


def run(moves, window, budget, patch):
    policy = Looker("p", fails=("process",))
    counters = Looker("c", True)
    bench = Bench(window, budget and {"budget": budget}, [counters, policy])
    bench.stages._ctx.log.disabled = True
    now = 1000.0
    for what, value, more in moves:
        if what == "feed":
            bench.feed(value, now, more)
        elif what == "tick":
            now += value
            bench.tick(now, final=more and value == 35)
        elif what == "configure":
            bench.tick(now, final=True)
            bench.stages.configure(config(value, more and {"budget": more}))
        elif bench.stages._sampler is not None or value not in ("sampler", "cut", "take"):
            Fault(patch, bench.stages, value, more)
    bench.stages._ctx.log.disabled = False
    patch.undo()
    bench.tick(now, final=True)
    bench.tick(now, final=True)
    assert bench.inside == bench.gathered == 0
    assert bench.decoded >= counters.records
    assert {reason for (outcome, reason), n in bench.lost().items() if outcome == "dropped" and n} <= {"internal"}
    if not any(what == "fault" for what, *_ in moves):
        assert ("dropped", "internal") not in bench.outcomes.counts
        assert counters.records == bench.decoded


@pytest.mark.parametrize("step", ["add", "seal", "_close", "_digest"])
def test_a_fault_of_the_history_costs_only_what_it_had_of_a_step(step, monkeypatch, caplog):
    bench = Bench()
    history = bench.stages.history

    def fault(*_, **__):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(history, step, fault)
        bench.feed(records(5))
        assert len(bench.tick(10)) == 5
    assert bench.lost() == {}
    assert bench.metric("analysis_faults")[()] >= 1
    assert "the history failed" in caplog.text
    bench.feed(records(4), 20)
    bench.tick(30)
    assert [(s.start_ns // 10**9, s.rows) for s in history.view().steps] == [(20, 4)]
