"""Reconciliation: real barriers that do not agree with the log, and their repair."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import make_url

from coordinator.api.operator import approvals
from tcc import Participant
from tcc.admin.v1 import admin_pb2 as apb
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as ppb, participant_pb2_grpc
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.log.transactions import sql
from tests.support.errors import refused
from tests.support.participant_databases import RECORD, Ledger, make_engine
from tests.support.scripted_barrier import ScriptedBarrier, tried
from tests.support.scripted_participant import ScriptedParticipant, failed, serving
from tests.support.worker import Running, branch, running, settings_for

from .conftest import REPORTS, Stub, operator_context, operators_of, until

CONFIRM, CANCEL = common.OPERATION_CONFIRM, common.OPERATION_CANCEL
ORPHAN, LEAK, MIXED = apb.FINDING_KIND_ORPHAN, apb.FINDING_KIND_LEAK, apb.FINDING_KIND_MIXED
NOW = {"reconcile": {"every_s": 0, "min_age_s": 0}}


class Effects:
    """Record its calls."""

    async def try_(self, branch, request, db):
        await self._note("try", branch, db)

    async def confirm(self, branch, request, db):
        await self._note("confirm", branch, db)

    async def cancel(self, branch, request, db):
        await self._note("cancel", branch, db)

    async def _note(self, operation, branch, db):
        parameters = {"gid": branch.gid, "branch_id": branch.branch_id, "operation": operation}
        await db.execute(RECORD, parameters)


class Shop:
    """A participant of the SDK, "stock", its barrier rows, and a coordinator configured with it."""

    def __init__(self, ledger: Ledger, worker: Running, stub: participant_pb2_grpc.ParticipantServiceStub):
        self.ledger = ledger
        self.worker = worker
        self._stub = stub

    async def orphan(self, gid: str, action: str = "reserve") -> None:
        """Make a reservation that no log has."""
        call = ppb.BranchCall(
            gid=gid, branch_id="1", action=action, payload=b"{}", content_type="application/json"
        )
        reply = await self._stub.TryBranch(ppb.TryBranchRequest(call=call))
        assert reply.result.code == common.OUTCOME_CODE_SUCCEEDED

    async def confirmed(self, gid: str, action: str = "reserve") -> None:
        asked = branch("1", action=action, payload=b"{}", content_type="application/json")
        await self.worker.stub.ExecuteTransaction(
            pb.ExecuteTransactionRequest(gid=gid, branches=[asked], wait_for=pb.WAIT_FOR_COMPLETION)
        )

    def restore(self, gid: str, state: "common.BarrierState") -> None:
        """Set the row as a backup or an operator would; its expiry has passed."""
        self.ledger.execute(
            f"UPDATE tcc_barrier SET state = {int(state)}, expires_at_ms = updated_at_ms WHERE gid = '{gid}'"
        )


@pytest.fixture
async def shop(log_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    url = make_url(f"sqlite+aiosqlite:///{tmp_path / 'stock.db'}")
    engine = make_engine("sqlite-async", url)
    participant = Participant("stock", database=engine)
    participant.action("reserve", needs_request=False)(Effects)
    participant.action("needy")(Effects)
    await participant.create_schema()
    address = f"127.0.0.1:{await participant.start()}"
    try:
        settings = settings_for({"stock": {"target": address}}, **REPORTS, **NOW)
        async with running(settings, log_url) as worker, grpc.aio.insecure_channel(address) as channel:
            ledger = Ledger(url.set(drivername="sqlite+pysqlite"))
            yield Shop(ledger, worker, participant_pb2_grpc.ParticipantServiceStub(channel))
    finally:
        await participant.stop(0.5)
        await engine.dispose()


@pytest.fixture
async def admin(shop: Shop) -> AsyncIterator[Stub]:
    async with operators_of(shop.worker) as stub:
        yield stub


def day() -> dict[str, object]:
    request = apb.ReconcileRequest()
    request.ended_within.FromSeconds(86_400)
    return {"ended_within": request.ended_within}


async def compared(
    admin: Stub, **fields: object
) -> tuple[list[apb.Finding], dict[str, apb.ParticipantReconciliation]]:
    findings, ended = [], {}
    async for response in admin.Reconcile(apb.ReconcileRequest(**fields)):
        findings += response.findings
        if response.HasField("ended"):
            ended[response.ended.participant] = response.ended
    return findings, ended


async def repair(admin: Stub, gid: str, **fields: object) -> apb.RepairBranchResponse:
    return await admin.RepairBranch(
        apb.RepairBranchRequest(
            participant="stock", gid=gid, branch_id="1", operator_context=operator_context(), **fields
        )
    )


async def test_an_orphan_is_found_and_cancelled_on_command(shop: Shop, admin: Stub) -> None:
    await shop.orphan("lost")
    [finding], ended = await compared(admin)
    assert (finding.participant, finding.gid, finding.branch_id) == ("stock", "lost", "1")
    assert (finding.kind, finding.action, finding.repair) == (ORPHAN, "reserve", CANCEL)
    assert finding.barrier_state == common.BARRIER_STATE_TRIED
    assert finding.transaction_state == common.TRANSACTION_STATE_UNSPECIFIED
    assert (ended["stock"].outcome, ended["stock"].rows, ended["stock"].findings) == (
        apb.RECONCILIATION_OUTCOME_COMPARED,
        1,
        1,
    )
    assert shop.ledger.effects("lost") == ["try"], "looking repairs nothing"
    repaired = await repair(admin, "lost")
    assert repaired.result.code == common.OUTCOME_CODE_SUCCEEDED
    assert (repaired.audit_record.action, repaired.audit_record.target) == (
        "branch.repair",
        "transaction/lost",
    )
    assert '"operation":"CANCEL"' in repaired.audit_record.detail
    assert shop.ledger.effects("lost") == ["cancel", "try"]
    assert (await compared(admin))[0] == []
    async with refused("ABORTED", "FINDING_GONE"):
        await repair(admin, "lost")
    records = await admin.ListAuditRecords(apb.ListAuditRecordsRequest())
    assert [record.sequence for record in records.records] == [1], "what is refused is not recorded"
    assert (await admin.VerifyAuditChain(apb.VerifyAuditChainRequest())).intact


async def test_an_orphan_may_be_confirmed_by_an_operator(shop: Shop, admin: Stub) -> None:
    await shop.orphan("sold")
    assert (await repair(admin, "sold", operation=CONFIRM)).result.code == common.OUTCOME_CODE_SUCCEEDED
    assert shop.ledger.effects("sold") == ["confirm", "try"]


async def test_an_orphan_that_needs_its_payload_gets_it_from_the_operator(shop: Shop, admin: Stub) -> None:
    await shop.orphan("lost", action="needy")
    outcome = (await repair(admin, "lost")).result
    assert (outcome.code, outcome.reason) == (common.OUTCOME_CODE_FAILED, "PAYLOAD_NEEDED")
    assert shop.ledger.effects("lost") == ["try"]
    other = {"payload": b'{"sku": "other"}', "content_type": "application/json"}
    outcome = (await repair(admin, "lost", **other)).result
    assert (outcome.code, outcome.reason) == (common.OUTCOME_CODE_FAILED, "BRANCH_CONFLICT")
    assert shop.ledger.effects("lost") == ["try"]
    given = {"payload": b"{}", "content_type": "application/json"}
    assert (await repair(admin, "lost", **given)).result.code == common.OUTCOME_CODE_SUCCEEDED
    assert shop.ledger.effects("lost") == ["cancel", "try"]


async def test_a_repair_waits_for_a_second_person(
    shop: Shop, admin: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "_approval_s", lambda: 3600.0)
    await shop.orphan("lost")

    async def repair_as(operator: str, **fields: object) -> apb.RepairBranchResponse:
        asked = apb.OperatorContext(operator=operator, reason="it is lost")
        request = apb.RepairBranchRequest(
            participant="stock", gid="lost", branch_id="1", operator_context=asked, **fields
        )
        return await admin.RepairBranch(request)

    for operator, fields in (
        ("ana", {}),
        ("ana", {}),
        ("bea", {"operation": CONFIRM}),
        ("bea", {"payload": b"x"}),
    ):
        async with refused("FAILED_PRECONDITION", "APPROVAL_REQUIRED"):
            await repair_as(operator, **fields)
    assert shop.ledger.effects("lost") == ["try"]
    repaired = await repair_as("bea")
    assert repaired.result.code == common.OUTCOME_CODE_SUCCEEDED
    assert shop.ledger.effects("lost") == ["cancel", "try"]
    assert '"approves":[1]' in repaired.audit_record.detail


async def test_a_leak_is_repaired_only_by_the_decided_operation(shop: Shop, admin: Stub) -> None:
    await shop.confirmed("g")
    shop.restore("g", common.BARRIER_STATE_TRIED)
    [finding], _ = await compared(admin)
    assert (finding.kind, finding.repair) == (LEAK, CONFIRM)
    assert finding.transaction_state == common.TRANSACTION_STATE_CONFIRMED
    async with refused("FAILED_PRECONDITION", "REPAIR_NOT_ALLOWED"):
        await repair(admin, "g", operation=CANCEL)
    async with refused("FAILED_PRECONDITION", "REPAIR_NOT_ALLOWED"):
        await repair(admin, "g", payload=b"{}")
    assert shop.ledger.effects("g") == ["confirm", "try"]
    await repair(admin, "g")
    assert shop.ledger.effects("g") == ["confirm", "confirm", "try"]
    assert (await compared(admin))[0] == []


async def test_a_leak_whose_payload_was_erased_gets_it_from_the_operator(
    shop: Shop, admin: Stub, log_url: str
) -> None:
    await shop.confirmed("g", "needy")
    shop.restore("g", common.BARRIER_STATE_TRIED)
    await sql(log_url, "UPDATE transactions SET created_at = now() - interval '2 h'")
    await sql(log_url, "UPDATE transactions SET ended_at = created_at")
    assert await shop.worker.worker.log.payloads_erase(ended_before_s=3600, limit=10) == 1
    outcome = (await repair(admin, "g")).result
    assert (outcome.code, outcome.reason) == (common.OUTCOME_CODE_FAILED, "PAYLOAD_NEEDED")
    given = {"payload": b"{}", "content_type": "application/json"}
    assert (await repair(admin, "g", **given)).result.code == common.OUTCOME_CODE_SUCCEEDED
    assert shop.ledger.effects("g") == ["confirm", "confirm", "try"]


async def test_mixed_outcomes_are_checked_on_request_and_not_repaired(shop: Shop, admin: Stub) -> None:
    await shop.confirmed("g")
    shop.restore("g", common.BARRIER_STATE_CANCELLED)
    assert (await compared(admin))[0] == []
    [finding], _ = await compared(admin, **day())
    assert (finding.kind, finding.repair) == (MIXED, common.OPERATION_UNSPECIFIED)
    async with refused("FAILED_PRECONDITION", "REPAIR_NOT_ALLOWED"):
        await repair(admin, "g")
    shop.restore("g", common.BARRIER_STATE_CONFIRMED)
    findings, ended = await compared(admin, **day())
    assert (findings, ended["stock"].rows) == ([], 1)


async def test_a_live_transaction_is_no_finding(shop: Shop, admin: Stub) -> None:
    await shop.worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
    await shop.worker.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1", payload=b"{}")))
    # Long past by the participant's clock; but the log decides, and there it has not passed.
    shop.restore("g", common.BARRIER_STATE_TRIED)
    findings, ended = await compared(admin)
    assert (findings, ended["stock"].rows) == ([], 1)
    async with refused("ABORTED", "FINDING_GONE"):
        await repair(admin, "g")


async def test_young_rows_are_not_reported(shop: Shop, admin: Stub) -> None:
    await shop.orphan("lost")
    hour = apb.ReconcileRequest()
    hour.min_age.FromSeconds(3_600)
    findings, ended = await compared(admin, min_age=hour.min_age)
    assert (findings, ended["stock"].rows) == ([], 0)


async def test_commands_require_a_reason_and_a_known_participant(shop: Shop, admin: Stub) -> None:
    await shop.orphan("lost")
    request = apb.RepairBranchRequest(participant="stock", gid="lost", branch_id="1")
    async with refused("INVALID_ARGUMENT", "MISSING_OPERATOR"):
        await admin.RepairBranch(request)
    for fields, reason in (("min_age", "INVALID_MIN_AGE"), ("ended_within", "INVALID_ENDED_WITHIN")):
        async with refused("INVALID_ARGUMENT", reason):
            await compared(admin, **{fields: Duration(seconds=5, nanos=-1)})
    async with refused("INVALID_ARGUMENT", "INVALID_OPERATION"):
        await repair(admin, "lost", operation=common.OPERATION_TRY)
    async with refused("INVALID_ARGUMENT", "UNKNOWN_PARTICIPANT"):
        await admin.RepairBranch(
            apb.RepairBranchRequest(
                participant="absent", gid="g", branch_id="1", operator_context=operator_context()
            )
        )
    async with refused("INVALID_ARGUMENT", "UNKNOWN_PARTICIPANT"):
        await compared(admin, participants=["absent"])
    assert shop.ledger.effects("lost") == ["try"]


async def test_nothing_is_called_while_a_participant_is_paused(shop: Shop, admin: Stub) -> None:
    await shop.orphan("lost")
    await admin.PauseParticipant(
        apb.PauseParticipantRequest(participant="stock", operator_context=operator_context())
    )

    async def heard() -> bool:
        [status] = (await admin.ListParticipants(apb.ListParticipantsRequest())).participants
        return bool(status.reports) and all(report.paused for report in status.reports)

    await until(heard)
    _, ended = await compared(admin)
    assert ended["stock"].outcome == apb.RECONCILIATION_OUTCOME_PAUSED
    async with refused("UNAVAILABLE", "PARTICIPANT_PAUSED"):
        await repair(admin, "lost")
    assert shop.ledger.effects("lost") == ["try"]


async def test_all_pages_are_read_and_rows_that_change_are_no_findings(log_url: str) -> None:
    changed = ppb.BarrierRow(gid="b", branch_id="1", action="reserve", state=common.BARRIER_STATE_CONFIRMED)
    barrier = ScriptedBarrier(
        [[], [tried("a"), tried("b")], [], [tried("c")]], [tried("a"), changed, tried("c")]
    )
    async with serving(barrier) as address:
        settings = settings_for({"stock": {"target": address}}, **REPORTS, **NOW)
        async with running(settings, log_url) as worker, operators_of(worker) as admin:
            findings, ended = await compared(admin)
            assert [finding.gid for finding in findings] == ["a", "c"]
            assert (ended["stock"].rows, ended["stock"].findings) == (3, 2)


async def test_a_participant_that_cannot_be_compared_is_named(
    log_url: str, stock: ScriptedParticipant
) -> None:
    odd = ScriptedBarrier([[ppb.BarrierRow(gid="g", branch_id="1", state=7)]], [])
    async with serving(odd) as address:
        tables = {
            "stock": {"target": stock.address},
            "gone": {"target": "127.0.0.1:1"},
            "odd": {"target": address},
        }
        settings = settings_for(tables, **REPORTS, **NOW)
        async with running(settings, log_url) as worker, operators_of(worker) as admin:
            findings, ended = await compared(admin)
            assert findings == []
            assert {name: one.outcome for name, one in ended.items()} == {
                "stock": apb.RECONCILIATION_OUTCOME_UNSUPPORTED,
                "gone": apb.RECONCILIATION_OUTCOME_UNREACHABLE,
                "odd": apb.RECONCILIATION_OUTCOME_UNREACHABLE,
            }
            assert "UNAVAILABLE" in ended["gone"].detail
            assert "ListBranches" in ended["stock"].detail
            async with refused("FAILED_PRECONDITION", "RECONCILIATION_UNSUPPORTED"):
                await repair(admin, "g")
            _, ended = await compared(admin, participants=["gone"])
            assert list(ended) == ["gone"]


async def test_the_outcome_of_a_repair_is_reported(log_url: str) -> None:
    barrier = ScriptedBarrier([[tried("a")]], [tried("a")])

    async def refuse(call: ppb.BranchCall) -> common.CallResult:
        return failed("BOOKS_CLOSED")

    barrier.script = refuse
    async with serving(barrier) as address:
        settings = settings_for({"stock": {"target": address}}, **REPORTS, **NOW)
        async with running(settings, log_url) as worker, operators_of(worker) as admin:
            outcome = (await repair(admin, "a")).result
            assert (outcome.code, outcome.reason) == (common.OUTCOME_CODE_FAILED, "BOOKS_CLOSED")
    [call] = barrier.calls
    assert (call.operation, call.payload, call.content_type) == (CANCEL, b"", "application/x-tcc-unknown")
