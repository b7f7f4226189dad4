"""The tables of the transaction log, as the migrations create them.

A transaction is one row, because the cost of a commit is in tuples. The indexes are
chosen by what the happy path (insert, decision, completion) pays for them:

- the primary key: every write finds its rows by it;
- `transactions_owned`: what a coordinator drives, for adoption and release. A row
leaves it when the transaction ends;
- `transactions_created`: pages, newest first, and the purge, oldest first. A
batch has one creation time, so without the gid the index stays tiny;
- `transactions_parked`: what waits for its next attempt. Free on the happy path,
which never parks;
- `transactions_parked_created`: the oldest of these. Its condition is spelled
uniquely, so that the planner uses it for nothing else;
- `transactions_stuck`: the stuck ones. Free while there are none;
- `transactions_ended_late`: those that took long, for the erasure of their payloads, which goes
through all others in the order of their creation. Free on the happy path.

The decision changes no indexed column, so it is a heap-only update as long as
the page has room: hence the fill factor. At 50, nine of ten decisions find room
(at 70, half of them), and the table is not larger in the end, because completions
reuse the space that decisions leave behind.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Interval,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    false,
    literal_column,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

# The log has a schema of its own, so that it shares a database with anything. Every connection sets it
# as its search path (`statements.SESSION`). A log of several cells has one for each.
SCHEMA = "tcc"
# The cell that also holds what concerns no transaction: participants, reports of coordinators, secrets.
HOME = 0
CELLS_MAX = 256


def cell_schema(cell: int) -> str:
    """Return the schema of a cell."""
    return SCHEMA if cell == HOME else f"{SCHEMA}_{cell}"


metadata = MetaData()

_Time = DateTime(timezone=True)

transactions = Table(
    "transactions",
    metadata,
    Column("gid", Text(collation="C"), primary_key=True),
    # Incremented by every write. A writer names the version that it saw.
    Column("version", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    # The owner, or the last owner: a parked or ended transaction has none.
    Column("owner", Text(collation="C"), nullable=False),
    # The call by which the owner took it over, to find it again if the response was lost.
    Column("claim", Text),
    Column("interactive", Boolean, nullable=False),
    Column("initiator", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    # The branch specs (`rows`). Payloads are separate, because lists do not read them.
    Column("branches", LargeBinary, nullable=False),
    Column("payloads", LargeBinary, nullable=False),
    # The progress of each branch; NULL if the state implies it.
    Column("progress", LargeBinary),
    Column("participants", ARRAY(Text), nullable=False),
    Column("cancel_reason", SmallInteger, nullable=False, server_default="0"),
    Column("cancel_branch_id", Text, nullable=False, server_default=""),
    Column("cancel_detail", Text, nullable=False, server_default=""),
    # The participant's message beside its reason, for people.
    Column("cancel_message", Text, nullable=False, server_default=""),
    Column("stuck", Boolean, nullable=False, server_default="false"),
    # The participant that a parked transaction waits for.
    Column("waiting_on", Text, nullable=False, server_default=""),
    # When a parked transaction is due; NULL if it is not parked.
    Column("next_attempt_at", _Time),
    Column("created_at", _Time, nullable=False),
    Column("expires_at", _Time, nullable=False),
    Column("decided_at", _Time),
    Column("ended_at", _Time),
    # An operator resolved a branch manually. Such a transaction is never purged.
    Column("heuristic", Boolean, nullable=False, server_default="false"),
    # The last adoption from a dead coordinator: its time, and that coordinator.
    Column("adopted_at", _Time),
    Column("adopted_from", Text(collation="C")),
    # The trace context (`rows`); NULL: none.
    Column("trace", Text),
    # The client that it belongs to; empty if callers were not authenticated.
    Column("tenant", Text, nullable=False, server_default=""),
    postgresql_with={"fillfactor": 50},
)

_columns = transactions.c

Index(
    "transactions_owned",
    _columns.owner,
    postgresql_where=_columns.next_attempt_at.is_(None) & _columns.ended_at.is_(None),
)
Index(
    "transactions_parked",
    _columns.waiting_on,
    _columns.next_attempt_at,
    postgresql_where=_columns.next_attempt_at.is_not(None),
)
Index("transactions_created", _columns.created_at)
IS_PARKED = _columns.next_attempt_at.is_(None).is_(false())
Index("transactions_parked_created", _columns.created_at, postgresql_where=IS_PARKED)
Index(
    "transactions_stuck",
    _columns.created_at,
    postgresql_where=_columns.stuck & _columns.ended_at.is_(None),
)

# Longer than nearly all transactions take.
ENDED_LATE_S = 600
ENDED_LATE = _columns.ended_at - _columns.created_at > literal_column("INTERVAL '10 minutes'", Interval)
Index("transactions_ended_late", _columns.ended_at, postgresql_where=ENDED_LATE)

# How far the payloads of ended transactions were erased: in the order of their creation, and of the end of
# those that took long.
erasures = Table(
    "erasures",
    metadata,
    Column("name", Text(collation="C"), primary_key=True),
    Column("moment", _Time, nullable=False),
    Column("gid", Text(collation="C"), nullable=False),
)

# Up to where the outcomes of transactions were published to a target, in the order of their creation, and
# the coordinator that does it.
outcome_positions = Table(
    "outcome_positions",
    metadata,
    Column("target", Text(collation="C"), primary_key=True),
    Column("moment", _Time, nullable=False),
    Column("gid", Text(collation="C"), nullable=False),
    Column("reader", Text(collation="C"), nullable=False),
)

# Of those before the position: the ones that had not ended when they were read.
outcomes_awaited = Table(
    "outcomes_awaited",
    metadata,
    Column("target", Text(collation="C"), primary_key=True),
    Column("gid", Text(collation="C"), primary_key=True),
    # That it is stuck was published.
    Column("stuck", Boolean, nullable=False, server_default="false"),
)

coordinators = Table(
    "coordinators",
    metadata,
    Column("id", Text(collation="C"), primary_key=True),
    # Where it runs, for people: host:pid.
    Column("name", Text, nullable=False),
    Column("started_at", _Time, nullable=False),
    Column("lease_until", _Time, nullable=False),
    # An operator requested that it finish its work and exit.
    Column("drain_requested_at", _Time),
    # Its own status and that of its participants (`ports.CoordinatorReport`), as JSON.
    Column("report", LargeBinary),
    Column("reported_at", _Time),
)

# Participants that an operator has acted on. The configuration defines which participants exist.
participants = Table(
    "participants",
    metadata,
    Column("name", Text(collation="C"), primary_key=True),
    Column("version", BigInteger, nullable=False, autoincrement=False),
    Column("paused", Boolean, nullable=False),
    # Each coordinator closes its breaker when it sees that this has increased.
    Column("breaker_resets", BigInteger, nullable=False),
    Column("operator", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("changed_at", _Time, nullable=False),
)

# Append-only: the database role of a running coordinator needs INSERT and SELECT on these two, no more.
# The primary key keeps two records from following the same one.
audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("operator", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text(collation="C"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    # Who called, as far as it is known (`core.audit.AuditEntry`).
    Column("on_behalf_of", Text, nullable=False, server_default=""),
    Column("method", Text, nullable=False, server_default=""),
    Column("peer", Text, nullable=False, server_default=""),
    Column("credential", Text, nullable=False, server_default=""),
    Column("role", Text, nullable=False, server_default=""),
)
Index("audit_target", audit.c.target, audit.c.sequence)

# Statements of coordinators about the end of the chain (`core.audit.SignedHead`).
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("sequence", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)
Index("audit_heads_newest", audit_heads.c.key_id, audit_heads.c.sequence, audit_heads.c.at_us)

# The place of a cell among those of its log: one row, and in the home cell one for each that was made.
cells = Table(
    "cells",
    metadata,
    Column("number", SmallInteger, primary_key=True, autoincrement=False),
    # How many the log has.
    Column("count", SmallInteger, nullable=False),
    # The same in all cells of a log, and in no other log.
    Column("log_id", Text(collation="C"), nullable=False),
    # Each move raises it. In the home cell: the highest that is known of each cell.
    Column("generation", BigInteger, nullable=False, server_default="1"),
    # In a copy that is left behind, or is being left: since when, and where to.
    Column("moved_at", _Time),
    Column("moved_to", Text),
)

# What only the coordinators of one log know.
coordinator_secrets = Table(
    "coordinator_secrets",
    metadata,
    Column("name", Text(collation="C"), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
