"""Everybody wants the same SKU: through the coordinator, and at the inventory alone.

- Through the coordinator, rounds of orders for one SKU alternate with rounds
  spread over many, as in `order-flow`; `hot_to_spread` is the ratio of the two.
- Alone, the inventory gets batches of Trys for one SKU as a coordinator sends
  them, several at once, and nobody confirms. A "transaction" is one durable Try
  there, and its latency is that of the whole call.

The baselines are those of `order-flow`; alone, the inventory's own (`floor_participant`).
"""

from itertools import product

from bench import work
from bench.batches import batches
from bench.figures import Round
from bench.flow import IN_FLIGHT, SKUS, Flows, fill_stock
from bench.options import Options
from bench.report import Report, Row, compared
from bench.stage import Load, Stage, System, baseline_database, stage

# Of the inventory alone: branch calls in a message, and messages at once.
_BATCH = 256
_MESSAGES_IN_FLIGHT = 8
_ALONE = "inventory-alone"


def run(options: Options) -> Report:
    with stage(options) as here:
        here.start_initiators(options.initiators)
        hot, spread = _orders(here, options)
        alone = _alone(here, options)
    return Report(
        scenario="hot-sku",
        rows=[hot, spread, alone],
        headline=hot,
        comparisons={
            "hot_to_spread": hot.figures.per_second / max(spread.figures.per_second, 1.0),
            "inventory_alone_per_second": alone.figures.per_second,
        },
    )


def _orders(here: Stage, options: Options) -> tuple[Row, Row]:
    flows = Flows(here, options)
    in_flight = (options.in_flight or (IN_FLIGHT,))[-1]
    rounds: dict[int, list[Round]] = {1: [], SKUS: []}
    baseline_rounds: dict[int, list[Round]] = {1: [], SKUS: []}
    for _, skus in product(range(options.rounds), rounds):
        measured, baseline_measured = flows.measure(skus, in_flight)
        rounds[skus].append(measured)
        baseline_rounds[skus] += baseline_measured
    hot, spread = (
        compared(
            {"through": "coordinator", "skus": skus, "in_flight": in_flight}, measured, baseline_rounds[skus]
        )
        for skus, measured in rounds.items()
    )
    return hot, spread


def _alone(here: Stage, options: Options) -> Row:
    system = here.start_alone("inventory", _ALONE)
    fill_stock(here, _ALONE)
    baseline = _BaselineAlone(here, options) if options.baseline else None
    rounds: list[Round] = []
    baseline_rounds: list[Round] = []
    for _ in range(options.rounds):
        rounds.append(_measure_alone(here, system, options))
        if baseline is not None:
            baseline_rounds.append(baseline.measure(rounds[-1]))
    configuration = {"through": "alone", "skus": 1, "in_flight": _MESSAGES_IN_FLIGHT * _BATCH}
    return compared(configuration, rounds, baseline_rounds)


class _BaselineAlone:
    """The inventory's baseline alone."""

    def __init__(self, here: Stage, options: Options) -> None:
        self._here = here
        self._options = options
        database = baseline_database(_ALONE)
        self._system = here.start_baseline_alone("inventory", database)
        fill_stock(here, database)

    def measure(self, before: Round) -> Round:
        """A round with the batches of the round before."""
        [participant] = self._system.counting
        participant.ask("batches", branches=batches(before).branches)
        return _measure_alone(self._here, self._system, self._options)


def _measure_alone(here: Stage, system: System, options: Options) -> Round:
    load = Load(mode="direct", in_flight=_MESSAGES_IN_FLIGHT, work=work.reservations(_BATCH))
    return here.measure(system, load, warm_up_s=options.warm_up_s, round_s=options.seconds)
