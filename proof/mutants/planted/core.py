"""Bugs of the state machine: durable before sent, the decision, the operator commands."""

from functools import partial

from proof.mutants.mutant import Mutant, explore, selection

_core = partial(
    Mutant,
    check=selection(
        "tests/core/test_machine.py",
        "tests/core/test_table.py",
        "tests/core/test_known_bugs_of_other_coordinators.py",
    ),
)
_command = partial(Mutant, check=selection("tests/core/test_operator_commands.py"))

MUTANTS = (
    Mutant(
        name="decision written after the calls leave",
        breaks="a decision is durable before the first phase-two call leaves",
        definition="_decide",
        old="""
return _save(replace(tx, state=state, branches=branches, stuck=False, wake_at=NEVER))
""",
        new="""
tx = replace(tx, state=state, branches=branches, stuck=False, wake_at=NEVER)
tx, calls = _go_on_with_phase_two(tx)
tx, saves = _save(tx)
return tx, calls + saves
""",
        check=explore("one branch, no faults"),
    ),
    _core(
        name="Try sent before its branch is written",
        breaks="every branch is durable before its Try leaves",
        definition="_call_tries",
        old="tx.branches[: tx.saved_branches]",
        new="tx.branches",
    ),
    _core(
        name="CONFIRM before every Try has answered",
        breaks="CONFIRM is decided only when every Try has succeeded",
        definition="_go_on_trying",
        old="not stages",
        new="len(stages) < len(tx.branches)",
    ),
    _core(
        name="rejected Try confirmed",
        breaks="a rejected Try decides CANCEL",
        definition="_on_try_answered",
        old="_on_try_refused(tx, event.index, answer, TryState.REJECTED, Trigger.TRY_REJECTED)",
        new="_on_try_succeeded(tx, event.index, answer, now)",
    ),
    _core(
        name="CONFIRM past the expiry",
        breaks="nothing is confirmed after its expiry",
        definition="_go_on_trying",
        old="now >= tx.expires_at",
        new="now >= tx.expires_at and not tx.branches",
    ),
    _core(
        name="refused because of a decision that a crash may lose",
        breaks="a decision is reported only when it is durable",
        definition="_refuse_other_decision",
        old="not _is_decision_durable(tx)",
        new="False",
    ),
    _core(
        name="stale answer accepted",
        breaks="an answer counts only while that call is under way",
        definition="is_calling",
        old="tx.branches[index].calling is operation",
        new="True",
    ),
    _core(
        name="failed Confirm counts as done",
        breaks="every branch gets the decision",
        definition="_on_phase_two_answered",
        old="event.answer.code is _SUCCEEDED",
        new="event.answer.code is _SUCCEEDED or event.answer.permanent",
    ),
    _core(
        name="two writes of one transaction at once",
        breaks="at most one write is in flight",
        definition="_save",
        old="tx.saving",
        new="False",
    ),
    _command(
        name="held transaction moved by its initiator",
        breaks="while an operator holds a transaction, no initiator moves it",
        definition="_refuse_if_held",
        old="tx.held",
        new="tx.held and tx.state.decided",
    ),
    _command(
        name="one resolved branch ends the whole transaction",
        breaks="`resolve` ends one branch",
        definition="_resolve_branch",
        old="all(branch.done for branch in tx.branches)",
        new="any(branch.done for branch in tx.branches)",
    ),
    _command(
        name="heuristic outcome not recorded",
        breaks="mixed outcomes are reported, never hidden",
        definition="_resolved",
        old="event.outcome",
        new="None",
    ),
)
