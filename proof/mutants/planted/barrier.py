"""Bugs of a participant: each cell of the barrier's decision table, and what surrounds it."""

from proof.mutants.mutant import Mutant, selection

_BARRIER = "tests/barrier/test_barrier.py"
_EVERY_CELL = f"{_BARRIER}::test_every_cell_of_the_decision_table"
_OUTCOMES = "tests/participant/test_handler_outcomes.py"


def _cell(name: str, breaks: str, cell: str, decision: str, wrong: str) -> Mutant:
    operation, state = cell.split("/")
    row = "None" if state == "no row" else f"BarrierState.{state}"
    return Mutant(
        name=name,
        breaks=breaks,
        definition="TCC_DECISIONS",
        old=f"{{(Operation.{operation}, {row}): BarrierDecision.{decision}}}",
        new=f"{{(Operation.{operation}, {row}): BarrierDecision.{wrong}}}",
        check=selection(f"{_EVERY_CELL}[sqlite-single]"),
    )


_ONCE = "the effect of a call happens at most once"
_EFFECT = "SUCCEEDED means that the handler has run"
_MIXED = "mixed outcomes are reported, never hidden"

MUTANTS = (
    _cell("first Try refused", _EFFECT, "TRY/no row", "RUN", "EXPIRED"),
    _cell("second Try executes again", _ONCE, "TRY/TRIED", "REPLAY", "RUN"),
    _cell("Try after Confirm executes again", _ONCE, "TRY/CONFIRMED", "REPLAY", "RUN"),
    _cell("late Try accepted", "a Try that finds a tombstone is refused", "TRY/CANCELLED", "LATE_TRY", "RUN"),
    _cell(
        "Confirm without Try succeeds",
        "a Confirm without a Try is reported",
        "CONFIRM/no row",
        "NOT_TRIED",
        "DONE",
    ),
    _cell("Confirm runs no handler", _EFFECT, "CONFIRM/TRIED", "RUN", "DONE"),
    _cell("second Confirm executes again", _ONCE, "CONFIRM/CONFIRMED", "DONE", "RUN"),
    _cell("Confirm of a cancelled branch hidden", _MIXED, "CONFIRM/CANCELLED", "ALREADY_CANCELLED", "DONE"),
    _cell(
        "empty cancel runs the handler",
        "an empty cancel changes nothing",
        "CANCEL/no row",
        "EMPTY_CANCEL",
        "RUN",
    ),
    _cell("Cancel runs no handler", _EFFECT, "CANCEL/TRIED", "RUN", "DONE"),
    _cell("Cancel of a confirmed branch hidden", _MIXED, "CANCEL/CONFIRMED", "ALREADY_CONFIRMED", "DONE"),
    _cell("second Cancel executes again", _ONCE, "CANCEL/CANCELLED", "DONE", "RUN"),
    Mutant(
        name="Cancel is not recorded",
        breaks=_ONCE,
        definition="_admit",
        old="if moving:\n    yield from sql.move(moving, WRITES[operation])",
        new="if operation is Operation.CONFIRM:\n    yield from sql.move(moving, WRITES[operation])",
        check=selection(f"{_EVERY_CELL}[sqlite-single]"),
    ),
    Mutant(
        name="other content of a branch not noticed",
        breaks="a gid that is used again with other content is refused",
        definition="_decide",
        old="row.digest == branch.digest",
        new="row.digest != b''",
        check=selection(f"{_OUTCOMES}::test_branch_tried_with_other_content_is_a_conflict[sqlite]"),
    ),
    Mutant(
        name="one branch twice in a local transaction",
        breaks=_ONCE,
        definition="ParticipantWork._enqueue",
        old="if copies is not None:\n    copies.append(delivery)\n    return",
        new="",
        check=selection(f"{_BARRIER}::test_same_call_twice_in_one_batch_takes_effect_once[sqlite-batch]"),
    ),
    Mutant(
        name="answer before the local commit",
        breaks="a participant has done what it has answered",
        definition="GuardedConnection.finish",
        old="self._begun.commit()",
        new="",
        check=selection(f"{_EVERY_CELL}[sqlite-async-single]"),
    ),
    Mutant(
        name="an aborted transaction is committed",
        breaks="SUCCEEDED means committed",
        definition="GuardedConnection._check",
        old="driver.info.transaction_status",
        new="_IN_TRANSACTION",
        check=selection(f"{_OUTCOMES}::test_swallowed_violation_fails_the_call[postgresql-single-try]"),
    ),
    Mutant(
        name="a sender of batches ends unnoticed",
        breaks="a participant that is half dead stops serving",
        definition="TaskSupervisor._on_done",
        old="self.failed.set()",
        new="",
        check=selection(f"{_OUTCOMES}::test_serve_raises_when_a_background_task_has_ended"),
    ),
)
