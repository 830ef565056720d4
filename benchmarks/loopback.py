"""End to end: exports over loopback into whole processes, in rounds, each beside a sink that only receives."""

import contextlib
import os
import sys
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from benchmarks.flows import EXPORTS, KEYS
from benchmarks.options import Options
from benchmarks.process import SENDER_CPU
from benchmarks.receivers import BUFFER, Receiver, receivers
from benchmarks.sender import Sender
from benchmarks.table import Table
from benchmarks.trial import Trial, trial

SENT = [name for name in EXPORTS if name != "sflow5"]
"""nfcapd, to compare with, does not take sFlow."""
RATES = dict.fromkeys(SENT, (100_000, 400_000, 1_000_000)) | {
    "ipfix, IPv6 too": (400_000,),
    "ovs": (100_000,),  # each record costs a datagram's price
}
QUICK_RATES = dict.fromkeys(SENT, (400_000,)) | {"ovs": (100_000,)}
STEPS = 6
"""Bisections for the highest rate."""


class Case(NamedTuple):
    """What a row of a table is about."""

    export: str
    rate: float
    receiver: str


def run(options: Options) -> Table:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_on_sender_cpu())
        senders = [stack.enter_context(Sender(name)) for name in SENT]
        table = _highest(options, senders) if options.maximum else _fixed(options, senders)
    table.notes.insert(
        0,
        f"CPU user+system of the receiver's process; {KEYS:,} keys, receive buffer {BUFFER >> 20} MiB, "
        f"{options.seconds:g} s a trial, medians of {options.rounds}.",
    )
    return table


@contextlib.contextmanager
def _on_sender_cpu() -> Iterator[None]:
    """Keep this process off the receiver's core."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SENDER_CPU})
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def _fixed(options: Options, senders: list[Sender]) -> Table:
    """CPU per record at fixed rates."""
    trials: dict[Case, list[Trial]] = {}
    table = Table("End to end over loopback")
    for number in range(options.rounds):
        for sender in senders:
            for rate in (QUICK_RATES if options.quick else RATES)[sender.export]:
                for name, receiver in receivers().items():
                    case = Case(sender.export, rate, name)
                    trials.setdefault(case, []).append(_tried(case, receiver, sender, options.seconds))
        table.calibration_ms.append(median(t[number].calibration_ms for t in trials.values()))
    table.rows = [_row(case, tried, trials[case._replace(receiver="sink")]) for case, tried in trials.items()]
    behind = sum(t.rate < 0.97 * case.rate for case, tried in trials.items() for t in tried)
    if behind:
        table.notes.append(f"The sender fell behind in {behind} trials.")
    return table


def _row(case: Case, tried: list[Trial], sink: list[Trial]) -> dict[str, Any]:
    return {
        "export": case.export,
        "records/s": int(case.rate),
        "receiver": case.receiver,
        "ns/record": median(t.ns_per_record for t in tried),
        "ratio to sink": median(t.ns_per_record / s.ns_per_record for t, s in zip(tried, sink, strict=True)),
        "loss %": 100 * median(t.loss for t in tried),
        "peak RSS MB": median(t.peak_rss_mb for t in tried),
    }


def _highest(options: Options, senders: list[Sender]) -> Table:
    """The highest rate that a receiver takes with less than 0.1 % loss."""
    best: dict[Case, list[Trial]] = {}
    limited: set[Case] = set()
    table = Table("Highest rate over loopback with less than 0.1 % loss")
    for number in range(options.rounds):
        for sender in senders:
            for name, receiver in receivers().items():
                case = Case(sender.export, 0, name)
                found, by_sender = _search(case, receiver, sender, options)
                best.setdefault(case, []).append(found)
                if by_sender:
                    limited.add(case)
        table.calibration_ms.append(median(t[number].calibration_ms for t in best.values()))
    for case, tried in best.items():
        table.rows.append({
            "export": case.export,
            "receiver": case.receiver,
            "records/s": median(t.rate for t in tried),
            "limited by": "sender" if case in limited else "receiver",
            "ns/record": median(t.ns_per_record for t in tried),
            "peak RSS MB": median(t.peak_rss_mb for t in tried),
        })  # fmt: skip
    return table


def _search(case: Case, receiver: type[Receiver], sender: Sender, options: Options) -> tuple[Trial, bool]:
    """Bisect below what the sender can give; the best trial, and whether the sender was the limit.

    Where none kept up, the last one tells how far down the search went.
    """
    tried = [_tried(case, receiver, sender, options.seconds)]
    if tried[0].kept_up():  # perhaps the sender can do more
        tried.append(_tried(case, receiver, sender, options.seconds))
    by_sender = tried[-1].kept_up()
    high = tried[-1].rate
    for _ in range(0 if by_sender else 2 if options.quick else STEPS):
        rate = (max((t.rate for t in tried if t.kept_up()), default=0) + high) / 2
        tried.append(_tried(case._replace(rate=rate), receiver, sender, options.seconds))
        if not tried[-1].kept_up():
            high = rate
    return max((t for t in tried if t.kept_up()), key=lambda t: t.rate, default=tried[-1]), by_sender


def _tried(case: Case, receiver: type[Receiver], sender: Sender, seconds: float) -> Trial:
    """Try, and say so where progress belongs."""
    done = trial(receiver, sender, case.rate, seconds)
    sys.stderr.write(
        f"{case.export:15} {case.receiver:18} {done.rate:11,.0f}/s {done.ns_per_record:6.0f} ns/record "
        f"loss {100 * done.loss:.3f} % drained {done.drain:.2f} s {done.peak_rss_mb:4.0f} MB "
        f"calibration {done.calibration_ms:.1f} ms\n"
    )
    return done
