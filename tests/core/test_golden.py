"""Tells every story in `stories/` and compares, line by line, what happens with what it says.

A story is a text for people. A line at the margin is something that happens to
the transaction; the lines below it that begin with "->" are all that it makes the
coordinator do, in that order. "#" begins a comment. Failed calls are repeated
after 1, 2, 4 and then every 8 seconds, and 3 failures in a row make a transaction
stuck. It expires 30 seconds after its beginning.

What can happen:
    begin <branches> | begin interactive      coupon@1 is tried in stage 1; coupon@1~ is
                                              also cancelled before the stages below it
    saved                                     the write that was under way is durable
    TRY|CONFIRM|CANCEL <branch> succeeds | is rejected: <reason> | fails: <reason>
        | fails for good: <reason> | is not_sent for <n>s
    add <branch> | register <branch>          with, or without, the coordinator calling Try
    confirm is asked for | cancel is asked for: <why>
    <n>s pass                                 the clock alone; no event is sent
    it is time                                the time has come that the transaction waits for
    crash                                     memory is lost, and a write under way never arrives
    crash, but the write arrives
    resumed                                   its new owner, or the same one, has read it
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.core.errors import Refused
from coordinator.core.events import (
    Accepted,
    BecameStuck,
    BranchRegistered,
    BranchTried,
    CancelRequested,
    Completed,
    ConfirmRequested,
    Decided,
    Effect,
    Parked,
    Save,
    Woken,
)
from coordinator.core.model import BranchCall, BranchSpec, CallResult, Operation, OutcomeCode
from tests.support.golden import GoldenFiles

from .driver import Driver, branch, transaction

STORIES = sorted((Path(__file__).parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story(story: Path, golden: GoldenFiles) -> None:
    told = [line.rstrip() for line in story.read_text().splitlines()]
    golden.check(story, "".join(f"{line}\n" for line in Teller().tell(told)))


class Teller:
    """Makes happen what a story says, and writes down what really follows."""

    def __init__(self) -> None:
        self.driver = Driver(transaction())

    def tell(self, story: list[str]) -> list[str]:
        lines: list[str] = []
        for line in story:
            if line.startswith("->"):
                continue
            lines.append(line)
            if line and not line.startswith("#"):
                lines += [f"-> {consequence}" for consequence in self._happen(line)]
        return _with_blanks_of(story, lines)

    def _happen(self, line: str) -> list[str]:
        for pattern, operator_context in _HAPPENINGS:
            found = re.fullmatch(pattern, line)
            if found:
                self.driver.effects = ()
                try:
                    operator_context(self.driver, *found.groups())
                except Refused as refusal:
                    return [f"refused: {refusal.reason}"]
                return [self._words(effect) for effect in self.driver.effects]
        raise AssertionError(f"no story can say: {line}")

    def _words(self, effect: Effect) -> str:
        tx = self.driver.tx
        match effect:
            case Save():
                return self._save()
            case BranchCall(operation=operation, spec=spec):
                return f"call {operation.name} {spec.branch_id}"
            case Accepted():
                return "tell: accepted"
            case Decided():
                return f"tell: decided, {tx.saved_state.name}" + _because(tx.cancel_reason.name)
            case Completed():
                return f"tell: completed, {tx.saved_state.name}"
            case Parked():
                return f"forget it until {tx.next_attempt_at - self.driver.now:g}s have passed"
            case BranchRegistered(index):
                return f"tell: {tx.branches[index].spec.branch_id} is registered"
            case BranchTried(index):
                return f"tell: {tx.branches[index].spec.branch_id} is tried"
            case BecameStuck(index):
                return f"alert: stuck at {tx.branches[index].spec.branch_id}"

    def _save(self) -> str:
        tx = self.driver.in_flight
        names = " ".join(b.spec.branch_id for b in tx.branches) or "no branch"
        stuck = ", stuck" if tx.stuck else ""
        parked = f", waiting for {tx.waiting_on}" if tx.next_attempt_at else ""
        return f"save {tx.state.name} ({names}){stuck}{parked}"


def _because(reason: str) -> str:
    return "" if reason == "NONE" else f" because {reason}"


def _with_blanks_of(story: list[str], lines: list[str]) -> list[str]:
    """Blank lines carry no meaning: they are kept where the story has them, when all else agrees."""
    return story if [line for line in story if line] == [line for line in lines if line] else lines


def _spec(words: str) -> BranchSpec:
    name, _, stage = words.partition("@")
    return branch(name, stage=int(stage.rstrip("~") or 0), cancel_in_stage_order=stage.endswith("~"))


def _begin(driver: Driver, words: str) -> None:
    specs = [] if words == "interactive" else [_spec(word) for word in words.split()]
    driver.tx = transaction(*specs, interactive=not specs)
    driver.begin()


def _pass(driver: Driver, seconds: str) -> None:
    driver.now += float(seconds)


def _answer(**fields: object) -> Callable[..., None]:
    def operator_context(driver: Driver, operation: str, name: str, word: str = "") -> None:
        how = {"retry_after_s": float(word)} if "not_sent" in fields else {"reason": word}
        driver.answer(Operation[operation], name, CallResult(**fields, **how))

    return operator_context


_CALL = "(TRY|CONFIRM|CANCEL) (.+)"
_HAPPENINGS: list[tuple[str, Callable[..., object]]] = [
    ("begin (.+)", _begin),
    ("saved", Driver.saved),
    (f"{_CALL} succeeds", _answer(code=OutcomeCode.SUCCEEDED)),
    (f"{_CALL} is rejected: (.+)", _answer(code=OutcomeCode.REJECTED)),
    (f"{_CALL} fails: (.+)", _answer(code=OutcomeCode.FAILED)),
    (f"{_CALL} fails for good: (.+)", _answer(code=OutcomeCode.FAILED, permanent=True)),
    (f"{_CALL} is not_sent for (.+)s", _answer(code=OutcomeCode.FAILED, not_sent=True)),
    ("add (.+)", lambda driver, name: driver.add(branch(name))),
    ("register (.+)", lambda driver, name: driver.add(branch(name, tried_by_initiator=True))),
    ("confirm is asked for", lambda driver: driver.send(ConfirmRequested())),
    ("cancel is asked for: (.+)", lambda driver, why: driver.send(CancelRequested(why))),
    ("(.+)s pass", _pass),
    ("it is time", lambda driver: driver.send(Woken())),
    ("crash", Driver.crash),
    ("crash, but the write arrives", lambda driver: driver.crash(write_lands=True)),
    ("resumed", Driver.resume),
]


def test_there_are_stories() -> None:
    assert len(STORIES) > 10


def test_a_story_that_leaves_something_out_is_caught() -> None:
    assert Teller().tell(["begin stock"]) == ["begin stock", "-> save TRYING (stock)"]
