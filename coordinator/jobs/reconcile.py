"""The job that compares participants with the log at an interval. It repairs nothing.

One coordinator does it for all: the one that has lived longest. That needs no lock and no
claim. If two coordinators compare at the same time, nothing is harmed.
"""

from collections import Counter

import structlog
from msgspec import Struct

from coordinator.core.errors import ParticipantPaused, ParticipantUnreachable, ReconciliationUnsupported
from coordinator.core.reconciliation import FindingKind
from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Anomaly, Observer
from coordinator.engine.reconciler import Reconciler
from coordinator.ports.operator_log import OperatorLog

logger = structlog.get_logger(__name__)

# How often to check whether it is time, so that a participant that was unavailable is compared soon.
_CHECK_EVERY_S = 60.0
# How many findings of one scan are logged by name.
_NAMED_MAX = 20


class ScanResult(Struct, frozen=True, kw_only=True):
    """The findings of the last scan of a participant, by kind; `at`: monotonic, at its end."""

    at: float
    findings: dict[FindingKind, int]


class Reconciling:
    """Compares each participant every `every_s` seconds, and keeps the counts for the metrics."""

    name = "reconcile"

    def __init__(
        self,
        engine: Engine,
        log: OperatorLog,
        reconciler: Reconciler,
        *,
        clock: LogClock,
        observer: Observer,
        owner: str,
    ) -> None:
        self.every_s = min(reconciler.settings.every_s, _CHECK_EVERY_S)
        # By participant; empty at a coordinator that does not compare.
        self.scans: dict[str, ScanResult] = {}
        self._engine = engine
        self._log = log
        self._clock = clock
        self._observer = observer
        self._reconciler = reconciler
        self._owner = owner
        # When each is due for its next scan, by the monotonic clock.
        self._next_scan_at: dict[str, float] = {}

    async def run_once(self) -> int:
        """Scan the participants that are due; return how many rows were compared. Raises LogUnavailable."""
        if self._engine.draining:
            return 0
        if not await self._is_ours():
            self.scans.clear()
            self._next_scan_at.clear()
            return 0
        self.scans = {name: result for name, result in self.scans.items() if name in self._engine.dispatchers}
        compared = 0
        for participant in self._reconciler.participants:
            if self._clock.monotonic() >= self._next_scan_at.get(participant, 0.0):
                compared += await self._scan(participant)
        return compared

    async def _is_ours(self) -> bool:
        alive = [one.id for one in await self._log.coordinator_list() if one.alive]
        return alive[:1] == [self._owner]

    async def _scan(self, participant: str) -> int:
        settings, monotonic = self._reconciler.settings, self._clock.monotonic
        rows, kinds, named = 0, Counter[FindingKind](), list[str]()
        try:
            async for page in self._reconciler.compare(
                participant, min_age_s=settings.min_age_s, ended_within_s=settings.ended_within_s
            ):
                rows += page.rows
                kinds.update(finding.kind for finding in page.findings)
                named += [f"{one.row.gid}/{one.row.branch_id}" for one in page.findings]
                del named[_NAMED_MAX:]
        except ReconciliationUnsupported:
            self.scans.pop(participant, None)
        except (ParticipantPaused, ParticipantUnreachable) as error:
            logger.info("a participant could not be reconciled; it is tried again", reason=error.message)
            return rows
        else:
            before = self.scans.get(participant)
            self.scans[participant] = ScanResult(at=monotonic(), findings=dict(kinds))
            if kinds and (before is None or before.findings != kinds):
                self._log_result(participant, kinds, named)
        self._next_scan_at[participant] = monotonic() + settings.every_s
        return rows

    def _log_result(self, participant: str, kinds: Counter[FindingKind], named: list[str]) -> None:
        counts = {kind.name.lower(): count for kind, count in sorted(kinds.items())}
        logger.warning(
            "barrier rows of a participant do not agree with the log",
            participant=participant,
            first=named,
            **counts,
        )
        self._observer.anomaly(Anomaly.UNRECONCILED, participant=participant, **counts)
