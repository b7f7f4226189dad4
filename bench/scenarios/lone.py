"""Few transactions at once: a quiet shop, where each call travels alone.

- No-op participants: as in `coordinator`, batched. The baseline is the baseline program.
- The shop: as in `order-flow`. It has no baseline.
- A participant alone, async and sync, which gets a Try and then its Confirm. The baseline is the
  same SQL by bare psycopg behind the same gRPC.
"""

from dataclasses import replace

from bench import work
from bench.figures import Round
from bench.options import Options
from bench.report import Report, Row, compared
from bench.scenarios import coordinator, order_flow
from bench.stage import Load, stage


def run(options: Options) -> Report:
    options = replace(options, modes=("batched",), in_flight=options.in_flight or (1, 4, 16))
    noop = coordinator.run(options).rows
    alone = _alone(options)
    baseline = noop[0].baseline or noop[0].figures  # itself with --no-baseline
    return Report(
        scenario="lone",
        rows=[*noop, *order_flow.run(options).rows, *alone],
        headline=noop[0],
        comparisons={
            "p50_ratio_to_floor": (noop[0].figures.p50_ms or 0.0) / (baseline.p50_ms or 1.0),
            "participant_cpu_ratio_to_floor": _cpu_ratio(alone[0]),
            "sync_participant_cpu_ratio_to_floor": _cpu_ratio(alone[1]),
        },
    )


def _alone(options: Options) -> list[Row]:
    rows: list[Row] = []
    with stage(options) as here:
        here.start_initiators(options.initiators)
        kinds = ("async", "sync", "baseline")
        systems = {kind: here.start_alone("bench.lone_participant", kind, kind) for kind in kinds}
        for n in options.in_flight or ():
            load = Load(mode="try_confirm", in_flight=n, work=work.noop(["lone"]))
            rounds: dict[str, list[Round]] = {kind: [] for kind in kinds}
            for _ in range(options.rounds):
                for kind, measured in rounds.items():
                    measured.append(here.measure(systems[kind], load))
            baseline = rounds.pop("baseline")
            rows += [
                compared({"participant": kind, "in_flight": n}, each, baseline)
                for kind, each in rounds.items()
            ]
    return rows


def _cpu_ratio(row: Row) -> float:
    assert row.baseline is not None, "it was measured"
    return row.figures.cpu_us["participant"] / max(row.baseline.cpu_us["participant"], 1.0)
