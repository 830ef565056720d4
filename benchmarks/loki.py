"""Rows pushed to Loki: labels, lines, packing, compression and HTTP, to a server that throws them away."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from benchmarks.encode import default_rows, kubernetes
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.batch import Batch
from flowagent.component import Context
from flowagent.export.loki import Config, LokiSink

ROWS = 10_000
"""As many as are pushed at once by default."""
_ENOUGH_STREAMS = 50_000


def run(options: Options) -> Table:
    rows = default_rows().rows(0, ROWS)
    pods = kubernetes(rows)
    cases = [("default window", rows, {}), ("Kubernetes", pods, {})]
    if not options.quick:
        cases += [("Kubernetes", pods, {"max_streams": _ENOUGH_STREAMS}), ("default window", rows, {"format": "json"})]
    table = Table("Push to Loki", calibration_ms=[calibrate()])
    with _server() as url:
        for name, batch, settings in cases:
            size, ns = _measured(Config(url=url, **settings), batch, options.enough)
            table.rows.append({
                "rows": name, "settings": ", ".join(f"{k}: {v}" for k, v in settings.items()) or "default",
                "bytes/row": size / len(batch), "ns/row": ns, "rows/s": 1e9 / ns,
            })  # fmt: skip
    return table


def _measured(config: Config, batch: Batch, seconds: float) -> tuple[int, float]:
    """Bytes that were pushed, before compression, and nanoseconds a row."""
    sink = config.build(Context("loki"))
    with asyncio.Runner() as runner:
        runner.run(sink.__aenter__())
        try:
            size = runner.run(sink.write(batch))
            return size, measure(lambda watch: _push(sink, batch, watch, runner), seconds)
        finally:
            runner.run(sink.__aexit__(None, None, None))


def _push(sink: LokiSink, batch: Batch, watch: Stopwatch, runner: asyncio.Runner) -> int:
    fresh = Batch(batch.columns, len(batch), batch.valid)
    with watch:
        runner.run(sink.write(fresh))
    return len(batch)


@contextmanager
def _server() -> Iterator[str]:
    """A process of its own that takes every push."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(parent: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(_take, "127.0.0.1", 0, limit=1 << 22)
        parent.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            await reader.readexactly(int(fields[b"content-length"]))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
