"""A cell is moved to another server: all of it or nothing, and never to two places."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from coordinator.core.errors import LogUnavailable
from coordinator.log import moving
from coordinator.log.cells import cell_of
from coordinator.log.diagnosis import why_unusable
from coordinator.log.migration import CellPlace, migrate_cells, recorded_cells
from coordinator.log.moving import MovedTable, MoveUnknownError, move_cell
from coordinator.log.requirements import LogUrlError
from coordinator.process.cli import app
from coordinator.process.log_cells import OpenLog
from coordinator.process.supervisor import StartError
from tests.log.transactions import begun, confirming, insert, save, sql
from tests.support.databases import Databases

COUNT = 2
GIDS = [f"order-{number}" for number in range(40)]
MOVING = [gid for gid in GIDS if cell_of(gid, COUNT) == 1]


@pytest.fixture
def elsewhere(databases: Databases) -> Iterator[str]:
    """The URL of another database, in place of another server."""
    with databases.one() as url:
        yield url


@pytest.fixture
async def ours(database_url: str) -> AsyncIterator[OpenLog]:
    migrate_cells(_places(database_url))
    opened = OpenLog(
        _places(database_url), owner="ours", name="here", connections=2, on_quarantine=lambda *_: None
    )
    for gid in GIDS:
        await insert(opened.log.cells[opened.log.cell_of(gid)], begun(gid, initiator="Läden\t\\N"))
    yield opened
    await opened.close()


def _places(url: str, of_cell_1: str = "") -> list[CellPlace]:
    return [
        CellPlace(number=0, count=COUNT, url=url),
        CellPlace(number=1, count=COUNT, url=of_cell_1 or url),
    ]


def move(url: str, to: str) -> list[MovedTable]:
    """Move cell 1."""
    home, cell = _places(url)
    return move_cell(cell, _places(url, to)[1], home=home)


async def test_a_moved_cell_has_all_of_its_rows_and_goes_on(
    ours: OpenLog, database_url: str, elsewhere: str
) -> None:
    before = await ours.log.transaction_get(MOVING)
    copied = move(database_url, elsewhere)
    assert {table.name: table.rows for table in copied}["transactions"] == len(MOVING)
    with pytest.raises(LogUnavailable, match="cell 1"):
        await ours.log.transaction_get(MOVING)
    others = [gid for gid in GIDS if gid not in MOVING]
    assert len(await ours.log.transaction_get(others)) == len(others), "the other cell goes on"
    assert await ours.move(_places(database_url, elsewhere)) == [1]
    assert await ours.log.transaction_get(MOVING) == before
    # What a coordinator had in its memory goes on there, too.
    await save(ours.log.cells[1], confirming(before[MOVING[0]].tx))
    migrate_cells(_places(database_url, elsewhere))
    with pytest.raises(LogUrlError, match=r"cell 1 .* was moved away from here"):
        migrate_cells(_places(database_url))


@pytest.mark.parametrize("fails_in", ["_copy", "_checked"])
async def test_a_move_that_fails_leaves_the_cell_where_it_was(
    ours: OpenLog, database_url: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch, fails_in: str
) -> None:
    before = await ours.log.transaction_get(MOVING)

    def fail(*_: object) -> None:
        raise LogUrlError("planned")

    monkeypatch.setattr(moving, fails_in, fail)
    with pytest.raises(LogUrlError, match="planned"):
        move(database_url, elsewhere)
    assert await ours.log.transaction_get(MOVING) == before
    assert await sql(elsewhere, "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, 'tcc')") == []


async def test_rows_that_are_lost_on_the_way_are_noticed(
    ours: OpenLog, database_url: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = moving._copy

    def lose_one(*arguments: object) -> None:
        copy(*arguments)  # type: ignore[arg-type] # the same
        there, target = arguments[2], arguments[3]
        there.execute(moving.sql.SQL("DELETE FROM {} WHERE gid = %s").format(target), [MOVING[0]])  # type: ignore[attr-defined]

    monkeypatch.setattr(moving, "_TABLES", ("transactions",))
    monkeypatch.setattr(moving, "_copy", lose_one)
    with pytest.raises(LogUrlError, match=f"{len(MOVING) - 1} rows of {len(MOVING)}"):
        move(database_url, elsewhere)
    assert len(await ours.log.transaction_get(MOVING)) == len(MOVING)


async def test_a_cell_is_not_moved_over_another(ours: OpenLog, database_url: str) -> None:
    with pytest.raises(LogUrlError, match="there is a schema tcc_1 already"):
        move(database_url, database_url)
    assert len(await ours.log.transaction_get(MOVING)) == len(MOVING)


async def test_the_command_moves_what_two_configurations_differ_in(
    ours: OpenLog, database_url: str, elsewhere: str, tmp_path: Path
) -> None:
    now, then = tmp_path / "now.toml", tmp_path / "then.toml"
    now.write_text(f'[log]\nurl = "{database_url}"\ncells = 2\n')
    then.write_text(now.read_text() + f'[[log.servers]]\nurl = "{elsewhere}"\ncells = "1"\n')
    run = CliRunner().invoke
    listed = run(app, ["cells", "list", "-c", str(now)])
    assert [line.split()[:3] for line in listed.output.splitlines()] == [
        ["cell", "0", "tcc"],
        ["cell", "1", "tcc_1"],
    ]
    refused = run(app, ["cells", "move", "0", "-c", str(now), "--to", str(then)])
    assert isinstance(refused.exception, StartError)
    moved = run(app, ["cells", "move", "1", "-c", str(now), "--to", str(then)])
    assert moved.exit_code == 0, moved.exception
    assert f"transactions: {len(MOVING)} rows, the same in both" in moved.output
    assert run(app, ["cells", "list", "-c", str(then)]).exit_code == 0
    outdated = run(app, ["cells", "list", "-c", str(now)])
    assert outdated.exit_code == 1
    assert "UNUSABLE" in outdated.output


# --- what an old configuration may not do ---------------------------------------------------


def _alone(url: str) -> CellPlace:
    return CellPlace(number=0, count=1, url=url)


async def _schemas(url: str) -> list[str]:
    found = await sql(url, "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, 'tcc') ORDER BY 1")
    return [name for (name,) in found]


async def test_a_log_of_one_cell_is_not_begun_again_where_it_was(database_url: str, elsewhere: str) -> None:
    migrate_cells([_alone(database_url)])
    move_cell(_alone(database_url), _alone(elsewhere), home=_alone(database_url))
    with pytest.raises(LogUrlError, match=r"cell 0 .* moved away from here at \d{4}-.* to .* new place"):
        migrate_cells([_alone(database_url)])
    assert await _schemas(database_url) == ["tcc_moved"], "nothing was made"
    migrate_cells([_alone(elsewhere)])
    # An operator may have made the schema for a role that may not.
    await sql(database_url, "CREATE SCHEMA tcc")
    with pytest.raises(LogUrlError, match="moved away from here"):
        migrate_cells([_alone(database_url)])
    await sql(database_url, "DROP SCHEMA tcc CASCADE; DROP SCHEMA tcc_moved CASCADE")
    migrate_cells([_alone(database_url)])


@pytest.mark.slow
async def test_a_home_cell_is_not_begun_again_where_it_was(database_url: str, elsewhere: str) -> None:
    migrate_cells(_places(database_url))
    home, other = _places(database_url)
    move_cell(home, _places(elsewhere)[0], home=home)
    for places in ([home, other], [home, _places(elsewhere)[1]]):
        with pytest.raises(LogUrlError, match=r"cell 0 .* moved away from here at \d{4}-"):
            migrate_cells(places)
    assert await _schemas(database_url) == ["tcc_1", "tcc_moved"]
    migrate_cells([_places(elsewhere)[0], other])


@pytest.mark.slow
async def test_a_copy_that_a_cell_has_left_is_refused_under_its_old_name(
    database_url: str, elsewhere: str
) -> None:
    """It is the only witness for a log of one cell."""
    migrate_cells([_alone(database_url)])
    move_cell(_alone(database_url), _alone(elsewhere), home=_alone(database_url))
    await sql(database_url, "ALTER SCHEMA tcc_moved RENAME TO tcc")
    with pytest.raises(LogUrlError, match=r"the cell has left this copy at \d{4}-.* to "):
        migrate_cells([_alone(database_url)])


@pytest.mark.slow
async def test_a_coordinator_that_runs_cannot_write_to_the_copy_that_was_left(
    ours: OpenLog, database_url: str, elsewhere: str
) -> None:
    """Not even if its schema gets its name back: such a coordinator does not look at anything else."""
    (tx,) = (record.tx for record in (await ours.log.transaction_get(MOVING[:1])).values())
    move(database_url, elsewhere)
    await sql(database_url, "ALTER SCHEMA tcc_1_moved RENAME TO tcc_1")
    for write in (
        ours.log.cells[1].transaction_save([confirming(tx)]),
        ours.log.cells[1].coordinator_heartbeat(lease_s=60),
    ):
        with pytest.raises(LogUnavailable):
            await write


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
async def test_a_copy_of_an_older_generation_is_refused(
    ours: OpenLog, database_url: str, elsewhere: str, databases: Databases, times: int
) -> None:
    """As after a backup of the old server from before the move is restored there."""
    old = await _kept(database_url)
    for _ in range(times // 2):
        move(database_url, elsewhere)
        home, _ = _places(database_url)
        await sql(database_url, "DROP SCHEMA tcc_1_moved CASCADE")
        move_cell(_places(database_url, elsewhere)[1], _places(database_url)[1], home=home)
        await sql(elsewhere, "DROP SCHEMA tcc_1_moved CASCADE")
    move(database_url, elsewhere)
    await sql(database_url, f"DROP SCHEMA tcc_1_moved CASCADE; {old}")
    expected = rf"of generation 1, but the cell was moved since, and is of generation {times + 1}"
    with pytest.raises(LogUrlError, match=expected):
        migrate_cells(_places(database_url))
    assert list(why_unusable(_places(database_url))) == [1]
    assert why_unusable(_places(database_url, elsewhere)) == {}
    with databases.one() as third, pytest.raises(LogUrlError, match=expected):
        move(database_url, third)
    assert await ours.move(_places(database_url, elsewhere)) == [1]
    with pytest.raises(LogUrlError, match=expected):
        await ours.move(_places(database_url))
    assert len(await ours.log.transaction_get(MOVING)) == len(MOVING), "it stays where it is"


async def _kept(url: str) -> str:
    """Keep a copy of cell 1 as it is. Return the statement that puts it in its place."""
    await sql(url, "CREATE SCHEMA kept")
    for (table,) in await sql(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'tcc_1'"):
        await sql(url, f"CREATE TABLE kept.{table} (LIKE tcc_1.{table} INCLUDING ALL)")
        await sql(url, f"INSERT INTO kept.{table} SELECT * FROM tcc_1.{table}")
    return "ALTER SCHEMA kept RENAME TO tcc_1"


@pytest.mark.slow
async def test_a_home_cell_that_was_followed_is_not_followed_back(
    ours: OpenLog, database_url: str, elsewhere: str
) -> None:
    """Its generation is known to this coordinator alone."""
    home, other = _places(database_url)
    move_cell(home, _places(elsewhere)[0], home=home)
    assert await ours.move([_places(elsewhere)[0], other]) == [0]
    await sql(database_url, "ALTER SCHEMA tcc_moved RENAME TO tcc")
    await sql(database_url, "UPDATE tcc.cells SET moved_at = NULL")
    with pytest.raises(LogUrlError, match=r"cell 0 was seen at generation 2, .* of generation 1"):
        await ours.move([home, other])


async def test_a_cell_that_is_not_there_is_not_followed(
    ours: OpenLog, database_url: str, elsewhere: str
) -> None:
    with pytest.raises(LogUrlError):
        await ours.move(_places(database_url, elsewhere))
    assert len(await ours.log.transaction_get(MOVING)) == len(MOVING)


# --- a move that was interrupted -------------------------------------------------------------


def _kill_at(monkeypatch: pytest.MonkeyPatch, name: str, *, after: bool) -> None:
    """End a move at a step as if the process was killed there."""
    step = getattr(moving, name)

    def die(*arguments: object, **named: object) -> None:
        if after:
            step(*arguments, **named)
        raise MoveUnknownError("killed")  # it is the one error after which nothing is undone

    monkeypatch.setattr(moving, name, die)


@pytest.mark.parametrize(
    ("step", "after", "is_done"),
    [
        pytest.param("_copied", False, False, marks=pytest.mark.slow),
        pytest.param("_copied", True, False, marks=pytest.mark.slow),
        pytest.param("_open", True, True, marks=pytest.mark.slow),
        ("_record", False, True),
    ],
)
async def test_an_interrupted_move_is_finished_or_undone_by_the_next(
    ours: OpenLog,
    database_url: str,
    elsewhere: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    step: str,
    after: bool,
    is_done: bool,
) -> None:
    before = await ours.log.transaction_get(MOVING)
    with monkeypatch.context() as patch:
        _kill_at(patch, step, after=after)
        with pytest.raises(MoveUnknownError, match="killed"):
            move(database_url, elsewhere)
    assert await _schemas(elsewhere) == ["tcc_1" if is_done else "tcc_1_arriving"]
    with pytest.raises(LogUrlError):
        migrate_cells(_places(database_url))
    assert bool(move(database_url, elsewhere)) is not is_done
    assert await _schemas(elsewhere) == ["tcc_1"]
    assert await _schemas(database_url) == ["tcc", "tcc_1_moved"]
    assert await sql(database_url, "SELECT generation FROM tcc.cells WHERE number = 1") == [(2,)]
    await ours.move(_places(database_url, elsewhere))
    assert await ours.log.transaction_get(MOVING) == before


@pytest.mark.slow
async def test_an_interrupted_move_is_not_undone_by_one_to_another_place(
    ours: OpenLog, database_url: str, elsewhere: str, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have opened the cell at its own place, where the other one does not look."""
    with monkeypatch.context() as patch:
        _kill_at(patch, "_open", after=True)
        with pytest.raises(MoveUnknownError):
            move(database_url, elsewhere)
    with databases.one() as third:
        with pytest.raises(LogUrlError, match=r"cell 1 has left at .* to .*\. .* run it again"):
            move(database_url, third)
        assert await _schemas(third) == []


@pytest.mark.slow
async def test_two_moves_of_one_cell_do_not_meet(ours: OpenLog, database_url: str, elsewhere: str) -> None:
    for url in (database_url, elsewhere):
        with psycopg.connect(url) as other:
            side = moving._LEAVING if url == database_url else moving._ARRIVES
            other.execute(moving._LOCK, [f"{side}tcc_1"])
            with pytest.raises(LogUrlError, match="is being moved by another process"):
                move(database_url, elsewhere)
    assert len(move(database_url, elsewhere)) > 0


@pytest.mark.slow
def test_a_start_records_a_generation_that_an_interrupted_move_did_not(
    database_url: str, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate_cells(_places(database_url))
    _kill_at(monkeypatch, "_record", after=False)
    with pytest.raises(MoveUnknownError):
        move(database_url, elsewhere)
    migrate_cells(_places(database_url, elsewhere))
    home = _places(database_url)[0]
    assert recorded_cells(home, home.url)[1].generation == 2
