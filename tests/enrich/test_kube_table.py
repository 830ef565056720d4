"""Who counts at a time, against a model that looks at every holder; and which namespaces are infrastructure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kube_running import addresses

from flowagent import names
from flowagent.enrich.kube_table import PARTS, Holdings, KubeTable
from flowagent.enrich.table import FOREVER


def holdings(rows, entities=None):
    """Rows are (address, since, until, entity, rank); entities dicts of their parts."""
    if entities is None:
        entities = [{} for _ in range(1 + max((row[3] for row in rows), default=-1))]
    column = lambda place, dtype: np.array([row[place] for row in rows], dtype)  # noqa: E731
    parts = {part: names.codes(one.get(part, "") for one in entities) for part in PARTS}
    return Holdings(addresses(*(row[0] for row in rows)), column(1, np.int64), column(2, np.int64),
                    column(3, np.int32), column(4, np.uint8), parts)  # fmt: skip


def model(rows, address, at):
    """The holder at a time: of the highest rank, and of equals the last that came."""
    held = [(row[4], row[1], place, row[3]) for place, row in enumerate(rows)
            if row[0] == address and row[1] <= at < row[2]]  # fmt: skip
    return max(held)[3] if held else -1


TIMES = st.integers(0, 12)
ROWS = st.lists(
    st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), TIMES, st.one_of(TIMES, st.just(FOREVER)),
              st.integers(0, 9), st.integers(0, 4)),
    max_size=12,
)  # fmt: skip


@given(rows=ROWS)
def test_who_holds_an_address_at_any_time(rows):
    table = KubeTable.build(holdings(rows), ())
    places = [(address, at) for address in ("10.0.0.1", "10.0.0.2", "fd00::1") for at in range(14)]
    found = table.addresses.find(addresses(*(p[0] for p in places)), np.array([p[1] for p in places], np.int64))
    assert found.tolist() == [model(rows, address, at) for address, at in places]


def test_many_holders_of_one_address_take_no_time():
    rows = [("10.0.0.1", time, time + 1000, time, time % 3) for time in range(5000)]
    table = KubeTable.build(holdings(rows), ())
    found = table.addresses.find(addresses("10.0.0.1"), np.array([2500], np.int64))
    assert found.tolist() == [2498]  # of those of rank 2 the last


@pytest.mark.parametrize(
    ("entity", "is_app"),
    [
        ({"namespace": "shop", "type": "Pod"}, True),
        ({"namespace": "kube-system", "type": "Pod"}, False),
        ({"namespace": "kube", "type": "Pod"}, True),
        ({"namespace": "ops", "type": "Pod"}, False),
        ({"namespace": "ops2", "type": "Pod"}, True),
        ({"namespace": "", "type": "Node"}, False),
        ({"namespace": "default", "name": "kubernetes", "type": "Service"}, False),
        ({"namespace": "default", "name": "kubernetes", "type": "Pod"}, True),
        ({"namespace": "shop", "name": "kubernetes", "type": "Service"}, True),
    ],
)
def test_namespaces_of_applications(entity, is_app):
    rows = [("10.0.0.1", 0, FOREVER, 0, 0)]
    table = KubeTable.build(holdings(rows, [entity]), ("kube-*", "ops"))
    assert table.is_app.tolist() == [is_app, False]


def test_nobody_has_no_name():
    table = KubeTable.build(holdings([("10.0.0.1", 0, FOREVER, 0, 0)], [dict.fromkeys(PARTS, "x")]), ())
    assert all(table.parts[part].tolist() == [names.code("x"), 0] for part in PARTS)
    assert len(KubeTable.build(holdings([]), ())) == 0
