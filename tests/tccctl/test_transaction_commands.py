"""`tccctl tx` in a pipe, over real gRPC, against a scripted AdminService."""

import getpass
import json
import os
import shlex
import subprocess
import sys
from typing import Any

import pytest
import yaml
from google.rpc.code_pb2 import Code

from coordinator.api.operator.filter import parse
from coordinator.core.errors import InvalidRequest
from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tests.tccctl.scripted_admin import NO_SETTINGS, ScriptedAdmin, refusal, scripted


def transaction(gid: str = "order-1", **fields: object) -> common.Transaction:
    made = common.Transaction(
        gid=gid,
        **(
            {
                "state": common.TRANSACTION_STATE_CONFIRMING,
                "initiator": "shop",
                "stuck": True,
                "version": 12,
                "labels": {"region": "eu"},
                "branches": [
                    common.Branch(
                        spec=common.BranchSpec(
                            branch_id="stock",
                            participant="inventory",
                            action="reserve",
                            payload=b'{"sku": "A", "card": {"number": "4111"}}',
                            content_type="application/json",
                        ),
                        state=common.BRANCH_STATE_TRIED,
                        attempts=11,
                        last_error="UNAVAILABLE: \x1b[31mdown",
                    )
                ],
            }
            | fields
        ),
    )
    made.created_at.FromJsonString("2026-11-21T10:00:00Z")
    return made


def inspection(**fields: object) -> admin.InspectTransactionResponse:
    return admin.InspectTransactionResponse(transaction=transaction(**fields), owner_name="host-1:42")


def test_list_shows_a_line_for_each_transaction() -> None:
    reply = admin.SearchTransactionsResponse(
        transactions=[transaction(), transaction("order-2", stuck=False)]
    )
    with scripted(SearchTransactions=reply) as service:
        result = service.tccctl("tx", "list", "--filter", "live")
    header, first, second = [line.split() for line in result.stdout.splitlines()]
    assert header == ["GID", "STATE", "FLAGS", "AGE", "INITIATOR", "PARTICIPANTS"]
    assert (first[:3], first[4:]) == (["order-1", "CONFIRMING", "stuck"], ["shop", "inventory"])
    assert (second[:3], second[4:]) == (["order-2", "CONFIRMING", "-"], ["shop", "inventory"])
    assert service.requests[0].filter == "live"
    assert result.exit_code == 0


def test_list_reads_page_after_page() -> None:
    pages = (
        admin.SearchTransactionsResponse(
            transactions=[transaction("a"), transaction("b")], next_page_token="2"
        ),
        admin.SearchTransactionsResponse(transactions=[transaction("c")]),
    )
    with scripted(SearchTransactions=pages) as service:
        result = service.tccctl("tx", "list", "--all", "-o", "json")
    listed = json.loads(result.stdout)
    assert [each["gid"] for each in listed["transactions"]] == ["a", "b", "c"]
    assert not listed["more"]
    assert "payload" not in listed["transactions"][0]["branches"][0]["spec"]
    assert [request.page_token for request in service.requests] == ["", "2"]


LONG = (
    admin.SearchTransactionsResponse(transactions=[transaction("a"), transaction("b")], next_page_token="2"),
    admin.SearchTransactionsResponse(transactions=[transaction("order-3")], next_page_token="3"),
)
SILENCE = refusal(Code.UNAVAILABLE, "LOG_UNAVAILABLE", "the log is down")
END = admin.SearchTransactionsResponse()


def test_a_long_list_has_one_header_and_growing_columns() -> None:
    pages = [["a", "b"], ["order-3", "c"], ["d"]]
    replies = [
        admin.SearchTransactionsResponse(transactions=map(transaction, page), next_page_token=token)
        for page, token in zip(pages, ["2", "3", ""], strict=True)
    ]
    with scripted(SearchTransactions=tuple(replies)) as service:
        titles, *lines = service.tccctl("tx", "list", "--all").stdout.splitlines()
    assert titles.index("STATE") == 5
    assert [line.index("CONFIRMING") for line in lines] == [5, 5, 9, 9, 9]


@pytest.mark.parametrize("pages", [(END,), (LONG[0], END), (*LONG, END)])
def test_a_list_in_pages_is_written_as_if_it_were_known_as_a_whole(pages: tuple[Any, ...]) -> None:
    everything = ("tx", "list", "--all", "-o")
    with scripted(SearchTransactions=pages * 2) as service:
        as_json, as_yaml = (service.tccctl(*everything, kind).stdout for kind in ("json", "yaml"))
    whole = json.loads(as_json)
    assert [each["gid"] for each in whole["transactions"]] == [
        each.gid for page in pages for each in page.transactions
    ]
    assert as_json == json.dumps(whole, indent=2) + "\n"
    assert as_yaml == yaml.safe_dump(whole, sort_keys=False)


@pytest.mark.parametrize(
    ("output", "shown"), [("text", "b  "), ("json", '"gid": "b"'), ("yaml", "- gid: b\n")]
)
def test_each_page_is_written_as_soon_as_it_is_known(output: str, shown: str) -> None:
    with scripted(SearchTransactions=(LONG[0], SILENCE)) as service:
        result = service.tccctl("tx", "list", "--all", "-o", output)
    assert result.exit_code == 5
    assert shown in result.stdout


def test_a_slow_search_is_reported_as_such_without_an_unknown_outcome() -> None:
    too_long = refusal(Code.DEADLINE_EXCEEDED, "SEARCH_TOO_LONG", "the search took too long")
    filtered = ("--filter", "initiator=absent")
    with scripted(SearchTransactions=too_long, RunBulkAction=[too_long]) as service:
        ended = [
            service.tccctl("tx", "list", *filtered),
            service.tccctl("tx", "hold", *filtered, "--yes", "--reason", "r"),
        ]
    for result in ended:
        assert result.exit_code == 5
        words, advice = result.stderr.splitlines()
        assert words == "tccctl: SEARCH_TOO_LONG: the search took too long"
        assert advice.startswith("  narrow the search")
        assert "took effect" not in advice


@pytest.mark.parametrize("output", ["text", "json", "yaml"])
def test_a_failure_before_the_first_page_writes_nothing(output: str) -> None:
    with scripted(SearchTransactions=SILENCE) as service:
        result = service.tccctl("tx", "list", "-o", output)
    assert (result.exit_code, result.stdout) == (5, "")


@pytest.mark.parametrize(("limit", "more"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_limit_counts_over_pages_and_reports_truncation(limit: int, more: bool) -> None:  # noqa: FBT001
    with scripted(SearchTransactions=(*LONG, END)) as service:
        listed = json.loads(service.tccctl("tx", "list", "--limit", str(limit), "-o", "json").stdout)
    assert [each["gid"] for each in listed["transactions"]] == ["a", "b", "order-3"][:limit]
    assert listed["more"] is more


def test_list_reports_that_the_limit_was_reached() -> None:
    pages = admin.SearchTransactionsResponse(
        transactions=[transaction("a"), transaction("b")], next_page_token="2"
    )
    with scripted(SearchTransactions=pages) as service:
        result = service.tccctl("tx", "list", "--limit", "1")
    assert len(result.stdout.splitlines()) == 2
    assert "--all" in result.stderr


def test_an_empty_list_is_reported_as_empty() -> None:
    with scripted(SearchTransactions=admin.SearchTransactionsResponse()) as service:
        assert service.tccctl("tx", "list").stdout == "no transactions found\n"


def test_show_decodes_redacts_and_escapes_payloads() -> None:
    with scripted(InspectTransaction=inspection()) as service:
        result = service.tccctl("tx", "show", "order-1", "--redact", "card.number")
    assert 'payload of stock  {"sku": "A", "card": {"number": "[redacted]"}}' in result.stdout
    assert "4111" not in result.stdout
    assert "UNAVAILABLE: [redacted]" in result.stdout
    assert "owner        host-1:42" in result.stdout
    assert "began        2026-11-21T10:00:00.000Z" in result.stdout


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (
            common.CANCEL_REASON_REJECTED,
            "cancelled because  REJECTED by branch stock (SOLD_OUT): only \\u001b[31m2 left",
        ),
        (
            common.CANCEL_REASON_EXPIRED,
            "cancelled because  EXPIRED while branch stock kept failing (SOLD_OUT): only \\u001b[31m2 left",
        ),
    ],
    ids=["rejected", "expired"],
)
def test_show_gives_the_participant_s_reason_escaped(reason, shown) -> None:
    cancelled = inspection(
        state=common.TRANSACTION_STATE_CANCELLED,
        cancel_reason=reason,
        cancel_branch_id="stock",
        cancel_detail="SOLD_OUT",
        cancel_message="only \x1b[31m2 left",
    )
    with scripted(InspectTransaction=cancelled) as service:
        assert shown in service.tccctl("tx", "show", "order-1").stdout.splitlines()


def test_show_of_an_expired_transaction_without_a_failure_names_no_branch() -> None:
    expired = inspection(state=common.TRANSACTION_STATE_CANCELLED, cancel_reason=common.CANCEL_REASON_EXPIRED)
    with scripted(InspectTransaction=expired) as service:
        assert "cancelled because  EXPIRED" in service.tccctl("tx", "show", "order-1").stdout.splitlines()


def test_show_names_the_trace_of_what_has_one() -> None:
    traced, untraced = inspection(trace_id="0af7651916cd43dd8448eb211c80319c"), inspection()
    with scripted(InspectTransaction=(traced, untraced)) as service:
        shown = [service.tccctl("tx", "show", "order-1").stdout.splitlines() for _ in range(2)]
    traces = [[line.split() for line in lines if line.startswith("trace")] for lines in shown]
    assert traces == [[["trace", "0af7651916cd43dd8448eb211c80319c"]], []]


def test_show_as_yaml_has_the_names_of_the_contract() -> None:
    with scripted(InspectTransaction=inspection()) as service:
        shown = yaml.safe_load(
            service.tccctl("tx", "show", "order-1", "-o", "yaml", TCCCTL_REDACT="card").stdout
        )
    assert shown["owner_name"] == "host-1:42"
    assert shown["transaction"]["state"] == "CONFIRMING"
    assert shown["transaction"]["created_at"] == "2026-11-21T10:00:00.000Z"
    assert shown["transaction"]["ended_at"] is None
    assert shown["transaction"]["labels"] == {"region": "eu"}
    assert shown["transaction"]["branches"][0]["spec"]["payload"] == {"sku": "A", "card": "[redacted]"}
    assert shown["transaction"]["branches"][0]["heuristic_outcome"] is None


def test_timeline_shows_events_with_times() -> None:
    reply = inspection()
    entries = [
        admin.HistoryEntry(kind=admin.HISTORY_KIND_BEGUN),
        admin.HistoryEntry(
            kind=admin.HISTORY_KIND_CALL_FAILED,
            branch_id="stock",
            participant="inventory",
            operation="CONFIRM",
            detail="DOWN",
            count=11,
        ),
    ]
    entries[0].at.FromJsonString("2026-11-21T10:00:00Z")
    entries[1].at.FromJsonString("2026-11-21T10:00:02Z")
    entries[1].last_at.FromJsonString("2026-11-21T10:05:02Z")
    reply.history.extend(entries)
    with scripted(InspectTransaction=reply) as service:
        lines = service.tccctl("tx", "timeline", "order-1").stdout.splitlines()
    assert lines[1].split() == ["2026-11-21T10:00:00.000Z", "+0s", "begun", "-", "-", "-", "-"]
    assert "+2s  CONFIRM failed  stock at inventory  -   11 in 5m  DOWN" in lines[2]
    assert lines[-1] == "order-1 is CONFIRMING, stuck, version 12"


def explanation(**fields: object) -> admin.ExplainTransactionResponse:
    return admin.ExplainTransactionResponse(
        **(
            {
                "gid": "order-1",
                "state": common.TRANSACTION_STATE_CONFIRMING,
                "version": 12,
                "summary": "inventory does not confirm stock.",
                "advice": ["Bring inventory back.", "Retry."],
                "stuck": True,
                "branches": [
                    admin.BranchExplanation(
                        branch_id="stock",
                        participant="inventory",
                        action="reserve",
                        operation="CONFIRM",
                        attempts=11,
                        last_error="DOWN",
                        configured=True,
                        summary="11 calls failed.",
                        reports=[
                            admin.ParticipantReport(
                                coordinator_name="host-1:42",
                                breaker=admin.BREAKER_STATE_HALF_OPEN,
                                consecutive_failures=11,
                            )
                        ],
                    )
                ],
            }
            | fields
        )
    )


def test_why_shows_the_cause_the_advice_and_the_commands() -> None:
    with scripted(ExplainTransaction=explanation()) as service:
        lines = service.tccctl("tx", "why", "order-1").stdout.splitlines()
    assert lines[0] == "inventory does not confirm stock."
    assert "Branch stock: CONFIRM of reserve at inventory" in lines
    assert "  seen by host-1:42  breaker half-open, 11 consecutive failures" in lines
    assert "  1. Bring inventory back." in lines
    assert lines[-2:] == [
        "  tccctl tx retry order-1 --version 12 --reason WHY",
        "  tccctl tx resolve order-1 stock confirmed --version 12 --reason WHY",
    ]


@pytest.mark.parametrize(
    ("fields", "commands"),
    [
        ({"held": True, "stuck": False}, ["tccctl tx release order-1 --version 12 --reason WHY"]),
        (
            {"state": common.TRANSACTION_STATE_TRYING, "stuck": False},
            ["tccctl tx cancel order-1 --version 12 --reason WHY"],
        ),
        ({"state": common.TRANSACTION_STATE_CONFIRMED, "stuck": False}, []),
        (
            {
                "stuck": False,
                "branches": [
                    admin.BranchExplanation(branch_id="stock", participant="inventory", paused=True)
                ],
            },
            ["tccctl participant resume inventory --reason WHY"],
        ),
    ],
)
def test_commands_proposed_by_why_fit_the_situation(fields: dict, commands: list[str]) -> None:
    with scripted(ExplainTransaction=explanation(**fields)) as service:
        lines = service.tccctl("tx", "why", "order-1").stdout.splitlines()
    assert [line.strip() for line in lines if line.startswith("  tccctl")] == commands


def test_commands_proposed_by_why_can_be_pasted_for_any_gid() -> None:
    evil = explanation(gid="a; touch $(id)")
    evil.branches[0].branch_id = "stock & co"
    options = ["--version", "12", "--reason", "WHY"]
    with scripted(ExplainTransaction=evil) as service:
        lines = service.tccctl("tx", "why", "a; touch $(id)").stdout.splitlines()
    assert [shlex.split(line, comments=True) for line in lines[-2:]] == [
        ["tccctl", "tx", "retry", "a; touch $(id)", *options],
        ["tccctl", "tx", "resolve", "a; touch $(id)", "stock & co", "confirmed", *options],
    ]


@pytest.mark.parametrize("gid", ["-order", "--help", "-"])
def test_commands_proposed_by_why_work_for_gids_like_options(gid: str) -> None:
    odd = explanation(gid=gid)
    odd.branches[0].branch_id = "--yes"
    waiting = explanation(stuck=False)
    waiting.branches[0].participant, waiting.branches[0].paused = "-p", True
    known = admin.ListParticipantsResponse(participants=[admin.ParticipantStatus(name="-p", version=3)])
    with scripted(
        ExplainTransaction=(odd, waiting),
        RetryTransaction=admin.RetryTransactionResponse(),
        ResolveBranch=admin.ResolveBranchResponse(),
        ListParticipants=known,
        ResumeParticipant=admin.ResumeParticipantResponse(),
    ) as service:
        for _ in range(2):
            answered = service.tccctl("tx", "why", "--", gid).stdout.splitlines()
            for line in (line for line in answered if line.startswith("  tccctl")):
                _, noun, verb, *rest = shlex.split(line)
                service.tccctl(noun, verb, "--reason", "r", *(["--yes"] * (verb == "resolve")), *rest)
    _, retry, resolve, _, _, resume = service.requests
    assert (retry.gid, retry.operator_context.version) == (gid, 12)
    assert (resolve.gid, resolve.branch_id) == (gid, "--yes")
    assert resolve.outcome == common.HEURISTIC_OUTCOME_CONFIRMED
    assert resume.participant == "-p"


ACTIONS = [
    ("retry", "RetryTransaction", admin.RetryTransactionResponse),
    ("hold", "HoldTransaction", admin.HoldTransactionResponse),
    ("release", "ReleaseTransaction", admin.ReleaseTransactionResponse),
    ("cancel", "CancelTransaction", admin.CancelTransactionResponse),
]


@pytest.mark.parametrize(("verb", "method", "response"), ACTIONS)
def test_an_action_sends_operator_reason_and_the_shown_version(verb, method, response) -> None:
    reply = response(transaction=transaction(version=13), audit_record=admin.AuditRecord(sequence=7))
    with scripted(InspectTransaction=inspection(), **{method: reply}) as service:
        result = service.tccctl("tx", verb, "order-1", "--reason", "ticket 4711")
    operator_context = service.requests[-1].operator_context
    assert (operator_context.operator, operator_context.reason, operator_context.version) == (
        "ana",
        "ticket 4711",
        12,
    )
    assert "order-1 is CONFIRMING, stuck, version 12" in result.stderr
    assert result.stdout.endswith(" order-1: CONFIRMING, stuck, version 13 (audit record 7)\n")
    assert result.exit_code == 0


def test_a_version_that_is_named_is_sent_without_reading_again() -> None:
    reply = admin.HoldTransactionResponse(transaction=transaction())
    with scripted(HoldTransaction=reply) as service:
        result = service.tccctl(
            "tx", "hold", "order-1", "--version", "9", "--reason", "r", "--operator", "bo", "-o", "json"
        )
    assert [
        (request.operator_context.version, request.operator_context.operator) for request in service.requests
    ] == [(9, "bo")]
    assert json.loads(result.stdout)["transaction"]["gid"] == "order-1"


def test_a_change_in_between_exits_with_4_and_the_version() -> None:
    changed = refusal(Code.ABORTED, "VERSION_CHANGED", "order-1 has changed", version="14")
    with scripted(HoldTransaction=changed) as service:
        result = service.tccctl("tx", "hold", "order-1", "--version", "9", "--reason", "r")
    assert result.exit_code == 4
    assert result.stdout == ""
    assert "VERSION_CHANGED: order-1 has changed" in result.stderr
    assert "its version is now 14" in result.stderr


@pytest.mark.parametrize(
    ("code", "reason", "exit_code", "advice"),
    [
        (Code.NOT_FOUND, "TRANSACTION_NOT_FOUND", 3, "tccctl tx list"),
        (Code.FAILED_PRECONDITION, "TRANSACTION_ENDED", 1, "how it ended"),
        (Code.UNAVAILABLE, "LOG_UNAVAILABLE", 5, "PostgreSQL"),
        (Code.UNAVAILABLE, "DRAINING", 5, "another one with --address"),
        (Code.INVALID_ARGUMENT, "INVALID_ARGUMENT", 2, ""),
        (Code.INTERNAL, "INTERNAL", 1, "the log output of the coordinator"),
    ],
)
def test_each_refusal_has_its_exit_code_and_advice(code, reason, exit_code: int, advice: str) -> None:
    with scripted(InspectTransaction=refusal(code, reason, "because")) as service:
        result = service.tccctl("tx", "show", "order-1")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert f"{reason}: because" in result.stderr
    assert advice in result.stderr


def test_a_foreign_refusal_text_cannot_control_the_terminal() -> None:
    said = refusal(Code.UNAVAILABLE, "LOG_UNAVAILABLE", "gone: \x1b]0;mine\x07\x9b2J\n\tis it running?\r")
    with scripted(InspectTransaction=said) as service:
        result = service.tccctl("tx", "show", "order-1")
    assert "gone: \\u001b]0;mine\\u0007\\u009b2J\n\tis it running?\\r\n" in result.stderr


def test_a_mistake_in_a_filter_is_pointed_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("live stukc", now=0.0)
    mistake = refusal(
        Code.INVALID_ARGUMENT, "INVALID_FILTER", caught.value.message, **dict(caught.value.metadata)
    )
    with scripted(SearchTransactions=mistake) as service:
        result = service.tccctl("tx", "list", "--filter", "live stukc")
    assert result.exit_code == 2
    assert "unknown flag 'stukc'" in result.stderr
    assert result.stderr.count("(at ") == 1
    assert "(at character 6)" in result.stderr


def test_an_action_with_an_unknown_outcome_is_reported_as_such() -> None:
    with scripted(HoldTransaction=refusal(Code.INTERNAL, "INTERNAL", "a bug")) as service:
        result = service.tccctl("tx", "hold", "order-1", "--version", "9", "--reason", "r")
    assert result.exit_code == 1
    assert "it is not known whether the action took effect" in result.stderr


def test_an_address_without_a_listener_exits_with_5() -> None:
    with scripted() as service:
        address = service.address
    result = service.tccctl("tx", "show", "order-1")
    assert result.exit_code == 5
    assert f"{address} does not respond" in result.stderr
    assert "TCCCTL_ADDRESS" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tx", "hold", "order-1", "--version", "1"), "--reason"),
        (("tx", "hold", "order-1", "--version", "1", "--reason", "  "), "--reason"),
        (("tx", "hold", "--reason", "r"), "give either one transaction or --filter"),
        (
            ("tx", "hold", "order-1", "--filter", "live", "--reason", "r"),
            "give either one transaction or --filter",
        ),
        (("tx", "hold", "order-1", "--dry-run", "--reason", "r"), "require --filter"),
        (
            ("tx", "hold", "--filter", "live", "--version", "3", "--reason", "r"),
            "requires a single transaction",
        ),
        (("tx", "resolve", "order-1", "stock", "confirmed", "--version", "1", "--reason", "r"), "--yes"),
        (("tx", "resolve", "order-1", "stock", "perhaps", "--yes", "--reason", "r"), "perhaps"),
        (("tx", "frobnicate"), "frobnicate"),
    ],
)
def test_an_invalid_command_exits_with_2_and_sends_nothing(arguments: tuple[str, ...], said: str) -> None:
    with scripted() as service:
        result = service.tccctl(*arguments)
    assert (result.exit_code, service.requests) == (2, [])
    assert said in result.stderr


def process(service: ScriptedAdmin, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | NO_SETTINGS | {"TCCCTL_ADDRESS": service.address, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "tccctl", *arguments]
    return subprocess.run(
        command, env=environment, stderr=subprocess.PIPE, text=True, check=False, timeout=60, **options
    )


def test_arguments_that_are_not_utf_8_are_a_usage_failure() -> None:
    with scripted() as service:
        ended = process(service, "tx", "show", os.fsdecode(b"order-\xff"))
    assert (ended.returncode, service.requests) == (2, [])
    assert ended.stderr == "tccctl: order-\\udcff is not valid UTF-8\n"


def test_characters_outside_the_encoding_are_escaped() -> None:
    with scripted(InspectTransaction=inspection(initiator="Bäcker")) as service:
        ended = process(service, "tx", "show", "order-1", stdout=subprocess.PIPE)
    assert ended.returncode == 0
    assert "initiator    B\\xe4cker\n" in ended.stdout


def test_an_answer_that_cannot_be_written_is_one_line() -> None:
    with (
        scripted(
            SearchTransactions=admin.SearchTransactionsResponse(transactions=[transaction()])
        ) as service,
        open("/dev/full", "w") as full,  # noqa: PTH123 - a device
    ):
        ended = process(service, "tx", "list", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0] == (
        "tccctl: the answer could not be written: No space left on device"
    )
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("variable", ["LOGNAME", "USER", "USERNAME"])
def test_the_user_s_name_is_found_as_python_finds_it(variable: str) -> None:
    reply = admin.HoldTransactionResponse(transaction=transaction())
    nothing = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "")
    with scripted(HoldTransaction=reply) as service:
        service.tccctl(
            "tx", "hold", "order-1", "--version", "1", "--reason", "r", **nothing | {variable: "eve"}
        )
    assert service.requests[0].operator_context.operator == "eve"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--output", "json", "tx", "list"),
        ("tx", "--output", "json", "list"),
        ("--output", "text", "tx", "list", "--output", "json"),
        ("-o", "yaml", "tx", "-o", "json", "list"),
    ],
)
def test_global_options_may_stand_before_the_command(arguments: tuple[str, ...]) -> None:
    reply = admin.SearchTransactionsResponse(transactions=[transaction()])
    with scripted(SearchTransactions=reply) as service:
        elsewhere = {"TCCCTL_ADDRESS": "127.0.0.1:1"}
        result = service.tccctl("--address", service.address, *arguments, **elsewhere)
    assert json.loads(result.stdout)["transactions"][0]["gid"] == "order-1"


def test_redactions_before_and_after_the_command_add_up() -> None:
    with scripted(InspectTransaction=inspection()) as service:
        shown = service.tccctl("--redact", "sku", "tx", "show", "order-1", "--redact", "card.number")
    assert '"A"' not in shown.stdout
    assert "4111" not in shown.stdout


def test_an_action_requires_an_operator_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise OSError("No username set in the environment")

    with scripted() as service:
        monkeypatch.setattr(getpass, "getuser", nameless)
        result = service.tccctl("tx", "hold", "order-1", "--version", "1", "--reason", "r")
    assert (result.exit_code, service.requests) == (2, [])
    assert "--operator" in result.stderr


def test_resolve_records_the_operator_s_outcome() -> None:
    reply = admin.ResolveBranchResponse(
        transaction=transaction(heuristic=True, mixed_outcome=True, version=13),
        audit_record=admin.AuditRecord(sequence=8),
    )
    with scripted(InspectTransaction=inspection(), ResolveBranch=reply) as service:
        result = service.tccctl("tx", "resolve", "order-1", "stock", "cancelled", "--reason", "r", "--yes")
    request = service.requests[-1]
    assert (request.branch_id, request.outcome) == ("stock", common.HEURISTIC_OUTCOME_CANCELLED)
    assert request.operator_context.version == 12
    assert (
        "branch stock cancelled: order-1: CONFIRMING, stuck, heuristic, MIXED OUTCOME, version 13"
        in result.stdout
    )
