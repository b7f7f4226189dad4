"""The job `memory` collects what requests have left in cycles, unless that would take long."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from coordinator.jobs.memory import ReturnMemory


class Node:
    """An object in a cycle of its own."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collected_by_nobody_else() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def old_cycle() -> "weakref.ref[Node]":
    """Return a reference to garbage that has survived earlier collections."""
    node = Node()
    gc.collect()
    return weakref.ref(node)


async def test_old_cycles_are_collected_before_memory_is_returned() -> None:
    cycle = old_cycle()
    alive_when_trimmed: list[bool] = []
    await ReturnMemory(lambda: alive_when_trimmed.append(cycle() is not None), lambda: 5_000).run_once()
    assert alive_when_trimmed == [False]


async def test_no_collection_stops_a_coordinator_with_many_live_transactions() -> None:
    cycle = old_cycle()
    trimmed: list[bool] = []
    await ReturnMemory(lambda: trimmed.append(True), lambda: 5_001).run_once()
    assert trimmed == [True]
    assert cycle() is not None
