"""The sizes of the batches of a round, which its baseline repeats."""

from dataclasses import dataclass

from bench import work
from bench.figures import Round


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Average sizes of batches, at least one."""

    # Rows that one statement writes to the log.
    rows: int
    # Branch calls in a message.
    calls: int


def batches(measured: Round) -> Batches:
    used = measured.used
    return Batches(
        rows=_share(work.LOG_WRITES * measured.done_while_used, used.commits),
        calls=_share(used.branch_calls, used.participant_calls),
    )


def _share(things: float, batches: float) -> int:
    return max(1, round(things / max(batches, 1)))
