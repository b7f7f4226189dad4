"""Many workers that want a few locks."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.figures import percentile
from proof.locks.contenders import Contender

NAMES = ("a", "b", "c", "d", "e")
# What a holder does, about.
_HELD_S = 0.001


@dataclass(kw_only=True, slots=True)
class Measured:
    """One round, or several together."""

    seconds: float = 0.0
    waits_us: list[int] = field(default_factory=list)
    # How often a worker found another one that held the same lock.
    overlaps: int = 0

    def add(self, other: "Measured") -> None:
        self.seconds += other.seconds
        self.waits_us += other.waits_us
        self.overlaps += other.overlaps

    def as_json(self) -> dict[str, float]:
        ordered = sorted(self.waits_us)
        return {
            "per_second": round(len(ordered) / self.seconds, 1),
            "p50_ms": percentile(ordered, 0.5) / 1000,
            "p99_ms": percentile(ordered, 0.99) / 1000,
            "max_ms": ordered[-1] / 1000,
            "overlaps": self.overlaps,
        }


async def measure(contender: Contender, *, workers: int, seconds: float) -> Measured:
    """Let workers take random locks again and again."""
    measured = Measured()
    holders: Counter[str] = Counter()
    began = time.perf_counter()

    async def work(names: Sequence[str], rng: random.Random) -> None:
        while time.perf_counter() - began < seconds:
            name = rng.choice(names)
            asked = time.perf_counter()
            async with contender.hold(name):
                measured.waits_us.append(round((time.perf_counter() - asked) * 1e6))
                measured.overlaps += holders[name]
                holders[name] += 1
                await asyncio.sleep(_HELD_S)
                holders[name] -= 1

    await asyncio.gather(*(work(NAMES, random.Random(number)) for number in range(workers)))
    measured.seconds = time.perf_counter() - began
    return measured
