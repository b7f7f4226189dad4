"""Bugs of the log and of recovery: compare-and-set, taking over, unknown outcomes."""

from functools import partial

from proof.mutants.mutant import Mutant, Program, selection

_statement = partial(Mutant, check=selection("tests/log/test_store.py"))
# Fixed seeds, and those that have found bugs.
_simulated = partial(
    Mutant, check=Program(module="proof.simulate", arguments=("--seeds", "12", "--base", "1", "--jobs", "1"))
)

MUTANTS = (
    _statement(
        name="save without compare-and-set",
        breaks="a write names the version that it was computed from",
        definition="_save",
        old="t.version == new.c.version",
        new="true()",
    ),
    _statement(
        name="database lets a decision flip",
        breaks="a transaction has one decision, which never changes",
        definition="_save",
        old="is_valid_transition(new.c.state)",
        new="true()",
    ),
    _statement(
        name="taking without compare-and-set",
        breaks="a coordinator takes a transaction only in the version that it knows",
        definition="_take",
        old='t.version == number("version")',
        new='number("version") == number("version")',
    ),
    _statement(
        name="taking over leaves the version as it was",
        breaks="a former owner's write is refused",
        definition="_take_over",
        old="t.version + constant(1)",
        new="t.version",
    ),
    _statement(
        name="adoption from the living",
        breaks="only a dead coordinator's work is taken over",
        definition="_adopt",
        old="coordinators.c.lease_until <= func.now()",
        new="true()",
    ),
    Mutant(
        name="unknown commit of a save treated as failed",
        breaks="a commit whose outcome is unknown is read again, never guessed",
        definition="PostgresLog.transaction_save",
        old="is_saved(tx, stored[tx.gid], self._owner)",
        new="False",
        check=selection("tests/log/test_outcome_unknown.py"),
    ),
    _simulated(
        name="unavailable log ends the write",
        breaks="a write whose outcome is unknown is repeated until it is known",
        definition="LogWriter._until_known",
        old="health.log_failed(source, error)",
        new="health.log_failed(source, error); raise",
    ),
    _simulated(
        name="refused write counts as done",
        breaks="a transaction has one decision, whichever coordinator was paused",
        definition="Driver._on_saved",
        old="not was_written",
        new="not was_written and not tx.state.decided",
    ),
    _simulated(
        name="expiry never checked",
        breaks="a transaction past its expiry is cancelled",
        definition="Expire.run_once",
        old="self._engine.wake_due()",
        new="0",
    ),
    _simulated(
        name="adopted transactions are not resumed",
        breaks="another coordinator finishes the work of a dead one",
        definition="resume_in_chunks",
        old="engine.resume(records)",
        new="len(records)",
    ),
    _simulated(
        name="calls are dropped with their stream",
        breaks="a call without a result is repeated until it has one",
        definition="Stream._break",
        old="self._end(item_id, result, ready)",
        new="self._unanswered.pop(item_id)",
    ),
    Mutant(
        name="results of a stream are given to its last call",
        breaks="every call has the result that its participant gave to it",
        definition="Stream._read",
        old="self._unanswered.pop(each.id, None)",
        new="self._unanswered.popitem()[1] if self._unanswered else None",
        # The simulation finds it, too, but not in each of its first seeds.
        check=selection(
            "tests/participant_client/test_streams.py::test_results_in_another_order_and_of_unknown_ids"
        ),
    ),
    Mutant(
        name="branches of other tenants are let in",
        breaks="no transaction has a branch that its tenant did not ask for",
        definition="LiveTransactions.check_tenant",
        old="tx.tenant == tenant",
        new="True",
        # A seed in which tenants ask for branches in each other's transactions.
        check=Program(module="proof.simulate", arguments=("--seeds", "1", "--base", "8", "--jobs", "1")),
    ),
    Mutant(
        name="dead coordinators are searched for only once",
        breaks="another coordinator finishes the work of a dead one",
        definition="Adopt.run_once",
        old="now + self._settings.adopt_every_s",
        new='float("inf")',
        check=selection(
            "tests/jobs/test_interrupted.py::test_each_run_claims_the_work_left_since_the_previous_one[Adopt]"
        ),
    ),
)
