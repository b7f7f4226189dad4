"""The judge: `violations(history)` says which guarantees of docs/GUARANTEES.md a history breaks.

It knows nothing of how the system works, only what was seen from outside. Each rule
is a function of its own over one transaction's `_Case`: what the history says of one
gid, each event with its position. A rule compares positions and never times, so it
is as right as the order of the history (see `events`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum

from msgspec import Struct, field

from proof.history.events import (
    LOG,
    AnyEvent,
    Call,
    Decided,
    Decision,
    Effect,
    Final,
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


class Property(Enum):
    """What is promised."""

    AGREEMENT = "log, calls and effects of all branches agree on one decision"
    DECISION_FIRST = "the decision is durable before phase two, and before any reply"
    REGISTERED_FIRST = "a branch is durable before its Try, and none joins after the decision"
    EVERY_TRY_FIRST = "CONFIRM is decided only after every branch's Try took effect"
    AT_MOST_ONCE = "an effect happens at most once per gid, branch and operation"
    CONFIRM_WITHOUT_TRY = "nothing is confirmed that was not tried"
    LATE_TRY = "no Try takes effect after its Cancel"
    CONSERVATION = "no unit appears or vanishes"
    REPEAT_SAFETY = "a repeated request gets the same answer; other content is refused"
    OWNERSHIP = "no transaction has a branch that its tenant did not ask for"
    HONEST_ANSWER = "the reply to an initiator agrees with log and effects"
    KINDS = "nothing is called that a kind does not have, and nothing of it takes effect"
    LOCAL_COMMIT = "the local change is committed if and only if CONFIRM is decided"
    SETTLEMENT = "in the end everything acknowledged is decided, and every branch got the decision"


class Violation(Struct, frozen=True):
    """A broken promise. `positions`: the events that show it, as indices into the history."""

    property: Property
    # Empty where it concerns a participant's books.
    gid: str
    what: str
    positions: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = f" (events {', '.join(map(str, self.positions))})" if self.positions else ""
        return f"{self.property.name} {self.gid or '-'}: {self.what}{where}"


class MalformedHistoryError(ValueError):
    """The history contradicts itself; its recorder is wrong, and nothing can be judged."""


def violations(history: Sequence[AnyEvent]) -> list[Violation]:
    """Everything that `history` broke, by transaction; an empty list is a clean run.

    Raises:
        MalformedHistoryError: a reply to no request, or a second one.
    """
    cases = _cases(history)
    settled = any(isinstance(event, Settled) for event in history)
    found = [violation for case in cases.values() for rule in _RULES for violation in rule(case)]
    if settled:
        found += [violation for case in cases.values() for violation in _settlement(case)]
    return found + list(_conservation_of_stock(history))


# --- what is known of one transaction ------------------------------------------


class _Case(Struct):
    gid: str
    requests: list[tuple[int, Request]] = field(default_factory=list)
    # Each with the request that it answers.
    replies: list[tuple[int, Reply, Request]] = field(default_factory=list)
    registered: list[tuple[int, Registered]] = field(default_factory=list)
    decided: list[tuple[int, Decided]] = field(default_factory=list)
    calls: list[tuple[int, Call]] = field(default_factory=list)
    effects: list[tuple[int, Effect]] = field(default_factory=list)
    finals: list[tuple[int, Final]] = field(default_factory=list)
    # Of the branches that are not TCC.
    kinds: dict[str, Kind] = field(default_factory=dict)

    @property
    def durable(self) -> tuple[int, Decision] | None:
        """The first decision in the log."""
        return next(((i, e.decision) for i, e in self.decided if e.observer == LOG), None)

    @property
    def branch_ids(self) -> dict[str, None]:
        """All branches that the log is known to have had, in order."""
        sources = [e.branch_ids for _, e in self.registered] + [e.branch_ids for _, e in self.finals]
        return {branch_id: None for ids in sources for branch_id in ids}

    @property
    def deeds(self) -> list[tuple[int, Call | Effect]]:
        """Return calls and effects in order."""
        deeds: list[tuple[int, Call | Effect]] = [*self.calls, *self.effects]
        return sorted(deeds, key=lambda deed: deed[0])

    def effects_of(self, branch_id: str, operation: Operation) -> list[tuple[int, Effect]]:
        """The runs of a handler; tombstones are none."""
        return [
            (i, e)
            for i, e in self.effects
            if e.branch_id == branch_id and e.operation is operation and not e.tombstone
        ]

    def broken(self, promised: Property, what: str, *positions: int) -> Violation:
        return Violation(promised, self.gid, what, positions)


def _cases(history: Sequence[AnyEvent]) -> dict[str, _Case]:
    cases: dict[str, _Case] = {}
    asked: dict[str, Request] = {}
    answered: set[str] = set()

    def case(gid: str) -> _Case:
        return cases.setdefault(gid, _Case(gid))

    for i, event in enumerate(history):
        match event:
            case Request():
                if event.request in asked:
                    raise MalformedHistoryError(f"event {i}: request {event.request!r} was sent before")
                asked[event.request] = event
                if event.gid:
                    case(event.gid).requests.append((i, event))
            case Reply():
                if event.request not in asked or event.request in answered:
                    raise MalformedHistoryError(f"event {i}: a reply too many to {event.request!r}")
                answered.add(event.request)
                if event.gid:
                    case(event.gid).replies.append((i, event, asked[event.request]))
            case Registered():
                case(event.gid).registered.append((i, event))
                case(event.gid).kinds.update(_kinds(event))
            case Decided():
                case(event.gid).decided.append((i, event))
            case Call():
                case(event.gid).calls.append((i, event))
            case Effect():
                case(event.gid).effects.append((i, event))
            case Final():
                case(event.gid).finals.append((i, event))
                case(event.gid).kinds.update(_kinds(event))
            case _:
                pass  # faults, the end and the books belong to no transaction
    return cases


def _kinds(event: Registered | Final) -> dict[str, Kind]:
    pairs = zip(event.branch_ids, event.kinds, strict=False)  # where there are none, all are TCC
    return {branch_id: kind for branch_id, kind in pairs if kind is not Kind.TCC}


_DECISION_BY_OPERATION = {Operation.CONFIRM: Decision.CONFIRM, Operation.CANCEL: Decision.CANCEL}
_DECISION_BY_OUTCOME = {ReplyOutcome.CONFIRMED: Decision.CONFIRM, ReplyOutcome.CANCELLED: Decision.CANCEL}
_DECISION_BY_STATE = {
    TransactionState.CONFIRMING: Decision.CONFIRM,
    TransactionState.CONFIRMED: Decision.CONFIRM,
    TransactionState.CANCELLING: Decision.CANCEL,
    TransactionState.CANCELLED: Decision.CANCEL,
}
_ENDED = (TransactionState.CONFIRMED, TransactionState.CANCELLED)
# What is called on a branch, by its initiator or by a coordinator.
_CALLS = {
    Kind.TCC: {Operation.TRY, Operation.CONFIRM, Operation.CANCEL},
    Kind.SAGA: {Operation.TRY, Operation.CANCEL},
    Kind.MESSAGE: {Operation.CONFIRM},
    Kind.LOCAL: {Operation.TRY, Operation.CHECK},
}
_ACKNOWLEDGED = (ReplyOutcome.ACCEPTED, ReplyOutcome.TRIED, ReplyOutcome.CONFIRMED, ReplyOutcome.CANCELLED)


# --- the decision ------------------------------------------------------------


def _agreement(case: _Case) -> Iterator[Violation]:
    seen = [(i, e.decision, f"seen by {e.observer}") for i, e in case.decided]
    for i, e in case.deeds:
        if e.operation in _DECISION_BY_OPERATION:
            seen.append((i, _DECISION_BY_OPERATION[e.operation], f"carried out at {e.branch_id}"))
    seen += [
        (i, _DECISION_BY_STATE[e.state], "in the end")
        for i, e in case.finals
        if e.state in _DECISION_BY_STATE
    ]
    seen.sort()
    for i, decision, how in seen[1:]:
        first_i, first, first_how = seen[0]
        if decision is not first:
            yield case.broken(
                Property.AGREEMENT, f"{first.value} {first_how}, but {decision.value} {how}", first_i, i
            )


def _decision_first(case: _Case) -> Iterator[Violation]:
    known_at = case.durable[0] if case.durable else None
    told = [
        (i, f"{e.operation.value} reached {e.branch_id}")
        for i, e in case.calls
        if e.operation in _DECISION_BY_OPERATION
    ]
    told += [
        (i, f"{e.operation.value} took effect at {e.branch_id}")
        for i, e in case.effects
        if e.operation in _DECISION_BY_OPERATION
    ]
    told += [(i, f"{e.observer} observed {e.decision.value}") for i, e in case.decided if e.observer != LOG]
    told += [
        (i, f"{asked.initiator} received {e.outcome.value}")
        for i, e, asked in case.replies
        if e.outcome in _DECISION_BY_OUTCOME
    ]
    for i, what in told:
        if known_at is None or i < known_at:
            yield case.broken(Property.DECISION_FIRST, f"{what} before a decision was durable", i)


def _registered_first(case: _Case) -> Iterator[Violation]:
    if not case.registered:
        return  # the recorder does not say
    since: dict[str, int] = {}
    for i, event in case.registered:
        for branch_id in event.branch_ids:
            since.setdefault(branch_id, i)
    for i, e in case.deeds:
        if e.operation is Operation.TRY and since.get(e.branch_id, i) >= i:
            yield case.broken(
                Property.REGISTERED_FIRST, f"the Try of {e.branch_id} came before it was durable", i
            )
    for branch_id, i in since.items():
        if case.durable and case.durable[0] < i:
            yield case.broken(
                Property.REGISTERED_FIRST, f"{branch_id} joined after the decision", case.durable[0], i
            )


def _ownership(case: _Case) -> Iterator[Violation]:
    asked = {
        (request.tenant, branch_id): i
        for i, request in reversed(case.requests)
        for branch_id in (request.branch_id, *request.branch_ids)
    }
    for i, event in case.registered:
        if not event.tenant:
            continue  # the recorder does not say
        for branch_id in event.branch_ids:
            if asked.get((event.tenant, branch_id), i) >= i:
                yield case.broken(
                    Property.OWNERSHIP, f"{event.tenant} did not ask for {branch_id}, which is durable", i
                )


def _every_try_first(case: _Case) -> Iterator[Violation]:
    if case.durable is None or case.durable[1] is not Decision.CONFIRM:
        return
    decided_at = case.durable[0]
    for branch_id in case.branch_ids:
        if case.kinds.get(branch_id) is Kind.MESSAGE:
            continue
        if not any(i < decided_at for i, _ in case.effects_of(branch_id, Operation.TRY)):
            yield case.broken(
                Property.EVERY_TRY_FIRST, f"CONFIRM was decided before {branch_id} was tried", decided_at
            )


# --- effects -------------------------------------------------------------------


def _at_most_once(case: _Case) -> Iterator[Violation]:
    for branch_id in _touched(case):
        for operation in Operation:
            times = case.effects_of(branch_id, operation)
            if len(times) > 1:
                yield case.broken(
                    Property.AT_MOST_ONCE,
                    f"{operation.value} of {branch_id} took effect {len(times)} times",
                    *(i for i, _ in times),
                )


def _confirm_without_try(case: _Case) -> Iterator[Violation]:
    for branch_id in _touched(case):
        if case.kinds.get(branch_id) is Kind.MESSAGE:
            continue
        tries = case.effects_of(branch_id, Operation.TRY)
        for i, _ in case.effects_of(branch_id, Operation.CONFIRM):
            if not any(tried_at < i for tried_at, _ in tries):
                yield case.broken(
                    Property.CONFIRM_WITHOUT_TRY, f"{branch_id} was confirmed and had not been tried", i
                )


def _late_try(case: _Case) -> Iterator[Violation]:
    """A tombstone says that there was no Try before it; so no Try of that branch may exist at all."""
    for branch_id in _touched(case):
        cancels = [
            (i, e) for i, e in case.effects if e.branch_id == branch_id and e.operation is Operation.CANCEL
        ]
        for i, _ in case.effects_of(branch_id, Operation.TRY):
            late = [j for j, cancel in cancels if j < i or cancel.tombstone]
            if late:
                yield case.broken(
                    Property.LATE_TRY, f"the Try of {branch_id} took effect though it was cancelled", *late, i
                )


def _only_calls_of_its_kind(case: _Case) -> Iterator[Violation]:
    for i, e in case.deeds:
        kind = case.kinds.get(e.branch_id, Kind.TCC)
        if e.operation not in _CALLS[kind]:
            yield case.broken(Property.KINDS, f"{e.operation.value} of {e.branch_id}, which is a {kind}", i)


def _local_commit(case: _Case) -> Iterator[Violation]:
    """That CONFIRM needs the local commit is `_every_try_first`."""
    for branch_id, kind in case.kinds.items():
        commits = case.effects_of(branch_id, Operation.TRY) if kind is Kind.LOCAL else []
        if commits and case.durable and case.durable[1] is Decision.CANCEL:
            positions = (case.durable[0], commits[0][0])
            yield case.broken(
                Property.LOCAL_COMMIT, f"{branch_id} was committed, and CANCEL decided", *positions
            )


def _touched(case: _Case) -> dict[str, None]:
    return {e.branch_id: None for _, e in case.effects}


# --- conservation ----------------------------------------------------------------


def _conservation(case: _Case) -> Iterator[Violation]:
    """Phase two moves what its Try reserved, no more and no less."""
    for branch_id in _touched(case):
        reserved = sum(e.quantity for _, e in case.effects_of(branch_id, Operation.TRY)[:1])
        for i, e in case.effects:
            if e.branch_id != branch_id or e.operation is Operation.TRY:
                continue
            expected = 0 if e.tombstone else reserved
            if e.quantity != expected:
                yield case.broken(
                    Property.CONSERVATION,
                    f"{e.operation.value} of {branch_id} moved {e.quantity} units, {expected} were reserved",
                    i,
                )


def _conservation_of_stock(history: Sequence[AnyEvent]) -> Iterator[Violation]:
    """Check that a participant's totals equal the sum of the effects there."""
    # By participant: what is reserved and what is taken.
    moved: dict[str, tuple[int, int]] = {}
    for i, event in enumerate(history):
        match event:
            case Effect():
                reserved, taken = moved.get(event.participant, (0, 0))
                more_reserved, more_taken = _moved(event)
                moved[event.participant] = (reserved + more_reserved, taken + more_taken)
            case StockTotals():
                reserved, taken = moved.get(event.participant, (0, 0))
                for what in _wrong_in_totals(event, reserved=reserved, taken=taken):
                    yield Violation(Property.CONSERVATION, "", f"{event.participant}: {what}", (i,))
            case _:
                pass


def _moved(effect: Effect) -> tuple[int, int]:
    """Return by how much an effect changes what is reserved and what is taken."""
    quantity, is_saga = effect.quantity, effect.kind is not Kind.TCC
    match effect.operation:
        case Operation.TRY:
            return (0, quantity) if is_saga else (quantity, 0)
        case Operation.CONFIRM:
            return -quantity, quantity
        case Operation.CANCEL:
            return (0, -quantity) if is_saga else (-quantity, 0)
        case Operation.CHECK:
            return 0, 0


def _wrong_in_totals(totals: StockTotals, *, reserved: int, taken: int) -> Iterator[str]:
    total = totals.available + totals.reserved + totals.taken
    if total != totals.initial:
        yield f"{totals.initial} units at first, {total} in the end"
    if totals.available < 0:
        yield f"{totals.available} units available"
    if totals.reserved != reserved:
        yield f"{totals.reserved} units reserved, {reserved} by its effects"
    if totals.taken != taken:
        yield f"{totals.taken} units taken, {taken} by its effects"


# --- replies to initiators ---------------------------------------------------------


def _repeat_safety(case: _Case) -> Iterator[Violation]:
    yield from _same_outcome(case)
    scopes = {_scope(request): None for _, request in case.requests if _scope(request) is not None}
    for scope in scopes:
        asked = {request.digest for _, request in case.requests if _scope(request) == scope}
        replies = [(i, reply, request) for i, reply, request in case.replies if _scope(request) == scope]
        # That the transaction is cancelled says nothing of a branch which was to join it.
        accepting = _ACKNOWLEDGED if scope == "" else (ReplyOutcome.ACCEPTED, ReplyOutcome.TRIED)
        taken = {request.digest: i for i, reply, request in replies if reply.outcome in accepting}
        if scope == "":
            taken |= {final.digest: i for i, final in case.finals if final.digest}
        if len(taken) > 1:
            yield case.broken(
                Property.REPEAT_SAFETY,
                f"{len(taken)} different contents were accepted{_of(scope)}",
                *taken.values(),
            )
        for i, reply, request in replies:
            if reply.reason in _CONFLICTS and (request.digest in taken or asked == {request.digest}):
                yield case.broken(
                    Property.REPEAT_SAFETY, f"the same content was refused as different{_of(scope)}", i
                )


_CONFLICTS = ("GID_CONFLICT", "BRANCH_CONFLICT")


def _scope(request: Request) -> str | None:
    """Return whose content the request has: a branch's, the transaction's (""), or none."""
    if request.verb in (Verb.EXECUTE, Verb.BEGIN):
        return ""
    if request.verb in (Verb.TRY_BRANCH, Verb.REGISTER_BRANCH):
        return request.branch_id
    return None


def _of(scope: str | None) -> str:
    return f" of branch {scope}" if scope else ""


def _same_outcome(case: _Case) -> Iterator[Violation]:
    told = [(i, reply.outcome) for i, reply, _ in case.replies if reply.outcome in _DECISION_BY_OUTCOME]
    for i, outcome in told[1:]:
        if outcome is not told[0][1]:
            yield case.broken(
                Property.REPEAT_SAFETY,
                f"replied {told[0][1].value} first and {outcome.value} later",
                told[0][0],
                i,
            )


def _honest_answer(case: _Case) -> Iterator[Violation]:
    for i, reply, request in case.replies:
        decision = _DECISION_BY_OUTCOME.get(reply.outcome)
        if decision is not None and case.durable and case.durable[1] is not decision:
            yield case.broken(
                Property.HONEST_ANSWER,
                f"replied {reply.outcome.value}, the log holds {case.durable[1].value}",
                case.durable[0],
                i,
            )
        if reply.outcome is ReplyOutcome.TRIED and not _took_effect(
            case, request.branch_id, Operation.TRY, i
        ):
            yield case.broken(
                Property.HONEST_ANSWER, f"replied that {request.branch_id} was tried, which took no effect", i
            )
        if decision is not None and reply.completed:
            for branch_id, operation in _owed(case, decision):
                if not _took_effect(case, branch_id, operation, i):
                    yield case.broken(
                        Property.HONEST_ANSWER,
                        f"replied that all is done before {operation.value} of {branch_id}",
                        i,
                    )


def _took_effect(case: _Case, branch_id: str, operation: Operation, before: int) -> bool:
    return any(i < before for i, _ in case.effects_of(branch_id, operation))


def _owed(case: _Case, decision: Decision) -> Iterable[tuple[str, Operation]]:
    """The effects without which the decision is not carried out: only what was tried has to be cancelled."""
    if decision is Decision.CONFIRM:
        return [
            (branch_id, Operation.CONFIRM)
            for branch_id in case.branch_ids
            if _has(case, branch_id, Operation.CONFIRM)
        ]
    tried = [b for b in case.branch_ids | _touched(case) if case.effects_of(b, Operation.TRY)]
    return [(branch_id, Operation.CANCEL) for branch_id in tried if _has(case, branch_id, Operation.CANCEL)]


def _has(case: _Case, branch_id: str, operation: Operation) -> bool:
    return operation in _CALLS[case.kinds.get(branch_id, Kind.TCC)]


# --- the end ---------------------------------------------------------------------


def _settlement(case: _Case) -> Iterator[Violation]:
    if not case.finals:
        acknowledged = [i for i, reply, _ in case.replies if reply.outcome in _ACKNOWLEDGED]
        if acknowledged:
            yield case.broken(
                Property.SETTLEMENT, "it was acknowledged, and the log has lost it", *acknowledged
            )
        if case.effects:
            yield case.broken(
                Property.SETTLEMENT,
                "it had effects, and the log does not know it",
                *(i for i, _ in case.effects),
            )
        return
    i, final = case.finals[-1]
    if final.state not in _ENDED:
        yield case.broken(Property.SETTLEMENT, f"it is {final.state.value} in the end", i)
        return
    for branch_id in _touched(case):
        if branch_id not in final.branch_ids:
            yield case.broken(
                Property.SETTLEMENT, f"{branch_id} had effects, and the log does not know it", i
            )
    for branch_id, operation in _owed(case, _DECISION_BY_STATE[final.state]):
        if not case.effects_of(branch_id, operation):
            yield case.broken(
                Property.SETTLEMENT, f"it is {final.state.value}, and {branch_id} had no {operation.value}", i
            )


_RULES: Sequence[Callable[[_Case], Iterator[Violation]]] = (
    _agreement,
    _decision_first,
    _registered_first,
    _ownership,
    _every_try_first,
    _at_most_once,
    _confirm_without_try,
    _late_try,
    _only_calls_of_its_kind,
    _local_commit,
    _conservation,
    _repeat_safety,
    _honest_answer,
)
