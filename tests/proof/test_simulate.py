"""The simulation itself: it repeats exactly, it is clean, and it finds bugs that are planted."""

import asyncio
import hashlib
import json
from typing import Any

import pytest
from msgspec.structs import replace

from coordinator.core import machine
from coordinator.core.errors import LogUnavailable
from coordinator.core.model import NOW, Transaction
from coordinator.engine.dispatcher import ParticipantDispatcher
from coordinator.engine.engine import Engine
from coordinator.engine.log_writer import LogWriter
from coordinator.log.connection import StatementResult
from coordinator.log.store import PostgresLog
from coordinator.participant_client import streams
from participants.child_process import Ended
from proof.history.events import encode
from proof.simulate.__main__ import main, remembered
from proof.simulate.log_database import LogDatabase
from proof.simulate.run import simulate
from tcc.barrier import decisions
from tests.support.processes import run_python

pytestmark = pytest.mark.timeout(600)

SEEDS = range(5)
# How many seeds a planted bug may survive.
SEEDS_MAX = 60


def digest(seed: int) -> str:
    return hashlib.sha256(b"".join(map(encode, simulate(seed).history))).hexdigest()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_keeps_every_promise(seed: int) -> None:
    assert simulate(seed).broken == ()


@pytest.mark.slow
def test_seeds_that_found_a_bug_once_find_none() -> None:
    assert {seed: simulate(seed).broken for seed in remembered()} == dict.fromkeys(remembered(), ())


@pytest.mark.slow
def test_a_seed_is_the_same_run_twice_in_any_process() -> None:
    """Byte for byte, whatever the process's own hash seed is."""
    program = "from tests.proof.test_simulate import digest; print(digest(2), digest(3))"

    async def elsewhere() -> list[Ended]:
        hash_seeds = ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
        return await asyncio.gather(*(run_python("-c", program, environment=seed) for seed in hash_seeds))

    here = [digest(2), digest(3)]
    assert [process.out.split() for process in asyncio.run(elsewhere())] == [here, here]
    assert len(set(here)) == 2


def test_a_run_prints_its_events_and_ends_with_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("kind=start" in line for line in lines)
    figures = json.loads(lines[-1])
    assert (figures["seeds"], figures["violations"]) == (1, 0)
    assert figures["simulated_s"] > 1


# --- planted bugs ------------------------------------------------------------------------


def found(first: int = 0) -> tuple[str, ...]:
    """Return the violations of the first seed that has any. `first` finds it today."""
    for seed in (first, *range(SEEDS_MAX)):
        broken = simulate(seed).broken
        if broken:
            return broken
    return ()


def test_saves_without_compare_and_set_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save changes the row whatever its owner and version."""

    def save(self: LogDatabase, name: str, values: dict[str, Any], changes: Any) -> Any:
        rows = [self.transactions[gid] for gid in values["gid"]]
        count = 0
        for number, row in enumerate(rows):
            one = {key: [value[number]] for key, value in values.items() if key != "owner"}
            held = one | {"version": [row["version"]], "owner": row["owner"]}
            count += real(self, name, held, lambda row, _, number=number: changes(row, number)).count
        return StatementResult([], count)

    real = LogDatabase._save
    monkeypatch.setattr(LogDatabase, "_save", save)
    assert found()


def test_a_decision_that_is_sent_before_it_is_saved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(tx: Transaction, trigger: machine.Trigger, now: float = NOW) -> machine.Step:
        tx, effects = real(tx, trigger, now)
        if not tx.saving:
            return tx, effects
        tx, calls = machine._go_on_with_phase_two(tx)
        return tx, effects + calls

    real = machine._decide
    monkeypatch.setattr(machine, "_decide", decide)
    assert any("left" in broken for broken in found(2))


@pytest.mark.slow
def test_an_expiry_that_ignores_the_decision_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction past its expiry is cancelled, whatever was decided; the database is made to let it."""
    for state in (machine.TransactionState.CONFIRMING,):
        monkeypatch.setitem(
            machine._REACTIONS,  # type: ignore[arg-type] # a dictionary, seen as a mapping
            state,
            {**machine._REACTIONS[state], machine.Resumed: _cancel_if_expired},
        )
    monkeypatch.setattr("proof.simulate.log_database._is_valid_transition", lambda _before, _after: True)
    assert found(24)


def _cancel_if_expired(tx: Transaction, event: machine.Resumed, now: float) -> machine.Step:
    if now < tx.expires_at:
        return machine._resume_phase_two(tx, event, now)
    return machine._save(
        replace(machine._unparked(tx, machine.NEVER), state=machine.TransactionState.CANCELLING)
    )


def test_the_last_item_of_a_batch_that_is_dropped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(self: ParticipantDispatcher, batch: list[Any]) -> None:
        await real(self, batch[:-1] if len(batch) > 1 else batch)

    real = ParticipantDispatcher._send
    monkeypatch.setattr(ParticipantDispatcher, "_send", send)
    assert found()


@pytest.mark.slow
def test_an_unknown_commit_that_is_taken_for_a_failure_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def save(self: LogWriter, waiting: list[Transaction]) -> None:
        for tx in filter(self._is_wanted, waiting):
            cell = self._log.cells[self._log.cell_of(tx.gid)]
            try:
                self._saves.on_written([tx], await cell.transaction_save([tx]))
            except LogUnavailable:
                self._saves.on_written([tx], [False])

    monkeypatch.setattr(LogWriter, "_save", save)
    assert found(10)


@pytest.mark.slow
def test_a_common_commit_that_is_given_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """If its outcome is unknown, or one of its cells is unavailable, each cell has to be written alone."""

    async def give_up(self: LogWriter, kind: Any, cell: int, batch: list[Transaction]) -> None:
        self._alone[cell] -= 1
        self.regroup()
        if kind is self._saves:
            kind.on_written(batch, [False] * len(batch))
        else:
            self._on_refused(batch, LogUnavailable("planted"))

    monkeypatch.setattr(LogWriter, "_write_after_failure", give_up)
    assert found(11)


@pytest.mark.slow
def test_a_late_try_that_is_accepted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        decisions.TCC_DECISIONS,
        (decisions.Operation.TRY, decisions.BarrierState.CANCELLED),
        decisions.BarrierDecision.RUN,
    )
    assert found(2)


@pytest.mark.slow
def test_a_second_confirm_that_runs_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        decisions.TCC_DECISIONS,
        (decisions.Operation.CONFIRM, decisions.BarrierState.CONFIRMED),
        decisions.BarrierDecision.RUN,
    )
    assert found()


@pytest.mark.slow
def test_a_coordinator_that_never_adopts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def adopt(_self: PostgresLog, _limit: int) -> list[Any]:
        return []

    monkeypatch.setattr(PostgresLog, "transaction_adopt", adopt)
    assert any("it does not settle" in broken for broken in found())


@pytest.mark.slow
def test_a_lost_claim_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def recover(_self: PostgresLog) -> list[Any]:
        return []

    monkeypatch.setattr(PostgresLog, "_recover_lost_claims", recover)
    assert found(18)


@pytest.mark.slow
def test_a_result_that_is_given_to_the_oldest_call_of_its_stream_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unanswered(dict[int, Any]):
        """Results come in the order of the calls, as in a batch of one handler."""

        def pop(self, key: int, default: Any = None) -> Any:
            return super().pop(next(iter(self))) if key in self else default

    def begin(self: streams.Stream, *args: Any) -> None:
        real(self, *args)
        self._unanswered = Unanswered()

    real = streams.Stream.__init__
    monkeypatch.setattr(streams.Stream, "__init__", begin)
    assert found(12)


@pytest.mark.slow
def test_a_call_that_is_dropped_when_its_stream_breaks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.Stream, "_break", lambda self, *_: self._unanswered.clear())
    assert found(4)


@pytest.mark.slow
def test_a_result_of_an_unknown_id_that_is_believed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unanswered(dict[int, Any]):
        def pop(self, key: int, default: Any = None) -> Any:
            return super().pop(key, None) or (self.popitem()[1] if self else default)

    def begin(self: streams.Stream, *args: Any) -> None:
        real(self, *args)
        self._unanswered = Unanswered()

    real = streams.Stream.__init__
    monkeypatch.setattr(streams.Stream, "__init__", begin)
    assert found(3)


def test_a_waiting_request_that_is_never_notified_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "settle_watched", lambda *_: 0)
    assert found(2)
