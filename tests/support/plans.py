"""The plans that PostgreSQL makes for prepared statements."""

import re
from itertools import count

import pytest
from psycopg import AsyncConnection

from coordinator.log.statements import Statement

# The first version with EXPLAIN (GENERIC_PLAN).
_GENERIC_PLAN_SINCE = 160_000


async def generic_plan(connection: AsyncConnection, statement: Statement) -> str:
    """Return the plan that does not depend on the values of the parameters."""
    if connection.info.server_version < _GENERIC_PLAN_SINCE:
        pytest.skip("this server cannot show the generic plan")
    numbers = count(1)
    numbered = re.sub("%b", lambda _: f"${next(numbers)}", statement.sql)
    cursor = await connection.execute(f"EXPLAIN (GENERIC_PLAN) {numbered}", prepare=False)
    return "\n".join(line for (line,) in await cursor.fetchall())
