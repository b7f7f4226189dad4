"""Which requests may be shared by several calls."""

from dataclasses import dataclass

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
