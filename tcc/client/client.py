"""The asynchronous client for initiators.

    import tcc

    async with tcc.Client("dns:///localhost:50050") as client:
        outcome = await client.execute(
            [
                tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A", "quantity": 1}),
                tcc.BranchRequest("order", "open_order", {"order_id": "17"}),
            ],
            gid="order-17",
        )

The client does the following automatically:

- *Batching.* An idle client sends a plain call. Requests that arrive while others are in
  flight are sent in batches (tcc.client.submission). No configuration is needed.
- *Retries.* If the connection is lost, or the coordinator is unavailable or busy, the client
  repeats the request with full-jitter backoff until the timeout (tcc.client.retry). This
  is safe: every request has a gid, so a repeated request does nothing twice.
- *Deadlines.* Every call has one.

Every error is a `tcc.errors.TccError`. After Unavailable and DeadlineExceeded the outcome
is not known: repeat with the same gid, or call `wait` or `get`.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tcc import context as contexts
from tcc._internal.tls import Tls
from tcc._internal.token import Token
from tcc._internal.uuid7 import uuid7
from tcc.client import arguments
from tcc.client.connection import Connection, StandIn
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
from tcc.payload import PayloadCodec
from tcc.transaction.v1 import transaction_pb2 as pb

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from tcc.client.tracing import InitiatorTracing

TIMEOUT_DEFAULT_S = 10.0
BATCH_ITEMS_MAX = 256
BATCH_BYTES_MAX = 2**20
_PAGE_SIZE_MAX = 1_000


class Client:
    """Starts, queries and ends transactions. One per process and event loop is enough.

    The client connects with its first call and belongs to that call's event loop. Close it
    with `close`, or use it with `async with`.

    Args:
        target: A gRPC target, for example `dns:///tcc:50050`. Several addresses are used in turn.
            In tests: a tcc.testing.FakeCoordinator.
        timeout_s: The default timeout of a call in seconds, retries included.
        initiator: The name of the calling service, shown to operators; at most 128 bytes.
        gid_prefix: What the gids begin with that the client makes where none is given. A coordinator
            with `[clients.NAME] gid_prefixes` accepts only gids with one of these prefixes.
        tls: The certificates for TLS. Without it the channel is not encrypted. If the files change,
            later calls use a new channel.
        token: A bearer token that every call shows: the token, the `pathlib.Path` of a file that
            holds it (it is read for each call), or a function that returns it and does not block.
            Only with `tls`, or to an address on loopback.
        channel_options: Further gRPC channel options. They override the client's own.
        batch_items_max: The largest number of transactions in a batch.
        batch_bytes_max: The largest size of a batch in bytes. A larger transaction is sent alone.
        tracer_provider: A provider of OpenTelemetry, for example
            `opentelemetry.trace.get_tracer_provider()`. Each transaction gets a span below the
            current one; the spans of the coordinator and the participants are below that. None:
            no traces, and OpenTelemetry (the extra [tracing]) is not needed.
        payload_codec: Encrypts payloads and opens results, for example a tcc.AesGcmCodec (the extra
            [encryption]). The participants need one with the same keys. None: they are sent as they are.
    """

    def __init__(
        self,
        target: str | StandIn,
        *,
        timeout_s: float = TIMEOUT_DEFAULT_S,
        initiator: str = "",
        gid_prefix: str = "",
        tls: Tls | None = None,
        token: Token | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
        batch_items_max: int = BATCH_ITEMS_MAX,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        tracer_provider: "TracerProvider | None" = None,
        payload_codec: PayloadCodec | None = None,
    ) -> None:
        self._initiator = arguments.text("initiator", initiator, 'initiator="shop"')
        self._gid_prefix = arguments.gid_prefix(gid_prefix)
        self._tracing = _tracing(tracer_provider)
        #: For the clients built on this one.
        self.connection = Connection(
            target,
            timeout_s=timeout_s,
            tls=tls,
            token=token,
            channel_options=channel_options,
            batch_items_max=batch_items_max,
            batch_bytes_max=batch_bytes_max,
            payload_codec=payload_codec,
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
        """Close the client. Waiting calls raise ClientClosed; their transactions continue.

        Interactive transactions whose blocks have not ended are cancelled.
        """
        await self.connection.close()

    async def execute(
        self,
        branches: Iterable[BranchRequest],
        *,
        gid: str | None = None,
        expiry_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        wait_for: WaitFor = "decision",
        timeout_s: float | None = None,
        raise_on_cancel: bool = True,
    ) -> Outcome:
        """Run a whole transaction: the coordinator calls every Try, decides, and carries it out.

        Args:
            branches: The branches. They are tried in the order of their stages.
            gid: The transaction's id and idempotency key, at most 128 bytes, for example
                `order-17`. The same gid with the same content is the same transaction, for any
                caller and at any time. By default a new UUIDv7 after the client's `gid_prefix`.
            expiry_s: Seconds until an undecided transaction is cancelled. By default the
                coordinator's setting, bounded to slightly less than the timeout of the call, so
                that the caller receives the cancellation and its reason.
            labels: Labels to find the transaction by; at most 16.
            wait_for: "decision" (the decision is durable), "completion" (every branch has carried
                it out) or "accepted" (the transaction is durable; the outcome is TRYING).
            timeout_s: Seconds to wait, retries included. None: the client's default.
            raise_on_cancel: If False, a cancelled outcome is returned instead of raised.

        Returns:
            The outcome, with the results of the Trys.

        Raises:
            TransactionCancelled: The decision is CANCEL: a Try was rejected or failed permanently,
                or the transaction expired (TryTimedOut if a branch kept failing until then).
            InvalidRequest: A field is invalid; UnknownParticipant is a subclass.
            GidConflict: The gid belongs to a transaction with different content: branches, payloads,
                stages, `not_before` or labels differ.
            Unavailable, ResourceExhausted: No coordinator accepted it before the timeout.
            DeadlineExceeded: It was not decided before the timeout and continues without the
                caller. If the coordinator knows a branch that keeps failing, `metadata` has its
                `branch_id` and `last_error`.
            ClientClosed: The client was closed during the call.
            TypeError: A payload cannot be encoded.
        """
        request = execute_request(
            branches,
            gid=self._new_gid() if gid is None else gid,
            expiry_s=expiry_s,
            labels=labels,
            wait_for=wait_for,
            initiator=self._initiator,
            codec=self.connection.payload_codec,
        )
        if self._tracing is None:
            outcome = await self._execute(request, timeout_s)
        else:
            outcome = await self._tracing.execute(request, lambda: self._execute(request, timeout_s))
        return checked(outcome) if raise_on_cancel else outcome

    async def send(
        self,
        participant: str,
        action: str,
        payload: object = None,
        *,
        gid: str | None = None,
        not_before: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        wait_for: WaitFor = "decision",
        timeout_s: float | None = None,
    ) -> Outcome:
        """Send a reliable message: once it is durable, it is delivered until its handler succeeds.

        It is a transaction of one branch of kind "message". `gid` is the message's id and
        idempotency key. The order of messages is not kept.

        Args:
            participant: As in `BranchRequest`.
            action: As in `BranchRequest`; the participant has declared it as a message.
            payload: As in `BranchRequest`.
            gid: As in `execute`. Without one, a repeated call is another message: give one if you
                may repeat it.
            not_before: The time before which it is not delivered, with a time zone. It is part of the
                content: compute it from something fixed, such as the time of the order, and not from
                the present time, or a repeated call is refused as GidConflict.
            labels: As in `execute`.
            wait_for: "decision" (the message is durable) or "completion" (it is delivered).
            timeout_s: As in `execute`.

        Raises:
            TccError: As in `execute`; a message is never cancelled.
        """
        branch = BranchRequest(participant, action, payload, kind="message", not_before=not_before)
        return await self.execute([branch], gid=gid, labels=labels, wait_for=wait_for, timeout_s=timeout_s)

    def _new_gid(self) -> str:
        return self._gid_prefix + uuid7()

    async def _execute(self, request: pb.ExecuteTransactionRequest, timeout_s: float | None) -> Outcome:
        outcome = await self.connection.execute(request, timeout_s)
        return outcome_of(outcome, self.connection.payload_codec)

    def transaction(
        self,
        *,
        gid: str | None = None,
        expiry_s: float | None = None,
        labels: Mapping[str, str] | None = None,
        wait_for: WaitFor = "decision",
        timeout_s: float | None = None,
    ) -> InteractiveTransaction:
        """Return an interactive transaction, in which business logic runs between the Trys.

            async with client.transaction(gid="order-17", expiry_s=30) as tx:
                stock = await tx.try_("inventory", "reserve_stock", {"sku": "A", "quantity": 1})
                await tx.try_("order", "open_order", {"price": stock.json()["price"]})
            print(tx.outcome)

        Leaving the block confirms; an exception cancels and propagates. The arguments are those
        of `execute`. Leaving the block waits for `wait_for`. `timeout_s` is the timeout of each
        call. Entering raises the errors of `begin`, leaving those of `confirm`.
        """
        return InteractiveTransaction(
            self.connection,
            gid=self._new_gid() if gid is None else gid,
            expiry_s=expiry_s,
            labels=labels,
            wait_for=wait_for,
            initiator=self._initiator,
            timeout_s=timeout_s,
            tracing=self._tracing,
        )

    def join(self, context: TransactionContext) -> Enlistment:
        """Join a transaction that another process began, to add branches to it.

        Join once per call: branches without an id are numbered from the start at each join, so
        a repeated call gets the same branches. Only the initiator confirms or cancels.

        Args:
            context: The context of the call that this service handles (tcc.context).
        """
        arguments.instance("context", context, TransactionContext, 'tcc.TransactionContext(gid="order-17")')
        return Enlistment(self.connection, context)

    def current_transaction(self) -> Enlistment | None:
        """Return `join` of the current context; None outside a transaction."""
        context = contexts.current()
        return None if context is None else self.join(context)

    async def get(self, gid: str, *, timeout_s: float | None = None) -> TransactionRecord:
        """Return a transaction with its branches, as the log holds it now.

        Raises:
            NotFound: The log holds no such transaction (any more).
            TccError: As in `execute`.
        """
        request = pb.GetTransactionRequest(gid=arguments.gid(gid))
        response = await self.connection.call(lambda stub: stub.GetTransaction, request, timeout_s)
        return record_of(response.transaction, self.connection.payload_codec)

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
        """Yield the transactions that match all given filters, newest first, without payloads and results.

        Pages of `page_size` (at most 1,000) are fetched during the iteration, each with the
        timeout `timeout_s`. `created_after` and `created_before` need a time zone.

        Raises:
            TccError: As in `execute`.
        """
        arguments.instance("stuck", stuck, bool, "stuck=True")
        request = pb.ListTransactionsRequest(
            page_size=arguments.whole_number("page_size", page_size, least=1, most=_PAGE_SIZE_MAX),
            states=arguments.items("states", states, int, "tcc.TransactionState.CONFIRMED"),
            participant=arguments.text("participant", participant, 'participant="inventory"'),
            labels=arguments.labels(labels),
            initiator=arguments.text("initiator", initiator, 'initiator="shop"'),
            stuck=stuck,
            created_after=timestamp("created_after", created_after),
            created_before=timestamp("created_before", created_before),
        )
        while True:
            response = await self.connection.call(lambda stub: stub.ListTransactions, request, timeout_s)
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
            DeadlineExceeded: The timeout passed first.
            NotFound: The log holds no such transaction (any more).
            TccError: As in `execute`.
        """
        request = pb.WaitTransactionRequest(gid=arguments.gid(gid), wait_for=wait_for_number(wait_for))
        response = await self.connection.call(lambda stub: stub.WaitTransaction, request, timeout_s)
        return outcome_of(response.outcome, self.connection.payload_codec)

    async def confirm(
        self, gid: str, *, wait_for: WaitFor = "decision", timeout_s: float | None = None
    ) -> Outcome:
        """Request the decision CONFIRM of an interactive transaction. May be repeated.

        Raises:
            TransactionCancelled: The decision is CANCEL.
            NotInteractive: The transaction was begun by `execute`.
            TccError: As in `get`.
        """
        return await confirm(self.connection, gid, wait_for, timeout_s)

    async def cancel(
        self, gid: str, *, reason: str = "", wait_for: WaitFor = "decision", timeout_s: float | None = None
    ) -> Outcome:
        """Request the decision CANCEL of an undecided transaction. May be repeated.

        Args:
            gid: The transaction's id.
            reason: A text for operators and logs, at most 1,000 characters.
            wait_for: As in `execute`.
            timeout_s: As in `execute`.

        Raises:
            DecisionConflict: The decision is CONFIRM.
            TccError: As in `get`.
        """
        return await cancel(self.connection, gid, reason, wait_for, timeout_s)


def _tracing(provider: "TracerProvider | None") -> "InitiatorTracing | None":
    if provider is None:
        return None
    from tcc.client.tracing import InitiatorTracing  # noqa: PLC0415 - OpenTelemetry is optional

    return InitiatorTracing(provider)
