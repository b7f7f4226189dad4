"""The kill matrix of local first: real processes, killed at each step."""

import json
import subprocess
import sys

import pytest

from proof.local_first.matrix import End, Return, Step, expected, table

CONFIRMED = End(decision="CONFIRM", is_committed=True, stock="CONFIRMED", delivered=1)
CANCELLED = End(decision="CANCEL", is_committed=False, stock="CANCELLED", delivered=0)


@pytest.mark.slow
def test_a_killed_initiator_ends_right_at_every_step() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proof.local_first"], capture_output=True, text=True, check=False, timeout=300
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["cells"], figures["violations"]) == (len(Step) * len(Return), 0)


@pytest.mark.parametrize("step", Step)
def test_no_cell_may_end_both_ways_or_lose_a_local_row(step: Step) -> None:
    ends = [end for back in Return for end in expected(step, back)]
    assert {end.decision for end in ends if end.decision} in ({"CONFIRM"}, {"CANCEL"})
    assert len({end.is_committed for end in ends}) == 1
    decided = CONFIRMED if ends[0].is_committed else CANCELLED
    assert expected(step, Return.AT_ONCE) == expected(step, Return.LATE) == [decided]


def test_the_table_has_a_row_for_each_step_and_a_column_for_each_return() -> None:
    lines = table([(Step.COMMITTED, Return.AT_ONCE, CONFIRMED)]).splitlines()
    assert len(lines) == 2 + len(Step)
    assert [cell.strip() for cell in lines[2 + list(Step).index(Step.COMMITTED)].split("|")[1:-1]] == [
        "committed, before Confirm",
        "CONFIRM, row",
        "-",
        "-",
    ]
