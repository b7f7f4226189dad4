"""`tccctl requests` and `tccctl approve`, in a pipe."""

import json

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tests.tccctl.scripted_admin import scripted

SOON = 4_000_000_000
RESOLVE = {"branch_id": "stock", "outcome": "CONFIRMED", "state": "CONFIRMING"}
REPAIR = {
    "participant": "inventory", "branch_id": "1", "operation": "CANCEL",
    "payload_sha256": "", "content_type": "",
}  # fmt: skip


def record(sequence: int, action: str, **detail: object) -> admin.AuditRecord:
    return admin.AuditRecord(
        sequence=sequence, operator="ana", action=action, target="transaction/g", reason="shipped",
        detail=json.dumps(detail),
    )  # fmt: skip


def answers(*, repairs: list[admin.AuditRecord]) -> tuple[admin.ListAuditRecordsResponse, ...]:
    """What is read: resolved, repaired, requests to resolve, requests to repair."""
    used = record(9, "branch.resolve", approves=[3])
    requested = [
        record(5, "branch.resolve.request", arguments=RESOLVE, expires_at=SOON),
        record(4, "branch.resolve.request", arguments=RESOLVE, expires_at=1),
        record(3, "branch.resolve.request", arguments=RESOLVE, expires_at=SOON),
    ]
    pages: list[list[admin.AuditRecord]] = [[used], [], requested, repairs]
    return tuple(admin.ListAuditRecordsResponse(records=page) for page in pages)


def test_open_requests_are_listed_and_used_or_expired_ones_are_not() -> None:
    repair = record(6, "branch.repair.request", arguments=REPAIR, expires_at=SOON)
    with scripted(ListAuditRecords=answers(repairs=[repair])) as service:
        result = service.tccctl("requests", "list")
    assert result.exit_code == 0, result.stderr
    _, *rows = result.stdout.splitlines()
    assert [row.split()[:6] for row in rows] == [
        ["6", "ana", "branch.repair", "g", "1", "cancel"],
        ["5", "ana", "branch.resolve", "g", "stock", "confirmed"],
    ]


def test_an_approval_repeats_the_command_that_was_requested() -> None:
    inspected = admin.InspectTransactionResponse(transaction=common.Transaction(gid="g", version=7))
    done = admin.ResolveBranchResponse(audit_record=admin.AuditRecord(sequence=10))
    with scripted(
        ListAuditRecords=answers(repairs=[]), InspectTransaction=inspected, ResolveBranch=done
    ) as service:
        result = service.tccctl("approve", "5", "--reason", "checked", "--yes")
    assert result.stdout == "request 5 was carried out (audit record 10)\n", result.stderr
    assert service.requests[-1] == admin.ResolveBranchRequest(
        gid="g",
        branch_id="stock",
        outcome=common.HEURISTIC_OUTCOME_CONFIRMED,
        operator_context=admin.OperatorContext(operator="ana", reason="checked", version=7),
    )


def test_a_repair_is_approved_unless_its_payload_is_needed() -> None:
    plain = record(6, "branch.repair.request", arguments=REPAIR, expires_at=SOON)
    done = admin.RepairBranchResponse(audit_record=admin.AuditRecord(sequence=10))
    with scripted(ListAuditRecords=answers(repairs=[plain]), RepairBranch=done) as service:
        assert service.tccctl("approve", "6", "--reason", "checked", "--yes").exit_code == 0
    assert service.requests[-1].operation == common.OPERATION_CANCEL
    given = record(6, "branch.repair.request", arguments=REPAIR | {"payload_sha256": "ab"}, expires_at=SOON)
    with scripted(ListAuditRecords=answers(repairs=[given])) as service:
        result = service.tccctl("approve", "6", "--reason", "checked", "--yes")
    assert result.exit_code == 2
    assert "repeat the command itself" in result.stderr


def test_no_used_or_expired_request_is_approved() -> None:
    for number in ("3", "4", "99"):
        with scripted(ListAuditRecords=answers(repairs=[])) as service:
            result = service.tccctl("approve", number, "--reason", "checked", "--yes")
        assert result.exit_code == 2
        assert f"there is no open request {number}" in result.stderr
