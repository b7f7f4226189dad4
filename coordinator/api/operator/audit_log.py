"""What operators are refused, and what they read of payloads, as lines `audit` of the coordinator's log.

Actions have such lines, too, beside their records in the audit chain (`log.operator_store`).
"""

import structlog

from coordinator.api.errors import Context
from coordinator.api.operator.requests import OperatorContext
from coordinator.core.errors import Refused
from coordinator.security.caller import CALLER

logger = structlog.get_logger(__name__)

# The fields of requests that name what a request concerns.
_TARGETS = {
    "gid": "transaction",
    "participant": "participant",
    "coordinator_id": "coordinator",
    "filter": "filter",
}


def log_refusal(method: str, request: object, context: Context, error: Refused) -> None:
    """Log that a request was refused, whatever it was."""
    asked = getattr(request, "operator_context", None)
    logger.warning(
        "audit",
        outcome=error.reason,
        action=method,
        target=_target(request),
        operator=_principal() or (asked.operator if asked else ""),
        reason=asked.reason if asked else "",
        peer=context.peer(),
        error=error.message,
    )


def log_item_refusal(gid: str, operator_context: OperatorContext, error: Refused) -> None:
    """Log that a bulk action was refused for one transaction."""
    logger.warning(
        "audit",
        outcome=error.reason,
        action="RunBulkAction",
        target=f"transaction/{gid}",
        operator=operator_context.operator,
        reason=operator_context.reason,
        peer=operator_context.peer,
        error=error.message,
    )


def log_payloads_read(gid: str, context: Context) -> None:
    """Log that the payloads and results of a transaction are about to be sent."""
    logger.info(
        "audit",
        outcome="DONE",
        action="transaction.read_payloads",
        target=f"transaction/{gid}",
        operator=_principal(),
        peer=context.peer(),
    )


def _principal() -> str:
    """Return the identity of the caller; empty: callers are not authenticated here."""
    caller = CALLER.get()
    return caller.principal if caller else ""


def _target(request: object) -> str:
    for name, kind in _TARGETS.items():
        if value := getattr(request, name, ""):
            return f"{kind}/{value}"
    return ""
