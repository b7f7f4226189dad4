"""Commands as functions of a session, with the options that every command has."""

import inspect
from collections.abc import Callable, Sequence
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from tccctl.output import Output, OutputFormat
from tccctl.session import failures_as_exits, session
from tccctl.settings import DEFAULT_ADDRESS, TIMEOUT_MAX_S, Options

_PANEL = "Global options"
# Where click's context holds those that were given before the command.
_EARLIER = "tccctl.options"

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
        def run(context: typer.Context, **arguments: Any) -> None:
            common = _with_earlier(context, _taken(arguments))
            output = Output(common.pop("output") or OutputFormat.TEXT)
            with failures_as_exits(), session(Options(**common), output) as opened:
                function(opened, **arguments)

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        _declare(run, [*own, *_COMMON])
        app.command(name, epilog=epilog)(run)
        return function

    return decorate


def takes_global_options(function: Callable[..., None]) -> Callable[..., None]:
    """Let a group take the global options, too, for the command that follows, whose help shows them."""

    @wraps(function)
    def run(context: typer.Context, **arguments: Any) -> None:
        context.meta[_EARLIER] = _with_earlier(context, _taken(arguments))
        function(**arguments)

    own = inspect.signature(function, eval_str=True).parameters.values()
    _declare(run, [*own, *map(_hidden, _COMMON)])
    return run


def group(help_text: str) -> typer.Typer:
    """Return an empty group of commands."""
    app = typer.Typer(no_args_is_help=True, help=help_text)
    app.callback()(takes_global_options(lambda: None))
    return app


def _declare(run: Callable[..., None], declared: Sequence[inspect.Parameter]) -> None:
    """Declare the parameters of a function for typer, which reads both of these."""
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [_CONTEXT, *declared]
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return an option that no help shows."""
    kind, option = get_args(parameter.annotation)
    option = copy(option)
    option.hidden = True
    return parameter.replace(annotation=Annotated[kind, option])


def _taken(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the global options out of the arguments."""
    return {parameter.name: arguments.pop(parameter.name) for parameter in _COMMON}


def _with_earlier(context: typer.Context, given: dict[str, Any]) -> dict[str, Any]:
    """Return global options over those that were given further left. Lists add up."""
    earlier = context.meta.get(_EARLIER, {})
    return {
        name: [*earlier.get(name, []), *value]
        if isinstance(value, list)
        else value
        if value is not None
        else earlier.get(name)
        for name, value in given.items()
    }


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
_COMMON = [
    _option(
        "output",
        Annotated[
            OutputFormat | None,
            typer.Option("--output", "-o", help="The output format. Default: text.", rich_help_panel=_PANEL),
        ],
        None,
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
