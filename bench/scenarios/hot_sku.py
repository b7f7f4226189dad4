"""Every order wants the same SKU: through the coordinator, and at the inventory alone.

- Through the coordinator, rounds of orders for one SKU alternate with rounds spread over
  many, as in `order-flow`; `hot_to_spread` is the ratio of the two.
- Alone, the inventory gets several batches of Trys for one SKU at once, and no call confirms
  them. A "transaction" is one durable Try there; its latency is that of the whole call.
"""

from itertools import product

from bench import work
from bench.figures import Round
from bench.flow import IN_FLIGHT, SKUS, OrderFlow, fill_stock
from bench.options import Options
from bench.report import Report, Row, compared
from bench.stage import Load, Stage, stage

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


def _orders(here: Stage, options: Options) -> list[Row]:
    flow = OrderFlow(here, options)
    in_flight = (options.in_flight or (IN_FLIGHT,))[-1]
    rounds: dict[int, list[Round]] = {1: [], SKUS: []}
    for _, skus in product(range(options.rounds), rounds):
        rounds[skus].append(flow.measure(skus, in_flight))
    return [
        compared({"through": "coordinator", "skus": skus, "in_flight": in_flight}, measured)
        for skus, measured in rounds.items()
    ]


def _alone(here: Stage, options: Options) -> Row:
    system = here.start_alone("participants.inventory", _ALONE)
    fill_stock(here, _ALONE)
    load = Load(mode="direct", in_flight=_MESSAGES_IN_FLIGHT, work=work.reservations(_BATCH))
    rounds = [here.measure(system, load) for _ in range(options.rounds)]
    return compared({"through": "alone", "skus": 1, "in_flight": _MESSAGES_IN_FLIGHT * _BATCH}, rounds)
