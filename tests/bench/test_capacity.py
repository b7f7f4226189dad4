"""Capacity is computed from the kept figures, and agrees with what two cores have shown."""

from pathlib import Path

import pytest

from bench import capacity, results

DOCS = Path(__file__).resolve().parents[2] / "docs"
KEPT = results.read(DOCS / "bench")


@pytest.mark.parametrize("mode", capacity.MODES)
def test_the_measured_machine_did_most_of_what_is_computed_for_it(mode: str) -> None:
    """More is impossible. Less than half, and CPU time would not be what limits a rate."""
    assert 0.5 < capacity.reached(KEPT, mode) <= 1.0


def test_what_is_full_at_a_rate_is_what_a_lower_rate_fills() -> None:
    for row in capacity.capacities(KEPT)["rates"]:
        limits = capacity.full_at(KEPT, row["mode"])
        assert row["full"] == [what for what in limits if limits[what] < row["per_second"]]
        assert (row["coordinator_cores"] > 1) is ("one worker" in row["full"])
        assert (row["servers"] > 1) is bool({"CPU of one server", "WAL of one server"} & set(row["full"]))


def test_the_page_shows_what_is_computed() -> None:
    assert capacity.table(capacity.capacities(KEPT)) in (DOCS / "CELLS.md").read_text()
