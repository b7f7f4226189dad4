"""The drain runs: a backlog is left behind in either way, and all of it is confirmed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Real processes and databases, for many seconds.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COUNT = 60
TINY = ["--rounds=1", "--seconds=0.3", "--in-flight=8", f"--transactions={COUNT}"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one tiny run says."""
    data_dir = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "bench", "drain", "--json", f"--data-dir={data_dir}", *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert list(data_dir.iterdir()) == []
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def row(found: dict[str, Any], left: str, measured: str) -> dict[str, Any]:
    (chosen,) = [
        each for each in found["configurations"] if (each["left"], each["measured"]) == (left, measured)
    ]
    return dict(chosen)


@pytest.mark.parametrize("left", ["owned", "parked"])
def test_a_backlog_is_drained_to_its_end(found: dict[str, Any], left: str) -> None:
    alone = row(found, left, "alone")
    assert alone["failed"] == {}
    assert alone["per_second"] == pytest.approx(COUNT / found[f"{left}_all_done_s"], rel=0.05)
    assert 0 < found[f"{left}_first_done_s"] <= found[f"{left}_all_done_s"]
    # Some Confirm of each had to be called anew, and each was written.
    assert alone["branch_calls_per_transaction"] > 0
    assert alone["commits_per_transaction"] > 0


def test_the_slower_way_stands_for_the_scenario(found: dict[str, Any]) -> None:
    rates = [row(found, left, "alone")["per_second"] for left in ("owned", "parked")]
    assert found["per_second"] == min(rates)
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert (found["baseline_per_second"], found["ratio"]) == (None, None)


def test_live_load_is_compared_with_itself(found: dict[str, Any]) -> None:
    kept = []
    for left in ("owned", "parked"):
        beside, after = row(found, left, "live load beside it"), row(found, left, "live load after it")
        assert (beside["failed"], after["failed"]) == ({}, {})
        kept.append(beside["per_second"] / after["per_second"])
    assert found["live_kept"] == pytest.approx(min(kept), rel=0.01)
