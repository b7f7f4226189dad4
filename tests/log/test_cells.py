"""A log of several cells: where each transaction is, what is merged, and what is refused."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from coordinator.core.audit import AuditEntry
from coordinator.core.errors import LogUnavailable
from coordinator.core.model import TransactionState
from coordinator.log.cells import cell_of
from coordinator.log.migration import CellPlace, migrate_cells
from coordinator.log.requirements import LogUrlError
from coordinator.ports.log import ListFilter, ListPosition
from coordinator.ports.operator_log import AuditFilter, ParticipantRecord
from coordinator.process.log_cells import OpenLog
from tests.log.transactions import begun, confirming, ended, insert, parked, save, sql
from tests.support.databases import Databases

COUNT = 4


def places(*urls: str, count: int = COUNT) -> list[CellPlace]:
    """Return the cells, spread over these databases."""
    return [CellPlace(number=n, count=count, url=urls[n % len(urls)]) for n in range(count)]


@pytest.fixture(scope="module")
def made(databases: Databases) -> Iterator[str]:
    """The URL of a log of four cells."""
    with databases.one() as url:
        migrate_cells(places(url))
        yield url


@pytest.fixture
async def ours(made: str) -> AsyncIterator[OpenLog]:
    opened = OpenLog(places(made), owner="ours", name="here", connections=2, on_quarantine=lambda *_: None)
    for cell in opened.log.cells:
        await cell.coordinator_heartbeat(lease_s=60)
    yield opened
    await opened.close()
    for schema in ("tcc", "tcc_1", "tcc_2", "tcc_3"):
        await sql(made, f"TRUNCATE {schema}.transactions, {schema}.audit, {schema}.participants")


async def fill(opened: OpenLog, gids: list[str]) -> None:
    for gid in gids:
        await insert(opened.log.cells[opened.log.cell_of(gid)], begun(gid))


# --- where a transaction is ------------------------------------------------------------


def test_the_cell_of_a_gid_never_changes() -> None:
    """CRC-32 as zlib, gzip and PNG have it: of "123456789" it is cbf43926 (its published check value)."""
    assert cell_of("123456789", 16) == 0xCBF43926 % 16
    assert cell_of("123456789", 5) == 0xCBF43926 % 5


def test_gids_spread_evenly_over_cells() -> None:
    for names in ("order-{}", "{:032x}", "2026-11-28/{}/a"):
        counts = Counter(cell_of(names.format(number), 16) for number in range(16_000))
        assert len(counts) == 16
        assert max(counts.values()) < 1.2 * 1_000, counts


async def test_transactions_are_in_their_cells_alone(ours: OpenLog, made: str) -> None:
    gids = [f"order-{number}" for number in range(20)]
    await fill(ours, gids)
    for cell in range(COUNT):
        schema = f"tcc_{cell}" if cell else "tcc"
        found = await sql(made, f"SELECT gid FROM {schema}.transactions")
        assert sorted(gid for (gid,) in found) == sorted(gid for gid in gids if cell_of(gid, COUNT) == cell)
    assert (await ours.log.transaction_get([*gids, "unknown"])).keys() == set(gids)
    taken = await ours.log.transaction_take("order-3", version=1)
    assert taken is not None
    assert await ours.log.transaction_quarantine("order-4", version=1)
    assert await ours.log.transaction_release() == 19, "all but the one that is held"


# --- what is merged ----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_pages_of_all_cells_are_in_one_order_and_complete(ours: OpenLog, limit: int) -> None:
    gids = [f"order-{number:02}" for number in range(30)]
    await fill(ours, gids)
    shown: list[str] = []
    after: ListPosition | None = None
    while True:
        page, after = await ours.log.transaction_list(ListFilter(), after=after, limit=limit)
        assert len(page) <= limit
        shown += [record.tx.gid for record in page]
        if after is None:
            break
        # What is newer than the position appears on no later page.
        await insert(ours.log.cells[ours.log.cell_of(f"new-{len(shown)}")], begun(f"new-{len(shown)}"))
    assert [gid for gid in shown if gid.startswith("order")] == sorted(gids, reverse=True)
    assert len(set(shown)) == len(shown)


async def test_a_list_of_gids_asks_their_cells_alone(ours: OpenLog) -> None:
    await fill(ours, ["a", "b", "c"])
    for cell in ours.log.cells:
        if cell is not ours.log.cells[ours.log.cell_of("a")]:
            await cell._lists.close()
    page, _ = await ours.log.transaction_search(ListFilter(gids=("a",)), after=None, limit=9)
    assert [record.tx.gid for record in page] == ["a"]


async def test_counts_of_all_cells_are_summed(ours: OpenLog) -> None:
    gids = [f"order-{number}" for number in range(12)]
    for gid in gids:
        cell = ours.log.cells[ours.log.cell_of(gid)]
        (tx,) = await insert(cell, begun(gid))
        if gid == "order-0":
            await save(cell, parked(await save(cell, confirming(tx)), until=1e10))
    backlog = await ours.operator_log.backlog()
    assert backlog.by_state == {TransactionState.TRYING: 11, TransactionState.CONFIRMING: 1}
    assert (backlog.parked, backlog.waiting_on, backlog.oldest_gid) == (1, {"inventory": 1}, "order-0")
    assert await ours.operator_log.coordinator_owned() == {"ours": 11}


async def test_each_cell_has_an_audit_chain_and_they_are_listed_as_one(ours: OpenLog) -> None:
    log = ours.operator_log
    gids = [f"order-{number}" for number in range(10)]
    for gid in gids:
        record = await log.audit_append(entry(f"transaction/{gid}"))
        assert record.cell == cell_of(gid, COUNT)
    changed = ParticipantRecord(name="stock", paused=True, operator="ana", reason="r")
    await log.participant_change(changed, entry("participant/stock"))
    shown: list[str] = []
    before: int | None = None
    while page := await log.audit_list(AuditFilter(), before=before, limit=3):
        shown += [record.entry.target for record in page]
        before = log.audit_list_position(page[-1])
    expected = ["participant/stock", *(f"transaction/{gid}" for gid in reversed(gids))]
    assert shown == expected, "the newest first"
    (only,) = await log.audit_list(AuditFilter(target="transaction/order-3"), before=None, limit=9)
    assert only.cell == cell_of("order-3", COUNT)
    chains = [await cell.audit_after(0, 100) for cell in ours.operator_cells]
    assert [record.sequence for chain in chains for record in chain] == [
        sequence for chain in chains for sequence in range(1, len(chain) + 1)
    ]


def entry(target: str) -> AuditEntry:
    return AuditEntry(operator="ana", action="a", target=target, reason="r")


async def test_jobs_work_through_each_cell(ours: OpenLog, made: str) -> None:
    gids = [f"order-{number}" for number in range(12)]
    for gid in gids:
        cell = ours.log.cells[ours.log.cell_of(gid)]
        (tx,) = await insert(cell, begun(gid))
        await save(cell, ended(await save(cell, confirming(tx))))
    for schema in ("tcc", "tcc_1", "tcc_2", "tcc_3"):
        await sql(made, f"UPDATE {schema}.transactions SET created_at = now() - INTERVAL '1 hour', "
                        "ended_at = now() - INTERVAL '1 hour'")  # fmt: skip
    purged = await asyncio.gather(
        *(cell.transaction_purge(ended_before_s=60, limit=100) for cell in ours.log.cells)
    )
    assert sum(purged) == 12
    assert await ours.log.transaction_get(gids) == {}


# --- what is refused ------------------------------------------------------------------------


def test_another_number_of_cells_is_refused(made: str, log_url: str) -> None:
    with pytest.raises(LogUrlError, match=r"log\.cells is 5, but the log was made with 4"):
        migrate_cells(places(made, count=5))
    with pytest.raises(LogUrlError, match=r"log\.cells is 1, but the log was made with 4"):
        migrate_cells(places(made, count=1))
    with pytest.raises(LogUrlError, match=r"log\.cells is 4, but the log was made with 1"):
        migrate_cells(places(log_url))


def test_a_cell_that_was_made_is_not_made_again_elsewhere(made: str, database_url: str) -> None:
    wrong = [*places(made)[:3], CellPlace(number=3, count=COUNT, url=database_url)]
    with pytest.raises(LogUrlError, match=r"cell 3 \(schema tcc_3\) is not where the configuration says"):
        migrate_cells(wrong)
    wrong = [CellPlace(number=0, count=COUNT, url=database_url), *places(made)[1:]]
    with pytest.raises(LogUrlError, match=r"cell 0 .* it is missing there, but cell 1 exists"):
        migrate_cells(wrong)


def test_a_cell_of_another_log_is_refused(made: str, database_url: str) -> None:
    migrate_cells(places(database_url))
    with pytest.raises(LogUrlError, match=r"cell 3 .* one of another log"):
        migrate_cells([*places(made)[:3], CellPlace(number=3, count=COUNT, url=database_url)])


def test_migrating_again_changes_nothing(made: str) -> None:
    migrate_cells(places(made))


async def test_a_moved_cell_is_followed_without_a_restart(ours: OpenLog, made: str) -> None:
    await fill(ours, ["a"])
    home = ours.log.cell_of("a")
    elsewhere = made.replace("postgresql:", "postgresql+psycopg:")
    moved = [
        CellPlace(number=place.number, count=COUNT, url=elsewhere if place.number == home else place.url)
        for place in places(made)
    ]
    assert await ours.move(moved) == [home]
    assert list(await ours.log.transaction_get(["a"])) == ["a"]


async def test_cells_at_one_server_are_at_one_place(made: str) -> None:
    elsewhere = made.replace("postgresql:", "postgresql+psycopg:")
    opened = OpenLog(
        places(made, elsewhere), owner="ours", name="here", connections=2, on_quarantine=lambda *_: None
    )
    log = opened.log
    at = [log.place_of(cell) for cell in range(COUNT)]
    assert at[0] is at[2]
    assert at[1] is at[3]
    assert at[0] is not at[1]
    assert await opened.move([*places(made)[:3], places(elsewhere)[3]]) == [1]
    at = [log.place_of(cell) for cell in range(COUNT)]
    assert at[0] is at[1] is at[2] is not at[3]
    await opened.close()


@pytest.mark.not_on_citus("this begins where the server is none")
async def test_cells_of_a_distributed_server_are_at_places_of_their_own(ours: OpenLog, made: str) -> None:
    """A common commit would be one in two phases. What a server is, its first connection finds out."""
    at = [ours.log.place_of(cell) for cell in range(COUNT)]
    assert at[0] is at[1] is at[2] is at[3]
    (pool,) = {cell.pool for cell in ours.log.cells}
    assert not pool.is_distributed
    pool._history.is_distributed = True
    assert len({ours.log.place_of(cell) for cell in range(COUNT)}) == COUNT


async def test_an_error_names_the_cell(ours: OpenLog, made: str) -> None:
    await sql(made, "ALTER SCHEMA tcc_1 RENAME TO tcc_away")
    try:
        gid = next(f"order-{n}" for n in range(99) if cell_of(f"order-{n}", COUNT) == 1)
        with pytest.raises(LogUnavailable, match="transaction_get of cell 1"):
            await ours.log.transaction_get([gid])
    finally:
        await sql(made, "ALTER SCHEMA tcc_away RENAME TO tcc_1")
