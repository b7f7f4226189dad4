"""`tccctl participant`, `coordinator`, `audit`, `stats` and `watch` in a pipe."""

import json
import os
import subprocess
import sys

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.audit_chain import record_hash
from tests.tccctl.scripted_admin import refusal, scripted

NOW = Timestamp(seconds=1_800_000_000)


def at(seconds: int) -> Timestamp:
    return Timestamp(seconds=NOW.seconds + seconds)


INVENTORY = admin.ParticipantStatus(
    name="inventory",
    version=3,
    waiting=17,
    reports=[
        admin.ParticipantReport(
            coordinator_id="c-1",
            coordinator_name="host-1:42",
            breaker=admin.BREAKER_STATE_OPEN,
            probe_at=at(4),
            backlog=5,
            in_flight=2,
            calls_completed=1_000,
            calls_failed=9,
            last_error="DOWN: " + 50 * "x",
            target="dns:///inventory:50051",
        )
    ],
)
GONE = admin.ParticipantStatus(name="gone", paused=True, operator="bo", reason="moved", changed_at=at(-60))
PARTICIPANTS = admin.ListParticipantsResponse(participants=[INVENTORY, GONE])

COORDINATORS = admin.ListCoordinatorsResponse(
    coordinators=[
        admin.Coordinator(
            id="c-1", name="host-1:42", alive=True, owned=7, live=8, lease_until=at(2), started_at=at(-90)
        ),
        admin.Coordinator(id="c-2", name="host-2:42", alive=False, owned=3, lease_until=at(-60)),
        admin.Coordinator(id="c-3", name="host-3:42", alive=True, drain_requested_at=at(-1)),
    ],
    responder_id="c-1",
)


def columns(line: str) -> list[str]:
    return [text.strip() for text in line.split("  ") if text.strip()]


def test_participants_are_listed_with_their_breakers() -> None:
    with scripted(ListParticipants=PARTICIPANTS) as service:
        _, inventory, gone = service.tccctl("participant", "list").stdout.splitlines()
    assert columns(inventory)[:3] == ["inventory", "active", "open"]
    assert columns(inventory)[4:] == ["17", "2", "5", "1000", "9", "host-1:42", f"DOWN: {33 * 'x'}…"]
    assert columns(gone)[:2] == ["gone", "paused"]


def test_wide_shows_more() -> None:
    with scripted(ListParticipants=PARTICIPANTS) as service:
        wide = service.tccctl("participant", "list", "-o", "wide").stdout
    assert "dns:///inventory:50051" in wide
    assert "by bo: moved" in wide
    assert 50 * "x" in wide


@pytest.mark.parametrize(
    ("verb", "method", "response"),
    [
        ("pause", "PauseParticipant", admin.PauseParticipantResponse),
        ("resume", "ResumeParticipant", admin.ResumeParticipantResponse),
        ("reset-breaker", "ResetBreaker", admin.ResetBreakerResponse),
    ],
)
def test_an_action_on_a_participant_sends_the_version_that_was_read(verb, method, response) -> None:
    changed = admin.ParticipantStatus(name="inventory", paused=verb == "pause", version=4)
    reply = response(participant=changed, audit_record=admin.AuditRecord(sequence=5))
    with scripted(ListParticipants=PARTICIPANTS, **{method: reply}) as service:
        result = service.tccctl("participant", verb, "inventory", "--reason", "r")
    request = service.requests[-1]
    assert (request.participant, request.operator_context.version, request.operator_context.operator) == (
        "inventory",
        3,
        "ana",
    )
    state = "paused" if verb == "pause" else "active"
    assert result.stdout == f"inventory is {state}, version 4 (audit record 5)\n"
    assert "inventory is active, version 3, 17 transactions wait" in result.stderr


def test_an_unknown_participant_exits_with_3() -> None:
    with scripted(ListParticipants=PARTICIPANTS) as service:
        result = service.tccctl("participant", "pause", "invntory", "--reason", "r")
    assert (result.exit_code, len(service.requests)) == (3, 1)
    assert "known participants: inventory, gone" in result.stderr


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (("participant", "pause", "inventory"), "ListParticipants"),
        (("coordinator", "drain", "c-1", "--yes"), "ListCoordinators"),
    ],
)
def test_a_refused_command_names_the_role_that_it_needs(command: tuple[str, ...], asked: str) -> None:
    """What it reads first needs less."""
    message = "the role read for all tenants is required"
    with scripted(**{asked: refusal(Code.PERMISSION_DENIED, "NOT_ALLOWED", message)}) as service:
        result = service.tccctl(*command, "--reason", "r")
    assert result.exit_code == 1
    assert result.stderr == "tccctl: NOT_ALLOWED: the role operate for all tenants is required\n"


def test_coordinators_are_listed_with_their_leases() -> None:
    with scripted(ListCoordinators=COORDINATORS) as service:
        _, *lines = service.tccctl("coordinator", "list").stdout.splitlines()
    assert [columns(line)[:2] for line in lines] == [
        ["host-1:42*", "alive"],
        ["host-2:42", "dead"],
        ["host-3:42", "draining"],
    ]


@pytest.mark.parametrize("name", ["c-2", "host-2:42"])
def test_a_coordinator_is_drained_by_its_id_or_its_name(name: str) -> None:
    reply = admin.DrainCoordinatorResponse(audit_record=admin.AuditRecord(sequence=5))
    with scripted(ListCoordinators=COORDINATORS, DrainCoordinator=reply) as service:
        result = service.tccctl("coordinator", "drain", name, "--reason", "r", "--yes")
    assert service.requests[-1].coordinator_id == "c-2"
    assert result.stdout == "host-2:42 was asked to drain (audit record 5)\n"


def test_no_coordinator_is_drained_by_mistake() -> None:
    twins = admin.ListCoordinatorsResponse(
        coordinators=[admin.Coordinator(id="a", name="twin"), admin.Coordinator(id="b", name="twin")]
    )
    with scripted(ListCoordinators=(COORDINATORS, COORDINATORS, twins)) as service:
        unasked = service.tccctl("coordinator", "drain", "c-2", "--reason", "r")
        unknown = service.tccctl("coordinator", "drain", "c-9", "--reason", "r", "--yes")
        ambiguous = service.tccctl("coordinator", "drain", "twin", "--reason", "r", "--yes")
    assert [result.exit_code for result in (unasked, unknown, ambiguous)] == [2, 3, 2]
    assert "a, b" in ambiguous.stderr
    assert len(service.requests) == 3


def audit_records() -> list[admin.AuditRecord]:
    """Newest first."""
    records: list[admin.AuditRecord] = []
    previous = bytes(32)
    for sequence in range(1, 4):
        record = admin.AuditRecord(
            sequence=sequence, at=NOW, operator="ana", action="transaction.hold", target="transaction/g"
        )
        record.previous_hash = previous
        record.hash = previous = record_hash(record)
        records.insert(0, record)
    return records


def test_the_list_of_audit_records_reports_truncation() -> None:
    newest, *rest = audit_records()
    pages = (
        admin.ListAuditRecordsResponse(records=[newest], next_page_token="3"),
        admin.ListAuditRecordsResponse(records=rest),
    )
    with scripted(ListAuditRecords=pages * 2) as service:
        words = service.tccctl("audit", "list", "--limit", "1")
        data = json.loads(service.tccctl("audit", "list", "--limit", "1", "-o", "json").stdout)
    assert len(words.stdout.splitlines()) == 2
    assert words.stderr == "more than 1 records match: raise --limit\n"
    assert ([each["sequence"] for each in data["records"]], data["more"]) == ([newest.sequence], True)


def test_audit_records_are_listed_page_by_page() -> None:
    first, second, third = audit_records()
    pages = (
        admin.ListAuditRecordsResponse(records=[first, second], next_page_token="2"),
        admin.ListAuditRecordsResponse(records=[third]),
    )
    with scripted(ListAuditRecords=pages) as service:
        result = service.tccctl("audit", "list", "--by", "ana", "--target", "transaction/g")
    assert [columns(line)[0] for line in result.stdout.splitlines()] == ["SEQUENCE", "3", "2", "1"]
    assert (service.requests[0].operator, service.requests[0].target) == ("ana", "transaction/g")


def test_the_wide_list_of_audit_records_has_every_field_of_a_record() -> None:
    (record, *_) = audit_records()
    record.reason, record.detail, record.on_behalf_of = "because", "{}", "bo"
    record.method, record.credential, record.peer = "certificate", "3fa1", "ipv4:10.0.0.7:4711"
    record.role = "operate"
    reply = admin.ListAuditRecordsResponse(records=[record])
    with scripted(ListAuditRecords=reply) as service:
        titles, row = service.tccctl("audit", "list", "-o", "wide").stdout.splitlines()
    shown = dict(zip(columns(titles), columns(row), strict=True))
    assert {name.replace(" ", "_").lower() for name in shown} == {
        field.name for field in admin.AuditRecord.DESCRIPTOR.fields
    }
    assert (shown["ON BEHALF OF"], shown["ROLE"]) == ("bo", "operate")
    assert (shown["METHOD"], shown["CREDENTIAL"], shown["PEER"]) == (
        "certificate",
        "3fa1",
        "ipv4:10.0.0.7:4711",
    )


def test_verify_reports_an_intact_chain_and_its_head() -> None:
    reply = admin.VerifyAuditChainResponse(intact=True, records=3, head_sequence=3, head_hash=b"\x01" * 32)
    with scripted(VerifyAuditChain=reply) as service:
        result = service.tccctl("audit", "verify")
    assert result.stdout == f"intact: 3 records, head 3:{'01' * 32}\n"
    assert result.exit_code == 0


def test_verify_exits_with_6_if_the_chain_is_broken() -> None:
    reply = admin.VerifyAuditChainResponse(records=1, broken_at_sequence=2, problem="record 2 was modified")
    with scripted(VerifyAuditChain=reply) as service:
        result = service.tccctl("audit", "verify", "-o", "json")
    assert json.loads(result.stdout)["problem"] == "record 2 was modified"
    assert result.exit_code == 6


def test_verify_here_trusts_no_coordinator() -> None:
    records = audit_records()
    head = f"3:{records[0].hash.hex()}"
    whole = admin.ListAuditRecordsResponse(records=records)
    broken = admin.ListAuditRecordsResponse(records=records)
    broken.records[1].operator = "eve"
    with scripted(ListAuditRecords=(whole, whole, broken)) as service:
        assert service.tccctl("audit", "verify", "--here").stdout == f"intact: 3 records, head {head}\n"
        assert service.tccctl("audit", "verify", "--head", head).exit_code == 0
        result = service.tccctl("audit", "verify", "--here")
    assert result.exit_code == 6
    assert result.stdout == "BROKEN at record 2: record 2 was modified\n"


@pytest.mark.parametrize("head", ["3", "3:xyz", "0:" + "00" * 32, "3:00"])
def test_a_malformed_head_is_refused(head: str) -> None:
    with scripted() as service:
        assert service.tccctl("audit", "verify", "--head", head).exit_code == 2


STATS = admin.GetStatsResponse(
    at=NOW,
    trying=4,
    confirming=3,
    parked=2,
    stuck=1,
    oldest_unfinished_gid="order-9",
    begun_per_s=120.5,
    calls_per_s=361.5,
    failed_calls_per_s=2.25,
    participants=[INVENTORY],
    coordinators=COORDINATORS.coordinators,
    responder_id="c-1",
)
STATS.oldest_unfinished_age.FromSeconds(754)
STUCK = admin.SearchTransactionsResponse(
    transactions=[
        common.Transaction(
            gid="order-9", state=common.TRANSACTION_STATE_CONFIRMING, stuck=True, created_at=at(-754)
        )
    ]
)


def test_stats_shows_counts_and_rates() -> None:
    with scripted(GetStats=STATS) as service:
        lines = service.tccctl("stats").stdout.splitlines()
    assert "live                 4 TRYING, 3 CONFIRMING, 0 CANCELLING" in lines
    assert "oldest unfinished    order-9, for 12m34s" in lines
    assert "calls per second     361.5, of these 2.2 failed" in lines
    assert any(columns(line)[:4] == ["inventory", "active", "open", "in 4s"] for line in lines)
    assert any(columns(line)[:2] == ["host-2:42", "dead"] for line in lines)


def test_a_capped_count_has_a_plus() -> None:
    many = admin.GetStatsResponse(
        at=NOW, confirming=12, parked=10, stuck=10, held=9, count_max=10, capped=True
    )
    many.participants.add(name="inventory", waiting=10, waiting_capped=True).reports.add()
    with scripted(GetStats=many) as service:
        lines = service.tccctl("stats").stdout.splitlines()
    assert "live                 0+ TRYING, 12+ CONFIRMING, 0+ CANCELLING" in lines
    assert "waiting for a retry  10+" in lines
    assert "stuck                10+" in lines
    assert "held                 9" in lines
    assert any(columns(line)[:1] == ["inventory"] and "10+" in columns(line) for line in lines)


def test_stats_for_programs_are_numbers() -> None:
    with scripted(GetStats=STATS) as service:
        stats = json.loads(service.tccctl("stats", "-o", "json").stdout)
    assert (stats["stuck"], stats["oldest_unfinished_age"]) == (1, 754.0)
    assert stats["participants"][0]["reports"][0]["breaker"] == "OPEN"


def test_watch_in_a_pipe_shows_one_frame_with_what_is_stuck() -> None:
    with scripted(GetStats=STATS, SearchTransactions=STUCK) as service:
        result = service.tccctl("watch")
    lines = result.stdout.splitlines()
    assert columns(lines[-1]) == ["order-9", "CONFIRMING", "stuck", "12m34s", "-", "-"]
    assert service.requests[-1].filter == "stuck live"
    assert result.exit_code == 0


def test_watch_for_programs_is_data() -> None:
    with scripted(GetStats=STATS, SearchTransactions=STUCK) as service:
        shown = json.loads(service.tccctl("watch", "--once", "-o", "json").stdout)
    assert shown["stuck"] == STATS.stuck
    assert [one["gid"] for one in shown["stuck_transactions"]] == ["order-9"]


def test_watch_without_a_coordinator_exits_with_5() -> None:
    with scripted(GetStats=refusal(Code.UNAVAILABLE, "LOG_UNAVAILABLE", "the log is down")) as service:
        assert service.tccctl("watch", "--once").exit_code == 5


def test_help_has_the_exit_codes_and_every_command_examples() -> None:
    groups = {
        "tx": ["list", "show", "timeline", "why", "retry", "hold", "release", "cancel", "resolve"],
        "participant": ["list", "pause", "resume", "reset-breaker"],
        "coordinator": ["list", "drain"],
        "audit": ["list", "verify"],
    }
    with scripted() as service:
        assert "the target has changed since you saw it" in service.tccctl("--help").stdout
        for group, names in groups.items():
            for name in names:
                shown = service.tccctl(group, name, "--help").stdout
                assert f"tccctl {group} {name}" in shown.partition("Examples:")[2]
        for name in ("stats", "watch"):
            assert f"tccctl {name}" in service.tccctl(name, "--help").stdout.partition("Examples:")[2]


@pytest.mark.slow
def test_a_shell_can_complete_commands_and_options() -> None:
    def offered(words: str, number: int) -> list[str]:
        asked = {"_TCCCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        command = [sys.executable, "-m", "tccctl"]
        return subprocess.run(
            command, env=os.environ | asked, capture_output=True, text=True, check=True
        ).stdout.split()

    assert offered("tccctl tx re", 2) == ["retry", "release", "resolve"]
    assert offered("tccctl tx list --fil", 3) == ["--filter"]
    assert offered("tccctl stats -o ", 3) == ["text", "wide", "json", "yaml"]
