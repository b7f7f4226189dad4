"""How many cores a rate takes, and what is full first: computed from kept results. Nothing is measured.

A transaction's CPU time is that of the scenario `coordinator`, a worker's without load that of `idle`.
All is linear. So what the measured machine did is a share of what the same figures allow.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from bench.results import Results

RATES = (1_000, 10_000, 100_000, 1_000_000)
MODES = ("batched", "unary")
# The concurrency of the figures.
_IN_FLIGHT = 256
# Of each PostgreSQL server: half of its eight cores, the connections from which on processes cost more than
# statements, and the bytes of WAL that its disk takes in a second.
_SERVER_CORES, _CONNECTIONS_MAX, _WAL_BYTES_MAX = 4.0, 500, 200e6
# Of each worker to each server: writes, leases, two for lists, three for operators.
_CONNECTIONS = 10


def capacities(results: Results) -> dict[str, Any]:
    """Return what each rate takes (`rates`), and the share that the measured machine reached (`measured`)."""
    return {
        "rates": [_capacity(results, mode, rate) for mode in MODES for rate in RATES],
        "full_at": {mode: full_at(results, mode) for mode in MODES},
        "measured": {mode: round(reached(results, mode), 2) for mode in MODES},
    }


def table(found: Mapping[str, Any]) -> str:
    """Return the rates in Markdown."""
    rates: Sequence[Mapping[str, Any]] = found["rates"]
    rows = [
        [name.replace("_", " ") for name in rates[0]],
        ["---"] * len(rates[0]),
        *([*map(_shown, rate.values())] for rate in rates),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(value: Any) -> str:
    match value:
        case list():
            return ", ".join(value)
        case int():
            return f"{value:,}"
        case _:
            return str(value)


def full_at(results: Results, mode: str) -> dict[str, int]:
    """Return the rates at which one worker, and one server, have no more room; the lowest first."""
    worker, server = _costs(results, mode)
    each = 1 / worker
    found = {
        "one worker": each,
        "CPU of one server": _SERVER_CORES / server,
        "connections of one server": _CONNECTIONS_MAX / _CONNECTIONS * each,
        "WAL of one server": _WAL_BYTES_MAX / _row(results, mode)["wal_bytes_per_transaction"],
    }
    return {what: int(rate) for what, rate in sorted(found.items(), key=lambda one: one[1])}


def reached(results: Results, mode: str) -> float:
    """Return the measured rate as a share of what the CPU time of all processes leaves room for."""
    row, cpus = _row(results, mode), results["coordinator"].machine["cpus"]
    share: float = row["per_second"] * sum(row["cpu_us_by_process"].values()) / (cpus * 1e6)
    return share


def _capacity(results: Results, mode: str, rate: int) -> Mapping[str, Any]:
    worker, server = _costs(results, mode)
    full, workers = full_at(results, mode), ceil(rate * worker)
    return {
        "mode": mode,
        "per_second": rate,
        "coordinator_cores": round(rate * worker, 2),
        "postgresql_cores": round(rate * server, 2),
        "servers": ceil(max(rate / full[f"{what} of one server"] for what in ("CPU", "WAL"))),
        "connections_to_each_server": workers * _CONNECTIONS,
        "full": [what for what, most in full.items() if most < rate],
    }


def _costs(results: Results, mode: str) -> tuple[float, float]:
    """Return the core seconds of a transaction: a worker's, and PostgreSQL's with what workers ask idle."""
    cpu, idle = _row(results, mode)["cpu_us_by_process"], results["idle"].found["cpu_us_per_second"]
    worker = cpu["coordinator"] / (1e6 - idle["coordinator"])
    return worker, cpu["postgresql"] / 1e6 + worker * idle["postgresql"] / 1e6


def _row(results: Results, mode: str) -> Mapping[str, Any]:
    rows: Sequence[Mapping[str, Any]] = results["coordinator"].found["configurations"]
    return next(row for row in rows if (row["mode"], row["in_flight"]) == (mode, _IN_FLIGHT))
