"""Bugs of branch kinds and of check-back."""

from functools import partial

from proof.mutants.mutant import Mutant, explore, selection

_kind = partial(Mutant, check=selection("tests/core/test_kinds.py"))

MUTANTS = (
    _kind(
        name="message delivered before the decision",
        breaks="a MESSAGE is never delivered before or without CONFIRM",
        definition="new_branch",
        old="spec.kind is _TCC or needs_call(spec, Operation.TRY)",
        new="True",
    ),
    _kind(
        name="saga confirmed",
        breaks="nothing is called that a kind does not have",
        definition="CALLS",
        old="{BranchKind.SAGA: frozenset({Operation.TRY, Operation.CANCEL})}",
        new="{BranchKind.SAGA: frozenset({Operation.TRY, Operation.CONFIRM, Operation.CANCEL})}",
    ),
    _kind(
        name="saga not compensated",
        breaks="a SAGA that ran is compensated under CANCEL",
        definition="CALLS",
        old="{BranchKind.SAGA: frozenset({Operation.TRY, Operation.CANCEL})}",
        new="{BranchKind.SAGA: frozenset({Operation.TRY})}",
    ),
    _kind(
        name="compensation in any order",
        breaks="compensations run from the last stage to the first",
        definition="_waits_for_later_stage",
        old="spec.kind is _SAGA",
        new="False",
    ),
    _kind(
        name="message delivered before its time",
        breaks="a MESSAGE is not delivered before `not_before`",
        definition="_first_attempt_at",
        old="spec.not_before > now",
        new="False",
    ),
    _kind(
        name="local change while a Try is open",
        breaks="a check-back branch is registered when every other Try has succeeded",
        definition="_refuse_early_check_back",
        old="branch.tried is not TryState.SUCCEEDED",
        new="branch.tried is TryState.REJECTED",
    ),
    _kind(
        name="branch joins after the local change",
        breaks="a check-back branch closes the list of branches",
        definition="_with_branches",
        old="check_back_index(tx) is not None",
        new="False",
    ),
    _kind(
        name="local first: cancelled on a guess",
        breaks="a local commit if and only if CONFIRM",
        definition="_expire",
        old="index is not None",
        new="index is not None and tx.branches[index].attempts == 0",
    ),
    Mutant(
        name="local first: cancelled without the question",
        breaks="a local commit if and only if CONFIRM",
        definition="_request_cancel",
        old="check_back_index(tx) is None",
        new="True",
        check=explore("local first"),
    ),
    Mutant(
        name="asked about a branch that is not written",
        breaks="nothing is sent before it is durable",
        definition="_go_on_asking",
        old="index >= tx.saved_branches",
        new="False",
        check=explore("local first"),
    ),
)
