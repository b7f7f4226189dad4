"""The smallest run of `proof.faults`: real processes, one kill on each side, everything judged."""

import json
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


@pytest.mark.slow
def test_a_coordinator_and_a_participant_killed_at_a_commit_lose_nothing() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "proof.faults", "--times=1", "--scenarios=none", "--seed=1"),
            "--points=log.save.after,barrier.commit.after",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["failpoints"], figures["kills"], figures["violations"]) == (2, 2, 0)
    assert figures["transactions"] >= figures["orders"] > figures["intrusions"] > 0
    [home] = re.findall(r"files in (\S+)", done.stderr)
    assert not Path(home).exists()
    assert not [p.info for p in psutil.process_iter(["cmdline"]) if home in str(p.info["cmdline"])]


@pytest.mark.slow
def test_an_unknown_failpoint_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proof.faults", "--points=log.nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "log.nothing" in done.stderr
