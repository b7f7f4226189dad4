"""Bugs of reconciliation: what would mend what is well, or miss what is not."""

from functools import partial

from proof.mutants.mutant import Mutant, selection

_CELLS = "tests/core/test_reconciliation.py"
_ADMIN = "tests/api/operator/test_reconciliation.py"
_JOB = "tests/jobs/test_reconcile.py"
_BOOKS = "tests/barrier/test_listing.py"
_compare = partial(Mutant, file="coordinator/core/reconciliation.py", check=selection(_CELLS))
_reconciler = partial(Mutant, file="coordinator/engine/reconciler.py")

MUTANTS = (
    _compare(
        name="reservation of a live transaction taken for a leak",
        breaks="what lives is left alone",
        old="if branch.done else None",
        new="if branch.spec else None",
    ),
    _compare(
        name="forgotten transaction taken for one that never was",
        breaks="what may have been confirmed is not proposed to be cancelled",
        old="if row.age_s < retention_s:",
        new="if row.age_s >= 0:",
    ),
    _compare(
        name="another participant's row in the same database taken for an orphan",
        breaks="only what nobody will end is an orphan",
        old="if branch is not None and branch.spec.participant != participant:",
        new="if branch is not None and branch.spec.participant is None:",
    ),
    _compare(
        name="what was done by hand proposed to be done again",
        breaks="an operator's word is not overruled",
        old="if branch.heuristic or decision is None:",
        new="if decision is None:",
    ),
    _reconciler(
        name="no second look at a participant's row",
        breaks="what changes while it is looked at is no finding",
        old="if states.get(finding.row.key) is finding.row.state]",
        new="if finding.row.key in states]",
        check=selection(f"{_ADMIN}::test_all_pages_are_read_and_what_changes_meanwhile_is_no_finding"),
    ),
    _reconciler(
        name="leak repaired against the decision",
        breaks="one decision per transaction",
        old="operation is None or operation not in finding.repairs",
        new="operation is None or not finding.repairs",
        check=selection(f"{_ADMIN}::test_a_leak_gets_what_was_decided_and_nothing_else"),
    ),
    _reconciler(
        name="paused participant called by a repair",
        breaks="nothing leaves while a participant is paused",
        old="        if dispatcher.paused:",
        new="        if dispatcher.paused and not dispatcher.paused:",
        check=selection(f"{_ADMIN}::test_nothing_is_called_while_a_participant_is_paused"),
    ),
    Mutant(
        name="every coordinator compares",
        breaks="what participants are asked does not grow with the coordinators",
        file="coordinator/jobs/reconcile.py",
        old="return alive[:1] == [self._owner]",
        new="return self._owner in alive",
        check=selection(f"{_JOB}::test_one_coordinator_looks_for_all_and_another_after_it"),
    ),
    Mutant(
        name="reservation ended by a handler that was told nothing",
        breaks="what a Try reserved its Cancel gives back",
        file="tcc/participant/work.py",
        old="if action.needs_request or call.payload",
        new="if call.payload",
        check=selection(f"{_BOOKS}::test_an_action_that_needs_the_request_is_not_called_without_it"),
    ),
    Mutant(
        name="rows between two pages lost",
        breaks="every open row is looked at",
        file="tcc/barrier/listing.py",
        old="if len(found) == asked.rows_max:",
        new="if len(found) > asked.rows_max:",
        check=selection(f"{_BOOKS}::test_rows_are_listed_by_state_in_pages[sqlite]"),
    ),
)
