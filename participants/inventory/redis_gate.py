"""Tier 1 for all processes: a gate in Redis, which counts the stock that may still be taken.

A Try takes units (tokens) there before it opens a transaction. If there are too few, the SKU is sold
out: everything is sold, reserved, or taken by Trys that are under way.

- **The database decides.** Whatever Redis holds, stock is taken only by the conditional UPDATE. Too many
  tokens cost a transaction that is refused. Too few refuse what is not sold out, until the next
  comparison with the database (sync_back).
- **The gate is open if Redis does not answer** within its time budget. After several failures in a row a
  breaker leaves Redis alone for a while.
- **Tokens go back once**, by the branch's key: after a Try that did not succeed, and in a Cancel.
"""

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine, Sequence
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

# How often a process asks for a SKU that another one is loading.
_POLL_S = 0.002


class Answer(enum.Enum):
    """What the gate says to a Try; the database decides about those that are admitted."""

    ADMITTED = "admitted"
    SOLD_OUT = "sold_out"
    UNKNOWN_SKU = "unknown_sku"


_REJECTIONS = {Answer.SOLD_OUT: sold_out, Answer.UNKNOWN_SKU: unknown_sku}
_ANSWERS: dict[int | str, Answer] = {
    tokens.REFUSED: Answer.SOLD_OUT,
    tokens.TAKEN: Answer.ADMITTED,
    tokens.PASSED: Answer.ADMITTED,
    tokens.UNKNOWN: Answer.UNKNOWN_SKU,
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

    async def screen(self, items: Sequence[tuple[Branch, ReserveStock]]) -> list[Rejected | None]:
        """Take units for Trys; return a rejection for each that cannot succeed.

        A repeated Try passes even without units: it may have reserved before.
        """
        wanted = [
            Wanted(branch.key, request.sku, request.quantity, branch.attempt == 0)
            for branch, request in items
        ]
        answers = await self.take(wanted)
        return [
            None if answer is Answer.ADMITTED else _REJECTIONS[answer](request)
            for answer, (_, request) in zip(answers, items, strict=True)
        ]

    async def take(self, wanted: Sequence[Wanted]) -> list[Answer]:
        """Take units for branches, in order; return one answer per branch."""
        answers = [Answer.ADMITTED] * len(wanted)
        places = list(range(len(wanted)))
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._load_wait_s
        while True:
            found = await self._ask(self._counts.take, [wanted[place] for place in places])
            if found is None:
                break
            self._start_loads(
                {wanted[p].sku for p, one in zip(places, found, strict=True) if one == tokens.LOAD}
            )
            absent = []
            for place, one in zip(places, found, strict=True):
                if one in (tokens.LOAD, tokens.LOADING):
                    absent.append(place)
                else:
                    answers[place] = _ANSWERS[one]
                    self._metrics.tried(_ANSWERS[one] if one != tokens.PASSED else None)
            places = absent
            if not places or clock() + _POLL_S > deadline:
                break
            await asyncio.sleep(_POLL_S)
        for _ in places:
            self._metrics.tried(None)
        return answers

    async def give_back(self, branches: Sequence[Key]) -> None:
        """Give back what these branches hold. If Redis does not answer, a comparison repairs it later."""
        await self._ask(self._counts.give_back, branches)

    async def _ask(
        self, call: Callable[[Sequence[Any]], Coroutine[Any, Any, T]], items: Sequence[Any]
    ) -> T | None:
        """Return the answer of Redis, or None if it has none in time."""
        if not self._breaker.allows():
            return None
        was_open = self._breaker.is_open
        try:
            async with asyncio.timeout(self._budget_s):
                answer = await call(items)
        except UNAVAILABLE as error:
            self._breaker.failed()
            if self._breaker.is_open and not was_open:
                logger.warning("the stock gate is open: Redis does not answer: %r", error)
        else:
            self._breaker.succeeded()
            if was_open:
                logger.warning("the stock gate works again")
            return answer
        finally:
            self._metrics.is_open = self._breaker.is_open
        return None

    def _start_loads(self, skus: set[str]) -> None:
        if skus:
            task = asyncio.create_task(self._try_load(sorted(skus)))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)

    async def _try_load(self, skus: Sequence[str]) -> None:
        try:
            await self._load(skus)
        except (*UNAVAILABLE, SQLAlchemyError) as error:
            logger.warning("the stock of %d SKUs could not be loaded into Redis: %r", len(skus), error)
