"""The job that exchanges reports and directives between a coordinator and its operators.

Both go through the log. The report describes this process, so that any coordinator can
answer for all. The directives of operators are: which participants are paused, whose
breaker is to be reset, whether this coordinator is to drain.
"""

from collections.abc import Callable, Mapping
from importlib import metadata

import structlog
from msgspec import Struct

from coordinator.engine.clock import LogClock
from coordinator.engine.dispatcher import ParticipantDispatcher
from coordinator.engine.engine import Engine
from coordinator.ports.operator_log import (
    CoordinatorReport,
    OperatorLog,
    ParticipantRecord,
    ParticipantReport,
)

logger = structlog.get_logger(__name__)

# Read once: that parses the package's metadata, and a report leaves every second.
_VERSION = metadata.version("tcc")


class _Counts(Struct, frozen=True):
    """The counters at a moment of the monotonic clock."""

    at: float
    begun: int
    confirmed: int
    cancelled: int
    calls: int
    failed_calls: int


class Reporting:
    """Reports, and follows the directives of operators."""

    name = "report"

    def __init__(
        self,
        engine: Engine,
        log: OperatorLog,
        *,
        clock: LogClock,
        targets: Callable[[], Mapping[str, str]],
        every_s: float,
        on_drain: Callable[[], None],
    ) -> None:
        """`targets`: the addresses of participants. `on_drain`: called when an operator requests a drain."""
        self.every_s = every_s
        self._engine = engine
        self._log = log
        self._clock = clock
        self._targets = targets
        self._on_drain = on_drain
        self._before = _counts(engine, clock)
        self._resets: dict[str, int] | None = None

    async def run_once(self) -> int:
        counts = _counts(self._engine, self._clock)
        report = _report(self._engine, self._targets(), self._before, counts)
        self._before = counts
        directives = await self._log.coordinator_report(report)
        self._follow(directives.participants)
        if directives.drain and not self._engine.draining:
            logger.warning("an operator requests that this coordinator drains")
            self._on_drain()
        return 1

    def _follow(self, directives: Mapping[str, ParticipantRecord]) -> None:
        for name, dispatcher in self._engine.dispatchers.items():
            record = directives.get(name, ParticipantRecord(name=name))
            if dispatcher.paused != record.paused:
                logger.warning(
                    "participant paused" if record.paused else "participant resumed",
                    participant=name,
                    operator=record.operator,
                    reason=record.reason,
                )
            dispatcher.paused = record.paused
            # A reset that was requested before this process started does not concern it.
            if self._resets is not None and record.breaker_resets > self._resets.get(name, 0):
                dispatcher.reset_breaker()
        self._resets = {name: record.breaker_resets for name, record in directives.items()}


def _counts(engine: Engine, clock: LogClock) -> _Counts:
    totals, dispatchers = engine.totals, engine.dispatchers.values()
    return _Counts(
        clock.monotonic(),
        totals.begun,
        totals.confirmed,
        totals.cancelled,
        sum(dispatcher.answered for dispatcher in dispatchers),
        sum(dispatcher.failed for dispatcher in dispatchers),
    )


# A dispatcher that a reload has replaced counts from 0: hence `max`.
def _report(engine: Engine, targets: Mapping[str, str], before: _Counts, now: _Counts) -> CoordinatorReport:
    passed_s = max(now.at - before.at, 1e-3)
    return CoordinatorReport(
        version=_VERSION,
        live=len(engine.live),
        log_backlog=engine.writer.backlog,
        begun_per_s=max(0, now.begun - before.begun) / passed_s,
        confirmed_per_s=max(0, now.confirmed - before.confirmed) / passed_s,
        cancelled_per_s=max(0, now.cancelled - before.cancelled) / passed_s,
        calls_per_s=max(0, now.calls - before.calls) / passed_s,
        failed_calls_per_s=max(0, now.failed_calls - before.failed_calls) / passed_s,
        participants={
            name: _participant(dispatcher, targets.get(name, ""))
            for name, dispatcher in engine.dispatchers.items()
        },
    )


def _participant(dispatcher: ParticipantDispatcher, target: str) -> ParticipantReport:
    return ParticipantReport(
        target=target,
        paused=dispatcher.paused,
        probe_at=dispatcher.breaker.probe_at,
        probing=dispatcher.breaker.probing,
        consecutive_failures=dispatcher.breaker.failures,
        backlog=dispatcher.backlog,
        in_flight=dispatcher.in_flight,
        live_branches=dispatcher.live,
        calls_completed=dispatcher.answered,
        calls_failed=dispatcher.failed,
        last_error=dispatcher.last_error,
        last_error_at=dispatcher.last_error_at,
    )
