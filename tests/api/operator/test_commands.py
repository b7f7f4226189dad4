"""Commands on transactions: what each does, what it leaves in the audit chain, and what is refused."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tcc.admin.v1 import admin_pb2 as apb
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.log.transactions import sql
from tests.support.errors import refused
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, rejected
from tests.support.worker import Running, branch, running, settings_for

from .conftest import REPORTS, Refusing, Stub, act_on, execute, inspect, operator_context, operators_of, until

TRY, CONFIRM, CANCEL = (
    common.OPERATION_TRY,
    common.OPERATION_CONFIRM,
    common.OPERATION_CANCEL,
)


async def stuck(tcc: Running, stock: ScriptedParticipant, gid: str = "g", *branch_ids: str) -> Refusing:
    """A transaction whose Confirm fails, until it is stuck."""
    script = stock.script = Refusing(CONFIRM)
    await tcc.stub.ExecuteTransaction(execute(gid, *branch_ids))

    async def is_stuck() -> bool:
        reply = await tcc.stub.GetTransaction(pb.GetTransactionRequest(gid=gid))
        return reply.transaction.stuck

    await until(is_stuck)
    return script


async def test_a_held_transaction_is_not_retried_and_a_released_one_goes_on(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    script = await stuck(tcc, stock)
    held = await act_on(admin, "HoldTransaction", "g")
    assert held.transaction.held
    assert held.transaction.state == common.TRANSACTION_STATE_CONFIRMING
    script.mended = True
    before = stock.count(CONFIRM)
    # In the meantime another one is retried through the same queues: this one would be, too.
    await stuck(tcc, stock, "other")
    stock.script.mended = True
    assert (await tcc.settled("other")).state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.count(CONFIRM, gid="g") == before
    assert (await inspect(admin, "g")).transaction.version == held.transaction.version
    released = await act_on(admin, "ReleaseTransaction", "g")
    assert not released.transaction.held
    assert (await tcc.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED


async def test_holding_takes_a_transaction_from_its_owner(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    asked = asyncio.ensure_future(tcc.stub.ExecuteTransaction(execute("g")))
    await stock.until(lambda: stock.count(TRY) == 1)
    held = await act_on(admin, "HoldTransaction", "g")
    assert held.transaction.owner == ""
    go.set()
    await act_on(admin, "ReleaseTransaction", "g")
    assert (await asked).outcome.state == common.TRANSACTION_STATE_CONFIRMING
    assert (await tcc.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED


async def test_a_command_keeps_the_reason_of_the_cancel(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    async def sold_out(call: participant_pb2.BranchCall) -> common.CallResult:
        return rejected("SOLD_OUT", "only 2 left") if call.operation == TRY else failed("BOOKS_CLOSED")

    stock.script = sold_out
    await tcc.stub.ExecuteTransaction(execute("g"))
    await stock.until(lambda: stock.count(CANCEL) == 1)
    held = (await act_on(admin, "HoldTransaction", "g")).transaction
    assert (held.held, held.cancel_detail, held.cancel_message) == (True, "SOLD_OUT", "only 2 left")
    assert (await inspect(admin, "g")).transaction.cancel_message == "only 2 left"


async def test_a_transaction_released_past_its_expiry_is_cancelled(
    log_url: str, tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g", expiry=Duration(seconds=3_000)))
    await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    await act_on(admin, "HoldTransaction", "g")
    async with refused("FAILED_PRECONDITION", "TRANSACTION_HELD"):
        await tcc.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"))
    # As if this much time had passed; a coordinator that cancels by expiry would do so now.
    await sql(log_url, "UPDATE transactions SET expires_at = now() - INTERVAL '1 minute'")
    await tcc.stub.ExecuteTransaction(execute("other", wait_for=pb.WAIT_FOR_COMPLETION))
    assert (await inspect(admin, "g")).transaction.state == common.TRANSACTION_STATE_TRYING
    await act_on(admin, "ReleaseTransaction", "g")
    outcome = await tcc.settled("g")
    assert outcome.cancel_reason == common.CANCEL_REASON_EXPIRED


async def test_retry_calls_waiting_branches_at_once(log_url: str, stock: ScriptedParticipant) -> None:
    patient = {"target": stock.address, "retry_first_s": 36_000.0, "retry_max_s": 36_000.0}
    async with (
        running(settings_for({"stock": patient}, **REPORTS), log_url) as tcc,
        operators_of(tcc) as admin,
    ):
        script = stock.script = Refusing(CONFIRM)
        await tcc.stub.ExecuteTransaction(execute("g"))
        await stock.until(lambda: stock.count(CONFIRM) == 1)
        script.mended = True
        retried = await act_on(admin, "RetryTransaction", "g")
        assert retried.audit_record.action == "transaction.retry"
        assert (await tcc.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED


async def test_a_held_transaction_is_not_retried(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    await stuck(tcc, stock)
    await act_on(admin, "HoldTransaction", "g")
    async with refused("FAILED_PRECONDITION", "TRANSACTION_HELD"):
        await act_on(admin, "RetryTransaction", "g")


async def test_cancel_ends_only_undecided_transactions(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
    await tcc.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    cancelled = await act_on(admin, "CancelTransaction", "g", reason="their initiator is gone")
    assert cancelled.audit_record.action == "transaction.cancel"
    outcome = await tcc.settled("g")
    assert outcome.state == common.TRANSACTION_STATE_CANCELLED
    assert (outcome.cancel_reason, outcome.cancel_detail) == (
        common.CANCEL_REASON_REQUESTED,
        "their initiator is gone",
    )
    assert stock.heard("g") == ["TRY 1", "CANCEL 1"]
    async with refused("FAILED_PRECONDITION", "TRANSACTION_ENDED"):
        await act_on(admin, "CancelTransaction", "g")
    await stuck(tcc, stock, "decided")
    async with refused("FAILED_PRECONDITION", "DECISION_CONFLICT"):
        await act_on(admin, "CancelTransaction", "decided")


async def test_a_heuristic_outcome_ends_the_transaction_and_stays_visible(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    await stuck(tcc, stock, "g", "1")
    outcome = common.HEURISTIC_OUTCOME_CANCELLED
    await act_on(admin, "ResolveBranch", "g", reason="they sold it twice", branch_id="1", outcome=outcome)
    ended = await tcc.settled("g")
    # The decision stands, though the branch went the other way.
    assert ended.state == common.TRANSACTION_STATE_CONFIRMED
    assert (ended.heuristic, ended.mixed_outcome) == (True, True)
    shown = (await inspect(admin, "g")).transaction
    assert (shown.heuristic, shown.mixed_outcome) == (True, True)
    (branch_,) = shown.branches
    assert branch_.state == common.BRANCH_STATE_CANCELLED
    assert (branch_.heuristic_outcome, branch_.heuristic_reason) == (outcome, "they sold it twice")
    history = (await inspect(admin, "g")).history
    words = [(e.branch_id, e.detail) for e in history if e.kind == apb.HISTORY_KIND_OPERATOR]
    assert words == [("1", "branch.resolve CANCELLED: they sold it twice")]
    assert await tcc.worker.log.transaction_purge(ended_before_s=0.0, limit=100) == 0
    found = await admin.SearchTransactions(apb.SearchTransactionsRequest(filter="heuristic"))
    assert [tx.gid for tx in found.transactions] == ["g"]


async def test_a_heuristic_outcome_of_one_branch_lets_the_others_go_on(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    async def first_fails(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.branch_id == "1":
            return await Refusing(CONFIRM)(call)
        return SUCCEEDED

    stock.script = first_fails
    await tcc.stub.ExecuteTransaction(execute("g", "1", "2"))
    async with refused("INVALID_ARGUMENT", "INVALID_OUTCOME"):
        await act_on(admin, "ResolveBranch", "g", branch_id="1")
    async with refused("NOT_FOUND", "BRANCH_NOT_FOUND"):
        await act_on(admin, "ResolveBranch", "g", branch_id="9", outcome=common.HEURISTIC_OUTCOME_CONFIRMED)
    await act_on(admin, "ResolveBranch", "g", branch_id="1", outcome=common.HEURISTIC_OUTCOME_CONFIRMED)
    ended = await tcc.settled("g")
    assert ended.state == common.TRANSACTION_STATE_CONFIRMED
    assert (ended.heuristic, ended.mixed_outcome) == (True, False)
    assert stock.count(CANCEL) == 0


MUTATIONS = [
    ("RetryTransaction", {}),
    ("HoldTransaction", {}),
    ("ReleaseTransaction", {}),
    ("CancelTransaction", {}),
    ("ResolveBranch", {"branch_id": "1", "outcome": common.HEURISTIC_OUTCOME_CONFIRMED}),
]


def _request(method: str, gid: str, given: apb.OperatorContext, fields: dict[str, object]) -> object:
    return getattr(apb, f"{method}Request")(gid=gid, operator_context=given, **fields)


@pytest.mark.parametrize(("method", "fields"), MUTATIONS, ids=lambda value: str(value)[:20])
async def test_every_command_requires_a_name_a_reason_and_a_version(
    tcc: Running, admin: Stub, stock: ScriptedParticipant, method: str, fields: dict[str, object]
) -> None:
    await stuck(tcc, stock)
    await act_on(admin, "HoldTransaction", "g")
    seen = (await inspect(admin, "g")).transaction
    call = getattr(admin, method)
    for given, reason in (
        (apb.OperatorContext(operator="ann", version=seen.version), "MISSING_REASON"),
        (apb.OperatorContext(operator="ann", reason="  ", version=seen.version), "MISSING_REASON"),
        (apb.OperatorContext(reason="r", version=seen.version), "MISSING_OPERATOR"),
        (apb.OperatorContext(operator="ann", reason="r"), "MISSING_VERSION"),
        (apb.OperatorContext(operator="ann", reason="r" * 1_001, version=seen.version), "INVALID_REASON"),
    ):
        async with refused("INVALID_ARGUMENT", reason):
            await call(_request(method, "g", given, fields))
    async with refused("ABORTED", "VERSION_CHANGED") as refusal:
        await call(_request(method, "g", operator_context(seen.version - 1), fields))
    assert refusal.info.metadata["version"] == str(seen.version)
    async with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
        await call(_request(method, "absent", operator_context(1), fields))
    assert (await inspect(admin, "g")).transaction == seen
    records = (await admin.ListAuditRecords(apb.ListAuditRecordsRequest())).records
    assert [record.action for record in records] == ["transaction.hold"]


async def test_of_two_commands_on_one_version_only_one_succeeds(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    await stuck(tcc, stock)
    await act_on(admin, "HoldTransaction", "g")
    seen = (await inspect(admin, "g")).transaction.version
    requests = [
        admin.ReleaseTransaction(
            apb.ReleaseTransactionRequest(gid="g", operator_context=operator_context(seen, operator=name))
        )
        for name in ("ann", "bob", "eve")
    ]
    replies = await asyncio.gather(*requests, return_exceptions=True)
    refusals = [reply for reply in replies if isinstance(reply, grpc.aio.AioRpcError)]
    assert len(refusals) == 2
    # A late command finds it no longer held, in another version than the one seen.
    assert {refusal.code() for refusal in refusals} == {grpc.StatusCode.ABORTED}
    released = await admin.ListAuditRecords(apb.ListAuditRecordsRequest(action="transaction.release"))
    assert len(released.records) == 1


async def test_the_history_has_failures_and_operators_actions(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    script = await stuck(tcc, stock)
    await act_on(admin, "HoldTransaction", "g", reason="asking them")
    script.mended = True
    await act_on(admin, "ReleaseTransaction", "g", reason="they mended it")
    await tcc.settled("g")
    history = (await inspect(admin, "g")).history
    kinds = [apb.HistoryKind.Name(entry.kind).removeprefix("HISTORY_KIND_") for entry in history]
    assert kinds[:3] == ["BEGUN", "DECIDED", "CALL_FAILED"]
    assert kinds[-1] == "ENDED"
    assert "STUCK" in kinds
    failures = [entry for entry in history if entry.kind == apb.HISTORY_KIND_CALL_FAILED]
    assert sum(entry.count for entry in failures) >= 3
    assert {(e.branch_id, e.participant, e.operation, e.detail) for e in failures} == {
        ("1", "stock", "CONFIRM", "BOOKS_CLOSED")
    }
    actions = [(entry.actor, entry.detail) for entry in history if entry.kind == apb.HISTORY_KIND_OPERATOR]
    assert actions == [
        ("ann", "transaction.hold: asking them"),
        ("ann", "transaction.release: they mended it"),
    ]


async def test_a_transaction_without_failures_has_only_milestones(tcc: Running, admin: Stub) -> None:
    await tcc.stub.ExecuteTransaction(execute("g", wait_for=pb.WAIT_FOR_COMPLETION))
    history = (await inspect(admin, "g")).history
    assert [entry.kind for entry in history] == [
        apb.HISTORY_KIND_BEGUN,
        apb.HISTORY_KIND_DECIDED,
        apb.HISTORY_KIND_ENDED,
    ]


async def test_explain_shows_the_cause_and_what_would_help(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    await stuck(tcc, stock, "g", "1", "2")

    async def explained() -> apb.ExplainTransactionResponse:
        return await admin.ExplainTransaction(apb.ExplainTransactionRequest(gid="g"))

    async def reported() -> bool:
        return all(branch.reports for branch in (await explained()).branches)

    await until(reported)
    reply = await explained()
    assert (reply.stuck, reply.held, reply.state) == (True, False, common.TRANSACTION_STATE_CONFIRMING)
    assert reply.summary.startswith("2 of 2 branches are not done; Confirm at stock has failed")
    assert [b.operation for b in reply.branches] == ["CONFIRM", "CONFIRM"]
    assert min(b.attempts for b in reply.branches) >= 1
    assert {b.last_error for b in reply.branches} == {"BOOKS_CLOSED"}
    assert "search the log of participant stock for: BOOKS_CLOSED" in reply.advice
    assert any("heuristic outcome" in words for words in reply.advice)
    await act_on(admin, "HoldTransaction", "g")
    held = await explained()
    assert held.summary == "held by an operator; no participant is called until it is released"
    assert not held.HasField("next_attempt_at")
    stock.script = Refusing(TRY)
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g2"))
    undecided = await admin.ExplainTransaction(apb.ExplainTransactionRequest(gid="g2"))
    assert "waiting for the initiator to confirm" in undecided.summary
    assert undecided.owner_alive


async def test_explain_shows_the_known_state_of_a_try(log_url: str, stock: ScriptedParticipant) -> None:
    """Before the decision only the coordinator that drives a transaction knows the state of its Trys."""
    answering = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await answering.wait()
        return SUCCEEDED

    stock.script = wait
    settings = settings_for({"stock": {"target": stock.address, "call_timeout_s": 60}}, **REPORTS)
    async with (
        running(settings, log_url) as driver,
        running(settings, log_url) as other,
        operators_of(driver) as there,
        operators_of(other) as elsewhere,
    ):

        async def explained(asked: Stub) -> apb.ExplainTransactionResponse:
            return await asked.ExplainTransaction(apb.ExplainTransactionRequest(gid="g"))

        async def reported() -> bool:
            return all(branch.reports for branch in (await explained(elsewhere)).branches)

        await driver.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
        tried = asyncio.ensure_future(
            driver.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")), timeout=60)
        )
        await stock.until(lambda: stock.count(TRY) == 1)
        await until(reported)
        (asked_there,) = (await explained(there)).branches
        assert asked_there.summary == "Try at stock has not completed yet"
        answering.set()
        await tried
        here = await explained(there)
        assert not here.branches
        assert here.summary.startswith("every Try has succeeded; waiting for the initiator to confirm")
        reply = await explained(elsewhere)
        name = reply.owner_name
        assert name == driver.worker.log.name
        assert reply.summary.startswith(
            f"only coordinator {name}, which drives it, knows which Trys have succeeded"
        )
        assert [one.summary for one in reply.branches] == [
            f"only coordinator {name} knows whether Try at stock has succeeded"
        ]
        await driver.stub.RegisterBranch(pb.RegisterBranchRequest(gid="g", branch=branch("2")))
        # The registration has saved the first one to the log.
        own = (
            "the initiator registered this branch and calls its Try at stock itself; "
            "whether it did is not known here before it confirms"
        )
        for stub in (there, elsewhere):
            reply = await explained(stub)
            assert [one.summary for one in reply.branches] == [own]
            assert reply.summary.startswith(
                "waiting for the initiator, which calls the Try of 2 itself and has neither confirmed nor"
            )
            assert reply.advice[0] == "ask the initiator why it has neither confirmed nor cancelled"


@pytest.mark.parametrize(
    ("method", "cause"),
    [
        ("RegisterBranch", "its initiator registered it"),
        ("TryBranch", "the database of stock is another one"),
    ],
)
async def test_explain_shows_why_a_branch_without_a_try_does_not_confirm(
    tcc: Running, admin: Stub, stock: ScriptedParticipant, method: str, cause: str
) -> None:
    stock.script = Refusing(CONFIRM, "NOT_TRIED")
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g", initiator="shop"))
    request = getattr(pb, f"{method}Request")(gid="g", branch=branch("1"))
    await getattr(tcc.stub, method)(request)
    await tcc.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"))
    await stock.until(lambda: stock.count(CONFIRM) > 1)

    async def advice() -> str:
        reply = await admin.ExplainTransaction(apb.ExplainTransactionRequest(gid="g"))
        return "\n".join(reply.advice)

    async def is_known() -> bool:
        return "stock does not know branch 1" in await advice()

    await until(is_known)
    assert cause in await advice()
    assert "search the log of participant" not in await advice()
