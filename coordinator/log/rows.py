"""Transactions as rows, and back.

Branches are stored as MessagePack arrays without names, in three columns: the specs
(`branches`), the payloads, and the `progress`. Progress is NULL if the state implies
it, which covers the happy path: before the decision nothing is known of a Try, after
CONFIRM every Try has succeeded, at the end every branch is done, and so is one that needs no
call for the decision. A new field is added at the end of its array, with a default.
"""

import re
from collections.abc import Sequence
from itertools import repeat
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from coordinator.core.kinds import needs_call
from coordinator.core.model import (
    DECISIONS,
    HELD,
    NOW,
    UNKNOWN_CONTENT_TYPE,
    Branch,
    BranchKind,
    BranchSpec,
    CancelReason,
    Heuristic,
    Note,
    Operation,
    TraceContext,
    Transaction,
    TransactionState,
    TryState,
)
from coordinator.log.statements import RECORD
from coordinator.ports.log import Record

Row = Sequence[Any]
Columns = dict[str, list[Any]]

# The precision of the database's timestamps, with margin for conversion in both directions.
_MOMENT_ERROR_S = 1e-5

_TRIED_BY_STATE = {
    TransactionState.TRYING: TryState.UNKNOWN,
    TransactionState.CONFIRMING: TryState.SUCCEEDED,
    TransactionState.CONFIRMED: TryState.SUCCEEDED,
    TransactionState.CANCELLING: TryState.UNKNOWN,
    TransactionState.CANCELLED: TryState.UNKNOWN,
}


# Ranges of what the coordinator itself stores. A row with anything else is quarantined.
_Small = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_QUARANTINE_CHARACTERS_MAX = 300


class _Spec(Struct, array_like=True, gc=False):
    branch_id: str
    participant: str
    action: str
    content_type: str
    stage: _Small
    tried_by_initiator: bool
    cancel_in_stage_order: bool
    # Not written for a TCC branch, which has nothing to say of them.
    kind: BranchKind = BranchKind.TCC
    not_before: float = NOW
    check_back: bool = False


class _Note(Struct, array_like=True, gc=False):
    at: float
    operation: Operation
    text: str
    count: _Small
    last_at: float
    stuck: bool
    omitted: bool


class _Progress(Struct, array_like=True, gc=False):
    tried: TryState
    result: bytes
    result_content_type: str
    done: bool
    attempts: _Small
    last_error: str
    next_attempt_at: float
    heuristic: Heuristic = Heuristic.NONE
    heuristic_reason: str = ""
    notes: list[_Note] = []
    failed_span_id: str = ""


_TCC = BranchKind.TCC
_encode = msgspec.msgpack.Encoder().encode
_decode_specs = msgspec.msgpack.Decoder(list[_Spec]).decode
_decode_payloads = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_progress = msgspec.msgpack.Decoder(list[_Progress]).decode
_encode_labels = msgspec.json.Encoder().encode
_decode_labels = msgspec.json.Decoder(dict[str, str]).decode


# --- transactions to columns -------------------------------------------------


def insert_columns(begun: Sequence[Transaction]) -> Columns:
    """Return the arrays of `statements.INSERT`."""
    return {
        "gid": [tx.gid for tx in begun],
        "state": [int(tx.state) for tx in begun],
        "interactive": [tx.interactive for tx in begun],
        "initiator": [_storable(tx.initiator) for tx in begun],
        "labels": [_labels(tx) for tx in begun],
        "fingerprint": [tx.fingerprint for tx in begun],
        "branches": [_specs(tx) for tx in begun],
        "payloads": [_payloads(tx) for tx in begun],
        "participants": [_participants(tx) for tx in begun],
        "expires_at": [tx.expires_at for tx in begun],
        "trace": [None if tx.trace is None else _trace_text(tx.trace) for tx in begun],
        "tenant": [tx.tenant for tx in begun],
    }


def plain_columns(changed: Sequence[Transaction]) -> Columns:
    """Return the arrays of `statements.SAVE_PLAIN`."""
    return {
        "gid": [tx.gid for tx in changed],
        "version": [tx.version for tx in changed],
        "state": [int(tx.state) for tx in changed],
    }


def full_columns(changed: Sequence[Transaction]) -> Columns:
    """Return the arrays of `statements.SAVE_FULL`."""
    joined = [len(tx.branches) != tx.saved_branches for tx in changed]
    return plain_columns(changed) | {
        "progress": [_progress(tx) for tx in changed],
        "cancel_reason": [int(tx.cancel_reason) for tx in changed],
        "cancel_branch_id": [_storable(tx.cancel_branch_id) for tx in changed],
        "cancel_detail": [_storable(tx.cancel_detail) for tx in changed],
        "cancel_message": [_storable(tx.cancel_message) for tx in changed],
        "stuck": [tx.stuck for tx in changed],
        "waiting_on": [tx.waiting_on if _is_parked(tx) else "" for tx in changed],
        "next_attempt_at": [tx.next_attempt_at if _is_parked(tx) else None for tx in changed],
        "branches": [_specs(tx) if new else None for tx, new in zip(changed, joined, strict=True)],
        "payloads": [_payloads(tx) if new else None for tx, new in zip(changed, joined, strict=True)],
        "participants": [_participants(tx) if new else None for tx, new in zip(changed, joined, strict=True)],
    }


def is_plain(tx: Transaction) -> bool:
    """Return whether the state implies everything that there is to save."""
    return (
        not tx.cancel_reason
        and not tx.stuck
        and not _is_parked(tx)
        and len(tx.branches) == tx.saved_branches
        and _is_implied(tx)
    )


def is_begun(tx: Transaction, row: Row, owner: str) -> bool:
    """Return whether `row` is what inserting `tx` for `owner` leaves."""
    stored = dict(zip(RECORD, row, strict=True))
    return (stored["owner"], stored["version"], stored["fingerprint"]) == (owner, 1, tx.fingerprint)


def is_saved(tx: Transaction, row: Row, owner: str) -> bool:
    """Return whether `row` is what saving `tx` for `owner` leaves, in every column that a save writes.

    The version alone is not enough: the next version could also come from another write of
    the same owner, such as its release.
    """
    stored = dict(zip(RECORD, row, strict=True))
    wanted = {name: values[0] for name, values in full_columns((tx,)).items()}
    wanted["version"] += 1
    stored_at, wanted_at = stored["next_attempt_at"], wanted.pop("next_attempt_at")
    del wanted["participants"]  # derived from the branches
    if (stored_at is None) != (wanted_at is None):
        return False
    if stored_at is not None and abs(stored_at - wanted_at) > _MOMENT_ERROR_S:
        return False
    return stored["owner"] == owner and all(
        stored[name] == value
        for name, value in wanted.items()
        if value is not None or name not in ("branches", "payloads")
    )


def row_bytes(row: Row) -> int:
    """Return the size of what may be large in a row."""
    stored = dict(zip(RECORD, row, strict=True))
    return sum(len(stored[name] or b"") for name in ("branches", "payloads", "progress"))


def _is_parked(tx: Transaction) -> bool:
    return bool(tx.next_attempt_at) and not tx.state.ended


def _is_implied(tx: Transaction) -> bool:
    tcc, of_tcc = _TCC, (_TRIED_BY_STATE[tx.state], tx.state.ended, NOW)
    for branch in tx.branches:
        spec = branch.spec
        tried, done, next_attempt_at = of_tcc if spec.kind is tcc else _implied(tx.state, spec)
        if (
            branch.tried is not tried
            or branch.done is not done
            or branch.attempts
            or branch.next_attempt_at != next_attempt_at
            or branch.result
            or branch.result_content_type
            or branch.last_error
            or branch.heuristic
            or branch.notes
        ):
            return False
    return True


def _implied(state: TransactionState, spec: BranchSpec) -> tuple[TryState, bool, float]:
    """Return what the state implies of a branch: its Try, whether it is done, and its next attempt."""
    decision = DECISIONS.get(state)
    tried = _TRIED_BY_STATE[state] if needs_call(spec, Operation.TRY) else TryState.SUCCEEDED
    done = state.ended or (decision is not None and not needs_call(spec, decision))
    is_waiting = decision is Operation.CONFIRM and not done
    return tried, done, spec.not_before if is_waiting else NOW


def _progress(tx: Transaction) -> bytes | None:
    if _is_implied(tx):
        return None
    return _encode([_stored_progress(branch) for branch in tx.branches])


def _stored_progress(branch: Branch) -> tuple[Any, ...]:
    stored = (
        branch.tried,
        branch.result,
        _unicode(branch.result_content_type),
        branch.done,
        branch.attempts,
        _unicode(branch.last_error),
        branch.next_attempt_at,
    )
    if not branch.notes and not branch.heuristic:
        return stored
    notes = [
        (note.at, note.operation, _unicode(note.text), note.count, note.last_at, note.stuck, note.omitted)
        for note in branch.notes
    ]
    noted = (*stored, branch.heuristic, _unicode(branch.heuristic_reason), notes)
    return (*noted, branch.failed_span_id) if branch.failed_span_id else noted


def _trace_text(trace: TraceContext) -> str:
    """Return both headers, separated by a space: the first contains none."""
    return f"{trace.traceparent} {trace.tracestate}" if trace.tracestate else trace.traceparent


def _specs(tx: Transaction) -> bytes:
    tcc = _TCC
    return _encode(
        [
            (
                spec.branch_id,
                spec.participant,
                spec.action,
                spec.content_type,
                spec.stage,
                spec.tried_by_initiator,
                spec.cancel_in_stage_order,
            )
            if spec.kind is tcc
            else _stored_spec(spec)
            for branch in tx.branches
            for spec in (branch.spec,)
        ]
    )


def _stored_spec(spec: BranchSpec) -> tuple[Any, ...]:
    return (
        spec.branch_id,
        spec.participant,
        spec.action,
        spec.content_type,
        spec.stage,
        spec.tried_by_initiator,
        spec.cancel_in_stage_order,
        spec.kind,
        spec.not_before,
        spec.check_back,
    )


def _payloads(tx: Transaction) -> bytes:
    return _encode([branch.spec.payload for branch in tx.branches])


def _participants(tx: Transaction) -> str:
    """Return one name per line; `statements` splits them."""
    return "\n".join({branch.spec.participant: None for branch in tx.branches})


def _labels(tx: Transaction) -> str:
    if not tx.labels:
        return "{}"
    return _encode_labels({_storable(key): _storable(value) for key, value in tx.labels}).decode()


def _unicode(text: str) -> str:
    """Return the text without lone surrogates, which UTF-8 cannot hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _storable(text: str) -> str:
    """Return the text as PostgreSQL can store it: one bad character must not fail a whole batch."""
    return _unicode(text).replace("\0", "\N{REPLACEMENT CHARACTER}")


# --- erasure -----------------------------------------------------------------


def erased(branches: bytes, progress: bytes | None) -> tuple[bytes, bytes, bytes | None] | None:
    """Return the columns branches, payloads and progress without payloads and results.

    None: they cannot be read.
    """
    try:
        specs = _decode_specs(branches)
        known = None if progress is None else _decode_progress(progress)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return (
        _encode([replace(spec, content_type=UNKNOWN_CONTENT_TYPE) for spec in specs]),
        _encode([b""] * len(specs)),
        None if known is None else _encode([_without_result(one) for one in known]),
    )


def _without_result(stored: _Progress) -> _Progress:
    if not stored.result:
        return stored
    return replace(stored, result=b"", result_content_type=UNKNOWN_CONTENT_TYPE)


# --- rows to records ---------------------------------------------------------


def record(row: Row) -> Record:
    """Decode a row of `statements.RECORD`. If it cannot be used, the record is quarantined."""
    try:
        return _record(row)
    except Exception as error:  # noqa: BLE001 - a row may hold anything, and operators are shown the error
        return _quarantined(row, f"{type(error).__name__}: {error}")


def _quarantined(row: Row, why: str) -> Record:
    """Return what can be read of a row, for people."""
    stored = dict(zip(RECORD, row, strict=True))
    state = TransactionState(stored["state"]) if stored["state"] in set(TransactionState) else None
    tx = Transaction(
        gid=stored["gid"],
        branches=_readable_branches(stored),
        expires_at=shown_moment(stored["expires_at"]),
        interactive=stored["interactive"],
        initiator=stored["initiator"],
        tenant=stored["tenant"],
        fingerprint=stored["fingerprint"],
        state=state or TransactionState.TRYING,
        cancel_detail=stored["cancel_detail"],
        cancel_message=stored["cancel_message"],
        stuck=stored["stuck"],
        next_attempt_at=_optionally_shown(stored["next_attempt_at"]) or 0.0,
        waiting_on=stored["waiting_on"],
        version=max(0, stored["version"]),
        saved_state=state,
    )
    is_owned = stored["next_attempt_at"] is None and stored["ended_at"] is None
    return Record(
        tx=tx,
        owner=stored["owner"] if is_owned else None,
        created_at=shown_moment(stored["created_at"]),
        decided_at=_optionally_shown(stored["decided_at"]),
        ended_at=_optionally_shown(stored["ended_at"]),
        quarantined=why[:_QUARANTINE_CHARACTERS_MAX],
    )


def _readable_branches(stored: dict[str, Any]) -> tuple[Branch, ...]:
    """Return the branches without their progress, if they can be read."""
    try:
        return tuple([Branch(spec=_spec(spec, b"")) for spec in _decode_specs(stored["branches"])])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()


def shown_moment(moment: float) -> float:
    """Return a moment that can be shown, near to this one."""
    return min(max(moment, 0.0), HELD)


def _optionally_shown(moment: float | None) -> float | None:
    return None if moment is None else shown_moment(moment)


def _moment(moment: float) -> float:
    if not 0.0 <= moment <= HELD:
        raise ValueError(f"{moment} is no moment before the year 10000")
    return moment


def _optional_moment(moment: float | None) -> float | None:
    return None if moment is None else _moment(moment)


def _check_consistent(state: TransactionState, version: int, ended_at: float | None) -> None:
    if version < 1:
        raise ValueError(f"the version is {version}")
    if state.ended != (ended_at is not None):
        raise ValueError(f"the state is {state.name}, and ended_at is {'not ' * state.ended}set")


def _record(row: Row) -> Record:
    (
        gid,
        version,
        number,
        owner,
        interactive,
        initiator,
        labels,
        fingerprint,
        specs,
        payloads,
        progress,
        cancel_reason,
        cancel_branch_id,
        cancel_detail,
        cancel_message,
        stuck,
        waiting_on,
        next_attempt_at,
        created_at,
        expires_at,
        decided_at,
        ended_at,
        adopted_from,
        trace,
        tenant,
    ) = row
    state = TransactionState(number)
    _check_consistent(state, version, ended_at)
    branches = _branches(state, specs, payloads, progress)
    tx = Transaction(
        gid=gid,
        branches=branches,
        expires_at=_moment(expires_at),
        interactive=interactive,
        initiator=initiator,
        tenant=tenant,
        labels=tuple(sorted(_decode_labels(labels).items())),
        fingerprint=fingerprint,
        trace=None if trace is None else _trace(trace),
        state=state,
        cancel_reason=CancelReason(cancel_reason),
        cancel_branch_id=cancel_branch_id,
        cancel_detail=cancel_detail,
        cancel_message=cancel_message,
        stuck=stuck,
        next_attempt_at=_optional_moment(next_attempt_at) or 0.0,
        waiting_on=waiting_on,
        version=version,
        saved_state=state,
        saved_branches=len(branches),
    )
    is_owned = next_attempt_at is None and ended_at is None
    return Record(
        tx=tx,
        owner=owner if is_owned else None,
        created_at=_moment(created_at),
        decided_at=_optional_moment(decided_at),
        ended_at=_optional_moment(ended_at),
        adopted_from=adopted_from or "",
    )


def _trace(text: str) -> TraceContext:
    traceparent, _, tracestate = text.partition(" ")
    if not _TRACEPARENT.fullmatch(traceparent):
        raise ValueError("the trace context is invalid")
    return TraceContext(traceparent=traceparent, tracestate=tracestate)


def _branches(
    state: TransactionState, specs: bytes, payloads: bytes | None, progress: bytes | None
) -> tuple[Branch, ...]:
    each_spec = _decode_specs(specs)
    each_payload = repeat(b"", len(each_spec)) if payloads is None else _decode_payloads(payloads)
    asked = [_spec(spec, payload) for spec, payload in zip(each_spec, each_payload, strict=True)]
    if len({spec.branch_id for spec in asked}) != len(asked):
        raise ValueError("two branches have one id")
    if progress is None:
        return tuple([_implied_branch(state, spec) for spec in asked])
    known = _decode_progress(progress)
    return tuple([_branch(spec, stored) for spec, stored in zip(asked, known, strict=True)])


def _implied_branch(state: TransactionState, spec: BranchSpec) -> Branch:
    tried, done, next_attempt_at = _implied(state, spec)
    return Branch(spec=spec, tried=tried, done=done, next_attempt_at=next_attempt_at)


def _spec(stored: _Spec, payload: bytes) -> BranchSpec:
    return BranchSpec(
        branch_id=stored.branch_id,
        participant=stored.participant,
        action=stored.action,
        payload=payload,
        content_type=stored.content_type,
        stage=stored.stage,
        tried_by_initiator=stored.tried_by_initiator,
        cancel_in_stage_order=stored.cancel_in_stage_order,
        kind=stored.kind,
        not_before=_moment(stored.not_before),
        check_back=stored.check_back,
    )


def _branch(spec: BranchSpec, stored: _Progress) -> Branch:
    return Branch(
        spec=spec,
        tried=stored.tried,
        result=stored.result,
        result_content_type=stored.result_content_type,
        done=stored.done,
        attempts=stored.attempts,
        last_error=stored.last_error,
        next_attempt_at=_moment(stored.next_attempt_at),
        heuristic=stored.heuristic,
        heuristic_reason=stored.heuristic_reason,
        notes=tuple([_note(stored) for stored in stored.notes]),
        failed_span_id=stored.failed_span_id,
    )


def _note(stored: _Note) -> Note:
    return Note(
        at=_moment(stored.at),
        operation=stored.operation,
        text=stored.text,
        count=stored.count,
        last_at=_moment(stored.last_at),
        stuck=stored.stuck,
        omitted=stored.omitted,
    )
