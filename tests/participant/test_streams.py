"""A participant's streams: each item has a result of its own, and what ends a stream ends nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from sqlalchemy import text

from tcc import Participant, Rejected
from tcc.common.v1 import common_pb2 as common
from tcc.participant import stream
from tcc.participant.v1 import participant_pb2 as pb
from tests.barrier.test_barrier import AsyncBatch, make_call
from tests.participant.test_participant import Idle
from tests.participant.test_traces import Spans, parent
from tests.support.participant_databases import Caller
from tests.support.scripted_participant import SUCCEEDED

PATIENCE_S = 60
OK, REJECTED, FAILED = (
    common.OUTCOME_CODE_SUCCEEDED,
    common.OUTCOME_CODE_REJECTED,
    common.OUTCOME_CODE_FAILED,
)


@pytest.fixture(autouse=True)
async def patience() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE_S):
        yield


class Held(Idle):
    """Trys wait until `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = asyncio.Semaphore(0)

    async def try_(self, branch, request, db):
        self.running.release()
        await self.go.wait()


def held(engine, **options) -> tuple[Participant, Held]:
    participant, handlers = Participant("test", database=engine, **options), Held()
    participant.action("act", bytes)(handlers)
    return participant, handlers


def item(item_id: int, gid: str = "", **fields) -> pb.StreamBranchesItem:
    return pb.StreamBranchesItem(id=item_id, call=make_call(gid=gid or f"g{item_id}", **fields))


class Coordinator:
    """One end of a stream."""

    def __init__(self, caller: Caller) -> None:
        self.rpc = caller.stub.StreamBranches()

    async def greeting(self) -> pb.StreamBranchesResponse:
        return await self.rpc.read()

    async def send(self, *items: pb.StreamBranchesItem, cancelled_ids: Sequence[int] = ()) -> None:
        await self.rpc.write(pb.StreamBranchesRequest(items=items, cancelled_ids=cancelled_ids))

    async def send_bytes(self, raw: bytes) -> None:
        self.rpc._request_serializer = None
        await self.rpc.write(raw)

    async def results(self, count: int) -> dict[int, common.CallResult]:
        """Return the next results, by id."""
        found: dict[int, common.CallResult] = {}
        while len(found) < count:
            response = await self.rpc.read()
            assert response is not grpc.aio.EOF, f"it ended after {found}"
            for each in response.results:
                assert each.id not in found
                found[each.id] = each.result
        return found

    async def ends(self) -> grpc.StatusCode:
        """Return the status with which it ends, without a further result."""
        try:
            while (response := await self.rpc.read()) is not grpc.aio.EOF:
                assert not response.results
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def open_stream(caller: Caller) -> Coordinator:
    coordinator = Coordinator(caller)
    await coordinator.greeting()
    return coordinator


async def test_the_first_response_has_the_credit_and_names_the_process(call_participant, sqlite):
    caller = await call_participant(held(sqlite[0], waiting_max=7)[0])
    first, second = [await Coordinator(caller).greeting() for _ in range(2)]
    assert (first.credit, first.draining, len(first.results)) == (7, False, 0)
    assert first.replica_id
    assert first.replica_id == second.replica_id


async def test_items_run_in_one_batch_and_have_results_by_id(call_participant, sqlite):
    engine, ledger = sqlite
    sizes: list[int] = []

    class Counting(AsyncBatch):
        async def try_batch(self, items, db):
            sizes.append(len(items))
            return await super().try_batch(items, db)

    participant = Participant("test", database=engine)
    participant.action("single")(Counting)
    caller = await call_participant(participant)
    coordinator = await open_stream(caller)
    await coordinator.send(*(item(number) for number in (5, 3, 4)))
    found = await coordinator.results(3)
    assert {number: result.code for number, result in found.items()} == {3: OK, 4: OK, 5: OK}
    assert sizes == [3]
    assert ledger.effects("g4") == ["try"]


async def test_an_item_that_fails_affects_no_other(call_participant, sqlite):
    class Choosy(Idle):
        async def try_(self, branch, request, db):
            if request == b"no":
                raise Rejected("SOLD_OUT")
            if request == b"bug":
                raise KeyError("sku")

    participant = Participant("test", database=sqlite[0])
    participant.action("act", bytes)(Choosy)
    coordinator = await open_stream(await call_participant(participant))
    request = pb.StreamBranchesRequest(
        items=[
            item(1, action="act", payload=b"yes"),
            item(2, action="act", payload=b"no"),
            item(3, action="act", payload=b"bug"),
            item(4, action="none"),
            item(5, action="@@"),
            pb.StreamBranchesItem(id=6),
            item(7, action="act"),
        ]
    )
    # Not UTF-8, so no message; a request with such an item cannot be decoded as a whole.
    raw = request.SerializeToString().replace(b"@@", b"\xff\xff")
    await coordinator.send_bytes(raw)
    found = await coordinator.results(7)
    assert {number: (result.code, result.reason) for number, result in sorted(found.items())} == {
        1: (OK, ""),
        2: (REJECTED, "SOLD_OUT"),
        3: (FAILED, "HANDLER_ERROR"),
        4: (FAILED, "UNKNOWN_ACTION"),
        5: (FAILED, "INVALID_CALL"),
        6: (FAILED, "INVALID_CALL"),
        7: (OK, ""),
    }


async def test_each_item_has_a_span_of_its_own(call_participant, sqlite):
    spans = Spans()
    participant = Participant("test", database=sqlite[0], tracer_provider=spans.provider)
    participant.action("act", bytes)(Idle)
    coordinator = await open_stream(await call_participant(participant))
    traced = {number: parent(f"b7ad6b716920333{number}") for number in (1, 2)}
    await coordinator.send(
        *(item(number, action="act", traceparent=trace) for number, trace in traced.items()),
        item(3, action="act"),
    )
    await coordinator.results(3)
    assert {span.attributes["tcc.gid"]: f"{span.parent.span_id:016x}" for span in spans.named("tcc.try")} == {
        "g1": "b7ad6b7169203331",
        "g2": "b7ad6b7169203332",
    }


async def test_what_is_no_request_ends_its_stream_after_the_results(call_participant, sqlite):
    participant, handlers = held(sqlite[0])
    coordinator = await open_stream(await call_participant(participant))
    await coordinator.send(item(1, action="act"))
    await handlers.running.acquire()
    await coordinator.send_bytes(b"\xff\xff")
    handlers.go.set()
    assert (await coordinator.results(1))[1] == SUCCEEDED
    assert await coordinator.ends() is grpc.StatusCode.INVALID_ARGUMENT


async def test_overload_is_a_result(call_participant, sqlite):
    participant, handlers = held(sqlite[0], waiting_max=2)
    caller = await call_participant(participant)
    first, second = await open_stream(caller), await open_stream(caller)
    await first.send(item(1, action="act"))
    await handlers.running.acquire()
    await second.send(item(2, action="act"), item(3, action="act"))
    [refused] = (await second.results(1)).items()
    assert (refused[0], refused[1].reason, refused[1].permanent) == (3, "OVERLOADED", False)
    handlers.go.set()
    assert (await first.results(1))[1] == SUCCEEDED
    assert (await second.results(1))[2] == SUCCEEDED
    await second.send(item(4, action="act"))
    assert (await second.results(1))[4] == SUCCEEDED


async def test_a_coordinator_beyond_its_credit_is_not_read(call_participant, sqlite):
    participant, handlers = held(sqlite[0], waiting_max=2)
    coordinator = await open_stream(await call_participant(participant))
    await coordinator.send(item(1, action="act"), item(2, action="act"))
    # One beyond it is answered; as long as its answer cannot be sent, nothing more is read.
    unsent = stream.BranchStream(participant._server[2], credit=2)
    requests = [
        pb.StreamBranchesRequest(items=[item(number, action="none")]).SerializeToString()
        for number in range(10, 20)
    ]
    read = 0

    async def sending() -> AsyncIterator[bytes]:
        nonlocal read
        for request in requests:
            read += 1
            yield request

    reader = asyncio.create_task(unsent.read(sending()))
    for _ in range(50):
        await asyncio.sleep(0)
    assert read == 3
    taken = [len(response.results) async for response in unsent.responses()]
    assert (sum(taken), read) == (10, 10)
    await reader
    handlers.go.set()
    assert len(await coordinator.results(2)) == 2


async def test_a_cancelled_item_has_no_result_and_runs_on(call_participant, sqlite):
    participant, handlers = held(sqlite[0])
    coordinator = await open_stream(await call_participant(participant))
    await coordinator.send(item(1, action="act"))
    await handlers.running.acquire()
    await coordinator.send(item(2, action="none"), cancelled_ids=[1, 77])
    assert set(await coordinator.results(1)) == {2}
    handlers.go.set()
    await coordinator.rpc.done_writing()
    assert await coordinator.ends() is grpc.StatusCode.OK
    # Its end does not wait for what has no result.
    async with asyncio.timeout(30):
        while not (found := await gids(sqlite[0])):
            pass
    assert found == {"g1"}


async def occupied(call_participant, engine) -> tuple[Participant, Held, Caller, Coordinator, int]:
    """Return a participant whose transactions are all taken by as many items of a coordinator."""
    participant, handlers = held(engine)
    caller = await call_participant(participant)
    coordinator = await open_stream(caller)
    count = participant._executor.connections
    await coordinator.send(*[item(number, action="act") for number in range(count)])
    for _ in range(count):
        await handlers.running.acquire()
    return participant, handlers, caller, coordinator, count


async def gids(engine) -> set[str]:
    async with engine.connect() as db:
        return set((await db.scalars(text("SELECT gid FROM tcc_barrier"))).all())


async def test_an_item_that_is_cancelled_while_it_waits_is_not_run(call_participant, sqlite):
    """A participant that is too slow would otherwise do only what no caller waits for."""
    _, handlers, _, coordinator, count = await occupied(call_participant, sqlite[0])
    await coordinator.send(item(101, "late", action="act"), item(102, "again", action="act"))
    await coordinator.send(item(103, "again", action="act"), cancelled_ids=[101, 102])
    await coordinator.send(item(104, action="none"))
    assert set(await coordinator.results(1)) == {104}
    handlers.go.set()
    # The copy of a dropped call is run in its place.
    assert (await coordinator.results(count + 1))[103] == SUCCEEDED
    await coordinator.rpc.done_writing()
    assert await coordinator.ends() is grpc.StatusCode.OK
    assert await gids(sqlite[0]) == {f"g{number}" for number in range(count)} | {"again"}


async def test_items_of_a_coordinator_that_left_are_not_run(call_participant, sqlite):
    participant, handlers, caller, coordinator, count = await occupied(call_participant, sqlite[0])
    leaving = await open_stream(caller)
    await leaving.send(item(101, "late", action="act"), item(102, action="none"))
    assert set(await leaving.results(1)) == {102}
    leaving.rpc.cancel()
    while len(participant._server[1]._streams) > 1:  # noqa: ASYNC110 - its end has no event
        await asyncio.sleep(0)
    handlers.go.set()
    await coordinator.results(count)
    await coordinator.send(item(103, "last", action="act"))
    assert (await coordinator.results(1))[103] == SUCCEEDED
    assert await gids(sqlite[0]) == {f"g{number}" for number in range(count)} | {"last"}


async def test_an_id_in_use_keeps_its_call(call_participant, sqlite):
    participant, handlers = held(sqlite[0])
    coordinator = await open_stream(await call_participant(participant))
    await coordinator.send(item(1, action="act"))
    await handlers.running.acquire()
    await coordinator.send(item(1, "other", action="none"), item(2, action="none"))
    assert set(await coordinator.results(1)) == {2}
    handlers.go.set()
    assert (await coordinator.results(1))[1] == SUCCEEDED


async def test_the_coordinators_half_close_ends_the_stream_after_the_last_result(call_participant, sqlite):
    participant, handlers = held(sqlite[0])
    coordinator = await open_stream(await call_participant(participant))
    await coordinator.send(item(1, action="act"))
    await coordinator.rpc.done_writing()
    await handlers.running.acquire()
    handlers.go.set()
    assert (await coordinator.results(1))[1] == SUCCEEDED
    assert await coordinator.ends() is grpc.StatusCode.OK


async def test_stopping_drains_streams_and_answers_what_is_on_its_way(call_participant, sqlite):
    participant, handlers = held(sqlite[0])
    coordinator = await open_stream(await call_participant(participant))
    await coordinator.send(item(1, action="act"))
    await handlers.running.acquire()
    stopping = asyncio.create_task(participant.stop(30))
    response = await coordinator.rpc.read()
    assert response.draining
    # It was written before `draining` was read.
    await coordinator.send(item(2, action="act"))
    await coordinator.rpc.done_writing()
    handlers.go.set()
    assert set(await coordinator.results(2)) == {1, 2}
    assert await coordinator.ends() is grpc.StatusCode.OK
    await stopping


async def test_stopping_waits_for_items_and_not_for_the_half_close(call_participant, sqlite, monkeypatch):
    monkeypatch.setattr(stream, "HALF_CLOSE_TIMEOUT_S", 0.01)
    participant, handlers = held(sqlite[0])
    caller = await call_participant(participant)
    idle, busy = await open_stream(caller), await open_stream(caller)
    await busy.send(item(1, action="act"))
    await handlers.running.acquire()
    stopping = asyncio.create_task(participant.stop(30))
    assert await idle.ends() is grpc.StatusCode.OK
    handlers.go.set()
    assert set(await busy.results(1)) == {1}
    assert await busy.ends() is grpc.StatusCode.OK
    await stopping


async def test_a_stream_reaches_its_age(call_participant, sqlite, monkeypatch):
    monkeypatch.setattr("tcc.participant.service.CONNECTION_AGE_MAX_MS", 10)
    participant, _ = held(sqlite[0])
    coordinator = await open_stream(await call_participant(participant))
    assert (await coordinator.rpc.read()).draining
    await coordinator.rpc.done_writing()
    assert await coordinator.ends() is grpc.StatusCode.OK


async def test_a_coordinator_that_leaves_affects_no_other(call_participant, sqlite):
    participant, handlers = held(sqlite[0])
    caller = await call_participant(participant)
    leaving, staying = await open_stream(caller), await open_stream(caller)
    await leaving.send(item(1, action="act"))
    await handlers.running.acquire()
    leaving.rpc.cancel()
    handlers.go.set()
    await staying.send(item(1, "g1", action="act"), item(2, action="act"))
    assert (await staying.results(2))[1] == SUCCEEDED
    # Its own stream is all that is left.
    async with asyncio.timeout(PATIENCE_S):
        while len(participant._server[1]._streams) > 1:  # noqa: ASYNC110 - its end has no event
            await asyncio.sleep(0)
