"""All SQL that runs can be read in `statements.sql`; a change of a statement is a change of that file."""

import re
from pathlib import Path

import pytest

from tcc.barrier.plans import BarrierSql
from tests.support import statements
from tests.support.golden import GoldenFiles
from tests.support.log_schema import LogSchema
from tests.support.statements import DIALECTS, NamedSql, formatted

STATEMENTS = Path(__file__).parent / "statements.sql"
# What SQLAlchemy and Alembic read of the database's catalog is not ours.
FOREIGN = re.compile(r"pg_catalog|^\s*(show|select current_schema)\b|alembic_version", re.IGNORECASE)


def test_the_file_holds_all_statements(golden: GoldenFiles, log_schema: LogSchema) -> None:
    migrations = (NamedSql("migration", sql) for sql in log_schema.statements if not FOREIGN.search(sql))
    head = (
        "-- Every SQL statement of the project, rewritten by `pytest --rewrite`.\n"
        "-- $1: a parameter of PostgreSQL; :name: a parameter of SQLAlchemy.\n"
        "-- MySQL and MariaDB take one placeholder per value: shown for two branches.\n"
    )
    sections = [
        head,
        formatted("The transaction log", statements.log_statements()),
        formatted("The transaction log: schema", migrations),
        formatted("The transaction log: maintenance", statements.maintenance_statements()),
    ]
    for dialect in DIALECTS:
        sections.append(formatted(f"The barrier on {dialect}: schema", statements.barrier_schema(dialect)))
        sections.append(formatted(f"The barrier on {dialect}", statements.barrier_calls(dialect)))
    golden.check(STATEMENTS, "\n".join(sections))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_call_of_the_barrier_is_enumerated(dialect: str) -> None:
    calls = {name for name in vars(BarrierSql) if not name.startswith("_")}
    named = {name.split()[0] for name, _ in statements.barrier_calls(dialect)}
    # Only SQLite needs a statement at the beginning of a transaction.
    assert calls - named == (set() if dialect == "sqlite" else {"begin"})


def test_a_file_is_rewritten_only_when_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "kept.txt"
    file.write_text("before")
    with pytest.raises(AssertionError, match="pytest --rewrite"):
        GoldenFiles(rewrite=False).check(file, "after")
    assert file.read_text() == "before"
    GoldenFiles(rewrite=True).check(file, "after")
    assert file.read_text() == "after"
