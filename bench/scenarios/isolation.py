"""One of three participants hangs: the effect on transactions that do not call it.

The measured transactions call inventory and coupon. In every other round the third participant,
order, accepts every call and answers none, while another initiator keeps as many transactions in
flight that call all three. That load is bounded: each caller waits for its answer, repeats what
was refused as the SDK does, and gives up after 30 s. Calls time out half-way through a round, so
that the round sees both calls that hang and an open breaker.

The other rounds have the same load on inventory and coupon, and none on order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from bench import work
from bench.children import CommandedChild
from bench.figures import Round, figures, paired_ratio
from bench.options import Options
from bench.report import Report, Row
from bench.stage import Load, Stage, stage, wait_until

_IN_FLIGHT = 256
*_UNAFFECTED, _HANGING = work.PARTICIPANTS
_SETTLED_TIMEOUT_S = 90.0
_UNFINISHED = "SELECT EXISTS (SELECT FROM tcc.transactions WHERE ended_at IS NULL)"


def run(options: Options) -> Report:
    in_flight = (options.in_flight or (_IN_FLIGHT,))[-1]
    measured: dict[bool, list[Round]] = {False: [], True: []}
    with stage(options) as here:
        isolation = _Isolation(here, in_flight, options)
        for _ in range(options.rounds):
            measured[False].append(isolation.measure_alone())
            measured[True].append(isolation.measure_beside_hanging())
    alone, beside = (
        Row(
            configuration={"third_participant": name, "in_flight": in_flight},
            figures=figures(measured[hanging]),
        )
        for name, hanging in (("unused", False), ("hangs", True))
    )
    return Report(
        scenario="isolation",
        rows=[alone, beside],
        headline=beside,
        comparisons={
            "throughput_kept": paired_ratio(measured[True], measured[False]) or 0.0,
            "p99_grew": (beside.figures.p99_ms or 0.0) / (alone.figures.p99_ms or 1.0),
        },
    )


class _Isolation:
    """The processes, and both kinds of rounds."""

    def __init__(self, here: Stage, in_flight: int, options: Options) -> None:
        self._here = here
        here.start_initiators(options.initiators)
        self._other = here.start_initiator("initiator-of-all-three")
        participants = here.start_participants()
        timeout_s = options.warm_up_s + options.seconds / 2
        system = here.start_coordinator(participants, policy={"call_timeout_s": f"{timeout_s}"})
        self._hanging = participants.counting[-1]
        # Its load is not measured, but its CPU time is not foreign.
        self._system = replace(system, pids={**system.pids, "other initiator": [self._other.pid]})
        self._load = Load(
            mode="batched", in_flight=in_flight, work=work.spread(len(_UNAFFECTED), _UNAFFECTED)
        )
        self._other_load = Load(mode="batched", in_flight=in_flight)

    def measure_alone(self) -> Round:
        return self._here.measure(self._system, self._load)

    def measure_beside_hanging(self) -> Round:
        with self._here.offering(self._other, self._system, self._other_load), _hung(self._hanging):
            measured = self.measure_alone()
        self._settle()
        return measured

    def _settle(self) -> None:
        """Wait until what hung has ended, so that it does not affect the next round."""
        with psycopg.connect(self._here.url(self._system.database), autocommit=True) as log:
            wait_until(
                lambda: log.execute(_UNFINISHED).fetchone() == (False,), "all ended", _SETTLED_TIMEOUT_S
            )


@contextmanager
def _hung(participant: CommandedChild) -> Iterator[None]:
    """Let the participant answer nothing during the block."""
    participant.ask("hang")
    try:
        yield
    finally:
        participant.ask("answer")
