"""A channel to the coordinators. Every call has a deadline and is retried when that can help."""

import asyncio
import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol

import grpc

from tcc._internal.channel_options import client_options
from tcc._internal.failpoint import failpoint
from tcc.client.retry import pause_s
from tcc.client.submission import Submitter
from tcc.errors import ClientClosed, error_from_rpc
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc


class StandIn(Protocol):
    """What a client accepts in place of an address: tcc.testing.FakeCoordinator."""

    def open_stub(self) -> Any:
        """Return an object with the methods of TransactionService's stub."""


class Connection:
    """The channel of a client and its transactions. Belongs to the event loop of its first call."""

    def __init__(
        self,
        target: "str | StandIn",
        *,
        timeout_s: float,
        credentials: grpc.ChannelCredentials | None,
        channel_options: Sequence[tuple[str, Any]],
        batch_items_max: int,
        batch_bytes_max: int,
    ) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._options = client_options(tuple(channel_options))
        self._batch_items_max = batch_items_max
        self._batch_bytes_max = batch_bytes_max
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._submitter: Submitter | None = None
        self._closed = False

    async def call(
        self, method: Callable[[Any], Callable[..., Any]], request: object, timeout_s: float | None
    ) -> Any:
        """Return the response of a unary call, which is retried until the timeout.

        Args:
            method: Returns the method of the stub.
            request: The request message.
            timeout_s: Seconds for all attempts. None: the client's default.

        Raises:
            TccError: The error of the last attempt.
        """
        self._open()
        assert self._loop is not None
        deadline = self._loop.time() + self.timeout_or_default_s(timeout_s)
        for attempt in count():
            time_left_s = max(0.0, deadline - self._loop.time())
            try:
                failpoint("client.call.send")
                response = await self._attempt(method(self._stub), request, time_left_s)
                failpoint("client.call.answered")
                return response
            except grpc.aio.AioRpcError as failure:
                error = error_from_rpc(failure)
                time_left_s = deadline - self._loop.time()
                wait_s = pause_s(error, attempt=attempt, time_left_s=time_left_s, jitter=random.random())
                if wait_s is None:
                    raise error from failure
            await asyncio.sleep(wait_s)
        raise AssertionError("count() does not end")

    async def execute(
        self, request: pb.ExecuteTransactionRequest, timeout_s: float | None
    ) -> pb.TransactionOutcome:
        """Return the outcome of a whole transaction, sent in a batch with others that are waiting."""
        self._open()
        assert self._submitter is not None
        return await self._submitter.submit(request, timeout_s=self.timeout_or_default_s(timeout_s))

    async def close(self) -> None:
        """Close the channel. Idempotent."""
        self._closed = True
        submitter, channel = self._submitter, self._channel
        self._submitter = self._channel = None
        if submitter is not None:
            await submitter.close()
        if channel is not None:
            await channel.close(None)

    def timeout_or_default_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    async def _attempt(self, call: Callable[..., Any], request: object, time_left_s: float) -> Any:
        if self._closed:
            raise ClientClosed("the client is closed")
        try:
            return await call(request, timeout=time_left_s)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                # The caller was not cancelled: its call ended with the channel.
                raise ClientClosed("the client was closed before the response") from error
            raise

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._loop is loop:
            return
        if self._loop is not None:
            raise RuntimeError("a client belongs to the event loop of its first call: make one per loop")
        self._loop = loop
        self._stub = self._open_stub()
        self._submitter = Submitter(
            self._stub.ExecuteTransaction,
            self._stub.ExecuteTransactions,
            batch_items_max=self._batch_items_max,
            batch_bytes_max=self._batch_bytes_max,
        )

    def _open_stub(self) -> Any:
        if not isinstance(self._target, str):
            return self._target.open_stub()
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=self._options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=self._options)
        return transaction_pb2_grpc.TransactionServiceStub(self._channel)
