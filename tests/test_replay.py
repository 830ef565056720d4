"""Replay: captures through decoder and window, with the capture's own time."""

import io
import json
import time
from collections import Counter
from pathlib import Path

import pytest

from flowagent import replay as module
from flowagent.config import parse
from flowagent.errors import ConfigError
from flowagent.history.query import Query
from flowagent.history.result import query
from flowagent.ingest.rates import Overrides
from flowagent.replay import SUMMED, Pace, Replay, Summary, total
from flowagent.sections import Window

DATA = Path(__file__).parent / "data" / "captures"
CAPTURES = ("softflowd-v5", "softflowd-v9", "softflowd-ipfix", "ovn-ipfix", "ovs-ipfix-s1", "derived-v9-late")
every_capture = pytest.mark.parametrize("name", CAPTURES)


def path(name):
    return DATA / f"{name}.pcap"


def truth(name):
    return json.loads((DATA / f"{name}.truth.json").read_text())


def job(*names, speed="max", **settings):
    return Replay([path(name) for name in names], pace=Pace.parse(speed), **settings)


def lines(out):
    return [json.loads(line) for line in out.getvalue().splitlines()]


def raw(*names, **settings):
    out = io.BytesIO()
    replay = job(*names, **settings)
    replay.raw(out)
    return lines(out), replay.summaries


def rows(name, window=None, **settings):
    out = io.BytesIO()
    job(name, **settings).rows(out, parse({})._replace(window=window or Window()))
    return lines(out)


# The truth about derived-v9-late leaves out what came before its template.
@pytest.mark.parametrize("name", CAPTURES[:-1])
def test_raw_gives_a_line_for_each_record(name):
    found, (summary,) = raw(name)
    expected = truth(name)
    assert len(found) == summary.counts["records"] == expected["records"]["flow"]
    assert sum(row.get("bytes", 0) for row in found) == summary.counts["bytes"] == expected["sums"]["bytes"]
    assert sum(row.get("packets", 0) for row in found) == summary.counts["packets"] == expected["sums"]["packets"]


@every_capture
def test_counting_without_output_gives_the_same_summary(name):
    counted = job(name)
    counted.raw(None)
    assert counted.summaries == raw(name)[1]


@every_capture
def test_the_window_keeps_the_sums(name):
    found, _ = raw(name)
    kept = [row for row in found if not (row["sampling_source"] == "prescaled" and row.get("direction") == 1)]
    for seconds in ("0", "1s", "10s", "1h"):
        merged = rows(name, Window(every=seconds))
        for measure in ("bytes", "packets", "records"):
            assert sum(row.get(measure, 0) for row in merged) == sum(row.get(measure, 0) for row in kept)


@every_capture
def test_the_same_rows_however_fast(name):
    def found(speed):
        return Counter(json.dumps(row) for row in rows(name, Window(every="2s"), speed=speed))

    assert found("max") == found("1000000x") == found("max")


def test_each_window_is_one_of_the_captures_own_time():
    merged = rows("ovn-ipfix", Window(every="1s", key=("exporter",), measures=("received_ns", "records")))
    seconds = [row["received_ns"] // 10**9 for row in merged]
    assert seconds == sorted(set(seconds))
    assert len(seconds) > 3


def test_every_capture_begins_with_no_templates():
    # The second has the data of the first without its templates.
    _, (first, second) = raw("ovs-ipfix-s1", "ovs-ipfix-midstream")
    assert first.buffered == {"held": 0, "replayed": 0, "expired": 0}
    assert second.buffered["expired"] == second.buffered["held"] > 0
    assert [Path(s.file).name for s in (first, second)] == ["ovs-ipfix-s1.pcap", "ovs-ipfix-midstream.pcap"]


def test_totals_are_the_sums():
    _, summaries = raw("softflowd-v5", "derived-v9-loss", "ovs-ipfix-midstream")
    everything = total(summaries)
    assert everything.counts == {name: sum(s.counts[name] for s in summaries) for name in SUMMED}
    assert everything.buffered == {n: sum(s.buffered[n] for s in summaries) for n in ("held", "replayed", "expired")}
    assert everything.exporters == ["127.0.0.1"]
    assert everything.counts["lost_records"] > 0


def test_a_total_of_nothing():
    assert total([]) == Summary("")


def test_errors_and_exporters_are_put_together():
    first = Summary("a", errors={"truncated": 1}, not_udp=2, exporters=["b", "a"])
    second = Summary("b", errors={"truncated": 2, "bad_set_length": 1}, exporters=["c", "a"])
    everything = total([first, second])
    assert everything.errors == {"truncated": 3, "bad_set_length": 1}
    assert everything.not_udp == 2
    assert everything.exporters == ["a", "b", "c"]
    assert first.errors == {"truncated": 1}


def test_rates_that_the_user_set():
    found, _ = raw("softflowd-v5", overrides=Overrides({"127.0.0.0/8": 10}))
    assert {(row["sampling_rate"], row["sampling_source"]) for row in found} == {(10, "config")}


def test_progress_ends_at_the_size_of_all_files():
    replay, told = job("softflowd-v5", "softflowd-v9"), []
    replay.progress = told.append
    replay.raw(None)
    assert told == sorted(told)
    assert told[-1] == replay.total_bytes == sum(path(n).stat().st_size for n in ("softflowd-v5", "softflowd-v9"))


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigError, match=r"missing\.pcap"):
        job("missing")


@pytest.mark.parametrize(("text", "factor"), [("max", 0), ("real", 1), ("10x", 10), ("0.5x", 0.5), ("3", 3)])
def test_speeds(text, factor):
    assert Pace.parse(text).factor == factor


@pytest.mark.parametrize("text", ["", "fast", "0", "0x", "-1x", "nan", "inf", "x", "1e12x"])
def test_what_is_no_speed(text):
    with pytest.raises(ConfigError, match="is none; write max, real, or a factor such as 10x"):
        Pace.parse(text)


class Machine:
    """The machine's clock, on which sleeping takes no time."""

    def __init__(self):
        self.now = 5.0
        self.slept = []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.now += seconds


@pytest.fixture
def machine(monkeypatch):
    found = Machine()
    monkeypatch.setattr(module, "time", found)
    return found


def test_pacing_follows_the_capture(machine):
    pace = Pace(2)
    for at in (100, 104, 104, 103, 110):
        pace.wait(at * 10**9)
    assert machine.slept == [2, 3]


def test_who_is_late_does_not_wait(machine):
    pace = Pace(1)
    pace.wait(0)
    machine.now += 10
    pace.wait(4 * 10**9)
    pace.wait(12 * 10**9)
    assert machine.slept == [2]


def test_at_full_speed_nothing_waits(machine):
    Pace(0).wait(10**18)
    Pace(0).wait(2 * 10**18)
    assert machine.slept == []


def test_a_real_time_replay_takes_as_long_as_the_capture(machine):
    replay = job("softflowd-many-v9", speed="real")
    replay.raw(None)
    times = truth("softflowd-many-v9")["datagrams"]
    assert sum(machine.slept) <= (times["last_ms"] - times["first_ms"]) / 1000 + 0.001
    assert time.perf_counter() != machine.perf_counter()


@every_capture
@pytest.mark.parametrize("window", [Window(), Window(every=0)])
def test_the_history_knows_what_rows_add_up_to(name, window):
    config = parse({})._replace(window=window)
    history = job(name).history(config)
    found = query(history, Query.parse({"from": "0", "dimensions": "exporter,src_addr", "top": "2000"}))
    expected = sum(row.get("bytes", 0) * row.get("sampling_rate", 1) for row in rows(name, window))
    assert found.total.value == sum(row.value for row in found.rows) == expected > 0
