"""The plans of the barrier: the order of statements and handler calls. No I/O.

Correctness under concurrency: calls that may write a new row first *claim* their keys by
inserting the rows that do not exist. Because of the unique key, one of two concurrent calls waits for
the other's commit. Rows that exist are then *locked*, a decision is made for each, and
they are *moved* to their new state. Claims and locks are made in sorted order, and a
transaction never claims after it has locked, so barrier rows alone cannot cause a
deadlock. If business tables do, the whole local transaction is run again.

A result that is known before the Try runs is written by the claim. A result that the
handler returns is *kept* afterwards, in a second write to the same row.

A rejected Try leaves no row: alone, it is rolled back; in a batch, its row is deleted
before the commit.

The plans are generators that yield statements and the one call of the handler. An executor
(tcc.barrier.executor) runs them on a sync or an async connection. psycopg 3 uses the same
design for its protocol.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, assert_never

from tcc import payload
from tcc._internal.plain_text import plain_text
from tcc.barrier.decisions import (
    CLAIMS,
    DECISIONS,
    SUCCEEDED,
    WRITES,
    BarrierDecision,
    BarrierState,
    BranchKind,
    CallResult,
    Operation,
    OutcomeCode,
)
from tcc.branch import REASON_CHARACTERS_MAX, BatchItem, Branch, Postponed, Rejected

T = TypeVar("T")
Key: TypeAlias = tuple[str, str]

# A result is sent with every Confirm, Cancel and response of its transaction.
RESULT_BYTES_MAX = 2**20
# Of the text of a rejection whose result is kept in memory.
_REMEMBERED_CHARACTERS_MAX = 1_000
# The margin of a claim that the expiry does not limit: longer than any clock's time.
NO_LIMIT_MS = 2**62


class Row(NamedTuple):
    """A locked barrier row."""

    gid: str
    branch_id: str
    action: str
    state: int
    try_result: bytes | None
    try_result_content_type: str | None
    # Set in rows that a Try wrote.
    digest: bytes | None = None
    # None in rows that an older version wrote: TCC.
    kind: int | None = None


class Result(NamedTuple):
    """The result of a Try, to be written to its row."""

    gid: str
    branch_id: str
    data: bytes
    content_type: str


class Statement(NamedTuple):
    """A statement to execute, once for each element of a list of parameters (`:name` in the text)."""

    text: str
    parameters: dict[str, Any] | list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Invoke:
    """A call of the handler, inside the transaction."""

    items: list[BatchItem]


# Yields steps and is sent their results: rows, or the handler's return value.
Plan: TypeAlias = Generator[Statement | Invoke, Any, T]


class BarrierSql(Protocol):
    """The barrier's statements in one dialect. Branches and keys are sorted and unique."""

    def begin(self) -> Plan[None]:
        """Execute what the dialect needs at the start of a transaction."""

    def claim(
        self,
        operation: Operation,
        action: str,
        branches: Sequence[Branch],
        *,
        kind: BranchKind,
        margin_ms: int,
    ) -> Plan[set[Key]]:
        """Insert the rows that do not exist and return the keys of the inserted ones.

        A branch whose expiry is longer ago than `margin_ms` is not inserted. A result that a branch
        already has is written too.
        """

    def lock(self, keys: Sequence[Key]) -> Plan[list[Row]]:
        """Lock and read the rows that exist."""

    def move(self, keys: Sequence[Key], state: BarrierState) -> Plan[None]:
        """Write the state of locked rows."""

    def keep(self, results: Sequence[Result]) -> Plan[None]:
        """Write the results of claimed rows."""

    def drop(self, keys: Sequence[Key]) -> Plan[None]:
        """Delete claimed rows."""


class ContendedError(Exception):
    """A row vanished between claim and lock: the transaction must be run again."""


class InvalidResultError(TypeError):
    """The return value of a handler is not a valid result. A retry cannot help."""


def settle(
    sql: BarrierSql,
    operation: Operation,
    action: str,
    items: Sequence[BatchItem],
    *,
    kind: BranchKind = BranchKind.TCC,
    cancel_always: bool = False,
    retention_ms: int = NO_LIMIT_MS,
) -> Plan[list[CallResult | Postponed]]:
    """Run a batch in one local transaction: one action, one operation, no key twice.

    `retention_ms`: how long after its expiry a SAGA's row is certainly kept. Returns the results
    in the order of the items. If the handler raises, the exception propagates and the executor
    rolls back.
    """
    keys = [item.branch.key for item in items]
    order = sorted(range(len(items)), key=keys.__getitem__)
    yield from sql.begin()
    branches = [items[index].branch for index in order]
    margin_ms = _claim_margin_ms(kind, operation, retention_ms)
    judged, rows = yield from _admit(sql, operation, action, branches, kind=kind, margin_ms=margin_ms)
    # From here on in order of arrival, so that earlier calls may be served first.
    decisions = _restore_order(judged, order)
    running = [
        index
        for index, decision in enumerate(decisions)
        if decision is BarrierDecision.RUN or (cancel_always and decision is BarrierDecision.EMPTY_CANCEL)
    ]
    outcomes: list[CallResult | Postponed] = [
        SUCCEEDED if decision is BarrierDecision.RUN else _answer(decision, rows.get(key))
        for decision, key in zip(decisions, keys, strict=True)
    ]
    if running:
        given = [
            _with_row(items[index], rows.get(keys[index])) if rows else items[index] for index in running
        ]
        answers = check_answers((yield Invoke(items=given)), len(given), operation)
        if operation is Operation.TRY:
            tried = yield from _conclude_try(sql, [item.branch for item in given], answers)
            for index, outcome in zip(running, tried, strict=True):
                outcomes[index] = outcome
    return outcomes


def decide_one(
    sql: BarrierSql, operation: Operation, branch: Branch, *, kind: BranchKind
) -> Plan[BarrierDecision]:
    """Claim or find the row of one branch whose work no handler does. Return the decision."""
    yield from sql.begin()
    margin_ms = _claim_margin_ms(kind, operation, NO_LIMIT_MS)
    [decision], _ = yield from _admit(sql, operation, branch.action, [branch], kind=kind, margin_ms=margin_ms)
    return decision


def _claim_margin_ms(kind: BranchKind, operation: Operation, retention_ms: int) -> int:
    """Return how long after a branch's expiry the call may still write a new row."""
    if operation is Operation.TRY:
        return 0
    return retention_ms if kind is BranchKind.SAGA else NO_LIMIT_MS


def _admit(
    sql: BarrierSql,
    operation: Operation,
    action: str,
    branches: Sequence[Branch],
    *,
    kind: BranchKind,
    margin_ms: int,
) -> Plan[tuple[list[BarrierDecision], dict[Key, Row]]]:
    """Claim, lock, decide and move. Return a decision per branch and the rows that existed."""
    claimed: set[Key] = set()
    if operation in CLAIMS[kind]:
        claimed = yield from sql.claim(operation, action, branches, kind=kind, margin_ms=margin_ms)
        if len(claimed) == len(branches):
            return [DECISIONS[kind][operation, None]] * len(branches), {}
    found = yield from sql.lock([branch.key for branch in branches if branch.key not in claimed])
    rows = {(row.gid, row.branch_id): row for row in found}
    decisions = [
        _decide(
            operation,
            action,
            branch,
            kind=kind,
            claimed=branch.key in claimed,
            row=rows.get(branch.key),
            is_limited=margin_ms != NO_LIMIT_MS,
        )
        for branch in branches
    ]
    if operation is not Operation.TRY:
        moving = [
            branch.key
            for branch, decision in zip(branches, decisions, strict=True)
            if decision is BarrierDecision.RUN and branch.key in rows
        ]
        if moving:
            yield from sql.move(moving, WRITES[operation])
    return decisions, rows


def _decide(
    operation: Operation,
    action: str,
    branch: Branch,
    *,
    kind: BranchKind,
    claimed: bool,
    row: Row | None,
    is_limited: bool,
) -> BarrierDecision:
    if row is not None:
        is_same = (
            row.action == action
            and (row.kind or BranchKind.TCC) == kind
            and (not row.digest or not branch.digest or row.digest == branch.digest)
        )
        # A row in a state that its kind cannot have is another branch's.
        decided = DECISIONS[kind].get((operation, BarrierState(row.state))) if is_same else None
        return decided or BarrierDecision.BRANCH_CONFLICT
    if claimed or operation not in CLAIMS[kind]:
        return DECISIONS[kind][operation, None]
    if operation is Operation.TRY:
        return BarrierDecision.EXPIRED
    if is_limited:
        return BarrierDecision.ROW_PURGED
    raise ContendedError


def _answer(decision: BarrierDecision, row: Row | None) -> CallResult:
    """Return the result for a decision that does not run the handler."""
    match decision:
        case (
            BarrierDecision.RUN
            | BarrierDecision.DONE
            | BarrierDecision.EMPTY_CANCEL
            | BarrierDecision.TRY_FOUND
        ):
            return SUCCEEDED
        case BarrierDecision.NO_TRY_FOUND:
            return CallResult(OutcomeCode.REJECTED, BarrierDecision.NOT_TRIED.name, decision.value)
        case BarrierDecision.REPLAY:
            assert row is not None, "only a row can be replayed"
            return CallResult(
                OutcomeCode.SUCCEEDED,
                result=row.try_result or b"",
                content_type=row.try_result_content_type or "",
            )
        case BarrierDecision.NOT_TRIED:
            return CallResult(OutcomeCode.FAILED, decision.name, decision.value)
        case (
            BarrierDecision.LATE_TRY
            | BarrierDecision.EXPIRED
            | BarrierDecision.ALREADY_CONFIRMED
            | BarrierDecision.ALREADY_CANCELLED
            | BarrierDecision.BRANCH_CONFLICT
            | BarrierDecision.ROW_PURGED
        ):
            return CallResult(OutcomeCode.FAILED, decision.name, decision.value, permanent=True)
        case _:
            assert_never(decision)


def _with_row(item: BatchItem, row: Row | None) -> BatchItem:
    """Return the item for the handler, with the Try's result from its row."""
    if row is None:
        return item
    branch = item.branch
    return BatchItem(
        Branch(
            gid=branch.gid,
            branch_id=branch.branch_id,
            action=branch.action,
            expires_at_ms=branch.expires_at_ms,
            attempt=branch.attempt,
            tried=True,
            try_result=row.try_result or b"",
            try_result_content_type=row.try_result_content_type or "",
            digest=branch.digest,
        ),
        item.request,
    )


def check_answers(answers: object, count: int, operation: Operation) -> Sequence[object]:
    """Return the handler's results, one per item. Raises an error among them, so the batch is redone."""
    if answers is None:
        return [None] * count
    if not isinstance(answers, Sequence) or isinstance(answers, str | bytes):
        raise InvalidResultError(
            f"a batch handler returns None or a list with one entry per item, not {type(answers).__name__}"
        )
    if len(answers) != count:
        raise InvalidResultError(
            f"a batch handler was called with {count} items and returned {len(answers)} entries"
        )
    for answer in answers:
        if isinstance(answer, BaseException) and not (
            operation is Operation.TRY and isinstance(answer, Rejected)
        ):
            if isinstance(answer, Exception):
                raise answer
            raise InvalidResultError(f"{type(answer).__name__} is not a valid entry for an item")
        if isinstance(answer, Postponed) and operation is not Operation.TRY:
            raise InvalidResultError("only a Try can be postponed")
    return answers


def _conclude_try(
    sql: BarrierSql, branches: Sequence[Branch], answers: Sequence[object]
) -> Plan[list[CallResult | Postponed]]:
    """Write the results, and delete the rows of rejected and postponed items."""
    outcomes: list[CallResult | Postponed] = []
    results, dropped = [], []
    for branch, answer in zip(branches, answers, strict=True):
        if answer is None:
            outcomes.append(_default_outcome(branch))
        elif isinstance(answer, Rejected):
            dropped.append(branch.key)
            outcomes.append(rejected(answer))
        elif isinstance(answer, Postponed):
            dropped.append(branch.key)
            outcomes.append(answer)
        else:
            data, content_type = encoded_result(answer)
            results.append(Result(branch.gid, branch.branch_id, data, content_type))
            outcomes.append(CallResult(OutcomeCode.SUCCEEDED, result=data, content_type=content_type))
    if results:
        yield from sql.keep(results)
    if dropped:
        yield from sql.drop(dropped)
    return outcomes


def encoded_result(answer: object) -> payload.Encoded:
    """Return the result of a Try as bytes. Raises InvalidResultError."""
    try:
        encoded = payload.encode(answer)
    except (TypeError, ValueError) as error:
        raise InvalidResultError(f"the result of a Try cannot be encoded: {error}") from error
    if len(encoded.data) > RESULT_BYTES_MAX:
        raise InvalidResultError(
            f"the result of a Try has {len(encoded.data)} bytes; at most {RESULT_BYTES_MAX} are allowed"
        )
    return encoded


def _default_outcome(branch: Branch) -> CallResult:
    """Return the result of a Try whose handler returned None: the one set before the claim, if any."""
    if not branch.try_result_content_type:
        return SUCCEEDED
    return CallResult(OutcomeCode.SUCCEEDED, "", "", branch.try_result, branch.try_result_content_type)


def digest_of(action: str, payload_data: bytes, content_type: str) -> bytes:
    """Return the digest of a call's content: SHA-256, 32 bytes."""
    return sha256(_digest_head(action, content_type) + payload_data).digest()


@lru_cache(1024)
def _digest_head(action: str, content_type: str) -> bytes:
    """Return the lengths and the parts before the payload, so that different contents differ."""
    action_bytes, type_bytes = action.encode(), content_type.encode()
    return b"%d,%d,%s%s" % (len(action_bytes), len(type_bytes), action_bytes, type_bytes)


def rejected(no: Rejected) -> CallResult:
    """Return the result of a rejection, the same object for the same text: it is sent faster."""
    reason, message = no.reason, no.message
    is_short = len(reason) + len(message) <= _REMEMBERED_CHARACTERS_MAX
    return _rejection(reason, message) if is_short else _rejection.__wrapped__(reason, message)


@lru_cache(256)
def _rejection(reason: str, message: str) -> CallResult:
    return CallResult(OutcomeCode.REJECTED, plain_text(reason, REASON_CHARACTERS_MAX), plain_text(message))


def not_yet(postponed: Postponed) -> CallResult:
    """Return the result of a Try that has waited here for long enough: the coordinator repeats it."""
    reason = plain_text(postponed.reason, REASON_CHARACTERS_MAX)
    return CallResult(OutcomeCode.FAILED, reason, plain_text(postponed.message))


def _restore_order(things: list[T], order: list[int]) -> list[T]:
    restored = things.copy()
    for thing, index in zip(things, order, strict=True):
        restored[index] = thing
    return restored
