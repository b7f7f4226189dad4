"""`tccctl tx`: single transactions, and many by a filter."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.blocks import TextBlock
from tccctl.bulk import run_bulk
from tccctl.command import Gid, Reason, Version, Yes, command, group
from tccctl.failures import UsageFailure
from tccctl.paging import Limited
from tccctl.session import Session, confirmed
from tccctl.transaction_views import (
    brief,
    explanation_blocks,
    timeline_blocks,
    transaction_blocks,
    transaction_table,
)

app = group("Find transactions, inspect them, and act on them.")

_PAGE_SIZE_MAX = 1_000

FILTER_LANGUAGE = (
    "The filter consists of terms separated by spaces. A transaction must match all of them:",
    "  state=TRYING,CANCELLING: any of these; or CONFIRMING, CONFIRMED, CANCELLED",
    "  live: not yet ended",
    "  stuck, held, heuristic: with this flag; !stuck: without it",
    "  quarantined: held, because its row in the log cannot be used",
    "  participant=inventory: with a branch at this participant",
    "  initiator=shop: begun by this initiator",
    "  label.region=eu: with this label",
    "  age>5m, age<=1h30m: time since the begin, in d, h, m, s, ms",
    "  gid=order-17: with this id",
    'Put a value with a space, comma, quote or backslash in double quotes: label.shop="north, old".',
)

OptionalGid = Annotated[
    str | None, typer.Argument(metavar="GID", help="The transaction's id. For many, use --filter.")
]
Filter = Annotated[
    str,
    typer.Option(
        "--filter",
        "-f",
        help="A filter, for example 'stuck participant=inventory'. See `tccctl tx list --help`.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --filter: show what would be done.")]
Token = Annotated[str, typer.Option(help="With --filter: the token that the dry run printed.")]


@command(
    app,
    "list",
    examples=[
        "tccctl tx list --filter stuck",
        "tccctl tx list --filter 'live participant=inventory age>5m' -o wide",
        "tccctl tx list --filter state=TRYING --all -o json",
    ],
    notes=FILTER_LANGUAGE,
)
def list_(
    session: Session,
    *,
    filter_: Filter = "",
    limit: Annotated[int, typer.Option(help="The maximum number of transactions.", min=1)] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All transactions, without a limit.")] = False,
) -> None:
    """List transactions, newest first."""
    page_size = _PAGE_SIZE_MAX if everything else min(limit, _PAGE_SIZE_MAX)
    found = Limited(_search(session, filter_, page_size), None if everything else limit)
    session.output.answer_in_pages(
        "transactions",
        found,
        table=lambda page: transaction_table(page, time.time()),
        record=lambda transaction: without_payloads(session, transaction),
        rest=lambda: ([] if found.count else [transaction_table([], time.time())], {"more": found.more}),
    )
    if found.more and not session.output.is_data:
        session.output.note(f"more than {limit} transactions match: raise --limit, or use --all")


@command(
    app, "show", examples=["tccctl tx show order-17", "tccctl tx show order-17 -o yaml --redact card.number"]
)
def show(session: Session, gid: Gid) -> None:
    """Show one transaction with its branches and payloads."""
    reply = _inspect(session, gid)
    blocks = transaction_blocks(reply, session.payloads, time.time())
    session.output.answer(blocks, session.record(reply))


@command(app, "timeline", examples=["tccctl tx timeline order-17"])
def timeline(session: Session, gid: Gid) -> None:
    """Show the history of one transaction, oldest first."""
    reply = _inspect(session, gid)
    session.output.answer(
        timeline_blocks(reply), {"gid": gid, "history": [session.record(entry) for entry in reply.history]}
    )


@command(app, "why", examples=["tccctl tx why order-17"])
def why(session: Session, gid: Gid) -> None:
    """Explain why one transaction has not ended, and what would help."""
    explanation: admin.ExplainTransactionResponse = session.ask(
        "ExplainTransaction", admin.ExplainTransactionRequest(gid=gid)
    )
    session.output.answer(explanation_blocks(explanation, time.time()), session.record(explanation))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Action:
    """An action on one transaction or on many."""

    help: str
    examples: Sequence[str]
    method: str
    request: Callable[..., Any]
    bulk: "admin.BulkAction"
    # The first word of the answer.
    done: str


_ACTIONS = {
    "retry": _Action(
        help="Retry every unfinished branch now. Possible only after the decision.",
        examples=[
            "tccctl tx retry order-17 --reason 'inventory is back'",
            "tccctl tx retry --filter 'stuck participant=inventory' --dry-run --reason 'inventory is back'",
            "tccctl tx retry --filter 'stuck participant=inventory' --yes --reason 'inventory is back'",
        ],
        method="RetryTransaction",
        request=admin.RetryTransactionRequest,
        bulk=admin.BULK_ACTION_RETRY,
        done="retrying",
    ),
    "hold": _Action(
        help="Stop all work on transactions until they are released. Decisions stay; expiry still applies.",
        examples=[
            "tccctl tx hold order-17 --reason 'under investigation'",
            "tccctl tx hold --filter 'live label.shop=eu' --yes --reason 'audit of the EU shop'",
        ],
        method="HoldTransaction",
        request=admin.HoldTransactionRequest,
        bulk=admin.BULK_ACTION_HOLD,
        done="holding",
    ),
    "release": _Action(
        help="Let held transactions continue at once.",
        examples=[
            "tccctl tx release order-17 --reason 'investigation done'",
            "tccctl tx release --filter held --yes --reason 'the audit is over'",
        ],
        method="ReleaseTransaction",
        request=admin.ReleaseTransactionRequest,
        bulk=admin.BULK_ACTION_RELEASE,
        done="released",
    ),
    "cancel": _Action(
        help="Decide CANCEL. Possible only while TRYING; a decision never changes.",
        examples=[
            "tccctl tx cancel order-17 --reason 'its initiator is gone'",
            "tccctl tx cancel --filter 'state=TRYING initiator=shop' --yes --reason 'shop is gone'",
        ],
        method="CancelTransaction",
        request=admin.CancelTransactionRequest,
        bulk=admin.BULK_ACTION_CANCEL,
        done="cancelling",
    ),
}


def _register(name: str, action: _Action) -> None:
    def run(
        session: Session,
        gid: OptionalGid = None,
        *,
        reason: Reason = None,
        version: Version = None,
        filter_: Filter = "",
        dry_run: DryRun = False,
        token: Token = "",
        yes: Yes = False,
    ) -> None:
        if _one(gid, filter_, version, dry_run=dry_run, token=token):
            request = action.request(gid=gid)
            _execute(session, action.method, request, reason=reason, version=version, done=action.done)
        else:
            run_bulk(session, action.bulk, filter_, reason, dry_run=dry_run, token=token, yes=yes)

    run.__doc__ = action.help
    command(app, name, examples=action.examples)(run)


for _name, _action in _ACTIONS.items():
    _register(_name, _action)


class HeuristicOutcome(StrEnum):
    """The outcome of a branch as recorded by an operator."""

    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"


@command(
    app,
    "resolve",
    examples=["tccctl tx resolve order-17 stock confirmed --reason 'shipped by hand, ticket 4711' --yes"],
)
def resolve(
    session: Session,
    gid: Gid,
    branch_id: Annotated[str, typer.Argument(metavar="BRANCH", help="The branch's id.")],
    outcome: Annotated[HeuristicOutcome, typer.Argument(help="The actual outcome of the branch.")],
    *,
    reason: Reason = None,
    version: Version = None,
    yes: Yes = False,
) -> None:
    """Record a branch's outcome manually, in place of its participant's.

    No participant is called. The decision stays. If the outcome contradicts it, the
    transaction is permanently reported as a mixed outcome.
    """
    version = _version(session, gid, version)
    confirmed(
        f"Record permanently that branch {branch_id} of {gid} was {outcome}?",
        yes=yes,
        advice="add --yes: this cannot be undone",
    )
    request = admin.ResolveBranchRequest(
        gid=gid,
        branch_id=branch_id,
        outcome=(
            common.HEURISTIC_OUTCOME_CONFIRMED
            if outcome is HeuristicOutcome.CONFIRMED
            else common.HEURISTIC_OUTCOME_CANCELLED
        ),
    )
    _execute(
        session,
        "ResolveBranch",
        request,
        reason=reason,
        version=version,
        done=f"branch {branch_id} {outcome}:",
    )


def _search(session: Session, filter_: str, page_size: int) -> Iterator[Sequence[common.Transaction]]:
    """Yield every match of the filter, page by page."""
    token = ""
    while True:
        request = admin.SearchTransactionsRequest(filter=filter_, page_size=page_size, page_token=token)
        reply = session.ask("SearchTransactions", request)
        yield reply.transactions
        token = reply.next_page_token
        if not token:
            return


def _inspect(session: Session, gid: str) -> admin.InspectTransactionResponse:
    reply: admin.InspectTransactionResponse = session.ask(
        "InspectTransaction", admin.InspectTransactionRequest(gid=gid)
    )
    return reply


def _one(gid: str | None, filter_: str, version: int | None, *, dry_run: bool, token: str) -> bool:
    """Return whether one transaction is meant, otherwise many. Raises UsageFailure: neither, or both."""
    if bool(gid) == bool(filter_.strip()):
        raise UsageFailure("give either one transaction or --filter")
    if gid and (dry_run or token):
        raise UsageFailure("--dry-run and --token require --filter")
    if filter_ and version is not None:
        raise UsageFailure(
            "--version requires a single transaction",
            advice="with --filter, the token stands for what you saw",
        )
    return bool(gid)


def _version(session: Session, gid: str, version: int | None) -> int:
    """Return the version that the operator saw: given, or read and shown now."""
    if version is not None:
        return version
    transaction = _inspect(session, gid).transaction
    session.output.note(f"{gid} is {brief(transaction)}")
    return transaction.version


def _execute(
    session: Session, method: str, request: Any, *, reason: str | None, version: int | None, done: str
) -> None:
    """Act on one transaction and print its new state."""
    request.operator_context.CopyFrom(
        session.operator_context(reason, version=_version(session, request.gid, version))
    )
    reply = session.do(method, request)
    transaction, audit = reply.transaction, reply.audit_record
    words = TextBlock(f"{done} {transaction.gid}: {brief(transaction)} (audit record {audit.sequence})")
    data = session.record(reply) | {"transaction": without_payloads(session, transaction)}
    session.output.answer([words], data)


def without_payloads(session: Session, transaction: common.Transaction) -> dict[str, Any]:
    """Return the record without payloads, which would otherwise look empty: lists do not carry them."""
    data = session.record(transaction)
    for branch in data["branches"]:
        del branch["result"], branch["spec"]["payload"]
    return data
