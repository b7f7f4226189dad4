"""How `tccctl` ends. The numbers are stable: scripts depend on them."""

from enum import IntEnum
from typing import assert_never


class ExitCode(IntEnum):
    """The status that the process ends with."""

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
    """Return what a status means, for the help and the docs."""
    match code:
        case ExitCode.OK:
            return "done"
        case ExitCode.REFUSED:
            return "the coordinator refused, or failed"
        case ExitCode.USAGE:
            return "the command, its filter or the configuration is wrong"
        case ExitCode.NOT_FOUND:
            return "there is no such transaction, branch, participant or coordinator"
        case ExitCode.CHANGED:
            return "it has changed since you saw it; nothing was done"
        case ExitCode.UNREACHABLE:
            return "no coordinator answered in time, or none can answer now"
        case ExitCode.WRONG:
            return "what was checked is not in order"
        case ExitCode.PARTLY:
            return "of many, some were not acted on, or could not be looked at"
        case ExitCode.INTERRUPTED:
            return "interrupted from the keyboard"
        case ExitCode.TERMINATED:
            return "ended by SIGTERM"
    assert_never(code)
