"""A plan in a local transaction: its statements one after the other, and the call of the handler."""

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import Engine

from tcc._internal.failpoint import failpoint
from tcc.barrier.guarded_connection import GuardedConnection
from tcc.barrier.plans import Invoke, Plan
from tcc.branch import BatchItem

T = TypeVar("T")

# Takes items and the transaction's connection; returns one result per item. A
# coroutine function with an AsyncEngine, a plain function with an Engine.
Handler: TypeAlias = Callable[[list[BatchItem], Any], Any]
# Calls a handler, of whichever kind, and returns what it returned.
HandlerCall: TypeAlias = Callable[[list[BatchItem], GuardedConnection], Any]


def no_handler(*_: object) -> None:
    """Stand in for the handler of a plan that calls none."""
    raise AssertionError("this plan calls no handler")


class LocalTransaction(Generic[T]):
    """One run of a plan in a transaction of its own. Blocks; the caller decides where it may."""

    def __init__(self, engine: Engine, plan: Plan[T], *, lock_wait_ms: int | None = None) -> None:
        self._engine = engine
        self._plan = plan
        self._lock_wait_ms = lock_wait_ms
        self._guarded: GuardedConnection | None = None

    def run(self, call: HandlerCall) -> T:
        """Begin, run the plan, commit, and return the plan's result."""
        failpoint("barrier.begin.before")
        self._guarded = guarded = GuardedConnection.begun(self._engine)
        if self._lock_wait_ms is not None:
            guarded.limit_lock_wait(self._lock_wait_ms)
        value = run_plan(self._plan, guarded, call)
        failpoint("barrier.commit.before")
        guarded.finish()
        failpoint("barrier.commit.after")
        return value

    def abandon(self) -> None:
        """Roll back what was not committed, and return the connection to the pool."""
        if self._guarded is not None:
            self._guarded.abandon()


def run_plan(plan: Plan[T], connection: GuardedConnection, call: HandlerCall) -> T:
    """Execute the plan's statements, call the handler where it says so, and return its result."""
    came: Any = None
    while True:
        try:
            step = plan.send(came)
        except StopIteration as done:  # only here does it mean the end of a plan
            return done.value  # type: ignore[no-any-return] # a generator's
        if isinstance(step, Invoke):
            failpoint("barrier.handler.before")
            connection.before_handler()
            came = call(step.items, connection)
            connection.after_handler()
            failpoint("barrier.handler.after")
        else:
            came = connection.run(step.text, step.parameters)
            failpoint("barrier.statement.after")
