"""What became of the records: decoded + restored = exported + sampled out + dropped + spooled + still inside.

`restored` ones were left on disk by an earlier run, `spooled` ones are left there
by this one. Counted in input records: a row of a window counts for as many as it stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flowagent.metrics import Family
from flowagent.progress import Span


class Outcomes:
    """The account of one pipeline."""

    def __init__(self) -> None:
        self.decoded = 0
        self.restored = 0
        self.counts: Counter[tuple[str, str]] = Counter({
            ("exported", ""): 0, ("sampled_out", "budget"): 0, ("sampled_out", "overload"): 0,
        })  # fmt: skip

    def dropped(self, reason: str, records: int) -> None:
        """These records go nowhere, for a reason from a bounded set."""
        self.counts["dropped", reason] += records

    def spooled(self, records: int) -> None:
        """These records are on disk when the agent ends."""
        self.counts["spooled", ""] += records

    def sampled_out(self, reason: str, records: int) -> None:
        """These records go on only in the weight of others: for a `budget`, or for want of time (`overload`)."""
        self.counts["sampled_out", reason] += records

    def exported(self, records: int) -> None:
        """These records reached a sink, or the end of a pipeline that has none."""
        self.counts["exported", ""] += records

    @property
    def pending(self) -> int:
        """Records inside the pipeline: in a window or a queue."""
        return self.decoded + self.restored - sum(self.counts.values())

    def families(self) -> Iterable[Family]:
        """The account as metrics."""
        yield Family("flowagent_records", "counter", "Flow records by what became of them.",
                     ("outcome", "reason"), dict(self.counts))  # fmt: skip
        restored = "Flow records that an earlier run had left on disk."
        yield Family("flowagent_records_restored", "counter", restored, (), {(): self.restored})
        yield Family(
            "flowagent_records_pending", "gauge", "Flow records in windows and queues.", (), {(): self.pending}
        )


class Ticket:
    """Follows one batch through all sinks: exported if any took it, else on disk, else dropped for the last reason."""

    __slots__ = ("_is_on_disk", "_left", "_outcomes", "_records", "_span", "_taken")

    def __init__(self, outcomes: Outcomes, records: int, sinks: int, span: Span | None = None) -> None:
        """`span` is told what is settled; None where nobody wants to know."""
        self._outcomes = outcomes
        self._records = records
        self._left = sinks
        self._taken = False
        self._is_on_disk = False
        self._span = span
        if span is not None:
            span.open += sinks
        if sinks == 0:
            outcomes.exported(records)

    def saved(self) -> None:
        """One sink has the batch on disk, where it survives the process."""
        if self._span is not None:
            self._span.settle()

    def done(self, reason: str | None, *, was_saved: bool = False, is_on_disk: bool = False) -> None:
        """One sink is through with the batch; `reason` says why it did not take it, unless it `is_on_disk`."""
        if not was_saved:
            self.saved()
        self._taken |= reason is None and not is_on_disk
        self._is_on_disk |= is_on_disk
        self._left -= 1
        if self._left:
            return
        if self._taken:
            self._outcomes.exported(self._records)
        elif self._is_on_disk:
            self._outcomes.spooled(self._records)
        else:
            self._outcomes.dropped(reason or "", self._records)
