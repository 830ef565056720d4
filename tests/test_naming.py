"""Names are joined to records where somebody looks at them, and to all rows that leave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import pytest

from flowagent import names
from flowagent.aggregate import counters
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.config import parse
from flowagent.metrics import Family
from flowagent.outcome import Outcomes
from flowagent.stages import Stages

SECOND = 10**9


class Ports:
    """Names the source `low` or `high` by its port, and the zone by that name."""

    def __init__(self, needs: str = "src_port", adds: str = "src_k8s_name") -> None:
        self.needs, self.adds = frozenset({needs}), frozenset({adds})
        self._needs, self._adds = needs, adds
        self.asked: list[frozenset[str]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def run(self) -> None: ...

    def ready(self) -> str | None:
        return None

    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        self.asked.append(wanted)
        if self._adds in batch or self._adds not in wanted:
            return batch
        if self._needs not in batch:
            return batch
        high = batch[self._needs].astype(np.uint64) > 1000
        return batch.with_columns({self._adds: np.where(high, *names.codes([f"{self._adds} high", "low"]))})

    def families(self) -> Iterable[Family]:
        return ()


class Broken(Ports):
    def enrich(self, batch: Batch, wanted: frozenset[str]) -> Batch:
        raise RuntimeError("broken")


def rows(*ports: int) -> Batch:
    n = len(ports)
    return Batch(
        {
            "src_port": np.array(ports, np.uint16),
            "bytes": np.full(n, 100, np.uint64),
            "packets": np.ones(n, np.uint64),
            "proto": np.full(n, 6, np.uint8),
        }
    )


def stages(enrichers: list[Ports], labels: list[str], **window: object) -> tuple[Stages, counters.Counters]:
    config = parse({"window": {"every": "10s", **window}})
    made = Stages(config, Outcomes(), Context("test"))
    counted = counters.Config(labels=tuple(labels)).build(Context("counters"))
    made.connect(enrichers, [counted])
    return made, counted


def test_rows_that_leave_have_every_name() -> None:
    ports = Ports()
    made, _ = stages([ports], ["proto"], key=["src_port"])
    made.process(rows(80, 8080, 80), SECOND)
    assert not ports.asked, "nobody looks at names of records"
    out = made.tick(20 * SECOND)
    assert dict(zip(out["src_port"].tolist(), out["src_k8s_name"].tolist(), strict=True)) == {
        80: b"low",
        8080: b"src_k8s_name high",
    }


def test_counters_may_have_names_as_labels() -> None:
    made, counted = stages([Ports()], ["src_k8s_name"])
    made.process(rows(80, 8080, 80), SECOND)
    found = {f.name: dict(f.samples) for f in counted.families()}["flowagent_flow_bytes"]
    assert found == {("low",): 200, ("src_k8s_name high",): 100}


def test_a_window_may_have_names_as_keys() -> None:
    made, _ = stages([Ports()], ["proto"], key=["src_k8s_name"])
    made.process(rows(80, 8080, 81), SECOND)
    out = made.tick(20 * SECOND)
    assert dict(zip(out["src_k8s_name"].tolist(), out["bytes"].tolist(), strict=True)) == {
        b"low": 200,
        b"src_k8s_name high": 100,
    }


def test_an_enricher_may_build_on_another() -> None:
    zones = Ports("src_k8s_name", "src_k8s_zone")
    made, counted = stages([Ports(), zones], ["src_k8s_zone"])
    made.process(rows(80), SECOND)
    found = {f.name: dict(f.samples) for f in counted.families()}["flowagent_flow_bytes"]
    assert found == {("src_k8s_zone high",): 100}
    assert made.analysed_columns >= {"src_port"}
    assert "src_k8s_name" not in made.analysed_columns


def test_a_fault_of_an_enricher_costs_only_its_names(caplog: pytest.LogCaptureFixture) -> None:
    made, counted = stages([Broken(), Ports(adds="src_k8s_zone")], ["src_k8s_name", "src_k8s_zone"])
    made.process(rows(80), SECOND)
    out = made.tick(20 * SECOND)
    assert len(out) == 1
    found = {f.name: dict(f.samples) for f in counted.families()}["flowagent_flow_bytes"]
    assert found == {("", "low"): 100}
    assert {f.name: dict(f.samples) for f in made.families()}["flowagent_enrich_faults"][()] == 3
    assert "rows stay without" in caplog.text


def test_names_that_rows_brought_along_stay() -> None:
    made, _ = stages([Ports()], ["proto"], key=["src_port", "src_k8s_name"])
    brought = rows(80).with_columns({"src_k8s_name": names.codes(["theirs"])})
    made.process(brought, SECOND)
    assert made.tick(20 * SECOND)["src_k8s_name"].tolist() == [b"theirs"]


@pytest.mark.parametrize(
    "entry",
    [{"group_by": ["src_k8s_name"]}, {"filter": "src_k8s_name == low", "group_by": ["src_port"]}],
)
def test_policies_group_and_filter_by_names_that_the_window_has_not(entry: dict[str, object]) -> None:
    config = parse({"analyse": [{"type": "policy", "name": "p", **entry}]})
    policy = config.analyse[0].settings.build(Context("p"))  # type: ignore[attr-defined]
    made = Stages(config, Outcomes(), Context("test"))
    made.connect([Ports()], [policy])
    made.process(rows(80, 8080, 80), SECOND)
    made.tick(2 * SECOND)
    found = {f.name: dict(f.samples) for f in policy.families()}["flowagent_policy_bytes"]
    group = "src_k8s_name=low" if "filter" not in entry else "src_port=80"
    assert found["p", group] == 200


def test_an_enricher_that_is_gone_is_not_asked_for_any_more() -> None:
    made, counted = stages([Ports("vlan", "src_k8s_zone")], ["proto"])
    later = Ports("src_port", "vlan")
    made.connect([later], [counted])
    made.process(rows(80), SECOND)
    assert later.asked == []
