"""The oracle: what an outcome says must be what a fresh connection finds.

- SUCCEEDED: the barrier's row is in the operation's state, and the writes of exactly one run of the
  handler, which got to its end, are there, all of them.
- REJECTED: there is no row, neither of the barrier nor of the business.
- FAILED: everything is as it was before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Engine, text

from tcc.common.v1 import common_pb2 as common

from .programs import CANCEL, CONFIRM, TRY, Program
from .steps import Run

SUCCEEDED, REJECTED, FAILED = (
    common.OUTCOME_CODE_SUCCEEDED,
    common.OUTCOME_CODE_REJECTED,
    common.OUTCOME_CODE_FAILED,
)
STATES = {TRY: 1, CONFIRM: 2, CANCEL: 3}


class Finding(AssertionError):  # noqa: N818 - it is found, not raised by what it is about
    """The participant broke a rule. Each kind is a class of its own, and is shown separately."""


@cache
def _kind(name: str) -> type[Finding]:
    return type(name, (Finding,), {})


def finding(name: str, program: Program, facts: str) -> Finding:
    """Return a finding of this name, distinguished by the unusual step of its program."""
    message = f"{name}\n  {program}\n  {facts}"
    # What prints it, or sends it to another process, may take no lone surrogates.
    return _kind(f"{name} [{program.suspect}]")(message.encode("utf-8", "backslashreplace").decode())


@dataclass(frozen=True)
class Kept:
    """What the database has of one branch: the barrier's state, and the operation's business rows."""

    state: int | None
    rows: frozenset[tuple[int, int]]


def look(engine: Engine, gids: Sequence[str], operation: str) -> list[Kept]:
    """Read through a connection that was opened for this."""
    names = {f"g{n}": gid for n, gid in enumerate(gids)}
    among = ", ".join(f":{name}" for name in names)
    with engine.connect() as db:
        states = {
            gid.decode() if isinstance(gid, bytes) else gid: state
            for gid, state in db.execute(
                text(f"SELECT gid, state FROM tcc_barrier WHERE gid IN ({among})"), names
            )
        }
        rows = db.execute(
            text(f"SELECT gid, run, number FROM effects WHERE operation = :operation AND gid IN ({among})"),
            {**names, "operation": operation},
        ).all()
    return [
        Kept(states.get(gid), frozenset((run, number) for key, run, number in rows if key == gid))
        for gid in gids
    ]


def judge(
    program: Program,
    dialect: str,
    runs: Sequence[Run],
    outcome: common.CallResult,
    kept: Kept,
    *,
    is_culprit: bool,
) -> None:
    """Raise a Finding unless the outcome of one item is what the database has."""
    told = f"{common.OutcomeCode.Name(outcome.code)} {outcome.reason} {outcome.message[:200]!r}"
    facts = f"answered {told}, the database has {kept}, the runs were {list(runs)}"
    before = STATES[TRY] if program.follows_try else None
    legal = program.must_succeed(dialect)
    if outcome.code == SUCCEEDED:
        if kept.state != STATES[program.operation]:
            raise finding("succeeded without a barrier row", program, facts)
        if not any(kept.rows == run.rows and run.returned for run in runs):
            raise finding("succeeded with other writes than one run's", program, facts)
        if is_culprit and not program.may_succeed():
            raise finding("succeeded with an ending that must fail", program, facts)
        if any(kept.rows == run.rows and run.left_open for run in runs):
            raise finding("succeeded with an open savepoint", program, facts)
    elif outcome.code == REJECTED:
        if not (is_culprit and program.may_reject):
            raise finding("rejected without being asked to", program, facts)
        if kept.state is not None or kept.rows:
            raise finding("rejected and kept something", program, facts)
    elif outcome.code == FAILED:
        if kept.state != before or kept.rows:
            raise finding("failed and kept something", program, facts)
        if legal:
            raise finding("a legal handler failed", program, facts)
        if not is_culprit:
            raise finding("a healthy item failed", program, facts)
    else:
        raise finding("no outcome", program, facts)


def judge_repetition(program: Program, first: common.CallResult, second: common.CallResult) -> None:
    """Raise a Finding unless a repetition says the same of what was done."""
    if first.code != SUCCEEDED:
        return
    if second.code != SUCCEEDED or (program.operation == TRY and second.result != first.result):
        raise finding("another answer at the second time", program, f"{first} and then {second}")
