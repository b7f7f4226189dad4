"""Measured results, kept: one file with the latest figures of each scenario, and how they were made.

A scenario that is measured again replaces its own entry and leaves the others. Each entry
therefore names its own time, command and machine.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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


Results = Mapping[str, Entry]
"""Entries by scenario, in the order in which they were first measured."""


def as_json(results: Results) -> dict[str, Any]:
    return {"scenarios": {name: asdict(entry) for name, entry in results.items()}}


def read(directory: Path) -> Results:
    """Return what is kept in `directory`; empty if nothing is."""
    path = directory / FILE
    if not path.exists():
        return {}
    kept = json.loads(path.read_text())["scenarios"]
    return {name: Entry(**entry) for name, entry in kept.items()}


def write(results: Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FILE).write_text(json.dumps(as_json(results), indent=1, ensure_ascii=False) + "\n")
