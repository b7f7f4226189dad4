"""The execution of a participant's calls, in batches where possible.

An operation with a batch handler has a batcher: calls of any number of concurrent RPCs
that wait while a local transaction commits are handled in the next one. A hot row
therefore costs one lock and one commit per batch. An operation without a batch
handler runs its calls concurrently, each in its own transaction.

If a batch fails as a whole, each item is run alone, so that one invalid item does not
affect the others. A call that has started is finished even if its caller disconnects:
the work is idempotent, and the caller will repeat the call. One that has not started is
dropped when its turn comes: otherwise, a participant that is too slow for what it is asked
would do nothing but work that no caller waits for. A duplicate of a running
call opens no transaction: it gets the running call's result.

Every call gets exactly one result, whatever a handler does. Errors are caught around each
handler (tcc.barrier.executor) and around the checks before it. The tasks are
supervised: a bug in the SDK ends the service instead of leaving it partly running.
"""

import asyncio
import contextlib
import dataclasses
import logging
import operator
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from tcc import payload
from tcc._internal.batcher import Batcher
from tcc._internal.failpoint import failpoint
from tcc._internal.partitioned_batcher import PartitionedBatcher
from tcc.barrier.decisions import DECISIONS, BranchKind, CallResult, Operation, OutcomeCode
from tcc.barrier.driving import no_handler
from tcc.barrier.executor import BarrierExecutor, RowLockedError
from tcc.barrier.failures import FailureLog, error_text, is_database_unavailable
from tcc.barrier.guarded_connection import TransactionControlError, TransactionLostError
from tcc.barrier.plans import (
    InvalidResultError,
    Key,
    Plan,
    check_answers,
    digest_of,
    encoded_result,
    not_yet,
    rejected,
    settle,
)
from tcc.branch import BatchItem, Branch, Postponed, Rejected
from tcc.common.v1 import common_pb2 as common
from tcc.participant.action import NAME_BYTES_MAX, Action, RefusalError, Undecoded, refusing_action
from tcc.participant.sealing import Opener
from tcc.participant.supervision import TaskSupervisor
from tcc.participant.v1 import participant_pb2 as pb

if TYPE_CHECKING:
    from tcc.participant.tracing import CallSpan, ParticipantTracing

logger = logging.getLogger("tcc.participant")

T = TypeVar("T")

KEY_BYTES_MAX = 128
# The size of a response: many a client accepts 4 MiB. A result is smaller than that.
RESPONSE_BYTES = 2 * 2**20
# The contract's number has 32 bits.
_CREDIT_MAX = 2**31
# What an outcome has besides its result and its message.
_OUTCOME_BYTES = 512
_OPERATIONS = {int(operation): operation for operation in Operation}
_BRANCH_KINDS = {0: BranchKind.TCC} | {int(kind): kind for kind in BranchKind}
_CODES = {
    OutcomeCode.SUCCEEDED: common.OUTCOME_CODE_SUCCEEDED,
    OutcomeCode.REJECTED: common.OUTCOME_CODE_REJECTED,
    OutcomeCode.FAILED: common.OUTCOME_CODE_FAILED,
}
# What a call is, by its two numbers on the wire. Without a kind, a Check is of a SAGA and all others of TCC.
_CALLS = {
    (int(operation), number): (operation, kind)
    for operation in Operation
    for number, kind in (
        _BRANCH_KINDS | ({0: BranchKind.SAGA} if operation is Operation.CHECK else {})
    ).items()
    if (operation, None) in DECISIONS[kind]
}


# How long a postponed Try waits here. A coordinator that gets no answer at all takes the participant for
# unreachable, so this is well within its time limit for a call.
POSTPONED_MAX_S = 2.0


class Content(NamedTuple):
    """What calls have in common that differ in their branch alone, as those of a hot key do."""

    operation: Operation
    kind: BranchKind
    sealed: payload.Encoded
    digest: bytes
    # Known once an immutable request was decoded.
    action: Action | None = None
    request: Any = None
    # Of a first attempt at it, by the action's `screen`.
    rejection: CallResult | None = None


# Of a call: its operation, kind, action, payload and content type, and whether the initiator tried it.
ContentKey: TypeAlias = tuple[int, int, str, bytes, str, bool]
# Those of one request. A result: no such call is valid.
Contents: TypeAlias = dict[ContentKey, Content | CallResult]


# Of a call, in words and as a result.
TOO_MANY_WAIT = "too many calls are waiting; try again later"
_OVERLOADED = CallResult(OutcomeCode.FAILED, "OVERLOADED", TOO_MANY_WAIT)
# Of a call that was not run. Only its trace has it.
_CALLER_LEFT = CallResult(OutcomeCode.FAILED, "CALLER_LEFT", "the caller left before the call was run")


class OverloadedError(Exception):
    """The number of waiting calls has reached the participant's limit."""


class ResultReceiver(Protocol):
    """Takes the results of calls."""

    def deliver(self, position: int, outcome: CallResult) -> None:
        """Take the result of the call with this position."""

    def waits_for(self, position: int) -> bool:
        """Return whether the caller still waits for the result of the call with this position."""


class Replies:
    """The results of one RPC's calls, streamed as they arrive."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._is_left = False
        self._ready = [pb.ExecuteBranchesResponse()]
        # The size of the last response in `_ready`, about.
        self._size = 0
        self._some = asyncio.Event()
        # The last outcome as a message, and its size: many calls of a batch have the same.
        self._last: CallResult | None = None
        self._message = common.CallResult()
        self._message_size = 0

    def deliver(self, position: int, outcome: CallResult) -> None:
        if outcome is not self._last:
            self._last, self._message_size = outcome, outcome_bytes(outcome)
            self._message = common.CallResult()
            write_result(self._message, outcome)
        if self._size and self._size + self._message_size > RESPONSE_BYTES:
            self._ready.append(pb.ExecuteBranchesResponse())
            self._size = 0
        self._size += self._message_size
        self._message.index = position
        self._ready[-1].results.append(self._message)  # a copy
        self._missing -= 1
        self._some.set()

    def waits_for(self, _position: int) -> bool:
        return not self._is_left

    async def __aiter__(self) -> AsyncIterator[pb.ExecuteBranchesResponse]:
        """Yield batches of results until each call has its own."""
        try:
            while self._missing or self._size:
                await self._some.wait()
                self._some.clear()
                ready, self._ready, self._size = self._ready, [pb.ExecuteBranchesResponse()], 0
                for response in ready:
                    yield response
        finally:
            self._is_left = True


def outcome_bytes(outcome: CallResult) -> int:
    """Return about how many bytes a result has in a response."""
    return len(outcome.result) + len(outcome.message) + _OUTCOME_BYTES


def write_result(message: common.CallResult, outcome: CallResult) -> None:
    """Write a result into the empty `message`, field by field: keyword arguments would cost twice as much."""
    code, reason, text, result, content_type, permanent = outcome
    message.code = _CODES[code]
    if code is OutcomeCode.SUCCEEDED:
        message.result = result
        message.content_type = content_type
        return
    message.reason = reason
    message.message = text
    message.permanent = permanent


class Delivery(NamedTuple):
    """An accepted call and the receiver of its result."""

    item: BatchItem
    action: Action
    operation: Operation
    position: int
    replies: ResultReceiver
    # Two batches with calls of the same partition are never in flight at once.
    partition: int = 0
    # None if the call is not traced.
    span: "CallSpan | None" = None


class ParticipantWork:
    """Runs the calls of all RPCs. Call `start` before `submit`."""

    def __init__(
        self,
        executor: BarrierExecutor,
        actions: dict[str, Action],
        tasks: TaskSupervisor,
        *,
        batch_items_max: int,
        max_batches_in_flight: int,
        waiting_max: int,
        retention_ms: int,
        tracing: "ParticipantTracing | None" = None,
        opener: Opener | None = None,
    ) -> None:
        self._opener = opener
        self._retention_ms = retention_ms
        self._executor = executor
        self._tracing = tracing
        self._actions = actions
        self._tasks = tasks
        self._failures = FailureLog(logger)
        # The number of accepted calls without a result.
        self.waiting = 0
        self._waiting_max = waiting_max
        self._transactions = asyncio.Semaphore(executor.connections)
        # By operation: the running calls, each with the duplicates that arrived while it ran.
        self._running: list[dict[Key, list[Delivery]]] = [{} for _ in range(max(Operation) + 1)]
        self._idle = asyncio.Event()
        self._idle.set()
        # By operation and action.
        self._batchers: list[dict[str, Batcher[Delivery] | PartitionedBatcher[Delivery]]] = [
            {
                action.name: self._batcher(action, operation, batch_items_max, max_batches_in_flight)
                for action in actions.values()
                if operation in action.batched
            }
            for operation in (None, *Operation)
        ]
        # By action: Trys that are screened in batches of their own. So no transaction waits for that.
        self._screens: dict[str, Batcher[Delivery]] = {
            action.name: self._screen(action, action.screen_batch, batch_items_max, max_batches_in_flight)
            for action in actions.values()
            if action.screen_batch is not None
        }

    def _screen(
        self,
        action: Action,
        screen: Callable[[list[BatchItem]], Awaitable[object]],
        items_max: int,
        max_in_flight: int,
    ) -> Batcher[Delivery]:
        async def send(batch: list[Delivery]) -> None:
            if wanted := self._wanted(batch):
                self._batchers[Operation.TRY][action.name].put_many(await self._screen_batch(screen, wanted))

        return Batcher(send, items_max=items_max, max_in_flight=max_in_flight)

    def _batcher(
        self, action: Action, operation: Operation, items_max: int, max_in_flight: int
    ) -> Batcher[Delivery] | PartitionedBatcher[Delivery]:
        async def send(batch: list[Delivery]) -> None:
            await self._settle_batch(action, operation, batch)

        if action.partition_key is None:
            return Batcher(send, items_max=items_max, max_in_flight=max_in_flight)
        return PartitionedBatcher(
            send,
            partition_key=lambda delivery: delivery.partition,
            items_max=items_max,
            max_in_flight=max_in_flight,
        )

    def start(self) -> None:
        """Start the batchers. When the supervisor stops them, unfinished transactions are rolled back."""
        for operation in Operation:
            for action_name, batcher in self._batchers[operation].items():
                self._tasks.start(batcher.run(), f"{operation.name} of {action_name}", endless=True)
        for action_name, screen in self._screens.items():
            self._tasks.start(screen.run(), f"screening of {action_name}", endless=True)

    async def drain(self, timeout_s: float) -> None:
        """Wait until all submitted calls are finished, at most `timeout_s` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    def submit(
        self, calls: Sequence[pb.BranchCall], replies: ResultReceiver, *, only: Operation | None = None
    ) -> None:
        """Accept calls; their results go to `replies`. `only`: the only operation that the RPC allows.

        Raises OverloadedError if too many calls are waiting; then none is accepted.
        """
        if self.waiting + len(calls) > self._waiting_max:
            raise OverloadedError
        contents: Contents = {}
        for index, call in enumerate(calls):
            outcome = self._submit_one(call, index, replies, only, contents)
            if outcome is not None:
                replies.deliver(index, outcome)

    def submit_items(self, items: Iterable[pb.StreamBranchesItem], replies: ResultReceiver) -> None:
        """Accept the calls of a stream; their results go to `replies`, by id.

        A call for which there is no room has a result that says so.
        """
        contents: Contents = {}
        for item in items:
            outcome: CallResult | None = _OVERLOADED
            if self.waiting < self._waiting_max:
                outcome = self._submit_one(item.call, item.id, replies, None, contents)
            if outcome is not None:
                replies.deliver(item.id, outcome)

    @asynccontextmanager
    async def transaction_slot(self) -> AsyncIterator[None]:
        """Hold one of the slots for open transactions, waiting for a free one."""
        async with self._transactions:
            yield

    async def read(self, plan: Callable[[], Plan[T]]) -> T:
        """Run a plan that calls no handler, in a free slot. Raises DBAPIError."""
        async with self._transactions:
            return await self._executor.transact(plan, no_handler)

    @property
    def credit(self) -> int:
        """How many calls of one stream may be unanswered."""
        return min(self._waiting_max, _CREDIT_MAX)

    @property
    def dialect_name(self) -> str:
        return self._executor.dialect_name

    @property
    def action_names(self) -> list[str]:
        """The names of the actions, in order."""
        return sorted(self._actions)

    def _submit_one(
        self,
        call: pb.BranchCall,
        index: int,
        replies: ResultReceiver,
        only: Operation | None,
        contents: Contents,
    ) -> CallResult | None:
        """Accept a call; return its result if that is certain without a transaction."""
        # A method of one operation needs no further one in the call.
        number, name = call.operation or only or 0, call.action
        key = number, call.kind, name, call.payload, call.content_type, call.tried_by_initiator
        content = contents.get(key)
        if content is None:
            contents[key] = content = _content(key, only)
        if isinstance(content, CallResult):
            return content
        gid, branch_id = call.gid, call.branch_id
        if not _keys_fit(gid, branch_id):
            return _INVALID_KEY
        attempt = call.attempt
        if content.rejection is not None and not attempt:
            return content.rejection
        operation, kind = content.operation, content.kind
        branch = Branch(gid, branch_id, name, call.expires_at_ms, attempt, False, b"", "", content.digest)
        try:
            prepared = self._prepare(branch, content, key, contents)
            if isinstance(prepared, CallResult):
                return prepared
            action, item, partition = prepared
        except RefusalError as error:
            if operation is Operation.TRY:
                return self._failure(branch, operation, error)
            # The barrier may not need the handler.
            action = refusing_action(name, error, is_async=self._executor.is_async, branch_kind=kind)
            item, partition = BatchItem(branch, None), 0
        except Rejected as no:
            return rejected(no)
        except BaseException as error:  # noqa: BLE001 - a handler class may raise anything
            return self._failure(branch, operation, error)
        span = None if self._tracing is None else self._tracing.start(call, operation)
        self._enqueue(Delivery(item, action, operation, index, replies, partition, span))
        return None

    def _prepare(
        self, branch: Branch, content: Content, key: ContentKey, contents: Contents
    ) -> tuple[Action, BatchItem, int] | CallResult:
        """Return a call's action, item and partition, and call the action's hooks. Raises their errors.

        A result: the action rejects the Try.

        Only a Try and a partitioned batch need the payload now. Otherwise it is decoded when the
        barrier has decided that the handler runs.
        """
        operation, action, request = content.operation, content.action, content.request
        if action is None:
            if operation is Operation.CHECK:
                return _CHECK, BatchItem(branch, None), 0
            action, sealed = self._action(branch.action, content.kind), content.sealed
            if sealed.content_type == payload.UNKNOWN:
                return _without_request(action, sealed, operation), BatchItem(branch, None), 0
            plain = sealed if self._opener is None else self._opener.open(branch, sealed)
            undecoded = Undecoded(action.kind, *plain)
            if operation is not Operation.TRY and action.partition_key is None:
                return action, BatchItem(branch, undecoded), 0
            request = undecoded.decode()
            if action.frozen and self._opener is None:  # a payload is sealed for one branch
                contents[key] = content = content._replace(action=action, request=request)
        if operation is Operation.TRY:
            # A repeated Try may have taken effect before.
            if action.screen is not None and not branch.attempt:
                screened = action.screen(request)
                if isinstance(screened, Rejected):
                    rejection = rejected(screened)
                    if content.action is not None:  # its request is shared
                        contents[key] = content._replace(rejection=rejection)
                    return rejection
                if screened is not None:
                    raise InvalidResultError(
                        f"screen returns None or a Rejected, not {type(screened).__name__}"
                    )
            if action.try_result is not None:
                branch = _with_result(branch, action.try_result(branch, request))
        partition = 0 if action.partition_key is None else operator.index(action.partition_key(request))
        return action, BatchItem(branch, request), partition

    def _action(self, name: str, kind: BranchKind) -> Action:
        """Return the action of a call. Raises RefusalError."""
        action = self._actions.get(name)
        if action is None:
            raise RefusalError("UNKNOWN_ACTION", f"this participant has no action {name!r}")
        if action.branch_kind is not kind:
            raise RefusalError(
                "WRONG_KIND", f"action {name!r} is declared as {action.branch_kind.name}, not as {kind.name}"
            )
        return action

    def _enqueue(self, delivery: Delivery) -> None:
        self.waiting += 1
        self._idle.clear()
        operation, key = delivery.operation, delivery.item.branch.key
        running = self._running[operation]
        copies = running.get(key)
        if copies is not None:
            copies.append(delivery)
            return
        running[key] = []
        self._run(delivery)

    def _run(self, delivery: Delivery) -> None:
        action, operation = delivery.action, delivery.operation
        batcher = self._batchers[operation].get(action.name)
        if operation is Operation.TRY and action.name in self._screens:
            self._screens[action.name].put(delivery)
        elif batcher is not None and not action.goes_alone:
            batcher.put(delivery)
        else:
            self._tasks.start(self._settle_alone(delivery), f"{operation.name} of {action.name}")

    def _wanted(self, batch: list[Delivery]) -> list[Delivery]:
        """Return the calls whose callers still wait, and forget the others: they have had no effect."""
        wanted = [delivery for delivery in batch if delivery.replies.waits_for(delivery.position)]
        if len(wanted) < len(batch):
            for delivery in batch:
                if not delivery.replies.waits_for(delivery.position):
                    self._forget(delivery)
        return wanted

    def _forget(self, delivery: Delivery) -> None:
        self._deliver(delivery, _CALLER_LEFT)
        for copy in self._running[delivery.operation].pop(delivery.item.branch.key):
            self.waiting -= 1
            self._enqueue(copy)
        if not self.waiting:
            self._idle.set()

    async def _settle_alone(self, delivery: Delivery) -> None:
        if delivery.span is not None:
            delivery.span.enter()
        async with self._transactions:
            if not self._wanted([delivery]):
                return
            outcome = await self._outcome(delivery)
        answers = [(delivery, outcome)]
        await self._report_tried(delivery.action, answers)
        self._answer(answers)

    async def _settle_batch(self, action: Action, operation: Operation, batch: list[Delivery]) -> None:
        """Run a batch in one transaction; if that fails, run each call in its own."""
        try:
            async with self._transactions:
                batch = self._wanted(batch)
                if not batch:
                    return
                outcomes = await self._transact_batch(action, operation, batch)
        except Exception as error:  # noqa: BLE001 - a handler may raise anything
            if len(batch) > 1 and not is_database_unavailable(error):
                if not isinstance(error, Rejected):
                    logger.warning(
                        "a batch of %d %s calls of action %s failed; each call is repeated alone: %s",
                        len(batch),
                        operation.name,
                        action.name,
                        error_text(error),
                        extra={"action": action.name, "operation": operation.name},
                    )
                await asyncio.gather(*(self._settle_alone(delivery) for delivery in batch))
                return
            outcomes = [self._failure(delivery.item.branch, operation, error) for delivery in batch]
        answers = list(zip(batch, outcomes, strict=True))
        await self._report_tried(action, answers)
        self._answer(answers)

    async def _screen_batch(
        self, screen: Callable[[list[BatchItem]], Awaitable[object]], batch: list[Delivery]
    ) -> list[Delivery]:
        """Answer the Trys that the action rejects or cannot screen; return the others."""
        items = [delivery.item for delivery in batch]
        try:
            found = check_answers(await screen(items), len(items), Operation.TRY)
        except Exception as error:  # noqa: BLE001 - a participant's code may raise anything
            self._answer((each, self._failure(each.item.branch, each.operation, error)) for each in batch)
            return []
        if all(no is None for no in found):
            return batch
        pairs = list(zip(batch, found, strict=True))
        self._answer((each, rejected(no)) for each, no in pairs if isinstance(no, Rejected))
        return [each for each, no in pairs if not isinstance(no, Rejected)]

    async def _report_tried(
        self, action: Action, answers: Sequence[tuple[Delivery, CallResult | Postponed]]
    ) -> None:
        """Notify the action of the ends of Trys. Their results do not depend on it."""
        if action.tried_batch is None:
            return
        succeeded: list[BatchItem] = []
        unsuccessful: list[BatchItem] = []
        for delivery, outcome in answers:
            if delivery.operation is Operation.TRY and isinstance(outcome, CallResult):
                ended = succeeded if outcome.code is OutcomeCode.SUCCEEDED else unsuccessful
                ended.append(delivery.item)
        try:
            await action.tried_batch(succeeded, unsuccessful)
        except Exception:
            logger.exception("tried_batch of action %s failed", action.name)

    async def _run_again(self, delivery: Delivery, postponed: Postponed) -> None:
        """Run a postponed Try again when it need not wait any longer, or leave that to the coordinator."""
        try:
            async with asyncio.timeout(POSTPONED_MAX_S):
                await postponed.until()
        except TimeoutError:
            outcome = not_yet(postponed)
        except Exception as error:  # noqa: BLE001 - a participant's code may raise anything
            outcome = self._failure(delivery.item.branch, delivery.operation, error)
        else:
            self._run(delivery)
            return
        self._answer([(delivery, outcome)])

    async def _transact_batch(
        self, action: Action, operation: Operation, batch: list[Delivery]
    ) -> list[CallResult | Postponed]:
        items = [delivery.item for delivery in batch]
        spans = self._tracing and [delivery.span for delivery in batch if delivery.span is not None]
        if not spans:
            return await self._transact(action, operation, items)
        assert self._tracing is not None, "only a traced participant has spans"
        with self._tracing.together(action.name, operation, spans):
            return await self._transact(action, operation, items)

    async def _outcome(self, delivery: Delivery) -> CallResult | Postponed:
        try:
            [outcome] = await self._transact(delivery.action, delivery.operation, [delivery.item])
        except Exception as error:  # noqa: BLE001 - a handler may raise anything
            return self._failure(delivery.item.branch, delivery.operation, error)
        return outcome

    async def _transact(
        self, action: Action, operation: Operation, items: list[BatchItem]
    ) -> list[CallResult | Postponed]:
        plan = partial(
            settle,
            self._executor.sql,
            operation,
            # A Check's action is not registered: its name is the branch's.
            items[0].branch.action,
            items,
            kind=action.branch_kind,
            cancel_always=action.cancel_always,
            retention_ms=self._retention_ms,
        )
        if operation is Operation.CHECK:
            failpoint("participant.check.before")
            outcomes = await self._executor.transact_briefly(plan)
            failpoint("participant.check.after")
            return outcomes
        return await self._executor.transact(plan, action.handlers[operation])

    def _failure(self, branch: Branch, operation: Operation, error: BaseException) -> CallResult:
        """Return the result for an exception, and log a failure."""
        try:
            if isinstance(error, Rejected) and operation is Operation.TRY:
                return rejected(error)
            outcome = _failed_outcome(error)
        except Exception as second:  # noqa: BLE001 - an exception of a handler may have broken attributes
            text = f"{type(error).__name__} (its text is not available: {type(second).__name__})"
            outcome = CallResult(OutcomeCode.FAILED, "HANDLER_ERROR", text)
        self._failures.record(branch, operation, outcome.reason, outcome.message, error)
        return outcome

    def _answer(self, outcomes: Iterable[tuple[Delivery, CallResult | Postponed]]) -> None:
        for delivery, outcome in outcomes:
            if isinstance(outcome, Postponed):
                self._tasks.start(self._run_again(delivery, outcome), "a postponed Try")
                continue
            self._deliver(delivery, outcome)
            branch = delivery.item.branch
            copies = self._running[delivery.operation].pop(branch.key)
            for copy in copies:
                if copy.item.branch.digest == branch.digest:
                    self._deliver(copy, outcome)
                else:  # the same branch with other content: the barrier decides
                    self.waiting -= 1
                    self._enqueue(copy)
        if not self.waiting:
            self._idle.set()

    def _deliver(self, delivery: Delivery, outcome: CallResult) -> None:
        if self._opener is not None and outcome.code is OutcomeCode.SUCCEEDED:
            outcome = self._opener.seal_result(delivery.item.branch, outcome)
        delivery.replies.deliver(delivery.position, outcome)
        if delivery.span is not None:
            delivery.span.end(outcome)
        self.waiting -= 1


def _content(key: ContentKey, only: Operation | None) -> Content | CallResult:
    """Return what such calls have in common, or the result of an invalid one."""
    number, kind_number, action, data, content_type, tried_by_initiator = key
    if number not in _OPERATIONS or (only is not None and number != only):
        return invalid_call("the operation is missing, unknown or not that of the method")
    if len(action.encode()) > NAME_BYTES_MAX:
        return _INVALID_KEY
    known = _CALLS.get((number, kind_number))
    if known is None:
        name = _OPERATIONS[number].name
        return _wrong_kind(f"{name} is no call of a branch of kind {_kind_name(kind_number)}")
    operation, kind = known
    # An initiator's own Try stores none, so its row is not compared. A Confirm or Cancel that only claims
    # that the initiator tried is: what its sender stored may have been rewritten.
    is_initiators = operation is Operation.TRY and tried_by_initiator
    # A Check of a local change brings the fingerprint that its row has.
    is_empty = operation is Operation.CHECK and not data
    has_none = is_initiators or is_empty or content_type == payload.UNKNOWN
    digest = b"" if has_none else digest_of(action, data, content_type)
    return Content(operation, kind, payload.Encoded(data, content_type), digest)


def _without_request(action: Action, content: payload.Encoded, operation: Operation) -> Action:
    """Return the action for an operator's call without a payload, which is never batched."""
    if action.needs_request or content.data or operation is Operation.TRY:
        raise RefusalError("PAYLOAD_NEEDED", f"action {action.name!r} needs the payload of its branch")
    return dataclasses.replace(action, goes_alone=True)


def _with_result(branch: Branch, result: object) -> Branch:
    """Return a branch with the result that its Try will have."""
    data, content_type = encoded_result(result)
    gid, branch_id, action, expires_at_ms, attempt, tried, _, _, digest = branch
    # Not with `_replace`, which takes three times as long: one is made for each Try of a hot key.
    return Branch(gid, branch_id, action, expires_at_ms, attempt, tried, data, content_type, digest)


def _keys_fit(gid: str, branch_id: str) -> bool:
    both = gid + branch_id
    size, branch_size = len(gid), len(branch_id)
    if not both.isascii():
        size, branch_size = len(gid.encode()), len(branch_id.encode())
    return 0 < size <= KEY_BYTES_MAX and 0 < branch_size <= KEY_BYTES_MAX and "\0" not in both


# A Check needs no handler.
_CHECK = Action(
    name="check",
    kind=bytes,
    handlers={},
    batched=frozenset(),
    branch_kind=BranchKind.SAGA,
    goes_alone=True,
)


def _wrong_kind(message: str) -> CallResult:
    return CallResult(OutcomeCode.FAILED, "WRONG_KIND", message, permanent=True)


def _kind_name(number: int) -> str:
    kind = _BRANCH_KINDS.get(number)
    return str(number) if kind is None else kind.name


def invalid_call(message: str) -> CallResult:
    """Return the result of a call that is malformed."""
    return CallResult(OutcomeCode.FAILED, "INVALID_CALL", message, permanent=True)


_INVALID_KEY = invalid_call(f"gid and branch_id have 1 to {KEY_BYTES_MAX} bytes and no NUL")


def _failed_outcome(error: BaseException) -> CallResult:
    match error:
        case RefusalError() | TransactionLostError() | RowLockedError():
            return error.result
        case InvalidResultError():
            return CallResult(OutcomeCode.FAILED, "INVALID_RESULT", error_text(error), permanent=True)
        case TransactionControlError():
            return CallResult(OutcomeCode.FAILED, "HANDLER_ERROR", error_text(error), permanent=True)
        case _:
            reason = "DATABASE_UNAVAILABLE" if is_database_unavailable(error) else "HANDLER_ERROR"
            return CallResult(OutcomeCode.FAILED, reason, error_text(error))
