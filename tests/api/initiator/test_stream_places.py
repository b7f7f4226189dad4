"""The places of open streams: who gives way to whom."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies
from msgspec import Struct
from msgspec.structs import replace

import tcc as sdk
from coordinator.api import slow_readers
from coordinator.api.initiator import stream_places
from coordinator.api.initiator.stream_places import IDLE_S, StreamPlaces, gives_way
from coordinator.config.settings import Settings
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.api.test_access import BANK, SHOP, Guarded, guarded
from tests.support.errors import refused
from tests.support.raw_http2 import connect
from tests.support.scripted_participant import ScriptedParticipant
from tests.support.transaction_stream import METHOD, TransactionStream
from tests.support.worker import Running, branch, running, settings_for

NOW = 100.0
BUSY = math.inf
CONFIRMED = common.TRANSACTION_STATE_CONFIRMED


class Open(Struct, frozen=True):
    """An open stream."""

    holder: str
    idle_since: float


def ending(holder: str, most: int, *streams: tuple[str, float]) -> Open | None:
    return gives_way([Open(*each) for each in streams], holder, most=most, now=NOW)


# --- who gives way ------------------------------------------------------------------------


def test_a_holder_that_has_none_gets_a_place_of_the_one_that_has_most() -> None:
    held = ("bank", NOW - 50), ("shop", BUSY), ("shop", NOW - 1), ("shop", NOW - 2)
    assert ending("mill", 4, *held) == Open("shop", NOW - 2)
    assert ending("mill", 2, ("shop", BUSY), ("shop", BUSY)) == Open("shop", BUSY)


def test_a_holder_of_its_share_gets_only_what_is_idle() -> None:
    held = ("bank", NOW - 50), ("bank", BUSY), ("shop", BUSY), ("shop", NOW - IDLE_S + 0.1)
    assert ending("shop", 4, *held) is None
    assert ending("shop", 4, *held[:3], ("shop", NOW - IDLE_S)) == Open("shop", NOW - IDLE_S)
    more = *held, ("bank", NOW - 20)
    assert ending("shop", 5, *more) == Open("bank", NOW - 50)


def test_a_lone_holder_may_have_all_places_and_replaces_what_is_idle() -> None:
    held = ("shop", BUSY), ("shop", NOW - 7), ("shop", NOW - 8)
    assert ending("shop", 3, *held) == Open("shop", NOW - 8)
    assert ending("shop", 1, held[0]) is None


def test_more_holders_than_places_share_what_is_idle() -> None:
    assert ending("mill", 2, ("bank", BUSY), ("shop", NOW - 6)) == Open("shop", NOW - 6)
    assert ending("mill", 2, ("bank", BUSY), ("shop", BUSY)) is None


@given(
    strategies.lists(
        strategies.builds(
            Open, strategies.sampled_from("abcd"), strategies.sampled_from([NOW - 9, NOW, BUSY])
        ),
        min_size=1,
    ),
    strategies.sampled_from("abcde"),
)
def test_each_holder_has_its_share_of_the_places(streams: list[Open], holder: str) -> None:
    held, most = Counter(each.holder for each in streams), len(streams)
    share = most // len({holder, *held})
    one = gives_way(streams, holder, most=most, now=NOW)
    if held[holder] < share:
        assert one is not None
        assert held[one.holder] == max(held.values())
    if one is not None:
        # No busy one of a holder within its share, nor its idle one for a holder that has its own.
        assert held[one.holder] > share or (
            one.idle_since == NOW - 9 and (one.holder == holder or held[holder] < max(1, share))
        )


# --- over real gRPC -----------------------------------------------------------------------


def execute(gid: str, **fields: Any) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(
        **{"gid": gid, "branches": [branch("1")], "wait_for": pb.WAIT_FOR_COMPLETION} | fields
    )


def limit_streams(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    limits = settings_for({}).server_limits()
    limits = replace(limits, arriving_bytes_max=most * limits.request_bytes_max)
    monkeypatch.setattr(Settings, "server_limits", lambda _: limits)


@asynccontextmanager
async def with_one_place(
    log_url: str, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch, idle_s: float = 0.0
) -> AsyncIterator[Running]:
    limit_streams(monkeypatch, 1)
    monkeypatch.setattr(stream_places, "IDLE_S", idle_s)
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        yield worker


async def test_an_idle_stream_gives_way_and_a_busy_one_does_not(
    log_url: str, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = stock.hold_confirms()
    async with with_one_place(log_url, stock, monkeypatch) as tcc:
        idle = await TransactionStream(tcc.channel).opened()
        busy = await TransactionStream(tcc.channel).opened()
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await idle.reply(1)
        await busy.send(i1=execute("a"))
        await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 1)
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await TransactionStream(tcc.channel).opened()
        go.set()
        assert (await busy.reply(1)).outcome.state == CONFIRMED
        third = await TransactionStream(tcc.channel).opened()
        await third.send(i1=execute("b"))
        assert (await third.reply(1)).outcome.state == CONFIRMED
        assert len([*tcc.worker._server._service._streams]) == 1


async def test_a_client_whose_idle_stream_gave_way_goes_on(
    log_url: str, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_one_place(log_url, stock, monkeypatch) as tcc, sdk.Client(tcc.address) as client:
        for _ in range(3):
            assert (await client.execute([sdk.BranchRequest("stock", "reserve")])).confirmed
            await TransactionStream(tcc.channel).opened()


async def test_a_stream_that_reads_nothing_gives_way_with_its_connection(
    log_url: str, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_readers, "_LAST_RESPONSE_MAX_S", 0.05)
    take, placed = StreamPlaces.take, asyncio.Event()

    async def noted(places: StreamPlaces[Any], stream: Any) -> None:
        await take(places, stream)
        placed.set()

    monkeypatch.setattr(StreamPlaces, "take", noted)
    async with with_one_place(log_url, stock, monkeypatch) as tcc:
        raw = await connect(tcc.address, window=0)
        raw.call(METHOD)
        async with asyncio.timeout(30):
            await placed.wait()
            stream = await TransactionStream(tcc.channel).opened()
            await raw.closed.wait()
        await raw.close()
        await stream.send(i1=execute("a"))
        assert (await stream.reply(1)).outcome.state == CONFIRMED


async def test_a_tenant_with_all_places_leaves_another_its_share(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_streams(monkeypatch, 2)
    go = stock.hold_confirms()

    async def opened(tcc: Guarded, name: str) -> TransactionStream:
        return await TransactionStream(tcc.channel(tcc.tls.authority.issue(name))).opened()

    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}) as tcc:
        shop = [await opened(tcc, SHOP) for _ in range(2)]
        for number, stream in enumerate(shop):
            await stream.send(i1=execute(f"shop-{number}"))
        await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 2)
        bank = await opened(tcc, BANK)
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await opened(tcc, SHOP)
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await opened(tcc, BANK)
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await shop[0].reply(1)
        await bank.send(i1=execute("bank-1"))
        go.set()
        assert (await bank.reply(1)).outcome.state == CONFIRMED
        assert (await shop[1].reply(1)).outcome.state == CONFIRMED


async def test_a_busy_client_that_gives_way_fails_no_call(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_streams(monkeypatch, 1)
    monkeypatch.setattr(stream_places, "gives_way", lambda streams, *_, **__: streams[0] if streams else None)
    go = stock.hold_confirms()
    async with (
        running(settings_for({"stock": {"target": stock.address}}), log_url) as tcc,
        sdk.Client(tcc.address, timeout_s=30) as client,
    ):
        branches = [sdk.BranchRequest("stock", "reserve")]
        calls = [asyncio.create_task(client.execute(branches, wait_for="completion")) for _ in range(4)]
        await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 4)
        other = await TransactionStream(tcc.channel).opened()
        await other.send(i1=execute("a"))
        go.set()
        assert {(await call).state for call in calls} == {sdk.TransactionState.CONFIRMED}
