"""A participant over real gRPC whose results are scripted by a test, and that records its calls.

It has no barrier: the test sees exactly the calls that the coordinator sends.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from tcc._internal.server_options import server_options
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc

SUCCEEDED = common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED)


def rejected(reason: str, message: str = "") -> common.CallResult:
    return common.CallResult(code=common.OUTCOME_CODE_REJECTED, reason=reason, message=message)


def failed(reason: str, message: str = "", *, permanent: bool = False) -> common.CallResult:
    return common.CallResult(
        code=common.OUTCOME_CODE_FAILED, reason=reason, message=message, permanent=permanent
    )


Script = Callable[[pb.BranchCall], Awaitable[common.CallResult]]


async def succeed(_call: pb.BranchCall) -> common.CallResult:
    return SUCCEEDED


class ScriptedParticipant(participant_pb2_grpc.ParticipantServiceServicer):
    """Returns the result of `script` for each call."""

    def __init__(self) -> None:
        self.script: Script = succeed
        self.calls: list[pb.BranchCall] = []
        self.batches: list[int] = []
        self._changed = asyncio.Condition()

    def hold_confirms(self) -> asyncio.Event:
        """From now on everything succeeds, but a Confirm only once the event is set."""
        go = asyncio.Event()

        async def script(call: pb.BranchCall) -> common.CallResult:
            if call.operation == common.OPERATION_CONFIRM:
                await go.wait()
            return SUCCEEDED

        self.script = script
        return go

    def count(self, operation: "common.Operation | None" = None, *, gid: str | None = None) -> int:
        return sum(
            (operation is None or call.operation == operation) and (gid is None or call.gid == gid)
            for call in self.calls
        )

    def heard(self, gid: str) -> list[str]:
        """The operations asked for on a transaction, in order, for example ["TRY 1", "CONFIRM 1"]."""
        return [
            f"{common.Operation.Name(call.operation).removeprefix('OPERATION_')} {call.branch_id}"
            for call in self.calls
            if call.gid == gid
        ]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is checked after each call that arrives."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _answer(self, call: pb.BranchCall, index: int = 0) -> common.CallResult:
        self.calls.append(call)
        async with self._changed:
            self._changed.notify_all()
        outcome = common.CallResult()
        outcome.CopyFrom(await self.script(call))
        outcome.index = index
        return outcome

    async def TryBranch(self, request, context):  # noqa: N802
        return pb.TryBranchResponse(result=await self._answer(request.call))

    async def ConfirmBranch(self, request, context):  # noqa: N802
        return pb.ConfirmBranchResponse(result=await self._answer(request.call))

    async def CancelBranch(self, request, context):  # noqa: N802
        return pb.CancelBranchResponse(result=await self._answer(request.call))

    async def CheckBranch(self, request, context):  # noqa: N802
        return pb.CheckBranchResponse(result=await self._answer(request.call))

    async def ExecuteBranches(self, request, context):  # noqa: N802
        self.batches.append(len(request.calls))
        tasks = [asyncio.ensure_future(self._answer(call, index)) for index, call in enumerate(request.calls)]
        for answered in asyncio.as_completed(tasks):
            await context.write(pb.ExecuteBranchesResponse(results=[await answered]))


@asynccontextmanager
async def serving(
    participant: ScriptedParticipant, port: int = 0, host: str = "127.0.0.1"
) -> AsyncIterator[str]:
    """The address of a server for `participant`, which runs beside the block."""
    server = grpc.aio.server(options=server_options(reuse_port=False))
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(participant, server)
    bound = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    try:
        yield f"{host}:{bound}"
    finally:
        await server.stop(None)


@pytest.fixture
async def stock() -> AsyncIterator[ScriptedParticipant]:
    """A participant that serves, for every test that has none of its own by this name."""
    participant = ScriptedParticipant()
    async with serving(participant) as participant.address:
        yield participant
