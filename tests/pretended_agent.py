"""A double of the agent's HTTP API: says what it was told to say, and remembers what it was asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NOW = 1_760_000_000.0


def value(label, **more):
    return {"label": label, "filter": f'src_k8s_namespace = "{label}"'} | more


def query(**changes):
    """An answer: two namespaces and the rest, half of it sampled."""
    values = [value("shop"), value("data"), {"label": "unknown", "unknown": True, "filter": "x"}, OTHER]
    answer = {
        "from": NOW - 60, "to": NOW, "measure": "bytes", "unit": "bytes", "exact": False,
        "dimensions": [
            {"column": "src_k8s_namespace", "doc": "source: its namespace", "values": values},
            {"column": "dst_k8s_namespace", "doc": "destination: its namespace", "values": values},
        ],
        "rows": [
            {"at": [0, 1], "value": 60e6, "error": 6e6},
            {"at": [1, 0], "value": 30e6, "error": 0.0},
            {"at": [2, 0], "value": 1500.0, "error": 3e6},
            {"at": [3, 3], "value": 30e6 - 1500, "error": 1e6},
        ],
        "total": {"value": 120e6, "error": 7e6},
        "history": {"oldest": NOW - 600, "newest": NOW, "windows": 60, "rows": 1000, "step": 10.0},
    }  # fmt: skip
    return answer | changes


OTHER = {"label": "Other", "other": True}
COLUMNS = {
    "dimensions": [
        {"column": name, "doc": "", "kind": "name"}
        for name in ("src_k8s_namespace", "dst_k8s_namespace", "src_addr", "dst_addr", "proto", "dst_port")
    ],
    "measures": [{"name": "bytes", "unit": "bytes"}],
    "history": {"oldest": NOW - 600, "newest": NOW, "windows": 60, "rows": 1000, "step": 10.0},
}
STATUS = {
    "version": "9.9", "node": "node-a1", "uptime": 4210.0, "ready": [],
    "outcomes": [
        {"outcome": "exported", "reason": "", "records": 10},
        {"outcome": "dropped", "reason": "internal", "records": 3},
    ],
    "rates": {"records": 2310.0, "bytes": 38.7e6, "packets": 45_000.0}, "history": COLUMNS["history"],
    "sinks": [{"name": "kafka", "records": 1, "errors": 2, "failing": True}], "sampling": None,
}  # fmt: skip


class PretendedAgent:
    """Serves inside `with`, at `url`."""

    def __init__(self):
        self.answers = {"/api/v1/query": query(), "/api/v1/columns": COLUMNS, "/api/v1/status": STATUS}
        """By path: what is answered with 200, or a pair of a status and that, or a function of the parameters."""
        self.asked = []
        """(path, parameters, headers) of each request."""
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                parts = urlsplit(self.path)
                params = {name: values[0] for name, values in parse_qs(parts.query).items()}
                agent.asked.append((parts.path, params, dict(self.headers)))
                said = agent.answers.get(parts.path, (404, {"error": "there is no such thing"}))
                said = said(params) if callable(said) else said
                status, said = said if isinstance(said, tuple) else (200, said)
                body = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def queries(self):
        return [params for path, params, _ in self.asked if path == "/api/v1/query"]

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
