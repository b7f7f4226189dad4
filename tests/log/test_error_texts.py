"""The text that callers get if a statement of the log fails: a code, never the words of the database."""

import psycopg
import pytest

from coordinator.api.errors import to_error, to_status
from coordinator.core.errors import LogError
from coordinator.log.failures import refusal, unreachable

SECRET = "4111-1111"
STATEMENTS = {
    "23505": f"INSERT INTO cards VALUES ('{SECRET}')",
    "22P02": f"SELECT CAST('{SECRET}' AS INT)",
    "42P01": f"SELECT '{SECRET}' FROM secret_table",
    "P0001": f"DO $$ BEGIN RAISE 'told' USING DETAIL = '{SECRET}'; END $$",
}


@pytest.mark.parametrize("sqlstate", STATEMENTS)
def test_the_words_of_the_database_stay_with_operators(database_url: str, sqlstate: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as db:
        db.execute(f"CREATE TABLE cards (number TEXT PRIMARY KEY); INSERT INTO cards VALUES ('{SECRET}')")
        with pytest.raises(psycopg.Error) as caught:
            db.execute(STATEMENTS[sqlstate])
    told = refusal("transaction_begin", caught.value)
    said = caught.value.diag.message_primary
    assert said
    for text in (to_status(told).message, to_error(told).message):
        assert text.endswith(f"transaction_begin (SQLSTATE {sqlstate})")
        assert said not in text
    assert SECRET not in told.explained
    assert len(told.explained) > len(told.message)


def test_the_place_of_the_database_stays_with_operators() -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect("host=/nonexistent/place dbname=log")
    told = unreachable("transaction_begin", caught.value)
    assert isinstance(told, LogError)
    assert told.message == "the transaction log did not answer transaction_begin"
    assert "/nonexistent/place" in told.explained
