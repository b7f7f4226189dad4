"""The refusals of the coordinator: one tree of exceptions.

Each class knows its stable `reason` (google.rpc.ErrorInfo) and the name of its
canonical gRPC status `code`. Everything here is the caller's to handle; what a
participant does wrong is an `Answer`, and what we do wrong is an assertion.
"""

from collections.abc import Mapping
from typing import ClassVar


class Refused(Exception):  # noqa: N818 - it names what happened, as the rest of the tree does
    """A request cannot be carried out. Nothing has changed by it."""

    code: ClassVar[str] = "FAILED_PRECONDITION"
    reason: ClassVar[str] = "REFUSED"

    def __init__(
        self, message: str, *, retry_after_s: float = 0.0, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.metadata = metadata or {}


class InvalidRequest(Refused):
    """The request itself is invalid; `reason` names the field or rule."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_REQUEST"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason  # type: ignore[misc] # one class, many reasons: each names a field


class NotAuthenticated(Refused):
    """The caller is not known: it has no credential, or one that is not accepted."""

    code = "UNAUTHENTICATED"
    reason = "NOT_AUTHENTICATED"

    def __init__(self, message: str, *, cause: str = "") -> None:
        """`cause`: for our own log."""
        super().__init__(message)
        self.cause = cause


class NotAllowed(Refused):
    """The caller is known, and may not do this."""

    code = "PERMISSION_DENIED"
    reason = "NOT_ALLOWED"


class TenantLimit(Refused):
    """The client has reached a limit of its own; others are not affected."""

    code = "RESOURCE_EXHAUSTED"
    reason = "TENANT_LIMIT"


class UnknownParticipant(Refused):
    """The coordinator is not configured with this participant."""

    code = "INVALID_ARGUMENT"
    reason = "UNKNOWN_PARTICIPANT"


class TransactionNotFound(Refused):
    """The log holds no such transaction."""

    code = "NOT_FOUND"
    reason = "TRANSACTION_NOT_FOUND"


class GidConflict(Refused):
    """The gid belongs to a transaction with different content."""

    code = "ALREADY_EXISTS"
    reason = "GID_CONFLICT"


class BranchConflict(Refused):
    """The branch id belongs to a branch with different content."""

    code = "ALREADY_EXISTS"
    reason = "BRANCH_CONFLICT"


class BranchPending(Refused):
    """A branch of this id and with different content is on its way into the log.

    Who repeats the request learns which of them was first.
    """

    code = "UNAVAILABLE"
    reason = "BRANCH_PENDING"


class TooManyBranches(Refused):
    """The transaction has as many branches as the limits allow."""

    code = "INVALID_ARGUMENT"
    reason = "TOO_MANY_BRANCHES"


class TransactionTooLarge(Refused):
    """The payloads of a transaction hold more than the limits allow."""

    code = "INVALID_ARGUMENT"
    reason = "TRANSACTION_TOO_LARGE"


class NotInteractive(Refused):
    """A transaction begun by ExecuteTransaction takes no steps from outside."""

    reason = "NOT_INTERACTIVE"


class AlreadyDecided(Refused):
    """No branch joins after the decision, nor after CONFIRM was asked for."""

    reason = "ALREADY_DECIDED"


class TryPending(Refused):
    """A check-back branch is registered last: when every other Try has succeeded."""

    reason = "TRY_PENDING"


class CheckBackExists(Refused):
    """The transaction has a check-back branch; no branch joins after it."""

    reason = "CHECK_BACK_EXISTS"


class CheckUnanswered(Refused):
    """Whether the transaction can be cancelled depends on its check-back branch, which has not answered.

    Nothing is decided; the branch is asked again.
    """

    code = "UNAVAILABLE"
    reason = "CHECK_UNANSWERED"


class DecisionConflict(Refused):
    """The other decision was taken, and a decision never changes."""

    reason = "DECISION_CONFLICT"


class CallTooLong(Refused):
    """The caller set no deadline, and the coordinator's own cap has passed. The transaction goes on."""

    code = "DEADLINE_EXCEEDED"
    reason = "CALL_TOO_LONG"


class RequestTooSlow(Refused):
    """The request of a call did not arrive in time."""

    code = "DEADLINE_EXCEEDED"
    reason = "REQUEST_TOO_SLOW"


class KeepsFailing(Refused):
    """The caller's time is nearly up, and a branch keeps failing. The transaction goes on."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class SearchTooLong(Refused):
    """The log has given up a search that took too long; a narrower filter helps."""

    code = "DEADLINE_EXCEEDED"
    reason = "SEARCH_TOO_LONG"


class Overloaded(Refused):
    """A bound is reached. Nothing was written; try again later."""

    code = "RESOURCE_EXHAUSTED"
    reason = "OVERLOADED"


class ResponsesUnread(Refused):
    """Responses wait for clients that do not read them. The request may have taken effect; repeat it."""

    code = "RESOURCE_EXHAUSTED"
    reason = "RESPONSES_UNREAD"


class ParticipantUnavailable(Refused):
    """A participant has failed so often lately that new work for it is refused."""

    code = "UNAVAILABLE"
    reason = "PARTICIPANT_UNAVAILABLE"


class LogError(Refused):
    """The transaction log failed.

    `message` goes to any caller, so it never has the database's own words. These are `detail`, for
    operators alone: a host, a path, the name of a table.
    """

    code = "UNAVAILABLE"
    reason = "LOG_UNAVAILABLE"

    def __init__(self, message: str, *, detail: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.detail = detail

    @property
    def explained(self) -> str:
        """Return the message for operators."""
        return f"{self.message}: {self.detail}" if self.detail else self.message


class LogUnavailable(LogError):  # noqa: N818 - as `Refused`
    """The transaction log cannot be reached; nothing new is accepted."""


class LogRejected(LogError):  # noqa: N818 - as `Refused`
    """The transaction log rejected one statement, which had no effect. Others may succeed."""

    reason = "LOG_REJECTED"


class Draining(Refused):
    """The coordinator is shutting down; another one takes over."""

    code = "UNAVAILABLE"
    reason = "DRAINING"


class OwnerChanged(Refused):
    """Another coordinator took the transaction over while the request waited; repeat it."""

    code = "UNAVAILABLE"
    reason = "OWNER_CHANGED"


class TransactionHeld(Refused):
    """An operator holds the transaction; nothing moves until it is released."""

    reason = "TRANSACTION_HELD"


class TransactionQuarantined(Refused):
    """The transaction's row in the log cannot be used; nothing is decided until it is repaired."""

    reason = "TRANSACTION_QUARANTINED"


class TransactionNotHeld(Refused):
    """The transaction is not held, so it cannot be released."""

    reason = "TRANSACTION_NOT_HELD"


class NotDecided(Refused):
    """There is no decision yet that could be carried out."""

    reason = "NOT_DECIDED"


class TransactionEnded(Refused):
    """Every branch is done; nothing can be changed any more."""

    reason = "TRANSACTION_ENDED"


class BranchNotFound(Refused):
    """The transaction has no such branch."""

    code = "NOT_FOUND"
    reason = "BRANCH_NOT_FOUND"


class BranchDone(Refused):
    """The branch has carried the decision out."""

    reason = "BRANCH_DONE"


class VersionChanged(Refused):
    """The transaction has changed since the operator read it; read it again."""

    code = "ABORTED"
    reason = "VERSION_CHANGED"


class ParticipantPaused(Refused):
    """An operator has paused the participant; new work for it is refused."""

    code = "UNAVAILABLE"
    reason = "PARTICIPANT_PAUSED"


class SelectionChanged(Refused):
    """The filter finds other transactions than in the dry run; run the dry run again."""

    code = "ABORTED"
    reason = "SELECTION_CHANGED"


class SelectionTooLarge(Refused):
    """The filter finds more transactions than one bulk action takes; narrow it."""

    reason = "SELECTION_TOO_LARGE"


class CoordinatorNotFound(Refused):
    """The log remembers no such coordinator."""

    code = "NOT_FOUND"
    reason = "COORDINATOR_NOT_FOUND"


class CoordinatorGone(Refused):
    """The coordinator's lease has ended."""

    reason = "COORDINATOR_GONE"


class CoordinatorDraining(Refused):
    """The coordinator has been asked to drain already."""

    reason = "COORDINATOR_DRAINING"


class ReconciliationUnsupported(Refused):
    """The participant does not list its barrier rows; it cannot be reconciled."""

    reason = "RECONCILIATION_UNSUPPORTED"


class ParticipantUnreachable(Refused):
    """The participant does not answer, or answers with an error."""

    code = "UNAVAILABLE"
    reason = "PARTICIPANT_UNREACHABLE"


class ApprovalRequired(Refused):
    """The command needs a second person: another admin must repeat it."""

    reason = "APPROVAL_REQUIRED"


class RequesterNotAllowed(Refused):
    """Another operator requested this command, and may not give it any more."""

    reason = "REQUESTER_NOT_ALLOWED"


class FindingGone(Refused):
    """The participant's row agrees with the log by now; there is nothing to repair."""

    code = "ABORTED"
    reason = "FINDING_GONE"


class RepairNotAllowed(Refused):
    """The operation does not repair the finding."""

    reason = "REPAIR_NOT_ALLOWED"
