"""Results as a run would keep them, written by hand."""

from typing import Any

from bench.results import Entry, Results

MACHINE = {
    "cpus": 2,
    "cpu": "Some CPU",
    "memory_gib": 8.0,
    "system": "Linux 6.1",
    "python": "3.11.7",
}


def entry(found: dict[str, Any], *, quick: bool = False) -> Entry:
    return Entry(
        command=f"python -m bench {found['scenario']}",
        measured_at="2026-01-02T03:04:05+00:00",
        took_s=60.0,
        commit="abc1234",
        quick=quick,
        machine=MACHINE,
        found=found,
    )


def row(per_second: float, **configuration: Any) -> dict[str, Any]:
    return {
        **configuration,
        "per_second": per_second,
        "per_second_range": [per_second * 0.9, per_second * 1.2],
        "p50_ms": 5.0,
        "p95_ms": 9.0,
        "p99_ms": 12.0,
        "cpu_us_per_transaction": 300.0,
        "cpu_us_by_process": {"coordinator": 200.0, "postgresql": 100.0},
        "baseline_per_second": None,
        "ratio": None,
        "baseline": None,
    }


def with_baseline(own: dict[str, Any], per_second: float) -> dict[str, Any]:
    baseline = {"per_second": per_second, "per_second_range": [per_second * 0.8, per_second]}
    return {
        **own,
        "baseline_per_second": per_second,
        "ratio": own["per_second"] / per_second,
        "baseline": baseline,
    }


def report(scenario: str, *rows: dict[str, Any]) -> Entry:
    return entry({"scenario": scenario, **rows[-1], "machine": MACHINE, "configurations": list(rows)})


def coordinator() -> Entry:
    return report(
        "coordinator",
        row(90, mode="interactive", in_flight=1),
        row(200, mode="interactive", in_flight=256),
        with_baseline(row(150, mode="batched", in_flight=1), 160),
        with_baseline(row(4_000, mode="batched", in_flight=256), 8_000),
    )


def history() -> Entry:
    # Not in order: a scenario may measure as it likes.
    return report("history", row(3_900, rows=5_000_000), row(4_000, rows=10_000), row(4_000, rows=1_000_000))


def scaling() -> Entry:
    def at(per_second: float, varied: str, value: int, initiators: int = 1) -> dict[str, Any]:
        sizes = {"workers": 1, "branches": 3, "participants": 3, varied: value}
        return row(per_second, varied=varied, initiators=initiators, **sizes)

    return report(
        "scaling",
        at(4_000, "workers", 1, initiators=8),
        at(4_500, "workers", 2, initiators=8),
        at(6_000, "branches", 1),
        at(2_000, "branches", 8),
        at(4_200, "participants", 1),
        at(3_800, "participants", 6),
    )


def idle() -> Entry:
    return entry({"scenario": "idle", "memory_mib": 90.0, "machine": MACHINE})


def everything() -> Results:
    entries = (coordinator(), history(), scaling(), idle())
    return Results(scenarios={each.found["scenario"]: each for each in entries})
