"""`tccctl audit`: what operators did, and whether that record is intact."""

import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from tcc.admin.v1 import admin_pb2 as admin
from tccctl.audit_chain import (
    BadSignature,
    ChainCheck,
    Head,
    PublicKey,
    logged_heads,
    verify_all,
)
from tccctl.blocks import Cell, Column, Table, TextBlock, cell as table_cell
from tccctl.command import command, group
from tccctl.exit_codes import ExitCode
from tccctl.failures import UsageFailure
from tccctl.formatting import instant
from tccctl.paging import Limited
from tccctl.session import Session

app = group("List what operators did; verify the audit chain.")

_PAGE_SIZE = 1_000
_HASH_BYTES = 32
# The clocks of the coordinator and of this machine may differ by this much, without an attack.
_SIGNED_WITHIN_S = 300.0


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
    examples=[
        "tccctl audit verify",
        "tccctl audit verify --here",
        "tccctl audit verify --head 17:9f86d0...",
        "tccctl audit verify --public-key audit.pub",
    ],
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
    public_key: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The key (PEM) that must have signed the end of the chain just now. Implies --here.",
        ),
    ] = "",
    heads: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Log output of coordinators: each head in it must be on the chain. Implies --here.",
        ),
    ] = "",
    cell: Annotated[
        int | None,
        typer.Option(help="Only the chain of this cell of the log; by default those of all.", min=0),
    ] = None,
) -> None:
    """Verify the chain of audit records. The exit status is 6 if it is broken.

    Someone who can write to the database can write another chain. --public-key detects that while a
    coordinator runs that knows the true one; --head and --heads, with what is stored elsewhere, always do.
    """
    kept = [_head(head)] if head else []
    key = _public_key(public_key) if public_key else None
    try:
        kept += _logged_heads(heads, key, cell or 0) if heads else []
        checks = _checked(session, cell, key, kept, here=bool(here or kept))
    except BadSignature as error:
        checks = {cell or 0: ChainCheck(records=0, head=None, problem=str(error))}
    if len(checks) == 1:
        ((_, check),) = checks.items()
        session.output.answer([_chain_check_text(check)], _chain_check_record(check))
    else:
        session.output.answer(
            [_chain_check_text(check, f"cell {number}: ") for number, check in checks.items()],
            {"cells": [{"cell": number, **_chain_check_record(check)} for number, check in checks.items()]},
        )
    if any(check.problem for check in checks.values()):
        raise typer.Exit(ExitCode.WRONG)


def _checked(
    session: Session, cell: int | None, key: PublicKey | None, kept: list[Head], *, here: bool
) -> dict[int, ChainCheck]:
    """Return the check of each cell's chain. Given heads are on that of `cell`, or of the first one."""
    heads = {cell or 0: kept}
    if key is not None or not here:
        replies = _verified(session, cell)
        checks = {number: _chain_check(reply) for number, reply in replies.items()}
        if key is None or any(check.problem for check in checks.values()):
            return checks
        for number, reply in replies.items():
            heads[number] = [*heads.get(number, []), _signed_head(reply, key)]
    request = admin.ListAuditRecordsRequest(page_size=_PAGE_SIZE, cell=cell)
    return verify_all(chain.from_iterable(_pages(session, request)), heads)


def _verified(session: Session, cell: int | None) -> dict[int, admin.VerifyAuditChainResponse]:
    """Return what the coordinator says of the chain of this cell, or of those of all."""
    first = session.ask("VerifyAuditChain", admin.VerifyAuditChainRequest(cell=cell or 0))
    others = range(1, first.cells) if cell is None else ()
    return {cell or 0: first} | {
        number: session.ask("VerifyAuditChain", admin.VerifyAuditChainRequest(cell=number))
        for number in others
    }


def _signed_head(reply: admin.VerifyAuditChainResponse, key: PublicKey) -> Head:
    """Return the head that the coordinator has just signed. Raise BadSignature."""
    if not reply.HasField("signed_head"):
        raise BadSignature("the coordinator has no key ([audit] key_file)")
    if reply.signed_head.key_id != key.key_id:
        raise BadSignature(
            f"the coordinator signs with the key {reply.signed_head.key_id!r}; this is the key {key.key_id!r}"
        )
    signed = key.verified(reply.signed_head)
    if abs(time.time() - reply.signed_head.at.ToMicroseconds() / 1e6) > _SIGNED_WITHIN_S:
        raise BadSignature(f"the head was signed at {instant(reply.signed_head.at)}, and not just now")
    return signed


def _public_key(file: str) -> PublicKey:
    try:
        return PublicKey(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageFailure(
            f"--public-key {file!r}: {error}",
            advice="openssl pkey -in audit.pem -pubout -out audit.pub writes it",
        ) from error


def _logged_heads(file: str, key: PublicKey | None, cell: int) -> list[Head]:
    try:
        with Path(file).open() as lines:
            found = list(logged_heads(lines, key, cell))
    except (OSError, ValueError, KeyError) as error:
        raise UsageFailure(
            f"--heads {file!r}: {error!r}", advice="it is the log output of a coordinator"
        ) from error
    if not found:
        signed = f" signed with the key {key.key_id!r}" if key else ""
        raise UsageFailure(
            f"--heads {file!r} contains no head{signed}", advice="coordinators log one every minute"
        )
    return found


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
        Column("ON BEHALF OF", wide=True),
        Column("ACTION"),
        Column("TARGET"),
        Column("REASON", flexible=True, optional=1),
        Column("DETAIL", wide=True),
        Column("ROLE", wide=True),
        Column("METHOD", wide=True),
        Column("CREDENTIAL", wide=True),
        Column("PEER", wide=True),
        Column("PREVIOUS HASH", wide=True),
        Column("HASH", wide=True),
        Column("CELL", right=True, wide=True),
    )
    return Table(
        columns=columns, rows=[_row(record) for record in records], empty="no operator has acted yet"
    )


def _row(record: admin.AuditRecord) -> list[Cell]:
    return [
        table_cell(record.sequence),
        table_cell(instant(record.at)),
        table_cell(record.operator),
        table_cell(record.on_behalf_of),
        table_cell(record.action),
        table_cell(record.target),
        table_cell(record.reason),
        table_cell(record.detail),
        table_cell(record.role),
        table_cell(record.method),
        table_cell(record.credential),
        table_cell(record.peer),
        table_cell(record.previous_hash.hex()),
        table_cell(record.hash.hex()),
        table_cell(record.cell),
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


def _chain_check_text(check: ChainCheck, where: str = "") -> TextBlock:
    if check.problem:
        if not check.broken_at:
            return TextBlock(f"{where}NOT PROVEN: {check.problem}", "bold red")
        return TextBlock(f"{where}BROKEN at record {check.broken_at}: {check.problem}", "bold red")
    if check.head is None:
        return TextBlock(f"{where}intact: no operator has acted yet", "green")
    head = f"{check.head.sequence}:{check.head.hash.hex()}"
    return TextBlock(f"{where}intact: {check.records} records, head {head}", "green")


def _chain_check_record(check: ChainCheck) -> dict[str, Any]:
    return {
        "intact": not check.problem,
        "records": check.records,
        "broken_at_sequence": check.broken_at or None,
        "problem": check.problem or None,
        "head": f"{check.head.sequence}:{check.head.hash.hex()}" if check.head else None,
    }
