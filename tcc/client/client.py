"""The initiator's client.

    import tcc

    async with tcc.Client("dns:///localhost:50050") as client:
        outcome = await client.execute(
            [
                tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A", "quantity": 1}),
                tcc.BranchRequest("order", "open_order", {"order_id": "17"}),
            ],
            gid="order-17",
        )

What it does by itself:

- *Batching.* An idle client sends a plain call; what queues while others are in
  flight leaves in batches (tcc.client.submission). Nothing has to be configured.
- *Repeating.* Every request carries a gid, so a lost connection, an unavailable
  or a busy coordinator is met by repeating it with a full-jitter backoff until
  the caller's time is up (tcc.client.retry). Nothing is ever done twice by that.
- *Deadlines.* Every call has one.

Every error is a `tcc.errors.TccError`. After Unavailable and DeadlineExceeded the
outcome is not known: repeat with the same gid, `wait` or `get`.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from tcc import context as contexts
from tcc.client.connection import Connection
from tcc.client.interactive import Enlistment, InteractiveTransaction, cancel, checked, confirm
from tcc.client.outcome import (
    Outcome,
    TransactionRecord,
    TransactionState,
    WaitFor,
    outcome_of,
    record_of,
    wait_for_number,
)
from tcc.client.requests import BranchRequest, execute_request, timestamp
from tcc.context import TransactionContext
from tcc.transaction.v1 import transaction_pb2 as pb

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from tcc.client.tracing import InitiatorTracing

TIMEOUT_DEFAULT_S = 10.0
BATCH_ITEMS_MAX = 256
BATCH_BYTES_MAX = 2**20


class Client:
    """Starts, watches and ends transactions. One per process and event loop is enough.

    It connects with its first call and belongs to that call's event loop. Close it
    with `close`, or use it as `async with`.

    - `target`: a gRPC target, for example `dns:///tcc:50050`; several addresses are used in turn.
    - `timeout_s`: the deadline of a call that is given none, repetitions included.
    - `initiator`: who asks, for operators; at most 128 bytes.
    - `credentials`: for TLS; without them the channel is plain.
    - `channel_options`: further gRPC channel options; they win over the client's own.
    - `batch_items_max`, `batch_bytes_max`: the largest batch; one larger item travels alone.
    - `tracer_provider`: OpenTelemetry's, for example `opentelemetry.trace.get_tracer_provider()`: each
      transaction gets a span below the current one, and the coordinator's and the participants'
      spans below that. None: no traces, and OpenTelemetry (the extra [tracing]) is not needed.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = TIMEOUT_DEFAULT_S,
        initiator: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
        batch_items_max: int = BATCH_ITEMS_MAX,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        tracer_provider: "TracerProvider | None" = None,
    ) -> None:
        self._initiator = initiator
        self._tracing = _tracing(tracer_provider)
        self._connection = Connection(
            target,
            timeout_s=timeout_s,
            credentials=credentials,
            channel_options=channel_options,
            batch_items_max=batch_items_max,
            batch_bytes_max=batch_bytes_max,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client. Callers that still wait get ClientClosed; transactions go on without it."""
        await self._connection.close()

    async def execute(
        self,
        branches: Iterable[BranchRequest],
        *,
        gid: str = "",
        expiry_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        wait_for: WaitFor = "decision",
        timeout_s: float | None = None,
        raise_on_cancel: bool = True,
    ) -> Outcome:
        """Run a whole transaction: the coordinator calls every Try, decides, and carries it out.

        - `gid`: the initiator's own idempotency key, at most 128 bytes, for example `order-17`:
          the same gid with the same content is the same transaction, whoever asks and whenever.
          A new UUIDv7 by default.
        - `expiry_s`: undecided by then, the transaction is cancelled. By default the
          coordinator's, which also bounds it by the deadline of the call: a little before it,
          so that the caller hears of the cancel and why.
        - `labels`: for finding it again; at most 16.
        - `wait_for`: "decision" (it is durable), "completion" (every branch has carried it out)
          or "accepted" (the transaction is durable; its outcome is TRYING).
        - `timeout_s`: how long to try, repetitions included; the client's default if None.
        - `raise_on_cancel`: False returns a cancelled outcome instead of raising.

        Raises:
            TransactionCancelled: The decision is CANCEL: a Try was rejected, failed for good, or
                the transaction expired; TryTimedOut where a branch kept failing until then.
            InvalidRequest: A field is wrong; UnknownParticipant is one of these.
            GidConflict: The gid belongs to a transaction with different content.
            Unavailable, ResourceExhausted: No coordinator took it until the time was up.
            DeadlineExceeded: It was not decided in time. It goes on without the caller. Where the
                coordinator knows a branch that keeps failing, `metadata` has `branch_id` and
                `last_error`.
            ClientClosed: The client was closed meanwhile.
            TypeError: A payload cannot be encoded.
        """
        request = execute_request(
            branches,
            gid=gid,
            expiry_s=expiry_s,
            labels=labels,
            wait_for=wait_for,
            initiator=self._initiator,
        )
        if self._tracing is None:
            outcome = await self._execute(request, timeout_s)
        else:
            outcome = await self._tracing.execute(request, lambda: self._execute(request, timeout_s))
        return checked(outcome) if raise_on_cancel else outcome

    async def _execute(self, request: pb.ExecuteTransactionRequest, timeout_s: float | None) -> Outcome:
        return outcome_of(await self._connection.execute(request, timeout_s))

    def transaction(
        self,
        *,
        gid: str = "",
        expiry_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        wait_for: WaitFor = "decision",
        timeout_s: float | None = None,
    ) -> InteractiveTransaction:
        """Return an interactive transaction, whose business logic runs between its Trys.

            async with client.transaction(gid="order-17", expiry_s=30) as tx:
                stock = await tx.try_("inventory", "reserve_stock", {"sku": "A", "quantity": 1})
                await tx.try_("order", "open_order", {"price": stock.json()["price"]})
            print(tx.outcome)

        Leaving the block confirms; an exception cancels and propagates. Arguments as in
        `execute`; `wait_for` says what leaving waits for, `timeout_s` holds for each call.
        Errors are raised where they happen: begin on entering, confirm on leaving.
        """
        return InteractiveTransaction(
            self._connection,
            gid=gid,
            expiry_s=expiry_s,
            labels=labels,
            wait_for=wait_for,
            initiator=self._initiator,
            timeout_s=timeout_s,
            tracing=self._tracing,
        )

    def join(self, context: TransactionContext) -> Enlistment:
        """Join a transaction that another process began, to add branches to it.

        `context` comes with the call that this service is answering (tcc.context). Join once
        per call: branches without an id are numbered anew each time, so that a repeated call
        finds its branches again. Only the initiator confirms or cancels.
        """
        return Enlistment(self._connection, context)

    def current_transaction(self) -> Enlistment | None:
        """`join` for the current context; None outside a transaction."""
        context = contexts.current()
        return None if context is None else self.join(context)

    async def get(self, gid: str, *, timeout_s: float | None = None) -> TransactionRecord:
        """One transaction with its branches, as the log holds it now.

        Raises:
            NotFound: The log holds no such transaction (any more).
            TccError: As in `execute`.
        """
        request = pb.GetTransactionRequest(gid=gid)
        response = await self._connection.call(lambda stub: stub.GetTransaction, request, timeout_s)
        return record_of(response.transaction)

    async def list(
        self,
        *,
        states: Iterable[TransactionState] = (),
        participant: str = "",
        labels: Mapping[str, str] | None = None,
        initiator: str = "",
        stuck: bool = False,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 100,
        timeout_s: float | None = None,
    ) -> AsyncIterator[TransactionRecord]:
        """Transactions that match every filter given, newest first, without payloads and results.

        Pages of `page_size` (at most 1,000) are fetched as the iteration goes on, each with the
        deadline `timeout_s`. Moments need a time zone. Raises TccError as in `execute`.
        """
        request = pb.ListTransactionsRequest(
            page_size=page_size,
            # The stubs know the enum only by its own class, which takes any of its numbers.
            states=list(states),  # type: ignore[arg-type]
            participant=participant,
            labels=labels or {},
            initiator=initiator,
            stuck=stuck,
            created_after=timestamp(created_after),
            created_before=timestamp(created_before),
        )
        while True:
            response = await self._connection.call(lambda stub: stub.ListTransactions, request, timeout_s)
            for message in response.transactions:
                yield record_of(message)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def wait(
        self, gid: str, *, wait_for: WaitFor = "decision", timeout_s: float | None = None
    ) -> Outcome:
        """Wait until a transaction is decided or completed. A cancelled one is returned, not raised.

        Raises:
            DeadlineExceeded: It was not that far in time.
            NotFound: The log holds no such transaction (any more).
            TccError: As in `execute`.
        """
        request = pb.WaitTransactionRequest(gid=gid, wait_for=wait_for_number(wait_for))
        response = await self._connection.call(lambda stub: stub.WaitTransaction, request, timeout_s)
        return outcome_of(response.outcome)

    async def confirm(
        self, gid: str, *, wait_for: WaitFor = "decision", timeout_s: float | None = None
    ) -> Outcome:
        """Asks for the decision CONFIRM of an interactive transaction. May be repeated.

        Raises:
            TransactionCancelled: The other decision was taken.
            NotInteractive: It was begun by `execute`.
            TccError: As in `get`.
        """
        return await confirm(self._connection, gid, wait_for, timeout_s)

    async def cancel(
        self, gid: str, *, reason: str = "", wait_for: WaitFor = "decision", timeout_s: float | None = None
    ) -> Outcome:
        """Asks for the decision CANCEL of an undecided transaction. May be repeated.

        `reason` (at most 1,000 characters) is for operators and logs.

        Raises:
            DecisionConflict: The other decision was taken.
            TccError: As in `get`.
        """
        return await cancel(self._connection, gid, reason, wait_for, timeout_s)


def _tracing(provider: "TracerProvider | None") -> "InitiatorTracing | None":
    if provider is None:
        return None
    from tcc.client.tracing import InitiatorTracing  # noqa: PLC0415 - OpenTelemetry may not be there

    return InitiatorTracing(provider)
