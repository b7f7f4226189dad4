"""What was measured, kept: one file with each scenario's latest figures and how they came about.

A scenario that is measured again replaces its own entry and leaves the others,
so each entry says by itself when, with which command and on what it was measured.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.targets import check_targets

FILE = "results.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One scenario's run. `found` is the object that `--json` prints."""

    command: str
    # UTC, ISO 8601, when it began.
    measured_at: str
    took_s: float
    # Of the code that was measured; None outside a repository.
    commit: str | None
    quick: bool
    machine: Mapping[str, Any]
    found: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Entries by scenario, in the order in which they were first measured."""

    scenarios: Mapping[str, Entry]

    def with_entry(self, scenario: str, entry: Entry) -> "Results":
        return Results(scenarios={**self.scenarios, scenario: entry})

    @property
    def found(self) -> dict[str, Mapping[str, Any]]:
        """What each scenario's `--json` prints."""
        return {name: entry.found for name, entry in self.scenarios.items()}

    def as_json(self) -> dict[str, Any]:
        return {
            "targets": [result.as_json() for result in check_targets(self.found)],
            "scenarios": {
                name: {key: getattr(entry, key) for key in Entry.__dataclass_fields__}
                for name, entry in self.scenarios.items()
            },
        }


def read(directory: Path) -> Results:
    """What is kept in `directory`; empty where nothing is."""
    path = directory / FILE
    if not path.exists():
        return Results(scenarios={})
    kept = json.loads(path.read_text())["scenarios"]
    return Results(scenarios={name: Entry(**entry) for name, entry in kept.items()})


def write(results: Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FILE).write_text(json.dumps(results.as_json(), indent=1, ensure_ascii=False) + "\n")
