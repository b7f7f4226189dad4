"""Failures of commands, with advice on what to do next."""

from collections.abc import Callable, Mapping

import grpc

from tcc.errors import TccError
from tccctl.exit_codes import ExitCode

OUTCOME_UNKNOWN = "it is not known whether the action took effect: check before you repeat it"


class Failure(Exception):  # noqa: N818 - it names what happened
    """A command cannot continue.

    - `message`: what is wrong.
    - `advice`: what to do next; empty if there is no advice.
    - `code`: the exit status.
    """

    def __init__(self, message: str, *, advice: str = "", code: ExitCode = ExitCode.REFUSED) -> None:
        self.message = message
        self.advice = advice
        self.code = code
        super().__init__(message)


class UsageFailure(Failure):
    """The command or the configuration is wrong."""

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message, advice=advice, code=ExitCode.USAGE)


def failure_of(error: TccError, *, address: str, changes_state: bool) -> Failure:
    """Return the failure for a call that was refused or failed.

    `address` is the coordinator called; `changes_state` is set if the call was to change something.
    """
    advise = _ADVICE.get(error.reason)
    if advise is not None:
        advice = advise(error.metadata)
    elif error.code is grpc.StatusCode.UNAVAILABLE:
        advice = (
            f"is tccd running, and is {address} its admin listener?"
            " Use another one with --address or TCCCTL_ADDRESS. If it uses TLS, give --ca-file, and also"
            " --certificate-file with --key-file if it requires client certificates"
        )
    else:
        advice = _ADVICE_BY_CODE.get(error.code, "")
    if changes_state and error.code in _LEAVES_OPEN and error.reason not in _NOTHING_DONE:
        advice = _joined(advice, OUTCOME_UNKNOWN)
    return Failure(
        _message(error, address), advice=advice, code=_EXIT_CODES.get(error.code, ExitCode.REFUSED)
    )


def _message(error: TccError, address: str) -> str:
    if error.reason == "INVALID_FILTER":
        return error.message  # with the place of the mistake
    if error.reason == error.code.name:  # not from a coordinator
        reason = error.message.partition("\n")[0]
        return f"{address} does not respond: {reason}" if _is_silence(error) else f"{error.reason}: {reason}"
    return f"{error.reason}: {error.message}"


def _is_silence(error: TccError) -> bool:
    return error.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _version_changed(metadata: Mapping[str, str]) -> str:
    now = f"its version is now {metadata['version']}; " if "version" in metadata else ""
    return f"{now}check it again, and repeat the command if it still applies"


_EXIT_CODES: dict[grpc.StatusCode, ExitCode] = {
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.USAGE,
    grpc.StatusCode.OUT_OF_RANGE: ExitCode.USAGE,
    grpc.StatusCode.NOT_FOUND: ExitCode.NOT_FOUND,
    grpc.StatusCode.ABORTED: ExitCode.CHANGED,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.UNREACHABLE,
    grpc.StatusCode.UNIMPLEMENTED: ExitCode.UNREACHABLE,
}

_LEAVES_OPEN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}

# The coordinator returns these before it does anything.
_NOTHING_DONE = {
    "DRAINING",
    "OVERLOADED",
    "PARTICIPANT_PAUSED",
    "PARTICIPANT_UNREACHABLE",
    "SEARCH_TOO_LONG",
}

_ADVICE_BY_CODE: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "raise --timeout, or use another coordinator with --address",
    grpc.StatusCode.UNIMPLEMENTED: (
        "this address is not an admin listener (it has its own port), or it is an older tccd"
    ),
    grpc.StatusCode.INTERNAL: "the log output of the coordinator has the cause",
}

_ADVICE: dict[str, Callable[[Mapping[str, str]], str]] = {
    "VERSION_CHANGED": _version_changed,
    "SELECTION_CHANGED": lambda _: "the filter now matches other transactions: repeat the dry run",
    "INVALID_FILTER": lambda _: "`tccctl tx list --help` describes the filter language",
    "TRANSACTION_NOT_FOUND": lambda _: (
        "check the gid with `tccctl tx list`; ended transactions are deleted after the retention period"
    ),
    "BRANCH_NOT_FOUND": lambda _: "`tccctl tx show GID` lists its branches",
    "TRANSACTION_HELD": lambda _: "`tccctl tx release GID` lets it continue",
    "TRANSACTION_NOT_HELD": lambda _: "there is nothing to release",
    "NOT_DECIDED": lambda _: "it is TRYING: wait for its expiry, or cancel it with `tccctl tx cancel GID`",
    "TRANSACTION_ENDED": lambda _: "`tccctl tx show GID` shows how it ended",
    "BRANCH_DONE": lambda _: "the branch has executed the decision; there is nothing to resolve",
    "DECISION_CONFLICT": lambda _: (
        "a decision never changes; resolve single branches with `tccctl tx resolve GID BRANCH OUTCOME`"
    ),
    "SEARCH_TOO_LONG": lambda _: (
        "narrow the search: transactions for example by live, age<1h or gid=GID, audit records by --target"
    ),
    "LOG_REJECTED": lambda _: "PostgreSQL's own log has the details of its error",
    "TRANSACTION_QUARANTINED": lambda _: (
        "`tccctl tx show GID` has the reason; repair the row, then run `tccctl tx release GID`"
    ),
    "LOG_UNAVAILABLE": lambda _: (
        "the coordinator runs, but its PostgreSQL does not respond: check PostgreSQL first"
    ),
    "DRAINING": lambda _: "this coordinator is shutting down: use another one with --address",
    "UNKNOWN_PARTICIPANT": lambda _: "`tccctl participant list` shows all participants",
    "COORDINATOR_NOT_FOUND": lambda _: "`tccctl coordinator list` shows all coordinators",
    "COORDINATOR_GONE": lambda _: (
        "there is nothing to drain: `tccctl coordinator list` shows the live coordinators"
    ),
    "COORDINATOR_DRAINING": lambda _: "wait until it has ended: `tccctl coordinator list`",
    "SELECTION_TOO_LARGE": lambda _: "narrow the filter, for example by age>1h, and act in parts",
    "APPROVAL_REQUIRED": lambda facts: (
        f"another admin: tccctl approve {facts['request']}" if "request" in facts else ""
    ),
    "REQUESTER_NOT_ALLOWED": lambda facts: f"another admin: tccctl approve {facts['request']}",
    "FINDING_GONE": lambda _: "`tccctl reconcile` shows the current findings",
    "REPAIR_NOT_ALLOWED": lambda _: (
        "`tccctl reconcile` shows the proposed repair; --as selects another operation"
    ),
    "PARTICIPANT_PAUSED": lambda _: "`tccctl participant resume NAME` allows calls again",
    "PARTICIPANT_UNREACHABLE": lambda _: "`tccctl participant list` shows its health",
    "RECONCILIATION_UNSUPPORTED": lambda _: (
        "the participant needs a newer SDK, or an implementation of ListBranches"
    ),
    "OVERLOADED": lambda _: "try again in a few seconds",
}
