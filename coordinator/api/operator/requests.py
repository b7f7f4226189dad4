"""Requests of operators, validated."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from coordinator.api.initiator.requests import (
    ID_BYTES_MAX,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    REASON_CHARACTERS_MAX,
)
from coordinator.core.audit import AuditEntry
from coordinator.core.errors import InvalidRequest
from coordinator.core.model import Heuristic
from coordinator.security.caller import CALLER
from tcc.admin.v1 import admin_pb2 as pb
from tcc.common.v1 import common_pb2 as common

_OUTCOMES: dict[int, Heuristic] = {
    common.HEURISTIC_OUTCOME_CONFIRMED: Heuristic.CONFIRMED,
    common.HEURISTIC_OUTCOME_CANCELLED: Heuristic.CANCELLED,
}


class OperatorContext(Struct, frozen=True):
    """Who acts, why, and on which version."""

    # The identity of the caller; if callers are not authenticated, the name that was given.
    operator: str
    reason: str
    version: int
    # The name that an authenticated caller gave; empty: none. The rest: `core.audit.AuditEntry`.
    on_behalf_of: str = ""
    method: str = ""
    peer: str = ""
    credential: str = ""
    role: str = ""

    def entry(self, action: str, target: str, detail: Mapping[str, Any] | None = None) -> AuditEntry:
        """Return what the audit chain is to hold of an action."""
        return AuditEntry(
            operator=self.operator,
            action=action,
            target=target,
            reason=self.reason,
            detail=msgspec.json.encode(detail or {}).decode(),
            on_behalf_of=self.on_behalf_of,
            method=self.method,
            peer=self.peer,
            credential=self.credential,
            role=self.role,
        )


def checked_operator_context(
    operator_context: pb.OperatorContext, *, needs_version: bool = False
) -> OperatorContext:
    """Return who acts, and why.

    Raises:
        InvalidRequest: MISSING_OPERATOR, MISSING_REASON, MISSING_VERSION, or invalid text.
    """
    operator, reason = operator_context.operator.strip(), operator_context.reason.strip()
    caller = CALLER.get()
    if not operator and caller is None:
        raise InvalidRequest("MISSING_OPERATOR", "operator_context.operator is required")
    if len(operator.encode()) > ID_BYTES_MAX or not operator.isprintable():
        raise InvalidRequest(
            "INVALID_OPERATOR",
            f"operator_context.operator may have at most {ID_BYTES_MAX} bytes, all of them printable",
        )
    if not reason:
        raise InvalidRequest("MISSING_REASON", "operator_context.reason is required")
    if len(reason) > REASON_CHARACTERS_MAX or "\0" in reason:
        raise InvalidRequest(
            "INVALID_REASON",
            f"operator_context.reason may have at most {REASON_CHARACTERS_MAX} characters, none of them NUL",
        )
    if needs_version and not operator_context.version:
        raise InvalidRequest(
            "MISSING_VERSION", "operator_context.version, the version that you saw, is required"
        )
    if operator_context.version >= 2**63:
        raise InvalidRequest("INVALID_VERSION", "operator_context.version is out of range")
    if caller is not None:
        return OperatorContext(
            caller.principal,
            reason,
            operator_context.version,
            on_behalf_of=operator,
            method=caller.method,
            peer=caller.peer,
            credential=caller.credential,
            role=caller.role_name,
        )
    return OperatorContext(operator, reason, operator_context.version)


def checked_outcome(number: int) -> Heuristic:
    """Return the outcome that an operator has chosen for a branch.

    Raises:
        InvalidRequest
    """
    if number not in _OUTCOMES:
        raise InvalidRequest(
            "INVALID_OUTCOME", "outcome must be HEURISTIC_OUTCOME_CONFIRMED or HEURISTIC_OUTCOME_CANCELLED"
        )
    return _OUTCOMES[number]


def checked_page_size(number: int) -> int:
    """Return the page size of a request.

    Raises:
        InvalidRequest
    """
    if number > PAGE_SIZE_MAX:
        raise InvalidRequest("INVALID_PAGE_SIZE", f"a page has at most {PAGE_SIZE_MAX} items")
    return number or PAGE_SIZE_DEFAULT


def checked_cell(cell: int, count: int) -> int:
    """Return the number of a cell of the log.

    Raises:
        InvalidRequest
    """
    if cell >= count:
        raise InvalidRequest("INVALID_CELL", f"there is no cell {cell}: the log has {count}, from 0")
    return cell


def audit_token(sequence: int) -> str:
    """Return the token of the next page, which starts before this record."""
    return base64.urlsafe_b64encode(f"audit:{sequence}".encode()).decode()


def audit_sequence(token: str) -> int | None:
    """Return where a page of records starts; None: at the newest.

    Raises:
        InvalidRequest
    """
    if not token:
        return None
    try:
        kind, _, number = base64.urlsafe_b64decode(token[:100]).decode().partition(":")
        position = int(number)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token is invalid") from error
    if kind != "audit" or not 0 < position < 2**63:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token is invalid")
    return position


def checked_text(field: str, value: str) -> str:
    """Return a text to search for, if it is valid.

    Raises:
        InvalidRequest
    """
    if len(value) > REASON_CHARACTERS_MAX or not value.isprintable():
        raise InvalidRequest(
            f"INVALID_{field.upper()}", f"{field} is too long, or contains a character that is not printable"
        )
    return value
