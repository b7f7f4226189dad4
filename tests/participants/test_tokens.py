"""The script of the stock gate on a real Redis, against a plain model in Python."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from participants import redis_server
from tests.support.redis_process import needs_redis

pytestmark = needs_redis
if not redis_server.missing():
    from participants.inventory import tokens
    from participants.inventory.tokens import LIFETIMES, Correction, Tokens, Wanted

SKUS = ["A", "B", "C"]
BRANCHES = [(f"g{n}", "b") for n in range(6)]


@dataclass
class Model:
    """What the gate is to do, without time: SKU C is never loaded."""

    tokens: dict[str, int] = field(default_factory=dict)
    held: dict[Any, tuple[str, int]] = field(default_factory=dict)
    flights: dict[str, set[Any]] = field(default_factory=lambda: {sku: set() for sku in SKUS})
    loading: set[str] = field(default_factory=set)

    def take(self, wanted: list[Any]) -> list[int | str]:
        """Take in order; a SKU that is absent is loaded by the first batch that asks for it."""
        answers: list[int | str] = []
        absent = {w.sku: "loading" if w.sku in self.loading else "load" for w in wanted}
        for want in wanted:
            if want.sku not in self.tokens:
                self.loading.add(want.sku)
                answers.append(absent[want.sku])
            elif want.branch in self.held:
                answers.append(tokens.TAKEN)
            elif want.units <= self.tokens[want.sku]:
                self.tokens[want.sku] -= want.units
                self.held[want.branch] = (want.sku, want.units)
                self.flights[want.sku].add(want.branch)
                answers.append(tokens.TAKEN)
            else:
                answers.append(tokens.REFUSED if want.is_refusable else tokens.PASSED)
        return answers

    def give_back(self, branches: list[Any]) -> int:
        held = [self.held.pop(branch) for branch in dict.fromkeys(branches) if branch in self.held]
        for branch in branches:
            for flights in self.flights.values():
                flights.discard(branch)
        for sku, units in held:
            if sku in self.tokens:
                self.tokens[sku] += units
        return len(held)


@st.composite
def batches(draw: st.DrawFn) -> list[Any]:
    branches = draw(st.lists(st.sampled_from(BRANCHES), min_size=1, unique=True))
    return [
        Wanted(branch, draw(st.sampled_from(SKUS)), draw(st.integers(1, 4)), draw(st.booleans()))
        for branch in branches
    ]


STEPS = st.one_of(
    st.tuples(st.just("take"), batches() if not redis_server.missing() else st.nothing()),
    st.tuples(st.just("give_back"), st.lists(st.sampled_from(BRANCHES), min_size=1)),
    st.tuples(st.just("correct"), st.tuples(st.sampled_from("AB"), st.integers(-3, 8))),
    st.tuples(st.just("old correction"), st.tuples(st.sampled_from("AB"), st.integers(-3, 8))),
    st.tuples(st.just("lose"), st.sampled_from("AB")),
)


@pytest.fixture(scope="module")
def run() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def counts(run: asyncio.Runner) -> Iterator[Any]:
    with redis_server.redis_server() as socket:
        counts = Tokens(f"unix://{socket}")
        yield counts
        run.run(counts.close())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40)
@given(st.lists(STEPS, max_size=12))
def test_the_script_does_what_the_model_does(
    run: asyncio.Runner, counts: Any, steps: list[tuple[str, Any]]
) -> None:
    run.run(_follow(counts, steps))


async def _follow(counts: Any, steps: list[tuple[str, Any]]) -> None:
    await counts._redis.flushall()
    model, epochs = Model(), {"A": [""], "B": [""]}
    for step, what in steps:
        match step:
            case "take":
                assert await counts.take(what) == model.take(what)
            case "give_back":
                assert await counts.give_back(what) == model.give_back(what)
            case "correct":
                sku, units = what
                assert await counts.correct([Correction(sku, epochs[sku][-1], units)]) == [True]
                if sku not in model.tokens or units:
                    model.tokens[sku] = model.tokens.get(sku, 0) + units
                model.loading.discard(sku)
            case "old correction":
                sku, units = what
                for epoch in set(epochs[sku][:-1]) - {epochs[sku][-1]}:
                    assert await counts.correct([Correction(sku, epoch, units)]) == [False]
            case "lose":
                await counts._redis.delete("{stock}:sku:" + what)
                model.tokens.pop(what, None)
        for count in await counts.read(["A", "B"]):
            assert count.tokens == model.tokens.get(count.sku)
            assert {flight.branch for flight in count.flights} == model.flights[count.sku]
            if count.epoch != epochs[count.sku][-1]:
                epochs[count.sku].append(count.epoch)


async def _load(counts: Any, **units: int) -> None:
    await counts._redis.flushall()
    await counts.correct([Correction(sku, "", n) for sku, n in units.items()])


def test_what_is_given_back_twice_counts_once(run: asyncio.Runner, counts: Any) -> None:
    async def scenario() -> None:
        await _load(counts, A=5)
        await counts.take([Wanted(("g", "b"), "A", 2)])
        assert [await counts.give_back([("g", "b")]) for _ in range(2)] == [1, 0]
        [count] = await counts.read(["A"])
        assert count.tokens == 5

    run.run(scenario())


def test_a_repeated_take_of_a_branch_takes_once(run: asyncio.Runner, counts: Any) -> None:
    async def scenario() -> None:
        await _load(counts, A=1)
        for _ in range(2):
            assert await counts.take([Wanted(("g", "b"), "A", 1)]) == [tokens.TAKEN]
        [count] = await counts.read(["A"])
        assert (count.tokens, [flight.branch for flight in count.flights]) == (0, [("g", "b")])

    run.run(scenario())


def test_what_a_branch_holds_is_known_in_the_next_period(run: asyncio.Runner, counts: Any) -> None:
    async def scenario() -> None:
        await _load(counts, A=5)
        wanted = [Wanted(("g", "b"), "A", 2)]
        await counts.take(wanted)
        [held] = await counts._redis.keys("{stock}:held:*")
        prefix, _, period = held.decode().rpartition(":")
        await counts._redis.rename(held, f"{prefix}:{int(period) - 1}")
        assert await counts.take(wanted) == [tokens.TAKEN]
        assert [await counts.give_back([("g", "b")]) for _ in range(2)] == [1, 0]
        [count] = await counts.read(["A"])
        assert count.tokens == 5

    run.run(scenario())


def test_what_branches_hold_is_forgotten_in_time(run: asyncio.Runner, counts: Any) -> None:
    async def scenario() -> None:
        await _load(counts, A=5)
        await counts.take([Wanted(("g", "b"), "A", 2)])
        [held] = await counts._redis.keys("{stock}:held:*")
        period_ms = LIFETIMES.branch_s * 1000
        assert period_ms < await counts._redis.pttl(held) <= 2 * period_ms

    run.run(scenario())


def test_one_process_loads_a_missing_sku_and_an_unknown_one_is_remembered(
    run: asyncio.Runner, counts: Any
) -> None:
    async def scenario() -> None:
        await counts._redis.flushall()
        wanted = [Wanted(("g", "b"), "A", 1)]
        assert [await counts.take(wanted) for _ in range(2)] == [[tokens.LOAD], [tokens.LOADING]]
        await counts.correct([Correction("A", "", is_unknown=True)])
        assert await counts.take(wanted) == [tokens.UNKNOWN]
        assert 0 < await counts._redis.pttl("{stock}:unknown:A") <= 1_200

    run.run(scenario())


def test_lifetimes_of_skus_differ(run: asyncio.Runner, counts: Any) -> None:
    async def scenario() -> None:
        skus = [f"s{n}" for n in range(20)]
        await _load(counts, **dict.fromkeys(skus, 1))
        lifetimes = [await counts._redis.pttl("{stock}:sku:" + sku) for sku in skus]
        assert all(479_000 < each <= 720_000 for each in lifetimes)
        assert max(lifetimes) - min(lifetimes) > 24_000

    run.run(scenario())


def test_a_sku_is_compared_by_one_process_in_an_interval(run: asyncio.Runner, counts: Any) -> None:
    async def scenario() -> None:
        await _load(counts, A=1, B=1)
        assert await counts.due(interval_s=60, skus_max=10) == []
        await counts._redis.zadd("{stock}:compared", {"A": 0, "B": 0, "gone": 0})
        assert await counts.due(interval_s=60, skus_max=2) == ["A", "B"]
        assert await counts.due(interval_s=60, skus_max=9) == []
        assert await counts._redis.zcard("{stock}:compared") == 2

    run.run(scenario())
