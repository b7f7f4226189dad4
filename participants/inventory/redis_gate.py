"""Tier 1 for all processes: a gate in Redis, which counts the stock that may still be taken.

A Try takes units (tokens) there before it opens a transaction. If there are too few, the SKU is sold
out: everything is sold, reserved, or taken by Trys that are under way.

- **The database decides.** Whatever Redis holds, stock is taken only by the conditional UPDATE. Too many
  tokens cost a transaction that is refused. Too few refuse what is not sold out, until the next
  comparison with the database (sync_back).
- **The gate is open if Redis does not answer** within its time budget, until it answers again. After several
  failures in a row a breaker leaves Redis alone for a while. Time in which this process itself was too
  busy to read an answer does not count.
- **Tokens go back once**, by the branch's key: after a Try that did not succeed, and in a Cancel.
"""

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from participants.inventory import tokens
from participants.inventory.breaker import Breaker
from participants.inventory.gate_metrics import GateMetrics
from participants.inventory.requests import ReserveStock
from participants.inventory.reservation import sold_out, unknown_sku
from participants.inventory.store import Key
from participants.inventory.tokens import UNAVAILABLE, Tokens, Wanted
from tcc import Branch, Rejected

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of one call, so that it takes Redis a millisecond or two.
_CALL_ITEMS_MAX = 512
# Of a budget: each lets the event loop read what has arrived.
_SLICES = 4
# How often a process asks for a SKU that another one is loading.
_POLL_S = 0.002


class GateAnswer(enum.Enum):
    """What the gate says to a Try; the database decides about those that are admitted."""

    ADMITTED = "admitted"
    SOLD_OUT = "sold_out"
    UNKNOWN_SKU = "unknown_sku"


_ANSWERS: dict[int | str, GateAnswer] = {
    tokens.REFUSED: GateAnswer.SOLD_OUT,
    tokens.TAKEN: GateAnswer.ADMITTED,
    tokens.PASSED: GateAnswer.ADMITTED,
    tokens.UNKNOWN: GateAnswer.UNKNOWN_SKU,
}


class RedisGate:
    """The gate of one process. Use it on one event loop.

    Args:
        counts: The counts in Redis.
        load: Reads SKUs from the database into Redis.
        metrics: Counts what the gate does.
        budget_s: How long one call of Redis may take.
        load_wait_s: How long a Try waits for a SKU that is being loaded. Then the database decides.
        breaker: Closed at first.
    """

    def __init__(
        self,
        counts: Tokens,
        load: Callable[[Sequence[str]], Coroutine[Any, Any, None]],
        metrics: GateMetrics,
        *,
        budget_s: float = 0.01,
        load_wait_s: float = 0.05,
        breaker: Breaker | None = None,
    ) -> None:
        self._counts = counts
        self._load = load
        self._metrics = metrics
        self._budget_s = budget_s
        self._load_wait_s = load_wait_s
        self._breaker = breaker or Breaker()
        self._loading: set[asyncio.Task[None]] = set()
        # Calls whose budget is over, and which Redis has not answered yet.
        self._late: set[asyncio.Task[Any]] = set()
        # By SKU.
        self._landed: dict[str, list[Key]] = {}

    async def screen(self, items: Sequence[tuple[Branch, ReserveStock]]) -> list[Rejected | None]:
        """Take units for Trys; return a rejection for each that cannot succeed.

        A repeated Try passes even without units: it may have reserved before.
        """
        wanted = [
            Wanted((branch.gid, branch.branch_id), request.sku, request.quantity, branch.attempt == 0)
            for branch, request in items
        ]
        answers = await self.take(wanted)
        if answers.count(GateAnswer.ADMITTED) == len(answers):
            return [None] * len(answers)
        return [_rejection(answer, request) for answer, (_, request) in zip(answers, items, strict=True)]

    async def take(self, wanted: Sequence[Wanted]) -> list[GateAnswer]:
        """Take units for branches, in order; return one answer per branch."""
        answers: list[GateAnswer] = []
        for first in range(0, len(wanted), _CALL_ITEMS_MAX):
            answers += await self._take_some(wanted[first : first + _CALL_ITEMS_MAX])
        return answers

    async def _take_some(self, wanted: Sequence[Wanted]) -> list[GateAnswer]:
        answers = [GateAnswer.ADMITTED] * len(wanted)
        absent: Sequence[int] = range(len(wanted))
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._load_wait_s
        landed, self._landed = self._landed, {}
        while True:
            asked = [wanted[place] for place in absent]
            found = await self._ask(partial(self._counts.take, asked, landed))
            if found is None:
                break
            self._metrics.tried.update(found)
            if found.count(tokens.TAKEN) == len(found):
                return answers
            places, absent, to_load = absent, [], set()
            for place, one in zip(places, found, strict=True):
                if one in _ANSWERS:
                    answers[place] = _ANSWERS[one]
                else:
                    absent.append(place)
                    if one == tokens.LOAD:
                        to_load.add(wanted[place].sku)
            self._start_load(to_load)
            if not absent or clock() + _POLL_S > deadline:
                break
            await asyncio.sleep(_POLL_S)
        self._metrics.tried[tokens.PASSED] += len(absent)
        return answers

    def landed(self, items: Sequence[tuple[Branch, ReserveStock]]) -> None:
        """Note that these Trys have committed. Redis learns of it by the next `take`."""
        if self._breaker.is_open:
            return
        for branch, request in items:
            if request.sku not in self._landed:
                self._landed[request.sku] = []
            self._landed[request.sku].append((branch.gid, branch.branch_id))

    async def give_back(self, branches: Sequence[Key]) -> None:
        """Give back what these branches hold. If Redis does not answer, a comparison repairs it later."""
        if self._breaker.allows():
            # What a late call may still take, too.
            await self._within_budget(self._counts.give_back(branches), after=list(self._late))

    async def _ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Return the answer of Redis, or None if it has none in time."""
        if self._late or not self._breaker.allows():
            return None
        return await self._within_budget(call())

    async def _within_budget(
        self, call: Coroutine[Any, Any, T], after: Sequence[asyncio.Task[Any]] = ()
    ) -> T | None:
        """Return the answer, or None if it fails or is late. A late call goes on: its connection is kept."""
        task = asyncio.create_task(self._answer(call, after))
        for _ in range(_SLICES):
            await asyncio.wait([task], timeout=self._budget_s / _SLICES)
            if task.done():
                return task.result()
        self._late.add(task)
        task.add_done_callback(self._on_late_answer)
        self._count_open()
        return None

    async def _answer(self, call: Coroutine[Any, Any, T], after: Sequence[asyncio.Task[Any]]) -> T | None:
        """Return the answer of Redis, or None if it fails."""
        if after:
            await asyncio.wait(after)
        was_open = self._breaker.is_open
        try:
            answer = await call
        except UNAVAILABLE as error:
            self._breaker.failed()
            if self._breaker.is_open and not was_open:
                logger.warning("the stock gate is open: Redis does not answer: %r", error)
            return None
        else:
            self._breaker.succeeded()
            if was_open:
                logger.warning("the stock gate works again")
            return answer
        finally:
            self._count_open()

    def _on_late_answer(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        self._count_open()

    def _count_open(self) -> None:
        self._metrics.is_open = self._breaker.is_open or bool(self._late)

    def _start_load(self, skus: set[str]) -> None:
        if skus:
            task = asyncio.create_task(self._try_load(sorted(skus)))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)

    async def _try_load(self, skus: Sequence[str]) -> None:
        try:
            await self._load(skus)
        except (*UNAVAILABLE, SQLAlchemyError) as error:
            logger.warning("the stock of %d SKUs could not be loaded into Redis: %r", len(skus), error)


def _rejection(answer: GateAnswer, request: ReserveStock) -> Rejected | None:
    match answer:
        case GateAnswer.ADMITTED:
            return None
        case GateAnswer.SOLD_OUT:
            return sold_out(request.sku, request.quantity)
        case GateAnswer.UNKNOWN_SKU:
            return unknown_sku(request.sku)
