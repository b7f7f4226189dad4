"""The database servers that the log's URL names, and which of them is the primary.

A URL may name several (libpq's multi-host form). One of them is the primary; the others are
standbys, or are down. After a failover the former primary may come back, and may accept writes
again: a second history, which knows nothing of what was decided since. PostgreSQL counts
histories by *timelines*: each promotion begins a higher one. So the primary is the server that accepts
writes on the highest timeline that this process has seen, and no other is ever used.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# Whatever PGCLIENTENCODING or the role set.
CLIENT_ENCODING = "UTF8"
# A connection that dies silently is noticed within 15 s: while it is idle, by the kernel's probes
# (5 s + 3 * 3 s without an answer); while a statement is being sent, by its missing acknowledgement.
KEEPALIVE = {
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
CONNECT_TIMEOUT_S = 5
# With several servers one that hangs must not keep the next from being asked.
_CONNECT_TIMEOUT_OF_SEVERAL_S = 2
_OPTIONS: dict[str, Any] = {"autocommit": True, "client_encoding": CLIENT_ENCODING, "prepare_threshold": None}
# A standby has no place to write to, and so no timeline of its own.
_PLACE = """
    SELECT (pg_control_system()).system_identifier,
           CASE WHEN pg_is_in_recovery() THEN 0
                ELSE CAST(CAST('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8) AS bit(32)) AS integer)
           END"""


class ServerRefusedError(psycopg.OperationalError):
    """A server answers, but is not the primary of the log."""


class Place(Struct, frozen=True):
    """Where in the histories of PostgreSQL a server writes."""

    # Of the cluster: set by initdb, and the same in the copies that follow it.
    system_identifier: int
    # 0: it is a standby.
    timeline: int


class Server(Struct, frozen=True):
    """One server of a URL."""

    # HOST:PORT, for people.
    name: str
    conninfo: str


class History:
    """What this process knows of the log's server. All of its connections there share one."""

    def __init__(self) -> None:
        # The latest place where it was seen.
        self.latest: Place | None = None
        # The server at that place.
        self.primary: Server | None = None
        # A cluster of machines, each with some of the cells (Citus).
        self.is_distributed = False

    def check(self, server: Server, place: Place) -> None:
        """Record a server's place.

        Raises:
            ServerRefusedError: the server must not be used.
        """
        if not place.timeline:
            raise _standby(server)
        latest = self.latest
        if latest is not None and place.system_identifier != latest.system_identifier:
            raise ServerRefusedError(
                f"{server.name} is another database cluster than the log's (system identifier "
                f"{place.system_identifier}, not {latest.system_identifier}): if the log was moved there, "
                "restart tccd"
            )
        if latest is not None and place.timeline < latest.timeline:
            raise ServerRefusedError(
                f"{server.name} is a former primary (timeline {place.timeline}, but the log is on timeline "
                f"{latest.timeline}): stop it, and make it a standby with pg_rewind"
            )
        self.latest = place
        self.primary = server

    def is_over(self, place: Place) -> bool:
        """Return whether a connection at `place` is one to a former primary."""
        return self.latest != place


def servers(url: str) -> Sequence[Server]:
    """Return the servers of a URL in its order. Raises psycopg.ProgrammingError for an invalid one."""
    settings = conninfo_to_dict(libpq_url(url))
    hosts = _list(settings, "host") or _list(settings, "hostaddr") or [""]
    addresses = _list(settings, "hostaddr") or [""] * len(hosts)
    ports = _list(settings, "port") or [""]
    if len(addresses) != len(hosts) or len(ports) not in {1, len(hosts)}:
        raise psycopg.ProgrammingError(
            f"{len(hosts)} hosts with {len(addresses)} addresses and {len(ports)} ports"
        )
    timeout_s = CONNECT_TIMEOUT_S if len(hosts) == 1 else _CONNECT_TIMEOUT_OF_SEVERAL_S
    shared: dict[str, Any] = KEEPALIVE | {"connect_timeout": timeout_s} | settings
    shared.pop("target_session_attrs", None)  # it is always the primary
    return [
        Server(
            name=f"{host or address or 'localhost'}:{port or '5432'}",
            conninfo=make_conninfo(
                **shared | {"host": host or None, "hostaddr": address or None, "port": port or None}
            ),
        )
        for host, address, port in zip(hosts, addresses, ports * (len(hosts) // len(ports)), strict=True)
    ]


def _list(settings: Mapping[str, object], name: str) -> list[str]:
    value = settings.get(name)
    return str(value).split(",") if value else []


def libpq_url(url: str) -> str:
    """Return the URL without SQLAlchemy's driver name."""
    return re.sub(r"^postgresql\+\w+:", "postgresql:", url)


def connect(url: str) -> psycopg.Connection:
    """Return a connection to the primary among the servers of `url`. Block.

    It is in autocommit mode and prepares no statements.

    Raises:
        psycopg.Error: none of them is the primary. With several, the text says what each answered.
    """
    failures: list[tuple[Server, psycopg.Error]] = []
    for server in servers(url):
        try:
            connection, place = _open(server)
        except psycopg.Error as error:
            failures.append((server, error))
            continue
        if place.timeline:
            return connection
        connection.close()
        failures.append((server, _standby(server)))
    raise _joined(failures)


async def connect_async(known: Sequence[Server], history: History) -> tuple[AsyncConnection, Place]:
    """Return a connection to the primary among `known`, and its place.

    It is in autocommit mode and prepares no statements.

    Raises:
        psycopg.Error: see `connect`.
    """
    failures: list[tuple[Server, psycopg.Error]] = []
    # The last known primary first: another one may hang.
    for server in sorted(known, key=lambda server: server != history.primary):
        try:
            return await _open_async(server, history)
        except psycopg.Error as error:
            failures.append((server, error))
    raise _joined(failures)


async def look_for_promoted(known: Sequence[Server], history: History) -> None:
    """Ask all servers but the primary whether one of them was promoted. `history` records it."""
    await asyncio.gather(*(_look(server, history) for server in known if server != history.primary))


async def _look(server: Server, history: History) -> None:
    with contextlib.suppress(psycopg.Error):  # it is down, or no primary: as it should be
        connection, _ = await _open_async(server, history)
        await connection.close()


async def _open_async(server: Server, history: History) -> tuple[AsyncConnection, Place]:
    connection = await AsyncConnection.connect(server.conninfo, **_OPTIONS)
    try:
        place = _place(await (await connection.execute(_PLACE)).fetchone())
        history.check(server, place)
    except BaseException:
        await connection.close()
        raise
    return connection, place


def check_one_primary(url: str) -> None:
    """Raise ServerRefusedError if two servers of `url` accept writes. Servers that are down do not matter."""
    primaries: list[tuple[int, str]] = []
    several = servers(url)
    if len(several) == 1:
        return
    for server in several:
        try:
            connection, place = _open(server)
        except psycopg.Error:
            continue
        connection.close()
        if place.timeline:
            primaries.append((place.timeline, server.name))
    if len(primaries) > 1:
        found = ", ".join(f"{name} (timeline {timeline})" for timeline, name in sorted(primaries))
        raise ServerRefusedError(
            f"more than one server accepts writes: {found}. Only one can hold the log: stop those that are "
            "former primaries, and make them standbys with pg_rewind"
        )


def _open(server: Server) -> tuple[psycopg.Connection, Place]:
    connection = psycopg.connect(server.conninfo, **_OPTIONS)
    try:
        return connection, _place(connection.execute(_PLACE).fetchone())
    except BaseException:
        connection.close()
        raise


def _standby(server: Server) -> ServerRefusedError:
    return ServerRefusedError(f"{server.name} is a standby")


def _place(row: tuple[Any, ...] | None) -> Place:
    assert row is not None, "this query always has a row"
    return Place(*row)


def _joined(failures: Sequence[tuple[Server, psycopg.Error]]) -> psycopg.Error:
    if len(failures) == 1:
        return failures[0][1]
    answers = "; ".join(f"{server.name}: {' '.join(str(error).split())}" for server, error in failures)
    return psycopg.OperationalError(f"none of the servers is the primary: {answers}")


def shut_down(connection: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    """End a connection at its socket, so that whatever waits for an answer on it fails."""
    if connection.closed:
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as theirs, contextlib.suppress(OSError):
        theirs.shutdown(socket.SHUT_RDWR)  # the kernel may have closed it already
