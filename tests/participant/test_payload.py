"""Which requests may be shared by several calls."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from google.protobuf.struct_pb2 import Struct

from tcc import Rejected
from tcc.common.v1 import common_pb2 as common
from tcc.payload import JSON, Encoded, encode, is_frozen
from tests.barrier.test_barrier import make_call

from .test_participant import Idle, _participant


class Value(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    sku: str


class Loose(pydantic.BaseModel):
    sku: str


@dataclass(frozen=True)
class FrozenRecord:
    sku: str


@dataclass
class LooseRecord:
    sku: str


@pytest.mark.parametrize("kind", [Value, FrozenRecord, bytes])
def test_what_is_declared_immutable_is_frozen(kind: type) -> None:
    assert is_frozen(kind)


@pytest.mark.parametrize("kind", [Loose, LooseRecord, dict, Struct])
def test_everything_else_is_not(kind: type) -> None:
    assert not is_frozen(kind)


class Size(pydantic.BaseModel, frozen=True):
    number: int


class Sizes(pydantic.RootModel[set[int]]): ...


@dataclass(frozen=True)
class Stock:
    sizes: frozenset[int]


class Sets(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", serialize_by_alias=True)
    flat: set[int]
    frozen: frozenset[Size]
    nested: frozenset[frozenset[int]]
    within: list[dict[str, set[int]]]
    named: set[int] = pydantic.Field(serialization_alias="called")
    rooted: Sizes
    stock: Stock
    loose: Any
    price: Decimal

    @pydantic.computed_field
    def computed(self) -> set[int]:
        return set(self.named)


def _sets(numbers: list[int]) -> Sets:
    return Sets(
        flat=set(numbers),
        frozen=frozenset(Size(number=number) for number in numbers),
        nested=frozenset([frozenset(numbers), frozenset([1])]),
        within=[{"a": set(numbers)}],
        named=set(numbers),
        rooted=Sizes(set(numbers)),
        stock=Stock(frozenset(numbers)),
        loose={"a": [frozenset(numbers)]},
        price=Decimal("1.50"),
        more=set(numbers),  # type: ignore[call-arg] # the model allows any
    )


def test_equal_models_with_sets_have_equal_bytes() -> None:
    # In a set of two, these share a place: the first one to come is iterated first.
    assert list({0, 8}) != list({8, 0})
    one, other = _sets([0, 8]), _sets([8, 0])
    assert one == other
    assert encode(one) == encode(other)
    dumped = json.loads(encode(other).data)
    assert {tuple(dumped[name]) for name in ("flat", "called", "rooted", "computed", "more")} == {(0, 8)}
    assert dumped["frozen"] == [{"number": 0}, {"number": 8}]
    assert dumped["nested"] == [[0, 8], [1]]
    assert dumped["within"] == [{"a": [0, 8]}]
    assert dumped["stock"] == {"sizes": [0, 8]}
    assert dumped["loose"] == {"a": [[0, 8]]}


def test_sets_with_one_order_are_written_as_pydantic_writes_them() -> None:
    model = _sets([7])
    assert encode(model).data == model.model_dump_json().encode()


def test_what_is_encoded_already_stays_as_it_is() -> None:
    assert encode(Encoded(b"{}", JSON)) == (b"{}", JSON)


@pytest.mark.parametrize(("kind", "shared"), [(Value, True), (Loose, False), (dict, False)])
async def test_calls_of_one_rpc_share_a_frozen_request_only(sqlite, call_participant, kind, shared) -> None:
    engine, _ = sqlite
    seen: list[object] = []

    class Looking(Idle):
        async def try_(self, branch, request, db) -> None:
            seen.append(request)
            if branch.branch_id == "no":
                raise Rejected("NO")

    caller = await call_participant(_participant(engine, Looking, kind))
    calls = [
        make_call(branch_id=name, action="act", payload=payload)
        for name, payload in [("a", b'{"sku":"x"}'), ("b", b'{"sku":"x"}'), ("no", b'{"sku":"y"}')]
    ]
    outcomes = await caller.execute(*calls)

    assert [outcome.code for outcome in outcomes] == [
        common.OUTCOME_CODE_SUCCEEDED,
        common.OUTCOME_CODE_SUCCEEDED,
        common.OUTCOME_CODE_REJECTED,
    ]
    assert len({id(request) for request in seen}) == (2 if shared else 3)
