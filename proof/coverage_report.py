"""`python -m proof.coverage_report FILE`: a table of what the tests run, from coverage's JSON report.

It covers the parts where an untested line can lose a transaction, with the goal for each beside it.
The goals are printed, not enforced: a line that no test runs is a question for its author.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

# Paths start with these.
PARTS = {
    "core": "coordinator/core/",
    "engine": "coordinator/engine/",
    "log": "coordinator/log/",
    "barrier": "tcc/barrier",
}
LINES_GOAL = 95.0
BRANCHES_GOAL = 90.0


class Summary(msgspec.Struct, frozen=True):
    """What coverage counted in one file."""

    num_statements: int
    covered_lines: int
    num_branches: int
    covered_branches: int


class _File(msgspec.Struct, frozen=True):
    summary: Summary


class _Report(msgspec.Struct, frozen=True):
    files: dict[str, _File]


Summaries: TypeAlias = dict[str, Summary]


class MissingPartError(Exception):
    """No file of a part was measured; it has moved, or its tests did not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """The share of lines and branches that ran, in percent."""

    lines: float
    branches: float

    @property
    def reaches_goals(self) -> bool:
        """Return whether both shares are high enough."""
        return self.lines >= LINES_GOAL and self.branches >= BRANCHES_GOAL


def read(report: bytes) -> Summaries:
    """Return the summary of each file of a JSON report."""
    return {path: file.summary for path, file in msgspec.json.decode(report, type=_Report).files.items()}


def coverage_of(prefix: str, summaries: Summaries) -> Coverage:
    """Return the coverage of all files whose paths start with a prefix.

    Raises:
        MissingPartError: no such file was measured.
    """
    found = [summary for path, summary in summaries.items() if path.startswith(prefix)]
    if not found:
        raise MissingPartError(f"no file under {prefix} was measured")
    return Coverage(
        lines=_percent((s.covered_lines for s in found), (s.num_statements for s in found)),
        branches=_percent((s.covered_branches for s in found), (s.num_branches for s in found)),
    )


def _percent(covered: Iterable[int], existing: Iterable[int]) -> float:
    total = sum(existing)
    return 100 * sum(covered) / total if total else 100.0


def table(summaries: Summaries) -> str:
    """Return one line for each part, with the goals in the heading."""
    lines, branches = f"lines (goal {LINES_GOAL:.0f} %)", f"branches (goal {BRANCHES_GOAL:.0f} %)"
    heading = f"{'part':9}{lines:>20}{branches:>23}"
    parts = {name: coverage_of(prefix, summaries) for name, prefix in PARTS.items()}
    return "\n".join([heading, *(_row(name, coverage) for name, coverage in parts.items())])


def _row(name: str, coverage: Coverage) -> str:
    mark = "" if coverage.reaches_goals else "  below"
    return f"{name:9}{_rounded_down(coverage.lines):>18} %{_rounded_down(coverage.branches):>21} %{mark}"


def _rounded_down(percent: float) -> str:
    """Return one decimal; 94.99 must not read as 95.0."""
    return f"{int(percent * 10) / 10:.1f}"


if __name__ == "__main__":
    print(table(read(Path(sys.argv[1]).read_bytes())))
