"""The report of a demo: its counts are right, and no error is reported as a success."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from participants.demo.cluster import Death
from participants.demo.initiator import OrderResult
from participants.demo.load import Kill, LoadResult
from participants.demo.plan import WORKER, make_plan
from participants.demo.summary import as_json, percentiles_ms, summarise
from tcc.client.outcome import (
    BranchRecord,
    BranchState,
    CancelReason,
    TransactionRecord,
    TransactionState,
    TryResult,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = make_plan(orders=4, seed=1)
GIDS = [order.gid for order in PLAN.orders]


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def branch(participant):
    return BranchRecord(
        branch_id=participant,
        participant=participant,
        action="",
        payload=b"",
        content_type="",
        stage=0,
        state=BranchState.CONFIRMED,
        tried_by_initiator=False,
        result=TryResult(branch_id=participant),
        attempts=0,
        last_error="",
        next_attempt_at=None,
    )


def record(gid, state=TransactionState.CONFIRMED, *, reason=CancelReason.NONE, detail="", **changes):
    whole = TransactionRecord(
        gid=gid,
        state=state,
        initiator="demo",
        labels={},
        created_at=at(0),
        expires_at=at(30),
        decided_at=at(1),
        ended_at=at(1),
        cancel_reason=reason,
        cancel_branch_id="",
        cancel_detail=detail,
        stuck=False,
        owner="",
        version=3,
        branches=(branch("inventory"), branch("order")),
    )
    return replace(whole, **changes)


def kill(participant=None, *, at_s=0.5):
    death = Death(victim=participant or WORKER, pid=1, killed_at=at(at_s).timestamp())
    return Kill(death=death, after_orders=1, at_s=at_s, back_pid=2, back_after_s=1.0)


def load(records, *, placed=None, kills=None):
    return LoadResult(
        placed=placed or [OrderResult(gid=one.gid) for one in records],
        kills=[kill(), kill("checkout-1"), kill("order")] if kills is None else kills,
        started_at=0.0,
        placed_s=2.0,
        settled_s=3.0,
        records=records,
    )


ALL_CONFIRMED = [record(gid) for gid in GIDS]


def test_all_is_well_when_every_order_ended_and_the_kills_took_place():
    summary = summarise(PLAN, load(ALL_CONFIRMED), [])
    assert summary.is_well
    assert (summary.orders, summary.confirmed, summary.cancelled, summary.undecided) == (4, 4, 0, 0)
    assert as_json(summary)["audit"] == "ok"


def test_a_cancellation_counts_under_its_reason():
    cancelled = [
        record(
            GIDS[0], TransactionState.CANCELLED, reason=CancelReason.REJECTED, detail="SOLD_OUT: none left"
        ),
        record(GIDS[1], TransactionState.CANCELLED, reason=CancelReason.REJECTED, detail="SOLD_OUT"),
        record(GIDS[2], TransactionState.CANCELLED, reason=CancelReason.EXPIRED),
        record(
            GIDS[3], TransactionState.CANCELLED, reason=CancelReason.REQUESTED, detail="ChangedMindError: x"
        ),
    ]
    summary = summarise(PLAN, load(cancelled), [])
    assert summary.cancelled_by_reason == {"SOLD_OUT": 2, "EXPIRED": 1, "REQUESTED": 1}
    assert (summary.confirmed, summary.cancelled, summary.undecided) == (0, 4, 0)


@pytest.mark.parametrize(
    "state", [TransactionState.TRYING, TransactionState.CONFIRMING, TransactionState.CANCELLING]
)
def test_a_live_transaction_is_undecided_and_not_well(state):
    summary = summarise(PLAN, load([*ALL_CONFIRMED[1:], record(GIDS[0], state, ended_at=None)]), [])
    assert (summary.undecided, summary.is_well) == (1, False)


def test_an_order_that_the_coordinator_does_not_know_is_undecided():
    summary = summarise(PLAN, load(ALL_CONFIRMED[1:]), [])
    assert (summary.undecided, summary.is_well) == (1, False)


def test_a_transaction_of_another_initiator_does_not_count():
    summary = summarise(PLAN, load([*ALL_CONFIRMED[1:], record("other")]), [])
    assert (summary.confirmed, summary.undecided) == (3, 1)


def test_a_violation_of_the_audit_is_reported_and_not_well():
    summary = summarise(PLAN, load(ALL_CONFIRMED), ["ORPHAN inventory sku-1"])
    assert not summary.is_well
    assert as_json(summary)["audit"] == ["ORPHAN inventory sku-1"]


def test_a_kill_that_did_not_take_place_is_not_well():
    assert not summarise(PLAN, load(ALL_CONFIRMED, kills=[kill()]), []).is_well


def local(gid, *, decided_s):
    own = replace(branch("order"), check_back=True)
    return record(gid, branches=(branch("inventory"), own), decided_at=at(decided_s))


def test_an_order_decided_at_its_expiry_is_a_check_back():
    asked = [local(GIDS[0], decided_s=30), local(GIDS[1], decided_s=29)]
    # Without a local branch there is no question: the expiry cancels.
    expired = record(GIDS[2], TransactionState.CANCELLED, reason=CancelReason.EXPIRED, decided_at=at(30))
    summary = summarise(PLAN, load([*asked, expired, record(GIDS[3])]), [])
    assert as_json(summary)["check_backs"] == 1


def test_an_initiator_that_got_an_error_is_not_well():
    placed = [OrderResult(gid=GIDS[0], error="InternalError INTERNAL")]
    summary = summarise(PLAN, load(ALL_CONFIRMED, placed=placed), [])
    assert (summary.unanswered, summary.is_well) == ([f"{GIDS[0]}: InternalError INTERNAL"], False)


@pytest.mark.parametrize(
    ("told_confirm", "state", "contradicted"),
    [
        (True, TransactionState.CONFIRMED, False),
        (True, TransactionState.CONFIRMING, False),
        (True, TransactionState.CANCELLED, True),
        (True, TransactionState.TRYING, True),
        (False, TransactionState.CANCELLED, False),
        (False, TransactionState.CONFIRMED, True),
        (False, TransactionState.TRYING, True),
        (None, TransactionState.CONFIRMED, False),
    ],
)
def test_an_answer_that_the_log_contradicts_is_a_violation(told_confirm, state, contradicted):
    placed = [OrderResult(gid=GIDS[0], confirmed=told_confirm)]
    summary = summarise(PLAN, load([record(GIDS[0], state)], placed=placed), [])
    assert bool(summary.violations) is contradicted


def test_an_answer_about_a_transaction_that_the_log_lost_is_a_violation():
    placed = [OrderResult(gid=GIDS[0], confirmed=True)]
    assert summarise(PLAN, load(ALL_CONFIRMED[1:], placed=placed), []).violations


@pytest.mark.parametrize(
    ("one_kill", "changes", "recovered"),
    [
        (kill(at_s=0.5), {}, 1),
        (kill("order", at_s=0.5), {}, 1),
        # Who began a transaction is not known afterwards.
        (kill("checkout-1", at_s=0.5), {}, 1),
        # Its participant was none of the transaction's.
        (kill("coupon", at_s=0.5), {}, 0),
        # It had ended before.
        (kill(at_s=1.5), {}, 0),
        # It began later.
        (kill(at_s=-0.5), {}, 0),
        # It has not ended.
        (kill(at_s=0.5), {"state": TransactionState.CONFIRMING, "ended_at": None}, 0),
    ],
)
def test_recovered_is_what_a_kill_hit_and_ended_all_the_same(one_kill, changes, recovered):
    summary = summarise(PLAN, load([record(GIDS[0], **changes)], kills=[one_kill]), [])
    assert summary.recovered == recovered
    assert summary.recovered_within_s == pytest.approx(0.5 * recovered)


def test_a_transaction_that_two_kills_hit_is_recovered_once():
    summary = summarise(PLAN, load([record(GIDS[0])], kills=[kill(at_s=0.25), kill("order", at_s=0.5)]), [])
    assert (summary.recovered, summary.recovered_within_s) == (1, pytest.approx(0.75))


def test_percentiles_are_by_nearest_rank_without_unanswered_orders():
    assert percentiles_ms([number / 1000 for number in range(1, 201)]) == {50: 100.0, 95: 190.0, 99: 198.0}
    assert percentiles_ms([None, 0.25]) == {50: 250.0, 95: 250.0, 99: 250.0}
    assert percentiles_ms([None]) == {}
