"""Runs scenarios one after the other, tells people, and keeps what was found."""

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import results
from bench.options import Options
from bench.report import ScenarioResult, machine
from bench.results import Entry, Results

Scenario = Callable[[Options], ScenarioResult]
_PROJECT = Path(__file__).resolve().parents[1]
_CODE = ("bench", "coordinator", "participants", "tcc")


def run_scenarios(
    scenarios: Mapping[str, Scenario],
    options: Options,
    *,
    command: str,
    console: Console,
    keep_in: Path | None = None,
) -> tuple[Results, bool]:
    """What was found, and whether anything in it failed.

    With `keep_in`, each scenario is written as soon as it is measured, beside what
    the directory holds of others: a later one that breaks costs only itself.
    """
    measured = Results(scenarios={})
    failed = False
    for name, scenario in scenarios.items():
        began_at, clock = datetime.now(UTC), time.monotonic()
        found = scenario(options)
        entry = Entry(
            command=command,
            measured_at=began_at.isoformat(timespec="seconds"),
            took_s=round(time.monotonic() - clock, 1),
            commit=_commit(),
            quick=options.quick,
            machine=machine(),
            found=found.as_json(),
        )
        measured = measured.with_entry(name, entry)
        failed = failed or found.failed
        found.print_to(console)
        if keep_in is not None:
            results.write(results.read(keep_in).with_entry(name, entry), keep_in)
    return measured, failed


def command_line(arguments: list[str]) -> str:
    """How a person would ask for the same."""
    return f"python -m bench {shlex.join(arguments)}"


def _commit() -> str | None:
    """The commit that is checked out, and whether the code differs from it."""
    head = _git("rev-parse", "--short", "HEAD")
    if head.returncode != 0:
        return None
    same = _git("diff", "--quiet", "HEAD", "--", *_CODE).returncode == 0
    return head.stdout.strip() + ("" if same else " and changes")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments],
        cwd=_PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
