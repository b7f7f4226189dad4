"""The cost of a transaction when the log holds ten thousand, a million or five million ended ones.

Each size has its own database in the same PostgreSQL. Its rows are copies of some that a
coordinator has just written, with new ids and evenly spaced times.

The sizes take turns, round by round, so that all see the same machine. In its turn a size gets
a coordinator whose retention is the age of the oldest row. From then on the purge deletes, once
a second, about as many transactions as begin, as in a log of constant size. A log therefore also
holds what is purged in a turn; a small one is created again for each turn.

`cost_ratio` is the CPU time of coordinator and PostgreSQL for a transaction with the most rows,
divided by that with the fewest; `rate_ratio` compares the rates. Both are medians over rounds.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import Any

import psycopg

from bench.figures import Round, figures
from bench.options import Options
from bench.report import Report, Row
from bench.stage import Load, Participants, Stage, stage

_IN_FLIGHT = 256
# Transactions whose rows are copied. A coordinator writes this many rows in one batch.
_MODELS = 64
# Rows created in one second; about the rate of a two-core machine.
_ROWS_PER_SECOND = 4_000.0
# Of a turn, beside warm-up and round: a coordinator starts and stops.
_START_AND_STOP_S = 2.0
_FILL_ROWS_MAX = 500_000
_PURGE_EVERY_S = 1.0
# Whose cost the log's size could change.
_ROLES = ("coordinator", "postgresql")

_TAKE_MODELS = """
    CREATE TABLE models AS
    SELECT row_number() OVER () - 1 AS number, transactions.* FROM tcc.transactions WHERE ended_at IS NOT NULL
    """
# Ids are UUIDs of version 7, as the SDK makes them: milliseconds first.
_FILL = """
    INSERT INTO tcc.transactions
        (gid, version, state, owner, claim, interactive, initiator, labels, fingerprint, branches, payloads,
         progress, participants, created_at, expires_at, decided_at, ended_at)
    SELECT
        substr(made.ms, 1, 8) || '-' || substr(made.ms, 9, 4) || '-7' || substr(made.noise, 1, 3)
            || '-8' || substr(made.noise, 4, 3) || '-' || substr(made.noise, 7, 12),
        model.version, model.state, model.owner, model.claim, model.interactive, model.initiator,
        model.labels, model.fingerprint, model.branches, model.payloads, model.progress, model.participants,
        made.at,
        made.at + (model.expires_at - model.created_at),
        made.at + (model.decided_at - model.created_at),
        made.at + (model.ended_at - model.created_at)
    FROM (
        SELECT
            number,
            at,
            lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS ms,
            md5(number::text) AS noise
        FROM (
            SELECT
                number,
                %(until)s
                    - (%(rows)s - number / %(models)s * %(models)s) / %(per_second)s * INTERVAL '1 second'
                    AS at
            FROM generate_series(%(first)s::bigint, %(last)s) AS number
        ) AS placed
    ) AS made
    JOIN models AS model ON model.number = made.number %% %(models)s
    """
_OLDEST_AGE_S = "SELECT extract(epoch FROM now() - min(created_at))::float FROM tcc.transactions"
_PURGED = "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'transactions'"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    """One round with one size."""

    measured: Round
    # In the whole turn, its warm-up included.
    purged: int

    @property
    def cost_us(self) -> float:
        """Return the CPU time of a transaction."""
        used = self.measured.used.cpu_s
        return sum(used[role] for role in _ROLES) / self.measured.done_while_used * 1e6


def run(options: Options) -> Report:
    with stage(options) as here:
        here.start_initiators(options.initiators)
        participants = here.start_participants()
        # The small ones last: they are created again most often.
        logs = [_Log(here, participants, rows, options) for rows in sorted(options.rows, reverse=True)]
        turns: dict[int, list[_Turn]] = {log.rows: [] for log in reversed(logs)}
        for _ in range(options.rounds):
            for log in reversed(logs):
                turns[log.rows].append(log.turn())
    found = [
        Row(configuration={"rows": rows}, figures=figures([turn.measured for turn in taken]))
        for rows, taken in turns.items()
    ]
    return Report(scenario="history", rows=found, headline=found[-1], comparisons=_comparisons(turns))


def _comparisons(turns: Mapping[int, Sequence[_Turn]]) -> dict[str, float]:
    sizes = sorted(turns)
    pairs = list(zip(turns[sizes[-1]], turns[sizes[0]], strict=True))
    return {
        "cost_ratio": median(most.cost_us / few.cost_us for most, few in pairs),
        "rate_ratio": median(
            most.measured.per_second / max(few.measured.per_second, 1.0) for most, few in pairs
        ),
        **{f"purged_of_{rows}": float(sum(turn.purged for turn in taken)) for rows, taken in turns.items()},
    }


class _Log:
    """A log with `rows` ended transactions, and those that the next turn will purge."""

    def __init__(self, here: Stage, participants: Participants, rows: int, options: Options) -> None:
        self.rows = rows
        self._here = here
        self._participants = participants
        self._options = options
        self._database = f"history-{rows}"
        turn_s = options.warm_up_s + options.seconds + _START_AND_STOP_S
        self._purged_in_a_turn = round(_ROWS_PER_SECOND * turn_s)
        # Made by `_fill`, and not yet purged.
        self._left = 0
        self._take_models()
        self._fill()

    def turn(self) -> _Turn:
        if self._left < self._purged_in_a_turn:
            self._fill()
        with closing(psycopg.connect(self._here.url(self._database), autocommit=True)) as log:
            purged_before = _value(log, _PURGED)
            measured = self._measure(retention_s=_value(log, _OLDEST_AGE_S))
            purged = _value(log, _PURGED) - purged_before
        self._left -= purged
        return _Turn(measured=measured, purged=purged)

    def _measure(self, retention_s: float) -> Round:
        options = self._options
        system = self._here.start_coordinator(
            self._participants,
            database=self._database,
            limits={"log.retention_s": str(retention_s), "recovery.purge_every_s": str(_PURGE_EVERY_S)},
        )
        in_flight = (options.in_flight or (_IN_FLIGHT,))[-1]
        load = Load(mode="batched", in_flight=in_flight, wait_for=options.wait_for)
        measured = self._here.measure(system, load)
        system.process.stop()
        return measured

    def _take_models(self) -> None:
        """Let a coordinator write rows, and keep them in a table beside the log."""
        system = self._here.start_coordinator(self._participants, database=self._database)
        self._here.execute_many(system, _MODELS)
        # It finishes what is under way first.
        system.process.stop()
        with closing(psycopg.connect(self._here.url(self._database), autocommit=True)) as log:
            log.execute(_TAKE_MODELS)

    def _fill(self) -> None:
        self._left = self.rows + self._purged_in_a_turn
        with closing(psycopg.connect(self._here.url(self._database), autocommit=True)) as log:
            _fill(log, self._left)


def _fill(log: psycopg.Connection[tuple[Any, ...]], rows: int) -> None:
    """Replace the content of the log by copies of the models."""
    log.execute("TRUNCATE tcc.transactions")
    values = {"until": _value(log, "SELECT now()"), "rows": rows, "per_second": _ROWS_PER_SECOND}
    for first in range(0, rows, _FILL_ROWS_MAX):
        last = min(first + _FILL_ROWS_MAX, rows) - 1
        log.execute(_FILL, {**values, "models": _MODELS, "first": first, "last": last})
    log.execute("VACUUM (ANALYZE) tcc.transactions")
    log.execute("CHECKPOINT")


def _value(log: psycopg.Connection[tuple[Any, ...]], query: str) -> Any:
    row = log.execute(query).fetchone()
    assert row is not None
    return row[0]
