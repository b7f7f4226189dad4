"""The rate of orders while all is calm, and the rate under kills. Pure functions.

A kill disturbs from its moment until its process is back and what it had interrupted has ended.
Times are seconds since the first order.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time: `start_s` belongs to it, `end_s` does not."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Orders per second; None where there was no such time."""

    calm: float | None
    under_kills: float | None


def rates(done_s: Iterable[float], kills: Iterable[Span], placed_s: float) -> Rates:
    """Return the rates of the orders that were done at these times, of `placed_s` seconds in all."""
    ordered = sorted(done_s)
    disturbed = merged(Span(kill.start_s, min(kill.end_s, placed_s)) for kill in kills)
    under_kills = sum(_count(ordered, span) for span in disturbed)
    disturbed_s = sum(span.seconds for span in disturbed)
    return Rates(
        calm=_rate(len(ordered) - under_kills, placed_s - disturbed_s),
        under_kills=_rate(under_kills, disturbed_s),
    )


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the same times without overlaps, in order."""
    result: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start_s):
        if result and span.start_s <= result[-1].end_s:
            result[-1] = Span(result[-1].start_s, max(result[-1].end_s, span.end_s))
        elif span.seconds > 0:
            result.append(span)
    return result


def _count(ordered: Sequence[float], span: Span) -> int:
    return bisect_left(ordered, span.end_s) - bisect_left(ordered, span.start_s)


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None
