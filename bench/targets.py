"""What the project wants of itself, on 2 cores with everything on one machine.

A target that is missed says so and stops nobody: machines differ, and so do the
neighbours of virtual ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A bound (either `at_least` or `at_most`) for one figure of what a scenario found."""

    name: str
    scenario: str
    # In the scenario's JSON object; with `where`, in that of its `configurations` that has these values.
    key: str
    where: Mapping[str, Any] = field(default_factory=dict)
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str:
        return f"≥ {self.at_least:,g}" if self.at_least is not None else f"≤ {self.at_most:,g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetResult:
    """A target beside what was measured."""

    target: Target
    # None: it was not measured.
    measured: float | None

    @property
    def met(self) -> bool | None:
        """None: nobody knows."""
        if self.measured is None:
            return None
        if self.target.at_least is not None:
            return self.measured >= self.target.at_least
        assert self.target.at_most is not None
        return self.measured <= self.target.at_most

    @property
    def word(self) -> str:
        return {True: "met", False: "missed", None: "not measured"}[self.met]

    def as_json(self) -> dict[str, Any]:
        bound = {"at_least": self.target.at_least, "at_most": self.target.at_most}
        return {
            "name": self.target.name,
            "scenario": self.target.scenario,
            "key": self.target.key,
            "where": dict(self.target.where),
            **{side: value for side, value in bound.items() if value is not None},
            "measured": self.measured,
            "met": self.met,
        }


_BATCHED = {"mode": "batched", "in_flight": 256}
_UNARY = {"mode": "unary", "in_flight": 256}
_ALONE = {"mode": "batched", "in_flight": 1}

TARGETS = (
    Target(
        name="coordinator, batched, to its baseline",
        scenario="coordinator",
        key="ratio",
        where=_BATCHED,
        at_least=0.6,
    ),
    Target(
        name="coordinator, unary, per second",
        scenario="coordinator",
        key="per_second",
        where=_UNARY,
        at_least=2_000,
    ),
    Target(
        name="one transaction alone, p50 ms", scenario="coordinator", key="p50_ms", where=_ALONE, at_most=6
    ),
    Target(
        name="one transaction alone, p99 ms", scenario="coordinator", key="p99_ms", where=_ALONE, at_most=15
    ),
    Target(name="order-flow, to its baseline", scenario="order-flow", key="ratio", at_least=0.5),
    Target(name="order-flow, orders per second", scenario="order-flow", key="per_second", at_least=1_500),
    Target(
        name="hot SKU, inventory alone, Trys per second",
        scenario="hot-sku",
        key="inventory_alone_per_second",
        at_least=24_500,
    ),
    Target(name="hot SKU to spread SKUs", scenario="hot-sku", key="hot_to_spread", at_least=0.8),
    Target(name="drain, per second", scenario="drain", key="per_second", at_least=3_000),
    Target(name="drain, live load keeps", scenario="drain", key="live_kept", at_least=0.7),
    Target(
        name="history, cost of 5 million rows to 10 thousand",
        scenario="history",
        key="cost_ratio",
        at_most=1.15,
    ),
    Target(
        name="isolation, unaffected throughput kept",
        scenario="isolation",
        key="throughput_kept",
        at_least=0.9,
    ),
    Target(name="isolation, unaffected p99 grows", scenario="isolation", key="p99_grew", at_most=2),
    Target(name="overload, goodput to peak", scenario="overload", key="goodput_to_peak", at_least=0.9),
    # Flat, but for what an allocator keeps.
    Target(
        name="overload, coordinator grows, MiB",
        scenario="overload",
        key="memory_growth_mib_coordinator",
        at_most=8,
    ),
    Target(name="idle worker, MiB", scenario="memory", key="idle_mib", at_most=120),
    Target(
        name="live transaction, KiB beside payloads",
        scenario="memory",
        key="kib_per_transaction",
        at_most=4,
    ),
)


def check_targets(
    found: Mapping[str, Mapping[str, Any]], targets: Sequence[Target] = TARGETS
) -> list[TargetResult]:
    """`found`: the JSON object of each scenario that was measured, by its name."""
    return [
        TargetResult(target=target, measured=_figure(found.get(target.scenario, {}), target))
        for target in targets
    ]


def targets_table(results: Sequence[TargetResult]) -> Table:
    """For people."""
    table = Table(title="targets", title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for heading in ("target", "measured", ""):
        table.add_column(heading, justify="right")
    colours = {True: "green", False: "red", None: "dim"}
    for result in results:
        measured = "-" if result.measured is None else figure(result.measured)
        table.add_row(
            result.target.name,
            result.target.bound,
            measured,
            f"[{colours[result.met]}]{result.word}",
        )
    return table


def figure(value: float) -> str:
    """With as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _figure(found: Mapping[str, Any], target: Target) -> float | None:
    if not target.where:
        return found.get(target.key)
    for row in found.get("configurations", ()):
        if all(row.get(key) == value for key, value in target.where.items()):
            value: float | None = row.get(target.key)
            return value
    return None
