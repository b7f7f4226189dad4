"""The steps of a plan in a transaction: statements at once, and the caller's turn at the handler."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Engine

from tcc._internal.failpoint import failpoint
from tcc.barrier.guarded_connection import GuardedConnection
from tcc.barrier.plans import Invoke, Plan
from tcc.branch import BatchItem

# Takes items and the transaction's connection; returns one result per item. A
# coroutine function with an AsyncEngine, a plain function with an Engine.
Handler: TypeAlias = Callable[[list[BatchItem], Any], Any]


def no_handler(*_: object) -> None:
    """Stand in for the handler of a plan that calls none."""
    raise AssertionError("this plan calls no handler")


class Finished(NamedTuple):
    """The end of a plan with its result."""

    value: Any


class LocalTransaction:
    """One run of a plan in a transaction of its own. Blocks; the caller decides where it may.

    The caller calls the handler, between two calls of `advance`, so that each executor can
    do that in its own way and everything else is done at once.
    """

    def __init__(self, engine: Engine, plan: Plan[Any], *, lock_wait_ms: int | None = None) -> None:
        self._engine = engine
        self._plan = plan
        self._lock_wait_ms = lock_wait_ms
        self._guarded: GuardedConnection | None = None

    @property
    def connection(self) -> GuardedConnection:
        """The transaction's connection, once it has begun."""
        assert self._guarded is not None, "nothing has begun"
        return self._guarded

    def advance(self, came: Any) -> Invoke | Finished:
        """Run the plan up to its call of the handler, or to its end, and then commit.

        `came`: what the handler returned; None in the first call, which begins the transaction.
        """
        if self._guarded is None:
            failpoint("barrier.begin.before")
            self._guarded = GuardedConnection.begun(self._engine)
            if self._lock_wait_ms is not None:
                self._guarded.limit_lock_wait(self._lock_wait_ms)
        else:
            self._guarded.after_handler()
            failpoint("barrier.handler.after")
        step = run_statements(self._plan, self._guarded, came)
        if isinstance(step, Invoke):
            failpoint("barrier.handler.before")
            self._guarded.before_handler()
        else:
            failpoint("barrier.commit.before")
            self._guarded.finish()
            failpoint("barrier.commit.after")
        return step

    def abandon(self) -> None:
        """Roll back what was not committed, and return the connection to the pool."""
        if self._guarded is not None:
            self._guarded.abandon()


def run_statements(plan: Plan[Any], connection: GuardedConnection, came: Any) -> Invoke | Finished:
    """Execute the plan's statements up to its call of the handler or its end."""
    while True:
        try:
            step = plan.send(came)
        except StopIteration as done:  # only here does it mean the end of a plan
            return Finished(done.value)
        if isinstance(step, Invoke):
            return step
        came = connection.run(step.text, step.parameters)
        failpoint("barrier.statement.after")
