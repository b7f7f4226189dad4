"""Exit codes of `tccctl`. The numbers are stable: scripts depend on them."""

from enum import IntEnum
from typing import assert_never


class ExitCode(IntEnum):
    """The exit status of the process."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    CHANGED = 4
    UNREACHABLE = 5
    WRONG = 6
    PARTLY = 7
    INTERRUPTED = 130
    TERMINATED = 143


def meaning(code: ExitCode) -> str:
    """Return the meaning of a status, for the help and the docs."""
    match code:
        case ExitCode.OK:
            return "done"
        case ExitCode.REFUSED:
            return "the coordinator refused the request, or failed"
        case ExitCode.USAGE:
            return "the command, its filter or the configuration is wrong"
        case ExitCode.NOT_FOUND:
            return "there is no such transaction, branch, participant or coordinator"
        case ExitCode.CHANGED:
            return "the target has changed since you saw it; nothing was done"
        case ExitCode.UNREACHABLE:
            return "no coordinator responded in time, or none can serve the request now"
        case ExitCode.WRONG:
            return "the check found a problem"
        case ExitCode.PARTLY:
            return "some targets were not acted on, or could not be checked"
        case ExitCode.INTERRUPTED:
            return "interrupted from the keyboard"
        case ExitCode.TERMINATED:
            return "ended by SIGTERM"
    assert_never(code)
