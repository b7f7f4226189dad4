"""An idle coordinator: its CPU time, and the statements that it sends.

It is measured after some load, when its connections are open and its code is warm.
"""

import time
from dataclasses import dataclass
from typing import Any

import psutil
from rich.console import Console

from bench.figures import Counts
from bench.options import Options
from bench.report import machine
from bench.stage import Load, stage

_LOAD = Load(mode="batched", in_flight=16, wait_for="completion")
# A backend that has become idle reports what it did within this time.
_SETTLE_S = 11.0
_LOOK_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class IdleReport:
    """The resources used in `used.at_s` seconds."""

    used: Counts
    memory_bytes: int
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": "idle",
            "seconds": round(self.used.at_s, 1),
            "cpu_us_per_second": {role: round(used) for role, used in self._cpu_us_per_second().items()},
            "statements_per_second": round(self.used.statements / self.used.at_s, 2),
            "commits_per_second": round(self.used.commits / self.used.at_s, 2),
            "memory_mib": round(self.memory_bytes / 2**20, 1),
            "machine": machine(),
        }

    def print_to(self, console: Console) -> None:
        found = self.as_json()
        console.print(f"[bold]idle[/bold] for {found['seconds']} s", highlight=False)
        for role, used in self._cpu_us_per_second().items():
            console.print(f"  {role}: {used / 1e4:.2f} % of one CPU", highlight=False)
        console.print(
            f"  {found['statements_per_second']} statements, {found['commits_per_second']} commits a second, "
            f"coordinator {found['memory_mib']} MiB",
            highlight=False,
        )

    def _cpu_us_per_second(self) -> dict[str, float]:
        return {role: used / self.used.at_s * 1e6 for role, used in self.used.cpu_s.items()}


def run(options: Options) -> IdleReport:
    with stage(options) as here:
        here.start_initiators(1)
        participants = here.start_participants()
        coordinator = here.start_coordinator(participants)
        here.measure(coordinator, _LOAD)
        time.sleep(_SETTLE_S)
        before = here.counts(coordinator)
        time.sleep(_LOOK_S)
        used = here.counts(coordinator).since(before)
        (pid,) = coordinator.pids["coordinator"]
        return IdleReport(used=used, memory_bytes=psutil.Process(pid).memory_info().rss)
