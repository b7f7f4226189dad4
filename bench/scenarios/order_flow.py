"""Orders at the three reference participants, each with its own database; 500 SKUs with plenty of stock.

Everything is paid for here: the coordinator and its log, the SDK's barriers, the
participants' own SQL, all on one PostgreSQL. Commits are those of all four
databases; statements are the log's alone.

The baseline is all of that without logic: the coordinator's baseline (`baseline`) before
three of the participants' (`floor_participant`), with databases of their own. They
write the same rows with the same statements, in batches of the same sizes as in
the round just before.
"""

from bench.figures import Round
from bench.flow import IN_FLIGHT, SKUS, Flows
from bench.options import Options
from bench.report import Report, Row, compared
from bench.stage import stage


def run(options: Options) -> Report:
    with stage(options) as here:
        here.start_initiators(options.initiators)
        flows = Flows(here, options)
        rows = [_row(flows, in_flight, options) for in_flight in options.in_flight or (IN_FLIGHT,)]
    return Report(scenario="order-flow", rows=rows, headline=rows[-1])


def _row(flows: Flows, in_flight: int, options: Options) -> Row:
    rounds: list[Round] = []
    baseline_rounds: list[Round] = []
    for _ in range(options.rounds):
        measured, baseline_measured = flows.measure(SKUS, in_flight)
        rounds.append(measured)
        baseline_rounds += baseline_measured
    return compared({"skus": SKUS, "in_flight": in_flight}, rounds, baseline_rounds)
