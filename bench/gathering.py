"""Groups of requests of a given size, and batches cut out of them."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Gathering(Generic[T]):
    """Pass requests on as soon as they have enough items, or nothing else is under way.

    `work` processes a group of requests; groups overlap. An exception from it is a bug:
    its group is never answered.
    """

    def __init__(self, work: Callable[[Sequence[T]], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        # Items of a group.
        self.enough = 1
        self._waiting: list[T] = []
        self._waiting_items = 0
        self._groups: set[asyncio.Task[None]] = set()

    def put(self, request: T, items: int) -> None:
        self._waiting.append(request)
        self._waiting_items += items
        self._form_group()

    def _form_group(self) -> None:
        if not self._waiting or (self._groups and self._waiting_items < self.enough):
            return
        group, self._waiting, self._waiting_items = self._waiting, [], 0
        task = asyncio.create_task(self._work(group))
        self._groups.add(task)
        task.add_done_callback(self._group_done)

    def _group_done(self, task: asyncio.Task[None]) -> None:
        self._groups.discard(task)
        task.result()
        self._form_group()


def cut(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut into parts of about `size`, as equal in length as possible."""
    parts = max(1, round(len(items) / size))
    bounds = [len(items) * part // parts for part in range(parts + 1)]
    return (items[low:high] for low, high in pairwise(bounds))
