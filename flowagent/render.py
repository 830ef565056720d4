"""`flowagent render`: a picture for a report, of what a running agent remembers or of what files hold.

agent's HTTP API, or files -> recorded -> history  ->  Answer  ->  pictures  ->  SVG, PNG or HTML
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import msgspec

from flowagent import shown
from flowagent.client import Access, Client, Unanswered
from flowagent.config import Config
from flowagent.errors import ConfigError
from flowagent.history.query import Moment, Query
from flowagent.history.result import query as asked
from flowagent.pictures import chord, page, sankey, timeline
from flowagent.pictures.frame import Style
from flowagent.recorded import history
from flowagent.shown import Answer

Kind = Literal["sankey", "chord", "timeline"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DRAW: Mapping[Kind, Callable[[Answer, Style], str]] = {
    "sankey": sankey.draw,
    "chord": chord.draw,
    "timeline": timeline.draw,
}
FORMATS = (".svg", ".png", ".html")
NAMES, ADDRESSES = "src_k8s_namespace,dst_k8s_namespace", "src_addr,dst_addr"
_STEPS = 60
_OPTIONS = {"from": "since", "to": "until"}
_WIDTH, _WIDE = 1000.0, 1250.0


@dataclass(frozen=True)
class Ask:
    """What the picture is of; texts as on the command line, empty: a default that fits."""

    kind: Kind
    dimensions: str = ""
    measure: str = "bytes"
    filter: str = ""
    top: int = 12
    since: str = ""
    until: str = ""
    step: str = ""

    def parameters(self, dimensions: str) -> dict[str, str]:
        """Of the API's query."""
        given = {"from": self.since, "to": self.until, "filter": self.filter, "step": self.step}
        return {
            "dimensions": self.dimensions or dimensions,
            "measure": self.measure,
            "top": str(self.top),
            "fold": "row" if self.kind == "timeline" else "dimension",
            **{name: text for name, text in given.items() if text},
        }


async def from_agent(access: Access, ask: Ask) -> Answer:
    """The answer of a running agent; raises ConfigError."""
    try:
        async with Client(access) as client:
            known = await client.json("/api/v1/columns")
            columns = {dimension["column"] for dimension in known["dimensions"]}
            parameters = ask.parameters(NAMES if columns.issuperset(NAMES.split(",")) else ADDRESSES)
            if ask.kind == "timeline" and "step" not in parameters:
                parameters["step"] = _step(Query.parse(parameters))
            return shown.decode(await client.get("/api/v1/query", parameters))
    except Unanswered as error:
        raise ConfigError(option(error.path), str(error)) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError("--from", f"the agent's answer is not what it should be: {error}") from error


def _step(query: Query) -> str:
    """As many steps as can be told apart; the agent makes them longer where it has to."""
    if query.since.is_relative != query.until.is_relative:
        return "10s"
    return f"{max(1, math.ceil((query.until.seconds - query.since.seconds) / _STEPS))}s"


def from_files(paths: Sequence[Path], ask: Ask, config: Config, problem: Callable[[str], None]) -> Answer:
    """The answer from captures or exported rows; raises ConfigError and OSError."""
    parameters = ask.parameters(ADDRESSES)
    if ask.kind == "timeline" and "step" not in parameters:
        parameters["step"] = "10s"
    try:
        query = Query.parse(parameters)
        found = history(paths, query, config, problem)
        oldest = found.describe()["oldest"]
        if not ask.since and oldest is not None:
            query = query._replace(since=Moment(float(oldest), is_relative=False))
        return shown.decode(msgspec.json.encode(asked(found, query)))
    except ConfigError as error:
        raise ConfigError(option(error.path), error.problem) from error


def option(parameter: str) -> str:
    """The option that a parameter of the API comes from."""
    if not parameter or parameter.startswith("-") or not parameter.isidentifier():
        return parameter
    return f"--{_OPTIONS.get(parameter, parameter)}"


def width(answer: Answer) -> float:
    """How wide a picture is to be."""
    return _WIDE if len(answer.dimensions) > 3 else _WIDTH


def picture(answer: Answer, kind: Kind, style: Style, suffix: str) -> bytes:
    """The file's bytes; raises ConfigError."""
    if suffix not in FORMATS:
        raise ConfigError("--output", f"{suffix or 'no ending'!r} is not known; let it end in {', '.join(FORMATS)}")
    drawn = DRAW[kind](answer, style)
    if suffix == ".png":
        return page.png(drawn)
    return (page.html(answer, drawn, style) if suffix == ".html" else drawn + "\n").encode()
