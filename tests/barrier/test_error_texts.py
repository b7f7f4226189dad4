"""Texts of errors that leave a participant: none has a value of a statement or of a row."""

import sqlite3
from collections.abc import Callable

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from tcc.barrier.failures import error_text

SECRET = "4111-1111-1111-1111"

TABLE = """
    CREATE TABLE cards (
        number TEXT PRIMARY KEY CHECK (length(number) < 100), owner TEXT NOT NULL, checked INT
    )
    """
INSERT = "INSERT INTO cards (number, owner) VALUES ('4111-1111-1111-1111', 'ann')"
BAD_STATEMENTS = {
    "unique": INSERT,
    "check": f"INSERT INTO cards (number, owner) VALUES ('{SECRET}' || repeat('0', 100), 'ann')",
    "not null": f"INSERT INTO cards (number, owner) VALUES ('x{SECRET}', NULL)",
    "type": f"UPDATE cards SET checked = CAST('{SECRET}' AS INT)",
    "syntax": f"SELECT '{SECRET}' FROM nowhere",
}


@pytest.fixture
def cards_url(database_url: str) -> str:
    with psycopg.connect(database_url) as db:
        db.execute(TABLE)
        db.execute(INSERT)
    return database_url


def with_the_driver(url: str, statement: str) -> None:
    with psycopg.connect(url) as db:
        db.execute(statement)


def with_sqlalchemy(url: str, statement: str) -> None:
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    with engine.begin() as db:
        db.execute(sa.text(statement))


@pytest.mark.parametrize("run", [with_the_driver, with_sqlalchemy])
@pytest.mark.parametrize("bad", BAD_STATEMENTS)
def test_no_value_of_postgresql_is_in_the_text(
    cards_url: str, bad: str, run: Callable[[str, str], None]
) -> None:
    with pytest.raises((psycopg.Error, sa.exc.DBAPIError)) as caught:
        run(cards_url, BAD_STATEMENTS[bad])
    original = getattr(caught.value, "orig", None) or caught.value
    assert SECRET in str(original) or bad == "syntax"
    text = error_text(caught.value)
    assert SECRET not in text
    assert "ann" not in text
    assert type(original).__name__ in text


def test_no_value_of_sqlite_is_in_the_text() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as db:
        db.execute(sa.text(TABLE))
        insert = sa.text("INSERT INTO cards (number, owner) VALUES (:number, 'ann')")
        db.execute(insert, {"number": SECRET})
        with pytest.raises(sa.exc.IntegrityError) as caught:
            db.execute(insert, {"number": SECRET})
    assert SECRET in str(caught.value)
    assert error_text(caught.value) == "IntegrityError: UNIQUE constraint failed: cards.number"


class AsyncpgError(Exception):
    """As asyncpg and SQLAlchemy's adapter of it print it."""

    sqlstate = "23505"

    def __str__(self) -> str:
        return f"duplicate key value violates unique constraint\nDETAIL:  Key (number)=({SECRET})."


class PostgresError(Exception):
    sqlstate = "22P02"


@pytest.mark.parametrize(
    "error",
    [
        sa.exc.IntegrityError(INSERT, {"number": SECRET}, AsyncpgError()),
        PostgresError(f'invalid input syntax for type integer: "{SECRET}"'),
        pymysql.err.IntegrityError(1062, f"Duplicate entry '{SECRET}' for key 'cards.PRIMARY'"),
        pymysql.err.DataError(1366, f"Incorrect integer value: '{SECRET}' for column 'checked' at row 1"),
        sa.exc.StatementError("a value was refused", INSERT, {"number": SECRET}, ValueError("no date")),
    ],
    ids=["asyncpg by SQLAlchemy", "asyncpg", "MySQL duplicate", "MySQL type", "SQLAlchemy"],
)
def test_no_value_of_other_drivers_is_in_the_text(error: Exception) -> None:
    assert SECRET not in error_text(error)


def test_the_message_of_a_handlers_own_exception_is_kept() -> None:
    assert error_text(ValueError("the shelf is closed")) == "ValueError: the shelf is closed"
    assert error_text(sqlite3.OperationalError("no such table: cards")).endswith("no such table: cards")
