"""The gRPC face of a participant: from the contract's messages to its work and back."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import grpc

from tcc.barrier import Operation
from tcc.failpoint import failpoint
from tcc.participant_work import OverloadedError, ParticipantWork, Replies
from tcc.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ParticipantServicer(pb_grpc.ParticipantServiceServicer):
    """Answers with outcomes; a status other than OK means only "ask again"."""

    def __init__(self, work: ParticipantWork) -> None:
        self._work = work

    async def TryBranch(
        self, request: pb.ParticipantServiceTryBranchRequest, context: Context
    ) -> pb.ParticipantServiceTryBranchResponse:
        outcome = await self._one(request.call, Operation.TRY, context)
        return pb.ParticipantServiceTryBranchResponse(outcome=outcome)

    async def ConfirmBranch(
        self, request: pb.ConfirmBranchRequest, context: Context
    ) -> pb.ConfirmBranchResponse:
        outcome = await self._one(request.call, Operation.CONFIRM, context)
        return pb.ConfirmBranchResponse(outcome=outcome)

    async def CancelBranch(
        self, request: pb.CancelBranchRequest, context: Context
    ) -> pb.CancelBranchResponse:
        outcome = await self._one(request.call, Operation.CANCEL, context)
        return pb.CancelBranchResponse(outcome=outcome)

    async def ExecuteBranches(
        self, request: pb.ExecuteBranchesRequest, context: Context
    ) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        async for response in await self._submit(request.calls, None, context):
            failpoint("participant.reply.before")
            yield response
            failpoint("participant.reply.after")

    async def _one(self, call: pb.BranchCall, operation: Operation, context: Context) -> pb.BranchOutcome:
        async for response in await self._submit([call], operation, context):
            failpoint("participant.reply.before")
            return response.outcomes[0]
        raise AssertionError("every call is answered")

    async def _submit(
        self, calls: Sequence[pb.BranchCall], only: Operation | None, context: Context
    ) -> Replies:
        failpoint("participant.request")
        replies = Replies(len(calls))
        try:
            self._work.submit(calls, replies, only=only)
        except OverloadedError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls wait; ask again later")
        return replies
