"""Bugs of the participant's side: the barrier and what surrounds it."""

from functools import partial

from proof.mutants.mutant import Mutant, selection

_BARRIER = "tests/barrier/test_barrier.py"
_barrier = partial(Mutant, file="tcc/barrier/plans.py")
_decisions = partial(
    _barrier, check=selection(f"{_BARRIER}::test_every_cell_of_the_decision_table[sqlite-single]")
)
_sql = partial(Mutant, file="tcc/barrier/sql.py")
_work = partial(Mutant, file="tcc/participant/work.py")
_OUTCOMES = "tests/participant/test_handler_outcomes.py"
_PURGE = (
    "tests/participant/test_participant.py::"
    "test_purge_takes_old_ended_rows_in_bounded_batches_and_nothing_else"
)

MUTANTS = (
    _decisions(
        name="late Try accepted",
        breaks="a Try that finds its tombstone is refused",
        file="tcc/barrier/decisions.py",
        old="(Operation.TRY, BarrierState.CANCELLED): BarrierDecision.LATE_TRY,",
        new="(Operation.TRY, BarrierState.CANCELLED): BarrierDecision.RUN,",
    ),
    _decisions(
        name="second Try executes again",
        breaks="a call's effect happens at most once",
        file="tcc/barrier/decisions.py",
        old="(Operation.TRY, BarrierState.TRIED): BarrierDecision.REPLAY,",
        new="(Operation.TRY, BarrierState.TRIED): BarrierDecision.RUN,",
    ),
    _decisions(
        name="second Confirm executes again",
        breaks="a call's effect happens at most once",
        file="tcc/barrier/decisions.py",
        old="(Operation.CONFIRM, BarrierState.CONFIRMED): BarrierDecision.DONE,",
        new="(Operation.CONFIRM, BarrierState.CONFIRMED): BarrierDecision.RUN,",
    ),
    _decisions(
        name="second Cancel executes again",
        breaks="a call's effect happens at most once",
        file="tcc/barrier/decisions.py",
        old="(Operation.CANCEL, BarrierState.CANCELLED): BarrierDecision.DONE,",
        new="(Operation.CANCEL, BarrierState.CANCELLED): BarrierDecision.RUN,",
    ),
    _decisions(
        name="Confirm without Try silently succeeds",
        breaks="a Confirm without a recorded Try is reported",
        file="tcc/barrier/decisions.py",
        old="(Operation.CONFIRM, None): BarrierDecision.NOT_TRIED,",
        new="(Operation.CONFIRM, None): BarrierDecision.DONE,",
    ),
    _decisions(
        name="empty cancel runs the handler",
        breaks="an empty cancel changes nothing",
        file="tcc/barrier/decisions.py",
        old="(Operation.CANCEL, None): BarrierDecision.EMPTY_CANCEL,",
        new="(Operation.CANCEL, None): BarrierDecision.RUN,",
    ),
    _decisions(
        name="Cancel of a confirmed branch hidden",
        breaks="mixed outcomes are reported, never hidden",
        file="tcc/barrier/decisions.py",
        old="(Operation.CANCEL, BarrierState.CONFIRMED): BarrierDecision.ALREADY_CONFIRMED,",
        new="(Operation.CANCEL, BarrierState.CONFIRMED): BarrierDecision.DONE,",
    ),
    _decisions(
        name="what is cancelled is not written down",
        breaks="what was done once is known for ever",
        old="        if moving:\n            yield from sql.move(",
        new="        if moving and operation is Operation.CONFIRM:\n            yield from sql.move(",
    ),
    _barrier(
        name="branch of another action not noticed",
        breaks="two callers who share a gid by mistake are told",
        old="        is_same = row.action == action and (",
        new="        is_same = (",
        check=selection(f"{_BARRIER}::test_same_branch_under_another_action_is_refused[sqlite-2]"),
    ),
    _barrier(
        name="other content of a branch not noticed",
        breaks="a gid that is used again with other content is refused",
        old="or row.digest == branch.digest",
        new="or row.digest != b''",
        check=selection(f"{_OUTCOMES}::test_branch_tried_with_other_content_is_a_conflict[sqlite]"),
    ),
    _barrier(
        name="rejected Try leaves its row",
        breaks="a Try that was rejected may be tried again, and its Cancel has nothing to give back",
        old="    if dropped:\n",
        new="    if dropped and not results:\n",
        check=selection(f"{_BARRIER}::test_rejected_items_of_a_batch_leave_no_row[sqlite]"),
    ),
    _barrier(
        name="results of single Trys are not kept",
        breaks="a repeated Try is answered what the first one was",
        old="    if results:\n",
        new="    if len(results) > 1:\n",
        check=selection(f"{_BARRIER}::test_every_cell_of_the_decision_table[sqlite-single]"),
    ),
    _barrier(
        name="answers of a batch in the order of their keys",
        breaks="each call of a batch gets its own answer",
        old="    decisions = _restore_order(judged, order)",
        new="    decisions = judged",
        check=selection(f"{_BARRIER}::test_mixed_batch_answers_each_item_by_the_law[sqlite-batch]"),
    ),
    _sql(
        name="expired Try accepted",
        breaks="a Try past its expiry is refused even when its tombstone is gone",
        old="expires_at_ms = 0 OR expires_at_ms > {_now_ms}",
        new="expires_at_ms >= 0",
        check=selection(f"{_BARRIER}::test_try_past_its_expiry_is_refused_and_leaves_no_row[postgresql]"),
    ),
    _sql(
        name="tombstone deleted too early",
        breaks="a tombstone stays until its transaction's expiry is long past",
        old="state <> 1 AND expires_at_ms < {now} - :margin_ms AND ",
        new="state <> 1 AND ",
        check=selection(f"{_PURGE}[sqlite]"),
    ),
    _sql(
        name="purge deletes what is still to be confirmed",
        breaks="a Confirm finds its Try, however late it comes",
        old='old = f"state <> 1 AND ',
        new='old = f"',
        check=selection(f"{_PURGE}[sqlite]"),
    ),
    _work(
        name="poison item takes its batch along",
        breaks="one poison item harms nobody",
        old="if len(batch) > 1 and not is_database_unavailable(error):",
        new="if len(batch) > 1_000 and not is_database_unavailable(error):",
        check=selection(f"{_BARRIER}::test_one_poison_item_harms_nobody_else_in_its_batch[sqlite]"),
    ),
    _work(
        name="one branch twice in a local transaction",
        breaks="a call's effect happens at most once",
        old="        if copies is not None:\n            copies.append(delivery)\n            return\n",
        new="",
        check=selection(f"{_BARRIER}::test_same_call_twice_in_one_batch_takes_effect_once[sqlite-batch]"),
    ),
    Mutant(
        name="answer before the local commit",
        breaks="what a participant has answered it has done",
        file="tcc/barrier/guarded_connection.py",
        old="        self._begun.commit()\n        self.close()",
        new="        self.close()",
        check=selection(f"{_BARRIER}::test_every_cell_of_the_decision_table[sqlite-async-single]"),
    ),
    Mutant(
        name="an aborted transaction is committed",
        breaks="SUCCEEDED means committed",
        file="tcc/barrier/guarded_connection.py",
        old="            _check_status(driver.info.transaction_status)",
        new="            _check_status(_IN_TRANSACTION)",
        check=selection(f"{_OUTCOMES}::test_swallowed_violation_fails_the_call[postgresql]"),
    ),
    Mutant(
        name="a sender of batches ends unnoticed",
        breaks="a participant that is half dead does not serve on",
        file="tcc/participant/supervision.py",
        old="        self.failed.set()",
        new="        return",
        check=selection(f"{_OUTCOMES}::test_serve_raises_when_a_background_task_has_ended"),
    ),
)
