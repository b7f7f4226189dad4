"""Where the coordinator's time goes: each stage of one transaction by itself, without I/O.

A batch of 256 transactions with three branches goes through the coordinator's own
functions, in the order of a happy transaction. Each stage is repeated and its
fastest time counts, so that a busy machine disturbs little. What the whole
coordinator takes beyond the sum is what moves bytes: gRPC, the database's driver,
the event loop, and the engine's own bookkeeping.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from bench import work
from bench.options import Options
from bench.report import machine
from coordinator.api.initiator import replies
from coordinator.api.initiator.requests import RequestLimits, new_transaction
from coordinator.core.events import Begun, CallCompleted, Event, Saved
from coordinator.core.machine import step
from coordinator.core.model import CallResult, Operation, OutcomeCode, Transaction, TransactionState
from coordinator.log.rows import insert_columns, is_plain, plain_columns
from coordinator.participant_client.client import batch_request
from coordinator.ports.participants import BranchCall
from tcc._internal.uuid7 import uuid7
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

T = TypeVar("T")

_BATCH = 256
_REPEATS = 50
_REPEATS_QUICK = 3
_NOW = 1e9
_DONE = CallResult(code=OutcomeCode.SUCCEEDED)


@dataclass(frozen=True, kw_only=True, slots=True)
class StagesReport:
    """Microseconds a transaction, by stage."""

    stages: dict[str, float]
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": "stages",
            "cpu_us_per_transaction": round(sum(self.stages.values()), 2),
            "stages_us": {name: round(us, 2) for name, us in self.stages.items()},
            "machine": machine(),
        }

    def print_to(self, console: Console) -> None:
        """For people."""
        table = Table(title="stages: microseconds a transaction", title_justify="left", box=None)
        table.add_column("")
        table.add_column("us", justify="right")
        for name, us in self.stages.items():
            table.add_row(name, f"{us:.2f}")
        table.add_row("all of these", f"{sum(self.stages.values()):.1f}", style="bold")
        console.print(table)


def run(options: Options) -> StagesReport:
    watch = _Stopwatch(_REPEATS_QUICK if options.quick else _REPEATS)
    wire = _request().SerializeToString()
    request = watch.time("request: parse", lambda: pb.ExecuteTransactionsRequest.FromString(wire))
    begun = watch.time("request: check, make a transaction", lambda: _transactions(request))
    txs = watch.steps("core: begun", begun, Begun())
    watch.time("log: columns of the insert", lambda: insert_columns(txs))
    txs = watch.steps("core: insert saved", txs, Saved())
    txs = _phase(watch, txs, Operation.TRY)
    watch.time("log: columns of the decision", lambda: plain_columns([tx for tx in txs if is_plain(tx)]))
    txs = watch.steps("core: decision saved", txs, Saved())
    watch.time("reply to the initiator", lambda: _replies(txs))
    txs = _phase(watch, txs, Operation.CONFIRM)
    watch.time("log: columns of the completion", lambda: plain_columns([tx for tx in txs if is_plain(tx)]))
    txs = watch.steps("core: completion saved", txs, Saved())
    assert all(tx.state is TransactionState.CONFIRMED for tx in txs)
    return StagesReport(stages=watch.us)


class _Stopwatch:
    def __init__(self, repeats: int) -> None:
        self._repeats = repeats
        self.us: dict[str, float] = {}

    def time(self, stage: str, do: Callable[[], T]) -> T:
        """The fastest of several times counts; a stage that is timed again adds up."""
        fastest_s = float("inf")
        for _ in range(self._repeats):
            began_at = time.perf_counter()
            made = do()
            fastest_s = min(fastest_s, time.perf_counter() - began_at)
        self.us[stage] = self.us.get(stage, 0.0) + fastest_s / _BATCH * 1e6
        return made

    def steps(self, stage: str, txs: list[Transaction], event: Event) -> list[Transaction]:
        return self.time(stage, lambda: [step(tx, event, _NOW)[0] for tx in txs])


def _phase(watch: _Stopwatch, txs: list[Transaction], operation: Operation) -> list[Transaction]:
    """Calls to all participants, and their answers."""
    name = operation.name.capitalize()
    for index in range(len(txs[0].branches)):
        calls = watch.time(f"engine: {name} calls", partial(_calls, txs, index, operation))
        watch.time(f"participants: {name} messages", partial(batch_request, calls))
    for index in range(len(txs[0].branches)):
        txs = watch.steps(f"core: {name} answered", txs, CallCompleted(index, operation, _DONE))
    return txs


def _calls(txs: list[Transaction], index: int, operation: Operation) -> list[BranchCall]:
    return [
        BranchCall(
            gid=tx.gid,
            index=index,
            operation=operation,
            spec=tx.branches[index].spec,
            expires_at=tx.expires_at,
        )
        for tx in txs
    ]


def _request() -> pb.ExecuteTransactionsRequest:
    branches = [
        common.BranchSpec(
            branch_id=name,
            participant=name,
            action=work.ACTION,
            payload=work.PAYLOAD,
            content_type=work.CONTENT_TYPE,
        )
        for name in work.PARTICIPANTS
    ]
    return pb.ExecuteTransactionsRequest(
        transactions=[pb.ExecuteTransactionRequest(gid=uuid7(), branches=branches) for _ in range(_BATCH)]
    )


def _transactions(request: pb.ExecuteTransactionsRequest) -> list[Transaction]:
    limits = RequestLimits()
    return [
        new_transaction(
            each,
            gid="",
            now=_NOW,
            time_left_s=None,
            limits=limits,
            cancel_in_stage_order=frozenset(),
        )
        for each in request.transactions
    ]


def _replies(txs: list[Transaction]) -> pb.ExecuteTransactionsResponse:
    return pb.ExecuteTransactionsResponse(
        replies=[
            pb.ExecuteTransactionsReply(index=index, outcome=replies.outcome(tx))
            for index, tx in enumerate(txs)
        ]
    )
