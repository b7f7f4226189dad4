"""The judge of histories: clean ones pass; each promise has forged histories that break it and no other."""

from collections.abc import Callable, Iterable

import pytest

from proof.history.checker import MalformedHistoryError, Property, violations
from proof.history.events import (
    LOG,
    AnyEvent,
    Call,
    Decided,
    Decision,
    Effect,
    Fault,
    Final,
    History,
    Kind,
    Operation,
    Registered,
    Reply,
    ReplyOutcome,
    Request,
    Settled,
    StockTotals,
    TransactionState,
    Verb,
)

TRY, CONFIRM, CANCEL, CHECK = Operation
BRANCHES = ("stock", "coupon")
QUANTITY = {"stock": 3, "coupon": 1}


class Script:
    """Writes a history, one event a tick."""

    def __init__(self) -> None:
        self.history: History = []
        self._requests = 0

    def say(self, event: Callable[..., AnyEvent], /, **fields: object) -> None:
        self.history.append(event(at=float(len(self.history)), **fields))

    def ask(
        self,
        outcome: ReplyOutcome,
        verb: Verb = Verb.EXECUTE,
        *,
        gid: str = "g",
        branch_id: str = "",
        digest: str = "d",
        completed: bool = False,
        reason: str = "",
    ) -> None:
        """A request with its reply."""
        self.request(verb, gid=gid, branch_id=branch_id, digest=digest)
        self.reply(outcome, gid=gid, completed=completed, reason=reason)

    def request(
        self, verb: Verb = Verb.EXECUTE, *, gid: str = "g", branch_id: str = "", digest: str = "d"
    ) -> None:
        self._requests += 1
        self.say(
            Request,
            request=f"r{self._requests}",
            initiator="shop",
            verb=verb,
            gid=gid,
            branch_id=branch_id,
            digest=digest,
        )

    def reply(
        self, outcome: ReplyOutcome, *, gid: str = "g", completed: bool = False, reason: str = ""
    ) -> None:
        """To the latest request."""
        self.say(
            Reply, request=f"r{self._requests}", gid=gid, outcome=outcome, completed=completed, reason=reason
        )

    def register(self, *branch_ids: str) -> None:
        self.say(Registered, gid="g", branch_ids=branch_ids)

    def decide(self, decision: Decision, observer: str = LOG) -> None:
        self.say(Decided, gid="g", decision=decision, observer=observer)

    def call(self, operation: Operation, branch_id: str) -> None:
        self.say(Call, gid="g", branch_id=branch_id, participant=f"{branch_id}-service", operation=operation)

    def effect(
        self, operation: Operation, branch_id: str, *, quantity: int | None = None, tombstone: bool = False
    ) -> None:
        self.say(
            Effect,
            gid="g",
            branch_id=branch_id,
            participant=f"{branch_id}-service",
            operation=operation,
            quantity=(0 if tombstone else QUANTITY[branch_id]) if quantity is None else quantity,
            tombstone=tombstone,
        )

    def run(self, operation: Operation, branch_id: str) -> None:
        """A call with its effect."""
        self.call(operation, branch_id)
        self.effect(operation, branch_id)

    def end(self, state: TransactionState, branch_ids: tuple[str, ...] = BRANCHES) -> None:
        self.say(Settled)
        self.say(Final, gid="g", state=state, branch_ids=branch_ids)


def confirmed(*, until: Operation | None = None) -> Script:
    """A transaction that goes well: to its end, or until all branches had this operation."""
    script = Script()
    script.request()
    script.register(*BRANCHES)
    for branch_id in BRANCHES:
        script.run(TRY, branch_id)
    if until is TRY:
        return script
    script.decide(Decision.CONFIRM)
    script.decide(Decision.CONFIRM, "coordinator 1")
    for branch_id in BRANCHES:
        script.run(CONFIRM, branch_id)
    if until is CONFIRM:
        return script
    script.reply(ReplyOutcome.CONFIRMED, completed=True)
    script.end(TransactionState.CONFIRMED)
    for branch_id in BRANCHES:
        books(script, branch_id, taken=QUANTITY[branch_id])
    return script


def cancelled() -> Script:
    """One branch is tried and cancelled; the other's Cancel is empty, and its late Try is refused."""
    script = Script()
    script.request()
    script.register(*BRANCHES)
    script.run(TRY, "stock")
    script.decide(Decision.CANCEL)
    script.reply(ReplyOutcome.CANCELLED)
    script.run(CANCEL, "stock")
    script.call(CANCEL, "coupon")
    script.effect(CANCEL, "coupon", tombstone=True)
    script.call(TRY, "coupon")
    script.end(TransactionState.CANCELLED)
    for branch_id in BRANCHES:
        books(script, branch_id)
    return script


def books(
    script: Script, branch_id: str, *, available: int | None = None, reserved: int = 0, taken: int = 0
) -> None:
    script.say(
        StockTotals,
        participant=f"{branch_id}-service",
        initial=10,
        available=10 - reserved - taken if available is None else available,
        reserved=reserved,
        taken=taken,
    )


def without(history: Iterable[AnyEvent], kind: type[AnyEvent], **fields: object) -> History:
    """The history without the events of this kind with these fields; there has to be one."""
    kept = [
        event
        for event in history
        if not (
            isinstance(event, kind) and all(getattr(event, key) == value for key, value in fields.items())
        )
    ]
    assert len(kept) < len(list(history)), "there was no such event"
    return kept


def broken(history: History) -> set[Property]:
    return {violation.property for violation in violations(history)}


# --- clean histories -----------------------------------------------------------


@pytest.mark.parametrize("script", [confirmed(), cancelled()], ids=["confirmed", "cancelled"])
def test_a_clean_history_breaks_nothing(script: Script) -> None:
    assert violations(script.history) == []


def test_duplicates_that_the_barrier_answers_are_fine() -> None:
    script = confirmed(until=CONFIRM)
    script.call(CONFIRM, "stock")
    script.call(TRY, "coupon")
    script.reply(ReplyOutcome.CONFIRMED, completed=True)
    script.ask(ReplyOutcome.CONFIRMED)
    script.end(TransactionState.CONFIRMED)
    assert violations(script.history) == []


def test_faults_and_unknown_answers_are_no_violations() -> None:
    script = Script()
    script.ask(ReplyOutcome.UNKNOWN)
    script.say(Fault, kind="kill", target="coordinator 1")
    script.ask(ReplyOutcome.REFUSED, reason="DRAINING")
    script.end(TransactionState.CANCELLED)
    assert violations(script.history) == []


def test_a_request_that_was_never_acknowledged_may_be_gone() -> None:
    script = Script()
    script.ask(ReplyOutcome.UNKNOWN)
    script.say(Settled)
    assert violations(script.history) == []


def test_what_has_not_ended_yet_is_no_violation_before_the_end() -> None:
    script = confirmed(until=TRY)
    script.say(Final, gid="g", state=TransactionState.TRYING, branch_ids=BRANCHES)
    assert violations(script.history) == []


def test_different_branches_may_be_asked_for_with_different_content() -> None:
    script = Script()
    script.ask(ReplyOutcome.ACCEPTED, Verb.BEGIN)
    for branch_id in BRANCHES:
        script.register(branch_id)
        script.request(Verb.TRY_BRANCH, branch_id=branch_id, digest=branch_id)
        script.run(TRY, branch_id)
        script.reply(ReplyOutcome.TRIED)
    assert violations(script.history) == []


def test_branches_that_join_after_the_cancel_all_get_it() -> None:
    script = cancelled()
    for digest in ("one", "two"):
        script.ask(ReplyOutcome.CANCELLED, Verb.TRY_BRANCH, branch_id="late", digest=digest)
    assert violations(script.history) == []


def test_other_content_may_be_refused() -> None:
    script = confirmed()
    script.ask(ReplyOutcome.REFUSED, digest="other", reason="GID_CONFLICT")
    assert violations(script.history) == []


# --- one decision, durable before anything follows from it -------------------------


def test_a_branch_that_gets_the_other_decision_is_found() -> None:
    script = confirmed(until=TRY)
    script.decide(Decision.CONFIRM)
    script.run(CONFIRM, "stock")
    script.run(CANCEL, "coupon")
    assert broken(script.history) == {Property.AGREEMENT}


def test_a_call_with_the_other_decision_is_found_without_an_effect() -> None:
    script = cancelled()
    script.call(CONFIRM, "coupon")
    assert broken(script.history) == {Property.AGREEMENT}


def test_a_decision_that_changes_is_found() -> None:
    script = confirmed(until=TRY)
    script.decide(Decision.CONFIRM)
    script.decide(Decision.CANCEL)
    assert broken(script.history) == {Property.AGREEMENT}


def test_an_observer_that_saw_another_decision_is_found() -> None:
    script = confirmed(until=CONFIRM)
    script.decide(Decision.CANCEL, "coordinator 2")
    assert broken(script.history) == {Property.AGREEMENT}


def test_an_end_that_is_not_the_decision_is_found() -> None:
    script = confirmed(until=TRY)
    script.decide(Decision.CONFIRM)
    script.say(Final, gid="g", state=TransactionState.CANCELLING, branch_ids=BRANCHES)
    assert broken(script.history) == {Property.AGREEMENT}


@pytest.mark.parametrize("deed", ["call", "effect"])
def test_phase_two_before_the_decision_is_durable_is_found(deed: str) -> None:
    script = confirmed(until=TRY)
    getattr(script, deed)(CONFIRM, "stock")
    script.decide(Decision.CONFIRM)
    assert broken(script.history) == {Property.DECISION_FIRST}


def test_phase_two_without_a_decision_is_found() -> None:
    history = without(confirmed(until=CONFIRM).history, Decided)
    assert broken(history) == {Property.DECISION_FIRST}


def test_telling_a_decision_before_it_is_durable_is_found() -> None:
    script = confirmed(until=TRY)
    script.reply(ReplyOutcome.CONFIRMED)
    script.decide(Decision.CONFIRM)
    assert broken(script.history) == {Property.DECISION_FIRST}


def test_an_observer_that_saw_a_decision_too_early_is_found() -> None:
    script = confirmed(until=TRY)
    script.decide(Decision.CONFIRM, "coordinator 1")
    script.decide(Decision.CONFIRM)
    assert broken(script.history) == {Property.DECISION_FIRST}


# --- branches --------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["call", "effect"])
def test_a_try_before_its_branch_is_durable_is_found(deed: str) -> None:
    script = Script()
    script.register("stock")
    getattr(script, deed)(TRY, "coupon")
    script.register("coupon")
    assert broken(script.history) == {Property.REGISTERED_FIRST}


def test_a_branch_that_joins_after_the_decision_is_found() -> None:
    script = Script()
    script.register("stock")
    script.decide(Decision.CANCEL)
    script.register("stock", "coupon")
    assert broken(script.history) == {Property.REGISTERED_FIRST}


def ownership(*, asked_by: str = "red", verb: Verb = Verb.EXECUTE, asked_late: bool = False) -> History:
    """A transaction of the tenant red, and a request of a tenant for its branches."""
    script = Script()
    script.request(Verb.BEGIN)
    registered = {"gid": "g", "branch_ids": ("stock",), "tenant": "red"}
    if asked_late:
        script.say(Registered, **registered)
    script.say(
        Request, request="other", initiator="i", verb=verb, gid="g", tenant=asked_by,
        branch_id="" if verb is Verb.EXECUTE else "stock",
        branch_ids=("stock", "coupon") if verb is Verb.EXECUTE else (),
    )  # fmt: skip
    if not asked_late:
        script.say(Registered, **registered)
    return script.history


@pytest.mark.parametrize("verb", [Verb.EXECUTE, Verb.TRY_BRANCH, Verb.REGISTER_BRANCH])
def test_a_branch_that_another_tenant_asked_for_is_found(verb: Verb) -> None:
    assert broken(ownership(asked_by="blue", verb=verb)) == {Property.OWNERSHIP}
    assert broken(ownership(asked_by="", verb=verb)) == {Property.OWNERSHIP}
    assert violations(ownership(verb=verb)) == []


def test_a_branch_that_is_durable_before_it_was_asked_for_is_found() -> None:
    assert broken(ownership(asked_late=True)) == {Property.OWNERSHIP}


def test_a_history_without_registrations_is_no_violation() -> None:
    assert violations(without(confirmed().history, Registered)) == []


def test_confirm_while_a_try_is_open_is_found() -> None:
    script = Script()
    script.register(*BRANCHES)
    script.run(TRY, "stock")
    script.decide(Decision.CONFIRM)
    script.run(TRY, "coupon")
    assert broken(script.history) == {Property.EVERY_TRY_FIRST}


# --- effects -----------------------------------------------------------------------


@pytest.mark.parametrize("operation", [TRY, CONFIRM])
def test_an_effect_that_happens_twice_is_found(operation: Operation) -> None:
    script = confirmed(until=operation)
    script.effect(operation, "stock")
    assert broken(script.history) == {Property.AT_MOST_ONCE}


def test_a_cancel_that_happens_twice_is_found() -> None:
    script = cancelled()
    script.effect(CANCEL, "stock")
    assert Property.AT_MOST_ONCE in broken(script.history)


def test_a_confirm_of_what_was_not_tried_is_found() -> None:
    script = Script()
    script.decide(Decision.CONFIRM)
    script.effect(CONFIRM, "stock", quantity=0)
    assert broken(script.history) == {Property.CONFIRM_WITHOUT_TRY}


def test_a_try_after_its_cancel_is_found() -> None:
    script = Script()
    script.decide(Decision.CANCEL)
    script.effect(CANCEL, "stock", quantity=0)
    script.effect(TRY, "stock", quantity=0)
    assert broken(script.history) == {Property.LATE_TRY}


def test_a_try_beside_a_tombstone_is_found() -> None:
    """Even where the clocks that stamped them disagree: there was no Try when the tombstone was written."""
    script = Script()
    script.decide(Decision.CANCEL)
    script.effect(TRY, "stock")
    script.effect(CANCEL, "stock", tombstone=True)
    assert broken(script.history) == {Property.LATE_TRY}


# --- conservation --------------------------------------------------------------------


def test_a_confirm_that_takes_more_than_was_reserved_is_found() -> None:
    script = confirmed(until=TRY)
    script.decide(Decision.CONFIRM)
    script.effect(CONFIRM, "stock", quantity=QUANTITY["stock"] + 1)
    assert broken(script.history) == {Property.CONSERVATION}


def test_a_cancel_that_gives_back_what_was_never_reserved_is_found() -> None:
    script = Script()
    script.decide(Decision.CANCEL)
    script.effect(CANCEL, "stock")
    assert broken(script.history) == {Property.CONSERVATION}


def test_an_empty_cancel_that_gives_something_back_is_found() -> None:
    script = Script()
    script.decide(Decision.CANCEL)
    script.effect(CANCEL, "stock", quantity=1, tombstone=True)
    assert broken(script.history) == {Property.CONSERVATION}


@pytest.mark.parametrize(
    "wrong",
    [
        {"available": 8, "taken": 3},
        {"available": 4, "reserved": 3, "taken": 3},
        {"available": 8, "taken": 2},
        {"available": -1, "reserved": 8, "taken": 3},
    ],
    ids=["a unit appears", "a reservation is left", "less is taken", "more is sold than there was"],
)
def test_totals_that_do_not_add_up_are_found(wrong: dict[str, int]) -> None:
    script = confirmed(until=CONFIRM)
    books(script, "stock", **wrong)
    assert broken(script.history) == {Property.CONSERVATION}


# --- initiators ----------------------------------------------------------------------


def test_a_repeat_that_gets_another_outcome_is_found() -> None:
    script = confirmed()
    script.ask(ReplyOutcome.CANCELLED)
    assert broken(script.history) == {Property.REPEAT_SAFETY, Property.HONEST_ANSWER}


def test_other_content_that_is_accepted_is_found() -> None:
    script = confirmed()
    script.ask(ReplyOutcome.CONFIRMED, digest="other")
    assert broken(script.history) == {Property.REPEAT_SAFETY}


def test_other_content_of_a_branch_that_is_accepted_is_found() -> None:
    script = confirmed(until=TRY)
    for digest in ("one", "two"):
        script.ask(ReplyOutcome.TRIED, Verb.TRY_BRANCH, branch_id="stock", digest=digest)
    assert broken(script.history) == {Property.REPEAT_SAFETY}


def test_content_in_the_log_that_is_not_what_was_accepted_is_found() -> None:
    script = confirmed(until=CONFIRM)
    script.reply(ReplyOutcome.CONFIRMED)
    script.say(Final, gid="g", state=TransactionState.CONFIRMED, branch_ids=BRANCHES, digest="other")
    assert broken(script.history) == {Property.REPEAT_SAFETY}


def test_the_same_content_that_is_refused_as_different_is_found() -> None:
    script = confirmed()
    script.ask(ReplyOutcome.REFUSED, reason="GID_CONFLICT")
    assert broken(script.history) == {Property.REPEAT_SAFETY}


def test_an_answer_that_differs_from_the_log_is_found() -> None:
    script = cancelled()
    history = without(script.history, Reply)
    script.history = history
    script.reply(ReplyOutcome.CONFIRMED)
    assert broken(script.history) == {Property.HONEST_ANSWER}


def test_an_answer_that_a_branch_was_tried_without_an_effect_is_found() -> None:
    script = Script()
    script.ask(ReplyOutcome.TRIED, Verb.TRY_BRANCH, branch_id="stock")
    assert broken(script.history) == {Property.HONEST_ANSWER}


def test_an_answer_that_all_is_done_too_early_is_found() -> None:
    script = confirmed(until=TRY)
    script.decide(Decision.CONFIRM)
    script.run(CONFIRM, "stock")
    script.reply(ReplyOutcome.CONFIRMED, completed=True)
    script.run(CONFIRM, "coupon")
    script.end(TransactionState.CONFIRMED)
    assert broken(script.history) == {Property.HONEST_ANSWER}


# --- the end -------------------------------------------------------------------------


@pytest.mark.parametrize("state", [TransactionState.TRYING, TransactionState.CANCELLING])
def test_what_never_ends_is_found(state: TransactionState) -> None:
    script = Script()
    script.register(*BRANCHES)
    if state is TransactionState.CANCELLING:
        script.decide(Decision.CANCEL)
    script.end(state)
    assert broken(script.history) == {Property.SETTLEMENT}


def test_what_was_acknowledged_and_is_lost_is_found() -> None:
    script = Script()
    script.ask(ReplyOutcome.ACCEPTED)
    script.say(Settled)
    assert broken(script.history) == {Property.SETTLEMENT}


def test_a_branch_that_never_got_its_confirm_is_found() -> None:
    history = without(confirmed().history, Effect, operation=CONFIRM, branch_id="coupon")
    history = without(without(history, StockTotals), Reply)
    assert broken(history) == {Property.SETTLEMENT}


def test_a_reservation_that_is_never_cancelled_is_found() -> None:
    history = without(cancelled().history, Effect, operation=CANCEL, branch_id="stock")
    assert broken(without(history, StockTotals)) == {Property.SETTLEMENT}


def test_orphans_are_found() -> None:
    script = Script()
    script.effect(TRY, "stock")
    script.say(Settled)
    assert broken(script.history) == {Property.SETTLEMENT}


def test_a_branch_that_the_log_does_not_know_is_found() -> None:
    script = cancelled()
    script.effect(CANCEL, "gift", tombstone=True)
    assert broken(script.history) == {Property.SETTLEMENT}


# --- histories that cannot be judged, and how a violation reads --------------------------


@pytest.mark.parametrize("times", [0, 2], ids=["to no request", "a second one"])
def test_a_reply_too_many_is_malformed(times: int) -> None:
    script = Script()
    if times:
        script.request()
        script.reply(ReplyOutcome.UNKNOWN)
    script.reply(ReplyOutcome.UNKNOWN)
    with pytest.raises(MalformedHistoryError, match="a reply too many"):
        violations(script.history)


def test_a_violation_names_its_events() -> None:
    script = confirmed(until=TRY)
    script.effect(TRY, "stock")
    (violation,) = violations(script.history)
    assert [script.history[i].branch_id for i in violation.positions] == ["stock", "stock"]
    assert str(violation).startswith("AT_MOST_ONCE g: TRY of stock took effect 2 times")


# --- kinds ---------------------------------------------------------------------


def of_kind(kind: Kind) -> Script:
    """A transaction of one branch of this kind, before anything is called."""
    script = Script()
    script.request()
    script.say(Registered, gid="g", branch_ids=("stock",), kinds=(kind,))
    return script


def broken_by(script: Script) -> set[Property]:
    return {violation.property for violation in violations(script.history)}


def test_a_message_that_follows_confirm_breaks_nothing() -> None:
    script = of_kind(Kind.MESSAGE)
    script.decide(Decision.CONFIRM)
    script.call(CONFIRM, "stock")
    script.effect(CONFIRM, "stock", quantity=0)
    assert broken_by(script) == set()


def test_a_message_before_or_without_confirm_is_found() -> None:
    early = of_kind(Kind.MESSAGE)
    early.call(CONFIRM, "stock")
    early.effect(CONFIRM, "stock", quantity=0)
    assert Property.DECISION_FIRST in broken_by(early)
    tried = of_kind(Kind.MESSAGE)
    tried.call(TRY, "stock")
    assert broken_by(tried) == {Property.KINDS}


def test_a_saga_that_is_confirmed_by_a_call_is_found() -> None:
    script = of_kind(Kind.SAGA)
    script.run(TRY, "stock")
    script.decide(Decision.CONFIRM)
    assert broken_by(script) == set()
    script.call(CONFIRM, "stock")
    assert broken_by(script) == {Property.KINDS}


def test_a_saga_compensated_twice_or_not_at_all_is_found() -> None:
    script = of_kind(Kind.SAGA)
    script.run(TRY, "stock")
    script.decide(Decision.CANCEL)
    script.end(TransactionState.CANCELLED, ("stock",))
    assert broken_by(script) == {Property.SETTLEMENT}
    script = of_kind(Kind.SAGA)
    script.run(TRY, "stock")
    script.decide(Decision.CANCEL)
    script.run(CANCEL, "stock")
    script.run(CANCEL, "stock")
    assert Property.AT_MOST_ONCE in broken_by(script)


def test_a_local_commit_under_cancel_is_found() -> None:
    script = of_kind(Kind.LOCAL)
    script.effect(TRY, "stock", quantity=0)
    script.decide(Decision.CANCEL)
    assert broken_by(script) == {Property.LOCAL_COMMIT}


def test_confirm_without_the_local_commit_is_found() -> None:
    script = of_kind(Kind.LOCAL)
    script.call(CHECK, "stock")
    script.decide(Decision.CONFIRM)
    assert broken_by(script) == {Property.EVERY_TRY_FIRST}
