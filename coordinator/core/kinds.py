"""The kinds of branches: which calls each has. No other place knows.

| kind | before the decision | CONFIRM | CANCEL |
|---|---|---|---|
| TCC | Try | Confirm | Cancel |
| SAGA | Try | | Cancel |
| MESSAGE | | Confirm | |

A branch that needs no call for the decision is done when the decision is made.
"""

from collections.abc import Mapping

from coordinator.core.model import Branch, BranchKind, BranchSpec, Operation, TryState

CALLS: Mapping[BranchKind, frozenset[Operation]] = {
    BranchKind.TCC: frozenset({Operation.TRY, Operation.CONFIRM, Operation.CANCEL}),
    BranchKind.SAGA: frozenset({Operation.TRY, Operation.CANCEL}),
    BranchKind.MESSAGE: frozenset({Operation.CONFIRM}),
}
# The initiator's local change is there or not: it can be asked, and nothing else.
CHECK_BACK_CALLS = frozenset({Operation.TRY, Operation.CHECK})

# Each branch is compared with it, and the members of an enumeration are slow to look up.
_TCC = BranchKind.TCC


def needs_call(spec: BranchSpec, operation: Operation) -> bool:
    """Return whether the branch needs this call, from the coordinator or, in case of a Try, the initiator."""
    return operation in (CHECK_BACK_CALLS if spec.check_back else CALLS[spec.kind])


def new_branch(spec: BranchSpec) -> Branch:
    """Return a branch that nothing has been called on yet."""
    if spec.kind is _TCC or needs_call(spec, Operation.TRY):
        return Branch(spec=spec)
    return Branch(spec=spec, tried=TryState.SUCCEEDED)
