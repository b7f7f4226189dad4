"""The log runs on PostgreSQL and stays portable to databases that speak its protocol.

Every statement that can be sent is checked, and every one that a migration sends.
"""

import re

import pytest

from coordinator.log.schema import metadata
from coordinator.log.statements import SWEEPERS, Statement
from tests.support.log_schema import LogSchema
from tests.support.statements import LOG_STATEMENTS

FORBIDDEN = {
    "sequences": r"\b(SERIAL|BIGSERIAL|CREATE SEQUENCE|IDENTITY|nextval)\b",
    "triggers": r"\bTRIGGER\b",
    "stored code": r"\b(FUNCTION|PROCEDURE|DO\s+\$)",
    "advisory locks": r"advisory",
    "table locks": r"\bLOCK\s+TABLE\b",
    "notifications": r"\b(LISTEN|NOTIFY|pg_notify)\b",
    "partitions": r"\bPARTITION\b",
    "unlogged tables": r"\b(UNLOGGED|TEMP|TEMPORARY)\b",
    "extensions": r"\bEXTENSION\b",
    "foreign keys": r"\b(REFERENCES|FOREIGN\s+KEY)\b",
    "physical row addresses": r"\b(ctid|xmin)\b",
    "times without a zone": r"\b(LOCALTIME\w*|timeofday)\b|TIMESTAMP WITHOUT",
}


def violations(sql: str) -> list[str]:
    return [what for what, pattern in FORBIDDEN.items() if re.search(pattern, sql, re.IGNORECASE)]


@pytest.mark.parametrize("statement", LOG_STATEMENTS, ids=lambda statement: statement.name)
def test_statements_use_nothing_that_relatives_lack(statement: Statement) -> None:
    assert violations(statement.sql) == []


def test_migrations_use_nothing_that_relatives_lack(log_schema: LogSchema) -> None:
    assert any("CREATE TABLE transactions" in sql for sql in log_schema.statements)
    assert [(sql, found) for sql in log_schema.statements if (found := violations(sql))] == []


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (id BIGSERIAL)",
        "SELECT pg_advisory_lock(1)",
        "LISTEN changes",
        "CREATE TRIGGER t AFTER INSERT ON x",
        "CREATE TABLE x (id BIGINT) PARTITION BY HASH (id)",
    ],
)
def test_the_rules_detect_violations(sql: str) -> None:
    assert violations(sql)


@pytest.mark.parametrize("statement", LOG_STATEMENTS, ids=lambda statement: statement.name)
def test_only_sweepers_skip_locked_rows(statement: Statement) -> None:
    is_sweeper = statement in SWEEPERS
    assert ("SKIP LOCKED" in statement.sql) == is_sweeper
    assert "FOR UPDATE" not in statement.sql or is_sweeper


@pytest.mark.parametrize("statement", LOG_STATEMENTS, ids=lambda statement: statement.name)
def test_every_call_is_one_statement_and_so_one_commit(statement: Statement) -> None:
    assert ";" not in statement.sql


@pytest.mark.parametrize("statement", LOG_STATEMENTS, ids=lambda statement: statement.name)
def test_local_clocks_decide_nothing(statement: Statement) -> None:
    """What is due is compared to the database's clock, never to a moment that we send."""
    compared = re.findall(r"(?:next_attempt_at|lease_until|ended_at) *(?:<=|<|>=|>) *(\S+)", statement.sql)
    assert all(side.startswith("now()") for side in compared), compared


def unfit_for_citus(sql: str) -> list[str]:
    """Return what Citus refuses, or answers wrongly, in a distributed schema. Each was seen there."""
    found = []
    if re.search(r"\$\d+\b(?!::)", re.sub(r"CAST\(\$\d+ AS \w+", "", sql)):
        found.append("a parameter without a type")
    if "::VARCHAR" in sql:
        found.append("a text parameter of another type than its column")
    if any(CHANGING.search(part) for part in re.findall(r"\bCASE\b.*?\bEND\b|\bcoalesce\([^()]*\(?", sql)):
        found.append("a function that changes in CASE or COALESCE")
    returned = sql.partition("RETURNING")[2]
    if CHANGING.search(returned) or re.search(r"EXTRACT\(epoch FROM [\w.]+\)", returned):
        found.append("a function that changes, or depends on settings, in RETURNING")
    if re.search(r"WITH.*\bAS\s*\(\s*(INSERT|UPDATE|DELETE)", sql, re.DOTALL):
        found.append("a CTE that writes")
    if re.search(r"WITH RECURSIVE.*INSERT", sql, re.DOTALL):
        found.append("an INSERT of what a recursive query finds")
    return found


CHANGING = re.compile(r"\b(now|clock_timestamp|random)\(")


@pytest.mark.parametrize("statement", LOG_STATEMENTS, ids=lambda statement: statement.name)
def test_statements_are_fit_for_citus(statement: Statement) -> None:
    assert statement.name == "session" or unfit_for_citus(statement.sql) == []


@pytest.mark.parametrize("statement", LOG_STATEMENTS, ids=lambda statement: statement.name)
def test_rows_of_an_on_conflict_are_returned_to_be_counted(statement: Statement) -> None:
    """The count that Citus reports for them is wrong. The result of one is not used."""
    is_counted = "ON CONFLICT" in statement.sql and statement.name != "erasure_position_set"
    assert not is_counted or "RETURNING" in statement.sql


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET a = $1",
        "UPDATE t SET a = $1::VARCHAR",
        "UPDATE t SET at = CASE WHEN a THEN now() END",
        "UPDATE t SET at = coalesce(at, now())",
        "UPDATE t SET a = 1 RETURNING clock_timestamp()",
        "UPDATE t SET a = 1 RETURNING CAST(EXTRACT(epoch FROM t.at) AS DOUBLE PRECISION)",
        "WITH w AS \n(UPDATE t SET a = 1 RETURNING a) SELECT a FROM w",
        "WITH RECURSIVE r AS (SELECT 1) INSERT INTO t SELECT * FROM r",
    ],
)
def test_the_rules_for_citus_detect_violations(sql: str) -> None:
    assert unfit_for_citus(sql)


def test_the_gid_comes_first_in_the_key() -> None:
    assert [column.name for column in metadata.tables["transactions"].primary_key] == ["gid"]
    for table in metadata.tables.values():
        assert all(column.autoincrement is not True for column in table.columns)
        assert not any(index.unique for index in table.indexes), "uniqueness beside the key needs all nodes"


def test_every_moment_has_a_time_zone(log_schema: LogSchema) -> None:
    create = "\n".join(sql for sql in log_schema.statements if "CREATE TABLE" in sql)
    assert create.count("TIMESTAMP WITH TIME ZONE") == 10
    assert "TIMESTAMP," not in create
