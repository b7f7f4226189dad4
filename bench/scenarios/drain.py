"""A backlog: transactions that a dead coordinator and a dead participant left decided and unfinished.

A participant executes its Trys and stalls: transactions are decided, and none can end. Then
the coordinator and the participant are killed, in either order:

- `owned`: the coordinator first. By the log it still owns all of them, and they are adopted.
- `parked`: the participant first. The coordinator cannot reach it, parks all of them in the log,
  and is killed then.

Both stay down until the lease of the dead coordinator has expired. Both return, the participant
first. Time runs from the moment at which both listen until the log holds the last one as
confirmed. A latency is one transaction's time from that moment.

Each is measured alone, and then beside live load at the coordinator that has just returned, as
in an outage. When the backlog is drained, the same load continues for as long again; `live_kept`
is its rate before that divided by its rate after. There is no baseline; `ratio` is null.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import psycopg

from bench.figures import Counts, Round, figures
from bench.options import Options
from bench.report import Report, Row
from bench.stage import Load, OfferedLoad, Participants, Stage, System, stage, wait_until

_STEADY = ("inventory", "coupon")
_DYING = "order"
_WAYS = ("owned", "parked")
_LIVE_IN_FLIGHT = 64
# Of the coordinator that dies. Its lease is not part of the measured time.
_SHORT_LEASE = {"recovery.lease_s": "1.0", "recovery.heartbeat_every_s": "0.25"}
_TIMEOUT_S = 120.0

_LEASED = "SELECT count(*) FROM tcc.coordinators WHERE lease_until > now()"
_UNPARKED = "SELECT count(*) FROM tcc.transactions WHERE next_attempt_at IS NULL"
_UNFINISHED = "SELECT count(*) FROM tcc.transactions WHERE ended_at IS NULL AND created_at < %s"
# Microseconds until each was done.
_DONE = """
    SELECT state, (extract(epoch FROM ended_at - %(since)s) * 1e6)::bigint
    FROM tcc.transactions WHERE created_at < %(since)s ORDER BY ended_at
    """
_CONFIRMED = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drain:
    """One backlog, and the live load beside it and after it where there was any."""

    backlog: Round
    live_beside: Round | None = None
    live_after: Round | None = None

    @property
    def live_kept(self) -> float:
        assert self.live_beside is not None
        assert self.live_after is not None
        return self.live_beside.per_second / max(self.live_after.per_second, 1.0)


def run(options: Options) -> Report:
    with stage(options) as here:
        here.start_initiators(1)
        backlogs = _Backlogs(here, here.start_participants(_STEADY), options)
        alone: dict[str, list[_Drain]] = {way: [] for way in _WAYS}
        beside_load: dict[str, list[_Drain]] = {way: [] for way in _WAYS}
        for _ in range(options.rounds):
            for way in _WAYS:
                alone[way].append(backlogs.drain(way))
                beside_load[way].append(backlogs.drain(way, (options.in_flight or (_LIVE_IN_FLIGHT,))[-1]))
    rows = [_row(way, "alone", [drain.backlog for drain in drains]) for way, drains in alone.items()]
    slowest = min(rows, key=lambda row: row.figures.per_second)
    for way, drains in beside_load.items():
        rows += [
            _row(way, "live load beside it", [drain.live_beside for drain in drains]),
            _row(way, "live load after it", [drain.live_after for drain in drains]),
        ]
    return Report(scenario="drain", rows=rows, headline=slowest, comparisons=_comparisons(alone, beside_load))


def _row(way: str, what: str, rounds: Sequence[Round | None]) -> Row:
    return Row(
        configuration={"left": way, "measured": what},
        figures=figures([each for each in rounds if each is not None]),
    )


def _comparisons(
    alone: Mapping[str, Sequence[_Drain]], beside_load: Mapping[str, Sequence[_Drain]]
) -> dict[str, float]:
    """`live_kept` is that of the worse way."""
    found = {"live_kept": min(median(drain.live_kept for drain in drains) for drains in beside_load.values())}
    for way, drains in alone.items():
        found |= {
            f"{way}_first_done_s": median(drain.backlog.latencies_us[0] for drain in drains) / 1e6,
            f"{way}_all_done_s": median(drain.backlog.seconds for drain in drains),
            f"{way}_per_second_beside_live_load": median(
                drain.backlog.per_second for drain in beside_load[way]
            ),
        }
    return found


class _Backlogs:
    """Makes backlogs, each in a database of its own, and drains them."""

    def __init__(self, here: Stage, steady: Participants, options: Options) -> None:
        self._here = here
        self._steady = steady
        self._options = options
        self._made = 0

    def drain(self, way: str, live_in_flight: int = 0) -> _Drain:
        self._made += 1
        database = f"drain-{self._made}"
        self._leave_behind(database, way)
        with psycopg.connect(self._here.url(database), autocommit=True) as log:
            _wait_until_none(log, _LEASED)
            dying = self._here.start_participants((_DYING,))
            system = self._here.start_coordinator(self._steady.beside(dying), database=database)
            drained = _watch(self._here, system, log, live_in_flight, self._options.seconds)
        system.process.stop()
        for process in dying.counting:
            process.stop()
        return drained

    def _leave_behind(self, database: str, way: str) -> None:
        count = self._options.transactions
        dying = self._here.start_participants((_DYING,))
        for process in dying.counting:
            process.ask("stall")
        system = self._here.start_coordinator(
            self._steady.beside(dying),
            database=database,
            limits={"limits.live_max": str(4 * count), **_SHORT_LEASE},
            # What is enough for participants that answer is not for one that stalls.
            policy={
                "concurrency_max": str(2 * count),
                "backlog_max": str(2 * count),
                "call_timeout_s": str(_TIMEOUT_S),
            },
        )
        self._here.execute_many(system, count)
        if way == "owned":
            system.process.kill()
        for process in dying.counting:
            process.kill()
        if way == "parked":
            with psycopg.connect(self._here.url(database), autocommit=True) as log:
                _wait_until_none(log, _UNPARKED)
            system.process.kill()


def _watch(
    here: Stage,
    system: System,
    log: psycopg.Connection[tuple[int, ...]],
    live_in_flight: int,
    live_after_s: float,
) -> _Drain:
    """Both have just returned. Wait until the backlog is drained."""
    row = log.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    since = row[0]
    before = here.counts(system)
    live: OfferedLoad | None = None
    if live_in_flight:
        live = here.offer(system, Load(mode="batched", in_flight=live_in_flight))
        live.begin()
    _wait_until_none(log, _UNFINISHED, since)
    beside = live.end() if live else None
    backlog = _backlog(log, since, here.counts(system).since(before))
    if live is None or beside is None:
        return _Drain(backlog=backlog)
    live.begin()
    time.sleep(max(beside.seconds, live_after_s))
    after = live.end()
    live.stop()
    return _Drain(backlog=backlog, live_beside=beside, live_after=after)


def _backlog(log: psycopg.Connection[tuple[int, ...]], since: object, used: Counts) -> Round:
    done = log.execute(_DONE, {"since": since}).fetchall()
    # A few may have ended before the clock was read.
    latencies_us = [max(latency, 1) for _, latency in done]
    failed = Counter(f"ended in state {state}" for state, _ in done if state != _CONFIRMED)
    return Round(seconds=latencies_us[-1] / 1e6, latencies_us=latencies_us, failed=failed, used=used)


def _wait_until_none(log: psycopg.Connection[tuple[int, ...]], query: str, *values: object) -> None:
    """Wait until `query` counts nothing. Raises TimeoutError."""
    wait_until(
        lambda: log.execute(query, values or None).fetchone() == (0,), f"none is left by: {query}", _TIMEOUT_S
    )
