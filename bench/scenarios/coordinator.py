"""The coordinator alone: three participants that do nothing, any number of initiators.

Three modes (batched by the SDK, one call a transaction, interactive) at several numbers of
transactions in flight. The baseline is measured for whole transactions; an interactive
transaction mostly waits for its initiator.

With `--secured`, all connections have mutual TLS, and initiators show a JWT as well. There are two
baselines: the same with mutual TLS alone, so that the ratio shows what authentication and authorization
cost, and the same in the open. Rounds of all three alternate, and each of them begins a turn as often.

The headline is batched with 256 in flight, or the last configuration if that was not measured.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from bench.batches import batches
from bench.children import CommandedChild
from bench.figures import Round
from bench.options import Options
from bench.report import Report, Row, compared
from bench.stage import Load, Stage, System, stage

_IN_FLIGHT = (1, 16, 256, 1024)
_HEADLINE = {"mode": "batched", "in_flight": 256}
_MODES_WITH_BASELINE = ("batched", "unary")


def run(options: Options) -> Report:
    with stage(options) as here:
        here.start_initiators(options.initiators)
        participants = here.start_participants()
        coordinator = here.start_coordinator(participants, workers=options.workers)
        loads = [
            Load(mode=mode, in_flight=n, wait_for=options.wait_for)
            for mode, n in product(options.modes, options.in_flight or _IN_FLIGHT)
        ]
        if options.secured:
            return _secured(here, coordinator, loads, options)
        baseline = _Baseline(*here.start_baseline(participants)) if options.baseline else None
        rows = [_row(here, coordinator, baseline, load, options) for load in loads]
    return _report(rows)


def _secured(here: Stage, in_the_open: System, loads: Sequence[Load], options: Options) -> Report:
    """Compare a coordinator that authorizes with one that has mutual TLS alone, and one in the open."""
    systems = (*here.start_secured(), in_the_open)
    rows: list[Row] = []
    comparisons: dict[str, float] = {}
    for load in loads:
        turns = [_turn(here, systems, load, first=n % len(systems)) for n in range(options.rounds)]
        own, *baselines = zip(*turns, strict=True)
        for name, baseline in zip(("mutual TLS", "the open"), baselines, strict=True):
            row = compared({"mode": load.mode, "in_flight": load.in_flight, "beside": name}, own, baseline)
            rows.append(row)
            comparisons |= _cpu(row)
    return _report(rows, comparisons)


def _turn(here: Stage, systems: Sequence[System], load: Load, *, first: int) -> list[Round]:
    """Measure each system for one round, in the order in which they are given.

    `first`: the one with which the turn begins; another one each time, because its place affects a round.
    """
    order = [*range(first, len(systems)), *range(first)]
    measured = {place: here.measure(systems[place], load) for place in order}
    return [measured[place] for place in range(len(systems))]


def _cpu(row: Row) -> dict[str, float]:
    """Return the CPU of the coordinator for each transaction, to that of the baseline."""
    assert row.baseline is not None
    own, baseline = row.figures.cpu_us["coordinator"], row.baseline.cpu_us["coordinator"]
    return {f"CPU of the coordinator, {' '.join(map(str, row.configuration.values()))}": own / baseline}


def _report(rows: Sequence[Row], comparisons: Mapping[str, float] | None = None) -> Report:
    headline = [each for each in rows if _HEADLINE.items() <= each.configuration.items()] or rows[-1:]
    return Report(scenario="coordinator", rows=rows, headline=headline[0], comparisons=comparisons or {})


class _Baseline(NamedTuple):
    """The baseline program, which rounds are compared with."""

    system: System
    program: CommandedChild

    def take_batches(self, measured: Round) -> None:
        """Give the program the batch sizes of the coordinator."""
        sizes = batches(measured)
        self.program.ask("batches", rows=sizes.rows, calls=sizes.calls)


def _row(here: Stage, coordinator: System, baseline: _Baseline | None, load: Load, options: Options) -> Row:
    """One configuration. Its rounds and its baseline's alternate."""
    rounds: list[Round] = []
    baseline_rounds: list[Round] = []
    for _ in range(options.rounds):
        rounds.append(here.measure(coordinator, load))
        if baseline is not None and load.mode in _MODES_WITH_BASELINE:
            baseline.take_batches(rounds[-1])
            baseline_rounds.append(here.measure(baseline.system, load))
    return compared({"mode": load.mode, "in_flight": load.in_flight}, rounds, baseline_rounds)
