"""Orders at the three reference participants, each with its own database; 500 SKUs with plenty of stock.

Everything is paid for here: the coordinator and its log, the SDK's barriers, the
participants' own SQL, all on one PostgreSQL. Commits are those of all four
databases; statements are the log's alone.

There is no floor yet (the same SQL and messages without the SDK and without the
coordinator's logic), so `floor_per_second` and `ratio` are null.
"""

from bench.figures import figures
from bench.flow import IN_FLIGHT, SKUS, OrderFlow
from bench.options import Options
from bench.report import Report, Row
from bench.stage import stage


def run(options: Options) -> Report:
    with stage(options.data_dir) as here:
        here.start_initiators(options.initiators)
        flow = OrderFlow(here)
        rows = [_row(flow, in_flight, options) for in_flight in options.in_flight or (IN_FLIGHT,)]
    return Report(scenario="order-flow", rows=rows, headline=rows[-1])


def _row(flow: OrderFlow, in_flight: int, options: Options) -> Row:
    rounds = [flow.measure(SKUS, in_flight, options) for _ in range(options.rounds)]
    return Row(configuration={"skus": SKUS, "in_flight": in_flight}, figures=figures(rounds))
