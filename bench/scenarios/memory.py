"""What a coordinator keeps in memory: idle, and for each transaction that is live.

For each way to ask, a coordinator of its own is looked at when it has just
started, and again with so many transactions live. The difference between the
last two counts, divided by the transactions between them, is what one takes.

- accepted: no participant answers, so every transaction has three Trys under way.
  Its initiator has been told that it is accepted, and is gone. The bounds are
  raised for that. This is the headline: what a live transaction takes.
- batched, unary: the same, and its initiator waits for the decision. What that
  takes more is gRPC's open call, its request, and the wait.
- interactive: every Try has been answered, and the initiator does nothing more.

Payloads are included: three of `work.PAYLOAD`. Connections and code that a first
load brings into memory are in neither number, but in what is kept at each count.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from rich.console import Console

from bench import work
from bench.options import Options
from bench.report import machine
from bench.resident import resident_bytes
from bench.stage import Participants, Stage, stage

_LIVE = (5_000, 15_000)
_TIMEOUT_S = 300.0
_LOOK_EVERY_S = 0.02
# gRPC refuses calls when more than about a thousand wait to be looked at.
_STEP = 500
# What has been freed by now is returned, and what is lazy has come.
_SETTLE_S = 1.0
_BEGUN = "SELECT count(*) FROM transactions WHERE state = 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What one coordinator had in memory, in bytes. `live`: by transactions that were live."""

    mode: str
    idle: int
    live: dict[int, int]

    @property
    def each(self) -> float:
        """For one more transaction."""
        (fewer, less), (more, most) = ((0, self.idle), *self.live.items())[-2:]
        return (most - less) / (more - fewer)

    def as_json(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "idle_mib": round(self.idle / 2**20, 1),
            "live_mib": {str(count): round(used / 2**20, 1) for count, used in self.live.items()},
            "kib_per_transaction": round(self.each / 1024, 2),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryReport:
    """One `Held` for each way to ask."""

    held: Sequence[Held]
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": "memory",
            # This scenario is not about speed.
            "per_second": None,
            "baseline_per_second": None,
            "ratio": None,
            "p50_ms": None,
            "p99_ms": None,
            "commits_per_transaction": None,
            "cpu_us_per_transaction": None,
            "idle_mib": max(each.as_json()["idle_mib"] for each in self.held),
            "kib_per_transaction": self.held[0].as_json()["kib_per_transaction"],
            "payload_bytes_per_transaction": len(work.PAYLOAD) * len(work.PARTICIPANTS),
            "machine": machine(),
            "configurations": [each.as_json() for each in self.held],
        }

    def print_to(self, console: Console) -> None:
        """For people."""
        console.print("[bold]memory[/bold] of one coordinator worker", highlight=False)
        for each in self.held:
            found = each.as_json()
            live = ", ".join(f"{count} live {used} MiB" for count, used in found["live_mib"].items())
            console.print(
                f"  {each.mode}: idle {found['idle_mib']} MiB, {live}; "
                f"{found['kib_per_transaction']} KiB a transaction",
                highlight=False,
            )


def run(options: Options) -> MemoryReport:
    held = []
    for mode in ("accepted", *options.modes):
        with stage(options) as here:
            held.append(_held(here, mode, sorted(options.in_flight or _LIVE)))
    return MemoryReport(held=held)


def _held(here: Stage, mode: str, counts: Sequence[int]) -> Held:
    participants = here.start_participants()
    # Room for all of them, at each participant.
    room = str(4 * counts[-1])
    coordinator = here.start_coordinator(
        participants,
        limits={"drain_s": "0", "limits.live_max": room, "listen.calls_max": room},
        policy={"call_timeout_s": f"{2 * _TIMEOUT_S}", "concurrency_max": room, "backlog_max": room},
    )
    (pid,) = coordinator.pids["coordinator"]
    live_load = here.start_live_load()
    if mode != "interactive":
        for each in participants.counting:
            each.ask("hang")
    time.sleep(_SETTLE_S)
    idle = resident_bytes(pid)
    live: dict[int, int] = {}
    with psycopg.connect(here.url(coordinator.database), autocommit=True) as log:
        begun = 0
        for count in counts:
            while begun < count:
                step = min(_STEP, count - begun)
                live_load.ask("hold", target=coordinator.address, mode=mode, count=step)
                begun += step
                _wait_until(partial(_are_live, log, participants, begun))
            time.sleep(_SETTLE_S)
            live[count] = resident_bytes(pid)
    return Held(mode=mode, idle=idle, live=live)


def _are_live(log: psycopg.Connection[Any], participants: Participants, count: int) -> bool:
    """Whether so many have begun, and each of their Trys has reached its participant."""
    begun = log.execute(_BEGUN).fetchone() == (count,)
    return begun and all(each.ask("count")["items"] == count for each in participants.counting)


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("the transactions did not become live")
        time.sleep(_LOOK_EVERY_S)
