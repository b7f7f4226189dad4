"""The port for operators: reports, actions with their audit records, counts."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from coordinator.core.audit import AuditEntry, AuditHead, AuditRecord, SignedHead
from coordinator.core.model import (
    Transaction,
    TransactionState,
)

# Reports are stored as JSON. Anything else is no report.
_Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Total = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class ParticipantReport(Struct, frozen=True, kw_only=True):
    """A participant as one coordinator sees it. Counts since that started; times by the log's clock."""

    target: str = ""
    paused: bool = False
    # None: the breaker is closed; otherwise when it lets a probe out.
    probe_at: float | None = None
    probing: bool = False
    consecutive_failures: _Count = 0
    backlog: _Count = 0
    in_flight: _Count = 0
    live_branches: _Count = 0
    calls_completed: _Total = 0
    calls_failed: _Total = 0
    last_error: str = ""
    last_error_at: float = 0.0


class CoordinatorReport(Struct, frozen=True, kw_only=True):
    """The report of a coordinator. Counts since it started, rates since its previous report."""

    version: str = ""
    live: _Count = 0
    log_backlog: _Count = 0
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
    # How many transactions it drives; None if that was not asked for.
    owned: int | None = None


class ParticipantRecord(Struct, frozen=True, kw_only=True):
    """The directives of operators for a participant. Version 0: none."""

    name: str
    version: int = 0
    paused: bool = False
    breaker_resets: int = 0
    operator: str = ""
    reason: str = ""
    changed_at: float | None = None


class OperatorDirectives(Struct, frozen=True, kw_only=True):
    """The directives of operators for a coordinator."""

    drain: bool
    participants: dict[str, ParticipantRecord]


class AuditFilter(Struct, frozen=True, kw_only=True):
    """Which audit records a list holds. Empty fields do not narrow it."""

    operator: str = ""
    target: str = ""
    action: str = ""
    # None: of the chains of all cells.
    cell: int | None = None


class Adoption(Struct, frozen=True):
    """The last time that a transaction was taken over from a dead coordinator."""

    at: float
    former_owner: str


class Backlog(Struct, frozen=True, kw_only=True):
    """The transactions that have not ended, counted by the log at `at` (its clock).

    Counts of stuck and held ones, and of those that wait for each participant, go no further
    than `count_max`. `capped`: more is parked than is counted in `by_state` and `parked`.
    """

    at: float
    count_max: int
    capped: bool = False
    by_state: dict[TransactionState, int]
    parked: int
    stuck: int
    held: int
    oldest_gid: str = ""
    oldest_created_at: float | None = None
    # How many parked ones wait for each participant.
    waiting_on: dict[str, int] = {}


class OperatorLog(Protocol):
    """The log as operators read it and write to it.

    What changes something adds a record to the audit chain in the same database
    transaction and returns it. Everything raises `core.errors.LogUnavailable` as
    `Log` does; a repeat of what took effect then is refused by its version.
    """

    async def transaction_command(self, tx: Transaction, entry: AuditEntry) -> AuditRecord:
        """Write the result of a command on version `tx.version`, whichever its owner; then it has none.

        Raises:
            VersionChanged
        """
        ...

    async def transaction_brief(self, gids: Sequence[str]) -> dict[str, Transaction | None]:
        """Read transactions without payloads; unknown ones are missing. None: it is quarantined."""
        ...

    async def transaction_adoption(self, gid: str) -> Adoption | None:
        """Return its last adoption, or None."""
        ...

    async def participant_list(self) -> dict[str, ParticipantRecord]:
        """Return every participant that an operator has acted on, by name."""
        ...

    async def participant_change(self, changed: ParticipantRecord, entry: AuditEntry) -> AuditRecord:
        """Write a participant over the version `changed.version`.

        Raises:
            VersionChanged
        """
        ...

    async def coordinator_list(self) -> list[CoordinatorRecord]:
        """Return every coordinator that the log knows, the longest-lived first."""
        ...

    async def coordinator_owned(self) -> dict[str, int]:
        """Return how many transactions each coordinator drives. Reads an index entry for each."""
        ...

    async def coordinator_request_drain(self, coordinator_id: str, entry: AuditEntry) -> AuditRecord:
        """Request that a live coordinator drains.

        Raises:
            VersionChanged: it does not live, or it has been asked.
        """
        ...

    async def coordinator_report(self, report: CoordinatorReport) -> OperatorDirectives:
        """Write the report of this coordinator; return the directives of operators."""
        ...

    async def backlog(self) -> Backlog:
        """Count the transactions that have not ended, up to a cheap bound."""
        ...

    async def confirmation_key(self) -> bytes:
        """Return the key of confirmation tokens, which only the coordinators of this log know."""
        ...

    async def audit_append(self, entry: AuditEntry) -> AuditRecord:
        """Record an action that is about to be done outside the log."""
        ...

    async def audit_head(self) -> AuditHead:
        """Return the end of the chain."""
        ...

    async def audit_head_append(self, signed: SignedHead) -> None:
        """Keep a statement about the end of the chain."""
        ...

    async def audit_head_list(self, key_id: str, limit: int) -> list[SignedHead]:
        """Return the statements by one key, those about the latest end first."""
        ...

    async def audit_after(self, sequence: int, limit: int) -> list[AuditRecord]:
        """Return the records after this one, oldest first."""
        ...

    def audit_list_position(self, record: AuditRecord) -> int:
        """Return the position of a record in the lists of `audit_list`."""
        ...

    async def audit_list(self, chosen: AuditFilter, *, before: int | None, limit: int) -> list[AuditRecord]:
        """Return records newest first; with `before`, those behind that position.

        Raises:
            SearchTooLong
        """
        ...
