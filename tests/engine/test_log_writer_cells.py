"""Cells at one place are written in one commit, and none of them delays another."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count, islice

import psycopg
import pytest

from coordinator.core.errors import LogUnavailable
from coordinator.core.model import Transaction
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.engine import log_writer
from coordinator.engine.log_writer import LogWriter
from coordinator.engine.observer import Anomaly
from coordinator.log.cells import cell_of
from coordinator.log.migration import CellPlace, migrate_cells
from coordinator.log.moving import move_cell
from coordinator.log.schema import HOME
from coordinator.process.log_cells import OpenLog
from proof.proxy import Fault, proxied
from tests.engine.log_writing import Written, put, writing
from tests.log.transactions import begun, cancelling, confirming, insert, landed, sql, stored
from tests.support.databases import Databases

CELLS = 3
# The cell that has the trouble.
SICK = 1
REJECT = """
    CREATE FUNCTION tcc_1.reject() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.gid = '{gid}' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '23514'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER reject BEFORE INSERT OR UPDATE ON tcc_1.transactions
        FOR EACH ROW EXECUTE FUNCTION tcc_1.reject();
"""
NO_MORE_REJECTS = "DROP FUNCTION tcc_1.reject() CASCADE"


def places(url: str, of_sick: str = "") -> list[CellPlace]:
    return [
        CellPlace(number=number, count=CELLS, url=(of_sick if number == SICK else "") or url)
        for number in range(CELLS)
    ]


@pytest.fixture(scope="module")
def made(databases: Databases) -> Iterator[str]:
    """The URL of a log of three cells."""
    with databases.one() as url:
        migrate_cells(places(url))
        yield url


@pytest.fixture
async def ours(made: str) -> AsyncIterator[OpenLog]:
    opened = opened_at(places(made))
    yield opened
    await opened.close()
    for schema in ("tcc", "tcc_1", "tcc_2"):
        await sql(made, f"TRUNCATE {schema}.transactions")


def opened_at(places: Sequence[CellPlace]) -> OpenLog:
    return OpenLog(places, owner="ours", name="host:1", connections=2, on_quarantine=lambda *_: None)


class Gids:
    """Gids that were not used yet, by their cells."""

    def __init__(self) -> None:
        self._numbers = count()

    def of(self, cell: int, wanted: int = 1) -> list[str]:
        found = (f"order-{number}" for number in self._numbers)
        return list(islice((gid for gid in found if cell_of(gid, CELLS) == cell), wanted))

    def of_each(self, wanted: int = 1) -> list[str]:
        return [gid for cell in range(CELLS) for gid in self.of(cell, wanted)]

    def of_healthy(self) -> list[str]:
        return [gid for cell in range(CELLS) if cell != SICK for gid in self.of(cell)]


async def begin(writer: LogWriter, written: Written, gids: Sequence[str]) -> None:
    """Begin transactions in one batch, and wait until they are durable."""
    put(writer, *map(begun, gids))
    await written.until(lambda: set(gids) <= set(written.done))


async def owned(made: str, gids: Sequence[str]) -> list[tuple[str, int]]:
    """Return the gids among these that are in the cells that they are for, with their versions."""
    found = []
    for cell, schema in enumerate(("tcc", "tcc_1", "tcc_2")):
        rows = await sql(
            made, f"SELECT gid, version FROM {schema}.transactions WHERE gid = ANY(%s)", list(gids)
        )
        found += [(gid, version) for gid, version in rows if cell_of(gid, CELLS) == cell]
    return sorted(found)


@pytest.mark.not_on_citus("each cell has commits of its own")
async def test_cells_at_one_place_are_written_in_one_commit(ours: OpenLog, made: str) -> None:
    gids = Gids().of_each(2)
    async with writing(ours.log) as (writer, written):
        await begin(writer, written, gids)
        put(writer, *[confirming(landed(begun(gid))) for gid in gids])
        await written.until(lambda: all(written.done[gid] is True for gid in gids))
    assert written.commits == [6, 6]
    assert await owned(made, gids) == sorted((gid, 2) for gid in gids)


async def test_cells_of_a_distributed_server_are_written_alone(made: str) -> None:
    """A common commit would be one in two phases."""
    opened = opened_at(places(made))
    gids = Gids().of_each(2)
    async with writing(opened.log) as (writer, written):
        opened.log.cells[0].pool._history.is_distributed = True
        await asyncio.sleep(0)
        put(writer, *map(begun, gids))
        assert writer.backlog == len(gids)
        assert [len(queues.begins) for queues in writer._queues] == [2, 2, 2]
        await written.until(lambda: set(gids) <= set(written.done))
    assert written.commits == [2, 2, 2]
    await sql(made, "TRUNCATE tcc.transactions, tcc_1.transactions, tcc_2.transactions")
    await opened.close()


async def test_a_begin_of_a_gid_that_is_there_returns_it_from_its_cell(ours: OpenLog) -> None:
    gids = Gids().of_each()
    other = begun(gids[SICK], fingerprint=b"another")
    await insert(ours.log.cells[SICK], other)
    async with writing(ours.log) as (writer, written):
        await begin(writer, written, gids)
    results = [written.done[gid] for gid in gids]
    assert results[0] is results[2] is None
    assert results[SICK].tx.fingerprint == b"another"


async def test_a_save_that_another_coordinator_won_is_refused_alone(ours: OpenLog) -> None:
    gids = Gids().of_each()
    for gid in gids:
        await insert(ours.log.cells[ours.log.cell_of(gid)], begun(gid))
    assert await ours.log.transaction_take(gids[SICK], version=1)
    async with writing(ours.log) as (writer, written):
        put(writer, *[confirming(landed(begun(gid))) for gid in gids])
        await written.until(lambda: len(written.done) == CELLS)
    assert [written.done[gid] for gid in gids] == [True, False, True]


@pytest.mark.parametrize("trouble", ["away", "forbidden"])
@pytest.mark.not_on_citus("each cell has commits of its own")
async def test_a_cell_that_is_unavailable_leaves_the_common_commit(
    ours: OpenLog, made: str, trouble: str
) -> None:
    begins, ends = {
        "away": ("ALTER SCHEMA tcc_1 RENAME TO away", "ALTER SCHEMA away RENAME TO tcc_1"),
        # Even of a superuser: what is not there cannot be written.
        "forbidden": (
            "ALTER TABLE tcc_1.transactions RENAME TO away",
            "ALTER TABLE tcc_1.away RENAME TO transactions",
        ),
    }[trouble]
    gids = Gids()
    async with writing(ours.log) as (writer, written):
        await begin(writer, written, gids.of_each())
        await sql(made, begins)
        waiting = gids.of_each()
        put(writer, *map(begun, waiting))
        await written.until(lambda: waiting[0] in written.done and waiting[2] in written.done)
        await written.until(lambda: Anomaly.LOG_UNAVAILABLE in written.anomalies)
        assert waiting[SICK] not in written.done
        assert [cell.available for cell in writer.cells] == [True, False, True]
        assert writer.available
        # Its writes are no part of the commits of the others any more.
        del written.commits[:]
        for _ in range(3):
            await begin(writer, written, gids.of_healthy())
        assert written.commits == [2, 2, 2]
        await sql(made, ends)
        await written.until(lambda: waiting[SICK] in written.done)
        await written.until(lambda: all(cell.available for cell in writer.cells))
        del written.commits[:]
        await begin(writer, written, gids.of_each())
        assert written.commits == [CELLS], "it is back in the common commit"


@pytest.mark.not_on_citus("each cell has commits of its own")
async def test_begins_that_wait_for_a_cell_are_refused_when_it_fails(ours: OpenLog) -> None:
    """Nothing of them was sent. The changes of that cell, and all of the others, are kept."""
    gids = Gids()
    queued, (owned,) = gids.of_each(), gids.of(SICK)
    await insert(ours.log.cells[SICK], begun(owned))
    async with writing(ours.log) as (writer, written):
        put(writer, *map(begun, queued), confirming(landed(begun(owned))))
        writer.cells[SICK].log_failed("heartbeat", LogUnavailable("planned"))
        assert set(written.refused) == {queued[SICK]}
        await written.until(lambda: len(written.done) == CELLS)
        writer.cells[SICK].log_answered("heartbeat")
    assert written.done == {queued[0]: None, queued[2]: None, owned: True}


@pytest.mark.not_on_citus("each cell has commits of its own")
async def test_a_cell_that_is_locked_delays_no_other(ours: OpenLog, made: str) -> None:
    gids = Gids()
    async with writing(ours.log) as (writer, written):
        await begin(writer, written, gids.of_each())
        waiting = gids.of_each()
        async with await psycopg.AsyncConnection.connect(made) as mover:
            await mover.execute("LOCK TABLE tcc_1.transactions IN ACCESS EXCLUSIVE MODE")
            put(writer, *map(begun, waiting))
            await written.until(lambda: waiting[0] in written.done and waiting[2] in written.done)
            # While the cell's own statement waits for the lock, too.
            later = gids.of_each()
            put(writer, *map(begun, later))
            await written.until(lambda: later[0] in written.done and later[2] in written.done)
            assert not {waiting[SICK], later[SICK]} & set(written.done)
            assert written.commits[-1] == 2
        await written.until(lambda: {waiting[SICK], later[SICK]} <= set(written.done))
    assert written.refused == {}
    assert written.anomalies == []


@pytest.mark.not_on_citus("it refuses triggers")
async def test_one_bad_begin_among_cells_is_refused_alone(ours: OpenLog, made: str) -> None:
    gids = Gids().of_each(2)
    bad = gids[2 * SICK]
    await sql(made, REJECT.format(gid=bad))
    async with writing(ours.log) as (writer, written):
        put(writer, *map(begun, gids))
        await written.until(lambda: len(written.done) + len(written.refused) == len(gids))
    await sql(made, NO_MORE_REJECTS)
    assert {gid: error.reason for gid, error in written.refused.items()} == {bad: "LOG_REJECTED"}
    assert written.anomalies == [Anomaly.LOG_REJECTED]
    assert await owned(made, gids) == sorted((gid, 1) for gid in gids if gid != bad)


@pytest.mark.not_on_citus("it refuses triggers")
async def test_one_bad_change_among_cells_waits_alone(
    ours: OpenLog, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "REJECTED_RETRY_S", 0.05)
    gids = Gids().of_each()
    async with writing(ours.log) as (writer, written):
        await begin(writer, written, gids)
        await sql(made, REJECT.format(gid=gids[SICK]))
        put(writer, *[cancelling(landed(begun(gid))) for gid in gids])
        await written.until(lambda: written.done[gids[0]] is written.done[gids[2]] is True)
        await written.until(lambda: written.anomalies.count(Anomaly.LOG_REJECTED) > 1)
        await sql(made, NO_MORE_REJECTS)
        await written.until(lambda: written.done[gids[SICK]] is True)
    assert await owned(made, gids) == sorted((gid, 2) for gid in gids)


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
async def test_a_common_commit_of_unknown_outcome_is_made_once(
    made: str, ours: OpenLog, postgres: EmbeddedPostgres, fault: Fault
) -> None:
    gids = Gids()
    async with proxied(made, postgres._socket_dir) as proxy:
        opened = opened_at(places(proxy.where))
        async with writing(opened.log) as (writer, written):
            # Statements are prepared at their first use, and the fault is to strike none of that.
            for _ in range(2):
                warm = gids.of_each()
                await begin(writer, written, warm)
                await saved(writer, written, [confirming(landed(begun(gid))) for gid in warm])
            struck = gids.of_each(2)
            proxy.arm(fault)
            await begin(writer, written, struck)
            assert proxy.struck.is_set()
            assert all(written.done[gid] is None for gid in struck), "each is ours"
            proxy.arm(fault)
            await saved(writer, written, [confirming(landed(begun(gid))) for gid in struck])
            assert proxy.struck.is_set()
            assert all(written.done[gid] is True for gid in struck)
        await opened.close()
    assert await owned(made, struck) == sorted((gid, 2) for gid in struck)
    assert written.refused == {}


async def saved(writer: LogWriter, written: Written, changed: Sequence[Transaction]) -> None:
    """Save changes in one batch, and wait for the results."""
    for tx in changed:
        del written.done[tx.gid]
    put(writer, *changed)
    await written.until(lambda: all(tx.gid in written.done for tx in changed))


@pytest.mark.slow
async def test_a_cell_moves_while_it_is_written_to(database_url: str, databases: Databases) -> None:
    """What was reported as durable is in the cell at its new place, once; the others never wait."""
    migrate_cells(places(database_url))
    gids = Gids()
    with databases.one() as elsewhere:
        opened = opened_at(places(database_url))
        async with writing(opened.log) as (writer, written):
            moving = asyncio.create_task(
                asyncio.to_thread(
                    move_cell,
                    places(database_url)[SICK],
                    places(database_url, elsewhere)[SICK],
                    home=places(database_url)[HOME],
                )
            )
            sent = []
            while not moving.done():
                batch = gids.of_each()
                put(writer, *map(begun, batch))
                sent += batch
                await written.until(lambda others={batch[0], batch[2]}: others <= set(written.done))  # type: ignore[misc] # default binds the loop's
            await moving
            assert await opened.move(places(database_url, elsewhere)) == [SICK]
            writer.regroup()
            await opened.close_unused()
            last = gids.of_each()
            sent += last
            await written.until(lambda: len(written.done) + len(written.refused) == len(sent) - CELLS)
            await written.until(lambda: all(cell.available for cell in writer.cells))
            del written.commits[:]
            await begin(writer, written, last)
            assert sorted(written.commits) == [1, 2], "the moved cell is in a commit of its own"
        assert {gid for gid in sent if cell_of(gid, CELLS) != SICK} <= set(written.done)
        for gid in written.done:
            assert await stored(opened.log, gid) == landed(begun(gid))
        for gid in written.refused:
            assert not await opened.log.transaction_get([gid])
        await opened.close()
