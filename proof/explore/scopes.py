"""The scopes that are explored: small ones by default, large ones on request."""

from coordinator.core.model import BranchKind
from proof.explore.moments import SOON
from proof.explore.scope import Scope, branch

A, B, C = branch("a"), branch("b"), branch("c")
# Its Try is called by the initiator, who vouches for it by asking for CONFIRM.
BY_INITIATOR = branch("i", tried_by_initiator=True)
SAGA, LATER_SAGA = branch("s", kind=BranchKind.SAGA), branch("t", kind=BranchKind.SAGA, stage=1)
MESSAGE = branch("m", kind=BranchKind.MESSAGE)
LATER_MESSAGE = branch("n", kind=BranchKind.MESSAGE, not_before=SOON)
LOCAL = branch("l", kind=BranchKind.SAGA, tried_by_initiator=True, check_back=True)
STAGES = (branch("a", cancel_in_stage_order=True), B, branch("c", stage=1))

# The largest first: each is visited by one process.
SMALL = (
    Scope(name="two branches", branches=(A, B)),
    Scope(
        name="one branch, every oddity",
        branches=(A,),
        faults_max=2,
        may_reject=(0,),
        attempts_before_stuck=2,
        contents=2,
        repeats=True,
        slow_claims=True,
        stale_answers=True,
        releases=True,
        clocks_apart=True,
        purges=True,
    ),
    Scope(name="step by step", branches=(A, BY_INITIATOR), interactive=True, faults_max=1),
    Scope(name="two transactions for one unit", branches=(A,), transactions=2, stock=1, faults_max=1),
    Scope(
        name="two branches, whose owner keeps them",
        branches=(A, B),
        may_reject=(0,),
        live_owners_lose=False,
        due_apart=True,
    ),
    Scope(name="one branch", branches=(A,), may_reject=(0,), releases=True, purges=True),
    Scope(name="three branches in two stages", branches=STAGES, may_reject=(2,), faults_max=1),
    Scope(name="a saga beside TCC", branches=(A, SAGA), may_reject=(0, 1), faults_max=1),
    Scope(name="a message beside TCC", branches=(A, LATER_MESSAGE), may_reject=(0,), faults_max=2),
    Scope(
        name="sagas in two stages and a message",
        branches=(SAGA, LATER_SAGA, MESSAGE),
        may_reject=(1,),
        faults_max=1,
    ),
    Scope(name="one saga", branches=(SAGA,), may_reject=(0,), releases=True),
    # Without purges: once its row is gone, nothing keeps a message from being delivered again.
    Scope(name="a message alone", branches=(LATER_MESSAGE,), repeats=True, releases=True),
    Scope(name="local first", branches=(A, MESSAGE, LOCAL), interactive=True, faults_max=1),
    Scope(name="a message with the confirm", branches=(A, MESSAGE), interactive=True, faults_max=1),
    Scope(name="one branch, no faults", branches=(A,), faults_max=0),
)

LARGE = (
    Scope(name="two branches, one of which may say no", branches=(A, B), may_reject=(0,), releases=True),
    Scope(
        name="step by step, with repeats",
        branches=(A, BY_INITIATOR),
        interactive=True,
        repeats=True,
        faults_max=2,
    ),
    Scope(name="two transactions of two branches", branches=(A, B), transactions=2, stock=1, faults_max=1),
    Scope(name="three branches in two stages, more faults", branches=STAGES, may_reject=(2,), faults_max=2),
    Scope(name="three branches", branches=(A, B, C), faults_max=1),
    Scope(name="local first, more faults", branches=(A, MESSAGE, LOCAL), interactive=True, faults_max=2),
    Scope(
        name="local first, with a Try of the initiator",
        branches=(BY_INITIATOR, LOCAL),
        interactive=True,
        releases=True,
        faults_max=2,
    ),
)
