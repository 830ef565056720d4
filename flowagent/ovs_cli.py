"""The commands `flowagent ovs …`: make Open vSwitch export to an agent, take that back, show what it exports."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from flowagent import ovs, ovsdb
from flowagent.errors import ConfigError
from flowagent.ovs import TABLES, TARGETS, Bridge, Export, Protocol

app = typer.Typer(help="Make Open vSwitch export to an agent.", no_args_is_help=True)
_T = TypeVar("_T")
_DbOption = Annotated[str, typer.Option("--db", metavar="REMOTE", help="OVSDB: unix:PATH or tcp:HOST:PORT.")]
_BridgeArgument = Annotated[str, typer.Argument(metavar="BRIDGE", help="Name of the bridge, such as br-int.")]


@app.command()
def attach(
    bridge: _BridgeArgument,
    *,
    protocol: Annotated[Protocol, typer.Option(help="ipfix, sflow or netflow.")] = "ipfix",
    target: Annotated[
        str | None, typer.Option(help=f"The agent's address and port; default: {TARGETS['ipfix']} for ipfix.")
    ] = None,
    sampling: Annotated[
        int | None, typer.Option(help="Look at one packet in this many; default: Open vSwitch's own, 400.")
    ] = None,
    cache_active_timeout: Annotated[
        int, typer.Option(help="Seconds in which packets of a flow make one record; 0 for a record each.")
    ] = 10,
    template_interval: Annotated[int, typer.Option(help="Seconds between IPFIX templates (Open vSwitch 3.2).")] = 60,
    domain: Annotated[
        int | None, typer.Option(help="IPFIX observation domain, by which bridges can be told apart.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what somebody else configured.")] = False,
    db: _DbOption = ovsdb.DEFAULT,
) -> None:
    """Let a bridge export to the agent; done again, it changes the settings."""
    export = Export(protocol, target, sampling, cache_active_timeout, template_interval, domain)
    done = _run(ovs.attach(db, bridge, export, replace=replace))
    sys.stderr.write(f"{bridge}: {protocol} to {export.to} {done}\n")


@app.command()
def detach(
    bridge: _BridgeArgument,
    *,
    protocol: Annotated[Protocol | None, typer.Option(help="ipfix, sflow or netflow; default: each of them.")] = None,
    db: _DbOption = ovsdb.DEFAULT,
) -> None:
    """Take back what `attach` did; what was configured before comes back."""
    done = _run(ovs.detach(db, bridge, tuple(TABLES) if protocol is None else (protocol,)))
    for one, how in done.items():
        sys.stderr.write(f"{bridge}: {one} {how}\n")
    if not done:
        sys.stderr.write(f"{bridge}: nothing is attached\n")


@app.command()
def status(
    bridge: Annotated[str | None, typer.Argument(metavar="[BRIDGE]", help="Default: all bridges.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    db: _DbOption = ovsdb.DEFAULT,
) -> None:
    """Show what bridges export, where to, and one packet in how many."""
    bridges = _run(ovs.sampling_of(db, bridge))
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(list(bridges.values())), indent=1) + b"\n")
        sys.stdout.flush()
        return
    cells = [line for one in bridges.values() for line in _lines(one)]
    if cells:
        head = ("bridge", "protocol", "targets", "one in", "domain", "by")
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        for line in (head, *cells):
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            sys.stdout.write(text.rstrip() + "\n")
    for note in _notes(bridges):
        sys.stderr.write(f"note: {note}\n")


def _lines(bridge: Bridge) -> Iterator[tuple[str, ...]]:
    rates = {"ipfix": str(bridge.ipfix), "sflow": str(bridge.sflow), "netflow": "1"}
    for protocol, export in bridge.exports.items():
        who = "flowagent" if export.ours else "others"
        domain = str(bridge.obs_domain_id) if protocol == "ipfix" else ""
        replaced = " (replaced others)" if export.replaced else ""
        yield bridge.name, protocol, ",".join(export.targets), rates[protocol], domain, who + replaced
    if not bridge.exports:
        yield bridge.name, "", "", "", "", ""


def _notes(bridges: dict[str, Bridge]) -> Iterator[str]:
    domains: dict[int, list[str]] = {}
    for bridge in bridges.values():
        if bridge.ipfix is not None:
            domains.setdefault(bridge.obs_domain_id, []).append(bridge.name)
        if bridge.ipfix is not None and not bridge.input_sampling:
            yield f"{bridge.name}: packets are reported as they go out only, and those into tunnels not at all"
        if bridge.by_flows:
            yield f"{bridge.name}: flows may sample, too (OpenFlow); OVSDB does not know with which probability"
    for domain, names in domains.items():
        if len(names) > 1:
            yield f"{', '.join(names)} export as domain {domain} and look like one; attach them with --domain"


def _run(job: Coroutine[Any, Any, _T]) -> _T:
    try:
        return asyncio.run(job)
    except ovsdb.OvsdbError as error:
        raise ConfigError("ovs", str(error)) from error
