"""A paused holder, and all kinds of locks under one load, over a real Redis. Sizes prove nothing here."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from participants import redis_server

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(redis_server.missing()), reason=redis_server.missing() or "all is there"),
]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, "-m", "proof.locks", "--seconds=0.5", "--rounds=1", "--workers=10", "--json"]
    with tempfile.TemporaryDirectory(prefix="tcc-test-") as home:
        done = subprocess.run(
            [*command, f"--data-dir={home}"], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        assert list(Path(home).iterdir()) == []
    return json.loads(done.stdout)


def test_a_paused_holder_of_a_redis_lock_changes_beside_the_second(found: dict[str, Any]) -> None:
    assert found["paused"]["redis-py Lock"] == "changed"
    assert found["paused"]["Redlock, one node"] == "changed"


def test_a_paused_transaction_keeps_its_lock_or_loses_its_rights(found: dict[str, Any]) -> None:
    assert found["paused"]["locks in transactions"] == "LOCKED then changed"
    assert found["paused"]["locks in transactions, expired"] == "refused EXPIRED"


def test_every_kind_of_lock_is_measured_and_holds(found: dict[str, Any]) -> None:
    assert len(found["load"]) == 5
    for figures in found["load"].values():
        assert figures["per_second"] > 0
        assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
        assert figures["overlaps"] == 0
