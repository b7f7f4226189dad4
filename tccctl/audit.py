"""`tccctl audit`: what operators did, and whether that record is intact."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Any

import typer

from tcc.admin.v1 import admin_pb2 as admin
from tccctl.audit_chain import ChainCheck, Head, verify as verify_chain
from tccctl.blocks import Cell, Column, Table, TextBlock, cell
from tccctl.command import command
from tccctl.exit_codes import ExitCode
from tccctl.failures import UsageFailure
from tccctl.formatting import instant
from tccctl.paging import Limited
from tccctl.session import Session

app = typer.Typer(no_args_is_help=True, help="List what operators did; verify the audit chain.")

_PAGE_SIZE = 1_000
_HASH_BYTES = 32


@command(
    app,
    "list",
    examples=[
        "tccctl audit list",
        "tccctl audit list --target transaction/order-17",
        "tccctl audit list --by ana",
    ],
)
def list_(
    session: Session,
    by: Annotated[str, typer.Option(help="Only actions of this operator.")] = "",
    target: Annotated[
        str, typer.Option(help="Only actions on this target, for example transaction/order-17.")
    ] = "",
    action: Annotated[
        str, typer.Option(help="Only actions of this kind, for example transaction.hold.")
    ] = "",
    limit: Annotated[int, typer.Option(help="The maximum number of records.", min=1)] = 100,
) -> None:
    """List what operators did, newest first."""
    request = admin.ListAuditRecordsRequest(
        operator=by, target=target, action=action, page_size=min(limit, _PAGE_SIZE)
    )
    found = Limited(_pages(session, request), limit)
    session.output.answer_in_pages(
        "records",
        found,
        table=_table,
        record=session.record,
        rest=lambda: ([] if found.count else [_table([])], {"more": found.more}),
    )
    if found.more and not session.output.is_data:
        session.output.note(f"more than {limit} records match: raise --limit")


@command(
    app,
    "verify",
    examples=["tccctl audit verify", "tccctl audit verify --here", "tccctl audit verify --head 17:9f86d0..."],
)
def verify(
    session: Session,
    *,
    here: Annotated[
        bool, typer.Option("--here", help="Read all records and compute the hashes locally.")
    ] = False,
    head: Annotated[
        str,
        typer.Option(help="SEQUENCE:HASH of an earlier run, which must be on the chain. Implies --here."),
    ] = "",
) -> None:
    """Verify the chain of audit records. The exit status is 6 if it is broken.

    Store the printed head elsewhere: only --head detects that the whole chain was rewritten.
    """
    kept = _head(head) if head else None
    if here or kept:
        request = admin.ListAuditRecordsRequest(page_size=_PAGE_SIZE)
        check = verify_chain(chain.from_iterable(_pages(session, request)), kept)
    else:
        check = _chain_check(session.ask("VerifyAuditChain", admin.VerifyAuditChainRequest()))
    session.output.answer([_chain_check_text(check)], _chain_check_record(check))
    if check.problem:
        raise typer.Exit(ExitCode.WRONG)


def _pages(session: Session, request: admin.ListAuditRecordsRequest) -> Iterator[Sequence[admin.AuditRecord]]:
    while True:
        reply = session.ask("ListAuditRecords", request)
        yield reply.records
        if not reply.next_page_token:
            return
        request.page_token = reply.next_page_token


def _table(records: Sequence[admin.AuditRecord]) -> Table:
    columns = (
        Column("SEQUENCE", right=True),
        Column("AT", optional=2),
        Column("OPERATOR"),
        Column("ACTION"),
        Column("TARGET"),
        Column("REASON", flexible=True, optional=1),
        Column("DETAIL", wide=True),
        Column("HASH", wide=True),
    )
    return Table(
        columns=columns, rows=[_row(record) for record in records], empty="no operator has acted yet"
    )


def _row(record: admin.AuditRecord) -> list[Cell]:
    return [
        cell(record.sequence),
        cell(instant(record.at)),
        cell(record.operator),
        cell(record.action),
        cell(record.target),
        cell(record.reason),
        cell(record.detail),
        cell(record.hash.hex()),
    ]


def _head(text: str) -> Head:
    number, _, digits = text.partition(":")
    try:
        head = Head(int(number), bytes.fromhex(digits))
    except ValueError:
        head = Head(0, b"")
    if head.sequence < 1 or len(head.hash) != _HASH_BYTES:
        raise UsageFailure(
            f"--head {text!r} is not SEQUENCE:HASH", advice="`tccctl audit verify` prints the head"
        )
    return head


def _chain_check(reply: admin.VerifyAuditChainResponse) -> ChainCheck:
    problem = "" if reply.intact else reply.problem or "the chain is broken"
    head = Head(reply.head_sequence, reply.head_hash) if reply.head_sequence else None
    return ChainCheck(records=reply.records, head=head, broken_at=reply.broken_at_sequence, problem=problem)


def _chain_check_text(check: ChainCheck) -> TextBlock:
    if check.problem:
        return TextBlock(f"BROKEN at record {check.broken_at}: {check.problem}", "bold red")
    if check.head is None:
        return TextBlock("intact: no operator has acted yet", "green")
    head = f"{check.head.sequence}:{check.head.hash.hex()}"
    return TextBlock(f"intact: {check.records} records, head {head}", "green")


def _chain_check_record(check: ChainCheck) -> dict[str, Any]:
    return {
        "intact": not check.problem,
        "records": check.records,
        "broken_at_sequence": check.broken_at or None,
        "problem": check.problem or None,
        "head": f"{check.head.sequence}:{check.head.hash.hex()}" if check.head else None,
    }
