"""Read the configuration, and record where each value came from.

There are three layers: the file, above it the environment, above that the command line.
A mistake is reported with its location: the line in the file, or the variable's name.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Le
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from coordinator.config.settings import Settings
from coordinator.config.toml_positions import key_lines
from coordinator.config.variables import PREFIX, unknown_variables

KeyPath = tuple[str, ...]

# Python reads no longer ones.
_TOO_MANY_DIGITS = re.compile(r"[0-9_]{4301,}")
_MESSAGES = {
    "missing": "is missing",
    # Pydantic would name the class here, which means nothing to a user.
    "model_type": "must be a table",
    "dict_type": "must be a table",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigIssue:
    """One mistake, without the given value, which may be a secret."""

    # "tcc.toml:12", a variable's name, or empty if the value was not given anywhere.
    location: str
    # Dotted; empty if it concerns the whole file.
    key: str
    message: str

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.location, self.key, self.message) if part)
        # Names of keys and of the file may contain anything, and a terminal would interpret it.
        return "".join(
            character if character.isprintable() else f"\\u{ord(character):04x}" for character in text
        )


class ConfigurationError(Exception):
    """The configuration has mistakes; the message has a line for each."""

    def __init__(self, *issues: ConfigIssue) -> None:
        super().__init__("\n".join(map(str, issues)))
        self.issues = issues


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """Settings with their origins."""

    settings: Settings
    layers: "_Layers"

    def origin(self, path: KeyPath) -> str:
        """Return a value's origin: "tcc.toml:12", a variable's name, "command line" or "default"."""
        return self.layers.location(path) or "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The sources of a configuration, so that it can be read again if it is not in a pipe."""

    path: Path | None = None
    overrides: Mapping[str, Any] | None = None

    def read(self) -> Configuration:
        """Read the configuration now.

        Raises:
            ConfigurationError: the file does not exist, or the configuration is invalid.
        """
        return read(self.path, self.overrides)

    def read_again(self) -> Configuration:
        """Read the configuration as it is now.

        Raises:
            ConfigurationError: as `read`, and if it came from a pipe, which has no content left.
        """
        if self.path is not None and _kind(self.path) == "a pipe":
            raise ConfigurationError(
                ConfigIssue(location=str(self.path), key="", message="a pipe cannot be read again")
            )
        return self.read()


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings that `read` finds."""
    return read(path, overrides).settings


def read(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Configuration:
    """Read the configuration: the file, overridden by the environment, overridden by `overrides`.

    Raises:
        ConfigurationError: there is no file at `path`, or the configuration is invalid.
    """
    file, lines = _read_file(path) if path is not None else ({}, {})
    environment = _read_environment()
    layers = _Layers(
        path=path, file=file, lines=lines, environment=environment, command_line=dict(overrides or {})
    )
    unknown = [
        ConfigIssue(location=name, key="", message=message)
        for name, message in unknown_variables(Settings, os.environ)
    ]
    merged = layers.merged()
    mistyped = list(_mistyped(merged, layers))
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(*unknown, *_issues(error, layers, mistyped)) from error
    if unknown or mistyped:
        raise ConfigurationError(*unknown, *sorted(mistyped, key=_line))
    return Configuration(settings=settings, layers=layers)


def _read_environment() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except (SettingsError, RecursionError) as error:
        message = str(error).partition(" from source")[0]
        raise ConfigurationError(ConfigIssue(location="the environment", key="", message=message)) from error


def _read_file(path: Path) -> tuple[dict[str, Any], Mapping[KeyPath, int]]:
    try:
        # Some editors begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigurationError(
            ConfigIssue(location="", key="", message=f"configuration file {path} does not exist")
        ) from error
    except OSError as error:
        message = f"{_kind(path)} cannot be read: {error.strerror}"
        raise ConfigurationError(ConfigIssue(location=str(path), key="", message=message)) from error
    except ValueError as error:
        raise ConfigurationError(ConfigIssue(location=str(path), key="", message=str(error))) from error
    try:
        return tomllib.loads(text), key_lines(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(_toml_issue(path, text, error)) from error


def _kind(path: Path) -> str:
    """Return what a path is, for an error."""
    kinds = (
        ("a directory", Path.is_dir),
        ("a pipe", Path.is_fifo),
        ("a socket", Path.is_socket),
        ("a device", Path.is_char_device),
        ("a device", Path.is_block_device),
    )
    try:
        return next((name for name, is_it in kinds if is_it(path)), "the file")
    except OSError:  # the directory that it is in cannot be read
        return "the file"


def _toml_issue(path: Path, text: str, error: Exception) -> ConfigIssue:
    number = _TOO_MANY_DIGITS.search(text)
    if isinstance(error, tomllib.TOMLDecodeError) or number is None:
        return ConfigIssue(location=str(path), key="", message=str(error))
    line = text.count("\n", 0, number.start()) + 1
    return ConfigIssue(location=f"{path}:{line}", key="", message=f"a number of {len(number[0])} digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layers:
    path: Path | None
    file: dict[str, Any]
    lines: Mapping[KeyPath, int]
    environment: dict[str, Any]
    command_line: dict[str, Any]

    def merged(self) -> Any:
        return _merge(_merge(self.file, self.environment), self.command_line)

    def location(self, path: KeyPath) -> str:
        """Return what set this key; empty if nothing did."""
        if _has(self.command_line, path):
            return "command line"
        if _has(self.environment, path):
            return _variable(path)
        if _has(self.file, path):
            return f"{self.path}:{self.lines[path]}"
        return ""

    def nearest_location(self, path: KeyPath) -> str:
        """Return what set this key, or the innermost enclosing table that was set."""
        while path:
            if location := self.location(path):
                return location
            path = path[:-1]
        return ""


def _merge(lower: Any, upper: Any) -> Any:
    """Return `upper` over `lower`, with tables merged key by key."""
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    return lower | {key: _merge(lower.get(key), value) for key, value in upper.items()}


def _has(layer: Mapping[str, Any], path: KeyPath) -> bool:
    for key in path:
        if not isinstance(layer, Mapping) or key not in layer:
            return False
        layer = layer[key]
    return True


def _variable(path: KeyPath) -> str:
    """Return the variable that set this key: its own, or one that holds a whole table as JSON."""
    for length in range(len(path), 0, -1):
        name = PREFIX + "__".join(path[:length]).upper()
        if any(known.upper() == name for known in os.environ):
            break
    return name


# --- mistakes ---------------------------------------------------------------


def _mistyped(value: Any, layers: _Layers, path: KeyPath = ()) -> Iterator[ConfigIssue]:
    """Yield the numbers and flags of another type, which pydantic would convert: true is no count.

    A variable's value is a text, whatever it means.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _mistyped(inner, layers, (*path, key))
        return
    if isinstance(value, str) and _has(layers.environment, path) and not _has(layers.command_line, path):
        return
    kind = _plain_kind(path)
    is_right = isinstance(value, bool) if kind is bool else _is_number(value)
    if kind is not None and not is_right:
        message = _wanted_number(path) or "must be true or false"
        yield ConfigIssue(location=layers.nearest_location(path), key=".".join(path), message=message)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain_kind(path: KeyPath) -> Any:
    """Return the type of a setting that is a number or a flag; None: it is something else."""
    *table, key = path or ("",)
    model = _model_of(tuple(table))
    field = model.model_fields.get(key) if model else None
    return field.annotation if field is not None and field.annotation in {bool, int, float} else None


def _issues(error: ValidationError, layers: _Layers, mistyped: list[ConfigIssue]) -> Iterator[ConfigIssue]:
    """Yield the mistakes in the order of the file, those of one key once."""
    found = {issue.key: issue for issue in mistyped}
    others = [_issue(details, layers) for details in error.errors()]
    return iter(sorted([*mistyped, *(one for one in others if one.key not in found)], key=_line))


def _line(issue: ConfigIssue) -> tuple[int, str]:
    last = issue.location.rpartition(":")[2]
    return (int(last) if last.isdigit() else 0, issue.key)


def _issue(details: ErrorDetails, layers: _Layers) -> ConfigIssue:
    path = tuple(map(str, details["loc"]))
    if details["type"] == "together":
        path = (*path, *details["ctx"]["key"].split("."))
    return ConfigIssue(
        location=layers.nearest_location(path), key=".".join(path), message=_message_of(details, path)
    )


def _message_of(details: ErrorDetails, path: KeyPath) -> str:
    if details["type"] == "extra_forbidden":
        return _unknown(path)
    if details["type"] not in {"missing", "together"} and (wanted := _wanted_number(path)):
        return wanted
    message = _MESSAGES.get(details["type"], details["msg"])
    return message.replace("Input should be", "must be")


def _wanted_number(path: KeyPath) -> str:
    """Return what a number must be, with its bounds; empty if the setting is no number."""
    *table, key = path
    model = _model_of(tuple(table))
    field = model.model_fields.get(key) if model else None
    if field is None or field.annotation not in {int, float}:
        return ""
    least = next(bound.ge for bound in field.metadata if isinstance(bound, Ge))
    most = next(bound.le for bound in field.metadata if isinstance(bound, Le))
    kind = "an integer" if field.annotation is int else "a number"
    return f"must be {kind} from {least:.15g} to {most:.15g}"


def _unknown(path: KeyPath) -> str:
    """Suggest a key: a similar key of this table, or a key of the same name in another table."""
    *table, key = path
    known = _keys_of(tuple(table))
    if near := get_close_matches(key.lower(), known, n=1):
        return f"unknown key; did you mean {near[0]!r}?"
    if elsewhere := [".".join((*location, key)) for location in _tables() if key in _keys_of(location)]:
        return f"unknown key; did you mean {elsewhere[0]!r}?"
    return f"unknown key; known keys: {', '.join(known)}" if known else "unknown key"


def _keys_of(table: KeyPath) -> list[str]:
    """Return the keys that a table may have."""
    model = _model_of(table)
    return list(model.model_fields) if model else []


def _model_of(table: KeyPath) -> type[BaseModel] | None:
    """Return the model of a table; None: there is no such table."""
    model: type[BaseModel] | None = Settings
    keys = iter(table)
    for key in keys:
        if model is None or key not in model.model_fields:
            return None
        inner, is_named = _table_of(model, key)
        if is_named and next(keys, None) is None:
            return None
        model = inner
    return model


def _table_of(model: type[BaseModel], key: str) -> tuple[type[BaseModel] | None, bool]:
    """Return the model of a field, and whether there are several such tables, by name."""
    annotation = model.model_fields[key].annotation
    kinds = (annotation, *get_args(annotation))
    found = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return found, found is not None and str in kinds


def _tables(model: type[BaseModel] = Settings, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield all tables. NAME stands for the name of one of several."""
    yield path
    for key in model.model_fields:
        inner, is_named = _table_of(model, key)
        if inner is not None:
            yield from _tables(inner, (*path, key, "NAME") if is_named else (*path, key))
