"""The connections to participants: dead ones are noticed, new addresses are found, proxies are ignored."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from coordinator.core.model import BranchCall, BranchSpec, CallResult, Operation, OutcomeCode
from coordinator.participant_client import client as participant_client
from coordinator.participant_client.channel import ParticipantAddress, is_dns_name
from coordinator.participant_client.client import ParticipantClient
from proof.proxy import Proxy, proxied_address
from tcc.participant.v1 import participant_pb2 as pb
from tests.support.branch_results import branch_results
from tests.support.name_server import naming
from tests.support.scripted_participant import ScriptedParticipant, serving

PATIENCE_S = 60
CALL = BranchCall(
    gid="g",
    index=0,
    operation=Operation.TRY,
    spec=BranchSpec(branch_id="1", participant="stock", action="reserve"),
    expires_at=4_000_000_000.0,
)
SUCCEEDED = CallResult(code=OutcomeCode.SUCCEEDED)


class Stock(ScriptedParticipant):
    """A participant that notes from where it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: set[str] = set()

    async def TryBranch(self, request: pb.TryBranchRequest, context: grpc.aio.ServicerContext):  # noqa: N802
        self.peers.add(context.peer())
        return await super().TryBranch(request, context)


@asynccontextmanager
async def calling(
    address: ParticipantAddress, *, renew_every_s: float = 30.0
) -> AsyncIterator[ParticipantClient]:
    client = ParticipantClient({"stock": address}, result_bytes_max=100, renew_every_s=renew_every_s)
    try:
        yield client
    finally:
        await client.close()


async def result(client: ParticipantClient) -> CallResult:
    """Return the result of one call."""
    ((_, outcome),) = await branch_results(client, "stock", [CALL])
    return outcome


# --- dead connections -----------------------------------------------------------


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with serving(Stock()) as address, proxied_address(address) as proxy:
        yield proxy


async def test_a_call_on_a_dead_connection_fails_and_later_ones_have_a_new_one(proxy: Proxy) -> None:
    address = ParticipantAddress(target=proxy.where, call_timeout_s=20.0, keepalive_s=1.0)
    async with asyncio.timeout(PATIENCE_S), calling(address) as client:
        assert await result(client) == SUCCEEDED
        proxy.forget()
        assert (await result(client)).reason == "UNAVAILABLE"
        # gRPC may choose the connection once more while it closes it.
        while await result(client) != SUCCEEDED:
            pass


async def test_a_connection_that_dies_while_idle_is_replaced(proxy: Proxy) -> None:
    address = ParticipantAddress(target=proxy.where, call_timeout_s=20.0, keepalive_s=1.0)
    async with asyncio.timeout(PATIENCE_S), calling(address) as client:
        assert await result(client) == SUCCEEDED
        proxy.forget()
        await proxy.until_unused()
        assert await result(client) == SUCCEEDED


# --- names --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "is_name"),
    [
        ("inventory:50051", True),
        ("dns:///inventory:50051", True),
        ("dns:inventory:50051", True),
        ("dns://127.0.0.1:53/inventory:50051", True),
        ("127.0.0.1:50051", False),
        ("dns:///127.0.0.1:50051", False),
        ("[::1]:50051", False),
        ("ipv4:127.0.0.1:50051,127.0.0.2:50051", False),
        ("unix:/run/inventory.sock", False),
    ],
)
def test_only_names_are_resolved_again(target: str, *, is_name: bool) -> None:
    assert is_dns_name(target) is is_name


@asynccontextmanager
async def two_addresses() -> AsyncIterator[tuple[Stock, Stock, int]]:
    """Two participants at one port of 127.0.0.1 and 127.0.0.2."""
    first, second = Stock(), Stock()
    async with serving(first) as address:
        port = int(address.rpartition(":")[2])
        async with serving(second, port, "127.0.0.2"):
            yield first, second, port


async def test_a_new_address_of_a_name_gets_work_and_a_removed_one_none() -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        two_addresses() as (first, second, port),
        naming("127.0.0.1") as names,
    ):
        address = ParticipantAddress(target=names.target(port))
        async with calling(address, renew_every_s=0.0) as client:
            assert await result(client) == SUCCEEDED
            names.addresses = ("127.0.0.1", "127.0.0.2")
            while not second.peers:
                assert await result(client) == SUCCEEDED
            # A connection that works stays.
            assert len(first.peers) == 1
            names.addresses = ("127.0.0.2",)
            before = -1
            while first.count() > before:
                before = first.count()
                # Enough calls for each address to have its turn.
                assert [await result(client) for _ in range(4)] == [SUCCEEDED] * 4


async def test_calls_continue_while_the_name_server_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participant_client, "_RENEWAL_TIMEOUT_S", 0.05)
    async with (
        asyncio.timeout(PATIENCE_S),
        two_addresses() as (_, second, port),
        naming("127.0.0.1") as names,
        calling(ParticipantAddress(target=names.target(port)), renew_every_s=0.0) as client,
    ):
        assert await result(client) == SUCCEEDED
        names.addresses = ()
        channel = client._channels["stock"]
        assert await result(client) == SUCCEEDED
        while channel.renewing:
            assert await result(client) == SUCCEEDED
        names.addresses = ("127.0.0.2",)
        while not second.peers:
            assert await result(client) == SUCCEEDED


# --- proxies --------------------------------------------------------------------


@asynccontextmanager
async def http_proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """A proxy that the environment names. The event is set when it is asked; it refuses."""
    asked = asyncio.Event()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    yield asked
    server.close()


@pytest.mark.parametrize("wanted", [False, True])
async def test_a_proxy_in_the_environment_is_used_only_if_configured(
    monkeypatch: pytest.MonkeyPatch, *, wanted: bool
) -> None:
    async with http_proxy(monkeypatch) as asked, serving(Stock()) as target:
        address = ParticipantAddress(target=target, use_http_proxy=wanted)
        async with calling(address) as client:
            outcome = await result(client)
    assert asked.is_set() is wanted
    assert (outcome == SUCCEEDED) is not wanted
