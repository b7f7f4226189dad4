"""The result of a demo: counts, times and violations. Pure functions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from participants.audit.snapshot import Snapshot
from participants.demo.initiator import OrderResult
from participants.demo.load import Kill, LoadResult
from participants.demo.plan import Plan
from participants.demo.rates import Rates, Span, rates
from participants.payment.store import CHARGED, REFUNDED
from tcc.client.outcome import CancelReason, TransactionRecord, TransactionState

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The result of a demo.

    Attributes:
        undecided: Orders whose transaction has not ended, or is unknown to the coordinator.
        recovered: Transactions that were live when a process that drove or served them was
            killed, and that have ended. The worker that drove a transaction, and the checkout that
            began it, are not known afterwards, so their kills count all live transactions.
        recovered_within_s: Seconds from the kill until the last of them had ended.
        unanswered: The errors of initiators that requested a decision and got none.
        violations: Violations of the audit, and responses that the log contradicts.
        rates: Orders per second: calm, and while a kill disturbed.
        effects: The local commits, charges, refunds and receipts in the databases, by name.
        check_backs: Orders that were decided by the order service's answer: its initiator was gone.
        latency_ms: Milliseconds from the first request to the known decision, by percentile.
    """

    seed: int
    orders: int
    confirmed: int
    cancelled_by_reason: Mapping[str, int]
    recovered: int
    recovered_within_s: float
    unanswered: Sequence[str]
    kills_planned: int
    kills: Sequence[Kill]
    violations: Sequence[str]
    latency_ms: Mapping[int, float]
    rates: Rates
    settled_s: float
    effects: Mapping[str, int]
    check_backs: int

    @property
    def cancelled(self) -> int:
        return sum(self.cancelled_by_reason.values())

    @property
    def undecided(self) -> int:
        return self.orders - self.confirmed - self.cancelled

    @property
    def is_well(self) -> bool:
        return (
            self.undecided == 0
            and not self.violations
            and not self.unanswered
            and len(self.kills) == self.kills_planned
        )


def effects(snapshot: Snapshot) -> dict[str, int]:
    """Count the orders that were committed locally first, the charges, refunds, receipts and shipments."""
    verbs = Counter(entry.verb for entry in snapshot.payments)
    shipments = {} if snapshot.shipments is None else {"shipments": len(snapshot.shipments)}
    return {
        "local_commits": sum(order.is_local for order in snapshot.orders),
        "charged": verbs[CHARGED],
        "refunded": verbs[REFUNDED],
        "receipts": len(snapshot.receipts),
        **shipments,
    }


def confirmed(records: Iterable[TransactionRecord]) -> int:
    """Count the transactions that are CONFIRMED."""
    return sum(record.state is TransactionState.CONFIRMED for record in records)


def summarise(
    plan: Plan,
    load: LoadResult,
    violations: Iterable[object],
    counted: Mapping[str, int] = MappingProxyType({}),
) -> Summary:
    """Return the summary. `violations`: those that the audit found; `counted`: the `effects`."""
    gids = {order.gid for order in plan.orders}
    records = {record.gid: record for record in load.records if record.gid in gids}
    recoveries_s = list(_recoveries_s(records.values(), load.kills))
    disturbances = [_disturbance(kill, records.values()) for kill in load.kills]
    return Summary(
        seed=plan.seed,
        orders=len(plan.orders),
        confirmed=confirmed(records.values()),
        cancelled_by_reason=cancelled_by_reason(records.values()),
        recovered=len(recoveries_s),
        recovered_within_s=max(recoveries_s, default=0.0),
        unanswered=[f"{placed.gid}: {placed.error}" for placed in load.placed if placed.error],
        kills_planned=len(plan.kills),
        kills=load.kills,
        violations=[*map(str, violations), *_contradicted(load.placed, records)],
        latency_ms=percentiles_ms(placed.latency_s for placed in load.placed),
        rates=rates(
            (placed.done_at - load.started_at for placed in load.placed), disturbances, load.placed_s
        ),
        settled_s=load.settled_s,
        effects=counted,
        check_backs=sum(map(_is_decided_by_check_back, records.values())),
    )


def _is_decided_by_check_back(record: TransactionRecord) -> bool:
    """Return whether a local-first order was decided at its expiry: by the answer to the question."""
    return (
        any(branch.check_back for branch in record.branches)
        and record.decided_at is not None
        and record.expires_at is not None
        and record.decided_at >= record.expires_at
    )


def cancelled_by_reason(records: Iterable[TransactionRecord]) -> dict[str, int]:
    """Count the CANCELLED ones by reason (the participant's, if it rejected), the most frequent first."""
    cancelled = (record for record in records if record.state is TransactionState.CANCELLED)
    return dict(Counter(map(_reason, cancelled)).most_common())


def _reason(record: TransactionRecord) -> str:
    if record.cancel_reason is CancelReason.REJECTED:
        # The participant's stable reason; its message follows a colon.
        return record.cancel_detail.partition(":")[0]
    return record.cancel_reason.name


def percentiles_ms(latencies_s: Iterable[float | None]) -> dict[int, float]:
    """Return the latencies that these percentages of orders did not exceed (nearest rank); may be empty."""
    ordered = sorted(latency_s for latency_s in latencies_s if latency_s is not None)
    if not ordered:
        return {}
    return {percent: ordered[-(-len(ordered) * percent // 100) - 1] * 1000 for percent in PERCENTILES}


def as_json(summary: Summary) -> dict[str, Any]:
    """Return the summary for programs: plain JSON values, times in seconds unless the name says otherwise."""
    return {
        "ok": summary.is_well,
        "seed": summary.seed,
        "orders": summary.orders,
        "confirmed": summary.confirmed,
        "cancelled": summary.cancelled,
        "cancelled_by_reason": dict(summary.cancelled_by_reason),
        **summary.effects,
        "check_backs": summary.check_backs,
        "undecided": summary.undecided,
        "unanswered": list(summary.unanswered),
        "recovered": summary.recovered,
        "recovered_within_s": round(summary.recovered_within_s, 3),
        "kills": len(summary.kills),
        "killed": [_kill_as_json(kill) for kill in summary.kills],
        "audit": list(summary.violations) or "ok",
        "latency_ms": {f"p{percent}": round(ms, 1) for percent, ms in summary.latency_ms.items()},
        "orders_per_s": {"calm": _rounded(summary.rates.calm), "kills": _rounded(summary.rates.under_kills)},
        "seconds": round(summary.settled_s, 3),
    }


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _kill_as_json(kill: Kill) -> dict[str, Any]:
    return {
        "victim": kill.death.victim,
        "pid": kill.death.pid,
        "after_orders": kill.after_orders,
        "at_s": round(kill.at_s, 3),
        "back_pid": kill.back_pid,
        "back_after_s": round(kill.back_after_s, 3),
    }


def _recoveries_s(records: Iterable[TransactionRecord], kills: Sequence[Kill]) -> Iterable[float]:
    """Yield the seconds from a kill to the end, for each ended transaction that the kill affected."""
    for record in records:
        waits_s = [wait_s for kill in kills if (wait_s := _recovery_s(record, kill)) is not None]
        if waits_s:
            yield max(waits_s)


def _disturbance(kill: Kill, records: Iterable[TransactionRecord]) -> Span:
    """Return the time until the process was back and what the kill had interrupted has ended."""
    waits_s = (wait_s for record in records if (wait_s := _recovery_s(record, kill)) is not None)
    return Span(kill.at_s, kill.at_s + max(kill.back_after_s, *waits_s, 0.0))


def _recovery_s(record: TransactionRecord, kill: Kill) -> float | None:
    """Return the seconds from a kill to the end; None if it was not affected or has not ended."""
    death = kill.death
    if record.created_at is None or record.ended_at is None:
        return None
    served = death.participant is None or any(
        branch.participant == death.participant for branch in record.branches
    )
    if not served or not record.created_at.timestamp() <= death.killed_at < record.ended_at.timestamp():
        return None
    return record.ended_at.timestamp() - death.killed_at


def _contradicted(placed: Iterable[OrderResult], records: Mapping[str, TransactionRecord]) -> Iterable[str]:
    """Yield the decisions that an initiator received and that the log contradicts."""
    for order in placed:
        record = records.get(order.gid)
        if order.confirmed is None:
            continue
        decision = "CONFIRM" if order.confirmed else "CANCEL"
        if record is None:
            yield f"ANSWER_CONTRADICTED {order.gid}: {decision} was returned, the log has no such transaction"
        elif order.confirmed is not _is_confirmed(record):
            yield f"ANSWER_CONTRADICTED {order.gid}: {decision} was returned, it is {record.state.name}"


def _is_confirmed(record: TransactionRecord) -> bool | None:
    match record.state:
        case TransactionState.CONFIRMING | TransactionState.CONFIRMED:
            return True
        case TransactionState.CANCELLING | TransactionState.CANCELLED:
            return False
        case TransactionState.TRYING | TransactionState.UNKNOWN:
            return None
