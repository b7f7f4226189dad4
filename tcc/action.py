"""Actions: the handlers that a participant's author writes, made uniform.

Whatever is written per item or per batch, sync or async, becomes one handler per
operation that takes a list of items and answers one thing per item.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tcc import payload
from tcc.barrier import Code, Operation, Outcome
from tcc.barrier_door import Handler
from tcc.branch import Branch
from tcc.context import TransactionContext

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
    lane: Callable[[Any], int] | None = None


class RefusalError(Exception):
    """There is no handler that could run this call. Repeating it cannot help."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.outcome = Outcome(Code.FAILED, reason, message, permanent=True)


def build_action(
    name: str,
    kind: type,
    handlers: object,
    *,
    is_async: bool,
    cancel_always: bool = False,
    needs_request: bool = True,
) -> Action:
    """An author's object as an action.

    Raises TypeError where a handler is missing or is of the wrong colour: behind
    an AsyncEngine handlers are `async def`, behind an Engine plain `def`.
    """
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise ValueError(f"an action's name has 1 to {NAME_BYTES_MAX} bytes")
    payload.check_kind(kind)
    chosen: dict[Operation, Handler] = {}
    batched: set[Operation] = set()
    for operation, (single_name, batch_name) in HANDLER_NAMES.items():
        batch, single = getattr(handlers, batch_name, None), getattr(handlers, single_name, None)
        handler = batch or single
        if handler is None:
            raise TypeError(f"action {name!r} has neither {single_name} nor {batch_name}")
        _check_colour(name, handler, is_async=is_async)
        if batch is not None:
            batched.add(operation)
        chosen[operation] = handler if batch is not None else _one_item(handler, is_async=is_async)
    return Action(
        name=name,
        kind=kind,
        handlers=chosen,
        batched=frozenset(batched),
        frozen=payload.is_frozen(kind),
        cancel_always=cancel_always,
        needs_request=needs_request,
        screen=getattr(handlers, "screen", None),
        try_result=getattr(handlers, "try_result", None),
        lane=getattr(handlers, "lane", None),
    )


def refusing_action(name: str, reason: str, message: str, *, is_async: bool) -> Action:
    """An action that can run nothing, for a call whose action or payload is unusable.

    The barrier still answers what it can answer without a handler: above all,
    the Cancel of a Try that was itself refused is an empty cancel and succeeds.
    """

    def refuse(*_: object) -> None:
        raise RefusalError(reason, message)

    async def refuse_async(*_: object) -> None:
        raise RefusalError(reason, message)

    handler = refuse_async if is_async else refuse
    return Action(name=name, kind=bytes, handlers=dict.fromkeys(Operation, handler), batched=frozenset())


def _check_colour(name: str, handler: Any, *, is_async: bool) -> None:
    if inspect.iscoroutinefunction(handler) is not is_async:
        wanted, engine = ("async def", "an AsyncEngine") if is_async else ("plain def", "a sync Engine")
        raise TypeError(f"{handler.__name__} of action {name!r} must be {wanted}: its database is {engine}")


def _one_item(handler: Any, *, is_async: bool) -> Handler:
    """A per-item handler as one that takes a list of one. It runs in its transaction's context."""

    async def one_async(items: Any, db: Any) -> list[object]:
        [(branch, request)] = items
        with _context(branch):
            return [await handler(branch, request, db)]

    def one(items: Any, db: Any) -> list[object]:
        [(branch, request)] = items
        with _context(branch):
            return [handler(branch, request, db)]

    return one_async if is_async else one


def _context(branch: Branch) -> TransactionContext:
    return TransactionContext(gid=branch.gid, branch_id=branch.branch_id, expires_at_ms=branch.expires_at_ms)
