"""One connection: what is sent, what counts as an answer, and what the server keeps."""

import asyncio
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from sqlalchemy import LargeBinary

from coordinator.core.errors import LogRejected, LogUnavailable
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log import connection
from coordinator.log.connections import Connections
from coordinator.log.parameters import TEXT, parameter_type
from coordinator.log.statements import Statement
from proof.proxy import SOCKET_NAME
from tests.log.transactions import sql

ECHO = Statement(
    name="echo", sql="SELECT $1::BYTEA", parameters=("value",), types=(parameter_type(LargeBinary()),)
)
INSERT = Statement(
    name="insert", sql="INSERT INTO public.late VALUES ($1)", parameters=("id",), types=(TEXT,)
)

ENDED_WITHIN_S = 30
# A message of PostgreSQL: its kind, its length, and a text of one field.
NOTICE = b"N\0\0\0\x0bMended\0\0"


@pytest.fixture
async def connections(log_url: str) -> AsyncIterator[Connections]:
    connections = Connections(log_url, most=1)
    yield connections
    await connections.close()


async def test_a_statement_larger_than_the_socket_takes_is_sent_in_pieces(connections: Connections) -> None:
    value = bytes(range(256)) * 2**16
    assert (await connections.execute(ECHO, {"value": value})).rows == [(value,)]


async def test_what_fails_at_the_commit_has_failed(connections: Connections, log_url: str) -> None:
    """The server reports the success of the statement first."""
    await sql(log_url, "CREATE TABLE public.early (id text PRIMARY KEY)")
    await sql(
        log_url,
        "CREATE TABLE public.late (id text REFERENCES public.early DEFERRABLE INITIALLY DEFERRED)",
    )
    with pytest.raises(LogRejected):
        await connections.execute(INSERT, {"id": "a"})
    await sql(log_url, "INSERT INTO public.early VALUES ('a')")
    assert (await connections.execute(INSERT, {"id": "a"})).count == 1


@pytest.mark.parametrize("together", [False, True])
async def test_a_success_without_the_end_of_the_commit_is_none(
    postgres: EmbeddedPostgres, log_url: str, *, together: bool
) -> None:
    """The connection ends between the two, which the server sends together."""
    await sql(log_url, "CREATE TABLE public.late (id text)")
    success = b"INSERT 0 1\0"

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            before, found, _ = data.partition(success)
            writer.write(before + found)
            if found:
                break
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(
            str(postgres._socket_dir / SOCKET_NAME)
        )
        await asyncio.gather(forward(reader, server_writer), forward(server_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections(f"{log_url.partition('?')[0]}?host=127.0.0.1&port={port}", most=1)
    values = {"id": "a"}
    insert = (
        connections.execute_together([(INSERT, values)]) if together else connections.execute(INSERT, values)
    )
    with pytest.raises(LogUnavailable):
        await insert
    await connections.close()
    server.close()


async def test_statements_together_take_effect_or_none_does(connections: Connections, log_url: str) -> None:
    await sql(log_url, "CREATE TABLE public.late (id text PRIMARY KEY)")
    with pytest.raises(LogRejected, match="23505"):
        await connections.execute_together([(INSERT, {"id": each}) for each in ("a", "b", "a", "c")])
    results = await connections.execute_together(
        [(INSERT, {"id": "a"}), (ECHO, {"value": b"1"}), (INSERT, {"id": "b"})]
    )
    assert [(result.rows, result.count) for result in results] == [([], 1), ([(b"1",)], 1), ([], 1)]
    # A statement of its own, on the same connection.
    assert (await connections.execute(ECHO, {"value": b"2"})).rows == [(b"2",)]


async def test_what_fails_together_at_the_commit_has_failed(connections: Connections, log_url: str) -> None:
    await sql(log_url, "CREATE TABLE public.early (id text PRIMARY KEY)")
    await sql(
        log_url,
        "CREATE TABLE public.late (id text REFERENCES public.early DEFERRABLE INITIALLY DEFERRED)",
    )
    with pytest.raises(LogRejected, match="23503"):
        await connections.execute_together([(INSERT, {"id": "a"}), (ECHO, {"value": b"1"})])
    await sql(log_url, "INSERT INTO public.early VALUES ('a')")
    (result,) = await connections.execute_together([(INSERT, {"id": "a"})])
    assert result.count == 1


async def test_statements_together_larger_than_the_socket_takes(connections: Connections) -> None:
    values = [bytes([number]) * 2**22 for number in range(8)]
    results = await connections.execute_together([(ECHO, {"value": value}) for value in values])
    assert [result.rows for result in results] == [[(value,)] for value in values]


async def test_statements_together_do_not_wait_long_for_a_lock(
    connections: Connections, log_url: str
) -> None:
    await sql(log_url, "CREATE TABLE public.late (id text)")
    await connections.execute(INSERT, {"id": "a"})
    async with await psycopg.AsyncConnection.connect(log_url) as rival:
        await rival.execute("LOCK TABLE public.late IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LogRejected, match="55P03"):
            await connections.execute_together([(ECHO, {"value": b"1"}), (INSERT, {"id": "b"})])
    # One alone waits for it.
    kept = Statement(name="kept", sql="SELECT current_setting('lock_timeout')")
    assert (await connections.execute(kept, {})).rows == [("0",)]


async def test_statements_that_are_prepared_together_are_kept_together(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PREPARED_MAX", 5)
    numbered = [Statement(name="number", sql=f"SELECT {number}") for number in range(8)]
    for some in (numbered[:3], numbered[2:6], numbered[4:8], numbered[:4]):
        results = await connections.execute_together([(statement, {}) for statement in some])
        assert [result.rows for result in results] == [[(numbered.index(each),)] for each in some]


async def test_the_server_keeps_a_bounded_number_of_statements(
    connections: Connections, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PREPARED_MAX", 100)
    numbers = range(250)
    for number in numbers:
        statement = Statement(name="number", sql=f"SELECT {number}")
        assert (await connections.execute(statement, {})).rows == [(number,)]
    kept = Statement(name="kept", sql="SELECT count(*)::int FROM pg_prepared_statements")
    ((count,),) = (await connections.execute(kept, {})).rows
    assert 0 < count <= 100


async def test_the_writes_of_many_cells_stay_prepared(log_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_PREPARED_MAX", 20)
    connections = Connections(log_url, most=1, cells=30)
    numbered = [Statement(name="write", sql=f"SELECT {number}") for number in range(3 * 30)]
    for some in (numbered[:30], numbered[30:60], numbered[60:], numbered[:30]):
        await connections.execute_together([(statement, {}) for statement in some])
    kept = Statement(name="kept", sql="SELECT count(*)::int FROM pg_prepared_statements")
    ((count,),) = (await connections.execute(kept, {})).rows
    # All, the two around them, and the one that counts.
    assert count >= 3 * 30 + 1
    await connections.close()


async def test_a_statement_that_the_session_lost_is_prepared_in_a_new_one(
    connections: Connections,
) -> None:
    await connections.execute(ECHO, {"value": b"1"})
    await connections.execute(Statement(name="discard", sql="DISCARD ALL"), {})
    with pytest.raises(LogUnavailable, match="26000"):
        await connections.execute(ECHO, {"value": b"2"})
    assert (await connections.execute(ECHO, {"value": b"3"})).rows == [(b"3",)]


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("08006", "connection to the remote node failed"),
        ("XX000", "failure on connection marked as essential: worker:5432"),
        ("XX000", "could not commit transaction for shard 102008 on at least one active node"),
    ],
)
async def test_a_session_goes_on_when_a_node_behind_the_server_is_lost(
    connections: Connections, sqlstate: str, message: str
) -> None:
    """As Citus reports it: the outcome is unknown, and all other cells need the connection."""
    process = Statement(name="process", sql="SELECT pg_backend_pid()")
    before = (await connections.execute(process, {})).rows
    lost = f"DO $$ BEGIN RAISE '{message}' USING ERRCODE = '{sqlstate}'; END $$"
    with pytest.raises(LogUnavailable, match=sqlstate):
        await connections.execute(Statement(name="lost", sql=lost), {})
    assert (await connections.execute(process, {})).rows == before


async def test_a_missing_table_of_one_cell_ends_no_connection(connections: Connections) -> None:
    """Other cells work over it, and would have to prepare their statements again."""
    pid = Statement(name="pid", sql="SELECT pg_backend_pid()")
    before = (await connections.execute(pid, {})).rows
    missing = Statement(name="missing", sql="SELECT 1 FROM tcc_9.transactions")
    with pytest.raises(LogUnavailable, match="42P01"):
        await connections.execute(missing, {})
    with pytest.raises(LogUnavailable, match="42P01"):
        await connections.execute_together([(pid, {}), (missing, {})])
    assert (await connections.execute(pid, {})).rows == before


class EndingServer:
    """What a client sees of a PostgreSQL that ends in the middle: it forwards until `end` is set.

    It runs in a thread, so that it can act while the client's event loop does not.
    """

    def __init__(self, directory: Path, postgres_socket: Path) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(directory / SOCKET_NAME))
        self._listening.listen()
        self._postgres_socket = postgres_socket
        # What it does to the next message of the client, if not to forward it.
        self.end: Callable[[socket.socket, socket.socket], None] | None = None
        self.may_end = threading.Event()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listening.accept()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._postgres_socket))
            while self._forward(client, server):
                pass
        # All later connections are refused.
        self._listening.close()
        self.ended.set()

    def _forward(self, client: socket.socket, server: socket.socket) -> bool:
        """Forward what there is in one direction. Return False at the end."""
        [one, *_], _, _ = select.select([client, server], [], [])
        if one is client and self.end is not None:
            self.may_end.wait()
            self.end(client, server)
            return False
        data = one.recv(2**16)
        (server if one is client else client).sendall(data)
        return bool(data)

    def close(self) -> None:
        self._thread.join()


def ends_with_a_notice(client: socket.socket, _server: socket.socket) -> None:
    client.sendall(NOTICE)


def ends_after_the_answer(client: socket.socket, server: socket.socket) -> None:
    server.sendall(client.recv(2**16, socket.MSG_PEEK))
    client.sendall(server.recv(2**16))


def ends_without_a_word(_client: socket.socket, _server: socket.socket) -> None:
    pass


UNPREPARED = Statement(name="unprepared", sql="SELECT 1")


@pytest.mark.parametrize(
    ("end", "statement", "values"),
    [
        (ends_with_a_notice, UNPREPARED, {}),
        (ends_after_the_answer, UNPREPARED, {}),
        # A part of it waits to be sent.
        (ends_without_a_word, ECHO, {"value": bytes(2**24)}),
    ],
)
async def test_a_statement_fails_at_once_if_its_server_ends(
    postgres: EmbeddedPostgres,
    log_url: str,
    end: Callable[[socket.socket, socket.socket], None],
    statement: Statement,
    values: dict[str, object],
) -> None:
    """`end`: what the server does before, after the first message of the statement.

    It leaves the message unread, so that the socket reports an error beside what is to be read.
    """
    bugs: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context))
    with TemporaryDirectory(prefix="tcc-ending-") as directory:
        server = EndingServer(Path(directory), postgres._socket_dir / SOCKET_NAME)
        connections = Connections(f"{log_url.partition('?')[0]}?host={directory}", most=1)
        await connections.execute(ECHO, {"value": b"1"})
        server.end = end
        failing = asyncio.create_task(connections.execute(statement, values))
        await asyncio.sleep(0)
        # Its end comes at once, with all that the server has sent.
        server.may_end.set()
        assert server.ended.wait(ENDED_WITHIN_S)
        with pytest.raises(LogUnavailable):
            await asyncio.wait_for(failing, ENDED_WITHIN_S)
        await connections.close()
        server.close()
    assert not bugs
