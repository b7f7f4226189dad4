"""`tccctl reconcile`: findings, how it ends, and repairs one by one or all that are proposed."""

import json
import shlex

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tests.tccctl.scripted_admin import refusal, scripted


def finding(gid: str, kind: "admin.FindingKind", **fields: object) -> admin.Finding:
    known = {
        "participant": "inventory",
        "branch_id": "stock",
        "action": "reserve",
        "barrier_state": common.BARRIER_STATE_TRIED,
        "age": Duration(seconds=600),
        "explanation": "no coordinator will end this",
    }
    return admin.Finding(gid=gid, kind=kind, **(known | fields))


ORPHAN = finding("order-7", admin.FINDING_KIND_ORPHAN, repair=common.OPERATION_CANCEL)
LEAK = finding(
    "order-8",
    admin.FINDING_KIND_LEAK,
    repair=common.OPERATION_CONFIRM,
    transaction_state=common.TRANSACTION_STATE_CONFIRMED,
)
MIXED = finding(
    "order-9",
    admin.FINDING_KIND_MIXED,
    barrier_state=common.BARRIER_STATE_CANCELLED,
    transaction_state=common.TRANSACTION_STATE_CONFIRMED,
)


def ended(participant: str = "inventory", **fields: object) -> admin.ReconcileResponse:
    known = {"outcome": admin.RECONCILIATION_OUTCOME_COMPARED} | fields
    return admin.ReconcileResponse(ended=admin.ParticipantReconciliation(participant=participant, **known))


FOUND = [
    admin.ReconcileResponse(findings=[ORPHAN, LEAK]),
    admin.ReconcileResponse(findings=[MIXED]),
    ended(rows=17, findings=3),
]
DONE = common.CallResult(code=common.OUTCOME_CODE_SUCCEEDED)


def repaired(of: admin.Finding, outcome: common.CallResult = DONE) -> admin.RepairBranchResponse:
    return admin.RepairBranchResponse(finding=of, result=outcome, audit_record=admin.AuditRecord(sequence=4))


def columns(line: str) -> list[str]:
    return [text.strip() for text in line.split("  ") if text.strip()]


def test_findings_are_shown_with_their_repair_and_exit_with_6() -> None:
    with scripted(Reconcile=FOUND) as service:
        result = service.tccctl("reconcile")
    titles, orphan, leak, mixed, _, counts, *advice = result.stdout.splitlines()
    assert columns(titles)[-2:] == ["REPAIR", "BECAUSE"]
    assert columns(orphan) == [
        *("inventory", "orphan", "order-7", "stock", "TRIED", "unknown", "10m", "cancel"),
        "no coordinator will end this",
    ]
    assert columns(leak)[4:8] == ["TRIED", "CONFIRMED", "10m", "confirm"]
    assert columns(mixed)[4:8] == ["CANCELLED", "CONFIRMED", "10m", "manual"]
    assert counts == "1 orphan, 1 leak, 1 mixed in 17 rows of inventory"
    assert advice[1] == ("  tccctl reconcile --repair order-7 stock --participant inventory --reason WHY")
    assert result.exit_code == 6
    [request] = service.requests
    assert not request.HasField("min_age")
    assert request.ended_within.ToSeconds() == 3_600


def test_without_findings_it_exits_with_0() -> None:
    not_offered = ended("old", outcome=admin.RECONCILIATION_OUTCOME_UNSUPPORTED, detail="old says nothing")
    with scripted(Reconcile=[ended(rows=3), not_offered]) as service:
        result = service.tccctl("reconcile", "--min-age", "1h30m", "--ended-within", "0s")
    assert result.stdout.splitlines() == [
        "participants and the log agree",
        "no finding in 3 rows of inventory",
        "not compared: old says nothing",
    ]
    assert result.exit_code == 0
    [request] = service.requests
    assert request.min_age.ToSeconds() == 5_400
    assert request.ended_within.ToMilliseconds() == 0


@pytest.mark.parametrize(
    "outcome", [admin.RECONCILIATION_OUTCOME_PAUSED, admin.RECONCILIATION_OUTCOME_UNREACHABLE]
)
def test_a_participant_that_was_not_compared_exits_with_7(outcome: "admin.ReconciliationOutcome") -> None:
    with scripted(Reconcile=[ended("gone", outcome=outcome, detail="gone is gone")]) as service:
        result = service.tccctl("reconcile")
    assert "not compared: gone is gone" in result.stdout
    assert result.exit_code == 7


def test_without_a_comparison_no_participant_appears_to_agree() -> None:
    paused = admin.ParticipantReconciliation(
        participant="inventory", outcome=admin.RECONCILIATION_OUTCOME_PAUSED, detail="inventory is paused"
    )
    with scripted(Reconcile=[admin.ReconcileResponse(ended=paused)]) as service:
        result = service.tccctl("reconcile")
    assert (
        result.stdout == "no participant could be compared with the log\nnot compared: inventory is paused\n"
    )


@pytest.mark.parametrize("reason", ["PARTICIPANT_PAUSED", "PARTICIPANT_UNREACHABLE"])
def test_a_repair_that_was_refused_before_it_began_leaves_nothing_open(reason: str) -> None:
    with scripted(RepairBranch=refusal(Code.UNAVAILABLE, reason, "no")) as service:
        result = service.tccctl(
            "reconcile", "--repair", "g", "stock", "--participant", "inventory", "--reason", "r"
        )
    assert result.exit_code == 5
    assert "took effect" not in result.stderr


def test_json_output_has_every_field() -> None:
    with scripted(Reconcile=FOUND) as service:
        result = service.tccctl("reconcile", "-o", "json", "--participant", "inventory")
    said = json.loads(result.stdout)
    assert [each["kind"] for each in said["findings"]] == ["ORPHAN", "LEAK", "MIXED"]
    assert said["findings"][0]["repair"] == "CANCEL"
    assert said["findings"][2]["repair"] is None
    assert said["participants"][0]["rows"] == 17
    assert result.exit_code == 6
    assert list(service.requests[0].participants) == ["inventory"]


def test_one_is_repaired_as_proposed() -> None:
    with scripted(RepairBranch=repaired(ORPHAN)) as service:
        result = service.tccctl(
            *("reconcile", "--repair", "order-7", "stock", "--participant", "inventory", "--reason", "why")
        )
    assert result.stdout == "stock of order-7 at inventory is repaired (audit record 4)\n"
    assert result.exit_code == 0
    [request] = service.requests
    assert (request.participant, request.gid, request.branch_id) == ("inventory", "order-7", "stock")
    assert (request.operation, request.operator_context.reason, request.content_type) == (0, "why", "")


def test_the_proposed_repair_works_for_ids_like_options() -> None:
    odd = finding("-g", admin.FINDING_KIND_ORPHAN, branch_id="--yes", repair=common.OPERATION_CANCEL)
    odd.participant = "--participant"
    with scripted(
        Reconcile=[admin.ReconcileResponse(findings=[odd]), ended()], RepairBranch=repaired(odd)
    ) as service:
        proposed = service.tccctl("reconcile").stdout.splitlines()[-2]
        result = service.tccctl(*shlex.split(proposed)[1:])
    assert result.exit_code == 0
    request = service.requests[-1]
    assert (request.participant, request.gid, request.branch_id) == ("--participant", "-g", "--yes")


def test_one_is_repaired_with_the_operator_s_operation_and_payload() -> None:
    needs = common.CallResult(code=common.OUTCOME_CODE_FAILED, reason="PAYLOAD_NEEDED", message="it does")
    one = ("reconcile", "--repair", "order/7", "stock/1", "--participant", "inventory", "--reason", "why")
    with scripted(RepairBranch=(repaired(ORPHAN, needs), repaired(ORPHAN))) as service:
        refused = service.tccctl(*one, "--as", "confirm")
        result = service.tccctl(*one, "--as", "confirm", "--payload", '{"sku": "A"}')
    assert refused.exit_code == 1
    assert "inventory did not execute the repair: PAYLOAD_NEEDED: it does" in refused.stderr
    assert "--payload" in refused.stderr
    assert result.exit_code == 0
    request = service.requests[-1]
    assert (request.gid, request.branch_id, request.operation) == (
        "order/7",
        "stock/1",
        common.OPERATION_CONFIRM,
    )
    assert (request.payload, request.content_type) == (b'{"sku": "A"}', "application/json")


def test_a_finding_that_is_gone_exits_with_4() -> None:
    gone = refusal(Code.ABORTED, "FINDING_GONE", "it agrees")
    with scripted(RepairBranch=gone) as service:
        result = service.tccctl(
            *("reconcile", "--repair", "order-7", "stock", "--participant", "inventory", "--reason", "why")
        )
    assert result.exit_code == 4
    assert "`tccctl reconcile` shows the current findings" in result.stderr


def test_all_that_are_proposed_are_repaired_and_the_rest_is_named() -> None:
    closed = common.CallResult(code=common.OUTCOME_CODE_FAILED, reason="BOOKS_CLOSED")
    with scripted(Reconcile=FOUND, RepairBranch=(repaired(ORPHAN), repaired(LEAK, closed))) as service:
        result = service.tccctl("reconcile", "--repair-all", "--reason", "why", "--yes")
    assert [(each.gid, each.operation) for each in service.requests[1:]] == [
        ("order-7", common.OPERATION_CANCEL),
        ("order-8", common.OPERATION_CONFIRM),
    ]
    assert "1 of 2 repaired, 1 not" in result.stdout
    assert "order-8  stock   inventory did not execute the repair: BOOKS_CLOSED" in result.stdout
    assert result.exit_code == 7


def test_a_coordinator_lost_during_repair_ends_it_with_a_report() -> None:
    away = refusal(Code.UNAVAILABLE, "PARTICIPANT_UNREACHABLE", "its breaker is open")
    with scripted(Reconcile=FOUND, RepairBranch=(away,)) as service:
        result = service.tccctl("reconcile", "--repair-all", "--reason", "why", "--yes")
    assert len(service.requests) == 2, "the second one is not tried"
    assert "0 of 2 repaired, 2 not" in result.stdout
    assert "order-7  stock   PARTICIPANT_UNREACHABLE: its breaker is open" in result.stdout
    assert result.exit_code == 7


def test_without_a_terminal_or_yes_nothing_is_repaired() -> None:
    with scripted(Reconcile=FOUND) as service:
        result = service.tccctl("reconcile", "--repair-all", "--reason", "why")
    assert (result.exit_code, len(service.requests)) == (2, 1)
    assert "add --yes" in result.stderr


def test_repairing_all_without_a_proposal_is_no_failure() -> None:
    with scripted(Reconcile=[admin.ReconcileResponse(findings=[MIXED]), ended(rows=1)]) as service:
        result = service.tccctl("reconcile", "--repair-all", "--reason", "why", "--yes")
    assert result.stdout.endswith("there is nothing to repair\n")
    assert (result.exit_code, len(service.requests)) == (0, 1)


def test_a_log_that_fails_in_the_meantime_is_an_error() -> None:
    away = refusal(Code.UNAVAILABLE, "LOG_UNAVAILABLE", "the log is down")
    with scripted(Reconcile=[FOUND[0], away]) as service:
        result = service.tccctl("reconcile")
    assert (result.exit_code, result.stdout) == (5, "")


def test_many_findings_are_shown_before_the_last_is_known() -> None:
    away = refusal(Code.UNAVAILABLE, "LOG_UNAVAILABLE", "the log is down")
    many = [admin.ReconcileResponse(findings=[ORPHAN] * 250)] * 4
    with scripted(Reconcile=([*many, away], [*many, FOUND[1], ended(rows=1_001)])) as service:
        broken_off, whole = (service.tccctl("reconcile") for _ in range(2))
    assert (broken_off.exit_code, len(broken_off.stdout.splitlines())) == (5, 1_001)
    lines = whole.stdout.splitlines()
    assert (whole.exit_code, lines[1_003]) == (6, "1000 orphan, 1 mixed in 1001 rows of inventory")
    assert columns(lines[1_001])[1] == "mixed"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--repair", "order-7", "stock", "--reason", "why"),
        ("--repair", "g", "b", "--participant", "a", "--participant", "b", "--reason", "why"),
        ("--repair", "g", "b", "--participant", "a", "--repair-all", "--reason", "why"),
        ("--as", "cancel"),
        ("--payload", "{}"),
        ("--min-age", "5 minutes"),
        ("--ended-within", "x"),
    ],
)
def test_invalid_options_are_refused_before_any_call(arguments: tuple[str, ...]) -> None:
    with scripted() as service:
        result = service.tccctl("reconcile", *arguments)
    assert (result.exit_code, service.requests) == (2, [])
