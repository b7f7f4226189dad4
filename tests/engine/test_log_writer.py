"""A batch with one bad item: that item fails, the others are durable. A trigger rejects it."""

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from coordinator.core.errors import LogUnavailable
from coordinator.engine import cell_health, log_writer
from coordinator.engine.observer import Anomaly
from coordinator.log.store import LogPool, PostgresLog
from tests.engine.log_writing import put, writing
from tests.log.transactions import begun, cancelling, insert, landed, sql, stored

_REJECT = """
    CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.gid = 'bad' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{sqlstate}'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER reject BEFORE INSERT OR UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION reject();
"""
DATA_IS_BAD = ("22P02", "23514", "54000", "P0001", "XX000", "XX001")


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(LogPool(log_url), owner="ours", name="host:1")
    yield log
    await log.close()


@pytest.mark.not_on_citus("it refuses triggers")
async def test_what_is_rejected_of_a_batch_is_one_line_of_the_journal(
    log_url: str, log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "REJECTED_RETRY_S", 0.01)
    gids = ["a", "b", "c", "d", "e"]
    changed = await insert(log, *map(begun, gids))
    await sql(log_url, _REJECT.format(sqlstate="XX000").replace("NEW.gid = 'bad'", "true"))
    with capture_logs() as logged:
        async with writing(log) as (writer, written):
            put(writer, *map(begun, ("v", "w", "x", "y", "z")))
            await written.until(lambda: len(written.refused) == 5)
            put(writer, *map(cancelling, changed))
            # Each was tried again.
            await written.until(lambda: len(written.anomalies) >= 5 + 5 + 5)
    lines = [line for line in logged if line["log_level"] == "error"]
    assert [line["event"] for line in lines] == ["the log rejected writes of transactions"] * 2
    assert [(line["count"], line["gid"]) for line in lines] == [(5, "v"), (5, "a")]


@pytest.mark.not_on_citus("it refuses triggers")
@pytest.mark.parametrize("sqlstate", DATA_IS_BAD)
async def test_one_bad_begin_of_a_batch_is_refused_alone(
    log_url: str, log: PostgresLog, sqlstate: str
) -> None:
    await sql(log_url, _REJECT.format(sqlstate=sqlstate))
    gids = ["a", "b", "bad", "c", "d"]
    async with writing(log) as (writer, written):
        put(writer, *map(begun, gids))
        await written.until(lambda: len(written.done) + len(written.refused) == len(gids))
        assert writer.available
    assert {gid: error.reason for gid, error in written.refused.items()} == {"bad": "LOG_REJECTED"}
    assert f"SQLSTATE {sqlstate}" in written.refused["bad"].message
    assert written.done == dict.fromkeys(["a", "b", "c", "d"])
    assert written.anomalies == [Anomaly.LOG_REJECTED]
    assert await log.transaction_get(gids) == await log.transaction_get(["a", "b", "c", "d"])


@pytest.mark.not_on_citus("it refuses triggers")
async def test_one_bad_change_of_a_batch_waits_alone_until_it_can_be_written(
    log_url: str, log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "REJECTED_RETRY_S", 0.05)
    gids = ["a", "bad", "c"]
    transactions = await insert(log, *map(begun, gids))
    await sql(log_url, _REJECT.format(sqlstate="XX000"))
    async with writing(log) as (writer, written):
        put(writer, *map(cancelling, transactions))
        await written.until(lambda: len(written.done) == 2 and len(written.anomalies) >= 2)
        assert written.done == {"a": True, "c": True}
        assert (await stored(log, "bad")).version == 1
        await sql(log_url, "DROP TRIGGER reject ON transactions")
        await written.until(lambda: written.done.get("bad") is True)
        assert set(written.anomalies) == {Anomaly.LOG_REJECTED}
    assert [(await stored(log, gid)).version for gid in gids] == [2, 2, 2]


@pytest.mark.not_on_citus("it refuses triggers")
async def test_a_begin_that_is_durable_already_is_not_refused(log_url: str, log: PostgresLog) -> None:
    """An earlier try, whose response was lost, has written it; the repeat is rejected."""
    tx = begun("bad")
    await insert(log, tx)
    await sql(log_url, _REJECT.format(sqlstate="XX000"))
    async with writing(log) as (writer, written):
        put(writer, tx)
        await written.until(lambda: "bad" in written.done)
    assert (written.done, written.refused) == ({"bad": None}, {})


async def test_the_log_is_available_again_only_when_what_failed_has_succeeded(log: PostgresLog) -> None:
    async with writing(log) as (writer, _):
        error = LogUnavailable("the disk is full")
        writer.cells[0].log_failed("write", error)
        writer.cells[0].log_answered("heartbeat")
        assert not writer.available
        writer.cells[0].log_failed("heartbeat", error)
        writer.cells[0].log_answered("write")
        assert not writer.available
        writer.cells[0].log_answered("heartbeat")
        assert writer.available


async def test_a_log_that_fails_again_and_again_is_one_alert(
    log: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_health, "RECOVERED_AFTER_S", 0.2)
    async with writing(log) as (writer, written):
        for _ in range(20):
            writer.cells[0].log_failed("write", LogUnavailable("the disk is full"))
            writer.cells[0].log_answered("write")
        assert written.anomalies == [Anomaly.LOG_UNAVAILABLE]
        await written.until(lambda: len(written.anomalies) == 2)
        assert written.anomalies == [Anomaly.LOG_UNAVAILABLE, Anomaly.LOG_RECOVERED]
        writer.cells[0].log_failed("write", LogUnavailable("the disk is full"))
        assert written.anomalies[2:] == [Anomaly.LOG_UNAVAILABLE]


async def test_a_change_of_a_version_that_is_not_ours_is_lost_as_before(log: PostgresLog) -> None:
    (tx,) = await insert(log, begun("a"))
    async with writing(log) as (writer, written):
        put(writer, cancelling(landed(tx)))
        await written.until(lambda: "a" in written.done)
    assert written.done == {"a": False}
