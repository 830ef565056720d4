"""The command line.

Data goes to stdout, everything else to stderr. Exit 0: ok, 1: the input had
errors that cost records (with --strict), 2: usage or configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, NoReturn

import msgspec
import typer

from flowagent import __version__, log
from flowagent.errors import ConfigError
from flowagent.generate.settings import Protocol
from flowagent.ovs_cli import app as ovs_app

if TYPE_CHECKING:
    from flowagent.agent import Agent
    from flowagent.config import Config
    from flowagent.replay import Replay

Form = Literal["auto", "exports", "packets"]

app = typer.Typer(name="flowagent", help="Collect flow records: IPFIX and NetFlow in, exact metrics and flows out.",
                  no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)  # fmt: skip
config_app = typer.Typer(help="Look at and check the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(ovs_app, name="ovs")

ConfigOption = Annotated[
    Path | None, typer.Option("-c", "--config", metavar="FILE", help="Configuration (YAML); default: none is needed.")
]
LogOption = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")]


def main() -> NoReturn:
    """Entry point."""
    try:
        app()
    except ConfigError as error:
        fail(str(error))
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            fail(str(error))
        # The reader of stdout went away: no error, but nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def fail(message: str) -> NoReturn:
    """Say what is wrong and exit with 2."""
    sys.stderr.write(f"flowagent: {message}\n")
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(*, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(config: ConfigOption = None, log_level: LogOption = "info") -> None:
    """Run the agent until SIGTERM; SIGHUP reloads the configuration."""
    _run(config, log_level, demo=False)


@app.command()
def demo(
    config: ConfigOption = None,
    rate: Annotated[float, typer.Option(help="Flow records a second to send.")] = 2000,
    log_level: LogOption = "warning",
) -> None:
    """Run the agent and feed it synthetic flows through its own UDP port."""
    _run(config, log_level, demo=True, rate=rate)


def _run(path: Path | None, log_level: str, *, demo: bool, rate: float = 0) -> None:
    from flowagent.agent import Agent
    from flowagent.config import load

    log.set_up(log_level)
    agent = Agent(load(path))

    async def beside(agent: Agent, stop: asyncio.Event) -> None:
        ports = [port for source in agent.pipeline.sources.values() for port in getattr(source, "ports", [])]
        _greet(agent, ports)
        if demo:
            await _feed(ports, rate, stop)

    async def program() -> None:
        await agent.run(asyncio.Event(), config_path=path, beside=beside)

    asyncio.run(program())


def _greet(agent: Agent, ports: list[int]) -> None:
    if agent.server.address is not None:
        sys.stderr.write(f"flowagent {__version__}: open {agent.server.address} (metrics at /metrics)\n")
    if ports:
        sys.stderr.write(f"export IPFIX, NetFlow or sFlow to UDP port {', '.join(map(str, ports))} of this host\n")
    sys.stderr.flush()


async def _feed(ports: list[int], rate: float, stop: asyncio.Event) -> None:
    from flowagent.clock import SystemClock
    from flowagent.generate import Exporter, Settings

    if not ports:
        raise ConfigError("ingest", "has no udp source; the demo needs one to send to")
    protocols: tuple[Protocol, ...] = ("netflow5", "netflow9", "ipfix")
    exporters = [
        Exporter(
            Settings(target=f"127.0.0.1:{ports[i % len(ports)]}", protocol=protocol, rate=rate / 3, seed=i),
            SystemClock(),
        )
        for i, protocol in enumerate(protocols)
    ]
    async with asyncio.TaskGroup() as group:
        for exporter in exporters:
            group.create_task(exporter.run(stop), name="demo")


@app.command()
def replay(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            help="Captures (pcap, pcapng, also .gz and .zst) of exports or of packets, "
            "or files that hold one datagram's payload.",
        ),
    ],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Print every decoded record as exported.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Print one JSON object that sums up each file.")] = False,
    speed: Annotated[str, typer.Option(help="max, real, or a factor such as 10x.")] = "max",
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Where rows go; - is stdout.")] = "-",
    form: Annotated[
        Form,
        typer.Option("--as", help="What captures are of; auto looks for exports in their first packets."),
    ] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when input had errors that cost records.")] = False,
    config: ConfigOption = None,
) -> None:
    """Read captured exports or packets and print their flows as lines of JSON."""
    from flowagent.config import load

    if summary and raw and output == "-":
        fail("--raw and --summary would both write to stdout; give the rows a file with -o")
    log.set_up("info")
    settings = load(config)
    job = _replay(files, settings, speed, form)
    with (
        _progress(job.total_bytes) as job.progress,
        _rows_out(output, wanted=not summary or raw or output != "-") as out,
    ):
        if raw or out is None:
            job.raw(out)
        else:
            job.rows(out, settings)
    if summary:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(job.document()), indent=1) + b"\n")
    sys.stdout.flush()
    everything = job.total()
    for count, what in ((everything.not_udp, "UDP"), (everything.not_ip, "IP")):
        if count:
            sys.stderr.write(f"{count} packets are not {what} and were left out\n")
    if strict and (everything.errors or everything.buffered["expired"]):
        sys.exit(1)


def _replay(files: list[Path], settings: Config, speed: str, form: Form) -> Replay:
    """As the sources of the configuration would have read this."""
    from flowagent.ingest.meter import Metering
    from flowagent.ingest.rates import Overrides
    from flowagent.replay import Pace, Replay

    sources = [kind.settings for kind in settings.ingest]
    rates = next((getattr(k.settings, "sampling_rates", {}) for k in settings.ingest if k.type == "udp"), {})
    metering = next((s for s in sources if isinstance(s, Metering)), Metering())
    return Replay(
        files,
        pace=Pace.parse(speed),
        overrides=Overrides(rates),
        form=form,
        metering=metering,
        packet_rate=getattr(metering, "sampling_rate", 1),
        note=_say,
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@app.command()
def estimate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="Exported rows: lines of JSON, also .gz and .zst, or Parquet; - is stdin."
        ),
    ],
    *,
    by: Annotated[str, typer.Option(metavar="COLUMNS", help="Columns that make groups: src_addr,dst_port.")] = "",
    measure: Annotated[str, typer.Option(help="bytes, packets, records, flows (rows) or any summed column.")] = "bytes",
    where: Annotated[str | None, typer.Option(metavar="FILTER", help="Rows to take: proto == tcp.")] = None,
    top: Annotated[int, typer.Option(help="Groups to show, the largest; 0 for all.")] = 20,
    confidence: Annotated[float, typer.Option(help="Probability with which an interval holds the true total.")] = 0.95,
    form: Annotated[Literal["table", "json", "csv"], typer.Option("--format", help="table, json or csv.")] = "table",
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when input had errors that cost rows.")] = False,
) -> None:
    """Tell totals, and how far off they may be, from rows that were forwarded."""
    from flowagent import estimates

    query = estimates.Query.parse(by, measure, where, top, confidence)
    problems = estimates.Problems(lambda what: sys.stderr.write(f"{what}\n"))
    with _progress(estimates.size_of(files)) as progress:
        answer = estimates.read(files, query, problems, progress)
    estimates.write(answer, form, sys.stdout)
    sys.stdout.flush()
    for note in answer.notes:
        sys.stderr.write(f"note: {note}\n")
    if strict and problems.count:
        sys.exit(1)


@contextlib.contextmanager
def _rows_out(output: str, *, wanted: bool) -> Iterator[BinaryIO | None]:
    if not wanted:
        yield None
    elif output == "-":
        yield sys.stdout.buffer
    else:
        try:
            file = Path(output).open("wb")  # noqa: SIM115
        except OSError as error:
            raise ConfigError("--output", f"cannot write {output}: {error.strerror}") from error
        with file:
            yield file


@contextlib.contextmanager
def _progress(size: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """A progress bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("replay", total=size)
        yield lambda read: bar.update(task, completed=read)


@app.command()
def generate(
    target: Annotated[str, typer.Option(help="Where to send: host:port.")] = "127.0.0.1:2055",
    protocol: Annotated[
        Protocol, typer.Option(help="netflow5, netflow9, ipfix, sflow5, or ovs (IPFIX as Open vSwitch sends it).")
    ] = "ipfix",
    rate: Annotated[float, typer.Option(help="Flow records a second; 0 for as many as possible.")] = 1000,
    duration: Annotated[float | None, typer.Option(help="Seconds; default: until interrupted.")] = None,
    records: Annotated[int | None, typer.Option(help="Stop after this many records.")] = None,
    keys: Annotated[int, typer.Option(help="Distinct 5-tuples.")] = 10_000,
    sampling_rate: Annotated[int, typer.Option(help="Announce that one packet in N is sampled.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed sends the same flows.")] = 1,
) -> None:
    """Export synthetic flows: Zipf keys, heavy-tailed sizes. Prints what was sent as one JSON object."""
    from flowagent.clock import SystemClock
    from flowagent.generate import Exporter, Settings

    settings = Settings(target=target, protocol=protocol, rate=rate, keys=keys, seed=seed, sampling_rate=sampling_rate)
    exporter = Exporter(settings, SystemClock())
    with contextlib.suppress(KeyboardInterrupt):
        exporter.send(duration=duration, records=records)
    sys.stdout.buffer.write(msgspec.json.encode(exporter.sent) + b"\n")


@config_app.command("check")
def config_check(config: ConfigOption = None) -> None:
    """Build everything the configuration names, start nothing; exit 2 with the reason where that fails."""
    from flowagent.agent import Agent
    from flowagent.config import load

    Agent(load(config))
    sys.stderr.write("the configuration is right\n")


@config_app.command("show")
def config_show(config: ConfigOption = None) -> None:
    """Print the configuration with every default filled in."""
    import yaml

    from flowagent.config import load, plain

    sys.stdout.write(yaml.safe_dump(plain(load(config)), sort_keys=False))


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the configuration."""
    from flowagent.config import json_schema

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(json_schema()), indent=1) + b"\n")


@config_app.command("example")
def config_example() -> None:
    """Print an example to start from."""
    from flowagent.config import EXAMPLE

    sys.stdout.write(EXAMPLE)
