"""Counters and histograms that one event loop updates and exports.

Those of prometheus_client take a lock and check their labels at each update. A transaction alone has
thirty updates: they were an eighth of all function calls.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_INFINITY = float("inf")


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        self.value += amount


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the largest value of each bucket but the last, which has none."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, amount: float) -> None:
        self.counts[bisect_left(self._bounds, amount)] += 1
        self.total += amount


class Counter(Collector):
    """A counter. One without labels is exported as 0 from the start."""

    def __init__(self, name: str, explanation: str, labels: Sequence[str]) -> None:
        self.name = name
        self.explanation = explanation
        self.label_names = labels
        self._series: dict[tuple[str, ...], Count] = {} if labels else {(): Count()}

    def labels(self, *values: str) -> Count:
        """Return the series with these values of the labels."""
        return self._series.setdefault(values, Count())

    def describe(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self.name, self.explanation)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self.name, self.explanation, labels=self.label_names)
        for values, series in self._series.items():
            family.add_metric(values, series.value)
        yield family


class Histogram(Collector):
    """A histogram with these bounds of its buckets."""

    def __init__(self, name: str, explanation: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name = name
        self.explanation = explanation
        self.label_names = labels
        self._bounds = bounds
        self._series: dict[tuple[str, ...], Distribution] = {}

    def labels(self, *values: str) -> Distribution:
        """Return the series with these values of the labels."""
        return self._series.setdefault(values, Distribution(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self.name, self.explanation)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self.name, self.explanation, labels=self.label_names)
        names = [floatToGoString(bound) for bound in (*self._bounds, _INFINITY)]  # type: ignore[no-untyped-call] # it has no type hints
        for values, series in self._series.items():
            counts = accumulate(series.counts)
            family.add_metric(values, list(zip(names, counts, strict=True)), series.total)
        yield family
