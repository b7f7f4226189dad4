"""The gates before the stock: Trys of one SKU at the inventory alone, on sale and sold out.

Three inventories take turns, each with a database of its own: one without any gate (the baseline), one with
the gate in its memory, and one with the gate in Redis as well. A "transaction" is one Try. On sale
it is a durable reservation; sold out it is a refusal, which no gate lets through to the database.
"""

import psycopg

from bench import work
from bench.figures import Round
from bench.flow import fill_stock
from bench.options import Options
from bench.report import Report, Row, compared
from bench.stage import Load, Stage, System, stage
from participants.redis_server import missing, redis_server

_BATCH = 256
_MESSAGES_IN_FLIGHT = 8
_NO_GATE = "none"


def run(options: Options) -> Report:
    if missing():
        raise SystemExit(missing())
    with redis_server() as redis, stage(options) as here:
        here.start_initiators(options.initiators)
        gates = {_NO_GATE: ["--ceiling-s=0"], "process": [], "redis": [f"--redis=unix://{redis}"]}
        systems = {
            gate: here.start_alone("participants.inventory", gate, *arguments)
            for gate, arguments in gates.items()
        }
        for gate in gates:
            fill_stock(here, gate)
        on_sale = _rows(here, options, systems, "direct", "on sale")
        for gate in gates:
            with psycopg.connect(here.url(gate), autocommit=True) as connection:
                connection.execute("UPDATE stock SET sold = sold + available, available = 0")
        sold_out = _rows(here, options, systems, "refused", "sold out")
    measured = {"trys_ratio": on_sale, "refusals_ratio": sold_out}
    ratios = {
        f"{row.configuration['gate']}_{name}": row.ratio or 0.0
        for name, rows in measured.items()
        for row in rows
    }
    return Report(scenario="gate", rows=[*on_sale, *sold_out], headline=sold_out[-1], comparisons=ratios)


def _rows(here: Stage, options: Options, systems: dict[str, System], mode: str, name: str) -> list[Row]:
    load = Load(mode=mode, in_flight=_MESSAGES_IN_FLIGHT, work=work.reservations(_BATCH))
    rounds: dict[str, list[Round]] = {gate: [] for gate in systems}
    for _ in range(options.rounds):
        for gate, measured in rounds.items():
            measured.append(here.measure(systems[gate], load))
    without = rounds.pop(_NO_GATE)
    return [compared({"stock": name, "gate": gate}, each, without) for gate, each in rounds.items()]
