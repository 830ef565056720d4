"""Messages: lengths, sequence numbers, sets in few messages, and sampling rates that are told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sent_ipfix import decode, header

from flowagent.batch import Batch
from flowagent.export import ipfix_message
from flowagent.export.ipfix_message import (
    Rates,
    data_messages,
    option_messages,
    options_template_message,
    template_messages,
)
from flowagent.export.ipfix_template import SELECTOR, Templates


def stamped(messages):
    sequence = 0
    for message in messages:
        message.stamp(1_700_000_000, sequence)
        sequence += message.records
        yield bytes(message.data)


def rated(*rates):
    known = np.array([rate is not None for rate in rates])
    values = np.array([rate or 0 for rate in rates], "f8")
    columns = {"bytes": np.arange(len(rates), dtype="u8"), "sampling_rate": values}
    return Batch(columns, valid={"sampling_rate": known})


def told(*rates):
    """What a decoder knows of the rates of rows, in their order."""
    chosen, templates = Rates(), Templates(1400)
    rows = chosen.with_selectors(rated(*rates)).select(["bytes", SELECTOR])
    parts = [(template.number, template.records(part)) for template, part in templates.groups(rows)]
    messages = [*template_messages([t.record() for t in templates], 1, 1400), options_template_message(1)]
    messages += option_messages(chosen.records(), 1, 1400)
    messages += [message for number, records in parts for message in data_messages(number, records, 1, 1400)]
    back = decode(stamped(messages))
    order = np.argsort(back["bytes"])
    known = back.is_known("sampling_rate")
    return [back["sampling_rate"][row] if known[row] else None for row in order.tolist()]


@given(st.integers(0, 40), st.integers(1, 9), st.integers(60, 200))
def test_records_fill_messages(count, width, limit):
    records = np.arange(count * width, dtype=np.uint8).reshape(count, width).view([("field", "u1", width)])[:, 0]
    messages = list(data_messages(300, records, 5, limit))
    most = (limit - 20) // width
    assert [message.records for message in messages] == [
        min(most, count - start) for start in range(0, count, most)
    ]  # fmt: skip
    assert b"".join(message.data[20:] for message in messages) == records.tobytes()
    for message in messages:
        version, length, _, _, domain = header(message.data)
        assert (version, length, domain) == (10, len(message.data), 5)
        assert length <= limit
        assert bytes(message.data[16:20]) == (300).to_bytes(2, "big") + (length - 16).to_bytes(2, "big")


def test_stamps_wrap():
    (message,) = data_messages(300, np.zeros(1, "u1"), 5, 100)
    message.stamp(7, 2**32 + 3)
    assert header(message.data)[2:4] == (7, 3)


def test_templates_are_divided_among_messages():
    records = [bytes([i]) * 30 for i in range(7)]
    messages = list(template_messages(records, 1, 100))
    assert [len(message.data) for message in messages] == [80, 80, 80, 50]
    assert b"".join(message.data[20:] for message in messages) == b"".join(records)
    assert [message.records for message in messages] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "rates",
    [
        [1.0],
        [100.0, 100.0, None, 1.0],
        [1.5, 2.25, 1000.125],
        [None],
        [4_000_000_000.0, 2.0**32 - 1],
        [float(n) for n in range(1, 200)],
    ],
)
def test_rates_come_back(rates):
    assert told(*rates) == rates


def test_rates_that_cannot_be_told_exactly_are_near():
    rates = [1 / 0.3, 123456.789, np.pi]
    assert told(*rates) == pytest.approx(rates, rel=1e-9)


@pytest.mark.parametrize("rate", [0.5, 2.0**32, 1e12, float("nan"), float("inf")])
def test_rates_that_cannot_be_told_are_not(rate):
    assert told(rate, 2.0) == [None, 2.0]


def test_there_are_never_too_many_rates(monkeypatch):
    monkeypatch.setattr(ipfix_message, "MAX_RATES", 2)
    assert len(set(told(5.0, 6.0, 7.0, 8.0, 5.0)) - {None}) == 2


def test_options_are_data_records_and_templates_are_not():
    rates = Rates()
    rates.with_selectors(rated(5.0, 6.0))
    (message,) = option_messages(rates.records(), 1, 1400)
    assert (message.records, options_template_message(1).records) == (2, 0)


def test_selectors_stay():
    rates = Rates()
    first, again = (rates.with_selectors(rated(*r))[SELECTOR].tolist() for r in ([9.0, 8.0], [7.0, 8.0, 9.0]))
    assert [again[1], again[2]] == [first[1], first[0]]
    assert len(rates) == 3


def test_without_rates_there_are_no_selectors():
    batch = Batch({"bytes": np.ones(2, "u8")})
    assert Rates().with_selectors(batch) is batch
