"""The memory of a coordinator: idle, and for each live transaction.

A coordinator's resident memory is read when it has just started, and again at two numbers of
live transactions. The difference between the last two, divided by the transactions between
them, is what one transaction takes. No participant answers, so every transaction has three
Trys under way; its initiator has learned that it is accepted. The limits are raised for that.

Payloads are included: three of `work.PAYLOAD`. Connections and code that a first load brings
into memory count in neither number.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from bench import work
from bench.options import Options
from bench.report import machine
from bench.resident import resident_bytes
from bench.stage import Stage, stage, wait_until

_LIVE = (5_000, 15_000)
_TIMEOUT_S = 300.0
# After this time freed memory has been returned, and what is lazy has been loaded.
_SETTLE_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryReport:
    """Bytes when idle, and by the number of live transactions."""

    idle: int
    live: Mapping[int, int]
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        (fewer, less), (more, most) = ((0, self.idle), *self.live.items())[-2:]
        return {
            "scenario": "memory",
            "idle_mib": round(self.idle / 2**20, 1),
            "live_mib": {str(count): round(used / 2**20, 1) for count, used in self.live.items()},
            "kib_per_transaction": round((most - less) / (more - fewer) / 1024, 2),
            "payload_bytes_per_transaction": len(work.PAYLOAD) * len(work.PARTICIPANTS),
            "machine": machine(),
        }

    def print_to(self, console: Console) -> None:
        found = self.as_json()
        live = ", ".join(f"{count} live {used} MiB" for count, used in found["live_mib"].items())
        console.print("[bold]memory[/bold] of one coordinator worker", highlight=False)
        console.print(
            f"  idle {found['idle_mib']} MiB, {live}; {found['kib_per_transaction']} KiB a transaction",
            highlight=False,
        )


def run(options: Options) -> MemoryReport:
    with stage(options) as here:
        return _measure(here, sorted(options.in_flight or _LIVE))


def _measure(here: Stage, counts: Sequence[int]) -> MemoryReport:
    here.start_initiators(1)
    participants = here.start_participants()
    room = str(4 * counts[-1])
    coordinator = here.start_coordinator(
        participants,
        limits={"drain_s": "0", "limits.live_max": room, "listen.calls_max": room},
        policy={"call_timeout_s": f"{2 * _TIMEOUT_S}", "concurrency_max": room, "backlog_max": room},
    )
    (pid,) = coordinator.pids["coordinator"]
    for each in participants.counting:
        each.ask("hang")
    time.sleep(_SETTLE_S)
    idle = resident_bytes(pid)
    live: dict[int, int] = {}
    for count in counts:
        here.execute_many(coordinator, count - max(live, default=0), wait_for="accepted")
        wait_until(
            lambda: all(each.ask("count")["items"] >= count for each in participants.counting),  # noqa: B023 - it is called here
            "the transactions are live",
            _TIMEOUT_S,
        )
        time.sleep(_SETTLE_S)
        live[count] = resident_bytes(pid)
    return MemoryReport(idle=idle, live=live)
