"""When batches are sent, in simulated time, against the rule as it is documented."""

import asyncio
import contextlib
import math
from typing import Any

from hypothesis import example, given, settings, strategies as st

from proof.simulate.virtual_loop import VirtualLoop
from tcc._internal.batcher import Batcher, FlushPolicy

# Binary fractions of a second: sums of them are exact.
TICK_S = 2.0**-10
ENDS_AT = 80


class Rule:
    """The rule, from what can be seen outside: what was put, sent and has ended."""

    def __init__(self, items_max: int, max_in_flight: int, policy: FlushPolicy, counted_s: float) -> None:
        self.items_max = items_max
        self.max_in_flight = max_in_flight
        self.policy = policy
        self.counted_s = counted_s
        self.put = 0
        self.sent: list[int] = []
        self.sent_at = -math.inf
        self.was_single = True
        self.ends_at: list[float] = []

    def is_due(self, now: float) -> bool:
        waiting = self.put - len(self.sent)
        in_flight = sum(ends_at > now for ends_at in self.ends_at)
        if not waiting or in_flight >= self.max_in_flight:
            return False
        is_enough = waiting >= min(self.policy.min_items, self.items_max)
        goes_singly = self.was_single and not in_flight
        return is_enough or goes_singly or now >= self.sent_at + self.policy.linger_s

    def send(self, batch: list[int], now: float, takes_s: float) -> None:
        assert self.is_due(now), "too early"
        assert len(batch) == min(self.put - len(self.sent), self.items_max)
        self.sent += batch
        self.sent_at, self.was_single = now, len(batch) == 1
        self.ends_at.append(now + min(takes_s, self.counted_s))


TICKS, COUNTS = st.integers(0, 40), st.sampled_from([1, 1, 1, 2, 7])
POLICIES = st.builds(
    FlushPolicy,
    linger_s=st.sampled_from([0.0, 8 * TICK_S, 25 * TICK_S]),
    min_items=st.sampled_from([1, 3, 4]),
)


# Two that chance seldom finds: an item alone after an item alone, and enough items beside a batch.
@example(
    arrivals=[(0, 1), (5, 1)],
    durations=[1],
    items_max=5,
    max_in_flight=1,
    policy=FlushPolicy(8 * TICK_S, 4),
    counted_s=math.inf,
)
@example(
    arrivals=[(0, 2), (5, 2), (6, 1), (7, 1)],
    durations=[20],
    items_max=5,
    max_in_flight=2,
    policy=FlushPolicy(25 * TICK_S, 4),
    counted_s=math.inf,
)
@settings(max_examples=50)
@given(
    arrivals=st.lists(st.tuples(TICKS, COUNTS), max_size=12),
    durations=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    items_max=st.sampled_from([1, 4, 5]),
    max_in_flight=st.integers(1, 3),
    policy=POLICIES,
    counted_s=st.sampled_from([math.inf, 20 * TICK_S]),
)
def test_batches_are_sent_when_they_are_due(
    *,
    arrivals: list[tuple[int, int]],
    durations: list[int],
    items_max: int,
    max_in_flight: int,
    policy: FlushPolicy,
    counted_s: float,
) -> None:
    broken: list[dict[str, Any]] = []
    loop = VirtualLoop(broken.append)  # type: ignore[abstract] # the rest is not used
    rule = Rule(items_max, max_in_flight, policy, counted_s)
    batches = 0

    async def take(takes_s: float) -> None:
        await asyncio.sleep(takes_s)

    def send(batch: list[int]) -> Any:
        nonlocal batches
        takes_s = durations[batches % len(durations)] * TICK_S
        batches += 1
        rule.send(batch, loop.time(), takes_s)
        return take(takes_s)

    batcher = Batcher[int](
        send,
        items_max=items_max,
        max_in_flight=max_in_flight,
        counted_s=counted_s,
        flush_policy=lambda: policy,
    )

    def put(count: int) -> None:
        batcher.put_many(range(rule.put, rule.put + count))
        rule.put += count

    with loop.running():
        running = loop.create_task(batcher.run())
        for tick, count in arrivals:
            loop.call_at(tick * TICK_S, put, count)
    for tick in range(ENDS_AT):
        loop.run_until(lambda: False, until_s=tick * TICK_S)
        assert not rule.is_due(loop.time()), f"late at tick {tick}"
    with loop.running(), contextlib.suppress(asyncio.CancelledError):
        if running.done():
            running.result()
        running.cancel()
    loop.run_until(running.done, until_s=math.inf)
    assert rule.sent == list(range(len(rule.sent)))
    assert len(rule.sent) + len(batcher) == rule.put
    assert broken == []
