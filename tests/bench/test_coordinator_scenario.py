"""The benchmark runs, and what it says of one run fits together. How fast it is proves nothing here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

# Each run starts a database and six processes.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "bench", "coordinator", "--json"]
TINY = ["--rounds=1", "--seconds=1.0", "--warm-up=0.1", "--mode=batched,unary,interactive", "--in-flight=4"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def found(data_dir: Path) -> dict[str, Any]:
    """What one tiny run says."""
    command = [*COMMAND, *TINY, f"--data-dir={data_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_the_object_has_every_promised_field(found: dict[str, Any]) -> None:
    promised = {
        "scenario",
        "per_second",
        "baseline_per_second",
        "ratio",
        "p50_ms",
        "p99_ms",
        "commits_per_transaction",
        "cpu_us_per_transaction",
    }
    assert promised <= found.keys()
    assert found["scenario"] == "coordinator"


def test_every_way_to_ask_was_measured_and_nothing_failed(found: dict[str, Any]) -> None:
    assert [row["mode"] for row in found["configurations"]] == ["batched", "unary", "interactive"]
    assert [row["failed"] for row in found["configurations"]] == [{}, {}, {}]
    assert all(row["per_second"] > 0 for row in found["configurations"])


def test_percentiles_rise(found: dict[str, Any]) -> None:
    for row in found["configurations"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]


def test_the_cpu_of_the_processes_adds_up(found: dict[str, Any]) -> None:
    for row in found["configurations"]:
        by_process = row["cpu_us_by_process"]
        assert by_process.keys() == {"coordinator", "postgresql", "participants", "initiators"}
        assert sum(by_process.values()) == pytest.approx(row["cpu_us_per_transaction"], abs=1)


def test_whole_transactions_are_compared_with_a_floor_that_did_the_same_work(found: dict[str, Any]) -> None:
    for row in found["configurations"]:
        if row["mode"] == "interactive":
            assert row["baseline_per_second"] is None
            continue
        assert row["ratio"] == pytest.approx(row["per_second"] / row["baseline_per_second"], rel=0.01)
        assert row["baseline"]["failed"] == {}
        # The same durable work: three rows written and six branch calls. With four in flight
        # at once and their second phases behind them, no batch holds many.
        for work in (row, row["baseline"]):
            assert work["commits_per_transaction"] > 0.2
            assert work["participant_calls_per_transaction"] > 0.2
            # Two phases at three participants; what is under way when it begins and ends blurs that.
            assert 4 < work["branch_calls_per_transaction"] < 8
            assert work["wal_bytes_per_transaction"] > 0


def test_an_interactive_transaction_takes_more_writes_than_a_whole_one(found: dict[str, Any]) -> None:
    commits = {row["mode"]: row["commits_per_transaction"] for row in found["configurations"]}
    assert commits["interactive"] > commits["batched"]


def test_nothing_is_left_behind(found: dict[str, Any], data_dir: Path) -> None:
    assert found
    assert list(data_dir.iterdir()) == []
    commands = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if any(str(data_dir) in word for word in command)]
