"""The simulated log database against PostgreSQL: the same calls, the same answers, the same rows.

The simulation says something about the coordinator only as far as its database does what
the real one does. So both stand below the coordinator's own `PostgresLog`, and meet the
same calls: thousands in an arbitrary order, made from a seed, by several coordinators.
"""

import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from coordinator.core.model import NEVER, Branch, TraceContext, Transaction, TransactionState
from coordinator.log import statements, store
from coordinator.log.connection import StatementResult
from coordinator.log.connections import Connections
from coordinator.log.statements import Statement
from coordinator.log.store import LogPool, PostgresLog
from coordinator.ports.log import ListFilter, Record
from proof.simulate.log_database import _STATEMENTS, LogDatabase
from tests.log.transactions import (
    EXPIRES_AT,
    begun,
    cancelling,
    confirming,
    each_branch,
    ended,
    landed,
    parked,
    sql,
)

OWNERS = ("one", "two", "three")
GIDS = [f"g{number:02}" for number in range(12)]
CALLS = 220
_TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
TRACES = (
    TraceContext(traceparent=_TRACEPARENT),
    TraceContext(traceparent=_TRACEPARENT, tracestate="a=1, b=2"),
)
# Long ago, and long after any test.
PAST, FUTURE = 1.0, EXPIRES_AT


class Direct:
    """In place of `Connections`: every statement is carried out at once."""

    def __init__(self, database: LogDatabase) -> None:
        self._database = database

    async def execute(self, statement: Statement, values: dict[str, Any]) -> StatementResult:
        return self._database.execute(statement, statement.bind(values))

    async def close(self) -> None: ...


def simulated(monkeypatch: pytest.MonkeyPatch) -> tuple[LogDatabase, dict[str, PostgresLog]]:
    database = LogDatabase(time.time, random.Random(0), lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(store, "Connections", lambda _url, **_: Direct(database))
        return database, {owner: PostgresLog(LogPool(""), owner=owner, name=owner) for owner in OWNERS}


@pytest.fixture
async def real(log_url: str) -> AsyncIterator[dict[str, PostgresLog]]:
    logs = {owner: PostgresLog(LogPool(log_url, connections=2), owner=owner, name=owner) for owner in OWNERS}
    yield logs
    for log in logs.values():
        await log.close()


class Both:
    """Makes each call of both, and compares what comes back."""

    def __init__(self, real: dict[str, PostgresLog], model: dict[str, PostgresLog]) -> None:
        self._real = real
        self._model = model

    async def call(self, owner: str, method: str, *arguments: Any, **named: Any) -> Any:
        expected = await getattr(self._real[owner], method)(*arguments, **named)
        answer = await getattr(self._model[owner], method)(*arguments, **named)
        assert plain(answer) == plain(expected), (owner, method, arguments)
        return expected


def plain(answer: Any) -> Any:
    """Without the moments of either clock, and in one order."""
    match answer:
        case Record():
            moments = (answer.decided_at is not None, answer.ended_at is not None)
            tx = replace(answer.tx, next_attempt_at=round(answer.tx.next_attempt_at, 4))
            # What a release has parked is due by its own clock.
            if tx.next_attempt_at > 10 and tx.next_attempt_at < FUTURE - 10:
                tx = replace(tx, next_attempt_at=-1.0)
            return (tx, answer.owner, answer.adopted_from, *moments)
        case dict():
            return {key: plain(value) for key, value in sorted(answer.items())}
        case tuple() if len(answer) == 2:  # a page
            return [plain(record) for record in answer[0]]
        case list() if answer and all(isinstance(each, Record) for each in answer):
            return sorted((plain(record) for record in answer), key=lambda record: record[0].gid)
        case float():
            return "a moment"
        case list():
            return sorted(answer) if answer and isinstance(answer[0], str) else [plain(x) for x in answer]
    return answer


class Driver:
    """Makes arbitrary calls; what it remembers may be stale, as a coordinator's memory may."""

    def __init__(self, seed: int, both: Both) -> None:
        self._rng = random.Random(seed)
        self._both = both
        self._known: dict[tuple[str, str], Transaction] = {}

    async def run(self) -> None:
        # The last one is registered by others.
        for owner in OWNERS[:-1]:
            await self._both.call(owner, "coordinator_heartbeat", lease_s=600)
        calls = [
            (self._insert, 4), (self._save, 12), (self._take, 3), (self._claim, 3), (self._adopt, 2),
            (self._release, 1), (self._leave, 1), (self._get, 2), (self._waiting, 1), (self._purge, 1),
            (self._register_unknown, 1),
        ]  # fmt: skip
        for _ in range(CALLS):
            (call,) = self._rng.choices([call for call, _ in calls], [weight for _, weight in calls])
            await call(self._rng.choice(OWNERS))
        assert len(set(await self._states())) > 2, "the calls reach few states"

    async def _states(self) -> list[TransactionState]:
        records = await self._both.call(OWNERS[0], "transaction_get", GIDS)
        return [record.tx.state for record in records.values()]

    async def _insert(self, owner: str) -> None:
        gids = self._rng.sample(GIDS, self._rng.randint(1, 3))
        new = [self._new(gid) for gid in gids]
        answers = await self._both.call(owner, "transaction_begin", new)
        for tx, other in zip(new, answers, strict=True):
            self._remember(owner, landed(tx) if other is None else other.tx)

    def _new(self, gid: str) -> Transaction:
        participants = self._rng.sample(("inventory", "coupon", "order"), self._rng.randint(1, 3))
        interactive = self._rng.random() < 0.5
        fingerprint = f"{participants} {interactive}".encode()
        trace = self._rng.choice((None, *TRACES))
        return begun(gid, *participants, interactive=interactive, fingerprint=fingerprint, trace=trace)

    async def _save(self, owner: str) -> None:
        mine = [tx for (other, _), tx in sorted(self._known.items()) if other == owner and not tx.state.ended]
        if not mine:
            return
        chosen = self._rng.sample(mine, min(len(mine), self._rng.randint(1, 4)))
        changed = [self._change(tx) for tx in chosen]
        written = await self._both.call(owner, "transaction_save", changed)
        for tx, was_written in zip(changed, written, strict=True):
            if was_written:
                self._remember(owner, landed(tx))

    def _change(self, tx: Transaction) -> Transaction:
        rng = self._rng
        if tx.state is TransactionState.TRYING and tx.interactive and rng.random() < 0.3:
            number = len(tx.branches)
            extra = Branch(spec=replace(begun("x").branches[0].spec, branch_id=f"more-{number}"))
            return replace(tx, branches=(*tx.branches, extra))
        if tx.state is TransactionState.TRYING:
            tx = rng.choice((confirming, cancelling))(tx)
            return each_branch(tx, result=b"r", result_content_type="t") if rng.random() < 0.3 else tx
        if rng.random() < 0.5:
            until, on = rng.choice((PAST, FUTURE)), rng.choice(("inventory", "coupon"))
            return replace(parked(tx, until=until, on=on), stuck=rng.random() < 0.3)
        return ended(tx)

    async def _take(self, owner: str) -> None:
        gid = self._rng.choice(GIDS)
        known = [tx.version for (_, other), tx in sorted(self._known.items()) if other == gid]
        version = self._rng.choice([*known, 1, 7])
        taken = await self._both.call(owner, "transaction_take", gid, version=version)
        self._remember_all(owner, [taken] if taken else [])

    async def _claim(self, owner: str) -> None:
        """Claim without a limit: the order among equals is not specified."""
        waiting_on = self._rng.sample(("", "inventory", "coupon"), self._rng.randint(1, 3))
        limits = dict.fromkeys(waiting_on, len(GIDS))
        self._remember_all(owner, await self._both.call(owner, "transaction_claim_due", limits))

    async def _adopt(self, owner: str) -> None:
        self._remember_all(owner, await self._both.call(owner, "transaction_adopt", len(GIDS)))

    async def _release(self, owner: str) -> None:
        await self._both.call(owner, "transaction_release")

    async def _leave(self, owner: str) -> None:
        await self._both.call(owner, "coordinator_leave")
        if self._rng.random() < 0.3:
            await self._both.call(owner, "coordinator_heartbeat", lease_s=600)

    async def _register_unknown(self, owner: str) -> None:
        await self._both.call(owner, "coordinator_register_unknown", lease_s=600)

    async def _get(self, owner: str) -> None:
        await self._both.call(owner, "transaction_get", self._rng.sample([*GIDS, "unknown"], 5))

    async def _waiting(self, owner: str) -> None:
        await self._both.call(owner, "transaction_waiting_on")

    async def _purge(self, owner: str) -> None:
        """Now and then everything that has ended; else nothing. The retention is not longer."""
        before_s = self._rng.choice((0.0, 3600.0, 3600.0))
        await self._both.call(owner, "transaction_purge", ended_before_s=before_s, limit=len(GIDS))
        left = await self._both.call(owner, "transaction_get", GIDS)
        self._known = {key: tx for key, tx in self._known.items() if key[1] in left}

    def _remember_all(self, owner: str, records: Sequence[Record]) -> None:
        for record in records:
            self._remember(owner, record.tx)

    def _remember(self, owner: str, tx: Transaction) -> None:
        self._known[owner, tx.gid] = replace(tx, next_attempt_at=0.0, waiting_on="", wake_at=NEVER)


@pytest.mark.parametrize("seed", range(4))
async def test_arbitrary_calls_are_answered_alike(
    seed: int, real: dict[str, PostgresLog], log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, model = simulated(monkeypatch)
    await Driver(seed, Both(real, model)).run()
    columns = "gid, version, state, owner, interactive, participants, cancel_reason, stuck, waiting_on"
    rows = await sql(log_url, f"SELECT {columns} FROM transactions ORDER BY gid")
    names = columns.split(", ")
    assert [tuple(row[name] for name in names) for _, row in sorted(database.transactions.items())] == rows


async def test_claims_prefer_the_longest_due_within_each_limit(
    real: dict[str, PostgresLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = simulated(monkeypatch)
    both = Both(real, model)
    for number, gid in enumerate(GIDS[:6]):
        await both.call("one", "transaction_begin", [begun(gid)])
        tx = confirming(landed(begun(gid)))
        assert await both.call("one", "transaction_save", [tx]) == [True]
        waiting = parked(landed(tx), until=6.0 - number, on=("inventory", "coupon")[number % 2])
        assert await both.call("one", "transaction_save", [waiting]) == [True]
    claimed = await both.call("two", "transaction_claim_due", {"inventory": 2, "coupon": 1, "order": 3})
    assert sorted(record.tx.gid for record in claimed) == ["g02", "g04", "g05"]


async def test_lists_are_narrowed_alike(
    real: dict[str, PostgresLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = simulated(monkeypatch)
    both = Both(real, model)
    for gid, participant, labels in (("a", "order", ()), ("b", "coupon", (("zone", "eu"), ("vip", "1")))):
        await both.call("one", "transaction_begin", [begun(gid, participant, initiator=gid, labels=labels)])
    narrowed: list[dict[str, Any]] = [
        {},
        {"states": (TransactionState.TRYING,)},
        {"states": (TransactionState.CONFIRMED,)},
        {"participant": "coupon"},
        {"labels": (("zone", "eu"),)},
        {"labels": (("zone", "us"),)},
        {"initiator": "a"},
        {"stuck": True},
        {"created_after": PAST},
        {"created_before": PAST},
    ]
    for fields in narrowed:
        await both.call("one", "transaction_list", ListFilter(**fields), after=None, limit=5)
    page, after = await both.call("one", "transaction_list", ListFilter(), after=None, limit=1)
    assert after is not None
    assert [record.tx.gid for record in page] == ["b"]


_AFTER_A_REJECTION = (
    "transaction_find_due", "transaction_find_left", "transaction_find_old", "transaction_purge_one",
)  # fmt: skip


def test_every_statement_of_the_log_is_known_with_all_its_parameters() -> None:
    """But those that only concern a session, lists, whose conditions are compiled on demand, and
    those that follow a rejection, which the simulation has not."""
    unknown = {"session", "begin", "commit", "rollback", "lock_timeout", *_AFTER_A_REJECTION}
    known = {name: wanted for name, (_, wanted) in _STATEMENTS.items()}
    sent = {
        value.name: set(value.parameters)
        for value in vars(statements).values()
        if isinstance(value, Statement) and value.name not in unknown
    }
    assert known == sent
    assert Connections.execute.__name__ == Direct.execute.__name__
