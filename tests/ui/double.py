"""A server that answers the query contract with traffic of its own, for states that a real agent seldom has.

`python double.py PORT` serves it to look at.
"""

import asyncio
import json
import math
import random
import re
import sys
from collections import defaultdict

from aiohttp import web
from ui import canned

from flowagent.clock import SystemClock
from flowagent.web import pages

STEP = 10.0
now_ns = SystemClock().now_ns
WORKLOADS = [
    ("shop", "frontend"), ("shop", "checkout"), ("shop", "cart"), ("data", "postgres"), ("data", "redis"),
    ("data", "kafka"), ("ml", "trainer"), ("ml", "serving"), ("monitoring", "prometheus"), ("kube-system", "coredns"),
    ("ingress", "gateway"), (None, None),
]  # fmt: skip
PORTS = [(443, 6), (5432, 6), (6379, 6), (53, 17), (9092, 6), (8080, 6), (9100, 6)]
COLUMNS = {
    "src_k8s_zone": ("source: availability zone of its node", "name"),
    "dst_k8s_zone": ("destination: availability zone of its node", "name"),
    "src_k8s_host_name": ("source: name of its node", "name"),
    "dst_k8s_host_name": ("destination: name of its node", "name"),
    "src_k8s_namespace": ("source: its namespace", "name"),
    "dst_k8s_namespace": ("destination: its namespace", "name"),
    "src_k8s_owner_name": ("source: name of its topmost owner", "name"),
    "dst_k8s_owner_name": ("destination: name of its topmost owner", "name"),
    "src_k8s_name": ("source: name of the pod, service or node", "name"),
    "dst_k8s_name": ("destination: name of the pod, service or node", "name"),
    "src_addr": ("source address", "address"),
    "dst_addr": ("destination address", "address"),
    "src_port": ("source transport port", "number"),
    "dst_port": ("destination transport port", "number"),
    "proto": ("IP protocol number", "number"),
    "exporter": ("address the export came from", "address"),
    "sampling_source": ("how the rate is known", "text"),
    "sampling_rate": ("one packet in this many was looked at", "number"),
}  # fmt: skip
MEASURES = {"bytes": "bytes", "packets": "packets", "flows": "flows",
            "dropped_bytes": "bytes", "dropped_packets": "packets"}  # fmt: skip


def side(prefix, index, pod):
    namespace, owner = WORKLOADS[index]
    if namespace is None:
        return {f"{prefix}_{name}": None for name in ("k8s_zone", "k8s_host_name", "k8s_namespace", "k8s_owner_name",
                "k8s_name")} | {f"{prefix}_addr": f"203.0.113.{pod + 10}"}  # fmt: skip
    return {
        f"{prefix}_k8s_zone": f"eu-{'abc'[index % 3]}",
        f"{prefix}_k8s_host_name": f"node-{index % 5 + 1}",
        f"{prefix}_k8s_namespace": namespace,
        f"{prefix}_k8s_owner_name": owner,
        f"{prefix}_k8s_name": f"{owner}-{pod}",
        f"{prefix}_addr": f"10.244.{index}.{pod + 10}",
    }


def traffic(seed=7, pairs=120):
    """Rows: a value for each column, and what each measure sums to."""
    chance = random.Random(seed)
    rows = []
    for _ in range(pairs):
        a, b = chance.randrange(len(WORKLOADS)), chance.randrange(len(WORKLOADS))
        port, proto = chance.choice(PORTS)
        volume = int(chance.paretovariate(0.7) * 40_000)
        packets = volume // 700 + 1
        rows.append({
            **side("src", a, chance.randrange(3)), **side("dst", b, chance.randrange(3)),
            "src_port": chance.randrange(32768, 60999), "dst_port": port, "proto": proto,
            "exporter": f"192.0.2.{chance.randrange(3) + 1}", "sampling_source": "ovsdb", "sampling_rate": 400.0,
            "bytes": volume, "packets": packets, "flows": packets // 9 + 1,
            "dropped_bytes": 0, "dropped_packets": 0, "phase": chance.random() * 6.28,
        })  # fmt: skip
    return rows


def condition(text):
    """What the tests' filters mean: comparisons, not (…), and."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")") and balanced(text[1:-1]):
        text = text[1:-1].strip()
    parts = split_and(text)
    if len(parts) > 1:
        tests = [condition(part) for part in parts]
        return lambda row: all(test(row) for test in tests)
    if text.startswith("not "):
        inner = condition(text[4:])
        return lambda row: not inner(row)
    match = re.fullmatch(r'(\w+) (?:(is unknown)|==? "?([^"]+)"?)', text)
    if not match or match[1] not in COLUMNS:
        raise ValueError(text)
    if match[2]:
        return lambda row: row[match[1]] is None
    return lambda row: row[match[1]] is not None and str(row[match[1]]) == match[3]


def balanced(text):
    depth = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return False
    return True


def split_and(text):
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and text.startswith(" and ", index):
            parts.append(text[start:index])
            start = index + 5
    return [*parts, text[start:]]


def label(column, value):
    if value is None:
        return {"label": "unknown", "filter": f"{column} is unknown", "unknown": True}
    if column == "proto":
        return {"label": {6: "tcp", 17: "udp"}[value], "filter": f"proto == {value}"}
    if COLUMNS[column][1] == "name":
        return {"label": str(value), "filter": f'{column} == "{value}"'}
    return {"label": str(value), "filter": f"{column} == {value}"}


class Double:
    """What it answers can be changed by its attributes."""

    def __init__(self):
        self.rows = traffic()
        self.exact = False
        self.unscaled = False
        self.token = None
        self.empty = False
        self.silent = False  # the stream stays open and says nothing more
        self.streams = 0
        self.max_streams = 8
        self.queries = []
        self.delay = 0.0

    def app(self):
        app = web.Application(middlewares=[self._guard()])
        app.on_response_prepare.append(self._harden)
        app.add_routes([
            *pages.routes(), web.get("/api/v1/query", self._query), web.get("/api/v1/stream", self._stream),
            web.get("/api/v1/columns", self._columns), web.get("/api/v1/status", self._status),
            web.get("/api/v1/exporters", self._exporters), web.get("/api/v1/policies", self._policies),
            web.get("/api/v1/policies/{name}/{window}", self._policy),
        ])  # fmt: skip
        return app

    def _guard(self):
        @web.middleware
        async def guard(request, handler):
            is_open = self.token is None or pages.is_page(request.path)
            if not is_open and request.headers.get("Authorization") != f"Bearer {self.token}":
                return web.json_response({"error": "a bearer token is needed"}, status=401)
            try:
                return await handler(request)
            except ValueError as error:
                text = request.query.get("filter", "")
                what = f"this is no filter\n  {text}\n  {' ' * text.find(str(error))}^"
                return web.json_response(
                    {"error": what, "path": "filter", "position": max(text.find(str(error)), 0)}, status=400
                )

        return guard

    @staticmethod
    async def _harden(request, response):
        response.headers["Content-Security-Policy"] = pages.POLICY

    def history(self):
        now = now_ns() / 1e9 // STEP * STEP
        if self.empty:
            return {"oldest": None, "newest": None, "windows": 0, "rows": 0, "step": STEP}
        return {"oldest": now - 3600, "newest": now, "windows": 360, "rows": 12345, "step": STEP}

    def answer(self, query):
        now = now_ns() / 1e9
        begin, end = moment(query.get("from", "-5m"), now), moment(query.get("to", str(now)), now)
        measure = query.get("measure", "bytes")
        columns = [c for c in query.get("dimensions", "").split(",") if c]
        for column in columns:
            if column not in COLUMNS:
                raise ValueError(column)
        wanted = condition(query["filter"]) if query.get("filter") else (lambda _: True)
        rows = [] if self.empty else [row for row in self.rows if wanted(row)]
        step = float(query["step"].rstrip("s")) if query.get("step") else None
        seconds = end - begin
        groups = folded(rows, columns, int(query.get("top", 20)), query.get("fold", "dimension"), measure)
        values, places = [], []
        for index in range(len(columns)):
            seen = sorted({key[index] for key in groups}, key=lambda v: (v == OTHER, str(v)))
            values.append([{"label": "Other", "other": True} if v == OTHER else label(columns[index], v) for v in seen])
            places.append({v: i for i, v in enumerate(seen)})
        times = [begin + i * step for i in range(int(seconds / step))] if step else None

        def amounts(group):
            series = None
            if times is not None:
                series = [sum(r[measure] * step / 60 * wave(r["phase"], t) for r in group) for t in times]
            total = sum(series) if series is not None else sum(r[measure] for r in group) * seconds / 60
            error = 0.0 if self.exact or not group else 1.96 * math.sqrt(sum((r[measure] * seconds / 60) ** 2 / 900
                    for r in group)) * 2  # fmt: skip
            out = {"value": float(total), "error": error}
            return out if series is None else {**out, "series": series}

        listed = [{"at": [places[i][v] for i, v in enumerate(key)], **amounts(group)} for key, group in groups.items()]
        other = {i for i, key in enumerate(groups) if all(v == OTHER for v in key) and columns}
        order = sorted(range(len(listed)), key=lambda i: (i in other, -listed[i]["value"]))
        result = {
            "from": begin, "to": end, "measure": measure, "unit": MEASURES[measure], "exact": self.exact,
            "dimensions": [
                {"column": c, "doc": COLUMNS[c][0], "values": v} for c, v in zip(columns, values, strict=True)
            ],
            "rows": [listed[i] for i in order], "total": amounts(rows), "history": self.history(),
        }  # fmt: skip
        if self.unscaled:
            result["unscaled"] = True
        return result | ({"times": times, "step": step} if times is not None else {})

    async def _query(self, request):
        self.queries.append(dict(request.query))
        await asyncio.sleep(self.delay)
        return web.json_response(self.answer(request.query))

    async def _stream(self, request):
        if self.streams >= self.max_streams:
            return web.json_response({"error": "enough streams run"}, status=503)
        self.answer(request.query)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streams += 1
        try:
            while True:
                if not self.silent:
                    data = json.dumps(self.answer(request.query))
                    await response.write(f"event: result\ndata: {data}\n\n".encode())
                await asyncio.sleep(2)
        except ConnectionError:
            return response
        finally:
            self.streams -= 1

    async def _columns(self, _):
        return web.json_response({
            "dimensions": [{"column": c, "doc": d, "kind": k} for c, (d, k) in COLUMNS.items()],
            "measures": [{"name": n, "unit": u} for n, u in MEASURES.items()], "history": self.history(),
        })  # fmt: skip

    async def _status(self, _):
        sampling = None if self.exact else canned.SAMPLING
        return web.json_response(canned.STATUS | {"history": self.history(), "sampling": sampling})

    async def _exporters(self, _):
        return web.json_response([] if self.empty else canned.exporters(now_ns()))

    async def _policies(self, _):
        return web.json_response([] if self.empty else canned.POLICIES)

    async def _policy(self, request):
        return web.json_response(canned.result(request.match_info["name"], now_ns()))


OTHER = object()


def folded(rows, columns, top, fold, measure):
    """Rows by their keys, with what is beyond `top` as OTHER."""
    if fold == "row":
        sums = defaultdict(float)
        for row in rows:
            sums[tuple(row[c] for c in columns)] += row[measure]
        kept = set(sorted(sums, key=lambda key: -sums[key])[:top])
        keys = [tuple(row[c] for c in columns) for row in rows]
        keys = [key if key in kept else (OTHER,) * len(columns) for key in keys]
    else:
        best = []
        for column in columns:
            sums = defaultdict(float)
            for row in rows:
                sums[row[column]] += row[measure]
            best.append(set(sorted(sums, key=lambda key: -sums[key])[:top]))
        keys = [tuple(row[c] if row[c] in best[i] else OTHER for i, c in enumerate(columns)) for row in rows]
    groups = defaultdict(list)
    for key, row in zip(keys, rows, strict=True):
        groups[key].append(row)
    return groups


def wave(phase, t):
    return 1 + 0.4 * math.sin(t / 90 + phase) + 0.15 * math.sin(t / 13 + 2 * phase)


def moment(text, now):
    match = re.fullmatch(r"-(\d+)([smh])", text)
    return (
        now - int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else now if text == "now" else float(text)
    )


if __name__ == "__main__":
    web.run_app(Double().app(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
