"""The page beside the plots, in Markdown. Written from the kept results alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import FILE, Entry, Results
from bench.targets import TargetResult, check_targets, figure

_PAGE = "README.md"
_INTRODUCTION = f"""\
Written by `python -m bench`, as are the plots; all figures are in [{FILE}]({FILE}).
Compare ratios: another machine, or another run, has other numbers.

The coordinator and its baseline keep to one CPU (`pin_workers = true`, not the default) where the command
does not say `--unpinned`. What it does without, and how far runs differ, is told in
docs/PERFORMANCE.md."""
_NOBODY = "Nothing has been measured yet: `python -m bench all --save DIR`."


def write(results: Results, drawn: Mapping[str, str], directory: Path) -> None:
    """`drawn`: file names of plots in `directory`, and what each shows."""
    (directory / _PAGE).write_text(_page(results, drawn))


def machine_line(machine: Mapping[str, Any]) -> str:
    """One line that says what it was measured on."""
    return (
        f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}"
    )


def _page(results: Results, drawn: Mapping[str, str]) -> str:
    if not results.scenarios:
        return f"# Measured\n\n{_NOBODY}\n"
    parts = [
        "# Measured",
        _INTRODUCTION,
        *_machines(results.scenarios.values()),
        "## Targets",
        _table(("", "target", "measured", ""), map(_target_cells, check_targets(results.found))),
        "## Plots",
        *[f"![{about}]({name})" for name, about in drawn.items()],
        "## What was run",
        _table(
            ("scenario", "command", "began, UTC", "took", "commit"),
            [_run_cells(name, entry) for name, entry in results.scenarios.items()],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _machines(entries: Iterable[Entry]) -> list[str]:
    lines = list(dict.fromkeys(machine_line(entry.machine) for entry in entries))
    return [f"Machine: {line}." for line in lines]


def _target_cells(result: TargetResult) -> Sequence[str]:
    measured = "" if result.measured is None else figure(result.measured)
    return (result.target.name, result.target.bound, measured, result.word)


def _run_cells(name: str, entry: Entry) -> Sequence[str]:
    short = " (quick: says little)" if entry.quick else ""
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
