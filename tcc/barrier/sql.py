"""The barrier's statements, one class per dialect.

All three implement tcc.barrier.plans.BarrierSql. They differ in the parameters of a batch:
PostgreSQL takes arrays (tcc._internal.arrays), SQLite a JSON array, MySQL one placeholder per
value. This module builds texts and parameters and executes nothing. All statements can be
read in tests/golden/statements.sql.
"""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import TextClause, text

from tcc._internal.arrays import bytes_array, plain_array, text_array
from tcc.barrier.decisions import WRITES, BarrierState, BranchKind, Operation
from tcc.barrier.plans import NO_LIMIT_MS, BarrierSql, Key, Plan, Result, Row, Statement
from tcc.branch import Branch


def statements(dialect_name: str) -> BarrierSql:
    """Return the statements of a dialect, by SQLAlchemy's name. Raises ValueError for an unknown one."""
    match dialect_name:
        case "postgresql":
            return PostgresqlSql()
        case "sqlite":
            return SqliteSql()
        case "mysql" | "mariadb":
            return MysqlSql()
    raise ValueError(f"the barrier works on PostgreSQL, MySQL, MariaDB and SQLite, not on {dialect_name}")


def now_ms(dialect_name: str) -> str:
    """Return a dialect's expression for the database's clock, in milliseconds since the Unix epoch."""
    match dialect_name:
        case "postgresql":
            return PostgresqlSql._now_ms  # noqa: SLF001 - the same file
        case "sqlite":
            return SqliteSql._now_ms  # noqa: SLF001 - the same file
        case _:
            return MysqlSql._now_ms  # noqa: SLF001 - the same file


class PostgresqlSql:
    """Statements with array parameters: one fixed text per operation, for any size of batch.

    A cached generic plan that was made while the table was small would scan the whole
    table until the next ANALYZE. So no statement leaves the planner that choice: inserts
    and upserts always use the key's index, and the lock looks up each key separately.
    """

    _gids = "CAST(CAST(:gids AS text) AS text[])"
    _branch_ids = "CAST(CAST(:branch_ids AS text) AS text[])"
    _data = "CAST(CAST(:data AS text) AS bytea[])"
    _content_types = "CAST(CAST(:content_types AS text) AS text[])"
    _digests = "CAST(CAST(:digests AS text) AS bytea[])"
    _keys = f"unnest({_gids}, {_branch_ids}) AS key(gid, branch_id)"
    _now_ms = "(SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint))"

    # Returns the number of inserted rows, and their keys only if some were not inserted. So the
    # result is nearly always one row for the whole batch.
    _claiming = f"""
        WITH made AS (
            INSERT INTO tcc_barrier
                (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms{{columns}})
            SELECT gid, branch_id, :action, :kind, :state, expires_at_ms, {_now_ms}{{columns}}
            FROM unnest({_gids}, {_branch_ids}, CAST(CAST(:expiries AS text) AS bigint[]){{arrays}})
                AS mark(gid, branch_id, expires_at_ms{{columns}})
            WHERE expires_at_ms = 0 OR expires_at_ms > {_now_ms} - CAST(:margin_ms AS bigint)
            ON CONFLICT (gid, branch_id) DO NOTHING
            RETURNING gid, branch_id
        ), counted AS (SELECT count(*) AS made FROM made)
        SELECT counted.made, made.gid, made.branch_id
        FROM counted LEFT JOIN made ON counted.made < CAST(:wanted AS bigint)"""  # noqa: S608 - constants
    _claim_bare = _claiming.format(columns="", arrays="")
    _claim_try = _claiming.format(columns=", digest", arrays=f", {_digests}")
    _claim_try_with_results = _claiming.format(
        columns=", digest, try_result, try_result_content_type",
        arrays=f", {_digests}, {_data}, {_content_types}",
    )
    _lock = f"""
        SELECT found.* FROM {_keys}, LATERAL (
            SELECT gid, branch_id, action, state, try_result, try_result_content_type, digest, kind
            FROM tcc_barrier WHERE gid = key.gid AND branch_id = key.branch_id FOR UPDATE
        ) AS found"""  # noqa: S608 - constants
    # The rows exist and are locked, so the insert always becomes the update.
    _move = f"""
        INSERT INTO tcc_barrier (gid, branch_id, action, state, expires_at_ms, updated_at_ms)
        SELECT gid, branch_id, '', :state, 0, {_now_ms} FROM {_keys}
        ON CONFLICT (gid, branch_id) DO UPDATE
        SET state = excluded.state, updated_at_ms = excluded.updated_at_ms"""  # noqa: S608 - constants
    _keep = f"""
        INSERT INTO tcc_barrier
            (gid, branch_id, action, state, expires_at_ms, updated_at_ms, try_result, try_result_content_type)
        SELECT gid, branch_id, '', 1, 0, 0, data, content_type
        FROM unnest({_gids}, {_branch_ids}, {_data}, {_content_types})
            AS result(gid, branch_id, data, content_type)
        ON CONFLICT (gid, branch_id) DO UPDATE
        SET try_result = excluded.try_result, try_result_content_type = excluded.try_result_content_type"""  # noqa: S608 - constants
    # A DELETE has no form that binds the planner. The handler has finished at this point.
    _bind_planner = "SELECT set_config('enable_seqscan', 'off', true)"
    _drop = f"""
        DELETE FROM tcc_barrier USING {_keys}
        WHERE tcc_barrier.gid = key.gid AND tcc_barrier.branch_id = key.branch_id"""  # noqa: S608 - constants

    def begin(self) -> Plan[None]:
        yield from ()

    def claim(
        self,
        operation: Operation,
        action: str,
        branches: Sequence[Branch],
        *,
        kind: BranchKind,
        margin_ms: int,
    ) -> Plan[set[Key]]:
        parameters: dict[str, Any] = {
            "action": action,
            "kind": int(kind),
            "state": int(WRITES[operation]),
            "gids": text_array([branch.gid for branch in branches]),
            "branch_ids": text_array([branch.branch_id for branch in branches]),
            "expiries": plain_array([branch.expires_at_ms for branch in branches]),
            "margin_ms": margin_ms,
            "wanted": len(branches),
        }
        statement = self._claim_bare
        if operation is Operation.TRY:
            statement = self._claim_try
            parameters["digests"] = bytes_array([branch.digest for branch in branches])
            content_types = [branch.try_result_content_type for branch in branches]
            if any(content_types):
                statement = self._claim_try_with_results
                parameters["data"] = bytes_array([branch.try_result for branch in branches])
                parameters["content_types"] = text_array(content_types)
        made = yield Statement(statement, parameters)
        if made[0][0] == len(branches):
            return {branch.key for branch in branches}
        return {(gid, branch_id) for _, gid, branch_id in made if gid is not None}

    def lock(self, keys: Sequence[Key]) -> Plan[list[Row]]:
        rows = yield Statement(self._lock, self._parameters(keys))
        return [Row(*row) for row in rows]

    def move(self, keys: Sequence[Key], state: BarrierState) -> Plan[None]:
        yield Statement(self._move, {**self._parameters(keys), "state": int(state)})

    def keep(self, results: Sequence[Result]) -> Plan[None]:
        yield Statement(
            self._keep,
            {
                "gids": text_array([result.gid for result in results]),
                "branch_ids": text_array([result.branch_id for result in results]),
                "data": bytes_array([result.data for result in results]),
                "content_types": text_array([result.content_type for result in results]),
            },
        )

    def drop(self, keys: Sequence[Key]) -> Plan[None]:
        yield Statement(self._bind_planner, {})
        yield Statement(self._drop, self._parameters(keys))

    @staticmethod
    def _parameters(keys: Sequence[Key]) -> dict[str, Any]:
        return {
            "gids": text_array([gid for gid, _ in keys]),
            "branch_ids": text_array([branch_id for _, branch_id in keys]),
        }


class SqliteSql:
    """Statements with a JSON array as parameter. SQLite's lock for writers is taken at the start.

    In SQLite a transaction that reads first and writes later fails if another one wrote in
    between. So each transaction starts with a write that changes nothing. Unlike BEGIN
    IMMEDIATE, this works however the driver begins transactions.
    """

    _now_ms = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    _keys = "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:keys))"

    _begin = "UPDATE tcc_barrier SET state = state WHERE 0"
    _claim = f"""
        INSERT INTO tcc_barrier (gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms, digest)
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), :action, :kind, :state,
               json_extract(value, '$[2]'), {_now_ms}, json_extract(value, '$[3]')
        FROM json_each(:marks)
        WHERE json_extract(value, '$[2]') = 0 OR json_extract(value, '$[2]') > {_now_ms} - :margin_ms
        ON CONFLICT (gid, branch_id) DO NOTHING
        RETURNING gid, branch_id"""  # noqa: S608 - constants
    _lock = f"""
        SELECT gid, branch_id, action, state, try_result, try_result_content_type, digest, kind
        FROM tcc_barrier WHERE (gid, branch_id) IN {_keys}"""  # noqa: S608 - constants
    _move = f"""
        UPDATE tcc_barrier SET state = :state, updated_at_ms = {_now_ms}
        WHERE (gid, branch_id) IN {_keys}"""  # noqa: S608 - constants
    _keep = """
        UPDATE tcc_barrier SET try_result = :data, try_result_content_type = :content_type
        WHERE gid = :gid AND branch_id = :branch_id"""
    _drop = f"DELETE FROM tcc_barrier WHERE (gid, branch_id) IN {_keys}"  # noqa: S608 - constants

    def begin(self) -> Plan[None]:
        yield Statement(self._begin, {})

    def claim(
        self,
        operation: Operation,
        action: str,
        branches: Sequence[Branch],
        *,
        kind: BranchKind,
        margin_ms: int,
    ) -> Plan[set[Key]]:
        marks = [
            (branch.gid, branch.branch_id, branch.expires_at_ms, _digest(operation, branch).hex())
            for branch in branches
        ]
        made = yield Statement(
            self._claim,
            {
                "action": action,
                "kind": int(kind),
                "state": int(WRITES[operation]),
                "marks": json.dumps(marks),
                "margin_ms": margin_ms,
            },
        )
        keys = {(gid, branch_id) for gid, branch_id in made}
        yield from _keep_named(self, branches, keys)
        return keys

    def lock(self, keys: Sequence[Key]) -> Plan[list[Row]]:
        rows = yield Statement(self._lock, {"keys": json.dumps(keys)})
        # The claim sends digests in JSON, and so as hexadecimal digits.
        return [_with_bytes(row) for row in rows]

    def move(self, keys: Sequence[Key], state: BarrierState) -> Plan[None]:
        yield Statement(self._move, {"keys": json.dumps(keys), "state": int(state)})

    def keep(self, results: Sequence[Result]) -> Plan[None]:
        yield Statement(self._keep, [result._asdict() for result in results])

    def drop(self, keys: Sequence[Key]) -> Plan[None]:
        yield Statement(self._drop, {"keys": json.dumps(keys)})


class MysqlSql:
    """Statements with one placeholder per value. MySQL cannot return which rows an insert made.

    So a claim writes a state that is never committed: rows that have it afterwards were
    inserted by this transaction. The upsert takes an exclusive lock on existing rows. INSERT
    IGNORE would take a shared lock, and two duplicates would deadlock when they need an
    exclusive one. Keys are compared as bytes.
    """

    _CLAIMED = 0
    # In whole seconds and, unlike NOW(), independent of the time zone.
    _now_ms = "UNIX_TIMESTAMP() * 1000"
    _now = f"SELECT {_now_ms}"
    _keep = """
        UPDATE tcc_barrier SET try_result = :data, try_result_content_type = :content_type
        WHERE gid = :gid AND branch_id = :branch_id"""

    def begin(self) -> Plan[None]:
        yield from ()

    def claim(
        self,
        operation: Operation,
        action: str,
        branches: Sequence[Branch],
        *,
        kind: BranchKind,
        margin_ms: int,
    ) -> Plan[set[Key]]:
        if margin_ms != NO_LIMIT_MS and any(branch.expires_at_ms for branch in branches):
            ((now_ms,),) = yield Statement(self._now, {})
            branches = [
                branch
                for branch in branches
                if not branch.expires_at_ms or branch.expires_at_ms > now_ms - margin_ms
            ]
        if not branches:
            return set()
        yield self._insert(operation, action, branches, kind)
        where, parameters = self._matching([branch.key for branch in branches])
        rows = yield Statement(
            f"SELECT gid, branch_id FROM tcc_barrier WHERE state = :claimed AND ({where}) FOR UPDATE",  # noqa: S608 - placeholders
            {**parameters, "claimed": self._CLAIMED},
        )
        made = [(gid.decode(), branch_id.decode()) for gid, branch_id in rows]
        if made:
            yield from self.move(made, WRITES[operation])
        keys = set(made)
        yield from _keep_named(self, branches, keys)
        return keys

    def lock(self, keys: Sequence[Key]) -> Plan[list[Row]]:
        where, parameters = self._matching(keys)
        rows = yield Statement(
            "SELECT gid, branch_id, action, state, try_result, try_result_content_type, digest, kind "  # noqa: S608 - placeholders
            f"FROM tcc_barrier WHERE {where} ORDER BY gid, branch_id FOR UPDATE",
            parameters,
        )
        return [Row(gid.decode(), branch_id.decode(), *rest) for gid, branch_id, *rest in rows]

    def move(self, keys: Sequence[Key], state: BarrierState) -> Plan[None]:
        where, parameters = self._matching(keys)
        yield Statement(
            f"UPDATE tcc_barrier SET state = :state, updated_at_ms = {self._now_ms} WHERE {where}",  # noqa: S608 - placeholders
            {**parameters, "state": int(state)},
        )

    def keep(self, results: Sequence[Result]) -> Plan[None]:
        yield Statement(
            self._keep,
            [
                {
                    "gid": result.gid.encode(),
                    "branch_id": result.branch_id.encode(),
                    "data": result.data,
                    "content_type": result.content_type,
                }
                for result in results
            ],
        )

    def drop(self, keys: Sequence[Key]) -> Plan[None]:
        where, parameters = self._matching(keys)
        yield Statement(f"DELETE FROM tcc_barrier WHERE {where}", parameters)  # noqa: S608 - placeholders

    def _insert(
        self, operation: Operation, action: str, branches: Sequence[Branch], kind: BranchKind
    ) -> Statement:
        rows: list[str] = []
        parameters: dict[str, Any] = {"action": action, "kind": int(kind), "claimed": self._CLAIMED}
        for n, branch in enumerate(branches):
            rows.append(f"(:g{n}, :b{n}, :action, :kind, :claimed, :e{n}, {self._now_ms}, :d{n})")
            parameters |= {
                f"g{n}": branch.gid.encode(),
                f"b{n}": branch.branch_id.encode(),
                f"e{n}": branch.expires_at_ms,
                f"d{n}": _digest(operation, branch),
            }
        return Statement(
            "INSERT INTO tcc_barrier "  # noqa: S608 - placeholders
            "(gid, branch_id, action, kind, state, expires_at_ms, updated_at_ms, digest) "
            f"VALUES {', '.join(rows)} ON DUPLICATE KEY UPDATE tcc_barrier.state = tcc_barrier.state",
            parameters,
        )

    @staticmethod
    def _matching(keys: Sequence[Key]) -> tuple[str, dict[str, bytes]]:
        """Return a condition that every version evaluates as ranges of the key's index."""
        where = " OR ".join(f"(gid = :g{n} AND branch_id = :b{n})" for n in range(len(keys)))
        parameters: dict[str, bytes] = {}
        for n, (gid, branch_id) in enumerate(keys):
            parameters[f"g{n}"], parameters[f"b{n}"] = gid.encode(), branch_id.encode()
        return where, parameters


def _with_bytes(row: Sequence[Any]) -> Row:
    gid, branch_id, action, state, try_result, content_type, digest, kind = row
    return Row(gid, branch_id, action, state, try_result, content_type, bytes.fromhex(digest or ""), kind)


def _digest(operation: Operation, branch: Branch) -> bytes:
    """Return the digest that a claim writes; empty for a tombstone, whose content is not known."""
    return branch.digest if operation is Operation.TRY else b""


def _keep_named(sql: BarrierSql, branches: Sequence[Branch], made: set[Key]) -> Plan[None]:
    """Write the results that claimed branches already have, for dialects whose claim does not."""
    results = [
        Result(branch.gid, branch.branch_id, branch.try_result, branch.try_result_content_type)
        for branch in branches
        if branch.try_result_content_type and branch.key in made
    ]
    if results:
        yield from sql.keep(results)


def purge(dialect_name: str) -> TextClause:
    """Delete at most `:rows_max` ended rows whose expiry and last change are `:margin_ms` ago.

    A row in state TRIED is never deleted, because its Confirm or Cancel will still arrive. A SAGA's
    is, if it has an expiry: after the decision CONFIRM no call follows, and a Cancel that comes so
    late is refused (ROW_PURGED).
    """
    now = now_ms(dialect_name)
    saga = int(BranchKind.SAGA)
    old = (
        f"(state <> 1 OR (kind = {saga} AND expires_at_ms > 0)) "
        f"AND expires_at_ms < {now} - :margin_ms AND updated_at_ms < {now} - :margin_ms"
    )
    match dialect_name:
        case "postgresql":
            return text(f"""
                DELETE FROM tcc_barrier WHERE ctid IN (
                    SELECT ctid FROM tcc_barrier WHERE {old}
                    ORDER BY expires_at_ms LIMIT :rows_max FOR UPDATE SKIP LOCKED)""")  # noqa: S608 - constants
        case "sqlite":
            return text(f"""
                DELETE FROM tcc_barrier WHERE rowid IN (
                    SELECT rowid FROM tcc_barrier WHERE {old}
                    ORDER BY expires_at_ms LIMIT :rows_max)""")  # noqa: S608 - constants
        case _:
            return text(f"DELETE FROM tcc_barrier WHERE {old} ORDER BY expires_at_ms LIMIT :rows_max")  # noqa: S608 - constants
