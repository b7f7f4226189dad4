"""A partition is in one batch at a time, and a batch takes items of every free partition."""

import asyncio

from tcc._internal.partitioned_batcher import PartitionedBatcher


class Sent:
    """Records what was sent. Each batch stays in flight until it is released."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gates: list[asyncio.Event] = []
        self.changed = asyncio.Event()

    async def __call__(self, batch: list[str]) -> None:
        self.batches.append(batch)
        self.gates.append(gate := asyncio.Event())
        self.changed.set()
        await gate.wait()

    async def count(self, batches: int) -> None:
        while len(self.batches) < batches:
            self.changed.clear()
            await self.changed.wait()

    async def settle(self) -> None:
        """Lets every task run as far as it can."""
        for _ in range(20):
            await asyncio.sleep(0)


def partition_of(item: str) -> int:
    return ord(item[0])


async def test_a_partition_waits_for_its_own_batch_only() -> None:
    sent = Sent()
    batcher = PartitionedBatcher(sent, partition_key=partition_of, items_max=10, max_in_flight=2)
    running = asyncio.create_task(batcher.run())
    batcher.put("a1")
    await sent.count(1)
    batcher.put_many(["a2", "b1", "a3", "c1"])
    await sent.count(2)
    await sent.settle()
    assert sent.batches == [["a1"], ["b1", "c1"]]
    sent.gates[0].set()
    await sent.count(3)
    assert sent.batches[2] == ["a2", "a3"]
    running.cancel()


async def test_items_of_all_free_partitions_are_sent_together_in_order() -> None:
    sent = Sent()
    batcher = PartitionedBatcher(sent, partition_key=partition_of, items_max=10)
    running = asyncio.create_task(batcher.run())
    batcher.put("a1")
    await sent.count(1)
    batcher.put_many(["b1", "a2", "b2", "c1"])
    sent.gates[0].set()
    await sent.count(2)
    assert sorted(sent.batches[1]) == ["a2", "b1", "b2", "c1"]
    assert sent.batches[1].index("b1") < sent.batches[1].index("b2")
    running.cancel()


async def test_a_partition_larger_than_a_batch_keeps_order_and_starves_no_other() -> None:
    sent = Sent()
    batcher = PartitionedBatcher(sent, partition_key=partition_of, items_max=2)
    running = asyncio.create_task(batcher.run())
    batcher.put_many(["a1", "a2", "a3", "a4", "a5", "b1"])
    for number in range(1, 4):
        await sent.count(number)
        sent.gates[number - 1].set()
    await sent.settle()
    assert sent.batches == [["a1", "a2"], ["b1", "a3"], ["a4", "a5"]]
    running.cancel()
