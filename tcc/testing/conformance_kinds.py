"""The cases of the conformance suite for actions of kind SAGA and MESSAGE, and for CheckBranch."""

import asyncio

import grpc

from tcc.common.v1 import common_pb2 as common
from tcc.testing.conformance_subject import (
    CANCEL,
    CHECK,
    CONFIRM,
    MESSAGE,
    SAGA,
    TRY,
    Kind,
    SkippedError,
    Subject,
    expect,
    failed,
)

_RACERS = 8
_KIND = (
    "a call whose kind is not that of its action, or that the kind does not have, must be refused with "
    "FAILED, permanent, WRONG_KIND"
)


async def saga_executes_once(subject: Subject) -> None:
    saga = _saga(subject)
    calls = [subject.kind_call(TRY, saga) for _ in range(_RACERS)]
    outcomes = await asyncio.gather(*(subject.send(call) for call in calls))
    outcomes.append(await subject.send(subject.kind_call(TRY, saga)))
    for outcome in outcomes:
        expect(
            outcome.code == common.OUTCOME_CODE_SUCCEEDED and outcome.result == outcomes[0].result,
            outcome,
            "the Try of a saga must take effect once, and be replayed to its duplicates, as any Try",
        )
    await subject.counted(saga, 1, "a saga's Try must do the work once")


async def saga_compensates_once(subject: Subject) -> None:
    saga = _saga(subject)
    await subject.succeed(subject.kind_call(TRY, saga), "the Try of a saga must succeed")
    for _ in range(2):
        await subject.succeed(subject.kind_call(CANCEL, saga), "the Cancel of a saga must succeed each time")
    await subject.counted(saga, 0, "a saga's Cancel must undo the work, once")
    await subject.fail(
        subject.kind_call(TRY, saga), "LATE_TRY", "a saga that was compensated must not be executed again"
    )


async def saga_never_executed(subject: Subject) -> None:
    saga = _saga(subject)
    for _ in range(2):
        await subject.succeed(
            subject.kind_call(CANCEL, saga), "the Cancel of a saga whose Try never arrived must succeed"
        )
    await subject.fail(
        subject.kind_call(TRY, saga),
        "LATE_TRY",
        "the Cancel of a saga whose Try never arrived must leave a tombstone that a late Try finds",
    )
    await subject.counted(saga, 0, "a refused late Try must do nothing")


async def message_delivered_once(subject: Subject) -> None:
    message = _message(subject)
    calls = [subject.kind_call(CONFIRM, message) for _ in range(_RACERS)]
    outcomes = await asyncio.gather(*(subject.send(call) for call in calls))
    outcomes.append(await subject.send(subject.kind_call(CONFIRM, message)))
    for outcome in outcomes:
        expect(
            outcome.code == common.OUTCOME_CODE_SUCCEEDED,
            outcome,
            "the Confirm of a message needs no Try: without a row it must write one, CONFIRMED, and deliver; "
            "with one it must succeed",
        )
    await subject.counted(message, 1, "a message that is repeated must take effect once")


async def kinds_apart(subject: Subject) -> None:
    if subject.saga is None and subject.message is None:
        raise SkippedError("give `saga` or `message`, an action of that kind")
    if subject.saga is not None:
        await subject.fail(subject.kind_call(CONFIRM, subject.saga), "WRONG_KIND", _KIND)
    if subject.message is not None:
        for operation in (TRY, CANCEL):
            await subject.fail(subject.kind_call(operation, subject.message), "WRONG_KIND", _KIND)
    of_saga = subject.call(TRY)
    of_saga.kind = SAGA
    await subject.fail(of_saga, "WRONG_KIND", _KIND)
    of_message = subject.call(CONFIRM)
    of_message.kind = MESSAGE
    await subject.fail(of_message, "WRONG_KIND", _KIND)
    of_saga.operation = CANCEL
    await subject.succeed(
        of_saga, "the Cancel of a Try that was refused WRONG_KIND must succeed, or its transaction never ends"
    )


async def check_without_try(subject: Subject) -> None:
    call = subject.call(CHECK, action="local", payload=b"", content_type="")
    call.kind = SAGA
    for _ in range(2):
        try:
            outcome = await subject.send(call)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise SkippedError(
                    "the service has no CheckBranch, so no initiator of it can be local"
                ) from error
            raise
        expect(
            outcome.code == common.OUTCOME_CODE_REJECTED and outcome.reason == "NOT_TRIED",
            outcome,
            "a Check of a branch that was not tried must return REJECTED with NOT_TRIED, each time",
        )


async def check_after_try(subject: Subject) -> None:
    saga = _saga(subject)
    check = subject.kind_call(CHECK, saga)
    await subject.succeed(subject.kind_call(TRY, saga), "the Try of a saga must succeed")
    await subject.succeed(check, "a Check must succeed if the branch's row says that its Try took effect")
    await subject.counted(saga, 1, "a Check must change nothing")
    never = subject.kind_call(CHECK, saga, branch_id="never")
    await subject.send(never)
    outcome = await subject.send(subject.kind_call(TRY, saga, branch_id="never"))
    expect(
        failed(outcome, "LATE_TRY"),
        outcome,
        "a Check of a branch without a row must leave a tombstone, so that its Try never takes effect",
    )


def _saga(subject: Subject) -> Kind:
    if subject.saga is None:
        raise SkippedError("give `saga`, an action of kind SAGA")
    return subject.saga


def _message(subject: Subject) -> Kind:
    if subject.message is None:
        raise SkippedError("give `message`, an action of kind MESSAGE")
    return subject.message
