"""Rows of the moment as datagrams: the agent's own decoder reads what was put in."""

import numpy as np
import pytest

from flowagent.clock import SECOND
from flowagent.generate.cluster import load
from flowagent.generate.messages import Messages
from flowagent.generate.scenario import Scenario
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.schema import SAMPLING_SOURCES

NOW = 1_800_000_000 * SECOND + 678_000_000
PROTOCOLS = ("netflow5", "netflow9", "ipfix")


def rows(steps=1):
    """What one node exports at the time of drops."""
    scenario = Scenario(load(), 1, 2000, NOW)
    return [scenario.step(175 + 0.5 * n, 0.5, NOW)[2] for n in range(steps)]


def decoded(protocol, exports, rate=1):
    messages, decoder = Messages(protocol, 7, rate, NOW), Decoder(ordered=True)
    batches = []
    for i, one in enumerate(exports):
        now = NOW + i * SECOND // 2
        payloads = [*messages.templates(now), *messages.flows(one, now)]
        batches.append(decoder.feed(Datagrams.of(payloads, received_ns=now)))
    return decoder, batches


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_decoder_reads_what_was_put_in(protocol):
    (put,) = rows()
    decoder, (got,) = decoded(protocol, [put])
    assert not decoder.stats.errors
    assert len(got) == len(put["packets"])
    for column, name in (("packets", "packets"), ("bytes", "bytes"), ("src_port", "src_port"), ("proto", "protocol"),
                         ("in_if", "in_if"), ("tcp_flags", "tcp_flags")):  # fmt: skip
        assert got[column].tolist() == put[name].tolist(), column
    low = put["src"][:, 12:].copy().view(">u4").reshape(-1)
    assert (got["src_addr"][1] & 0xFFFF_FFFF).tolist() == low.tolist()
    step = 10**6 if protocol == "netflow5" else SECOND
    assert (NOW // step * step - got["end_ns"]).tolist() == (put["end_ago"] * 10**6).tolist()
    assert (got["end_ns"] - got["start_ns"]).tolist() == ((put["start_ago"] - put["end_ago"]) * 10**6).tolist()


def test_only_ipfix_tells_of_drops():
    (put,) = rows()
    assert put["dropped_packets"].any()
    _, (got,) = decoded("ipfix", [put])
    assert got["dropped_packets"].tolist() == put["dropped_packets"].tolist()
    assert got["dropped_bytes"].tolist() == put["dropped_bytes"].tolist()
    for protocol in ("netflow5", "netflow9"):
        assert "dropped_packets" not in decoded(protocol, [put])[1][0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rate", [1, 100])
def test_the_rate_is_on_the_wire(protocol, rate):
    _, (got,) = decoded(protocol, rows(), rate)
    assert np.unique(got["sampling_rate"]).tolist() == [rate]
    assert np.unique(got["sampling_source"]).tolist() == [SAMPLING_SOURCES.index("wire")]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_seems_lost_between_datagrams(protocol):
    decoder, batches = decoded(protocol, rows(5))
    assert sum(map(len, batches)) > 300
    assert sum(decoder.exporters.lost_records(final=True).values()) == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_datagrams_fit_into_a_packet(protocol):
    (put,) = rows()
    sizes = [len(one) for one in Messages(protocol, 1, 1, NOW).flows(put, NOW)]
    assert max(sizes) <= 1464
    assert len(sizes) < len(put["packets"]) / 15


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_to_tell_is_no_datagram(protocol):
    (put,) = rows()
    assert list(Messages(protocol, 1, 1, NOW).flows({name: column[:0] for name, column in put.items()}, NOW)) == []
