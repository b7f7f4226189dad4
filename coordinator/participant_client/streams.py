"""Streams of branch calls: one to each replica of a participant, as far as it offers them.

In a stream a call costs a fraction of an RPC. What no stream can take goes as an RPC, as every call to a
participant without streams does: while none is open yet, after one broke, when the credit is used up. So
a stream never makes a call wait, and a participant that cannot be reached looks the same with and without.

gRPC chooses the address of each stream (round robin). A replica names itself in its first response; the
streams are complete when one that is opened reaches a replica for the second time.
"""

import asyncio
import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NamedTuple

import grpc
import structlog
from google.protobuf.message import DecodeError

from coordinator.core.model import BranchCall, CallResult, Operation, OutcomeCode
from coordinator.participant_client.channel import ParticipantAddress
from coordinator.participant_client.messages import UNREADABLE, write_call
from coordinator.ports.participants import CallResults, OnResults, StreamLoad
from tcc._internal.frames import split_items
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb

logger = structlog.get_logger(__name__)

ReadResult = Callable[[common.CallResult, Operation], CallResult]

# The size of a request. Without an option of its own, a server of gRPC accepts 4 MiB.
FRAME_BYTES_MAX = 2 * 2**20
# Streams to more replicas than that are not kept by one coordinator.
_REPLICAS_MAX = 64
# Replicas without a stream are searched for after each of these pauses, which double.
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.1, 10.0
# A participant that does not implement StreamBranches is asked again after about this time.
_UNIMPLEMENTED_PAUSE_S = 7 * 60.0
_STREAM_BRANCHES = f"/{pb.DESCRIPTOR.services_by_name['ParticipantService'].full_name}/StreamBranches"

# As of RPCs that fail so.
_TIMED_OUT = CallResult(
    code=OutcomeCode.FAILED,
    reason=grpc.StatusCode.DEADLINE_EXCEEDED.name,
    message="Deadline Exceeded",
    unreachable=True,
)


class _UnimplementedError(Exception):
    """A replica does not implement StreamBranches."""


class _Batch(NamedTuple):
    """Calls that were sent together: what receives their results, and until when they are waited for."""

    on_results: OnResults
    deadline: float


# Results that have come, by the callback that receives them.
_Ready = defaultdict[OnResults, CallResults]


def _report(ready: _Ready) -> None:
    for on_results, results in ready.items():
        on_results(results)


class Stream:
    """One stream to one replica, made by `Streams`. It works while `run` does."""

    def __init__(
        self, rpc: Any, greeting: pb.StreamBranchesResponse, read_result: ReadResult, timeout_s: float
    ) -> None:
        self.replica_id = greeting.replica_id
        self._credit = greeting.credit
        self._rpc = rpc
        self._read_result = read_result
        self._timeout_s = timeout_s
        self._last_id = 0
        # In the order of their ids, and so of their deadlines.
        self._unanswered: dict[int, tuple[_Batch, BranchCall]] = {}
        # What is to be written: serialized items, and ids.
        self._queue: deque[bytes] = deque()
        self._cancelled: list[int] = []
        # The writer waits for it while there is nothing to write.
        self._more: asyncio.Future[None] | None = None
        # Since when a message is being written; inf: none is.
        self._writing_since = math.inf
        self._retired = False
        # It ended although neither side had asked for it, or before each call had its result.
        self.is_broken = False
        self._end_reason = "it ended without a result"
        self._loop = asyncio.get_running_loop()
        # While calls are unanswered: when the next one is given up, at the earliest.
        self._alarm: asyncio.TimerHandle | None = None
        self._last_alarm: asyncio.TimerHandle | None = None

    @property
    def unanswered(self) -> int:
        """Return how many calls have no result."""
        return len(self._unanswered)

    def has_room(self, count: int) -> bool:
        """Return whether this many calls may be sent now."""
        return not self._retired and len(self._unanswered) + count <= self._credit

    def retire(self) -> None:
        """Send no further call; half-close. The stream ends when the last result has come."""
        if self._retired:
            return
        self._retired = True
        self._wake_writer()
        # By then each call has a result, or was given up.
        self._last_alarm = self._loop.call_later(self._timeout_s, self._rpc.cancel)

    def execute(self, calls: Sequence[BranchCall], on_results: OnResults) -> None:
        """See `ports.Participants.execute`."""
        batch = _Batch(on_results, self._loop.time() + self._timeout_s)
        request = pb.StreamBranchesRequest()
        timeout_ms = round(self._timeout_s * 1000)
        for item_id, call in enumerate(calls, self._last_id + 1):
            item = request.items.add()
            item.id = item_id
            item.timeout_ms = timeout_ms
            write_call(item.call, call)
            self._unanswered[item_id] = batch, call
        self._last_id += len(calls)
        self._queue.append(request.SerializeToString())
        self._wake_writer()
        if self._alarm is None:
            self._alarm = self._loop.call_at(batch.deadline, self._give_up_late)

    async def run(self) -> None:
        """Write and read until the stream ends. Then each call without a result is unreachable, once."""
        try:
            async with asyncio.TaskGroup() as both:
                writer = both.create_task(self._write())
                await self._read()
                writer.cancel()
        except* grpc.aio.AioRpcError as errors:
            self._end_reason = _status_text(errors.exceptions[0])
        except* DecodeError:
            self._end_reason = UNREADABLE.message
        finally:
            self.is_broken = not self._retired or bool(self._unanswered)
            self._retired = True
            for alarm in (self._alarm, self._last_alarm):
                if alarm is not None:
                    alarm.cancel()
            self._rpc.cancel()
            self._break()

    def _wake_writer(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def _write(self) -> None:
        """Write what is queued, one message after another: gRPC allows one write at a time."""
        while True:
            while self._queue or self._cancelled:
                self._writing_since = self._loop.time()
                try:
                    await self._rpc.write(self._frame())
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    return  # the stream has ended; reading shows why
                self._writing_since = math.inf
            if self._retired:
                break
            self._more = self._loop.create_future()
            await self._more
        await self._rpc.done_writing()

    def _frame(self) -> bytes:
        """Return what is queued as one message, as far as it fits. Serialized messages merge when joined."""
        parts: list[bytes] = []
        if self._cancelled:
            parts.append(pb.StreamBranchesRequest(cancelled_ids=self._cancelled).SerializeToString())
            self._cancelled.clear()
        room = FRAME_BYTES_MAX
        while self._queue and (not parts or len(self._queue[0]) <= room):
            parts.append(self._queue.popleft())
            room -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read(self) -> None:
        while (raw := await self._rpc.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
            ready = _Ready(list)
            try:
                response = pb.StreamBranchesResponse.FromString(raw)
            except DecodeError:
                response = self._legible(raw, ready)
            if response.credit:
                self._credit = response.credit
            if response.draining:
                self.retire()
            for each in response.results:
                # It may have been given up.
                found = self._unanswered.pop(each.id, None)
                if found is not None:
                    batch, call = found
                    ready[batch.on_results].append((call, self._read_result(each.result, call.operation)))
            _report(ready)

    def _legible(self, raw: bytes, ready: _Ready) -> pb.StreamBranchesResponse:
        """Return the results of a response that can be decoded. The others are failures, in `ready`."""
        response = pb.StreamBranchesResponse()
        for item_id, item in split_items(raw):
            try:
                response.results.append(pb.StreamBranchesResult.FromString(item))
            except DecodeError:
                self._end(item_id, UNREADABLE, ready)
        return response

    def _end(self, item_id: int, result: CallResult, ready: _Ready) -> None:
        """End a call with a result that the participant did not send."""
        found = self._unanswered.pop(item_id, None)
        if found is not None:
            batch, call = found
            ready[batch.on_results].append((call, result))

    def _give_up_late(self) -> None:
        """Wait no longer for late calls, and for a participant that does not read."""
        now = self._loop.time()
        late = list(takewhile(lambda item_id: self._unanswered[item_id][0].deadline <= now, self._unanswered))
        ready = _Ready(list)
        for item_id in late:
            self._end(item_id, _TIMED_OUT, ready)
        self._cancelled += late
        self._wake_writer()
        stalled_at = self._writing_since + self._timeout_s
        if stalled_at <= now:
            self._end_reason = f"the participant has read nothing for {self._timeout_s:g} s"
            self._rpc.cancel()
        oldest = next(iter(self._unanswered.values()), None)
        next_at = min(stalled_at, math.inf if oldest is None else oldest[0].deadline)
        self._alarm = None if next_at == math.inf else self._loop.call_at(next_at, self._give_up_late)
        _report(ready)

    def _break(self) -> None:
        result = CallResult(
            code=OutcomeCode.FAILED,
            reason=grpc.StatusCode.UNAVAILABLE.name,
            message=f"the stream to the participant has ended: {self._end_reason}",
            unreachable=True,
        )
        ready = _Ready(list)
        for item_id in list(self._unanswered):
            self._end(item_id, result, ready)
        _report(ready)


class OpenStreams:
    """All open streams to one participant, over its channel and those that it replaced."""

    def __init__(self, on_broken: Callable[[], None]) -> None:
        self._streams: dict[Stream, None] = {}
        self._on_broken = on_broken

    def load(self) -> StreamLoad:
        """Return what is open now."""
        return StreamLoad(
            streams=len(self._streams), in_flight=sum(stream.unanswered for stream in self._streams)
        )

    @contextmanager
    def counted(self, stream: Stream) -> Iterator[None]:
        """Count a stream during the block, at whose end it has ended."""
        self._streams[stream] = None
        try:
            yield
        finally:
            del self._streams[stream]
            if stream.is_broken:
                self._on_broken()


class Streams:
    """The streams over one channel."""

    def __init__(
        self, channel: Any, address: ParticipantAddress, read_result: ReadResult, opened: OpenStreams
    ) -> None:
        # Requests and responses are bytes: several requests are joined into one, and of a response one
        # result alone may be illegible.
        self._call = channel.stream_stream(_STREAM_BRANCHES)
        self._read_result = read_result
        self._opened = opened
        self._target = address.target
        self._timeout_s = address.call_timeout_s
        # Streams may be opened.
        self._wanted = address.batched
        self._streams: dict[str, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned = False
        self._searching = False
        # When replicas without a stream are searched for, at the next call.
        self.search_at = 0.0
        self._pause_s = _PAUSE_FIRST_S

    def choose(self, count: int) -> Stream | None:
        """Return the stream that has room for this many calls and the fewest without a result, if any."""
        if self._wanted and not self._searching:
            self._search_if_due()
        chosen: Stream | None = None
        for stream in self._streams.values():
            if stream.has_room(count) and (chosen is None or stream.unanswered < chosen.unanswered):
                chosen = stream
        return chosen

    @property
    def in_use(self) -> bool:
        """True if a stream is open."""
        return bool(self._streams)

    async def search(self) -> None:
        """Open a stream to each replica that has none."""
        self._searching = True
        try:
            if await self._open_missing():
                self._pause_s = _PAUSE_FIRST_S
            self._schedule_search()
        except _UnimplementedError:
            # Some replicas may be older than others. No stream is kept: they would get no calls.
            self._retire_all()
            self._schedule_search(_UNIMPLEMENTED_PAUSE_S)
        finally:
            self._searching = False

    def retire(self) -> None:
        """Half-close all streams, and open no others."""
        self._wanted = False
        self._retire_all()

    async def ended(self) -> None:
        """Wait until the streams have ended, which were retired before."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """End all streams at once."""
        self.retire()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _search_if_due(self) -> None:
        if asyncio.get_running_loop().time() >= self.search_at:
            self._searching = True
            self._start(self.search())

    def _retire_all(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.retire()

    def _schedule_search(self, pause_s: float = 0.0) -> None:
        now = asyncio.get_running_loop().time()
        self.search_at = now + (pause_s or self._pause_s) * random.uniform(0.75, 1.25)
        self._pause_s = min(2 * self._pause_s, _PAUSE_MAX_S)

    async def _open_missing(self) -> bool:
        """Return whether there was a replica without a stream."""
        is_new = False
        seen: set[str] = set()
        while self._wanted and len(self._streams) < _REPLICAS_MAX:
            stream = await self._open()
            if stream is None:
                break
            is_last = stream.replica_id in seen
            seen.add(stream.replica_id)
            if stream.replica_id in self._streams or not self._wanted:
                stream.retire()
            else:
                self._streams[stream.replica_id] = stream
                is_new = True
            self._start(self._run(stream))
            if is_last:
                break
        return is_new

    async def _open(self) -> Stream | None:
        rpc = self._call()
        opened = None
        try:
            async with asyncio.timeout(self._timeout_s):
                raw = await rpc.read()
            if raw is not grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
                greeting = pb.StreamBranchesResponse.FromString(raw)
                opened = Stream(rpc, greeting, self._read_result, self._timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise _UnimplementedError from error
        except (TimeoutError, DecodeError):
            if not self._warned:
                self._warned = True
                logger.warning(
                    "a participant's stream has no first response; RPCs are used", target=self._target
                )
        finally:
            if opened is None:
                rpc.cancel()
        return opened

    async def _run(self, stream: Stream) -> None:
        try:
            with self._opened.counted(stream):
                await stream.run()
        finally:
            if self._streams.get(stream.replica_id) is stream:
                del self._streams[stream.replica_id]
                self._pause_s = _PAUSE_FIRST_S
                self._schedule_search()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a participant's stream has ended by a bug", exc_info=error)


def _status_text(error: BaseException) -> str:
    assert isinstance(error, grpc.aio.AioRpcError)
    return f"{error.code().name}: {error.details()}"
