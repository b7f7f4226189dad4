"""Many transactions by a filter: dry run, token, progress."""

import json
import shlex

from google.rpc.code_pb2 import Code

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tests.tccctl.scripted_admin import refusal, scripted

PLAN = [
    admin.RunBulkActionResponse(
        dry_run=True,
        matched=3,
        succeeded=2,
        sample_gids=["a", "b"],
        confirmation_token="t0ken",
        finished=True,
    )
]
NOT_HELD = admin.BulkFailure(
    gid="c", error=common.Error(code=9, reason="TRANSACTION_NOT_HELD", message="it moves")
)
RUN = [
    admin.RunBulkActionResponse(matched=3, succeeded=2, failed=0),
    admin.RunBulkActionResponse(matched=3, succeeded=2, failed=1, failures=[NOT_HELD], finished=True),
]
COMMAND = ("tx", "release", "--filter", "held label.shop=eu", "--reason", "it's over")


def test_a_dry_run_shows_the_plan_and_the_command_for_it() -> None:
    with scripted(RunBulkAction=PLAN) as service:
        result = service.tccctl(*COMMAND, "--dry-run")
    assert result.stdout.splitlines() == [
        "3 transactions match, 2 can be acted on; nothing was changed",
        "for example a, b",
        "to execute:",
        """  tccctl tx release --filter 'held label.shop=eu' --token t0ken --reason 'it'"'"'s over'""",
    ]
    (request,) = service.requests
    assert (request.action, request.confirmation_token) == (admin.BULK_ACTION_RELEASE, "")
    assert result.exit_code == 0


def test_a_dry_run_needs_no_reason() -> None:
    with scripted(RunBulkAction=PLAN) as service:
        result = service.tccctl("tx", "retry", "--filter", "stuck", "--dry-run")
    assert result.stdout.endswith("  tccctl tx retry --filter stuck --token t0ken --reason WHY\n")


def test_the_command_of_a_dry_run_works_for_text_like_options() -> None:
    done = [admin.RunBulkActionResponse(matched=3, succeeded=3, finished=True)]
    with scripted(RunBulkAction=(PLAN, done)) as service:
        planned = service.tccctl("tx", "hold", "--filter", "-v", "--dry-run", "--reason", "-h")
        result = service.tccctl(*shlex.split(planned.stdout.splitlines()[-1])[1:])
    assert result.exit_code == 0
    second = service.requests[-1]
    assert (second.filter, second.operator_context.reason, second.confirmation_token) == ("-v", "-h", "t0ken")


def test_yes_runs_with_the_token_of_the_dry_run() -> None:
    with scripted(RunBulkAction=(PLAN, RUN)) as service:
        result = service.tccctl(*COMMAND, "--yes")
    first, second = service.requests
    assert (first.confirmation_token, second.confirmation_token) == ("", "t0ken")
    assert (second.filter, second.operator_context.reason) == ("held label.shop=eu", "it's over")
    assert "2 of 3 transactions done, 1 failed" in result.stdout
    assert "c    TRANSACTION_NOT_HELD  it moves" in result.stdout
    assert result.exit_code == 7


def test_a_token_from_a_dry_run_does_it_at_once() -> None:
    done = [admin.RunBulkActionResponse(matched=3, succeeded=3, finished=True)]
    with scripted(RunBulkAction=done) as service:
        result = service.tccctl(*COMMAND, "--token", "t0ken", "-o", "json")
    assert [request.confirmation_token for request in service.requests] == ["t0ken"]
    assert json.loads(result.stdout)["succeeded"] == 3
    assert result.exit_code == 0


def test_without_a_terminal_or_yes_nothing_is_done() -> None:
    with scripted(RunBulkAction=PLAN) as service:
        result = service.tccctl(*COMMAND)
    assert (result.exit_code, len(service.requests)) == (2, 1)
    assert "--token t0ken" in result.stderr


def test_a_filter_that_finds_nothing_is_no_failure() -> None:
    with scripted(RunBulkAction=[admin.RunBulkActionResponse(dry_run=True, finished=True)]) as service:
        result = service.tccctl(*COMMAND, "--yes")
    assert result.stdout == "0 transactions match, 0 can be acted on; nothing was changed\n"
    assert (result.exit_code, len(service.requests)) == (0, 1)


def test_a_changed_selection_exits_with_4() -> None:
    changed = refusal(Code.ABORTED, "SELECTION_CHANGED", "4 match now")
    with scripted(RunBulkAction=changed) as service:
        result = service.tccctl(*COMMAND, "--token", "old")
    assert result.exit_code == 4
    assert "repeat the dry run" in result.stderr


def test_an_interrupted_run_is_reported() -> None:
    with scripted(RunBulkAction=RUN[:1]) as service:
        result = service.tccctl(*COMMAND, "--token", "t0ken")
    assert result.exit_code == 1
    assert "stopped before the bulk action was complete" in result.stderr
