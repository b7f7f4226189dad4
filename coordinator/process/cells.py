"""`tccd cells`: where the cells of the log are, and how one is moved.

These are commands of `tccd`, because they need the log's databases and the rights of their owner;
`tccctl` speaks to coordinators, and has neither.
"""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.config.configuration import load
from coordinator.config.settings import Settings
from coordinator.core.errors import LogUnavailable
from coordinator.log.diagnosis import transactions_in, why_unusable
from coordinator.log.migration import MOVED, CellPlace, LogTooNewError
from coordinator.log.moving import move_cell
from coordinator.log.requirements import LogUrlError
from coordinator.log.schema import HOME
from coordinator.log.servers import servers
from coordinator.process.log_cells import cell_places
from coordinator.process.supervisor import StartError

app = typer.Typer(no_args_is_help=True, help="List the cells of the log; move one to another server.")

_Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; TCC_* environment variables override it.")
]


@app.command("list")
def list_(config: _Config = None) -> None:
    """Print where each cell is, and whether it can be used. Exit with 1 if one cannot."""
    places = _places(load(config))
    unusable = why_unusable(places)
    for place in places:
        why = unusable.get(place.number)
        state = f"UNUSABLE: {why}" if why else f"ok, about {transactions_in(place)} transactions"
        typer.echo(f"cell {place.number}  {place.schema}  {_server(place)}  {state}")
    raise typer.Exit(int(bool(unusable)))


@app.command()
def move(
    cell: Annotated[int, typer.Argument(help="The number of the cell.", min=0)],
    to: Annotated[Path, typer.Option(help="The configuration as it is to be after the move.")],
    config: _Config = None,
) -> None:
    """Move a cell to the server where another configuration has it.

    Its transactions wait in the meantime, and its callers get UNAVAILABLE. All other cells go on.
    Coordinators follow when they read the new configuration (SIGHUP).
    If this command was killed, run it again: it finishes the move, or undoes what there is and moves.
    """
    before, after = _places(load(config)), _places(load(to))
    if len(before) != len(after) or cell >= len(before):
        raise StartError(f"there is no cell {cell} in both configurations, or they differ in log.cells")
    different = [old.number for old, new in zip(before, after, strict=True) if old.url != new.url]
    if different != [cell]:
        raise StartError(
            f"the configurations must differ in the place of cell {cell} alone, not of {different}"
        )
    try:
        copied = move_cell(before[cell], after[cell], home=before[HOME])
    except (LogUnavailable, LogUrlError, LogTooNewError) as error:
        raise StartError(f"cell {cell}: {getattr(error, 'explained', error)}") from error
    if not copied:
        typer.echo(f"cell {cell} had been moved already")
    for table in copied:
        typer.echo(f"{table.name}: {table.rows} rows, the same in both (checksum {table.checksum})")
    place = before[cell]
    typer.echo(
        f"cell {cell} is at {_server(after[cell])} now. Give every coordinator the new configuration, and "
        f"send it SIGHUP. When all have it, drop the old copy at {_server(place)}: "
        f"DROP SCHEMA {place.schema}{MOVED} CASCADE"
    )


def _places(settings: Settings) -> list[CellPlace]:
    if settings.log.is_embedded:
        raise StartError("the embedded PostgreSQL has all cells: set [log] url, or [[log.servers]]")
    return cell_places(settings.log, settings.log.shared_url())


def _server(place: CellPlace) -> str:
    return ",".join(server.name for server in servers(place.url))
