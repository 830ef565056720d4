"""The commands `flowagent top` and `flowagent render`: the traffic of an agent, or of files, for people to look at."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from flowagent.errors import ConfigError
from flowagent.sections import parse_duration

DEFAULT_URL = "http://127.0.0.1:8077"
UrlOption = Annotated[str, typer.Option("--url", envvar="FLOWAGENT_URL", help="Where the agent is.")]
TokenOption = Annotated[Path | None, typer.Option("--token-file", metavar="FILE", help="File with the bearer token.")]
CaOption = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="Certificates to trust for https; default: the system's.")
]
MeasureOption = Annotated[str, typer.Option(help="bytes, packets, flows, dropped_bytes or dropped_packets.")]
FilterOption = Annotated[str, typer.Option("--filter", metavar="FILTER", help="What to take: proto == tcp.")]


def top(
    *,
    url: UrlOption = DEFAULT_URL,
    token_file: TokenOption = None,
    ca: CaOption = None,
    dimensions: Annotated[
        str, typer.Option(metavar="COLUMNS", help="Up to four columns: src_addr,dst_port; default: by what is known.")
    ] = "",
    measure: MeasureOption = "bytes",
    filter_: FilterOption = "",
    rows: Annotated[int, typer.Option("-n", "--top", min=1, max=2000, help="Rows to show, the largest.")] = 20,
    over: Annotated[str, typer.Option(help="The time that rates are of, such as 1m.")] = "1m",
    every: Annotated[str, typer.Option(help="How often to ask.")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Print a table and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print the API's answer.")] = False,
) -> None:
    """Show who talks most, live: d dimensions, m measure, s sort, f filter, p pause, q quit."""
    from flowagent import top as show
    from flowagent.client import Access, Client, Unanswered

    if measure not in show.MEASURES:
        raise ConfigError("--measure", f"{measure!r} is none; one of: {', '.join(show.MEASURES)}")
    if as_json and not once:
        raise ConfigError("--json", "goes with --once")
    parse_duration(over, "--over")
    seconds = parse_duration(every, "--every")
    if not 0.5 <= seconds <= 3600:
        raise ConfigError("--every", f"{every!r} is out of range; choose from 500ms to 1h")
    columns = tuple(name.strip() for name in dimensions.split(",") if name.strip())
    ask = show.Ask(columns, measure, filter_, rows, over)
    client = Client(Access(url, token_file, ca))
    try:
        if once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            asyncio.run(show.once(client, ask, sys.stdout, as_json=as_json))
        else:
            asyncio.run(show.live(client, ask, seconds, sys.stdout))
    except Unanswered as error:
        raise ConfigError("" if not error.path else f"--{error.path}", str(error)) from error
    sys.stdout.flush()
