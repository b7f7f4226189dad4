"""Four times the load that can be sustained: the remaining goodput, and the memory that it costs.

First the sustainable peak: a closed loop, with the concurrency that serves it best. Then an
open loop: transactions arrive at four times that rate, whatever their outcome. Those that are
completed are the *goodput*. The others are counted and not offered again: refused with
RESOURCE_EXHAUSTED, or turned away (gRPC itself ends calls with CANCELLED when more than about
a thousand wait). Rounds of both alternate; those of the overload are longer.

In both kinds of rounds load comes in batches made beforehand (`bench.raw_load`), so that the
initiators take little of the CPU. All processes share one machine.

Finally one overload is held, and memory is measured after gRPC's queue has filled; its growth
is from the second third of that time to its last. Calls that waited beyond their deadline are
counted in `held_too_late_per_second`.
"""

import time
from dataclasses import replace

from bench.figures import Round, figures, paired_ratio
from bench.options import Options
from bench.report import Report, Row
from bench.resident import Watch, growth, most
from bench.stage import Load, Stage, System, stage

_IN_FLIGHT = (256, 1024, 4096)
_TIMES = 4
# An overloaded round takes this many times as long as another one.
_LONGER = 3
# Memory is measured for `_HELD` such times, after `_FILLING` of them for the queues to fill.
_FILLING, _HELD = 10, 15
_REFUSED = "RESOURCE_EXHAUSTED"
_TURNED_AWAY = "CANCELLED:"
_TOO_LATE = "DEADLINE_EXCEEDED:"


def run(options: Options) -> Report:
    with stage(options) as here:
        here.start_initiators(options.initiators)
        system = here.start_coordinator(here.start_participants())
        found = _Overload(here, system, options)
        found.measure()
    return found.report()


class _Overload:
    """The rounds, and their report."""

    def __init__(self, here: Stage, system: System, options: Options) -> None:
        self._here = here
        self._system = system
        self._options = options
        self._full = Watch(system.pids)
        self._tried: dict[int, Round] = {}
        self._peak: list[Round] = []
        self._overloaded: list[Round] = []
        # The rates, added up.
        self._offered = 0.0
        self._held: list[Round] = []

    def measure(self) -> None:
        for in_flight in self._options.in_flight or _IN_FLIGHT:
            self._tried[in_flight] = self._closed(in_flight)
        best = max(self._tried, key=lambda in_flight: self._tried[in_flight].per_second)
        for _ in range(self._options.rounds):
            self._peak.append(self._closed(best))
            arrivals_per_second = _TIMES * self._peak[-1].per_second
            self._overloaded.append(self._open(arrivals_per_second))
            self._offered += arrivals_per_second
        self._held.append(self._hold(self._offered / self._options.rounds))

    def report(self) -> Report:
        peak = Row(configuration={"load": "peak"}, figures=figures(self._peak))
        refused = sum(_count(each, _REFUSED) for each in self._overloaded)
        turned_away = sum(_count(each, _TURNED_AWAY) for each in self._overloaded)
        overloaded = Row(
            configuration={"load": f"{_TIMES} times"},
            figures=figures([_without(each, _REFUSED, _TURNED_AWAY) for each in self._overloaded]),
        )
        seconds = sum(each.seconds for each in self._overloaded)
        too_late = sum(_count(each, _TOO_LATE) for each in self._held)
        held = Row(
            configuration={"load": f"{_TIMES} times, held"},
            figures=figures([_without(each, _REFUSED, _TURNED_AWAY, _TOO_LATE) for each in self._held]),
        )
        samples = self._full.samples
        return Report(
            scenario="overload",
            rows=[
                *[
                    Row(configuration={"load": f"{n} under way"}, figures=figures([each]))
                    for n, each in self._tried.items()
                ],
                peak,
                overloaded,
                held,
            ],
            headline=overloaded,
            comparisons={
                "goodput_to_peak": paired_ratio(self._overloaded, self._peak) or 0.0,
                "offered_per_second": self._offered / len(self._overloaded),
                "refused_per_second": refused / seconds,
                "turned_away_per_second": turned_away / seconds,
                "held_too_late_per_second": too_late / sum(each.seconds for each in self._held),
                **{f"memory_max_mib_{role}": used / 2**20 for role, used in most(samples).items()},
                **{f"memory_growth_mib_{role}": used / 2**20 for role, used in growth(samples).items()},
            },
        )

    def _closed(self, in_flight: int) -> Round:
        load = Load(mode="raw_load", in_flight=in_flight, wait_for=self._options.wait_for)
        return self._here.measure(self._system, load)

    def _open(self, per_second: float) -> Round:
        return self._here.measure(self._system, self._arriving(per_second), times=_LONGER)

    def _hold(self, per_second: float) -> Round:
        offered = self._here.offer(self._system, self._arriving(per_second))
        time.sleep(_FILLING * self._options.seconds)
        offered.begin()
        self._full.sleep(_HELD * self._options.seconds)
        measured = offered.end()
        offered.stop()
        return measured

    def _arriving(self, per_second: float) -> Load:
        return Load(
            mode="raw_load",
            in_flight=self._options.initiators,
            wait_for=self._options.wait_for,
            arrivals_per_second=per_second,
        )


def _count(each: Round, start: str) -> int:
    return sum(count for reason, count in each.failed.items() if reason.startswith(start))


def _without(each: Round, *starts: str) -> Round:
    """Leave out the failures that begin so: they are expected here, and reported elsewhere."""
    failed = {reason: count for reason, count in each.failed.items() if not reason.startswith(starts)}
    return replace(each, failed=failed)
