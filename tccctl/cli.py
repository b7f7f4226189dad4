"""The root command and its subcommands."""

import sys
from importlib import metadata
from io import TextIOWrapper
from typing import Annotated, cast

import typer

from tcc._internal.standard_streams import discard_unwritten, open_closed_streams
from tccctl import (
    audit,
    coordinators,
    participants,
    reconciliation,
    requests,
    stats,
    transactions,
    watch,
    whoami,
)
from tccctl.command import takes_global_options
from tccctl.exit_codes import ExitCode, meaning
from tccctl.termination import Terminated, raise_when_told_to_end

_EXIT_CODES = "\n\n".join(f"  {code:d}  {meaning(code)}" for code in ExitCode)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=(
        "Examples:\n\n  tccctl watch\n\n  tccctl tx list --filter stuck\n\n  tccctl tx why order-17\n\n"
        f"Exit codes:\n\n{_EXIT_CODES}"
    ),
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes the option's value
    if wanted:
        typer.echo(f"tccctl {metadata.version('tcc')}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


@app.callback()
@takes_global_options
def _main(*, version: VersionOption = False) -> None:
    """Find out why transactions are stuck, and end them safely.

    Talks to a coordinator's admin listener, never to the database. The global options of a command
    (--address, --output, ...) may also be given before it.
    """


app.add_typer(transactions.app, name="tx")
app.add_typer(participants.app, name="participant")
app.add_typer(coordinators.app, name="coordinator")
app.add_typer(audit.app, name="audit")
reconciliation.register(app)
requests.register(app)
stats.register(app)
watch.register(app)
whoami.register(app)


def main() -> None:
    """Run the command line."""
    open_closed_streams(needs_output=True)
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal's encoding lacks are escaped.
        cast("TextIOWrapper", stream).reconfigure(errors="backslashreplace")
    raise_when_told_to_end()
    try:
        app(prog_name="tccctl")
    except Terminated:
        typer.echo(f"tccctl: {meaning(ExitCode.TERMINATED)}", err=True)
        sys.exit(ExitCode.TERMINATED)
    except OSError as error:  # commands handle their own: this is the help, or the version
        typer.echo(f"tccctl: the answer could not be written: {error.strerror}", err=True)
        sys.exit(ExitCode.REFUSED)
    finally:
        discard_unwritten()
