"""The synchronous client for initiators, a wrapper around the asynchronous one.

A background thread runs an event loop with a `Client`. Every method passes its call to
that loop and waits. Threads that call at the same time share batches.

    with tcc.SyncClient("dns:///localhost:50050") as client:
        client.execute([tcc.BranchRequest("inventory", "reserve_stock", {"sku": "A"})], gid="order-17")

        with client.transaction(gid="order-18") as tx:
            tx.try_("inventory", "reserve_stock", {"sku": "A", "quantity": 1})
            with tx.register("order", "open_order", {"order_id": "18"}):
                orders.OpenOrder(request)
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import grpc

from tcc import context as contexts
from tcc.client.client import BATCH_BYTES_MAX, BATCH_ITEMS_MAX, TIMEOUT_DEFAULT_S, Client
from tcc.client.connection import StandIn
from tcc.client.interactive import Enlistment, InteractiveTransaction
from tcc.client.outcome import Outcome
from tcc.context import TransactionContext
from tcc.errors import ClientClosed

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

P = ParamSpec("P")
R = TypeVar("R")
Original = TypeVar("Original")
Original_co = TypeVar("Original_co", covariant=True)
OriginalEnlistment_co = TypeVar("OriginalEnlistment_co", bound=Enlistment, covariant=True)


class _LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcc-client", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def run(self, start: Callable[[], Awaitable[R]]) -> R:
        """Await `start()` on the loop, in a copy of this thread's context, and return the result.

        If the wait is interrupted, the work is cancelled.
        """
        if not self.running:
            raise ClientClosed("the client is closed")

        async def work() -> R:
            return await start()

        running = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _SyncProxy(Generic[Original_co]):
    """A synchronous proxy of an asynchronous object that runs on the loop's thread."""

    def __init__(self, original: Original_co, loop: _LoopThread) -> None:
        self._original = original
        self._loop = loop


def _in_background(
    method: Callable[Concatenate[Original, P], Awaitable[R]],
) -> Callable[Concatenate[_SyncProxy[Original], P], R]:
    """Return the sync version of an async method: the same arguments, result, errors and docstring."""

    @wraps(method)
    def proxy(self: _SyncProxy[Original], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(lambda: method(self._original, *args, **kwargs))

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

        while (item := self._loop.run(following)) is not ended:
            yield item  # type: ignore[misc] # only `ended` is not an R

    return proxy


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
    # Returns the branch's context, which is a context manager: `with tx.register(...):`.
    register = _in_background(Enlistment.register)


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


def _transaction_in_front(
    method: Callable[Concatenate[Original, P], InteractiveTransaction],
) -> Callable[Concatenate[_SyncProxy[Original], P], SyncTransaction]:
    """Return the sync version of a method that makes a transaction."""

    @wraps(method)
    def proxy(self: _SyncProxy[Original], /, *args: P.args, **kwargs: P.kwargs) -> SyncTransaction:
        return SyncTransaction(method(self._original, *args, **kwargs), self._loop)

    return proxy


class SyncClient(_SyncProxy[Client]):
    """`tcc.Client` for code without an event loop, with the same arguments, methods and errors.

    It is thread-safe. Close it with `close`, or use it with `with`.
    """

    def __init__(
        self,
        target: str | StandIn,
        *,
        timeout_s: float = TIMEOUT_DEFAULT_S,
        initiator: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
        batch_items_max: int = BATCH_ITEMS_MAX,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        tracer_provider: "TracerProvider | None" = None,
    ) -> None:
        client = Client(
            target,
            timeout_s=timeout_s,
            initiator=initiator,
            credentials=credentials,
            channel_options=channel_options,
            batch_items_max=batch_items_max,
            batch_bytes_max=batch_bytes_max,
            tracer_provider=tracer_provider,
        )
        super().__init__(client, _LoopThread())

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
        """Close the client and its thread. Idempotent; see `Client.close`."""
        if self._loop.running:
            self._loop.run(self._original.close)
            self._loop.stop()

    execute = _in_background(Client.execute)
    get = _in_background(Client.get)
    list = _in_background_each(Client.list)
    wait = _in_background(Client.wait)
    confirm = _in_background(Client.confirm)
    cancel = _in_background(Client.cancel)
    transaction = _transaction_in_front(Client.transaction)

    def join(self, context: TransactionContext) -> SyncEnlistment[Enlistment]:
        """Join a transaction that another process began. See `Client.join`."""
        return SyncEnlistment(self._original.join(context), self._loop)

    def current_transaction(self) -> SyncEnlistment[Enlistment] | None:
        """Join the current transaction. See `Client.current_transaction`."""
        context = contexts.current()
        return None if context is None else self.join(context)
