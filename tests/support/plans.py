"""The plans that PostgreSQL makes for prepared statements."""

import pytest

from coordinator.log.connections import Connections
from coordinator.log.statements import Statement
from tests.support.log_sessions import session

# The first version with EXPLAIN (GENERIC_PLAN).
_GENERIC_PLAN_SINCE = 160_000


async def generic_plan(connections: Connections, statement: Statement) -> str:
    """Return the plan that does not depend on the values of the parameters, made in an idle session."""
    async with session(connections) as connection:
        if connection.info.server_version < _GENERIC_PLAN_SINCE:
            pytest.skip("this server cannot show the generic plan")
        cursor = await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement.sql}", prepare=False)
        return "\n".join(line for (line,) in await cursor.fetchall())
