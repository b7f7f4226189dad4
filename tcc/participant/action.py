"""Actions: the handlers that a participant's author writes, made uniform.

Whatever is written per item or per batch, sync or async, becomes one handler per
operation that takes a list of items and answers one thing per item.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tcc import payload
from tcc._internal.plain_text import plain_text
from tcc.barrier.decisions import CallResult, Operation, OutcomeCode
from tcc.barrier.executor import Handler
from tcc.barrier.plans import InvalidResultError
from tcc.branch import BatchItem, Branch
from tcc.context import TransactionContext, handling_participant

NAME_BYTES_MAX = 128

# The names that an author's class may define, per operation: (per item, per batch).
HANDLER_NAMES = {
    Operation.TRY: ("try_", "try_batch"),
    Operation.CONFIRM: ("confirm", "confirm_batch"),
    Operation.CANCEL: ("cancel", "cancel_batch"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One action with a handler per operation."""

    name: str
    kind: type
    handlers: dict[Operation, Handler]
    # The operations whose handler takes more than one item.
    batched: frozenset[Operation]
    # Its calls go one by one, whatever its handlers take.
    goes_alone: bool = False
    # Requests are values: the same bytes may be decoded once for several calls.
    frozen: bool = False
    # The handler's cancel runs on an empty cancel too.
    cancel_always: bool = False
    # Confirm and Cancel want the request; without it they are refused.
    needs_request: bool = True
    # Says no to a Try before any transaction is opened; see Participant.action.
    screen: Callable[[Branch, Any], None] | None = None
    # Names what a Try will answer, before any transaction is opened; see Participant.action.
    try_result: Callable[[Branch, Any], object] | None = None
    # Which requests a batch may not race; see Participant.action.
    partition_key: Callable[[Any], int] | None = None


class RefusalError(Exception):
    """There is no handler that could run this call. Repeating it cannot help."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.result = CallResult(OutcomeCode.FAILED, reason, plain_text(message), permanent=True)


class Undecoded(NamedTuple):
    """A payload whose decoding waits until the handler is to run."""

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
    cancel_always: bool = False,
    needs_request: bool = True,
) -> Action:
    """Return an author's object as an action.

    Raises TypeError where a handler is missing, has other parameters than it is called with, or is
    of the wrong kind: behind an AsyncEngine handlers are `async def`, behind an Engine plain `def`.
    """
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise ValueError(f"an action's name has 1 to {NAME_BYTES_MAX} bytes")
    payload.check_kind(kind)
    chosen: dict[Operation, Handler] = {}
    batched: set[Operation] = set()
    for operation, (single_name, batch_name) in HANDLER_NAMES.items():
        single = _checked(name, handlers, single_name, ("branch", "request", "db"), is_async=is_async)
        batch = _checked(name, handlers, batch_name, ("items", "db"), is_async=is_async)
        if batch is not None:
            batched.add(operation)
            chosen[operation] = _prepared(batch, participant, is_async=is_async)
        elif single is not None:
            chosen[operation] = _prepared(
                _one_item(single, is_async=is_async), participant, is_async=is_async
            )
        else:
            raise TypeError(f"action {name!r} has neither {single_name} nor {batch_name}")
    return Action(
        name=name,
        kind=kind,
        handlers=chosen,
        batched=frozenset(batched),
        frozen=payload.is_frozen(kind),
        cancel_always=cancel_always,
        needs_request=needs_request,
        screen=_checked(name, handlers, "screen", ("branch", "request"), is_async=False),
        try_result=_checked(name, handlers, "try_result", ("branch", "request"), is_async=False),
        partition_key=_checked(name, handlers, "partition_key", ("request",), is_async=False),
    )


def refusing_action(name: str, refusal: RefusalError, *, is_async: bool) -> Action:
    """Return an action that can run nothing, for a call whose action or payload is unusable.

    The barrier still answers what it can answer without a handler: above all,
    the Cancel of a Try that was itself refused is an empty cancel and succeeds.
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
        goes_alone=True,
    )


def _checked(
    action: str, handlers: object, method: str, parameters: tuple[str, ...], *, is_async: bool
) -> Any:
    """Return a method of the author's object, or None if there is none. Raises TypeError."""
    handler = getattr(handlers, method, None)
    if handler is None:
        return None
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
        pass  # a callable in C has no signature that could be read
    return handler


_DATABASE_METHODS = frozenset(name for names in HANDLER_NAMES.values() for name in names)


def _is_generator(handler: Any) -> bool:
    return inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler)


def _prepared(handler: Any, participant: str, *, is_async: bool) -> Handler:
    """A handler that gets its requests decoded, and whose code knows whose handler it is."""

    async def prepared_async(items: Any, db: Any) -> Any:
        token = handling_participant.set(participant)
        try:
            return await handler(_decoded(items), db)
        finally:
            handling_participant.reset(token)

    def prepared(items: Any, db: Any) -> Any:
        token = handling_participant.set(participant)
        try:
            return _not_awaitable(handler(_decoded(items), db))
        finally:
            handling_participant.reset(token)

    return prepared_async if is_async else prepared


def _decoded(items: list[BatchItem]) -> list[BatchItem]:
    return [
        BatchItem(item.branch, item.request.decode()) if isinstance(item.request, Undecoded) else item
        for item in items
    ]


def _one_item(handler: Any, *, is_async: bool) -> Handler:
    """Return a per-item handler as one that takes a list of one, run in its transaction's context."""

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
    """Raise InvalidResultError for a coroutine: the work of its handler was not done."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise InvalidResultError("a handler behind a sync Engine returned a coroutine; make it a plain def")
    return result


def _context(branch: Branch) -> TransactionContext:
    return TransactionContext(gid=branch.gid, branch_id=branch.branch_id, expires_at_ms=branch.expires_at_ms)
