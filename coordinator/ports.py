"""What the engine and the recovery need from the world: the log, the participants, the clock."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from coordinator.core.audit import AuditEntry, AuditHead, AuditRecord
from coordinator.core.model import (
    BranchSpec,
    CallResult,
    Operation,
    TraceContext,
    Transaction,
    TransactionState,
)
from coordinator.core.reconciliation import BarrierRow, BarrierState


class Record(Struct, frozen=True, kw_only=True):
    """A transaction as the log holds it. Times are seconds since the Unix epoch; None: not yet."""

    tx: Transaction
    # The coordinator that drives it; None while it is parked or ended.
    owner: str | None
    created_at: float
    decided_at: float | None = None
    ended_at: float | None = None
    # The dead coordinator that it was taken over from last; empty: none.
    adopted_from: str = ""


class ListFilter(Struct, frozen=True, kw_only=True):
    """Which transactions a list holds. Empty fields do not narrow it."""

    states: tuple[TransactionState, ...] = ()
    participant: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    initiator: str = ""
    stuck: bool | None = None
    created_after: float | None = None
    created_before: float | None = None
    held: bool | None = None
    heuristic: bool | None = None
    # True: only what has not ended; False: only what has.
    live: bool | None = None
    gids: tuple[str, ...] = ()


class ListPosition(Struct, frozen=True, kw_only=True):
    """The last transaction of a page; the next page starts behind it."""

    created_at_us: int
    gid: str


class Log(Protocol):
    """The durable transaction log, as one coordinator (the `owner`) sees it.

    Every method raises `core.errors.LogUnavailable` when the log cannot be
    reached or the outcome of a write is unknown. Writes may be repeated after
    that: a write that took effect already is recognised by re-reading and
    reported as done.
    """

    async def transaction_begin(self, begun: Sequence[Transaction]) -> list[Record | None]:
        """Insert new transactions, owned by us, in one commit.

        Returns, in the order of `begun`: None where it is inserted (now or by
        an earlier try of ours); otherwise the other transaction that has this gid.
        """
        ...

    async def transaction_save(self, changed: Sequence[Transaction]) -> list[bool]:
        """Write changed transactions in one commit.

        Each is written only where the row still is ours and still has
        `tx.version`; the row's version rises by one. A parked one (`next_attempt_at`)
        and an ended one lose their owner. Returns, in order, whether it is written
        (now or by an earlier try of ours); False means that another owner has it.
        """
        ...

    async def transaction_get(self, gids: Sequence[str]) -> dict[str, Record]:
        """Read transactions by gid; unknown ones are missing from the answer."""
        ...

    async def transaction_list(
        self, chosen: ListFilter, *, after: ListPosition | None, limit: int
    ) -> tuple[list[Record], ListPosition | None]:
        """Return a page of transactions, newest first, and the position of the next one, if there is one.

        Raises:
            SearchTooLong
        """
        ...

    async def transaction_take(self, gid: str, *, version: int) -> Record | None:
        """Make us the owner of a live transaction if its version still is this one."""
        ...

    async def transaction_claim_due(self, limits: Mapping[str, int]) -> list[Record]:
        """Take parked transactions that are due, at most `limits[participant]` of those
        that wait for each participant. The key "" stands for those that wait for none.
        """
        ...

    async def transaction_waiting_on(self) -> list[str]:
        """Return the participants that parked transactions wait for, by name."""
        ...

    async def transaction_adopt(self, limit: int) -> list[Record]:
        """Take at most `limit` live transactions of coordinators whose lease has expired."""
        ...

    async def transaction_release(self) -> int:
        """Release everything we own, so that others may claim it at once. Return how many."""
        ...

    async def transaction_purge(self, *, ended_before_s: float, limit: int) -> int:
        """Delete at most `limit` transactions that ended more than `ended_before_s` seconds ago."""
        ...

    async def coordinator_heartbeat(self, *, lease_s: float) -> float:
        """Renews our lease. Returns the log's time (seconds since the Unix epoch)."""
        ...

    async def coordinator_leave(self) -> None:
        """End our lease at once."""
        ...


class ParticipantReport(Struct, frozen=True, kw_only=True):
    """A participant as one coordinator sees it. Counts since that started; times by the log's clock."""

    target: str = ""
    paused: bool = False
    # None: the breaker is closed; otherwise when it lets a probe out.
    probe_at: float | None = None
    probing: bool = False
    consecutive_failures: int = 0
    backlog: int = 0
    in_flight: int = 0
    live_branches: int = 0
    calls_answered: int = 0
    calls_failed: int = 0
    last_error: str = ""
    last_error_at: float = 0.0


class CoordinatorReport(Struct, frozen=True, kw_only=True):
    """What a coordinator says of itself. Counts since it started, rates since its report before."""

    version: str = ""
    live: int = 0
    log_backlog: int = 0
    begun_per_s: float = 0.0
    confirmed_per_s: float = 0.0
    cancelled_per_s: float = 0.0
    calls_per_s: float = 0.0
    failed_calls_per_s: float = 0.0
    participants: dict[str, ParticipantReport] = {}


class CoordinatorRecord(Struct, frozen=True, kw_only=True):
    """A coordinator as the log knows it. `alive`: its lease holds."""

    id: str
    name: str
    started_at: float
    lease_until: float
    alive: bool
    drain_requested_at: float | None
    reported_at: float | None
    report: CoordinatorReport
    # How many transactions it drives; None where that was not asked for.
    owned: int | None = None


class ParticipantRecord(Struct, frozen=True, kw_only=True):
    """What operators have done to a participant. Version 0: nothing."""

    name: str
    version: int = 0
    paused: bool = False
    breaker_resets: int = 0
    operator: str = ""
    reason: str = ""
    changed_at: float | None = None


class OperatorDirectives(Struct, frozen=True, kw_only=True):
    """What operators want of a coordinator."""

    drain: bool
    participants: dict[str, ParticipantRecord]


class AuditFilter(Struct, frozen=True, kw_only=True):
    """Which audit records a list holds. Empty fields do not narrow it."""

    operator: str = ""
    target: str = ""
    action: str = ""


class Adoption(Struct, frozen=True):
    """The last time that a transaction was taken over from a dead coordinator."""

    at: float
    former_owner: str


class Backlog(Struct, frozen=True, kw_only=True):
    """What has not ended, by the log, at `at` (its clock).

    Counts of stuck and held ones, and of those that wait for each participant, go no further
    than `count_max`. `at_least`: more is parked than is counted in `by_state` and `parked`.
    """

    at: float
    count_max: int
    at_least: bool = False
    by_state: dict[TransactionState, int]
    parked: int
    stuck: int
    held: int
    oldest_gid: str = ""
    oldest_created_at: float | None = None
    # How many parked ones wait for each participant.
    waiting_on: dict[str, int] = {}


class OperatorLog(Protocol):
    """What operators read in the log, and what they do to it.

    What changes something adds a record to the audit chain in the same database
    transaction and returns it. Everything raises `core.errors.LogUnavailable` as
    `Log` does; a repeat of what took effect then is refused by its version.
    """

    async def transaction_command(self, tx: Transaction, entry: AuditEntry) -> AuditRecord:
        """Write the result of a command on version `tx.version`, whoever owns it; then it has no owner.

        Raises:
            VersionChanged
        """
        ...

    async def transaction_brief(self, gids: Sequence[str]) -> dict[str, Transaction]:
        """Read transactions without payloads; unknown ones are missing from the answer."""
        ...

    async def transaction_adoption(self, gid: str) -> Adoption | None:
        """When it was adopted, if it was."""
        ...

    async def participant_list(self) -> dict[str, ParticipantRecord]:
        """Every participant that an operator has acted on, by name."""
        ...

    async def participant_change(self, changed: ParticipantRecord, entry: AuditEntry) -> AuditRecord:
        """Write a participant over the version `changed.version`.

        Raises:
            VersionChanged
        """
        ...

    async def coordinator_list(self) -> list[CoordinatorRecord]:
        """Every coordinator that the log remembers, the longest-lived first."""
        ...

    async def coordinator_owned(self) -> dict[str, int]:
        """How many transactions each coordinator drives. Reads an index entry for each."""
        ...

    async def coordinator_request_drain(self, coordinator_id: str, entry: AuditEntry) -> AuditRecord:
        """Asks a coordinator that lives to end.

        Raises:
            VersionChanged: it does not live, or it has been asked.
        """
        ...

    async def coordinator_report(self, report: CoordinatorReport) -> OperatorDirectives:
        """Says how this coordinator is; returns what operators want of it."""
        ...

    async def backlog(self) -> Backlog:
        """Count what has not ended, as far as that is cheap."""
        ...

    async def audit_append(self, entry: AuditEntry) -> AuditRecord:
        """Record what is about to be done outside the log."""
        ...

    async def audit_head(self) -> AuditHead:
        """Return the end of the chain."""
        ...

    async def audit_after(self, sequence: int, limit: int) -> list[AuditRecord]:
        """Return the records after this one, oldest first."""
        ...

    async def audit_list(self, chosen: AuditFilter, *, before: int | None, limit: int) -> list[AuditRecord]:
        """Return records newest first; with `before`, those older than that one.

        Raises:
            SearchTooLong
        """
        ...


class BranchCall(Struct, frozen=True, kw_only=True, gc=False):
    """One operation on one branch, on its way to a participant."""

    gid: str
    index: int
    operation: Operation
    spec: BranchSpec
    expires_at: float
    attempt: int = 0
    result: bytes = b""
    result_content_type: str = ""
    trace: TraceContext | None = None
    # The span of the attempt before, where one was made.
    failed_span_id: str = ""


class Participants(Protocol):
    """The way to the participants."""

    def execute(
        self, participant: str, calls: Sequence[BranchCall]
    ) -> AsyncIterator[list[tuple[int, CallResult]]]:
        """Send a batch of calls; yield (position in `calls`, result) as each is known.

        Never raises for what a participant or the network does: each call gets
        exactly one answer, FAILED where nothing better is known.
        """
        ...


class BarrierPage(Struct, frozen=True, kw_only=True):
    """Rows of a participant's barrier, and where the next page starts; empty: there is none."""

    rows: list[BarrierRow]
    next_page_token: str = ""


class BarrierQuery(Struct, frozen=True, kw_only=True):
    """Which rows a listing holds, by the participant's clock.

    Those of these states, whose last change and whose transaction's expiry lie at least
    `min_age_s` back, and the expiry at most `max_age_s` (0: however far).
    """

    states: tuple[BarrierState, ...] = (BarrierState.TRIED,)
    min_age_s: float = 0.0
    max_age_s: float = 0.0
    page_size: int = 500


class BarrierReader(Participants, Protocol):
    """What participants have on their books.

    Raises:
        core.errors.ReconciliationUnsupported: the participant has no way to say.
        core.errors.ParticipantUnreachable: it does not answer, or not what it should.
        core.errors.UnknownParticipant
    """

    async def list_branches(self, participant: str, asked: BarrierQuery, page_token: str) -> BarrierPage:
        """Return a page of rows; "" asks for the first. It may be empty without being the last."""
        ...

    async def find_branches(self, participant: str, keys: Sequence[tuple[str, str]]) -> list[BarrierRow]:
        """Those of these rows, (gid, branch_id), that there are."""
        ...


class Clock(Protocol):
    """The time of the log, in seconds since the Unix epoch; never runs backwards by local jumps."""

    def now(self) -> float: ...
