"""Replay: captured exports or packets into flow records, and on request through the pipeline's stages.

Time is the capture's own, so a replay gives the same rows every time, however
fast it runs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from flowagent.addresses import address_text
from flowagent.batch import Array, Batch
from flowagent.clock import SECOND
from flowagent.component import Context
from flowagent.config import Config
from flowagent.errors import ConfigError
from flowagent.export.encode import json_lines
from flowagent.generate import Captured
from flowagent.history.store import History
from flowagent.ingest.datagrams import Datagrams
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.meter import Metering
from flowagent.ingest.packetfile import read_flows
from flowagent.ingest.pcap import Capture, captures
from flowagent.ingest.rates import Overrides
from flowagent.outcome import Outcomes
from flowagent.stages import Stages

SUMMED = (
    "datagrams",
    "records",
    "templates",
    "options_templates",
    "options_records",
    "bytes",
    "packets",
    "lost_records",
)
_REAL_CHUNK = 64
Form = Literal["auto", "exports", "packets"]
"""What captures are of."""


@dataclass(slots=True)
class Summary:
    """What a capture held."""

    file: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMMED, 0))
    errors: dict[str, int] = field(default_factory=dict)
    not_udp: int = 0
    """Packets of a capture that are no UDP datagrams: not damaged, but not exports either."""
    not_ip: int = 0
    """Packets of a capture of packets that are in no flow."""
    buffered: dict[str, int] = field(default_factory=lambda: {"held": 0, "replayed": 0, "expired": 0})
    exporters: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As it is printed."""
        return {
            "file": self.file,
            **self.counts,
            "errors": self.errors,
            "buffered": self.buffered,
            "exporters": self.exporters,
        }


def total(summaries: Iterable[Summary]) -> Summary:
    """The same over all captures."""
    out = Summary("")
    for one in summaries:
        for mine, more in ((out.counts, one.counts), (out.errors, one.errors), (out.buffered, one.buffered)):
            for name, count in more.items():
                mine[name] = mine.get(name, 0) + count
        out.not_udp += one.not_udp
        out.not_ip += one.not_ip
        out.exporters = sorted({*out.exporters, *one.exporters})
    return out


def captured(paths: Sequence[Path], *, loop: bool = False, begin: Callable[[], None]) -> Iterator[Captured]:
    """Every datagram of these captures, one file after the other; `begin` is called before each, for its time.

    With `loop` they begin anew at the end, as long as there are any.
    """
    found = True
    while found:
        found = False
        for capture in captures(paths):
            begin()
            for part in capture.datagrams(chunk=_REAL_CHUNK):
                found = True
                addresses = zip(*part.exporter.tolist(), part.port.tolist(), strict=True)
                for i, (sender, at_ns) in enumerate(zip(addresses, part.received_ns.tolist(), strict=True)):
                    yield Captured(sender, at_ns, part.payload(i))
        if not loop:
            return


class Pace:
    """Waits so that capture time passes at `factor` times the speed of the clock; 0 does not wait."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._began: tuple[float, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Pace:
        """`max`, `real` or a factor such as `10x`."""
        if text in ("max", "real"):
            return cls(0 if text == "max" else 1)
        try:
            factor = float(text.removesuffix("x"))
        except ValueError:
            factor = 0
        if not 0 < factor < 1e9:
            raise ConfigError("--speed", f"{text!r} is none; write max, real, or a factor such as 10x")
        return cls(factor)

    def begin(self) -> None:
        """The next moment is the first of a capture."""
        self._began = None

    def wait(self, at_ns: int) -> None:
        """Until it is time for what was captured at this moment."""
        if not self.factor:
            return
        now = time.perf_counter()
        if self._began is None:
            self._began = (now, at_ns)
        due = self._began[0] + (at_ns - self._began[1]) / SECOND / self.factor
        if due > now:
            time.sleep(due - now)


class Replay:
    """Replays captures one after the other; each begins with an empty template store.

    A capture of packets is told from one of exports by what is in it, unless `form` says. `metering`
    and `packet_rate` (one packet in so many was captured) are for the flows of the packets; `note` is told
    which captures were taken for such.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        pace: Pace,
        overrides: Overrides | None = None,
        form: Form = "auto",
        metering: Metering | None = None,
        packet_rate: float = 1.0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._captures = captures(paths)
        self._form = form
        self._metering = metering
        self._packet_rate = packet_rate
        self._note = note
        self._pace = pace
        self._overrides = overrides
        self.progress: Callable[[int], None] | None = None
        self.summaries: list[Summary] = []

    @property
    def total_bytes(self) -> int:
        """Size of all files, for a progress bar."""
        return sum(capture.size for capture in self._captures)

    def total(self) -> Summary:
        """The same over all captures."""
        return total(self.summaries)

    def document(self) -> dict[str, Any]:
        """What was in each capture and in all, as it is printed."""
        everything = {name: value for name, value in self.total().plain().items() if name != "file"}
        return {"files": [summary.plain() for summary in self.summaries], "total": everything}

    def raw(self, out: BinaryIO | None) -> None:
        """Every decoded record, as exported, in its order; `out` None only counts."""
        for capture in self._captures:
            for batch in self._decode(capture, ordered=out is not None):
                if out is not None:
                    out.write(json_lines(batch))

    def rows(self, out: BinaryIO, config: Config) -> None:
        """What `flowagent run` would forward: de-duplicated, aggregated by window, sampled."""
        out.writelines(json_lines(rows) for rows in self._staged(config))

    def history(self, config: Config) -> History:
        """What `flowagent run` would know at the end, of captures that follow one another in time."""
        history = History(config.history, config.window, np.random.default_rng(0))
        for _ in self._staged(config, history):
            pass
        return history

    def _staged(self, config: Config, history: History | None = None) -> Iterator[Batch]:
        """Every batch that the stages let out; the history gets what they remember."""
        for capture in self._captures:
            stages = Stages(config, Outcomes(), Context("replay"), history)
            now_ns = 0
            for batch in _by_window(self._decode(capture, ordered=False), round(config.window.seconds * SECOND)):
                now_ns = int(batch["received_ns"].max())
                yield stages.tick(now_ns)
                yield stages.process(batch, now_ns)
            yield stages.tick(now_ns, final=True)
            stages.history.seal(now_ns, final=True)

    def _decode(self, capture: Capture, *, ordered: bool) -> Iterator[Batch]:
        summary = Summary(capture.name)
        self.summaries.append(summary)
        is_packets = self._form == "packets" or (self._form == "auto" and capture.holds_packets())
        if is_packets and self._form == "auto":
            self._note(
                f"{capture.name}: no exports in it, so its packets are counted into flows; --as exports does not"
            )
        for batch in self._metered(capture, summary) if is_packets else self._decoded(capture, summary, ordered):
            summary.counts["bytes"] += batch.total("bytes")
            summary.counts["packets"] += batch.total("packets")
            if len(batch):
                yield batch

    def _decoded(self, capture: Capture, summary: Summary, ordered: bool) -> Iterator[Batch]:
        decoder = Decoder(ordered=ordered, overrides=self._overrides)
        for datagrams in self._paced(capture):
            summary.exporters = sorted({*summary.exporters, *_exporters(datagrams.exporter)})
            yield decoder.feed(datagrams)
        decoder.close()
        _fill(summary, decoder, capture)

    def _metered(self, capture: Capture, summary: Summary) -> Iterator[Batch]:
        before = self._before()
        self._pace.begin()
        skipped: Counter[str] = Counter()
        for path in capture.paths:
            for batch in read_flows(
                path, self._metering, sampling_rate=self._packet_rate, skipped=skipped,
                progress=lambda read: self._report(before + read),
            ):  # fmt: skip
                self._pace.wait(int(batch["received_ns"][-1]))
                summary.counts["records"] += len(batch)
                summary.exporters = sorted({*summary.exporters, *_exporters(batch["exporter"][:, :1])})
                yield batch
        summary.not_ip = skipped.pop("not_ip", 0)
        summary.errors = dict(sorted(skipped.items()))

    def _paced(self, capture: Capture) -> Iterator[Datagrams]:
        before = self._before()
        self._pace.begin()
        for datagrams in capture.datagrams(progress=lambda read: self._report(before + read)):
            if not self._pace.factor:
                yield datagrams
                continue
            for start in range(0, len(datagrams), _REAL_CHUNK):
                part = datagrams.part(start, start + _REAL_CHUNK)
                self._pace.wait(int(part.received_ns[0]))
                yield part

    def _before(self) -> int:
        """Bytes of the captures before the one under way."""
        return sum(done.size for done in self._captures[: len(self.summaries) - 1])

    def _report(self, read: int) -> None:
        if self.progress is not None:
            self.progress(read)


def _by_window(batches: Iterable[Batch], every_ns: int) -> Iterator[Batch]:
    """Parts of which each lies within one window, however many datagrams were decoded at once."""
    for batch in batches:
        if not every_ns:
            yield batch
            continue
        number = batch["received_ns"] // every_ns
        for n in np.unique(number):
            yield batch.take(number == n)


def _exporters(words: Array) -> set[str]:
    return {address_text(high, low) for high, low in set(zip(*words.tolist(), strict=True))}


def _fill(summary: Summary, decoder: Decoder, capture: Capture) -> None:
    stats = decoder.stats
    summary.counts |= {
        "datagrams": sum(stats.datagrams.values()),
        "records": sum(stats.records.values()),
        "templates": stats.templates,
        "options_templates": stats.options_templates,
        "options_records": stats.options_records,
        "lost_records": sum(decoder.exporters.lost_records(final=True).values()),
    }
    for (_, reason), count in sorted(stats.errors.items()):
        summary.errors[reason] = summary.errors.get(reason, 0) + count
    for reason, count in sorted(capture.skipped.items()):
        if reason == "not_udp":
            summary.not_udp = count
        else:
            summary.errors[reason] = summary.errors.get(reason, 0) + count
    summary.buffered = {"held": stats.held, "replayed": stats.replayed, "expired": stats.expired}
