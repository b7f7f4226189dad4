"""Typed payloads: what is encoded how, what decoding refuses, and that no refusal shows a value."""

import contextlib
import dataclasses
import enum
import json
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import msgspec
import pydantic
import pytest
from google.protobuf import struct_pb2
from hypothesis import given, strategies as st

from tcc import payload
from tcc.participant.v1 import participant_pb2 as pb
from tcc.payload import InvalidPayloadError

SECRET = "4929-1234-5678"


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Everything:
    amount: Decimal
    at: datetime
    day: date
    hour: time
    lasts: timedelta
    id: uuid.UUID
    colour: Colour
    data: bytes
    tags: frozenset[str]
    pair: tuple[int, str]


EVERYTHING = Everything(
    amount=Decimal("1.50"),
    at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    day=date(2026, 1, 31),
    hour=time(12, 30),
    lasts=timedelta(days=1, seconds=5),
    id=uuid.UUID(int=7),
    colour=Colour.RED,
    data=b"\x00\xff",
    tags=frozenset({"b", "a"}),
    pair=(1, "x"),
)
# From the table in tcc.payload.
FORMS = {
    "amount": "1.50",
    "at": "2026-01-31T12:00:00Z",
    "day": "2026-01-31",
    "hour": "12:30:00",
    "lasts": "P1DT5S",
    "id": "00000000-0000-0000-0000-000000000007",
    "colour": "red",
    "data": "AP8=",
    "tags": ["a", "b"],
    "pair": [1, "x"],
}


class Order(msgspec.Struct, forbid_unknown_fields=True):
    sku: str
    n: int


class Model(pydantic.BaseModel, extra="forbid"):
    sku: str
    n: int


class Picky(pydantic.BaseModel):
    sku: str

    @pydantic.field_validator("sku")
    @classmethod
    def check(cls, sku: str) -> str:
        raise KeyError(sku)


@dataclasses.dataclass
class Plain:
    sku: str
    n: int


def test_values_have_their_documented_form_and_come_back_typed():
    data, content_type = payload.encode(EVERYTHING)

    assert (json.loads(data), content_type) == (FORMS, payload.JSON)
    assert payload.decode(Everything, data, content_type) == EVERYTHING


def test_same_values_within_a_dict_have_the_same_form():
    fields = {field.name: getattr(EVERYTHING, field.name) for field in dataclasses.fields(EVERYTHING)}

    assert json.loads(payload.encode(fields).data) == FORMS
    assert payload.decode(dict, *payload.encode(fields)) == FORMS


def test_equal_values_become_equal_bytes():
    assert payload.encode({"b": 1, "a": 2}) == payload.encode({"a": 2, "b": 1})
    first, second = struct_pb2.Struct(), struct_pb2.Struct()
    names = [f"key{n}" for n in range(50)]
    first.update(dict.fromkeys(names, 1))
    second.update(dict.fromkeys(reversed(names), 1))
    assert payload.encode(first) == payload.encode(second)


@pytest.mark.parametrize(
    "value",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": "\udcff"},
        {"a": object()},
        {"a": {1, object()}},
        {object(): 1},
        7,
        "text",
        payload.Encoded("text", ""),
        payload.Encoded(b"", 5),
        payload.Encoded(b"", "x" * 129),
        payload.Encoded(b"", "a\nb"),
    ],
)
def test_value_that_cannot_be_encoded_is_a_type_error(value):
    with pytest.raises(TypeError):
        payload.encode(value)


def test_value_that_holds_itself_is_a_type_error():
    value = []
    value.append(value)
    with pytest.raises(TypeError, match="list cannot be encoded"):
        payload.encode(value)


@pytest.mark.parametrize("kind", [Order, Model, Plain])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sku": "A"}, "n"),
        ({"sku": "A", "n": SECRET}, "n"),
        ({"sku": "A", "n": 1, "more": SECRET}, "more"),
        ([SECRET], ""),
    ],
)
def test_typed_payload_is_validated_and_the_field_is_named(kind, fields, named):
    with pytest.raises(InvalidPayloadError) as refused:
        payload.decode(kind, json.dumps(fields).encode(), payload.JSON)

    assert named in str(refused.value)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@dataclasses.dataclass
class Paint:
    colour: Colour


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (Paint, b'{"colour": "4929-1234-5678"}', "Invalid enum value - at `$.colour`"),
        (Picky, b'{"sku": "4929-1234-5678"}', "KeyError was raised"),
        (pb.BranchCall, b'{"attempt": "4929-1234-5678"}', "cannot parse field attempt"),
        (pb.BranchCall, b'{"4929-1234-5678', "cannot parse its JSON"),
        (dict, b'{"a": "4929-1234-5678"', "truncated"),
        (dict, b'{"a":' * 50_000, "nested too deeply"),
        (Plain, b'{"a":' * 50_000, "nested too deeply"),
        (Order, b'{"a":' * 50_000, ""),
        (Model, b'{"a":' * 50_000, ""),
    ],
)
def test_refusal_has_the_location_and_no_value(kind, data, text):
    with pytest.raises(InvalidPayloadError) as refused:
        payload.decode(kind, data, payload.JSON)

    assert text in str(refused.value)
    assert SECRET not in str(refused.value)


@given(st.binary(max_size=200), st.sampled_from(["", payload.JSON, payload.PROTOBUF]))
def test_no_bytes_raise_anything_but_an_invalid_payload(data, content_type):
    for kind in (dict, bytes, Order, Model, Plain, Everything, pb.BranchCall):
        with contextlib.suppress(InvalidPayloadError):
            payload.decode(kind, data, content_type)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
        lambda items: st.lists(items) | st.dictionaries(st.text(st.characters(codec="utf-8")), items),
    )
)
def test_json_values_come_back_as_they_were(value):
    fields = {"value": value}
    assert payload.decode(dict, *payload.encode(fields)) == fields


@dataclasses.dataclass
class Numbers:
    amount: Decimal = Decimal(1)
    ratio: float = 1.0
    more: dict[str, list[Decimal]] = dataclasses.field(default_factory=dict)


class NumbersStruct(msgspec.Struct):
    amount: Decimal = Decimal(1)
    ratio: float = 1.0
    more: dict[str, list[Decimal]] = {}


class NumbersModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(allow_inf_nan=True)
    amount: Decimal = Decimal(1)
    ratio: float = 1.0
    more: dict[str, list[Decimal]] = {}
    note: str | None = None


NOT_FINITE = [
    {"amount": Decimal("NaN")},
    {"amount": Decimal("-sNaN")},
    {"amount": Decimal("-Infinity")},
    {"ratio": float("nan")},
    {"ratio": float("-inf")},
    {"more": {SECRET: [Decimal(1), Decimal("Infinity")]}},
]
NUMBER_KINDS = [dict, Numbers, NumbersStruct, NumbersModel]


@pytest.mark.parametrize("fields", NOT_FINITE)
@pytest.mark.parametrize("kind", NUMBER_KINDS)
def test_a_number_that_is_not_finite_is_not_sent(kind: type, fields: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"at (amount|ratio|more.*) is no finite number, and JSON") as caught:
        payload.encode(kind(**fields) if kind is not dict else {"inner": [fields]}["inner"][0])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"amount": "NaN"}',
        '{"amount": "\\u004eaN"}',
        '{"amount": "-sNaN"}',
        '{"amount": "inf"}',
        '{"ratio": NaN}',
        '{"ratio": "nan"}',
        '{"ratio": -Infinity}',
        '{"ratio": 1e999}',
        '{"ratio": 1' + "0" * 400 + "}",
        '{"more": {"' + SECRET + '": ["1", "Infinity"]}}',
    ],
)
@pytest.mark.parametrize("kind", NUMBER_KINDS[1:])
def test_a_number_that_is_not_finite_is_not_understood(kind: type, text: str) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        payload.decode(kind, text.encode(), payload.JSON)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", NUMBER_KINDS[1:])
def test_large_numbers_and_texts_like_numbers_are_sent(kind: type) -> None:
    fields = {"amount": Decimal("1e400"), "ratio": 1e300, "more": {"NaN": [Decimal(0)]}}
    encoded = payload.encode(kind(**fields))
    assert payload.decode(kind, *encoded) == kind(**fields)


@pytest.mark.parametrize("kind", [dict, Numbers, NumbersStruct, NumbersModel])
def test_a_missing_payload_is_called_missing(kind: type) -> None:
    with pytest.raises(InvalidPayloadError, match=f"not a {kind.__name__}: the payload is missing"):
        payload.decode(kind, *payload.encode(None))


def test_a_missing_payload_is_an_empty_message() -> None:
    assert payload.decode(struct_pb2.Struct, *payload.encode(None)) == struct_pb2.Struct()


@pytest.mark.parametrize(
    "content_type", ["application/xml", "text/plain", "application/jsonx", "json5", "a/b"]
)
@pytest.mark.parametrize("kind", [dict, Numbers, NumbersStruct, NumbersModel, struct_pb2.Struct])
def test_content_of_another_type_is_refused(kind: type, content_type: str) -> None:
    with pytest.raises(
        InvalidPayloadError, match=f"content type is {content_type}; understood are"
    ) as caught:
        payload.decode(kind, b"{}", content_type)
    assert "application/json" in str(caught.value)
    assert ("application/x-protobuf" in str(caught.value)) == (kind is struct_pb2.Struct)


def test_protobuf_is_not_json() -> None:
    with pytest.raises(InvalidPayloadError, match="content type is application/x-protobuf"):
        payload.decode(dict, b"{}", payload.PROTOBUF)


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "Application/JSON; charset=utf-8", "application/problem+json", payload.OCTETS],
)
def test_json_goes_by_several_names(content_type: str) -> None:
    assert payload.decode(dict, b'{"a":1}', content_type) == {"a": 1}


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("application/json; charset=utf-8", b'{"a":"b"}'),
        *((name, "message") for name in ("", "application/protobuf", payload.PROTOBUF, payload.OCTETS)),
    ],
)
def test_messages_go_by_several_names(content_type: str, data: bytes | str) -> None:
    expected = struct_pb2.Struct()
    expected["a"] = "b"
    content = expected.SerializeToString() if isinstance(data, str) else data
    assert payload.decode(struct_pb2.Struct, content, content_type) == expected


def test_bytes_are_of_any_type() -> None:
    assert payload.decode(bytes, b"<a/>", "application/xml") == b"<a/>"
