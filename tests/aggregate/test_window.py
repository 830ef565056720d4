"""The window: tumbling on the clock it is given, bounded in keys, and nothing is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowagent.aggregate.window import Window
from flowagent.batch import Batch, constant
from flowagent.clock import SECOND, ManualClock

EVERY = 10 * SECOND
KEY = ("src_addr", "proto")
MEASURES = ("bytes", "packets", "start_ns", "end_ns", "tcp_flags")


def batch(*keys, records=1, **columns):
    """Rows with these ports as key."""
    n = len(keys)
    return Batch(
        {
            "src_port": np.array(keys, "u2"),
            "bytes": np.array([100] * n, "u8"),
            "records": constant(records, n, "u8"),
            **{name: np.array(values) for name, values in columns.items()},
        }
    )


def window(every=EVERY, max_keys=1024, measures=("bytes", "records")):
    return Window(every, ("src_port",), measures, max_keys)


def plain(rows):
    """{key: (bytes, records)}."""
    return {
        k: (b, r)
        for k, b, r in zip(rows["src_port"].tolist(), rows["bytes"].tolist(), rows["records"].tolist(), strict=True)
    }


def metric(w, name):
    return next(f.samples[()] for f in w.families() if f.name == f"flowagent_{name}")


def test_rows_of_equal_keys_become_one():
    w = window()
    assert len(w.process(batch(1, 2, 1), 0)) == 0
    w.process(batch(2, 3), SECOND)
    assert plain(w.flush(EVERY)) == {1: (200, 2), 2: (200, 2), 3: (100, 1)}


def test_windows_tumble_on_the_clock():
    clock, w = ManualClock(3 * SECOND), window()
    w.process(batch(1), clock.now_ns())
    clock.advance(6.999)
    assert len(w.flush(clock.now_ns())) == 0
    clock.advance(0.001)
    assert len(w.flush(clock.now_ns())) == 1
    w.process(batch(1), clock.now_ns())
    clock.advance(9.999)
    assert len(w.flush(clock.now_ns())) == 0
    clock.advance(0.001)
    assert len(w.flush(clock.now_ns())) == 1
    assert metric(w, "windows") == 2


def test_ends_are_multiples_of_the_length_so_that_agents_agree():
    w = window()
    w.process(batch(1), 1_700_000_005 * SECOND)
    assert len(w.flush(1_700_000_010 * SECOND - 1)) == 0
    assert len(w.flush(1_700_000_010 * SECOND)) == 1


def test_without_rows_there_is_no_window():
    w = window()
    assert len(w.flush(100 * EVERY)) == 0
    assert len(w.process(Batch({}), 0)) == 0
    assert metric(w, "windows") == 0


def test_final_flushes_at_any_time():
    w = window()
    w.process(batch(1), 0)
    assert len(w.flush(1, final=True)) == 1
    assert len(w.flush(1, final=True)) == 0


def test_skewed_record_times_open_no_window_of_their_own():
    w = window(measures=("bytes", "records", "start_ns", "end_ns"))
    w.process(batch(1, 1, start_ns=[-(10**18), 10**18], end_ns=[-(10**18), 2 * 10**18]), 0)
    rows = w.flush(EVERY)
    assert (rows["start_ns"].tolist(), rows["end_ns"].tolist()) == ([-(10**18)], [2 * 10**18])


def test_a_clock_that_steps_back_loses_nothing():
    w = window()
    w.process(batch(1), 100 * EVERY)
    w.process(batch(1), 0)
    assert len(w.flush(1)) == 0
    assert plain(w.flush(101 * EVERY)) == {1: (200, 2)}


def test_rows_of_different_sampling_rates_are_not_added_up():
    w = window()
    w.process(batch(1, 1, 1).with_columns({"sampling_rate": np.array([1.0, 100.0, 100.0])}), 0)
    rows = w.flush(EVERY)
    assert sorted(zip(rows["sampling_rate"].tolist(), rows["bytes"].tolist(), strict=True)) == [(1, 100), (100, 200)]


def test_an_unknown_sampling_rate_is_not_one():
    w = window()
    rates = {"sampling_rate": np.array([1.0, 1.0])}, {"sampling_rate": np.array([True, False])}
    w.process(batch(1, 1).with_columns(*rates), 0)
    assert len(w.flush(EVERY)) == 2


def test_records_are_counted_even_if_nobody_asked():
    w = Window(EVERY, ("src_port",), ("bytes",), 1024)
    w.process(batch(1, 1, records=3), 0)
    assert w.flush(EVERY).record_count == 6
    assert "records" in w.columns


def test_what_it_needs_of_each_record():
    assert window().columns == {"src_port", "bytes", "records", "sampling_rate", "sampling_source", "inclusion_prob"}
    assert window(every=0).columns is None


def test_a_window_of_zero_passes_rows_through_unchanged():
    w = window(every=0)
    rows = batch(1, 1, 2)
    assert w.process(rows, 0) is rows
    assert len(w.flush(EVERY, final=True)) == 0


def test_columns_outside_the_window_are_let_go():
    w = window()
    w.process(batch(1, tos=[7]), 0)
    assert "tos" not in w.flush(EVERY)


def test_the_gauge_says_what_is_held():
    w = window(max_keys=10**6)
    w.process(batch(*range(50_000)), 0)
    assert metric(w, "window_rows") == 50_000
    w.flush(EVERY)
    assert metric(w, "window_rows") == 0


def test_memory_is_bounded_whatever_the_number_of_keys():
    w = Window(EVERY, ("src_addr",), ("bytes", "records"), 1024)
    given_rows = out = 0
    for first in range(0, 1_000_000, 50_000):
        addresses = np.zeros((2, 50_000), "u8")
        addresses[1] = np.arange(first, first + 50_000)
        rows = Batch({"src_addr": addresses, "bytes": constant(1, 50_000, "u8"), "records": constant(1, 50_000, "u8")})
        given_rows += len(rows)
        out += w.process(rows, 0).record_count
        assert metric(w, "window_rows") <= 3 * 65_536
    assert metric(w, "window_early_flushes") > 0
    assert out + w.flush(EVERY).record_count == given_rows


def test_below_max_keys_there_is_no_early_flush():
    w = window(max_keys=70_000)
    for _ in range(10):
        assert len(w.process(batch(*range(60_000)), 0)) == 0
    assert metric(w, "window_early_flushes") == 0
    assert len(w.flush(EVERY)) == 60_000


def random_batch(rng, n, keys):
    """Rows over about so many keys, with some values unknown."""
    picks = rng.integers(0, keys, n)
    columns = {
        "src_addr": np.stack([picks.astype("u8") // 7, picks.astype("u8")]),
        "proto": rng.integers(0, 2, n, "u1"),
        "bytes": rng.integers(0, 2**64 - 1, n, "u8", endpoint=True),
        "packets": rng.integers(0, 9, n, "u8"),
        "start_ns": rng.integers(-(2**62), 2**62, n),
        "end_ns": rng.integers(-(2**62), 2**62, n),
        "tcp_flags": rng.integers(0, 256, n, "u2"),
        "records": constant(1, n, "u8"),
    }
    valid = {name: rng.random(n) < 0.8 for name in ("proto", "bytes", "start_ns") if rng.random() < 0.5}
    return Batch(columns, n, valid)


def add(totals, rows):
    """Merge rows into {key: [bytes, packets, start, end, flags, records]} the slow way."""
    names = ("bytes", "packets", "start_ns", "end_ns", "tcp_flags", "records")
    columns = [rows[name].tolist() for name in names]
    known = [rows.is_known(name).tolist() for name in names]
    protos = [p if k else None for p, k in zip(rows["proto"].tolist(), rows.is_known("proto").tolist(), strict=True)]
    for i, key in enumerate(zip(*rows["src_addr"].tolist(), protos, strict=True)):
        total = totals.setdefault(key, [None] * 6)
        for j, values in enumerate(columns):
            if known[j][i]:
                old, new = total[j], values[i]
                if old is None:
                    total[j] = new
                elif j in (0, 1, 5):
                    total[j] = (old + new) % 2**64
                else:
                    total[j] = min(old, new) if j == 2 else max(old, new) if j == 3 else old | new


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.sampled_from([1, 1000, 33_000, 70_000]), min_size=1, max_size=3),
    keys=st.sampled_from([3, 5000, 10**6]),
    max_keys=st.sampled_from([1, 1024, 200_000]),
)
def test_all_that_comes_out_equals_all_that_went_in(seed, sizes, keys, max_keys):
    rng = np.random.default_rng(seed)
    w = Window(EVERY, KEY, MEASURES, max_keys)
    went_in, came_out = {}, {}
    now = 0
    for size in sizes:
        rows = random_batch(rng, size, keys)
        add(went_in, rows)
        for out in (w.process(rows, now), w.flush(now)):
            if len(out):
                add(came_out, out)
        now += int(rng.integers(0, EVERY))
    rest = w.flush(now, final=True)
    if len(rest):
        add(came_out, rest)
    assert came_out == went_in


def test_an_unknown_measure_is_not_zero():
    w = Window(EVERY, ("src_port",), ("bytes", "records"), 1024)
    rows = batch(1, 1, 2).with_columns({"bytes": np.array([5, 0, 0], "u8")}, {"bytes": np.array([True, False, False])})
    w.process(rows, 0)
    out = w.flush(EVERY)
    found = dict(zip(out["src_port"].tolist(), out.is_known("bytes").tolist(), strict=True))
    assert found == {1: True, 2: False}


@pytest.mark.parametrize("name", ["windows", "window_early_flushes", "window_rows"])
def test_series_exist_from_the_start(name):
    assert metric(window(), name) == 0


def test_columns_that_rows_bring_are_part_of_the_key_and_not_asked_for():
    window = Window(10 * SECOND, ("src_port",), ("bytes",), 1 << 20, ("src_k8s_name", "src_port"))
    batch = Batch({
        "src_port": np.array([1, 1, 1], "u2"), "bytes": np.array([1, 2, 4], "u8"),
        "src_k8s_name": np.array([5, 5, 6], "u8"),
    })  # fmt: skip
    window.process(batch, 0)
    rows = window.flush(0, final=True)
    assert sorted(zip(rows["src_k8s_name"].tolist(), rows["bytes"].tolist(), strict=True)) == [(5, 3), (6, 4)]
    assert "src_k8s_name" in window.columns
    assert "src_k8s_name" not in window.needs
    assert "src_port" in window.needs
    assert window.is_empty
