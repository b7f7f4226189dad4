"""The log for operators: `ports.OperatorLog`.

Every action is one database transaction with two writes: the record is added to the end of
the audit chain, and the action itself is a compare-and-set on what the operator saw. If two
actions race for the end of the chain, the second waits for the first commit, finds the place
taken, and retries.

If the outcome of a commit is unknown, the record decides: either it exists with exactly
the hash that was to be written, or nothing has happened.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from coordinator.core.audit import AuditEntry, AuditHead, AuditRecord, SignedHead, chained
from coordinator.core.errors import LogRejected, LogUnavailable, Overloaded, SearchTooLong, VersionChanged
from coordinator.core.model import Transaction
from coordinator.log import operator_statements as statements
from coordinator.log.backlog import COUNT_MAX, backlog
from coordinator.log.connection import StatementResult
from coordinator.log.connections import Connections
from coordinator.log.failures import StatementTooLong
from coordinator.log.rows import full_columns, record as transaction_record
from coordinator.log.schema import HOME
from coordinator.log.servers import History
from coordinator.log.statements import Statement, in_cell
from coordinator.ports.operator_log import (
    Adoption,
    AuditFilter,
    Backlog,
    CoordinatorRecord,
    CoordinatorReport,
    OperatorDirectives,
    ParticipantRecord,
)

# How often an action retries to become the next in the chain.
_CHAIN_TRIES_MAX = 50
_COMMAND_COLUMNS = (
    "gid",
    "version",
    "state",
    "progress",
    "cancel_reason",
    "cancel_branch_id",
    "cancel_detail",
    "cancel_message",
    "stuck",
    "waiting_on",
    "next_attempt_at",
)
logger = structlog.get_logger(__name__)
_encode_report = msgspec.json.Encoder().encode
_decode_report = msgspec.json.Decoder(CoordinatorReport).decode


class OperatorPool:
    """The connections for operators to one server of the log, which the cells there share.

    Counts, searches and the audit chain are read on another one, so that they delay no command and no
    report, by which a coordinator hears of commands.
    """

    def __init__(
        self, url: str, *, statement_timeout_s: float = 10.0, history: History | None = None
    ) -> None:
        """`history`: shared with the other connections of this process to the same server."""
        at_most = partial(
            Connections, url, statement_timeout_s=statement_timeout_s, history=history or History()
        )
        self.commands = at_most(most=2)
        self.searches = at_most(most=1)

    async def close(self) -> None:
        await self.commands.close()
        await self.searches.close()


class PostgresOperatorLog:
    """The log, or a cell of it, for operators. `owner` is the coordinator that reports here."""

    def __init__(
        self, pool: OperatorPool, *, owner: str, count_max: int = COUNT_MAX, cell: int = HOME
    ) -> None:
        """`pool`: the connections to its server, which other cells there may share."""
        self._owner = owner
        self._count_max = count_max
        self.cell = cell
        self.use(pool)

    def use(self, pool: OperatorPool) -> None:
        """Use these connections from now on. Others, if the cell was moved."""
        self._pool = pool
        self._connections = pool.commands
        self._searches = pool.searches

    async def close(self) -> None:
        """Close its connections."""
        await self._pool.close()

    # --- actions ---------------------------------------------------------------------

    async def transaction_command(self, tx: Transaction, entry: AuditEntry) -> AuditRecord:
        """See `ports.OperatorLog`."""
        columns = {name: values[0] for name, values in full_columns((tx,)).items()}
        values = {name: columns[name] for name in _COMMAND_COLUMNS} | {"heuristic": tx.heuristic}
        return await self._write_audited(statements.TRANSACTION_COMMAND, values, entry)

    async def participant_change(self, changed: ParticipantRecord, entry: AuditEntry) -> AuditRecord:
        """See `ports.OperatorLog`."""
        statement = statements.PARTICIPANT_UPDATE if changed.version else statements.PARTICIPANT_INSERT
        return await self._write_audited(statement, msgspec.structs.asdict(changed), entry)

    async def coordinator_request_drain(self, coordinator_id: str, entry: AuditEntry) -> AuditRecord:
        """See `ports.OperatorLog`."""
        return await self._write_audited(statements.COORDINATOR_DRAIN, {"id": coordinator_id}, entry)

    async def _write_audited(
        self, statement: Statement | None, values: Mapping[str, Any], entry: AuditEntry
    ) -> AuditRecord:
        for _ in range(_CHAIN_TRIES_MAX):
            head, last_us, now = await self._audit_end()
            # Times increase, so that the chains of several cells can be merged.
            record = replace(chained(head, entry, max(round(now * 1e6), last_us + 1)), cell=self.cell)
            idle = await self._write(statement, values, record)
            if idle is None:
                _log_done(record)
                return record
            if idle == 1:
                raise VersionChanged(f"{entry.target} has changed; check it again")
        raise Overloaded("too many concurrent operator actions", retry_after_s=0.5)

    async def _write(
        self, statement: Statement | None, values: Mapping[str, Any], record: AuditRecord
    ) -> int | None:
        """See `Connections.execute_all`. If the record exists afterwards, it was written."""
        done = () if statement is None else ((in_cell(statement, self.cell), values),)
        steps = ((in_cell(statements.AUDIT_INSERT, self.cell), _audit_values(record)), *done)
        try:
            return await self._connections.execute_all(steps)
        except LogUnavailable:
            found = await self._execute(statements.AUDIT_GET, sequence=record.sequence)
            if [_audit_record(row, self.cell) for row in found.rows] == [record]:
                return None
            raise

    async def audit_append(self, entry: AuditEntry) -> AuditRecord:
        """See `ports.OperatorLog`."""
        return await self._write_audited(None, {}, entry)

    # --- reading ---------------------------------------------------------------------

    async def transaction_brief(self, gids: Sequence[str]) -> dict[str, Transaction | None]:
        """See `ports.OperatorLog`."""
        found = await self._search(statements.TRANSACTION_BRIEF, gids=list(gids))
        records = map(transaction_record, found.rows)
        return {one.tx.gid: None if one.quarantined else one.tx for one in records}

    async def transaction_adoption(self, gid: str) -> Adoption | None:
        """See `ports.OperatorLog`."""
        found = await self._execute(statements.TRANSACTION_ADOPTION, gid=gid)
        return Adoption(*found.rows[0]) if found.rows else None

    async def participant_list(self) -> dict[str, ParticipantRecord]:
        """See `ports.OperatorLog`."""
        rows = (await self._execute(statements.PARTICIPANT_LIST)).rows
        return {row[0]: _participant(row) for row in rows}

    async def coordinator_list(self) -> list[CoordinatorRecord]:
        """See `ports.OperatorLog`."""
        rows = (await self._execute(statements.COORDINATOR_LIST)).rows
        return [_coordinator(row) for row in rows]

    async def coordinator_owned(self) -> dict[str, int]:
        """See `ports.OperatorLog`."""
        return dict((await self._search(statements.COORDINATOR_OWNED)).rows)

    async def coordinator_report(self, report: CoordinatorReport) -> OperatorDirectives:
        """See `ports.OperatorLog`."""
        drain_requested = await self._execute(
            statements.COORDINATOR_REPORT, owner=self._owner, report=_encode_report(report)
        )
        return OperatorDirectives(
            drain=drain_requested.rows == [(True,)], participants=await self.participant_list()
        )

    async def backlog(self) -> Backlog:
        """See `ports.OperatorLog`."""
        return await backlog(self._search, self._count_max)

    async def confirmation_key(self) -> bytes:
        """See `ports.OperatorLog`."""
        rows = (await self._execute(statements.CONFIRMATION_KEY)).rows
        if not rows:
            raise LogRejected("table coordinator_secrets of the log has no key for confirmation tokens")
        key: bytes = rows[0][0]
        return key

    # --- the audit chain ---------------------------------------------------------------

    async def audit_head(self) -> AuditHead:
        """See `ports.OperatorLog`."""
        head, _, _ = await self._audit_end()
        return head

    async def _audit_end(self) -> tuple[AuditHead, int, float]:
        """Return the end of the chain, its time (0: it is empty), and the time of the database."""
        ((sequence, head, last_us, now),) = (await self._execute(statements.AUDIT_HEAD)).rows
        return (AuditHead(), 0, now) if sequence is None else (AuditHead(sequence, head), last_us, now)

    async def audit_head_append(self, signed: SignedHead) -> None:
        """See `ports.OperatorLog`."""
        await self._execute(
            statements.AUDIT_HEAD_INSERT,
            sequence=signed.head.sequence,
            hash=signed.head.hash,
            at_us=signed.at_us,
            key_id=signed.key_id,
            signature=signed.signature,
        )

    async def audit_head_list(self, key_id: str, limit: int) -> list[SignedHead]:
        """See `ports.OperatorLog`."""
        found = await self._search(statements.AUDIT_HEAD_LIST, key_id=key_id, limit=limit)
        return [
            SignedHead(head=AuditHead(sequence, own_hash), at_us=at_us, key_id=key, signature=signature)
            for sequence, own_hash, at_us, key, signature in found.rows
        ]

    async def audit_after(self, sequence: int, limit: int) -> list[AuditRecord]:
        """See `ports.OperatorLog`."""
        found = await self._search(statements.AUDIT_AFTER, sequence=sequence, limit=limit)
        return [_audit_record(row, self.cell) for row in found.rows]

    def audit_list_position(self, record: AuditRecord) -> int:
        """See `ports.OperatorLog`."""
        return record.sequence

    async def audit_list(
        self, chosen: AuditFilter, *, before: int | None, limit: int, before_us: int | None = None
    ) -> list[AuditRecord]:
        """See `ports.OperatorLog`. With `before_us`, those that are older than this moment."""
        values: dict[str, Any] = {
            name: value for name, value in msgspec.structs.asdict(replace(chosen, cell=None)).items() if value
        }
        if before is not None:
            values["before"] = before
        if before_us is not None:
            values["before_us"] = before_us
        statement = statements.audit_list_statement(frozenset(values))
        try:
            found = await self._search(statement, limit=limit, **values)
        except StatementTooLong as error:
            raise SearchTooLong("the search took too long and was given up") from error
        return [_audit_record(row, self.cell) for row in found.rows]

    async def _execute(self, statement: Statement, **values: Any) -> StatementResult:
        return await self._connections.execute(in_cell(statement, self.cell), values)

    async def _search(self, statement: Statement, **values: Any) -> StatementResult:
        """Run a statement that may read much."""
        return await self._searches.execute(in_cell(statement, self.cell), values)


def _participant(row: tuple[Any, ...]) -> ParticipantRecord:
    name, version, paused, breaker_resets, operator, reason, changed_at = row
    return ParticipantRecord(
        name=name,
        version=max(0, version),
        paused=paused,
        breaker_resets=max(0, breaker_resets),
        operator=operator,
        reason=reason,
        changed_at=changed_at,
    )


def _coordinator(row: tuple[Any, ...]) -> CoordinatorRecord:
    *known, report = row
    fields = ("id", "name", "started_at", "lease_until", "alive", "drain_requested_at", "reported_at")
    return CoordinatorRecord(**dict(zip(fields, known, strict=True)), report=_report(report))


def _report(stored: bytes | None) -> CoordinatorReport:
    """Decode a report. One that cannot be read, for example of a future version, says nothing."""
    try:
        return CoordinatorReport() if stored is None else _decode_report(stored)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return CoordinatorReport(version="unreadable report")


def _log_done(record: AuditRecord) -> None:
    """Log a record that is durable: a copy of it outside the database."""
    entry = msgspec.structs.asdict(record.entry)
    place = {"cell": record.cell} if record.cell else {}
    logger.info("audit", outcome="DONE", sequence=record.sequence, **place, **entry, hash=record.hash.hex())


def _audit_values(record: AuditRecord) -> dict[str, Any]:
    return msgspec.structs.asdict(record.entry) | {
        "sequence": record.sequence,
        "at_us": record.at_us,
        "previous_hash": record.previous_hash,
        "hash": record.hash,
    }


def _audit_record(row: tuple[Any, ...], cell: int) -> AuditRecord:
    sequence, at_us, *entry, previous_hash, own_hash = row
    return AuditRecord(
        sequence=sequence,
        at_us=at_us,
        entry=AuditEntry(**dict(zip(AuditEntry.__struct_fields__, entry, strict=True))),
        previous_hash=previous_hash,
        hash=own_hash,
        cell=cell,
    )
