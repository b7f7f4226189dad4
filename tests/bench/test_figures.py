"""From counters to figures."""

from collections.abc import Sequence

import pytest

from bench.figures import Counts, Round, figures, paired_ratio, percentile


def counts(at_s: float, **changes: float) -> Counts:
    values = {
        "machine_cpu_s": 0.0,
        "commits": 0,
        "statements": 0,
        "wal_bytes": 0,
        "fsyncs": 0,
        "participant_calls": 0,
        "branch_calls": 0,
    }
    cpu_s = {"coordinator": changes.pop("coordinator", 0.0), "postgresql": changes.pop("postgresql", 0.0)}
    return Counts(at_s=at_s, cpu_s=cpu_s, **(values | changes))  # type: ignore[arg-type] # counts are ints


def one_round(*latencies_us: int, seconds: float = 1.0, used: Counts | None = None) -> Round:
    return Round(
        seconds=seconds, latencies_us=latencies_us, failed={}, used=used or counts(seconds, machine_cpu_s=0.0)
    )


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 100)])
def test_percentile_is_one_of_the_values(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_the_rate_is_the_median_of_the_rounds_with_its_spread() -> None:
    found = figures([one_round(*[1] * n) for n in (10, 1000, 20)])
    assert (found.per_second, found.per_second_range) == (20, (10, 1000))


def test_usage_is_divided_by_the_work_of_the_same_time() -> None:
    """The counters were read over 2 s, the transactions counted over 1 s of them."""
    used = counts(9.0, commits=30, coordinator=0.5).since(counts(7.0, commits=10, coordinator=0.1))
    found = figures([one_round(*[1] * 10, used=used)])
    assert found.commits == 1.0
    assert found.cpu_us["coordinator"] == pytest.approx(20_000)


def test_foreign_cpu_is_that_of_other_processes() -> None:
    used = counts(2.0, machine_cpu_s=3.0, coordinator=1.0, postgresql=0.5)
    assert used.foreign_cpus == pytest.approx(0.75)


def test_the_ratio_is_taken_within_pairs_of_rounds() -> None:
    """A machine that slows down half-way does not change it."""
    rounds: Sequence[Round] = [one_round(*[1] * 50), one_round(*[1] * 10), one_round(*[1] * 5)]
    baselines = [one_round(*[1] * 100), one_round(*[1] * 20), one_round(*[1] * 10)]
    assert paired_ratio(rounds, baselines) == 0.5


def test_no_ratio_to_a_floor_that_did_nothing() -> None:
    assert paired_ratio([one_round(1)], [one_round()]) is None
