"""Streams to participants: what is sent in them, and what happens when one does not do what it should."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from coordinator.core.model import BranchCall, BranchSpec, CallResult, Operation, OutcomeCode
from coordinator.participant_client import client as participant_client, streams
from coordinator.participant_client.channel import ParticipantAddress
from coordinator.participant_client.client import ParticipantClient
from tcc._internal.tls import server_credentials
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc
from tests.support.branch_results import branch_results
from tests.support.scripted_participant import serving
from tests.support.streaming_participant import StreamingParticipant, ids_of, results
from tests.support.tls_site import Site

PATIENCE_S = 60
SUCCEEDED = CallResult(code=OutcomeCode.SUCCEEDED)
LARGE = bytes(100_000)


def make_call(number: int = 0, payload: bytes = b"") -> BranchCall:
    return BranchCall(
        gid=f"g{number}",
        index=0,
        operation=Operation.TRY,
        spec=BranchSpec(branch_id="1", participant="stock", action="reserve", payload=payload),
        expires_at=4_000_000_000.0,
    )


@pytest.fixture(autouse=True)
async def patience() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE_S):
        yield


@asynccontextmanager
async def calling(address: ParticipantAddress) -> AsyncIterator[ParticipantClient]:
    client = ParticipantClient({"stock": address}, result_bytes_max=100)
    try:
        yield client
    finally:
        await client.close()


async def execute(client: ParticipantClient, *calls: BranchCall) -> dict[str, CallResult]:
    """Return the results of one batch, by gid."""
    return {
        call.gid: result for call, result in await branch_results(client, "stock", calls or [make_call()])
    }


def streams_of(client: ParticipantClient) -> streams.Streams:
    return client._channels["stock"].streams


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is awaited has no event
        await asyncio.sleep(0)


async def until_open(client: ParticipantClient, *stocks: StreamingParticipant) -> None:
    """Send calls until there is a stream to each of these, and what came before has no part in a test."""
    while len(streams_of(client)._streams) < len(stocks):
        assert set((await execute(client)).values()) == {SUCCEEDED}
    # The second stream to one replica ends the search.
    await until(lambda: not streams_of(client)._searching)
    for stock in stocks:
        stock.requests.clear()
        stock.calls.clear()
        stock.rpcs = 0


@pytest.fixture
async def stock() -> StreamingParticipant:
    return StreamingParticipant()


@asynccontextmanager
async def streaming(stock: StreamingParticipant, **options: float) -> AsyncIterator[ParticipantClient]:
    """A client with one open stream."""
    async with (
        serving(stock) as target,
        calling(ParticipantAddress(target=target, call_timeout_s=options.get("timeout_s", 20.0))) as client,
    ):
        await until_open(client, stock)
        yield client


# --- calls and results --------------------------------------------------------


async def test_calls_go_in_one_stream_and_not_as_rpcs(stock: StreamingParticipant) -> None:
    async with streaming(stock) as client:
        alone = await execute(client, make_call(1))
        together = await execute(client, make_call(2), make_call(3))
    assert (alone, together) == ({"g1": SUCCEEDED}, {"g2": SUCCEEDED, "g3": SUCCEEDED})
    assert [[item.call.gid for item in request.items] for request in stock.requests] == [["g1"], ["g2", "g3"]]
    assert {item.timeout_ms for request in stock.requests for item in request.items} == {20_000}
    assert stock.rpcs == 0


async def test_results_in_another_order_and_of_unknown_ids(stock: StreamingParticipant) -> None:
    rejected = common.CallResult(code=common.OUTCOME_CODE_REJECTED, reason="SOLD_OUT")

    async def reverse(context) -> None:
        await stock.greet(context)
        request = await stock.read(context)
        first, second, third = ids_of(request)
        await context.write(results(third, third + 1_000))
        await context.write(results(second, third, result=rejected))
        await context.write(results(first))

    stock.on_stream = reverse
    async with streaming_first(stock) as client:
        found = await execute(client, make_call(1), make_call(2), make_call(3))
    assert (found["g1"], found["g2"].reason, found["g3"]) == (SUCCEEDED, "SOLD_OUT", SUCCEEDED)


@asynccontextmanager
async def streaming_first(stock: StreamingParticipant, **options: float) -> AsyncIterator[ParticipantClient]:
    """A client with a stream, in which no call was sent yet."""
    async with (
        serving(stock) as target,
        calling(ParticipantAddress(target=target, call_timeout_s=options.get("timeout_s", 20.0))) as client,
    ):
        await streams_of(client).search()
        assert streams_of(client).in_use
        yield client


async def test_calls_that_wait_for_a_write_go_together(stock: StreamingParticipant) -> None:
    """The stream reads nothing until all calls wait."""
    all_wait = asyncio.Event()

    async def wait_first(context) -> None:
        await stock.greet(context)
        await all_wait.wait()
        while (request := await stock.read(context)) is not None:
            await context.write(results(*ids_of(request)))

    stock.on_stream = wait_first
    stock.credit = 1_000
    async with streaming_first(stock) as client:
        calls = [make_call(0, bytes(2**20))] + [make_call(number) for number in range(1, 20)]
        sending = [asyncio.ensure_future(execute(client, call)) for call in calls]
        await asyncio.sleep(0)
        all_wait.set()
        found = await asyncio.gather(*sending)
    assert all(set(each.values()) == {SUCCEEDED} for each in found)
    assert len(stock.requests) < len(calls)
    assert [call.gid for call in stock.calls] == [call.gid for call in calls]


async def test_a_message_has_no_more_than_its_bytes(
    stock: StreamingParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FRAME_BYTES_MAX", 3 * len(LARGE))
    async with streaming(stock) as client:
        await asyncio.gather(*(execute(client, make_call(number, LARGE)) for number in range(9)))
        assert max(request.ByteSize() for request in stock.requests) <= 3 * len(LARGE)
        assert stock.rpcs == 0


async def test_a_call_that_is_larger_than_a_message_is_an_rpc(stock: StreamingParticipant) -> None:
    async with streaming(stock) as client:
        assert await execute(client, make_call(1, bytes(streams.FRAME_BYTES_MAX + 1))) == {"g1": SUCCEEDED}
    assert (stock.rpcs, stock.requests) == (1, [])


async def test_calls_beyond_the_credit_are_rpcs(stock: StreamingParticipant) -> None:
    stock.credit = 2
    go = asyncio.Event()

    async def wait(context) -> None:
        await stock.greet(context)
        request = await stock.read(context)
        await go.wait()
        await context.write(results(*ids_of(request)))
        await stock.read(context)

    stock.on_stream = wait
    async with streaming_first(stock) as client:
        waiting = asyncio.ensure_future(execute(client, make_call(1), make_call(2)))
        await asyncio.sleep(0)
        assert await execute(client, make_call(3)) == {"g3": SUCCEEDED}
        assert stock.rpcs == 1
        go.set()
        assert await waiting == {"g1": SUCCEEDED, "g2": SUCCEEDED}


async def test_a_result_that_cannot_be_decoded_fails_alone(stock: StreamingParticipant) -> None:
    class Handler(grpc.GenericRpcHandler):
        """Sends bytes."""

        def service(self, details):
            if details.method.endswith("/StreamBranches"):
                return grpc.stream_stream_rpc_method_handler(
                    stock.StreamBranches, request_deserializer=pb.StreamBranchesRequest.FromString
                )
            return None

    async def garble(context) -> None:
        greeting = pb.StreamBranchesResponse(credit=9, replica_id="a")
        await context.write(greeting.SerializeToString())
        request = await stock.read(context)
        bad = common.CallResult(code=common.OUTCOME_CODE_REJECTED, reason="@@")
        good, bad_id = ids_of(request)
        both = results(good)
        both.MergeFrom(results(bad_id, result=bad))
        await context.write(both.SerializeToString().replace(b"@@", b"\xff\xff"))
        await stock.read(context)

    stock.on_stream = garble
    server = grpc.aio.server(handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with calling(ParticipantAddress(target=f"127.0.0.1:{port}")) as client:
        await streams_of(client).search()
        found = await execute(client, make_call(1), make_call(2))
    await server.stop(None)
    assert (found["g1"], found["g2"].reason, found["g2"].unreachable) == (SUCCEEDED, "BAD_ANSWER", False)


# --- time limits ---------------------------------------------------------------


async def test_a_call_is_given_up_in_time_and_a_late_result_is_dropped(stock: StreamingParticipant) -> None:
    given_up = asyncio.Event()

    async def late(context) -> None:
        await stock.greet(context)
        request = await stock.read(context)
        cancelling = await stock.read(context)
        assert list(cancelling.cancelled_ids) == ids_of(request)
        await context.write(results(*ids_of(request)))
        given_up.set()
        await stock.answer_rest(context)

    stock.on_stream = late
    async with streaming_first(stock, timeout_s=0.05) as client:
        first = (await execute(client))["g0"]
        await given_up.wait()
        stream = next(iter(streams_of(client)._streams.values()))
        assert (first.reason, first.unreachable, stream.unanswered) == ("DEADLINE_EXCEEDED", True, 0)
        assert await execute(client, make_call(2)) == {"g2": SUCCEEDED}
        assert (stock.opened, stock.rpcs) == (2, 0)


async def test_a_peer_that_stops_reading_ends_its_stream(stock: StreamingParticipant) -> None:
    async def read_nothing(context) -> None:
        await stock.greet(context)
        await asyncio.Event().wait()

    stock.on_stream = read_nothing
    async with streaming_first(stock, timeout_s=0.2) as client:
        found = await asyncio.gather(
            *(execute(client, make_call(number, bytes(2**20))) for number in range(9))
        )
        reasons = {result.reason for each in found for result in each.values()}
        assert reasons <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
        await until(lambda: not streams_of(client).in_use)
        stock.on_stream = stock.answer_all
        assert await execute(client, make_call(1)) == {"g1": SUCCEEDED}


# --- the end of a stream -------------------------------------------------------


async def _end_before_greeting(stock: StreamingParticipant, context) -> None:
    pass


async def _end_after_greeting(stock: StreamingParticipant, context) -> None:
    await stock.greet(context)


async def _end_after_request(stock: StreamingParticipant, context) -> None:
    await stock.greet(context)
    await stock.read(context)


async def _end_after_first_result(stock: StreamingParticipant, context) -> None:
    await stock.greet(context)
    request = await stock.read(context)
    await context.write(results(ids_of(request)[0]))


async def _send_garbage(stock: StreamingParticipant, context) -> None:
    await stock.greet(context)
    await stock.read(context)
    await context.write(b"\xff\xff")
    await asyncio.Event().wait()


@pytest.mark.parametrize("status", [grpc.StatusCode.OK, grpc.StatusCode.INTERNAL])
@pytest.mark.parametrize(
    ("cut", "answered"),
    [
        (_end_before_greeting, 2),  # by RPCs
        (_end_after_greeting, None),
        (_end_after_request, 0),
        (_end_after_first_result, 1),
    ],
)
async def test_a_stream_that_is_cut_makes_what_is_unanswered_unreachable_once(
    stock: StreamingParticipant, cut, answered: int | None, status: grpc.StatusCode
) -> None:
    async def cut_short(context) -> None:
        stock.on_stream = stock.answer_all
        await cut(stock, context)
        if status is not grpc.StatusCode.OK:
            await context.abort(status, "by the test")

    stock.on_stream = cut_short
    async with serving(stock) as target, calling(ParticipantAddress(target=target)) as client:
        channel = streams_of(client)
        opened = await channel._open()
        if opened is not None:
            channel._streams[opened.replica_id] = opened
            channel._start(channel._run(opened))
        channel.search_at = asyncio.get_running_loop().time() + 1_000
        found = await execute(client, make_call(1), make_call(2))
        succeeded = [result for result in found.values() if result == SUCCEEDED]
        broken = [result for result in found.values() if result != SUCCEEDED]
        assert len(found) == 2
        # After the greeting, the end of the stream and the calls may cross.
        assert len(succeeded) == answered or (answered is None and len(succeeded) in {0, 2})
        assert all((result.reason, result.unreachable) == ("UNAVAILABLE", True) for result in broken)
        assert not any(result.permanent for result in broken)
        channel.search_at = 0.0
        await until_open(client, stock)
        assert await execute(client, make_call(3)) == {"g3": SUCCEEDED}


async def test_a_stream_that_drains_gets_no_call_and_ends_after_the_last_result(
    stock: StreamingParticipant,
) -> None:
    go = asyncio.Event()

    async def drain(context) -> None:
        stock.on_stream = stock.answer_all
        await stock.greet(context)
        request = await stock.read(context)
        await context.write(pb.StreamBranchesResponse(draining=True))
        assert await stock.read(context) is None
        go.set()
        await context.write(results(*ids_of(request)))

    async with serving(stock) as target, calling(ParticipantAddress(target=target)) as client:
        stock.on_stream = drain
        await streams_of(client).search()
        waiting = asyncio.ensure_future(execute(client, make_call(1)))
        await go.wait()
        assert await execute(client, make_call(2)) == {"g2": SUCCEEDED}
        assert await waiting == {"g1": SUCCEEDED}
    assert "g2" not in {item.call.gid for item in stock.requests[0].items}


# --- participants without streams ------------------------------------------------


async def refuse_stream(context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")


async def test_a_participant_without_streams_is_asked_again_only_much_later(
    stock: StreamingParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock.on_stream = refuse_stream
    async with serving(stock) as target, calling(ParticipantAddress(target=target)) as client:
        await execute(client)
        await until(lambda: not streams_of(client)._searching)
        monkeypatch.setattr(participant_client, "_AGE_MIN_S", 0.0)
        monkeypatch.setattr(participant_client, "_AGE_MAX_S", 0.0)
        client._channels["stock"]._age_max_s = 0.0
        # The channel is replaced again and again.
        for _ in range(20):
            assert await execute(client, make_call(1), make_call(2)) == {"g1": SUCCEEDED, "g2": SUCCEEDED}
        assert stock.opened == 1
        assert streams_of(client).search_at > asyncio.get_running_loop().time() + 4 * 60
        # Later it has streams.
        monkeypatch.undo()
        renewed = client._channels["stock"]
        while client._channels["stock"] is renewed:
            await execute(client)
        stock.on_stream = stock.answer_all
        streams_of(client).search_at = 0.0
        while not stock.requests:
            assert await execute(client) == {"g0": SUCCEEDED}


async def test_a_participant_that_is_not_batched_is_not_asked(stock: StreamingParticipant) -> None:
    async with (
        serving(stock) as target,
        calling(ParticipantAddress(target=target, batched=False)) as client,
    ):
        assert await execute(client) == {"g0": SUCCEEDED}
        assert not streams_of(client)._searching
    assert stock.opened == 0


async def test_a_bug_after_which_calls_have_no_result_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be in flight indefinitely: the worker ends, and others take its transactions over."""
    bug = RuntimeError("a bug")
    reported: asyncio.Queue[Exception] = asyncio.Queue()

    def fail(_: object) -> None:
        raise bug

    monkeypatch.setattr("coordinator.participant_client.client.batch_request", fail)
    address = ParticipantAddress(target="127.0.0.1:1")
    client = ParticipantClient({"stock": address}, result_bytes_max=100, on_bug=reported.put_nowait)
    client.execute("stock", [make_call(), make_call()], lambda _: None)
    assert await reported.get() is bug
    await client.close()


async def test_replicas_of_which_one_has_no_streams_get_none(stock: StreamingParticipant) -> None:
    old = StreamingParticipant()
    old.on_stream = refuse_stream
    async with two_replicas(stock, old) as client:
        while not (stock.rpcs > 4 and old.rpcs > 4 and old.opened):
            assert await execute(client) == {"g0": SUCCEEDED}
        before = len(stock.requests)
        for _ in range(8):
            await execute(client)
        assert (len(stock.requests), old.opened) == (before, 1)


async def test_calls_do_not_wait_for_a_first_response(stock: StreamingParticipant) -> None:
    async def say_nothing(context) -> None:
        await asyncio.Event().wait()

    stock.on_stream = say_nothing
    async with serving(stock) as target, calling(ParticipantAddress(target=target)) as client:
        for number in range(5):
            assert await execute(client, make_call(number)) == {f"g{number}": SUCCEEDED}
    assert stock.rpcs == 5


# --- replicas, age, restarts ------------------------------------------------------


@asynccontextmanager
async def two_replicas(
    first: StreamingParticipant, second: StreamingParticipant
) -> AsyncIterator[ParticipantClient]:
    async with (
        serving(first) as one,
        serving(second) as other,
        calling(ParticipantAddress(target=f"ipv4:{one},{other}")) as client,
    ):
        yield client


async def test_each_replica_has_one_stream_and_the_least_loaded_gets_the_call(
    stock: StreamingParticipant,
) -> None:
    other, go = StreamingParticipant(), asyncio.Event()

    async def wait(context) -> None:
        await other.greet(context)
        while (request := await other.read(context)) is not None:
            await go.wait()
            await context.write(results(*ids_of(request)))

    other.on_stream = wait
    async with two_replicas(stock, other) as client:
        opening = asyncio.create_task(until_open(client, stock, other))
        await until(lambda: bool(other.calls) or opening.done())
        go.set()
        await opening
        go.clear()
        sending: list[asyncio.Future[object]] = []
        while not other.calls:
            sending.append(asyncio.ensure_future(execute(client)))
            await until(lambda: len(stock.calls) + len(other.calls) == len(sending))
        # The other one has an unanswered call, so the first one gets all further calls.
        for _ in range(5):
            assert await execute(client) == {"g0": SUCCEEDED}
        assert len(other.calls) == 1
        go.set()
        await asyncio.gather(*sending)
        assert (stock.rpcs, other.rpcs) == (0, 0)


async def test_an_old_stream_is_replaced_by_a_new_one_without_a_failed_call(
    stock: StreamingParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participant_client, "_AGE_MIN_S", 0.0)
    monkeypatch.setattr(participant_client, "_AGE_MAX_S", 0.0)
    async with serving(stock) as target, calling(ParticipantAddress(target=target)) as client:
        await streams_of(client).search()
        first = streams_of(client)
        while streams_of(client) is first or stock.half_closed < 4:
            assert await execute(client) == {"g0": SUCCEEDED}
        # There was a stream all the time.
        assert stock.rpcs == 0


async def test_goaway_in_the_middle_fails_no_call(stock: StreamingParticipant) -> None:
    """A server that stops sends GOAWAY; the stream goes on until the grace period ends."""
    go = asyncio.Event()

    async def wait(context) -> None:
        await stock.greet(context)
        while (request := await stock.read(context)) is not None:
            await go.wait()
            await context.write(results(*ids_of(request)))

    stock.on_stream = wait
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(stock, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with calling(ParticipantAddress(target=f"127.0.0.1:{port}")) as client:
        await streams_of(client).search()
        waiting = asyncio.ensure_future(execute(client, make_call(1)))
        await until(lambda: bool(stock.calls))
        stopping = asyncio.create_task(server.stop(30))
        await asyncio.sleep(0)
        later = asyncio.ensure_future(execute(client, make_call(2)))
        go.set()
        assert await waiting == {"g1": SUCCEEDED}
        assert await later == {"g2": SUCCEEDED}
        streams_of(client).retire()
        await stopping
        assert stock.rpcs == 0


async def test_a_connection_that_reaches_its_age_fails_no_call(stock: StreamingParticipant) -> None:
    """gRPC's own limit, without a grace period, sends GOAWAY and leaves the stream alone."""
    server = grpc.aio.server(options=(("grpc.max_connection_age_ms", 1),))
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(stock, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with calling(ParticipantAddress(target=f"127.0.0.1:{port}")) as client:
        await streams_of(client).search()
        for _ in range(100):
            assert await execute(client) == {"g0": SUCCEEDED}
    await server.stop(None)
    assert stock.rpcs == 0


async def test_certificates_rotate_without_a_failed_call_and_streams_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participant_client, "_FILES_CHECKED_EVERY_S", 0.0)
    tccd, renewed = "spiffe://bank.example/tccd", "spiffe://bank.example/tccd/renewed"

    class Stock(StreamingParticipant):
        async def StreamBranches(self, requests, context):  # noqa: N802
            (name,) = context.auth_context()["peer_spiffe_id"]
            read = self.read

            async def named_read(context):
                request = await read(context)
                if request is not None and request.items:
                    names.append(name.decode())
                return request

            self.read = named_read
            await super().StreamBranches(requests, context)

    names: list[str] = []
    for name in ("stock", "tccd"):
        (tmp_path / name).mkdir()
    theirs = Site(tmp_path / "stock")
    ours = Site(tmp_path / "tccd", theirs.authority, theirs.authority.issue(tccd))
    stock = Stock()
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(stock, server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(theirs.tls()))
    await server.start()
    async with calling(ParticipantAddress(target=f"127.0.0.1:{port}", tls=ours.tls())) as client:
        await streams_of(client).search()
        assert await execute(client) == {"g0": SUCCEEDED}
        theirs.write(theirs.authority.issue("tcc.test", client=False))
        ours.write(theirs.authority.issue(renewed))
        while renewed not in names:
            assert await execute(client) == {"g0": SUCCEEDED}
        assert stock.rpcs == 0
    await server.stop(None)
    assert names[0] == tccd


async def test_a_stream_shows_the_token_of_the_file(stock: StreamingParticipant, tmp_path: Path) -> None:
    shown: list[object] = []

    async def note(context) -> None:
        shown.append(dict(context.invocation_metadata()).get("authorization"))
        await stock.answer_all(context)

    stock.on_stream = note
    file = tmp_path / "token"
    file.write_text("one\n")
    async with (
        serving(stock) as target,
        calling(ParticipantAddress(target=target, token_file=file)) as client,
    ):
        await streams_of(client).search()
        assert await execute(client) == {"g0": SUCCEEDED}
    assert (set(shown), stock.rpcs) == ({"Bearer one"}, 0)
