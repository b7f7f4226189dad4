"""Checks of arguments, so that a mistake is explained with the right form before anything is sent.

A wrong type is a TypeError, a wrong value a ValueError. Limits that the coordinator's
configuration may change (lengths, numbers of branches) are checked by the coordinator.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tcc._internal.local_address import is_local
from tcc._internal.ports import check_port
from tcc._internal.tls import Tls
from tcc._internal.token import token_source

# Ten years. gRPC and protobuf overflow far beyond.
SECONDS_MAX = 315_576_000
# A gid has at most 128; a UUID follows the prefix.
GID_PREFIX_BYTES_MAX = 92


def text(name: str, value: object, form: str) -> str:
    """Return a text that can be sent. `form` shows how the argument is given."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, as in {form}, not {shown(value)}")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is a text, as in {form}; {value!a} cannot be sent: the character at "
            f"{error.start} is half of a surrogate pair"
        ) from None
    return value


def gid_prefix(value: object) -> str:
    """Return what made-up gids begin with."""
    found = text("gid_prefix", value, 'gid_prefix="shop-"')
    if not found.isprintable() or len(found.encode()) > GID_PREFIX_BYTES_MAX:
        raise ValueError(
            f'gid_prefix has at most {GID_PREFIX_BYTES_MAX} bytes, all printable, as in gid_prefix="shop-", '
            f"not {value!a}"
        )
    return found


def gid(value: object) -> str:
    """Return a gid. Raises ValueError for an empty one: it would not protect against a repetition."""
    found = text("gid", value, 'gid="order-17"')
    if not found:
        raise ValueError('gid is empty; give one, as in gid="order-17", or leave it out and one is made')
    return found


def labels(value: object) -> Mapping[str, str] | None:
    """Return labels; None for none: a message copies even an empty mapping."""
    if value is None:
        return None
    form = 'labels={"order": "17"}'
    if not isinstance(value, Mapping):
        raise TypeError(f"labels are a dict of texts, as in {form}, not {shown(value)}")
    for key, item in value.items():
        text("the name of a label", key, form)
        text(f"the label {key!a}", item, form)
    return value or None


def seconds(name: str, value: object) -> float:
    """Return a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, as in {name}=10.0, not {shown(value)}")
    if not 0 <= value <= SECONDS_MAX:
        raise ValueError(f"{name} is between 0 and {SECONDS_MAX:_} seconds, as in {name}=10.0, not {value!r}")
    return value


def optional_seconds(name: str, value: object) -> float | None:
    """Return a number of seconds; None for None, which means the default."""
    return None if value is None else seconds(name, value)


def whole_number(name: str, value: object, *, least: int, most: int = 2**31 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, as in {name}={max(least, 1)}, not {shown(value)}")
    if not least <= value <= most:
        raise ValueError(f"{name} is between {least:_} and {most:_}, not {value!r}")
    return value


def one_of(name: str, value: object, words: Sequence[str]) -> str:
    """Return one of a few words. Raises ValueError for another one."""
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} is one of {', '.join(map(repr, words))}, not {value!a}")
    return value


def instance(name: str, value: object, kind: Any, form: str) -> None:
    """Check the class of a value."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is given as {form}, not {shown(value)}")


def items(name: str, value: object, kind: type, form: str) -> list[Any]:
    """Return the items of a collection, all of one class."""
    if isinstance(value, kind) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is a list, as in [{form}], not {shown(value)}")
    found = list(value)
    for index, item in enumerate(found):
        if not isinstance(item, kind):
            raise TypeError(f"{name}[{index}] is given as {form}, not {shown(item)}")
    return found


def channel_options(value: object) -> tuple[tuple[str, Any], ...]:
    """Return options of gRPC."""
    form = 'channel_options=[("grpc.max_send_message_length", 8_000_000)]'
    if not isinstance(value, list | tuple):
        raise TypeError(f"channel_options is a list of pairs, as in {form}, not {shown(value)}")
    for option in value:
        if not (isinstance(option, tuple) and len(option) == 2 and isinstance(option[0], str)):
            raise TypeError(f"channel_options is a list of pairs, as in {form}; one item is {shown(option)}")
    return tuple(value)


def target(value: object) -> str:
    """Return the address of a server as gRPC takes it."""
    form = '"127.0.0.1:50050" or "dns:///tcc.example:50050"'
    found = text("target", value, form)
    check_port(found)
    if not found:
        raise ValueError(f"target is the coordinator's address, as in {form}, not an empty text")
    if found.startswith(("http://", "https://", "grpc://", "grpcs://")):
        raise ValueError(
            f"target is an address of gRPC without the scheme of a web page, as in {form}, not {found!r}; "
            "for TLS give tls=tcc.Tls(…)"
        )
    return found


def tls(value: object) -> Tls | None:
    """Return the certificates; None for None. Their files can be read."""
    if value is None:
        return None
    if not isinstance(value, Tls):
        raise TypeError(f'tls is given as tls=tcc.Tls(ca="/etc/tcc/ca.crt"), not {shown(value)}')
    value.content()
    return value


def token(value: object, target: object, *, uses_tls: bool) -> Callable[[], str] | None:
    """Return what returns the token of a call; None for None."""
    if value is None:
        return None
    form = 'token=pathlib.Path("/etc/tcc/token"), the token itself, or a function that returns it'
    if not (isinstance(value, str | os.PathLike) or callable(value)):
        # Not the value: it may be a secret.
        raise TypeError(f"token is given as {form}, not a {type(value).__name__}")
    if isinstance(value, str) and not (value.isascii() and value.isprintable() and value.strip()):
        raise ValueError(f"token is given as {form}; the text has a character that no token has, or is empty")
    if isinstance(target, str) and not uses_tls and not is_local(target):
        raise ValueError(
            "a token is sent over TLS only, or to an address on loopback: give tls=tcc.Tls(…) as well"
        )
    return token_source(value)


def moment(name: str, value: object) -> datetime | None:
    """Return a point in time with a time zone; None for None."""
    if value is None:
        return None
    form = f"{name}=datetime.now(UTC)"
    if not isinstance(value, datetime):
        raise TypeError(f"{name} is a datetime, as in {form}, not {shown(value)}")
    if value.tzinfo is None:
        raise ValueError(f"{name} needs a time zone, as in {form}")
    return value


def shown(value: object) -> str:
    """Return the class of a value, and the value if it is short and plain."""
    kind = type(value).__name__
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str | int | float) and len(brief := ascii(value)) <= 60:
        return f"{brief} (a {kind})"
    return f"a {kind}"
