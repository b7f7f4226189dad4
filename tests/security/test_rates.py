"""The rates of clients: a second's calls at once, then as many as time allows."""

import pytest

from coordinator.core.errors import TenantLimit
from coordinator.security.caller import Client
from coordinator.security.rates import Rates


def client(name: str, calls_per_s: float) -> Client:
    return Client(name=name, gid_prefixes=(f"{name}-",), calls={}, calls_per_s=calls_per_s, expiry_max_s=1.0)


def taken(rates: Rates, one: Client) -> int:
    """Return how many calls fit now."""
    count = 0
    while True:
        try:
            rates.take(one)
        except TenantLimit:
            return count
        count += 1


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
        rates.take(slow)
    assert refusal.value.retry_after_s == 1.5
    now[0] += 1.5
    assert taken(rates, slow) == 1
