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


def test_the_gid_comes_first_in_the_key() -> None:
    assert [column.name for column in metadata.tables["transactions"].primary_key] == ["gid"]
    for table in metadata.tables.values():
        assert all(column.autoincrement is not True for column in table.columns)
        assert not any(index.unique for index in table.indexes), "uniqueness beside the key needs all nodes"


def test_every_moment_has_a_time_zone(log_schema: LogSchema) -> None:
    create = "\n".join(sql for sql in log_schema.statements if "CREATE TABLE" in sql)
    assert create.count("TIMESTAMP WITH TIME ZONE") == 9
    assert "TIMESTAMP," not in create
