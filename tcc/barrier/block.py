"""A local transaction around a block of the caller's own code, with its barrier row.

A plan claims the row first; then the block works in the same transaction, guarded as a
handler is. `state` says what became of it, whatever was raised. A block is never run
again: after a deadlock its error is the caller's.
"""

import asyncio
from collections.abc import Awaitable
from enum import Enum
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from tcc.barrier.driving import drive_async, drive_sync, no_handler
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


class AsyncBlock:
    """A transaction of an AsyncEngine."""

    is_async = True

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._guarded: GuardedConnection | None = None
        self.state = BlockState.ROLLED_BACK

    async def begin(self, plan: Plan[T]) -> tuple[T, AsyncConnection]:
        """Begin, run the plan, and return its result and the connection for the block."""
        self._guarded = guarded = await greenlet_spawn(GuardedConnection.begun, self._engine.sync_engine)
        self.state = BlockState.OPEN
        connection = AsyncConnection(self._engine, guarded)
        try:
            came = await drive_async(plan, guarded, connection, no_handler)
            await greenlet_spawn(guarded.before_handler)
        except BaseException:
            await self.roll_back()
            raise
        return came, connection

    async def commit(self) -> None:
        """Commit. Raises the error of the commit; `state` has its outcome."""
        assert self._guarded is not None, "it was begun"
        guarded = self._guarded
        try:
            await greenlet_spawn(guarded.after_handler)
        except BaseException:
            await self.roll_back()
            raise
        await _uninterrupted(greenlet_spawn(_commit, self, guarded))

    async def roll_back(self) -> None:
        """Roll back, and return the connection to the pool."""
        assert self._guarded is not None, "it was begun"
        self.state = BlockState.ROLLED_BACK
        await _uninterrupted(greenlet_spawn(self._guarded.abandon))


class SyncBlock:
    """A transaction of an Engine, in the caller's thread."""

    is_async = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._guarded: GuardedConnection | None = None
        self.state = BlockState.ROLLED_BACK

    def begin(self, plan: Plan[T]) -> tuple[T, GuardedConnection]:
        """Begin, run the plan, and return its result and the connection for the block."""
        self._guarded = guarded = GuardedConnection.begun(self._engine)
        self.state = BlockState.OPEN
        try:
            came = drive_sync(plan, guarded, no_handler)
            guarded.before_handler()
        except BaseException:
            self.roll_back()
            raise
        return came, guarded

    def commit(self) -> None:
        """Commit. Raises the error of the commit; `state` has its outcome."""
        assert self._guarded is not None, "it was begun"
        try:
            self._guarded.after_handler()
        except BaseException:
            self.roll_back()
            raise
        _commit(self, self._guarded)

    def roll_back(self) -> None:
        """Roll back, and return the connection to the pool."""
        assert self._guarded is not None, "it was begun"
        self.state = BlockState.ROLLED_BACK
        self._guarded.abandon()


def _commit(block: AsyncBlock | SyncBlock, guarded: GuardedConnection) -> None:
    block.state = BlockState.UNKNOWN
    try:
        guarded.finish()
    except BaseException as error:
        if isinstance(error, TransactionLostError) or (
            isinstance(error, DBAPIError) and not error.connection_invalidated
        ):
            # COMMIT was not sent, or the database has answered that it did not commit.
            block.state = BlockState.ROLLED_BACK
        guarded.abandon()
        raise
    block.state = BlockState.COMMITTED


async def _uninterrupted(work: Awaitable[T]) -> T:
    """Await work to its end, even if this task is cancelled in the meantime."""
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        if not working.done():
            await asyncio.wait([working])
        raise
