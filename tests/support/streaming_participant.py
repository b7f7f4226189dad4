"""A participant over real gRPC with StreamBranches, each of whose streams a test may script."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant

Context = Any
EOF = grpc.aio.EOF


def results(*ids: int, result: common.CallResult = SUCCEEDED) -> pb.StreamBranchesResponse:
    return pb.StreamBranchesResponse(
        results=[pb.StreamBranchesResult(id=each, result=result) for each in ids]
    )


def ids_of(request: pb.StreamBranchesRequest) -> list[int]:
    return [item.id for item in request.items]


class StreamingParticipant(ScriptedParticipant):
    """Serves each stream by `on_stream`; counts the calls that come as RPCs in `rpcs`."""

    def __init__(self, credit: int = 100) -> None:
        super().__init__()
        self.credit = credit
        self.replica_id = uuid.uuid4().hex
        self.requests: list[pb.StreamBranchesRequest] = []
        # Of the streams: how many were opened, are open, and were half-closed by the coordinator.
        self.opened = self.open = self.half_closed = 0
        self.rpcs = 0
        self.on_stream: Callable[[Context], Awaitable[None]] = self.answer_all

    async def StreamBranches(self, requests, context):  # noqa: N802
        self.opened += 1
        self.open += 1
        try:
            await self.on_stream(context)
        finally:
            self.open -= 1

    async def greet(self, context: Context) -> None:
        await context.write(pb.StreamBranchesResponse(credit=self.credit, replica_id=self.replica_id))

    async def read(self, context: Context) -> pb.StreamBranchesRequest | None:
        """Return the next request; None: the coordinator has half-closed the stream."""
        request = await context.read()
        if request is EOF:
            self.half_closed += 1
            return None
        self.requests.append(request)
        self.calls += [item.call for item in request.items]
        return request

    async def answer_all(self, context: Context) -> None:
        await self.greet(context)
        await self.answer_rest(context)

    async def answer_rest(self, context: Context) -> None:
        while (request := await self.read(context)) is not None:
            if request.items:
                await context.write(results(*ids_of(request)))

    async def _answer(self, call: pb.BranchCall, index: int = 0) -> common.CallResult:
        self.rpcs += 1
        return await super()._answer(call, index)
