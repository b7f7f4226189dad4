"""Hide free text that may quote a payload: error messages of participants, reasons of initiators.

Redaction is by path, and text has no paths. If paths are configured, only the reason code in front
of such a text is shown: "SOLD_OUT: [redacted]".
"""

import re
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.redaction import REDACTED

# A code has no digits, so that a number is none.
_CODE = re.compile(r"[A-Z][A-Z_]*")
_FREE_TEXTS = {
    "tcc.common.v1.Transaction.cancel_detail",
    "tcc.common.v1.Transaction.cancel_message",
    "tcc.common.v1.Branch.last_error",
    "tcc.common.v1.CallResult.reason",
    "tcc.common.v1.CallResult.message",
    "tcc.admin.v1.BranchExplanation.last_error",
    "tcc.admin.v1.ParticipantReport.last_error",
    "tcc.admin.v1.ParticipantReconciliation.detail",
}
# Sentences of the coordinator that quote a free text of the same reply.
_QUOTING = {
    "tcc.admin.v1.ExplainTransactionResponse.summary",
    "tcc.admin.v1.ExplainTransactionResponse.advice",
    "tcc.admin.v1.BranchExplanation.summary",
    "tcc.admin.v1.HistoryEntry.detail",
}
_CALL_FAILURES = {admin.HISTORY_KIND_CALL_FAILED, admin.HISTORY_KIND_STUCK}
_ENDED = {common.TRANSACTION_STATE_CONFIRMED, common.TRANSACTION_STATE_CANCELLED}
_BECAUSE = ", because "


def hidden(text: str) -> str:
    """Return the reason code in front of a text, and "[redacted]" for the rest."""
    code, colon, _ = text.partition(": ")
    if not text or _CODE.fullmatch(text):
        return text
    return f"{code}: {REDACTED}" if colon and _CODE.fullmatch(code) else REDACTED


def hide_free_text(reply: Message) -> None:
    """Hide every free text in a reply, and wherever the reply quotes it."""
    quotes = {text: hidden(text) for message, field, text in _texts(reply) if _is_free(message, field)}
    # A text may be part of another one.
    longest_first = sorted(quotes, key=len, reverse=True)
    for message, field, text in list(_texts(reply)):
        if _is_free(message, field):
            _replace(message, field, text, hidden(text))
        elif field.full_name in _QUOTING:
            shown = text
            for quote in longest_first:
                shown = shown.replace(quote, quotes[quote])
            _replace(message, field, text, shown)
    _hide_the_rest(reply)


def _is_free(message: Message, field: FieldDescriptor) -> bool:
    if isinstance(message, admin.HistoryEntry) and field.name == "detail":
        return message.kind in _CALL_FAILURES
    return field.full_name in _FREE_TEXTS


def _hide_the_rest(reply: Message) -> None:
    """Hide what a reply quotes without having it in a field of its own."""
    if isinstance(reply, admin.ExplainTransactionResponse) and reply.state in _ENDED:
        ending, because, why = reply.summary.partition(_BECAUSE)
        if because:
            reply.summary = f"{ending}{because}{why.split(' ')[0]} {REDACTED}"
    if isinstance(reply, admin.RepairBranchResponse):
        # No repair is a Try, so that it has no result that a payload's paths could redact.
        reply.result.result = b""


def _texts(message: Message) -> Iterator[tuple[Message, FieldDescriptor, str]]:
    for field, value in message.ListFields():
        for item in value if field.is_repeated else [value]:
            if isinstance(item, Message):
                yield from _texts(item)
            elif isinstance(item, str) and not _is_map_entry(field):
                yield message, field, item


def _is_map_entry(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _replace(message: Message, field: FieldDescriptor, old: str, new: str) -> None:
    if field.is_repeated:
        texts = getattr(message, field.name)
        texts[list(texts).index(old)] = new
    else:
        setattr(message, field.name, new)
