"""Every statement that the log can send, compiled once. Each is a single statement: one commit.

The rows of a batch are sent as arrays, one per column, which `unnest` turns into a table.
The database's clock decides what is due and which lease has expired. The rules that keep
the log portable (`docs/ARCHITECTURE.md`) apply to every statement here; a test checks
all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Double,
    Interval,
    LargeBinary,
    Select,
    SmallInteger,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    collate,
    column,
    delete,
    extract,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, Insert, array, insert
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.elements import BindParameter, ColumnElement
from sqlalchemy.sql.expression import Executable
from sqlalchemy.sql.selectable import FromClause, Subquery, TableValuedAlias
from sqlalchemy.types import TypeEngine

from coordinator.core.machine import REACHABLE
from coordinator.core.model import CancelReason, TransactionState
from coordinator.log.parameters import TEXT, ParameterType, parameter_type
from coordinator.log.schema import HOME, SCHEMA, cell_schema, coordinators, transactions

t = transactions.c
T = TypeVar("T")


class Statement(Struct, frozen=True, kw_only=True):
    """A compiled statement: PostgreSQL's SQL, and the names and types of its parameters, in order."""

    name: str
    sql: str
    parameters: tuple[str, ...] = ()
    types: tuple[ParameterType, ...] = ()

    def bind(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the parameters in order. A missing one raises KeyError."""
        return [values[name] for name in self.parameters]

    def encode(self, parameters: Sequence[Any]) -> list[bytes | None]:
        """Return the parameters as they are sent."""
        return [
            None if value is None else kind.encode(value)
            for kind, value in zip(self.types, parameters, strict=True)
        ]


def in_cell(statement: Statement, cell: int) -> Statement:
    """Return the statement for the schema of another cell. All of them run on the same connections."""
    if cell == HOME:
        return statement
    key = (statement.sql, cell)
    if key not in _IN_CELLS:
        sql = statement.sql.replace(f"{SCHEMA}.", f"{cell_schema(cell)}.")
        _IN_CELLS[key] = replace(statement, name=f"{statement.name} of cell {cell}", sql=sql)
    return _IN_CELLS[key]


# By the text for the home cell.
_IN_CELLS: dict[tuple[str, int], Statement] = {}
_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call] # it has no type hints


def compiled(name: str, statement: Executable) -> Statement:
    """Compile a statement for PostgreSQL."""
    result = statement.compile(  # type: ignore[attr-defined] # every Core construct has it
        dialect=_DIALECT, schema_translate_map={None: SCHEMA}, render_schema_translate=True
    )
    assert not any(value is not None for value in result.params.values()), "constants belong in the text"
    parameters = tuple(result.positiontup or ())
    types = tuple([parameter_type(result.binds[parameter].type) for parameter in parameters])
    # Texts have the type of their columns: with another one, Citus loses the parameter on its way.
    sql = str(result).replace("::VARCHAR", "::TEXT")
    return Statement(name=name, sql=sql, parameters=parameters, types=types)


def batch(name: str, **columns: TypeEngine[Any]) -> TableValuedAlias:
    """Return a table with one array parameter per column."""
    arrays = [bindparam(key, type_=ARRAY(kind)) for key, kind in columns.items()]
    names = [column(key, kind) for key, kind in columns.items()]
    return func.unnest(*arrays).table_valued(*names, name=name).render_derived()


def constant(value: int) -> ColumnElement[int]:
    return literal_column(str(int(value)), SmallInteger)


NO_TEXT = literal_column("''", Text)


def seconds(moment: ColumnElement[Any]) -> ColumnElement[float]:
    return cast(extract("epoch", moment), Double)


def returned_seconds(moment: ColumnElement[Any]) -> ColumnElement[float]:
    """Return the same by functions that depend on nothing else: Citus refuses others in RETURNING."""
    return cast(extract("epoch", moment - func.to_timestamp(constant(0))), Double)


def text(name: str) -> BindParameter[str]:
    return bindparam(name, type_=Text)


def number(name: str) -> BindParameter[int]:
    return bindparam(name, type_=BigInteger)


def real(name: str) -> ColumnElement[float]:
    return _typed(name, Double())


def flag(name: str) -> ColumnElement[bool]:
    return _typed(name, Boolean())


def binary(name: str) -> ColumnElement[bytes]:
    return _typed(name, LargeBinary())


def _typed(name: str, kind: TypeEngine[T]) -> ColumnElement[T]:
    """Return a parameter with its type, which SQLAlchemy leaves out for these.

    Without it PostgreSQL infers a type, and Citus, which sends the statement on, another one: NULL has none.
    """
    return cast(bindparam(name, type_=kind), kind)


def clock() -> Subquery:
    """Return the database's time as a table of one row, `moment`.

    Citus refuses a function whose value changes in CASE and COALESCE, and evaluates it before it sends the
    statement on. A column it leaves alone; PostgreSQL plans both in the same way.
    """
    return select(func.now().label("moment")).subquery("clock")


def ago(name: str) -> ColumnElement[Any]:
    """Return the moment the given number of seconds before now."""
    return func.now() - _interval(name)


def _interval(name: str) -> ColumnElement[Any]:
    return real(name) * literal_column("INTERVAL '1 second'", Interval)


# --- the session ---------------------------------------------------------------

# Whatever the server, the database or the role set by default, a session has these. Plans are made
# once and must suit any table size: they use the indexes. (Citus plans each statement with its values; it
# refuses most that it knows no values of.) What is acknowledged is durable. The server
# gives up a statement that the client has given up, and nothing else does. Only settings that the
# server has are set, so that relatives of PostgreSQL may lack some. (`client_encoding` is a parameter
# of the connection.)
SESSION = Statement(
    name="session",
    sql=f"""
        SELECT known.name, set_config(known.name, wanted.value, false)
        FROM pg_settings AS known
        JOIN (VALUES
            ('search_path', '{SCHEMA}'),
            ('plan_cache_mode', CASE WHEN EXISTS (SELECT FROM pg_settings WHERE name = 'citus.node_conninfo')
                                THEN 'force_custom_plan' ELSE 'force_generic_plan' END),
            ('enable_seqscan', 'off'),
            ('enable_hashjoin', 'off'),
            ('enable_mergejoin', 'off'),
            ('jit', 'off'),
            ('synchronous_commit', 'on'),
            ('default_transaction_isolation', 'read committed'),
            ('default_transaction_deferrable', 'off'),
            ('TimeZone', 'UTC'),
            ('DateStyle', 'ISO'),
            ('IntervalStyle', 'postgres'),
            ('bytea_output', 'hex'),
            ('standard_conforming_strings', 'on'),
            ('lock_timeout', '0'),
            ('idle_in_transaction_session_timeout', '0'),
            ('idle_session_timeout', '0'),
            ('transaction_timeout', '0'),
            ('statement_timeout', $1::TEXT)
        ) AS wanted (name, value) ON wanted.name = known.name
        WHERE known.name <> 'synchronous_commit' OR known.setting IN ('off', 'local')
        """,  # noqa: S608 - no value comes from outside
    parameters=("statement_timeout_ms",),
    types=(TEXT,),
)
# What the session says where cells may be on several machines, which share no transaction.
CITUS = ("plan_cache_mode", "force_custom_plan")
# For one transaction.
LOCK_TIMEOUT = Statement(
    name="lock_timeout",
    sql="SELECT set_config('lock_timeout', $1::TEXT, true)",
    parameters=("lock_timeout_ms",),
    types=(TEXT,),
)
# Around several statements.
BEGIN = Statement(name="begin", sql="BEGIN")
COMMIT = Statement(name="commit", sql="COMMIT")
ROLLBACK = Statement(name="rollback", sql="ROLLBACK")


def row_of(gid: ColumnElement[str]) -> ColumnElement[bool]:
    """Join a batch to its rows by the primary key, and in no other way.

    Plans may be made while the table is nearly empty, when a full scan looks cheapest, and
    kept until it is large. This spelling of equality supports an index lookup but neither a
    hash nor a merge join, so the lookup is all that is left.
    """
    return t.gid == any_(array([gid]))


def _is_owned_by(owner: ColumnElement[str]) -> ColumnElement[bool]:
    """Match the rows in `transactions_owned`, in the same way."""
    return and_(t.owner == any_(array([owner])), t.next_attempt_at.is_(None), t.ended_at.is_(None))


# --- reading -----------------------------------------------------------------


# The columns of a record, in the order in which `rows` reads them.
def _record_columns(
    seconds: Callable[[ColumnElement[Any]], ColumnElement[float]],
) -> dict[str, ColumnElement[Any]]:
    return {
        "gid": t.gid,
        "version": t.version,
        "state": t.state,
        "owner": t.owner,
        "interactive": t.interactive,
        "initiator": t.initiator,
        "labels": cast(t.labels, Text),
        "fingerprint": t.fingerprint,
        "branches": t.branches,
        "payloads": t.payloads,
        "progress": t.progress,
        "cancel_reason": t.cancel_reason,
        "cancel_branch_id": t.cancel_branch_id,
        "cancel_detail": t.cancel_detail,
        "cancel_message": t.cancel_message,
        "stuck": t.stuck,
        "waiting_on": t.waiting_on,
        "next_attempt_at": seconds(t.next_attempt_at),
        "created_at": seconds(t.created_at),
        "expires_at": seconds(t.expires_at),
        "decided_at": seconds(t.decided_at),
        "ended_at": seconds(t.ended_at),
        "adopted_from": t.adopted_from,
        "trace": t.trace,
        "tenant": t.tenant,
    }


RECORD = _record_columns(seconds)
_record = tuple(RECORD.values())
_RETURNED_RECORD = tuple(_record_columns(returned_seconds).values())
BRIEF_RECORD = tuple(null() if name == "payloads" else value for name, value in RECORD.items())

_ours = and_(t.owner == text("owner"), t.next_attempt_at.is_(None), t.ended_at.is_(None))
GIDS = any_(bindparam("gids", type_=ARRAY(Text)))

GET = compiled("transaction_get", select(*_record).where(t.gid == GIDS))

# Only a transaction held by an operator is due that late.
IS_HELD = t.next_attempt_at > func.now() + literal_column("INTERVAL '1000 years'", Interval)
# Spelled like the predicates of the two indexes that contain only these.
UNFINISHED = or_(t.next_attempt_at.is_not(None), and_(t.next_attempt_at.is_(None), t.ended_at.is_(None)))

# When a transaction was created, spelled so that the planner cannot use `transactions_created`:
# a search for a few unfinished transactions must not read the many that have ended.
CREATED_UNINDEXED = t.created_at + literal_column("INTERVAL '0 seconds'", Interval)


def _list_conditions(created_at: ColumnElement[Any]) -> dict[str, ColumnElement[bool]]:
    moment = DateTime(timezone=True)
    return {
        "states": t.state == any_(bindparam("states", type_=ARRAY(SmallInteger))),
        "participants": t.participants.contains(bindparam("participants", type_=ARRAY(Text))),
        "labels": t.labels.contains(cast(text("labels"), JSONB)),
        "initiator": t.initiator == text("initiator"),
        "tenants": t.tenant == any_(bindparam("tenants", type_=ARRAY(Text))),
        "stuck": t.stuck == flag("stuck"),
        "held": and_(t.next_attempt_at.is_not(None), IS_HELD) == flag("held"),
        "heuristic": t.heuristic == flag("heuristic"),
        "gids": t.gid == GIDS,
        "unfinished": UNFINISHED,
        "ended": t.ended_at.is_not(None),
        "created_after": created_at > bindparam("created_after", type_=moment),
        "created_before": created_at < bindparam("created_before", type_=moment),
        "after_gid": tuple_(created_at, t.gid)
        < tuple_(bindparam("after_created_at", type_=moment), text("after_gid")),
    }


LIST_CONDITIONS = tuple(_list_conditions(t.created_at))


@cache
def list_statement(conditions: frozenset[str], *, keys_only: bool = False) -> Statement:
    """Select a page of transactions that match these `LIST_CONDITIONS`, newest first."""
    columns = (t.gid, RECORD["created_at"]) if keys_only else BRIEF_RECORD
    created_at = CREATED_UNINDEXED if "unfinished" in conditions else t.created_at
    chosen = [value for name, value in _list_conditions(created_at).items() if name in conditions]
    page = select(*columns).where(*chosen).order_by(created_at.desc(), t.gid.desc())
    return compiled("transaction_list_keys" if keys_only else "transaction_list", page.limit(number("limit")))


# --- the three writes --------------------------------------------------------


# Of a new transaction.
_BEGUN: Mapping[str, TypeEngine[Any]] = {
    "gid": Text(),
    "state": SmallInteger(),
    "interactive": Boolean(),
    "initiator": Text(),
    "labels": Text(),
    "fingerprint": LargeBinary(),
    "branches": LargeBinary(),
    "payloads": LargeBinary(),
    "participants": Text(),
    "expires_at": Double(),
    "trace": Text(),
    "tenant": Text(),
}
# More rows cost Citus less as arrays.
VALUES_MAX = 64


def _insert() -> Statement:
    new = batch("new", **_BEGUN)
    now = clock()
    decided_at = case((new.c.state != constant(TransactionState.TRYING), now.c.moment))
    values = _begun_values(dict(new.c.items()), now.c.moment, decided_at)
    rows = select(*values.values()).select_from(new.join(now, true()))
    return _begin("transaction_begin", insert(transactions).from_select(list(values), rows))


@cache
def insert_values(count: int) -> Statement:
    """Insert `count` rows, each with its own parameters (`value_names`), for Citus.

    It commits the rows of a SELECT in two phases, even at one machine, and reports a success between the
    two. If the machine is lost then, its next reader finds no row. This is sent on as one statement.
    """
    rows: list[Mapping[str, ColumnElement[Any]]] = []
    for number in range(count):
        new = {name: _typed(value_name(name, number), kind) for name, kind in _BEGUN.items()}
        # CASE must not contain the clock there (`clock`), and VALUES can have no table beside it.
        is_decided = new["state"] != constant(TransactionState.TRYING)
        decided_at = func.now() + case((is_decided, literal_column("INTERVAL '0 seconds'", Interval)))
        rows.append(_begun_values(new, func.now(), decided_at))
    return _begin(f"transaction_begin of {count}", insert(transactions).values(rows))


def value_name(column_name: str, row: int) -> str:
    """Return the name of a parameter of `insert_values`."""
    return f"{column_name}_{row}"


def _begun_values(
    new: Mapping[str, ColumnElement[Any]], moment: ColumnElement[Any], decided_at: ColumnElement[Any]
) -> dict[str, ColumnElement[Any]]:
    """Return the columns of a new row."""
    return {
        "gid": new["gid"],
        "version": constant(1),
        "state": new["state"],
        "owner": text("owner"),
        "interactive": new["interactive"],
        "initiator": new["initiator"],
        "labels": cast(new["labels"], JSONB),
        "fingerprint": new["fingerprint"],
        "branches": new["branches"],
        "payloads": new["payloads"],
        "participants": _split(new["participants"]),
        "created_at": moment,
        "expires_at": func.to_timestamp(new["expires_at"]),
        "decided_at": decided_at,
        "trace": new["trace"],
        "tenant": new["tenant"],
    }


def _begin(name: str, new_rows: Insert) -> Statement:
    # What is returned is counted: Citus' own count of the rows of an ON CONFLICT is wrong.
    return compiled(name, new_rows.on_conflict_do_nothing(index_elements=["gid"]).returning(t.gid))


def _split(names: ColumnElement[str]) -> ColumnElement[Any]:
    """Split a text with one name per line into an array: arrays of arrays cannot be unnested."""
    return func.string_to_array(names, func.chr(constant(10)), type_=ARRAY(Text))


def is_valid_transition(new_state: ColumnElement[int]) -> ColumnElement[bool]:
    """Check the core's transitions once more: not even a bug can flip a decision."""
    moves = [
        and_(t.state == constant(before), new_state == constant(after))
        for before, reachable in REACHABLE.items()
        for after in sorted(reachable)
    ]
    return or_(t.state == new_state, *moves)


def _save(name: str, new: TableValuedAlias, changes: Mapping[str, ColumnElement[Any]]) -> Statement:
    """Write the rows of `new` that are still owned by us, in the version that we know."""
    decided = new.c.state != constant(TransactionState.TRYING)
    ended = new.c.state.in_([constant(state) for state in TransactionState if state.ended])
    now = clock()
    statement = (
        update(transactions)
        .values(
            version=t.version + constant(1),
            state=new.c.state,
            decided_at=case((decided, func.coalesce(t.decided_at, now.c.moment))),
            ended_at=case((ended, now.c.moment)),
            **changes,
        )
        .where(
            row_of(new.c.gid),
            t.version == new.c.version,
            t.owner == text("owner"),
            # Ours, but spelled so that the planner cannot use `transactions_owned` (`row_of`).
            func.coalesce(t.next_attempt_at, t.ended_at).is_(None),
            is_valid_transition(new.c.state),
        )
    )
    return compiled(name, statement)


def _save_plain() -> Statement:
    """Save rows whose state implies the rest: three columns instead of fifteen."""
    new = batch("new", gid=Text(), version=BigInteger(), state=SmallInteger())
    changes: dict[str, ColumnElement[Any]] = {"progress": null(), "stuck": false(), "waiting_on": NO_TEXT}
    # A cancel that was asked for may be in the row of a transaction that is confirmed.
    changes["cancel_reason"], changes["cancel_detail"] = constant(CancelReason.NONE), NO_TEXT
    return _save("transaction_save_plain", new, changes)


def _save_full() -> Statement:
    new = batch(
        "new",
        gid=Text(),
        version=BigInteger(),
        state=SmallInteger(),
        progress=LargeBinary(),
        cancel_reason=SmallInteger(),
        cancel_branch_id=Text(),
        cancel_detail=Text(),
        cancel_message=Text(),
        stuck=Boolean(),
        waiting_on=Text(),
        next_attempt_at=Double(),
        branches=LargeBinary(),
        payloads=LargeBinary(),
        participants=Text(),
    )
    as_they_are = (
        "progress", "cancel_reason", "cancel_branch_id", "cancel_detail", "cancel_message", "stuck",
        "waiting_on",
    )  # fmt: skip
    changes: dict[str, ColumnElement[Any]] = {name: new.c[name] for name in as_they_are}
    changes["next_attempt_at"] = func.to_timestamp(new.c.next_attempt_at)
    # NULL if no branch was added.
    changes["branches"] = func.coalesce(new.c.branches, t.branches)
    changes["payloads"] = func.coalesce(new.c.payloads, t.payloads)
    changes["participants"] = func.coalesce(_split(new.c.participants), t.participants)
    return _save("transaction_save_full", new, changes)


INSERT = _insert()
SAVE_PLAIN = _save_plain()
SAVE_FULL = _save_full()


# --- taking over -------------------------------------------------------------


def _take_over(
    name: str,
    chosen: FromClause,
    *conditions: ColumnElement[bool],
    changes: Mapping[str, ColumnElement[Any]] = MappingProxyType({}),
) -> Statement:
    """Make us the owner of the rows with the gids of `chosen`."""
    statement = (
        update(transactions)
        .values(
            owner=text("owner"),
            claim=text("claim"),
            version=t.version + constant(1),
            next_attempt_at=null(),
            waiting_on=NO_TEXT,
            **changes,
        )
        .where(row_of(chosen.c.gid), *conditions)
        .returning(*_RETURNED_RECORD)
    )
    return compiled(name, statement)


def _take() -> Statement:
    wanted = select(text("gid").label("gid")).subquery("wanted")
    return _take_over("transaction_take", wanted, t.version == number("version"), t.ended_at.is_(None))


def _claim_due() -> Statement:
    """Claim what is due for every participant at once, up to the limit of each."""
    share = batch("share", waiting_on=Text(), most=BigInteger())
    due = (
        select(t.gid)
        .where(t.next_attempt_at <= func.now(), t.waiting_on == share.c.waiting_on)
        .order_by(t.next_attempt_at)
        .limit(share.c.most)
        .with_for_update(skip_locked=True)
        .correlate(share)
        .lateral("due")
    )
    chosen: Select[Any] = select(due.c.gid).select_from(share.join(due, true()))
    return _take_over("transaction_claim_due", chosen.cte("chosen"))


def _adopt() -> Statement:
    """Start from the coordinators whose lease has expired: usually none, so no row is read."""
    limit = number("limit")
    dead = (
        select(coordinators.c.id)
        .where(coordinators.c.lease_until <= func.now(), coordinators.c.id != text("owner"))
        .cte("dead")
    )
    # Its own limit keeps the planner from reversing the join.
    left = (
        select(t.gid)
        .where(_is_owned_by(dead.c.id))
        .limit(limit)
        .with_for_update(skip_locked=True)
        .correlate(dead)
        .lateral("left_behind")
    )
    chosen: Select[Any] = select(left.c.gid).select_from(dead.join(left, true())).limit(limit)
    changes = {"adopted_at": func.now(), "adopted_from": t.owner}
    return _take_over("transaction_adopt", chosen.cte("chosen"), changes=changes)


def _find_claimed() -> Statement:
    """Return what was taken over in calls whose responses were lost."""
    claims = any_(bindparam("claims", type_=ARRAY(Text)))
    return compiled("transaction_find_claimed", select(*_record).where(_ours, t.claim == claims))


def _quarantine() -> Statement:
    """Hold a row, which then has no owner and is never due. Read nothing: a column may be damaged."""
    return compiled(
        "transaction_quarantine",
        update(transactions)
        .values(
            version=t.version + constant(1),
            next_attempt_at=func.to_timestamp(real("held")),
            waiting_on=NO_TEXT,
        )
        .where(t.gid == text("gid"), t.version == number("version"), t.ended_at.is_(None)),
    )


def _find(name: str, found: Select[Any]) -> Statement:
    """Select what a claim would take, to take it one by one. It leaves out the gids that it knows."""
    is_new = t.gid.not_in(select(func.unnest(bindparam("known", type_=ARRAY(Text)))))
    return compiled(name, found.where(is_new).limit(number("limit")))


def _find_due() -> Statement:
    waiting_on = any_(bindparam("waiting_on", type_=ARRAY(Text)))
    due = select(t.gid, t.version).where(t.next_attempt_at <= func.now(), t.waiting_on == waiting_on)
    return _find("transaction_find_due", due.order_by(t.next_attempt_at))


def _find_left() -> Statement:
    dead = coordinators.c.lease_until <= func.now()
    left = select(t.gid, t.version).join(coordinators, _is_owned_by(coordinators.c.id))
    return _find("transaction_find_left", left.where(dead, coordinators.c.id != text("owner")))


# The next by name, so that the many that wait for one participant are skipped.
NEXT_WAITED_FOR = compiled(
    "transaction_next_waited_for",
    select(t.waiting_on)
    .where(t.next_attempt_at.is_not(None), t.waiting_on > text("after"))
    .order_by(t.waiting_on)
    .limit(constant(1)),
)
TAKE = _take()
CLAIM_DUE = _claim_due()
ADOPT = _adopt()
FIND_CLAIMED = _find_claimed()
QUARANTINE = _quarantine()
FIND_DUE = _find_due()
FIND_LEFT = _find_left()

RELEASE = compiled(
    "transaction_release",
    update(transactions)
    .values(version=t.version + constant(1), next_attempt_at=func.now(), waiting_on=NO_TEXT)
    .where(_ours),
)


# --- housekeeping ------------------------------------------------------------


def _is_old() -> ColumnElement[bool]:
    # What ended before then was created before then, and creation time has the index.
    return and_(
        t.created_at < ago("ended_before_s"),
        t.ended_at < ago("ended_before_s"),
        # Not even a damaged row loses a transaction that has not ended.
        t.state.in_([constant(state) for state in TransactionState if state.ended]),
        t.heuristic.is_(false()),
    )


def _purge() -> Statement:
    old = (
        select(t.gid)
        .where(_is_old())
        .order_by(t.created_at)
        .limit(number("limit"))
        .with_for_update(skip_locked=True)
        .cte("old")
    )
    return compiled("transaction_purge", delete(transactions).where(row_of(old.c.gid)))


def _forget_coordinators() -> Statement:
    # A single value and not EXISTS, which may become a join that reads every owned row.
    drives = select(t.gid).where(_is_owned_by(coordinators.c.id)).limit(constant(1)).scalar_subquery()
    gone = coordinators.c.lease_until < ago("gone_for_s")
    return compiled("coordinator_forget", delete(coordinators).where(gone, drives.is_(None)))


def _heartbeat() -> Statement:
    lease_until = func.now() + _interval("lease_s")
    statement = insert(coordinators).values(
        id=text("owner"), name=text("name"), started_at=func.now(), lease_until=lease_until
    )
    # The lease tells the time, too: Citus refuses a clock in RETURNING.
    return compiled(
        "coordinator_heartbeat",
        statement.on_conflict_do_update(
            index_elements=["id"],
            set_={"name": statement.excluded.name, "lease_until": statement.excluded.lease_until},
        ).returning(returned_seconds(coordinators.c.lease_until)),
    )


def _find_unknown() -> Statement:
    """Select the owners without a row of their own. One index lookup finds each owner."""
    owners = select(collate(NO_TEXT, "C").label("owner")).cte("owners", recursive=True)
    following = (
        select(t.owner)
        .where(t.next_attempt_at.is_(None), t.ended_at.is_(None), t.owner > owners.c.owner)
        .order_by(t.owner)
        .limit(constant(1))
        .correlate(owners)
        .lateral("following")
    )
    owners = owners.union_all(select(following.c.owner).select_from(owners.join(following, true())))
    is_unknown = owners.c.owner.not_in(select(coordinators.c.id))
    return compiled(
        "coordinator_find_unknown", select(owners.c.owner).where(owners.c.owner != NO_TEXT, is_unknown)
    )


def _register_unknown() -> Statement:
    """Give owners a lease to renew. Citus cannot insert what a recursive query finds."""
    unknown = batch("unknown", id=Text())
    values: dict[str, ColumnElement[Any]] = {
        "id": unknown.c.id,
        "name": literal_column("'unknown'", Text),
        "started_at": func.now(),
        "lease_until": func.now() + _interval("lease_s"),
    }
    new = insert(coordinators).from_select(list(values), select(*values.values()))
    return compiled(
        "coordinator_register_unknown",
        new.on_conflict_do_nothing(index_elements=["id"]).returning(coordinators.c.id),
    )


PURGE = _purge()
FIND_OLD = _find("transaction_find_old", select(t.gid, t.version).where(_is_old()).order_by(t.created_at))
PURGE_ONE = compiled("transaction_purge_one", delete(transactions).where(t.gid == text("gid"), _is_old()))
FORGET_COORDINATORS = _forget_coordinators()
HEARTBEAT = _heartbeat()
FIND_UNKNOWN = _find_unknown()
REGISTER_UNKNOWN = _register_unknown()
LEAVE = compiled(
    "coordinator_leave",
    update(coordinators).values(lease_until=func.now()).where(coordinators.c.id == text("owner")),
)

# Only these skip rows that others have locked.
SWEEPERS = (CLAIM_DUE, ADOPT, PURGE)
