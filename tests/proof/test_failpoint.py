"""Failpoints: how they are named, where they are, and that they kill."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import pytest

from proof.faults.failpoints import VARIABLE, parse, rules
from proof.faults.plan import Side, deal, failpoints, side

Passed: TypeAlias = "subprocess.CompletedProcess[str]"
ROOT = Path(__file__).resolve().parents[2]
MEMBERS = {
    Side.COORDINATOR: ["a", "b"],
    Side.PARTICIPANT: ["inventory", "coupon", "order"],
    Side.INITIATOR: ["initiator"],
}


def test_rules_name_a_failpoint_and_how_often_it_is_passed() -> None:
    assert parse("log.save.after=kill@5, call.before=kill") == {"log.save.after": 5, "call.before": 1}
    assert parse("") == {}
    assert parse(rules({"a.b": 3, "c": 1})) == {"a.b": 3, "c": 1}


@pytest.mark.parametrize("wrong", ["a", "a=stop", "a=kill@0", "a=kill@x", "=kill", "A=kill"])
def test_a_rule_that_makes_no_sense_is_an_error(wrong: str) -> None:
    with pytest.raises(ValueError, match="PROOF_FAILPOINTS"):
        parse(wrong)


# What passes a failpoint four times, in a process that may have been started to kill there.
PASSING = """
from tcc._internal.failpoint import failpoint
for n in range(4):
    print(n, flush=True)
    failpoint("a.b")
"""


def passing(environment: dict[str, str], prepared: str = "import proof.faults.child") -> Passed:
    program = prepared + PASSING
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_armed_failpoint_kills_when_it_is_passed_for_the_nth_time() -> None:
    done = passing({VARIABLE: "a.b=kill@3"})
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]
    assert done.stderr == "killed at failpoint a.b\n"


def test_others_are_passed_unharmed() -> None:
    done = passing({VARIABLE: "a=kill,b=kill,a.b.c=kill"})
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "1", "2", "3"], "")


@pytest.mark.slow
def test_the_product_itself_does_not_know_the_variable() -> None:
    done = passing({VARIABLE: "a.b=kill"}, prepared="import tcc, coordinator.process.cli")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "1", "2", "3"], "")


def test_no_file_of_the_product_names_the_variable() -> None:
    for root in ("tcc", "coordinator", "participants", "tccctl"):
        assert not [path for path in (ROOT / root).rglob("*.py") if VARIABLE in path.read_text()]


def test_every_failpoint_of_the_source_can_be_armed_on_its_side() -> None:
    names = failpoints()
    assert len(names) > 30
    for name in names:
        assert parse(f"{name}=kill") == {name: 1}
        assert side(name) in MEMBERS


def test_durable_steps_have_a_failpoint_before_and_after() -> None:
    names = set(failpoints())
    steps = {name.removesuffix(".before") for name in names if re.fullmatch(r"log\..*\.before", name)}
    assert steps >= {"log.begin", "log.save", "log.take", "log.claim", "log.release"}
    assert {f"{step}.after" for step in steps} <= names
    assert {"barrier.commit.before", "barrier.commit.after"} <= names


def test_a_run_arms_every_failpoint_equally_often_and_spreads_them() -> None:
    hands = deal(failpoints(), MEMBERS, times=3, chance=random.Random(1))
    dealt = [rule.name for hand in hands.values() for rule in hand]
    assert sorted(dealt) == sorted(failpoints() * 3)
    for members in MEMBERS.values():
        sizes = [len(hands[member]) for member in members]
        assert max(sizes) - min(sizes) <= 1
        assert all(side(rule.name) is side(hands[members[0]][0].name) for m in members for rule in hands[m])


def test_only_the_order_service_is_asked_about_local_changes() -> None:
    hands = deal(failpoints(), MEMBERS, times=3, chance=random.Random(1))
    asked = {name for name, hand in hands.items() for rule in hand if "participant.check" in rule.name}
    assert asked == {"order"}
