"""The plans of the barrier: statements and handler calls, in order. Pure.

How it stays right under concurrency: Try and Cancel first *claim* their keys by
inserting rows where there are none; the unique key makes one of two racing
calls wait for the other's commit. What exists already is then *locked*, judged
and *moved*. Claims and locks each go in sorted order, and a transaction that
locks never claims afterwards, so barriers alone cannot deadlock. Where the
business tables do, the whole local transaction is run again.

A result that is known before the Try runs is written by the claim; one that the
handler answers is *kept* afterwards, in a second write to the same row.

A Try that ends in a no leaves no row: alone, it is rolled back; within a batch,
its row is deleted before the commit.

Nothing here does I/O. The plans are generators that yield statements and the one
call of the handler, and a front door (tcc.barrier.executor) drives them over a sync
or an async connection, as psycopg 3 does with its own protocol.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, assert_never

from tcc import payload
from tcc._internal.plain_text import plain_text
from tcc.barrier.decisions import (
    DECISIONS,
    SUCCEEDED,
    WRITES,
    BarrierDecision,
    BarrierState,
    CallResult,
    Operation,
    OutcomeCode,
)
from tcc.branch import BatchItem, Branch, Rejected

T = TypeVar("T")
Key: TypeAlias = tuple[str, str]

# A result travels with every Confirm, Cancel and answer of its transaction.
RESULT_BYTES_MAX = 2**20
REASON_CHARACTERS_MAX = 128


class Row(NamedTuple):
    """A locked barrier row."""

    gid: str
    branch_id: str
    action: str
    state: int
    try_result: bytes | None
    try_result_content_type: str | None
    # Of rows that a Try wrote.
    digest: bytes | None = None


class Result(NamedTuple):
    """What a Try returned, to be kept in its row."""

    gid: str
    branch_id: str
    data: bytes
    content_type: str


class Statement(NamedTuple):
    """One statement to execute; a list of parameters means once for each."""

    text: Any
    parameters: dict[str, Any] | list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Invoke:
    """One call of the handler, inside the transaction."""

    items: list[BatchItem]


# Yields what is to be done, is sent what came of it: rows, or the handler's answers.
Plan: TypeAlias = Generator[Statement | Invoke, Any, T]


class BarrierSql(Protocol):
    """The barrier's statements in one dialect. Branches and keys come sorted and unique."""

    def begin(self) -> Plan[None]:
        """Whatever the dialect needs at the head of a transaction."""

    def claim(self, operation: Operation, action: str, branches: Sequence[Branch]) -> Plan[set[Key]]:
        """Insert rows where there are none and return the keys of those it inserted.

        A Try past its expiry gets none. A result that a branch has already goes into its row.
        """

    def lock(self, keys: Sequence[Key]) -> Plan[list[Row]]:
        """Locks and reads the rows that exist."""

    def move(self, keys: Sequence[Key], state: BarrierState) -> Plan[None]:
        """Write the state of locked rows."""

    def keep(self, results: Sequence[Result]) -> Plan[None]:
        """Write the results of claimed rows."""

    def drop(self, keys: Sequence[Key]) -> Plan[None]:
        """Delete claimed rows."""


class ContendedError(Exception):
    """A row vanished between claim and lock: the transaction is to be run again."""


class InvalidResultError(TypeError):
    """What a handler returned cannot be its answer. Repeating the call cannot help."""


def settle(
    sql: BarrierSql,
    operation: Operation,
    action: str,
    items: Sequence[BatchItem],
    *,
    cancel_always: bool = False,
) -> Plan[list[CallResult]]:
    """One local transaction over a batch: one action, one operation, no key twice.

    Answers in the order of its items. What the handler raises goes through, and
    the front door rolls back.
    """
    keys = [item.branch.key for item in items]
    order = sorted(range(len(items)), key=keys.__getitem__)
    yield from sql.begin()
    judged, rows = yield from _admit(sql, operation, action, [items[index].branch for index in order])
    # From here on in order of arrival: who came first may be served first.
    decisions = _restore_order(judged, order)
    running = [
        index
        for index, decision in enumerate(decisions)
        if decision is BarrierDecision.RUN or (cancel_always and decision is BarrierDecision.EMPTY_CANCEL)
    ]
    outcomes = [
        SUCCEEDED if decision is BarrierDecision.RUN else _answer(decision, rows.get(key))
        for decision, key in zip(decisions, keys, strict=True)
    ]
    if running:
        given = [
            _with_row(items[index], rows.get(keys[index])) if rows else items[index] for index in running
        ]
        answers = _check_answers((yield Invoke(items=given)), len(given), operation)
        if operation is Operation.TRY:
            tried = yield from _conclude_try(sql, [item.branch for item in given], answers)
            for index, outcome in zip(running, tried, strict=True):
                outcomes[index] = outcome
    return outcomes


def _admit(
    sql: BarrierSql, operation: Operation, action: str, branches: Sequence[Branch]
) -> Plan[tuple[list[BarrierDecision], dict[Key, Row]]]:
    """Claims, locks, judges and moves; answers a verdict per branch and the rows there were."""
    claimed: set[Key] = set()
    if operation is not Operation.CONFIRM:
        claimed = yield from sql.claim(operation, action, branches)
        if len(claimed) == len(branches):
            return [DECISIONS[operation, None]] * len(branches), {}
    found = yield from sql.lock([branch.key for branch in branches if branch.key not in claimed])
    rows = {(row.gid, row.branch_id): row for row in found}
    decisions = [
        _decide(operation, action, branch, claimed=branch.key in claimed, row=rows.get(branch.key))
        for branch in branches
    ]
    if operation is not Operation.TRY:
        moving = [
            branch.key
            for branch, decision in zip(branches, decisions, strict=True)
            if decision is BarrierDecision.RUN
        ]
        if moving:
            yield from sql.move(moving, WRITES[operation])
    return decisions, rows


def _decide(
    operation: Operation, action: str, branch: Branch, *, claimed: bool, row: Row | None
) -> BarrierDecision:
    if row is not None:
        is_same = row.action == action and (
            not row.digest or not branch.digest or row.digest == branch.digest
        )
        return DECISIONS[operation, BarrierState(row.state)] if is_same else BarrierDecision.BRANCH_CONFLICT
    if claimed or operation is Operation.CONFIRM:
        return DECISIONS[operation, None]
    if operation is Operation.TRY:
        return BarrierDecision.EXPIRED
    raise ContendedError


def _answer(decision: BarrierDecision, row: Row | None) -> CallResult:
    """Return the result for a decision that does not run the handler."""
    match decision:
        case BarrierDecision.RUN | BarrierDecision.DONE | BarrierDecision.EMPTY_CANCEL:
            return SUCCEEDED
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
        ):
            return CallResult(OutcomeCode.FAILED, decision.name, decision.value, permanent=True)
        case _:
            assert_never(decision)


def _with_row(item: BatchItem, row: Row | None) -> BatchItem:
    """Return the item for the handler, with what the barrier knows of its Try."""
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


def _check_answers(answers: object, count: int, operation: Operation) -> Sequence[object]:
    """Return the handler's answers, one per item. An error among them is raised: the batch is redone."""
    if answers is None:
        return [None] * count
    if not isinstance(answers, Sequence) or isinstance(answers, str | bytes):
        raise InvalidResultError(
            f"a batch handler returns None or a list with one entry per item, not {type(answers).__name__}"
        )
    if len(answers) != count:
        raise InvalidResultError(f"{count} items were given and {len(answers)} answers came back")
    for answer in answers:
        if isinstance(answer, BaseException) and not (
            operation is Operation.TRY and isinstance(answer, Rejected)
        ):
            if isinstance(answer, Exception):
                raise answer
            raise InvalidResultError(f"{type(answer).__name__} is no answer to an item")
    return answers


def _conclude_try(
    sql: BarrierSql, branches: Sequence[Branch], answers: Sequence[object]
) -> Plan[list[CallResult]]:
    """Keep the results; drop the rows of what was rejected."""
    outcomes, results, dropped = [], [], []
    for branch, answer in zip(branches, answers, strict=True):
        if answer is None:
            outcomes.append(_default_outcome(branch))
        elif isinstance(answer, Rejected):
            dropped.append(branch.key)
            outcomes.append(rejected(answer))
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
    """A Try's result as bytes. Raises InvalidResultError."""
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
    """Return the success of a Try that answered nothing; its result, if any, was set before the claim."""
    if not branch.try_result_content_type:
        return SUCCEEDED
    return CallResult(OutcomeCode.SUCCEEDED, "", "", branch.try_result, branch.try_result_content_type)


def digest_of(action: str, payload_data: bytes, content_type: str) -> bytes:
    """What a call asks for, in 32 bytes (SHA-256)."""
    return sha256(_digest_head(action, content_type) + payload_data).digest()


@lru_cache(1024)
def _digest_head(action: str, content_type: str) -> bytes:
    """What says where each part ends, and the parts before the payload."""
    action_bytes, type_bytes = action.encode(), content_type.encode()
    return b"%d,%d,%s%s" % (len(action_bytes), len(type_bytes), action_bytes, type_bytes)


def rejected(no: Rejected) -> CallResult:
    """Return a rejection as a call's result."""
    return CallResult(
        OutcomeCode.REJECTED, plain_text(no.reason, REASON_CHARACTERS_MAX), plain_text(no.message)
    )


def _restore_order(things: list[T], order: list[int]) -> list[T]:
    restored = things.copy()
    for thing, index in zip(things, order, strict=True):
        restored[index] = thing
    return restored
