"""A channel to the coordinators. Every call has a deadline and is retried when that can help."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, Protocol

import grpc

from tcc._internal.channel_options import client_options
from tcc._internal.failpoint import failpoint
from tcc._internal.tls import Tls, TlsContent, channel_credentials, channel_options
from tcc._internal.token import Token, TokenChannel
from tcc.client import arguments, forking
from tcc.client.endpoint import Endpoint
from tcc.client.retry import pause_s
from tcc.client.streams import is_cancelled
from tcc.client.submission import Submitter
from tcc.errors import ClientClosed, TccError, error_from_rpc
from tcc.payload import PayloadCodec
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc

_CANCEL_TIMEOUT_S = 2.0
_FILES_CHECKED_EVERY_S = 1.0

# Of a parent process. If they were collected as garbage, they would touch gRPC.
_abandoned: list[object] = []


class StandIn(Protocol):
    """What a client accepts in place of an address: tcc.testing.FakeCoordinator."""

    def open_channel(self) -> Any:
        """Return an object with a channel's methods: those for calls that stubs use, and `close`."""


class Connection:
    """The channel of a client and its transactions. Belongs to the event loop of its first call."""

    def __init__(
        self,
        target: "str | StandIn",
        *,
        timeout_s: float,
        tls: Tls | None,
        token: Token | None,
        channel_options: Sequence[tuple[str, Any]],
        batch_items_max: int,
        batch_bytes_max: int,
        payload_codec: PayloadCodec | None = None,
    ) -> None:
        self.payload_codec = payload_codec
        # A stand-in is known by its method: a text has none.
        self._target = target if hasattr(target, "open_channel") else arguments.target(target)
        self._timeout_s = arguments.seconds("timeout_s", timeout_s)
        self._tls = arguments.tls(tls)
        self._token = arguments.token(token, self._target, uses_tls=tls is not None)
        self._options = client_options(arguments.channel_options(channel_options))
        self._batch_items_max = arguments.whole_number("batch_items_max", batch_items_max, least=1)
        self._batch_bytes_max = arguments.whole_number("batch_bytes_max", batch_bytes_max, least=1)
        # Before a fork all calls must have ended. gRPC ends a stream later than a call.
        self.uses_streams = True
        self._session: _Session | None = None
        # Of sessions that were replaced because certificates changed: they close once they are free.
        self._retiring: set[asyncio.Task[None]] = set()
        self._closed = False
        #: The gids of the transactions whose blocks run, and that are not confirmed or cancelled yet.
        self.interactive: set[str] = set()
        # Those whose local branch is open: its change may still fail.
        self.open_locals: set[str] = set()
        # Unset while the process forks; None while it does not.
        self._resumed: asyncio.Event | None = None

    @property
    def is_open(self) -> bool:
        """True if the channel is open: after the first call, and before `close` or `suspend`."""
        return self._session is not None

    @property
    def is_closed(self) -> bool:
        return self._closed

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
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout_or_default_s(timeout_s)
        for attempt in count():
            session = await self._open()
            try:
                with session:
                    failpoint("client.call.send")
                    response = await method(session.stub)(request, timeout=max(0.0, deadline - loop.time()))
                    failpoint("client.call.answered")
                    return response
            except grpc.aio.AioRpcError as failure:
                error = error_from_rpc(failure)
                session.endpoint.on_error(error)
                time_left_s = deadline - loop.time()
                wait_s = pause_s(error, attempt=attempt, time_left_s=time_left_s, jitter=random.random())
                if wait_s is None:
                    _explain_timeout(error, self.timeout_or_default_s(timeout_s))
                    await session.endpoint.explain(error)
                    raise error from failure
            except asyncio.CancelledError as error:
                if session is self._session or is_cancelled():
                    raise
                # The caller was not cancelled: its call ended with the channel.
                if self._closed:
                    raise ClientClosed("the client was closed before the response") from error
                wait_s = 0.0
            # A reference would keep the channel open while this call waits for the end of a fork.
            del session
            await asyncio.sleep(wait_s)
        raise AssertionError("count() does not end")

    async def execute(
        self, request: pb.ExecuteTransactionRequest, timeout_s: float | None
    ) -> pb.TransactionOutcome:
        """Return the outcome of a whole transaction, sent in a batch with others that are waiting."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout_or_default_s(timeout_s)
        while True:
            session = await self._open()
            try:
                with session:
                    return await session.submitter.submit(request, timeout_s=deadline - loop.time())
            except ClientClosed:
                if self._closed:
                    raise
            except TccError as error:
                await session.endpoint.explain(error)
                raise
            # As in `call`.
            del session

    async def close(self) -> None:
        """Close the channel. Idempotent. Interactive transactions without a decision are cancelled."""
        self._closed = True
        abandoned, self.interactive = self.interactive, set()
        if self._session is not None and abandoned:
            await self._session.cancel(abandoned)
        await self._end_session()

    def close_unopened(self) -> None:
        """Close a connection without an event loop: one that has made no call in this process."""
        self._closed = True

    async def suspend(self) -> None:
        """Close the channel until `resume`. Calls in flight wait and are then repeated."""
        self._resumed = self._resumed or asyncio.Event()
        await self._end_session()

    def resume(self) -> None:
        """Let calls open the channel again, on the same or another event loop."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def abandon(self) -> None:
        """Forget the channel in a forked child. It belongs to a thread that does not exist there."""
        _abandoned.append((self._session, self._resumed, self._retiring))
        self._retiring = set()
        self._session = self._resumed = None
        self.interactive = set()

    def timeout_or_default_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else arguments.seconds("timeout_s", timeout_s)

    async def _open(self) -> "_Session":
        if self._resumed is not None:
            await self._resumed.wait()
        if self._closed:
            raise ClientClosed("the client is closed")
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._session = self._new_session(loop)
        elif self._session.loop is not loop:
            raise RuntimeError("a client belongs to the event loop of its first call: make one per loop")
        elif self._tls is not None and self._session.is_outdated(self._tls):
            retiring = loop.create_task(self._session.close_when_free())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            self._session = self._new_session(loop)
        return self._session

    def _new_session(self, loop: asyncio.AbstractEventLoop) -> "_Session":
        forking.check_usable()
        content = None if self._tls is None else self._tls.content()
        channel = self._open_channel(content)
        return _Session(
            loop,
            channel,
            Endpoint(str(self._target), channel, uses_tls=content is not None),
            content=content,
            batch_items_max=self._batch_items_max,
            batch_bytes_max=self._batch_bytes_max,
            has_streams=self.uses_streams and isinstance(self._target, str),
            token=self._token,
        )

    def _open_channel(self, content: TlsContent | None) -> Any:
        if not isinstance(self._target, str):
            return self._target.open_channel()
        channel: Any
        if self._tls is None or content is None:
            channel = grpc.aio.insecure_channel(self._target, options=self._options)
        else:
            options = (*channel_options(self._tls), *self._options)
            channel = grpc.aio.secure_channel(self._target, channel_credentials(content), options=options)
        return channel if self._token is None else TokenChannel(channel, self._token)

    async def _end_session(self) -> None:
        session, self._session = self._session, None
        retiring, self._retiring = self._retiring, set()
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        if session is not None:
            await session.close()


class _Session:
    """An open channel with its stub and its batches, on one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: grpc.aio.Channel,
        endpoint: Endpoint,
        *,
        content: TlsContent | None,
        batch_items_max: int,
        batch_bytes_max: int,
        has_streams: bool,
        token: Callable[[], str] | None,
    ) -> None:
        self.loop = loop
        self._channel = channel
        self._content = content
        self._checked_at = loop.time()
        self._in_flight = 0
        self._free = asyncio.Event()
        self._free.set()
        self.endpoint = endpoint
        self.stub: Any = transaction_pb2_grpc.TransactionServiceStub(channel)
        self.submitter = Submitter(
            self.stub.ExecuteTransaction,
            self.stub.ExecuteTransactions,
            self.stub.StreamTransactions if has_streams else None,
            token=token,
            batch_items_max=batch_items_max,
            batch_bytes_max=batch_bytes_max,
            on_error=endpoint.on_error,
        )

    def __enter__(self) -> None:
        self._in_flight += 1
        self._free.clear()

    def __exit__(self, *_: object) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._free.set()

    def is_outdated(self, tls: Tls) -> bool:
        """Return whether the certificates have changed; the files are checked now and then."""
        now = self.loop.time()
        if now - self._checked_at < _FILES_CHECKED_EVERY_S:
            return False
        self._checked_at = now
        return tls.content() is not self._content

    async def close_when_free(self) -> None:
        """Close once no call is in flight. Every call has a deadline."""
        try:
            await self._free.wait()
        finally:
            await self.close()

    async def cancel(self, gids: Iterable[str]) -> None:
        """Request the decision CANCEL once for each. What cannot be cancelled now expires."""
        requests = [pb.CancelTransactionRequest(gid=gid, reason="the client was closed") for gid in gids]
        calls = [self.stub.CancelTransaction(request, timeout=_CANCEL_TIMEOUT_S) for request in requests]
        await asyncio.gather(*calls, return_exceptions=True)

    async def close(self) -> None:
        await self.submitter.close()
        await self.endpoint.close()
        await self._channel.close(None)


def _explain_timeout(error: TccError, timeout_s: float) -> None:
    """Name the timeout in the message of gRPC, which only says that there was one."""
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED and error.reason == error.code.name:
        few = "" if timeout_s else ", which leaves no time for a call"
        error.message = f"no response within timeout_s={timeout_s:g}{few}"
        error.args = (error.message,)
