"""What can be seen from outside: it writes the history, and checks after every step what may never be.

The judge of a whole history is `proof.history.checker`. What is checked here at once is
what shows best where it happens: the moves of a row, the effects in a participant's
tables, and that what leaves agrees with what is durable at that very moment.
"""

from collections.abc import Callable
from typing import Any

from coordinator.core.kinds import needs_call
from coordinator.core.model import (
    DECISIONS,
    BranchKind,
    BranchSpec,
    Operation as CoreOperation,
    TransactionState,
)
from coordinator.log.rows import record
from coordinator.log.statements import RECORD
from proof.history.events import (
    LOG,
    Call,
    Decided,
    Decision,
    Effect,
    Fault,
    Kind,
    Operation,
    Registered,
    Reply,
    ReplyOutcome,
    Request,
    Verb,
)
from proof.history.recorder import ListRecorder
from proof.simulate.log_database import LogServer, Row
from proof.simulate.participant_database import ParticipantDatabase
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as participant_pb

_DECISIONS = {state: Decision[operation.name] for state, operation in DECISIONS.items()}
_OPERATIONS = {
    common.OPERATION_TRY: Operation.TRY,
    common.OPERATION_CONFIRM: Operation.CONFIRM,
    common.OPERATION_CANCEL: Operation.CANCEL,
    common.OPERATION_CHECK: Operation.CHECK,
}
_PATHS = {
    "TryBranch": Operation.TRY,
    "ConfirmBranch": Operation.CONFIRM,
    "CancelBranch": Operation.CANCEL,
    "CheckBranch": Operation.CHECK,
}


class Observer:
    """Sees everything; the system sees nothing of it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.recorder = ListRecorder()
        # What may never be, and was. Collected and not raised: the product would catch it.
        self.broken: list[str] = []
        self._now = now
        # Set when the world is built.
        self.log: LogServer
        self._effects_seen: dict[str, int] = {}
        # What each branch has had: gid, branch, operation.
        self._had: dict[tuple[str, str, str], None] = {}
        self._requests = 0

    # --- faults, for the story -----------------------------------------------------------

    def note(self, detail: str) -> None:
        self.fault("message", "", detail)

    def fault(self, kind: str, target: str, detail: str = "") -> None:
        self.recorder.record(Fault(at=self._now(), kind=kind, target=target, detail=detail))

    def _promise(self, kept: bool, broken: str) -> None:  # noqa: FBT001 - an assertion of the simulation
        if not kept:
            self.broken.append(broken)

    # --- the log ---------------------------------------------------------------------------

    def row_changed(self, statement: str, owner: str, before: Row | None, after: Row | None) -> None:
        """Called by the log's database at the instant of a commit."""
        at = self._now()
        if after is None:
            self._promise(
                before is not None and TransactionState(before["state"]).ended, f"{before} was deleted undone"
            )
            return
        gid, state = after["gid"], TransactionState(after["state"])
        self.fault("row", gid, f"v{after['version']} {state.name} {statement} by {owner[-12:]}")
        self._check_move(gid, before, after)
        tx = record(as_read(after)).usable().tx
        branch_ids = tuple([branch.spec.branch_id for branch in tx.branches])
        kinds = tuple([kind_of(branch.spec) for branch in tx.branches])
        known = len(record(as_read(before)).usable().tx.branches) if before else 0
        if before is None or known < len(branch_ids):
            self.recorder.record(
                Registered(
                    at=at, gid=gid, branch_ids=branch_ids[known:], kinds=kinds[known:], tenant=tx.tenant
                )
            )
        if state.decided and (before is None or not TransactionState(before["state"]).decided):
            self.recorder.record(Decided(at=at, gid=gid, decision=_DECISIONS[state], observer=LOG))
            if _DECISIONS[state] is Decision.CONFIRM:
                for branch in tx.branches:
                    branch_id = branch.spec.branch_id
                    tried = (gid, branch_id, "TRY") in self._had
                    self._promise(
                        tried or not needs_call(branch.spec, CoreOperation.TRY),
                        f"{gid}: CONFIRM is decided and {branch_id} was not tried",
                    )

    def _check_move(self, gid: str, before: Row | None, after: Row) -> None:
        """Guarantee 1, and that nothing is written behind anybody's back."""
        if before is None:
            tx = record(as_read(after)).usable().tx
            messages = bool(tx.branches) and all(b.spec.kind is BranchKind.MESSAGE for b in tx.branches)
            first = TransactionState.CONFIRMING if messages else TransactionState.TRYING
            self._promise(after["version"] == 1 and after["state"] == first, f"{gid}: begun half-way")
            return
        was, now = TransactionState(before["state"]), TransactionState(after["state"])
        self._promise(after["version"] == before["version"] + 1, f"{gid}: a version was skipped")
        self._promise(not was.ended, f"{gid}: an end was written again")
        self._promise(
            not was.decided or _DECISIONS[was] is _DECISIONS.get(now),
            f"{gid}: the decision changed from {was.name} to {now.name}",
        )
        self._promise(
            was is TransactionState.TRYING or before["branches"] == after["branches"],
            f"{gid}: a branch joined late",
        )
        self._promise(before["fingerprint"] == after["fingerprint"], f"{gid}: its content changed")

    # --- participants ------------------------------------------------------------------------

    def request_arrived(self, host: str, path: str, message: Any) -> None:
        """Called by the network when a server begins a call."""
        if "ParticipantService" not in path:
            return
        for call in _calls_in(path, message):
            operation = _OPERATIONS.get(call.operation) or _PATHS[path.rpartition("/")[2]]
            self._check_call(call.gid, call.branch_id, operation)
            self.recorder.record(
                Call(
                    at=self._now(),
                    gid=call.gid,
                    branch_id=call.branch_id,
                    participant=host,
                    operation=operation,
                )
            )

    def _check_call(self, gid: str, branch_id: str, operation: Operation) -> None:
        row = self.log.transactions.get(gid)
        self._promise(
            row is not None, f"{gid}: {operation} of {branch_id} left before the transaction was durable"
        )
        if row is not None and operation not in (Operation.TRY, Operation.CHECK):
            decision = _DECISIONS.get(TransactionState(row["state"]))
            self._promise(
                decision is not None and decision.value == operation.value,
                f"{gid}: {operation} of {branch_id} left, the log says {TransactionState(row['state']).name}",
            )

    def committed(self, database: ParticipantDatabase) -> None:
        """Called by a participant's database after each local commit."""
        seen = self._effects_seen.get(database.host, 0)
        rows = database.sqlite.execute("SELECT * FROM effects WHERE number > ? ORDER BY number", (seen,))
        for number, gid, branch_id, operation, account, quantity, kind in rows.fetchall():
            self._effects_seen[database.host] = number
            self._check_effect(gid, branch_id, operation, account, Kind(kind))
            self.recorder.record(
                Effect(
                    at=self._now(),
                    gid=gid,
                    branch_id=branch_id,
                    participant=database.host,
                    operation=Operation(operation),
                    quantity=quantity,
                    kind=Kind(kind),
                )
            )
        wrong = database.sqlite.execute(
            "SELECT * FROM accounts"
            " WHERE available < 0 OR reserved < 0 OR taken < 0 OR available + reserved + taken <> initial"
        ).fetchone()
        self._promise(wrong is None, f"{database.host}: the account {wrong} is out of balance")

    def _check_effect(self, gid: str, branch_id: str, operation: str, account: str, kind: Kind) -> None:
        key = (gid, branch_id, operation)
        self._promise(key not in self._had, f"{gid}: {operation} of {branch_id} took effect twice")
        self._had[key] = None
        cancelled, confirmed = (
            (gid, branch_id, "CANCEL") in self._had,
            (gid, branch_id, "CONFIRM") in self._had,
        )
        self._promise(not (cancelled and confirmed), f"{gid}: {branch_id} is confirmed and cancelled")
        tried = (gid, branch_id, "TRY") in self._had or kind is Kind.MESSAGE
        self._promise(tried, f"{gid}: {operation} of {branch_id} took effect without a Try")
        if operation == "TRY":
            self._promise(not (cancelled or confirmed), f"{gid}: a late Try of {branch_id} took effect")
        row = self.log.transactions.get(gid)
        branches = record(as_read(row)).usable().tx.branches if row else ()
        asked = {b.spec.branch_id: b.spec.payload for b in branches}
        self._promise(
            kind is Kind.LOCAL or f'"{account}"'.encode() in asked.get(branch_id, b""),
            f"{gid}: {branch_id} took effect on {account}, which the log does not know of",
        )

    # --- initiators --------------------------------------------------------------------------

    def asked(
        self,
        initiator: str,
        verb: Verb,
        gid: str,
        *,
        tenant: str,
        branch_id: str = "",
        branch_ids: tuple[str, ...] = (),
        digest: str = "",
    ) -> str:
        """An initiator sends a request. Returns the request's name."""
        self._requests += 1
        name = f"{initiator}#{self._requests}"
        self.recorder.record(
            Request(
                at=self._now(),
                request=name,
                initiator=initiator,
                verb=verb,
                gid=gid,
                branch_id=branch_id,
                digest=digest,
                branch_ids=branch_ids,
                tenant=tenant,
            )
        )
        return name

    def told(
        self, request: str, gid: str, outcome: ReplyOutcome, *, completed: bool = False, reason: str = ""
    ) -> None:
        """An initiator learns what became of it."""
        self.recorder.record(
            Reply(
                at=self._now(), request=request, gid=gid, outcome=outcome, completed=completed, reason=reason
            )
        )
        row = self.log.transactions.get(gid)
        if outcome in (
            ReplyOutcome.ACCEPTED,
            ReplyOutcome.TRIED,
            ReplyOutcome.CONFIRMED,
            ReplyOutcome.CANCELLED,
        ):
            self._promise(row is not None, f"{gid}: acknowledged, and the log does not hold it")
        if row is not None and outcome in (ReplyOutcome.CONFIRMED, ReplyOutcome.CANCELLED):
            decision = _DECISIONS.get(TransactionState(row["state"]))
            replied = Decision.CONFIRM if outcome is ReplyOutcome.CONFIRMED else Decision.CANCEL
            self._promise(
                decision is replied,
                f"{gid}: replied {outcome}, the log holds {TransactionState(row['state']).name}",
            )
            if completed:
                self._promise(TransactionState(row["state"]).ended, f"{gid}: replied that all is done")


def _calls_in(path: str, message: Any) -> list[participant_pb.BranchCall]:
    if path.endswith("StreamBranches"):
        request = participant_pb.StreamBranchesRequest.FromString(message)
        return [item.call for item in request.items]
    return list(message.calls) if path.endswith("ExecuteBranches") else [message.call]


def as_read(row: Row) -> tuple[Any, ...]:
    """The row as `coordinator.log.rows.record` wants it."""
    return tuple([row[name] for name in RECORD])


def kind_of(spec: BranchSpec) -> Kind:
    """Return the kind of a branch, as histories name it."""
    return Kind.LOCAL if spec.check_back else Kind[spec.kind.name]
