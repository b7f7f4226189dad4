"""The proxy that proofs put between two processes: each kind of bad weather."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proof.proxy import Proxy, Streams, proxied_address


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Before a server that answers each line with itself."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with proxied_address(f"{host}:{port}") as proxy:
        yield proxy
    server.close()


@pytest.fixture
async def streams(proxy: Proxy) -> AsyncIterator[Streams]:
    host, _, port = proxy.where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await said(reader, writer, b"hello\n") == b"hello\n"
    yield reader, writer
    writer.close()


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes) -> bytes:
    writer.write(line)
    return await reader.readline()


async def test_what_is_held_arrives_when_the_weather_is_fair(proxy: Proxy, streams: Streams) -> None:
    for conditions in (proxy.there, proxy.back):
        conditions.holds = True
        answer = asyncio.create_task(said(*streams, b"held\n"))
        done, _ = await asyncio.wait((answer,), timeout=0.1)
        assert not done
        proxy.heal()
        assert await answer == b"held\n"


async def test_what_is_swallowed_never_arrives_and_ends_the_connection(
    proxy: Proxy, streams: Streams
) -> None:
    proxy.back.swallows = True
    answer = asyncio.create_task(said(*streams, b"lost\n"))
    done, _ = await asyncio.wait((answer,), timeout=0.1)
    assert not done
    proxy.heal()
    assert await answer == b""


async def test_a_cut_ends_connections_and_new_ones_are_welcome(proxy: Proxy, streams: Streams) -> None:
    assert proxy.cut() == 1
    assert await streams[0].read() == b""
    host, _, port = proxy.where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await said(reader, writer, b"again\n") == b"again\n"
    writer.close()


async def test_a_refused_client_finds_the_connection_closed(proxy: Proxy) -> None:
    proxy.refuses = True
    host, _, port = proxy.where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await reader.read() == b""
    writer.close()


async def test_a_delay_holds_back_and_loses_nothing(proxy: Proxy, streams: Streams) -> None:
    proxy.there.delay_s = 0.05
    started = asyncio.get_running_loop().time()
    assert await said(*streams, b"slow\n") == b"slow\n"
    assert asyncio.get_running_loop().time() - started >= 0.05
