"""Isolation, overload and memory are measured, and what is said of each run fits together."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Real processes and databases, for many seconds.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COMMON = {
    "scenario",
    "per_second",
    "baseline_per_second",
    "ratio",
    "p50_ms",
    "p99_ms",
    "commits_per_transaction",
    "cpu_us_per_transaction",
}


def run(scenario: str, data_dir: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", scenario, "--json", f"--data-dir={data_dir}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert list(data_dir.iterdir()) == []
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said.keys() >= COMMON
    assert said["scenario"] == scenario
    return said


def test_transactions_go_on_beside_a_participant_that_hangs(tmp_path: Path) -> None:
    found = run("isolation", tmp_path, "--rounds=1", "--seconds=1.0", "--warm-up=0.2", "--in-flight=8")
    alone, beside = found["configurations"]
    assert (alone["third_participant"], beside["third_participant"]) == ("unused", "hangs")
    assert (alone["failed"], beside["failed"]) == ({}, {})
    assert beside["per_second"] > 0
    assert found["throughput_kept"] == pytest.approx(beside["per_second"] / alone["per_second"], rel=0.01)
    assert found["p99_grew"] == pytest.approx(beside["p99_ms"] / alone["p99_ms"], rel=0.01)
    # Two participants and two phases each, when nothing else is under way.
    assert 3 < alone["branch_calls_per_transaction"] < 5


def test_four_times_the_peak_is_refused_and_what_is_taken_is_done(tmp_path: Path) -> None:
    found = run("overload", tmp_path, "--rounds=1", "--seconds=0.4", "--warm-up=0.2", "--in-flight=64")
    *tried, peak, overloaded, held = found["configurations"]
    loads = [row["load"] for row in (*tried, peak, overloaded, held)]
    assert loads == ["64 under way", "peak", "4 times", "4 times, held"]
    assert peak["failed"] == overloaded["failed"] == held["failed"] == {}
    assert found["goodput_to_peak"] == pytest.approx(overloaded["per_second"] / peak["per_second"], rel=0.01)
    for role in ("coordinator", "postgresql", "participants", "initiators"):
        assert found[f"memory_max_mib_{role}"] > 1
        assert f"memory_growth_mib_{role}" in found
        assert found[f"cpus_{role}"] >= 0
    assert found["held_too_late_per_second"] >= 0
    assert len(found["memory_mib_coordinator"]) > 2
    assert min(found["memory_mib_coordinator"]) <= found["memory_max_mib_coordinator"]


def test_memory_of_a_live_transaction_is_what_more_of_them_take(tmp_path: Path) -> None:
    found = run("memory", tmp_path, "--mode=interactive", "--in-flight=400,50")
    assert found["per_second"] is None
    assert found["idle_mib"] > 10
    for row, mode in zip(found["configurations"], ("accepted", "interactive"), strict=True):
        assert row["mode"] == mode
        few, many = row["live_mib"]["50"], row["live_mib"]["400"]
        assert few < many
        # What is printed is rounded to a tenth of a MiB.
        assert row["kib_per_transaction"] == pytest.approx((many - few) * 1024 / 350, abs=0.4)
