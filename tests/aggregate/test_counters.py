"""Exact counters by label, under a budget of series."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.addresses import address_text, address_words
from flowagent.aggregate.counters import Config
from flowagent.batch import Batch, constant
from flowagent.component import Context
from flowagent.errors import ConfigError
from flowagent.export.prometheus import Exposition
from flowagent.metrics import Metrics
from flowagent.schema import COLUMNS, SAMPLING_SOURCES

TOP = 2**64 - 1


def counters(*labels, max_series=1000):
    return Config(labels=labels, max_series=max_series).build(Context("counters"))


def totals(component):
    """{labels: (bytes, packets, records)}."""
    families = {f.name.removeprefix("flowagent_flow_"): f.samples for f in component.families()}
    return {
        labels: (families["bytes"][labels], families["packets"][labels], n) for labels, n in families["records"].items()
    }


def family(component, name):
    return next(f for f in component.families() if f.name == f"flowagent_{name}")


def batch(valid=None, **columns):
    arrays = {name: np.array(values, COLUMNS[name].dtype) for name, values in columns.items()}
    return Batch(arrays, valid={name: np.array(mask) for name, mask in (valid or {}).items()})


def test_bytes_packets_and_records_by_label():
    c = counters("proto")
    c.process(batch(proto=[6, 17, 6], bytes=[100, 10, 200], packets=[1, 2, 3]))
    c.process(batch(proto=[6], bytes=[1], packets=[1]))
    assert totals(c) == {("6",): (301, 5, 3), ("17",): (10, 2, 1)}


def test_families_and_their_names():
    c = counters("proto")
    assert [(f.name, f.kind, f.labels) for f in c.families()] == [
        ("flowagent_flow_bytes", "counter", ("proto",)),
        ("flowagent_flow_packets", "counter", ("proto",)),
        ("flowagent_flow_records", "counter", ("proto",)),
        ("flowagent_flow_bytes_variance", "counter", ("proto",)),
        ("flowagent_flow_series_folded", "counter", ()),
        ("flowagent_flow_sampling_records", "counter", ("sampling_source",)),
    ]


def test_without_labels_there_is_one_series():
    c = counters()
    c.process(batch(proto=[6, 17], bytes=[1, 2], packets=[1, 1]))
    assert totals(c) == {(): (3, 2, 2)}


def test_nothing_counts_nothing():
    c = counters("proto")
    c.process(Batch({}))
    assert totals(c) == {}


def test_what_it_needs_of_each_record():
    sampling = {"sampling_rate", "sampling_source", "inclusion_prob"}
    assert counters("proto").columns == {"proto", "bytes", "packets", "records"} | sampling


def test_missing_and_unknown_labels_are_empty_and_not_zero():
    c = counters("proto", "tos")
    c.process(batch({"proto": [True, False]}, proto=[0, 0], bytes=[1, 2], packets=[1, 1]))
    assert totals(c) == {("0", ""): (1, 1, 1), ("", ""): (2, 1, 1)}


def test_missing_and_unknown_measures_count_as_nothing():
    c = counters("proto")
    c.process(batch({"bytes": [True, False]}, proto=[6, 6], bytes=[1, 99]))
    assert totals(c) == {("6",): (1, 0, 2)}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("proto", 6, "6"),
        ("in_if", 2**32 - 1, "4294967295"),
        ("tunnel_key", TOP, "18446744073709551615"),
        ("exporter", address_words("192.0.2.1"), "192.0.2.1"),
        ("src_addr", address_words("2001:db8::1"), "2001:db8::1"),
        ("src_mac", 0x02_00_00_00_00_0A, "02:00:00:00:00:0a"),
        ("export_protocol", 5, "ipfix"),
        ("sampling_source", SAMPLING_SOURCES.index("prescaled"), "prescaled"),
    ],
)
@pytest.mark.parametrize("varying", [False, True])
def test_label_text_of_every_kind(name, value, text, varying):
    c = counters(name)
    column = np.array([value, value], COLUMNS[name].dtype).T.copy()
    if varying:
        column[..., 1] ^= 1
    c.process(Batch({name: column, "bytes": np.array([1, 2], "u8")}))
    assert totals(c)[(text,)] == ((1, 0, 1) if varying else (3, 0, 2))


def test_a_sampling_rate_as_label():
    c = counters("sampling_rate")
    c.process(batch({"sampling_rate": [True, True, False]}, sampling_rate=[100, 1.5, 0], bytes=[1, 2, 4]))
    found = {float(text) if text else None: n for (text,), (n, _, _) in totals(c).items()}
    assert found == {100: 100, 1.5: 3, None: 4}


def test_known_rates_scale_bytes_and_packets_but_not_records():
    c = counters("proto")
    c.process(batch(proto=[6, 6, 17], sampling_rate=[100, 1, 10], bytes=[5, 7, 1], packets=[1, 1, 2]))
    assert totals(c) == {("6",): (507, 101, 2), ("17",): (10, 20, 1)}


def test_an_unknown_rate_is_counted_unscaled_and_said_so():
    c = counters("proto")
    unknown, wire = SAMPLING_SOURCES.index("unknown"), SAMPLING_SOURCES.index("wire")
    c.process(
        batch(
            {"sampling_rate": [False, True]},
            proto=[6, 6],
            sampling_rate=[77, 10],
            sampling_source=[unknown, wire],
            bytes=[5, 5],
        )
    )
    assert totals(c) == {("6",): (55, 0, 2)}
    samples = family(c, "flow_sampling_records").samples
    assert samples == {(name,): int(name in ("unknown", "wire")) for name in SAMPLING_SOURCES}


def test_a_constant_sampling_source():
    c = counters("proto")
    rows = batch(proto=[6, 17], bytes=[1, 1]).with_columns({"sampling_source": constant(4, 2, "u1")})
    c.process(rows)
    assert family(c, "flow_sampling_records").samples["config",] == 2


@pytest.mark.parametrize("rate", [1.5, 4 / 3, 1.000_001, 123_456.789])
def test_fractional_rates(rate):
    c = counters("proto")
    octets = [3, 1_000_003, 10**12 + 1]
    c.process(batch(proto=[6] * 3, sampling_rate=[rate] * 3, bytes=octets, packets=[1, 2, 3]))
    (found, packets, _) = totals(c)["6",]
    assert isinstance(found, int)
    assert abs(found - sum(octets) * Fraction(rate)) <= 1 + sum(octets) * rate * 2**-52
    assert abs(packets - 6 * rate) <= 1


def test_hostile_counts_do_not_wrap():
    c = counters("proto")
    c.process(batch(proto=[6] * 5 + [17], bytes=[TOP] * 5 + [1], packets=[TOP] * 6))
    assert totals(c) == {("6",): (5 * TOP, 5 * TOP, 5), ("17",): (1, TOP, 1)}


def test_hostile_counts_in_one_constant_column_do_not_wrap():
    c = counters("proto")
    rows = batch(proto=[6, 6, 17]).with_columns({"bytes": constant(TOP, 3, "u8"), "packets": constant(TOP, 3, "u8")})
    c.process(rows)
    assert totals(c) == {("6",): (2 * TOP, 2 * TOP, 2), ("17",): (TOP, TOP, 1)}


def test_hostile_counts_times_hostile_rates_can_still_be_scraped():
    metrics, c = Metrics(), counters("proto")
    metrics.add(c.families)
    for _ in range(100):
        c.process(batch(proto=[6] * 100, sampling_rate=[1e12] * 100, bytes=[TOP] * 100))
    assert totals(c)["6",][0] == 10_000 * TOP * 10**12
    body, _ = Exposition(metrics).render("")
    line = next(line for line in body.decode().splitlines() if line.startswith("flowagent_flow_bytes_total{"))
    assert math.isclose(float(line.split()[1]), 10_000 * TOP * 1e12, rel_tol=1e-9)


def test_beyond_the_budget_all_goes_to_other_and_totals_stay_exact():
    c = counters("src_port", "proto", max_series=3)
    c.process(batch(src_port=[1, 2, 3, 4, 5], proto=[6] * 5, bytes=[1, 2, 4, 8, 16], packets=[1] * 5))
    c.process(batch(src_port=[5, 1, 9], proto=[6] * 3, bytes=[100, 200, 400], packets=[1] * 3))
    found = totals(c)
    assert len(found) == 4
    assert found.keys() >= {("other", "other")}
    assert tuple(map(sum, zip(*found.values(), strict=True))) == (731, 8, 8)
    first = [text for text, _ in found if text != "other"]
    assert all(found[text, "6"][2] >= 1 for text in first)
    # Which label sets came first within a batch is not said.
    assert 3 <= family(c, "flow_series_folded").samples[()] <= 5


def test_a_series_once_made_keeps_counting():
    c = counters("src_port", max_series=1)
    c.process(batch(src_port=[80], bytes=[1]))
    c.process(batch(src_port=[443, 80], bytes=[10, 100]))
    assert totals(c) == {("80",): (101, 0, 2), ("other",): (10, 0, 1)}


def test_ten_thousand_exporters_stay_within_the_budget():
    c = counters("exporter", max_series=100)
    words = np.zeros((2, 10_000), "u8")
    words[1] = np.arange(10_000)
    c.process(Batch({"exporter": words, "bytes": constant(1, 10_000, "u8")}))
    assert len(totals(c)) == 101
    assert sum(n for n, _, _ in totals(c).values()) == 10_000


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (("protocol",), r"^c.labels: 'protocol' cannot be a label; one of: exporter,"),
        (("bytes",), "'bytes' cannot be a label"),
        (("proto", "proto"), "^c.labels: names a column twice"),
    ],
)
def test_labels_that_make_no_sense(labels, text):
    with pytest.raises(ConfigError, match=text):
        Config(labels=labels).build(Context("c"))


def reference(rows, labels):
    """The same, record by record."""
    found = {}
    for row in rows:
        key = tuple("" if row[name] is None else text_of(name, row[name]) for name in labels)
        total = found.setdefault(key, [0, 0, 0])
        rate = row["sampling_rate"] or 1
        total[0] += (row["bytes"] or 0) * rate
        total[1] += (row["packets"] or 0) * rate
        total[2] += 1
    return {key: tuple(total) for key, total in found.items()}


def text_of(name, value):
    return address_text(*value) if COLUMNS[name].kind == "addr" else str(value)


def to_batch(rows):
    columns, valid = {}, {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        filled = [((0, 0) if COLUMNS[name].kind == "addr" else 0) if v is None else v for v in values]
        columns[name] = np.array(filled, COLUMNS[name].dtype).T.copy()
        if None in values:
            valid[name] = np.array([v is not None for v in values])
    return Batch(columns, len(rows), valid)


@st.composite
def batches(draw):
    """Small counts take the dense path where only `proto` tells rows apart, others the general one."""
    counts = draw(st.sampled_from([st.integers(0, 10**6), st.integers(0, TOP)]))
    maybe = (lambda values: st.none() | values) if draw(st.booleans()) else (lambda values: values)
    row = st.fixed_dictionaries(
        {
            "proto": maybe(st.sampled_from([0, 6, 17, 255])),
            "exporter": st.sampled_from([(0, 1), (1, 0)][: draw(st.integers(1, 2))]),
            "sampling_rate": maybe(st.sampled_from([1, 100, 4096][: draw(st.integers(1, 3))])),
            "bytes": maybe(counts),
            "packets": maybe(counts),
        }
    )
    return draw(st.lists(row, min_size=1, max_size=20))


@given(
    parts=st.lists(batches(), min_size=1, max_size=3), labels=st.sampled_from([("proto",), ("exporter", "proto"), ()])
)
def test_every_path_gives_what_counting_record_by_record_gives(parts, labels):
    c = counters(*labels)
    for rows in parts:
        c.process(to_batch(rows))
    assert totals(c) == reference([row for rows in parts for row in rows], labels)


def test_rows_that_another_agent_sampled_count_for_what_they_stand_for():
    component = counters()
    component.process(batch(bytes=[100, 7], packets=[1, 1], inclusion_prob=[0.25, 1.0]))
    assert totals(component) == {(): (407, 5, 2)}
