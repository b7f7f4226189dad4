"""Long answers, page after page, so that only one page of them is held."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Limited(Generic[T]):
    """Pages of as many items as are wanted; None: all. To be read once.

    When they are read, `count` says how many there were, and `more` that the limit has cut some off.
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
