"""The barrier's statements on psycopg's libpq layer."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import DataError, ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from tcc.barrier.guarded_connection import GuardedConnection

MakeEngine = Callable[..., Engine]
PREPARED = "SELECT name FROM pg_prepared_statements ORDER BY name"


@pytest.fixture
def make(database_url: str) -> Iterator[MakeEngine]:
    """Makes an engine with one connection."""
    engines: list[Engine] = []

    def make(**options: object) -> Engine:
        url = make_url(database_url).set(drivername="postgresql+psycopg")
        engines.append(create_engine(url, pool_size=1, max_overflow=0, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


def once(engine: Engine, statement: str, **parameters: object) -> list[tuple[object, ...]]:
    """Return the rows of a statement in a transaction of its own."""
    guarded = GuardedConnection.begun(engine)
    rows = list(guarded.run(statement, parameters))
    guarded.finish()
    return rows


def test_statements_are_prepared_at_first_use_with_begin(make: MakeEngine) -> None:
    engine = make()
    assert once(engine, PREPARED) == [("tcc_0",), ("tcc_1",)]
    assert once(engine, PREPARED) == [("tcc_0",), ("tcc_1",)]


def test_statements_are_not_prepared_where_psycopg_may_not(make: MakeEngine) -> None:
    assert once(make(connect_args={"prepare_threshold": None}), PREPARED) == []


@pytest.mark.parametrize("value", ["", "ü'\"\\", 0, -(2**62)])
def test_values_come_back_as_they_were(make: MakeEngine, value: object) -> None:
    assert once(make(), "SELECT :value, :text || :value", value=value, text="a") == [(value, f"a{value}")]


def test_deallocated_statements_are_prepared_again(make: MakeEngine) -> None:
    engine = make()
    assert once(engine, "SELECT :number", number=1) == [(1,)]
    with engine.begin() as db:
        db.exec_driver_sql("DEALLOCATE ALL")
    assert once(engine, "SELECT :number", number=2) == [(2,)]


def test_a_handler_may_deallocate_statements(make: MakeEngine) -> None:
    guarded = GuardedConnection.begun(make())
    assert guarded.run("SELECT :number", {"number": 1}) == [(1,)]
    guarded.before_handler()
    guarded.exec_driver_sql("DEALLOCATE ALL")
    guarded.after_handler()
    assert guarded.run("SELECT :number", {"number": 2}) == [(2,)]
    guarded.finish()


def test_a_transaction_begins_at_the_isolation_of_the_engine(make: MakeEngine) -> None:
    engine = make(isolation_level="SERIALIZABLE")
    assert once(engine, "SELECT current_setting('transaction_isolation')") == [("serializable",)]


def test_another_encoding_is_left_to_psycopg(make: MakeEngine) -> None:
    engine = make(connect_args={"client_encoding": "latin1"})
    assert once(engine, "SELECT CAST(:text AS text)", text="ü") == [("ü",)]


def test_an_error_of_the_server_is_raised_as_by_sqlalchemy(make: MakeEngine) -> None:
    engine = make()
    guarded = GuardedConnection.begun(engine)
    with pytest.raises(ProgrammingError, match='relation "nowhere" does not exist') as caught:
        guarded.run("SELECT * FROM nowhere")
    assert not caught.value.connection_invalidated
    guarded.abandon()
    # BEGIN is prepared still, and the statement that failed is not.
    assert once(engine, PREPARED) == [("tcc_0",), ("tcc_2",)]


def test_a_statement_that_fails_once_stays_prepared(make: MakeEngine) -> None:
    engine = make()
    for number in (1, 0, 1):
        guarded = GuardedConnection.begun(engine)
        if number:
            assert guarded.run("SELECT 1 / :number", {"number": number}) == [(1,)]
            guarded.finish()
        else:
            with pytest.raises(DataError, match="division by zero"):
                guarded.run("SELECT 1 / :number", {"number": number})
            guarded.abandon()
    assert once(engine, PREPARED) == [("tcc_0",), ("tcc_1",), ("tcc_2",)]


async def test_a_cancelled_statement_leaves_a_usable_connection(database_url: str) -> None:
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    guarded = await greenlet_spawn(GuardedConnection.begun, engine.sync_engine)
    assert await greenlet_spawn(guarded.run, "SELECT :number", {"number": 1}) == [(1,)]
    sleeping = asyncio.ensure_future(greenlet_spawn(guarded.run, "SELECT pg_sleep(600)"))
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    await greenlet_spawn(guarded.abandon)
    assert await greenlet_spawn(once, engine.sync_engine, PREPARED) != []
    await engine.dispose()
