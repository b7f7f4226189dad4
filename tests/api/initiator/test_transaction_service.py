"""TransactionService over real gRPC, with a real log and scripted participants."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from structlog.testing import capture_logs

from coordinator.api.initiator.requests import TIME_MAX_S, page_token
from coordinator.core.errors import Draining
from coordinator.ports.log import ListPosition
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.errors import refused
from tests.support.ports import free_port
from tests.support.scripted_participant import (
    SUCCEEDED,
    ScriptedParticipant,
    failed,
    rejected,
    serving,
)
from tests.support.worker import Running, branch, running, settings_for

TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM
CANCEL = common.OPERATION_CANCEL
KIB = 1024


@pytest.fixture
async def stock() -> AsyncIterator[ScriptedParticipant]:
    return ScriptedParticipant()


@pytest.fixture
async def plain() -> AsyncIterator[ScriptedParticipant]:
    return ScriptedParticipant()


@pytest.fixture
async def tcc(log_url: str, stock: ScriptedParticipant, plain: ScriptedParticipant) -> AsyncIterator[Running]:
    async with serving(stock) as stock_address, serving(plain) as plain_address:
        participants = {
            "stock": {"target": stock_address},
            "plain": {"target": plain_address, "batched": False},
        }
        async with running(settings_for(participants, reflection=True), log_url) as worker:
            yield worker


def execute(gid: str, *branches: common.BranchSpec, **fields: object) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(gid=gid, branches=branches, **fields)


def begin(gid: str, **fields: object) -> pb.BeginTransactionRequest:
    return pb.BeginTransactionRequest(gid=gid, **fields)


async def number_of_transactions(tcc: Running) -> int:
    return len((await tcc.stub.ListTransactions(pb.ListTransactionsRequest())).transactions)


# --- whole transactions -----------------------------------------------------


async def test_every_branch_is_tried_then_confirmed(tcc: Running, stock: ScriptedParticipant) -> None:
    request = execute("g", branch("1"), branch("2"), branch("3"), wait_for=pb.WAIT_FOR_COMPLETION)
    reply = await tcc.stub.ExecuteTransaction(request)
    assert reply.outcome == pb.TransactionOutcome(gid="g", state=common.TRANSACTION_STATE_CONFIRMED)
    heard = stock.heard("g")
    assert sorted(heard[:3]) == ["TRY 1", "TRY 2", "TRY 3"]
    assert sorted(heard[3:]) == ["CONFIRM 1", "CONFIRM 2", "CONFIRM 3"]


async def test_a_participant_without_batches_is_called_branch_by_branch(
    tcc: Running, plain: ScriptedParticipant
) -> None:
    request = execute("g", branch("1", "plain"), branch("2", "plain"), wait_for=pb.WAIT_FOR_COMPLETION)
    reply = await tcc.stub.ExecuteTransaction(request)
    assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
    assert plain.batches == []
    assert plain.count(CONFIRM) == 2


async def test_one_rejection_cancels_every_branch(tcc: Running, stock: ScriptedParticipant) -> None:
    async def second_is_sold_out(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == TRY and call.branch_id == "2":
            return rejected("SOLD_OUT", "none left")
        return SUCCEEDED

    stock.script = second_is_sold_out
    request = execute("g", branch("1"), branch("2"), branch("3"), wait_for=pb.WAIT_FOR_COMPLETION)
    outcome = (await tcc.stub.ExecuteTransaction(request)).outcome
    assert outcome.state == common.TRANSACTION_STATE_CANCELLED
    assert outcome.cancel_reason == common.CANCEL_REASON_REJECTED
    assert (outcome.cancel_branch_id, outcome.cancel_detail) == ("2", "SOLD_OUT")
    assert outcome.cancel_message == "none left"
    assert {call for call in stock.heard("g") if call.startswith("CANCEL")} == {
        "CANCEL 1",
        "CANCEL 2",
        "CANCEL 3",
    }
    assert stock.count(CONFIRM) == 0


async def test_a_permanent_failure_of_a_try_cancels_at_once(tcc: Running, stock: ScriptedParticipant) -> None:
    async def unknown_action(call: participant_pb2.BranchCall) -> common.CallResult:
        no = failed("UNKNOWN_ACTION", "no action 'reserve'", permanent=True)
        return no if call.operation == TRY else SUCCEEDED

    stock.script = unknown_action
    outcome = (await tcc.stub.ExecuteTransaction(execute("g", branch("1")))).outcome
    assert outcome.cancel_reason == common.CANCEL_REASON_TRY_FAILED
    assert (outcome.cancel_detail, outcome.cancel_message) == ("UNKNOWN_ACTION", "no action 'reserve'")
    assert stock.count(TRY) == 1


async def test_an_unknown_try_is_repeated_until_it_is_known(tcc: Running, stock: ScriptedParticipant) -> None:
    async def third_time_lucky(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("HANDLER_ERROR") if stock.count(TRY) < 3 else SUCCEEDED

    stock.script = third_time_lucky
    outcome = (await tcc.stub.ExecuteTransaction(execute("g", branch("1")))).outcome
    assert outcome.state == common.TRANSACTION_STATE_CONFIRMING
    assert [call.attempt for call in stock.calls if call.operation == TRY] == [0, 1, 2]


async def test_an_unknown_try_is_cancelled_when_the_expiry_has_passed(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    async def never(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("HANDLER_ERROR") if call.operation == TRY else SUCCEEDED

    stock.script = never
    request = execute("g", branch("1"), expiry=Duration(nanos=200_000_000), wait_for=pb.WAIT_FOR_COMPLETION)
    outcome = (await tcc.stub.ExecuteTransaction(request)).outcome
    assert outcome.state == common.TRANSACTION_STATE_CANCELLED
    assert outcome.cancel_reason == common.CANCEL_REASON_EXPIRED
    assert stock.count(CANCEL) == 1


async def fail_every_try(call: participant_pb2.BranchCall) -> common.CallResult:
    return failed("HANDLER_ERROR", "KeyError: 'sku'") if call.operation == TRY else SUCCEEDED


async def test_an_expiry_names_the_branch_that_kept_failing_and_its_error(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    async def second_fails(call: participant_pb2.BranchCall) -> common.CallResult:
        return await fail_every_try(call) if call.branch_id == "2" else SUCCEEDED

    stock.script = second_fails
    request = execute("g", branch("1"), branch("2"), expiry=Duration(seconds=1))
    outcome = (await tcc.stub.ExecuteTransaction(request)).outcome
    assert outcome.cancel_reason == common.CANCEL_REASON_EXPIRED
    assert outcome.cancel_branch_id == "2"
    assert (outcome.cancel_detail, outcome.cancel_message) == ("HANDLER_ERROR", "KeyError: 'sku'")


async def test_an_expiry_names_a_participant_that_was_not_reached(log_url: str) -> None:
    absent = {"stock": {"target": f"127.0.0.1:{free_port()}"}}
    async with running(settings_for(absent), log_url) as tcc:
        request = execute("g", branch("1"), expiry=Duration(nanos=500_000_000))
        outcome = (await tcc.stub.ExecuteTransaction(request)).outcome
    assert (outcome.cancel_reason, outcome.cancel_branch_id) == (common.CANCEL_REASON_EXPIRED, "1")
    assert outcome.cancel_detail == "UNAVAILABLE"
    assert "refused" in outcome.cancel_message


async def test_a_deadline_cancels_in_time_to_return_the_reason(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    stock.script = fail_every_try
    outcome = (await tcc.stub.ExecuteTransaction(execute("g", branch("1")), timeout=2)).outcome
    assert (outcome.cancel_reason, outcome.cancel_branch_id) == (common.CANCEL_REASON_EXPIRED, "1")
    assert (outcome.cancel_detail, outcome.cancel_message) == ("HANDLER_ERROR", "KeyError: 'sku'")


async def test_a_deadline_before_the_expiry_returns_the_failing_branch(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    stock.script = fail_every_try
    request = execute("g", branch("1"), expiry=Duration(seconds=300))
    async with refused("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED") as refusal:
        await tcc.stub.ExecuteTransaction(request, timeout=2)
    last_error = "HANDLER_ERROR: KeyError: 'sku'"
    assert refusal.info.metadata == {"gid": "g", "branch_id": "1", "last_error": last_error}
    assert refusal.error.details() == f"transaction g did not finish in time, branch 1: {last_error}"
    batch = pb.ExecuteTransactionsRequest(transactions=[request])
    async with asyncio.timeout(60):
        (response,) = [r async for r in tcc.stub.ExecuteTransactions(batch, timeout=2)]
    (reply,) = response.replies
    assert (reply.error.code, reply.error.reason) == (4, "DEADLINE_EXCEEDED")
    assert reply.error.metadata == refusal.info.metadata
    assert await tcc.state("g") == "TRYING", "it goes on without its caller"


async def test_an_interactive_step_learns_what_keeps_failing(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    stock.script = fail_every_try
    await tcc.stub.BeginTransaction(begin("g", expiry=Duration(seconds=300)))
    async with refused("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED") as refusal:
        await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")), timeout=2)
    assert refusal.info.metadata["branch_id"] == "1"


async def test_an_error_of_any_length_and_alphabet_fits_into_the_headers(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    async def shout(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("HANDLER_ERROR", "\N{SNOWMAN}" * 10_000) if call.operation == TRY else SUCCEEDED

    stock.script = shout
    request = execute("g", branch("1"), expiry=Duration(seconds=300))
    async with refused("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED") as refusal:
        await tcc.stub.ExecuteTransaction(request, timeout=2)
    assert refusal.info.metadata["last_error"].startswith("HANDLER_ERROR: \N{SNOWMAN}\N{SNOWMAN}")


@pytest.mark.parametrize("wait_for", [pb.WAIT_FOR_DECISION, pb.WAIT_FOR_COMPLETION])
async def test_a_repeated_request_gets_the_same_cancel_reason(
    tcc: Running, stock: ScriptedParticipant, wait_for: pb.WaitFor
) -> None:
    """From memory first, from the log later: bounded, without characters that the log cannot store."""

    async def sold_out(call: participant_pb2.BranchCall) -> common.CallResult:
        return rejected("SOLD_OUT", "only 2\0left " + "x" * 1_000) if call.operation == TRY else SUCCEEDED

    stock.script = sold_out
    request = execute("g", branch("1"), wait_for=wait_for)
    first = (await tcc.stub.ExecuteTransaction(request)).outcome
    await tcc.settled("g")
    later = (await tcc.stub.ExecuteTransaction(request)).outcome
    assert first.cancel_message == ("only 2\\x00left " + "x" * 1_000)[:500]
    assert (later.cancel_detail, later.cancel_message) == (first.cancel_detail, first.cancel_message)
    stored = (await tcc.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
    assert stored.cancel_message == first.cancel_message


async def test_a_permanent_failure_in_phase_two_is_stuck_at_once(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    async def broken(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == CONFIRM and stock.count(CONFIRM) == 1:
            return failed("HANDLER_ERROR", "TypeError: confirm()", permanent=True)
        return SUCCEEDED

    stock.script = broken
    with capture_logs() as logged:
        await tcc.stub.ExecuteTransaction(execute("g", branch("1")))
        await tcc.settled("g")
    (stuck,) = [line for line in logged if line["event"] == "transaction is stuck"]
    assert (stuck["attempts"], stuck["last_error"]) == (1, "HANDLER_ERROR: TypeError: confirm()")


async def test_what_a_try_returns_reaches_its_confirm_and_the_initiator(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    async def freeze(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == TRY:
            return common.CallResult(
                code=common.OUTCOME_CODE_SUCCEEDED, result=b"freeze-7", content_type="text/plain"
            )
        return SUCCEEDED

    stock.script = freeze
    request = execute("g", branch("1"), wait_for=pb.WAIT_FOR_COMPLETION)
    outcome = (await tcc.stub.ExecuteTransaction(request)).outcome
    assert list(outcome.results) == [
        pb.BranchResult(branch_id="1", result=b"freeze-7", content_type="text/plain")
    ]
    confirm = next(call for call in stock.calls if call.operation == CONFIRM)
    assert (confirm.try_result, confirm.try_result_content_type) == (b"freeze-7", "text/plain")


async def test_a_stage_is_tried_when_the_one_before_has_succeeded(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    await tcc.stub.ExecuteTransaction(
        execute("g", branch("late", stage=1), branch("a"), branch("b"), wait_for=pb.WAIT_FOR_COMPLETION)
    )
    tries = [call for call in stock.heard("g") if call.startswith("TRY")]
    assert tries[-1] == "TRY late"


async def test_the_coordinator_makes_a_gid_where_the_request_has_none(tcc: Running) -> None:
    outcome = (await tcc.stub.ExecuteTransaction(execute("", branch("1")))).outcome
    assert outcome.gid
    assert await tcc.state(outcome.gid) in {"CONFIRMING", "CONFIRMED"}


async def test_accepted_returns_before_any_try_has_completed(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    outcome = (
        await tcc.stub.ExecuteTransaction(execute("g", branch("1"), wait_for=pb.WAIT_FOR_ACCEPTED))
    ).outcome
    assert outcome.state == common.TRANSACTION_STATE_TRYING
    go.set()
    assert (await tcc.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED


# --- repeats ----------------------------------------------------------------


@pytest.mark.parametrize("wait_for", [pb.WAIT_FOR_DECISION, pb.WAIT_FOR_COMPLETION])
async def test_a_repeated_request_gets_the_same_transaction_back(
    tcc: Running, stock: ScriptedParticipant, wait_for: pb.WaitFor
) -> None:
    request = execute("g", branch("1"), wait_for=wait_for)
    first, again = await asyncio.gather(
        tcc.stub.ExecuteTransaction(request), tcc.stub.ExecuteTransaction(request)
    )
    await tcc.settled("g")
    later = await tcc.stub.ExecuteTransaction(request)
    assert {first.outcome.gid, again.outcome.gid, later.outcome.gid} == {"g"}
    assert later.outcome.state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]


async def test_the_same_gid_with_different_content_is_refused(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    await tcc.stub.ExecuteTransaction(execute("g", branch("1"), wait_for=pb.WAIT_FOR_ACCEPTED))
    other = execute("g", branch("1", payload=b"other"))
    async with refused("ALREADY_EXISTS", "GID_CONFLICT") as refusal:
        await tcc.stub.ExecuteTransaction(other)
    for part in ("branches", "payloads", "stages", "not_before", "labels"):
        assert part in (refusal.error.details() or "")
    go.set()
    await tcc.settled("g")
    async with refused("ALREADY_EXISTS", "GID_CONFLICT"):  # also when memory has forgotten it
        await tcc.stub.ExecuteTransaction(other)
    async with refused("ALREADY_EXISTS", "GID_CONFLICT"):
        await tcc.stub.BeginTransaction(begin("g"))


# --- batches ----------------------------------------------------------------


async def test_the_loser_of_a_race_for_a_gid_learns_it_once(tcc: Running, stock: ScriptedParticipant) -> None:
    async def wait(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == common.OPERATION_TRY:
            await asyncio.Event().wait()
        return SUCCEEDED

    stock.script = wait
    batch = [
        execute("g", branch("1")),
        execute("g", branch("1", payload=b"other")),
        execute("h", branch("1")),
    ]
    stream = tcc.stub.ExecuteTransactions(pb.ExecuteTransactionsRequest(transactions=batch), timeout=20)
    replies = list((await stream.read()).replies)
    assert [(reply.index, reply.error.reason) for reply in replies] == [(1, "GID_CONFLICT")]
    await stock.until(lambda: stock.count() == 2)
    tcc.engine.fail_waiters(Draining("this coordinator is shutting down"))
    while (response := await stream.read()) is not grpc.aio.EOF:
        replies += response.replies
    assert sorted((reply.index, reply.error.reason) for reply in replies) == [
        (0, "DRAINING"),
        (1, "GID_CONFLICT"),
        (2, "DRAINING"),
    ]


async def test_each_transaction_of_a_batch_gets_its_own_reply(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    async def sold_out(call: participant_pb2.BranchCall) -> common.CallResult:
        return rejected("SOLD_OUT") if call.operation == TRY and call.gid == "no" else SUCCEEDED

    stock.script = sold_out
    batch = [
        execute("yes", branch("1")),
        execute("no", branch("1")),
        execute("wrong", branch("1", "absent")),
        execute("empty"),
    ]
    replies = {}
    async for response in tcc.stub.ExecuteTransactions(pb.ExecuteTransactionsRequest(transactions=batch)):
        replies |= {reply.index: reply for reply in response.replies}
    assert replies.keys() == {0, 1, 2, 3}
    assert replies[0].outcome.state == common.TRANSACTION_STATE_CONFIRMING
    assert replies[1].outcome.cancel_reason == common.CANCEL_REASON_REJECTED
    assert (replies[2].error.code, replies[2].error.reason) == (3, "UNKNOWN_PARTICIPANT")
    assert (replies[3].error.code, replies[3].error.reason) == (3, "NO_BRANCHES")


async def test_a_slow_transaction_of_a_batch_delays_no_other(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def slow(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.gid == "slow":
            await go.wait()
        return SUCCEEDED

    stock.script = slow
    batch = [execute("slow", branch("1")), execute("quick", branch("1"))]
    order = []
    async for response in tcc.stub.ExecuteTransactions(pb.ExecuteTransactionsRequest(transactions=batch)):
        order += [reply.outcome.gid for reply in response.replies]
        go.set()  # only now: the quick one has been answered
    assert order == ["quick", "slow"]


async def test_an_empty_batch_ends_at_once(tcc: Running) -> None:
    assert [r async for r in tcc.stub.ExecuteTransactions(pb.ExecuteTransactionsRequest())] == []


# --- interactive ------------------------------------------------------------


async def test_an_interactive_transaction_step_by_step(tcc: Running, stock: ScriptedParticipant) -> None:
    begun = await tcc.stub.BeginTransaction(begin("g"))
    assert begun.gid == "g"
    tried = await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    assert tried.state == common.BRANCH_STATE_TRIED
    again = await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    assert again.state == common.BRANCH_STATE_TRIED
    registered = await tcc.stub.RegisterBranch(pb.RegisterBranchRequest(gid="g", branch=branch("own")))
    assert registered.expires_at == begun.expires_at
    request = pb.ConfirmTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
    confirmed = await tcc.stub.ConfirmTransaction(request)
    assert confirmed.outcome.state == common.TRANSACTION_STATE_CONFIRMED
    heard = stock.heard("g")
    assert heard[0] == "TRY 1"
    assert sorted(heard[1:]) == ["CONFIRM 1", "CONFIRM own"]
    vouched = {call.branch_id: call.tried_by_initiator for call in stock.calls if call.operation == CONFIRM}
    assert vouched == {"1": False, "own": True}
    assert await tcc.stub.ConfirmTransaction(request) == confirmed


async def test_text_of_a_participant_is_escaped(tcc: Running, stock: ScriptedParticipant) -> None:
    """A participant without our SDK may return what a terminal or a log would take for its own."""

    async def sold_out(call: participant_pb2.BranchCall) -> common.CallResult:
        return rejected("SOLD\x1b[2JOUT", "none\nleft") if call.operation == TRY else SUCCEEDED

    stock.script = sold_out
    outcome = (await tcc.stub.ExecuteTransaction(execute("g", branch("1")))).outcome
    assert (outcome.cancel_detail, outcome.cancel_message) == ("SOLD\\x1b[2JOUT", "none\\nleft")


async def test_a_rejected_try_cancels_an_interactive_transaction(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    async def second_is_sold_out(call: participant_pb2.BranchCall) -> common.CallResult:
        return rejected("SOLD_OUT", "none") if call.operation == TRY and call.branch_id == "2" else SUCCEEDED

    stock.script = second_is_sold_out
    await tcc.stub.BeginTransaction(begin("g"))
    await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    tried = await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("2")))
    assert (tried.state, tried.reason, tried.message) == (common.BRANCH_STATE_REJECTED, "SOLD_OUT", "none")
    assert (await tcc.settled("g")).state == common.TRANSACTION_STATE_CANCELLED
    async with refused("FAILED_PRECONDITION", "DECISION_CONFLICT") as refusal:
        await tcc.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"))
    assert refusal.info.metadata["cancel_detail"] == "SOLD_OUT"
    async with refused("FAILED_PRECONDITION", "ALREADY_DECIDED"):
        await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("3")))


async def test_a_transaction_can_be_cancelled_and_cancelled_again(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    await tcc.stub.BeginTransaction(begin("g"))
    await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    request = pb.CancelTransactionRequest(gid="g", reason="changed my mind", wait_for=pb.WAIT_FOR_COMPLETION)
    outcome = (await tcc.stub.CancelTransaction(request)).outcome
    assert (outcome.cancel_reason, outcome.cancel_detail) == (
        common.CANCEL_REASON_REQUESTED,
        "changed my mind",
    )
    assert (await tcc.stub.CancelTransaction(request)).outcome == outcome
    assert stock.heard("g") == ["TRY 1", "CANCEL 1"]


async def test_a_confirmed_transaction_cannot_be_cancelled(tcc: Running) -> None:
    await tcc.stub.BeginTransaction(begin("g"))
    await tcc.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"))
    async with refused("FAILED_PRECONDITION", "DECISION_CONFLICT"):
        await tcc.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g"))
    await tcc.settled("g")
    async with refused("FAILED_PRECONDITION", "DECISION_CONFLICT"):
        await tcc.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g"))


async def test_a_branch_id_with_different_content_is_refused(tcc: Running) -> None:
    await tcc.stub.BeginTransaction(begin("g"))
    await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    async with refused("ALREADY_EXISTS", "BRANCH_CONFLICT"):
        await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1", payload=b"other")))
    async with refused("ALREADY_EXISTS", "BRANCH_CONFLICT"):
        await tcc.stub.RegisterBranch(pb.RegisterBranchRequest(gid="g", branch=branch("1")))


async def test_a_whole_transaction_refuses_interactive_steps(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    await tcc.stub.ExecuteTransaction(execute("g", branch("1"), wait_for=pb.WAIT_FOR_ACCEPTED))
    async with refused("FAILED_PRECONDITION", "NOT_INTERACTIVE"):
        await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("2")))
    async with refused("FAILED_PRECONDITION", "NOT_INTERACTIVE"):
        await tcc.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"))
    go.set()


@pytest.mark.slow
async def test_an_abandoned_transaction_is_cancelled_by_its_expiry(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    await tcc.stub.BeginTransaction(begin("g", expiry=Duration(seconds=3)))
    await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    outcome = await tcc.settled("g")
    assert outcome.cancel_reason == common.CANCEL_REASON_EXPIRED
    assert stock.heard("g") == ["TRY 1", "CANCEL 1"]


# --- bad input --------------------------------------------------------------

BAD_REQUESTS = {
    "unknown participant": (execute("g", branch("1", "absent")), "UNKNOWN_PARTICIPANT"),
    "no branches": (execute("g"), "NO_BRANCHES"),
    "too many branches": (execute("g", *(branch(str(n)) for n in range(65))), "TOO_MANY_BRANCHES"),
    "duplicate branch ids": (execute("g", branch("1"), branch("1")), "DUPLICATE_BRANCH_ID"),
    "payload too large": (execute("g", branch("1", payload=bytes(256 * KIB + 1))), "PAYLOAD_TOO_LARGE"),
    "transaction too large": (
        execute("g", *(branch(str(n), payload=bytes(256 * KIB)) for n in range(5))),
        "TRANSACTION_TOO_LARGE",
    ),
    "gid too long": (execute("g" * 129, branch("1")), "INVALID_GID"),
    "expiry too long": (execute("g", branch("1"), expiry=Duration(seconds=3601)), "INVALID_EXPIRY"),
    "expiry not positive": (execute("g", branch("1"), expiry=Duration(seconds=-1)), "INVALID_EXPIRY"),
    "no branch id": (execute("g", branch("")), "INVALID_BRANCH_ID"),
    "control character": (execute("g\0", branch("1")), "INVALID_GID"),
    "unknown wait": (execute("g", branch("1"), wait_for=9), "INVALID_WAIT_FOR"),
}


@pytest.mark.parametrize(("request_", "reason"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
async def test_bad_input_is_refused_and_nothing_is_written(
    tcc: Running, stock: ScriptedParticipant, request_: pb.ExecuteTransactionRequest, reason: str
) -> None:
    async with refused("INVALID_ARGUMENT", reason):
        await tcc.stub.ExecuteTransaction(request_)
    assert await number_of_transactions(tcc) == 0
    assert stock.calls == []


async def test_an_unknown_gid_is_not_found(tcc: Running) -> None:
    for call in (
        tcc.stub.GetTransaction(pb.GetTransactionRequest(gid="g")),
        tcc.stub.WaitTransaction(pb.WaitTransactionRequest(gid="g")),
        tcc.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g")),
        tcc.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g")),
        tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1"))),
    ):
        async with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
            await call


async def test_an_invalid_list_request_is_refused(tcc: Running) -> None:
    for request, reason in (
        (pb.ListTransactionsRequest(page_token="rubbish"), "INVALID_PAGE_TOKEN"),
        (pb.ListTransactionsRequest(page_size=1_001), "INVALID_PAGE_SIZE"),
        (pb.ListTransactionsRequest(initiator="\0"), "INVALID_INITIATOR"),
    ):
        async with refused("INVALID_ARGUMENT", reason):
            await tcc.stub.ListTransactions(request)


async def test_the_ends_of_time_are_times(tcc: Running) -> None:
    """The database accepts the largest allowed values."""
    await tcc.stub.BeginTransaction(begin("g"))
    ends = pb.ListTransactionsRequest(
        created_after=Timestamp(),
        created_before=Timestamp(seconds=TIME_MAX_S),
        page_token=page_token(ListPosition(created_at_us=TIME_MAX_S * 10**6, gid="g" * 128)),
    )
    assert [tx.gid for tx in (await tcc.stub.ListTransactions(ends)).transactions] == ["g"]


async def test_a_call_without_a_deadline_gets_one(log_url: str, stock: ScriptedParticipant) -> None:
    async with running(settings_for({}, limits={"call_max_s": 0.05}), log_url) as worker:
        await worker.stub.BeginTransaction(begin("g"), timeout=60)
        wait = pb.WaitTransactionRequest(gid="g")
        async with refused("DEADLINE_EXCEEDED", "CALL_TOO_LONG"):
            await worker.stub.WaitTransaction(wait)
        # The transaction continues, and a caller's own deadline applies.
        waiting = asyncio.ensure_future(worker.stub.WaitTransaction(wait, timeout=60))
        await worker.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"), timeout=60)
        assert (await waiting).outcome.state in {
            common.TRANSACTION_STATE_CONFIRMING,
            common.TRANSACTION_STATE_CONFIRMED,
        }


# --- reading ----------------------------------------------------------------


async def test_a_transaction_is_read_in_full(tcc: Running) -> None:
    request = execute(
        "g",
        branch("1", payload=b"{}", content_type="application/json"),
        labels={"order": "17"},
        initiator="shop",
    )
    await tcc.stub.ExecuteTransaction(request)
    await tcc.settled("g")
    tx = (await tcc.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
    assert (tx.state, tx.labels["order"], tx.initiator) == (common.TRANSACTION_STATE_CONFIRMED, "17", "shop")
    request.branches[0].kind = common.BRANCH_KIND_TCC
    assert tx.branches[0].spec == request.branches[0]
    assert tx.branches[0].state == common.BRANCH_STATE_CONFIRMED
    assert tx.created_at.ToNanoseconds() <= tx.decided_at.ToNanoseconds() <= tx.ended_at.ToNanoseconds()


async def test_lists_are_paged_and_filtered(tcc: Running) -> None:
    for number in range(5):
        request = execute(f"g{number}", branch("1"), labels={"parity": str(number % 2)})
        await tcc.stub.ExecuteTransaction(request)
        await tcc.settled(f"g{number}")
    seen = []
    token = ""
    while True:
        page = await tcc.stub.ListTransactions(pb.ListTransactionsRequest(page_size=2, page_token=token))
        assert len(page.transactions) <= 2
        seen += [tx.gid for tx in page.transactions]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["g4", "g3", "g2", "g1", "g0"]
    odd = await tcc.stub.ListTransactions(pb.ListTransactionsRequest(labels={"parity": "1"}))
    assert [tx.gid for tx in odd.transactions] == ["g3", "g1"]
    trying = await tcc.stub.ListTransactions(
        pb.ListTransactionsRequest(states=[common.TRANSACTION_STATE_TRYING])
    )
    assert list(trying.transactions) == []


async def test_health_and_reflection_answer(tcc: Running) -> None:
    health = health_pb2_grpc.HealthStub(tcc.channel)
    for service in ("", "tcc.transaction.v1.TransactionService"):
        reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(tcc.address) as channel:
        services = await asyncio.to_thread(lambda: ProtoReflectionDescriptorDatabase(channel).get_services())
    assert "tcc.transaction.v1.TransactionService" in services
