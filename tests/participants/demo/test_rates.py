"""The rates of a demo: every order counts once, as calm or as disturbed."""

import pytest
from hypothesis import given, strategies as st

from participants.demo.rates import Rates, Span, merged, rates

# Whole seconds, so that sums are exact.
seconds = st.integers(min_value=0, max_value=100)
spans = st.lists(st.tuples(seconds, seconds).map(lambda pair: Span(min(pair), max(pair))))


def test_orders_within_a_kill_count_apart_from_calm_ones():
    assert rates([1, 2, 3, 5, 9], [Span(2, 6)], 10) == Rates(calm=2 / 6, under_kills=3 / 4)


def test_overlapping_kills_disturb_their_common_time_once():
    assert merged([Span(4, 6), Span(1, 3), Span(2, 5)]) == [Span(1, 6)]


def test_a_disturbance_ends_with_the_last_order():
    assert rates([1, 9], [Span(8, 30)], 10) == Rates(calm=1 / 8, under_kills=1 / 2)


def test_without_calm_or_without_kills_there_is_no_such_rate():
    assert rates([1], [], 2) == Rates(calm=0.5, under_kills=None)
    assert rates([1], [Span(0, 2)], 2) == Rates(calm=None, under_kills=0.5)


@given(st.lists(st.integers(min_value=0, max_value=99)), spans)
def test_every_order_is_counted_once(done_s, kills):
    found = rates(done_s, kills, 100)
    disturbed_s = sum(span.seconds for span in merged(kills))
    counted = (found.calm or 0) * (100 - disturbed_s) + (found.under_kills or 0) * disturbed_s
    assert counted == pytest.approx(len(done_s))
