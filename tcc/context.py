"""The transaction context: the transaction and branch that the running code belongs to.

A call that is made within a transaction carries the context in its metadata, so
that the called service can enlist further branches under the same gid:

| metadata key        | value                                                        |
|---------------------|--------------------------------------------------------------|
| `tcc-gid`           | the transaction's id, percent-encoded                        |
| `tcc-branch-id`     | the branch that the call belongs to, percent-encoded; absent outside one |
| `tcc-expires-at-ms` | when the transaction expires, in milliseconds since 1970; absent if unknown |

Ids are percent-encoded (RFC 3986), because metadata is limited to printable ASCII and a
gid may be any text. Letters, digits and common punctuation stay unchanged. Client
interceptors send the current context. Server interceptors make the received one current
for the handler:

    channel = grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors())
    server = grpc.aio.server(interceptors=[AioServerInterceptor()])

    channel = grpc.intercept_channel(grpc.insecure_channel(target), ClientInterceptor())
    server = grpc.server(pool, interceptors=[ServerInterceptor()])

The current context is a contextvar. Tasks inherit it, and so do threads that are
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

# Printable ASCII without the space, which transports strip at the ends, and the percent sign.
_PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionContext:
    """A transaction and, if known, the branch that the work belongs to.

    Used as a context manager, it is the current context within the block:

        with context:
            await order_service.OpenOrder(request)  # an intercepted channel sends the context
    """

    gid: str
    branch_id: str = ""
    # Milliseconds since the Unix epoch; 0 if not known.
    expires_at_ms: int = 0

    @property
    def expires_at(self) -> datetime | None:
        """When the transaction expires, in UTC; None if not known."""
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
        assert left is self, "contexts must be left in the reverse order of entering"
        _entered.set(tuple(outer))


# All nested contexts, innermost last, so that the frozen value needs no token to leave.
_entered: ContextVar[tuple[TransactionContext, ...]] = ContextVar("tcc_transaction_contexts", default=())


# The name of the participant whose handler is running; empty outside a handler.
handling_participant: ContextVar[str] = ContextVar("tcc_handling_participant", default="")


class InvalidContextError(ValueError):
    """The metadata of a call holds a transaction context that is malformed."""


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
    """Return the context in a call's metadata; None if there is none.

    Raises:
        InvalidContextError: The expiry is not a number, or the gid is missing or empty.
    """
    values = {key: value for key, value in metadata if key in _KEYS and isinstance(value, str)}
    if not values:
        return None
    if not values.get(GID_KEY):
        raise InvalidContextError(f"a transaction context without {GID_KEY}")
    expires_at_ms = values.get(EXPIRES_AT_KEY, "0")
    if not (expires_at_ms.isascii() and expires_at_ms.isdigit()):
        raise InvalidContextError(f"{EXPIRES_AT_KEY} is not a number of milliseconds")
    return TransactionContext(
        gid=unquote(values[GID_KEY]),
        branch_id=unquote(values.get(BRANCH_ID_KEY, "")),
        expires_at_ms=int(expires_at_ms),
    )


_KEYS = frozenset({GID_KEY, BRANCH_ID_KEY, EXPIRES_AT_KEY})


# --- clients: send the current context ------------------------------------


class _CallDetails(grpc.ClientCallDetails):
    """Call details with the context added to the metadata.

    Copied by attribute, because other interceptors may pass details of any class.
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
    """Send the current context with every call of a sync channel."""

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
    """Return interceptors that send the current context with every call of an aio channel.

    There are four, because grpc.aio uses an interceptor for only one kind of call.
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
# contextvars.Context per call, so a context that is entered here need not be left.


class ServerInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Make the context of a call current for its handler, in a sync server.

    If the context is malformed, the call ends with INVALID_ARGUMENT: running the handler
    outside its transaction would be a silent error.
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
    """Make the context of a call current for its handler, in a grpc.aio server. See `ServerInterceptor`."""

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
    """Return a handler for the same kind of call with another behaviour; None for None."""
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
