"""The synchronous client: the same logic from threads without an event loop."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import tcc
from tcc import context as contexts, errors
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.client.scripted_service import ScriptedService, confirmed, rejected, serving
from tests.client.test_client_interactive import BEGUN, CANCELLED, CONFIRMED, GID, REGISTERED, TRIED, kinds

BRANCHES = [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})]


@pytest.fixture
def service():
    return ScriptedService()


@pytest.fixture
async def target(service):
    async with serving(service) as target:
        yield target


async def test_execute_returns_and_raises_as_the_async_one(service, target):
    async def execute(request):
        sold_out = request.gid == "sold-out"
        return rejected(request.gid, "inventory", "SOLD_OUT") if sold_out else confirmed(request.gid)

    service.execute = execute

    def work():
        with tcc.SyncClient(target) as client:
            assert client.execute(BRANCHES, gid="fine").confirmed
            with pytest.raises(tcc.TransactionCancelled):
                client.execute(BRANCHES, gid="sold-out")

    await asyncio.to_thread(work)
    assert service.gids == ["fine", "sold-out"]


async def test_threads_share_batches(service, target):
    at_once = threading.Barrier(20)

    def work():
        with tcc.SyncClient(target) as client, ThreadPoolExecutor(20) as threads:

            def call(number):
                at_once.wait()
                return client.execute(BRANCHES, gid=str(number)).gid

            return set(threads.map(call, range(20)))

    assert await asyncio.to_thread(work) == {str(number) for number in range(20)}
    assert len(service.gids) == 20
    assert service.batches


async def test_a_transaction_confirms_and_its_contexts_are_the_callers(service, target):
    service.answers = [BEGUN, TRIED, REGISTERED, CONFIRMED]

    def work():
        with tcc.SyncClient(target) as client:
            with client.transaction(gid=GID) as tx:
                assert tx.try_("inventory", "reserve_stock").json() == {"price": 5}
                assert contexts.current() == tx.context
                with tx.register("order", "open_order") as context:
                    assert contexts.current() == context
                assert contexts.current() == tx.context
            assert contexts.current() is None
            assert tx.outcome is not None
            assert tx.outcome.confirmed

    await asyncio.to_thread(work)
    assert kinds(service) == ["Begin", "TryBranch", "RegisterBranch", "Confirm"]


async def test_an_exception_cancels_and_propagates(service, target):
    service.answers = [BEGUN, CANCELLED]

    def work():
        with tcc.SyncClient(target) as client, pytest.raises(KeyError), client.transaction(gid=GID):
            raise KeyError("no such customer")

    await asyncio.to_thread(work)
    assert kinds(service) == ["Begin", "Cancel"]


@pytest.mark.parametrize("joined", [False, True])
async def test_a_registered_try_that_failed_cannot_be_confirmed(service, target, joined):
    service.answers = [REGISTERED, CANCELLED] if joined else [BEGUN, REGISTERED, CANCELLED]

    def register(tx):
        with pytest.raises(KeyError), tx.register("order", "open_order"):
            raise KeyError("no such order")

    def work():
        with tcc.SyncClient(target) as client:
            if joined:
                register(client.join(tcc.TransactionContext(gid=GID, branch_id="a")))
            else:
                with pytest.raises(tcc.TransactionCancelled), client.transaction(gid=GID) as tx:
                    register(tx)

    await asyncio.to_thread(work)
    assert kinds(service)[-1] == "Cancel"
    assert "Confirm" not in kinds(service)


async def test_a_generator_that_is_closed_within_the_block_cancels(service, target):
    service.answers = [BEGUN, CANCELLED]

    def business(client):
        with client.transaction(gid=GID):
            yield

    def work():
        with tcc.SyncClient(target) as client:
            generator = business(client)
            next(generator)
            generator.close()

    await asyncio.to_thread(work)
    assert kinds(service) == ["Begin", "Cancel"]


async def test_joining_and_reading(service, target):
    page = pb.ListTransactionsResponse(
        transactions=[common.Transaction(gid=gid, state=common.TRANSACTION_STATE_CONFIRMED) for gid in "ab"]
    )
    service.answers = [TRIED, page, pb.WaitTransactionResponse(outcome=confirmed(GID))]

    def work():
        with tcc.SyncClient(target) as client:
            assert client.current_transaction() is None
            with tcc.TransactionContext(gid=GID, branch_id="order"):
                joined = client.current_transaction()
                assert joined is not None
                joined.try_("inventory", "reserve_stock")
            assert [record.gid for record in client.list()] == ["a", "b"]
            assert client.wait(GID).confirmed

    await asyncio.to_thread(work)
    assert service.requests[0].branch.branch_id == "order/inventory"


async def test_closing_ends_the_calls_of_other_threads():
    arrived = asyncio.Semaphore(0)

    class Holding(ScriptedService):
        async def _hold(self, request, context=None):
            arrived.release()
            await asyncio.Event().wait()

        BeginTransaction = WaitTransaction = _hold

    service = Holding()
    service.execute = service._hold
    async with serving(service) as target:
        client = tcc.SyncClient(target, timeout_s=600)
        calls = [
            lambda: client.execute(BRANCHES),
            lambda: client.execute(BRANCHES),
            lambda: client.wait(GID),
            lambda: client.transaction().begin(),
        ]
        waiting = [asyncio.create_task(asyncio.to_thread(call)) for call in calls]
        for _ in calls:
            await arrived.acquire()
        await asyncio.to_thread(client.close)
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(ended, errors.ClientClosed)


async def test_closing_one_client_leaves_the_calls_of_another_alone(target, service):
    arrived, go = asyncio.Event(), asyncio.Event()

    async def execute(request):
        arrived.set()
        await go.wait()
        return confirmed(request.gid)

    service.execute = execute
    with tcc.SyncClient(target) as client, tcc.SyncClient(target) as other:
        waiting = asyncio.create_task(asyncio.to_thread(client.execute, BRANCHES))
        await arrived.wait()
        await asyncio.to_thread(other.close)
        go.set()
        assert (await waiting).confirmed


async def test_threads_that_call_and_close_at_random_all_end(target):
    def work(number):
        client = clients[number % len(clients)]
        ended = []
        for turn in range(10):
            try:
                ended.append(client.execute(BRANCHES).confirmed)
            except errors.ClientClosed:
                ended.append(False)
            if turn == number % 10:
                client.close()
        return ended

    clients = [tcc.SyncClient(target, timeout_s=600) for _ in range(5)]
    ended = await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(10)))
    assert [len(calls) for calls in ended] == [10] * 10
    assert not any(calls[-1] for calls in ended)


async def test_many_clients_share_one_thread(target):
    def work():
        for _ in range(20):
            with tcc.SyncClient(target) as client:
                client.execute(BRANCHES)
        return [thread.name for thread in threading.enumerate()].count("tcc-client")

    assert await asyncio.to_thread(work) == 1


async def test_a_transaction_outlives_the_name_of_its_client(service, target):
    service.answers = [BEGUN, CONFIRMED]

    def work():
        with tcc.SyncClient(target).transaction(gid=GID) as tx:
            pass
        return tx.outcome.confirmed

    assert await asyncio.to_thread(work)


async def test_a_call_from_the_clients_own_thread_is_refused(target):
    class Request:
        def model_dump_json(self):
            return client.execute(BRANCHES).gid

    with tcc.SyncClient(target) as client, pytest.raises(TypeError, match="wait for its own result"):
        await asyncio.to_thread(client.execute, [tcc.BranchRequest("inventory", "reserve_stock", Request())])


def test_a_closed_client_raises():
    client = tcc.SyncClient("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(errors.ClientClosed):
        client.execute(BRANCHES)
    with pytest.raises(errors.ClientClosed), client.transaction():
        pass


async def test_closing_leaves_a_transaction_without_a_block_to_another_process(service, target):
    service.answers = [BEGUN]

    def begin():
        with tcc.SyncClient(target) as client:
            client.transaction(gid=GID).begin()

    await asyncio.to_thread(begin)
    assert len(service.requests) == 1  # the begin, and no cancel
