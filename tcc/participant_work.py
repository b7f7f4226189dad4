"""How a participant gets its calls done: what waits together is done together.

An operation with a batch handler has an outbox: whatever waits for it, from any
number of concurrent RPCs, goes into one local transaction while the previous one
is committing. That is how a hot row costs one lock and one commit per batch. An
operation without one runs its items side by side, each in its own transaction.

A batch that fails as a whole is done again item by item, so that one poison item
harms nobody. What a call started is finished even when its caller hangs up: the
work is idempotent, and the caller will ask again.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from sqlalchemy.exc import DBAPIError

from tcc import payload
from tcc.action import NAME_BYTES_MAX, Action, RefusalError, refusing_action
from tcc.barrier import Code, Operation, Outcome, Plan, rejected, settle
from tcc.barrier_door import Door, database_failed
from tcc.branch import BatchItem, Branch, Rejected
from tcc.lanes import LaneOutbox
from tcc.outbox import Outbox
from tcc.v1 import participant_pb2 as pb

if TYPE_CHECKING:
    from tcc.participant_tracing import CallSpan, ParticipantTracing

logger = logging.getLogger("tcc.participant")

T = TypeVar("T")

KEY_BYTES_MAX = 128
_MESSAGE_CHARS_MAX = 500
_OPERATIONS = {int(operation): operation for operation in Operation}
_CODES = {code: pb.OutcomeCode.Name(code) for code in Code}


# What a call asks, in bytes (action, payload, content type) and decoded.
Payload: TypeAlias = tuple[str, bytes, str]
Understood: TypeAlias = tuple[Action, object]


class OverloadedError(Exception):
    """More calls wait than the participant's limit."""


class Replies:
    """The answers to one RPC's calls, handed on as they come."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._ready = pb.ExecuteBranchesResponse()
        self._some = asyncio.Event()

    def deliver(self, index: int, outcome: Outcome) -> None:
        code, reason, message, result, content_type, permanent = outcome
        add = self._ready.outcomes.add
        if code is Code.SUCCEEDED:
            add(index=index, code=pb.OUTCOME_CODE_SUCCEEDED, result=result, content_type=content_type)
        else:
            add(index=index, code=_CODES[code], reason=reason, message=message, permanent=permanent)
        self._missing -= 1
        self._some.set()

    async def __aiter__(self) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        """Batches of answers, until each call has its own."""
        while self._missing or self._ready.outcomes:
            await self._some.wait()
            self._some.clear()
            ready, self._ready = self._ready, pb.ExecuteBranchesResponse()
            yield ready


class Delivery(NamedTuple):
    """One call on its way, and where its answer goes."""

    item: BatchItem
    position: int
    replies: Replies
    # Of a traced call.
    span: "CallSpan | None" = None


class ParticipantWork:
    """Runs the calls of all RPCs. `running` must surround `submit`."""

    def __init__(
        self,
        door: Door,
        actions: dict[str, Action],
        *,
        batch_items_max: int,
        batch_senders: int,
        waiting_max: int,
        tracing: "ParticipantTracing | None" = None,
    ) -> None:
        self._door = door
        self._tracing = tracing
        self._actions = actions
        # Calls taken and not answered yet.
        self.waiting = 0
        self._waiting_max = waiting_max
        self._transactions = asyncio.Semaphore(door.connections)
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._outboxes = {
            (action.name, operation): self._outbox(action, operation, batch_items_max, batch_senders)
            for action in actions.values()
            for operation in action.batched
        }

    def _outbox(
        self, action: Action, operation: Operation, items_max: int, senders: int
    ) -> Outbox[Delivery] | LaneOutbox[Delivery]:
        async def send(batch: list[Delivery]) -> None:
            await self._settle_batch(action, operation, batch)

        lane = action.lane
        if lane is None:
            return Outbox(send, items_max=items_max, senders=senders)
        return LaneOutbox(
            send,
            lane=lambda delivery: lane(delivery.item.request),
            items_max=items_max,
            senders=senders,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works beside the block; what is unfinished at its end is rolled back."""
        senders = [asyncio.create_task(outbox.run()) for outbox in self._outboxes.values()]
        try:
            yield
        finally:
            unfinished = [*senders, *self._tasks]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def drain(self, timeout_s: float) -> None:
        """Waits until everything submitted is finished, or until the time is up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    def submit(
        self, calls: Sequence[pb.BranchCall], replies: Replies, *, only: Operation | None = None
    ) -> None:
        """Takes calls; their answers go to `replies`. `only`: the operation that the RPC stands for.

        Raises OverloadedError when too many wait already; then none is taken.
        """
        if self.waiting + len(calls) > self._waiting_max:
            raise OverloadedError
        understood: dict[Payload, Understood] = {}
        for index, call in enumerate(calls):
            self._submit_one(call, index, replies, only, understood)

    @asynccontextmanager
    async def transaction_slot(self) -> AsyncIterator[None]:
        """Waits for its turn to open a transaction."""
        async with self._transactions:
            yield

    async def read(self, plan: Callable[[], Plan[T]]) -> T:
        """Runs a plan that calls no handler, when its turn has come. Raises DBAPIError."""
        async with self._transactions:
            return await self._door.transact(plan, _nobody)

    @property
    def dialect_name(self) -> str:
        return self._door.dialect_name

    def _submit_one(
        self,
        call: pb.BranchCall,
        index: int,
        replies: Replies,
        only: Operation | None,
        understood: dict[Payload, Understood],
    ) -> None:
        operation = _OPERATIONS.get(call.operation, only)
        gid, branch_id, name = call.gid, call.branch_id, call.action
        if operation is None or (only is not None and operation is not only):
            replies.deliver(index, _invalid("the operation is missing or is not that of the method"))
            return
        if not (_key_fits(gid) and _key_fits(branch_id) and len(name.encode()) <= NAME_BYTES_MAX):
            replies.deliver(index, _invalid(f"gid and branch_id have 1 to {KEY_BYTES_MAX} bytes and no NUL"))
            return
        branch = Branch(gid, branch_id, name, call.expires_at_ms, call.attempt)
        try:
            action, request = self._understand(call, understood)
            if action.screen is not None and operation is Operation.TRY:
                action.screen(branch, request)
            if action.try_result is not None and operation is Operation.TRY:
                branch = _with_result(branch, action.try_result(branch, request))
        except RefusalError as error:
            if operation is Operation.TRY:
                replies.deliver(index, error.outcome)
                return
            reason, message = error.outcome.reason, error.outcome.message
            action = refusing_action(name, reason, message, is_async=self._door.is_async)
            request = None
        except Rejected as no:
            replies.deliver(index, rejected(no))
            return
        except Exception as error:  # noqa: BLE001 - an author's screen may raise anything
            replies.deliver(index, _handler_error(branch, operation, error))
            return
        span = None if self._tracing is None else self._tracing.start(call, operation)
        self._enqueue(action, operation, Delivery(BatchItem(branch, request), index, replies, span))

    def _understand(self, call: pb.BranchCall, earlier: dict[Payload, Understood]) -> Understood:
        """The action and the decoded payload; `earlier` are those of the same RPC."""
        key = call.action, call.payload, call.content_type
        known = earlier.get(key)
        if known is not None:
            return known
        action = self._actions.get(call.action)
        if action is None:
            raise RefusalError("UNKNOWN_ACTION", f"this participant has no action {call.action!r}")
        if key[2] == payload.UNKNOWN:
            return _without_request(action, call)
        try:
            understood: Understood = action, payload.decode(action.kind, call.payload, call.content_type)
        except payload.InvalidPayloadError as error:
            raise RefusalError("INVALID_PAYLOAD", str(error)[:_MESSAGE_CHARS_MAX]) from error
        if action.frozen:
            earlier[key] = understood
        return understood

    def _enqueue(self, action: Action, operation: Operation, delivery: Delivery) -> None:
        self.waiting += 1
        self._idle.clear()
        outbox = self._outboxes.get((action.name, operation)) if operation in action.batched else None
        if outbox is not None:
            outbox.put(delivery)
            return
        task = asyncio.create_task(self._settle_alone(action, operation, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle_alone(self, action: Action, operation: Operation, delivery: Delivery) -> None:
        if delivery.span is not None:
            delivery.span.enter()
        async with self._transactions:
            outcome = await self._outcome(action, operation, delivery.item)
        self._answer([(delivery, outcome)])

    async def _settle_batch(self, action: Action, operation: Operation, batch: list[Delivery]) -> None:
        """One transaction for all; where that fails, one for each."""
        batch = self._defer_repeated(action, operation, batch)
        try:
            async with self._transactions:
                outcomes = await self._transact_batch(action, operation, batch)
        except Exception as error:
            # A handler may raise anything; each item meets its own below.
            if len(batch) > 1 and not database_failed(error):
                logger.warning(
                    "a batch of %d failed and is done again item by item",
                    len(batch),
                    extra={"action": action.name, "operation": operation.name},
                    exc_info=not isinstance(error, Rejected),
                )
                await asyncio.gather(*(self._settle_alone(action, operation, delivery) for delivery in batch))
                return
            outcomes = [_failure(delivery.item.branch, operation, error) for delivery in batch]
        self._answer(zip(batch, outcomes, strict=True))

    async def _transact_batch(
        self, action: Action, operation: Operation, batch: list[Delivery]
    ) -> list[Outcome]:
        items = [delivery.item for delivery in batch]
        spans = self._tracing and [delivery.span for delivery in batch if delivery.span is not None]
        if not spans:
            return await self._transact(action, operation, items)
        assert self._tracing is not None, "who makes no spans has none"
        with self._tracing.together(action.name, operation, spans):
            return await self._transact(action, operation, items)

    def _defer_repeated(self, action: Action, operation: Operation, batch: list[Delivery]) -> list[Delivery]:
        """Each key once; a duplicate that came meanwhile goes with the next batch, and finds the row."""
        first = {delivery.item.branch.key: delivery for delivery in reversed(batch)}
        if len(first) == len(batch):
            return batch
        self._outboxes[action.name, operation].put_many(
            delivery for delivery in batch if first[delivery.item.branch.key] is not delivery
        )
        return list(first.values())

    async def _outcome(self, action: Action, operation: Operation, item: BatchItem) -> Outcome:
        try:
            [outcome] = await self._transact(action, operation, [item])
        except Exception as error:  # noqa: BLE001 - a handler may raise anything
            return _failure(item.branch, operation, error)
        return outcome

    async def _transact(self, action: Action, operation: Operation, items: list[BatchItem]) -> list[Outcome]:
        return await self._door.transact(
            lambda: settle(self._door.sql, operation, action.name, items, cancel_always=action.cancel_always),
            action.handlers[operation],
        )

    def _answer(self, outcomes: Iterable[tuple[Delivery, Outcome]]) -> None:
        for delivery, outcome in outcomes:
            delivery.replies.deliver(delivery.position, outcome)
            if delivery.span is not None:
                delivery.span.end(outcome)
            self.waiting -= 1
        if not self.waiting:
            self._idle.set()


def _nobody(*_: object) -> None:
    raise AssertionError("this plan calls no handler")


def _without_request(action: Action, call: pb.BranchCall) -> Understood:
    """For an operator who ends a branch whose payload nobody knows any more. Without a lane it goes alone."""
    if action.needs_request or call.payload or call.operation == pb.OPERATION_TRY:
        raise RefusalError("PAYLOAD_NEEDED", f"action {action.name!r} needs the payload of its branch")
    return dataclasses.replace(action, batched=frozenset()), None


def _with_result(branch: Branch, result: object) -> Branch:
    """A branch whose Try is to answer this."""
    data, content_type = payload.encode(result)
    return Branch(
        branch.gid,
        branch.branch_id,
        branch.action,
        branch.expires_at_ms,
        branch.attempt,
        try_result=data,
        try_result_content_type=content_type,
    )


def _key_fits(key: str) -> bool:
    size = len(key) if key.isascii() else len(key.encode())
    return 0 < size <= KEY_BYTES_MAX and "\0" not in key


def _invalid(message: str) -> Outcome:
    return Outcome(Code.FAILED, "INVALID_CALL", message, permanent=True)


def _failure(branch: Branch, operation: Operation, error: Exception) -> Outcome:
    """What a transaction's exception means to the caller."""
    match error:
        case Rejected() if operation is Operation.TRY:
            return rejected(error)
        case RefusalError():
            return error.outcome
        case _:
            return _handler_error(branch, operation, error)


def _handler_error(branch: Branch, operation: Operation, error: Exception) -> Outcome:
    reason = "DATABASE_UNAVAILABLE" if database_failed(error) else "HANDLER_ERROR"
    logger.error(
        "%s of %s failed: %s",
        operation.name,
        branch.action,
        reason,
        exc_info=error,
        extra={"gid": branch.gid, "branch_id": branch.branch_id, "action": branch.action},
    )
    # SQLAlchemy's own text carries the parameters, which may be nobody's business.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return Outcome(Code.FAILED, reason, f"{type(cause).__name__}: {cause}"[:_MESSAGE_CHARS_MAX])
