"""Logs of two sizes are filled, measured in turns, and purged meanwhile."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Real processes and databases, for many seconds.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# More rounds than the smaller log lasts: it is made anew.
TINY = ["--rounds=2", "--seconds=0.3", "--warm-up=1.2", "--in-flight=8", "--rows=50000,500"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one tiny run says."""
    data_dir = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "bench", "history", "--json", f"--data-dir={data_dir}", *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert list(data_dir.iterdir()) == []
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_every_size_is_measured_and_the_largest_stands_for_the_scenario(found: dict[str, Any]) -> None:
    rows = found["configurations"]
    assert [row["rows"] for row in rows] == [500, 50_000]
    assert [row["failed"] for row in rows] == [{}, {}]
    assert all(row["per_second"] > 0 and row["wal_bytes_per_transaction"] > 0 for row in rows)
    assert found["per_second"] == rows[-1]["per_second"]
    assert (found["baseline_per_second"], found["ratio"]) == (None, None)


def test_old_rows_were_purged_meanwhile(found: dict[str, Any]) -> None:
    # Two turns, and a purge each second.
    assert found["purged_of_500"] > 0
    assert found["purged_of_50000"] > 0


def test_costs_and_rates_are_compared_over_the_rounds(found: dict[str, Any]) -> None:
    few, most = (sorted(row["per_second_range"]) for row in found["configurations"])
    assert most[0] / few[1] * 0.99 <= found["rate_ratio"] <= most[1] / few[0] * 1.01
    assert found["cost_ratio"] > 0
