"""What operators ask for, checked."""

import base64
import binascii

from msgspec import Struct

from coordinator.api.initiator.requests import (
    ID_BYTES_MAX,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    REASON_CHARACTERS_MAX,
)
from coordinator.core.errors import InvalidRequest
from coordinator.core.model import Heuristic
from tcc.admin.v1 import admin_pb2 as pb
from tcc.common.v1 import common_pb2 as common

_OUTCOMES: dict[int, Heuristic] = {
    common.HEURISTIC_OUTCOME_CONFIRMED: Heuristic.CONFIRMED,
    common.HEURISTIC_OUTCOME_CANCELLED: Heuristic.CANCELLED,
}


class OperatorContext(Struct, frozen=True):
    """Who acts, why, and on which version."""

    operator: str
    reason: str
    version: int


def checked_operator_context(
    operator_context: pb.OperatorContext, *, needs_version: bool = False
) -> OperatorContext:
    """Who acts, and why.

    Raises:
        InvalidRequest: MISSING_OPERATOR, MISSING_REASON, MISSING_VERSION, or text that is too long or odd.
    """
    operator, reason = operator_context.operator.strip(), operator_context.reason.strip()
    if not operator:
        raise InvalidRequest("MISSING_OPERATOR", "say who acts: operator_context.operator")
    if len(operator.encode()) > ID_BYTES_MAX or not operator.isprintable():
        raise InvalidRequest(
            "INVALID_OPERATOR",
            f"operator_context.operator has at most {ID_BYTES_MAX} bytes, all of them printable",
        )
    if not reason:
        raise InvalidRequest("MISSING_REASON", "say why: operator_context.reason")
    if len(reason) > REASON_CHARACTERS_MAX or "\0" in reason:
        raise InvalidRequest(
            "INVALID_REASON",
            f"operator_context.reason has at most {REASON_CHARACTERS_MAX} characters, none of them NUL",
        )
    if needs_version and not operator_context.version:
        raise InvalidRequest("MISSING_VERSION", "say which version you saw: operator_context.version")
    if operator_context.version >= 2**63:
        raise InvalidRequest("INVALID_VERSION", "operator_context.version is none that there can be")
    return OperatorContext(operator, reason, operator_context.version)


def checked_outcome(number: int) -> Heuristic:
    """Return the outcome that an operator has chosen for a branch.

    Raises:
        InvalidRequest
    """
    if number not in _OUTCOMES:
        raise InvalidRequest("INVALID_OUTCOME", "outcome is HEURISTIC_OUTCOME_CONFIRMED or _CANCELLED")
    return _OUTCOMES[number]


def checked_page_size(number: int) -> int:
    """How much a page is to hold.

    Raises:
        InvalidRequest
    """
    if number > PAGE_SIZE_MAX:
        raise InvalidRequest("INVALID_PAGE_SIZE", f"a page holds at most {PAGE_SIZE_MAX}")
    return number or PAGE_SIZE_DEFAULT


def audit_token(sequence: int) -> str:
    """How a caller names where the next page of records starts: before this one."""
    return base64.urlsafe_b64encode(f"audit:{sequence}".encode()).decode()


def audit_sequence(token: str) -> int | None:
    """Where a page of records starts; None: at the newest.

    Raises:
        InvalidRequest
    """
    if not token:
        return None
    try:
        kind, _, number = base64.urlsafe_b64decode(token[:100]).decode().partition(":")
        position = int(number)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token is not one of ours") from error
    if kind != "audit" or not 0 < position < 2**63:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token is not one of ours")
    return position


def checked_text(field: str, value: str) -> str:
    """Return a text to search for.

    Raises:
        InvalidRequest
    """
    if len(value) > REASON_CHARACTERS_MAX or not value.isprintable():
        raise InvalidRequest(
            f"INVALID_{field.upper()}", f"{field} is too long, or holds what is not printable"
        )
    return value
