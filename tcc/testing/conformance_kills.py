"""The case that kills the service: a result remains valid, and a call without one can be repeated."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from tcc.common.v1 import common_pb2 as common
from tcc.testing.conformance_subject import (
    CANCEL,
    CONFIRM,
    TRY,
    TRY_WORKS,
    ConformanceError,
    SkippedError,
    Subject,
    expect,
    failed,
    is_conclusive,
)

# How often the service is killed during calls, and the number of concurrent callers.
_ROUNDS = 3
_CALLERS = 6
# In each round the kill comes this many results later than in the previous one.
_ANSWERS_STEP = 7
# The number of branches of a caller in a round. After that it repeats its calls.
_BRANCHES_MAX = 4

_IN_ROWS = (
    "keep the barrier in the rows of the service's own database, not in memory, and write a row in ONE local "
    "transaction with the change that it stands for, committed before the response"
)


async def killed_half_way(subject: Subject) -> None:
    if subject.restart is None:
        raise SkippedError("give `restart`, which kills the service and starts it again")
    await _what_was_answered_stands(subject)
    for round_ in range(_ROUNDS):
        await _what_was_not_can_be_asked_again(subject, round_)


async def _what_was_answered_stands(subject: Subject) -> None:
    tried = await _done(subject, TRY, "tried")
    confirmed = await _done(subject, TRY, "confirmed")
    await _done(subject, CONFIRM, "confirmed")
    await _done(subject, TRY, "cancelled")
    await _done(subject, CANCEL, "cancelled")
    await _done(subject, CANCEL, "empty")
    await _restart(subject)
    for branch_id, first in (("tried", tried), ("confirmed", confirmed)):
        again = await _done(subject, TRY, branch_id)
        expect(
            (again.result, again.content_type) == (first.result, first.content_type),
            again,
            f"a Try that is repeated after a kill must return the first one's result: {_IN_ROWS}",
        )
    for branch_id in ("cancelled", "empty"):
        await _refused(subject, branch_id)
    await subject.effects(
        reserved=1, branch_id="tried", advice=f"a kill must not change what a Try reserved: {_IN_ROWS}"
    )
    await _done(subject, CONFIRM, "confirmed")
    await subject.effects(
        confirmed=1, branch_id="confirmed", advice=f"a Confirm repeated after a kill is done: {_IN_ROWS}"
    )
    await _done(subject, CANCEL, "cancelled")
    await subject.effects(
        branch_id="cancelled", advice=f"a Cancel repeated after a kill must change nothing: {_IN_ROWS}"
    )
    await _done(subject, CANCEL, "tried")
    await subject.effects(branch_id="tried", advice=f"a Cancel after a kill must give back: {_IN_ROWS}")


@dataclass(kw_only=True, slots=True)
class _Progress:
    """The progress of a caller with a branch."""

    branch_id: str
    # Its second call: CONFIRM or CANCEL.
    end: common.Operation
    # True if it is cancelled at once when its Try has no result.
    hasty: bool
    # The result of the Try, if there is one.
    tried: common.CallResult | None = None


async def _what_was_not_can_be_asked_again(subject: Subject, round_: int) -> None:
    strike, over = asyncio.Event(), asyncio.Event()
    answers = 0

    def answered() -> None:
        nonlocal answers
        answers += 1
        if answers > round_ * _ANSWERS_STEP:
            strike.set()

    async def restart() -> None:
        await strike.wait()
        try:
            await _restart(subject)
        finally:
            over.set()

    callers = [_call_on(subject, f"{round_}-{caller}", answered, strike, over) for caller in range(_CALLERS)]
    *progress, _ = await asyncio.gather(*callers, restart())
    for branch in [branch for branches in progress for branch in branches or []]:
        await _finish(subject, branch)


async def _call_on(
    subject: Subject, name: str, answered: Callable[[], None], strike: asyncio.Event, over: asyncio.Event
) -> list[_Progress]:
    """Call branches one after the other until the service is killed; return their progress."""
    branches: list[_Progress] = []
    while len(branches) < _BRANCHES_MAX and not over.is_set():
        number = len(branches)
        branch = _Progress(
            branch_id=f"branch-{name}-{number}", end=(CONFIRM, CANCEL)[number % 2], hasty=number % 3 == 2
        )
        branches.append(branch)
        for operation in (TRY, branch.end):
            outcome = await _attempt(subject, operation, branch.branch_id)
            if outcome is None:
                strike.set()
                return branches
            if operation == TRY:
                branch.tried = outcome
            answered()
    # The kill has not come yet: repeat calls, which reserve nothing more.
    strike.set()
    while not over.is_set() and await _attempt(subject, TRY, branches[0].branch_id) is not None:
        pass
    return branches


async def _attempt(subject: Subject, operation: common.Operation, branch_id: str) -> common.CallResult | None:
    """Deliver a call once; return its result if it is conclusive."""
    try:
        outcome = await subject.send(subject.call(operation, branch_id=branch_id))
    except grpc.aio.AioRpcError:
        return None
    return outcome if is_conclusive(outcome) else None


async def _finish(subject: Subject, branch: _Progress) -> None:
    """Finish a branch as a coordinator does after a crash: repeat the Try or cancel."""
    branch_id = branch.branch_id
    if branch.tried is None and branch.hasty:
        await _done(subject, CANCEL, branch_id)
        await _refused(subject, branch_id)
        await subject.effects(
            branch_id=branch_id,
            advice=f"a Cancel after a Try that a kill cut off must leave nothing reserved: {_IN_ROWS}",
        )
        return
    if branch.tried is not None:
        expect(branch.tried.code == common.OUTCOME_CODE_SUCCEEDED, branch.tried, TRY_WORKS)
    else:
        await _done(subject, TRY, branch_id)
        await subject.effects(
            reserved=1,
            branch_id=branch_id,
            advice=f"a Try that a kill cut off and that is repeated must reserve, once: {_IN_ROWS}",
        )
    await _done(subject, branch.end, branch_id)
    await subject.effects(
        confirmed=1 if branch.end == CONFIRM else 0,
        branch_id=branch_id,
        advice="a Confirm or Cancel that a kill cut off and that is repeated must take effect, once: "
        f"{_IN_ROWS}",
    )


async def _done(subject: Subject, operation: common.Operation, branch_id: str) -> common.CallResult:
    outcome = await subject.persist(subject.call(operation, branch_id=branch_id))
    name = common.Operation.Name(operation).removeprefix("OPERATION_").capitalize()
    expect(
        outcome.code == common.OUTCOME_CODE_SUCCEEDED,
        outcome,
        f"a {name} that may be done must succeed whenever the service was killed before: {_IN_ROWS}",
    )
    return outcome


async def _refused(subject: Subject, branch_id: str) -> None:
    outcome = await subject.persist(subject.call(TRY, branch_id=branch_id))
    expect(
        failed(outcome, "LATE_TRY"),
        outcome,
        "a Try after its Cancel must be refused LATE_TRY, also when the service was killed in between: "
        f"{_IN_ROWS}, tombstones too",
    )


async def _restart(subject: Subject) -> None:
    restart = subject.restart
    assert restart is not None
    if callable(restart):
        await restart()
        return
    process = await asyncio.create_subprocess_exec(
        *restart,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    words, _ = await process.communicate()
    if process.returncode != 0:
        raise ConformanceError(
            f"the command in `restart` must kill the service, start it again and end with 0 "
            f"(it ended with {process.returncode}: {words.decode(errors='replace')[-200:].strip()})"
        )
