"""A scenario's results: tables to read, and a JSON object."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from rich.console import Console
from rich.table import Table

from bench.figures import Figures, Round, figures, paired_ratio

# More than this, and other processes have influenced the figures.
_FOREIGN_CPUS_MAX = 0.15
_COSTS = ("all CPU", "commits", "statements", "fsyncs", "WAL bytes", "branch RPCs", "calls")


class ScenarioResult(Protocol):
    """The result of any scenario."""

    @property
    def failed(self) -> bool:
        """Return whether anything failed. The figures of such a run are worthless."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        ...

    def print_to(self, console: Console) -> None:
        """Print the tables."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One configuration, and its baseline where it has one."""

    configuration: dict[str, Any]
    figures: Figures
    baseline: Figures | None = None
    # Rate to the baseline's rate.
    ratio: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            **self.configuration,
            **self.figures.as_json(),
            "baseline_per_second": None if self.baseline is None else round(self.baseline.per_second, 1),
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "baseline": None if self.baseline is None else self.baseline.as_json(),
        }


def compared(
    configuration: dict[str, Any], rounds: Sequence[Round], baseline_rounds: Sequence[Round] = ()
) -> Row:
    """Summarize a configuration's rounds, and the baseline's, each of which followed one of them."""
    return Row(
        configuration=configuration,
        figures=figures(rounds),
        baseline=figures(baseline_rounds) if baseline_rounds else None,
        ratio=paired_ratio(rounds, baseline_rounds) if baseline_rounds else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A scenario's rows; `headline` is the one that stands for the scenario."""

    scenario: str
    rows: Sequence[Row]
    headline: Row
    # Figures of the scenario beside those of its rows.
    comparisons: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        measured = [
            figures for row in self.rows for figures in (row.figures, row.baseline) if figures is not None
        ]
        return any(figures.failed for figures in measured)

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            **self.headline.as_json(),
            **{name: round(value, 3) for name, value in self.comparisons.items()},
            "machine": machine(),
            "configurations": [row.as_json() for row in self.rows],
        }

    def print_to(self, console: Console) -> None:
        about = ", ".join(f"{key} {value}" for key, value in machine().items())
        console.print(f"[bold]{self.scenario}[/bold] on {about}", highlight=False)
        console.print(_rates(self.rows))
        console.print(_costs(self.rows))
        for name, value in self.comparisons.items():
            console.print(f"{name}: {value:,.3f}", highlight=False)
        foreign_cpus = max(row.figures.foreign_cpus for row in self.rows)
        if foreign_cpus > _FOREIGN_CPUS_MAX:
            console.print(
                f"[red]other processes used up to {foreign_cpus:.1f} CPUs: measure again", highlight=False
            )
        for row in self.rows:
            for reason, count in row.figures.failed.items():
                console.print(f"[red]{_name(row)}: {count} failed: {reason}", highlight=False)


def machine() -> dict[str, Any]:
    """Describe the machine."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _rates(rows: Sequence[Row]) -> Table:
    table = _table("rate and latency")
    for heading in ("per second", "(spread)", "p50 ms", "p95 ms", "p99 ms", "baseline", "(spread)", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        own, baseline = row.figures, row.baseline
        table.add_row(
            _name(row),
            f"{own.per_second:,.0f}",
            _spread(own),
            *[_or_dash(value, ".2f") for value in (own.p50_ms, own.p95_ms, own.p99_ms)],
            "-" if baseline is None else f"{baseline.per_second:,.0f}",
            "-" if baseline is None else _spread(baseline),
            _or_dash(row.ratio, ".2f"),
        )
    return table


def _costs(rows: Sequence[Row]) -> Table:
    table = _table("each transaction takes: CPU in microseconds; PostgreSQL by its own counters")
    roles = list(dict.fromkeys(role for row in rows for role in row.figures.cpu_us))
    for heading in (*roles, *_COSTS):
        table.add_column(heading, justify="right")
    for row in rows:
        for name, own in ((_name(row), row.figures), ("  baseline", row.baseline)):
            if own is None:
                continue
            # The baseline stands where the coordinator stands.
            cpu_us = dict(zip(row.figures.cpu_us, own.cpu_us.values(), strict=True))
            table.add_row(
                name,
                *[_or_dash(cpu_us.get(role), ",.0f") for role in roles],
                f"{own.cpu_us_total:,.0f}",
                f"{own.commits:.3f}",
                f"{own.statements:.3f}",
                f"{own.fsyncs:.3f}",
                f"{own.wal_bytes:,.0f}",
                _or_dash(own.participant_calls, ".3f"),
                _or_dash(own.branch_calls, ".2f"),
            )
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column("")
    return table


def _name(row: Row) -> str:
    return " ".join(str(value) for value in row.configuration.values())


def _spread(figures: Figures) -> str:
    low, high = figures.per_second_range
    return f"{low:,.0f}..{high:,.0f}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
