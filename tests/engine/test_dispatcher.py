"""One participant's dispatcher: at most as many calls as its bulkhead holds, and one result for each."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from coordinator.core.model import BranchCall, BranchSpec, CallResult, Operation, OutcomeCode
from coordinator.engine.breaker import BreakerPolicy
from coordinator.engine.dispatcher import ParticipantDispatcher, ParticipantPolicy
from coordinator.ports.participants import CallResults, OnResults
from tcc._internal.batcher import FlushPolicy

SUCCEEDED = CallResult(code=OutcomeCode.SUCCEEDED)
UNREACHABLE = CallResult(code=OutcomeCode.FAILED, reason="UNAVAILABLE", unreachable=True)
SPEC = BranchSpec(branch_id="b", participant="stock", action="reserve")


def call(number: int) -> BranchCall:
    return BranchCall(gid=f"g{number}", index=0, operation=Operation.TRY, spec=SPEC, expires_at=100.0)


class Hall:
    """A participant that holds its calls until the test releases them."""

    def __init__(self, answer: CallResult = SUCCEEDED) -> None:
        self.answer = answer
        self.inside = 0
        self.inside_most = 0
        self.came = 0
        self.gate = asyncio.Event()
        self.news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def execute(self, participant: str, calls: Sequence[BranchCall], on_results: OnResults) -> None:
        assert participant == "stock"
        self.came += len(calls)
        self.inside += len(calls)
        self.inside_most = max(self.inside_most, self.inside)
        self.news.set()
        self._tasks.append(asyncio.create_task(self._answer(calls, on_results)))

    async def all_answered(self) -> None:
        await asyncio.gather(*self._tasks)

    async def _answer(self, calls: Sequence[BranchCall], on_results: OnResults) -> None:
        await self.gate.wait()
        self.inside -= len(calls)
        on_results([(call, self.answer) for call in calls])


class Noon:
    """A clock that stands."""

    def now(self) -> float:
        return 12.0


class Answered:
    """What came back, and when there is enough of it."""

    def __init__(self) -> None:
        self.answers: CallResults = []
        self._changed = asyncio.Event()

    def __call__(self, answers: CallResults) -> None:
        self.answers += answers
        self._changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.answers) < count:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def running(
    hall: Hall, answered: Answered, policy: ParticipantPolicy
) -> AsyncIterator[ParticipantDispatcher]:
    dispatcher = ParticipantDispatcher(
        "stock",
        policy,
        participants=hall,
        clock=Noon(),
        is_wanted=lambda _: True,
        on_answers=answered,
        flush_policy=lambda begun: FlushPolicy(min_items=begun),
    )
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_bulkhead_holds_and_every_call_is_sent_in_the_end() -> None:
    hall, answered = Hall(), Answered()
    policy = ParticipantPolicy(concurrency_max=4, batch_max=3)
    async with running(hall, answered, policy) as dispatcher:
        for number in range(20):
            dispatcher.put(call(number))
        async with asyncio.timeout(60):
            while hall.came < 4:
                hall.news.clear()
                await hall.news.wait()
        # As many are inside as fit, and each had its time to grow too many.
        assert (hall.inside, dispatcher.backlog) == (4, 20)
        hall.gate.set()
        await answered.until(20)
    assert hall.inside_most <= 4
    assert {each.gid for each, _ in answered.answers} == {f"g{number}" for number in range(20)}
    assert len(answered.answers) == 20


async def test_calls_behind_an_open_breaker_are_rejected_as_not_sent() -> None:
    hall, answered = Hall(UNREACHABLE), Answered()
    hall.gate.set()
    policy = ParticipantPolicy(breaker=BreakerPolicy(failures_to_open=1, open_first_s=5.0))
    async with running(hall, answered, policy) as dispatcher:
        dispatcher.put(call(0))
        await answered.until(1)
        for number in range(1, 6):
            dispatcher.put(call(number))
        await answered.until(6)
    assert hall.came == 1
    assert [answer.not_sent for _, answer in answered.answers] == [False] + [True] * 5
    assert answered.answers[-1][1].retry_after_s == 5.0


async def test_a_bug_at_a_result_ends_the_dispatcher() -> None:
    def fail(_: CallResults) -> None:
        raise RuntimeError("a bug")

    hall = Hall()
    hall.gate.set()
    dispatcher = ParticipantDispatcher(
        "stock",
        ParticipantPolicy(),
        participants=hall,
        clock=Noon(),
        is_wanted=lambda _: True,
        on_answers=fail,
        flush_policy=lambda _: FlushPolicy(),
    )
    dispatcher.put(call(0))
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(dispatcher.run(), 60)


async def test_results_that_come_after_the_end_are_dropped() -> None:
    hall, answered = Hall(), Answered()
    async with running(hall, answered, ParticipantPolicy()) as dispatcher:
        dispatcher.put(call(0))
        await hall.news.wait()
    hall.gate.set()
    await hall.all_answered()
    assert answered.answers == []
