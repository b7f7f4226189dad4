"""Settings of `tccctl`: its coordinator, its operator, and what to redact.

Options come first, then the environment, then the file `~/.config/tccctl.toml`, then the defaults.

    address = "127.0.0.1:7091"
    operator = "ana"
    timeout_s = 10.0
    ca_file = "/etc/tcc/ca.crt"
    certificate_file = "/home/ana/ana.crt"
    key_file = "/home/ana/ana.key"
    token_file = "/home/ana/tcc.token"
    redact = ["card.number", "**.email"]
    descriptor_sets = ["/etc/tcc/shop.binpb"]

    [messages]
    "inventory/reserve_stock" = "shop.v1.ReserveStock"
    "inventory/reserve_stock/result" = "shop.v1.Reserved"

With `ca_file`, TLS is used, and the coordinator's certificate must be signed by one of these
authorities. `certificate_file` and `key_file` are for a coordinator that requires client certificates;
the bearer token in `token_file` comes before them.
Redactions add up: an option never removes a path that the file names.
"""

import getpass
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tcc._internal.ports import check_port
from tccctl.failures import UsageFailure

DEFAULT_ADDRESS = "127.0.0.1:7091"
DEFAULT_TIMEOUT_S = 10.0
TIMEOUT_MAX_S = 86_400.0
_VARIABLES = (
    "TCCCTL_ADDRESS",
    "TCCCTL_CA_FILE",
    "TCCCTL_CERTIFICATE_FILE",
    "TCCCTL_CONFIG",
    "TCCCTL_KEY_FILE",
    "TCCCTL_OPERATOR",
    "TCCCTL_REDACT",
    "TCCCTL_TOKEN_FILE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings of one run."""

    address: str = DEFAULT_ADDRESS
    operator: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    redact: Sequence[str] = ()
    descriptor_sets: Sequence[Path] = ()
    messages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line's values; None or empty if an option was not given."""

    config: Path | None = None
    address: str | None = None
    operator: str | None = None
    timeout_s: float | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    redact: Sequence[str] = ()
    descriptor_sets: Sequence[Path] = ()
    messages: Sequence[str] = ()


def user_name() -> str:
    """Return the name of the user who runs this process; empty: it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # OSError since Python 3.13
        return ""


def settings_of(
    options: Options, environment: Mapping[str, str], user_name: Callable[[], str] = user_name
) -> Settings:
    """Return the effective settings. Raises UsageFailure: the file or a variable is wrong."""
    _refuse_unknown_variables(environment)
    file = _file(options, environment)
    return Settings(
        address=_checked_address(options.address or environment.get("TCCCTL_ADDRESS") or file.address),
        operator=(options.operator or environment.get("TCCCTL_OPERATOR") or file.operator or user_name()),
        timeout_s=options.timeout_s or file.timeout_s,
        ca_file=options.ca_file or _path(environment, "TCCCTL_CA_FILE") or file.ca_file,
        certificate_file=(
            options.certificate_file or _path(environment, "TCCCTL_CERTIFICATE_FILE") or file.certificate_file
        ),
        key_file=options.key_file or _path(environment, "TCCCTL_KEY_FILE") or file.key_file,
        token_file=options.token_file or _path(environment, "TCCCTL_TOKEN_FILE") or file.token_file,
        redact=[*file.redact, *_listed(environment.get("TCCCTL_REDACT", "")), *options.redact],
        descriptor_sets=[*file.descriptor_sets, *options.descriptor_sets],
        messages={**file.messages, **dict(map(_pair, options.messages))},
    )


def _file(options: Options, environment: Mapping[str, str]) -> Settings:
    named = options.config or environment.get("TCCCTL_CONFIG")
    path = Path(named or _default_path(environment))
    try:
        # Some editors begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if named:
            raise UsageFailure(f"there is no configuration file {path}") from None
        return Settings()
    except (OSError, ValueError) as error:
        raise UsageFailure(f"{path}: {error}") from error
    try:
        return Settings(**{key: _checked(key, value) for key, value in tomllib.loads(text).items()})
    except (ValueError, RecursionError, UsageFailure) as error:
        raise UsageFailure(f"{path}: {error}") from error


def _checked_address(address: str) -> str:
    try:
        check_port(address)
    except ValueError as error:
        raise UsageFailure(
            str(error), advice="give HOST:PORT with --address, or set TCCCTL_ADDRESS"
        ) from error
    return address


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    for name in sorted(environment):
        if name.startswith("TCCCTL_") and name not in _VARIABLES:
            (nearest,) = get_close_matches(name, _VARIABLES, n=1, cutoff=0)
            raise UsageFailure(f"unknown variable {name}", advice=f"did you mean {nearest}?")


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None


def _default_path(environment: Mapping[str, str]) -> Path:
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    return Path(home) / "tccctl.toml"


def _checked(key: str, value: Any) -> Any:
    match key, value:
        case (("address" | "operator"), str()):
            return value
        case "timeout_s", (int() | float()) if not isinstance(value, bool) and 0 < value <= TIMEOUT_MAX_S:
            return float(value)
        case (("ca_file" | "certificate_file" | "key_file" | "token_file"), str()):
            return Path(value).expanduser()
        case "redact", list() if all(isinstance(path, str) and path for path in value):
            return value
        case "descriptor_sets", list() if all(isinstance(path, str) for path in value):
            return [Path(path).expanduser() for path in value]
        case "messages", dict() if all(isinstance(name, str) for name in value.values()):
            return value
    known = {
        "address": "a string, HOST:PORT",
        "operator": "a string",
        "timeout_s": f"a positive number of seconds, at most {TIMEOUT_MAX_S:g}",
        "ca_file": "a file",
        "certificate_file": "a file",
        "key_file": "a file",
        "token_file": "a file",
        "redact": "a list of paths",
        "descriptor_sets": "a list of files",
        "messages": 'a table: "participant/action" = "package.Message"',
    }
    if key in known:
        raise UsageFailure(f"{key} must be {known[key]}")
    raise UsageFailure(f"unknown key {key}; known keys: {', '.join(known)}")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    key, equals, name = text.partition("=")
    if not (key and equals and name):
        raise UsageFailure(f"--message {text!r} is not PARTICIPANT/ACTION=PACKAGE.MESSAGE")
    return key, name
