"""Every SQL statement of the project, enumerated without a database.

The coordinator's log and the barrier keep their statements in modules of their own. They are
collected from there, so a new statement cannot be missed.
"""

from collections.abc import Iterator, Sequence
from inspect import cleandoc
from typing import Any, NamedTuple

from sqlalchemy import TextClause, create_mock_engine

from coordinator.log import diagnosis, erasure, migration, operator_statements, statements
from coordinator.log.operator_statements import AUDIT_CONDITIONS, audit_list_statement
from coordinator.log.statements import LIST_CONDITIONS, Statement, list_statement
from tcc.barrier import plans, schema
from tcc.barrier.decisions import BarrierState, BranchKind, Operation
from tcc.barrier.listing import Listing, find_rows, list_rows
from tcc.barrier.plans import NO_LIMIT_MS, BarrierSql, Key, Plan, Result
from tcc.barrier.sql import purge, statements as barrier_statements
from tcc.branch import Branch

# Those of the modules, and a list for each filter.
LOG_STATEMENTS = [
    *(value for value in vars(statements).values() if isinstance(value, Statement)),
    *(value for value in vars(erasure).values() if isinstance(value, Statement)),
    *(value for value in vars(operator_statements).values() if isinstance(value, Statement)),
    statements.insert_values(2),
    audit_list_statement(frozenset(AUDIT_CONDITIONS)),
    *(list_statement(frozenset({name})) for name in sorted(LIST_CONDITIONS)),
    list_statement(frozenset(LIST_CONDITIONS)),
]
DIALECTS = ("postgresql", "mysql", "sqlite")


class NamedSql(NamedTuple):
    """A statement's text with a name for readers."""

    name: str
    sql: str


def log_statements() -> Iterator[NamedSql]:
    """Yield the statements of the transaction log, as psycopg receives them."""
    for statement in LOG_STATEMENTS:
        parameters = ", ".join(statement.parameters) or "none"
        yield NamedSql(f"{statement.name} (parameters: {parameters})", statement.sql)


def maintenance_statements() -> Iterator[NamedSql]:
    """Yield what migrations and `tccd doctor` send beside them."""
    for module in (migration, diagnosis):
        for name, value in vars(module).items():
            for clause in value if isinstance(value, tuple) else [value]:
                if isinstance(clause, TextClause):
                    yield NamedSql(
                        f"{module.__name__.rpartition('.')[2]}: {name.strip('_').lower()}", str(clause)
                    )


def barrier_schema(dialect: str) -> Iterator[NamedSql]:
    """Yield the statements that create the barrier's tables."""
    created: list[str] = []
    engine = create_mock_engine(
        f"{dialect}+{_DRIVERS[dialect]}://",
        lambda clause, *_: created.append(str(clause.compile(dialect=engine.dialect))),
    )
    schema.metadata.create_all(engine, checkfirst=False)
    schema._version.metadata.create_all(engine, checkfirst=False)
    return (NamedSql("schema", sql) for sql in created)


def barrier_calls(dialect: str) -> Iterator[NamedSql]:
    """Yield the statements that the barrier of a dialect sends, each once, for a batch of two branches."""
    sql = barrier_statements(dialect)
    branches = [_branch(b"") for _ in range(2)]
    with_results = [_branch(b"result") for _ in range(2)]
    keys = [branch.key for branch in branches]
    listing, page = Listing(), Listing(max_age_ms=1)
    calls: dict[str, Plan[Any]] = {
        "begin": sql.begin(),
        "lock": sql.lock(keys),
        "move": sql.move(keys, BarrierState.CONFIRMED),
        "keep": sql.keep([Result(*key, b"result", "text/plain") for key in keys]),
        "drop": sql.drop(keys),
        "claim of Try": _claim(sql, Operation.TRY, branches, margin_ms=0),
        "claim of Try with results": _claim(sql, Operation.TRY, with_results, margin_ms=0),
        "claim of Cancel": _claim(sql, Operation.CANCEL, branches, margin_ms=NO_LIMIT_MS),
        "list": list_rows(dialect, listing),
        "list up to an age": list_rows(dialect, page),
        "find": find_rows(dialect, keys),
    }
    sent: set[str] = set()
    for name, plan in calls.items():
        for statement in _sent(plan, keys):
            if statement not in sent:
                sent.add(statement)
                yield NamedSql(name, statement)
    yield NamedSql("purge", str(purge(dialect)))


def _claim(
    sql: BarrierSql, operation: Operation, branches: Sequence[Branch], *, margin_ms: int
) -> Plan[set[Key]]:
    return sql.claim(operation, "action", branches, kind=BranchKind.TCC, margin_ms=margin_ms)


def formatted(section: str, found: Iterator[NamedSql]) -> str:
    """Return a section of statements as a text to read."""
    lines = [f"-- # {section}", ""]
    for name, sql in found:
        body = "\n".join(line.rstrip() for line in cleandoc(f"\n{sql}").splitlines() if line.strip())
        lines += [f"-- {name}", f"{body};", ""]
    return "\n".join(lines)


_DRIVERS = {"postgresql": "psycopg", "mysql": "asyncmy", "sqlite": "pysqlite"}


def _branch(result: bytes) -> Branch:
    return Branch(
        gid="gid",
        branch_id="branch",
        action="action",
        expires_at_ms=2,
        try_result=result,
        try_result_content_type="text/plain" if result else "",
    )


def _sent(plan: Plan[Any], keys: Sequence[Key]) -> Iterator[str]:
    """Yield the texts of a plan's statements. Each one finds what makes the plan go on."""
    rows: list[Any] | None = None
    while True:
        try:
            step = plan.send(rows)
        except StopIteration:
            return
        assert isinstance(step, plans.Statement)
        yield step.text
        rows = _rows(step.text, keys)


def _rows(sql: str, keys: Sequence[Key]) -> list[Any]:
    if "AS made" in sql:
        return [(len(keys), None, None)]
    if "RETURNING gid" in sql:
        return list(keys)
    if "state = :claimed" in sql:
        return [(gid.encode(), branch_id.encode()) for gid, branch_id in keys]
    if "OFFSET" in sql:
        return [(1, *keys[0])]
    return [(1,)] if sql.startswith("SELECT UNIX_TIMESTAMP") else []
