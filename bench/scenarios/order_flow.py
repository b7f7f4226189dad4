"""Orders at the three reference participants, each with its own database; 500 SKUs with plenty of stock.

The cost of everything is included: coordinator, log, barriers and the participants' own SQL, all
on one PostgreSQL. Commits are those of all four databases; statements are the log's alone.
"""

from bench.flow import IN_FLIGHT, OrderFlow
from bench.options import Options
from bench.report import Report, compared
from bench.stage import stage


def run(options: Options) -> Report:
    with stage(options) as here:
        here.start_initiators(options.initiators)
        flow = OrderFlow(here, options)
        rows = [
            compared({"in_flight": in_flight}, [flow.measure(in_flight) for _ in range(options.rounds)])
            for in_flight in options.in_flight or (IN_FLIGHT,)
        ]
    return Report(scenario="order-flow", rows=rows, headline=rows[-1])
