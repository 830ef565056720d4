"""A decoder's counts as metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowagent.ingest.decoder import Decoder
from flowagent.ingest.exporters import Exporters
from flowagent.metrics import Family
from flowagent.schema import EXPORT_PROTOCOLS


def decoder_families(decoder: Decoder, source: str) -> Iterable[Family]:
    """Everything a decoder counted, under its source's name."""
    stats = decoder.stats
    labels = ("source", "protocol")
    datagrams = {(source, p): stats.datagrams[p] for p in EXPORT_PROTOCOLS}
    records = {(source, p): stats.records[p] for p in EXPORT_PROTOCOLS if p != "unknown"}
    errors = {(source, protocol, reason): n for (protocol, reason), n in stats.errors.items()}
    yield Family("flowagent_ingest_datagrams", "counter", "Export datagrams received.", labels, datagrams)
    yield Family("flowagent_ingest_records", "counter", "Flow records decoded.", labels, records)
    yield Family("flowagent_ingest_errors", "counter", "Input refused, by reason.", (*labels, "reason"), errors)
    lost = "Records lost between exporter and agent, by sequence number."
    lost_records = _by_series(decoder.exporters)
    yield Family("flowagent_ingest_lost_records", "counter", lost, ("exporter",), lost_records)
    yield from _simple(source, {
        "templates": (stats.templates, "Template records received."),
        "options_templates": (stats.options_templates, "Those of them that describe options."),
        "options_records": (stats.options_records, "Options records decoded."),
        "held_sets": (stats.held, "Data sets put aside until their template comes."),
        "replayed_sets": (stats.replayed, "Data sets decoded once their template had come."),
        "expired_sets": (stats.expired, "Data sets given up without a template."),
        "template_evictions": (stats.evicted_templates, "Templates forgotten for want of room or because of age."),
        "session_evictions": (stats.evicted_sessions, "Exporter sessions forgotten for want of room."),
    })  # fmt: skip
    yield from decoder.interfaces.families(source, decoder.exporters.series)
    waiting = {(source,): len(decoder.held)}
    yield Family(
        "flowagent_ingest_waiting_sets", "gauge", "Data sets that wait for their template now.", ("source",), waiting
    )


def describe_exporters(decoder: Decoder, source: str) -> list[dict[str, Any]]:
    """One entry for each observation domain, as the API shows it."""
    lost = decoder.exporters.lost_records()
    return [
        {
            "source": source,
            "exporter": domain.address,
            "protocol": decoder.exporters.protocol(domain),
            "observation_domain": domain.key.domain,
            "templates": len(domain.templates),
            "is_ovs": any(known.template.is_ovs for known in domain.templates.values()),
            "sampling_rates": {kind if kind == "domain" else f"{kind} {n}": r for (kind, n), r in domain.rates.items()},
            "datagrams": sum(s.datagrams for s in domain.sessions.values()),
            "records": sum(s.records for s in domain.sessions.values()),
            "restarts": sum(decoder.exporters.sequence(s).restarts for s in domain.sessions.values()),
            "lost_records": lost.get(domain.address, 0),
            "last_seen_ns": domain.last_ns,
            "not_sent_packets": domain.not_sent_packets,
        }
        for domain in decoder.exporters
    ]


def _simple(source: str, counts: dict[str, tuple[int, str]]) -> Iterable[Family]:
    for name, (count, text) in counts.items():
        yield Family(f"flowagent_ingest_{name}", "counter", text, ("source",), {(source,): count})


def _by_series(exporters: Exporters) -> dict[tuple[str, ...], float]:
    samples: dict[tuple[str, ...], float] = {}
    for address, count in exporters.lost_records().items():
        name = (exporters.series(address),)
        samples[name] = samples.get(name, 0) + count
    return samples
