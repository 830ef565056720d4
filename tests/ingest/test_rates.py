"""Upstream sampling rates: what elements say, for what, and what the user says instead."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.ingest.rates import DOMAIN, Overrides, rate_of, scope_of


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({"samplingInterval": 100}, 100),
        ({"samplerRandomInterval": 64}, 64),
        ({"samplingPacketInterval": 1, "samplingPacketSpace": 99}, 100),
        ({"samplingPacketInterval": 2, "samplingPacketSpace": 6}, 4),
        ({"samplingPacketInterval": 512}, 512),
        ({"samplingSize": 1, "samplingPopulation": 1000}, 1000),
        ({"samplingSize": 3, "samplingPopulation": 10}, 10 / 3),
        ({"samplingProbability": 0.25}, 4),
        ({"samplingInterval": 0, "samplerRandomInterval": 7}, 7),
    ],
)
def test_every_way_to_say_a_rate(fields, rate):
    assert rate_of(fields) == pytest.approx(rate)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"samplingInterval": 0},
        {"samplingPacketSpace": 9},
        {"samplingSize": 0, "samplingPopulation": 10},
        {"samplingSize": 10, "samplingPopulation": 1},
        {"samplingSize": 10},
        {"samplingProbability": 0.0},
        {"samplingProbability": 2.0},
        {"samplingProbability": -0.5},
        {"samplingProbability": math.nan},
        {"samplingProbability": math.inf},
        {"samplingProbability": 5e-324},
    ],
)
def test_nonsense_is_unknown_and_not_1(fields):
    assert rate_of(fields) is None


@given(st.dictionaries(st.sampled_from(["samplingInterval", "samplerRandomInterval", "samplingPacketInterval",
    "samplingPacketSpace", "samplingSize", "samplingPopulation"]), st.integers(0, 2**64 - 1)), st.floats())  # fmt: skip
def test_a_rate_is_none_or_a_number_from_1_on(fields, probability):
    rate = rate_of(fields | {"samplingProbability": probability})
    assert rate is None or (rate >= 1 and math.isfinite(rate))


@pytest.mark.parametrize(
    ("fields", "scope"),
    [
        ({"selectorId": 7, "ingressInterface": 3}, ("selector", 7)),
        ({"samplerId": 2}, ("selector", 2)),
        ({"selectorId": 0}, ("selector", 0)),
        ({"ingressInterface": 3}, ("interface", 3)),
        ({"in_if": 4}, ("interface", 4)),
        ({"scopeInterface": 5}, ("interface", 5)),
        ({"scopeSystem": 9}, DOMAIN),
        ({"in_if": 0}, DOMAIN),
        ({}, DOMAIN),
    ],
)
def test_scopes(fields, scope):
    assert scope_of(fields) == scope


def test_overrides_by_the_longest_prefix():
    overrides = Overrides({"10.0.0.0/8": 100, "10.1.0.0/16": 10, "10.1.2.3/32": 1, "2001:db8::/32": 7})
    addresses = ["10.9.9.9", "10.1.9.9", "10.1.2.3", "2001:db8::1", "192.0.2.1", "10.1.2.3"]
    assert [overrides.rate(a) for a in addresses] == [100, 10, 1, 7, None, 1]


def test_no_overrides():
    assert Overrides({}).rate("10.0.0.1") is None


def test_overrides_remember_a_bounded_number_of_exporters():
    overrides = Overrides({"10.0.0.0/8": 5})
    assert {overrides.rate(f"10.{a}.{b}.1") for a in range(256) for b in range(256)} == {5}
    assert [overrides.rate(f"10.0.0.{n}") for n in (2, 3, 4)] == [5, 5, 5]
    assert len(overrides._known) <= 65537
