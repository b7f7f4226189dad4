"""What coordinators of 0.1.0 need to go on beside newer ones, and to start again.

They keep the log in the schema public. Once it has moved, views stand in its place: PostgreSQL
writes through such a view to its table. They have the columns of 0.1.0; others get their defaults.
The audit chain has no view: 0.1.0 continues it from a table that newer versions lack.
"""

from sqlalchemy import text

from coordinator.log.schema import SCHEMA

# The last migration that 0.1.0 knows.
_REVISION = "0005"
_COLUMNS = {
    "transactions": (
        "gid, version, state, owner, claim, interactive, initiator, labels, fingerprint, branches, payloads, "
        "progress, participants, cancel_reason, cancel_branch_id, cancel_detail, cancel_message, stuck, "
        "waiting_on, next_attempt_at, created_at, expires_at, decided_at, ended_at, heuristic, adopted_at, "
        "adopted_from, trace"
    ),
    "coordinators": "id, name, started_at, lease_until, drain_requested_at, report, reported_at",
    "participants": "name, version, paused, breaker_resets, operator, reason, changed_at",
}
# After every migration, in the same transaction.
STAND_IN = (
    *(
        text(f"CREATE VIEW public.{table} AS SELECT {columns} FROM {SCHEMA}.{table}")  # noqa: S608 - constants
        for table, columns in _COLUMNS.items()
    ),
    text(f"UPDATE public.alembic_version SET version_num = '{_REVISION}'"),  # noqa: S608 - constants
)
