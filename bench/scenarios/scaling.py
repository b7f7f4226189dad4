"""How throughput and cost change with the coordinator's workers, a transaction's branches, and participants.

One of them is varied at a time, from one worker, three branches and three no-op participants.
Branches are given to the participants in turn, and the next transaction begins with the next
participant. The values of one variable are measured in turn within each round.

The kernel assigns each connection to one of the workers, so many initiators share the load where
workers are varied. That costs smaller batches and more processes: compare those rows only with
each other. All processes share the machine's CPUs: more workers take them from PostgreSQL and
the participants.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench import work
from bench.figures import Round, figures
from bench.options import Options
from bench.report import Report, Row
from bench.stage import Load, stage

_IN_FLIGHT = 256
_INITIATORS_OF_WORKERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """`branches` are those of one transaction."""

    workers: int = 1
    branches: int = 3
    participants: int = 3


_BASE = Sizes()
_VARIED = {
    "workers": (_BASE, Sizes(workers=2)),
    "branches": (Sizes(branches=1), _BASE, Sizes(branches=8)),
    "participants": (Sizes(participants=1), _BASE, Sizes(participants=6)),
}
_HEADLINE = {"varied": "branches", **asdict(_BASE)}


def run(options: Options) -> Report:
    rows = [row for varied, all_sizes in _VARIED.items() for row in _vary(varied, all_sizes, options)]
    (headline,) = [row for row in rows if _HEADLINE.items() <= row.configuration.items()]
    return Report(scenario="scaling", rows=rows, headline=headline)


def _vary(varied: str, all_sizes: Sequence[Sizes], options: Options) -> list[Row]:
    initiators = max(options.initiators, _INITIATORS_OF_WORKERS if varied == "workers" else 1)
    in_flight = (options.in_flight or (_IN_FLIGHT,))[-1]
    names = [f"participant-{n}" for n in range(max(sizes.participants for sizes in all_sizes))]
    rounds: dict[Sizes, list[Round]] = {sizes: [] for sizes in all_sizes}
    with stage(options) as here:
        here.start_initiators(initiators)
        participants = here.start_participants(names)
        coordinators = {
            workers: here.start_coordinator(participants, database=f"log-{workers}", workers=workers)
            for workers in {sizes.workers for sizes in all_sizes}
        }
        for _ in range(options.rounds):
            for sizes, measured in rounds.items():
                load = Load(
                    mode="batched",
                    in_flight=in_flight,
                    wait_for=options.wait_for,
                    work=work.spread(sizes.branches, names[: sizes.participants]),
                )
                measured.append(here.measure(coordinators[sizes.workers], load))
    beside = {"initiators": initiators, "in_flight": in_flight}
    return [
        Row(configuration={"varied": varied, **asdict(sizes), **beside}, figures=figures(measured))
        for sizes, measured in rounds.items()
    ]
