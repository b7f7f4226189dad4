"""FakeCoordinator behaves as a coordinator: one suite for both, through the client."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

import tcc
from tcc.client.outcome import BranchState, TransactionRecord, TransactionState
from tcc.common.v1 import common_pb2 as common
from tcc.errors import (
    AlreadyDecided,
    BranchConflict,
    DeadlineExceeded,
    DecisionConflict,
    GidConflict,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    TccError,
    TransactionCancelled,
    TryTimedOut,
    Unavailable,
    UnknownParticipant,
)
from tcc.participant.v1 import participant_pb2
from tcc.testing import FakeCoordinator
from tcc.testing.fake_coordinator import Action, Call, Operation
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for

STOCK = tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})
ORDER = tcc.BranchRequest("order", "open_order", {"order_id": "17"})
LATER = tcc.BranchRequest("order", "open_order", stage=1)
# Long enough for a first answer on a busy machine.
QUICKLY_S = 2.0

_RESULTS = {
    common.BRANCH_STATE_TRIED: common.OUTCOME_CODE_SUCCEEDED,
    common.BRANCH_STATE_REJECTED: common.OUTCOME_CODE_REJECTED,
    common.BRANCH_STATE_FAILED: common.OUTCOME_CODE_FAILED,
    common.BRANCH_STATE_TRYING: common.OUTCOME_CODE_FAILED,
}


class Subject:
    """A coordinator, fake or real, whose participants `on` determines; and a client of it."""

    def __init__(
        self,
        client: tcc.Client,
        on: Callable[[str, str], Action],
        calls: Callable[[], list[Call]],
        expire: Callable[[str], None] | None = None,
    ):
        self.client = client
        self.on = on
        self._calls = calls
        self._expire = expire

    async def expire(self, gid: str) -> None:
        """Let an undecided transaction expire: now, or by waiting for it."""
        if self._expire is not None:
            self._expire(gid)
        await self.client.wait(gid)

    def calls(self, gid: str) -> set[tuple[str, str]]:
        """Return each operation that a branch was called with."""
        return {(call.operation.name, call.branch_id) for call in self._calls() if call.gid == gid}

    async def ended(self, gid: str) -> TransactionRecord:
        await self.client.wait(gid, wait_for="completion")
        return await self.client.get(gid)


class RealParticipants:
    """Two participants that answer Trys as the fake's actions do."""

    def __init__(self) -> None:
        self.actions: dict[tuple[str, str], Action] = {}
        self.services = {name: ScriptedParticipant() for name in ("inventory", "order")}
        for name, service in self.services.items():
            service.script = self._script(name)

    def on(self, participant: str, action: str) -> Action:
        return self.actions.setdefault((participant, action), Action())

    def calls(self) -> list[Call]:
        return [
            _call(name, call, Operation[common.Operation.Name(call.operation).removeprefix("OPERATION_")])
            for name, service in self.services.items()
            for call in service.calls
        ]

    def _script(self, name: str) -> Callable[[participant_pb2.BranchCall], Awaitable[common.CallResult]]:
        async def answer(call: participant_pb2.BranchCall) -> common.CallResult:
            if call.operation not in (common.OPERATION_TRY, common.OPERATION_CHECK):
                return common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED)
            operation = Operation.TRY if call.operation == common.OPERATION_TRY else Operation.CHECK
            found = self.on(name, call.action).answer(_call(name, call, operation))
            if found.state == common.BRANCH_STATE_TRYING and not found.reason:
                await asyncio.Event().wait()  # no answer
            return common.CallResult(
                code=_RESULTS[found.state],
                reason=found.reason,
                message=found.message,
                result=found.result,
                content_type=found.content_type,
                permanent=found.state == common.BRANCH_STATE_FAILED,
            )

        return answer


def _call(participant: str, call: participant_pb2.BranchCall, operation: Operation) -> Call:
    return Call(
        gid=call.gid,
        branch_id=call.branch_id,
        participant=participant,
        action=call.action,
        operation=operation,
        payload=call.payload,
        content_type=call.content_type,
    )


@pytest.fixture(params=["fake", "real"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with AsyncExitStack() as stack:
        if request.param == "fake":
            fake = FakeCoordinator(participants=("inventory", "order"))
            client = await stack.enter_async_context(tcc.Client(fake))
            yield Subject(client, fake.on, lambda: fake.calls, fake.expire)
            return
        participants = RealParticipants()
        tables = {
            name: {"target": await stack.enter_async_context(serving(service))}
            for name, service in participants.services.items()
        }
        worker = await stack.enter_async_context(
            running(settings_for(tables), request.getfixturevalue("log_url"))
        )
        client = await stack.enter_async_context(tcc.Client(worker.address))
        yield Subject(client, participants.on, participants.calls)


async def test_confirms_when_every_try_succeeded(subject):
    subject.on("inventory", "reserve_stock").returns({"price": 5})

    outcome = await subject.client.execute([STOCK, ORDER], gid="g", wait_for="completion")

    assert (outcome.gid, outcome.state) == ("g", TransactionState.CONFIRMED)
    assert outcome.results["inventory"].json() == {"price": 5}
    assert outcome.results.keys() == {"inventory"}
    assert subject.calls("g") == {
        (operation, branch) for operation in ("TRY", "CONFIRM") for branch in ("inventory", "order")
    }


async def test_rejection_cancels_and_later_stages_are_not_tried(subject):
    subject.on("inventory", "reserve_stock").rejects("SOLD_OUT", "none left")

    with pytest.raises(TransactionCancelled) as raised:
        await subject.client.execute([STOCK, LATER], gid="g", wait_for="completion")

    error = raised.value
    assert (error.reason, error.detail, error.cancel_message) == ("REJECTED", "SOLD_OUT", "none left")
    assert error.cancel_branch_id == "inventory"
    record = await subject.ended("g")
    assert record.state is TransactionState.CANCELLED
    assert (record.cancel_reason.name, record.cancel_detail) == ("REJECTED", "SOLD_OUT")
    assert ("TRY", "order") not in subject.calls("g")
    assert ("CANCEL", "order") in subject.calls("g")


async def test_permanent_failure_cancels(subject):
    subject.on("order", "open_order").fails("INVALID_PAYLOAD", "no order_id")

    outcome = await subject.client.execute([STOCK, ORDER], gid="g", raise_on_cancel=False)

    assert outcome.cancelled
    assert (outcome.cancel_reason.name, outcome.cancel_branch_id) == ("TRY_FAILED", "order")
    assert (outcome.cancel_detail, outcome.cancel_message) == ("INVALID_PAYLOAD", "no order_id")


async def test_try_that_keeps_failing_expires_with_its_last_error(subject):
    subject.on("order", "open_order").times_out("HANDLER_ERROR", "KeyError: 'sku'")

    with pytest.raises(TryTimedOut) as raised:
        await subject.client.execute([STOCK, ORDER], gid="g", expiry_s=QUICKLY_S)

    error = raised.value
    assert (error.cancel_branch_id, error.detail, error.cancel_message) == (
        "order",
        "HANDLER_ERROR",
        "KeyError: 'sku'",
    )


async def test_try_without_an_answer_expires(subject):
    subject.on("order", "open_order").times_out()

    with pytest.raises(TransactionCancelled, match="EXPIRED") as raised:
        await subject.client.execute([STOCK, ORDER], gid="g", expiry_s=QUICKLY_S)

    assert raised.value.cancel_branch_id == ""


async def test_repeated_execute_returns_the_same_transaction(subject):
    first = await subject.client.execute([STOCK], gid="g", labels={"a": "1"}, wait_for="completion")
    subject.on("inventory", "reserve_stock").rejects("SOLD_OUT")

    again = await subject.client.execute([STOCK], gid="g", labels={"a": "1"}, expiry_s=5)

    assert again == first


@pytest.mark.parametrize(
    "changes",
    [
        {"branches": [STOCK, ORDER]},
        {"branches": [tcc.BranchRequest("inventory", "reserve_stock", {"sku": "B"})]},
        {"labels": {"a": "2"}},
    ],
)
async def test_other_content_under_the_same_gid_is_a_conflict(subject, changes):
    await subject.client.execute([STOCK], gid="g")

    with pytest.raises(GidConflict):
        await subject.client.execute(**({"branches": [STOCK], "gid": "g"} | changes))
    with pytest.raises(GidConflict):
        await subject.client.transaction(gid="g").begin()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"branches": []}, InvalidRequest("", reason="NO_BRANCHES")),
        ({"branches": [STOCK], "gid": "g" * 129}, InvalidRequest("", reason="INVALID_GID")),
        ({"branches": [STOCK], "gid": "g\n"}, InvalidRequest("", reason="INVALID_GID")),
        ({"branches": [tcc.BranchRequest("stranger", "act")]}, UnknownParticipant("")),
        (
            {"branches": [tcc.BranchRequest("order", "a", branch_id="1")] * 2},
            InvalidRequest("", reason="DUPLICATE_BRANCH_ID"),
        ),
        (
            {"branches": [tcc.BranchRequest("order", "")]},
            InvalidRequest("", reason="INVALID_ACTION"),
        ),
    ],
)
async def test_invalid_request_is_refused_with_its_reason(subject, arguments, error):
    with pytest.raises(type(error)) as raised:
        await subject.client.execute(**arguments)
    assert (raised.value.code, raised.value.reason) == (error.code, error.reason)


async def test_invalid_item_of_a_batch_is_refused_alone(subject):
    outcomes = await asyncio.gather(
        *(subject.client.execute([STOCK], gid=f"g{number}") for number in range(3)),
        subject.client.execute([], gid="bad"),
        return_exceptions=True,
    )
    assert [getattr(outcome, "confirmed", None) for outcome in outcomes[:3]] == [True, True, True]
    assert isinstance(outcomes[3], InvalidRequest)


async def test_interactive_transaction_confirms_when_its_block_ends(subject):
    subject.on("inventory", "reserve_stock").returns({"price": 5})

    async with subject.client.transaction(gid="g", wait_for="completion") as tx:
        stock = await tx.try_("inventory", "reserve_stock", {"sku": "A"})
        again = await tx.try_("inventory", "reserve_stock", {"sku": "A"}, branch_id="inventory")
        await tx.register("order", "open_order")
        assert tx.expires_at is not None

    assert stock == again
    assert stock.json() == {"price": 5}
    assert tx.outcome is not None
    assert tx.outcome.state is TransactionState.CONFIRMED
    record = await subject.client.get("g")
    assert [branch.state for branch in record.branches] == [BranchState.CONFIRMED] * 2
    assert [branch.tried_by_initiator for branch in record.branches] == [False, True]
    assert ("TRY", "order") not in subject.calls("g")


async def test_rejected_try_cancels_an_interactive_transaction(subject):
    subject.on("inventory", "reserve_stock").rejects("SOLD_OUT", "none left")

    async def buy():
        async with subject.client.transaction(gid="g") as tx:
            await tx.try_("order", "open_order")
            await tx.try_("inventory", "reserve_stock", {"sku": "A"})

    with pytest.raises(TransactionCancelled) as raised:
        await buy()

    assert (raised.value.detail, raised.value.cancel_message) == ("SOLD_OUT", "none left")
    assert (await subject.ended("g")).state is TransactionState.CANCELLED
    assert ("CANCEL", "order") in subject.calls("g")


async def test_error_in_the_block_cancels(subject):
    async def buy():
        async with subject.client.transaction(gid="g") as tx:
            await tx.try_("order", "open_order")
            raise KeyError("sku")

    with pytest.raises(KeyError):
        await buy()

    record = await subject.ended("g")
    assert (record.cancel_reason.name, record.cancel_detail) == ("REQUESTED", "KeyError: 'sku'")


async def test_interactive_try_that_times_out_cancels(subject):
    subject.on("order", "open_order").times_out("HANDLER_ERROR")

    with pytest.raises(TryTimedOut, match="HANDLER_ERROR"):
        async with subject.client.transaction(gid="g", expiry_s=QUICKLY_S) as tx:
            await tx.try_("order", "open_order")


async def test_decision_is_final_and_may_be_requested_again(subject):
    for gid in ("confirmed", "cancelled"):
        await subject.client.transaction(gid=gid).begin()
    await subject.client.confirm("confirmed")
    await subject.client.cancel("cancelled", reason="no money")

    assert (await subject.client.confirm("confirmed")).confirmed
    assert (await subject.client.cancel("cancelled")).cancel_detail == "no money"
    with pytest.raises(DecisionConflict):
        await subject.client.cancel("confirmed")
    with pytest.raises(TransactionCancelled, match="no money"):
        await subject.client.confirm("cancelled")


async def test_branch_cannot_join_after_the_decision(subject):
    tx = subject.client.transaction(gid="g")
    await tx.begin()
    await tx.confirm()

    with pytest.raises((AlreadyDecided, DecisionConflict)) as raised:
        await tx.try_("order", "open_order")
    assert raised.value.reason == "ALREADY_DECIDED"


async def test_repeated_steps_of_an_ended_transaction_get_their_first_answers(subject):
    subject.on("inventory", "reserve_stock").returns({"price": 5})
    subject.on("order", "open_order").rejects("CREDIT_LIMIT")

    async def buy(tx):
        await tx.begin()
        stock = await tx.try_("inventory", "reserve_stock", {"sku": "A"})
        return stock, await tx.confirm()

    first = await buy(subject.client.transaction(gid="g", wait_for="completion"))
    assert await buy(subject.client.transaction(gid="g", wait_for="completion")) == first

    for _ in range(2):
        rejected = subject.client.transaction(gid="rejected")
        await rejected.begin()
        with pytest.raises(TransactionCancelled, match="CREDIT_LIMIT"):
            await rejected.try_("order", "open_order")
    with pytest.raises(TransactionCancelled, match="CREDIT_LIMIT"):
        await rejected.register("order", "ship_order")


async def test_branch_cannot_be_registered_again_after_the_decision(subject):
    """Its Try must not be performed any more."""
    tx = subject.client.transaction(gid="g")
    await tx.begin()
    await tx.register("order", "ship_order", branch_id="b")
    await tx.confirm()

    with pytest.raises(AlreadyDecided):
        await tx.register("order", "ship_order", branch_id="b")


async def test_branch_with_other_content_is_a_conflict(subject):
    async def buy():
        async with subject.client.transaction(gid="g") as tx:
            await tx.try_("order", "open_order", {"n": 1}, branch_id="b")
            await tx.try_("order", "open_order", {"n": 2}, branch_id="b")

    with pytest.raises(BranchConflict):
        await buy()
    assert (await subject.ended("g")).state is TransactionState.CANCELLED


async def test_branch_cannot_join_a_whole_transaction(subject):
    await subject.client.execute([STOCK], gid="g", wait_for="completion")

    with pytest.raises(PreconditionFailed) as raised:
        await subject.client.transaction(gid="g").try_("order", "open_order")
    assert raised.value.reason == "ALREADY_DECIDED"
    assert (await subject.client.confirm("g")).state is TransactionState.CONFIRMED


async def test_unknown_transaction_is_not_found(subject):
    for call in (subject.client.get, subject.client.wait, subject.client.confirm, subject.client.cancel):
        with pytest.raises(NotFound) as raised:
            await call("missing")
        assert raised.value.reason == "TRANSACTION_NOT_FOUND"


async def test_wait_ends_with_the_decision_or_the_timeout(subject):
    tx = subject.client.transaction(gid="g")
    await tx.begin()

    with pytest.raises(DeadlineExceeded):
        await subject.client.wait("g", timeout_s=0.05)
    waiting = asyncio.create_task(subject.client.wait("g"))
    await tx.cancel()

    assert (await waiting).cancelled


async def test_list_filters_and_pages_newest_first(subject):
    for number in range(3):
        await subject.client.execute(
            [STOCK], gid=f"g{number}", labels={"odd": str(number % 2)}, wait_for="completion"
        )
    await subject.client.transaction(gid="open").begin()

    async def gids(**filters: object) -> list[str]:
        return [record.gid async for record in subject.client.list(**filters)]

    assert await gids(page_size=2) == ["open", "g2", "g1", "g0"]
    assert await gids(states=[TransactionState.TRYING]) == ["open"]
    assert await gids(labels={"odd": "0"}) == ["g2", "g0"]
    assert await gids(participant="order") == []
    [record] = [record async for record in subject.client.list(labels={"odd": "1"})]
    assert (record.branches[0].payload, record.branches[0].state) == (b"", BranchState.CONFIRMED)


# --- what the fake alone offers ----------------------------------------------


async def test_lost_response_leaves_the_outcome_unknown_and_may_be_repeated():
    fake = FakeCoordinator()
    fake.lose_responses()
    async with tcc.Client(fake) as client:
        with pytest.raises(DeadlineExceeded):
            await client.execute([STOCK], gid="g")
        assert fake.transaction("g").state is TransactionState.CONFIRMED
        assert (await client.execute([STOCK], gid="g")).confirmed
    assert len(fake.calls) == 2  # one Try, one Confirm


async def test_unavailable_coordinator_has_no_effect():
    fake = FakeCoordinator()
    async with tcc.Client(fake, timeout_s=0.05) as client:
        with fake.unavailable(), pytest.raises(Unavailable):
            await client.execute([STOCK], gid="g")
        assert fake.transactions == []
        assert (await client.execute([STOCK], gid="g")).confirmed


async def test_open_transaction_can_expire_between_two_steps():
    fake = FakeCoordinator()

    async def buy(client: tcc.Client):
        async with client.transaction(gid="g") as tx:
            await tx.try_("order", "open_order")
            fake.expire("g")

    async with tcc.Client(fake) as client:
        with pytest.raises(TransactionCancelled, match="EXPIRED"):
            await buy(client)


async def test_function_computes_each_try_from_its_call():
    fake = FakeCoordinator()

    def reserve(call: Call) -> object:
        if call.json()["sku"] == "B":
            raise tcc.Rejected("SOLD_OUT", "no B")
        return {"price": 7}

    fake.on("inventory", "reserve_stock").calls(reserve)
    async with tcc.Client(fake) as client:
        sold = await client.execute([STOCK])
        with pytest.raises(TransactionCancelled, match="no B"):
            await client.execute([tcc.BranchRequest("inventory", "reserve_stock", {"sku": "B"})])
    assert sold.results["inventory"].json() == {"price": 7}


def test_sync_client_uses_the_fake_too():
    fake = FakeCoordinator()
    with tcc.SyncClient(fake) as client:
        with client.transaction(gid="g") as tx:
            tx.try_("order", "open_order", {"order_id": "17"})
        assert client.get("g").state is TransactionState.CONFIRMED
    assert [(call.operation, call.json()) for call in fake.calls] == [
        (Operation.TRY, {"order_id": "17"}),
        (Operation.CONFIRM, {"order_id": "17"}),
    ]


def test_every_error_of_the_fake_is_one_of_the_clients():
    """The fake must not leak gRPC's errors: each call goes through the client's own translation."""
    fake = FakeCoordinator(participants=())
    with tcc.SyncClient(fake) as client, pytest.raises(TccError):
        client.execute([STOCK])
