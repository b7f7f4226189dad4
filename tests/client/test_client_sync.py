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


def test_a_closed_client_raises_and_leaves_no_thread():
    before = set(threading.enumerate())
    client = tcc.SyncClient("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(errors.ClientClosed):
        client.execute(BRANCHES)
    assert not {thread for thread in threading.enumerate() if thread.name == "tcc-client"} - before
