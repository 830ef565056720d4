"""How `flowagent top` looks: an answer of the history as a header and a table, drawn with rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowagent.shown import Answer, Row, amount, error_text, printable

Sort = Literal["value", "error", "name"]
SORTS: tuple[Sort, ...] = ("value", "error", "name")
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR, _NARROW = 24, 100
"""Columns of a bar, and of a terminal in which they have less."""
HELP = "d dimensions  m measure  s sort  r reverse  f filter  p pause  +/- rows  q quit"


@dataclass
class Look:
    """What is shown, and how."""

    sort: Sort = "value"
    is_reversed: bool = False
    is_paused: bool = False
    filter: str = ""
    prompt: str | None = None
    """What was typed into the prompt for a filter; None when it is not open."""
    problem: str = ""
    """What went wrong last."""


def ranked(answer: Answer, look: Look) -> list[Row]:
    """The rows in the order wanted; the fold and what is unknown are the last but for their own sake."""
    keys: dict[Sort, Callable[[Row], Any]] = {
        "value": lambda row: -row.value,
        "error": lambda row: -row.error,
        "name": answer.labels,
    }
    folded = [row for row in answer.rows if _is_fold(answer, row)]
    rows = [row for row in answer.rows if not _is_fold(answer, row)]
    return [*sorted(rows, key=keys[look.sort], reverse=look.is_reversed), *folded]


def _is_fold(answer: Answer, row: Row) -> bool:
    return bool(row.at) and all(answer.value(row, i).other for i in range(len(row.at)))


def table(answer: Answer, look: Look, rows: int | None = None, bars: int = _BAR) -> Table:
    """The rows, at most so many, each with its rate a second, how far off that may be, and its share; bars 0: none."""
    out = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, expand=bars > 0)
    for dimension in answer.dimensions:
        out.add_column(printable(dimension.column), overflow="ellipsis", no_wrap=True, ratio=2 if bars else None)
    if bars:
        out.add_column("", width=bars, no_wrap=True)
    for name in (f"{answer.measure}/s", "±", "share"):
        out.add_column(name, justify="right", no_wrap=True)
    largest = max((row.value for row in answer.rows), default=0.0)
    shown = ranked(answer, look)[:rows]
    for row in shown:
        cells = [_label(answer, row, i) for i in range(len(answer.dimensions))]
        if bars:
            cells.append(bar(row.value, row.error, largest, bars))
        out.add_row(*cells, *map(Text, _numbers(answer, row.value, row.error)))
    if answer.dimensions:
        out.add_section()
        names = [Text("total", "bold")] + [Text("")] * (len(answer.dimensions) - 1 + (bars > 0))
        out.add_row(*names, *(Text(text, "bold") for text in _numbers(answer, answer.total.value, answer.total.error)))
    return out


def _numbers(answer: Answer, value: float, error: float) -> tuple[str, str, str]:
    whole = answer.total.value
    share = f"{100 * value / whole:.1f} %" if whole else ""
    return amount(value / answer.seconds, answer.unit, per_second=True), error_text(value, error), share


def _label(answer: Answer, row: Row, dimension: int) -> Text:
    value = answer.value(row, dimension)
    return Text(printable(value.label), "dim italic" if value.other or value.unknown else "")


def bar(value: float, error: float, largest: float, width: int = _BAR) -> Text:
    """A bar as long as the value; its end, as far as the value may be off, is dim."""
    if largest <= 0:
        return Text("")
    # A quotient may be infinite where the largest is next to nothing.
    eighths = round(8 * width * min(max(value, 0.0) / largest, 1.0))
    sure = min(int(8 * width * min(max(value - error, 0.0) / largest, 1.0)), eighths) // 8
    blocks = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return Text.assemble((blocks[:sure], "cyan"), (blocks[sure:], "dim cyan" if error > 0 else "cyan"))


def header(answer: Answer, status: Mapping[str, Any], look: Look) -> Iterator[Text]:
    """Rates and health; how far numbers can be trusted; what is shown."""
    rates = status.get("rates") or {}
    name = f"flowagent {printable(str(status.get('version', '')))} {printable(str(status.get('node', '')))}".rstrip()
    line = Text.assemble((name, "bold"), "  up " + duration(float(status.get("uptime", 0))))
    for measure, unit in (("records", "records"), ("bytes", "bytes"), ("packets", "packets")):
        if rates.get(measure) is not None:
            line.append(f"  {amount(float(rates[measure]), unit, per_second=True)}")
    yield line
    yield Text.assemble(*_health(status), "   ", (answer.honesty, "yellow" if not answer.exact else "green"))
    if answer.history.newest is None:
        yield Text("nothing came yet: export flows to the agent, and the first window will show", "yellow")
    by = ", ".join(printable(d.column) for d in answer.dimensions) or "all"
    where = f" where {printable(look.filter)}" if look.filter else ""
    order = "" if look.sort == "value" and not look.is_reversed else f", by {look.sort}{' reversed' * look.is_reversed}"
    yield Text(f"{answer.measure} by {by}{where}, last {duration(answer.seconds)}{order}", "bold cyan")


def _health(status: Mapping[str, Any]) -> Iterator[tuple[str, str] | str]:
    problems = [printable(str(one)) for one in status.get("ready") or []]
    yield ("not ready: " + "; ".join(problems), "red") if problems else ("ready", "green")
    dropped = [one for one in status.get("outcomes") or [] if one.get("outcome") == "dropped" and one.get("records")]
    if dropped:
        told = ", ".join(f"{printable(str(one['reason']))} {amount(one['records'], '')}" for one in dropped[:4])
        yield "  "
        yield (f"dropped: {told}", "red")
    failing = [printable(str(sink["name"])) for sink in status.get("sinks") or [] if sink.get("failing")]
    if failing:
        yield "  "
        yield (f"failing: {', '.join(failing)}", "red")


def duration(seconds: float) -> str:
    """Two units at most: 45s, 5m, 1h 20m, 3d 4h."""
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count or first == 3)


def screen(answer: Answer, status: Mapping[str, Any], look: Look, width: int, height: int) -> RenderableType:
    """All of it, for a terminal of this size."""
    head = list(header(answer, status, look))
    foot = list(footer(look))
    # The table has a heading, a rule below it, a rule above the total, and the total.
    room = max(height - len(head) - len(foot) - 4, 1)
    return Group(*_cut(head), table(answer, look, room, _BAR if width >= _NARROW else _BAR // 3), *_cut(foot))


def footer(look: Look) -> Iterator[Text]:
    """The keys, or the prompt, and what went wrong."""
    if look.problem:
        yield Text(printable(look.problem.splitlines()[0]), "red")
    if look.prompt is not None:
        yield Text.assemble(
            ("filter: ", "bold"), printable(look.prompt), ("▏", "blink"), ("  enter takes it, esc not", "dim")
        )
    else:
        yield Text.assemble((" paused " if look.is_paused else "", "black on yellow"), (HELP, "dim"))


def _cut(lines: Sequence[Text]) -> list[Text]:
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return list(lines)
