"""The statements of operators. They are rare, so each may be expensive, but never on the happy path."""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    SmallInteger,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from coordinator.core.model import TransactionState
from coordinator.log.schema import (
    IS_PARKED,
    audit,
    audit_heads,
    coordinator_secrets,
    coordinators,
    participants,
    transactions,
)
from coordinator.log.statements import (
    BRIEF_RECORD,
    CREATED_UNINDEXED,
    GIDS,
    IS_HELD,
    NO_TEXT,
    Statement,
    binary,
    clock,
    compiled,
    constant,
    flag,
    is_valid_transition,
    number,
    real,
    seconds,
    text,
)

t = transactions.c


# --- transactions ----------------------------------------------------------------

TRANSACTION_BRIEF = compiled("transaction_brief", select(*BRIEF_RECORD).where(t.gid == GIDS))


def _command() -> Statement:
    """Write one row in the version that the operator saw, whatever its owner; then it is parked or ended."""
    state = bindparam("state", type_=SmallInteger)
    next_attempt_at = func.to_timestamp(real("next_attempt_at"))
    decided = state != constant(TransactionState.TRYING)
    ended = state.in_([constant(each) for each in TransactionState if each.ended])
    now = clock()
    return compiled(
        "transaction_command",
        update(transactions)
        .values(
            version=t.version + constant(1),
            # Without an owner, so that no earlier owner mistakes this for its own write.
            owner=NO_TEXT,
            state=state,
            progress=binary("progress"),
            cancel_reason=bindparam("cancel_reason", type_=SmallInteger),
            cancel_branch_id=text("cancel_branch_id"),
            cancel_detail=text("cancel_detail"),
            cancel_message=text("cancel_message"),
            stuck=flag("stuck"),
            heuristic=flag("heuristic"),
            waiting_on=text("waiting_on"),
            next_attempt_at=next_attempt_at,
            decided_at=case((decided, func.coalesce(t.decided_at, now.c.moment))),
            ended_at=case((ended, now.c.moment)),
        )
        .where(
            t.gid == text("gid"),
            t.version == number("version"),
            t.ended_at.is_(None),
            is_valid_transition(state),
        ),
    )


TRANSACTION_COMMAND = _command()
TRANSACTION_ADOPTION = compiled(
    "transaction_adoption",
    select(seconds(t.adopted_at), t.adopted_from).where(t.gid == text("gid"), t.adopted_at.is_not(None)),
)
_owned = and_(t.next_attempt_at.is_(None), t.ended_at.is_(None))


def _backlog_capped() -> Statement:
    """Select the time, and the counts of stuck and held transactions, each at most `most`."""

    def count(order: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[Any]:
        # In the order of an index. Otherwise all of the index would be read first.
        found = select(constant(1)).where(*conditions).order_by(order).limit(number("most")).subquery()
        return select(func.count()).select_from(found).scalar_subquery()

    stuck = count(t.created_at, t.stuck, t.ended_at.is_(None))
    # They wait for no participant; the index keeps them there.
    held = count(t.next_attempt_at, t.waiting_on == NO_TEXT, t.next_attempt_at.is_not(None), IS_HELD)
    return compiled("transaction_count_marked", select(seconds(func.clock_timestamp()), stuck, held))


def _backlog_counts() -> Statement:
    """Count by awaited participant and state, at most `most` of each. NULL: a coordinator drives them.

    It is one statement because transactions move: each is in one place at a time. It therefore
    also finds the awaited participants, with one index lookup for each.
    """
    owned = select(cast(null(), Text), t.state, func.count()).where(_owned).group_by(t.state)
    # Released, adopted and held transactions wait for no participant.
    waited_for = select(cast(NO_TEXT, Text).label("waiting_on")).cte("waited_for", recursive=True)
    following = (
        select(t.waiting_on)
        .where(t.next_attempt_at.is_not(None), t.waiting_on > waited_for.c.waiting_on)
        .order_by(t.waiting_on)
        .limit(constant(1))
        .correlate(waited_for)
        .lateral("following")
    )
    waited_for = waited_for.union_all(
        select(following.c.waiting_on).select_from(waited_for.join(following, true()))
    )
    parked = (
        select(t.state)
        .where(t.next_attempt_at.is_not(None), t.waiting_on == waited_for.c.waiting_on)
        .order_by(t.next_attempt_at)
        .limit(number("most"))
        .correlate(waited_for)
        .lateral("parked")
    )
    waiting = select(waited_for.c.waiting_on, parked.c.state, func.count()).select_from(
        waited_for.join(parked, true())
    )
    return compiled("transaction_count_backlog", union_all(owned, waiting.group_by(literal_column("1, 2"))))


def _backlog_oldest() -> Statement:
    """Select the oldest transaction that is owned, and the oldest that is parked."""
    found = select(t.gid, seconds(t.created_at)).limit(constant(1))
    owned = found.where(_owned).order_by(CREATED_UNINDEXED, t.gid).subquery()
    parked = found.where(IS_PARKED).order_by(t.created_at).subquery()
    return compiled("transaction_oldest_backlog", union_all(select(owned), select(parked)))


BACKLOG_CAPPED = _backlog_capped()
BACKLOG_COUNTS = _backlog_counts()
BACKLOG_OLDEST = _backlog_oldest()


# --- participants ----------------------------------------------------------------

PARTICIPANT_LIST = compiled(
    "participant_list",
    select(
        participants.c.name,
        participants.c.version,
        participants.c.paused,
        participants.c.breaker_resets,
        participants.c.operator,
        participants.c.reason,
        seconds(participants.c.changed_at),
    ),
)
_participant: Mapping[str, ColumnElement[Any]] = MappingProxyType(
    {
        "paused": flag("paused"),
        "breaker_resets": number("breaker_resets"),
        "operator": text("operator"),
        "reason": text("reason"),
        "changed_at": func.now(),
    }
)
PARTICIPANT_INSERT = compiled(
    "participant_insert",
    insert(participants)
    .values(name=text("name"), version=constant(1), **_participant)
    .on_conflict_do_nothing(index_elements=["name"])
    .returning(participants.c.name),
)
PARTICIPANT_UPDATE = compiled(
    "participant_update",
    update(participants)
    .values(version=participants.c.version + constant(1), **_participant)
    .where(participants.c.name == text("name"), participants.c.version == number("version")),
)


# --- coordinators ----------------------------------------------------------------

c = coordinators.c
COORDINATOR_LIST = compiled(
    "coordinator_list",
    select(
        c.id,
        c.name,
        seconds(c.started_at),
        seconds(c.lease_until),
        # The portability test requires that moments are compared to the database's clock.
        c.lease_until > func.now(),
        seconds(c.drain_requested_at),
        seconds(c.reported_at),
        c.report,
    ).order_by(c.started_at, c.id),
)
COORDINATOR_OWNED = compiled(
    "coordinator_owned",
    select(t.owner, func.count())
    .where(t.next_attempt_at.is_(None), t.ended_at.is_(None))
    .group_by(literal_column("1")),
)
COORDINATOR_DRAIN = compiled(
    "coordinator_drain",
    update(coordinators)
    .values(drain_requested_at=func.now())
    .where(c.id == text("id"), c.lease_until > func.now(), c.drain_requested_at.is_(None)),
)
COORDINATOR_REPORT = compiled(
    "coordinator_report",
    update(coordinators)
    .values(report=binary("report"), reported_at=func.now())
    .where(c.id == text("owner"))
    .returning(c.drain_requested_at.is_not(None)),
)


# --- the audit chain ---------------------------------------------------------------

_record = (
    audit.c.sequence,
    audit.c.at_us,
    audit.c.operator,
    audit.c.action,
    audit.c.target,
    audit.c.reason,
    audit.c.detail,
    audit.c.on_behalf_of,
    audit.c.method,
    audit.c.peer,
    audit.c.credential,
    audit.c.role,
    audit.c.previous_hash,
    audit.c.hash,
)
CONFIRMATION_KEY = compiled(
    "confirmation_key",
    select(coordinator_secrets.c.value).where(
        coordinator_secrets.c.name == literal_column("'confirmation'", Text)
    ),
)
# Of an empty chain, only the time is known.
_end = (
    select(audit.c.sequence, audit.c.hash, audit.c.at_us)
    .order_by(audit.c.sequence.desc())
    .limit(constant(1))
    .subquery()
)
_now = select(seconds(func.clock_timestamp()).label("now")).subquery()
AUDIT_HEAD = compiled(
    "audit_head",
    select(_end.c.sequence, _end.c.hash, _end.c.at_us, _now.c.now).select_from(_now.outerjoin(_end, true())),
)
# If another coordinator was faster, it writes nothing: the statement waits until that has committed.
AUDIT_INSERT = compiled(
    "audit_insert",
    insert(audit)
    .values(
        sequence=number("sequence"),
        at_us=number("at_us"),
        operator=text("operator"),
        action=text("action"),
        target=text("target"),
        reason=text("reason"),
        detail=text("detail"),
        on_behalf_of=text("on_behalf_of"),
        method=text("method"),
        peer=text("peer"),
        credential=text("credential"),
        role=text("role"),
        previous_hash=binary("previous_hash"),
        hash=binary("hash"),
    )
    .on_conflict_do_nothing(index_elements=["sequence"])
    .returning(audit.c.sequence),
)
AUDIT_HEAD_INSERT = compiled(
    "audit_head_insert",
    insert(audit_heads).values(
        sequence=number("sequence"),
        hash=binary("hash"),
        at_us=number("at_us"),
        key_id=text("key_id"),
        signature=binary("signature"),
    ),
)
_heads = audit_heads.c
AUDIT_HEAD_LIST = compiled(
    "audit_head_list",
    select(_heads.sequence, _heads.hash, _heads.at_us, _heads.key_id, _heads.signature)
    .where(_heads.key_id == text("key_id"))
    .order_by(_heads.sequence.desc(), _heads.at_us.desc())
    .limit(number("limit")),
)
AUDIT_GET = compiled("audit_get", select(*_record).where(audit.c.sequence == number("sequence")))
AUDIT_AFTER = compiled(
    "audit_after",
    select(*_record)
    .where(audit.c.sequence > number("sequence"))
    .order_by(audit.c.sequence)
    .limit(number("limit")),
)
_AUDIT_CONDITIONS: Mapping[str, ColumnElement[bool]] = MappingProxyType(
    {
        "operator": audit.c.operator == text("operator"),
        "target": audit.c.target == text("target"),
        "action": audit.c.action == text("action"),
        "before": audit.c.sequence < number("before"),
        "before_us": audit.c.at_us < number("before_us"),
    }
)
AUDIT_CONDITIONS = tuple(_AUDIT_CONDITIONS)


@cache
def audit_list_statement(conditions: frozenset[str]) -> Statement:
    """Select a page of records that match these `AUDIT_CONDITIONS`, newest first."""
    chosen = [_AUDIT_CONDITIONS[name] for name in AUDIT_CONDITIONS if name in conditions]
    page = select(*_record).where(*chosen).order_by(audit.c.sequence.desc())
    return compiled("audit_list", page.limit(number("limit")))
