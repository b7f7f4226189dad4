"""Batches form from the items that wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tcc._internal.batcher import Batcher, FlushPolicy


class Recorder:
    """Keeps each batch in flight until `go` is set."""

    def __init__(self, **options) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.sent = asyncio.Queue[list[int]]()
        self.batcher = Batcher[int](self._send, **({"items_max": 4} | options))

    async def _send(self, batch: list[int]) -> None:
        self.batches.append(batch)
        self.sent.put_nowait(batch)
        await self.go.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Recorder"]:
        async with self.batcher.running():
            yield self


async def settle() -> None:
    """Lets everything run that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_idle_batcher_sends_immediately_and_a_busy_one_in_batches() -> None:
    async with Recorder().running() as recorder:
        recorder.go.clear()
        recorder.batcher.put(1)
        await settle()
        recorder.batcher.put_many([2, 3, 4, 5, 6])
        await settle()
        assert recorder.batches == [[1]]
        assert len(recorder.batcher) == 5
        recorder.go.set()
        await settle()
        assert recorder.batches == [[1], [2, 3, 4, 5], [6]]
        assert recorder.batcher.idle


async def test_a_batch_is_bounded_in_bytes_and_a_larger_item_travels_alone() -> None:
    async with Recorder(items_max=10, bytes_max=10, size=lambda item: item).running() as recorder:
        recorder.batcher.put_many([4, 6, 1, 50, 9, 1])
        await settle()
        assert recorder.batches == [[4, 6], [1], [50], [9, 1]]


async def test_several_senders_have_several_batches_in_flight() -> None:
    async with Recorder(items_max=1, max_in_flight=2).running() as recorder:
        recorder.go.clear()
        recorder.batcher.put_many([1, 2, 3])
        await settle()
        assert recorder.batches == [[1], [2]]


async def test_what_waits_can_be_taken_back() -> None:
    async with Recorder().running() as recorder:
        recorder.go.clear()
        recorder.batcher.put(1)
        await settle()
        recorder.batcher.put_many([2, 3])
        assert recorder.batcher.withdraw() == [2, 3]
        recorder.go.set()
        await settle()
        assert recorder.batches == [[1]]


async def test_items_that_are_sent_singly_never_wait_for_the_linger() -> None:
    async with Recorder(flush_policy=lambda: FlushPolicy(3600)).running() as recorder:
        for item in (1, 2, 3):
            recorder.batcher.put(item)
            await settle()
        assert recorder.batches == [[1], [2], [3]]


async def test_after_a_batch_the_linger_is_kept_unless_a_full_batch_waits() -> None:
    async with Recorder(flush_policy=lambda: FlushPolicy(3600)).running() as recorder:
        recorder.go.clear()
        recorder.batcher.put_many([1, 2])
        await settle()
        recorder.batcher.put_many([3, 4, 5, 6])
        recorder.go.set()
        await settle()
        assert recorder.batches == [[1, 2], [3, 4, 5, 6]]
        recorder.batcher.put(7)
        await settle()
        assert recorder.batches == [[1, 2], [3, 4, 5, 6]]
        assert recorder.batcher.withdraw() == [7]


async def test_enough_waiting_items_are_sent_early_even_beside_another_batch() -> None:
    min_items = 3
    async with Recorder(
        items_max=10, max_in_flight=2, flush_policy=lambda: FlushPolicy(3600, min_items)
    ).running() as recorder:
        recorder.go.clear()
        recorder.batcher.put_many([1, 2])
        await settle()
        recorder.batcher.put(3)
        await settle()
        recorder.batcher.put(4)
        await settle()
        assert recorder.batches == [[1, 2]]
        recorder.batcher.put(5)
        await settle()
        assert recorder.batches == [[1, 2], [3, 4, 5]]
        # Both senders are busy now.
        recorder.batcher.put_many([6, 7, 8])
        await settle()
        assert len(recorder.batcher) == 3
        recorder.go.set()
        await settle()
        assert recorder.batches == [[1, 2], [3, 4, 5], [6, 7, 8]]


async def test_a_single_item_in_flight_delays_the_next_one_by_the_linger() -> None:
    async with Recorder(max_in_flight=2, flush_policy=lambda: FlushPolicy(3600)).running() as recorder:
        recorder.go.clear()
        recorder.batcher.put(1)
        await settle()
        recorder.batcher.put(2)
        await settle()
        assert recorder.batches == [[1]]
        recorder.go.set()
        await settle()
        assert recorder.batches == [[1], [2]]


async def test_a_busy_batcher_sends_when_its_linger_has_passed() -> None:
    recorder = Recorder(max_in_flight=2, flush_policy=lambda: FlushPolicy(0.01))
    recorder.go.clear()
    async with recorder.running(), asyncio.timeout(30):
        recorder.batcher.put_many([1, 2])
        assert await recorder.sent.get() == [1, 2]
        recorder.batcher.put(3)
        assert await recorder.sent.get() == [3]


async def test_nothing_is_sent_while_a_batch_may_have_no_items() -> None:
    async with Recorder(items_max=0).running() as recorder:
        recorder.batcher.put_many([1, 2, 3])
        await settle()
        assert recorder.batches == []
        recorder.batcher.change_items_max(2)
        await settle()
        assert recorder.batches == [[1, 2], [3]]


async def test_a_batch_of_which_nothing_is_to_be_sent_delays_no_other() -> None:
    seen: list[list[int]] = []

    def send(batch: list[int]) -> None:
        seen.append(batch)

    batcher = Batcher[int](send, items_max=2)
    async with batcher.running():
        batcher.put_many([1, 2, 3, 4, 5])
        await settle()
        assert seen == [[1, 2], [3, 4], [5]]
        assert batcher.idle


async def fail(batch: list[int]) -> None:
    raise RuntimeError("a bug")


def fail_at_once(batch: list[int]) -> None:
    raise RuntimeError("a bug")


def fail_later(batch: list[int]) -> asyncio.Future[None]:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ended.get_loop().call_soon(ended.set_exception, RuntimeError("a bug"))
    return ended


@pytest.mark.parametrize("send", [fail, fail_at_once, fail_later])
@pytest.mark.parametrize("is_running", [False, True])
async def test_a_failing_send_ends_the_batcher(send: Any, is_running: bool) -> None:  # noqa: FBT001
    batcher = Batcher[int](send, items_max=1)
    if not is_running:
        batcher.put(1)
    running = asyncio.create_task(batcher.run())
    await settle()
    batcher.put(1)
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(running, 60)
    batcher.put(2)
    await settle()
    assert len(batcher) > 0


async def test_a_batch_is_in_flight_until_its_future_is_done() -> None:
    ended: list[asyncio.Future[None]] = []

    def send(_: list[int]) -> asyncio.Future[None]:
        ended.append(asyncio.get_running_loop().create_future())
        return ended[-1]

    batcher = Batcher[int](send, items_max=1)
    async with batcher.running():
        batcher.put_many([1, 2])
        await settle()
        assert len(ended) == 1
        ended[0].set_result(None)
        await settle()
        assert (len(ended), len(batcher), batcher.idle) == (2, 0, False)
    assert ended[1].cancelled()


async def test_a_cancelled_batcher_cancels_its_batches_and_sends_no_other() -> None:
    recorder = Recorder()
    recorder.go.clear()
    async with recorder.running():
        recorder.batcher.put(1)
        await settle()
        recorder.batcher.put(2)
    recorder.batcher.put(3)
    recorder.go.set()
    await settle()
    assert recorder.batches == [[1]]
