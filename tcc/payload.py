"""Encoding and decoding of payloads and Try results.

The kind of a payload is the type that an action declares: a protobuf message class, a pydantic
model, a msgspec Struct, a dataclass, `dict` (a JSON object) or `bytes` (unchanged). pydantic is
optional.

Within dicts, lists, dataclasses and Structs these types have a JSON form. A kind that
declares the type decodes it to that type; in a `dict` it stays in its JSON form:

| type | JSON form |
|---|---|
| Decimal | string: `"1.50"` |
| datetime, date, time | string, RFC 3339: `"2026-01-31T12:00:00Z"`, `"2026-01-31"`, `"12:00:00"` |
| timedelta | string, ISO 8601: `"P1DT5S"` |
| UUID | string |
| Enum | its value |
| bytes | string, base64 |
| tuple, set, frozenset | array; sets are sorted, also those of pydantic models |

NaN and infinities (but in protobuf) and text with a lone surrogate are refused: JSON has no form for
them, and a NaN is not equal to itself. Equal values have equal bytes, so
that a repeated gid does not conflict: keys are sorted, protobuf is serialised deterministically.

Dataclasses and Structs are validated strictly: `"3"` is not an int, no field may be missing, and
a dataclass accepts no undeclared fields (for a Struct see its `forbid_unknown_fields`).
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set as AbstractSet
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from tcc._internal.plain_text import plain_text
from tcc._internal.pydantic_json import model_json

T = TypeVar("T")

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
OCTETS = "application/octet-stream"
# Followed by the id of the key (`tcc.encryption`).
ENCRYPTED = "application/x-tcc-encrypted"
# Of the contract: the payload is no longer known.
UNKNOWN = "application/x-tcc-unknown"

_PROTOBUF_NAMES = {PROTOBUF, "application/protobuf", "application/vnd.google.protobuf"}

CONTENT_TYPE_BYTES_MAX = 128
_ERRORS_SHOWN_MAX = 5


class InvalidPayloadError(ValueError):
    """The bytes are not of the declared kind. The text names fields and shows no values."""


class _NotFiniteError(TypeError):
    """A number is NaN or infinite."""


class Encoded(NamedTuple):
    """Encoded bytes with their content type."""

    data: bytes
    content_type: str


class PayloadCodec(Protocol):
    """Seals payloads and results for one place, which `open` must be given, too.

    Sealing must be deterministic: equal content at one place has equal bytes.
    """

    def seal(self, encoded: Encoded, place: Sequence[str]) -> Encoded: ...

    def open(self, sealed: Encoded, place: Sequence[str]) -> Encoded:
        """Raise InvalidPayloadError if it was not sealed for this place, with a known key."""
        ...


def payload_place(gid: str, branch_id: str, participant: str, action: str) -> tuple[str, ...]:
    """Return what a payload is sealed for."""
    return "payload", gid, branch_id, participant, action


def result_place(gid: str, branch_id: str) -> tuple[str, ...]:
    """Return what a result is sealed for. A branch belongs to one participant and action."""
    return "result", gid, branch_id


def opened_or_sealed(codec: PayloadCodec | None, sealed: Encoded, place: Sequence[str]) -> Encoded:
    """Return the content, or what cannot be opened as it is: decoding it then reports that."""
    if codec is None or not sealed.content_type.startswith(ENCRYPTED):
        return sealed
    try:
        return codec.open(sealed, place)
    except InvalidPayloadError:
        return sealed


def encode(value: object) -> Encoded:
    """Return a value as bytes with their content type. None has neither; Encoded is returned unchanged.

    Raises:
        TypeError: The type of the value is not supported, or the value cannot be encoded.
    """
    try:
        return _encode(value)
    except TypeError:
        raise
    except Exception as error:
        name = type(error).__name__
        raise TypeError(plain_text(f"{type(value).__name__} cannot be encoded: {name}: {error}")) from error


def _encode(value: object) -> Encoded:
    match value:
        case Encoded():
            return _checked(value)
        case None:
            return Encoded(b"", "")
        case bytes():
            return Encoded(value, OCTETS)
        case Message():
            return Encoded(value.SerializeToString(deterministic=True), PROTOBUF)
        case dict() | list() | msgspec.Struct():
            return Encoded(_json_of(value), JSON)
    if hasattr(value, "model_dump_json"):
        return Encoded(_json_of_model(value), JSON)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return Encoded(_json_of(value), JSON)
    raise TypeError(
        f"{type(value).__name__} is not a payload: give a protobuf message, a pydantic model, "
        "a msgspec Struct, a dataclass, a dict, a list, bytes or None"
    )


def _json_of(value: object) -> bytes:
    try:
        text = _to_json(value)
    except ValueError as error:
        if str(error).startswith("Out of range float"):
            _check_finite(value)
        raise
    if "NaN" in text or "Infinity" in text:  # so become those of msgspec
        _check_finite(value)
    return text.encode()


def _json_of_model(value: Any) -> bytes:
    data = model_json(value)
    if b"null" in data or b"NaN" in data or b"Infinity" in data:  # so become those of pydantic
        _check_finite(value)
    return data


def _check_finite(value: object) -> None:
    """Raise TypeError for a number that is NaN or infinite."""
    for path, number in _numbers(value, ""):
        if not (number.is_finite() if isinstance(number, Decimal) else math.isfinite(number)):
            where = f" at {path.lstrip('.')}" if path else ""
            raise _NotFiniteError(f"{number!s}{where} is no finite number, and JSON has no form for it")


def _numbers(value: object, path: str) -> Iterator[tuple[str, float | Decimal]]:
    """Yield the numbers in a value that may not be finite, with their places."""
    match value:
        case float() | Decimal():
            yield path, value
        case Mapping():
            for key, inner in value.items():  # further inside, the key may be a part of the content
                yield from _numbers(inner, f"{path}[…]" if path else str(key))
        case list() | tuple() | AbstractSet():
            for index, inner in enumerate(value):
                yield from _numbers(inner, f"{path}[{index}]")
        case _:
            for name in _names_of_fields(value):
                yield from _numbers(getattr(value, name, None), f"{path}.{name}")


def _names_of_fields(value: object) -> Sequence[str]:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return list(value.__dict__) if hasattr(value, "model_dump_json") else ()


def _json_form(value: object) -> object:
    """Return a value that the json module cannot encode as one that it can. Raises TypeError."""
    return msgspec.to_builtins(value, str_keys=True, order="deterministic", enc_hook=_no_json_form)


def _no_json_form(value: object) -> object:
    raise TypeError(f"a value of class {type(value).__name__} cannot be encoded as JSON")


# Made once: json.dumps makes an encoder per call, which costs as much as encoding a small dict.
_to_json = json.JSONEncoder(
    separators=(",", ":"), sort_keys=True, allow_nan=False, ensure_ascii=False, default=_json_form
).encode


def _checked(encoded: Encoded) -> Encoded:
    data: object = encoded.data
    content_type: object = encoded.content_type
    if not isinstance(data, bytes) or not isinstance(content_type, str):
        raise TypeError("Encoded holds bytes and a content type: Encoded(b'…', 'image/png')")
    if not content_type.isprintable() or len(content_type.encode()) > CONTENT_TYPE_BYTES_MAX:
        raise TypeError(f"a content type has at most {CONTENT_TYPE_BYTES_MAX} bytes of printable text")
    return encoded


def check_kind(kind: type) -> None:
    """Raise TypeError unless `decode` supports this kind."""
    if not isinstance(kind, type) or not (
        kind in {bytes, dict}
        or issubclass(kind, Message | msgspec.Struct)
        or hasattr(kind, "model_validate_json")
        or dataclasses.is_dataclass(kind)
    ):
        raise TypeError(
            f"{getattr(kind, '__name__', kind)} is not a kind of payload: declare a protobuf message, "
            "a pydantic model, a msgspec Struct, a dataclass, dict or bytes"
        )


def is_frozen(kind: type) -> bool:
    """Return whether this kind is declared immutable."""
    if dataclasses.is_dataclass(kind):
        return bool(kind.__dataclass_params__.frozen)  # type: ignore[attr-defined] # its stubs leave it out
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_config__.frozen
    return kind is bytes or bool(getattr(kind, "model_config", {}).get("frozen"))


def decode(kind: type[T], data: bytes, content_type: str) -> T:
    """Return bytes as a value of the kind.

    Raises:
        InvalidPayloadError: The bytes are not such a value. No other error is raised.
    """
    if content_type.startswith(ENCRYPTED):
        raise InvalidPayloadError("it is encrypted, and cannot be opened here")
    if kind is bytes:
        return cast("T", data)
    is_json = not issubclass(kind, Message) or _is_json(content_type)
    _check_content_type(kind, content_type)
    if is_json and not data:
        raise InvalidPayloadError(f"not a {kind.__name__}: the payload is missing")
    try:
        value = _decode(kind, data, is_json=is_json)
        if is_json and kind is not dict and _MAY_NOT_BE_FINITE_JSON.search(data):
            _check_finite(value)
        return cast("T", value)
    except Exception as error:  # noqa: BLE001 - an author's validators may raise anything
        text = plain_text(f"not a {kind.__name__}: {_reason(error)}")
        # The library's exception quotes the payload, so it must not be the cause.
        raise InvalidPayloadError(text) from None


def decode_json(data: bytes) -> Any:
    """Return JSON as plain Python values. Raises InvalidPayloadError."""
    try:
        return msgspec.json.decode(data)
    except Exception as error:  # noqa: BLE001 - deep nesting is a RecursionError
        raise InvalidPayloadError(f"not JSON: {_reason(error)}") from None


# A number that is not finite, as a text, as a name, or too large for a float; or an escape that hides it.
_MAY_NOT_BE_FINITE_JSON = re.compile(rb"(?i)nan|inf|\\u|e\+?[0-9]{3}|[0-9]{300}")


def _is_json(content_type: str) -> bool:
    subtype = content_type.partition(";")[0].strip().lower().rpartition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _check_content_type(kind: type, content_type: str) -> None:
    """Raise InvalidPayloadError for content that is certainly not of the kind, such as XML."""
    if content_type in ("", JSON, OCTETS) or _is_json(content_type):
        return
    is_message = issubclass(kind, Message)
    if is_message and content_type.partition(";")[0].strip().lower() in _PROTOBUF_NAMES:
        return
    understood = f"{PROTOBUF}, {JSON}" if is_message else JSON
    raise InvalidPayloadError(
        plain_text(
            f"not a {kind.__name__}: its content type is {content_type}; understood are {understood}, "
            f"and {OCTETS} for bytes of the same form"
        )
    )


def _decode(kind: Any, data: bytes, *, is_json: bool) -> object:
    if issubclass(kind, Message):
        return json_format.Parse(data, kind()) if is_json else kind.FromString(data)
    if hasattr(kind, "model_validate_json"):
        return kind.model_validate_json(data)
    if issubclass(kind, msgspec.Struct):
        return msgspec.json.decode(data, type=kind)
    fields = _decode_object(data)
    if kind is dict:
        return fields
    unknown = fields.keys() - _field_names(kind)
    if unknown:
        raise msgspec.ValidationError(f"unknown fields {', '.join(sorted(unknown))}")
    return msgspec.convert(fields, kind, str_keys=True)


_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


@cache
def _field_names(kind: Any) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind) if field.init)


def _reason(error: Exception) -> str:
    """Return why decoding failed, without the values that libraries quote."""
    match error:
        case msgspec.ValidationError():
            # "Invalid enum value 'x' - at `$.colour`"
            return re.sub(r"(Invalid (?:enum )?value) .*?( - at|$)", r"\1\2", str(error), flags=re.DOTALL)
        case msgspec.DecodeError():
            return str(error)
        case json_format.ParseError():
            fields = re.findall(r"Failed to parse (\w+) field", str(error))
            return f"cannot parse field {'.'.join(fields)}" if fields else "cannot parse its JSON"
        case DecodeError():
            return "malformed protobuf"
        case RecursionError():
            return "it is nested too deeply"
        case _NotFiniteError():
            return str(error)
    errors = getattr(error, "errors", None)
    if callable(errors) and type(error).__module__.startswith("pydantic_core"):
        found = errors(include_input=False, include_url=False, include_context=False)
        return "; ".join(_pydantic_reason(each) for each in found[:_ERRORS_SHOWN_MAX])
    return f"{type(error).__name__} was raised while it was decoded"


def _pydantic_reason(error: dict[str, Any]) -> str:
    # After the first, names may be keys of a dict; the message may quote a part of the value.
    first, *others = error["loc"] or ("$",)
    path = f"{first}{''.join(f'[{step}]' for step in others if isinstance(step, int))}"
    return f"{path}: {error['type']}"
