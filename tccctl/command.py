"""Commands as functions of a session, with the options that every command has."""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from tccctl.output import Output, OutputFormat
from tccctl.session import failures_as_exits, session
from tccctl.settings import DEFAULT_ADDRESS, TIMEOUT_MAX_S, Options

_PANEL = "Global options"

Reason = Annotated[str | None, typer.Option(help="The reason. Required; a terminal prompts for it.")]
Version = Annotated[
    int | None,
    typer.Option(
        help="The version that you saw. Default: the current version, which is shown.", min=0, max=2**63 - 1
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Gid = Annotated[str, typer.Argument(metavar="GID", help="The transaction's id.")]


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], notes: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function of a session and its options as a command, with examples and notes in its help."""
    epilog = "\n\n".join(["Examples:", *(f"  {example}" for example in examples), *notes])

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(**arguments: Any) -> None:
            common = {parameter.name: arguments.pop(parameter.name) for parameter in _COMMON}
            output = Output(common.pop("output"))
            with failures_as_exits(), session(Options(**common), output) as opened:
                function(opened, **arguments)

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *_COMMON]
        ]
        # Typer reads both of them.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, epilog=epilog)(run)
        return function

    return decorate


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_COMMON = [
    _option(
        "output",
        Annotated[
            OutputFormat,
            typer.Option("--output", "-o", help="The output format.", rich_help_panel=_PANEL),
        ],
        OutputFormat.TEXT,
    ),
    _option(
        "address",
        Annotated[
            str | None,
            typer.Option(
                help=f"HOST:PORT of an admin listener. Default: TCCCTL_ADDRESS, or {DEFAULT_ADDRESS}.",
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
    _option(
        "operator",
        Annotated[
            str | None,
            typer.Option(
                help="Your name. Default: TCCCTL_OPERATOR, or the user name.", rich_help_panel=_PANEL
            ),
        ],
        None,
    ),
    _option(
        "timeout_s",
        Annotated[
            float | None,
            typer.Option(
                "--timeout",
                help="Seconds to wait for a response. Default: 10.",
                min=0.001,
                max=TIMEOUT_MAX_S,
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
    _option(
        "ca_file",
        Annotated[
            Path | None,
            typer.Option(
                "--ca-file",
                help="Use TLS and trust these CA certificates. Default: TCCCTL_CA_FILE.",
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
    _option(
        "certificate_file",
        Annotated[
            Path | None,
            typer.Option(
                "--certificate-file",
                help="The client certificate. Default: TCCCTL_CERTIFICATE_FILE.",
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
    _option(
        "key_file",
        Annotated[
            Path | None,
            typer.Option(
                "--key-file", help="Its private key. Default: TCCCTL_KEY_FILE.", rich_help_panel=_PANEL
            ),
        ],
        None,
    ),
    _option(
        "token_file",
        Annotated[
            Path | None,
            typer.Option(
                "--token-file",
                help="A file with your bearer token; requires TLS. Default: TCCCTL_TOKEN_FILE.",
                rich_help_panel=_PANEL,
            ),
        ],
        None,
    ),
    _option(
        "redact",
        Annotated[
            list[str],
            typer.Option(
                help="Hide this path in payloads, as card.number or **.email. Adds to TCCCTL_REDACT.",
                rich_help_panel=_PANEL,
            ),
        ],
        [],
    ),
    _option(
        "descriptor_sets",
        Annotated[
            list[Path],
            typer.Option(
                "--descriptor-set", help="A descriptor set for protobuf payloads.", rich_help_panel=_PANEL
            ),
        ],
        [],
    ),
    _option(
        "messages",
        Annotated[
            list[str],
            typer.Option(
                "--message",
                help="The message type of a payload: PARTICIPANT/ACTION=PACKAGE.MESSAGE.",
                rich_help_panel=_PANEL,
            ),
        ],
        [],
    ),
    _option(
        "config",
        Annotated[
            Path | None,
            typer.Option(help="TCCCTL_CONFIG, or ~/.config/tccctl.toml.", rich_help_panel=_PANEL),
        ],
        None,
    ),
]
