"""The least that any correct coordinator must do, and nothing else.

A process that initiators call like a coordinator. For each transaction it sends the same gRPC
messages to the same participants and writes the same rows with the log's own statements, durably
and in the same order: insert, Trys, decision, reply, Confirms, completion. It has no state
machine, keeps no transaction in memory, and handles no failure. The difference to a coordinator
is the price of the coordinator's logic.

Its batches have the sizes of the coordinator's, measured just before: the command `batches` sets
the rows of a statement and the branch calls of a message. Requests are gathered until there are
enough for one batch of the larger kind, or nothing else is under way; such a group stays together
and is cut into batches of the smaller kind. All transactions have to be alike: the same branches,
but for payloads and the results of Trys.
"""

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import uvloop

from bench.baseline_rows import Result, Rows
from bench.commands import Command, serve_commands
from bench.gathering import Gathering, cut
from coordinator.core.model import TransactionState
from coordinator.log import statements
from coordinator.log.connections import Connections
from coordinator.log.migration import migrate
from coordinator.participant_client.channel import ParticipantAddress, open_channel
from coordinator.process.operating_system import background_threads, stay_on_one_cpu
from tcc._internal.garbage import relax_garbage_collection
from tcc._internal.server_options import server_options
from tcc._internal.uuid7 import uuid7
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as participant_pb, participant_pb2_grpc
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc

_OWNER = uuid7()
_EXPIRY_S = 30.0
_CONNECTIONS = 4
_MESSAGE_BYTES_MAX = 16 * 2**20
_NO_RESULT: Result = (b"", "")


class BaselineTransaction:
    """A gid, its branches as they were asked for, and what their Trys returned."""

    __slots__ = ("branches", "gid", "results")

    def __init__(self, request: pb.ExecuteTransactionRequest) -> None:
        self.gid = request.gid or uuid7()
        self.branches = request.branches
        self.results = [_NO_RESULT] * len(request.branches)

    def outcome(self) -> pb.TransactionOutcome:
        reply = pb.TransactionOutcome(gid=self.gid, state=common.TRANSACTION_STATE_CONFIRMING)
        for branch, (result, content_type) in zip(self.branches, self.results, strict=True):
            if result:
                reply.results.add(branch_id=branch.branch_id, result=result, content_type=content_type)
        return reply


class Arrival:
    """Transactions that came in one request, and the request's wait for their decision."""

    __slots__ = ("decided", "transactions")

    def __init__(self, transactions: Sequence[BaselineTransaction]) -> None:
        self.transactions = transactions
        self.decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Baseline(transaction_pb2_grpc.TransactionServiceServicer):
    """Whole transactions, as if nothing could go wrong."""

    def __init__(self, log: Connections, participants: Mapping[str, Any]) -> None:
        self._log = log
        self._participants = participants
        self._arrivals = Gathering(self._drive)
        # How many rows a statement writes, and how many branch calls a message carries.
        self._rows_max = 1
        self._calls_max = 1
        # As those of the first transaction.
        self._rows: Rows | None = None

    def take_batches(self, *, rows: int, calls: int) -> None:
        self._rows_max, self._calls_max = rows, calls
        self._arrivals.enough = max(rows, calls)

    async def ExecuteTransaction(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteTransactionRequest, _context: Any
    ) -> pb.ExecuteTransactionResponse:
        transaction = BaselineTransaction(request)
        await self._decided([transaction])
        return pb.ExecuteTransactionResponse(outcome=transaction.outcome())

    async def ExecuteTransactions(  # noqa: N802 - gRPC names it
        self, request: pb.ExecuteTransactionsRequest, context: Any
    ) -> None:
        transactions = [BaselineTransaction(item) for item in request.transactions]
        await self._decided(transactions)
        replies = [
            pb.ExecuteTransactionsReply(index=index, outcome=transaction.outcome())
            for index, transaction in enumerate(transactions)
        ]
        await context.write(pb.ExecuteTransactionsResponse(replies=replies))

    async def _decided(self, transactions: Sequence[BaselineTransaction]) -> None:
        arrival = Arrival(transactions)
        if self._rows is None:
            self._rows = Rows(transactions[0].branches)
        self._arrivals.put(arrival, len(transactions))
        await arrival.decided

    async def _drive(self, group: Sequence[Arrival]) -> None:
        transactions = [each for arrival in group for each in arrival.transactions]
        transactions.sort(key=lambda each: each.gid)
        expires_at = time.time() + _EXPIRY_S
        await self._insert(transactions, expires_at)
        await self._call_all(transactions, common.OPERATION_TRY, expires_at)
        await self._save(transactions, version=1, state=TransactionState.CONFIRMING)
        for arrival in group:
            arrival.decided.set_result(None)
        await self._call_all(transactions, common.OPERATION_CONFIRM, expires_at)
        await self._save(transactions, version=2, state=TransactionState.CONFIRMED)

    async def _insert(self, transactions: Sequence[BaselineTransaction], expires_at: float) -> None:
        rows = self._rows
        assert rows is not None

        async def insert(some: Sequence[BaselineTransaction]) -> None:
            columns = rows.insert([each.gid for each in some], [each.branches for each in some], expires_at)
            done = await self._log.execute(statements.INSERT, {"owner": _OWNER, **columns})
            assert done.count == len(some)

        await asyncio.gather(*[insert(some) for some in cut(transactions, self._rows_max)])

    async def _save(
        self, transactions: Sequence[BaselineTransaction], *, version: int, state: TransactionState
    ) -> None:
        rows = self._rows
        assert rows is not None

        async def save(some: Sequence[BaselineTransaction]) -> None:
            statement, columns = rows.save(
                [each.gid for each in some], [each.results for each in some], version, state
            )
            done = await self._log.execute(statement, {"owner": _OWNER, **columns})
            assert done.count == len(some)

        await asyncio.gather(*[save(some) for some in cut(transactions, self._rows_max)])

    async def _call_all(
        self,
        transactions: Sequence[BaselineTransaction],
        operation: common.Operation,
        expires_at: float,
    ) -> None:
        expires_at_ms = int(expires_at * 1000)
        await asyncio.gather(
            *[
                self._call(position, some, operation, expires_at_ms)
                for position in range(len(transactions[0].branches))
                for some in cut(transactions, self._calls_max)
            ]
        )

    async def _call(
        self,
        position: int,
        transactions: Sequence[BaselineTransaction],
        operation: common.Operation,
        expires_at_ms: int,
    ) -> None:
        """One message: the calls of the branches at this position."""
        calls = []
        for each in transactions:
            branch = each.branches[position]
            result, content_type = each.results[position]
            calls.append(
                participant_pb.BranchCall(
                    gid=each.gid,
                    branch_id=branch.branch_id,
                    operation=operation,
                    action=branch.action,
                    payload=branch.payload,
                    content_type=branch.content_type,
                    expires_at_ms=expires_at_ms,
                    try_result=result,
                    try_result_content_type=content_type,
                )
            )
        request = participant_pb.ExecuteBranchesRequest(calls=calls)
        stub = self._participants[transactions[0].branches[position].participant]
        answered = 0
        async for response in stub.ExecuteBranches(request, timeout=_EXPIRY_S):
            answered += len(response.results)
            for outcome in response.results:
                assert outcome.code == common.OUTCOME_CODE_SUCCEEDED
                if outcome.result:
                    transactions[outcome.index].results[position] = (outcome.result, outcome.content_type)
        assert answered == len(transactions)


class _OneQueue:
    """As in the coordinator, one queue of calls for all methods; but no limits."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, _service: str, _handlers: object) -> None:
        """Ignore them: generated code adds them as generic handlers as well."""


async def _serve(url: str, addresses: Mapping[str, str]) -> None:
    log = Connections(url, most=_CONNECTIONS)
    with background_threads():  # as in the coordinator
        server = grpc.aio.server(
            options=(
                *server_options(reuse_port=False),
                ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            )
        )
    stubs = {
        name: participant_pb2_grpc.ParticipantServiceStub(open_channel(ParticipantAddress(target=address)))
        for name, address in addresses.items()
    }
    baseline = Baseline(log, stubs)
    transaction_pb2_grpc.add_TransactionServiceServicer_to_server(baseline, _OneQueue(server))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    relax_garbage_collection()
    print(f"listening on 127.0.0.1:{port}", flush=True)

    async def take_batches(command: Command) -> Command:
        baseline.take_batches(rows=command["rows"], calls=command["calls"])
        return {}

    await serve_commands(take_batches)
    await server.stop(None)
    await log.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", required=True, metavar="URL", help="the database for its log")
    parser.add_argument("--participant", action="append", default=[], metavar="NAME=HOST:PORT")
    parser.add_argument("--pin", action="store_true", help="keep to one CPU, as `pin_workers` has it")
    options = parser.parse_args()
    if options.pin:
        stay_on_one_cpu(0)
    migrate(options.log)
    uvloop.run(_serve(options.log, dict(each.split("=", 1) for each in options.participant)))
