"""What goes wrong, in words that say what to do next."""

from collections.abc import Callable, Mapping

import grpc

from tcc.errors import TccError
from tccctl.exit_codes import ExitCode

OUTCOME_UNKNOWN = "whether the action took effect is not known: look before you repeat it"


class Failure(Exception):  # noqa: N818 - it names what happened
    """A command cannot go on.

    - `message`: what is wrong.
    - `advice`: what to do next; empty where nothing helps.
    - `code`: how the process ends.
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
    """Return a refused or failed call as a failure.

    `address` was asked; `changes_state` says that the call was to change something.
    """
    advise = _ADVICE.get(error.reason)
    if advise is not None:
        advice = advise(error.metadata)
    elif error.code is grpc.StatusCode.UNAVAILABLE:
        advice = (
            f"is tccd running, and is {address} its admin listener?"
            " Name another one with --address or TCCCTL_ADDRESS; where it has TLS, --ca-file, and"
            " --certificate-file with --key-file where it asks who you are"
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
        return f"{error.message}{_pointed_at(error.metadata)}"
    if error.reason == error.code.name:  # no coordinator said this
        reason = error.message.partition("\n")[0]
        return f"{address} does not answer: {reason}" if _is_silence(error) else f"{error.reason}: {reason}"
    return f"{error.reason}: {error.message}"


def _is_silence(error: TccError) -> bool:
    return error.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def _pointed_at(metadata: Mapping[str, str]) -> str:
    term = metadata.get("term", "")
    return f" (at {term!r}, after {metadata.get('position', '0')} characters)" if term else ""


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _version_changed(metadata: Mapping[str, str]) -> str:
    now = f"it is at version {metadata['version']} now; " if "version" in metadata else ""
    return f"{now}look again, and repeat the command if it is still right"


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

# The coordinator says these before it does anything.
_NOTHING_DONE = {
    "DRAINING",
    "OVERLOADED",
    "PARTICIPANT_PAUSED",
    "PARTICIPANT_UNREACHABLE",
    "SEARCH_TOO_LONG",
}

_ADVICE_BY_CODE: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "give it longer with --timeout, or ask another one with --address",
    grpc.StatusCode.UNIMPLEMENTED: (
        "this address serves something else, or an older tccd; operators have a port of their own"
    ),
    grpc.StatusCode.INTERNAL: "the coordinator's log says why",
}

_ADVICE: dict[str, Callable[[Mapping[str, str]], str]] = {
    "VERSION_CHANGED": _version_changed,
    "SELECTION_CHANGED": lambda _: "the filter finds other transactions by now: do the dry run again",
    "INVALID_FILTER": lambda _: "`tccctl tx list --help` shows the filter language",
    "TRANSACTION_NOT_FOUND": lambda _: (
        "check the gid with `tccctl tx list`; ended transactions are deleted after the retention"
    ),
    "BRANCH_NOT_FOUND": lambda _: "`tccctl tx show GID` lists its branches",
    "TRANSACTION_HELD": lambda _: "`tccctl tx release GID` lets it go on",
    "TRANSACTION_NOT_HELD": lambda _: "nothing is to be released",
    "NOT_DECIDED": lambda _: (
        "it is TRYING: it decides by its expiry at the latest, or cancel it with `tccctl tx cancel GID`"
    ),
    "TRANSACTION_ENDED": lambda _: "`tccctl tx show GID` says how it ended",
    "BRANCH_DONE": lambda _: "the branch has carried the decision out; there is nothing to resolve",
    "DECISION_CONFLICT": lambda _: (
        "a decision never changes; end single branches with `tccctl tx resolve GID BRANCH OUTCOME`"
    ),
    "SEARCH_TOO_LONG": lambda _: (
        "narrow what is looked for: transactions for example by live, age<1h or gid=GID,"
        " audit records by --target"
    ),
    "LOG_UNAVAILABLE": lambda _: "the coordinator runs, its PostgreSQL does not answer: look there first",
    "DRAINING": lambda _: "this coordinator shuts down: ask another one with --address",
    "UNKNOWN_PARTICIPANT": lambda _: "`tccctl participant list` shows those that are known",
    "COORDINATOR_NOT_FOUND": lambda _: "`tccctl coordinator list` shows those that are known",
    "COORDINATOR_GONE": lambda _: "nothing is to be drained: `tccctl coordinator list` shows who drives what",
    "COORDINATOR_DRAINING": lambda _: "wait until it has ended: `tccctl coordinator list`",
    "SELECTION_TOO_LARGE": lambda _: "narrow the filter, for example by age>1h, and do it in parts",
    "FINDING_GONE": lambda _: "`tccctl reconcile` shows what does not agree now",
    "REPAIR_NOT_ALLOWED": lambda _: "`tccctl reconcile` says what is proposed; --as names another operation",
    "PARTICIPANT_PAUSED": lambda _: "`tccctl participant resume NAME` lets calls leave again",
    "PARTICIPANT_UNREACHABLE": lambda _: "`tccctl participant list` says how it is",
    "RECONCILIATION_UNSUPPORTED": lambda _: (
        "it has to be served by a newer SDK, or to implement ListBranches"
    ),
    "OVERLOADED": lambda _: "try again in a few seconds",
}
