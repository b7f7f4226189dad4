"""Plots of kept results. Only this file uses matplotlib; no display is needed.

Each plot is a function from the results of one or several scenarios to a figure, or to None if
they lack what it shows. The colours are those of Okabe and Ito, which colour-blind readers can
distinguish; lines differ in their markers as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench import capacity
from bench.page import machine_line
from bench.results import Entry, Results

Row = Mapping[str, Any]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_MARKERS = ("o", "s", "^", "D", "v")
# Whose cost the size of the log could change.
_LOG_ROLES = ("coordinator", "postgresql")
_DPI = 120
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.markersize": 4,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One file. `draw` gets the entries of its `scenarios`, if all were measured."""

    file: str
    about: str
    scenarios: Sequence[str]
    draw: Callable[[Mapping[str, Entry]], Figure | None]


def draw(results: Results, directory: Path) -> dict[str, str]:
    """Write every plot for which there are figures. Return the file names and what they show."""
    drawn: dict[str, str] = {}
    with mpl.rc_context(_STYLE):
        for plot in _PLOTS:
            entries = {name: results[name] for name in plot.scenarios if name in results}
            figure = plot.draw(entries) if len(entries) == len(plot.scenarios) else None
            if figure is not None:
                _title(figure, plot.about, list(entries.values()))
                # Without the time of drawing: the same figures make the same file.
                figure.savefig(directory / plot.file, dpi=_DPI, backend="agg", metadata={"Software": None})
                drawn[plot.file] = plot.about
    return drawn


# --- throughput against concurrency, capacity ------------------------------


def _throughput(entries: Mapping[str, Entry]) -> Figure | None:
    """A panel for each way to ask. Whiskers: the slowest and the fastest round. Band: the baseline's."""
    by_mode = _by(_rows(entries, "coordinator"), "mode")
    figure, panels = _panels(len(by_mode))
    for panel, (mode, rows), colour in zip(panels, by_mode.items(), cycle(_COLOURS), strict=False):
        in_flight = [row["in_flight"] for row in rows]
        rates = [row["per_second"] for row in rows]
        panel.errorbar(
            in_flight, rates, _whiskers(rows), color=colour, marker="o", capsize=3, label="coordinator"
        )
        with_baseline = [row for row in rows if row["baseline"]]
        if with_baseline:
            x = [row["in_flight"] for row in with_baseline]
            ranges = [row["baseline"]["per_second_range"] for row in with_baseline]
            rates, (low, high) = (
                [row["baseline_per_second"] for row in with_baseline],
                [*zip(*ranges, strict=True)],
            )
            panel.plot(x, rates, color="#555555", ls="--", label="baseline")
            panel.fill_between(x, low, high, color="#555555", alpha=0.2, lw=0)
        panel.set_title(mode)
        _concurrency(panel, in_flight)
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(_thousands())
        panel.legend(loc="upper left")
    panels[0].set_ylabel("transactions per second")
    return figure


def _capacity(entries: Mapping[str, Entry]) -> Figure | None:
    """Cores against the rate. Dotted: what of one worker, or of one server, has no more room there."""
    found = capacity.capacities(entries)
    figure, panels = _panels(len(capacity.MODES), sharey=True)
    for panel, mode in zip(panels, capacity.MODES, strict=True):
        rows = [row for row in found["rates"] if row["mode"] == mode]
        for role, colour, marker in zip(_LOG_ROLES, _COLOURS, _MARKERS, strict=False):
            cores = [row[f"{role}_cores"] for row in rows]
            panel.plot(capacity.RATES, cores, color=colour, marker=marker, label=role)
        for (what, rate), colour in zip(found["full_at"][mode].items(), _COLOURS[2:], strict=False):
            panel.axvline(rate, color=colour, ls=":", label=what)
        panel.set(title=mode, xscale="log", yscale="log", xlabel="transactions per second")
        panel.xaxis.set_major_formatter(_thousands())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.legend(loc="upper left", fontsize=7)
    panels[0].set_ylabel("cores")
    return figure


# --- costs -------------------------------------------------------------------


def _history(entries: Mapping[str, Entry]) -> Figure | None:
    rows = sorted(_rows(entries, "history"), key=lambda row: row["rows"])
    figure, (cost,) = _panels(1)
    x = [row["rows"] for row in rows]
    bottom = [0.0] * len(rows)
    for role, colour, marker in zip(_LOG_ROLES, _COLOURS, _MARKERS, strict=False):
        top = [low + row["cpu_us_by_process"][role] for low, row in zip(bottom, rows, strict=True)]
        cost.fill_between(x, bottom, top, color=colour, alpha=0.2, lw=0)
        cost.plot(x, top, color=colour, marker=marker, label=role)
        bottom = top
    cost.set_ylabel("CPU, µs per transaction")
    cost.legend(loc="lower left")
    cost.set_xscale("log")
    cost.set_xticks(x, [_count(value) for value in x])
    cost.xaxis.set_minor_locator(NullLocator())
    cost.set_ylim(bottom=0)
    cost.set_xlabel("ended transactions in the log")
    return figure


_PLOTS = (
    Plot(
        "throughput.png",
        "Throughput against concurrency (whiskers: all rounds)",
        ("coordinator",),
        _throughput,
    ),
    Plot("capacity.png", "Cores for a rate, computed from CPU times", ("coordinator", "idle"), _capacity),
    Plot("history.png", "Cost of a transaction against the size of the log", ("history",), _history),
)


# --- pieces ------------------------------------------------------------------


def _rows(entries: Mapping[str, Entry], scenario: str) -> list[Row]:
    rows: list[Row] = entries[scenario].found["configurations"]
    return rows


def _by(rows: Sequence[Row], key: str) -> dict[Any, list[Row]]:
    """Rows by their value of `key`, in the order of their first."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _panels(count: int, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.4 * count + 0.6, 3.6), layout="constrained")
    grid = figure.subplots(1, count, squeeze=False, sharey=sharey)
    return figure, list(grid[0])


def _title(figure: Figure, about: str, entries: Sequence[Entry]) -> None:
    machines = list(dict.fromkeys(machine_line(entry.machine) for entry in entries))
    short = ["quick run: not representative"] if any(entry.quick for entry in entries) else []
    figure.suptitle("\n".join([about, *machines, *short]), fontsize=10)


def _whiskers(rows: Sequence[Row]) -> list[list[float]]:
    """Distances from the median down to the slowest and up to the fastest round."""
    below = [max(0.0, row["per_second"] - row["per_second_range"][0]) for row in rows]
    above = [max(0.0, row["per_second_range"][1] - row["per_second"]) for row in rows]
    return [below, above]


def _concurrency(panel: Axes, values: Sequence[int]) -> None:
    """An axis of transactions under way."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(values, [f"{value:,}" for value in values])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("transactions in flight")


def _count(value: int) -> str:
    """10k, 5M."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return str(value)


def _thousands() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{value:,.0f}")
