"""Values that are written as an array are read back from PostgreSQL unchanged."""

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tcc._internal.arrays import bytes_array, plain_array, text_array

AWKWARD = [
    "",
    " ",
    "NULL",
    "null",
    "{}",
    "a,b",
    '"',
    '""',
    "\\",
    '\\"',
    'a"\\',
    "'",
    "\n\t",
    "é",
    "汉",
    "🛒",
    None,
]


async def read_back(engine: AsyncEngine, kind: str, literal: str) -> list[object]:
    async with engine.connect() as db:
        wanted = text(f"SELECT element FROM unnest(CAST(CAST(:array AS text) AS {kind}[])) AS element")
        return list((await db.execute(wanted, {"array": literal})).scalars())


async def test_awkward_texts_survive(postgresql) -> None:
    engine, _ = postgresql
    texts = [value for value in AWKWARD if value is not None]
    assert await read_back(engine, "text", text_array(AWKWARD)) == AWKWARD
    assert await read_back(engine, "text", text_array(texts)) == texts
    for value in AWKWARD:
        assert await read_back(engine, "text", text_array([value])) == [value]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.none()))
async def test_any_texts_survive(postgresql, values: list[str | None]) -> None:
    engine, _ = postgresql
    assert await read_back(engine, "text", text_array(values)) == values


@pytest.mark.parametrize("values", [["a\0b"], ["a", "b\0c"], [None, "\0"]])
def test_a_nul_is_refused_and_splits_nothing(values: list[str | None]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        text_array(values)


async def test_numbers_uuids_and_bytes_survive(postgresql) -> None:
    engine, _ = postgresql
    numbers = [0, -1, 2**63 - 1, -(2**63)]
    uuids = [UUID(int=0), UUID(int=2**128 - 1)]
    data = [b"", b"\0", b"\\", bytes(range(256))]
    assert await read_back(engine, "bigint", plain_array(numbers)) == numbers
    assert await read_back(engine, "uuid", plain_array(uuids)) == uuids
    assert await read_back(engine, "bytea", bytes_array(data)) == data


async def test_an_empty_array_is_empty(postgresql) -> None:
    engine, _ = postgresql
    assert await read_back(engine, "text", text_array([])) == []
    assert await read_back(engine, "bigint", plain_array([])) == []
    assert await read_back(engine, "bytea", bytes_array([])) == []
