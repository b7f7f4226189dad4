"""The log's PostgreSQL, simulated: what each statement of the log does to the two tables of a cell.

The coordinator's own `PostgresLog` runs above it, with its batches, its repeats and
its lost claims. Below stand the rows and, in place of psycopg, `SimulatedConnections`.
Each statement is carried out at one instant, as its transaction of its own is. What
it does is written down here a second time, so a test compares the two databases call
by call (`tests/proof/test_log_contract.py`); a statement, or a parameter, that is not
known here is an error at once.

What goes wrong is the way there and back: a statement may never arrive, its answer
may be lost, and it may arrive after its sender has given it up.
"""

import asyncio
import json
import random
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeAlias

from coordinator.core.errors import LogUnavailable
from coordinator.core.machine import REACHABLE
from coordinator.core.model import TransactionState
from coordinator.log.connection import StatementResult
from coordinator.log.statements import RECORD, Statement
from proof.simulate.network import Network
from proof.simulate.virtual_loop import VirtualLoop, context_of, current_process

Row = dict[str, Any]
Values = Mapping[str, Any]
# Statements with their parameters in order.
Bound: TypeAlias = Sequence[tuple[Statement, list[Any]]]
Results: TypeAlias = asyncio.Future[list[StatementResult]]
# The statement's name and the owner's, then the row before and after; None: there was, or is, none.
OnChange = Callable[[str, str, Row | None, Row | None], None]

HOST = "postgres"
_CONNECT_TIMEOUT_S = 5.0
_LATE_MAX_S = 8.0
# What `in_cell` adds to the name of a statement.
_OF_CELL = " of cell "
# After this time a statement of several cells waits no longer for a lock.
_LOCK_TIMEOUT_S = 0.2
# The share of the client's time limit after which the server gives a statement up.
_SERVER_SHARE = 0.9


class CellTrouble(Enum):
    """Why a cell cannot be used."""

    # Its schema has another name, or a privilege is missing.
    AWAY = auto()
    # Its tables are locked.
    LOCKED = auto()


@dataclass(kw_only=True)
class LogHealth:
    """How the database is now. Chances are for each statement."""

    down: bool = False
    # The way there loses it; the way back loses its answer; it comes after its sender has gone.
    request_lost: float = 0.0
    answer_lost: float = 0.0
    comes_late: float = 0.0
    # How long a commit takes. Writes that come in the meantime are one batch.
    commit_s: float = 0.0
    # By the number of a cell.
    troubles: dict[int, CellTrouble] = field(default_factory=dict)


class LogServer:
    """The cells of a log, all at one server. `now` is its clock, in seconds since the Unix epoch."""

    def __init__(
        self, now: Callable[[], float], rng: random.Random, on_change: OnChange, *, cells: int = 1
    ) -> None:
        self.cells = [LogDatabase(now, rng, on_change) for _ in range(cells)]
        self.health = LogHealth()

    @property
    def transactions(self) -> MutableMapping[str, Row]:
        """Those of all cells: each is in one of them."""
        return ChainMap(*[cell.transactions for cell in self.cells])

    def execute(self, statement: Statement, parameters: list[Any]) -> StatementResult:
        """Carries out one statement, now."""
        return self.cells[_cell_of(statement)].execute(statement, parameters)


def _cell_of(statement: Statement) -> int:
    return int(statement.name.partition(_OF_CELL)[2] or 0)


class LogDatabase:
    """Both tables of a cell. `now` is the database's clock, in seconds since the Unix epoch."""

    def __init__(self, now: Callable[[], float], rng: random.Random, on_change: OnChange) -> None:
        self.transactions: dict[str, Row] = {}
        self.coordinators: dict[str, Row] = {}
        self._clock = now
        self._rng = rng
        self._on_change = on_change

    def execute(self, statement: Statement, parameters: list[Any]) -> StatementResult:
        """Carries out one statement, now."""
        values = dict(zip(statement.parameters, parameters, strict=True))
        name, _, _ = statement.name.partition(_OF_CELL)
        if name == "transaction_list":
            return self._list(values)
        carry_out, wanted = _STATEMENTS[name]
        assert set(values) == wanted, f"{name} has other parameters now: {sorted(values)}"
        return carry_out(self, values)

    def _now(self) -> float:
        return _moment(self._clock())

    # --- reading ---------------------------------------------------------------------

    def _get(self, values: Values) -> StatementResult:
        return self._records([gid for gid in dict.fromkeys(values["gids"]) if gid in self.transactions])

    def _next_waited_for(self, values: Values) -> StatementResult:
        parked = [
            row["waiting_on"] for row in self.transactions.values() if row["next_attempt_at"] is not None
        ]
        name = min((name for name in parked if name > values["after"]), default=None)
        return StatementResult([], 0) if name is None else StatementResult([(name,)], 1)

    def _quarantine(self, values: Values) -> StatementResult:
        row = self.transactions.get(values["gid"])
        if row is None or row["version"] != values["version"] or row["ended_at"] is not None:
            return StatementResult([], 0)
        changes = {"version": row["version"] + 1, "next_attempt_at": values["held"], "waiting_on": ""}
        self._write("transaction_quarantine", row | changes)
        return StatementResult([], 1)

    def _find_claimed(self, values: Values) -> StatementResult:
        claims = values["claims"]
        return self._records(
            [
                gid
                for gid, row in self.transactions.items()
                if _is_owned_by(row, values["owner"]) and row["claim"] in claims
            ]
        )

    def _list(self, values: Values) -> StatementResult:
        chosen = [row for row in self.transactions.values() if _is_listed(row, values)]
        chosen.sort(key=lambda row: (row["created_at"], row["gid"]), reverse=True)
        rows = [_record(row | {"payloads": None}) for row in chosen[: values["limit"]]]
        return StatementResult(rows, len(rows))

    def _records(self, gids: list[str]) -> StatementResult:
        """In any order: no statement promises one."""
        self._rng.shuffle(gids)
        return StatementResult([_record(self.transactions[gid]) for gid in gids], len(gids))

    # --- the three writes --------------------------------------------------------------

    def _insert(self, values: Values) -> StatementResult:
        now = self._now()
        before = len(self.transactions)
        for number, gid in enumerate(values["gid"]):
            if gid in self.transactions:
                continue
            self._write(
                "transaction_begin",
                {
                    "gid": gid,
                    "version": 1,
                    "state": values["state"][number],
                    "owner": values["owner"],
                    "claim": None,
                    "interactive": values["interactive"][number],
                    "initiator": values["initiator"][number],
                    "labels": json.dumps(json.loads(values["labels"][number]), ensure_ascii=False),
                    "fingerprint": values["fingerprint"][number],
                    "branches": values["branches"][number],
                    "payloads": values["payloads"][number],
                    "progress": None,
                    "participants": _names(values["participants"][number]),
                    "cancel_reason": 0,
                    "cancel_branch_id": "",
                    "cancel_detail": "",
                    "cancel_message": "",
                    "stuck": False,
                    "waiting_on": "",
                    "next_attempt_at": None,
                    "created_at": now,
                    "expires_at": _moment(values["expires_at"][number]),
                    "decided_at": None if values["state"][number] == TransactionState.TRYING else now,
                    "ended_at": None,
                    "adopted_from": None,
                    "trace": values["trace"][number],
                    "tenant": values["tenant"][number],
                },
            )
        count = len(self.transactions) - before
        return StatementResult([], count)

    def _save_plain(self, values: Values) -> StatementResult:
        def changes(_row: Row, _number: int) -> Row:
            return {
                "progress": None,
                "stuck": False,
                "waiting_on": "",
                "cancel_reason": 0,
                "cancel_detail": "",
            }

        return self._save("transaction_save_plain", values, changes)

    def _save_full(self, values: Values) -> StatementResult:
        as_they_are = (
            "progress", "cancel_reason", "cancel_branch_id", "cancel_detail", "cancel_message", "stuck",
            "waiting_on",
        )  # fmt: skip

        def changes(row: Row, number: int) -> Row:
            changed = {name: values[name][number] for name in as_they_are}
            next_attempt_at = values["next_attempt_at"][number]
            changed["next_attempt_at"] = None if next_attempt_at is None else _moment(next_attempt_at)
            for name in ("branches", "payloads"):
                new = values[name][number]
                changed[name] = row[name] if new is None else new
            names = values["participants"][number]
            changed["participants"] = row["participants"] if names is None else _names(names)
            return changed

        return self._save("transaction_save_full", values, changes)

    def _save(self, name: str, values: Values, changes: Callable[[Row, int], Row]) -> StatementResult:
        now, count = self._now(), 0
        for number, gid in enumerate(values["gid"]):
            row, state = self.transactions.get(gid), TransactionState(values["state"][number])
            if (
                row is None
                or row["version"] != values["version"][number]
                or not _is_owned_by(row, values["owner"])
                or not _is_valid_transition(TransactionState(row["state"]), state)
            ):
                continue
            count += 1
            self._write(
                name,
                row
                | changes(row, number)
                | {
                    "version": row["version"] + 1,
                    "state": int(state),
                    "decided_at": (row["decided_at"] or now) if state.decided else None,
                    "ended_at": now if state.ended else None,
                },
            )
        return StatementResult([], count)

    # --- taking over -------------------------------------------------------------------

    def _take(self, values: Values) -> StatementResult:
        row = self.transactions.get(values["gid"])
        if row is None or row["version"] != values["version"] or row["ended_at"] is not None:
            return StatementResult([], 0)
        return self._take_over("transaction_take", [row["gid"]], values)

    def _claim_due(self, values: Values) -> StatementResult:
        now = self._now()
        chosen: list[str] = []
        for waiting_on, most in zip(values["waiting_on"], values["most"], strict=True):
            due = [
                row
                for row in self.transactions.values()
                if row["waiting_on"] == waiting_on
                and row["next_attempt_at"] is not None
                and row["next_attempt_at"] <= now
            ]
            due.sort(key=lambda row: float(row["next_attempt_at"]))
            chosen += [row["gid"] for row in due[:most]]
        return self._take_over("transaction_claim_due", chosen, values)

    def _adopt(self, values: Values) -> StatementResult:
        now = self._now()
        dead = {
            owner: None
            for owner, row in self.coordinators.items()
            if row["lease_until"] <= now and owner != values["owner"]
        }
        left = [
            gid
            for gid, row in self.transactions.items()
            if row["owner"] in dead and row["next_attempt_at"] is None and row["ended_at"] is None
        ]
        return self._take_over("transaction_adopt", left[: values["limit"]], values, adopts=True)

    def _take_over(
        self, name: str, gids: list[str], values: Values, *, adopts: bool = False
    ) -> StatementResult:
        for gid in gids:
            row = self.transactions[gid]
            self._write(
                name,
                row
                | {
                    "owner": values["owner"],
                    "claim": values["claim"],
                    "version": row["version"] + 1,
                    "next_attempt_at": None,
                    "waiting_on": "",
                    "adopted_from": row["owner"] if adopts else row["adopted_from"],
                },
            )
        return self._records(gids)

    def _release(self, values: Values) -> StatementResult:
        now = self._now()
        ours = [row for row in self.transactions.values() if _is_owned_by(row, values["owner"])]
        for row in ours:
            changes = {"version": row["version"] + 1, "next_attempt_at": now, "waiting_on": ""}
            self._write("transaction_release", row | changes)
        return StatementResult([], len(ours))

    # --- keeping house -----------------------------------------------------------------

    def _purge(self, values: Values) -> StatementResult:
        before = self._now() - values["ended_before_s"]
        old = [
            row
            for row in self.transactions.values()
            if row["created_at"] < before and row["ended_at"] is not None and row["ended_at"] < before
        ]
        old.sort(key=lambda row: float(row["created_at"]))
        for row in old[: values["limit"]]:
            del self.transactions[row["gid"]]
            self._on_change("transaction_purge", "", row, None)
        return StatementResult([], len(old[: values["limit"]]))

    def _forget(self, values: Values) -> StatementResult:
        before = self._now() - values["gone_for_s"]
        gone = [
            owner
            for owner, row in self.coordinators.items()
            if row["lease_until"] < before
            and not any(_is_owned_by(owned, owner) for owned in self.transactions.values())
        ]
        for owner in gone:
            del self.coordinators[owner]
        return StatementResult([], len(gone))

    def _heartbeat(self, values: Values) -> StatementResult:
        now = self._now()
        row = self.coordinators.setdefault(values["owner"], {"id": values["owner"], "started_at": now})
        row["name"] = values["name"]
        row["lease_until"] = _moment(now + values["lease_s"])
        return StatementResult([(row["lease_until"],)], 1)

    def _find_unknown(self, _values: Values) -> StatementResult:
        owners = {row["owner"] for row in self.transactions.values() if _is_owned_by(row, row["owner"])}
        unknown = sorted(owners - set(self.coordinators))
        return StatementResult([(owner,) for owner in unknown], len(unknown))

    def _register_unknown(self, values: Values) -> StatementResult:
        now = self._now()
        unknown = set(values["id"]) - set(self.coordinators)
        for owner in sorted(unknown):
            lease_until = _moment(now + values["lease_s"])
            self.coordinators[owner] = {
                "id": owner, "name": "unknown", "started_at": now, "lease_until": lease_until
            }  # fmt: skip
        return StatementResult([], len(unknown))

    def _leave(self, values: Values) -> StatementResult:
        row = self.coordinators.get(values["owner"])
        if row is None:
            return StatementResult([], 0)
        row["lease_until"] = self._now()
        return StatementResult([], 1)

    def _write(self, name: str, after: Row) -> None:
        before = self.transactions.get(after["gid"])
        self.transactions[after["gid"]] = after
        self._on_change(name, after["owner"], before, after)


_D = LogDatabase
_SAVE = {"gid", "version", "state", "owner"}
_SAVE_FULL = _SAVE | {
    "progress", "cancel_reason", "cancel_branch_id", "cancel_detail", "cancel_message", "stuck",
    "waiting_on", "next_attempt_at", "branches", "payloads", "participants",
}  # fmt: skip
_INSERT = {
    "owner", "gid", "state", "interactive", "initiator", "labels", "fingerprint",
    "branches", "payloads", "participants", "expires_at", "trace", "tenant",
}  # fmt: skip
# How each is carried out, and the parameters that it has to have.
_STATEMENTS: dict[str, tuple[Callable[[LogDatabase, Values], StatementResult], set[str]]] = {
    "transaction_begin": (_D._insert, _INSERT),  # noqa: SLF001 - the same file
    "transaction_get": (_D._get, {"gids"}),  # noqa: SLF001 - the same file
    "transaction_save_plain": (_D._save_plain, _SAVE),  # noqa: SLF001 - the same file
    "transaction_save_full": (_D._save_full, _SAVE_FULL),  # noqa: SLF001 - the same file
    "transaction_take": (_D._take, {"owner", "claim", "gid", "version"}),  # noqa: SLF001 - the same file
    "transaction_claim_due": (_D._claim_due, {"owner", "claim", "waiting_on", "most"}),  # noqa: SLF001 - the same file
    "transaction_adopt": (_D._adopt, {"owner", "claim", "limit"}),  # noqa: SLF001 - the same file
    "transaction_find_claimed": (_D._find_claimed, {"owner", "claims"}),  # noqa: SLF001 - the same file
    "transaction_next_waited_for": (_D._next_waited_for, {"after"}),  # noqa: SLF001 - the same file
    "transaction_quarantine": (_D._quarantine, {"gid", "version", "held"}),  # noqa: SLF001 - the same file
    "transaction_release": (_D._release, {"owner"}),  # noqa: SLF001 - the same file
    "transaction_purge": (_D._purge, {"ended_before_s", "limit"}),  # noqa: SLF001 - the same file
    "coordinator_forget": (_D._forget, {"gone_for_s"}),  # noqa: SLF001 - the same file
    "coordinator_heartbeat": (_D._heartbeat, {"owner", "name", "lease_s"}),  # noqa: SLF001 - the same file
    "coordinator_find_unknown": (_D._find_unknown, set()),  # noqa: SLF001 - the same file
    "coordinator_register_unknown": (_D._register_unknown, {"id", "lease_s"}),  # noqa: SLF001 - the same file
    "coordinator_leave": (_D._leave, {"owner"}),  # noqa: SLF001 - the same file
}


def _is_owned_by(row: Row, owner: str) -> bool:
    return row["owner"] == owner and row["next_attempt_at"] is None and row["ended_at"] is None


def _is_valid_transition(before: TransactionState, after: TransactionState) -> bool:
    return before is after or after in REACHABLE[before]


def _is_listed(row: Row, values: Values) -> bool:
    conditions: dict[str, Callable[[Any], bool]] = {
        "states": lambda states: row["state"] in states,
        "participants": lambda names: set(names) <= set(row["participants"]),
        "labels": lambda labels: json.loads(labels).items() <= json.loads(row["labels"]).items(),
        "initiator": lambda initiator: row["initiator"] == initiator,
        "tenants": lambda tenants: row["tenant"] in tenants,
        "stuck": lambda stuck: row["stuck"] == stuck,
        "created_after": lambda moment: row["created_at"] > moment.timestamp(),
        "created_before": lambda moment: row["created_at"] < moment.timestamp(),
        "after_created_at": lambda moment: (
            (row["created_at"], row["gid"]) < (moment.timestamp(), values["after_gid"])
        ),
    }
    return all(holds(values[name]) for name, holds in conditions.items() if name in values)


def _record(row: Row) -> tuple[Any, ...]:
    return tuple([row[name] for name in RECORD])


def _names(lines: str) -> list[str]:
    return lines.split("\n") if lines else []


def _moment(seconds: float) -> float:
    """As exactly as PostgreSQL keeps it."""
    return round(seconds * 1e6) / 1e6


class SimulatedConnections:
    """In place of `coordinator.log.connections.Connections`: statements travel, and may come to harm."""

    def __init__(self, server: LogServer, network: Network, *, most: int, statement_timeout_s: float) -> None:
        process = current_process()
        assert process is not None, "only processes connect"
        self._process = process
        self._server = server
        self._network = network
        self._room = asyncio.Semaphore(most)
        self._statement_timeout_s = statement_timeout_s

    async def close(self) -> None:
        """Nothing is held."""

    async def execute(self, statement: Statement, values: Mapping[str, Any]) -> StatementResult:
        """See `Connections.execute`."""
        (result,) = await self.execute_together([(statement, values)])
        return result

    async def execute_together(
        self, steps: Sequence[tuple[Statement, Mapping[str, Any]]]
    ) -> list[StatementResult]:
        """See `Connections.execute_together`: all are carried out at one instant, or none is."""
        bound = [(statement, statement.bind(values)) for statement, values in steps]
        async with self._room:
            answer: Results = self._loop.create_future()
            failing = self._send(bound, answer)
            alarm = self._loop.call_later(failing, self._fail, bound, answer)
            try:
                return await answer
            finally:
                alarm.cancel()

    @property
    def _loop(self) -> VirtualLoop:
        return self._network.loop

    def _send(self, bound: Bound, answer: Results) -> float:
        """Send the statements. Return the seconds after which its sender gives up."""
        rng, health, name = self._network.rng, self._server.health, bound[0][0].name
        if health.down:
            return rng.uniform(0.001, 0.05)
        travel_s = self._network.travel_s(self._process.host, HOST)
        if travel_s is None:
            return self._patience_s()
        if rng.random() < health.request_lost:
            self._network.note(f"{self._process.name} -> {HOST} {name} is lost")
            return self._patience_s()
        if rng.random() < health.comes_late:
            late_s = rng.uniform(0.0, _LATE_MAX_S)
            self._network.note(
                f"{self._process.name} -> {HOST} {name} comes {late_s:.1f} s after it was given up"
            )
            patience_s = self._patience_s()
            self._later(patience_s + late_s, self._carry_out, bound, None)
            return patience_s
        self._later(travel_s + health.commit_s, self._carry_out, bound, answer)
        return self._statement_timeout_s

    def _patience_s(self) -> float:
        """A cut connection is noticed at once, or not before the time limit."""
        rng = self._network.rng
        return rng.uniform(0.001, 0.05) if rng.random() < 0.5 else self._statement_timeout_s

    def _carry_out(self, bound: Bound, answer: Results | None) -> None:
        server, network = self._server, self._network
        fails_after_s = self._fails_after_s(bound)
        if fails_after_s is not None:
            if answer is not None:
                self._tell(fails_after_s, self._fail, bound, answer)
            return
        outcome = [server.execute(statement, parameters) for statement, parameters in bound]
        if answer is None:
            return
        travel_s = network.travel_s(HOST, self._process.host)
        if travel_s is None or network.rng.random() < server.health.answer_lost:
            network.note(f"the answer to {self._process.name}'s {bound[0][0].name} is lost")
            self._tell(self._patience_s(), self._fail, bound, answer)
        else:
            self._tell(travel_s, _settle, answer, outcome)

    def _fails_after_s(self, bound: Bound) -> float | None:
        """Return the seconds after which the server refuses the statements; None: it carries them out."""
        health = self._server.health
        if health.down:
            return 0.001
        troubles = {health.troubles.get(_cell_of(statement)) for statement, _ in bound}
        if CellTrouble.LOCKED in troubles:
            return _LOCK_TIMEOUT_S if len(bound) > 1 else _SERVER_SHARE * self._statement_timeout_s
        return 0.001 if CellTrouble.AWAY in troubles else None

    def _fail(self, bound: Bound, answer: Results) -> None:
        if not answer.done():
            answer.set_exception(
                LogUnavailable(f"the transaction log did not answer {bound[0][0].name}", retry_after_s=0.5)
            )

    def _later(self, delay_s: float, callback: Callable[..., None], *args: Any) -> None:
        self._loop.call_later(delay_s, callback, *args, context=context_of(None))

    def _tell(self, delay_s: float, callback: Callable[..., None], *args: Any) -> None:
        self._loop.call_later(delay_s, callback, *args, context=context_of(self._process))


def _settle(answer: Results, outcome: list[StatementResult]) -> None:
    if not answer.done():
        answer.set_result(outcome)
