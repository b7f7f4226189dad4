"""Transactions over streams: what is sent, who gets which reply, and what ends a stream."""

import asyncio
from itertools import pairwise

import grpc
import pytest
from google.rpc.code_pb2 import Code

import tcc
from tcc import errors
from tcc.client import streams
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc
from tests.client.scripted_service import ScriptedService, confirmed, serving
from tests.client.streaming_service import OpenStream, StreamingService, reply

BRANCHES = [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})]


async def execute(client: tcc.Client, *gids: str, **options: float) -> list[str]:
    """Execute transactions at the same time. Return the gids of their outcomes."""
    outcomes = await asyncio.gather(*(client.execute(BRANCHES, gid=gid, **options) for gid in gids))
    return [outcome.gid for outcome in outcomes]


# --- what is sent and returned -------------------------------------------------


async def test_transactions_share_one_stream_and_need_no_calls() -> None:
    service = StreamingService()
    async with serving(service) as target, tcc.Client(target) as client:
        for gid in "abc":
            await client.execute(BRANCHES, gid=gid)
        assert await execute(client, *"defg") == [*"defg"]
    assert (service.gids, service.unary, service.batches) == ([*"abcdefg"], [], [])
    assert len(service.streams) == 1


async def test_what_waits_while_a_message_is_written_goes_with_the_next_one() -> None:
    sizes: list[int] = []

    async def serve(stream: OpenStream) -> None:
        await stream.greet()
        while items := await stream.read():
            sizes.append(len(items))
            await stream.confirm(*items)

    async with serving(StreamingService(serve)) as target, tcc.Client(target) as client:
        await client.execute(BRANCHES)
        await execute(client, *"abcdefgh")
    assert sizes == [1, 8]


async def test_replies_in_any_order_reach_their_callers_alone() -> None:
    async def serve(stream: OpenStream) -> None:
        await stream.greet()
        items = await stream.read()
        while len(items) < 3:
            items += await stream.read()
        unknown = pb.StreamTransactionsReply(id=99, outcome=confirmed("unknown"))
        await stream.send(replies=[unknown, reply(items[2])])
        await stream.send(replies=[reply(items[2]), reply(items[0])])
        await stream.confirm(items[1])
        await stream.read()

    async with serving(StreamingService(serve)) as target, tcc.Client(target) as client:
        assert await execute(client, "a", "b", "c") == ["a", "b", "c"]


async def test_no_more_are_in_flight_than_the_coordinator_gives_credit_for() -> None:
    sizes: list[int] = []

    async def serve(stream: OpenStream) -> None:
        await stream.greet(credit=2)
        while items := await stream.read():
            sizes.append(len(items))
            await stream.confirm(*items)

    async with serving(StreamingService(serve)) as target, tcc.Client(target) as client:
        await client.execute(BRANCHES)
        await execute(client, *"abcdefg")
    assert max(sizes) <= 2
    assert sum(sizes) == 8


async def test_a_transaction_larger_than_a_batch_goes_by_a_call() -> None:
    service = StreamingService()
    async with serving(service) as target, tcc.Client(target, batch_bytes_max=1_000) as client:
        await client.execute([tcc.BranchRequest("inventory", "reserve_stock", bytes(2_000))], gid="large")
        await client.execute(BRANCHES, gid="small")
    assert [request.gid for request in service.unary] == ["large"]
    assert [request.gid for request in service.streamed] == ["small"]


# --- errors ----------------------------------------------------------------------


async def test_an_overloaded_item_is_repeated_over_the_same_stream() -> None:
    service, refusals = StreamingService(), 2

    async def refuse_twice(request: pb.ExecuteTransactionRequest) -> object:
        nonlocal refusals
        if request.gid != "b" or not refusals:
            return confirmed(request.gid)
        refusals -= 1
        return common.Error(code=Code.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after_ms=1)

    service.execute = refuse_twice
    async with serving(service) as target, tcc.Client(target) as client:
        assert await execute(client, "a", "b", "c") == ["a", "b", "c"]
    assert sorted(service.gids) == ["a", "b", "b", "b", "c"]
    assert len(service.streams) == 1


async def test_a_refused_item_fails_alone() -> None:
    service = StreamingService()

    async def refuse(request: pb.ExecuteTransactionRequest) -> object:
        if request.gid == "bad":
            return common.Error(code=Code.INVALID_ARGUMENT, reason="NO_BRANCHES", message="none")
        return confirmed(request.gid)

    service.execute = refuse
    async with serving(service) as target, tcc.Client(target) as client:
        good = asyncio.create_task(execute(client, "a", "b"))
        with pytest.raises(errors.InvalidRequest, match="none"):
            await client.execute(BRANCHES, gid="bad")
        assert await good == ["a", "b"]
    assert service.gids.count("bad") == 1


async def test_the_callers_timer_decides_and_the_item_is_cancelled() -> None:
    """The peer reads, and never answers: the connection is alive, so nothing else would end the wait."""
    cancelled = asyncio.Event()

    async def serve(stream: OpenStream) -> None:
        await stream.greet()
        item = (await stream.read())[0]
        assert 0 < item.timeout_ms <= 200
        await stream.read()
        assert stream.cancelled_ids == [item.id]
        cancelled.set()
        await stream.confirm(item)  # too late for this caller
        await stream.serve(service.execute)

    service = StreamingService(serve)
    async with serving(service) as target, tcc.Client(target) as client:
        with pytest.raises(errors.DeadlineExceeded, match="transaction slow had no response in time"):
            await client.execute(BRANCHES, gid="slow", timeout_s=0.2)
        await cancelled.wait()
        assert await execute(client, "next") == ["next"]


async def test_a_peer_that_stops_reading_holds_no_caller() -> None:
    """What it does not read fills the connection's window, and what comes after that is not written."""

    async def serve(stream: OpenStream) -> None:
        await stream.greet()
        await stream.confirm(*await stream.read())
        await stopped.wait()

    stopped = asyncio.Event()
    large = [tcc.BranchRequest("inventory", "reserve_stock", bytes(200_000))]
    async with serving(StreamingService(serve)) as target, tcc.Client(target) as client:
        await client.execute(BRANCHES)
        calls = [client.execute(large, gid=str(number), timeout_s=0.3) for number in range(20)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        stopped.set()
    assert {type(result) for result in results} == {errors.DeadlineExceeded}


async def test_a_timeout_of_months_is_none_in_effect() -> None:
    service = StreamingService()
    async with serving(service) as target, tcc.Client(target) as client:
        assert await execute(client, "a", timeout_s=3e8) == ["a"]
    assert (service.unary, service.batches) == ([], [])


# --- the end of a stream ------------------------------------------------------------


@pytest.mark.parametrize("cut_after", ["headers", "first item", "greeting", "second item", "first reply"])
async def test_a_stream_cut_at_any_message_costs_no_call(cut_after: str) -> None:
    """Each unanswered transaction is repeated with its gid."""

    async def serve(stream: OpenStream) -> None:
        if stream.number > 1:
            await stream.greet()
            await stream.serve(service.execute)
            return
        if cut_after == "headers":
            await stream.fail()
        items = await stream.read()
        if cut_after == "first item":
            await stream.fail()
        await stream.greet()
        if cut_after == "greeting":
            await stream.fail()
        await stream.confirm(items.pop(0))
        while not items:
            items = await stream.read()
        if cut_after == "second item":
            await stream.fail()
        await stream.confirm(items.pop(0))
        await stream.fail()

    service = StreamingService(serve)
    async with serving(service) as target, tcc.Client(target) as client:
        first = asyncio.create_task(execute(client, "a"))
        assert await first == ["a"]
        assert await execute(client, "b", "c") == ["b", "c"]
    assert set(service.gids) == {"a", "b", "c"}


async def test_a_broken_connection_costs_no_call() -> None:
    """The server is gone, with its connection, while three are in flight; another one starts in its place."""
    in_flight = asyncio.Event()

    async def never(stream: OpenStream) -> None:
        await stream.greet()
        items = await stream.read()
        while len(items) < 3:
            items += await stream.read()
        in_flight.set()
        await asyncio.Event().wait()

    async with serving(StreamingService(never)) as target:
        client = tcc.Client(target)
        calls = asyncio.create_task(execute(client, "a", "b", "c"))
        await in_flight.wait()
    async with serving(StreamingService(), target):
        assert await calls == ["a", "b", "c"]
        await client.close()


async def test_what_waits_for_a_stream_that_does_not_open_goes_by_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server answers pings, and nothing else: keepalive does not notice it."""

    async def never(_: OpenStream) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(streams, "OPENING_MAX_S", 0.05)
    service = StreamingService(never)
    async with serving(service) as target, tcc.Client(target) as client:
        assert await execute(client, "a", "b") == ["a", "b"]
    assert service.streamed == []


async def test_what_broke_two_streams_goes_by_a_call() -> None:
    async def serve(stream: OpenStream) -> None:
        await stream.greet()
        while items := await stream.read():
            if any(item.transaction.gid == "poison" for item in items):
                await stream.fail()
            await stream.confirm(*items)

    service = StreamingService(serve)
    async with serving(service) as target, tcc.Client(target) as client:
        await client.execute(BRANCHES, gid="a")
        await client.execute(BRANCHES, gid="poison")
    assert [request.gid for request in service.streamed].count("poison") == 2
    assert [request.gid for request in service.unary] == ["poison"]


async def test_a_message_too_large_for_the_server_is_found_alone() -> None:
    """gRPC ends the stream. Nothing tells whose fault it was, so each goes by a call of its own."""

    async def serve(stream: OpenStream) -> None:
        await stream.greet()
        await stream.read()
        await stream.fail(grpc.StatusCode.RESOURCE_EXHAUSTED)

    service = StreamingService(serve)
    async with serving(service) as target, tcc.Client(target) as client:
        assert await execute(client, "a", "b") == ["a", "b"]
    assert sorted(request.gid for request in service.unary) == ["a", "b"]


async def test_a_draining_coordinator_finishes_and_gets_nothing_new() -> None:
    async def serve(stream: OpenStream) -> None:
        await stream.greet(coordinator_id=str(stream.number))
        if stream.number > 1:
            await stream.serve(service.execute)
            return
        item = (await stream.read())[0]
        await stream.send(draining=True)
        told.set()
        # What was sent before the client knew is answered, until the client half-closes the stream.
        rest = asyncio.create_task(stream.serve(service.execute))
        await finish.wait()
        await stream.confirm(item)
        await rest

    told, finish = asyncio.Event(), asyncio.Event()
    service = StreamingService(serve)
    async with serving(service) as target, tcc.Client(target) as client:
        in_flight = asyncio.create_task(execute(client, "in flight"))
        await told.wait()
        while len(service.streams) < 2:
            assert await execute(client, "new") == ["new"]
        finish.set()
        assert await in_flight == ["in flight"]
        await service.streams[0].half_closed.wait()
    assert service.gids.count("in flight") == 1


async def test_a_server_that_stops_gracefully_finishes_what_is_in_flight() -> None:
    """It sends GOAWAY. The stream goes on until its replies have come."""

    async def serve(stream: OpenStream) -> None:
        await stream.greet()
        item = (await stream.read())[0]
        arrived.set()
        await finish.wait()
        await stream.confirm(item)

    arrived, finish = asyncio.Event(), asyncio.Event()
    service = StreamingService(serve)
    server = grpc.aio.server()
    transaction_pb2_grpc.add_TransactionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with tcc.Client(f"127.0.0.1:{port}") as client:
        in_flight = asyncio.create_task(execute(client, "a"))
        await arrived.wait()
        stopping = asyncio.create_task(server.stop(60))
        await asyncio.sleep(0)  # it has begun to stop
        finish.set()
        assert await in_flight == ["a"]
        await stopping
    assert service.gids == ["a"]


# --- which coordinator ---------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "RENEW_S", 0.02)
    monkeypatch.setattr(streams, "RENEW_SOON_S", 0.02)


async def test_a_stream_replaced_while_items_wait_opens_no_third_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "RENEW_SOON_S", 0.02)

    async def serve(stream: OpenStream) -> None:
        await stream.greet(credit=1)
        if stream.number == 1:
            await stream.confirm(*await stream.read())
            items = await stream.read()
            await second.wait()
            await stream.confirm(*items)
        second.set()
        while items := await stream.read():
            await stream.confirm(*items)

    second = asyncio.Event()
    service = StreamingService(serve)
    async with serving(service) as target, tcc.Client(target) as client:
        await execute(client, "first")
        assert await execute(client, "a", "b", "c") == ["a", "b", "c"]
        assert len(service.streams) == 2


@pytest.mark.usefixtures("quick")
async def test_a_new_stream_replaces_the_older_one_to_the_same_coordinator() -> None:
    """It is open before the older one is half-closed, and no call fails in the meantime."""
    service = StreamingService()
    async with serving(service) as target, tcc.Client(target) as client:
        while len(service.streams) < 5:
            await execute(client, "a", "b", "c")
        for older, newer in pairwise(service.streams[:4]):
            await older.half_closed.wait()
            assert newer.number == older.number + 1
    assert (service.unary, service.batches) == ([], [])


@pytest.mark.usefixtures("quick")
async def test_each_coordinator_gets_a_stream_and_its_share_of_the_load() -> None:
    held, all_arrived, loads = asyncio.Event(), asyncio.Event(), {"a": 0, "b": 0}

    def coordinator(name: str) -> StreamingService:
        async def serve(stream: OpenStream) -> None:
            await stream.greet(coordinator_id=name)
            while items := await stream.read():
                loads[name] += len(items)
                if items[0].transaction.gid.startswith("held"):
                    if sum(loads.values()) == 10:
                        all_arrived.set()
                    await held.wait()
                await stream.confirm(*items)

        return StreamingService(serve)

    async with (
        serving(coordinator("a")) as one,
        serving(coordinator("b")) as two,
        tcc.Client(f"ipv4:{one},{two}") as client,
    ):
        while not all(loads.values()):
            await execute(client, "x", "y")
        loads.update(a=0, b=0)
        calls = asyncio.create_task(execute(client, *(f"held-{n}" for n in range(10))))
        await all_arrived.wait()
        held.set()
        await calls
    assert loads == {"a": 5, "b": 5}


@pytest.mark.usefixtures("quick")
async def test_an_item_is_repeated_at_another_coordinator() -> None:
    seen: list[str] = []

    def coordinator(name: str) -> StreamingService:
        async def answer(request: pb.ExecuteTransactionRequest) -> object:
            if request.gid == "x":
                seen.append(name)
                if len(seen) == 1:
                    return common.Error(code=Code.UNAVAILABLE, reason="LOG_UNAVAILABLE", retry_after_ms=1)
            else:
                known.add(name)
            return confirmed(request.gid)

        async def serve(stream: OpenStream) -> None:
            await stream.greet(coordinator_id=name)
            await stream.serve(answer)

        return StreamingService(serve)

    known: set[str] = set()
    async with (
        serving(coordinator("a")) as one,
        serving(coordinator("b")) as two,
        tcc.Client(f"ipv4:{one},{two}") as client,
    ):
        while len(known) < 2:
            await execute(client, "u", "v")
        await execute(client, "x")
    assert sorted(seen) == ["a", "b"]


@pytest.mark.usefixtures("quick")
async def test_an_idle_client_leaves_its_stream_and_opens_another_later() -> None:
    service = StreamingService()
    async with serving(service) as target, tcc.Client(target) as client:
        await execute(client, "a")
        await service.streams[0].half_closed.wait()
        await service.streams[-1].half_closed.wait()
        before = len(service.streams)
        await execute(client, "b")
        assert len(service.streams) == before + 1
    assert service.unary == []


async def test_a_server_without_streams_is_asked_once() -> None:
    asked = 0

    class Older(ScriptedService):
        async def StreamTransactions(self, requests: object, context: object) -> None:  # noqa: N802 - the method's name
            nonlocal asked
            asked += 1
            await super().StreamTransactions(requests, context)

    service = Older()
    async with serving(service) as target, tcc.Client(target) as client:
        for gid in "abc":
            await execute(client, gid)
        await execute(client, *"defg")
    assert asked == 1
    assert sorted(service.gids) == [*"abcdefg"]


# --- tokens --------------------------------------------------------------------------


async def test_another_token_opens_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "TOKEN_CHECKED_EVERY_S", 0.0)
    service, present = StreamingService(), ["one"]
    async with serving(service) as target, tcc.Client(target, token=lambda: present[0]) as client:
        await execute(client, "a")
        await execute(client, "b")
        present[0] = "two"
        await execute(client, "c")
        await service.streams[0].half_closed.wait()
    assert [stream.metadata["authorization"] for stream in service.streams] == ["Bearer one", "Bearer two"]
    assert service.gids == ["a", "b", "c"]


@pytest.mark.parametrize("is_renewed", [True, False])
async def test_a_token_that_expires_is_replaced_if_there_is_another_one(*, is_renewed: bool) -> None:
    """The file has a new token, but it was not time to read it again."""
    service, present = StreamingService(), ["one"]

    async def expired(request: pb.ExecuteTransactionRequest) -> object:
        if len(service.streams) == 1 and request.gid == "b":
            return common.Error(code=Code.UNAUTHENTICATED, reason="NOT_AUTHENTICATED", message="expired")
        return confirmed(request.gid)

    service.execute = expired
    async with serving(service) as target, tcc.Client(target, token=lambda: present[0]) as client:
        await execute(client, "a")
        if is_renewed:
            present[0] = "two"
            await execute(client, "b")
        else:
            with pytest.raises(errors.PermissionDenied, match="expired"):
                await execute(client, "b")
    assert service.gids == ["a", "b", "b"][: 2 + is_renewed]


# --- closing -------------------------------------------------------------------------


async def test_closing_the_client_fails_what_is_in_flight() -> None:
    arrived = asyncio.Event()

    async def serve(stream: OpenStream) -> None:
        await stream.greet()
        await stream.read()
        arrived.set()
        await asyncio.Event().wait()

    async with serving(StreamingService(serve)) as target:
        client = tcc.Client(target)
        call = asyncio.create_task(client.execute(BRANCHES))
        await arrived.wait()
        await client.close()
        with pytest.raises(errors.ClientClosed):
            await call


def test_full_coordinators_are_asked_less_often_than_ones_that_are_gone() -> None:
    full = streams._reopen_in_s(grpc.StatusCode.RESOURCE_EXHAUSTED)
    gone = streams._reopen_in_s(grpc.StatusCode.UNAVAILABLE)
    unknown = streams._reopen_in_s(grpc.StatusCode.UNIMPLEMENTED)
    assert gone < full < unknown
