"""Prometheus, the real programs, read classic and native histograms."""

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from live.polling import until
from live.prometheus import Prometheus

from flowagent.export.prometheus import Exposition
from flowagent.metrics import Distribution, Family, Metrics

SCHEMA = 5
WIDTH = 2 ** (2**-SCHEMA) - 1
NAME = "test_size_bytes"


class Sizes:
    """A histogram of a heavy tail of weighted sizes that grows; remembers them, to know the truth."""

    def __init__(self):
        self._rng = np.random.default_rng(7)
        self.values, self.weights = np.zeros(0), np.zeros(0)

    def grow(self, n):
        self.values = np.append(self.values, self._rng.lognormal(8, 2.5, n) * (self._rng.random(n) > 0.05))
        self.weights = np.append(self.weights, self._rng.integers(4, 40, n) / 4)

    def distribution(self):
        zero = self.values == 0
        indices = np.ceil(np.log2(self.values[~zero]) * 2**SCHEMA).astype(int)
        used, inverse = np.unique(indices, return_inverse=True)
        counts = np.bincount(inverse, self.weights[~zero], len(used))
        return Distribution(
            float(self.weights.sum()),
            float(self.values @ self.weights),
            float(self.weights[zero].sum()),
            SCHEMA,
            tuple(zip(used.tolist(), counts.tolist(), strict=True)),
        )

    def quantile(self, q):
        order = np.argsort(self.values)
        ranks = self.weights[order].cumsum()
        return self.values[order][np.searchsorted(ranks, q * ranks[-1])]


class Page:
    """Shows families on a port of its own, in the format asked for or always in one."""

    def __init__(self, accept=None):
        self.families = []
        self.content_types = set()
        metrics = Metrics()
        metrics.add(lambda: self.families)
        self.exposition = exposition = Exposition(metrics)
        content_types = self.content_types

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body, content_type = exposition.render(accept or self.headers["Accept"])
                content_types.add(content_type)
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.target = f"127.0.0.1:{self._server.server_port}"

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def show(pages, distribution, number=0):
    """A histogram and other metrics, on all pages."""
    families = [
        Family(NAME, "histogram", "Sizes.", ("exporter",), {("::1",): distribution, ("idle",): Distribution()}),
        Family("test_records", "counter", 'Records, "all" of \\ them.', ("name",), {('a"b\\c\nd',): number, ("é",): 2}),
        Family("test_octets", "counter", "Octets.", (), {(): 2**64 - 1}),
        Family("test_rows", "gauge", "Rows.", ("sink", "kind"), {("file", "x"): -2.5, ("", "y"): number}),
        Family("test_nothing", "counter", "A counter without samples.", ("name",)),
        Family("test_nothing_bytes", "histogram", "A histogram without samples.", ("name",)),
    ]
    for page in pages:
        page.families = families


@pytest.fixture
def pages():
    """One page in the format that Prometheus likes best, one in OpenMetrics."""
    made = [Page(), Page("application/openmetrics-text; version=1.0.0")]
    yield made
    for page in made:
        page.stop()


@pytest.fixture
def prometheus(pages, tmp_path):
    """Has scraped an empty histogram from both pages."""
    show(pages, Distribution())
    server = Prometheus(tmp_path / "prometheus", [page.target for page in pages], ["native-histograms"])
    try:
        server.start()
        until(lambda: scraped(server, pages, 0), "both pages are scraped")
        yield server
    finally:
        server.stop()


def scraped(prometheus, pages, count):
    """Whether this number of values has come from both pages; text has it rounded."""
    native, text = (f'{{exporter="::1",instance="{page.target}"}}' for page in pages)
    return prometheus.value(f"histogram_count({NAME}{native})") == count and prometheus.value(
        f"{NAME}_count{text}"
    ) == round(count)


@pytest.mark.service("prometheus")
def test_prometheus_computes_on_native_histograms(pages, prometheus):
    sizes = Sizes()
    for _ in range(3):
        sizes.grow(3000)
        shown = sizes.distribution()
        show(pages, shown)
        until(lambda count=shown.count: scraped(prometheus, pages, count), "both pages are scraped")
    ((native,), (text,)) = (page.content_types for page in pages)
    assert native == "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
    assert text.startswith("application/openmetrics-text")

    assert prometheus.value(f'histogram_sum({NAME}{{exporter="::1"}})') == shown.sum
    series = f'{NAME}{{exporter="::1"}}[1h]'
    assert prometheus.value(f"resets({series})") == 0
    mean = prometheus.value(f"histogram_sum(rate({series})) / histogram_count(rate({series}))")
    assert mean == pytest.approx(shown.sum / shown.count)
    for q in (0.1, 0.5, 0.9, 0.99):
        found = prometheus.value(f"histogram_quantile({q}, rate({series}))")
        assert found == pytest.approx(sizes.quantile(q), rel=WIDTH)
    # All that the classic buckets know is between which of them it is.
    classic = prometheus.value(f'histogram_quantile(0.9, rate({NAME}_bucket{{exporter="::1"}}[1h]))')
    assert sizes.quantile(0.9) / 4 < classic < sizes.quantile(0.9) * 4
    assert prometheus.value(f'histogram_count({NAME}{{exporter="idle"}})') == 0


def comparable(prometheus, page):
    """A page's series without those of its histograms, and what is known of its metrics."""
    query = f'{{instance="{page.target}",__name__=~"test_.+",__name__!~"{NAME}.*"}}'
    series = {tuple(sorted(s["metric"].items())): s["value"][1] for s in prometheus.query(query)}
    metadata = prometheus.metadata(page.target)
    # In OpenMetrics a counter's name is that of its family, and families without samples are known, too.
    shown = {name.removesuffix("_total"): about for name, about in metadata.items() if "nothing" not in name}
    instance = ("instance", page.target)
    return {tuple(pair for pair in key if pair != instance): value for key, value in series.items()}, shown


@pytest.mark.service("prometheus")
def test_other_metrics_are_the_same_in_protobuf_and_text(pages, prometheus):
    sizes = Sizes()
    sizes.grow(10)
    show(pages, sizes.distribution(), number=12345)
    until(lambda: scraped(prometheus, pages, sizes.weights.sum()), "both pages are scraped")
    protobuf, text = (comparable(prometheus, page) for page in pages)
    assert protobuf == text
    assert sorted(protobuf[0].values()) == ["-2.5", "12345", "12345", "18446744073709552000", "2"]
    assert protobuf[1][NAME] == ("histogram", "Sizes.")


@pytest.mark.service("promtool")
def test_promtool_finds_nothing_to_complain_of_in_histograms(pages):
    sizes = Sizes()
    sizes.grow(1000)
    show(pages, sizes.distribution())
    text, _ = pages[0].exposition.render("text/plain")
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
