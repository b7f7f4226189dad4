"""`tccd`: run a coordinator, and commands around it."""

import os
import signal
import sys
from importlib import metadata, util
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from coordinator.config import commands
from coordinator.config.configuration import ConfigurationError, Source, load
from coordinator.observability.logging import configure_logging
from coordinator.process import cells
from coordinator.process.checks import CheckStatus
from coordinator.process.doctor import diagnose, to_json, to_text
from coordinator.process.log_cells import cell_places
from coordinator.process.supervisor import (
    StartError,
    log_url,
    migrate as migrate_log,
    own_postgres,
    serve as serve_coordinator,
)
from tcc._internal.standard_streams import discard_unwritten, open_closed_streams

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)

app.add_typer(commands.app, name="config")
app.add_typer(commands.tokens, name="token")
app.add_typer(cells.app, name="cells")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; TCC_* environment variables override it.")
]


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes the option's value
    if wanted:
        typer.echo(f"tccd {metadata.version('tcc')}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


@app.callback()
def _main(*, version: VersionOption = False) -> None:  # noqa: ARG001
    """Run and check the TCC transaction coordinator."""
    configure_logging()


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


@app.command()
def serve(
    config: ConfigOption = None,
    workers: Annotated[
        int | None, typer.Option(help="The number of processes that share the port.", min=1, max=64)
    ] = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT to listen on for initiators.")] = None,
) -> None:
    """Run a coordinator until SIGTERM. SIGHUP reloads participants, clients and operators.

    Without a log URL it starts its own PostgreSQL in the data directory.
    It prints `listening on HOST:PORT` when it is ready.
    """
    overrides: dict[str, Any] = {}
    if workers is not None:
        overrides["workers"] = workers
    if listen is not None:
        overrides["listen"] = {"address": listen}
    raise typer.Exit(serve_coordinator(Source(path=config, overrides=overrides)))


@app.command()
def migrate(config: ConfigOption = None) -> None:
    """Migrate the log's schema to this version. Several may run at once."""
    settings = load(config)
    with log_url(settings) as url:
        migrate_log(cell_places(settings.log, url))
    typer.echo("the schema of the log is up to date")


@app.command()
def doctor(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,  # noqa: FBT002
) -> None:
    """Check the log, the ports and the participants, and print how to fix each problem.

    Exit status: 0 if there is no problem (there may be warnings), 1 if there is a
    problem, 2 if the configuration is invalid.
    """
    findings = list(diagnose(load(config)))
    typer.echo(to_json(findings) if as_json else to_text(findings))
    raise typer.Exit(int(any(finding.status is CheckStatus.PROBLEM for finding in findings)))


@app.command()
def postgres(
    data_dir: Annotated[Path, typer.Option(help="The data directory. It is created if it is missing.")],
    database: Annotated[list[str] | None, typer.Option(help="Create this database. May be repeated.")] = None,
) -> None:
    """Run only the embedded PostgreSQL until SIGTERM, for services that need a database.

    It prints `database NAME at URL` for each database, then `ready`.
    """
    with own_postgres(data_dir) as server:
        for name in database or []:
            server.create_database(name)
            typer.echo(f"database {name} at {server.url(name)}")
        typer.echo("ready")
        while True:
            signal.pause()


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def demo(context: typer.Context) -> None:
    """Run a flash sale with real processes, kill some of them, and audit the result."""
    if util.find_spec("participants") is None:
        raise StartError("the demo is an extra: pip install 'tcc-coordinator[demo]'")
    # Each side knows the other only as a process.
    command = [sys.executable, "-m", "participants.demo", *context.args]
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def main() -> None:
    """Run the command line as the program of this process."""
    # A coordinator goes on without it. The answer of any other command would be lost unnoticed.
    open_closed_streams(needs_output=True)
    # Until a command has work to finish, a signal to stop simply ends the process. Whatever it
    # started is closed on the way out.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        app()
    except ConfigurationError as error:
        typer.echo(error, err=True)
        sys.exit(2)
    except StartError as error:
        typer.echo(error, err=True)
        sys.exit(error.status)
    except OSError as error:
        # Most likely standard output cannot be written.
        typer.echo(f"tccd: {error}", err=True)
        sys.exit(1)
    finally:
        discard_unwritten()
