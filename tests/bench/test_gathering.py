"""The baseline makes batches of the sizes that were measured."""

import asyncio
from collections.abc import Sequence

import pytest

from bench.batches import Batches, batches
from bench.figures import Counts, Round
from bench.gathering import Gathering, cut


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [(1, 10, [1]), (10, 10, [10]), (14, 10, [14]), (20, 10, [10, 10]), (27, 10, [9, 9, 9])],
)
def test_a_cut_makes_parts_of_about_that_size(count: int, size: int, lengths: list[int]) -> None:
    parts = list(cut(range(count), size))
    assert [len(part) for part in parts] == lengths
    assert [item for part in parts for item in part] == list(range(count))


async def test_requests_wait_only_while_a_group_is_under_way() -> None:
    groups: list[Sequence[str]] = []
    begun: asyncio.Queue[Sequence[str]] = asyncio.Queue()
    may_end = asyncio.Event()

    async def work(group: Sequence[str]) -> None:
        groups.append(group)
        begun.put_nowait(group)
        await may_end.wait()

    gathering = Gathering(work)
    gathering.enough = 3
    gathering.put("alone", 1)
    assert await begun.get() == ["alone"]
    gathering.put("two of three", 2)
    gathering.put("the third", 1)
    assert await begun.get() == ["two of three", "the third"]
    gathering.put("too few", 1)
    assert begun.empty()
    may_end.set()
    assert await begun.get() == ["too few"]
    assert len(groups) == 3


def test_batch_sizes_are_items_divided_by_batches() -> None:
    used = Counts(
        at_s=2.0,
        cpu_s={},
        machine_cpu_s=0.0,
        commits=30,
        statements=0,
        wal_bytes=0,
        fsyncs=0,
        participant_calls=40,
        branch_calls=6_000,
    )
    # A thousand in two seconds, three rows each.
    measured = Round(seconds=1.0, latencies_us=[1] * 500, failed={}, used=used)
    assert batches(measured) == Batches(rows=100, calls=150)
