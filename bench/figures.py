"""Turn counters and latencies into figures. Pure functions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Everything used up to a moment. Only differences are meaningful."""

    # Seconds by some clock.
    at_s: float
    # CPU seconds (user and system) by role.
    cpu_s: Mapping[str, float]
    # CPU seconds of the whole machine.
    machine_cpu_s: float
    # Transactions of PostgreSQL that wrote something.
    commits: int
    # Statements in the database of the log.
    statements: int
    wal_bytes: int
    fsyncs: int
    # gRPC calls of participants that count, and branch calls in them.
    participant_calls: int
    branch_calls: int

    def since(self, before: "Counts") -> "Counts":
        cpu_s = {role: used - before.cpu_s.get(role, 0.0) for role, used in self.cpu_s.items()}
        names = [each.name for each in fields(self) if each.name != "cpu_s"]
        return Counts(cpu_s=cpu_s, **{name: getattr(self, name) - getattr(before, name) for name in names})

    @property
    def foreign_cpus(self) -> float:
        """Return the CPUs that other processes used. More than a little spoils the measurement."""
        return max(0.0, self.machine_cpu_s - sum(self.cpu_s.values())) / self.at_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """The transactions of one stretch of time, and what they used."""

    seconds: float
    latencies_us: Sequence[int]
    failed: Mapping[str, int]
    # Over its own stretch (`used.at_s`), which is a little longer than `seconds`.
    used: Counts

    @property
    def per_second(self) -> float:
        return len(self.latencies_us) / self.seconds

    @property
    def done_while_used(self) -> float:
        """Return the transactions in the stretch that `used` covers."""
        return max(self.per_second * self.used.at_s, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One configuration: medians of the rounds. Costs are per transaction."""

    per_second: float
    # The slowest and the fastest round.
    per_second_range: tuple[float, float]
    # None where nothing was done.
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    cpu_us: Mapping[str, float]
    commits: float
    statements: float
    wal_bytes: float
    fsyncs: float
    # None where participants do not count.
    participant_calls: float | None
    # If it is less than a transaction needs, phase two falls behind and the rate cannot last.
    branch_calls: float | None
    # CPUs used by other processes during the rounds; not per transaction.
    foreign_cpus: float
    failed: Mapping[str, int]

    @property
    def cpu_us_total(self) -> float:
        return sum(self.cpu_us.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "per_second": round(self.per_second, 1),
            "per_second_range": [round(rate, 1) for rate in self.per_second_range],
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "p99_ms": self.p99_ms,
            "commits_per_transaction": round(self.commits, 4),
            "statements_per_transaction": round(self.statements, 4),
            "fsyncs_per_transaction": round(self.fsyncs, 4),
            "wal_bytes_per_transaction": round(self.wal_bytes),
            "participant_calls_per_transaction": _rounded(self.participant_calls, 4),
            "branch_calls_per_transaction": _rounded(self.branch_calls, 2),
            "cpu_us_per_transaction": round(self.cpu_us_total, 1),
            "cpu_us_by_process": {role: round(used, 1) for role, used in self.cpu_us.items()},
            "foreign_cpus": round(self.foreign_cpus, 2),
            "failed": dict(self.failed),
        }


def figures(rounds: Sequence[Round]) -> Figures:
    """Summarize the rounds (at least one) of one configuration.

    Rates and latencies are medians over the rounds. What was used is the sum over
    the rounds divided by the transactions in them: PostgreSQL's counters come up
    to a second late, which a sum evens out.
    """
    rates = [each.per_second for each in rounds]
    done = sum(each.done_while_used for each in rounds)
    failed: Counter[str] = Counter()
    for each in rounds:
        failed.update(each.failed)

    def per_transaction(used: Iterable[float]) -> float:
        return sum(used) / done

    return Figures(
        per_second=median(rates),
        per_second_range=(min(rates), max(rates)),
        p50_ms=_latency_ms(rounds, 0.50),
        p95_ms=_latency_ms(rounds, 0.95),
        p99_ms=_latency_ms(rounds, 0.99),
        cpu_us={
            role: per_transaction(each.used.cpu_s[role] for each in rounds) * 1e6
            for role in rounds[0].used.cpu_s
        },
        commits=per_transaction(each.used.commits for each in rounds),
        statements=per_transaction(each.used.statements for each in rounds),
        wal_bytes=per_transaction(each.used.wal_bytes for each in rounds),
        fsyncs=per_transaction(each.used.fsyncs for each in rounds),
        participant_calls=per_transaction(each.used.participant_calls for each in rounds) or None,
        branch_calls=per_transaction(each.used.branch_calls for each in rounds) or None,
        foreign_cpus=median(each.used.foreign_cpus for each in rounds),
        failed=failed,
    )


def percentile(ordered: Sequence[int], share: float) -> int:
    """Return the nearest-rank percentile of a sorted, non-empty sequence."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def paired_ratio(rounds: Sequence[Round], baseline_rounds: Sequence[Round]) -> float | None:
    """Return the median, over pairs of consecutive rounds, of the rate to the baseline's rate."""
    ratios = [
        each.per_second / baseline.per_second
        for each, baseline in zip(rounds, baseline_rounds, strict=True)
        if baseline.latencies_us
    ]
    return median(ratios) if ratios else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _latency_ms(rounds: Sequence[Round], share: float) -> float | None:
    found = [percentile(sorted(each.latencies_us), share) for each in rounds if each.latencies_us]
    return round(median(found) / 1000, 3) if found else None
