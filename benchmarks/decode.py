"""Decoder.feed: datagrams in, columns out."""

from typing import Any, cast

from benchmarks.flows import EXPORTS, Export
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.component import Context
from flowagent.config import parse
from flowagent.ingest.decoder import Decoder
from flowagent.ingest.udp import UdpSource
from flowagent.pipeline import Pipeline

DRAINS = (256, 1024, 4096)
"""Datagrams decoded at once."""


def run(options: Options) -> Table:
    table = Table("Decode", calibration_ms=[calibrate()])
    table.notes.append("Default columns: those that the default window and counters use; all: as `replay --raw`.")
    for name in EXPORTS:
        for drain in DRAINS[1:] if options.quick else DRAINS:
            row: dict[str, Any] = {"export": name, "records a datagram": Export(name).records_per_datagram}
            row["datagrams at once"] = drain
            for title, decoder in (("default", _default_decoder()), ("all", Decoder(ordered=True))):
                row[f"ns/record, {title} columns"] = _ns_per_record(name, decoder, drain, options.enough)
            table.rows.append(row)
    return table


def _default_decoder() -> Decoder:
    """One that was told by a default pipeline what is wanted of it."""
    (source,) = Pipeline(parse({}), Context("benchmark")).sources.values()
    return cast("UdpSource", source).decoder


def _ns_per_record(name: str, decoder: Decoder, drain: int, seconds: float) -> float:
    export = Export(name)
    for datagrams in export.templates():
        decoder.feed(datagrams)

    def step(watch: Stopwatch) -> int:
        datagrams = export.take(drain)
        with watch:
            return len(decoder.feed(datagrams))

    return measure(step, seconds)
