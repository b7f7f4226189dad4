"""The options of a scenario on the command line."""

from dataclasses import dataclass, replace
from pathlib import Path

# Ways to ask a coordinator.
MODES = ("batched", "unary", "interactive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """A scenario ignores the fields that it does not need."""

    # Of one round, and before each.
    seconds: float = 3.0
    warm_up_s: float = 1.0
    rounds: int = 5
    modes: tuple[str, ...] = MODES
    # None: the scenario's own.
    in_flight: tuple[int, ...] | None = None
    wait_for: str = "decision"
    # Processes that offer load.
    initiators: int = 1
    baseline: bool = True
    # With mutual TLS and JWT; the baselines are mutual TLS alone, and the open.
    secured: bool = False
    # Of the coordinator's log.
    cells: int = 1
    # That the cells are spread over.
    servers: int = 1
    # Processes of the coordinator.
    workers: int = 1
    # The coordinator, and its baseline, keep to one CPU.
    pinned: bool = True
    # Size of the backlog to be drained.
    transactions: int = 10_000
    # Ended transactions in the log, one size after the other.
    rows: tuple[int, ...] = (10_000, 1_000_000, 5_000_000)
    # Where PostgreSQL's data go; what fsync costs depends on it.
    data_dir: Path | None = None
    # A short run that checks that everything works; its figures are not representative.
    quick: bool = False

    def as_quick(self) -> "Options":
        """Return the options of a short run. Scenarios reduce their own sizes if `quick` is set."""
        return replace(
            self,
            seconds=0.5,
            warm_up_s=0.2,
            rounds=1,
            in_flight=(1, 256),
            transactions=500,
            rows=(1_000, 20_000),
            quick=True,
        )
