"""The synchronous client for initiators, a wrapper around the asynchronous one.

Every method passes its call to an event loop on a background thread and waits. All clients of a
process share that thread (tcc.client.background). Threads that call through the same client at
the same time share batches. A process may fork: a client works in the parent and in the child.

    with tcc.SyncClient("dns:///localhost:50050") as client:
        client.execute([tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})], gid="order-17")

        with client.transaction(gid="order-18") as tx:
            tx.try_("inventory", "reserve_stock", {"sku": "A", "quantity": 1})
            with tx.register("order", "open_order", {"order_id": "18"}):
                orders.OpenOrder(request)
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from tcc import context as contexts
from tcc._internal.tls import Tls
from tcc._internal.token import Token
from tcc.client.background import Background
from tcc.client.client import BATCH_BYTES_MAX, BATCH_ITEMS_MAX, TIMEOUT_DEFAULT_S, Client
from tcc.client.connection import StandIn
from tcc.client.interactive import Enlistment, InteractiveTransaction
from tcc.client.local import LocalBranch, LocalParticipant
from tcc.client.outcome import Outcome
from tcc.client.requests import TriedKind
from tcc.context import TransactionContext
from tcc.payload import PayloadCodec

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

P = ParamSpec("P")
R = TypeVar("R")
Original = TypeVar("Original")
Original_co = TypeVar("Original_co", covariant=True)
OriginalEnlistment_co = TypeVar("OriginalEnlistment_co", bound=Enlistment, covariant=True)


class _SyncProxy(Generic[Original_co]):
    """A synchronous proxy of an asynchronous object, whose methods run on the loop of the process."""

    def __init__(self, original: Original_co, background: Background) -> None:
        self._original = original
        self._background = background


def _in_background(
    method: Callable[Concatenate[Original, P], Awaitable[R]],
) -> Callable[Concatenate[_SyncProxy[Original], P], R]:
    """Return the sync version of an async method: the same arguments, result, errors and docstring."""

    @wraps(method)
    def proxy(self: _SyncProxy[Original], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._background.run(lambda: method(self._original, *args, **kwargs))

    return proxy


def _in_background_each(
    method: Callable[Concatenate[Original, P], AsyncIterator[R]],
) -> Callable[Concatenate[_SyncProxy[Original], P], Iterator[R]]:
    """Return the sync version of an async iterator."""

    @wraps(method)
    def proxy(self: _SyncProxy[Original], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        items = method(self._original, *args, **kwargs)
        ended = object()

        async def following() -> R | object:
            return await anext(items, ended)

        while (item := self._background.run(following)) is not ended:
            yield item  # type: ignore[misc] # only `ended` is not an R

    return proxy


@dataclass(frozen=True, kw_only=True, slots=True)
class _RegisteredContext(TransactionContext):
    """The context of a registered branch. Leaving its block reports how the caller's Try ended."""

    on_left: Callable[[BaseException | None], None] = field(repr=False, compare=False)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        TransactionContext.__exit__(self, kind, error, traceback)
        self.on_left(error)


class SyncEnlistment(_SyncProxy[OriginalEnlistment_co]):
    """`tcc.client.interactive.Enlistment` for code without an event loop."""

    @property
    def gid(self) -> str:
        return self._original.gid

    @property
    def context(self) -> TransactionContext:
        """The context to send to services that enlist branches of their own."""
        return self._original.context

    try_ = _in_background(Enlistment.try_)
    _register = _in_background(Enlistment.register)

    def register(
        self,
        participant: str,
        action: str,
        payload: object = None,
        *,
        branch_id: str = "",
        kind: TriedKind = "tcc",
        timeout_s: float | None = None,
    ) -> TransactionContext:
        """Add a branch whose Try the caller performs: `with tx.register(...):`. See `Enlistment.register`."""
        context = self._register(
            participant, action, payload, branch_id=branch_id, kind=kind, timeout_s=timeout_s
        )
        return _RegisteredContext(
            gid=context.gid,
            branch_id=context.branch_id,
            expires_at_ms=context.expires_at_ms,
            on_left=lambda error: self._background.run(
                lambda: self._original.end_try(context.branch_id, error)
            ),
        )


class SyncTransaction(SyncEnlistment[InteractiveTransaction]):
    """`tcc.client.interactive.InteractiveTransaction` for code without an event loop, as `with`."""

    @property
    def outcome(self) -> Outcome | None:
        """How the transaction ended; None until it has."""
        return self._original.outcome

    @property
    def expires_at(self) -> datetime | None:
        """When the coordinator cancels it if it is undecided, in UTC; None before `begin`."""
        return self._original.expires_at

    begin = _in_background(InteractiveTransaction.begin)
    confirm = _in_background(InteractiveTransaction.confirm)
    cancel = _in_background(InteractiveTransaction.cancel)
    _finish = _in_background(InteractiveTransaction.finish)

    def message(
        self,
        participant: str,
        action: str,
        payload: object = None,
        *,
        branch_id: str = "",
        not_before: datetime | None = None,
    ) -> None:
        """Add a message, delivered after the decision CONFIRM. See `InteractiveTransaction.message`."""
        self._original.message(participant, action, payload, branch_id=branch_id, not_before=not_before)

    def local(
        self, participant: LocalParticipant, *, branch_id: str = "", timeout_s: float | None = None
    ) -> "SyncLocalBranch":
        """Decide by a change in the caller's own database. See `InteractiveTransaction.local`."""
        local = self._original.local(participant, branch_id=branch_id, timeout_s=timeout_s)
        return SyncLocalBranch(local, self._background)

    # The context is entered here, in the caller's thread, not in the loop's.

    def __enter__(self) -> Self:
        self.begin()
        self._original.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._original.leave()
        self._finish(error)


class SyncLocalBranch(_SyncProxy[LocalBranch]):
    """`tcc.client.local.LocalBranch` without an event loop: the block runs in the caller's thread."""

    _register = _in_background(LocalBranch.register)

    def __enter__(self) -> Any:
        self._original.check(is_async=False)
        self._register()
        with self._original.beginning():
            decision, db = self._original.block.begin(self._original.plan)
            if not self._original.admits(decision):
                self._original.block.roll_back()
                self._original.refuse(decision)
            return db

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._original.ending(error):
            if error is None:
                self._original.block.commit()
            else:
                self._original.block.roll_back()


def _transaction_in_front(
    method: Callable[Concatenate[Original, P], InteractiveTransaction],
) -> Callable[Concatenate[_SyncProxy[Original], P], SyncTransaction]:
    """Return the sync version of a method that makes a transaction."""

    @wraps(method)
    def proxy(self: _SyncProxy[Original], /, *args: P.args, **kwargs: P.kwargs) -> SyncTransaction:
        return SyncTransaction(method(self._original, *args, **kwargs), self._background)

    return proxy


class SyncClient(_SyncProxy[Client]):
    """`tcc.Client` for code without an event loop, with the same arguments, methods and errors.

    It is thread-safe, and one client per process is enough: make it once, at import time if you
    like. It connects with its first call, and again in a process that was forked later. Close it
    with `close`, or use it with `with`. Web servers and workers: docs/WEB_SERVERS.md.
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
        client = Client(
            target,
            timeout_s=timeout_s,
            initiator=initiator,
            gid_prefix=gid_prefix,
            tls=tls,
            token=token,
            channel_options=channel_options,
            batch_items_max=batch_items_max,
            batch_bytes_max=batch_bytes_max,
            tracer_provider=tracer_provider,
            payload_codec=payload_codec,
        )
        client.connection.uses_streams = False
        super().__init__(client, Background(client.connection))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client. Idempotent; see `Client.close`."""
        self._background.close()

    execute = _in_background(Client.execute)
    send = _in_background(Client.send)
    get = _in_background(Client.get)
    list = _in_background_each(Client.list)
    wait = _in_background(Client.wait)
    confirm = _in_background(Client.confirm)
    cancel = _in_background(Client.cancel)
    transaction = _transaction_in_front(Client.transaction)

    def join(self, context: TransactionContext) -> SyncEnlistment[Enlistment]:
        """Join a transaction that another process began. See `Client.join`."""
        return SyncEnlistment(self._original.join(context), self._background)

    def current_transaction(self) -> SyncEnlistment[Enlistment] | None:
        """Join the current transaction. See `Client.current_transaction`."""
        context = contexts.current()
        return None if context is None else self.join(context)
