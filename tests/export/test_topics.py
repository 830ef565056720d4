"""Topics from columns: names that Kafka takes, and never too many of them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowagent.addresses import address_words
from flowagent.batch import Batch
from flowagent.errors import ConfigError
from flowagent.export.topics import Topics


def names(topics, batch):
    """The topic of each row."""
    assigned = topics.assign(batch)
    return [assigned.names[number] for number in assigned.of_row]


def made(template, limit=100):
    return Topics(template, limit, "out.topic")


def protos(*numbers):
    return Batch({"proto": np.array(numbers, np.uint8)})


def test_one_topic():
    assigned = made("flows").assign(protos(6, 17))
    assert assigned.of_row.tolist() == [0, 0]
    assert assigned.names == ["flows"]


def test_a_topic_for_each_value():
    assert names(made("flows-{proto}"), protos(6, 17, 6)) == ["flows-6", "flows-17", "flows-6"]


def test_values_of_several_columns():
    batch = Batch({
        "exporter": np.array([address_words("10.0.0.1"), address_words("2001:db8::1")], np.uint64).T,
        "udn": np.array(["blau/grün".encode(), b""]),
        "vlan": np.array([7, 0], np.uint16),
    }, valid={"vlan": np.array([True, False])})  # fmt: skip
    topics = made("a.{exporter}_{udn}-{vlan}-{udn}")
    assert topics.columns == ("exporter", "udn", "vlan")
    assert names(topics, batch) == ["a.10.0.0.1_blau_gr_n-7-blau_gr_n", "a.2001_db8__1_unknown-unknown-unknown"]


def test_columns_that_no_row_has():
    assert names(made("flows-{vlan}"), protos(6, 17)) == ["flows-unknown"] * 2
    assert names(made("{vlan}-{proto}"), protos(6, 17)) == ["unknown-6", "unknown-17"]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_any_text_makes_a_name_that_kafka_takes(texts):
    for template in ("{udn}", "flows.{udn}", "{udn}{udn}"):
        for name in names(made(template), Batch({"udn": np.array(texts, "S300")})):
            assert re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", name)
            assert name not in (".", "..")


def test_further_values_share_a_topic():
    topics = made("flows-{proto}", limit=2)
    assert names(topics, protos(6, 17, 6)) == ["flows-6", "flows-17", "flows-6"]
    assert names(topics, protos(17, 50, 51, 50, 6)) == ["flows-17", *["flows-other"] * 3, "flows-6"]
    shown = {family.name: family.samples[("out",)] for family in topics.families("out")}
    assert shown == {"flowagent_sink_topics": 2, "flowagent_sink_other_topic_rows": 3}


@pytest.mark.parametrize("template", ["", ".", "..", "my flows", "flows/{proto}", "{proto", "x" * 250, "flows-{a b}"])
def test_what_is_no_topic(template):
    with pytest.raises(ConfigError, match="is no topic"):
        made(template)
