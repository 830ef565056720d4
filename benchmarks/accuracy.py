"""How far off totals are by budget and method, beside theory; `python -m benchmarks.accuracy` writes docs/accuracy.*.

Windows of 100,000 rows whose bytes are Pareto (1.1), in five groups of very
different size, are sampled over and over with fresh coins. Nothing is timed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import flowagent  # noqa: F401 - chooses how NumPy sorts

import numpy as np  # isort: skip

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

ROWS = 100_000
BUDGETS = (100, 300, 1000, 3000, 10_000)
METHODS = ("threshold", "priority", "systematic", "uniform")
MEASURES = ("bytes", "packets", "flows")
SHARES = (0.51, 0.32, 0.13, 0.032, 0.008)
"""Of the rows; the groups are told apart by `proto`."""
SHOWN = 3
"""The group in the picture: 3.2 % of the rows."""
WINDOWS = 200
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"


class Result(NamedTuple):
    """Of one method with one budget: arrays (group,), the last entry is the total."""

    budget: int
    method: str
    measure: str
    error: Array
    """Standard deviation of the estimate, relative to the truth."""
    theory: Array
    """The same as the formulas say; NaN where there is none."""
    covered: Array
    """Part of the windows whose 95 % interval held the truth."""


def run(options: Options) -> Table:
    table = Table("Relative error of totals, in percent", calibration_ms=[calibrate()])
    windows = 20 if options.quick else WINDOWS
    results = measure(BUDGETS[2:3] if options.quick else BUDGETS, windows)
    table.notes.append(
        f"{ROWS:,} rows a window, {windows} windows; theory in parentheses; 95 % intervals of all groups."
    )
    for budget, method in dict.fromkeys((r.budget, r.method) for r in results):
        mine = {r.measure: r for r in results if (r.budget, r.method) == (budget, method)}
        row: dict[str, object] = {"rows kept": budget, "method": method}
        for name in MEASURES:
            row[f"{name}, total"] = _both(mine[name], -1)
            row[f"{name}, {SHARES[SHOWN]:.1%} group"] = _both(mine[name], SHOWN)
        row["covered"] = f"{100 * np.mean([r.covered for r in mine.values()]):.0f} %"
        table.rows.append(row)
    return table


def _both(result: Result, group: int) -> str:
    error, theory = 100 * result.error[group], 100 * result.theory[group]
    return f"{error:.2g} ({theory:.2g})" if np.isfinite(theory) else f"{error:.2g}"


def measure(budgets: tuple[int, ...], windows: int) -> list[Result]:
    """Every budget with every method and measure."""
    batch = traffic()
    return [
        result for budget in budgets for method in METHODS for result in _sampled(batch, budget, method, windows)
    ]  # fmt: skip


def traffic() -> Batch:
    """One window's rows."""
    rng = np.random.default_rng(1)
    octets = (100 * (1 + rng.pareto(1.1, ROWS))).astype(np.uint64)
    size = np.exp(rng.uniform(np.log(64), np.log(1500), ROWS))
    hosts = np.arange(ROWS, dtype=np.uint64)
    return Batch({
        "src_addr": np.stack([np.zeros(ROWS, np.uint64), hosts + np.uint64(0xFFFF_0A000000)]),
        "dst_addr": np.stack([np.zeros(ROWS, np.uint64), hosts + np.uint64(0xFFFF_0B000000)]),
        "src_port": rng.integers(1024, 65536, ROWS).astype(np.uint16),
        "dst_port": constant(443, ROWS, np.uint16),
        "proto": rng.choice(len(SHARES), ROWS, p=np.array(SHARES) / sum(SHARES)).astype(np.uint8),
        "bytes": octets,
        "packets": np.maximum(1, octets / size).astype(np.uint64),
        "records": constant(1, ROWS, np.uint64),
    })  # fmt: skip


def _sampled(batch: Batch, budget: int, method: str, windows: int) -> list[Result]:
    config = Sampling(budget=budget, method=method)  # type: ignore[arg-type]
    sampler = Sampler(config, SECOND, Outcomes())
    truth = {name: _by_group(batch, received(batch, name)) for name in MEASURES}
    found = {name: np.zeros((windows, 3, len(SHARES) + 1)) for name in MEASURES}
    kept = 0
    for window in range(windows):
        sampler.add(batch, window * SECOND)
        sample = sampler.take()
        kept += len(sample)
        for name in MEASURES:
            found[name][window] = _estimated(sample, name)
    results = []
    for name in MEASURES:
        total, low, high = found[name].transpose(1, 0, 2)
        covered = ((low <= truth[name]) & (truth[name] <= high)).mean(0)
        theory = _theory(batch, config, kept / windows, name) / truth[name]
        results.append(Result(budget, method, name, total.std(0) / truth[name], theory, covered))
    return results


def _estimated(sample: Batch, name: str) -> Array:
    """(3, groups and total): estimate, lower and upper bound."""
    keys, tally = tallies(sample, name, ("proto",))
    groups = [np.zeros(len(SHARES)) for _ in tally]
    for column, found in zip(groups, tally, strict=True):
        column[keys["proto"]] = found  # a group without a row has an interval, too
    by_group, whole = estimates(Tally(*groups)), estimates(tallies(sample, name)[1])
    return np.stack([np.append(getattr(by_group, n), getattr(whole, n)) for n in ("total", "low", "high")])


def _theory(batch: Batch, config: Sampling, kept: float, name: str) -> Array:
    """Standard deviation of independent choices with the probabilities that meet this many rows on average."""
    if config.method == "systematic":
        return np.full(len(SHARES) + 1, np.nan)  # neighbours are not independent: no formula
    sizes = np.ones(ROWS)
    if config.method != "uniform":
        fitted = Sizes(config.objectives)
        fitted.fit(batch, config.budget or 0)
        sizes = fitted.of(batch)
    prob = np.minimum(1.0, sizes / threshold(sizes, kept))
    values = received(batch, name)
    return np.sqrt(_by_group(batch, values * values * (1 / prob - 1)))


def _by_group(batch: Batch, values: Array) -> Array:
    sums = np.bincount(batch["proto"], values, len(SHARES))
    return np.append(sums, sums.sum())


def picture(results: list[Result], path: Path) -> None:
    """Error against budget, a panel a measure."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "flowagent", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    colours = {"threshold": "#0b6fb8", "priority": "#d1661b", "systematic": "#2d8a4e", "uniform": "#8a8a8a"}
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), sharey=True, layout="constrained")
    for axis, name in zip(axes, MEASURES, strict=True):
        for method in METHODS:
            mine = [r for r in results if (r.method, r.measure) == (method, name)]
            budgets = [r.budget for r in mine]
            axis.loglog(budgets, [100 * r.theory[SHOWN] for r in mine], color=colours[method], lw=0.8, alpha=0.7)
            errors = [100 * r.error[SHOWN] for r in mine]
            axis.loglog(budgets, errors, "o", color=colours[method], ms=4.5, label=method)
        axis.set_title(name, loc="left", fontweight="bold")
        axis.set_xlabel("rows kept of 100,000")
        axis.grid(visible=True, which="major", lw=0.4, alpha=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"standard error, % ({100 * SHARES[SHOWN]:.1f} % group)")
    axes[2].legend(frameon=False, loc="lower left", title="measured; lines: theory", alignment="left")
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Measure, and put table and picture into the documentation."""
    results = measure(BUDGETS, WINDOWS)
    picture(results, PAGE.with_suffix(".svg"))
    rows = [
        "| rows kept | method | bytes | packets | flows | bytes, 3.2 % group | flows, 3.2 % group | covered |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for budget, method in dict.fromkeys((r.budget, r.method) for r in results):
        mine = {r.measure: r for r in results if (r.budget, r.method) == (budget, method)}
        cells = [_both(mine[name], -1) for name in MEASURES]
        cells += [_both(mine[name], SHOWN) for name in ("bytes", "flows")]
        covered = 100 * np.mean([r.covered for r in mine.values()])
        rows.append(f"| {budget:,} | {method} | {' | '.join(cells)} | {covered:.0f} % |")
    text = PAGE.read_text("utf-8")
    block = "<!-- table -->\n" + "\n".join(rows) + "\n<!-- end -->"
    PAGE.write_text(re.sub(r"<!-- table -->.*<!-- end -->", block, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
