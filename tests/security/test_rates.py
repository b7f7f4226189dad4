"""The rates of clients: a second's calls at once, then as many as time allows."""

import pytest

from coordinator.core.errors import Overloaded, TenantLimit
from coordinator.security.caller import Client
from coordinator.security.rates import Rates
from coordinator.security.shares import Shares


def client(name: str, calls_per_s: float) -> Client:
    return Client(name=name, gid_prefixes=(f"{name}-",), calls={}, calls_per_s=calls_per_s, expiry_max_s=1.0)


def taken(rates: Rates, one: Client) -> int:
    """Return how many calls fit now."""
    count = 0
    while rates.take(one):
        count += 1
    assert isinstance(rates.refusal(one), TenantLimit)
    return count


def test_a_client_gets_a_seconds_calls_and_then_what_time_allows() -> None:
    now = [100.0]
    rates, shop, bank = Rates(lambda: now[0]), client("shop", 8.0), client("bank", 2.0)
    assert (taken(rates, shop), taken(rates, bank)) == (8, 2)
    now[0] += 0.25
    assert (taken(rates, shop), taken(rates, bank)) == (2, 0)
    now[0] += 1_000.0
    assert (taken(rates, shop), taken(rates, bank)) == (8, 2)


def test_a_refusal_names_when_the_next_call_fits() -> None:
    now = [0.0]
    rates, slow = Rates(lambda: now[0]), client("slow", 0.5)
    assert taken(rates, slow) == 1
    now[0] += 0.5  # a quarter of a call
    with pytest.raises(TenantLimit) as refusal:
        rates.check(slow)
    assert refusal.value.retry_after_s == 1.5
    now[0] += 1.5
    assert taken(rates, slow) == 1


def test_of_several_calls_those_are_counted_that_fit() -> None:
    now = [0.0]
    rates, shop = Rates(lambda: now[0]), client("shop", 8.0)
    assert (rates.take(shop, 5), rates.take(shop, 0), rates.take(shop, 5), rates.take(shop, 5)) == (
        5,
        0,
        3,
        0,
    )
    now[0] += 0.5
    assert rates.take(shop, 5) == 4


def test_calls_beyond_a_share_leave_the_own_rate_as_it_is() -> None:
    now, saturated = [0.0], [False]
    shares = Shares(lambda: now[0], lambda: saturated[0])
    rates, shop, bank = Rates(lambda: now[0], shares), client("shop", 1_000.0), client("bank", 1_000.0)
    assert (rates.take(shop, 200), rates.take(bank, 1)) == (200, 1)
    now[0], saturated[0] = 1.0, True
    # A window of 201 calls in a second ends. Each of two tenants gets an equal share, half of it at once.
    assert rates.take(shop, 400) == 50
    refusals = [rates.refusal(shop) for _ in range(3)]
    assert {type(refusal) for refusal in refusals} == {Overloaded}
    # They wait each for a turn of its own.
    waits = [refusal.retry_after_s for refusal in refusals]
    assert waits == sorted(set(waits))
    saturated[0] = False
    now[0] = 60.0  # the other one is gone: no bound
    assert rates.take(shop, 1_200) == 1_000
    assert isinstance(rates.refusal(shop), TenantLimit)
