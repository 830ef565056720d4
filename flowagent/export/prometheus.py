"""The Prometheus exposition of an agent's metrics.

Text has classic histograms: counts, rounded, of values up to 1, 4, 16, ... 2^40.
Who asks for protobuf gets native ones beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from flowagent.metrics import Distribution, Metrics

EXPONENTS = range(0, 41, 2)
"""Classic buckets end at 2 to the power of these: 21 bounds from one packet to a tebibyte, each four times the last."""
_MAKE = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
_PROTOBUF = "application/vnd.google.protobuf"
_PROTOBUF_PARAMETERS = {"proto": "io.prometheus.client.MetricFamily", "encoding": "delimited"}
_TEXT = {"text/plain", "application/openmetrics-text", "text/*", "application/*", "*/*"}


class _Bridge(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        for family in self._metrics.collect():
            metric: Any = _MAKE[family.kind](family.name, family.help, labels=family.labels)
            for labels, value in family.samples.items():
                if isinstance(value, Distribution):
                    metric.add_metric(labels, _classic(value), value.sum)
                else:
                    metric.add_metric(labels, value)
            yield metric


class Exposition:
    """Prints what a `Metrics` collects, in the format the scraper asks for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Bridge(metrics))

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for an Accept header."""
        if _prefers_protobuf(accept):
            # Only now: an agent that is scraped in text does without the memory that protobuf takes.
            from flowagent.export import prometheus_protobuf

            return prometheus_protobuf.encode(self._metrics.collect(), EXPONENTS), prometheus_protobuf.CONTENT_TYPE
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _classic(value: Distribution) -> list[tuple[str, float]]:
    """Upper bounds and cumulative counts, which OpenMetrics wants whole."""
    counts = [*value.cumulative(EXPONENTS), value.count]
    return list(zip(_BOUNDS, map(round, counts), strict=True))


def _bound(exponent: int) -> str:
    """A power of two as Prometheus itself writes it into `le`, so that the series is one whatever the format."""
    value = 1 << exponent
    if value < 1_000_000:
        return f"{value}.0"
    mantissa, power = f"{value:.16e}".split("e")
    return f"{mantissa.rstrip('0')}e{power}"


_BOUNDS = [*map(_bound, EXPONENTS), "+Inf"]


def _prefers_protobuf(accept: str) -> bool:
    """Whether protobuf has the highest q of all formats there are (RFC 9110, section 12.5.1), or is first of equals."""
    highest, preferred = 0.0, False
    for media_range in accept.split(","):
        name, *rest = (part.strip() for part in media_range.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
        protobuf = name.lower() == _PROTOBUF and parameters.items() >= _PROTOBUF_PARAMETERS.items()
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            continue
        if quality > highest and (protobuf or name.lower() in _TEXT):
            highest, preferred = quality, protobuf
    return preferred
