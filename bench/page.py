"""The page beside the plots, in Markdown. It is written from the kept results alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import FILE, Entry, Results

_PAGE = "README.md"
_INTRODUCTION = f"""\
`python -m bench` writes this page and the plots; all figures are in [{FILE}]({FILE}).
Compare ratios: another machine, or another run, has other numbers.

Unless the command contains `--unpinned`, the coordinator and its baseline are bound to one CPU
(`pin_workers = true`, not the default). The effect of that, and the variation between runs, are described in
docs/PERFORMANCE.md."""
# In the order of the columns; the rest is in the file.
_FIGURES = ("per_second", "p50_ms", "p99_ms", "ratio", "cpu_us_per_transaction")
_OTHER_FIGURES = (
    "live_kept", "cost_ratio", "goodput_to_peak", "memory_mib", "idle_mib", "kib_per_transaction",
)  # fmt: skip


def write(results: Results, drawn: Mapping[str, str], directory: Path) -> None:
    """`drawn`: file names of plots in `directory`, and what each shows."""
    (directory / _PAGE).write_text(_page(results, drawn))


def machine_line(machine: Mapping[str, Any]) -> str:
    """Describe the machine in one line."""
    return (
        f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}"
    )


def _page(results: Results, drawn: Mapping[str, str]) -> str:
    if not results:
        return "# Measured\n\nNothing has been measured yet: `python -m bench all --save DIR`.\n"
    machines = dict.fromkeys(machine_line(entry.machine) for entry in results.values())
    parts = [
        "# Measured",
        _INTRODUCTION,
        *[f"Machine: {line}." for line in machines],
        "## Figures",
        "The main configuration of each scenario. `ratio` is the rate divided by the baseline's.",
        _table(("scenario", *_FIGURES, "others"), [_figures(name, each) for name, each in results.items()]),
        "## Plots",
        *[f"![{about}]({name})" for name, about in drawn.items()],
        "## Runs",
        _table(
            ("scenario", "command", "began, UTC", "took", "commit"),
            [_run_cells(name, entry) for name, entry in results.items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _figures(name: str, entry: Entry) -> Sequence[str]:
    others = [f"{key} {figure(entry.found[key])}" for key in _OTHER_FIGURES if key in entry.found]
    return (name, *[figure(entry.found.get(key)) for key in _FIGURES], ", ".join(others))


def figure(value: float | None) -> str:
    """Format with three significant digits at least."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _run_cells(name: str, entry: Entry) -> Sequence[str]:
    short = " (quick: not representative)" if entry.quick else ""
    return (
        name,
        f"`{entry.command}`{short}",
        entry.measured_at.removesuffix("+00:00"),
        f"{entry.took_s:,.0f} s",
        entry.commit or "",
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
