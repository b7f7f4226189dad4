"""Connections that end while they are idle: they are replaced, and no caller notices."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from psycopg.conninfo import conninfo_to_dict

from coordinator.core.errors import LogUnavailable
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log import migration, servers
from coordinator.log.connections import Connections
from coordinator.log.diagnosis import examine
from coordinator.log.operator_store import OperatorPool, PostgresOperatorLog
from coordinator.log.statements import GET
from coordinator.log.store import LogPool, PostgresLog
from coordinator.ports.log import ListFilter
from proof.proxy import SOCKET_NAME, Proxy, Streams, proxied
from tests.log.transactions import begun, insert, sql

NOTICED_WITHIN_S = 15
TERMINATE_OTHERS = """
    SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
async def proxy(postgres: EmbeddedPostgres, log_url: str) -> AsyncIterator[Proxy]:
    async with proxied(log_url, postgres._socket_dir) as proxy:
        yield proxy


@pytest.mark.parametrize("ended_by", ["the server", "the network"])
async def test_connections_that_ended_while_idle_are_replaced(
    proxy: Proxy, log_url: str, ended_by: str
) -> None:
    """Of every kind: for writes, heartbeats, lists and operators. Also if several of one kind ended."""
    log = PostgresLog(LogPool(proxy.where, connections=2), owner="ours", name="host:1")
    operators = PostgresOperatorLog(OperatorPool(proxy.where), owner="ours")
    for round_ in ("before", "after"):
        await log.coordinator_heartbeat(lease_s=60)
        await asyncio.gather(insert(log, begun(f"a-{round_}")), insert(log, begun(f"b-{round_}")))
        page, _ = await log.transaction_list(ListFilter(), after=None, limit=10)
        await operators.coordinator_list()
        if round_ == "before":
            assert len(page) == 2
            ended = len(await sql(log_url, TERMINATE_OTHERS)) if ended_by == "the server" else proxy.cut()
            assert ended == 5
            await proxy.until_unused()
    assert len(page) == 4
    await log.close()
    await operators.close()


async def test_a_silent_database_is_unavailable_to_doctor_and_migrations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "CONNECT_TIMEOUT_S", 1)
    stop = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stop.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    url = f"postgresql://postgres@127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    calls = [asyncio.create_task(asyncio.to_thread(ask, url)) for ask in (examine, migration.migrate)]
    done, waiting = await asyncio.wait(calls, timeout=20)
    stop.set()
    assert not waiting
    assert {type(call.exception()) for call in done} == {LogUnavailable}
    server.close()


def test_the_urls_settings_about_dead_peers_are_kept() -> None:
    [server] = servers.servers("postgresql://tcc@db/log?tcp_user_timeout=1000&keepalives=0")
    parameters = conninfo_to_dict(server.conninfo)
    assert (parameters["tcp_user_timeout"], parameters["keepalives"]) == ("1000", "0")


async def test_the_kernel_notices_a_dead_server(postgres: EmbeddedPostgres, log_url: str) -> None:
    async def reach() -> Streams:
        return await asyncio.open_unix_connection(str(postgres._socket_dir / SOCKET_NAME))

    server = await asyncio.start_server(Proxy(reach, "").connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections(f"{log_url.partition('?')[0]}?host=127.0.0.1&port={port}", most=1)
    await connections.execute(GET, {"gids": []})
    with socket.socket(fileno=connections._idle[0]._socket) as theirs:

        def seconds(option: int) -> int:
            return theirs.getsockopt(socket.IPPROTO_TCP, option)

        assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle_s = seconds(socket.TCP_KEEPIDLE)
        idle_s += seconds(socket.TCP_KEEPINTVL) * seconds(socket.TCP_KEEPCNT)
        assert idle_s <= NOTICED_WITHIN_S
        assert 0 < seconds(socket.TCP_USER_TIMEOUT) <= NOTICED_WITHIN_S * 1_000
        theirs.detach()
    await connections.close()
    server.close()
