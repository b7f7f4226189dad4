"""One MESSAGE beside one TCC branch, and three SAGA beside three TCC branches, batched.

Participants do nothing. The baseline is the TCC branches, by the same coordinator. Initiators wait for the
completion, so that no call is left for a later round.
"""

from bench import work
from bench.options import Options
from bench.report import Report, compared
from bench.stage import Load, stage
from tcc.client.requests import Kind

_CASES: tuple[tuple[Kind, int], ...] = (("message", 1), ("saga", 3))
_IN_FLIGHT = (256,)


def run(options: Options) -> Report:
    with stage(options) as here:
        here.start_initiators(options.initiators)
        coordinator = here.start_coordinator(here.start_participants())
        rows = []
        for (kind, count), n in [(case, n) for case in _CASES for n in options.in_flight or _IN_FLIGHT]:
            loads = [
                Load(
                    mode="batched",
                    in_flight=n,
                    work=work.noop(work.PARTICIPANTS[:count], each),
                    wait_for="completion",
                )
                for each in (kind, "tcc")
            ]
            rounds = [[here.measure(coordinator, load) for load in loads] for _ in range(options.rounds)]
            own, tcc = ([turn[i] for turn in rounds] for i in range(2))
            rows.append(compared({"kind": kind, "branches": count, "in_flight": n}, own, tcc))
    ratios = {f"{row.configuration['kind']}_ratio": row.ratio or 0.0 for row in rows}
    return Report(scenario="kinds", rows=rows, headline=rows[0], comparisons=ratios)
