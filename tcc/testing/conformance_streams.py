"""The cases of StreamBranches, which is optional."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tcc.testing.conformance_subject import (
    CANCEL,
    CONFIRM,
    TIMEOUT_S,
    TRY,
    TRY_WORKS,
    ConformanceError,
    SkippedError,
    Subject,
    expect,
)

_FIRST_ID = 41


async def stream_of_calls(subject: Subject) -> None:
    """Check that each call of a stream has the result that it has alone, under its own id."""
    await subject.succeed(subject.call(TRY, branch_id="to-confirm"), TRY_WORKS)
    stream = await _open(subject)
    calls = [
        subject.call(TRY, branch_id="to-try"),
        subject.call(CONFIRM, branch_id="to-confirm"),
        subject.call(CONFIRM, branch_id="unknown"),
        subject.call(TRY, branch_id="of-no-action", action="conformance-no-such-action"),
    ]
    found = await _execute(stream, calls)
    for item_id, call in enumerate(calls, _FIRST_ID):
        await _expect_as_alone(subject, call, found[item_id], succeeds=item_id < _FIRST_ID + 2)
    later_id = _FIRST_ID + len(calls)
    later = subject.call(CONFIRM, branch_id="to-try")
    found = await _execute(stream, [later], first_id=later_id)
    await _expect_as_alone(subject, later, found[later_id], succeeds=True)
    stream.cancel()


async def stream_half_closed(subject: Subject) -> None:
    """Check that a stream ends after its last result, once the coordinator sends no more."""
    stream = await _open(subject)
    calls = [subject.call(CANCEL, branch_id=f"branch-{number}") for number in range(3)]
    await _write(stream, calls, _FIRST_ID)
    await stream.done_writing()
    await _read(stream, len(calls))
    if await _next(stream) is not None:
        raise ConformanceError("after the last result a half-closed stream must end, and with the status OK")


async def _expect_as_alone(
    subject: Subject, call: pb.BranchCall, outcome: common.CallResult, *, succeeds: bool
) -> None:
    """Compare the result of a call with that of its repetition alone, or with success."""
    alone = common.OUTCOME_CODE_SUCCEEDED, ""
    if not succeeds:
        repeated = await subject.send(call)
        alone = repeated.code, repeated.reason
    expect(
        (outcome.code, outcome.reason) == alone,
        outcome,
        "a call in a stream must have the same result as alone: one item must not change what another gets, "
        "nor end the stream",
    )


async def _open(subject: Subject) -> Any:
    """Return an open stream. Raises SkippedError: there are none."""
    stream: Any = subject.stub.StreamBranches()
    try:
        greeting = await _next(stream)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise SkippedError("the service has no StreamBranches") from error
        raise
    if greeting is None or not greeting.credit or not greeting.replica_id:
        raise ConformanceError(
            "a stream's first response must come before any item, with `credit` and `replica_id`: the "
            "coordinator waits for it before it sends a call"
        )
    return stream


async def _execute(
    stream: Any, calls: Sequence[pb.BranchCall], first_id: int = _FIRST_ID
) -> dict[int, common.CallResult]:
    await _write(stream, calls, first_id)
    found = await _read(stream, len(calls))
    wanted = set(range(first_id, first_id + len(calls)))
    if set(found) != wanted:
        raise ConformanceError(
            f"each item of a stream must get one result, under its `id` (ids {sorted(wanted)} "
            f"were sent, {sorted(found)} came back)"
        )
    return found


async def _write(stream: Any, calls: Sequence[pb.BranchCall], first_id: int) -> None:
    items = [
        pb.StreamBranchesItem(id=item_id, timeout_ms=round(TIMEOUT_S * 1000), call=call)
        for item_id, call in enumerate(calls, first_id)
    ]
    await stream.write(pb.StreamBranchesRequest(items=items))


async def _read(stream: Any, count: int) -> dict[int, common.CallResult]:
    found: dict[int, common.CallResult] = {}
    for _ in range(count):
        if len(found) < count:
            response = await _next(stream)
            if response is None:
                break
            found.update({each.id: each.result for each in response.results})
    return found


async def _next(stream: Any) -> pb.StreamBranchesResponse | None:
    """Return the next response; None: the stream has ended with the status OK."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            response = await stream.read()
    except TimeoutError as error:
        stream.cancel()
        raise ConformanceError(
            f"a stream must respond within {TIMEOUT_S:g} s: at once when it is opened, to each item, and by "
            "its end after the half-close"
        ) from error
    return None if response is grpc.aio.EOF else response  # type: ignore[attr-defined] # the stubs lack it
