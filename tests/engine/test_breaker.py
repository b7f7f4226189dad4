"""The circuit breaker, step by step: closed, open, one probe, closed again or open for longer."""

import pytest

from coordinator.engine.breaker import Breaker, BreakerPolicy

POLICY = BreakerPolicy(failures_to_open=3, open_first_s=1.0, open_max_s=5.0)
NOW = 1_000.0


def _failed(times: int, breaker: Breaker | None = None, now: float = NOW) -> Breaker:
    breaker = breaker or Breaker(policy=POLICY)
    for _ in range(times):
        breaker = breaker.failed(now)
    return breaker


def _probe_failed(breaker: Breaker) -> Breaker:
    assert breaker.probe_at is not None
    return breaker.sent().failed(breaker.probe_at)


def test_closed_it_lets_everything_out() -> None:
    breaker = Breaker(policy=POLICY)
    assert breaker.closed
    assert breaker.allows(NOW)
    assert breaker.wait_s(NOW) == 0.0
    assert breaker.sent() is breaker


def test_failures_in_a_row_open_it() -> None:
    assert _failed(2).closed
    breaker = _failed(3)
    assert not breaker.closed
    assert not breaker.allows(NOW + 0.999)
    assert breaker.wait_s(NOW + 0.25) == 0.75


def test_a_success_resets_the_count() -> None:
    assert _failed(2, _failed(2).succeeded()).closed


def test_one_probe_goes_out_when_the_pause_is_over() -> None:
    breaker = _failed(3)
    assert breaker.allows(NOW + 1.0)
    assert breaker.wait_s(NOW + 1.0) == 0.0
    probing = breaker.sent()
    assert not probing.allows(NOW + 1.0)
    assert not probing.allows(NOW + 100.0)


def test_calls_beside_a_probe_wait_before_they_are_retried() -> None:
    """Without a wait they would poll indefinitely."""
    probing = _failed(3).sent()
    assert probing.wait_s(NOW + 1.5) == POLICY.open_first_s
    assert probing.wait_s(NOW + 100.0) == POLICY.open_first_s


def test_a_probe_that_succeeds_closes_it_and_forgets_everything() -> None:
    assert _failed(3).sent().succeeded() == Breaker(policy=POLICY)


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_the_cap() -> None:
    breaker = _failed(3)
    pauses = []
    for _ in range(5):
        pauses.append(breaker.open_s)
        breaker = _probe_failed(breaker)
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert not breaker.probing
    assert breaker.probe_at is not None
    assert breaker.allows(breaker.probe_at)


def test_after_closing_the_first_pause_is_short_again() -> None:
    breaker = _probe_failed(_probe_failed(_failed(3))).sent().succeeded()
    assert _failed(3, breaker).open_s == 1.0


def test_calls_sent_before_it_opened_do_not_prolong_the_pause() -> None:
    """A hundred calls that time out together are one piece of news, not a hundred."""
    opened = _failed(3)
    assert _failed(100, opened, now=NOW + 0.5) == opened


def test_a_late_answer_of_an_earlier_call_closes_it() -> None:
    assert _failed(3).succeeded().closed


def test_it_counts_on_while_it_is_open() -> None:
    opened = _failed(3)
    assert opened.failures == 3
    assert _failed(100, opened).failures == 3
    assert _probe_failed(_probe_failed(opened)).failures == 5
    assert opened.sent().succeeded().failures == 0


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_steps_leave_the_value_as_it_was(failures: int) -> None:
    breaker = _failed(failures)
    breaker.failed(NOW)
    assert breaker == _failed(failures)
