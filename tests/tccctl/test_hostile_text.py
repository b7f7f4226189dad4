"""No text in a reply reaches the terminal as a control character, and no secret gets past the redaction."""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, strategies as st
from rich.console import Console

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.blocks import Block, Cell, Column, Facts, Table, TextBlock, cell, plain_lines, rich_group
from tccctl.free_text import hidden
from tccctl.output import Output, OutputFormat
from tests.tccctl.scripted_admin import scripted

# C0, DEL, C1 (0x9b starts a sequence as ESC [ does), bidi controls, separators, an emoji beyond 16 bits.
HOSTILE = "a\0\x07\x1b[31m\x7f\x85\x9b31m\u2028\u202e\u2066\ufeff\r\n\tz\U000e0001"
SECRET = "4111-1111"
FREE = f"HANDLER_ERROR: card {SECRET} is refused"

# Command, method, and the other methods that it calls before.
VIEWS: list[tuple[tuple[str, ...], dict[str, type[Message]]]] = [
    (("tx", "list"), {"SearchTransactions": admin.SearchTransactionsResponse}),
    (("tx", "show", "g"), {"InspectTransaction": admin.InspectTransactionResponse}),
    (("tx", "timeline", "g"), {"InspectTransaction": admin.InspectTransactionResponse}),
    (("tx", "why", "g"), {"ExplainTransaction": admin.ExplainTransactionResponse}),
    (
        ("tx", "hold", "g", "--reason", "r"),
        {
            "InspectTransaction": admin.InspectTransactionResponse,
            "HoldTransaction": admin.HoldTransactionResponse,
        },
    ),
    (
        ("tx", "hold", "--filter", "live", "--reason", "r", "--dry-run"),
        {"RunBulkAction": admin.RunBulkActionResponse},
    ),
    (("participant", "list"), {"ListParticipants": admin.ListParticipantsResponse}),
    (("coordinator", "list"), {"ListCoordinators": admin.ListCoordinatorsResponse}),
    (("audit", "list"), {"ListAuditRecords": admin.ListAuditRecordsResponse}),
    (("audit", "verify"), {"VerifyAuditChain": admin.VerifyAuditChainResponse}),
    (("stats",), {"GetStats": admin.GetStatsResponse}),
    (
        ("watch", "--once"),
        {"GetStats": admin.GetStatsResponse, "SearchTransactions": admin.SearchTransactionsResponse},
    ),
    (("reconcile",), {"Reconcile": admin.ReconcileResponse}),
    (
        ("reconcile", "--repair", "g", "b", "--participant", "p", "--reason", "r"),
        {"RepairBranch": admin.RepairBranchResponse},
    ),
]
STREAMS = {"RunBulkAction", "Reconcile"}
FORMATS = ["text", "wide", "json", "yaml"]


def filled(kind: type[Message], text: str) -> Any:
    """Return a message with this text in every field of text or bytes, and a 1 in every other field."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.name in {"next_page_token", "at_least"}:
            continue
        if field.message_type is None:
            value = one(field, text)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        elif field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[text] = text
        else:
            inner = filled(GetMessageClass(field.message_type), text)
            target = getattr(message, field.name)
            (target.add() if field.is_repeated else target).CopyFrom(inner)
    return message


def one(field: FieldDescriptor, text: str) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return text
    if field.type == FieldDescriptor.TYPE_BYTES:
        return json.dumps({"card": text, text: [text]}).encode()
    return 1


def shown(view: tuple[tuple[str, ...], dict[str, Any]], output_format: str, *options: str) -> str:
    """Return everything that a command writes."""
    arguments, replies = view
    answers = {method: [reply] if method in STREAMS else reply for method, reply in replies.items()}
    with scripted(**answers) as service:
        result = service.tccctl(*arguments, "-o", output_format, *options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.stdout + result.stderr


def controls(text: str) -> set[str]:
    return {character for character in text if not character.isprintable()} - {"\n"}


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: "-".join(view[0][:2]))
def test_no_view_contains_a_control_character(
    view: tuple[tuple[str, ...], dict[str, type[Message]]], output_format: str
) -> None:
    arguments, kinds = view
    replies = {method: filled(kind, HOSTILE) for method, kind in kinds.items()}
    text = shown((arguments, replies), output_format)
    assert controls(text) == set()
    assert text


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: "-".join(view[0][:2]))
def test_no_view_contains_a_secret(
    view: tuple[tuple[str, ...], dict[str, type[Message]]], output_format: str
) -> None:
    arguments, kinds = view
    replies = {method: with_secrets(kind) for method, kind in kinds.items()}
    assert SECRET not in shown((arguments, replies), output_format, "--redact", "card", "--redact", "list.*")


def with_secrets(kind: type[Message]) -> Any:
    """Return a message whose payloads, and every text that may quote one, contain a secret."""
    message = filled(kind, "x")
    for inner in messages_in(message):
        for field in inner.DESCRIPTOR.fields:
            name = f"{inner.DESCRIPTOR.name}.{field.name}"
            if name in {"BranchSpec.payload", "Branch.result"}:
                setattr(inner, field.name, json.dumps({"card": SECRET, "list": [SECRET]}).encode())
            elif name == "CallResult.result":
                setattr(inner, field.name, SECRET.encode())
            elif name in QUOTES and field.is_repeated:
                getattr(inner, field.name)[:] = [f"search the log for: {FREE}"]
            elif name in QUOTES:
                setattr(inner, field.name, f"it has failed once: {FREE}")
            elif name in SECRETS:
                setattr(inner, field.name, FREE)
            if name == "HistoryEntry.detail":
                inner.kind = admin.HISTORY_KIND_DECIDED  # type: ignore[attr-defined]
    return message


def messages_in(message: Message) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else [value]:
                yield from messages_in(inner)


# Each text of a reply is in one of these sets: a new field must be judged.
SECRETS = {
    "Transaction.cancel_detail",
    "Transaction.cancel_message",
    "Branch.last_error",
    "BranchExplanation.last_error",
    "ParticipantReport.last_error",
    "ParticipantReconciliation.detail",
    "CallResult.reason",
    "CallResult.message",
}
QUOTES = {
    "ExplainTransactionResponse.summary",
    "ExplainTransactionResponse.advice",
    "BranchExplanation.summary",
    "HistoryEntry.detail",
}
HARMLESS = {
    # Names and ids, chosen before any payload is known.
    *("Transaction.gid", "Transaction.initiator", "Transaction.owner", "Transaction.trace_id"),
    *("Transaction.cancel_branch_id", "LabelsEntry.key", "LabelsEntry.value"),
    *("BranchSpec.branch_id", "BranchSpec.participant", "BranchSpec.action", "BranchSpec.content_type"),
    *("Branch.result_content_type", "CallResult.content_type"),
    *("HistoryEntry.branch_id", "HistoryEntry.participant", "HistoryEntry.operation", "HistoryEntry.actor"),
    *("BranchExplanation.branch_id", "BranchExplanation.participant"),
    *("BranchExplanation.action", "BranchExplanation.operation"),
    *("ExplainTransactionResponse.gid", "ExplainTransactionResponse.owner"),
    *("ExplainTransactionResponse.owner_name", "InspectTransactionResponse.owner_name"),
    *("ParticipantReport.coordinator_id", "ParticipantReport.coordinator_name", "ParticipantReport.target"),
    *("BulkFailure.gid", "RunBulkActionResponse.sample_gids", "RunBulkActionResponse.confirmation_token"),
    *("ParticipantStatus.name", "ParticipantStatus.operator"),
    *("Finding.participant", "Finding.gid", "Finding.branch_id", "Finding.action"),
    *("ParticipantReconciliation.participant", "Coordinator.id", "Coordinator.name", "Coordinator.version"),
    *("ListCoordinatorsResponse.responder_id", "GetStatsResponse.responder_id"),
    "GetStatsResponse.oldest_unfinished_gid",
    # What an operator wrote, and the coordinator's own sentences.
    *("Branch.heuristic_reason", "ParticipantStatus.reason", "Finding.explanation"),
    *("AuditRecord.operator", "AuditRecord.action", "AuditRecord.target", "AuditRecord.reason"),
    *("AuditRecord.detail", "VerifyAuditChainResponse.problem"),
    *("Error.reason", "Error.message", "MetadataEntry.key", "MetadataEntry.value"),
    # Who called, by its credential and the configuration.
    *("AuditRecord.on_behalf_of", "AuditRecord.method", "AuditRecord.peer", "AuditRecord.credential"),
    "AuditRecord.role",
    *("WhoAmIResponse.principal", "WhoAmIResponse.method", "WhoAmIResponse.client"),
    *("WhoAmIResponse.operator", "WhoAmIResponse.role", "WhoAmIResponse.gid_prefixes"),
    *("WhoAmIResponse.calls", "WhoAmIResponse.tenants", "WhoAmIResponse.methods", "SignedAuditHead.key_id"),
    # Why a row cannot be decoded: names of types and columns.
    "Transaction.quarantine_reason",
    # Not shown.
    *("SearchTransactionsResponse.next_page_token", "ListAuditRecordsResponse.next_page_token"),
}


def texts_in(kind: Descriptor, seen: set[str]) -> Iterator[str]:
    if kind.full_name in seen or kind.full_name.startswith("google."):
        return
    seen.add(kind.full_name)
    for field in kind.fields:
        if field.message_type is not None:
            yield from texts_in(field.message_type, seen)
        elif field.type == FieldDescriptor.TYPE_STRING:
            yield f"{kind.name}.{field.name}"


def test_every_text_of_the_contract_is_judged() -> None:
    (service,) = admin.DESCRIPTOR.services_by_name.values()
    seen: set[str] = set()
    found = {name for method in service.methods for name in texts_in(method.output_type, seen)}
    assert found == SECRETS | QUOTES | HARMLESS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("SOLD_OUT", "SOLD_OUT"),
        ("SOLD_OUT: none of 4111", "SOLD_OUT: [redacted]"),
        ("VISA4111", "[redacted]"),
        ("KeyError: '4111'", "[redacted]"),
        ("it broke", "[redacted]"),
    ],
)
def test_of_a_free_text_only_its_reason_code_is_shown(text: str, shown: str) -> None:
    assert hidden(text) == shown


def test_an_ended_transaction_is_explained_without_its_message() -> None:
    reply = admin.ExplainTransactionResponse(
        state=common.TRANSACTION_STATE_CANCELLED,
        summary=f"it has ended: CANCELLED, because REJECTED stock SOLD_OUT: {SECRET}",
    )
    view = (("tx", "why", "g"), {"ExplainTransaction": reply})
    text = shown(view, "text", "--redact", "card")
    assert text.startswith("it has ended: CANCELLED, because REJECTED [redacted]\n")


def test_without_redaction_texts_are_shown_whole() -> None:
    transaction = common.Transaction(gid="g", branches=[common.Branch(last_error=FREE)])
    reply = admin.InspectTransactionResponse(transaction=transaction)
    assert SECRET in shown((("tx", "show", "g"), {"InspectTransaction": reply}), "wide")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(HOSTILE), max_size=30)


@given(title=TEXTS, text=TEXTS, width=st.integers(1, 120), wide=st.booleans())
def test_any_text_on_any_terminal_is_harmless(title: str, text: str, width: int, *, wide: bool) -> None:
    columns = [Column("GID"), Column("STATE", optional=1), Column("ERROR", characters_max=9, flexible=True)]
    blocks: list[Block] = [
        TextBlock(text),
        Facts([(title, cell(text))]),
        Table(columns=columns, rows=[[cell(text), cell(title), Cell("-")]], empty=""),
    ]
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(rich_group(blocks, width=width, wide=wide))
    assert controls(console.file.getvalue()) == set()  # type: ignore[attr-defined]
    assert controls("\n".join(plain_lines(blocks, wide=wide))) == set()


@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=9))
def test_any_data_is_harmless_and_reads_back_the_same(data: Any) -> None:
    for output_format, load in ((OutputFormat.JSON, json.loads), (OutputFormat.YAML, yaml.safe_load)):
        out = io.StringIO()
        Output(output_format, out, out).answer([], {"data": data})
        assert controls(out.getvalue()) == set()
        assert load(out.getvalue()) == {"data": data}


def test_a_lone_surrogate_in_a_payload_is_escaped() -> None:
    out = io.StringIO()
    Output(OutputFormat.JSON, out, out).answer([], json.loads(r'"\ud800"'))
    assert re.fullmatch(r'"\\ud800"\n', out.getvalue())
