"""Accuracy: how far off totals are that sampled rows tell, by method and budget, and how often intervals hold.

`python -m benchmarks.accuracy` writes the table and the plot of docs/accuracy.md anew (with matplotlib, extra `bench`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.options import Options
from benchmarks.table import Table, calibrate
from flowagent.batch import Array, Batch, constant
from flowagent.clock import SECOND
from flowagent.outcome import Outcomes
from flowagent.sampling.estimate import Tally, estimates, tallies
from flowagent.sampling.pool import threshold
from flowagent.sampling.sampler import Sampler
from flowagent.sampling.sizes import Sizes
from flowagent.scale import received
from flowagent.sections import Sampling

import numpy as np  # isort: skip - after flowagent, which chooses how NumPy sorts

ROWS = 100_000
BUDGETS = (100, 300, 1000, 3000, 10_000)
METHODS = ("threshold", "priority", "systematic", "uniform")
MEASURES = ("bytes", "packets", "flows")
SHARES = (0.51, 0.32, 0.13, 0.032, 0.0085)
"""Of all bytes, of the groups."""
GROUPS = tuple(f"{100 * share:.2g} %" for share in SHARES)
WINDOWS, QUICK_WINDOWS = 400, 20
DOCS = Path(__file__).parents[1] / "docs"
MARKS = "<!-- table -->\n", "<!-- end -->"


@dataclass(frozen=True)
class Result:
    """Relative standard errors in percent, of the totals of MEASURES and of the bytes of GROUPS."""

    budget: int
    method: str
    measured: dict[str, float]
    theory: dict[str, float]
    coverage: float
    """Part of the 95 % intervals, of all measures, groups and windows, that held the truth."""


def run(options: Options) -> Table:
    table = Table("Accuracy", calibration_ms=[calibrate()])
    windows = QUICK_WINDOWS if options.quick else WINDOWS
    table.notes.append(
        f"Relative standard error in % over {windows} windows of {ROWS:,} rows, bytes Pareto(1.1), default objectives:"
        " of the totals, and of the bytes of groups with these shares. Coverage: 95 % intervals that held the truth."
    )
    for result in results(BUDGETS[2:3] if options.quick else BUDGETS, windows):
        for name, figures in (("", result.measured), (", theory", result.theory)):
            held = None if name else 100 * result.coverage
            row = {"rows kept": result.budget, "method": f"{result.method}{name}", **figures, "coverage %": held}
            table.rows.append(row)
    return table


def results(budgets: tuple[int, ...], windows: int) -> Iterator[Result]:
    batch = traffic()
    true = {name: _sums(batch, received(batch, name)) for name in MEASURES}
    for budget in budgets:
        for method in METHODS:
            yield _result(batch, true, budget, method, windows)


def traffic() -> Batch:
    """Rows of distinct addresses, in groups by `proto`, which no method looks at."""
    rng = np.random.default_rng(1)
    octets = np.ceil(100 * (rng.pareto(1.1, ROWS) + 1)).astype(np.uint64)
    address = np.zeros((2, ROWS), np.uint64)
    address[1] = np.arange(ROWS, dtype=np.uint64) | np.uint64(0xFFFF_00000000)
    order = rng.permutation(ROWS)
    # The largest rows go to the largest group, or their place in the order would decide about the shares.
    is_large = octets[order] >= np.sort(octets)[-20]
    order = np.concatenate([order[is_large], order[~is_large]])
    group = np.empty(ROWS, np.uint8)
    ends = np.cumsum(octets[order]) / octets.sum()
    group[order] = np.minimum(np.searchsorted(np.cumsum(SHARES), ends), len(SHARES) - 1)
    return Batch({
        "src_addr": address,
        "dst_port": rng.integers(0, 2**16, ROWS, np.uint16),
        "proto": group,
        "bytes": octets,
        "packets": np.maximum(octets // rng.integers(60, 1500, ROWS).astype(np.uint64), np.uint64(1)),
        "records": constant(1, ROWS, np.uint64),
    })  # fmt: skip


def _sums(batch: Batch, values: Array) -> Array:
    """The total, and those of the groups."""
    groups = np.bincount(batch["proto"], values, len(SHARES))
    return np.concatenate([[groups.sum()], groups])


def _result(batch: Batch, true: dict[str, Array], budget: int, method: str, windows: int) -> Result:
    sampler = Sampler(Sampling(budget=_cap(budget, method), method=method, coin=("src_addr",)), SECOND, Outcomes())
    off: dict[str, list[Array]] = {name: [] for name in MEASURES}
    held = []
    for window in range(windows):
        sampler.add(batch, window * SECOND)
        sample = sampler.take()
        for name in MEASURES:
            told = estimates(_tally(sample, name))
            off[name].append(told.total / true[name] - 1)
            held.append((told.low <= true[name] * (1 + 1e-9)) & (true[name] <= told.high * (1 + 1e-9)))
    error = {name: 100 * np.sqrt(np.square(values).mean(0)) for name, values in off.items()}
    expected = _theory(batch, true, budget, method)
    return Result(budget, method, _named(error), _named(expected), float(np.mean(held)))


def _tally(sample: Batch, name: str) -> Tally:
    """Of everything and of all groups; of one without a row, too, it is known how much it may have at most."""
    keys, found = tallies(sample, name, ("proto",))
    groups = [np.zeros(len(SHARES) + 1) for _ in found]
    for column, values, whole in zip(groups, found, tallies(sample, name)[1], strict=True):
        column[0] = whole[0]
        column[keys["proto"] + 1] = values
    return Tally(*groups)


def _named(figures: dict[str, Array]) -> dict[str, float]:
    totals = {name: float(figures[name][0]) for name in MEASURES}
    return totals | dict(zip(GROUPS, figures["bytes"][1:].tolist(), strict=True))


def _cap(budget: int, method: str) -> int:
    """The setting with which so many rows are kept on average."""
    return budget if method in ("priority", "systematic") else math.ceil((1 + math.sqrt(1 + budget)) ** 2)


def _theory(batch: Batch, true: dict[str, Array], budget: int, method: str) -> dict[str, Array]:
    """What follows from the probabilities, as if each row had a coin of its own."""
    prob = np.full(ROWS, budget / ROWS)
    if method != "uniform":
        sizes = Sizes(Sampling().objectives)
        sizes.fit(batch, _cap(budget, method))
        size = sizes.of(batch)
        prob = np.minimum(1, size / threshold(size, budget))
    return {
        name: 100 * np.sqrt(_sums(batch, received(batch, name) ** 2 * (1 - prob) / prob)) / true[name]
        for name in MEASURES
    }


def markdown(found: list[Result]) -> str:
    """The table of the page: what was measured, and theory in parentheses."""
    names = [*MEASURES, *GROUPS]
    lines = [
        f"| rows kept | method | {' | '.join(names)} | intervals hold |",
        "|---:|---|" + "---:|" * (len(names) + 1),
    ]
    for r in found:
        cells = [f"{_short(r.measured[name])} ({_short(r.theory[name])})" for name in names]
        lines.append(f"| {r.budget:,} | `{r.method}` | {' | '.join(cells)} | {100 * r.coverage:.1f} % |")
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def plot(found: list[Result], file: Path) -> None:
    """Left: all bytes by method. Right: bytes of the groups with the default method. Lines are theory."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    style = {
        "svg.hashsalt": "flowagent", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888", "axes.titlesize": 11,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4), sharey=True, layout="constrained")
        for method, color in zip(METHODS, ("#0b6e99", "#e08a00", "#5a9e3e", "#c8442b"), strict=True):
            _line(left, [r for r in found if r.method == method], "bytes", color, method)
        for i, name in enumerate(reversed(GROUPS)):
            shade = mpl.colormaps["viridis"](0.05 + 0.19 * i)
            _line(
                right, [r for r in found if r.method == METHODS[0]], name, shade, name if i else f"{name} of all bytes"
            )
        right.text(0.03, 0.04, "dots: measured\nlines: theory", transform=right.transAxes, color="#666", fontsize=9)
        left.set_title("All bytes, by method", loc="left")
        right.set_title("Bytes of groups, method threshold", loc="left")
        left.set_ylabel("relative standard error")
        for axes in (left, right):
            _axes(axes)
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)


def _line(axes: Any, found: list[Result], name: str, color: Any, label: str) -> None:
    kept = [r.budget for r in found]
    measured, theory = ([getattr(r, kind)[name] for r in found] for kind in ("measured", "theory"))
    if label == "systematic":  # neighbours make up for one another, which theory for single rows does not know
        axes.plot(kept, measured, ":", color=color, linewidth=0.9)
    else:
        axes.plot(kept, theory, color=color, linewidth=0.9)
    # Two methods that are equally good show as a dot in a ring.
    ring = {"markersize": 8.5, "markerfacecolor": "none"} if label == "priority" else {"markersize": 4.5}
    axes.plot(kept, measured, "o", color=color, clip_on=False, **ring)
    axes.annotate(
        label, (kept[-1], measured[-1]), xytext=(9, -7 if label == "priority" else 7 if label == "threshold" else 0),
        textcoords="offset points", color=color, va="center", annotation_clip=False,
    )  # fmt: skip


def _axes(axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"rows kept of {ROWS:,}")
    axes.set_xticks(BUDGETS, [f"{budget:,}" for budget in BUDGETS])
    ticks = [0.1, 0.3, 1, 3, 10, 30, 100, 300]
    axes.set_yticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(color="#888")
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def main() -> None:
    """Write docs/accuracy.svg, and the table in docs/accuracy.md."""
    found = list(results(BUDGETS, WINDOWS))
    plot(found, DOCS / "accuracy.svg")
    page = DOCS / "accuracy.md"
    before, begin, rest = page.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{begin}{markdown(found)}{end}{after}")


if __name__ == "__main__":
    main()
