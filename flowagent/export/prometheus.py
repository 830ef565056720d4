"""The Prometheus exposition of an agent's metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowagent.metrics import Metrics


class _Bridge(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        for family in self._metrics.collect():
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = make(family.name, family.help, labels=family.labels)
            for labels, value in family.samples.items():
                metric.add_metric(labels, value)
            yield metric


class Exposition:
    """Prints what a `Metrics` collects, in the format the scraper asks for."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Bridge(metrics))

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for an Accept header."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
