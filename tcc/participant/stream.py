"""A coordinator's stream of calls, and the results that go back in it.

A stream stays open for minutes, so what holds for an RPC holds here for each item: its result, whatever
it is, affects no other. What ends a stream is the coordinator's half-close, after the last result.
"""

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError

from tcc._internal.failpoint import failpoint
from tcc._internal.frames import split_items
from tcc.barrier.decisions import CallResult
from tcc.participant.v1 import participant_pb2 as pb
from tcc.participant.work import RESPONSE_BYTES, ParticipantWork, invalid_call, outcome_bytes, write_result

# How long a stream that is draining waits for its half-close, besides the calls that are unanswered.
HALF_CLOSE_TIMEOUT_S = 1.0

_UNREADABLE = invalid_call("the call cannot be decoded")


class BranchStream:
    """One stream. Its calls run with those of all other streams and RPCs."""

    def __init__(self, work: ParticipantWork, *, credit: int) -> None:
        self._work = work
        self._credit = credit
        self._unanswered: set[int] = set()
        # Responses that were not sent, with the number of results in all and the size of the last one, about.
        self._ready: list[pb.StreamBranchesResponse] = []
        self._unsent = 0
        self._size = 0
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._draining = False
        # No further item is accepted.
        self._ended = False

    def deliver(self, position: int, outcome: CallResult) -> None:
        """Add the result of the item with this id."""
        if position not in self._unanswered:
            return  # its caller waits no longer
        self._unanswered.discard(position)
        size = outcome_bytes(outcome)
        if not self._ready or (self._size and self._size + size > RESPONSE_BYTES):
            self._ready.append(pb.StreamBranchesResponse())
            self._size = 0
        self._size += size
        self._unsent += 1
        result = self._ready[-1].results.add()
        result.id = position
        write_result(result.result, outcome)
        self._some.set()

    def waits_for(self, position: int) -> bool:
        """Return whether the item with this id has a caller that waits for its result."""
        return position in self._unanswered

    def leave(self) -> None:
        """Wait for no result any more: the stream has ended."""
        self._unanswered.clear()

    def drain(self) -> None:
        """Ask the coordinator for no further items. The stream ends once those that came are answered."""
        if self._draining:
            return
        self._draining = True
        self._ready.append(pb.StreamBranchesResponse(draining=True))
        self._some.set()
        asyncio.get_running_loop().call_later(HALF_CLOSE_TIMEOUT_S, self._end)

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Accept items until the coordinator half-closes.

        Raises:
            DecodeError: A request is no message at all.
        """
        try:
            async for request in requests:
                if self._ended:  # it came too late
                    return
                failpoint("participant.request")
                self._accept(request)
                # A coordinator that keeps to its credit is never made to wait.
                while len(self._unanswered) + self._unsent > self._credit:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._end()

    async def responses(self) -> AsyncIterator[pb.StreamBranchesResponse]:
        """Yield results as they arrive, until no further item comes and each has its own."""
        while not (self._ended and not self._unanswered and not self._ready):
            await self._some.wait()
            self._some.clear()
            ready, self._ready = self._ready, []
            self._size = self._unsent = 0
            self._room.set()
            for response in ready:
                yield response

    def _end(self) -> None:
        self._ended = True
        self._some.set()

    def _accept(self, raw: bytes) -> None:
        try:
            request = pb.StreamBranchesRequest.FromString(raw)
        except DecodeError:
            request = self._legible(raw)
        self._unanswered.difference_update(request.cancelled_ids)
        # An id that is still in use cannot have another result.
        items = [item for item in request.items if item.id not in self._unanswered]
        self._unanswered.update(item.id for item in items)
        self._work.submit_items(items, self)

    def _legible(self, raw: bytes) -> pb.StreamBranchesRequest:
        """Return a request's items that can be decoded, and answer the others."""
        request = pb.StreamBranchesRequest()
        for item_id, item in split_items(raw):
            try:
                request.items.append(pb.StreamBranchesItem.FromString(item))
            except DecodeError:
                self._unanswered.add(item_id)
                self.deliver(item_id, _UNREADABLE)
        return request
