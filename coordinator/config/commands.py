"""`tccd config`: check a configuration, or show its effective values. `tccd token`: make static tokens."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr

from coordinator.config.configuration import Configuration, ConfigurationError, KeyPath, read
from coordinator.security.tokens import ID, new_token, token_hash

app = typer.Typer(no_args_is_help=True, help="Check a configuration, or show its effective values.")
tokens = typer.Typer(no_args_is_help=True, help="Make static tokens for clients and operators.")

_HIDDEN = "***"
_PASSWORD_PARAMETER = re.compile(r"(?<=[?&])((?:ssl)?password)=[^&]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_COMMENTS_AT = 48


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The TOML file; TCC_* environment variables override it.")],
) -> None:
    """Report every mistake with its line.

    Exit status: 0 if the configuration is valid, 1 if it has mistakes.
    """
    try:
        configuration = read(file)
    except ConfigurationError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error
    names = ", ".join(sorted(configuration.settings.participants)) or "none"
    typer.echo(f"{file} is valid; participants: {names}")


@app.command()
def show(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="TOML file; TCC_* environment variables override it."),
    ] = None,
) -> None:
    """Print the effective values as TOML, each with its origin. Secrets are masked.

    Exit status: 0, or 2 if the configuration has mistakes.
    """
    typer.echo("\n".join(lines(read(config))))


@tokens.command()
def create(
    name: Annotated[str, typer.Argument(help="The token's id: lower-case letters, digits and dashes.")],
    days: Annotated[int, typer.Option(help="How long it is valid.", min=1, max=3_650)] = 90,
) -> None:
    """Print a new static token, once, and the lines for the configuration, which holds only its hash."""
    if ID.fullmatch(name) is None:
        raise typer.BadParameter("use lower-case letters, digits and dashes", param_hint="NAME")
    token = new_token(name)
    expires_at = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    typer.echo(f"{token}\n")
    typer.echo(f"[auth.tokens.{name}]")
    typer.echo(f'sha256 = "{token_hash(token)}"')
    typer.echo(f"expires_at = {expires_at.isoformat()}\n")
    typer.echo(f'# for a client or an operator: identities = ["token:{name}"]')


def lines(configuration: Configuration) -> Iterator[str]:
    """Return the whole configuration as TOML, with origins as comments."""
    return _table(configuration, configuration.settings, ())


def _table(configuration: Configuration, table: BaseModel, path: KeyPath) -> Iterator[str]:
    tables: list[tuple[KeyPath, BaseModel]] = []
    for name, value in table:
        key = (*path, name)
        match value:
            case BaseModel():
                tables.append((key, value))
            case dict() if all(isinstance(inner, BaseModel) for inner in value.values()):
                tables += [((*key, inner), model) for inner, model in value.items()]
            case _:
                line = f"# {name} is not set" if value is None else f"{name} = {_written(value)}"
                yield f"{line:<{_COMMENTS_AT}} # {configuration.origin(key)}"
    for key, inner in tables:
        yield ""
        yield f"[{'.'.join(map(_key, key))}]"
        yield from _table(configuration, inner, key)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)


def _written(value: Any) -> str:
    match value:
        case SecretStr():
            return json.dumps(masked(value.get_secret_value()))
        case str() | Path():
            return json.dumps(str(value))
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(_written, value))}]"
        case dict():
            return f"{{ {', '.join(f'{_key(key)} = {_written(inner)}' for key, inner in value.items())} }}"
        case datetime():
            return value.isoformat()
        case _:
            return repr(value)


def masked(url: str) -> str:
    """Return a URL without its secrets: passwords, and everything but the host of a webhook."""
    scheme, mark, rest = url.partition("://")
    place, slash, more = rest.partition("/")
    if "@" in more:  # a bare slash in a password, most likely
        return scheme + mark + _HIDDEN
    account, at, host = place.rpartition("@")
    if scheme in {"http", "https"}:
        return f"{scheme}://{host}/{_HIDDEN}"
    user, colon, _ = account.partition(":")
    return "".join(
        (scheme, mark, user, colon, _HIDDEN if colon else "", at, host, slash)
    ) + _PASSWORD_PARAMETER.sub(rf"\1={_HIDDEN}", more)
