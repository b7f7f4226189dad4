"""The scenario `scaling` varies what it says, and everything in it succeeds."""

import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from bench import work

# Real processes and databases, for many seconds.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--rounds=1", "--seconds=0.4", "--warm-up=0.1", "--in-flight=8"]


def test_each_size_is_varied_from_the_same_base(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "scaling", "--json", f"--data-dir={tmp_path}", *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    rows = found["configurations"]
    sizes = [(row["workers"], row["branches"], row["participants"]) for row in rows]
    assert sizes == [
        *[(1, 3, 3), (2, 3, 3)],
        *[(1, 1, 3), (1, 3, 3), (1, 8, 3)],
        *[(1, 3, 1), (1, 3, 3), (1, 3, 6)],
    ]
    assert [row["varied"] for row in rows] == ["workers"] * 2 + ["branches"] * 3 + ["participants"] * 3
    assert (found["workers"], found["branches"], found["participants"]) == (1, 3, 3)
    assert [row["failed"] for row in rows] == [{}] * 8
    assert all(row["per_second"] > 0 for row in rows)
    # Two phases at each branch; what is under way when it begins and ends blurs that.
    one, three, eight = (row["branch_calls_per_transaction"] for row in rows[2:5])
    assert one < three < eight
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("branches", "participants"), [(1, 3), (8, 3), (3, 1), (3, 6)])
def test_branches_are_spread_evenly_over_the_participants(branches: int, participants: int) -> None:
    names = [f"p{n}" for n in range(participants)]
    offered = islice(work.transactions(work.spread(branches, names)), 5 * participants)
    transactions = [[branch.participant for branch in each] for each in offered]
    assert {len(each) for each in transactions} == {branches}
    counts = Counter(name for each in transactions for name in each)
    assert counts == dict.fromkeys(names, 5 * branches)
