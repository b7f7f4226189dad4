"""Decisions about stock without a database: transition table, admission, gate, partitions."""

from itertools import product

import pytest
from hypothesis import given, strategies as st

from participants.inventory.gate import StockGate
from participants.inventory.partitions import PARTITIONS, partition_of
from participants.inventory.requests import ReserveStock
from participants.inventory.reservation import TRANSITIONS, ReservationState, Verb, admit, stock_changes
from participants.transitions import InvalidTransitionError, advance, sources

from .conftest import Clock


def wants(quantity: int, sku: str = "A") -> ReserveStock:
    return ReserveStock(sku=sku, quantity=quantity)


def reasons(answers: list) -> list[str | None]:
    return [answer and answer.reason for answer in answers]


@pytest.mark.parametrize(("state", "verb"), list(product([None, *ReservationState], Verb)))
def test_every_cell_of_the_reservation_table(state: ReservationState | None, verb: Verb) -> None:
    legal = {
        (None, Verb.RESERVE): ReservationState.RESERVED,
        (ReservationState.RESERVED, Verb.CONFIRM): ReservationState.CONFIRMED,
        (ReservationState.RESERVED, Verb.CANCEL): ReservationState.CANCELLED,
    }
    if (state, verb) in legal:
        assert advance(TRANSITIONS, state, verb, subject="r") is legal[state, verb]
    else:
        with pytest.raises(InvalidTransitionError):
            advance(TRANSITIONS, state, verb, subject="r")


def test_a_conditional_update_has_the_condition_of_the_table() -> None:
    assert sources(TRANSITIONS, Verb.CONFIRM) == [ReservationState.RESERVED]


def test_first_come_first_served_and_a_smaller_one_may_still_fit() -> None:
    assert reasons(admit([wants(3), wants(3), wants(2), wants(1)], {"A": 5})) == [
        None,
        "SOLD_OUT",
        None,
        "SOLD_OUT",
    ]


def test_an_unknown_sku_differs_from_a_sold_out_one() -> None:
    assert reasons(admit([wants(1, "B"), wants(1)], {"A": 0})) == ["UNKNOWN_SKU", "SOLD_OUT"]


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.integers(1, 9))),
    st.dictionaries(st.sampled_from("AB"), st.integers(0, 30)),
)
def test_admission_never_promises_more_than_there_is(
    wanted: list[tuple[str, int]], available: dict[str, int]
) -> None:
    requests = [wants(quantity, sku) for sku, quantity in wanted]
    answers = admit(requests, available)
    for sku in "ABC":
        asked = [(r.quantity, a) for r, a in zip(requests, answers, strict=True) if r.sku == sku]
        taken = sum(quantity for quantity, answer in asked if answer is None)
        left = available.get(sku, 0) - taken
        assert left >= 0
        assert all(quantity > left for quantity, answer in asked if answer is not None)


def test_a_hot_sku_is_one_change_and_no_verb_makes_or_loses_stock() -> None:
    for verb in Verb:
        [a, b] = stock_changes(verb, [("B", 1), ("A", 2), ("A", 3)])
        assert (a.sku, b.sku) == ("A", "B")
        assert max(a[1:]) == 5
        assert sum(a[1:]) == sum(b[1:]) == 0


def test_partitions_are_the_same_in_every_process_and_all_used() -> None:
    assert partition_of("hot") == 7
    assert {partition_of(f"sku-{n}") for n in range(2_000)} == set(range(PARTITIONS))


class TestGate:
    @pytest.fixture
    def gate(self, clock: Clock) -> StockGate:
        return StockGate(believed_for_s=1.0, skus_max=2, clock=clock)

    def test_refuses_nothing_before_the_database_has_spoken(self, gate: StockGate) -> None:
        assert not gate.refuses("A", 10**6)

    def test_refuses_only_more_than_the_database_reported(self, gate: StockGate) -> None:
        assert gate.ran_short("A", 3, gate.ticket("A"))
        assert gate.refuses("A", 4)
        assert not gate.refuses("A", 3)
        assert not gate.refuses("B", 4)

    def test_a_restock_elsewhere_is_seen_within_the_bound(self, gate: StockGate, clock: Clock) -> None:
        gate.ran_short("A", 0, gate.ticket("A"))
        clock.now_s = 0.99
        assert gate.refuses("A", 1)
        clock.now_s = 1.0
        assert not gate.refuses("A", 1)

    def test_its_own_refusals_do_not_prolong_what_it_believes(self, gate: StockGate, clock: Clock) -> None:
        gate.ran_short("A", 0, gate.ticket("A"))
        for tick in range(100):
            clock.now_s = tick / 100
            assert gate.refuses("A", 1)
        clock.now_s = 1.0
        assert not gate.refuses("A", 1)

    def test_one_try_asks_again_while_the_others_are_refused(self, gate: StockGate, clock: Clock) -> None:
        gate.ran_short("A", 0, gate.ticket("A"))
        clock.now_s += 1.0
        assert [gate.refuses("A", 1) for _ in range(3)] == [False, True, True]
        gate.ran_short("A", 0, gate.ticket("A"))
        clock.now_s += 0.9
        assert gate.refuses("A", 1)

    def test_another_one_asks_if_no_answer_comes(self, gate: StockGate, clock: Clock) -> None:
        gate.ran_short("A", 0, gate.ticket("A"))
        for _ in range(3):
            clock.now_s += 1.0
            assert [gate.refuses("A", 1) for _ in range(2)] == [False, True]
        clock.now_s += 1.0  # after four times nothing is believed any more
        assert [gate.refuses("A", 1) for _ in range(2)] == [False, False]

    def test_stock_that_suffices_opens_it(self, gate: StockGate) -> None:
        gate.ran_short("A", 0, gate.ticket("A"))
        gate.sufficed("A")
        assert not gate.refuses("A", 1)

    def test_a_cancel_reopens_it_at_once(self, gate: StockGate) -> None:
        gate.ran_short("A", 0, gate.ticket("A"))
        gate.reopen("A")
        assert not gate.refuses("A", 1)

    def test_a_report_that_a_cancel_has_overtaken_does_not_count(self, gate: StockGate) -> None:
        ticket = gate.ticket("A")
        gate.reopen("A")
        assert not gate.ran_short("A", 0, ticket)
        assert not gate.refuses("A", 1)

    def test_it_forgets_the_oldest_sku_beyond_its_bound(self, gate: StockGate) -> None:
        for sku in "ABC":
            gate.ran_short(sku, 0, gate.ticket(sku))
        assert [gate.refuses(sku, 1) for sku in "ABC"] == [False, True, True]
