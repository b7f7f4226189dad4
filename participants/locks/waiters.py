"""The branches of this process that wait for a lock.

None of them holds a connection. One query for all of them looks every few milliseconds which are
still blocked; it sees the releases of every process. A repeated Try decides in a transaction, so it
does no harm if this wakes one too early.
"""

import asyncio
import contextlib
import logging

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from participants.locks import store
from participants.locks.lock import Key

logger = logging.getLogger(__name__)

# The pause between two queries, and its least ratio to the duration of a query.
_PAUSE_S = 0.005
_PAUSE_RATIO = 1.0
# More than these leave their turn to the coordinator's retries, so that waiting Trys never use up the
# number of calls that a coordinator has in flight here: the releases need some, too.
WAITERS_MAX = 1_000


class Waiters:
    """Wakes branches when they are no longer blocked."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database
        self._waiting: dict[Key, asyncio.Event] = {}
        self._polling: asyncio.Task[None] | None = None

    async def wait(self, branch: Key, wait_s: float) -> None:
        """Return when the branch may have its turn, or after `wait_s`.

        Raises:
            TimeoutError: Too many wait.
        """
        if len(self._waiting) >= WAITERS_MAX:
            raise TimeoutError
        woken = self._waiting[branch] = asyncio.Event()
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(), name="the waiters of locks")
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), wait_s)
        finally:
            del self._waiting[branch]

    async def _poll(self) -> None:
        """Look who is blocked for as long as there are waiters."""
        clock = asyncio.get_running_loop().time
        while self._waiting:
            began = clock()
            blocked = await self._blocked()
            for branch, woken in self._waiting.items():
                if branch not in blocked:
                    woken.set()
            await asyncio.sleep(max(_PAUSE_S, _PAUSE_RATIO * (clock() - began)))

    async def _blocked(self) -> set[Key]:
        try:
            async with self._database.connect() as db:
                return await store.blocked(db)
        except SQLAlchemyError:
            # The repeated Trys meet the same database, and their results say what is wrong with it.
            logger.warning("it is not known which branches are blocked; all are tried again", exc_info=True)
            return set()
