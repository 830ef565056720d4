"""Filters: expressions over the columns of drawn records."""

from benchmarks.flows import Records
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.addresses import address_text
from flowagent.batch import Batch
from flowagent.filters import Filter, parse_filter

ROWS = 20_000
EXPRESSIONS = {
    "one port": "dst_port == 443",
    "either port": "port in {53, 443}",
    "ten ports and a range": "dst_port in {22, 25, 53, 80, 110, 143, 443, 993, 995, 3306, 8000-8999}",
    "one prefix": "src_addr in 10.0.0.0/8",
    "either address, IPv4 and IPv6": "addr in {10.0.0.0/8, 192.168.0.0/16, 2001:db8::/32}",
    "constant columns": "export_protocol == ipfix and exporter in 127.0.0.0/8",
    "constant and false, then the rest": "export_protocol == netflow5 and addr in 10.0.0.0/8",
    "flags": "proto == tcp and tcp_flags has syn and not tcp_flags has ack",
    "eight conditions": (
        "(proto == tcp or proto == udp) and bytes > 1k and packets < 1M and not in_if in {1, 2}"
        " and dst_port != 22 and src_addr not in 192.168.0.0/16 and out_if is known"
    ),
}


def run(options: Options) -> Table:
    table = Table(f"Filters over batches of {ROWS:,} rows", calibration_ms=[calibrate()])
    batch = Records().draw(ROWS)
    texts = EXPRESSIONS | {
        "20 IPv4 addresses": _hosts(batch, range(20)),
        "200 IPv4 addresses": _hosts(batch, range(200)),
        "40 IPv6 addresses": _hosts(batch, range(ROWS - 40, ROWS)),
    }
    for name, text in texts.items():
        chosen = parse_filter(text, name)
        share = int(chosen(batch).sum()) * 100 / ROWS
        table.rows.append({
            "filter": name, "matches, %": round(share, 1), "ns/row": _evaluate(chosen, batch, options.enough),
            "parse, us": _parse(text, options.enough),
        })  # fmt: skip
    return table


def _hosts(batch: Batch, rows: range) -> str:
    """A set of the source addresses of these rows."""
    texts = [address_text(int(high), int(low)) for high, low in batch["src_addr"][:, rows].T]
    return f"src_addr in {{{', '.join(texts)}}}"


def _evaluate(chosen: Filter, batch: Batch, seconds: float) -> float:
    def step(watch: Stopwatch) -> int:
        with watch:
            chosen(batch)
        return len(batch)

    return measure(step, seconds)


def _parse(text: str, seconds: float) -> float:
    def step(watch: Stopwatch) -> int:
        with watch:
            parse_filter(text, "")
        return 1

    return measure(step, seconds) / 1000
