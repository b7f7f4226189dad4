"""How a plan's steps are executed on a connection, on the event loop or in a thread."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import greenlet_spawn

from tcc._internal.failpoint import failpoint
from tcc.barrier.failures import HandlerLeakError, may_pass
from tcc.barrier.guarded_connection import GuardedConnection
from tcc.barrier.plans import Invoke, Plan, Statement
from tcc.branch import BatchItem

T = TypeVar("T")

# Takes items and the transaction's connection; returns one result per item. A
# coroutine function with an AsyncEngine, a plain function with an Engine.
Handler: TypeAlias = Callable[[list[BatchItem], Any], Any]


def no_handler(*_: object) -> None:
    """Stand in for the handler of a plan that calls none."""
    raise AssertionError("this plan calls no handler")


class _Finished(NamedTuple):
    """The end of a plan with its result."""

    value: Any


def _advance(plan: Plan[T], came: Any) -> Statement | Invoke | _Finished:
    """Return the plan's next step. Only here does StopIteration mean the end of a plan."""
    try:
        return plan.send(came)
    except StopIteration as done:
        return _Finished(done.value)


async def drive_async(
    plan: Plan[T], guarded: GuardedConnection, connection: AsyncConnection, handler: Handler
) -> T:
    step = _advance(plan, None)
    while True:
        match step:
            case Statement(statement, parameters):
                result = await connection.execute(statement, parameters)
                came: Any = result.all() if result.returns_rows else ()
                failpoint("barrier.statement.after")
            case Invoke(items=items):
                failpoint("barrier.handler.before")
                await greenlet_spawn(guarded.before_handler)
                came = await _call_async(handler, items, connection)
                await greenlet_spawn(guarded.after_handler)
                failpoint("barrier.handler.after")
            case _Finished(value):
                return cast("T", value)
        step = _advance(plan, came)


def drive_sync(plan: Plan[T], guarded: GuardedConnection, handler: Handler) -> T:
    step = _advance(plan, None)
    while True:
        match step:
            case Statement(statement, parameters):
                result = guarded.execute(statement, parameters)
                came: Any = result.all() if result.returns_rows else ()
                failpoint("barrier.statement.after")
            case Invoke(items=items):
                failpoint("barrier.handler.before")
                guarded.before_handler()
                came = _call_sync(handler, items, guarded)
                guarded.after_handler()
                failpoint("barrier.handler.after")
            case _Finished(value):
                return cast("T", value)
        step = _advance(plan, came)


async def _call_async(handler: Handler, items: list[BatchItem], connection: AsyncConnection) -> Any:
    """Call the handler. Anything that it raises is raised as an ordinary exception."""
    try:
        return await handler(items, connection)
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the call itself was cancelled: the participant stops
        if may_pass(error):
            raise
        raise HandlerLeakError from error


def _call_sync(handler: Handler, items: list[BatchItem], connection: GuardedConnection) -> Any:
    """Call the handler. Anything that it raises is raised as an ordinary exception."""
    try:
        return handler(items, connection)
    except BaseException as error:
        if may_pass(error):
            raise
        raise HandlerLeakError from error
