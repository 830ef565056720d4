"""Counting every packet once: of an Open vSwitch bridge that reports packets twice, only ingress is counted."""

import numpy as np

from flowagent.batch import Batch, constant
from flowagent.clock import SECOND
from flowagent.outcome import Outcomes
from flowagent.prepare import Prepare
from flowagent.schema import SAMPLING_SOURCES

OVS, ROUTER = SAMPLING_SOURCES.index("prescaled"), SAMPLING_SOURCES.index("wire")
INGRESS, EGRESS, UNKNOWN = 0, 1, None


def batch(*rows):
    """Rows of (exporter, domain, direction, source); `bytes` numbers them."""
    exporter, domain, direction, source = zip(*rows, strict=True)
    return Batch(
        {
            "exporter": np.array([[0] * len(rows), exporter], "u8"),
            "observation_domain": np.array(domain, "u4"),
            "direction": np.array([d or 0 for d in direction], "u1"),
            "sampling_source": np.array(source, "u1"),
            "bytes": np.arange(len(rows), dtype="u8"),
        },
        valid={"direction": np.array([d is not None for d in direction])},
    )


class Bench:
    def __init__(self):
        self.outcomes = Outcomes()
        self.prepare = Prepare(self.outcomes)

    def kept(self, *rows, at=0):
        return self.prepare.process(batch(*rows), at * SECOND)["bytes"].tolist()

    @property
    def dropped(self):
        return self.outcomes.counts["dropped", "duplicate_direction"]


def test_egress_goes_where_ingress_is_reported_too():
    bench = Bench()
    assert bench.kept((1, 7, INGRESS, OVS), (1, 7, EGRESS, OVS), (1, 7, INGRESS, OVS)) == [0, 2]
    assert bench.dropped == 1


def test_order_within_a_batch_does_not_matter():
    assert Bench().kept((1, 7, EGRESS, OVS), (1, 7, INGRESS, OVS)) == [1]


def test_egress_alone_is_counted():
    bench = Bench()
    assert bench.kept((1, 7, EGRESS, OVS), (1, 7, EGRESS, OVS)) == [0, 1]
    assert bench.dropped == 0


def test_ingress_is_remembered_from_batch_to_batch():
    bench = Bench()
    bench.kept((1, 7, INGRESS, OVS))
    assert bench.kept((1, 7, EGRESS, OVS), at=100) == []


def test_ingress_is_forgotten_after_a_quarter_of_an_hour():
    bench = Bench()
    bench.kept((1, 7, INGRESS, OVS))
    assert bench.kept((1, 7, EGRESS, OVS), at=899) == []
    assert bench.kept((1, 7, EGRESS, OVS), at=900) == [0]


def test_each_exporter_and_domain_is_on_its_own():
    bench = Bench()
    rows = [(1, 7, INGRESS, OVS), (1, 8, EGRESS, OVS), (2, 7, EGRESS, OVS), (1, 7, EGRESS, OVS)]
    assert bench.kept(*rows) == [0, 1, 2]


def test_routers_are_taken_at_their_word():
    bench = Bench()
    assert bench.kept((1, 7, INGRESS, ROUTER), (1, 7, EGRESS, ROUTER)) == [0, 1]


def test_a_router_and_a_bridge_in_one_batch():
    rows = [(1, 7, INGRESS, ROUTER), (1, 7, EGRESS, OVS), (1, 7, INGRESS, OVS), (1, 7, EGRESS, ROUTER)]
    assert Bench().kept(*rows) == [0, 2, 3]


def test_an_unknown_direction_counts_as_ingress():
    assert Bench().kept((1, 7, UNKNOWN, OVS), (1, 7, EGRESS, OVS)) == [0]


def test_rows_without_the_columns_pass():
    bench = Bench()
    rows = Batch({"bytes": np.array([1, 2], "u8")})
    assert bench.prepare.process(rows, 0) is rows
    assert len(bench.prepare.process(Batch({}), 0)) == 0


def test_constant_columns():
    rows = Batch(
        {
            "exporter": constant((0, 1), 3, "u8"),
            "observation_domain": constant(7, 3, "u4"),
            "direction": np.array([0, 1, 1], "u1"),
            "sampling_source": constant(OVS, 3, "u1"),
        }
    )
    assert len(Bench().prepare.process(rows, 0)) == 1


def test_memory_is_bounded_however_many_exporters_there_are():
    bench = Bench()
    for first in range(0, 20_000, 5000):
        bench.kept(*[(i, 7, INGRESS, OVS) for i in range(first, first + 5000)])
    (family,) = bench.prepare.families()
    assert (family.name, family.samples) == ("flowagent_prepare_evictions", {(): 20_000 - 16_384})
    # The one seen last is remembered, the one seen first is not.
    assert bench.kept((19_999, 7, EGRESS, OVS), (0, 7, EGRESS, OVS)) == [1]
