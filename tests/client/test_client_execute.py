"""Whole transactions through the client: batching, repeating, deadlines, and who gets which error."""

import asyncio
import gc
from dataclasses import dataclass

import grpc
import pytest
from google.rpc.code_pb2 import Code

import tcc
from tcc import errors
from tcc.client import submission
from tcc.client.outcome import BranchState, outcome_of, record_of
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.client.scripted_service import UNAVAILABLE, ScriptedService, confirmed, rejected, serving, status

BRANCHES = [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})]


@pytest.fixture
def service():
    return ScriptedService()


@pytest.fixture
async def client(service):
    async with serving(service) as target, tcc.Client(target, initiator="shop") as client:
        yield client


@pytest.fixture
def long_linger(monkeypatch):
    """The next batch leaves only when the previous one is done."""
    monkeypatch.setattr(submission, "LINGER_MIN_S", 60.0)
    monkeypatch.setattr(submission, "LINGER_MAX_S", 60.0)


class Gate:
    """An `execute` that holds the transactions of some gids until it is opened."""

    def __init__(self, *gids: str) -> None:
        self.gids = gids
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, request):
        if request.gid in self.gids:
            self.reached.set()
            await self.opened.wait()
        return confirmed(request.gid)


def failing(times: int, failure, gid: str | None = None):
    """An `execute` that answers `failure` so many times, to one gid or to all."""
    left = times

    async def execute(request):
        nonlocal left
        if left and (gid is None or request.gid == gid):
            left -= 1
            return failure
        return confirmed(request.gid)

    return execute


@dataclass
class Order:
    order_id: str


# --- what is sent and returned ---------------------------------------------


async def test_a_transaction_arrives_as_it_was_described(client, service):
    outcome = await client.execute(
        [
            tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"}, stage=1),
            tcc.BranchRequest("inventory", "reserve_stock", b"\0raw"),
            tcc.BranchRequest("order", "open_order", Order("17"), branch_id="mine"),
        ],
        gid="order-17",
        expiry_s=1.5,
        labels={"order": "17"},
        wait_for="completion",
    )
    assert outcome == tcc.Outcome(gid="order-17", state=tcc.TransactionState.CONFIRMING)
    assert outcome.confirmed
    assert not outcome.completed
    [request] = service.unary
    assert [(b.branch_id, b.payload, b.content_type, b.stage) for b in request.branches] == [
        ("inventory", b'{"sku":"A"}', "application/json", 1),
        ("inventory-2", b"\0raw", "application/octet-stream", 0),
        ("mine", b'{"order_id":"17"}', "application/json", 0),
    ]
    assert (request.gid, request.initiator, dict(request.labels)) == ("order-17", "shop", {"order": "17"})
    assert request.expiry.ToMilliseconds() == 1500
    assert request.wait_for == pb.WAIT_FOR_COMPLETION


async def test_a_default_branch_id_gives_way_to_a_given_one(client, service):
    await client.execute(
        [
            tcc.BranchRequest("inventory", "reserve_stock"),
            tcc.BranchRequest("order", "open_order", branch_id="inventory"),
        ]
    )
    assert [b.branch_id for b in service.unary[0].branches] == ["inventory-2", "inventory"]


async def test_without_a_gid_a_new_one_is_made_each_time(client, service):
    outcomes = [await client.execute(BRANCHES) for _ in range(2)]
    assert [outcome.gid for outcome in outcomes] == service.gids
    assert len(set(service.gids)) == 2
    assert "" not in service.gids


async def test_results_of_the_trys_come_back_by_branch(client, service):
    async def execute(request):
        return confirmed(request.gid, inventory=b'{"freeze": 3}')

    service.execute = execute
    outcome = await client.execute(BRANCHES)
    assert outcome.results["inventory"].json() == {"freeze": 3}


async def test_a_wrong_wait_for_or_payload_is_refused_before_anything_is_sent(client, service):
    with pytest.raises(ValueError, match="wait_for"):
        await client.execute(BRANCHES, wait_for="forever")
    with pytest.raises(TypeError):
        await client.execute([tcc.BranchRequest("inventory", "reserve_stock", object())])
    assert service.gids == []


# --- cancelled ---------------------------------------------------------------


async def test_a_cancelled_transaction_is_raised_with_its_reason(client, service):
    async def execute(request):
        return rejected(request.gid, "inventory", "SOLD_OUT", "only 2 left")

    service.execute = execute
    with pytest.raises(tcc.TransactionCancelled) as raised:
        await client.execute(BRANCHES, gid="order-17")
    error = raised.value
    assert error.message == "transaction order-17 was cancelled by branch inventory (SOLD_OUT): only 2 left"
    assert error.cancel_message == error.outcome.cancel_message == "only 2 left"
    assert type(error) is tcc.TransactionCancelled
    assert error.cancel_reason is tcc.CancelReason.REJECTED
    assert (error.reason, error.cancel_branch_id, error.detail) == ("REJECTED", "inventory", "SOLD_OUT")
    assert error.outcome.gid == "order-17"
    assert error.code is grpc.StatusCode.ABORTED

    outcome = await client.execute(BRANCHES, gid="order-17", raise_on_cancel=False)
    assert outcome == error.outcome
    assert outcome.cancelled


async def test_a_timed_out_transaction_names_the_branch_that_kept_failing(client, service):
    async def execute(request):
        return pb.TransactionOutcome(
            gid=request.gid,
            state=common.TRANSACTION_STATE_CANCELLING,
            cancel_reason=common.CANCEL_REASON_EXPIRED,
            cancel_branch_id="inventory",
            cancel_detail="HANDLER_ERROR",
            cancel_message="KeyError: 'sku'",
        )

    service.execute = execute
    with pytest.raises(tcc.TryTimedOut) as raised:
        await client.execute(BRANCHES, gid="order-1")
    error = raised.value
    assert str(error) == (
        "EXPIRED: transaction order-1 was cancelled: its time was up while a Try kept failing; "
        "branch inventory: HANDLER_ERROR KeyError: 'sku'"
    )
    assert (error.cancel_reason, error.cancel_branch_id) == (tcc.CancelReason.EXPIRED, "inventory")
    assert (error.detail, error.cancel_message) == ("HANDLER_ERROR", "KeyError: 'sku'")


async def test_a_timed_out_transaction_without_a_failure_names_no_branch(client, service):
    async def execute(request):
        return pb.TransactionOutcome(
            gid=request.gid,
            state=common.TRANSACTION_STATE_CANCELLING,
            cancel_reason=common.CANCEL_REASON_EXPIRED,
        )

    service.execute = execute
    with pytest.raises(tcc.TransactionCancelled) as raised:
        await client.execute(BRANCHES, gid="order-1")
    assert type(raised.value) is tcc.TransactionCancelled
    assert str(raised.value) == "EXPIRED: transaction order-1 was cancelled"


# --- batches ------------------------------------------------------------------


async def test_a_single_call_is_unary_and_those_queued_behind_it_are_one_batch(client, service):
    gate = service.execute = Gate("first")
    first = asyncio.create_task(client.execute(BRANCHES, gid="first"))
    await gate.reached.wait()
    others = [f"gid-{n}" for n in range(100)]
    # All of these are queued in one turn of the loop.
    outcomes = await asyncio.gather(*(client.execute(BRANCHES, gid=gid) for gid in others))
    assert [outcome.gid for outcome in outcomes] == others
    assert [request.gid for request in service.unary] == ["first"]
    assert [len(batch.transactions) for batch in service.batches] == [100]
    assert not first.done(), "the slow one delays no other"
    gate.opened.set()
    assert (await first).gid == "first"


async def test_calls_that_arrive_singly_wait_for_the_linger_and_are_one_batch(client, service, long_linger):
    gate = service.execute = Gate("first")
    first = asyncio.create_task(client.execute(BRANCHES, gid="first"))
    await gate.reached.wait()
    others = []
    for number in range(40):
        others.append(asyncio.create_task(client.execute(BRANCHES, gid=f"gid-{number}")))
        await asyncio.sleep(0)  # one turn of the loop, in which an impatient sender would send
    gate.opened.set()
    await asyncio.gather(first, *others)
    assert [len(batch.transactions) for batch in service.batches] == [40]


async def test_a_slow_transaction_delays_neither_its_batch_nor_the_next(client, service):
    gate = service.execute = Gate("slow")
    batch = [asyncio.create_task(client.execute(BRANCHES, gid=gid)) for gid in ("slow", "a", "b")]
    assert {(await task).gid for task in batch[1:]} == {"a", "b"}
    next_ones = await asyncio.gather(*(client.execute(BRANCHES, gid=gid) for gid in ("c", "d")))
    assert {outcome.gid for outcome in next_ones} == {"c", "d"}
    assert not batch[0].done()
    gate.opened.set()
    assert (await batch[0]).gid == "slow"


async def test_a_batch_is_bounded_by_count_and_bytes(service):
    large = [tcc.BranchRequest("inventory", "reserve_stock", b"x" * 1_000)]
    async with serving(service) as target:
        async with tcc.Client(target, batch_items_max=10) as client:
            await asyncio.gather(*(client.execute(BRANCHES) for _ in range(25)))
        # Concurrent calls arrive in any order.
        assert sorted(len(batch.transactions) for batch in service.batches) == [5, 10, 10]
        service.batches.clear()
        async with tcc.Client(target, batch_bytes_max=2_500) as client:
            await asyncio.gather(*(client.execute(large) for _ in range(6)))
        assert [len(batch.transactions) for batch in service.batches] == [2, 2, 2]


# --- errors of one item --------------------------------------------------------


async def test_an_error_of_one_item_fails_only_its_caller(client, service):
    conflict = common.Error(code=Code.ALREADY_EXISTS, reason="GID_CONFLICT", message="other content")
    service.execute = failing(1, conflict, gid="b")
    results = await asyncio.gather(
        *(client.execute(BRANCHES, gid=gid) for gid in ("a", "b", "c")), return_exceptions=True
    )
    assert [getattr(result, "gid", None) for result in results] == ["a", None, "c"]
    assert isinstance(results[1], errors.GidConflict)
    assert results[1].message == "other content"
    assert service.gids == ["a", "b", "c"], "nothing was repeated"


async def test_a_busy_item_is_repeated_and_the_others_are_not(client, service):
    busy = common.Error(code=Code.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after_ms=1)
    service.execute = failing(2, busy, gid="b")
    await asyncio.gather(*(client.execute(BRANCHES, gid=gid) for gid in ("a", "b", "c")))
    assert sorted(service.gids) == ["a", "b", "b", "b", "c"]


async def test_an_item_being_repeated_is_not_repeated_when_its_batch_ends(client, service):
    refuse, answer = asyncio.Event(), asyncio.Event()
    again = asyncio.Event()

    async def execute(request):
        if request.gid == "slow" and service.gids.count("slow") == 1:
            await refuse.wait()
            return status(Code.INTERNAL, "BROKEN", "a bug")
        if request.gid == "busy" and service.gids.count("busy") == 1:
            return common.Error(code=Code.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after_ms=1)
        if request.gid == "busy":
            again.set()
            await answer.wait()
        return confirmed(request.gid)

    service.execute = execute
    slow, busy = (asyncio.create_task(client.execute(BRANCHES, gid=gid)) for gid in ("slow", "busy"))
    await again.wait()
    refuse.set()
    # The rest of the batch goes on item by item; the busy one has a call of its own already.
    assert (await slow).gid == "slow"
    answer.set()
    assert (await busy).gid == "busy"
    assert sorted(service.gids) == ["busy", "busy", "slow", "slow"]


async def test_a_refused_batch_is_repeated_item_by_item(client, service):
    async def execute(request):
        if request.gid == "poison":
            return status(Code.INTERNAL, "BROKEN", "a bug")
        return confirmed(request.gid)

    service.execute = execute
    gids = ["poison", "b", "c"]
    results = await asyncio.gather(
        *(client.execute(BRANCHES, gid=gid) for gid in gids), return_exceptions=True
    )
    assert isinstance(results[0], errors.InternalError)
    assert [result.gid for result in results[1:]] == ["b", "c"]


async def test_a_stream_that_breaks_repeats_only_the_unanswered(client, service):
    a_answered = asyncio.Event()
    broken = False

    async def execute(request):
        nonlocal broken
        if request.gid == "b" and not broken:
            await a_answered.wait()
            broken = True
            return UNAVAILABLE
        return confirmed(request.gid)

    service.execute = execute
    first = asyncio.create_task(client.execute(BRANCHES, gid="a"))
    second = asyncio.create_task(client.execute(BRANCHES, gid="b"))
    await first
    a_answered.set()
    await second
    assert [t.gid for batch in service.batches for t in batch.transactions] == ["a", "b"]
    assert [request.gid for request in service.unary] == ["b"]


# --- repeating ------------------------------------------------------------------


async def test_an_unavailable_coordinator_is_asked_again_with_the_same_gid(client, service):
    service.execute = failing(3, UNAVAILABLE)
    outcome = await client.execute(BRANCHES)
    assert service.gids == [outcome.gid] * 4


async def test_busy_without_a_hint_and_invalid_requests_surface_at_once(client, service):
    for failure, kind in [
        (status(Code.RESOURCE_EXHAUSTED, "TOO_LARGE"), errors.ResourceExhausted),
        (status(Code.INVALID_ARGUMENT, "NO_BRANCHES"), errors.InvalidRequest),
        (status(Code.INVALID_ARGUMENT, "UNKNOWN_PARTICIPANT"), errors.UnknownParticipant),
    ]:
        service.unary.clear()
        service.execute = failing(1, failure)
        with pytest.raises(kind):
            await client.execute(BRANCHES)
        assert len(service.unary) == 1


async def test_a_hint_beyond_the_callers_time_surfaces_at_once(client, service):
    service.execute = failing(1, status(Code.UNAVAILABLE, "DRAINING", retry_after_ms=60_000))
    with pytest.raises(errors.Unavailable) as raised:
        await client.execute(BRANCHES)
    assert raised.value.reason == "DRAINING"
    assert raised.value.retry_after_s == 60.0
    assert len(service.unary) == 1


async def test_an_unreachable_coordinator_is_unavailable_after_the_timeout():
    async with tcc.Client("127.0.0.1:1", timeout_s=1.0) as client:
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)) as raised:
            await client.execute(BRANCHES)
    # Where the time is up during an attempt, the one before says why.
    said = raised.value if isinstance(raised.value, errors.Unavailable) else raised.value.__cause__
    assert isinstance(said, errors.Unavailable)


async def test_a_coordinator_that_vanishes_and_returns_is_met_again(service):
    gate = service.execute = Gate("order-17")
    async with serving(service) as target:
        client = tcc.Client(target)
        waiting = asyncio.create_task(client.execute(BRANCHES, gid="order-17"))
        await gate.reached.wait()
    # The server is gone while it was at work; another one takes its place.
    gate.opened.set()
    async with serving(service, target), client:
        assert (await waiting).gid == "order-17"
    assert service.gids == ["order-17", "order-17"]


# --- deadlines, departures --------------------------------------------------------


async def test_a_call_has_the_clients_deadline_or_its_own(client, service):
    await client.execute(BRANCHES)
    await client.execute(BRANCHES, timeout_s=100)
    own, given = service.time_left_s
    # The default is 10 s; the wire rounds deadlines up.
    assert own < 20 < given


async def test_the_deadline_of_one_caller_in_a_batch_is_its_own(client, service):
    gate = service.execute = Gate("slow", "patient")
    slow = asyncio.create_task(client.execute(BRANCHES, gid="slow", timeout_s=1.0))
    patient = asyncio.create_task(client.execute(BRANCHES, gid="patient", timeout_s=1_000))
    with pytest.raises(errors.DeadlineExceeded):
        await slow
    gate.opened.set()
    assert (await patient).gid == "patient"
    assert service.gids == ["slow", "patient"]
    assert service.time_left_s[0] > 20, "the batch has the time of its most patient caller"


async def test_a_caller_that_left_before_its_turn_is_not_sent(client, service, long_linger):
    gate = service.execute = Gate("first")
    first = asyncio.create_task(client.execute(BRANCHES, gid="first"))
    await gate.reached.wait()
    gone, stays = (asyncio.create_task(client.execute(BRANCHES, gid=gid)) for gid in ("gone", "stays"))
    await asyncio.sleep(0)
    gone.cancel()
    gate.opened.set()
    await asyncio.gather(first, stays)
    assert service.gids == ["first", "stays"]


async def test_a_cancelled_caller_does_not_fail_the_rest_of_its_batch(client, service):
    gate = service.execute = Gate("slow")
    slow = asyncio.create_task(client.execute(BRANCHES, gid="slow"))
    other = asyncio.create_task(client.execute(BRANCHES, gid="other"))
    await gate.reached.wait()
    slow.cancel()
    assert (await other).gid == "other"
    gate.opened.set()
    assert (await client.execute(BRANCHES, gid="later")).gid == "later"


async def test_closing_fails_the_calls_that_wait(client, service):
    gate = service.execute = Gate("slow")
    slow = asyncio.create_task(client.execute(BRANCHES, gid="slow"))
    await gate.reached.wait()
    await client.close()
    with pytest.raises(errors.ClientClosed):
        await slow
    with pytest.raises(errors.ClientClosed):
        await client.execute(BRANCHES)


async def test_nothing_is_left_behind_after_closing(service):
    before = asyncio.all_tasks()
    async with serving(service) as target, tcc.Client(target) as client:
        await client.execute(BRANCHES)
    gc.collect()
    # A task of a call belongs to the server of this test: its coroutine is named `_schedule_rpc_coro`.
    others = ("grpc", "_schedule_rpc_coro")
    left = {
        task
        for task in asyncio.all_tasks() - before
        if not any(name in repr(task.get_coro()) for name in others)
    }
    assert not left


def test_a_client_belongs_to_one_loop(service):
    client = tcc.Client("127.0.0.1:1", timeout_s=0)

    async def call():
        await client.execute(BRANCHES)

    with pytest.raises(errors.TccError):
        asyncio.run(call())
    with pytest.raises(RuntimeError, match="one per loop"):
        asyncio.run(call())


async def test_a_second_event_loop_is_refused(client):
    await client.execute(BRANCHES)

    def elsewhere():
        with pytest.raises(RuntimeError, match="belongs to the event loop of its first call"):
            asyncio.run(client.execute(BRANCHES))

    await asyncio.to_thread(elsewhere)
    assert (await client.execute(BRANCHES)).confirmed


# --- odd answers and arguments ----------------------------------------------------


async def test_an_unreadable_state_is_unknown_and_no_listing_fails():
    record = record_of(common.Transaction(gid="g", state=77, branches=[common.Branch(state=99)]))  # type: ignore[arg-type]
    assert (record.state, record.branches[0].state) == (tcc.TransactionState.UNKNOWN, BranchState.UNKNOWN)
    assert not outcome_of(pb.TransactionOutcome(gid="g", state=0)).completed


async def test_an_empty_gid_is_refused(client):
    """It would not protect against a repetition, as the caller believes."""
    with pytest.raises(ValueError, match="gid is empty"):
        await client.execute(BRANCHES, gid="")
    with pytest.raises(ValueError, match="gid is empty"):
        client.transaction(gid="")
