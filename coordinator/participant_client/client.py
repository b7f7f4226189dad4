"""The gRPC client of the participants. Implements `ports.Participants` and `ports.BarrierReader`."""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import grpc
import structlog

from coordinator.core.errors import ParticipantUnreachable, ReconciliationUnsupported, UnknownParticipant
from coordinator.core.model import BranchCall, BranchKind, CallResult, Operation
from coordinator.core.reconciliation import BarrierRow, BarrierState
from coordinator.engine.dispatcher import not_configured
from coordinator.participant_client.channel import ParticipantAddress, is_dns_name, open_channel
from coordinator.participant_client.messages import (
    UNREADABLE,
    batch_request,
    call_result,
    failure,
    no_answer,
    write_call,
)
from coordinator.participant_client.streams import FRAME_BYTES_MAX, OpenStreams, ReadResult, Streams
from coordinator.ports.participants import BarrierPage, BarrierQuery, OnResults, StreamLoad
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc

logger = structlog.get_logger(__name__)

_STATES = {
    BarrierState.TRIED: common.BARRIER_STATE_TRIED,
    BarrierState.CONFIRMED: common.BARRIER_STATE_CONFIRMED,
    BarrierState.CANCELLED: common.BARRIER_STATE_CANCELLED,
}
# A new channel has this long to connect. Then the old one is kept for another interval.
_RENEWAL_TIMEOUT_S = 10.0
_FILES_CHECKED_EVERY_S = 1.0
# How long a channel to an address is used. Then its streams are balanced again, and a connection to a
# certificate that was revoked or has expired ends.
_AGE_MIN_S, _AGE_MAX_S = 5 * 60.0, 10 * 60.0
_EXECUTE_BRANCHES = f"/{pb.DESCRIPTOR.services_by_name['ParticipantService'].full_name}/ExecuteBranches"


class _Channel:
    """The channel to one participant, until it is replaced and no calls are in flight on it."""

    def __init__(
        self,
        address: ParticipantAddress,
        read_result: ReadResult,
        opened: OpenStreams,
        *,
        renew_every_s: float,
    ) -> None:
        self.address = address
        self._age_max_s = (
            renew_every_s if is_dns_name(address.target) else random.uniform(_AGE_MIN_S, _AGE_MAX_S)
        )
        # Cleared if the participant turns out not to implement ExecuteBranches.
        self.batched = address.batched
        self.opened_at = asyncio.get_running_loop().time()
        self.renewing = False
        self._content = None if address.tls is None else address.tls.content()
        self._checked_at = self.opened_at
        self._channel: Any = open_channel(address)
        self.stub = participant_pb2_grpc.ParticipantServiceStub(self._channel)
        # Like the stub's, but for a request in bytes: gRPC holds the request until the call has
        # ended, and a message takes more than twice the memory.
        self.execute_branches = self._channel.unary_stream(
            _EXECUTE_BRANCHES,
            request_serializer=bytes,
            response_deserializer=pb.ExecuteBranchesResponse.FromString,
        )
        self.streams = Streams(self._channel, address, read_result, opened)
        self._in_flight = 0
        self._free = asyncio.Event()
        self._free.set()

    def __enter__(self) -> Self:
        self._in_flight += 1
        self._free.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._free.set()

    def is_due(self, now: float) -> bool:
        """Return whether a new channel should replace this one."""
        if now - self.opened_at >= self._age_max_s:
            return True
        tls = self.address.tls
        if tls is None or now - self._checked_at < _FILES_CHECKED_EVERY_S:
            return False
        self._checked_at = now
        return tls.content() is not self._content

    async def connect(self) -> None:
        """Wait until the name is resolved, and one of its addresses is connected."""
        await self._channel.channel_ready()

    async def close_when_free(self) -> None:
        """Close the channel once nothing is in flight on it. Every call has a deadline."""
        self.streams.retire()
        try:
            await self._free.wait()
            await self.streams.ended()
        finally:
            await self.close()

    async def close(self) -> None:
        await self.streams.close()
        await self._channel.close(None)


class ParticipantClient:
    """Channels to all configured participants.

    gRPC resolves a name again only if a connection fails. So that new addresses get work, a
    channel to a name is replaced after `renew_every_s`, at its next use, and one to an address after
    minutes; and one with TLS if its certificates have changed. Its streams end with it, after those of the
    new one were opened. Without TLS, the new channel shares the connections of the old one (gRPC's global
    pool); with TLS, it makes new ones.
    """

    def __init__(
        self,
        addresses: Mapping[str, ParticipantAddress],
        *,
        result_bytes_max: int,
        renew_every_s: float = 30.0,
        on_stream_broken: Callable[[str], None] = lambda _: None,
        on_bug: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """`on_stream_broken`: called with the name of the participant whose stream broke.

        `on_bug`: called with an error after which calls may have no result, so that the process must end.
        """
        self._on_stream_broken = on_stream_broken
        self._on_bug = on_bug
        self._open_streams: dict[str, OpenStreams] = {}
        # Return what a participant answered to a call.
        self._answer: ReadResult = partial(call_result, result_bytes_max=result_bytes_max)
        self._renew_every_s = renew_every_s
        self._channels = {name: self._new_channel(name, address) for name, address in addresses.items()}
        self._tasks: set[asyncio.Task[None]] = set()

    def stream_loads(self) -> dict[str, StreamLoad]:
        """Return what is open to each participant."""
        return {name: self._open_streams[name].load() for name in self._channels}

    def address_changed(self, participant: str, address: ParticipantAddress) -> bool:
        """Return whether `address` differs from the address of a known participant."""
        channel = self._channels.get(participant)
        return channel is not None and _place(channel.address) != _place(address)

    def update_addresses(self, addresses: Mapping[str, ParticipantAddress]) -> None:
        """Set the addresses of the participants. Calls in flight end where they were sent."""
        before = self._channels
        self._channels = {
            name: before[name]
            if name in before and before[name].address == address
            else self._new_channel(name, address)
            for name, address in addresses.items()
        }
        for name, channel in before.items():
            if self._channels.get(name) is not channel:
                self._start(channel.close_when_free())

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()

    def execute(self, participant: str, calls: Sequence[BranchCall], on_results: OnResults) -> None:
        """See `ports.Participants.execute`."""
        channel = self._channel(participant)
        if channel is None:  # it was removed from the configuration just now
            on_results([(call, not_configured(participant)) for call in calls])
            return
        stream = None
        if sum([len(call.spec.payload) + len(call.result) for call in calls]) <= FRAME_BYTES_MAX:
            stream = channel.streams.choose(len(calls))
        if stream is None:
            self._start(self._execute(channel, calls, on_results))
        else:
            stream.execute(calls, on_results)

    async def list_branches(self, participant: str, asked: BarrierQuery, page_token: str) -> BarrierPage:
        """See `ports.BarrierReader`."""
        request = pb.ListBranchesRequest(
            states=[_STATES[state] for state in asked.states],
            min_age_ms=round(asked.min_age_s * 1000),
            max_age_ms=math.ceil(asked.max_age_s * 1000),
            page_size=asked.page_size,
            page_token=page_token,
        )
        page = await self._list_barrier(participant, request)
        return BarrierPage(rows=_rows(participant, page.rows), next_page_token=page.next_page_token)

    async def find_branches(self, participant: str, keys: Sequence[tuple[str, str]]) -> list[BarrierRow]:
        """See `ports.BarrierReader`."""
        request = pb.ListBranchesRequest(
            keys=[pb.BranchKey(gid=gid, branch_id=branch_id) for gid, branch_id in keys]
        )
        return _rows(participant, (await self._list_barrier(participant, request)).rows)

    async def _list_barrier(
        self, participant: str, request: pb.ListBranchesRequest
    ) -> pb.ListBranchesResponse:
        channel = self._channel(participant)
        if channel is None:
            raise UnknownParticipant(f"participant {participant!r} is not configured")
        with channel:
            try:
                page: pb.ListBranchesResponse | None = await channel.stub.ListBranches(
                    request, timeout=channel.address.call_timeout_s
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise ReconciliationUnsupported(
                        f"participant {participant} does not implement ListBranches"
                    ) from error
                reason = f"{error.code().name}: {error.details()}"
                raise ParticipantUnreachable(f"participant {participant}: {reason}") from error
        if page is None:  # gRPC could not decode it
            raise ParticipantUnreachable(f"participant {participant}: {UNREADABLE.message}")
        return page

    def _channel(self, participant: str) -> _Channel | None:
        """Return the channel to a configured participant, and renew it if it is due."""
        channel = self._channels.get(participant)
        if channel is not None and not channel.renewing:
            now = asyncio.get_running_loop().time()
            if channel.is_due(now):
                channel.renewing = True
                self._start(self._renew(participant, channel))
        return channel

    async def _renew(self, participant: str, old: _Channel) -> None:
        """Replace a channel by a new one, once that one is connected."""
        new = self._new_channel(participant, old.address)
        new.batched = old.batched
        unused = new
        try:
            async with asyncio.timeout(_RENEWAL_TIMEOUT_S):
                await new.connect()
                if old.streams.in_use:
                    await new.streams.search()
                else:
                    new.streams.search_at = old.streams.search_at
            if self._channels.get(participant) is old:
                self._channels[participant] = new
                unused = old
        except TimeoutError:
            # The name server or every address is unavailable. The old channel reports that, or works.
            old.opened_at, old.renewing = new.opened_at, False
        finally:
            await unused.close_when_free()

    def _new_channel(self, participant: str, address: ParticipantAddress) -> _Channel:
        if participant not in self._open_streams:
            self._open_streams[participant] = OpenStreams(lambda: self._on_stream_broken(participant))
        return _Channel(
            address, self._answer, self._open_streams[participant], renew_every_s=self._renew_every_s
        )

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("calls to a participant have ended by a bug", exc_info=error)
            self._on_bug(error if isinstance(error, Exception) else RuntimeError(str(error)))

    async def _execute(self, channel: _Channel, calls: Sequence[BranchCall], on_results: OnResults) -> None:
        """Execute calls without a stream. A single one is cheapest as a unary call."""
        with channel:
            if len(calls) > 1 and channel.batched:
                await self._execute_batch(channel, calls, on_results)
            else:
                await self._execute_singly(channel, calls, on_results)

    async def _execute_batch(
        self, channel: _Channel, calls: Sequence[BranchCall], on_results: OnResults
    ) -> None:
        missing = set(range(len(calls)))
        result = no_answer("the stream ended without an outcome for this call")
        is_unary_only = False
        request = batch_request(calls).SerializeToString()
        stream = channel.execute_branches(request, timeout=channel.address.call_timeout_s)
        try:
            async for response in stream:
                if response is None:  # gRPC could not decode it
                    result = UNREADABLE
                    break
                # A dict: if a call has several outcomes, the last one counts.
                answers = {
                    outcome.index: self._answer(outcome, calls[outcome.index].operation)
                    for outcome in response.results
                    if outcome.index in missing
                }
                missing.difference_update(answers)
                if answers:
                    on_results([(calls[index], answer) for index, answer in answers.items()])
        except grpc.aio.AioRpcError as error:
            result = failure(error)
            is_unary_only = error.code() is grpc.StatusCode.UNIMPLEMENTED
        finally:
            stream.cancel()
        if missing and is_unary_only:
            _remember_unary_only(channel)
            await self._execute_singly(channel, [calls[index] for index in sorted(missing)], on_results)
        elif missing:
            on_results([(calls[index], result) for index in sorted(missing)])

    async def _execute_singly(
        self, channel: _Channel, calls: Sequence[BranchCall], on_results: OnResults
    ) -> None:
        async def execute(call: BranchCall) -> None:
            on_results([await self._execute_one(channel, call)])

        await asyncio.gather(*[execute(call) for call in calls])

    async def _execute_one(self, channel: _Channel, call: BranchCall) -> tuple[BranchCall, CallResult]:
        stub, timeout_s = channel.stub, channel.address.call_timeout_s
        message = write_call(pb.BranchCall(), call)
        try:
            match call.operation:
                case Operation.TRY:
                    reply = await stub.TryBranch(pb.TryBranchRequest(call=message), timeout=timeout_s)
                case Operation.CONFIRM:
                    reply = await stub.ConfirmBranch(pb.ConfirmBranchRequest(call=message), timeout=timeout_s)
                case Operation.CANCEL:
                    reply = await stub.CancelBranch(pb.CancelBranchRequest(call=message), timeout=timeout_s)
                case Operation.CHECK:
                    reply = await stub.CheckBranch(pb.CheckBranchRequest(call=message), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return call, failure(error)
        if reply is None:  # gRPC could not decode it
            return call, UNREADABLE
        return call, self._answer(reply.result, call.operation)


def _place(address: ParticipantAddress) -> tuple[object, ...]:
    """Return what decides where, and as whom, the coordinator calls."""
    return address.target, address.tls, address.token_file


def _remember_unary_only(channel: _Channel) -> None:
    if channel.batched:
        logger.warning(
            "a participant does not implement ExecuteBranches: its branches are called one by one",
            target=channel.address.target,
        )
    channel.batched = False


def _rows(participant: str, rows: Iterable[pb.BarrierRow]) -> list[BarrierRow]:
    try:
        return [
            BarrierRow(
                gid=row.gid,
                branch_id=row.branch_id,
                action=row.action,
                state=BarrierState(row.state),
                age_s=row.age_ms / 1000,
                kind=BranchKind(row.kind or BranchKind.TCC),
            )
            for row in rows
        ]
    except ValueError as error:
        raise ParticipantUnreachable(
            f"participant {participant} has a row in an unknown state or of an unknown kind"
        ) from error
