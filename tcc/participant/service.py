"""The gRPC service of a participant: converts between the contract's messages and its work."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from importlib import metadata
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from sqlalchemy.exc import DBAPIError

from tcc._internal.failpoint import failpoint
from tcc._internal.server_options import CONNECTION_AGE_MAX_MS
from tcc.barrier import listing
from tcc.barrier.decisions import BarrierState, Operation
from tcc.barrier.listing import ListedRow, Listing, Position
from tcc.common.v1 import common_pb2 as common
from tcc.participant.stream import BranchStream
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc
from tcc.participant.work import TOO_MANY_WAIT, OverloadedError, ParticipantWork, Replies

logger = logging.getLogger("tcc.participant")

_SDK = f"tcc-python/{metadata.version('tcc')}"
_DATABASE_UNAVAILABLE = "the participant's database is unavailable"
SERVICE = pb.DESCRIPTOR.services_by_name["ParticipantService"].full_name

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class _Registry:
    """A server, for generated code: the requests of streams come as bytes.

    gRPC ends a stream with a request that it cannot decode; an item must not do that.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, _handlers: Sequence[object]) -> None:
        """Ignore them: the same methods follow by name."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None:
        stream = method_handlers["StreamBranches"]._replace(request_deserializer=None)
        handlers = {**method_handlers, "StreamBranches": stream}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, handlers),))
        self._server.add_registered_method_handlers(service_name, handlers)  # type: ignore[attr-defined] # the stubs lack it


class ParticipantServicer(pb_grpc.ParticipantServiceServicer):
    """Returns results with the status OK. Any other status only means that the call must be repeated."""

    def __init__(self, name: str, work: ParticipantWork) -> None:
        self._name = name
        self._work = work
        self._replica_id = secrets.token_hex(8)
        # A dict, for its order.
        self._streams: dict[BranchStream, None] = {}
        self._draining = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the methods."""
        pb_grpc.add_ParticipantServiceServicer_to_server(self, _Registry(server))

    def drain(self) -> None:
        """Ask the coordinators of all streams to send no further calls there."""
        self._draining = True
        for stream in self._streams:
            stream.drain()

    async def TryBranch(self, request: pb.TryBranchRequest, context: Context) -> pb.TryBranchResponse:
        outcome = await self._one(request.call, Operation.TRY, context)
        return pb.TryBranchResponse(result=outcome)

    async def ConfirmBranch(
        self, request: pb.ConfirmBranchRequest, context: Context
    ) -> pb.ConfirmBranchResponse:
        outcome = await self._one(request.call, Operation.CONFIRM, context)
        return pb.ConfirmBranchResponse(result=outcome)

    async def CancelBranch(
        self, request: pb.CancelBranchRequest, context: Context
    ) -> pb.CancelBranchResponse:
        outcome = await self._one(request.call, Operation.CANCEL, context)
        return pb.CancelBranchResponse(result=outcome)

    async def CheckBranch(self, request: pb.CheckBranchRequest, context: Context) -> pb.CheckBranchResponse:
        outcome = await self._one(request.call, Operation.CHECK, context)
        return pb.CheckBranchResponse(result=outcome)

    async def ExecuteBranches(
        self, request: pb.ExecuteBranchesRequest, context: Context
    ) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        async for response in await self._submit(request.calls, None, context):
            failpoint("participant.reply.before")
            yield response
            failpoint("participant.reply.after")

    async def StreamBranches(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[pb.StreamBranchesResponse]:
        credit = self._work.credit
        yield pb.StreamBranchesResponse(credit=credit, replica_id=self._replica_id)
        stream = BranchStream(self._work, credit=credit)
        self._streams[stream] = None
        if self._draining:
            stream.drain()
        reader = asyncio.create_task(stream.read(requests))
        # A connection may not grow older, and ends only with its streams.
        alarm = asyncio.get_running_loop().call_later(CONNECTION_AGE_MAX_MS / 1000, stream.drain)
        try:
            async for response in stream.responses():
                failpoint("participant.reply.before")
                yield response
                failpoint("participant.reply.after")
            if reader.done():
                reader.result()
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a request is no message of this method")
        finally:
            alarm.cancel()
            reader.cancel()
            stream.leave()
            self._streams.pop(stream, None)

    async def ListBranches(
        self, request: pb.ListBranchesRequest, context: Context
    ) -> pb.ListBranchesResponse:
        try:
            rows, behind = await self._list(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except DBAPIError:
            logger.warning("the barrier's rows could not be listed", exc_info=True)
            await context.abort(grpc.StatusCode.UNAVAILABLE, _DATABASE_UNAVAILABLE)
        return pb.ListBranchesResponse(
            rows=[pb.BarrierRow(**row._asdict()) for row in rows],
            next_page_token=listing.page_token(behind),
        )

    async def GetParticipantInfo(
        self, _request: pb.GetParticipantInfoRequest, context: Context
    ) -> pb.GetParticipantInfoResponse:
        dialect_name = self._work.dialect_name
        try:
            now_ms = await self._work.read(lambda: listing.read_clock(dialect_name))
        except DBAPIError:
            logger.warning("the database's clock could not be read", exc_info=True)
            await context.abort(grpc.StatusCode.UNAVAILABLE, _DATABASE_UNAVAILABLE)
        response = pb.GetParticipantInfoResponse(
            participant=self._name,
            sdk=_SDK,
            actions=[pb.ActionInfo(name=name) for name in self._work.action_names],
        )
        response.server_time.FromMilliseconds(now_ms)
        return response

    async def _list(self, request: pb.ListBranchesRequest) -> tuple[list[ListedRow], Position | None]:
        dialect_name = self._work.dialect_name
        if request.keys:
            keys = [(key.gid, key.branch_id) for key in request.keys]
            if len(keys) > listing.ROWS_MAX:
                raise ValueError(f"at most {listing.ROWS_MAX} keys")
            return await self._work.read(lambda: listing.find_rows(dialect_name, keys)), None
        asked = Listing(
            states=frozenset(map(BarrierState, request.states)) or frozenset({BarrierState.TRIED}),
            min_age_ms=request.min_age_ms,
            max_age_ms=request.max_age_ms,
            rows_max=min(request.page_size or listing.ROWS_MAX, listing.ROWS_MAX),
            after=listing.position(request.page_token),
        )
        return await self._work.read(lambda: listing.list_rows(dialect_name, asked))

    async def _one(self, call: pb.BranchCall, operation: Operation, context: Context) -> common.CallResult:
        async for response in await self._submit([call], operation, context):
            failpoint("participant.reply.before")
            return response.results[0]
        raise AssertionError("every call has a result")

    async def _submit(
        self, calls: Sequence[pb.BranchCall], only: Operation | None, context: Context
    ) -> Replies:
        failpoint("participant.request")
        replies = Replies(len(calls))
        try:
            self._work.submit(calls, replies, only=only)
        except OverloadedError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_WAIT)
        return replies
