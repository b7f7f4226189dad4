"""Counts of unfinished transactions, capped to stay cheap.

While a participant is down, millions of transactions may wait for it, and every
coordinator asks for these figures every few seconds. Waiting transactions are therefore
counted up to a bound, per participant, so that none hides another. The oldest, the stuck
and the held ones are found by an index each. Owned transactions are counted exactly:
they are in their coordinator's memory, which has its own bound (`limits.live_max`).
"""

from typing import Any, Protocol

from coordinator.core.model import TransactionState
from coordinator.log import operator_statements as statements
from coordinator.log.connection import StatementResult
from coordinator.log.rows import shown_moment
from coordinator.log.statements import NEXT_WAITED_FOR, Statement
from coordinator.ports.operator_log import Backlog

# The bound of each count. Each row is a lookup: 1 to 2 us if the database has it in memory.
COUNT_MAX = 5_000

_STATES = frozenset(TransactionState)


class Ask(Protocol):
    """Executes a statement."""

    async def __call__(self, statement: Statement, **values: Any) -> StatementResult: ...


async def backlog(ask: Ask, count_max: int) -> Backlog:
    """Count unfinished transactions. Counts are capped at `count_max`. Raises LogUnavailable."""
    ((at, stuck, held),) = (await ask(statements.BACKLOG_CAPPED, most=count_max)).rows
    by_state: dict[TransactionState, int] = {}
    waiting_on: dict[str, int] = {}
    for name, state, count in (await ask(statements.BACKLOG_COUNTS, most=count_max)).rows:
        # A row of another state is quarantined; it is counted among those that wait, or are held.
        if state in _STATES:
            by_state[TransactionState(state)] = by_state.get(TransactionState(state), 0) + count
        if name is not None:
            waiting_on[name] = waiting_on.get(name, 0) + count
    oldest = [
        (shown_moment(created_at), gid) for gid, created_at in (await ask(statements.BACKLOG_OLDEST)).rows
    ]
    created_at, gid = min(oldest, default=(None, ""))
    return Backlog(
        at=at,
        by_state=by_state,
        parked=sum(waiting_on.values()),
        stuck=stuck,
        held=held,
        oldest_gid=gid,
        oldest_created_at=created_at,
        waiting_on={name: count for name, count in waiting_on.items() if name},
        count_max=count_max,
        capped=any(count >= count_max for count in waiting_on.values()),
    )


async def participants_waited_for(ask: Ask) -> list[str]:
    """Return the participants that parked transactions wait for: one index lookup for each."""
    names: list[str] = []
    after = ""
    while found := (await ask(NEXT_WAITED_FOR, after=after)).rows:
        ((after,),) = found
        names.append(after)
    return names
