"""Each scenario runs with real processes, and its figures are consistent. Their size proves nothing here."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "bench"
TINY = ("--rounds=1", "--seconds=0.4", "--warm-up=0.2")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Return a directory that PostgreSQL's user may enter; other sessions close pytest's own to it."""
    with tempfile.TemporaryDirectory(prefix="tcc-test-") as directory:
        yield Path(directory)


def bench(*arguments: str) -> str:
    """Return the last line of standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return (done.stdout.splitlines() or [""])[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "arguments"),
    [
        ("coordinator", ("--in-flight=4",)),
        ("coordinator", ("--in-flight=4", "--secured")),
        ("drain", ("--in-flight=8", "--transactions=60")),
        ("gate", ()),
        ("history", ("--in-flight=8", "--rows=20000,500")),
        ("idle", ()),
        ("kinds", ("--in-flight=8",)),
        ("lone", ("--in-flight=2",)),
        ("memory", ("--in-flight=400,50",)),
        ("order-flow", ("--in-flight=16",)),
        ("overload", ("--in-flight=64",)),
    ],
)
def test_a_scenario_runs_and_leaves_nothing_behind(
    scenario: str, arguments: tuple[str, ...], data_dir: Path
) -> None:
    found: dict[str, Any] = json.loads(bench(scenario, "--json", f"--data-dir={data_dir}", *TINY, *arguments))
    assert found["scenario"] == scenario
    assert found.get("per_second", 1) > 0
    for row in found.get("configurations", ()):
        assert row["failed"] == {}
        if row["per_second"]:
            assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert sum(row["cpu_us_by_process"].values()) == pytest.approx(row["cpu_us_per_transaction"], abs=1)
        if row["ratio"] is not None:
            assert row["ratio"] == pytest.approx(row["per_second"] / row["baseline_per_second"], rel=0.01)
            assert row["baseline"]["failed"] == {}
    assert list(data_dir.iterdir()) == []


@pytest.mark.slow
def test_kept_results_are_drawn_again(tmp_path: Path) -> None:
    shutil.copy(KEPT / "results.json", tmp_path)
    bench("plot", str(tmp_path))
    page = (tmp_path / "README.md").read_text()
    plots = {path.name for path in tmp_path.glob("*.png")}
    assert plots == {"capacity.png", "history.png", "throughput.png"}
    assert all(f"({name})" in page for name in plots)
    assert (KEPT / "README.md").read_text() == page
