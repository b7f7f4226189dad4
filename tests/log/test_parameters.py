"""Parameters are sent as psycopg sends them, and arrive as they were."""

import math
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings, strategies as st
from psycopg.adapt import PyFormat, Transformer
from sqlalchemy import BigInteger, Boolean, DateTime, Double, Integer, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from coordinator.log.connections import Connections
from coordinator.log.parameters import parameter_type
from coordinator.log.statements import Statement

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
# Without the first and the last days, which other time zones put into other years.
FIRST, LAST = date(1, 1, 2), date(9999, 12, 30)
MOMENTS = st.builds(datetime.combine, st.dates(FIRST, LAST), st.times(timezones=st.just(UTC)))
NUMBERS = st.floats(allow_nan=False)
# A type, the values that it takes, and its name in PostgreSQL.
KINDS: list[tuple[TypeEngine[Any], st.SearchStrategy[Any], str]] = [
    (Boolean(), st.booleans(), "boolean"),
    (LargeBinary(), st.binary(), "bytea"),
    (BigInteger(), st.integers(-(2**63), 2**63 - 1), "bigint"),
    (SmallInteger(), st.integers(-(2**15), 2**15 - 1), "smallint"),
    (Text(), TEXTS, "text"),
    (Double(), NUMBERS, "double precision"),
    (DateTime(timezone=True), MOMENTS, "timestamptz"),
]
NAMES = [name for *_, name in KINDS]


@pytest.mark.parametrize(("kind", "values", "name"), KINDS, ids=NAMES)
@settings(max_examples=25)
@given(data=st.data())
def test_values_are_encoded_as_by_psycopg(
    kind: TypeEngine[Any], values: st.SearchStrategy[Any], name: str, data: st.DataObject
) -> None:
    value = data.draw(values)
    sent = parameter_type(kind)
    assert sent.oid == psycopg.adapters.types[name].oid
    transformer = Transformer()
    if isinstance(value, int) and not isinstance(value, bool):
        # psycopg chooses the size by the value: a wrapper names it.
        wrapper = psycopg.types.numeric.Int8 if name == "bigint" else psycopg.types.numeric.Int2
        value = wrapper(value)
    [expected] = transformer.dump_sequence([value], [PyFormat.BINARY])
    assert expected is not None
    assert sent.encode(value) == bytes(expected)


@pytest.mark.parametrize(("kind", "values", "name"), KINDS, ids=NAMES)
@settings(max_examples=25)
@given(data=st.data())
def test_arrays_are_read_back_as_they_were(
    kind: TypeEngine[Any], values: st.SearchStrategy[Any], name: str, data: st.DataObject
) -> None:
    array = data.draw(st.lists(st.none() | values, max_size=5))
    sent = parameter_type(ARRAY(kind))
    assert sent.oid == psycopg.adapters.types[name].array_oid
    loader = Transformer().get_loader(sent.oid, psycopg.pq.Format.BINARY)
    assert loader.load(sent.encode(array)) == array


async def test_the_server_takes_every_type(log_url: str) -> None:
    given: list[Any] = [
        True,
        b"\0\xff",
        -(2**63),
        2**15 - 1,
        "Ä\n",
        math.pi,
        datetime(2026, 11, 28, tzinfo=UTC),
    ]
    kinds = [kind for kind, *_ in KINDS]
    types = [parameter_type(each) for kind in kinds for each in (kind, ARRAY(kind), ARRAY(kind))]
    casts = ", ".join(
        [
            f"${3 * i + 1}::{name}, ${3 * i + 2}::{name}[], ${3 * i + 3}::{name}[]"
            for i, name in enumerate(NAMES)
        ]
    )
    parameters = [each for value in given for each in (value, [value, None], [])]
    connections = Connections(log_url, most=1)
    statement = Statement(
        name="all",
        sql=f"SELECT {casts}",
        parameters=tuple(map(str, range(len(types)))),
        types=tuple(types),
    )
    result = await connections.execute(statement, {str(i): value for i, value in enumerate(parameters)})
    assert list(result.rows[0]) == parameters
    await connections.close()


def test_a_type_that_is_not_known_is_refused_when_a_statement_is_compiled() -> None:
    with pytest.raises(KeyError):
        parameter_type(Integer())
