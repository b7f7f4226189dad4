"""Interactive transactions, joining, reading and ending through the client."""

import asyncio
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code

import tcc
from tcc import context as contexts, errors
from tcc.client.outcome import BranchState
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.client.scripted_service import UNAVAILABLE, ScriptedService, confirmed, rejected, serving, status

EXPIRES_AT_MS = 1_700_000_000_123
GID = "order-17"


def moment(milliseconds: int = EXPIRES_AT_MS) -> Timestamp:
    result = Timestamp()
    result.FromMilliseconds(milliseconds)
    return result


BEGUN = pb.BeginTransactionResponse(gid=GID, expires_at=moment())
TRIED = pb.TryBranchResponse(
    state=common.BRANCH_STATE_TRIED, result=b'{"price": 5}', result_content_type="application/json"
)
REGISTERED = pb.RegisterBranchResponse(expires_at=moment())
CONFIRMED = pb.ConfirmTransactionResponse(outcome=confirmed(GID))
CANCELLED = pb.CancelTransactionResponse(
    outcome=pb.TransactionOutcome(
        gid=GID, state=common.TRANSACTION_STATE_CANCELLING, cancel_reason=common.CANCEL_REASON_REQUESTED
    )
)
EXPIRED = pb.GetTransactionResponse(
    transaction=common.Transaction(
        gid=GID, state=common.TRANSACTION_STATE_CANCELLED, cancel_reason=common.CANCEL_REASON_EXPIRED
    )
)
ALREADY_DECIDED = status(Code.FAILED_PRECONDITION, "ALREADY_DECIDED", "too late")
DECISION_CONFLICT = status(Code.FAILED_PRECONDITION, "DECISION_CONFLICT", "it is cancelled")


@pytest.fixture
def service():
    return ScriptedService()


@pytest.fixture
async def client(service):
    async with serving(service) as target, tcc.Client(target, initiator="shop") as client:
        yield client


def kinds(service) -> list[str]:
    """Return the kinds of the requests."""
    return [
        type(request).__name__.removesuffix("Request").removesuffix("Transaction")
        for request in service.requests
    ]


# --- leaving the block ------------------------------------------------------


async def test_leaving_the_block_confirms(client, service):
    service.answers = [BEGUN, TRIED, TRIED, CONFIRMED]
    async with client.transaction(gid=GID, expiry_s=30, labels={"a": "b"}, wait_for="completion") as tx:
        result = await tx.try_("inventory", "reserve_stock", {"sku": "A"})
        assert result.json() == {"price": 5}
        await tx.try_("inventory", "reserve_stock", {"sku": "B"})
    assert tx.outcome is not None
    assert tx.outcome.confirmed
    assert kinds(service) == ["Begin", "TryBranch", "TryBranch", "Confirm"]
    begin, first, second, confirm = service.requests
    assert (begin.gid, begin.initiator, begin.expiry.seconds, dict(begin.labels)) == (
        GID,
        "shop",
        30,
        {"a": "b"},
    )
    assert (first.gid, first.branch.branch_id, first.branch.payload) == (GID, "inventory", b'{"sku":"A"}')
    assert second.branch.branch_id == "inventory-2"
    assert confirm.wait_for == pb.WAIT_FOR_COMPLETION
    assert tx.expires_at == datetime.fromtimestamp(EXPIRES_AT_MS / 1000, UTC)


async def test_an_exception_cancels_and_propagates(client, service):
    service.answers = [BEGUN, CANCELLED]
    with pytest.raises(KeyError):
        async with client.transaction(gid=GID) as tx:
            raise KeyError("no such customer")
    assert kinds(service) == ["Begin", "Cancel"]
    assert service.requests[1].reason == "KeyError: 'no such customer'"
    assert tx.outcome.cancelled


async def test_a_cancelled_task_cancels_its_transaction(client, service):
    service.answers = [BEGUN, CANCELLED]
    inside = asyncio.Event()

    async def business():
        async with client.transaction(gid=GID):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(business())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kinds(service) == ["Begin", "Cancel"]


async def test_a_cancel_that_fails_leaves_the_blocks_own_error(client, service):
    service.answers = [BEGUN, status(Code.INTERNAL, "BROKEN", "a bug")]
    with pytest.raises(KeyError) as raised:
        async with client.transaction(gid=GID):
            raise KeyError("no such customer")
    assert "could not be cancelled at once: BROKEN" in raised.value.__notes__[0]


async def test_ended_within_the_block_leaving_does_nothing_more(client, service):
    service.answers = [BEGUN, CANCELLED]
    async with client.transaction(gid=GID) as tx:
        await tx.cancel("changed my mind")
    assert kinds(service) == ["Begin", "Cancel"]
    assert service.requests[1].reason == "changed my mind"


async def test_a_confirm_that_comes_too_late_raises_the_cancel(client, service):
    service.answers = [BEGUN, DECISION_CONFLICT, EXPIRED]
    with pytest.raises(tcc.TransactionCancelled) as raised:
        async with client.transaction(gid=GID) as tx:
            pass
    assert raised.value.cancel_reason is tcc.CancelReason.EXPIRED
    assert kinds(service) == ["Begin", "Confirm", "Get"]
    assert tx.outcome == raised.value.outcome


async def test_a_confirm_whose_answer_is_lost_is_repeated(client, service):
    service.answers = [BEGUN, UNAVAILABLE, UNAVAILABLE, CONFIRMED]
    async with client.transaction(gid=GID) as tx:
        pass
    assert tx.outcome.confirmed
    assert kinds(service) == ["Begin", "Confirm", "Confirm", "Confirm"]


async def test_a_confirm_that_is_never_answered_is_not_turned_into_a_cancel(client, service):
    service.answers = [BEGUN, status(Code.UNAVAILABLE, "DRAINING", retry_after_ms=60_000)]
    with pytest.raises(errors.Unavailable):
        async with client.transaction(gid=GID):
            pass
    assert kinds(service) == ["Begin", "Confirm"]


# --- every way out of the block --------------------------------------------------


def decided(service) -> list[str]:
    """Return which decisions were requested."""
    return [kind for kind in kinds(service) if kind in {"Confirm", "Cancel"}]


class Unprintable(Exception):  # noqa: N818
    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("caf\udce9"), r"ValueError: caf\udce9"),
        (ValueError("a\0b\nc"), r"ValueError: a\x00b\nc"),
        (Unprintable(), "Unprintable: (its text is not available: ValueError)"),
        (ValueError("x" * 5_000), "ValueError: " + "x" * 988),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (SystemExit(1), "SystemExit: 1"),
        (GeneratorExit(), "GeneratorExit: "),
        (asyncio.CancelledError(), "CancelledError: "),
        (errors.Unavailable("gone"), "Unavailable: UNAVAILABLE: gone"),
        (ExceptionGroup("two", [KeyError("a")]), "ExceptionGroup: two (1 sub-exception)"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_every_exception_cancels_with_its_text(client, service, error, reason):
    service.answers = [BEGUN, CANCELLED]
    tx = client.transaction(gid=GID)
    await tx.__aenter__()
    await tx.__aexit__(type(error), error, None)
    assert decided(service) == ["Cancel"]
    assert service.requests[-1].reason == reason


async def test_a_reason_that_cannot_be_sent_is_escaped(client, service):
    service.answers = [CANCELLED]
    await client.cancel(GID, reason="caf\udce9")
    assert service.requests[0].reason == r"caf\udce9"


async def test_a_generator_that_is_closed_within_the_block_cancels(client, service):
    service.answers = [BEGUN, CANCELLED]

    async def business():
        async with client.transaction(gid=GID):
            yield

    generator = business()
    await anext(generator)
    await generator.aclose()
    assert decided(service) == ["Cancel"]


@pytest.mark.parametrize("ends", ["Confirm", "Cancel"])
async def test_a_task_that_is_cancelled_while_it_leaves_the_block_still_decides(ends):
    arrived, go = asyncio.Event(), asyncio.Event()

    class Slow(ScriptedService):
        async def _slow(self, request, context):
            arrived.set()
            await go.wait()
            return await self._answer(request, context)

        ConfirmTransaction = CancelTransaction = _slow

    service = Slow()
    service.answers = [BEGUN, CONFIRMED if ends == "Confirm" else CANCELLED]

    async def business():
        async with client.transaction(gid=GID):
            if ends == "Cancel":
                raise KeyError("no such customer")

    async with serving(service) as target, tcc.Client(target) as client:
        task = asyncio.create_task(business())
        await arrived.wait()
        task.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert decided(service) == [ends]


async def test_closing_the_client_within_the_block_cancels(client, service):
    service.answers = [BEGUN, CANCELLED]
    with pytest.raises(errors.ClientClosed):
        async with client.transaction(gid=GID):
            await client.close()
    assert decided(service) == ["Cancel"]
    assert service.requests[-1].reason == "the client was closed"


async def test_closing_the_client_after_the_decision_cancels_nothing(client, service):
    service.answers = [BEGUN, CONFIRMED, BEGUN, CANCELLED]
    async with client.transaction(gid=GID):
        pass
    async with client.transaction(gid=GID) as tx:
        await tx.cancel()
    await client.close()
    assert decided(service) == ["Confirm", "Cancel"]


# --- a Try that failed, and whose error was caught -----------------------------------


async def test_a_registered_try_that_failed_cannot_be_confirmed(client, service):
    service.answers = [BEGUN, REGISTERED, CANCELLED]
    failure = KeyError("no such order")
    tx = client.transaction(gid=GID)

    async def business():
        async with tx:
            try:
                async with tx.register("order", "open_order"):
                    raise failure
            except KeyError:
                pass

    with pytest.raises(tcc.TransactionCancelled) as raised:
        await business()
    assert raised.value.__cause__ is failure
    assert tx.outcome == raised.value.outcome
    assert decided(service) == ["Cancel"]
    assert service.requests[-1].reason == "the Try of branch order failed: KeyError: 'no such order'"


async def test_a_registered_try_that_succeeds_later_is_confirmed(client, service):
    service.answers = [BEGUN, REGISTERED, REGISTERED, CONFIRMED]
    async with client.transaction(gid=GID) as tx:
        with pytest.raises(ConnectionError):
            async with tx.register("order", "open_order", branch_id="order"):
                raise ConnectionError
        async with tx.register("order", "open_order", branch_id="order"):
            pass
    assert decided(service) == ["Confirm"]


UNKNOWN_OUTCOME = status(Code.INTERNAL, "BROKEN", "a bug")


@pytest.mark.parametrize("add", ["try_", "register"])
async def test_a_branch_that_may_have_been_added_cannot_be_confirmed(client, service, add):
    service.answers = [BEGUN, UNKNOWN_OUTCOME, CANCELLED]

    async def business():
        async with client.transaction(gid=GID) as tx:
            with pytest.raises(errors.InternalError):
                await getattr(tx, add)("inventory", "reserve_stock")

    with pytest.raises(tcc.TransactionCancelled):
        await business()
    assert decided(service) == ["Cancel"]


@pytest.mark.parametrize(
    "refusal",
    [
        status(Code.INVALID_ARGUMENT, "UNKNOWN_PARTICIPANT"),
        status(Code.RESOURCE_EXHAUSTED, "BRANCHES_MAX"),
        status(Code.ALREADY_EXISTS, "BRANCH_CONFLICT"),
    ],
    ids=["invalid", "limit", "conflict"],
)
async def test_a_branch_that_was_refused_does_not_prevent_the_confirm(client, service, refusal):
    service.answers = [BEGUN, refusal, CONFIRMED]
    async with client.transaction(gid=GID) as tx:
        with pytest.raises(tcc.TccError):
            await tx.try_("inventory", "reserve_stock")
    assert decided(service) == ["Confirm"]


async def test_a_rejected_try_whose_error_was_caught_still_raises_at_the_end(client, service):
    rejection = pb.TryBranchResponse(state=common.BRANCH_STATE_REJECTED, reason="SOLD_OUT")
    service.answers = [BEGUN, rejection, DECISION_CONFLICT, EXPIRED]

    async def business():
        async with client.transaction(gid=GID) as tx:
            with pytest.raises(tcc.TransactionCancelled):
                await tx.try_("inventory", "reserve_stock")

    with pytest.raises(tcc.TransactionCancelled):
        await business()
    assert decided(service) == ["Confirm"]


async def test_a_registered_try_that_failed_in_a_joined_service_cancels_at_once(client, service):
    service.answers = [REGISTERED, CANCELLED]
    joined = client.join(tcc.TransactionContext(gid=GID, branch_id="order"))
    with pytest.raises(KeyError):
        async with joined.register("inventory", "reserve_stock"):
            raise KeyError("sku")
    assert decided(service) == ["Cancel"]
    assert service.requests[-1].gid == GID


# --- Trys -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (common.BRANCH_STATE_REJECTED, tcc.CancelReason.REJECTED),
        (common.BRANCH_STATE_FAILED, tcc.CancelReason.TRY_FAILED),
    ],
)
async def test_a_try_that_is_no_success_raises_and_needs_no_cancel(client, service, state, reason):
    service.answers = [BEGUN, pb.TryBranchResponse(state=state, reason="SOLD_OUT", message="no A left")]
    with pytest.raises(tcc.TransactionCancelled) as raised:
        async with client.transaction(gid=GID) as tx:
            await tx.try_("inventory", "reserve_stock", branch_id="stock")
    error = raised.value
    assert (error.cancel_reason, error.cancel_branch_id, error.detail) == (reason, "stock", "SOLD_OUT")
    assert error.cancel_message == error.outcome.cancel_message == "no A left"
    assert error.message == f"transaction {GID} was cancelled by branch stock (SOLD_OUT): no A left"
    assert kinds(service) == ["Begin", "TryBranch"]


async def test_a_try_in_an_expired_transaction_raises_the_expiry(client, service):
    service.answers = [BEGUN, ALREADY_DECIDED, EXPIRED]
    with pytest.raises(tcc.TransactionCancelled) as raised:
        async with client.transaction(gid=GID) as tx:
            await tx.try_("inventory", "reserve_stock")
    assert raised.value.cancel_reason is tcc.CancelReason.EXPIRED
    assert kinds(service) == ["Begin", "TryBranch", "Get"]


async def test_a_try_that_kept_failing_until_the_expiry_raises_its_failure(client, service):
    record = common.Transaction(
        gid=GID,
        state=common.TRANSACTION_STATE_CANCELLED,
        cancel_reason=common.CANCEL_REASON_EXPIRED,
        cancel_branch_id="stock",
        cancel_detail="UNAVAILABLE",
        cancel_message="connection refused",
    )
    service.answers = [BEGUN, ALREADY_DECIDED, pb.GetTransactionResponse(transaction=record)]
    with pytest.raises(tcc.TryTimedOut, match="branch stock: UNAVAILABLE connection refused") as raised:
        async with client.transaction(gid=GID) as tx:
            await tx.try_("inventory", "reserve_stock", branch_id="stock")
    assert raised.value.cancel_message == "connection refused"
    assert tx.outcome == raised.value.outcome


async def test_the_cancel_of_another_transaction_cancels_this_one(client, service):
    service.answers = [BEGUN, CANCELLED]
    with pytest.raises(tcc.TransactionCancelled):
        async with client.transaction(gid=GID):
            raise tcc.TransactionCancelled(tcc.Outcome(gid="another", state=tcc.TransactionState.CANCELLED))
    assert kinds(service) == ["Begin", "Cancel"]


# --- own Trys, and joining ---------------------------------------------------------


async def test_a_registered_branch_gives_the_context_of_its_own_try(client, service):
    service.answers = [BEGUN, REGISTERED, REGISTERED, CONFIRMED]
    async with client.transaction(gid=GID) as tx:
        assert contexts.current() == tx.context
        async with tx.register("order", "open_order", {"id": 17}) as context:
            assert contexts.current() == context
            assert context == tcc.TransactionContext(gid=GID, branch_id="order", expires_at_ms=EXPIRES_AT_MS)
        assert contexts.current() == tx.context
        awaited = await tx.register("order", "open_order")
        assert awaited.branch_id == "order-2"
    assert contexts.current() is None
    assert service.requests[1].branch.payload == b'{"id":17}'


async def test_a_joined_service_gives_its_branches_the_same_names_each_time(client, service):
    service.answers = [TRIED] * 4
    for _ in range(2):
        with tcc.TransactionContext(gid=GID, branch_id="order"):
            joined = client.current_transaction()
            assert joined is not None
            assert joined.gid == GID
            await joined.try_("inventory", "reserve_stock")
            await joined.try_("inventory", "reserve_stock")
    assert [(r.gid, r.branch.branch_id) for r in service.requests] == [
        (GID, "order/inventory"),
        (GID, "order/inventory-2"),
    ] * 2


async def test_joining_without_a_branch_asks_for_explicit_ids(client, service):
    service.answers = [TRIED]
    joined = client.join(tcc.TransactionContext(gid=GID))
    with pytest.raises(errors.InvalidRequest) as raised:
        await joined.try_("inventory", "reserve_stock")
    assert raised.value.reason == "BRANCH_ID_MISSING"
    await joined.try_("inventory", "reserve_stock", branch_id="mine")
    assert [r.branch.branch_id for r in service.requests] == ["mine"]


async def test_outside_a_transaction_there_is_none_to_join(client):
    assert client.current_transaction() is None


# --- reading and ending by gid ---------------------------------------------------------


async def test_get_shows_the_whole_transaction(client, service):
    service.answers = [
        pb.GetTransactionResponse(
            transaction=common.Transaction(
                gid=GID,
                state=common.TRANSACTION_STATE_CONFIRMING,
                initiator="shop",
                labels={"a": "b"},
                created_at=moment(),
                version=3,
                stuck=True,
                branches=[
                    common.Branch(
                        spec=common.BranchSpec(
                            branch_id="1", participant="inventory", action="reserve_stock"
                        ),
                        state=common.BRANCH_STATE_TRIED,
                        attempts=4,
                        last_error="refused",
                    )
                ],
            )
        )
    ]
    record = await client.get(GID)
    assert (record.gid, record.state, record.labels, record.stuck) == (
        GID,
        tcc.TransactionState.CONFIRMING,
        {"a": "b"},
        True,
    )
    assert record.created_at == datetime.fromtimestamp(EXPIRES_AT_MS / 1000, UTC)
    assert record.decided_at is None
    [branch] = record.branches
    assert (branch.branch_id, branch.state, branch.attempts, branch.last_error) == (
        "1",
        BranchState.TRIED,
        4,
        "refused",
    )


async def test_an_unknown_gid_is_not_found(client, service):
    service.answers = [status(Code.NOT_FOUND, "TRANSACTION_NOT_FOUND", "no such transaction")]
    with pytest.raises(errors.NotFound):
        await client.get("unknown")


async def test_list_follows_the_pages_and_passes_the_filters(client, service):
    service.answers = [
        pb.ListTransactionsResponse(
            transactions=[
                common.Transaction(gid=gid, state=common.TRANSACTION_STATE_CONFIRMED) for gid in page
            ],
            next_page_token=token,
        )
        for page, token in [(["d", "c"], "more"), (["b"], "")]
    ]
    created_after = datetime(2026, 1, 1, tzinfo=UTC)
    records = [
        record.gid
        async for record in client.list(
            states=[tcc.TransactionState.CONFIRMED],
            labels={"a": "b"},
            created_after=created_after,
            page_size=2,
        )
    ]
    assert records == ["d", "c", "b"]
    first, second = service.requests
    assert list(first.states) == [common.TRANSACTION_STATE_CONFIRMED]
    assert (dict(first.labels), first.page_size, first.page_token) == ({"a": "b"}, 2, "")
    assert first.created_after.ToDatetime(UTC) == created_after
    assert second.page_token == "more"


async def test_a_moment_without_a_time_zone_is_refused(client):
    with pytest.raises(ValueError, match="time zone"):
        await anext(client.list(created_after=datetime(2026, 1, 1)))  # noqa: DTZ001 - this is the point


async def test_wait_returns_a_cancelled_outcome(client, service):
    service.answers = [pb.WaitTransactionResponse(outcome=rejected(GID, "1", "SOLD_OUT"))]
    outcome = await client.wait(GID, wait_for="completion", timeout_s=100)
    assert outcome.cancel_detail == "SOLD_OUT"
    assert service.requests[0].wait_for == pb.WAIT_FOR_COMPLETION
    assert service.time_left_s[0] > 20


async def test_confirm_and_cancel_by_gid(client, service):
    service.answers = [CONFIRMED, CANCELLED, status(Code.FAILED_PRECONDITION, "DECISION_CONFLICT")]
    assert (await client.confirm(GID)).confirmed
    assert (await client.cancel(GID, reason="fraud")).cancelled
    assert service.requests[1].reason == "fraud"
    with pytest.raises(errors.DecisionConflict):
        await client.cancel(GID)


async def test_confirm_of_a_cancelled_transaction_raises_the_cancel(client, service):
    service.answers = [DECISION_CONFLICT, EXPIRED]
    with pytest.raises(tcc.TransactionCancelled):
        await client.confirm(GID)


async def test_closing_ends_a_unary_call(service):
    arrived = asyncio.Event()

    class Holding(ScriptedService):
        async def GetTransaction(self, request, context):  # noqa: N802 - gRPC names the methods
            arrived.set()
            await asyncio.Event().wait()

    async with serving(Holding()) as target:
        client = tcc.Client(target)
        waiting = asyncio.create_task(client.get(GID))
        await arrived.wait()
        await client.close()
        with pytest.raises(errors.ClientClosed):
            await waiting
