"""How payloads and Try results become bytes, and bytes become them again.

A kind is what an action declares: a protobuf message class, a pydantic model, a
dataclass, `dict` (a JSON object) or `bytes` (as they are). pydantic is used
where it is installed and is never required.
"""

import dataclasses
import json
from typing import Any, NamedTuple, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

T = TypeVar("T")

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
OCTETS = "application/octet-stream"
# Of the contract: nobody knows the payload any more.
UNKNOWN = "application/x-tcc-unknown"

# Made once: json.dumps makes a new encoder per call, which costs as much as encoding a small dict.
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class InvalidPayloadError(ValueError):
    """The bytes are not what the action declares."""


class Encoded(NamedTuple):
    """A value as it travels."""

    data: bytes
    content_type: str


def encode(value: object) -> Encoded:
    """A value as bytes with their content type. None is no bytes and no type; Encoded is done already.

    Raises TypeError for a value of no known kind.
    """
    match value:
        case Encoded():
            return value
        case None:
            return Encoded(b"", "")
        case bytes():
            return Encoded(value, OCTETS)
        case Message():
            return Encoded(value.SerializeToString(), PROTOBUF)
        case dict() | list():
            return Encoded(_to_json(value).encode(), JSON)
    if hasattr(value, "model_dump_json"):
        return Encoded(value.model_dump_json().encode(), JSON)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return Encoded(_to_json(dataclasses.asdict(value)).encode(), JSON)
    raise TypeError(
        f"{type(value).__name__} is no payload: give a protobuf message, a pydantic model, "
        "a dataclass, a dict, a list, bytes or None"
    )


def check_kind(kind: type) -> None:
    """Raises TypeError unless `decode` knows this kind."""
    if kind not in {bytes, dict} and not (
        issubclass(kind, Message) or hasattr(kind, "model_validate_json") or dataclasses.is_dataclass(kind)
    ):
        raise TypeError(
            f"{kind.__name__} is no kind of payload: declare a protobuf message, a pydantic model, "
            "a dataclass, dict or bytes"
        )


def is_frozen(kind: type) -> bool:
    """Whether this kind's author declared its objects immutable."""
    if dataclasses.is_dataclass(kind):
        return bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined] # its stubs leave it out
    return kind is bytes or bool(getattr(kind, "model_config", {}).get("frozen"))


def decode(kind: type[T], data: bytes, content_type: str) -> T:
    """Bytes as a value of the kind. Raises InvalidPayloadError, which says what is wrong."""
    if kind is bytes:
        return cast("T", data)
    try:
        return cast("T", _decode(kind, data, content_type))
    except (DecodeError, json_format.ParseError, TypeError, ValueError) as error:
        raise InvalidPayloadError(f"not a {kind.__name__}: {error}") from error


def _decode(kind: Any, data: bytes, content_type: str) -> object:
    if issubclass(kind, Message):
        if content_type == JSON:
            return json_format.Parse(data, kind())
        return kind.FromString(data)
    if hasattr(kind, "model_validate_json"):
        return kind.model_validate_json(data)
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise TypeError("a JSON object is wanted")
    return fields if kind is dict else kind(**fields)
