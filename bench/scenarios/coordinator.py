"""The coordinator alone: three participants that do nothing, any number of initiators.

Three modes (batched by the SDK, one call a transaction, interactive) at several numbers of
transactions in flight. The baseline is measured for whole transactions; an interactive
transaction mostly waits for its initiator.

With `--secured`, all connections have mutual TLS, and initiators show a JWT as well. The baseline is the
same coordinator without them.

The headline is batched with 256 in flight, or the last configuration if that was not measured.
"""

from itertools import product

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
        coordinator = here.start_coordinator(participants)
        baseline: _Baseline | None = None
        if options.secured:
            coordinator, baseline = here.start_secured(), _Baseline(coordinator)
        elif options.baseline:
            baseline = _Baseline(*here.start_baseline(participants))
        rows = [
            _row(
                here, coordinator, baseline, Load(mode=mode, in_flight=n, wait_for=options.wait_for), options
            )
            for mode, n in product(options.modes, options.in_flight or _IN_FLIGHT)
        ]
    headline = [each for each in rows if each.configuration == _HEADLINE] or rows[-1:]
    return Report(scenario="coordinator", rows=rows, headline=headline[0])


class _Baseline:
    """What rounds are compared with: the baseline program, or another coordinator."""

    def __init__(self, system: System, program: CommandedChild | None = None) -> None:
        self.system = system
        self._program = program

    def take_batches(self, measured: Round) -> None:
        """Give the program the batch sizes of the coordinator. Another coordinator makes its own."""
        if self._program is not None:
            sizes = batches(measured)
            self._program.ask("batches", rows=sizes.rows, calls=sizes.calls)


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
