"""A coordinator's connection goes dead silently: the client's calls move to the other coordinator."""

import asyncio

import grpc
import pytest

import tcc
from coordinator.api import server
from proof.proxy import proxied_address
from tcc._internal import channel_options
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.client.scripted_service import ScriptedService, serving, status
from tests.support.name_server import naming
from tests.support.worker import running, settings_for

BRANCHES = [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})]


async def test_calls_in_flight_and_later_ones_move_to_the_other_coordinator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_options, "INITIATOR_KEEPALIVE_S", 0.6)
    dies, lives = ScriptedService(), ScriptedService()
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang(_: pb.ExecuteTransactionRequest) -> pb.TransactionOutcome:
        asked.set()
        await never.wait()
        return pb.TransactionOutcome()

    dies.execute = hang
    async with (
        serving(dies) as address,
        serving(lives) as other_address,
        proxied_address(address) as proxy,
        tcc.Client(f"ipv4:{proxy.where},{other_address}", timeout_s=20) as client,
    ):
        calls = []
        while not asked.is_set():
            call = asyncio.create_task(client.execute(BRANCHES))
            await asyncio.wait((call, asyncio.create_task(asked.wait())), return_when=asyncio.FIRST_COMPLETED)
            calls.append(call)
        proxy.forget()
        calls += [asyncio.create_task(client.execute(BRANCHES)) for _ in range(4)]
        dies.execute = lives.execute
        outcomes = await asyncio.gather(*calls)
        assert {outcome.state.name for outcome in outcomes} == {"CONFIRMING"}
        never.set()


async def test_a_new_coordinator_behind_a_name_gets_work(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTION_AGE_MAX_MS", 100)
    # gRPC looks a name up again at most every 30 s.
    options = [("grpc.dns_min_time_between_resolutions_ms", 100)]
    new = ScriptedService()
    new.answers = [status(grpc.StatusCode.NOT_FOUND.value[0])] * 10
    async with running(settings_for({}), log_url) as old, naming("127.0.0.1") as names:
        port = int(old.address.rpartition(":")[2])
        async with (
            serving(new, f"127.0.0.2:{port}"),
            tcc.Client(names.target(port), timeout_s=20, channel_options=options) as client,
            asyncio.timeout(60),
        ):
            while not new.requests:
                with pytest.raises(tcc.errors.NotFound):
                    await client.get("unknown")
                names.addresses = ("127.0.0.1", "127.0.0.2")


async def test_a_proxy_in_the_environment_is_used_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    http_proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{http_proxy.sockets[0].getsockname()[1]}")
    async with serving(ScriptedService()) as target:
        async with tcc.Client(target) as client:
            await client.execute(BRANCHES)
        assert not asked.is_set()
        options = [("grpc.enable_http_proxy", 1)]
        async with tcc.Client(target, channel_options=options, timeout_s=20) as client:
            call = asyncio.create_task(client.execute(BRANCHES))
            await asked.wait()
        with pytest.raises(tcc.errors.ClientClosed):
            await call
    http_proxy.close()
