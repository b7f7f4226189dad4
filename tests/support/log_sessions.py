"""The sessions of the log's connections, for statements that the log does not have."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection

from coordinator.log.connections import Connections


@asynccontextmanager
async def session(connections: Connections) -> AsyncIterator[AsyncConnection]:
    """Borrow the session of an idle connection, as psycopg has it."""
    connection = connections._idle[0]
    # psycopg watches the socket itself while it uses it.
    connection._loop.remove_reader(connection._socket)
    yield connection._opened
    connection._loop.add_reader(connection._socket, connection._on_readable)
