"""The options of channels and servers: both ends notice a dead peer, and accept each other's pings."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from coordinator.participant_client.channel import ParticipantAddress
from tcc._internal import server_options as server_module
from tcc._internal.channel_options import (
    Options,
    branch_call_options,
    client_options,
    keepalive_options,
    operator_options,
)
from tcc._internal.server_options import server_options

NOTICED_WITHIN_MS = 15_000
ROOT = Path(__file__).parents[2]
CHANNELS = {
    "initiator": client_options(),
    "coordinator": branch_call_options(keepalive_s=ParticipantAddress(target="x:1").keepalive_s),
    "operator": operator_options(keepalive_s=2.0),
}
# An HTTP/2 client's first bytes: the preface, and an empty SETTINGS frame.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def notices_within_ms(options: Options) -> int:
    """Return the time without data until a ping, plus the time without an answer to it."""
    chosen = dict(options)
    timeout_ms = max(chosen["grpc.keepalive_timeout_ms"], chosen["grpc.http2.ping_timeout_ms"])
    return int(chosen["grpc.keepalive_time_ms"] + timeout_ms)


@pytest.mark.parametrize("end", [*CHANNELS, "server"])
def test_every_end_notices_a_dead_connection_in_time_also_without_calls(end: str) -> None:
    options = CHANNELS.get(end, server_options(reuse_port=False))
    assert notices_within_ms(options) <= NOTICED_WITHIN_MS
    assert dict(options)["grpc.keepalive_permit_without_calls"] == 1
    assert dict(options)["grpc.http2.max_pings_without_data"] == 0


@pytest.mark.parametrize("channel", CHANNELS)
def test_servers_allow_the_pings_of_every_channel(channel: str) -> None:
    """Also if the network delays a ping by half of the interval, so that the next one follows closely."""
    least_ms = dict(server_options(reuse_port=False))["grpc.http2.min_ping_interval_without_data_ms"]
    assert dict(CHANNELS[channel])["grpc.keepalive_time_ms"] >= 2 * least_ms


@pytest.mark.parametrize("channel", CHANNELS)
def test_no_channel_uses_a_proxy_of_the_environment(channel: str) -> None:
    assert dict(CHANNELS[channel])["grpc.enable_http_proxy"] == 0


def test_an_option_of_the_caller_replaces_the_clients_own() -> None:
    """Of an option that is given twice, gRPC uses the first value."""
    options = client_options((("grpc.keepalive_time_ms", 60_000), ("grpc.use_local_subchannel_pool", 1)))
    assert [value for name, value in options if name == "grpc.keepalive_time_ms"] == [60_000]
    assert ("grpc.use_local_subchannel_pool", 1) in options


async def test_a_server_ends_the_connection_of_a_client_that_answers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "KEEPALIVE_S", 0.4)
    server = grpc.aio.server(options=server_options(reuse_port=False))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_HELLO)
    async with asyncio.timeout(60):
        await reader.read()  # until the end of the connection
    writer.close()
    await server.stop(None)


async def test_a_server_lets_an_idle_client_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of gRPC's defaults closes the connection at the fourth ping."""
    monkeypatch.setattr(server_module, "_PING_EVERY_MIN_MS", 0)
    server = grpc.aio.server(options=server_options(reuse_port=False))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ping = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8)
    pong = bytes([0, 0, 8, 6, 1, 0, 0, 0, 0]) + bytes(8)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_HELLO)
    async with asyncio.timeout(60):
        for _ in range(6):
            writer.write(ping)
            await reader.readuntil(pong)
    writer.close()
    await server.stop(None)


# --- one place for options ---------------------------------------------------------


def product_files() -> list[Path]:
    roots = ("coordinator", "tcc", "tccctl", "participants", "bench")
    return [path for root in roots for path in (ROOT / root).rglob("*.py") if "_pb2" not in path.name]


def openings(source: str) -> Iterator[str]:
    """Yield the text of each call that opens a channel or makes a server."""
    for opening in re.finditer(r"\bgrpc(\.aio)?\.(insecure_channel|secure_channel|server)\(", source):
        depth, end = 1, opening.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        yield source[opening.start() : end]


def test_every_channel_and_server_of_the_product_has_options() -> None:
    examples_for_users = ROOT / "tcc/context.py"
    without = [
        f"{path.relative_to(ROOT)}: {call}"
        for path in product_files()
        if path != examples_for_users
        for call in openings(path.read_text())
        if "options" not in call
    ]
    assert without == []


def test_keepalive_and_reconnection_are_set_in_one_place() -> None:
    subjects = ("grpc.keepalive", "grpc.http2.", "reconnect_backoff", "grpc.enable_http_proxy")
    ours = {ROOT / "tcc/_internal/channel_options.py", ROOT / "tcc/_internal/server_options.py"}
    elsewhere = [
        path.relative_to(ROOT)
        for path in product_files()
        if path not in ours and any(subject in path.read_text() for subject in subjects)
    ]
    assert elsewhere == []


def test_half_of_the_time_is_for_the_ping_and_half_for_its_answer() -> None:
    chosen = dict(keepalive_options(3.0))
    assert chosen["grpc.keepalive_time_ms"] == chosen["grpc.keepalive_timeout_ms"] == 1_500
