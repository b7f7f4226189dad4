"""Long answers page by page, so that only one page is in memory."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Limited(Generic[T]):
    """Pages of at most `limit` items; None: of all items. It can be iterated once.

    After the iteration, `count` is the number of items, and `more` is set if the limit cut items off.
    """

    def __init__(self, pages: Iterable[Sequence[T]], limit: int | None) -> None:
        self._pages = pages
        self._limit = limit
        self.count = 0
        self.more = False

    def __iter__(self) -> Iterator[Sequence[T]]:
        for page in self._pages:
            wanted = page if self._limit is None else page[: self._limit - self.count]
            self.count += len(wanted)
            self.more = len(wanted) < len(page)
            if wanted:
                yield wanted
            if self.more:
                return
