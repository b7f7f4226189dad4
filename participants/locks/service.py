"""Named locks as a participant: Try acquires, Confirm and Cancel release.

The coordinator guarantees that every Try is followed by Confirm or Cancel. So a lock has no time to
live, and no process has to renew it: it is held exactly until its transaction has ended.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.locks import store
from participants.locks.lock import Place, is_free, refusal, tokens, wait_left_s
from participants.locks.metrics import LockMetrics
from participants.locks.requests import Acquire
from participants.locks.waiters import Waiters
from tcc import Branch, Participant, Postponed, Rejected

Items = Sequence[tuple[Branch, Acquire]]


class AcquireLocks:
    """The action `acquire`.

    A branch that has to wait stays in its queues while its Try is postponed. Whatever happens to this
    process or to the coordinator, the Try is repeated and finds its place, or the transaction is
    cancelled and Cancel removes it: hence `cancel_always`.
    """

    def __init__(self, waiters: Waiters, metrics: LockMetrics) -> None:
        self._waiters = waiters
        self._metrics = metrics

    async def try_batch(self, items: Items, db: AsyncConnection) -> list[Any]:
        now_ms = time.time_ns() // 1_000_000
        places = await self._places(items, db, now_ms)
        free = {key for key in places if is_free(places[key])}
        refused = {
            branch.key
            for branch, request in items
            if branch.key not in free and wait_left_s(places[branch.key], request.wait_ms, now_ms) <= 0
        }
        if free:
            await store.acquire(db, free, now_ms)
        if refused:
            await store.release(db, refused)
        answers: list[Any] = []
        for branch, request in items:
            place = places[branch.key]
            if branch.key in free:
                answers.append(tokens(place))
            elif branch.key in refused:
                answers.append(Rejected("LOCKED", refusal(place)))
            else:
                wait_s = wait_left_s(place, request.wait_ms, now_ms)
                until = functools.partial(self._waiters.wait, branch.key, wait_s)
                answers.append(Postponed("LOCKED", refusal(place), until))
        self._metrics.tried(
            acquired=len(free),
            refused=len(refused),
            waits_ms=[now_ms - places[key][0].requested_at_ms for key in free],
        )
        return answers

    async def _places(self, items: Items, db: AsyncConnection, now_ms: int) -> dict[Any, Sequence[Place]]:
        """Return where the branches stand, after enqueueing those that have not asked before."""
        known = await store.places(db, store.by_branch(items))
        new = [(branch.key, request) for branch, request in items if branch.key not in known]
        if not new:
            return dict(known)
        await store.enqueue(db, new, now_ms)
        return {**known, **await store.places(db, [key for key, _ in new])}

    async def confirm_batch(self, items: Items, db: AsyncConnection) -> None:
        await store.release(db, store.by_branch(items))

    cancel_batch = confirm_batch


def locks(database: AsyncEngine, *, metrics: LockMetrics | None = None) -> Participant:
    """Return the participant over its database, PostgreSQL or SQLite, whose schema must exist."""
    participant = Participant("locks", database=database)
    handlers = AcquireLocks(Waiters(database), metrics or LockMetrics())
    participant.action("acquire", Acquire, cancel_always=True, needs_request=False)(handlers)
    return participant
