"""What a row stands for: from counts as exported to estimates, and how far off those may be.

Two things stand between a row and the traffic. The exporter may have looked at
one packet in `sampling_rate` only, and the agent may have kept the row with
probability `inclusion_prob` only. An estimate multiplies the first and divides
by the second (Horvitz and Thompson). A rate that is not known counts as 1.
"""

from __future__ import annotations

import numpy as np

from flowagent.batch import Array, Batch, constant, is_constant
from flowagent.schema import SAMPLING_SOURCES

SHORTEST, LONGEST = 40.0, 1500.0
"""Octets of the packets that a record is taken to consist of, where only their sum is known."""
OVSDB = SAMPLING_SOURCES.index("ovsdb")
"""The exporter had scaled its counts, which was undone as the rate is known otherwise; see `unscaled`."""


def rates(batch: Batch) -> Array | float:
    """Packets that each counted one stands for: 1.0, or float64 (n,)."""
    return _known_or_one(batch, "sampling_rate")


def probabilities(batch: Batch) -> Array | float:
    """With which the agent kept each row: 1.0, or float64 (n,)."""
    return _known_or_one(batch, "inclusion_prob")


def measure(batch: Batch, name: str) -> Array:
    """(n,) float64: a summed column as exported, 0 where unknown; `flows` is 1 a row."""
    if name == "flows":
        return np.ones(len(batch))
    if name not in batch:
        return np.ones(len(batch)) if name == "records" else np.zeros(len(batch))
    values = batch[name].astype(np.float64)
    return np.where(batch.valid[name], values, 0.0) if name in batch.valid else values


def received(batch: Batch, name: str) -> Array:
    """(n,) float64: what came in with each row, scaled by upstream sampling.

    That scales bytes and packets only: flows of which no packet was sampled
    were never seen, and how many there were cannot be told from those that were.
    """
    values = measure(batch, name)
    rate = rates(batch) if name in ("bytes", "packets") else 1.0
    return values if isinstance(rate, float) and rate == 1 else values * rate


def scaled(batch: Batch, name: str) -> Array:
    """(n,) float64: the estimate that each row makes: what it brought, over the probability that it was kept."""
    prob = probabilities(batch)
    values = received(batch, name)
    return values if isinstance(prob, float) and prob == 1 else values / prob


def upstream_variance(batch: Batch, name: str) -> Array:
    """(n,) float64: variance that upstream sampling, of one packet in `rate` by coins, gave to `received`.

    For packets it is N(N-1) times their number. For bytes it is N(N-1) times the
    sum of the squared packet lengths. One packet tells its length; of more only
    the sum is known, and with lengths between SHORTEST and LONGEST the squares
    add up to no more than the chord of the parabola says. Where even the number
    of packets is unknown, all of them may have been LONGEST. So this is exact or
    too much, never too little, where packets are no longer than LONGEST.
    """
    rate = rates(batch)
    if name not in ("bytes", "packets") or (isinstance(rate, float) and rate == 1):
        return constant(0.0, len(batch), np.float64)
    packets = measure(batch, "packets")
    if name == "packets":
        return np.asarray(rate * (rate - 1) * packets)
    octets = measure(batch, "bytes")
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.where(packets > 0, octets * octets / packets, np.minimum(octets, LONGEST) * octets)
    chord = (SHORTEST + LONGEST) * octets - SHORTEST * LONGEST * packets
    squares = np.where(packets > 1, np.maximum(least, chord), least)
    return np.asarray(rate * (rate - 1) * squares)


def unscaled(batch: Batch, factor: Array, rate: Array) -> Batch:
    """Take back that exporters multiplied `bytes` and `packets` by a whole `factor` (n,) int64 themselves.

    Where it is above 0 and divides both, they are divided by it and get the `rate` (n,) float64, which they are to be
    multiplied by from now on: that gives the same estimate, or a better one where the factor was not quite the rate,
    and its variance. All other rows stay as they are: a factor that does not divide the counts is not theirs.
    """
    undone = factor > 0
    divisor = np.where(undone, factor, 1).astype(np.uint64)
    if len(divisor) and (divisor == divisor[0]).all():
        divisor = divisor[0]  # dividing by one number is faster
    columns = {}
    for name in ("bytes", "packets"):
        if name in batch:
            columns[name] = batch[name] // divisor
            undone = undone & (columns[name] * divisor == batch[name])
    if not undone.any():
        return batch
    columns = {name: np.where(undone, values, batch[name]) for name, values in columns.items()}
    valid = {name: batch.valid[name] for name in columns if name in batch.valid}
    known = batch.is_known("sampling_rate") | undone
    before = batch["sampling_rate"] if "sampling_rate" in batch else np.zeros(len(batch))
    columns["sampling_rate"] = np.where(undone, rate, before)
    columns["sampling_source"] = np.where(undone, np.uint8(OVSDB), batch["sampling_source"])
    if undone.all() and (rate == rate[0]).all():
        columns["sampling_rate"] = constant(rate[0], len(batch), np.float64)
        columns["sampling_source"] = constant(OVSDB, len(batch), np.uint8)
    if not known.all():
        valid["sampling_rate"] = known
    return batch.with_columns(columns, valid)


def _known_or_one(batch: Batch, name: str) -> Array | float:
    if name not in batch:
        return 1.0
    values = batch[name]
    if name in batch.valid:
        return np.where(batch.valid[name], values, 1.0)
    return float(values[0]) if is_constant(values) else values
