"""Stage: count a flow once that several tell of.

Two rules, each off until it is asked for, since each is right only where what it assumes holds:

- `nodes`: a flow between two nodes of a cluster is told of by both. With `source` the report of the source's node
  counts, and the other is dropped: the row's `node_direction` is ingress, and its source is on a known node.
- `points`: a flow that passes several observation points of what this agent listens to counts at the one that told of
  it first, until that one has been silent about it for `idle`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from flowagent.batch import Array, Batch
from flowagent.clock import SECOND
from flowagent.hashing import hash_rows
from flowagent.metrics import Family
from flowagent.outcome import Outcomes
from flowagent.schema import EGRESS, FLOW_KEY, INGRESS
from flowagent.sections import Dedup

_OTHER_END = {"source": (INGRESS, "src_k8s_host_name"), "destination": (EGRESS, "dst_k8s_host_name")}
"""By whose report counts: the direction that the other end's node sees, and where the node that counts is named."""
_WAYS = 4
"""Places for a flow; of more flows that want the same, the one longest unheard of makes room."""
_TRIES = _WAYS + 1


class Deduplicate:
    """Drops what the rules say was told of before."""

    def __init__(self, config: Dedup, outcomes: Outcomes, seed: int) -> None:
        self.config = config
        self._outcomes = outcomes
        self._owners = Owners(config.max_flows, round(config.idle_seconds * SECOND)) if config.points else None
        self._seed = seed

    @property
    def columns(self) -> frozenset[str]:
        """What it looks at."""
        at_nodes = {"node_direction", _OTHER_END[self.config.nodes][1]} if self.config.nodes != "both" else set()
        at_points = {*FLOW_KEY, *self.config.points} if self.config.points else set()
        return frozenset(at_nodes | at_points)

    def process(self, batch: Batch, now_ns: int) -> Batch:
        """The rows to count."""
        if self.config.nodes != "both":
            batch = self._drop(batch, self._of_other_node(batch), "duplicate_node")
        if self._owners is not None and len(batch):
            flows, points = hash_rows(batch, FLOW_KEY, self._seed), hash_rows(batch, self.config.points, self._seed)
            batch = self._drop(batch, self._owners.others(flows, points, now_ns), "duplicate_point")
        return batch

    def _of_other_node(self, batch: Batch) -> Array:
        """(n,) bool: rows whose flow the node that counts tells of, too."""
        direction, node = _OTHER_END[self.config.nodes]
        if "node_direction" not in batch or node not in batch:
            return np.zeros(len(batch), np.bool_)
        is_other = (batch["node_direction"] == direction) & batch.is_known("node_direction")
        return np.asarray(is_other & (batch[node] != 0))

    def _drop(self, batch: Batch, repeated: Array, reason: str) -> Batch:
        if not repeated.any():
            return batch
        kept = batch.take(~repeated)
        self._outcomes.dropped(reason, batch.record_count - kept.record_count)
        return kept

    def families(self) -> Iterable[Family]:
        """Self metrics."""
        if self._owners is not None:
            yield Family("flowagent_dedup_evictions", "counter",
                         "Flows that had no room any more; another observation point may count them again.", (),
                         {(): self._owners.evictions})  # fmt: skip


class Owners:
    """Which observation point counts a flow: a table of fixed size.

    There are at least `_WAYS` times as many places as `max_flows`, since a flow can be in `_WAYS` of them only: so
    fewer than one in a hundred is forgotten too early.
    """

    def __init__(self, max_flows: int, idle_ns: int) -> None:
        """Flows and points are told apart by 64-bit hashes."""
        buckets = 1 << (max_flows - 1).bit_length()
        self._shift = np.uint64(64 - buckets.bit_length() + 1)
        self._flow, self._point = np.zeros((2, buckets * _WAYS), np.uint64)
        self._heard = np.full(buckets * _WAYS, -(1 << 62), np.int64)
        self._idle_ns = idle_ns
        self.evictions = 0

    def others(self, flows: Array, points: Array, now_ns: int) -> Array:
        """(n,) bool: rows of a flow (n,) uint64 that another point than theirs (n,) uint64 counts."""
        is_other = np.zeros(len(flows), np.bool_)
        rows = np.arange(len(flows))
        for tries_left in reversed(range(_TRIES)):
            wanted = flows[rows]
            bucket = (wanted >> self._shift).astype(np.intp)
            place = bucket * _WAYS + (_by_bucket(self._flow, bucket) == wanted[:, None]).argmax(1)
            found = (self._flow.take(place) == wanted) & self._is_fresh(place, now_ns)
            own = found & (self._point.take(place) == points[rows])
            is_other[rows[found & ~own]] = True
            self._heard[place[own]] = now_ns
            rows, place = rows[~found], place[~found]
            if not len(rows):
                return is_other
            if tries_left:
                self._take(place, flows[rows], points[rows], now_ns)
        self.evictions += len(set(flows[rows].tolist()))  # more came at once than there are places
        return is_other

    def _take(self, place: Array, flows: Array, points: Array, now_ns: int) -> None:
        """Give the first row that wants one the place that its flow has still, or else its bucket's oldest one."""
        bucket = place // _WAYS
        oldest = bucket * _WAYS + np.abs(now_ns - _by_bucket(self._heard, bucket)).argmax(1)
        place = np.where(self._flow.take(place) == flows, place, oldest)
        was_fresh = self._is_fresh(place, now_ns)
        # Of several values for one place the last one stays.
        self._flow[place[::-1]], self._point[place[::-1]] = flows[::-1], points[::-1]
        self._heard[place] = now_ns
        self.evictions += len(set(place[was_fresh].tolist()))

    def _is_fresh(self, place: Array, now_ns: int) -> Array:
        # A clock may step back: what was heard far ahead of it says nothing about now.
        return np.asarray(np.abs(now_ns - self._heard.take(place)) < self._idle_ns)


def _by_bucket(values: Array, bucket: Array) -> Array:
    """(n, _WAYS): what stands in the places of these buckets."""
    return values.reshape(-1, _WAYS).take(bucket, axis=0)
