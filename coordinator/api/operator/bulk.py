"""One command for all transactions that a filter matches: a dry run with a token, then the run.

The token holds the time of the dry run, so that ages in the filter mean the same when it
comes back, and a keyed hash of the transactions found, so that no caller can make one without
the dry run. Versions are checked one by one during the run.
"""

import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256

from coordinator.api.errors import to_error
from coordinator.api.operator.audit_log import log_item_refusal
from coordinator.api.operator.commands import AdminCommands
from coordinator.api.operator.filter import parse
from coordinator.api.operator.requests import OperatorContext
from coordinator.api.operator.rights import Rights, check_visible, visible
from coordinator.core.errors import InvalidRequest, NotAllowed, Refused, SelectionChanged, SelectionTooLarge
from coordinator.core.events import (
    OperatorCancel,
    OperatorCommand,
    OperatorHold,
    OperatorRelease,
    OperatorRetry,
)
from coordinator.core.machine import step
from coordinator.ports.clock import Clock
from coordinator.ports.log import ListFilter, ListPosition, Log, Record
from tcc.admin.v1 import admin_pb2 as pb

_METHOD = "RunBulkAction"
BULK_MAX = 10_000
_PAGE = 1_000
# The number of transactions between two responses.
_PROGRESS_EVERY = 50
_SAMPLE_MAX = 20
_FAILURES_MAX = 100

_COMMANDS: dict[int, Callable[[OperatorContext], OperatorCommand]] = {
    pb.BULK_ACTION_RETRY: lambda _: OperatorRetry(),
    pb.BULK_ACTION_HOLD: lambda _: OperatorHold(),
    pb.BULK_ACTION_RELEASE: lambda _: OperatorRelease(),
    pb.BULK_ACTION_CANCEL: lambda operator_context: OperatorCancel(operator_context.reason),
}


async def run(
    transactions: Log,
    clock: Clock,
    commands: AdminCommands,
    request: pb.RunBulkActionRequest,
    operator_context: OperatorContext,
    *,
    key: bytes,
    rights: Rights,
) -> AsyncIterator[pb.RunBulkActionResponse]:
    """Yield the responses to a bulk request. `key`: of its token, which only coordinators know.

    The operator's rights are checked before each transaction: a run may last longer than they do.

    Raises:
        InvalidRequest, SelectionChanged, SelectionTooLarge: nothing was done.
        NotAllowed: the operator may not do this any more; what was done before is in the responses.
    """
    make = _COMMANDS.get(request.action)
    if make is None:
        raise InvalidRequest("INVALID_ACTION", f"unknown action {request.action}")
    command = make(operator_context)
    if not request.filter.strip():
        raise InvalidRequest("INVALID_FILTER", "a bulk action requires a filter")
    at_us = _moment(request.confirmation_token) or round(clock.now() * 1e6)
    found = await _found(transactions, visible(parse(request.filter, at_us / 1e6)))
    token = _token(at_us, request, found, key)
    if not request.confirmation_token:
        yield _dry_run(clock, command, found, token)
        return
    if not hmac.compare_digest(request.confirmation_token.encode(), token.encode()):
        raise SelectionChanged(
            "the token is for another request, or the filter now matches other transactions; "
            "repeat the dry run",
            metadata={"matched": str(len(found))},
        )
    async for response in _run(
        commands, operator_context, command, found, filter_=request.filter, rights=rights
    ):
        yield response


async def _found(transactions: Log, chosen: ListFilter) -> list[Record]:
    found: list[Record] = []
    after: ListPosition | None = None
    while True:
        page, after = await transactions.transaction_search(chosen, after=after, limit=_PAGE)
        found += page
        if len(found) > BULK_MAX:
            raise SelectionTooLarge(f"the filter matches more than {BULK_MAX} transactions; narrow it")
        if after is None:
            return found


def _dry_run(
    clock: Clock, command: OperatorCommand, found: Sequence[Record], token: str
) -> pb.RunBulkActionResponse:
    reply = pb.RunBulkActionResponse(
        dry_run=True, matched=len(found), confirmation_token=token, finished=True
    )
    now = clock.now()
    for record in found:
        try:
            step(record.usable().tx, command, now)
        except Refused as error:
            reply.failed += 1
            if len(reply.failures) < _FAILURES_MAX:
                reply.failures.add(gid=record.tx.gid, error=to_error(error))
        else:
            reply.succeeded += 1
            if len(reply.sample_gids) < _SAMPLE_MAX:
                reply.sample_gids.append(record.tx.gid)
    return reply


async def _run(
    commands: AdminCommands,
    operator_context: OperatorContext,
    command: OperatorCommand,
    found: Sequence[Record],
    *,
    filter_: str,
    rights: Rights,
) -> AsyncIterator[pb.RunBulkActionResponse]:
    succeeded = failed = 0
    failures: list[pb.BulkFailure] = []
    for number, record in enumerate(found, start=1):
        try:
            rights.check_caller(_METHOD)
        except NotAllowed:
            yield pb.RunBulkActionResponse(
                matched=len(found), succeeded=succeeded, failed=failed, failures=failures
            )
            raise
        try:
            check_visible(record.tx)
            await commands.execute(record, operator_context, command, bulk=filter_)
            succeeded += 1
        except Refused as error:
            failed += 1
            log_item_refusal(record.tx.gid, operator_context, error)
            failures.append(pb.BulkFailure(gid=record.tx.gid, error=to_error(error)))
        if number % _PROGRESS_EVERY == 0 and number < len(found):
            yield pb.RunBulkActionResponse(
                matched=len(found), succeeded=succeeded, failed=failed, failures=failures
            )
            failures = []
    yield pb.RunBulkActionResponse(
        matched=len(found), succeeded=succeeded, failed=failed, failures=failures, finished=True
    )


def _token(at_us: int, request: pb.RunBulkActionRequest, found: Sequence[Record], key: bytes) -> str:
    gids = sorted(record.tx.gid for record in found)
    selected = "\0".join([str(at_us), str(request.action), request.filter, *gids])
    return f"{at_us}.{hmac.digest(key, selected.encode(), sha256).hex()}"


def _moment(token: str) -> int | None:
    """Return the time of the dry run in microseconds since the Unix epoch; None: this is a dry run."""
    if not token:
        return None
    moment = token.partition(".")[0]
    if not (moment.isascii() and moment.isdigit() and len(moment) <= 17):
        raise InvalidRequest("INVALID_TOKEN", "the confirmation token is invalid")
    return int(moment)
