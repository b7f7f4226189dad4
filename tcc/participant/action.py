"""Actions: the handlers of a participant in one uniform form.

Handlers may be per item or per batch, sync or async. Each becomes one handler per
operation that takes a list of items and returns one result per item.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tcc import payload
from tcc._internal.plain_text import plain_text
from tcc.barrier.decisions import BranchKind, CallResult, Operation, OutcomeCode
from tcc.barrier.driving import Handler
from tcc.barrier.plans import InvalidResultError
from tcc.branch import LOCAL_ACTION, BatchItem, Branch
from tcc.context import TransactionContext, handling_participant

NAME_BYTES_MAX = 128

# The method names of a handler class, per kind and operation: (per item, per batch).
HANDLER_NAMES = {
    BranchKind.TCC: {
        Operation.TRY: ("try_", "try_batch"),
        Operation.CONFIRM: ("confirm", "confirm_batch"),
        Operation.CANCEL: ("cancel", "cancel_batch"),
    },
    BranchKind.SAGA: {
        Operation.TRY: ("execute", "execute_batch"),
        Operation.CANCEL: ("compensate", "compensate_batch"),
    },
    BranchKind.MESSAGE: {Operation.CONFIRM: ("deliver", "deliver_batch")},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One action with a handler per operation."""

    name: str
    # The type of the payload.
    kind: type
    handlers: dict[Operation, Handler]
    # The operations that have a batch handler.
    batched: frozenset[Operation]
    branch_kind: BranchKind = BranchKind.TCC
    # True if its calls are never batched.
    goes_alone: bool = False
    # True if the kind is immutable: equal bytes may be decoded once for several calls.
    frozen: bool = False
    # True if the cancel or compensate handler also runs for an empty cancel.
    cancel_always: bool = False
    # True if Confirm and Cancel need the request; they are refused without it.
    needs_request: bool = True
    # May reject the first attempt of a Try before a transaction is opened; see Participant.action.
    screen: Callable[[Any], object] | None = None
    # May reject Trys of a batch before a transaction is opened; see Participant.action.
    screen_batch: Callable[[list[BatchItem]], Awaitable[Any]] | None = None
    # Gets the Trys that have succeeded and those that have not; see Participant.action.
    tried_batch: Callable[[list[BatchItem], list[BatchItem]], Awaitable[None]] | None = None
    # Returns the result of a Try before a transaction is opened; see Participant.action.
    try_result: Callable[[Branch, Any], object] | None = None
    # Returns the partition of a request; see Participant.action.
    partition_key: Callable[[Any], int] | None = None


class RefusalError(Exception):
    """No handler can run this call. A retry cannot help."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.result = CallResult(OutcomeCode.FAILED, reason, plain_text(message), permanent=True)


class Undecoded(NamedTuple):
    """A payload that is decoded only if its handler runs."""

    kind: type
    data: bytes
    content_type: str

    def decode(self) -> object:
        """Return the request. Raises RefusalError."""
        try:
            return payload.decode(self.kind, self.data, self.content_type)
        except payload.InvalidPayloadError as error:
            raise RefusalError("INVALID_PAYLOAD", str(error)) from error


def build_action(
    name: str,
    kind: type,
    handlers: object,
    *,
    participant: str,
    is_async: bool,
    branch_kind: BranchKind = BranchKind.TCC,
    cancel_always: bool = False,
    needs_request: bool = True,
) -> Action:
    """Return a handler object as an action.

    Raises TypeError if a handler is missing, has the wrong parameters, or is of the wrong kind:
    with an AsyncEngine handlers are `async def`, with an Engine they are plain `def`.
    """
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise ValueError(f"an action's name has 1 to {NAME_BYTES_MAX} bytes")
    if name == LOCAL_ACTION:
        raise ValueError(f"the name {LOCAL_ACTION!r} is reserved for an initiator's own branch: tx.local(…)")
    payload.check_kind(kind)
    chosen: dict[Operation, Handler] = {}
    batched: set[Operation] = set()
    for operation, (single_name, batch_name) in HANDLER_NAMES[branch_kind].items():
        single = _checked(name, handlers, single_name, ("branch", "request", "db"), is_async=is_async)
        batch = _checked(name, handlers, batch_name, ("items", "db"), is_async=is_async)
        optional = not needs_request and operation is Operation.CANCEL
        if batch is not None:
            batched.add(operation)
            chosen[operation] = _prepared(batch, participant, is_async=is_async, optional=optional)
        elif single is not None:
            chosen[operation] = _prepared(
                _one_item(single, is_async=is_async), participant, is_async=is_async, optional=optional
            )
        else:
            raise TypeError(f"action {name!r} has neither {single_name} nor {batch_name}")
    screen_batch = _checked(name, handlers, "screen_batch", ("items",), is_async=True)
    if screen_batch is not None and Operation.TRY not in batched:
        raise TypeError(f"screen_batch of action {name!r} needs a batch handler of the Try")
    return Action(
        name=name,
        kind=kind,
        handlers=chosen,
        batched=frozenset(batched),
        branch_kind=branch_kind,
        frozen=payload.is_frozen(kind),
        cancel_always=cancel_always,
        needs_request=needs_request,
        screen=_hook(name, handlers, "screen", branch_kind, ("request",)),
        screen_batch=screen_batch,
        tried_batch=_checked(name, handlers, "tried_batch", ("succeeded", "unsuccessful"), is_async=True),
        try_result=_hook(name, handlers, "try_result", branch_kind, ("branch", "request")),
        partition_key=_checked(name, handlers, "partition_key", ("request",), is_async=False),
    )


def refusing_action(
    name: str, refusal: RefusalError, *, is_async: bool, branch_kind: BranchKind = BranchKind.TCC
) -> Action:
    """Return an action whose handlers raise `refusal`, for an unknown action or an invalid payload.

    Calls that need no handler still succeed. In particular, the Cancel of a Try that was
    refused is an empty cancel.
    """

    def refuse(*_: object) -> None:
        raise refusal

    async def refuse_async(*_: object) -> None:
        raise refusal

    handler = refuse_async if is_async else refuse
    return Action(
        name=name,
        kind=bytes,
        handlers=dict.fromkeys(Operation, handler),
        batched=frozenset(),
        branch_kind=branch_kind,
        goes_alone=True,
    )


class Message:
    """A function as the handlers of a message's action."""

    def __init__(self, function: Callable[[Branch, Any, Any], Any]) -> None:
        self.deliver = function


def _hook(
    action: str, handlers: object, method: str, branch_kind: BranchKind, parameters: tuple[str, ...]
) -> Any:
    """Return a hook of the Try; None if there is none. A message has no Try."""
    if branch_kind is BranchKind.MESSAGE and getattr(handlers, method, None) is not None:
        raise TypeError(f"{method} of action {action!r} would never be called: a message has no Try")
    return _checked(action, handlers, method, parameters, is_async=False)


def _checked(
    action: str, handlers: object, method: str, parameters: tuple[str, ...], *, is_async: bool
) -> Any:
    """Return a method of the handler object, or None if there is none. Raises TypeError."""
    handler = getattr(handlers, method, None)
    if handler is None:
        return None
    if inspect.isfunction(handler):  # of @participant.message; a method is bound
        head = f"{'async def' if is_async else 'def'} {handler.__name__}({', '.join(parameters)})"
    else:
        head = f"{'async def' if is_async else 'def'} {method}(self, {', '.join(parameters)})"
    if not callable(handler):
        raise TypeError(f"{method} of action {action!r} is not callable; write: {head}")
    if _is_generator(handler) or inspect.iscoroutinefunction(handler) is not is_async:
        reason = ""
        if method in _DATABASE_METHODS:
            reason = f" because its database is {'an AsyncEngine' if is_async else 'a sync Engine'}"
        raise TypeError(
            f"{method} of action {action!r} must be {'async def' if is_async else 'plain def'}{reason}; "
            f"write: {head}"
        )
    try:
        inspect.signature(handler).bind(*parameters)
    except TypeError as error:
        raise TypeError(f"{method} of action {action!r}: {error}; write: {head}") from error
    except ValueError:
        pass  # a callable in C has no signature
    return handler


_DATABASE_METHODS = frozenset(
    name for by_operation in HANDLER_NAMES.values() for names in by_operation.values() for name in names
)


def _is_generator(handler: Any) -> bool:
    return inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler)


def _prepared(handler: Any, participant: str, *, is_async: bool, optional: bool) -> Handler:
    """Return a handler that gets decoded requests and knows its participant (`handling_participant`)."""

    async def prepared_async(items: Any, db: Any) -> Any:
        token = handling_participant.set(participant)
        try:
            return await handler(_decoded(items, optional=optional), db)
        finally:
            handling_participant.reset(token)

    def prepared(items: Any, db: Any) -> Any:
        token = handling_participant.set(participant)
        try:
            return _not_awaitable(handler(_decoded(items, optional=optional), db))
        finally:
            handling_participant.reset(token)

    return prepared_async if is_async else prepared


def _decoded(items: list[BatchItem], *, optional: bool) -> list[BatchItem]:
    """Return the items with their requests; `optional`: None instead of one that cannot be decoded.

    Such a Try is refused, so only the Cancel of a `cancel_always` action comes with it.
    """
    return [
        BatchItem(item.branch, _request(item.request, optional=optional))
        if isinstance(item.request, Undecoded)
        else item
        for item in items
    ]


def _request(undecoded: Undecoded, *, optional: bool) -> object:
    try:
        return undecoded.decode()
    except RefusalError:
        if optional:
            return None
        raise


def _one_item(handler: Any, *, is_async: bool) -> Handler:
    """Return a per-item handler as a batch handler for one item, run in the transaction's context."""

    async def one_async(items: Any, db: Any) -> list[object]:
        [(branch, request)] = items
        with _context(branch):
            return [await handler(branch, request, db)]

    def one(items: Any, db: Any) -> list[object]:
        [(branch, request)] = items
        with _context(branch):
            return [_not_awaitable(handler(branch, request, db))]

    return one_async if is_async else one


def _not_awaitable(result: object) -> object:
    """Return the result. Raises InvalidResultError for a coroutine, whose work was not done."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise InvalidResultError("a handler behind a sync Engine returned a coroutine; make it a plain def")
    return result


def _context(branch: Branch) -> TransactionContext:
    return TransactionContext(gid=branch.gid, branch_id=branch.branch_id, expires_at_ms=branch.expires_at_ms)
