"""Shares of a saturated worker, by simulated time."""

from collections.abc import Mapping

import pytest

from coordinator.security.shares import Shares

STEP_S = 0.01
# The calls per second that the simulated worker can do.
CAPACITY = 1_000.0


class Simulation:
    """A worker that is saturated when it does all that it can.

    What it is offered beyond that waits in one queue, so tenants get parts of the capacity that are as
    large as their parts of the offers that were admitted.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._load = 0.0
        self.shares = Shares(lambda: self.now, lambda: self._load >= CAPACITY)

    def run(self, seconds: float, offers: Mapping[str, float]) -> dict[str, float]:
        """Return the calls per second that each tenant gets, if these are offered."""
        done = dict.fromkeys(offers, 0.0)
        due = dict.fromkeys(offers, 0.0)
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            admitted = dict.fromkeys(offers, 0)
            for tenant, rate in offers.items():
                due[tenant] += rate * STEP_S
                while due[tenant] >= 1.0:
                    due[tenant] -= 1.0
                    admitted[tenant] += self._takes(tenant)
            self._load = sum(admitted.values()) / STEP_S
            served = min(1.0, CAPACITY / self._load) if self._load else 0.0
            for tenant, count in admitted.items():
                done[tenant] += count * served
        return {tenant: count / seconds for tenant, count in done.items()}

    def _takes(self, tenant: str) -> bool:
        if self.shares.take(tenant):
            return True
        self.shares.refusal(tenant)
        return False


def test_a_tenant_alone_has_no_bound() -> None:
    worker = Simulation()
    assert worker.run(5.0, {"flood": 5_000.0})["flood"] == pytest.approx(CAPACITY)
    assert worker.shares.rate_max is None


def test_tenants_have_no_bound_while_there_is_room() -> None:
    worker = Simulation()
    assert worker.run(5.0, {"shop": 100.0, "bank": 700.0}) == pytest.approx(
        {"shop": 100.0, "bank": 700.0}, abs=1.0
    )
    assert worker.shares.rate_max is None


@pytest.mark.parametrize(
    ("offered", "fair"),
    [
        # Less than its share: it gets all of it.
        (50.0, 50.0),
        (300.0, 300.0),
        # More than its share: it gets that.
        (800.0, CAPACITY / 2),
        (5_000.0, CAPACITY / 2),
    ],
)
def test_an_honest_tenant_keeps_its_share_beside_a_flooding_one(offered: float, fair: float) -> None:
    worker, offers = Simulation(), {"flood": 5_000.0, "honest": offered}
    worker.run(5.0, offers)
    got = worker.run(10.0, offers)
    assert got["honest"] >= 0.9 * fair
    # What it does not ask for is not lost.
    assert got["flood"] >= 0.7 * (CAPACITY - got["honest"])


def test_two_honest_tenants_keep_their_shares_beside_a_flooding_one() -> None:
    worker, offers = Simulation(), {"flood": 5_000.0, "shop": 100.0, "bank": 300.0}
    worker.run(5.0, offers)
    got = worker.run(10.0, offers)
    assert got["shop"] >= 90.0
    assert got["bank"] >= 270.0


def test_tenants_with_few_calls_are_never_refused() -> None:
    now = [0.0]
    # Other programs have the CPU.
    shares = Shares(lambda: now[0], lambda: True)
    for _ in range(1_000):
        now[0] += 0.1
        for tenant in ("bank", *["shop"] * 9):
            assert shares.take(tenant)


def test_the_bound_ends_when_the_others_have_left() -> None:
    worker = Simulation()
    worker.run(5.0, {"flood": 5_000.0, "honest": 800.0})
    assert worker.shares.rate_max is not None
    worker.run(3.0, {"flood": 5_000.0})
    assert worker.shares.rate_max is None


def test_refused_callers_are_not_asked_back_all_at_once() -> None:
    worker = Simulation()
    worker.run(5.0, {"flood": 5_000.0, "honest": 800.0})
    refused = 20 - worker.shares.take("flood", 20)
    waits = [worker.shares.refusal("flood").retry_after_s for _ in range(refused)]
    assert len(waits) >= 10
    assert all(0 < wait <= 1.0 for wait in waits)
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] or waits[-1] == 1.0
