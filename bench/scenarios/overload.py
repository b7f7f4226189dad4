"""Four times the load that can be sustained: what is still done, and what it costs in memory.

First the sustainable peak: a closed loop, with as many transactions under way as
serve it best. Then an open loop: transactions arrive at four times that rate,
whatever becomes of them. What it takes and completes is the *goodput*. The rest is
counted and not offered again: refused with RESOURCE_EXHAUSTED, turned away (gRPC
itself ends calls with CANCELLED when more than about a thousand wait to be looked
at), or unanswered when the round ends. Rounds of both alternate, those of the
overload are longer.

Load comes in batches made beforehand (`bench.raw_load`), in both kinds of rounds, so
that the initiators take little of the CPU. What they do take of it, and what the
coordinator takes for refusing, is missing for the goodput: everything is on one
machine. `goodput_per_cpu_to_peak` compares what a CPU achieved of those that
initiators left. A round begins when the bounds are reached.

At last one overload is held, and memory is looked at. At first calls still gather in
gRPC's queue, until as many come in as go out or have waited there for too long. What is
said of memory is said of the time after that; its growth is from the second third of
that time to its last one. `memory_mib_coordinator`, about one figure a second, shows all
of it. Whoever waits for longer than its deadline is counted in `held_too_late_per_second`.
"""

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
# Memory is looked at for `_HELD` such times, after `_FILLING` of them for the queues to fill.
_FILLING, _HELD = 10, 15
# One of so many looks is kept for the series.
_EVERY = 5
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
    """Rounds, and what is said of them."""

    def __init__(self, here: Stage, system: System, options: Options) -> None:
        self._here = here
        self._system = system
        self._options = options
        self._filling = Watch(system.pids)
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
                "goodput_per_cpu_to_peak": _per_cpu(self._overloaded) / _per_cpu(self._peak),
                "offered_per_second": self._offered / len(self._overloaded),
                "refused_per_second": refused / seconds,
                "turned_away_per_second": turned_away / seconds,
                "held_too_late_per_second": too_late / sum(each.seconds for each in self._held),
                **{f"cpus_{role}": used for role, used in _cpus(self._overloaded).items()},
                **{f"memory_max_mib_{role}": used / 2**20 for role, used in most(samples).items()},
                **{f"memory_growth_mib_{role}": used / 2**20 for role, used in growth(samples).items()},
            },
            series={"memory_mib_coordinator": self._memory_mib()},
        )

    def _closed(self, in_flight: int) -> Round:
        load = Load(mode="raw_load", in_flight=in_flight, wait_for=self._options.wait_for)
        return self._here.measure(
            self._system, load, warm_up_s=self._options.warm_up_s, round_s=self._options.seconds
        )

    def _open(self, per_second: float) -> Round:
        return self._here.measure(
            self._system,
            self._arriving(per_second),
            warm_up_s=_LONGER * self._options.warm_up_s,
            round_s=_LONGER * self._options.seconds,
        )

    def _hold(self, per_second: float) -> Round:
        offered = self._here.offer(self._system, self._arriving(per_second))
        self._filling.sleep(_FILLING * self._options.seconds)
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

    def _memory_mib(self) -> list[float]:
        samples = [*self._filling.samples, *self._full.samples]
        return [sample["coordinator"] / 2**20 for sample in samples[::_EVERY]]


def _count(each: Round, start: str) -> int:
    return sum(count for reason, count in each.failed.items() if reason.startswith(start))


def _without(each: Round, *starts: str) -> Round:
    """Its failures but for those that begin so: they are no failures here, and said elsewhere."""
    failed = {reason: count for reason, count in each.failed.items() if not reason.startswith(starts)}
    return replace(each, failed=failed)


def _cpus(rounds: list[Round]) -> dict[str, float]:
    """How many CPUs each role kept busy."""
    seconds = sum(each.used.at_s for each in rounds)
    return {role: sum(each.used.cpu_s[role] for each in rounds) / seconds for role in rounds[0].used.cpu_s}


def _per_cpu(rounds: list[Round]) -> float:
    """Transactions for each second of CPU that somebody other than initiators took."""
    used_s = sum(sum(each.used.cpu_s.values()) - each.used.cpu_s["initiators"] for each in rounds)
    return sum(each.done_while_used for each in rounds) / max(used_s, 1e-9)
