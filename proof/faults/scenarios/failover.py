"""The log's PostgreSQL fails over to its synchronous standby, in each way that it can.

The system is another one than that of the other scenarios: its log is on a pair of servers.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import psycopg

from coordinator.log.servers import ServerRefusedError, check_one_primary
from proof.faults.observers import COORDINATOR
from proof.faults.replicated_postgres import ReplicatedPostgres, replicated
from proof.faults.testbed import Testbed, running_testbed
from proof.history.events import Reply, ReplyOutcome
from proof.history.narrative import story
from proof.history.recorder import write

_CALM_S = 1.5
_AWAY_S = 3.0
_WRITE_TIMEOUT_S = 30.0
_POLL_S = 0.05
# From the moment when the standby is told to take over to the first write on it.
_RECONNECT_MAX_S = 5.0
_WRITTEN_SINCE = "SELECT count(*), extract(epoch FROM min(at)) FROM seen WHERE at > to_timestamp(%s)"
_COUNT = "SELECT count(*) FROM transactions"
_END_CONNECTIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


async def fail_over(testbed: Testbed, _options: argparse.Namespace) -> dict[str, Any]:
    """Each case begins with a primary and its standby, and ends with them; the load never stops."""
    home = testbed.system.home / "pair"
    home.mkdir(mode=0o711)
    with replicated(home / "log") as pair:
        async with running_testbed(home, testbed.chance, testbed.say, pair) as own:
            cases = _Cases(own, pair)
            async with own.load("failover"):
                await asyncio.sleep(_CALM_S)
                await cases.standby_away()
                await cases.standby_away_and_given_up()
                await cases.primary_frozen()
                await cases.primary_killed()
                await cases.switchover()
            await own.settle("failover")
            await own.verifier.verify_all()
    if own.verifier.violations:
        write(home / "history.jsonl", own.verifier.history)
        (home / "story.txt").write_text("\n".join(story(own.verifier.history)))
    testbed.verifier.violations += [f"failover: {what}" for what in own.verifier.violations]
    return {"orders": own.placed, "transactions": own.verifier.transactions} | cases.figures


@dataclass
class _Cases:
    testbed: Testbed
    pair: ReplicatedPostgres
    # By the case's name, in seconds.
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    async def standby_away(self) -> None:
        """Each COMMIT waits for the standby, and goes on when it returns."""
        async with self._case("standby-away"):
            await asyncio.to_thread(self.pair.standby.stop, "immediate")
            await asyncio.sleep(_AWAY_S)
            await asyncio.to_thread(self.pair.start_standby)

    async def standby_away_and_given_up(self) -> None:
        """An operator, or Patroni, takes the standby out of the setting: COMMITs go on without it."""
        async with self._case("standby-given-up"):
            await asyncio.to_thread(self.pair.standby.stop, "immediate")
            await asyncio.to_thread(self.pair.make_asynchronous)
            await asyncio.sleep(_CALM_S)
            await asyncio.to_thread(self.pair.start_standby)

    async def primary_frozen(self) -> None:
        """It hangs with all its connections open, and goes on after another one was promoted."""
        async with self._case("primary-frozen") as figures:
            self.pair.freeze_primary()
            await self._promote(figures)
            self.pair.resume_primary()
            await asyncio.sleep(_CALM_S)
            await asyncio.to_thread(self.pair.exchange_roles)

    async def primary_killed(self) -> None:
        """It comes back as a second primary, which would accept writes: none is sent there."""
        async with self._case("primary-killed") as figures:
            await asyncio.to_thread(self.pair.primary.stop, "immediate")
            await self._promote(figures)
            await asyncio.to_thread(self.pair.primary.start)
            await asyncio.to_thread(self.pair.make_asynchronous)
            before = await asyncio.to_thread(_row, self.pair.primary.url(COORDINATOR), _COUNT)
            # They connect again, and the URL names the former primary, or the other one, first.
            await asyncio.to_thread(_row, self.pair.standby.url(COORDINATOR), _END_CONNECTIONS)
            await asyncio.sleep(_CALM_S)
            await self._written_since(time.time())
            if await asyncio.to_thread(_row, self.pair.primary.url(COORDINATOR), _COUNT) != before:
                self._wrong("the former primary was written to")
            if not await asyncio.to_thread(_is_refused, self.pair.url(COORDINATOR)):
                self._wrong("a starting coordinator would not notice two primaries")
            await asyncio.to_thread(self.pair.exchange_roles)

    async def switchover(self) -> None:
        """The primary is stopped in order, as for maintenance, and the standby takes over."""
        async with self._case("switchover") as figures:
            await asyncio.to_thread(self.pair.primary.stop, "fast")
            await self._promote(figures)
            await asyncio.to_thread(self.pair.exchange_roles)

    @asynccontextmanager
    async def _case(self, name: str) -> AsyncIterator[dict[str, float]]:
        figures = self.figures[name] = {}
        self.testbed.verifier.note(name, "postgres")
        began_at = time.time()
        yield figures
        await self._written_since(time.time())
        await asyncio.sleep(_CALM_S)
        figures["longest_silence_s"] = self._longest_silence_s(began_at, time.time())
        self.testbed.say(f"failover: {name}: {figures}")

    async def _promote(self, figures: dict[str, float]) -> None:
        began_at = time.time()
        self.testbed.verifier.note("promote", "postgres")
        await asyncio.to_thread(self.pair.promote)
        figures["promoted_s"] = round(time.time() - began_at, 2)
        figures["first_write_s"] = await self._written_since(began_at, self.pair.standby.url(COORDINATOR))
        if figures["first_write_s"] > _RECONNECT_MAX_S:
            self._wrong(f"the first write came {figures['first_write_s']} s after the promotion")

    async def _written_since(self, began_at: float, url: str = "") -> float:
        """Wait until something is durable in the log, and return after how many seconds it was."""
        url = url or f"{self.pair.url(COORDINATOR)}&target_session_attrs=read-write"
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            while True:
                count, first_at = await asyncio.to_thread(_row, url, _WRITTEN_SINCE, began_at)
                if count:
                    return round(float(first_at) - began_at, 2)
                await asyncio.sleep(_POLL_S)

    def _longest_silence_s(self, began_at: float, ended_at: float) -> float:
        """Return the longest time in which no initiator received a decision."""
        history = self.testbed.verifier.recorder.history
        decided = {ReplyOutcome.CONFIRMED, ReplyOutcome.CANCELLED}
        replies = (event.at for event in history if isinstance(event, Reply) and event.outcome in decided)
        moments = [began_at, *(at for at in replies if began_at < at < ended_at), ended_at]
        return round(max(later - earlier for earlier, later in pairwise(moments)), 2)

    def _wrong(self, what: str) -> None:
        self.testbed.verifier.violations.append(what)


def _row(url: str, statement: str, *values: float) -> tuple[Any, ...]:
    with psycopg.connect(url, autocommit=True, options="-c search_path=tcc,public") as db:
        row = db.execute(statement, values).fetchone()
    assert row is not None
    return row


def _is_refused(url: str) -> bool:
    try:
        check_one_primary(url)
    except ServerRefusedError:
        return True
    return False
