"""What the tests of sampling share: heavy-tailed traffic, many windows of it sampled, and how far off estimates are."""

import numpy as np

from flowagent.batch import Batch, constant
from flowagent.clock import SECOND
from flowagent.outcome import Outcomes
from flowagent.sampling.estimate import estimates, tallies
from flowagent.sampling.sampler import Sampler
from flowagent.scale import received
from flowagent.sections import Sampling

MEASURES = ("bytes", "packets", "flows")
SHARES = (0.51, 0.32, 0.13, 0.032, 0.0085)
"""Of all bytes, of the groups that accuracy is told for."""


def traffic(rows=100_000, seed=1, **columns):
    """Flows of distinct 5-tuples whose bytes are Pareto distributed with exponent 1.1, in groups by `in_if`."""
    rng = np.random.default_rng(seed)
    octets = np.ceil(100 * (rng.pareto(1.1, rows) + 1)).astype(np.uint64)
    packets = np.maximum(octets // rng.integers(60, 1500, rows).astype(np.uint64), np.uint64(1))
    return Batch({
        "src_addr": v4(rng.integers(0, 2**32, rows, np.uint64)),
        "dst_addr": v4(np.arange(rows, dtype=np.uint64)),
        "src_port": rng.integers(1024, 2**16, rows, np.uint16),
        "dst_port": rng.choice(np.array([53, 80, 443, 8080], np.uint16), rows),
        "proto": constant(6, rows, np.uint8),
        "exporter": constant((0, 0xFFFF_C0000201), rows, np.uint64),
        "in_if": groups(octets, rng),
        "bytes": octets, "packets": packets, "records": constant(1, rows, np.uint64), **columns,
    })  # fmt: skip


def v4(numbers):
    """(2, n) words of IPv4 addresses."""
    return np.stack([np.zeros_like(numbers), numbers | np.uint64(0xFFFF_00000000)])


def numbers(batch):
    """(n,) the number of each row of `traffic`."""
    return (batch["dst_addr"][1] & np.uint64(0xFFFFFFFF)).astype(np.intp)


def groups(octets, rng):
    """(n,) uint32: rows at random in groups 0 to 4 that have SHARES of all bytes, as nearly as whole rows allow."""
    order = rng.permutation(len(octets))
    # The largest rows go to the largest group, or their place in the order would decide about the shares.
    is_large = octets[order] >= np.sort(octets)[-20]
    order = np.concatenate([order[is_large], order[~is_large]])
    ends = np.cumsum(octets[order]) / octets.sum()
    group = np.empty(len(octets), np.uint32)
    group[order] = np.minimum(np.searchsorted(np.cumsum(SHARES), ends), len(SHARES) - 1)
    return group


def sampler(budget, seconds=1, **settings):
    """One of windows of a second."""
    return Sampler(Sampling(budget=budget / seconds, **settings), seconds * SECOND, Outcomes())


def sampled(taker, windows, *parts, first=0):
    """Samples of so many windows, each of these parts (batches, or functions that make one), with coins of its own."""
    for window in range(first, first + windows):
        for part in parts:
            taker.add(part() if callable(part) else part, window * SECOND)
        yield taker.take()


def truth(batch, measure, by="in_if"):
    """True totals of all groups."""
    return np.bincount(batch[by], received(batch, measure))


class Errors:
    """What came of many windows: arrays (windows, groups) for each of MEASURES."""

    def __init__(self, samples, true, by="in_if"):
        self.true = true
        self.rows = []
        each = {name: ([], [], []) for name in true}
        for sample in samples:
            self.rows.append(len(sample))
            for name, (totals, variances, holds) in each.items():
                keys, tally = tallies(sample, name, (by,))
                told = estimates(tally)
                place = keys[by]
                total, variance, low, high = (np.zeros(len(true[name])) for _ in range(4))
                # A group without a row may have as much as the heaviest rows that were kept stand for.
                high += 3.69 * tally.light_largest.max(initial=0.0)
                total[place], variance[place], low[place], high[place] = told[:4]
                totals.append(total)
                variances.append(variance)
                holds.append((low <= true[name] * (1 + 1e-9)) & (true[name] <= high * (1 + 1e-9)))
        self.rows = np.array(self.rows)
        self.totals = {name: np.array(lists[0]) for name, lists in each.items()}
        self.variances = {name: np.array(lists[1]) for name, lists in each.items()}
        self.holds = {name: np.array(lists[2]) for name, lists in each.items()}

    def rse(self, name):
        """(groups,) relative standard error."""
        return self.totals[name].std(0) / self.true[name]

    def bias(self, name):
        """(groups,) the mean error in its own standard errors."""
        errors = self.totals[name] - self.true[name]
        return errors.mean(0) / np.maximum(errors.std(0) / len(errors) ** 0.5, 1e-9 * self.true[name])

    def claimed(self, name):
        """(groups,) the mean estimated variance over the true one."""
        return self.variances[name].mean(0) / self.totals[name].var(0)

    def coverage(self, name):
        """(groups,) how often the interval held the true total."""
        return self.holds[name].mean(0)
