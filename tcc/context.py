"""The transaction context: which branch of which transaction a piece of work belongs to.

A service that is called inside a transaction learns from the call's metadata
which one, so that it can enlist further branches under the same gid:

| metadata key        | value                                                        |
|---------------------|--------------------------------------------------------------|
| `tcc-gid`           | the transaction's id, percent-encoded                        |
| `tcc-branch-id`     | the branch that the call belongs to, percent-encoded; absent outside one |
| `tcc-expires-at-ms` | when the transaction expires, in milliseconds since 1970; absent if unknown |

Percent-encoded (RFC 3986) because metadata carries printable ASCII only, and a
gid may be any text; ids of letters, digits and the usual punctuation travel as
they are. Client interceptors send the current context, server interceptors make
the sent one current for the handler:

    channel = grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors())
    server = grpc.aio.server(interceptors=[AioServerInterceptor()])

    channel = grpc.intercept_channel(grpc.insecure_channel(target), ClientInterceptor())
    server = grpc.server(pool, interceptors=[ServerInterceptor()])

The current context is a contextvar: it follows tasks, and threads that are
started with a copy of the context (`asyncio.to_thread`).
"""

from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NoReturn, Self, TypeAlias
from urllib.parse import quote, unquote

import grpc

GID_KEY = "tcc-gid"
BRANCH_ID_KEY = "tcc-branch-id"
EXPIRES_AT_KEY = "tcc-expires-at-ms"

# Printable ASCII but for the space, which transports strip at the ends, and the percent sign.
_PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionContext:
    """One transaction, and where it is known the branch that the work belongs to.

    As a context manager it is the current one within the block:

        with context:
            await order_service.OpenOrder(request)  # an intercepted channel sends it along
    """

    gid: str
    branch_id: str = ""
    # Milliseconds since the Unix epoch; 0 when it is not known.
    expires_at_ms: int = 0

    @property
    def expires_at(self) -> datetime | None:
        """When the transaction expires, in UTC; None when it is not known."""
        return datetime.fromtimestamp(self.expires_at_ms / 1000, UTC) if self.expires_at_ms else None

    def __enter__(self) -> Self:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        *outer, left = _entered.get()
        assert left is self, "contexts are left in the reverse of the order they were entered in"
        _entered.set(tuple(outer))


# The whole nesting, innermost last, so that leaving needs no token kept by the frozen value.
_entered: ContextVar[tuple[TransactionContext, ...]] = ContextVar("tcc_transaction_contexts", default=())


# The participant whose handler the running code is; empty outside a handler.
handling_participant: ContextVar[str] = ContextVar("tcc_handling_participant", default="")


class InvalidContextError(ValueError):
    """The metadata of a call claims a transaction context that cannot be read."""


def current() -> TransactionContext | None:
    """Return the context that the running code belongs to; None outside a transaction."""
    entered = _entered.get()
    return entered[-1] if entered else None


def to_metadata(context: TransactionContext) -> Metadata:
    """Return the context as gRPC metadata."""
    pairs = [(GID_KEY, quote(context.gid, safe=_PLAIN))]
    if context.branch_id:
        pairs.append((BRANCH_ID_KEY, quote(context.branch_id, safe=_PLAIN)))
    if context.expires_at_ms:
        pairs.append((EXPIRES_AT_KEY, str(context.expires_at_ms)))
    return tuple(pairs)


def from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> TransactionContext | None:
    """Return the context that a call's metadata carries; None if it carries none.

    Raises:
        InvalidContextError: The expiry is no number, or the gid is missing or empty.
    """
    values = {key: value for key, value in metadata if key in _KEYS and isinstance(value, str)}
    if not values:
        return None
    if not values.get(GID_KEY):
        raise InvalidContextError(f"a transaction context without {GID_KEY}")
    expires_at_ms = values.get(EXPIRES_AT_KEY, "0")
    if not (expires_at_ms.isascii() and expires_at_ms.isdigit()):
        raise InvalidContextError(f"{EXPIRES_AT_KEY} is no number of milliseconds")
    return TransactionContext(
        gid=unquote(values[GID_KEY]),
        branch_id=unquote(values.get(BRANCH_ID_KEY, "")),
        expires_at_ms=int(expires_at_ms),
    )


_KEYS = frozenset({GID_KEY, BRANCH_ID_KEY, EXPIRES_AT_KEY})


# --- clients: send the current context ------------------------------------


class _CallDetails(grpc.ClientCallDetails):
    """Another interceptor's details with the context in the metadata.

    A copy by attribute, for interceptors may pass details of any class.
    """

    def __init__(self, details: grpc.ClientCallDetails, metadata: Metadata) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = (*(details.metadata or ()), *metadata)
        self.credentials = details.credentials
        self.wait_for_ready = getattr(details, "wait_for_ready", None)
        self.compression = getattr(details, "compression", None)


def _with_context(details: Any) -> Any:
    context = current()
    return details if context is None else _CallDetails(details, to_metadata(context))


def _with_context_aio(details: Any) -> Any:
    context = current()
    if context is None:
        return details
    return grpc.aio.ClientCallDetails(
        details.method,
        details.timeout,
        grpc.aio.Metadata(*(details.metadata or ()), *to_metadata(context)),
        details.credentials,
        details.wait_for_ready,
    )


class ClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg] # generic in the stubs only
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg] # generic in the stubs only
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg] # generic in the stubs only
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg] # generic in the stubs only
):
    """Sends the current context with every call of a sync channel."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_with_context(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(_with_context(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(_with_context(client_call_details), request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(_with_context(client_call_details), request_iterator)


def aio_client_interceptors() -> list[Any]:
    """Interceptors that send the current context with every call of an aio channel.

    Four, for a grpc.aio channel asks each interceptor for only one kind of call.
    """
    return [_AioUnaryUnary(), _AioUnaryStream(), _AioStreamUnary(), _AioStreamStream()]


class _AioUnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with_context_aio(client_call_details), request)


class _AioUnaryStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with_context_aio(client_call_details), request)


class _AioStreamUnary(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_with_context_aio(client_call_details), request_iterator)


class _AioStreamStream(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_with_context_aio(client_call_details), request_iterator)


# --- servers: make the sent context current -------------------------------
#
# Both servers run a call's interceptors and its handler in one fresh
# contextvars.Context per call, so what is entered here needs no leaving.


class ServerInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Makes the context that a call carries current for its handler, in a sync server.

    A call whose context cannot be read ends with INVALID_ARGUMENT: running it
    outside its transaction would be wrong silently.
    """

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = continuation(handler_call_details)
        try:
            _enter_sent(handler_call_details)
        except InvalidContextError as error:
            return _refusing(handler, str(error))
        return handler


class AioServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """The same for a grpc.aio server."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        try:
            _enter_sent(handler_call_details)
        except InvalidContextError as error:
            return _refusing_aio(handler, str(error))
        return handler


def _enter_sent(details: grpc.HandlerCallDetails) -> None:
    context = from_metadata(details.invocation_metadata)
    if context is not None:
        context.__enter__()


def _refusing(handler: Any, message: str) -> Any:
    def refuse(_: Any, call: grpc.ServicerContext) -> NoReturn:
        call.abort(grpc.StatusCode.INVALID_ARGUMENT, message)

    return _like(handler, refuse)


def _refusing_aio(handler: Any, message: str) -> Any:
    async def refuse(_: Any, call: "grpc.aio.ServicerContext[Any, Any]") -> NoReturn:
        await call.abort(grpc.StatusCode.INVALID_ARGUMENT, message)

    return _like(handler, refuse)


def _like(handler: Any, behaviour: Callable[..., Any]) -> Any:
    """Return a handler of the same kind of call with another behaviour; None stays None."""
    if handler is None:
        return None
    make = _MAKERS[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


_MAKERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
