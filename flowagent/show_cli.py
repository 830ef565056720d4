"""The commands `flowagent top` and `flowagent render`: the traffic of an agent, or of files, for people to look at."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

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


def _tell(what: str) -> None:
    sys.stderr.write(f"{what}\n")


def render(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="sankey, chord or timeline.")],
    *,
    sources: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILE|URL", help="An agent, or captures, or exported rows; may be repeated."),
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help=".svg, .png or .html; - is SVG.")] = "-",
    dimensions: Annotated[str, typer.Option(metavar="COLUMNS", help="Up to four columns; a chord has two.")] = "",
    measure: MeasureOption = "bytes",
    filter_: FilterOption = "",
    rows: Annotated[int, typer.Option("--top", min=1, max=100, help="Values to show, the largest.")] = 12,
    since: Annotated[str, typer.Option(help="Unix time, or as -15m before the end.")] = "",
    until: Annotated[str, typer.Option(help="Unix time, or as -5m before the end.")] = "",
    step: Annotated[str, typer.Option(help="Of a timeline, such as 10s.")] = "",
    theme: Annotated[Literal["light", "dark"], typer.Option(help="light or dark.")] = "light",
    title: Annotated[str, typer.Option(help="Instead of the one that says what is shown.")] = "",
    width: Annotated[int | None, typer.Option(min=400, max=4000, help="Of the picture; default: as it needs.")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", metavar="FILE", help="For captures.")] = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
) -> None:
    """Draw a picture for a report: a Sankey or chord diagram or a timeline, with its errors."""
    from flowagent import render as job
    from flowagent.client import Access
    from flowagent.config import load
    from flowagent.pictures.frame import Style
    from flowagent.pictures.theme import THEMES

    chosen = next((one for one in job.KINDS if one == kind), None)
    if chosen is None:
        raise ConfigError("KIND", f"{kind!r} is none; one of: {', '.join(job.KINDS)}")
    ask = job.Ask(chosen, dimensions, measure, filter_, rows, since, until, step)
    named = sources or [DEFAULT_URL]
    urls = [one for one in named if "://" in one]
    if urls and len(named) > 1:
        raise ConfigError("--from", "one agent, or any number of files")
    suffix = ".svg" if output == "-" else Path(output).suffix.lower()
    if urls:
        answer = asyncio.run(job.from_agent(Access(urls[0], token_file, ca), ask))
    else:
        answer = job.from_files([Path(one) for one in named], ask, load(config), _tell)
    style = Style(THEMES[theme], title, width or job.width(answer))
    drawn = job.picture(answer, chosen, style, suffix)
    if output == "-":
        sys.stdout.buffer.write(drawn)
        sys.stdout.flush()
    else:
        Path(output).write_bytes(drawn)
