"""The accounting identity: decoded = exported + sampled out + dropped by reason, and nothing is left inside at the end.

Random datagrams, decodable and hostile, go through a real decoder and a real
pipeline, with and without a budget and overload, into sinks that work, fail,
refuse, break or hang.
"""

import asyncio
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowagent import pipeline as pipeline_module
from flowagent.clock import ManualClock
from flowagent.component import Context
from flowagent.config import Config, Kind
from flowagent.errors import Rejected, Retry
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.pipeline import Pipeline
from flowagent.sections import Http, Sampling, State, Window

ROUTER = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 8), (2, 8)]
# Told for Open vSwitch by the first six and the times before the header's second.
BRIDGE = [(138, 4), (61, 1), (56, 6), (80, 6), (256, 2), (240, 1), (10, 4), *ROUTER, (158, 4), (159, 4)]
SIZES = {name: sum(size for _, size in fields) for name, fields in (("router", ROUTER), ("bridge", BRIDGE))}
IDS = {"router": 256, "bridge": 300}


def netflow5(count, seed=0):
    """Records that all differ in their ports."""
    head = struct.pack("!HHIIIIHH", 5, count, 1000, 1_700_000_000, 0, 0, 0, 0)
    record = struct.Struct("!12xHHIIIIHHBBBBHHBBH")
    ports = [divmod(seed + i, 65536) for i in range(count)]
    return head + b"".join(record.pack(1, 2, 1, 100, 0, 0, low, high, 0, 2, 6, *[0] * 6) for high, low in ports)


def ipfix(*sets, domain=1):
    body = b"".join(struct.pack("!HH", number, 4 + len(content)) + content for number, content in sets)
    return struct.pack("!HHIII", 10, 16 + len(body), 1_700_000_000, 0, domain) + body


def template(kind):
    fields = ROUTER if kind == "router" else BRIDGE
    return 2, struct.pack("!HH", IDS[kind], len(fields)) + b"".join(struct.pack("!HH", *f) for f in fields)


def records(kind, directions):
    """One record each; of a bridge with these directions."""
    out = b""
    for i, direction in enumerate(directions):
        record = bytearray(SIZES[kind])
        record[-1] = i % 5
        if kind == "bridge":
            record[4] = direction
        out += bytes(record)
    return IDS[kind], out


directions = st.lists(st.integers(0, 1), min_size=1, max_size=12)
kinds = st.sampled_from(["router", "bridge"])
good = st.one_of(
    st.builds(netflow5, st.integers(0, 30), st.integers(0, 100)),
    st.builds(lambda k, d: ipfix(template(k), records(k, [0]), domain=d), kinds, st.integers(1, 2)),
    st.builds(lambda k, r, d: ipfix(records(k, r), domain=d), kinds, directions, st.integers(1, 2)),
    st.builds(lambda a, b: ipfix(template("bridge"), *(records("bridge", d) for d in (a, b))), directions, directions),
)


@st.composite
def hostile(draw):
    """Noise, or a good datagram that was cut or changed."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=60))
    payload = bytearray(draw(good))
    for _ in range(draw(st.integers(1, 3))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.integers(0, len(payload)))])


senders = st.sampled_from(["192.0.2.1", "::9"])
feeds = st.tuples(st.just("feed"), st.lists(good | hostile(), min_size=1, max_size=8), senders)
ticks = st.tuples(st.just("tick"), st.floats(0, 30), st.none())
yields = st.tuples(st.just("yield"), st.integers(1, 30), st.none())
backlogs = st.tuples(st.just("backlog"), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.none())
BEHAVIOURS = ("ok", "busy", "refuses", "picky", "broken", "hangs")


@dataclass(frozen=True)
class Recipe:
    component: object = field(compare=False)

    @property
    def brings(self):
        return ()

    def build(self, _):
        return self.component


class Source:
    """A decoder fed by hand."""

    def __init__(self):
        self.decoder = Decoder()
        self.filled = 0.0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.decoder.close()

    async def run(self, deliver):
        self.deliver = deliver
        await asyncio.Event().wait()

    def want(self, columns):
        self.decoder.want(columns)

    def backlog(self):
        return self.filled

    def feed(self, payloads, exporter, now_ns):
        batch = self.decoder.feed(Datagrams.of(payloads, exporter=exporter, received_ns=now_ns))
        if len(batch):
            self.deliver(batch)


class Sink:
    def __init__(self, behaviour):
        self.behaviour = behaviour
        self.records = self.writes = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    def columns(self):
        return None

    async def write(self, batch):
        self.writes += 1
        if self.behaviour == "hangs":
            await asyncio.Event().wait()
        if self.behaviour == "busy" and self.writes % 2:
            raise Retry("busy", after=0)
        if self.behaviour == "refuses" or (self.behaviour == "picky" and self.writes % 2):
            raise Rejected("refused")
        if self.behaviour == "broken":
            raise ZeroDivisionError
        self.records += batch.record_count
        return 1


def decoded(source):
    return sum(source.decoder.stats.records.values())


async def run(window, behaviours, queue_rows, steps, sampling=Sampling()):  # noqa: B008 - never changed
    clock, source, sinks = ManualClock(10**18), Source(), [Sink(b) for b in behaviours]
    config = Config(
        (Kind("ingest", "in", "udp", Recipe(source)),),
        (Kind("analyse", "counters", "counters", CountersRecipe()),),
        tuple(Kind("export", f"out{i}", "file", Recipe(sink)) for i, sink in enumerate(sinks)),
        window,
        sampling,
        Http(),
        State(),
    )
    pipeline = Pipeline(config, Context("test", clock))
    for outlet in pipeline.outlets.values():
        outlet.channel.max_rows = queue_rows
    stop, started = asyncio.Event(), asyncio.Event()
    task = asyncio.get_running_loop().create_task(pipeline.run(stop, started=started))
    await started.wait()
    await asyncio.sleep(0)
    for what, value, exporter in steps:
        if what == "feed":
            source.feed(value, exporter, clock.now_ns())
        elif what == "flood":
            source.feed([netflow5(30, 30 * i) for i in range(value)], "192.0.2.7", clock.now_ns())
        elif what == "backlog":
            source.filled = value
        elif what == "tick":
            clock.advance(value)
            pipeline.tick()
        else:
            for _ in range(value):
                await asyncio.sleep(0)
        assert pipeline.outcomes.pending >= 0
        assert pipeline.outcomes.decoded == decoded(source)
    stop.set()
    await task
    return pipeline.outcomes, source, sinks, list(pipeline._analysis.values())


@dataclass(frozen=True)
class CountersRecipe:
    def build(self, ctx):
        from flowagent.aggregate.counters import Config as Counters

        return Counters(max_series=2).build(ctx)


def check(window, behaviours, queue_rows, steps, sampling=Sampling()):  # noqa: B008 - never changed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_module, "DRAIN_SECONDS", 0.05)
        outcomes, source, sinks, (counters,) = asyncio.run(run(window, behaviours, queue_rows, steps, sampling))
    assert outcomes.decoded == decoded(source)
    assert sum(outcomes.counts.values()) == outcomes.decoded
    assert outcomes.pending == 0
    duplicates = outcomes.counts["dropped", "duplicate_direction"]
    counted = next(f.samples for f in counters.families() if f.name == "flowagent_flow_records")
    assert sum(counted.values()) == outcomes.decoded - duplicates
    exported = outcomes.counts["exported", ""]
    sampled_out = sum(n for (outcome, _), n in outcomes.counts.items() if outcome == "sampled_out")
    if all(behaviour == "ok" for behaviour in behaviours) and queue_rows == 500_000:
        assert exported + outcomes.counts["dropped", "shutdown"] + sampled_out == outcomes.decoded - duplicates
    if sampling.budget is None:
        assert not outcomes.counts["sampled_out", "budget"]
    if not any(what == "backlog" for what, *_ in steps):
        assert not outcomes.counts["sampled_out", "overload"]
    # What counts as exported was taken by some sink, whole.
    assert not sinks or exported <= sum(sink.records for sink in sinks)
    return outcomes


windows = st.builds(
    Window,
    every=st.sampled_from([0, 10]),
    key=st.sampled_from([("src_addr",), ("src_port", "dst_port", "exporter"), ("direction", "proto")]),
    measures=st.sampled_from([("bytes", "records"), ("packets",)]),
    max_keys=st.sampled_from([1, 1024]),
)
samplings = st.builds(
    Sampling,
    budget=st.sampled_from([None, 0.1, 1, 1000]),
    method=st.sampled_from(["threshold", "priority", "systematic", "uniform", "hash"]),
    keep=st.sampled_from([(), ("bytes > 0",)]),
    overload=st.booleans(),
)
PORTS = ("src_port", "dst_port")
FLOOD = ("flood", 2400, None)  # 72,000 records, each with a key of its own
BUSY = ("backlog", 1.0, None)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    window=windows,
    behaviours=st.lists(st.sampled_from(BEHAVIOURS), max_size=3),
    queue_rows=st.sampled_from([1, 20, 500_000]),
    steps=st.lists(feeds | ticks | yields | backlogs, max_size=12),
    sampling=samplings,
)
@example(Window(every=10, key=PORTS, max_keys=1024), ["ok"], 500_000, [FLOOD, ("tick", 20, None), FLOOD], Sampling())
@example(Window(every=10, key=PORTS, max_keys=1), ["hangs", "busy"], 20, [FLOOD, FLOOD], Sampling(budget=10))
@example(Window(every=0), ["picky", "refuses"], 20, [FLOOD, ("yield", 30, None), FLOOD], Sampling())
@example(Window(every=0), ["ok"], 500_000, [FLOOD, BUSY, FLOOD, ("tick", 1, None), FLOOD], Sampling(budget=1000))
@example(Window(every=10, key=PORTS), ["ok"], 500_000, [BUSY, FLOOD, FLOOD, ("tick", 9, None), FLOOD], Sampling())
def test_every_record_is_exported_sampled_out_or_dropped_for_a_reason(window, behaviours, queue_rows, steps, sampling):
    check(window, behaviours, queue_rows, steps, sampling)


def test_both_directions_of_a_bridge_are_counted_once():
    payload = ipfix(template("bridge"), records("bridge", [0, 1, 0, 1, 1]))
    outcomes = check(Window(every=10), ["ok"], 100, [("feed", [payload, netflow5(3)], "192.0.2.1")])
    assert outcomes.decoded == 8
    assert outcomes.counts["dropped", "duplicate_direction"] == 3
    assert outcomes.counts["exported", ""] == 5


def test_reasons_come_from_a_bounded_set():
    steps = [("feed", [netflow5(30, 30 * i)], "192.0.2.1") for i in range(5)]
    for behaviour, reason in (
        ("refuses", "sink_refused"),
        ("broken", "sink_internal"),
        ("hangs", "shutdown"),
    ):
        outcomes = check(Window(every=0), [behaviour], 500_000, [*steps, ("yield", 30, None)])
        assert {key: n for key, n in outcomes.counts.items() if n} == {("dropped", reason): 150}
    outcomes = check(Window(every=0), ["hangs"], 30, steps)
    assert outcomes.counts["dropped", "sink_queue_full"] == 120


def test_what_a_budget_and_overload_cost_is_told_apart():
    steps = [FLOOD, ("tick", 0.25, None), BUSY, FLOOD, ("tick", 20, None)]
    counts = check(Window(every=10, key=PORTS), ["ok"], 500_000, steps, Sampling(budget=100)).counts
    assert counts["exported", ""] + counts["sampled_out", "budget"] + counts["sampled_out", "overload"] == 144_000
    assert 900 < counts["exported", ""] <= 1000
    assert 20_000 < counts["sampled_out", "overload"] < 60_000
