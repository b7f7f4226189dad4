"""A cell is moved to another server: all of it or nothing, and never to two places."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.core.errors import LogUnavailable
from coordinator.log import moving
from coordinator.log.cells import cell_of
from coordinator.log.migration import CellPlace, migrate_cells
from coordinator.log.moving import move_cell
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


async def test_a_moved_cell_has_all_of_its_rows_and_goes_on(
    ours: OpenLog, database_url: str, elsewhere: str
) -> None:
    before = await ours.log.transaction_get(MOVING)
    copied = move_cell(_places(database_url)[1], _places(database_url, elsewhere)[1])
    assert {table.name: table.rows for table in copied}["transactions"] == len(MOVING)
    with pytest.raises(LogUnavailable, match="cell 1"):
        await ours.log.transaction_get(MOVING)
    others = [gid for gid in GIDS if gid not in MOVING]
    assert len(await ours.log.transaction_get(others)) == len(others), "the other cell goes on"
    assert ours.move(_places(database_url, elsewhere)) == [1]
    assert await ours.log.transaction_get(MOVING) == before
    # What a coordinator had in its memory goes on there, too.
    await save(ours.log.cells[1], confirming(before[MOVING[0]].tx))
    migrate_cells(_places(database_url, elsewhere))
    with pytest.raises(LogUrlError, match=r"cell 1 .* is not where the configuration says"):
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
        move_cell(_places(database_url)[1], _places(database_url, elsewhere)[1])
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
        move_cell(_places(database_url)[1], _places(database_url, elsewhere)[1])
    assert len(await ours.log.transaction_get(MOVING)) == len(MOVING)


async def test_a_cell_is_not_moved_over_another(ours: OpenLog, database_url: str) -> None:
    with pytest.raises(LogUrlError, match="there is a schema tcc_1 already"):
        move_cell(_places(database_url)[1], _places(database_url)[1])
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
