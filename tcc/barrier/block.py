"""A local transaction around a block of the caller's own code, with its barrier row.

A plan claims the row first; then the block works in the same transaction, guarded as a
handler is. `state` says what became of it, whatever was raised. A block is never run
again: after a deadlock its error is the caller's.
"""

import asyncio
from enum import Enum
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from tcc.barrier.driving import no_handler, run_plan
from tcc.barrier.guarded_connection import GuardedConnection, TransactionLostError
from tcc.barrier.plans import Plan

T = TypeVar("T")


class BlockState(Enum):
    """What became of the local transaction."""

    OPEN = "open"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    # The connection was lost during COMMIT.
    UNKNOWN = "unknown"


class SyncBlock:
    """A transaction of an Engine, in the caller's thread."""

    is_async = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._guarded: GuardedConnection | None = None
        self.state = BlockState.ROLLED_BACK

    def begin(self, plan: Plan[Any]) -> tuple[Any, GuardedConnection]:
        """Begin, run the plan, and return its result and the connection for the block."""
        self._guarded = guarded = GuardedConnection.begun(self._engine)
        self.state = BlockState.OPEN
        try:
            value = run_plan(plan, guarded, no_handler)
            guarded.before_handler()
        except BaseException:
            self.roll_back()
            raise
        return value, guarded

    def commit(self) -> None:
        """Commit. Raises the error of the commit; `state` has its outcome."""
        assert self._guarded is not None, "it was begun"
        try:
            self._guarded.after_handler()
        except BaseException:
            self.roll_back()
            raise
        self.state = BlockState.UNKNOWN
        try:
            self._guarded.finish()
        except BaseException as error:
            if isinstance(error, TransactionLostError) or (
                isinstance(error, DBAPIError) and not error.connection_invalidated
            ):
                # COMMIT was not sent, or the database has answered that it did not commit.
                self.state = BlockState.ROLLED_BACK
            self._guarded.abandon()
            raise
        self.state = BlockState.COMMITTED

    def roll_back(self) -> None:
        """Roll back, and return the connection to the pool."""
        assert self._guarded is not None, "it was begun"
        self.state = BlockState.ROLLED_BACK
        self._guarded.abandon()


class AsyncBlock:
    """A transaction of an AsyncEngine."""

    is_async = True

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sync = SyncBlock(engine.sync_engine)

    @property
    def state(self) -> BlockState:
        """What became of it."""
        return self._sync.state

    async def begin(self, plan: Plan[Any]) -> tuple[Any, AsyncConnection]:
        """Begin, run the plan, and return its result and the connection for the block."""
        beginning = asyncio.ensure_future(greenlet_spawn(self._sync.begin, plan))
        try:
            came, guarded = await _uninterrupted(beginning)
        except asyncio.CancelledError:
            if beginning.done() and not beginning.cancelled() and beginning.exception() is None:
                await self.roll_back()
            raise
        return came, AsyncConnection(self._engine, guarded)

    async def commit(self) -> None:
        """Commit. Raises the error of the commit; `state` has its outcome."""
        await _uninterrupted(asyncio.ensure_future(greenlet_spawn(self._sync.commit)))

    async def roll_back(self) -> None:
        """Roll back, and return the connection to the pool."""
        await _uninterrupted(asyncio.ensure_future(greenlet_spawn(self._sync.roll_back)))


async def _uninterrupted(working: "asyncio.Future[T]") -> T:
    """Await work to its end, even if this task is cancelled in the meantime."""
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        if not working.done():
            await asyncio.wait([working])
        raise
