"""The job that publishes the outcomes of transactions to a target: at least once each.

One coordinator reads a cell for a target; when it dies, another one goes on. It reads transactions in the
order of their creation, and each place twice: soon, so that most outcomes are published within a second or
two; and again when no write can become visible there any more. Only the second reading moves the position
in the log. What has ended is published; what has not is remembered in the log until it ends.

So after a crash outcomes of the last seconds are published again. What was published between the two
readings is in memory, so that otherwise none is.
"""

from collections.abc import Callable, Sequence

import structlog
from msgspec import Struct

from coordinator.engine.clock import LogClock
from coordinator.engine.observer import Observer
from coordinator.ports.outcomes import (
    Outcome,
    OutcomeKind,
    OutcomeLog,
    OutcomePosition,
    OutcomeTarget,
    PublishError,
)

logger = structlog.get_logger(__name__)

# The position of a log without transactions is written this often.
_IDLE_POSITION_S = 10.0
_PAGE_SIZE = 500
# Of one run, which the next one continues.
_PAGES_MAX = 40
_WAITING_SIZE = 2_000
_PAUSE_FIRST_S = 1.0
_PAUSE_MAX_S = 60.0


class OutcomeSettings(Struct, frozen=True, kw_only=True):
    """What is published, and how often."""

    kinds: frozenset[OutcomeKind] = frozenset(OutcomeKind)
    every_s: float = 1.0
    # A row is read soon after its creation, and again when its insert has ended for sure: a server ends a
    # statement after 10 seconds.
    fresh_s: float = 0.5
    settled_s: float = 15.0
    batch_max: int = 100


class PublishOutcomes:
    """Publishes the outcomes of a cell to a target."""

    name = "publish outcomes"

    def __init__(
        self,
        settings: OutcomeSettings,
        target: OutcomeTarget,
        *,
        log: OutcomeLog,
        is_draining: Callable[[], bool],
        clock: LogClock,
        observer: Observer,
        cell: int = 0,
    ) -> None:
        self.cell = cell
        self.every_s = settings.every_s
        self._is_draining = is_draining
        self._settings = settings
        self._target = target
        self._log = log
        self._clock = clock
        self._observer = observer
        # None: another coordinator reads.
        self._reading: _Reading | None = None
        self._failures = 0
        self._next_run_at = 0.0

    async def run_once(self) -> int:
        """Publish what there is; return how much. Raises LogUnavailable, LogRejected."""
        if self._is_draining() or self._clock.monotonic() < self._next_run_at:
            return 0
        try:
            published = await self._run()
        except PublishError as error:
            pause_s = min(_PAUSE_FIRST_S * 2**self._failures, _PAUSE_MAX_S)
            self._failures = min(self._failures + 1, 10)
            self._next_run_at = self._clock.monotonic() + pause_s
            self._observer.outcomes_failed(self._target.name)
            logger.warning(
                "outcomes are not published yet; they are published again",
                target=self._target.name,
                cell=self.cell,
                error=str(error),
                pause_s=pause_s,
            )
            return 0
        self._failures = 0
        return published

    async def _run(self) -> int:
        found = await self._log.outcome_reader(self._target.name)
        if found is None:
            self._stop_reading()
            return 0
        if self._reading is None or found.is_new:
            self._reading = _Reading(found.position)
        reading = self._reading
        self._report(reading)
        published = await self._publish_waiting(reading)
        settled_before = found.now - self._settings.settled_s
        reading.settled, count = await self._read(reading, reading.settled, settled_before)
        published += count
        reading.fresh = max(reading.fresh, reading.settled)
        self._report(reading)
        # There is nothing to read twice while it is far behind.
        if await self._write_position(reading) and reading.settled.created_at >= settled_before:
            reading.fresh, count = await self._read(
                reading, reading.fresh, found.now - self._settings.fresh_s
            )
            published += count
            self._report(reading)
        return published

    async def _read(
        self, reading: "_Reading", position: OutcomePosition, before: float
    ) -> tuple[OutcomePosition, int]:
        """Publish what was created from a position on. Return the new position, and how many it were."""
        published = 0
        for _ in range(_PAGES_MAX):
            if position.created_at >= before:
                break
            page = await self._log.outcome_page(position, before, _PAGE_SIZE)
            new = [one for one in page if one.gid not in reading.seen]
            published += await self._publish([one for one in new if one.state.ended])
            if waiting := [one.gid for one in new if not one.state.ended]:
                await self._log.outcome_wait(self._target.name, waiting)
            reading.seen.update({one.gid: one.created_at for one in new})
            if len(page) < _PAGE_SIZE:
                return OutcomePosition(created_at=before), published
            position = OutcomePosition(created_at=page[-1].created_at, gid=page[-1].gid)
        return position, published

    async def _write_position(self, reading: "_Reading") -> bool:
        """Write the position, if it moved enough. Return whether we still are the reader."""
        moved_s = reading.settled.created_at - reading.written.created_at
        if not reading.forget() and moved_s < _IDLE_POSITION_S:
            return True
        if not await self._log.outcome_position_set(self._target.name, reading.settled):
            self._stop_reading()
            return False
        reading.written = reading.settled
        return True

    async def _publish_waiting(self, reading: "_Reading") -> int:
        """Publish outcomes of those that had not ended before."""
        published = 0
        for _ in range(_PAGES_MAX):
            outcomes, gone, last = await self._log.outcome_waiting(
                self._target.name, reading.checked_to, _WAITING_SIZE
            )
            published += await self._publish(outcomes)
            if gone:
                logger.warning("transactions were purged before their outcome was published", gids=gone[:20])
            ended = [one.gid for one in outcomes if one.state.ended]
            stuck = [one.gid for one in outcomes if not one.state.ended]
            await self._log.outcome_published(self._target.name, ended=[*ended, *gone], stuck=stuck)
            reading.checked_to = last
            if not last:
                break
        return published

    async def _publish(self, outcomes: Sequence[Outcome]) -> int:
        """Publish those of the chosen kinds, in the order in which they ended."""
        chosen = [one for one in outcomes if one.kind in self._settings.kinds]
        chosen.sort(key=lambda one: one.ended_at or 0.0)
        for first in range(0, len(chosen), self._settings.batch_max):
            batch = chosen[first : first + self._settings.batch_max]
            await self._target.publish(batch)
            self._observer.outcomes_published(self._target.name, len(batch))
        return len(chosen)

    def _report(self, reading: "_Reading") -> None:
        self._observer.outcomes_read(self._target.name, self.cell, reading.fresh.created_at)

    def _stop_reading(self) -> None:
        self._reading = None
        self._observer.outcomes_read(self._target.name, self.cell, None)


class _Reading:
    """How far this coordinator has read a cell for a target."""

    def __init__(self, position: OutcomePosition) -> None:
        # In the log; read for the second time; read for the first time.
        self.written = self.settled = self.fresh = position
        # The last gid that was checked among those that wait; empty: start again.
        self.checked_to = ""
        # What is between the two readings: its gids, with the times of creation.
        self.seen: dict[str, float] = {}

    def forget(self) -> int:
        """Forget what was read twice. Return how many."""
        before = len(self.seen)
        reached = self.settled.created_at
        self.seen = {gid: created_at for gid, created_at in self.seen.items() if created_at >= reached}
        return before - len(self.seen)
