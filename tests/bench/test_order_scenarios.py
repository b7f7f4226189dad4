"""The scenarios with the reference participants run, succeed, and count what they did."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bench import work

# Real processes and databases, for many seconds.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--rounds=1", "--seconds=1.5", "--warm-up=0.1", "--in-flight=8", "--initiators=2"]


def run(scenario: str, data_dir: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench", scenario, "--json", f"--data-dir={data_dir}", *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert list(data_dir.iterdir()) == []
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def assert_compared(row: dict[str, Any]) -> None:
    """With a baseline that had the same success in the same run."""
    assert row["baseline"]["failed"] == {}
    assert row["ratio"] == pytest.approx(row["per_second"] / row["baseline_per_second"], rel=0.01)
    for work_done in (row, row["baseline"]):
        assert work_done["branch_calls_per_transaction"] > 0
        assert work_done["participant_calls_per_transaction"] > 0
        assert work_done["wal_bytes_per_transaction"] > 0


def test_orders_succeed_and_every_process_is_accounted_for(tmp_path: Path) -> None:
    found = run("order-flow", tmp_path)
    assert found["failed"] == {}
    assert found["per_second"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    # Four databases wrote.
    assert found["commits_per_transaction"] > 0.3
    # The kernel counts in ticks of 10 ms, and one process may have taken less.
    assert sum(found["cpu_us_by_process"].values()) > 0
    assert found["cpu_us_by_process"].keys() == {
        *("coordinator", "postgresql", "inventory", "coupon", "order", "initiators")
    }
    assert_compared(found)


def test_a_hot_sku_is_measured_beside_spread_ones_and_at_the_inventory_alone(tmp_path: Path) -> None:
    found = run("hot-sku", tmp_path)
    hot, spread, alone = found["configurations"]
    assert [(row["through"], row["skus"]) for row in (hot, spread, alone)] == [
        ("coordinator", 1),
        ("coordinator", 500),
        ("alone", 1),
    ]
    assert [row["failed"] for row in (hot, spread, alone)] == [{}, {}, {}]
    assert found["hot_to_spread"] == pytest.approx(hot["per_second"] / spread["per_second"], rel=0.01)
    assert found["inventory_alone_per_second"] == pytest.approx(alone["per_second"], rel=0.01)
    for row in (hot, spread, alone):
        assert_compared(row)
    assert alone["cpu_us_by_process"].keys() == {"inventory", "postgresql", "initiators"}
    # Durable, and together.
    assert 0 < alone["commits_per_transaction"] < 0.1


def test_initiators_of_the_same_work_never_share_a_coupon_or_an_order() -> None:
    offered = [work.transactions(work.orders("R1", 500), position=position, of=2) for position in (0, 1)]
    orders = [order for each in offered for order in islice(each, 50)]
    for branch, name in ((1, "coupon_id"), (2, "order_id")):
        assert len({order[branch].payload[name] for order in orders}) == 100  # type: ignore[index] # dicts


def test_spread_orders_want_many_skus_and_hot_ones_the_same() -> None:
    def wanted(skus: int) -> set[str]:
        orders = islice(work.transactions(work.orders("R1", skus)), 2_000)
        return {order[0].payload["sku"] for order in orders}  # type: ignore[index] # dicts

    assert wanted(1) == {work.sku(0)}
    assert len(wanted(500)) > 400
