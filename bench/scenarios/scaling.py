"""How throughput and cost change with the coordinator's workers, a transaction's branches, and participants.

One of them is varied at a time; the headline is what the others are varied from.
Participants do nothing. A transaction gives its branches to them in turn, and the
next one begins with the next participant.

The kernel gives each connection to one of the workers, as it likes. There are many
initiators for that reason, in every configuration.

All configurations are measured in turn within each round. The machine's CPUs are
shared by everybody here: more workers take them from PostgreSQL and participants.
"""

from dataclasses import asdict, dataclass

from bench import work
from bench.figures import Round, figures
from bench.options import Options
from bench.report import Report, Row
from bench.stage import Load, stage

_IN_FLIGHT = 256
_INITIATORS_MIN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What is varied. `branches` are those of one transaction."""

    workers: int = 1
    branches: int = 3
    participants: int = 3


_BASE = Sizes()
_VARIED = (
    _BASE,
    Sizes(workers=2),
    Sizes(branches=1),
    Sizes(branches=8),
    Sizes(participants=1),
    Sizes(participants=6),
)


def run(options: Options) -> Report:
    in_flight = (options.in_flight or (_IN_FLIGHT,))[-1]
    names = [f"participant-{n}" for n in range(max(sizes.participants for sizes in _VARIED))]
    rounds: dict[Sizes, list[Round]] = {sizes: [] for sizes in _VARIED}
    with stage(options.data_dir) as here:
        here.start_initiators(max(options.initiators, _INITIATORS_MIN))
        participants = here.start_participants(names)
        coordinators = {
            workers: here.start_coordinator(participants, database=f"log-{workers}", workers=workers)
            for workers in dict.fromkeys(sizes.workers for sizes in _VARIED)
        }
        for _ in range(options.rounds):
            for sizes, measured in rounds.items():
                load = Load(
                    mode="batched",
                    in_flight=in_flight,
                    wait_for=options.wait_for,
                    work=work.spread(sizes.branches, names[: sizes.participants]),
                )
                measured.append(
                    here.measure(
                        coordinators[sizes.workers],
                        load,
                        warm_up_s=options.warm_up_s,
                        round_s=options.seconds,
                    )
                )
    rows = {
        sizes: Row(configuration={**asdict(sizes), "in_flight": in_flight}, figures=figures(measured))
        for sizes, measured in rounds.items()
    }
    return Report(scenario="scaling", rows=list(rows.values()), headline=rows[_BASE])
